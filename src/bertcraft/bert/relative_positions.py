"""What is added to the scores of attention: a bias for the distance of two tokens, and padding.

MPNet (Song et al. 2020) learns a number a head for each range of distances, as T5 does (Raffel et al. 2020, section 2.1),
and all its layers use the same. The other families add nothing but padding.

Shapes: B batch, L length, M positions of interest.
"""

import math

import numpy as np

from bertcraft.bert import families
from bertcraft.bert.config import Config
from bertcraft.tensor import functions as F

FARTHEST = 128  # all distances from here on share a bucket


def distance_buckets(length: int, count: int) -> np.ndarray:
    """The bucket, 0 to count - 1, of each query (rows) and key (columns): integers (L, L).

    One half of the buckets is for keys that come later. Of each half, one half again holds a single distance each; the others
    grow with the logarithm of the distance.
    """
    half, exact = count // 2, count // 4
    places = np.arange(length)
    distance = np.abs(places)
    # In float32, as in transformers: where the logarithm is a whole number, rounding decides the bucket.
    ratio = np.log(np.maximum(distance, exact).astype(np.float32) / exact) / np.float32(math.log(FARTHEST / exact))
    far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    by_distance = np.where(distance < exact, distance, far)
    offset = places[None, :] - places[:, None]
    return by_distance[np.abs(offset)] + half * (offset > 0)


def attention_bias(params: dict, config: Config, length: int, padding=None, at=None):
    """What is added to the scores of L queries and L keys: broadcasts to (B, heads, L, L), or None for nothing.

    ``padding`` is that of :func:`bertcraft.tensor.functions.padding_bias` or None. With ``at``, integers (B, M), the queries
    are those positions: the result broadcasts to (B, heads, M, L).
    """
    table = families.relative_table(params, config)
    if table is None:
        return padding
    buckets = distance_buckets(length, config.relative_attention_num_buckets)
    buckets = buckets[None] if at is None else buckets[at]
    relative = np.moveaxis(F.embedding(table, buckets), -1, 1)
    return relative if padding is None else relative + padding
