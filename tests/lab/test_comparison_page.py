"""The page of a comparison: all that was found, nothing that a browser would fetch, and pictures that show the figures."""

import base64
import html
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from bertcraft.lab import advice, comparison_figures, comparison_page
from bertcraft.lab.arms import FULL
from bertcraft.lab.baselines import MAJORITY, PROBE, TFIDF
from bertcraft.lab.budget import Plan
from bertcraft.lab.compare import Outcome, Score

NOISE = np.array([0.002, -0.001, 0.0, 0.001, -0.002])
ODD = "<script>alert('1')</script> & \"more\".csv"


def outcome(metric: str = "accuracy", seeds: int = 5) -> Outcome:
    means = {FULL: 0.94, "lora": 0.93, PROBE: 0.92, TFIDF: 0.89, MAJORITY: 0.02}
    scores = {n: [Score(m + i * e, m + i * e, m, 9.0) for e in NOISE[:seeds]] for i, (n, m) in enumerate(means.items())}
    curve = [[0.7 + e, 0.8 + e, 0.88 + e] for e in NOISE[:seeds]]
    return Outcome(
        [FULL, "lora"], Plan(50, 1.0, 500, 100, 0.0), scores, {FULL: 1.0, "lora": 0.01}, 2000, seeds, metric, 0.002, curve
    )


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.fixture(scope="module", params=["accuracy", "macro_f1"])
def found(request):
    return outcome(request.param)


@pytest.fixture(scope="module")
def page(found):
    return comparison_page.page(ODD, [ODD, "left out: 1 row"], "the plan", found, "Took 9 s.")


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_page_says_all_that_was_found(page, found):
    told = words(html.unescape(re.sub(r"<[^>]*>", " ", page)))
    said = ODD, "left out: 1 row", "the plan", "Took 9 s.", advice.more_labels(found)
    for line in (*said, *advice.remarks(found), *advice.advice(found)):
        assert words(line) in told, line
    for row in advice.rows(found):
        assert all(f">{cell}</td>" in page for cell in advice.cells(row) if cell != "<1")


def test_a_browser_has_nothing_to_fetch_and_nothing_to_run(page):
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "embed", "form", "base", "a"}
    links = [value for _, own in tags for name, value in own.items() if name in ("src", "href", "srcset", "action")]
    assert len(links) == 3 and all(link.startswith("data:") for link in links)
    assert "http:" not in page and "https:" not in page and "url(" not in page and "@import" not in page
    policy = next(own["content"] for _, own in tags if own.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_both_pictures_are_in_the_page(page):
    pictures = [base64.b64decode(code) for code in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    sizes = [matplotlib.image.imread(io.BytesIO(picture)).shape for picture in pictures]
    assert len(sizes) == 2 and all(width > 900 and height > 300 for height, width, _ in sizes)


def test_a_picture_follows_the_figures():
    one, same, other = outcome(), outcome(), outcome()
    other.scores[FULL] = [score._replace(accuracy=score.accuracy - 0.05) for score in other.scores[FULL]]
    draw = comparison_figures.differences
    assert draw(one) == draw(same) != draw(other)
    other.curve[0][0] += 0.1
    assert comparison_figures.learning_curve(one) != comparison_figures.learning_curve(other)


def test_one_split_has_no_interval_and_is_drawn():
    assert "No recommendation: 1 split" in comparison_page.page("t", ["f"], "p", outcome(seeds=1), "e")


def test_a_long_file_name_breaks_between_its_words_and_nowhere_in_the_title():
    page = comparison_page.page("all_questions-2024.csv", ["f"], "p", outcome(), "e")
    assert "<h1>all_<wbr>questions-<wbr>2024.<wbr>csv</h1>" in page and "<title>all_questions-2024.csv</title>" in page


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_wider_interval_of_a_recommendation_is_explained(seeds):
    remarks = advice.remarks(outcome(seeds=seeds))
    assert any("wider: it is one of several candidates" in line for line in remarks) == (seeds == 3)
