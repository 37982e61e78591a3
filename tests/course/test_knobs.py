"""*Which knobs matter*: what planted runs of the five experiments make of it, and what is said where there are none."""

import pytest

from bertcraft.course import builder, kernel, knobs, measured, shelf
from bertcraft.lab import statistics, words

PLANTED = {  # treatment, baseline
    "advanced_scheduling": (5.0, 5.2),
    "weight_decay": (5.1, 5.0),
    "layer_norm_variants": (4.0, 4.5),
    "gradient_clipping": (4.0, 4.0),
    "layerwise_learning_rates": (80.0, 79.0),
}
TRIVIAL = {"unigram": {"loss": 7.0, "unread": 7.0}, "tfidf": {"accuracy": 60.0}}  # what checks hold arms against


def planted(slug, seeds=10, **changes):
    """Runs of a knob's two arms and of the trivial ones; the figures that checks ask for are passed unless changed."""
    knob = next(each for each in knobs.KNOBS if each.slug == slug)
    passing = {"able": 1.0, "with_warmup": 1.0, "accuracy": 80.0, "loss": 5.0} | changes
    runs = []
    for seed in range(seeds):
        noise = 0.01 * ((3 * seed) % 5 - 2)
        for name, value in zip((knob.treatment, knob.baseline), PLANTED[slug], strict=True):
            figures = passing | {knob.metric: value + noise * (name == knob.treatment)} | changes
            runs.append({"arm": name, "seed": seed, "figures": figures})
        runs += [{"arm": name, "seed": seed, "figures": figures} for name, figures in TRIVIAL.items()]
    return runs


def test_each_knob_is_the_pair_of_its_experiments_claim():
    assert sorted(measured.experiment(knob.slug).number for knob in knobs.KNOBS) == [8, 9, 14, 15, 20]
    for knob in knobs.KNOBS:
        experiment = measured.experiment(knob.slug)
        primary = experiment.primary
        assert (knob.treatment, knob.baseline) == (primary.treatment, primary.baseline)
        assert knob.title.startswith(f"{experiment.number:02d} ")
        assert experiment.metrics[knob.metric].unit == {-1: "nats", 1: "points"}[knob.better]


def test_without_runs_every_row_says_so():
    found = knobs.worth(lambda slug: [])
    assert [each.told for each in found] == [words.NOT_YET] * 5 and not any(each.gain for each in found)


def test_a_gain_is_right_of_0_for_less_loss_and_for_more_points():
    found = {each.knob.slug: each for each in knobs.worth(planted)}
    for slug, (treatment, baseline) in PLANTED.items():
        each = found[slug]
        better = treatment - baseline if slug == "layerwise_learning_rates" else baseline - treatment
        assert each.told == "" and each.gain.n == 10
        assert each.gain.mean == pytest.approx(better, abs=1e-9)
        assert each.gain.low < each.gain.mean < each.gain.high
    pairs = [[run["figures"]["loss"] for run in planted("weight_decay") if run["arm"] == name] for name in ("l2", "adamw")]
    assert found["weight_decay"].gain == pytest.approx(statistics.paired(*pairs))


def test_seeds_to_come_and_arms_that_learnt_nothing_are_told():
    some = {each.knob.slug: each for each in knobs.worth(lambda slug: planted(slug, seeds=4))}
    assert {each.told for each in some.values()} == {statistics.UNFINISHED} and all(each.gain for each in some.values())
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
    assert [len(names) for names in rows.values()] == [4, 1]
    said = [text.get_text() for ax in (left, right) for text in ax.texts]
    assert said == {0: [words.NOT_YET] * 5, 1: [statistics.UNFINISHED] * 5, 10: []}[seeds]
    assert len(left.containers) + len(right.containers) == (5 if seeds else 0)


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
