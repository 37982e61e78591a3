"""Update rules, learning-rate schedules, the training loop and the state of a run on disk."""

from bertcraft.train.inplace import apply, global_norm
from bertcraft.train.loop import FitResult, Interrupted, Progress, fit, generator
from bertcraft.train.rules import Rule, adamw, chain, clip_by_global_norm, default_decay, sgd
from bertcraft.train.schedules import constant, warmup_cosine, warmup_inverse_sqrt, warmup_linear, warmup_stable_decay
from bertcraft.train.state import load_state, save_state

__all__ = [
    "FitResult", "Interrupted", "Progress", "Rule", "adamw", "apply", "chain", "clip_by_global_norm",
    "constant", "default_decay", "fit", "generator", "global_norm", "load_state", "save_state", "sgd",
    "warmup_cosine", "warmup_inverse_sqrt", "warmup_linear", "warmup_stable_decay",
]  # fmt: skip
