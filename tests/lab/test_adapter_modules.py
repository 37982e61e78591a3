"""Experiment 12 in miniature: arms differ in method and rate alone, nothing leaks, runs repeat, sizes are true, plots drawn."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bertcraft.lab import finetune as tuning
from bertcraft.lab import report
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import adapter_modules as module
from bertcraft.lab.figures import adapter_modules as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.techniques import adapter_modules as technique
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TINY = {"tasks": ["trec", "films"], "steps": 6, "batch_size": 4, "test": 12}


def tiny(name, **changes):
    arm = EXPERIMENT.arm(name)
    return replace(arm, settings={**arm.settings, **TINY, **changes})


@pytest.fixture(scope="module")
def measured():
    return {arm.name: run_arm(EXPERIMENT, tiny(arm.name), 0, Context()) for arm in EXPERIMENT.arms}


def test_arms_differ_in_method_and_learning_rate_alone():
    assert len(EXPERIMENT.arms) == 8 and EXPERIMENT.seeds == 5
    for arm in EXPERIMENT.arms:
        assert {name: arm.settings[name] for name in module._FULL} == module._FULL
        assert set(arm.settings) - set(module._FULL) == {"method", "rate"}
        assert arm.settings["method"] == arm.name and arm.name in technique.METHODS
        tried = module.GRID[arm.name]
        assert len(tried) >= 3 and arm.settings["rate"] in tried
        if arm.name not in ("houlsby-64", "ia3", "prefix"):
            assert tried[arm.settings["rate"]] == max(tried.values())
    headline = EXPERIMENT.comparisons[0]
    assert (headline.treatment, headline.baseline, headline.metric) == ("houlsby-64", "full", "accuracy")


def test_texts_are_short_drawn_anew_by_each_seed_and_never_of_the_other_parts():
    for name in module.TASKS:
        parts = {part: module.short(name, part) for part in ("train", "dev", "test")}
        assert len(parts["train"]) >= module._FULL["steps"] * module._FULL["batch_size"]
        assert len(parts["test"]) >= module._FULL["test"]
        for part, texts in parts.items():
            lengths = [len(ids) for ids in module.sentences.tokenize(module.model(), texts.texts, 64)]
            assert max(lengths) == module.LONGEST, part
        first, again, other = (module.drawn(name, "train", 50, seed, 0) for seed in (0, 0, 1))
        assert first.texts == again.texts != other.texts and len(set(first.texts)) == 50
        assert set(first.texts) <= set(parts["train"].texts)
        assert not set(parts["train"].texts) & {*parts["dev"].texts, *parts["test"].texts}
        known = dict(zip(parts["train"].texts, parts["train"].labels, strict=True))
        assert [known[text] for text in first.texts] == first.labels.tolist()


def test_all_arms_of_a_seed_start_from_one_head_on_the_same_texts(measured):
    losses = {name: run["figures"]["first_loss"] for name, run in measured.items()}
    del losses["prefix"]  # starts as words before the text, which change its loss
    for name, loss in losses.items():  # bottlenecks start near the identity
        assert loss == pytest.approx(losses["full"], rel=1e-2 if name.startswith("houlsby") else 1e-5), name
    gradients = {run["figures"]["first_gradient"] for run in measured.values()}
    assert len(gradients) == len(measured) and min(gradients) == measured["head"]["figures"]["first_gradient"]


@pytest.mark.parametrize("name", [arm.name for arm in EXPERIMENT.arms])
def test_a_run_reports_what_is_declared_and_is_replayed(measured, name):
    figures = measured[name]["figures"]
    assert set(module._METRICS) - {"intents"} <= set(figures)
    assert figures["accuracy"] == np.mean([figures["trec"], figures["films"]])
    assert all(0 <= figures[task] <= 100 and len(figures[f"losses_{task}"]) == 6 for task in TINY["tasks"])
    again = replay_arm(EXPERIMENT, tiny(name), 0, Context(threads=2))
    assert again == {key: figures[key] for key in ("first_loss", "first_gradient")}


def test_the_same_run_gives_the_same_figures(measured):
    again = run_arm(EXPERIMENT, tiny("lora"), 0, Context(threads=2))["figures"]
    assert {**again, "step_seconds": 0} == {**measured["lora"]["figures"], "step_seconds": 0}
    other = run_arm(EXPERIMENT, tiny("lora"), 1, Context())["figures"]
    assert other["losses_trec"] != again["losses_trec"]


def test_sizes_are_counted_by_hand(measured):
    """MiniLM: 6 layers of 384, inner 1536; its embeddings 30522 + 512 + 2 rows."""
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    encoder = (30522 + 512 + 2) * 384 + 2 * 384 + 6 * layer
    heads = [384 * 384 + 384 + 385 * classes for classes in (47, 2)]
    own = {
        "full": encoder, "houlsby-64": 6 * (2 * (2 * 64 * 384 + 64 + 384) + 4 * 384),
        "houlsby-8": 6 * (2 * (2 * 8 * 384 + 8 + 384) + 4 * 384), "lora": 6 * 2 * 2 * 8 * 384, "ia3": 6 * (2 * 384 + 1536),
        "prefix": 6 * 2 * 16 * 384, "bitfit": 384 + 6 * (5 * 384 + 1536 + 2 * 384), "head": 0,
    }  # fmt: skip
    for name, number in own.items():
        figures = measured[name]["figures"]
        assert figures["own"] == pytest.approx(np.mean([100 * number / (encoder + head) for head in heads])), name
        assert figures["stored_mb"] == pytest.approx(4 * np.mean([number + head for head in heads]) / 1e6), name
        assert figures["optimiser_mb"] == pytest.approx(2 * figures["stored_mb"], rel=1e-3), name


def test_the_quick_forms_have_arms_of_the_full_one_on_one_task():
    short = EXPERIMENT.quick
    for quick in (short, short.quick):
        assert {arm.name for arm in quick.arms} < {arm.name for arm in EXPERIMENT.arms}
        assert quick.comparisons[0] == EXPERIMENT.comparisons[0]
        for arm in quick.arms:
            tried = module.GRID[arm.name]
            assert arm.settings["tasks"] == ["trec"] and tried[arm.settings["rate"]] == max(tried.values())
    assert len(short.quick.arms) < len(short.arms)


def test_tables_fit_a_terminal_and_plots_are_drawn_for_one_seed_and_for_several(measured, tmp_path):
    runs = [{"arm": name, "seed": seed, **run} for name, run in measured.items() for seed in range(2)]
    console = Console(width=80, record=True, file=open(tmp_path / "printed", "w"))
    report.print_experiment(console, EXPERIMENT, runs)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    for part in (runs, runs[::2], [run for run in runs if run["arm"] in ("full", "lora")]):
        paths = figures.show(tmp_path, part, EXPERIMENT)
        assert [path.name for path in paths] == ["accuracy.png", "share.png", "losses.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_head_is_trained_on_the_texts_of_training_alone(monkeypatch):
    seen = []
    probe = tuning.probe

    def watched(model, train, *rest, **options):
        seen.extend(train.texts)
        return probe(model, train, *rest, **options)

    monkeypatch.setattr(tuning, "probe", watched)
    module.start.cache_clear()
    train, head = module.start("films", 24, 0)
    assert seen == train.texts and set(seen) <= set(module.short("films", "train").texts)
    assert {leaf.dtype for leaf in tree.leaves(head)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("method", "rate"), [("head", 3e-4), ("bitfit", 1e-2)])
def test_a_figure_of_the_grid_of_rates_is_measured_again(method, rate):
    """How every figure of GRID came about; on another processor a text or two in 300 may fall otherwise."""
    train, head = module.start("trec", 50 * 16, 100)
    settings = tuning.Settings(steps=50, batch_size=16, rate=rate, dropout=0.0, max_length=module.LONGEST)
    tuned = tuning.finetune(module.model(), train, None, method, settings, classes=47, seed=100, head=head)
    found = 100 * tuning.accuracy(tuned, module.drawn("trec", "dev", 300, 100, 1))
    assert found == pytest.approx(module.GRID[method][rate], abs=1.0)
