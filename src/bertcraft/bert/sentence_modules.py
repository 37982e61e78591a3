"""From hidden states to sentence vectors: the modules of sentence-transformers that stand behind an encoder.

The tokens of n sentences lie end to end, without padding: hidden states (tokens, H) and lengths (n,). Each module is what
sentence-transformers computes under its name, in evaluation mode; :mod:`bertcraft.bert.sentence_folder` reads and writes them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import functions as F


def _first(hidden, starts, lengths, positions):
    return hidden[starts]


def _last(hidden, starts, lengths, positions):
    return hidden[starts + lengths - 1]


def _max(hidden, starts, lengths, positions):
    return np.maximum.reduceat(hidden, starts, axis=0)


def _mean(hidden, starts, lengths, positions):
    return np.add.reduceat(hidden, starts, axis=0) / lengths[:, None].astype(hidden.dtype)


def _mean_sqrt_len(hidden, starts, lengths, positions):
    return np.add.reduceat(hidden, starts, axis=0) / np.sqrt(lengths[:, None].astype(hidden.dtype))


def _weighted_mean(hidden, starts, lengths, positions):
    """Weights 1, 2, 3, ... along a sentence: Muennighoff 2022, section 3.1."""
    weights = (positions + 1).astype(hidden.dtype)
    total = np.add.reduceat(hidden * weights[:, None], starts, axis=0)
    return total / np.add.reduceat(weights, starts)[:, None]


# By the names of sentence-transformers, in the order in which its old switches pooling_mode_* are concatenated.
POOLINGS = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


@dataclass(frozen=True)
class Pooling:
    """One vector a sentence, the ``modes`` (keys of POOLINGS) side by side; without the prompt's tokens if so wished."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    def __call__(self, hidden: np.ndarray, lengths: np.ndarray, skip: int = 0) -> np.ndarray:
        """(tokens, H) -> (n, len(modes) * H); the ``skip`` first tokens of each sentence, fewer than it has, do not count."""
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(len(hidden)) - np.repeat(starts, lengths)
        if skip:
            counted = positions >= skip
            hidden, positions, lengths = hidden[counted], positions[counted], lengths - skip
            starts = np.cumsum(lengths) - lengths
        vectors = [POOLINGS[mode](hidden, starts, lengths, positions) for mode in self.modes]
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1)


# Activations of a Dense module: classes of torch.nn by their names.
ACTIVATIONS = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Sigmoid": F.sigmoid,
}


@dataclass(frozen=True)
class Dense:
    """A linear map and an activation: (n, in) -> (n, out); with ``use_residual`` the input, mapped if need be, is added."""

    weight: np.ndarray  # (out, in)
    bias: np.ndarray | None
    activation: str  # a key of ACTIVATIONS
    use_residual: bool = False
    residual: np.ndarray | None = None  # (out, in), where in differs from out

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = ACTIVATIONS[self.activation](F.linear(x, self.weight, self.bias))
        if self.use_residual:
            y = y + (x if self.residual is None else F.linear(x, self.residual))
        return y


@dataclass(frozen=True)
class LayerNorm:
    """torch.nn.LayerNorm over a vector, with its eps of 1e-5."""

    weight: np.ndarray  # (width,)
    bias: np.ndarray  # (width,)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return F.layer_norm(x, self.weight, self.bias, eps=1e-5)


@dataclass(frozen=True)
class Normalize:
    """Vectors scaled to unit length."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return F.normalize(x)


@dataclass(frozen=True)
class Pipeline:
    """How texts become vectors: what stands before the encoder (prompt, case, length) and behind it (pooling, modules)."""

    pooling: Pooling = Pooling()
    modules: tuple[Dense | LayerNorm | Normalize, ...] = ()
    max_length: int | None = None  # tokens, special ones included; None: what the encoder takes
    truncation_side: str = "right"
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None  # only so many of the first numbers of a vector are kept
    extra: dict[str, Any] = field(default_factory=dict)  # what else config_sentence_transformers.json says

    def __call__(self, hidden: np.ndarray, lengths: np.ndarray, skip: int = 0) -> np.ndarray:
        """Vectors of sentences laid end to end; see :class:`Pooling`."""
        vectors = self.pooling(hidden, lengths, skip)
        for module in self.modules:
            vectors = module(vectors)
        return vectors if self.truncate_dim is None else vectors[:, : self.truncate_dim]

    def width(self, hidden_size: int) -> int:
        """The length of a vector."""
        width = len(self.pooling.modes) * hidden_size
        for module in self.modules:
            width = len(module.weight) if isinstance(module, Dense) else width
        return width if self.truncate_dim is None else min(width, self.truncate_dim)

    def prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text to put before each sentence: the given one, the one of that name, or the default. Raises InputError."""
        if prompt is not None and prompt_name is not None:
            raise InputError("got both prompt and prompt_name, expected one of them")
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt: got {type(prompt).__name__}, expected a string")
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InputError(f"prompt_name: got {name!r:.80}, expected one that the model's folder has: {known}")
        return self.prompts[name]
