"""Experiment 04: what is declared, equal parameters and operations, arms that differ, pairs, replay equals run."""

from dataclasses import replace

import numpy as np
import pytest

from bertcraft.lab import architectures, segment_pairs, statistics, verdicts
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments import albert_parameter_sharing as module
from bertcraft.lab.figures import albert_parameter_sharing as figures
from bertcraft.lab.runner import replay_arm, run_arm
from bertcraft.techniques import albert_parameter_sharing as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.tensor import tree

EXPERIMENT = module.EXPERIMENT
TINY = {"steps": 12, "warmup": 2, "rate": 2e-3, "batch": 16, "evaluations": 2}
SMALL = {"texts": 400, "held_out": 200, "hidden": 32, "embedding": 32}
PAIRS = {"hidden": 32, "length": 24, "tuned_steps": 3}


def tiny(name: str, **changes):
    """An arm with all that makes it differ, smaller and for fewer steps."""
    arm = EXPERIMENT.arm(name)
    own = {} if "family" in arm.settings else TINY | (PAIRS if name in module.PAIRED else SMALL)
    return replace(arm, settings=arm.settings | own | changes)


def rated(name: str) -> dict:
    """An arm's settings at some rate."""
    return EXPERIMENT.arm(name).settings | {"rate": 1e-3}


# -------------------------------------------------------------------------------------------------------- declaration


def test_the_primary_comparison_is_the_papers_own_loss_with_ten_seeds():
    primary = EXPERIMENT.primary
    assert (primary.treatment, primary.baseline, primary.metric, primary.better) == ("own", "shared", "loss", -1)
    assert primary.form == statistics.SUPERIOR
    assert {arm.name for arm in EXPERIMENT.arms if EXPERIMENT.seeds_of(arm) == 10} == {"own", "shared"}
    assert {*EXPERIMENT.tuning.grids, *EXPERIMENT.tuning.like} == {*module.SHARES, *module.PAIRED}


@pytest.mark.parametrize("one, other, differing", [
    ("own", "shared", {"sharing"}), ("attention", "shared", {"sharing"}), ("feed_forward", "own", {"sharing"}),
    ("once", "shared", {"layers"}), ("wide", "shared", {"hidden"}), ("wide_flops", "wide", {"tflop"}),
    ("embedding32", "shared", {"embedding"}), ("embedding64", "shared", {"embedding"}), ("order", "next", {"asked"}),
    ("words", "order", {"asked"}),
])  # fmt: skip
def test_arms_differ_in_what_they_say(one, other, differing):
    a, b = (EXPERIMENT.arm(name).settings for name in (one, other))
    assert {key for key in a | b if a.get(key) != b.get(key)} == differing


def test_parameters_and_operations_are_equal_where_they_are_said_to_be():
    tasks = {
        name: architectures.task_of(rated(name), 0, module.build)
        for name in ("own", "shared", "attention", "feed_forward", "once", "wide_flops")
    }
    kept = {name: task.architecture.parameters for name, task in tasks.items()}
    compute = {name: task.setting.steps * task.step_flops for name, task in tasks.items()}
    assert kept["wide_flops"] == pytest.approx(kept["own"], rel=0.03)
    assert kept["once"] == kept["shared"] < kept["attention"] < kept["own"] and kept["shared"] < kept["feed_forward"]
    for name in ("shared", "attention", "feed_forward"):
        assert compute[name] == compute["own"], "sharing saves none"
    assert compute["wide_flops"] == pytest.approx(compute["own"], rel=0.01) and compute["once"] < 0.4 * compute["own"]
    assert 3 * tasks["wide_flops"].setting.steps < module.STEPS == tasks["own"].setting.steps


def test_what_is_counted_of_published_models_is_what_the_claim_says():
    runs = [
        {"arm": name, "seed": 0, "figures": module.run(EXPERIMENT.arm(name), 0, Context())}
        for name in ("bert_large", "albert_large")
    ]
    assert [each["figures"]["parameters"] for each in runs] == [335_141_888, 17_683_968]
    found = {outcome.comparison.metric: outcome.verdict for outcome in verdicts.outcomes(EXPERIMENT, runs)}
    assert found == {"parameters": statistics.HOLDS, "operations": statistics.HOLDS}


def test_a_model_on_the_plateau_or_a_question_that_was_not_learnt_is_not_testable():
    def runs(**changed):
        good = {name: {"loss": 5.0 - 0.1 * (name == "own"), "gap": -1.0} for name in module.SHARES}
        good |= {name: {"order": 70.0 + (name == "order"), "next": 70.0, "asked": 65.0} for name in module.PAIRED}
        good = {arm: own | changed.get(arm, {}) for arm, own in good.items()}
        return [
            {"arm": arm, "seed": seed, "figures": {name: value * (1 + 0.001 * (seed % 3)) for name, value in own.items()}}
            for arm, own in good.items()
            for seed in range(10)
        ]

    def verdict(name, **changed):
        [outcome] = [each for each in verdicts.outcomes(EXPERIMENT, runs(**changed)) if each.comparison.name == name]
        return outcome.verdict

    primary, order = EXPERIMENT.primary.name, "order told: asked for it before against nothing"
    assert verdict(primary) == statistics.REPRODUCED != statistics.NOT_TESTABLE
    assert verdict(primary, shared={"gap": -0.3}) == statistics.NOT_TESTABLE
    assert verdict(order) != statistics.NOT_TESTABLE == verdict(order, order={"asked": 55.0}), "whatever fine-tuning brings"
    assert verdict("what follows: asked for it before against nothing", next={"asked": 55.0}) == statistics.NOT_TESTABLE
    assert verdict(primary, order={"asked": 55.0}) == statistics.REPRODUCED, "pairs say nothing of sharing"


def test_words_by_sentence_are_counted_in_either_and_tell_the_order_of_many_pairs():
    pairs = masking.SentencePairs(
        input_ids=np.array([[2, 7, 7, 3, 8, 3], [2, 8, 3, 7, 3, 0]]),
        token_type_ids=np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]),
        labels=np.array([0, 1]),
    )
    expected = np.zeros((2, 20))
    expected[0, 7], expected[0, 10 + 8], expected[1, 8], expected[1, 10 + 7] = 2, 1, 1, 1
    assert np.array_equal(segment_pairs._counted(pairs, 10).toarray(), expected)
    told = module.trivial(EXPERIMENT.arm("counts").settings, 0)
    assert 55 < told["next"] < told["order"] < 70


# ------------------------------------------------------------------------------------------------------------- sharing


def test_arms_of_one_seed_start_alike_where_they_have_the_same_parameters():
    tasks = {name: architectures.task_of(tiny(name).settings, 0, module.build) for name in ("own", "shared", "once")}
    own, shared, once = (dict(tree.items(task.architecture.start)) for task in tasks.values())
    assert shared.keys() == once.keys() < own.keys() and all(np.array_equal(shared[name], own[name]) for name in shared)
    np.testing.assert_allclose(shared["predictions.bias"], tasks["own"].texts.log_frequency, rtol=1e-6)
    batches = [task.make_batch(3)["input_ids"] for task in tasks.values()]
    assert np.array_equal(batches[0], batches[1]) and np.array_equal(batches[0], batches[2])


@pytest.mark.parametrize("name", ["attention", "once", "embedding64"])
def test_a_run_gives_sane_figures_and_its_replay_is_its_beginning(name, tmp_path):
    arm = tiny(name)
    found = run_arm(EXPERIMENT, arm, 1, Context(folder=tmp_path))["figures"]
    assert found["gap"] == pytest.approx(found["loss"] - found["unigram"]) and found["curve"][-1] == found["loss"]
    assert found["loss_kept"] != found["loss"] != found["loss_random"], "at [MASK], and beside it"
    assert min(found["loss"], found["loss_kept"], found["loss_random"]) < found["loss_all"]
    assert found["steps"] == [6, 12] and len(found["angle"]) == len(found["distance"]) == arm.settings["layers"]
    again = replay_arm(EXPERIMENT, arm, 1, Context())
    assert again == {key: found[key] for key in again} and len(again["first_losses"]) == 12
    if name == "once":
        assert again["first_losses"] != replay_arm(EXPERIMENT, arm, 2, Context())["first_losses"]


def test_a_trial_is_judged_on_development_texts_alone():
    for name in ("shared", "order"):
        trial = module.run(tiny(name, judged_on="dev"), 1000, Context())
        assert set(trial) - {"curve", "first_losses", "gap"} == {"dev"} and trial["dev"] > 0
        assert ("gap" in trial) == (name == "shared"), "a trial that stays on the plateau is not chosen"


def test_what_is_had_for_nothing():
    untrained, unigram = (module.run(tiny(name), 0, Context()) for name in ("untrained", "unigram"))
    assert set(untrained) == set(unigram) == {"loss"} and untrained["loss"] > unigram["loss"]
    assert unigram == replay_arm(EXPERIMENT, tiny("unigram"), 0, Context())


# --------------------------------------------------------------------------------------------------------------- pairs


@pytest.fixture(scope="module")
def pair_task():
    return segment_pairs.task_of(module.setting_of(tiny("order").settings), "order", 0)


def test_articles_of_the_parts_are_different_ones_and_pairs_are_of_one_article(pair_task):
    articles = pair_task.corpus.articles
    assert len(articles["dev"]) > 1000 < len(articles["held_out"]) and len(articles["train"]) > 5000
    texts = {
        part: {b"".join(s.tobytes() for s in article) for article in found if len(article) > 1}
        for part, found in articles.items()
    }
    assert not texts["train"] & texts["held_out"] and not texts["train"] & texts["dev"] and not texts["dev"] & texts["held_out"]
    share = module._ASIDE  # by which intervals are widened
    counts = {part: sum(max(len(article) - 1, 0) for article in found) for part, found in articles.items()}
    assert counts["held_out"] / counts["train"] == pytest.approx(share, abs=1e-9)


def test_whatever_is_asked_the_same_places_are_read_in_the_same_order(pair_task):
    order, following = (segment_pairs.drawn(pair_task, kind, 3, 2) for kind in segment_pairs.ASKED)
    assert np.array_equal(order[1], following[1]) and order[2] == following[2] == 0
    straight = (order[0]["next_sentence"] == 0) & (following[0]["next_sentence"] == 0)
    assert straight.any() and np.array_equal(order[0]["input_ids"][straight, :3], following[0]["input_ids"][straight, :3])
    masked = segment_pairs.masked(pair_task, "order", 3, 2)
    changed = (masked["input_ids"] != order[0]["input_ids"]).sum() / order[0]["attention_mask"].sum()
    assert 0.08 < changed < 0.15 and np.array_equal(masked["token_type_ids"], order[0]["token_type_ids"])


def test_pairs_are_drawn_anew_at_each_reading(pair_task):
    count = sum(max(len(article) - 1, 0) for article in pair_task.corpus.articles["train"])
    steps = -(-count // pair_task.setting.batch)
    first, later = (segment_pairs.drawn(pair_task, "order", 3, step) for step in (0, steps))
    assert (first[2], later[2]) == (0, 1)
    labels = [segment_pairs.pairs_of(pair_task.corpus, "train", "order", 24, 3, reading).labels for reading in (0, 1)]
    assert 0.45 < np.mean(labels[0] != labels[1]) < 0.55


def test_words_of_held_out_pairs_have_their_segments(pair_task):
    batch = segment_pairs.held_out(pair_task, "held_out").batch
    ids, types = batch["input_ids"], batch["token_type_ids"]
    [sep] = pair_task.corpus.special("[SEP]")
    assert np.all((ids == sep).sum(axis=1) == 2) and not types[ids == 0].any()
    for row, own in zip(ids[:50], types[:50], strict=True):
        first, second = np.flatnonzero(row == sep)
        assert not own[: first + 1].any() and own[first + 1 : second + 1].all()


def test_a_head_that_knows_the_answer_is_right_and_one_that_says_always_the_same_half_of_the_time(pair_task, monkeypatch):
    pairs = segment_pairs.pairs_of(pair_task.corpus, "held_out", "order", 24, 0, 0)
    answers = iter(np.array_split(pairs.labels, range(250, len(pairs.labels), 250)))
    monkeypatch.setattr(segment_pairs, "logits", lambda task, params, batch, rng=None: 20.0 * np.eye(2)[next(answers)])
    right, loss = segment_pairs.judged(pair_task, {}, "order", "held_out")
    assert right == 100 and loss < 1e-6
    monkeypatch.setattr(segment_pairs, "logits", lambda task, params, batch, rng=None: np.zeros((len(batch["input_ids"]), 2)))
    right, loss = segment_pairs.judged(pair_task, {}, "order", "held_out")
    assert right == pytest.approx(50, abs=4) and loss == pytest.approx(np.log(2))


@pytest.mark.parametrize("name", ["order", "words"])
def test_a_run_on_pairs_gives_sane_figures_and_its_replay_is_its_beginning(name, tmp_path):
    arm = tiny(name)
    found = run_arm(EXPERIMENT, arm, 1, Context(folder=tmp_path))["figures"]
    assert 0 <= min(found["order"], found["next"]) and ("asked" in found) == (name == "order") and found["pair_loss"] > 0
    again = replay_arm(EXPERIMENT, arm, 1, Context())
    assert again == {key: found[key] for key in again} and len(again["first_losses"]) == 12


def test_fine_tuning_reads_other_pairs_than_the_pretraining(pair_task):
    read, tuned = (segment_pairs.drawn(pair_task, "order", seed, 0)[1] for seed in (0, 5000))
    assert len(set(read) & set(tuned)) < 3
    params = technique.initial_params(pair_task.config, 0)
    how = {"steps": 3, "rate": 1e-3, "part": "dev"}
    once, again = (segment_pairs.finetuned(pair_task, params, "order", 0, **how) for _ in range(2))
    assert once == again


# --------------------------------------------------------------------------------------------------------------- plots


def made_up_runs(seeds: int) -> list[dict]:
    """So many seeds of an arm; those of the claim have twice as many."""
    rng = np.random.default_rng(0)
    kept = {"loss": 5.0, "gap": -0.8, "parameters": 8e5, "tflop": 4.0, "order": 65.0, "next": 70.0}
    return [
        {"arm": arm.name, "seed": seed, "figures": {
            **{name: value * (1 + 0.1 * rng.random()) for name, value in kept.items()},
            "distance": rng.random(4).tolist(), "angle": rng.random(4).tolist(),
        }}
        for arm in EXPERIMENT.arms for seed in range(seeds * EXPERIMENT.seeds_of(arm) // 5)
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
def test_plots_are_drawn_for_any_number_of_seeds(seeds, tmp_path):
    for experiment in (EXPERIMENT, EXPERIMENT.quick, EXPERIMENT.quick.quick):
        among = {arm.name for arm in experiment.arms}
        for path in figures.show(tmp_path, [run for run in made_up_runs(seeds) if run["arm"] in among], experiment):
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
