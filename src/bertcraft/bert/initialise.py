"""Parameters to start a training from: random weights beside the zeros and ones of transformers."""

from zlib import crc32

import numpy as np

from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import COUNTED_POSITIONS
from bertcraft.bert.layout import parameter_shapes
from bertcraft.errors import InputError
from bertcraft.tensor import tree


def initial_params(config: Config, seed: int, dtype: type = np.float32, *, deviation: float | None = None) -> dict:
    """The nested tree of all parameters: normal weights, zero biases, layer norms of weight 1 and bias 0.

    The embedding of the padding token starts at zero. `deviation` None is 1/sqrt(hidden_size): BERT-base's
    0.02 (`config.initializer_range`) belongs to a hidden size of 768 and keeps a small model on a plateau.

    Each parameter has a random stream of its own, made of the seed and its name: the same seed gives the same
    values whichever head stands on the encoder, and in float32 those of float64, rounded. Raises InputError
    for a seed that is not an integer from 0 and for a deviation that is not a positive number.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed: got {seed!r}, expected an integer, 0 or more")
    if deviation is None:
        deviation = config.hidden_size**-0.5
    elif not 0 < deviation < float("inf"):
        raise InputError(f"deviation: got {deviation!r}, expected a positive number or None")
    padded = {f"{config.family}.embeddings.word_embeddings.weight"}
    if config.family in COUNTED_POSITIONS:  # padding has a position of its own
        padded.add(f"{config.family}.embeddings.position_embeddings.weight")
    params = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith("bias"):
            values = np.zeros(shape, dtype)
        elif len(shape) == 1:
            values = np.ones(shape, dtype)
        elif config.sinusoidal_pos_embds and name.endswith(".position_embeddings.weight"):
            values = _sinusoids(*shape).astype(dtype)
        else:
            stream = np.random.default_rng([int(seed), crc32(name.encode())])
            values = (float(deviation) * stream.standard_normal(shape)).astype(dtype)
        if name in padded and config.pad_token_id is not None:
            values[config.pad_token_id] = 0
        params[name] = values
    return tree.nest(params)


def _sinusoids(positions: int, width: int) -> np.ndarray:
    """Fixed position embeddings (Vaswani et al. 2017, section 3.5): sines in even columns, cosines in odd."""
    column = np.arange(width)
    angle = np.arange(positions)[:, None] / np.power(10000.0, 2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
