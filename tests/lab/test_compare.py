"""The comparison on a user's texts: arms that differ in what they say, a plan that keeps its budget, advice that follows."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t

import bertcraft
from bertcraft.bert import Config
from bertcraft.bert.initialise import initial_params
from bertcraft.bert.model import Model
from bertcraft.data import task, weights
from bertcraft.data.labelled import Labelled
from bertcraft.errors import InputError
from bertcraft.lab import advice, arms, baselines, budget, compare, frozen, optimisers
from bertcraft.lab import finetune as tuning
from bertcraft.lab.arms import FULL, PLAIN, TECHNIQUES
from bertcraft.lab.baselines import MAJORITY, PROBE, TFIDF
from bertcraft.lab.budget import Clock, Cost, Plan
from bertcraft.lab.compare import Outcome, Score
from bertcraft.techniques import layerwise_learning_rates
from bertcraft.tensor import tree


def banking(classes: int, each: int) -> Labelled:
    source = task("banking77")
    rows = np.concatenate([np.flatnonzero(source.train.labels == c)[:each] for c in range(classes)])
    texts = [source.train.texts[i][:30] for i in rows]  # the beginnings will do, and cost a third
    return Labelled(texts, source.labels[:classes], source.train.labels[rows], np.arange(len(rows)), [])


@pytest.fixture(scope="module")
def data():
    return banking(3, 30)


def run(data, names, **options):
    return compare.compare(data, arms.chosen(names), **{"clock": Clock(None), **options})


# ---- arms


def test_names_are_chosen_with_full_first_and_once():
    assert arms.chosen(None) == [FULL, *arms.DEFAULT]
    assert arms.chosen(" LoRA, full,lora,bitfit,") == [FULL, "lora", "bitfit"]
    assert arms.chosen("all") == arms.chosen("lora,ALL") == list(TECHNIQUES)
    with pytest.raises(
        InputError, match=r"got 'adapter', expected names among full, adapters, .* or all; did you mean adapters\?"
    ):
        arms.chosen("lora,adapter")


def test_arms_differ_from_plain_full_fine_tuning_in_one_thing():
    plain = TECHNIQUES[FULL].settings(48)
    assert plain.clip == math.inf and plain.schedule == "linear" and plain.weight_decay > 0
    for name, technique in TECHNIQUES.items():
        own = technique.settings(48)
        changed = {field for field in vars(plain) if getattr(own, field) != getattr(plain, field)} - {"rate"}
        assert own.rate == tuning.RATES[technique.method] / 2
        if technique.accumulate > 1:
            assert changed == {"steps", "batch_size"} and own.steps * own.batch_size == plain.steps * plain.batch_size
        else:
            assert changed == set(technique.changes)
        one = (technique.method != FULL) + len(technique.changes) + (technique.accumulate > 1) + (technique.rule is not None)
        assert one == (name != FULL)
        assert len(technique.title) <= 19


def test_accumulation_reads_the_same_texts_in_the_same_order():
    from bertcraft.data.batches import batch_indices

    small, large = TECHNIQUES[FULL].settings(8), TECHNIQUES["accumulation"].settings(8)
    order = [[batch_indices(100, s.batch_size, 5, step) for step in range(s.steps)] for s in (small, large)]
    assert np.array_equal(*map(np.concatenate, order))


def trained_by(rule, data, steps=4):
    """Full fine-tuning by a rule, from the probe: the start and the result, by name."""
    model, settings = frozen.with_mean(bertcraft.load(weights("minilm"))), TECHNIQUES[FULL].settings(steps)
    sample = arms.texts(data, np.arange(0, 90, 3))
    how = {"classes": 3, "seed": 1, "head": tuning.probe(model, sample, settings, classes=3, seed=1)}
    found = replace(TECHNIQUES[FULL], rule=rule).train(model, sample, settings, **how)
    return dict(tree.items(found.frozen)), dict(tree.items(found.trained)), found


def test_an_optimiser_of_its_own_changes_nothing_else(data):
    _, plain, _ = trained_by(None, data)
    _, alike, found = trained_by(optimisers.layerwise(1.0), data)
    assert plain.keys() == alike.keys() and found.method == FULL and len(found.history["losses"]) == 4
    for name in plain:
        np.testing.assert_allclose(plain[name], alike[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_rates_fall_from_layer_to_layer(data):
    start, plain, _ = trained_by(None, data, steps=2)
    _, falling, found = trained_by(optimisers.layerwise(0.9), data, steps=2)
    depth = layerwise_learning_rates.depths(found.frozen, found.config)
    layers = found.config.num_hidden_layers
    for name in ("attention.self.value.weight", "output.dense.weight"):
        for layer in (0, layers - 2):
            full = f"bert.encoder.layer.{layer}.{name}"
            part = np.abs(falling[full] - start[full]).mean() / np.abs(plain[full] - start[full]).mean()
            assert part == pytest.approx(0.9 ** (layers - depth[full]), rel=0.1), full


def pulled(rule, steps=1):
    """What a rule does to a matrix and a vector of ones that no gradient moves, over a rate of 1e-4, step by step."""
    params = {"matrix": np.ones((2, 2)), "vector": np.ones(2)}
    nothing, state, found = tree.map(np.zeros_like, params), rule.init(params), []
    for _ in range(steps):
        updates, state = rule.update(nothing, state, params)
        found.append([-1e4 * float(np.mean(updates[name])) for name in params])
    return np.array(found)


def test_what_decays_and_how():
    own = replace(PLAIN, steps=10, rate=1e-4, warmup=0.0, weight_decay=0.5)
    assert pulled(optimisers.all_decay(own, {}, None)) == pytest.approx(np.array([[0.5, 0.5]]))
    assert pulled(optimisers.scheduled("linear")(own, {}, None)) == pytest.approx(np.array([[0.5, 0.0]]))
    for decay in (0.01, 1.0):  # Adam divides the pull by its own size: a whole step, however weak
        inside = pulled(optimisers.l2(replace(own, weight_decay=decay), {}, None))
        assert inside == pytest.approx(np.array([[1.0, 0.0]]), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 60])
def test_a_flat_rate_falls_in_the_last_fifth_however_few_steps(steps):
    own = replace(PLAIN, steps=steps, rate=1e-4, weight_decay=1.0)
    rates = pulled(optimisers.scheduled("warmup_stable_decay")(own, {}, None), steps)[:, 0]
    warmup, fall = round(0.1 * steps), steps // 5
    assert rates[warmup : steps - fall] == pytest.approx(1.0)
    assert np.all(np.diff(rates[steps - fall :]) < 0) and np.all(rates[:warmup] < 1)


def test_smoothed_cross_entropy_equals_torch():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 7)), rng.integers(7, size=20)
    for share in (0.0, 0.1, 0.5):
        expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), label_smoothing=share)
        assert abs(tuning.smoothed_cross_entropy(logits, labels, share) - expected.item()) < 1e-12


# ---- baselines


def test_tfidf_learns_and_the_majority_does_not(data):
    parts = compare.splits(data, 0, 1)[0]
    assert np.mean(baselines.tfidf(data, parts).classify(parts.test) == data.numbers[parts.test]) > 0.8
    assert set(baselines.majority(data, parts).classify(parts.test)) == {np.bincount(data.numbers[parts.train]).argmax()}


def test_tfidf_of_texts_without_words():
    texts = [sign * n for n in range(1, 11) for sign in ("!", "?")]
    data = Labelled(texts, ["a", "b"], np.tile([0, 1], 10), np.arange(20), [])
    parts = compare.splits(data, 0, 1)[0]
    assert np.array_equal(baselines.tfidf(data, parts).classify(parts.test), data.numbers[parts.test])


# ---- the plan


def test_large_data_gives_its_texts_to_training():
    data = Labelled([""] * 30_000, ["a", "b"], np.arange(30_000) % 2, np.arange(30_000), [])
    parts = compare.splits(data, 0, 2)
    assert [len(part) for part in parts[0]] == [28_500, 500, 1000]
    assert not np.array_equal(parts[0].test, parts[1].test)


def test_all_of_a_plan_follows_from_the_steps(data):
    parts = compare.splits(data, 0, 1)[0]
    plan = budget.fixed(6, parts, 0.0)
    assert (plan.steps, plan.test, plan.dev) == (6, len(parts.test), len(parts.dev)) and plan.epochs == 6 * 32 / 63
    assert [budget.evaluated(steps) for steps in (1, 30, 1000)] == [(200, 100), (640, 320), (1000, 500)]


def test_what_few_steps_read_is_part_of_what_many_read():
    rows = np.arange(100, 200)
    assert set(compare.some(rows, 10, 3)) < set(compare.some(rows, 50, 3)) < set(rows) == set(compare.some(rows, 500, 3))


COSTS = {FULL: Cost(0.5, 0.4, 0.002), "lora": Cost(0.3, 0.3, 0.003)}


def test_the_plan_fills_the_budget(data):
    source = banking(10, 100)
    parts = compare.splits(source, 0, 1)[0]
    for names in ([FULL, "lora"], [FULL, "cosine", "accumulation"]):
        for seconds in (200, 500, 900):
            clock = Clock(seconds, began=time.monotonic() - 20)
            plan = budget.fitting(COSTS, names, parts, 0.0, 5, clock)
            one = sum(c.begin + plan.steps * c.step + (plan.test + plan.dev) * c.text for c in map(cost_of, names))
            assert 0.9 * seconds < 20 + 5 * one < 0.98 * seconds and not plan.enough
            assert plan.steps % 4 == 0 or "accumulation" not in names


def cost_of(name: str) -> Cost:
    return COSTS[budget.timed_as(name)]


def test_rates_were_tried_for_each_optimiser():
    from pathlib import Path

    from bertcraft.lab import arm_rates

    page = Path(__file__).parents[2].joinpath("docs", "compare.md").read_text("utf-8")
    table = page.split("| highest rate |")[1].split("\n\n")[0]
    rows = {row.split("|")[1].strip() for row in table.splitlines()[2:]}
    assert rows == {TECHNIQUES[name].title for name in arm_rates.ARMS}
    head = [float(rate) for rate in table.splitlines()[0].split("|") if rate.strip()]
    assert head == list(arm_rates.RATES) and TECHNIQUES[FULL].settings(1).rate in head


def test_an_arm_with_an_optimiser_of_its_own_is_timed_by_itself():
    names = ("full", "cosine", "accumulation", "adapters", "layerwise", "stable", "l2")
    assert [budget.timed_as(name) for name in names] == ["full", "full", "full", "adapters", "layerwise", "stable", "l2"]


def test_a_budget_too_small_says_what_would_do(data):
    parts = compare.splits(data, 0, 1)[0]
    with pytest.raises(InputError, match=r"--budget: 9 s leave 2 arms x 5 splits [12] steps each, .* give about 1m, or fewer"):
        budget.fitting(COSTS, [FULL, "lora"], parts, 0.0, 5, Clock(9.4 / 0.97 - 0.5))
    with pytest.raises(InputError, match=r"give about 6m"):
        budget.fitting(COSTS, ["full"] * 15, parts, 0.0, 5, Clock(1))
    assert budget.fitting(COSTS, ["full"] * 15, parts, 0.0, 5, Clock(360)).steps >= budget.FEWEST_STEPS


def test_a_budget_that_the_baselines_use_up_ends_before_all_of_them_are_done():
    late = time.monotonic() - 60
    for clock, done in ((Clock(60, late), 0), (Clock(None, late), 3), (Clock(100, late), 3)):
        budget.check(clock, done, 5)
    with pytest.raises(InputError, match="60 s were used up by the baselines of 2 of 5 splits.*give about 6m, or fewer --seeds"):
        budget.check(Clock(60, late), 2, 5)


def test_a_budget_that_is_too_large_is_not_used_up(data):
    plan = budget.fitting(COSTS, [FULL], compare.splits(data, 0, 1)[0], 0.0, 5, Clock(1e9))
    assert plan.steps == 100 and plan.enough


def test_costs_are_measured(data):
    model, parts = bertcraft.load(weights("minilm")), compare.splits(data, 0, 1)[0]
    sample = compare.texts(data, parts.train)
    costs = budget.timed(model, sample, [FULL, "lora"], classes=3, threads=1, tell=lambda *_: None)
    assert set(costs) == {FULL, "lora"} and min(cost.step for cost in costs.values()) > 10 * costs[FULL].text > 0


def test_a_budget_that_ends_early_costs_whole_splits(data):
    outcome = run(data, "bitfit", seeds=3, steps=1, clock=Clock(1, began=time.monotonic() - 60))
    assert outcome.seeds == 1 and outcome.asked == 3
    assert {len(scores) for scores in outcome.scores.values()} == {1}
    assert "The budget ended after 1 of 3 splits." in advice.remarks(outcome)


# ---- the runs


def figures(outcome):
    return {name: [(s.accuracy, s.macro_f1, s.dev) for s in scores] for name, scores in outcome.scores.items()}


def test_the_same_seed_and_steps_give_the_same_figures_and_other_threads_too(data):
    both = run(data, "lora", seeds=2, steps=1)
    second = run(data, "lora", seeds=1, steps=1, seed=1, threads=2)  # the second split alone
    assert set(both.scores) == {FULL, "lora", PROBE, TFIDF, MAJORITY}
    assert {name: scores[1:] for name, scores in figures(both).items()} == figures(second)
    assert both.shares[FULL] == 1 and both.shares["lora"] < 0.02


def test_every_arm_starts_from_the_probe(data):
    """One step leaves an arm near what it started as; a new head would be at a third of three classes."""
    outcome = run(data, "lora,bitfit", seeds=2, steps=1)
    assert min(outcome.mean(name, "accuracy") for name in (FULL, "lora", "bitfit", PROBE)) > 0.85


def probed(data: Labelled, parts, most: int = 10_000, judge=compare.accuracy):
    model = frozen.with_mean(bertcraft.load(weights("minilm")))
    vectors = frozen.Vectors(model, data.texts, 128)
    return baselines.probe(data, parts, vectors, most, judge, 1), vectors, model


def test_the_probe_sees_no_label_of_a_test_text_and_is_what_is_saved(data):
    parts = compare.splits(data, 0, 1)[0]
    numbers = data.numbers.copy()
    numbers[parts.test] = 0
    blind = Labelled(data.texts, data.labels, numbers, data.groups, [])
    (one, _, model), (two, _, _) = (probed(each, parts) for each in (data, blind))
    assert all(np.array_equal(a, b) for a, b in zip(tree.leaves(one.head), tree.leaves(two.head), strict=True))
    saved = frozen.as_classifier(model, one.head, arms.PLAIN)
    found = tuning.predict(saved, [data.texts[i] for i in parts.test]).argmax(axis=1)
    assert np.array_equal(found, one.classify(parts.test)) and np.mean(found == data.numbers[parts.test]) > 0.9


def test_parts_of_the_texts_hold_every_class_and_its_share():
    numbers = np.repeat([0, 1, 2], [400, 90, 10])
    data = Labelled(["a"] * 500, ["a", "b", "c"], numbers, np.arange(500), [])
    rows = baselines.stratified(data, np.random.default_rng(0).permutation(np.arange(100, 500)))
    assert sorted(rows) == list(range(100, 500)) and set(numbers[rows[:3]]) == {0, 1, 2}
    for part in (100, 200):
        assert np.abs(np.bincount(numbers[rows[:part]]) - part * np.array([300, 90, 10]) / 400).max() <= 1


def test_the_learning_curve_rises_to_the_probe_of_all_texts(data):
    parts = compare.splits(data, 0, 1)[0]
    whole, vectors, _ = probed(data, parts)
    found = baselines.learning_curve(data, whole, vectors, parts.test, compare.accuracy)
    assert len(found) == 3 and 1 / 3 < found[0] <= found[2] + 0.05
    half = baselines.stratified(data, arms.some(parts.train, len(parts.train), 0))[: round(len(parts.train) / 2)]
    fits = [frozen.fitted(vectors(half), data.numbers[half], strength) for strength in frozen.STRENGTHS]
    right = data.numbers[parts.test]
    assert found[2] in [compare.accuracy(right, frozen.classify(head, vectors(parts.test))) for head in fits]


def test_splits_probe_the_same_texts_where_not_all_can_be(data, monkeypatch):
    asked = set()

    class Noting(frozen.Vectors):
        def __call__(self, rows):
            asked.update(rows[np.isin(rows, parts.train)].tolist())
            return super().__call__(rows)

    monkeypatch.setattr(frozen, "Vectors", Noting)
    for parts in compare.splits(data, 0, 4):
        probed(data, parts, most=20)
    assert 20 <= len(asked) <= 35  # 20 of 63 at random in each of four splits would be 48


@pytest.mark.parametrize("large, small, expected", [(40, 10, "accuracy"), (50, 10, "macro_f1"), (990, 10, "macro_f1")])
def test_unequal_classes_are_judged_by_macro_f1(large, small, expected):
    numbers = np.repeat([0, 1], [large, small])
    assert compare.judged_by(Labelled([""] * len(numbers), ["a", "b"], numbers, np.arange(len(numbers)), [])) == expected


def test_one_in_a_hundred_that_are_found_are_worth_a_recommendation():
    """Accuracy sees 0.9 points between finding half of them and none; macro F1 sees 34."""
    f1 = {FULL: 0.7, "lora": 0.72, PROBE: 0.83, TFIDF: 0.6, MAJORITY: 0.497}
    scores = {n: [Score(0.99 + v / 100, v + e, v, 1.0) for e in i * NOISE] for i, (n, v) in enumerate(f1.items())}
    rare = Outcome([FULL, "lora"], Plan(50, 2.0, 1000, 100, 0.0), scores, {FULL: 1.0, "lora": 0.01}, 10_000, 5, "macro_f1", 0.05)
    assert advice.advice(rare)[0].startswith("Recommendation: use the linear probe (+23.0")
    assert "Judged by macro F1" in advice.remarks(rare)[0] and "macro F1 against probe" in advice.columns(rare)[3]
    rare.metric, rare.finest = "accuracy", 0.001
    assert advice.cells(advice.rows(rare)[-1])[3] == "-0.3 [-0.4, -0.2]"


@pytest.mark.parametrize(
    "half, expected", [(0.85, "more labelled texts will help"), (0.9, "more labels of this kind will bring little")]
)
def test_whether_more_labels_would_help(half, expected):
    result = outcome(full=[0.9] * 5, probe=[0.9] * 5, test=1000)
    result.curve = [[0.7, 0.8, half]] * 5
    text = advice.more_labels(result)
    assert "70.0 with 12.5%, 80.0 with 25.0%" in text and "90.0 with 100.0%" in text and expected in text
    result.curve = [[0.7, 0.8, 0.9 + e] for e in 20 * NOISE]
    assert "cannot be told" in advice.more_labels(result) and "The last doubling brought" in advice.more_labels(result)
    result.train, result.classes = 1000, 600  # an eighth, a quarter and half of the texts are a text of every class and no fewer
    text = advice.more_labels(result)
    assert "70.0 with 60.0%, 80.0 with 60.0%" in text and "The last step brought" in text


def test_the_model_kept_is_the_best_on_development_texts_that_transformers_can_hold(data):
    outcome = run(data, "bitfit,adapters-8", seeds=2, steps=2, keep=True)
    name, split, tuned = outcome.best
    assert outcome.mean(name, "dev") == max(outcome.mean(each, "dev") for each in (FULL, "bitfit", PROBE))
    assert outcome.scores[name][split].dev == max(score.dev for score in outcome.scores[name])
    parts = compare.splits(data, 0, 2)[split]
    dev = compare.some(parts.dev, outcome.plan.dev, split)
    assert tuning.accuracy(tuned, compare.texts(data, dev)) == outcome.scores[name][split].dev


def test_only_classifiers_predict(tmp_path):
    with pytest.raises(InputError, match="expected a classifier of texts, got a model whose head is 'base'"):
        compare.classifier(weights("minilm"))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Config(family="bert", head="sequence_classification", num_labels=1, vocab_size=20, **sizes)  # a usual reranker
    Model(config, initial_params(config, 0)).save(tmp_path)
    with pytest.raises(InputError, match="got a model with one output, which gives each text a number"):
        compare.classifier(tmp_path)


# ---- intervals and advice


def outcome(*, steps=50, test=500, overlap=0.1, epochs=2.0, **accuracies) -> Outcome:
    names = [name for name in accuracies if name not in baselines.BASELINES]
    scores = {name: [Score(a, a, a, 1.0) for a in values] for name, values in accuracies.items()}
    shares = {name: 1.0 if TECHNIQUES[name].method == FULL else 0.01 for name in names}
    seeds = len(scores[FULL])
    return Outcome(names, Plan(steps, epochs, test, 100, 0.0), scores, shares, round(test / overlap), seeds, "accuracy", 1 / test)


def test_the_interval_is_nadeau_and_bengio_s_corrected_t_interval():
    a, b = [0.91, 0.88, 0.93, 0.90], [0.90, 0.89, 0.88, 0.87]
    got = advice.difference(outcome(full=b, lora=a, overlap=0.25), "lora", FULL)
    d = 100 * np.subtract(a, b)
    half = t.ppf(0.975, 3) * math.sqrt((1 / 4 + 0.25) * d.var(ddof=1))
    assert np.allclose(got[:3], [d.mean(), d.mean() - half, d.mean() + half])


def test_the_interval_holds_what_it_says_for_repeated_splits_of_one_sample():
    """Two rules on random splits of samples drawn anew: the difference expected of all samples lies inside about 95 times in
    100 with the correction, far less often without."""
    rng, inside, plain = np.random.default_rng(0), 0, 0
    for _ in range(300):
        x = rng.normal(size=(100, 2)) + np.repeat([[0.5, 0.0], [-0.5, 0.0]], 50, axis=0)
        y = np.repeat([1, 0], 50)
        scores = {"lora": [], FULL: []}
        for _ in range(10):
            order = rng.permutation(100)
            train, test = order[:80], order[80:]
            for column, name in enumerate(scores):  # a nearest mean on a useful feature, and on a useless one
                high, low = (x[train[y[train] == c], column].mean() for c in (1, 0))
                found = np.abs(x[test, column] - high) < np.abs(x[test, column] - low)
                scores[name].append(float(np.mean(found == y[test])))
        result = outcome(full=scores[FULL], lora=scores["lora"], test=20, overlap=0.25)
        truth = 100 * (0.6915 - 0.5)
        low, high = advice.difference(result, "lora", FULL)[1:3]
        d = 100 * np.subtract(scores["lora"], scores[FULL])
        half = t.ppf(0.975, 9) * d.std(ddof=1) / math.sqrt(10)
        inside, plain = inside + (low <= truth <= high), plain + (abs(d.mean() - truth) <= half)
    assert inside / 300 > 0.9 > 0.85 > plain / 300, (inside / 300, plain / 300)


def test_few_texts_that_agree_by_chance_are_no_evidence():
    same = outcome(full=[0.5] * 4, lora=[0.6] * 4, tfidf=[0.4] * 4, majority=[0.3] * 4, test=10)
    assert advice.difference(same, "lora", FULL)[1:3] == pytest.approx((0, 20))


NOISE = np.array([0.002, -0.001, 0.0, 0.001, -0.002])


def said(**accuracies) -> str:
    options = {name: accuracies.pop(name) for name in ("epochs",) if name in accuracies}
    varied = {name: list(a + NOISE * (1 + i)) for i, (name, a) in enumerate(accuracies.items())}
    return "\n".join(advice.advice(outcome(**varied, **options)))


@pytest.mark.parametrize(
    "accuracies, expected, absent",
    [
        ({"full": 0.8, "lora": 0.8, "probe": 0.8, "tfidf": 0.9}, "Recommendation: use TF-IDF with logistic regression.", "+"),
        ({"full": 0.8, "lora": 0.8, "probe": 0.9, "tfidf": 0.7}, "Recommendation: use the linear probe (+20.0", "Better"),
        ({"full": 0.8, "lora": 0.8, "probe": 0.9, "tfidf": 0.7},
         "Worse than the linear probe: full fine-tuning, LoRA (8).", "pays"),
        ({"full": 0.8, "lora": 0.801, "probe": 0.8, "tfidf": 0.8},
         "use TF-IDF with logistic regression. The best on development texts, LoRA (8), is not shown to be better (", "Better"),
        ({"full": 0.8, "lora": 0.801, "probe": 0.8, "tfidf": 0.6}, "Recommendation: use the linear probe. The best on", "Better"),
        ({"full": 0.8, "lora": 0.9, "probe": 0.7, "tfidf": 0.7},
         "Recommendation: use LoRA (8) (+20.0 [+19.6, +20.4] points on the linear probe).", "No difference"),
        ({"full": 0.8, "lora": 0.9, "probe": 0.7, "tfidf": 0.7}, "Better than plain full fine-tuning: LoRA (8).", "Worse"),
        ({"full": 0.8, "lora": 0.9, "probe": 0.7, "tfidf": 0.7},
         "Better than the linear probe: full fine-tuning, LoRA (8).", "Worse"),
        ({"full": 0.8, "lora": 0.7, "probe": 0.7, "tfidf": 0.6}, "Worse than plain full fine-tuning: LoRA (8).", "At most"),
        ({"full": 0.8, "clipping": 0.8, "lora": 0.8, "probe": 0.7, "tfidf": 0.6},
         "No difference to plain full fine-tuning is shown for gradient clipping, LoRA (8): below about", "Worse"),
        ({"full": 0.8, "clipping": 0.8, "lora": 0.8, "probe": 0.7, "tfidf": 0.6},
         "At most 1 point worse, with a small part of the weights trained: LoRA (8) 1%.", "In this budget"),
        ({"full": 0.305, "lora": 0.305, "probe": 0.9, "tfidf": 0.9},
         "Not shown to do better than naming the most frequent class for every text: full fine-tuning, LoRA (8).", "No diff"),
        ({"full": 0.31, "lora": 0.3, "probe": 0.3, "tfidf": 0.3},
         "Recommendation: none. Nothing is shown to do better than", "use"),
        ({"full": 0.8, "lora": 0.7, "probe": 0.6, "tfidf": 0.6, "epochs": 0.2},
         "fine-tuning read 20% of the training texts", "none"),
    ],
)  # fmt: skip
def test_advice_follows_from_the_figures(accuracies, expected, absent):
    text = said(**accuracies, majority=0.305)
    assert expected in text and absent not in text, text


def test_what_is_no_better_than_the_majority_is_not_recommended():
    """TF-IDF varies so much here that even a probe of 72 % is not shown to be better."""
    half = [0.5] * 5
    found = outcome(full=half, probe=[0.72, 0.71, 0.73, 0.72, 0.72], tfidf=[0.5, 0.78, 0.6, 0.75, 0.45], majority=half)
    lines = advice.advice(found)
    assert lines[0] == "Recommendation: use the linear probe." and "TF-IDF" in lines[1]


def test_what_the_baselines_read_is_said():
    found = outcome(full=[0.6] * 5, probe=[0.7] * 5, tfidf=[0.6] * 5, majority=[0.1] * 5, epochs=0.2)
    assert "20% of the training texts, the baselines all of them: with" in advice.advice(found)[-1]
    found.plan = replace(found.plan, probed=0.1)
    assert "20% of the training texts, the linear probe 10% and TF-IDF all of them: with" in advice.advice(found)[-1]


def test_the_plan_says_how_much_is_read():
    for epochs, expected in ((0.25, "(1,600: 25% of the training texts)"), (2.04, "(1,600: 2 times the training texts)")):
        assert expected in advice.plan(Plan(50, epochs, 500, 100, 0.0), [FULL], 5)


def test_two_splits_give_no_advice():
    few = outcome(full=[0.5, 0.6], lora=[0.9, 0.9], tfidf=[0.4, 0.4], majority=[0.3, 0.3])
    (line,) = advice.advice(few)
    assert line.startswith("No recommendation: 2 splits tell too little")


def test_saying_which_model_was_kept(tmp_path):
    kept = outcome(full=[0.5, 0.6], adapters=[0.9, 0.9], probe=[0.4, 0.5])
    kept.best = (FULL, 1, None)
    assert advice.saved(kept, tmp_path)[:2] == [
        f"Saved in {tmp_path}: full fine-tuning, split 2, the best on development texts (55.0 % on average).",
        "Better there was adapters (64) (90.0 %), but no BERT of transformers has a place for its parts.",
    ]
