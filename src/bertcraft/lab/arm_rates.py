"""Which learning rate suits each way of full fine-tuning that ``compare`` offers: ``python -m bertcraft.lab.arm_rates``.

Each arm is tried at four rates on TREC, which no table of ``docs/compare.md`` reports: 60 steps of 32 texts from the probe, as
``compare --steps 60`` takes them, judged on development texts. The table goes into that document, the best rates into
:data:`bertcraft.lab.arms.TECHNIQUES`.
"""

import functools
import sys
from dataclasses import dataclass, replace

import numpy as np

from bertcraft import load
from bertcraft.bert.model import Model
from bertcraft.data import task, weights
from bertcraft.data.labelled import Labelled, Split
from bertcraft.lab import baselines, frozen
from bertcraft.lab import finetune as tuning
from bertcraft.lab.arms import PLAIN, TECHNIQUES, some, texts
from bertcraft.lab.compare import accuracy
from bertcraft.tensor.parallel import cpu_count

RATES = (5e-5, 1e-4, 2e-4, 4e-4)
STEPS, SEED = 60, 1000
ARMS = [  # that change the optimiser alone
    name for name, each in TECHNIQUES.items()
    if each.method == "full" and each.accumulate == 1 and "label_smoothing" not in each.changes
]  # fmt: skip


@dataclass(frozen=True)
class Trials:
    """TREC, read as ``compare`` reads a table: its training texts, its development texts for dev and test."""

    threads: int

    @functools.cached_property
    def data(self) -> Labelled:
        parts = task("trec").train, task("trec").dev
        texts = [text for part in parts for text in part.texts]
        return Labelled(
            texts, list(task("trec").labels), np.concatenate([part.labels for part in parts]), np.arange(len(texts)), []
        )

    @functools.cached_property
    def parts(self) -> Split:
        train, dev = np.split(np.arange(len(self.data)), [len(task("trec").train)])
        return Split(train, dev, dev)

    @functools.cached_property
    def model(self) -> Model:
        return frozen.with_mean(load(weights("minilm")))

    @functools.cached_property
    def probe(self) -> baselines.Probe:
        vectors = frozen.Vectors(self.model, self.data.texts, PLAIN.max_length, self.threads)
        return baselines.probe(self.data, self.parts, vectors, len(self.data), accuracy, self.threads)

    def right(self, name: str, rate: float) -> float:
        """Accuracy of an arm at a rate on the development texts, in %."""
        train = texts(self.data, some(self.parts.train, STEPS * PLAIN.batch_size, SEED))
        tuned = TECHNIQUES[name].train(
            self.model, train, replace(TECHNIQUES[name].settings(STEPS), rate=rate), classes=len(self.data.labels), seed=SEED,
            threads=self.threads, head=self.probe.head,
        )  # fmt: skip
        return 100 * tuning.accuracy(tuned, texts(self.data, self.parts.dev), self.threads)


def main(names: list[str]) -> None:
    """Print a row of a Markdown table for each arm, the probe's accuracy before them."""
    trials = Trials(cpu_count())
    dev = trials.parts.dev
    print(f"linear probe: {100 * accuracy(trials.data.numbers[dev], trials.probe.classify(dev)):.1f}", flush=True)
    for name in names or ARMS:
        print(f"| {TECHNIQUES[name].title} | {' | '.join(f'{trials.right(name, rate):.1f}' for rate in RATES)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
