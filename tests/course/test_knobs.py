"""*Which knobs matter*: what planted runs of the five experiments make of it, and what is said where there are none."""

import pytest

from bertcraft.course import builder, kernel, knobs, measured, shelf
from bertcraft.lab import statistics, words

PLANTED = {  # by arm
    "advanced_scheduling": {"linear": 5.0, "constant": 5.2},
    "weight_decay": {"adamw": 5.1, "l2": 5.0, "none": 5.4},
    "layer_norm_variants": {"pre": 4.0, "post": 4.5},
    "gradient_clipping": {"norm": 4.0, "none": 4.0},
    "layerwise_learning_rates": {"decay_90": 80.0, "one": 79.0},
}
TRIVIAL = {"unigram": {"loss": 7.0, "unread": 7.0}, "tfidf": {"accuracy": 60.0}}  # what checks hold arms against
KNOBS = len(knobs.KNOBS)


def planted(slug, seeds=10, **changes):
    """Runs of a knob's arms and of the trivial ones; the figures that checks ask for are passed unless changed."""
    metric = next(each for each in knobs.KNOBS if each.slug == slug).metric
    passing = {"able": 1.0, "with_warmup": 1.0, "accuracy": 80.0, "loss": 5.0} | changes
    runs = []
    for seed in range(seeds):
        noise = 0.01 * ((3 * seed) % 5 - 2)
        for place, (name, value) in enumerate(PLANTED[slug].items()):
            figures = passing | {metric: value + noise * (place == 0)} | changes
            runs.append({"arm": name, "seed": seed, "figures": figures})
        runs += [{"arm": name, "seed": seed, "figures": figures} for name, figures in TRIVIAL.items()]
    return runs


def test_each_experiments_claim_is_there_and_only_its_metrics_are_read():
    assert sorted({measured.experiment(knob.slug).number for knob in knobs.KNOBS}) == [8, 9, 14, 15, 20]
    pairs = {(knob.slug, knob.treatment, knob.baseline) for knob in knobs.KNOBS}
    for knob in knobs.KNOBS:
        experiment = measured.experiment(knob.slug)
        assert (knob.slug, experiment.primary.treatment, experiment.primary.baseline) in pairs
        assert knob.title.startswith(f"{experiment.number:02d} ")
        assert experiment.metrics[knob.metric].unit == {-1: "nats", 1: "%"}[knob.better]


def test_without_runs_every_row_says_so():
    found = knobs.worth(lambda slug: [])
    assert [each.told for each in found] == [words.NOT_YET] * KNOBS and not any(each.gain for each in found)


def test_a_gain_is_right_of_0_for_less_loss_and_for_more_points():
    for each in knobs.worth(planted):
        treatment, baseline = (PLANTED[each.knob.slug][name] for name in (each.knob.treatment, each.knob.baseline))
        better = treatment - baseline if each.knob.slug == "layerwise_learning_rates" else baseline - treatment
        assert each.told == "" and each.gain.n == 10
        assert each.gain.mean == pytest.approx(better, abs=1e-9)
        assert each.gain.low < each.gain.mean < each.gain.high
        if each.knob.baseline == "l2":
            pairs = [
                [run["figures"]["loss"] for run in planted("weight_decay") if run["arm"] == name] for name in ("l2", "adamw")
            ]
            assert each.gain == pytest.approx(statistics.paired(*pairs))


def test_a_control_has_its_five_seeds_beside_a_claim_of_ten():
    def five(slug):
        return [run for run in planted(slug) if run["arm"] != "none" or run["seed"] < 5]

    found = {each.knob.baseline: each for each in knobs.worth(five) if each.knob.slug == "weight_decay"}
    assert (found["none"].gain.n, found["l2"].gain.n) == (5, 10) and not found["none"].told and not found["l2"].told


def test_seeds_to_come_and_arms_that_learnt_nothing_are_told():
    some = knobs.worth(lambda slug: planted(slug, seeds=4))
    assert {each.told for each in some} == {statistics.UNFINISHED} and all(each.gain for each in some)
    lost = knobs.worth(lambda slug: planted(slug, loss=6.9) if slug == "advanced_scheduling" else [])[0]
    assert lost.gain is None and lost.told.startswith("not testable here (")
    one = knobs.worth(lambda slug: planted(slug, seeds=1))[0]
    assert one.gain.low is None and one.told == statistics.UNFINISHED


@pytest.mark.parametrize("seeds", [0, 1, 10])
def test_it_is_drawn_with_and_without_runs(seeds, monkeypatch):
    drawn = []
    monkeypatch.setattr("bertcraft.lab.style.display", drawn.append)
    knobs.draw(knobs.worth(lambda slug: planted(slug, seeds) if seeds else []))
    left, right = drawn[0].axes
    rows = {ax: [text.get_text() for ax_text in (ax.get_yticklabels(),) for text in ax_text] for ax in (left, right)}
    assert [len(names) for names in rows.values()] == [KNOBS - 1, 1]
    said = [text.get_text() for ax in (left, right) for text in ax.texts]
    assert said == {0: [words.NOT_YET] * KNOBS, 1: [statistics.UNFINISHED] * KNOBS, 10: []}[seeds]
    assert len(left.containers) + len(right.containers) == (KNOBS if seeds else 0)


def test_a_page_that_draws_them_is_out_of_date_when_one_of_their_results_changes(tmp_path, monkeypatch):
    for name in ("notebooks", "results"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shelf, "folder", lambda name: tmp_path / name)
    path = tmp_path / "77_page.py"
    path.write_text('# %% [markdown]\n# # A page\n\n# %% alt="Rows."\nfrom bertcraft.course import knobs\n\nknobs.draw()\n')
    builder.write("77_page", False, builder.written(kernel.without_marks(builder.build(path, False))))
    (tmp_path / "results/06_gradient_accumulation.json").write_text("{}")
    assert builder.stale(path, False) == ""
    (tmp_path / "results/14_weight_decay.json").write_text("{}")
    assert builder.stale(path, False) == "the results that it shows have changed since"
