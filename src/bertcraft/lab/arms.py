"""What a comparison on a user's own texts compares: ways to fine-tune an encoder. (:mod:`bertcraft.lab.baselines` has the rest.)

Every technique changes one thing in plain full fine-tuning. It reads the same texts in the same order; its learning rate is
half that of its method in :data:`bertcraft.lab.finetune.RATES`, which other texts (TREC, CLINC150) chose and the user's do not
change.
"""

import difflib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bertcraft.bert.model import Model
from bertcraft.data.labelled import Labelled
from bertcraft.errors import InputError
from bertcraft.lab import finetune as tuning
from bertcraft.lab import optimisers
from bertcraft.techniques import adapter_modules

PLAIN = tuning.Settings(clip=math.inf)  # AdamW, a linear schedule with warm-up, no clipping
GENTLER = 2  # the part of its method's rate that a run takes: it starts from a trained head, not a new one


@dataclass(frozen=True)
class Technique:
    """An arm of the comparison: what it changes in plain full fine-tuning."""

    title: str  # as tables name it, at most 24 characters
    what: str
    method: str = "full"  # of bertcraft.techniques.adapter_modules
    changes: dict[str, Any] = field(default_factory=dict)  # of finetune.Settings
    accumulate: int = 1  # batches to an update
    rule: optimisers.RuleOf | None = None  # an optimiser of its own

    @property
    def kept_by_transformers(self) -> bool:
        """Whether the result can be written as a plain BERT classifier."""
        return adapter_modules.METHODS[self.method].merged is not None

    def settings(self, steps: int) -> tuning.Settings:
        """Those of a run that reads ``steps`` batches, a multiple of ``accumulate``."""
        batch, rate = PLAIN.batch_size * self.accumulate, tuning.RATES[self.method] / GENTLER
        return replace(PLAIN, steps=max(1, steps // self.accumulate), batch_size=batch, rate=rate, **self.changes)

    def train(self, model: Model, train: tuning.Texts, settings: tuning.Settings, **options) -> tuning.Finetuned:
        """A classifier, trained. ``options``: those of :func:`bertcraft.lab.finetune.finetune`."""
        if self.rule:
            return optimisers.finetune(model, train, self.rule, settings, **options)
        return tuning.finetune(model, train, None, self.method, settings, **options)


FULL = "full"
TECHNIQUES = {
    FULL: Technique("full fine-tuning", "all weights are trained: AdamW, linear schedule with warm-up"),
    "adapters": Technique("adapters (64)", "two bottlenecks a layer, 64 wide (Houlsby et al. 2019)", "houlsby-64"),
    "adapters-8": Technique("adapters (8)", "two bottlenecks a layer, 8 wide", "houlsby-8"),
    "lora": Technique("LoRA (8)", "matrices of rank 8 beside queries and values (Hu et al. 2021)", "lora"),
    "bitfit": Technique("BitFit", "biases alone are trained (Zaken et al. 2022)", "bitfit"),
    "ia3": Technique("IA3", "keys, values and activations are rescaled (Liu et al. 2022)", "ia3"),
    "prefix": Technique("prefix (16)", "16 trained keys and values before the text (Li & Liang 2021)", "prefix"),
    "clipping": Technique("gradient clipping", "full, gradients clipped to norm 1", changes={"clip": 1.0}),
    "adaptive": Technique("adaptive clipping", "full, clipped by the size of the weights (Brock et al. 2021)",
                          rule=optimisers.adaptive),
    "cosine": Technique("cosine schedule", "full, the rate falls along a cosine", changes={"schedule": "cosine"}),
    "constant": Technique("constant rate", "full, the rate neither rises nor falls", changes={"schedule": "constant"}),
    "stable": Technique("flat then down", "full, the rate falls in the last fifth",
                        rule=optimisers.scheduled("warmup_stable_decay")),
    "layerwise": Technique("rates by layer", "full, each layer's rate is 0.9 of that above it (Howard & Ruder 2018)",
                           rule=optimisers.layerwise(0.9)),
    "adam": Technique("no weight decay", "full, Adam instead of AdamW", changes={"weight_decay": 0.0}),
    "l2": Technique("L2 in the gradient", "full, Adam with the decay in its gradient", rule=optimisers.l2),
    "all-decay": Technique("everything decays", "full, norms and biases decay too", rule=optimisers.all_decay),
    "accumulation": Technique("accumulation (4)", "full, an update every 4 batches", accumulate=4),
    "label-smoothing": Technique("label smoothing", "full, a tenth of the target spread over all classes",
                                 changes={"label_smoothing": 0.1}),
}  # fmt: skip
DEFAULT = ("lora",)  # few arms: what each more would read is taken from the others


def chosen(names: str | None) -> list[str]:
    """The arms for a list like "lora,adapters" ("all": every technique): full fine-tuning first, each once.

    Raises InputError for an unknown name: all names, and the nearest.
    """
    wanted = [name.strip().casefold() for name in names.split(",") if name.strip()] if names else list(DEFAULT)
    if "all" in wanted:
        wanted = [*TECHNIQUES, *(name for name in wanted if name != "all")]
    for name in wanted:
        if name not in TECHNIQUES:
            near = difflib.get_close_matches(name, TECHNIQUES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"--techniques: got {name!r}, expected names among {', '.join(TECHNIQUES)} or all{hint}")
    return list(dict.fromkeys([FULL, *wanted]))


def some(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many rows, at random; a larger choice holds the smaller ones."""
    return np.random.default_rng((seed, 3)).permutation(rows)[:most]


def texts(data: Labelled, rows: np.ndarray) -> tuning.Texts:
    """Some rows, to train on."""
    return tuning.Texts([data.texts[i] for i in rows], data.numbers[rows])
