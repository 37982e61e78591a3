"""From runs to verdicts: models that have not learnt are refused, claims are corrected for their number."""

from dataclasses import replace

import pytest

from bertcraft.errors import InputError
from bertcraft.lab import statistics, verdicts, words
from bertcraft.lab.experiment import Arm, Check, Claim, Comparison, Experiment, Metric
from bertcraft.lab.statistics import (
    CANNOT_TELL,
    CONTRADICTED,
    EQUAL,
    EXACT,
    HOLDS,
    NOT_TESTABLE,
    NOT_WORSE,
    REPRODUCED,
    UNFINISHED,
)

NOISE = [0.02, -0.01, 0.01, -0.02, 0.0]
PLATEAU = 0.5  # nats below word frequencies at [MASK], that a model which has left the plateau is

EXPERIMENT = Experiment(
    number=1, slug="roberta_optimizations", title="Planted", question="?", scale="made up", claim=Claim("", "", ""),
    arms=(
        Arm("a", "treatment"), Arm("b", "baseline"), Arm("c", "control"),
        Arm("unigram", "word frequencies", trivial=True), Arm("d", "dear"),
    ),
    metrics={"loss": Metric("loss", "nats"), "ms": Metric("time", "ms")},
    checks=(
        Check("off the plateau", ("a", "b", "c"), "loss", most=-PLATEAU, against="unigram", unit="nats", metrics=("loss",)),
    ),
    comparisons=(
        Comparison("a against b", "a", "b", "loss", better=-1),
        Comparison("c against b", "c", "b", "loss", better=-1),
        Comparison("c as good as b", "c", "b", "loss", NOT_WORSE, better=-1, margin=0.1),
        Comparison("a equal to b", "a", "b", "loss", EQUAL, margin=0.5),
        Comparison("a is faster", "a", "b", "ms", better=-1, ratio=True),
        Comparison("d costs twice a", "d", "a", "ms", EXACT, ratio=True, expected=2.0, margin=1e-9),
    ),
    run=lambda *_: {}, replay=lambda *_: {}, minutes=1, seeds=5, primary_seeds=5,
)  # fmt: skip


def runs(**means) -> list[dict]:
    """Five seeds of each arm: its loss, with noise of its own, and its time in ms."""
    times = {"a": 10.0, "b": 20.0, "c": 20.0, "d": 20.0}
    found = []
    for place, (arm, loss) in enumerate(means.items()):
        for seed in range(5):
            figures = {"loss": loss + NOISE[(seed + place) % 5]}
            if arm in times:
                figures["ms"] = times[arm] * (1 + seed) * (1 + 1e-6 * seed * (arm == "b"))
            found.append({"arm": arm, "seed": seed, "figures": figures, "seconds": 60.0})
    return found


def verdict_of(name: str, stored: list[dict], experiment: Experiment = EXPERIMENT) -> str:
    return next(each.verdict for each in verdicts.outcomes(experiment, stored) if each.comparison.name == name)


LEARNT = dict(a=4.0, b=4.5, c=4.52, d=4.0, unigram=6.0)


def test_each_claim_is_judged_in_its_form():
    stored = runs(**LEARNT)
    assert verdict_of("a against b", stored) == REPRODUCED
    assert verdict_of("c against b", stored) == CANNOT_TELL
    assert verdict_of("c as good as b", stored) == REPRODUCED
    assert verdict_of("a equal to b", stored) == CANNOT_TELL  # the mean difference is the margin itself
    assert verdict_of("a is faster", stored) == REPRODUCED
    assert verdict_of("d costs twice a", stored) == HOLDS
    assert verdict_of("a against b", runs(**LEARNT | {"a": 5.0})) == CONTRADICTED


@pytest.mark.parametrize("stored", [
    runs(a=4.0, b=4.5), [run for run in runs(**LEARNT) if run["arm"] != "unigram" or run["seed"] == 0]
], ids=["none", "one seed"])  # fmt: skip
def test_no_verdict_before_its_checks_can_be_held(stored):
    """Without the rows that a check is held against, nobody knows whether the model had learnt."""
    assert verdict_of("a against b", stored) == UNFINISHED
    assert verdict_of("a is faster", stored) == REPRODUCED


@pytest.mark.parametrize("left", [0, 4])
def test_a_figure_that_is_missing_where_a_check_failed_is_not_testable(left):
    """The highest rate that trains is no number where none does: the check on that is what there is to tell."""
    able = Check("a rate trains", ("a", "b"), "able", least=1.0, metrics=("loss",))
    stored = runs(a=4.0, b=4.5)
    for run in stored:
        run["figures"]["able"] = float(run["arm"] == "a" or run["seed"] < left)
        if not run["figures"]["able"]:
            del run["figures"]["loss"]
    experiment = replace(EXPERIMENT, checks=(able,))
    outcome = verdicts.primary(experiment, stored)
    assert outcome.verdict == NOT_TESTABLE and outcome.interval.n == left
    effect = words.effect(experiment, outcome)
    assert effect.endswith("nats") if left else effect == "no figure"
    unfinished = verdicts.primary(experiment, [run for run in stored if run["seed"] < 4])
    assert unfinished.verdict == UNFINISHED if left else unfinished is None


@pytest.mark.parametrize("arm", ["a", "b"])
def test_a_model_on_the_plateau_is_refused_with_its_figure(arm):
    stored = runs(**LEARNT | {arm: 5.9})
    outcome = verdicts.primary(EXPERIMENT, stored)
    assert outcome.verdict == NOT_TESTABLE
    title = EXPERIMENT.arm(arm).title
    said = f"not testable here ({title}, off the plateau: -0.10 nats (at most -0.50))"
    assert words.verdict(EXPERIMENT, outcome) == said
    assert words.headline(EXPERIMENT, stored).endswith(said)
    assert words.cost(outcome, stored) == "5 seeds, 25 runs, 25 minutes"
    assert verdict_of("c against b", stored) == (CANNOT_TELL if arm == "a" else NOT_TESTABLE)
    assert verdict_of("a is faster", stored) == REPRODUCED  # a time is guarded by no check of what was learnt


def test_the_figures_of_checks_are_there_whether_they_passed_or_not():
    held = verdicts.checked(EXPERIMENT, runs(**LEARNT | {"b": 5.9}))
    found = [(each.arm, round(each.value, 2), each.passed) for each in held]
    assert found == [("a", -2.0, True), ("b", -0.1, False), ("c", -1.48, True)]
    assert words.checked(EXPERIMENT, held[1]) == ("baseline", "off the plateau", "-0.10 nats (at most -0.50)", "failed")


def test_a_check_without_another_arm_holds_the_mean_of_a_figure():
    check = Check("above chance", ("a",), "loss", least=3.9)
    assert [each.passed for each in verdicts.checked(replace(EXPERIMENT, checks=(check,)), runs(**LEARNT))] == [True]
    check = replace(check, least=4.1)
    (found,) = verdicts.checked(replace(EXPERIMENT, checks=(check,)), runs(**LEARNT))
    assert not found.passed and words.checked(EXPERIMENT, found)[2] == "4.00 (at least 4.10)"


def test_runs_that_do_not_agree_with_their_mean_are_told():
    """A bound that parts the runs, whichever side their mean is on."""
    stored = runs(**LEARNT)
    values = sorted(run["figures"]["loss"] for run in stored if run["arm"] == "a")
    assert len(set(values)) == 5
    for bound, said in (
        (values[1] - 1e-9, "passed in the mean, 1 of 5 runs failed"), (values[-1], "failed in the mean, 1 of 5 runs passed"),
        (values[0], "passed"), (values[-1] + 1e-9, "failed"),
    ):  # fmt: skip
        check = Check("above", ("a",), "loss", least=bound)
        (found,) = verdicts.checked(replace(EXPERIMENT, checks=(check,)), stored)
        assert words.checked(EXPERIMENT, found)[3] == said and found.runs == 5


def test_all_but_the_primary_are_corrected_together():
    """Twelve comparisons that would each be significant alone: the first is judged alone, the others as a family."""
    close = runs(a=4.0, b=4.035, unigram=6.0)
    alone = replace(EXPERIMENT, comparisons=(Comparison("0", "a", "b", "loss", better=-1),))
    p = verdicts.primary(alone, close).p
    assert 0.05 / 11 < p < 0.05
    many = replace(alone, comparisons=tuple(Comparison(str(i), "a", "b", "loss", better=-1) for i in range(12)))
    found = verdicts.outcomes(many, close)
    assert [each.verdict for each in found] == [REPRODUCED] + [CANNOT_TELL] * 11
    assert found[1].p == pytest.approx(min(1, 11 * p)) and found[0].p == p


def test_what_cannot_be_tested_takes_no_share_of_the_level():
    close = runs(a=4.0, b=4.035, c=5.9, unigram=6.0)
    family = tuple(Comparison(f"c{i}", "c", "b", "loss", better=-1) for i in range(20))
    comparisons = (*EXPERIMENT.comparisons[1:2], Comparison("0", "a", "b", "loss", better=-1), *family)
    assert verdict_of("0", close, replace(EXPERIMENT, comparisons=comparisons)) == REPRODUCED


def test_nothing_has_a_verdict_before_all_declared_seeds_are_there():
    stored = [run for run in runs(**LEARNT) if (run["arm"], run["seed"]) != ("b", 3)]
    assert verdict_of("a against b", stored) == verdict_of("c as good as b", stored) == "being measured"
    assert verdict_of("d costs twice a", stored) == HOLDS
    assert words.headline(EXPERIMENT, stored).endswith("being measured")


def test_pairs_are_the_seeds_that_both_arms_have():
    stored = [{"arm": "b", "seed": s, "figures": {"loss": float(s)}} for s in (0, 1, 2)]
    stored += [{"arm": "a", "seed": s, "figures": {"loss": s - 1.0}} for s in (1, 2, 3)]
    stored += [{"arm": "a", "seed": 0, "figures": {}}]  # a run without the metric
    assert verdicts.pairs("a", "b", "loss", stored) == ([0.0, 1.0], [1.0, 2.0])
    assert verdicts.difference(EXPERIMENT, stored, "a", "b", "loss").mean == -1.0
    assert verdicts.difference(EXPERIMENT, stored, "a", "c", "loss") is None
    assert verdicts.primary(EXPERIMENT, stored[:3]) is None
    assert words.headline(EXPERIMENT, stored[:3]) == "not measured yet"


def test_a_plot_holds_arms_against_each_other_on_the_seeds_that_all_have():
    found = [run for run in runs(a=1.0, b=2.0, c=3.0) if run["arm"] != "a" or run["seed"] in (1, 3)]
    kept = verdicts.shared(found, ("a", "b", "d"))  # d has no run
    assert {run["seed"] for run in kept} == {1, 3}
    assert sum(run["arm"] == "b" for run in kept) == 2
    assert verdicts.shared(found, ("d",)) == []


def test_a_metric_of_overlapping_texts_widens_every_interval_of_it():
    stored = runs(**LEARNT)
    wide = replace(EXPERIMENT, metrics={**EXPERIMENT.metrics, "loss": Metric("loss", "nats", overlap=0.5)})
    plain, widened = (verdicts.primary(each, stored).interval for each in (EXPERIMENT, wide))
    assert widened.high - widened.mean == pytest.approx((plain.high - plain.mean) * (1 + 5 * 0.5) ** 0.5)
    assert verdicts.difference(wide, stored, "a", "b", "loss") == widened


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (Comparison("", "a", "b", "loss", better=-1), "< 0"),
        (Comparison("", "a", "b", "loss", ratio=True), "> 1"),
        (Comparison("", "a", "b", "loss", NOT_WORSE, margin=0.4), "> -0.4"),
        (Comparison("", "a", "b", "loss", NOT_WORSE, better=-1, margin=0.4), "< 0.4"),
        (Comparison("", "a", "b", "loss", NOT_WORSE, margin=0.03, ratio=True), "> 0.97"),
        (Comparison("", "a", "b", "loss", EQUAL, margin=0.02), "within ±0.02"),
        (Comparison("", "a", "b", "loss", EQUAL, margin=0.02, ratio=True), "0.98 to 1.02"),
        (Comparison("", "a", "b", "loss", EXACT, expected=18.6, ratio=True), "= 18.6"),
    ],
)
def test_what_is_claimed_is_said_in_its_form(comparison, said):
    assert words.claimed(comparison) == said


def test_an_effect_carries_its_unit_and_an_exact_one_no_interval():
    found = {each.comparison.name: words.effect(EXPERIMENT, each) for each in verdicts.outcomes(EXPERIMENT, runs(**LEARNT))}
    in_percent = replace(EXPERIMENT, metrics=EXPERIMENT.metrics | {"loss": Metric("right", "%")})
    primary = verdicts.primary(in_percent, runs(**LEARNT))
    assert words.effect(in_percent, primary).endswith("] points"), "percentages differ by points"
    assert found["a against b"].startswith("-0.500 [-0.5") and found["a against b"].endswith("] nats")
    assert found["a is faster"] == "0.500 times", "an interval too narrow to be seen is not printed"
    assert found["d costs twice a"] == "2 times"  # four digits of what it is, however small


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form": "better"}, "its form is one of superior"),
        ({"better": 0}, "better is"),
        ({"form": NOT_WORSE}, "needs a margin above 0"),
        ({"form": EQUAL, "margin": 1.5, "ratio": True}, "below 1"),
        ({"margin": 0.1}, "has no margin"),
        ({"form": EXACT}, "says what is expected"),
        ({"expected": 1.0}, "says what is expected"),
    ],
)
def test_a_claim_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        Comparison("x", "a", "b", "loss", **changes)


def test_a_check_that_checks_nothing_is_refused():
    with pytest.raises(InputError, match="least or most"):
        Check("x", ("a",), "loss")
    with pytest.raises(InputError, match="names nobody"):
        replace(EXPERIMENT, checks=(Check("x", ("nobody",), "loss", least=0.0),))
    with pytest.raises(InputError, match="names bits"):
        replace(EXPERIMENT, checks=(Check("x", ("a",), "loss", least=0.0, metrics=("bits",)),))
    assert statistics.LEVEL == 0.95


def test_what_does_not_vary_is_told_without_an_interval():
    for values, said in (
        ([1.0, 1.0, 1.0], "+1.0"), ([1.0], "+1.0"), ([1.0, 2.0], "+1.5 [-4.9, +7.9]"), ([1.0, 1.0001], "+1.0"),
    ):  # fmt: skip
        assert words.interval(statistics.mean(values), "+.1f") == said


def test_a_difference_that_is_nothing_to_the_digits_printed_has_no_minus():
    stored = runs(a=4.0, b=4.0, unigram=6.0)
    for run in stored:
        run["figures"]["loss"] = 4.0 + (run["arm"] == "a") * -1e-9 * (1 + run["seed"])
    assert words.effect(EXPERIMENT, verdicts.outcomes(EXPERIMENT, stored)[0]) == "+0.000 nats"


def test_a_ratio_that_is_held_to_a_margin_shows_on_which_side_of_its_bound_it_is():
    coarse = replace(EXPERIMENT, metrics=EXPERIMENT.metrics | {"ms": Metric("time", "ms", 1)})
    for form, said in (({"form": NOT_WORSE, "margin": 0.03}, "0.500 times"), ({}, "0.50 times")):
        comparison = Comparison("a keeps 97 % of b", "a", "b", "ms", better=-1, ratio=True, **form)
        planted = replace(coarse, comparisons=(comparison,))
        assert words.effect(planted, verdicts.primary(planted, runs(**LEARNT))) == said


def test_the_headline_carries_what_it_would_mislead_without():
    stored = runs(**LEARNT)
    alone = words.headline(EXPERIMENT, stored)
    beside = replace(EXPERIMENT, beside=("c against b", "a is faster"))
    assert words.headline(beside, stored).startswith(f"{alone}. c against b: +0.0")
    assert words.headline(beside, stored).endswith("; cannot tell. a is faster: 0.500 times in time; reproduced")
    fewer = [run for run in stored if run["arm"] != "c" or run["seed"] < 3]  # its figure is no verdict yet
    assert ", 3 seeds; " in words.headline(beside, fewer) and "seeds" not in words.headline(beside, stored)
    for wrong in ("nothing of its", "a against b"):
        with pytest.raises(InputError, match=wrong):
            replace(EXPERIMENT, beside=(wrong,))


def test_a_check_along_a_curve_holds_its_worst_point():
    def verdict(**bound):
        check = Check("off the plateau everywhere", ("a", "b"), "gap", along="seen", metrics=("loss",), **bound)
        return verdict_of("a against b", stored, replace(EXPERIMENT, checks=(check,)))

    stored = runs(**LEARNT)
    for run in stored:
        run["figures"]["seen"] = [{"gap": -0.9}, {"gap": -0.1 if run["arm"] == "b" else -0.7}, {"gap": -0.8, "told": 1.0}]
    assert verdict(most=-0.5) == NOT_TESTABLE and verdict(most=-0.05) == REPRODUCED
    assert verdict(least=-0.85) == NOT_TESTABLE and verdict(least=-0.95) == REPRODUCED
    assert Check("x", ("a",), "told", least=0.0, along="seen").of(stored[0]["figures"]) == 1.0
    assert Check("x", ("a",), "told", least=0.0, along="seen").of({"loss": 1.0}) is None
    with pytest.raises(InputError, match="not both"):
        Check("x", ("a",), "gap", least=0.0, along="seen", against="b")
