"""Experiment 12 in miniature: what is declared, its checks, arms that differ as they say, no leak, replay equals run, sizes."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import finetune as tuning
from bertcraft.lab import statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import adapter_modules as module
from bertcraft.lab.figures import adapter_modules as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.techniques import adapter_modules as technique
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TINY = {"texts": 60, "steps": 6}
TRAINED = [arm.name for arm in EXPERIMENT.arms if not arm.trivial]


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    own = TINY if not arm.trivial else {"texts": TINY["texts"]}
    rate = {} if arm.trivial else {"rate": EXPERIMENT.tuning.grids[name]["rate"][1]}
    return replace(arm, settings={**arm.settings, **rate, **own, **changes})


@pytest.fixture(scope="module")
def measured():
    return {arm.name: run_arm(EXPERIMENT, tiny(arm.name), 0, Context())["figures"] for arm in EXPERIMENT.arms}


def planted(accuracies, spread=0.1):
    """Runs of ten seeds about these mean accuracies."""
    rng = np.random.default_rng(0)
    return [
        {"arm": name, "seed": seed, "figures": {"accuracy": value + spread * rng.standard_normal()}}
        for name, value in accuracies.items()
        for seed in range(10)
    ]


def test_the_primary_comparison_is_the_papers_margin_and_the_second_the_collections():
    first, second, *_ = EXPERIMENT.comparisons
    for each, margin, ratio in ((first, 0.4, False), (second, 0.01, True)):
        assert (each.treatment, each.baseline, each.metric) == ("houlsby-64", "full", "accuracy")
        assert (each.form, each.margin, each.ratio) == (statistics.NOT_WORSE, margin, ratio)
    assert EXPERIMENT.metrics["accuracy"].overlap == pytest.approx(470 / 2720)
    ten = [arm.name for arm in EXPERIMENT.arms if EXPERIMENT.seeds_of(arm) == 10]
    assert ten == ["full", "houlsby-64", "probe", "tfidf"]


def test_parity_is_judged_as_parity_and_models_below_the_trivial_rows_are_not_judged():
    trivial = {"tfidf": 80, "probe": 81}
    for adapted, verdict in ((89, statistics.REPRODUCED), (88, statistics.REPRODUCED), (86, statistics.CONTRADICTED)):
        assert verdicts.primary(EXPERIMENT, planted({"full": 88, "houlsby-64": adapted, **trivial})).verdict == verdict
    wide = planted({"full": 88, "houlsby-64": 87.9, **trivial}, spread=3)
    assert verdicts.primary(EXPERIMENT, wide).verdict == statistics.CANNOT_TELL
    for low in ({"tfidf": 89}, {"probe": 89}):
        outcome = verdicts.primary(EXPERIMENT, planted({"full": 88, "houlsby-64": 88, **trivial, **low}))
        assert outcome.verdict == statistics.NOT_TESTABLE and outcome.failed


def test_arms_differ_in_method_alone_and_every_one_has_as_many_rates():
    for arm in EXPERIMENT.arms:
        assert arm.settings == {"method": arm.settings["method"], "texts": 2720} | ({} if arm.trivial else {"steps": 340})
    assert set(EXPERIMENT.tuning.grids) == set(TRAINED)
    for grid in EXPERIMENT.tuning.grids.values():
        steps = np.divide(grid["rate"][1:], grid["rate"][:-1])
        assert set(grid) == {"rate"} and len(grid["rate"]) == 4 and steps.min() >= 2 and steps.max() <= 2.5


def test_texts_are_short_some_of_every_class_and_of_their_own_part():
    data, parts = module.questions()
    assert len(parts.test) == module.TESTED and len(parts.train) == 3828
    lengths = [len(ids) for ids in module.sentences.tokenize(module.model(), data.texts, 64)]
    assert max(lengths) == module.LONGEST
    trec, texts = module.task("trec"), np.array(data.texts)
    for name, rows in zip(("train", "dev", "test"), parts, strict=True):
        part = getattr(trec, name)
        known = dict(zip(part.texts, part.labels, strict=True))
        assert [known[text] for text in texts[rows]] == data.numbers[rows].tolist()
    assert not set(texts[parts.train]) & {*texts[parts.dev], *texts[parts.test]}
    one, again, other = (module.split(300, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.train, again.train) and not np.array_equal(one.train, other.train)
    assert len(set(one.train.tolist())) == 300 and set(one.train) <= set(parts.train)
    assert set(data.numbers[one.train]) == set(range(len(data.labels)))
    assert np.array_equal(one.test, parts.test) and np.array_equal(one.dev, parts.dev)


def test_all_methods_of_a_seed_start_from_one_head_on_the_same_texts(measured):
    losses = {name: measured[name]["first_loss"] for name in TRAINED}
    for name, loss in losses.items():  # bottlenecks start near the identity
        assert loss == pytest.approx(losses["full"], rel=1e-3 if name.startswith("houlsby") else 1e-5), name
    assert len({measured[name]["first_gradient"] for name in TRAINED}) == len(TRAINED)


@pytest.mark.parametrize("name", [arm.name for arm in EXPERIMENT.arms])
def test_a_run_reports_what_is_declared_and_is_replayed(measured, name):
    found = measured[name]
    assert found["accuracy"] == pytest.approx(100 * (1 - len(found["wrong"]) / 470))
    again = replay_arm(EXPERIMENT, tiny(name), 0, Context(threads=2))
    assert again and again == {key: found[key] for key in again}
    if name in TRAINED:
        assert set(EXPERIMENT.metrics) <= set(found) and len(found["losses"]) == 1 and found["step_ms"] > 0


def test_the_same_run_gives_the_same_figures_and_another_seed_others(measured):
    again = run_arm(EXPERIMENT, tiny("houlsby-64"), 0, Context(threads=2))["figures"]
    assert {**again, "step_ms": 0} == {**measured["houlsby-64"], "step_ms": 0}
    assert run_arm(EXPERIMENT, tiny("houlsby-64"), 1, Context())["figures"]["wrong"] != again["wrong"]


def test_a_trial_is_judged_on_development_questions_alone(monkeypatch):
    asked = []
    predict = tuning.predict
    monkeypatch.setattr(tuning, "predict", lambda tuned, texts, *rest: asked.extend(texts) or predict(tuned, texts, *rest))
    found = run_arm(EXPERIMENT, tiny("houlsby-64", **EXPERIMENT.tuning.settings), 1000, Context())["figures"]
    data, parts = module.questions()
    assert "dev" in found and "accuracy" not in found and asked == [data.texts[i] for i in parts.dev]


def test_the_start_is_the_untouched_encoder_below_its_head(measured):
    data, parts = module.questions()
    head = module.start(TINY["texts"], 0)
    untouched = module.frozen.as_classifier(module.model(), head, tuning.Settings(max_length=module.LONGEST))
    encoder = dict(tree.items(untouched.params["bert"]["encoder"]))
    assert all(np.array_equal(leaf, encoder[name]) for name, leaf in tree.items(module.model().params["bert"]["encoder"]))
    right = tuning.accuracy(untouched, module.some(parts.test))
    assert measured["start"]["accuracy"] == pytest.approx(100 * right)
    assert measured["majority"]["accuracy"] == 100 * np.mean(
        data.numbers[parts.test] == np.bincount(data.numbers[module.split(60, 0).train]).argmax()
    )


def test_sizes_are_counted_by_hand(measured):
    """MiniLM: 6 layers of 384, inner 1536; its embeddings 30522 + 512 + 2 rows."""
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    encoder = (30522 + 512 + 2) * 384 + 2 * 384 + 6 * layer
    head = 384 * 384 + 384 + 385 * 47
    own = {
        "full": encoder, "houlsby-64": 6 * (2 * (2 * 64 * 384 + 64 + 384) + 4 * 384),
        "houlsby-8": 6 * (2 * (2 * 8 * 384 + 8 + 384) + 4 * 384), "lora": 6 * 2 * 2 * 8 * 384, "ia3": 6 * (2 * 384 + 1536),
        "prefix": 6 * (2 * 16 * 384 + 1), "bitfit": 384 + 6 * (5 * 384 + 1536 + 2 * 384),
    }  # fmt: skip
    for name, number in ((name, own[name]) for name in TRAINED):
        assert measured[name]["own"] == pytest.approx(100 * number / encoder), name
        assert measured[name]["stored_mb"] == pytest.approx(4 * (number + head) / 1e6), name
    runs = [{"arm": name, "seed": 0, "figures": found} for name, found in measured.items()]
    exact = {o.comparison.name: o.verdict for o in verdicts.outcomes(EXPERIMENT, runs) if o.comparison.form == "exact"}
    assert exact and set(exact.values()) == {statistics.HOLDS}
    assert module._share(8) == pytest.approx(own["houlsby-8"] / encoder)
    methods = {arm.name: arm.settings["method"] for arm in module._arms(module._FULL)}
    assert technique.METHODS[methods["prefix"]].title == "gated prefix (16)"


def test_the_quick_form_has_rates_and_arms_of_the_full_one():
    quick = EXPERIMENT.quick
    assert {"full", "houlsby-64"} < {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms}
    assert quick.primary == EXPERIMENT.primary and quick.seeds == 1 and quick.tuning is None
    assert all(("rate" in arm.settings) != arm.trivial and arm.settings["texts"] == 800 for arm in quick.arms)


def test_the_plots_are_drawn_for_one_seed_and_for_several(measured, tmp_path):
    runs = [{"arm": name, "seed": seed, "figures": found} for name, found in measured.items() for seed in range(2)]
    for part in (runs, runs[::2], [run for run in runs if run["arm"] in ("full", "start")]):
        paths = figures.show(tmp_path, part, EXPERIMENT)
        assert [path.name for path in paths] == ["kept.png", "share.png", "losses.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
