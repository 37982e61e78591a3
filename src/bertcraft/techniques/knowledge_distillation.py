"""Knowledge distillation: a small model learns what a large one answers, not only what is right.

Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531, give the small model (the
student) the large one's (the teacher's) probabilities as targets, softened by a temperature. For encoders there are

- DistilBERT (Sanh, Debut, Chaumond & Wolf 2019, arXiv:1910.01108): soft targets, the masked language model's own loss and the
  cosine of the hidden states; the student starts from every other layer of its teacher;
- TinyBERT (Jiao et al. 2020, arXiv:1909.10351): besides, each layer's attention scores and states are those of a teacher's layer;
- patient distillation (Sun, Cheng, Gan & Liu 2019, arXiv:1908.09355): the first token's states of several layers.

A teacher's outputs are arrays, constants to the derivative. Where ``mask`` is given, means are over what it marks with 1.

Shapes: ``...`` leading axes, N texts, L length, M masked positions of a row, C classes, V vocabulary, H hidden size.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bertcraft.bert import encoder, heads
from bertcraft.bert.config import Config
from bertcraft.bert.layout import parameter_shapes
from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree

TEMPERATURE = 2.0  # DistilBERT's, in the authors' training script


class Weights(NamedTuple):
    """Of the three losses in DistilBERT's sum; the defaults are those of the authors' training script."""

    soft: float = 5.0
    masked_lm: float = 2.0
    cosine: float = 1.0


# ------------------------------------------------------------------------------------------------------ what is answered


def soft_target_loss(student, teacher, temperature: float = TEMPERATURE, mask=None):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over rows (Hinton et al. 2015, equation 1 and section 2).

    student, teacher: logits (..., C); mask (...) or None. The gradient with respect to a row's logits is
    T (softmax(student / T) - softmax(teacher / T)) over the rows: of order 1 / T^2 without the factor T^2 (equation 4), so that
    beside another loss the soft one would lose its weight as T grows.
    """
    _check_temperature(temperature)
    wanted, found = F.log_softmax(teacher / temperature), F.log_softmax(student / temperature)
    return temperature**2 * _mean(np.sum(np.exp(wanted) * (wanted - found), axis=-1), mask)


def hinton_loss(student, teacher, labels, temperature: float = TEMPERATURE, soft: float = 0.5):
    """soft * the loss of soft targets + (1 - soft) * cross-entropy with the labels (Hinton et al. 2015, section 2).

    student, teacher: logits (..., C); labels integers (...).
    """
    if not 0 <= soft <= 1:
        raise InputError(f"soft: got {soft}, expected a share from 0 to 1")
    return soft * soft_target_loss(student, teacher, temperature) + (1 - soft) * F.cross_entropy(student, labels)


# -------------------------------------------------------------------------------------------------- what stands inside


def cosine_loss(student, teacher, mask=None):
    """1 - cosine of the angle between student's and teacher's vectors (..., H), the mean over them (Sanh et al. 2019, L_cos)."""
    return _mean(1 - np.sum(F.normalize(student) * F.normalize(teacher), axis=-1), mask)


def state_loss(student, teacher, projection=None, mask=None):
    """Mean squared difference of hidden states (Jiao et al. 2020, equation 8): (..., H) and (..., H of the teacher).

    projection (H, H of the teacher): learnt with the student, where it is narrower.
    """
    found = student if projection is None else student @ projection
    return _mean(np.mean(np.square(found - teacher), axis=-1), mask)


def attention_loss(student, teacher, mask=None):
    """Mean squared difference of attention scores before the softmax (Jiao et al. 2020, equation 7): (N, heads, L, L) each.

    mask (N, L): scores count that a token gives to a token.
    """
    pairs = None if mask is None else mask[:, :, None] * mask[:, None, :]
    return _mean(np.mean(np.square(student - teacher), axis=1), pairs)


def patient_loss(student: Sequence, teacher: Sequence):
    """The squared distance of the first token's states, scaled to unit length: summed over layers, the mean over texts.

    Sequences of as many (N, L, H), student's layers beside the teacher's (Sun et al. 2019, equation 7). The authors' code takes
    the mean over layers and numbers as well, so that its loss is this one over (layers * H).
    """
    unit = [[F.normalize(states[:, 0]) for states in layers] for layers in (student, teacher)]
    return sum(np.mean(np.sum(np.square(own - other), axis=-1)) for own, other in zip(*unit, strict=True))


class Inside(NamedTuple):
    """What stands inside an encoder."""

    states: tuple  # (N, L, H) before the first layer and after each, the last as the encoder gives it
    scores: tuple  # (N, heads, L, L) of each layer: the products of queries and keys over sqrt(head size)


def inside(params: dict, config: Config, input_ids, attention_mask=None, rng=None) -> Inside:
    """All hidden states and attention scores of texts; arguments as for :func:`bertcraft.bert.encoder.encode`."""
    states, scores = [], []

    def attention(layer: dict, x, source, bias, config: Config, rng=None):
        query, key, value, bias = encoder.projected(layer, x, source, bias, config, rng)
        q, k = (F.split_heads(part, config.num_attention_heads) for part in (query, key))
        scores.append(q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1])))
        rate = config.attention_probs_dropout_prob
        context = F.attention(query, key, value, bias, heads=config.num_attention_heads, rate=rate, rng=rng)
        return encoder.dense(layer["attention"]["output"]["dense"], context)

    def wiring(layer: dict, x, *rest):
        states.append(x)
        return encoder.own_wiring(config)(layer, x, *rest)

    sockets = encoder.Sockets(attention=attention, wiring=wiring)
    last = encoder.encode(params, config, input_ids, attention_mask, rng=rng, sockets=sockets)
    return Inside((*states, last), tuple(scores))


def tinybert_loss(student: Inside, teacher: Inside, projection=None, mask=None):
    """Attention and state losses of each student's layer beside its teacher's, and of the embeddings, summed.

    Jiao et al. 2020, equations 7 to 9, their weights 1; the loss of the answers, equation 10, is apart. Layer m of the student
    learns from layer m N / M of the teacher (section 3.1): see :func:`every`. One projection serves embeddings and states, as in
    the authors' code.
    """
    total = state_loss(student.states[0], teacher.states[0], projection, mask)
    for own, other in enumerate(every(len(teacher.scores), len(student.scores)), 1):
        total = total + state_loss(student.states[own], teacher.states[other], projection, mask)
        total = total + attention_loss(student.scores[own - 1], teacher.scores[other - 1], mask)
    return total


def every(teacher: int, student: int) -> list[int]:
    """Of so many layers, counted from 1, those from which as many of the student learn: each at the end of an equal part.

    TinyBERT's uniform map; without the last it is PKD-Skip of Sun et al. Raises InputError where parts cannot be equal.
    """
    if student < 1 or teacher % student:
        raise InputError(f"{teacher} layers of a teacher have no {student} equal parts; a divisor of {teacher} is needed")
    return [teacher // student * part for part in range(1, student + 1)]


# -------------------------------------------------------------------------------------------------- where it starts from


def spread(teacher: int, student: int) -> list[int]:
    """Which layers of a teacher, counted from 0, its student starts from: first and last, the others evenly between them.

    Of 12 layers and 6 it is 0, 2, 4, 7, 9, 11, as DistilBERT's authors chose them. Raises InputError for a student that is
    empty or has more layers.
    """
    if not 1 <= student <= teacher:
        raise InputError(f"layers: got {student} for a student of a teacher with {teacher} layers, expected 1 to {teacher}")
    return np.linspace(0, teacher - 1, student).round().astype(int).tolist()


def start(config: Config, params: dict, layers: Sequence[int]) -> tuple[Config, dict]:
    """A student that consists of those layers of a model, its embeddings and its head (Sanh et al. 2019, section 3).

    layers: counted from 0. The arrays are the teacher's own: training copies them. An ALBERT has one layer's parameters; its
    student uses them fewer times. Raises InputError for layers that the model lacks, and for an ALBERT with several groups of
    layers, of which none can be left out.
    """
    if len(layers) < 1 or not set(layers) <= set(range(config.num_hidden_layers)):
        raise InputError(f"layers: got {list(layers)}, expected some of 0 to {config.num_hidden_layers - 1}")
    if config.family == "albert" and config.num_hidden_groups > 1:
        raise InputError(f"got an ALBERT with {config.num_hidden_groups} groups of layers; a student can be made of one with 1")
    own, known = replace(config, num_hidden_layers=len(layers)), dict(tree.items(params))
    if config.family == "albert":
        return own, params

    def name_in_teacher(name: str) -> str:
        return re.sub(r"(?<=\.layer\.)\d+(?=\.)", lambda number: str(layers[int(number[0])]), name, count=1)

    return own, tree.nest({name: known[name_in_teacher(name)] for name in parameter_shapes(own)})


def count(config: Config) -> int:
    """How many numbers the parameters of a model are: 109,482,240 for BERT-base and 66,362,880 for DistilBERT, 39.4 % fewer."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


# -------------------------------------------------------------------------------------------- DistilBERT's pretraining


class Losses(NamedTuple):
    """Of a batch, in nats the first two."""

    soft: Any
    masked_lm: Any
    cosine: Any


def with_teacher(batch: dict, params: dict, config: Config) -> dict:
    """The batch, and what a teacher makes of it: "teacher_logits" (N, M, V) and "teacher_states" (N, L, H).

    batch: input_ids and attention_mask (N, L), at and labels (N, M), as
    :func:`~bertcraft.techniques.roberta_optimizations.mask_tokens` makes them.
    """
    states = encoder.encode(params, config, batch["input_ids"], batch["attention_mask"])
    logits = heads.masked_lm_logits(params, config, F.take_positions(states, batch["at"]))
    return {**batch, "teacher_logits": logits, "teacher_states": states}


def losses(params: dict, batch: dict, rng, config: Config, *, temperature: float = TEMPERATURE) -> Losses:
    """DistilBERT's three losses of a student (Sanh et al. 2019, section 3): L_ce, L_mlm and L_cos.

    batch: of :func:`with_teacher`. ``rng`` turns dropout on. Soft targets count at the masked positions, where the authors' code
    takes every token unless it is told restrict_ce_to_mask; states are compared at all tokens but padding.
    """
    mask, labels = batch["attention_mask"], batch["labels"]
    states = encoder.encode(params, config, batch["input_ids"], mask, rng=rng)
    logits = heads.masked_lm_logits(params, config, F.take_positions(states, batch["at"]))
    return Losses(
        soft_target_loss(logits, batch["teacher_logits"], temperature, labels != F.IGNORED),
        F.cross_entropy(logits, labels),
        cosine_loss(states, batch["teacher_states"], mask),
    )


def distilbert_loss(
    params: dict, batch: dict, rng, config: Config, *, temperature: float = TEMPERATURE, weights: Weights = Weights()
):
    """The weighted sum of :func:`losses`: a scalar."""
    parts = losses(params, batch, rng, config, temperature=temperature)
    return weights.soft * parts.soft + weights.masked_lm * parts.masked_lm + weights.cosine * parts.cosine


def _mean(values, mask):
    """The mean of the values where the mask is 1, of all without one, 0 of none."""
    if mask is None:
        return np.mean(values)
    return np.sum(np.where(mask == 1, values, 0)) / np.maximum(np.sum(mask == 1), 1).astype(values.dtype)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < np.inf:
        raise InputError(f"temperature: got {temperature}, expected a number above 0")
