"""Experiment 08 with tiny settings: what is declared, the rules of its arms on MiniLM, figures of a run, replays, plots."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import finetune, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import layerwise_learning_rates as module
from bertcraft.lab.figures import layerwise_learning_rates as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TINY = {"texts": 60, "steps": 14, "rate": 2e-4}
FEW = ["few_one", "few_decay_90"]
TRAINED = [arm.name for arm in EXPERIMENT.arms if not arm.trivial and arm.name not in FEW]


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings=arm.settings | ({"texts": 60} if arm.trivial else {**TINY, **changes}))


def planted(scores):
    """Runs of ten seeds with these mean accuracies, and a spread that every arm of a seed shares."""
    return [
        {
            "arm": name, "seed": seed,
            "figures": {"accuracy": score + seed % 3 + 0.01 * ((7 * seed + len(name)) % 5), module.task_of(seed): score,
                        "losses": [2.0, 1.0]},
        }
        for name, score in scores.items()
        for seed in range(10)
    ]  # fmt: skip


def test_the_claim_is_that_rates_that_fall_are_better_on_three_tasks_in_turn():
    primary = EXPERIMENT.comparisons[0]
    assert (primary.treatment, primary.baseline, primary.metric) == ("decay_90", "one", "accuracy")
    assert (primary.form, primary.better) == (statistics.SUPERIOR, 1)
    seeds = {arm.name: EXPERIMENT.seeds_of(arm) for arm in EXPERIMENT.arms}
    assert {name for name, number in seeds.items() if number == 10} == {"decay_90", "one", "tfidf"}
    assert [module.task_of(seed) for seed in (*range(4), *EXPERIMENT.tuning.seeds)] == [
        "trec", "hwu64", "banking77", "trec", "trec", "hwu64", "banking77"
    ]  # fmt: skip
    rates = {name: grid["rate"] for name, grid in EXPERIMENT.tuning.grids.items()}
    assert list(rates) == TRAINED and {len(each) for each in rates.values()} == {5}
    assert {name for name, each in rates.items() if each != rates["one"]} == {"unfreezing", "frozen", "quiet", "decay_ulmfit"}
    for name in FEW:  # asked afterwards: as the arm of 500 labels, its rate too
        arm, like = EXPERIMENT.arm(name), EXPERIMENT.arm(name.removeprefix("few_"))
        assert arm.settings == like.settings | {"texts": 100} and EXPERIMENT.tuning.like[name] == like.name
    verdict = lambda **scores: verdicts.outcomes(EXPERIMENT, planted({"tfidf": 60, **scores}))[0].verdict  # noqa: E731
    assert verdict(one=70, decay_90=72) == statistics.REPRODUCED
    assert verdict(one=72, decay_90=70) == statistics.CONTRADICTED
    assert verdict(one=55, decay_90=58) == statistics.NOT_TESTABLE


def test_the_first_updates_of_each_arm_on_minilm():
    """With a gradient of one everywhere Adam's update is the rate: what each depth gets."""
    config, params = finetune.classifier(module.model(), 6, 0, 0.1)
    names = {0: "bert.embeddings.word_embeddings.weight", 1: "bert.encoder.layer.0.output.dense.weight",
             4: "bert.encoder.layer.3.output.dense.weight", 6: "bert.encoder.layer.5.output.dense.weight",
             7: "classifier.weight"}  # fmt: skip
    small = {name: leaf[:1] if leaf.ndim > 1 else leaf for name, leaf in tree.items(params)}
    depth = module.technique.depths(params, config)
    ones = tree.nest({name: np.ones_like(leaf) for name, leaf in small.items()})

    def second(name):  # the first of them that is not 0, of a schedule that rises in one step
        settings = tiny(name).settings
        rule = module.rule_of(settings | {"steps": 14}, params, config)
        shrunk, state = tree.nest(small), None
        state = rule.init(shrunk)
        for _ in range(2):
            updates, state = rule.update(ones, state, shrunk)
        flat = dict(tree.items(updates))
        return {d: -float(flat[own].mean()) for d, own in names.items()}

    assert depth[names[4]] == 4
    one, falling = second("one"), second("decay_90")
    assert all(one[d] == pytest.approx(2e-4, rel=0.05) for d in names)
    for d in (0, 1, 4, 6):
        assert falling[d] / one[d] == pytest.approx(0.9 ** (6 - d), rel=1e-3)
    assert second("apart")[7] == pytest.approx(10 * one[7], rel=0.05)
    still = second("frozen")
    assert still[0] == still[1] == 0 and still[4] == pytest.approx(one[4], rel=0.05)
    late = second("unfreezing")
    assert late[0] == late[4] == 0 and late[7] == pytest.approx(falling[7], rel=0.05)


def test_figures_of_a_run_what_a_trial_may_see_and_a_replay():
    own = run_arm(EXPERIMENT, tiny("quiet", steps=4), 1, Context())["figures"]
    assert own["accuracy"] == own["hwu64"] and 0 <= own["accuracy"] <= 100 and len(own["losses"]) == 1
    assert replay_arm(EXPERIMENT, tiny("quiet", steps=4), 1, Context()) == {"first_losses": own["first_losses"]}
    loud = replay_arm(EXPERIMENT, tiny("frozen", steps=4), 1, Context())["first_losses"]
    assert loud[0] != own["first_losses"][0], "frozen layers drop out"
    assert set(run_arm(EXPERIMENT, tiny("slanted", steps=10, judged_on="dev"), 1000, Context())["figures"]) == {"dev"}
    rows = {name: run_arm(EXPERIMENT, tiny(name), 0, Context())["figures"]["accuracy"] for name in module.TRIVIAL}
    assert 0 < rows["majority"] < min(rows["tfidf"], rows["probe"]) and max(rows.values()) < 100


def test_plots_are_drawn_and_short_forms_have_arms_of_the_full_one(tmp_path):
    runs = planted({"one": 70, "decay_90": 71, "frozen": 69, "tfidf": 60, "few_one": 50, "few_decay_90": 52})
    for some in (runs, [run for run in runs if run["seed"] == 0]):
        paths = figures.show(tmp_path, some, EXPERIMENT)
        assert [path.name for path in paths] == ["losses.png", "against_one_rate.png"]
        assert all(path.stat().st_size > 1000 for path in paths)
    for quick in (EXPERIMENT.quick, EXPERIMENT.quick.quick):
        assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms} and quick.seeds == 1
        assert all(arm.trivial or "rate" in arm.settings for arm in quick.arms)
        assert len(figures.show(tmp_path, runs, quick)) == 1
