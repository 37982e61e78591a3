"""Trainings at several rates: what counts as trained, what is told of one that was not finite, and that it can be resumed."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import stability
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import gradient_clipping as experiment
from bertcraft.train import adamw, chain, sgd

TINY = experiment.WHOLE.arm("none").settings | {
    "layers": 1, "hidden": 16, "length": 8, "vocab_size": 2048, "texts": 32, "held_out": 20, "batch": 8, "shard": 8, "steps": 8,
    "warmup": 1, "evaluations": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return stability.task_of(TINY, 0, experiment.build)


def attempt(task, rate=1e-3, rule=None, context=None, steps=None):
    return stability.attempt(task, rate, rule or chain(adamw(rate)), 0, context or Context(), TINY, steps)


def test_an_attempt_tells_of_its_run_and_is_the_same_again(task):
    found = attempt(task)
    assert found["rate"] == 1e-3 and len(found["curve"]) == 2 and found["curve"][-1] == found["loss"]
    assert found["trained"] == (found["loss"] <= task.plateau - stability.GAP) and found["back"]
    assert len(found["norms"]) == 8 and max(found["norms"]) >= found["norm"] > 0 and len(found["first_losses"]) == 8
    assert attempt(task) == found
    assert attempt(task, steps=3)["first_losses"] == found["first_losses"][:3]


def test_one_that_is_not_finite_has_not_trained_and_says_when(task):
    with np.errstate(all="ignore"):
        found = attempt(task, 1e30, sgd(1e30))
    assert found == {"rate": 1e30, "trained": False, "stopped": found["stopped"]} and 1 <= found["stopped"] <= 8


def test_each_rate_has_a_folder_of_its_own(task, tmp_path):
    for rate in (1e-3, 2e-3):
        assert attempt(task, rate, context=replace(Context(), folder=tmp_path)) == attempt(task, rate)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rate-0.001", "rate-0.002"]


def test_figures_of_a_ladder(task):
    own = {"loss": 5.0, "unread": 5.5, "spikes": 1, "back": True}
    ladder = [
        {"rate": 1.0, "trained": True, **own}, {"rate": 2.0, "trained": True, **own, "loss": 4.0, "unread": 6.0},
        {"rate": 4.0, "trained": False, **own, "loss": 6.3, "back": False}, {"rate": 8.0, "trained": False, "stopped": 3},
    ]  # fmt: skip
    found = stability.figures(task, ladder)
    assert (found["share"], found["highest"], found["able"], found["lost"], found["spikes"]) == (50.0, 2.0, 1.0, 1, 3)
    assert (found["loss"], found["unread"], found["plateau"], found["finite"]) == (4.0, 6.0, task.plateau, 4.0)
    none = stability.figures(task, ladder[3:])
    assert (none["share"], none["able"], none["lost"]) == (0.0, 0.0, 0) and not {"highest", "finite", "loss"} & none.keys()


def test_texts_judged_are_some_that_are_read_and_some_that_are_not(task):
    read, unread = ({tuple(row) for row in part} for part in (task.texts.train, task.texts.held_out))
    assert len(task.read.batch["at"]) == stability.MASKS * 32 and len(task.unread.batch["at"]) == 20
    assert not read & unread
    assert stability.trivial(task, "unigram") == {"loss": task.plateau, "unread": task.unread.unigram}
    assert stability.trivial(task, "untrained")["loss"] == pytest.approx(task.read.unigram, abs=1.0)


def test_the_plateau_is_that_of_the_texts_own_words():
    """Of few texts it lies far below the smoothed frequencies that a model starts from: those are no measure of learning."""
    task = stability.task_of(TINY, 0, experiment.build)
    words = [word for row in task.texts.train.tolist() for word in row if word >= 5]
    share = {word: words.count(word) / len(words) for word in words}
    batch = task.read.batch
    masked = [
        label
        for shown, at, labels in zip(batch["input_ids"], batch["at"], batch["labels"], strict=True)
        for place, label in zip(at, labels, strict=True)
        if label >= 0 and shown[place] == task.texts.vocabulary["mask_id"]
    ]
    assert task.plateau == pytest.approx(-np.mean([np.log(share[label]) for label in masked]))
    assert task.plateau < task.read.unigram - 0.5
