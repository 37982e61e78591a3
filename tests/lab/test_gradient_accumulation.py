"""Experiment 06 with tiny settings: arms differ only as they say, figures are sane, and a replay is the run's beginning."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import lengths, pretraining, statistics, step_cost, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import gradient_accumulation as lab
from bertcraft.lab.figures import gradient_accumulation as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.techniques import gradient_accumulation as technique
from bertcraft.tensor import tree, value_and_grad

EXPERIMENT = lab.EXPERIMENT
RATES = {"adamw": 1e-3, "sgd": 0.1}
TINY = {"steps": 5, "warm": 2, "batch": 16, "cut": 4, "cuts": (2, 4)}


def tiny(name: str, **changes):
    """An arm with little of everything and its own differences."""
    arm = EXPERIMENT.arm(name)
    own = {"way": {"cuts": ()}, "weight": TINY | {"rate": RATES.get(arm.settings.get("rule"))}}
    own = next((each for kind, each in own.items() if kind in arm.settings), {})
    return replace(arm, settings=arm.settings | own | changes)


def found(name: str, seed: int = 0, **changes) -> dict:
    return run_arm(EXPERIMENT, tiny(name, **changes), seed, Context())["figures"]


def planted(values: dict, metric: str, **more) -> list[dict]:
    """Runs of ten seeds with these means of a metric, a spread that arms share, and other figures alike."""
    return [
        {"arm": name, "seed": seed, "figures": {metric: value + seed % 3 + 0.01 * ((7 * seed + len(name)) % 5), **more}}
        for name, value in values.items()
        for seed in range(10)
    ]


def test_the_claim_is_memory_at_an_equal_gradient():
    primary, second = EXPERIMENT.comparisons[:2]
    assert (primary.treatment, primary.baseline, primary.metric) == ("accumulated", "whole", "peak_mb")
    assert primary.form == statistics.SUPERIOR and primary.ratio and primary.better == -1
    assert [EXPERIMENT.seeds_of(EXPERIMENT.arm(name)) for name in ("whole", "accumulated", "weighted")] == [10, 10, 5]
    assert (second.form, second.expected, second.margin) == (statistics.EXACT, 0.0, 1e-6)
    runs = planted({"accumulated": 100, "whole": 200}, "peak_mb", gradient_error=0.0)
    assert [each.verdict for each in verdicts.outcomes(EXPERIMENT, runs)] == [statistics.REPRODUCED, statistics.HOLDS]
    runs[0]["figures"]["gradient_error"] = 2e-6
    assert verdicts.outcomes(EXPERIMENT, runs)[1].verdict == statistics.FAILS


def test_arms_differ_only_in_what_they_claim():
    def differing(one: str, other: str) -> set:
        a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
        return {key for key in {**a, **b} if a.get(key) != b.get(key)}

    assert differing("whole", "accumulated") == differing("whole", "recomputed") == {"way"}
    assert differing("weighted", "mean_of_means") == differing("weighted", "sum_of_means") == {"weight"}
    assert differing("mean_of_means", "grouped") == {"grouped"}
    for name in ("weighted", "mean_of_means", "sum_of_means"):
        assert differing(name, f"sgd_{name}") == {"rule"}
    tuned = {*EXPERIMENT.tuning.grids, *EXPERIMENT.tuning.like}
    assert tuned == {arm.name for arm in EXPERIMENT.arms if "weight" in arm.settings}


def test_models_on_the_plateau_are_not_testable_and_a_broken_sum_is_no_excuse():
    def verdict(**gains):
        runs = planted({"grouped": 1.1, "weighted": 1.0}, "loss", short_gain=1.0, long_gain=1.0)
        for run in runs:
            run["figures"]["long_gain"] = gains.get(run["arm"], 1.0)
        return verdicts.outcomes(EXPERIMENT, runs)[0].verdict

    assert verdict() == statistics.REPRODUCED
    assert verdict(weighted=0.4) == verdict(grouped=0.4) == statistics.NOT_TESTABLE
    assert all("sgd_sum_of_means" not in check.arms for check in EXPERIMENT.checks)


def test_texts_are_short_and_long_and_no_part_knows_another():
    short, long = (lengths.texts()[kind] for kind in ("short", "long"))
    tokens = [(own.train != 0).sum(axis=1).mean() for own in (short, long)]
    assert tokens[0] < 13 and tokens[1] > 40
    assert len(short.held_out) == 3 * len(long.held_out) and len(short.dev) == 3 * len(long.dev)
    for own in (short, long):
        parts = [{row.tobytes() for row in part} for part in (own.train, own.dev, own.held_out)]
        for i, part in enumerate(parts):
            assert len(part & parts[i - 1]) < 0.06 * len(part), "people do say the same twice"


def test_grouping_by_length_changes_the_order_of_a_batch_and_nothing_else():
    random, grouped = (lengths.batch_maker(16, 4, 1, grouped)(3) for grouped in (False, True))
    tokens = grouped["attention_mask"].sum(axis=1)
    assert (np.diff(tokens) >= 0).all() and (np.diff(random["attention_mask"].sum(axis=1)) < 0).any()
    rows = [sorted((*ids, *sorted(labels)) for ids, labels in zip(b["input_ids"].tolist(), b["labels"].tolist(), strict=True))
            for b in (random, grouped)]  # fmt: skip
    assert rows[0] == rows[1]
    assert technique.predicted(random) == technique.predicted(grouped)


@pytest.mark.parametrize("weight", ["tokens", "equal", "none"])
def test_the_gradient_that_is_trained_on_is_the_techniques(weight):
    config, loss = lab.model()
    params = pretraining.initial(config, lengths.texts()["short"], 0)
    batch = lengths.batch_maker(16, 4, 0)(0)
    _, gradient = lab.gradient_function(weight, 4)(params, batch, 0)
    parts = technique.micro_batches(batch, 4)
    _, expected = technique.accumulate(loss, params, parts, technique.predicted if weight == "tokens" else technique.equally)
    factor = len(parts) if weight == "none" else 1
    for (name, a), b in zip(tree.items(gradient), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, factor * b, atol=3e-6, rtol=1e-4, err_msg=name)


def test_losses_are_at_mask_by_token_and_by_text():
    config, _ = lab.model()
    params = pretraining.initial(config, lengths.texts()["short"], 0)
    own = lengths.texts()["long"]
    test = lengths.HeldOut(own.dev, own)
    figures = lengths.evaluate(lengths.model_losses(params, config), "dev")
    whole = {kind: lengths.HeldOut(own.dev, own) for kind, own in lengths.texts().items()}
    each = {kind: test(params, config) for kind, test in whole.items()}
    sizes = {}
    for kind, test in whole.items():
        assert figures[f"{kind}_loss"] == pytest.approx(each[kind]["loss"], rel=1e-5)
        assert figures[f"{kind}_loss"] + figures[f"{kind}_gain"] == pytest.approx(test.unigram)
        shown = np.take_along_axis(test.batch["input_ids"], test.batch["at"], axis=1)
        chosen, kept = test.batch["labels"] >= 0, shown == test.batch["labels"]
        sizes[kind] = {"loss": test.masked, "loss_kept": kept.sum(), "loss_all": chosen.sum()}
        sizes[kind]["loss_random"] = chosen.sum() - kept.sum() - test.masked
    for name in ("loss", "loss_kept", "loss_random", "loss_all"):
        expected = sum(each[kind][name] * size[name] for kind, size in sizes.items()) / sum(s[name] for s in sizes.values())
        assert figures[name] == pytest.approx(expected, rel=1e-6), name


def test_losses_by_text_count_every_text_alike():
    frequencies = lengths.evaluate(lengths.frequency_losses, "dev")
    by_text = []
    for own in lengths.texts().values():
        batch = lengths.HeldOut(own.dev, own).batch
        shown = np.take_along_axis(batch["input_ids"], batch["at"], axis=1) == own.vocabulary["mask_id"]
        for labels, masked in zip(batch["labels"], shown & (batch["labels"] >= 0), strict=True):
            if masked.any():
                by_text.append(-own.log_frequency[labels[masked]].mean())
    assert frequencies["text_loss"] == pytest.approx(np.mean(by_text), rel=1e-6)
    assert frequencies["short_gain"] == pytest.approx(0, abs=1e-6) and frequencies["long_gain"] == pytest.approx(0, abs=1e-6)


def test_trivial_rows_are_frequencies_an_untrained_model_and_the_start():
    rows = {name: found(name, warm=2) for name in ("start", "untrained", "unigram")}
    assert rows["start"]["loss"] != rows["untrained"]["loss"] != rows["unigram"]["loss"]
    assert rows["start"] == replay_arm(EXPERIMENT, tiny("start", warm=2), 0, Context())
    assert all(EXPERIMENT.arm(name).trivial for name in rows)


def test_gradients_by_tokens_are_exact_and_means_are_not():
    own = {name: found(name) for name in ("weighted", "mean_of_means", "grouped", "sum_of_means")}
    for each in own.values():
        assert each["gradient_error"] == dict(each["gradient_errors"])[4]
        assert min(each["short_loss"], each["long_loss"]) < each["loss"] < max(each["short_loss"], each["long_loss"])
    assert own["weighted"]["gradient_error"] < 1e-5 < 0.03 < own["mean_of_means"]["gradient_error"]
    assert own["mean_of_means"]["gradient_error"] < own["grouped"]["gradient_error"] < 1 < own["sum_of_means"]["gradient_error"]


@pytest.mark.parametrize("name", ["grouped", "sgd_weighted"])
def test_a_replay_is_the_beginning_of_the_run(name):
    again = replay_arm(EXPERIMENT, tiny(name), 3, Context())
    assert again == {"first_losses": found(name, 3)["first_losses"]} and len(again["first_losses"]) == lab.REPLAYED


@pytest.mark.parametrize("way", ["whole", "accumulated"])
def test_a_step_is_measured_and_its_gradient_compared(way, monkeypatch):
    monkeypatch.setattr(step_cost, "in_a_child", lambda way, cut, seed: {"peak_mb": 100.0 / cut, "step_seconds": 1.0})
    own = found(way, 0, cuts=(1, 8))
    assert own["gradient_error"] < 1e-13 and (own["gradient_error"] == 0) == (way == "whole")
    assert own["peak_mb"] == 12.5 and ("cost" in own) == (way == "accumulated") and "cost" not in found(way, 1)
    assert replay_arm(EXPERIMENT, tiny(way), 0, Context()) == {"gradient_norm": own["gradient_norm"]}


def test_rates_are_chosen_on_dev_alone():
    trial = found("sgd_weighted", 1000, **EXPERIMENT.tuning.settings)
    assert set(trial) == {"dev_loss"}


def test_the_distance_between_gradients(monkeypatch):
    a, b = {"x": np.array([3.0, 0.0])}, {"x": np.array([0.0, 4.0])}
    assert lab.norm(a) == 3 and lab.distance(a, b) == 1.25

    def loss(p, batch, rng):
        return np.sum(p * batch["at"][:, 0])

    monkeypatch.setattr(lab, "model", lambda: (None, loss))
    batch, double = {"at": np.ones((4, 1))}, 2.0  # a function that doubles the gradient is off by its whole norm
    function = lambda micro: lambda p, b, step: (0, double * value_and_grad(loss)(p, b, None)[1])  # noqa: E731
    assert lab.gradient_errors(np.ones(()), function, [batch], (1, 2)) == [[1, 1.0], [2, 1.0]]


def test_plots_are_drawn_where_arms_are_missing(tmp_path):
    losses = {"loss": 1.0, "text_loss": 1.1, "short_loss": 1.0, "long_loss": 1.0}
    cost = {"peak_mb": 300.0, "before_mb": 100.0, "step_seconds": 1.0}
    curve = [[cut, 300 / cut, 1.0] for cut in (1, 8)]
    trained = losses | {"gradient_errors": [[2, 0.1], [8, 0.2]]}
    arms = {"weighted": trained, "grouped": trained, "whole": cost, "accumulated": cost | {"cost": curve}}
    runs = [{"arm": name, "seed": seed, "figures": own} for name, own in arms.items() for seed in (0, 1)]
    for part in (runs, [run for run in runs if run["seed"] == 0]):
        paths = figures.show(tmp_path, part, EXPERIMENT)
        assert [path.name for path in paths] == ["memory_and_time.png", "losses.png", "gradients.png"]
        assert all(path.stat().st_size > 1000 for path in paths)
    assert len(figures.show(tmp_path, [run for run in runs if run["arm"] == "whole"], EXPERIMENT)) == 1


def test_the_quick_version_has_arms_of_the_full_one():
    quick = EXPERIMENT.quick
    assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms} and quick.seeds == 1
    assert all("rate" in arm.settings for arm in quick.arms if "weight" in arm.settings)
