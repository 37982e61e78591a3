"""ELECTRA: learn by telling which tokens were replaced, at every position instead of 15 % of them.

Clark, Luong, Le & Manning, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR 2020,
arXiv:2003.10555. A small masked language model, the generator, fills the masked positions with samples of its own. The
discriminator, the model that is kept, sees the result and says of each token whether it is the original. Both train at
once, on the sum of their losses; no gradient passes through the sampling.

The masks are BERT's (80 % [MASK], 10 % random, 10 % kept), those of the masked language model that ELECTRA is held against;
Google's own code masks 85 % and keeps 15 %.

Shapes: N texts, L length, M masked positions of a row, V vocabulary.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bertcraft.bert import encoder, heads
from bertcraft.bert.config import Config
from bertcraft.bert.initialise import initial_params as initial_model
from bertcraft.errors import InputError
from bertcraft.techniques.roberta_optimizations import predicted
from bertcraft.tensor import functions as F
from bertcraft.tensor import stop_gradient, tree

DETECTION_WEIGHT = 50.0  # of the discriminator's loss in the sum (section 3 and appendix A: the best of 1, 10, 20, 50, 100)
SHARING = ("shared", "disentangled", "separate")
DETECT = ("all", "masked")


def generator_config(discriminator: Config, width: float = 0.25) -> Config:
    """The generator beside a discriminator: as deep, ``width`` times as wide, on embeddings of the same size (section 3.2).

    The width of an attention head stays, so that there are fewer. Raises InputError unless the family is "electra" and
    the generator's size is a multiple of that of a head.
    """
    if discriminator.family != "electra":
        raise InputError(f"got a discriminator of the family {discriminator.family!r}, expected 'electra'")
    hidden = round(width * discriminator.hidden_size)
    if hidden < 1 or hidden % discriminator.head_size:
        raise InputError(
            f"width {width} makes a generator of hidden size {hidden}; expected a multiple of {discriminator.head_size}, "
            "the size of an attention head"
        )
    return replace(
        discriminator, head="masked_lm", hidden_size=hidden, num_attention_heads=hidden // discriminator.head_size,
        intermediate_size=round(width * discriminator.intermediate_size),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- two models, one table


def initial_params(
    generator: Config, discriminator: Config, seed: int, sharing: str = "shared", dtype: type = np.float32
) -> dict:
    """Parameters {"generator": ..., "discriminator": ...} to start from; see :func:`models` for ``sharing``.

    Raises InputError when embeddings that are to be shared differ in size.
    """
    _check(sharing, SHARING, "sharing")
    if sharing != "separate" and generator.embedding_size != discriminator.embedding_size:
        raise InputError(
            f"embeddings of size {generator.embedding_size} and {discriminator.embedding_size} cannot be shared: give both "
            "configurations one embedding_size, or take sharing='separate'"
        )
    both = {"generator": initial_model(generator, seed, dtype), "discriminator": initial_model(discriminator, seed, dtype)}
    body = both["discriminator"]["electra"]
    if sharing != "separate":  # one table, drawn for the model that is kept
        own = body.pop("embeddings")
        both["generator"]["electra"]["embeddings"] = own
        if sharing == "disentangled":
            body["embeddings"] = tree.map(np.zeros_like, own)
    return both


def models(params: dict, sharing: str = "shared") -> tuple[dict, dict]:
    """The parameters of generator and discriminator, each complete, as a checkpoint of its own would hold them.

    - "shared": one set of token, position and segment embeddings for both (Clark et al. 2020, section 3.2), kept with the
      generator's parameters.
    - "disentangled": the discriminator's embeddings are stop_gradient(the generator's) + a difference of its own that
      starts at zero, so that its loss does not pull at the generator's table (He, Gao & Chen 2021, DeBERTa-V3, section 3.3,
      arXiv:2111.09543).
    - "separate": nothing in common.
    """
    _check(sharing, SHARING, "sharing")
    generator, discriminator = params["generator"], params["discriminator"]
    if sharing == "separate":
        return generator, discriminator
    body, tables = discriminator["electra"], generator["electra"]["embeddings"]
    if sharing == "disentangled":
        tables = tree.map(lambda of_generator, own: stop_gradient(of_generator) + own, tables, body["embeddings"])
    return generator, {**discriminator, "electra": {**body, "embeddings": tables}}


# ------------------------------------------------------------------------------------------------- what is replaced


def electra_batch(masked: dict, draw: np.ndarray) -> dict:
    """A batch for :func:`losses`, every array with N rows.

    masked: input_ids and attention_mask (N, L), at and labels (N, M), as
    :func:`~bertcraft.techniques.roberta_optimizations.mask_tokens` makes them; draw (N, M or more), uniform in [0, 1), decides
    the samples. Added is what the whole batch counts, tokens to predict and tokens at all, so that a shard of it knows its
    share of the two means. Raises InputError when there are fewer numbers than positions.
    """
    rows, most = masked["at"].shape
    if draw.shape[0] != rows or draw.shape[1] < most:
        raise InputError(f"draw: got the shape {draw.shape}, expected a number for each masked position, ({rows}, {most})")
    return {
        **masked,
        "draw": draw[:, :most],
        "predicted": np.full(rows, predicted(masked)),
        "tokens": np.full(rows, masked["attention_mask"].sum()),
    }


def sample(logits, draw):
    """Token ids (...) drawn from softmax(logits (..., V)), at temperature 1, by inverting its distribution function.

    draw (...), uniform in [0, 1): the same numbers give the same tokens. The result is constant for the derivative.
    """
    cumulated = np.cumsum(F.softmax(stop_gradient(logits)), axis=-1)
    reached = cumulated[..., :-1] <= draw[..., None] * cumulated[..., -1:]  # the last is 1 but for rounding
    return np.sum(reached, axis=-1)


class Replaced(NamedTuple):
    """What the discriminator reads, and the truth about it: (N, L) each."""

    input_ids: Any  # the text, with the generator's samples at the masked positions
    fake: Any  # booleans: the token is not the original; a sample that happens to be right is original (section 3)
    masked: Any  # booleans: the position was masked


def replace_tokens(batch: dict, samples) -> Replaced:
    """Put the samples (N, M) where the batch was masked (section 3, equation of x-corrupt)."""
    length = batch["input_ids"].shape[1]
    counted = batch["labels"] != F.IGNORED
    # (N, L, M): position l of a row is the m-th masked one
    here = (np.arange(length)[:, None] == batch["at"][:, None, :]) & counted[:, None, :]
    masked = np.any(here, axis=2)
    put = np.sum(np.where(here, samples[:, None, :], 0), axis=2)
    fake = np.any(here & (samples != batch["labels"])[:, None, :], axis=2)
    return Replaced(np.where(masked, put, batch["input_ids"]), fake, masked)


# ----------------------------------------------------------------------------------------------------------- losses


class Losses(NamedTuple):
    """Of a batch, or a shard's part of them; the parts of all shards add up to the whole batch's."""

    masked_lm: Any  # the generator's: mean over the predicted tokens
    detection: Any  # the discriminator's: mean over the tokens that count
    replaced: Replaced


def losses(
    params: dict, batch: dict, rng, generator: Config, discriminator: Config, *, sharing: str = "shared", detect: str = "all"
) -> Losses:
    """The losses of generator and discriminator (Clark et al. 2020, section 3, L_MLM and L_Disc), in nats.

    batch: of :func:`electra_batch`, or rows of it. ``rng`` turns dropout on. detect: "all", every token but padding, or
    "masked", the ablation "ELECTRA 15%" of section 3.4: only the masked positions, as a masked language model has it.
    """
    _check(detect, DETECT, "detect")
    of_generator, of_discriminator = models(params, sharing)
    mask = batch["attention_mask"]
    hidden = encoder.encode(of_generator, generator, batch["input_ids"], mask, rng=rng, at=batch["at"])
    logits = heads.masked_lm_logits(of_generator, generator, hidden)
    masked_lm = F.cross_entropy(logits, batch["labels"])

    replaced = replace_tokens(batch, sample(logits, batch["draw"]))
    seen = encoder.encode(of_discriminator, discriminator, replaced.input_ids, mask, rng=rng)
    judged = replaced.masked if detect == "masked" else mask == 1
    detection = F.binary_cross_entropy(heads.detection_logits(of_discriminator, discriminator, seen), replaced.fake, judged)

    total = batch["predicted" if detect == "masked" else "tokens"]
    return Losses(
        masked_lm * _share(batch["labels"] != F.IGNORED, batch["predicted"], masked_lm.dtype),
        detection * _share(judged, total, detection.dtype),
        replaced,
    )


def electra_loss(
    params: dict, batch: dict, rng, generator: Config, discriminator: Config, *, weight: float = DETECTION_WEIGHT, **options
):
    """L_MLM + weight * L_Disc (Clark et al. 2020, section 3): a scalar; options as for :func:`losses`.

    Sums over shards: :func:`~bertcraft.tensor.parallel.sharded_value_and_grad` needs no ``weight`` for it.
    """
    parts = losses(params, batch, rng, generator, discriminator, **options)
    return parts.masked_lm + weight * parts.detection


def _share(counted, totals, dtype):
    """Of what the whole batch counts, the part that stands in these rows."""
    return np.sum(counted).astype(dtype) / np.maximum(totals[0], 1).astype(dtype)


def _check(value: str, known: tuple[str, ...], name: str) -> None:
    if value not in known:
        raise InputError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
