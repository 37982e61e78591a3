"""A checkpoint to go on from: its masked-LM head, made where it has none, and which of its parameters are trained.

Pretraining that goes on with texts of one's own domain is what Gururangan et al. 2020 (arXiv:2004.10964) measured on four
domains. A new head starts as close to a masked language model as the encoder allows: its transform maps a hidden state to itself,
its output layer is the table of words, and its bias makes it guess by word frequencies.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bertcraft.bert import families, heads
from bertcraft.bert.config import Config
from bertcraft.bert.layout import parameter_shapes
from bertcraft.bert.model import Model, check_inputs, load
from bertcraft.data.tokenizer import frame_ids, mask_id, word_ids
from bertcraft.errors import InputError
from bertcraft.tensor import tree

WITH_HEAD = ("masked_lm", "pretraining")


@dataclass(frozen=True)
class Start:
    """A model as it is before training. ``vocabulary``: the keyword arguments of ``mask_tokens`` that its tokenizer decides."""

    model: Model
    vocabulary: dict[str, int]

    @property
    def digest(self) -> str:
        """Of configuration and parameters: a run goes on with the checkpoint that it began with, or not at all."""
        digest = hashlib.blake2b(repr(self.model.config).encode(), digest_size=16)
        for name, leaf in tree.items(self.model.params):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
        return digest.hexdigest()


def open_start(folder: str | Path, length: int) -> Start:
    """Open a checkpoint that is to learn from rows of ``length`` tokens.

    Raises InputError where its tokenizer has no mask token or is not that of the model, or the rows are too long for it;
    CheckpointError and DataError as :func:`bertcraft.bert.model.load` does.
    """
    model = load(folder)
    tokenizer, config = model.tokenizer, model.config
    if mask_id(tokenizer) is None:
        raise InputError(
            f"{folder}: its tokenizer has no mask token ([MASK] or <mask>), so there is no way to show the model where a word is "
            "missing; choose a model that was pretrained by masking"
        )
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= config.vocab_size:
        raise InputError(
            f"{folder}: its tokenizer has ids up to {highest}, the model's vocabulary ids 0 to {config.vocab_size - 1}: "
            "this is not the tokenizer of this model"
        )
    frame_ids(tokenizer)
    first, stop = word_ids(tokenizer)
    try:
        check_inputs(config, np.full((1, length), first))
    except InputError as error:
        got = str(error).removeprefix("input_ids: ").partition(";")[0]
        raise InputError(f"length: {got}; give a smaller --length") from None
    return Start(model, {"mask_id": mask_id(tokenizer), "vocab_size": stop, "first_word_id": first})


def with_masked_lm_head(config: Config, params: dict, log_frequency: np.ndarray) -> tuple[Config, dict]:
    """The model with a masked-LM head and no other: its own, or a new one where it has none.

    ``log_frequency`` (vocabulary,): logarithm of each token's share in the texts, the bias of a new head. Its transform is the
    identity, or where word vectors are narrower than hidden states the pseudo-inverse of the map between them.
    """
    own = config.head in WITH_HEAD
    tied = {} if own else {"tie_word_embeddings": True}
    plain = {"num_labels": 2, "id2label": None, "label2id": None, "problem_type": None}  # a classifier's labels go with it
    new = replace(config, head="masked_lm", add_pooling_layer=True, **plain, **tied)
    flat = dict(tree.items(params))
    dtype = next(iter(flat.values())).dtype
    shapes = parameter_shapes(new)
    made = tree.nest({name: flat[name] if name in flat else np.zeros(shape, dtype) for name, shape in shapes.items()})
    if own:
        return new, made
    dense, norm, _, output = heads.masked_lm_head(made, new)
    widened = families.projection(made, new)
    if widened is None:
        dense["weight"][:] = np.eye(len(dense["weight"]))
    else:
        inverse = np.linalg.pinv(widened["weight"].astype(np.float64))
        dense["weight"][:] = inverse
        dense["bias"][:] = -inverse @ widened["bias"]
    norm["weight"][:] = 1
    output["bias"][:] = log_frequency
    return new, made


def check_train(train: str) -> None:
    """Raise InputError unless ``train`` is all, head or top:N."""
    if train not in ("all", "head") and not re.fullmatch(r"top:[1-9]\d{0,3}", train):
        raise InputError(f"train: got {train!r}, expected all, head, or top:N for the head and the last N layers")


def trained_names(config: Config, params: dict, train: str) -> set[str]:
    """Names of the parameters that are trained: "all", those of the "head", or "top:N", the head and the last N layers.

    Raises InputError for another word, more layers than there are, or layers that share their parameters with lower ones.
    """
    check_train(train)
    if train == "all":
        return {name for name, _ in tree.items(params)}
    held = {id(leaf) for leaf in tree.leaves(families.backbone(params, config))}
    if train != "head":
        number, layers = int(train.removeprefix("top:")), families.own_parameters(params, config)
        if number > len(layers):
            raise InputError(f"train: got {train!r}, but the model has {len(layers)} layers")
        lower, upper = ({id(leaf) for leaf in tree.leaves(part)} for part in (layers[:-number], layers[-number:]))
        if upper & lower:
            raise InputError(f"train: got {train!r}, but the model's layers share their parameters; give all or head")
        held -= upper
    return {name for name, leaf in tree.items(params) if id(leaf) not in held}
