"""What a student learns to answer as its teacher does: the sentence vectors of an encoder, or the classes of a classifier.

A goal says how texts are read, what a model answers to a batch of them, and what a wrong answer costs. Answers are computed on
padded batches, so that they have gradients; :meth:`bertcraft.bert.model.Model.encode` gives the same without padding.

Shapes: n texts, B batch, L length, H hidden size, W width of an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bertcraft.bert import encoder, heads, sentence_folder, sentences
from bertcraft.bert.config import Config
from bertcraft.bert.config_tables import POOLED
from bertcraft.bert.layout import parameter_shapes
from bertcraft.bert.model import Model
from bertcraft.bert.sentence_modules import Normalize, Pipeline
from bertcraft.data.batches import pad
from bertcraft.errors import InputError
from bertcraft.progress import counted
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import cpu_count, one_blas_thread, pool

TOGETHER = 2048  # tokens answered at a time
_SMALLEST = 1e-12  # square of a vector that is divided by


class Vectors:
    """Sentence vectors, made as the folder of sentence-transformers says, or else the mean over tokens, scaled to unit length."""

    kind = "vectors"

    def __init__(self, model: Model):
        config, params = _without_head(model.config, model.params)
        pipeline = model.pipeline or Pipeline(modules=(Normalize(),))
        self.teacher = replace(model, config=config, params=params, pipeline=pipeline)
        self.skip = 0  # tokens of a prompt that no pooling counts; known once texts were read

    @property
    def longest(self) -> int:
        """Tokens of a text that are read."""
        return min(self.teacher.config.max_tokens, self.teacher.pipeline.max_length or self.teacher.config.max_tokens)

    @property
    def width(self) -> int:
        return self.teacher.pipeline.width(self.teacher.config.hidden_size)

    def read(self, texts: Sequence[str], longest: int) -> list[np.ndarray]:
        """The token ids of each text, cut to ``longest``."""
        token_ids, self.skip = sentences.as_read(self.teacher, texts, longest)
        return [np.array(ids, np.int32) for ids in token_ids]

    def answers(self, params: dict, config: Config, batch: dict):
        """Vectors (B, W) for input_ids and attention_mask (B, L)."""
        pipeline, mask = self.teacher.pipeline, batch["attention_mask"]
        hidden = encoder.encode(params, config, batch["input_ids"], mask)
        parts = [pooled(mode, hidden, mask, self.skip) for mode in pipeline.pooling.modes]
        vectors = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        for module in pipeline.modules:
            vectors = module(vectors)
        return vectors if pipeline.truncate_dim is None else vectors[:, : pipeline.truncate_dim]

    def loss(self, found, wanted):
        """The mean over texts of the squared distance over the wanted vector's square: of unit vectors 2 (1 - cosine)."""
        size = np.maximum(np.sum(np.square(wanted), axis=-1), _SMALLEST)
        return np.mean(np.sum(np.square(found - wanted), axis=-1) / size)

    def complete(self, model: Model, texts: Sequence[str]) -> np.ndarray:
        """What a user of the model gets: float32 (n, W)."""
        return model.encode(texts, progress=False)


class Classes:
    """The classes of a classifier of texts: logits, softened."""

    kind = "classes"

    def __init__(self, model: Model):
        self.teacher = model

    @property
    def longest(self) -> int:
        """Tokens of a text that are read."""
        return sentence_folder.reading(self.teacher.folder, self.teacher.config)[0]

    @property
    def width(self) -> int:
        return self.teacher.config.num_labels

    def read(self, texts: Sequence[str], longest: int) -> list[np.ndarray]:
        """The token ids of each text, cut to ``longest``."""
        return [np.array(ids, np.int32) for ids in sentences.tokenize(self.teacher, texts, longest)]

    def answers(self, params: dict, config: Config, batch: dict):
        """Logits (B, W) for input_ids and attention_mask (B, L)."""
        first = np.zeros((len(batch["input_ids"]), 1), np.int64)
        hidden = encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], at=first)
        return heads.classification_logits(params, config, hidden)

    def loss(self, found, wanted):
        """Of soft targets, at DistilBERT's temperature (Hinton et al. 2015)."""
        return technique.soft_target_loss(found, wanted)

    def complete(self, model: Model, texts: Sequence[str]) -> np.ndarray:
        """What a user of the model gets: probabilities, float32 (n, W)."""
        token_ids = self.read(texts, self.longest)
        return F.softmax(over(token_ids, self, model))


Goal = Vectors | Classes


def goal_of(model: Model) -> Goal:
    """What is to be learnt from a model. Raises InputError for a model that answers neither with vectors nor with one class."""
    config = model.config
    if config.head == "sequence_classification":
        if config.problem_type not in (None, "single_label_classification") or config.num_labels < 2:
            raise InputError(
                f"this classifier's problem is {config.problem_type or 'regression'}; a student learns from one that gives each "
                "text one of several classes, or from a sentence encoder"
            )
        return Classes(model)
    if config.head in ("token_classification", "question_answering"):
        raise InputError(
            f"this model's head is {config.head!r}, which answers for tokens; a student learns from a sentence encoder or from "
            "a classifier of texts"
        )
    return Vectors(model)


def _without_head(config: Config, params: dict) -> tuple[Config, dict]:
    """The model's base, its pooler kept where it has one."""
    if config.head == "base":
        return config, params
    plain = {"num_labels": 2, "id2label": None, "label2id": None, "problem_type": None}
    pooler = config.family not in POOLED or "pooler" in params[config.family]
    base, known = replace(config, head="base", add_pooling_layer=pooler, **plain), dict(tree.items(params))
    return base, tree.nest({name: known[name] for name in parameter_shapes(base)})


def trained_names(goal: Goal, config: Config) -> set[str]:
    """What of a student is trained: its layers, and of a classifier what stands on them.

    The embeddings stay the teacher's. A user's texts show few of the words, and those that are not shown must fit the layers too.
    """
    body = f"{config.family}."
    fixed = [f"{body}embeddings."] + ([f"{body}pooler."] if goal.kind == "vectors" else [])
    return {name for name in parameter_shapes(config) if not name.startswith(tuple(fixed))}


def pooled(mode: str, hidden, mask, skip: int = 0):
    """One of sentence-transformers' poolings of padded texts: (B, L, H), (B, L) -> (B, H); ``skip`` first tokens do not count.

    The same as :data:`bertcraft.bert.sentence_modules.POOLINGS` without padding. Raises InputError for another mode.
    """
    places = np.arange(mask.shape[1])
    counted = mask * (places >= skip)
    lengths = np.sum(counted, axis=1)
    match mode:
        case "cls":
            return hidden[:, skip]
        case "lasttoken":
            return F.take_positions(hidden, (np.sum(mask, axis=1) - 1)[:, None])[:, 0]
        case "max":
            return np.max(np.where(counted[..., None] == 1, hidden, -np.inf), axis=1)
        case "mean":
            return F.mean_pool(hidden, counted)
        case "mean_sqrt_len_tokens":
            return F.mean_pool(hidden, counted) * np.sqrt(lengths)[:, None].astype(hidden.dtype)
        case "weightedmean":
            weights = (counted * (places + 1)).astype(hidden.dtype)
            return np.sum(hidden * weights[..., None], axis=1) / np.sum(weights, axis=1)[:, None]
    raise InputError(f"pooling: got {mode!r}, which is not known")


def over(token_ids: list[np.ndarray], goal: Goal, model: Model, label: str = "", shown: bool | None = False) -> np.ndarray:
    """A model's answers to all texts, some of like length at a time: float32 (n, W). A bar as :func:`counted` has it."""
    found, config = np.empty((len(token_ids), goal.width), np.float32), model.config
    groups = sentences.packs(np.array([len(ids) for ids in token_ids]), TOGETHER)

    def work(numbers: np.ndarray) -> int:
        ids, mask = pad([token_ids[i] for i in numbers], config.pad_token_id or 0)
        found[numbers] = goal.answers(model.params, config, {"input_ids": ids, "attention_mask": mask})
        return len(numbers)

    mapped: Callable = pool(cpu_count()).map if cpu_count() > 1 else map
    with one_blas_thread(), counted(label, len(token_ids), shown) as advance:
        for count in mapped(work, groups):
            advance(count)
    return found
