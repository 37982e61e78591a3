"""What a pretraining run learns: each objective by name, from the module of its technique."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from bertcraft.bert.config import Config
from bertcraft.bert.initialise import initial_params
from bertcraft.errors import InputError
from bertcraft.pretrain.sizes import OWN, SIZES, config_of
from bertcraft.techniques import electra_pretraining as electra
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree

FIRST_WORD = 5  # below it are [PAD], [UNK], [CLS], [SEP] and [MASK]


@dataclass(frozen=True)
class Objective:
    """A loss, the batches that it takes and the models that it makes.

    - ``initial(seed, dtype)``: parameters to start from.
    - ``batch(rows, numbers, seed)``: of token ids (N, L) and the numbers (N,) that tell these readings from all others.
    - ``loss(params, batch, rng)``: a scalar, the sum or mean over the batch; ``weight(batch)`` is what a part of it counts for
      (None: the losses of parts add up by themselves, given what the batch says of the whole).
    - ``models(params)``: name -> (configuration, complete parameters); the first is the one that is kept.
    - ``vocabulary``: the keyword arguments of ``mask_tokens``; ``guesser``: which of the models is a masked language model.
    - ``fixed``: parameters that are not trained. ``initial`` and ``models`` take and give those that are; ``loss`` reads both as
      one tree (:func:`merged`), and engines add them.
    """

    name: str
    describe: dict
    initial: Callable[[int, type], Any]
    batch: Callable[[np.ndarray, np.ndarray, int], dict]
    loss: Callable
    weight: Callable[[dict], float] | None
    models: Callable[[Any], dict[str, tuple[Config, dict]]]
    vocabulary: dict[str, int]
    guesser: str
    fixed: dict = field(default_factory=dict)


def objective(
    name: str, size: str | dict, vocabulary: dict, length: int, *, architecture: str | None = None, mask_rate: float = 0.15,
    dropout: float = 0.1,
) -> Objective:  # fmt: skip
    """An objective by name: one of :data:`OBJECTIVES`.

    ``architecture``: the family of the model, of those that the objective trains; None for the first of them. ``size`` is a
    name of :data:`~bertcraft.pretrain.sizes.SIZES` or the fields of a ``Config``; ``vocabulary`` the keyword arguments mask_id
    and vocab_size. Raises InputError for names that are not known, and for rows longer than a model of these fields reads.
    """
    family, head, make = family_of(name, architecture), *OBJECTIVES[name][1:]
    if isinstance(size, str):
        config = config_of(family, head, size, vocabulary["vocab_size"], length, dropout)
        width = SIZES[size].generator
    else:
        own = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, **OWN.get(family, {})}
        config = Config(**{**own, **size, "family": family, "head": head, "vocab_size": vocabulary["vocab_size"]})
        if length > config.max_tokens:
            raise InputError(f"length: got rows of {length} tokens, the model's sizes have {config.max_tokens} positions")
        width = 0.25
    return make(name, config, width, {**vocabulary, "first_word_id": FIRST_WORD}, mask_rate)


def family_of(name: str, architecture: str | None) -> str:
    """The family of the model that an objective trains. Raises InputError for an unknown objective, or a family not of its."""
    if name not in OBJECTIVES:
        raise InputError(f"objective: got {name!r}, expected one of {', '.join(OBJECTIVES)}")
    families = OBJECTIVES[name][0]
    if architecture not in (None, *families):
        raise InputError(f"architecture: got {architecture!r}, expected {' or '.join(families)} with the objective {name}")
    return architecture or families[0]


def continued(
    config: Config, params: dict, trained: set[str], vocabulary: dict, *, mask_rate: float = 0.15, dropout: float | None = None
) -> Objective:
    """Masked-language-model training that goes on from parameters, of which those named in ``trained`` change.

    ``vocabulary``: mask_id, first_word_id and vocab_size, the id after the last word. ``dropout`` None: the configuration's own.
    """
    flat = dict(tree.items(params))
    fixed = tree.nest({name: leaf for name, leaf in flat.items() if name not in trained})
    rates = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    running = replace(config, **rates)
    return Objective(
        "masked_lm", vars(running),
        lambda seed, dtype: tree.nest({name: np.array(leaf, dtype) for name, leaf in flat.items() if name in trained}),
        lambda rows, numbers, seed: _masked(rows, numbers, seed, mask_rate, vocabulary),
        lambda params, batch, rng: masking.masked_lm_loss(params, batch, rng, running), masking.predicted,
        lambda changed: {"model": (config, merged(changed, fixed))}, vocabulary, "model", fixed,
    )  # fmt: skip


def merged(trained: Any, fixed: dict) -> Any:
    """Two trees of parameters with different names as one."""
    return tree.nest(dict(tree.items(fixed)) | dict(tree.items(trained))) if fixed else trained


def with_blank_rows(batch: dict, rows: int) -> dict:
    """A batch of an objective and as many more rows that count for nothing: no label, all padding."""
    blank = tree.map(lambda leaf: np.repeat(leaf[:1], rows, axis=0), batch)
    blank["labels"] = np.full_like(blank["labels"], F.IGNORED)
    blank["attention_mask"] = np.zeros_like(blank["input_ids"])
    ones = {"attention_mask": np.ones_like(batch["input_ids"])}
    return tree.map(lambda *leaves: np.concatenate(leaves), ones | batch, blank)


def _masked(rows: np.ndarray, numbers: np.ndarray, seed: int, rate: float, vocabulary: dict) -> dict:
    random = masking.uniforms(seed, numbers, np.zeros_like(numbers), 3 * rows.shape[1])
    return masking.mask_tokens(rows, random, rate=rate, **vocabulary)._asdict()


def _masked_lm(name: str, config: Config, width: float, vocabulary: dict, rate: float) -> Objective:
    return Objective(
        name, vars(config), partial(initial_params, config),
        lambda rows, numbers, seed: _masked(rows, numbers, seed, rate, vocabulary),
        lambda params, batch, rng: masking.masked_lm_loss(params, batch, rng, config), masking.predicted,
        lambda params: {"model": (config, params)}, vocabulary, "model",
    )  # fmt: skip


def _electra(name: str, config: Config, width: float, vocabulary: dict, rate: float) -> Objective:
    generator = electra.generator_config(config, width)

    def batch(rows: np.ndarray, numbers: np.ndarray, seed: int) -> dict:
        masked = _masked(rows, numbers, seed, rate, vocabulary)
        draw = masking.uniforms(seed, numbers, np.ones_like(numbers), masked["at"].shape[1])
        return electra.electra_batch({**masked, "attention_mask": np.ones_like(rows)}, draw)

    def models(params):
        of_generator, of_discriminator = electra.models(params)
        return {"model": (config, of_discriminator), "generator": (generator, of_generator)}

    return Objective(
        name, vars(config), lambda seed, dtype: electra.initial_params(generator, config, seed, dtype=dtype), batch,
        lambda params, batch, rng: electra.electra_loss(params, batch, rng, generator, config), None, models,
        vocabulary, "generator",
    )  # fmt: skip


OBJECTIVES = {
    "masked_lm": (("bert", "deberta", "albert", "roberta_prelayernorm"), "masked_lm", _masked_lm),
    "electra": (("electra",), "replaced_token_detection", _electra),
}
