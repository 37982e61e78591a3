"""The catalogue is the source's where it says so, and every figure in it is calculated here or names its place."""

import ast
import html
import math
import operator
import re
from pathlib import Path

import pytest

from bertcraft.course import catalogue, measured
from bertcraft.course.catalogue import ADOPTIONS, LEVELS, PATHS, TECHNIQUES
from bertcraft.errors import InputError
from bertcraft.lab import experiments

REPOSITORY = Path(__file__).parents[2]

# As the source gives them: rank, adoption, claimed gain, what it cites.
SOURCE = [
    (1, "Universal", "+3-5 points", "Liu 2019"),
    (2, "High", "4x efficiency", "Clark 2020"),
    (3, "High", "Human-level SuperGLUE", "He 2020"),
    (4, "Medium", "18x fewer params", "Lan 2019"),
    (5, "High", "60% smaller, 97% performance", "Sanh 2019"),
    (6, "Universal", "Memory efficiency", "standard practice"),
    (7, "Universal", "2x speed, 50% memory", "NVIDIA 2017"),
    (8, "High", "+1-2 points", "Howard & Ruder 2018"),
    (9, "Universal", "Better convergence", "various"),
    (10, "Medium", "Long sequences", "Beltagy 2020"),
    (11, "High", "SOTA embeddings", "Gao 2021"),
    (12, "High", "0.4% params, 99% performance", "Houlsby 2019"),
    (13, "High", "Few-shot capability", "Brown 2020"),
    (14, "Universal", "Better generalization", "Loshchilov & Hutter 2017"),
    (15, "Medium", "Training stability", "Xiong 2020"),
    (16, "Low", "Better convergence", "Bengio 2009"),
    (17, "Medium", "Cross-task transfer", "Liu 2019"),
    (18, "Medium", "Robustness", "Wei & Zou 2019"),
    (19, "Low", "Robustness", "Zhu 2019"),
    (20, "High", "Training stability", "Pascanu 2013"),
    (21, "Low", "Scaling efficiency", "Fedus 2021"),
    (22, "Low", "Optimized designs", "Xu 2021"),
    (23, "Medium", "Deployment efficiency", "Shen 2020"),
    (24, "Low", "Knowledge retention", "various"),
    (25, "Low", "Quick adaptation", "Finn 2017"),
]


def test_what_the_source_says_stands_as_it_says_it():
    assert [(t.rank, t.adoption, t.claimed, t.cited) for t in TECHNIQUES] == SOURCE
    assert [t.level for t in TECHNIQUES] == (
        ["Revolutionary"] * 4 + ["High"] * 6 + ["Significant"] * 5 + ["Specialized"] * 5 + ["Emerging"] * 5
    )
    assert list(LEVELS) == ["Revolutionary", "High", "Significant", "Specialized", "Emerging"]
    assert {t.adoption for t in TECHNIQUES} == set(ADOPTIONS)
    for each in TECHNIQUES:
        found = re.search(r"\d{4}$", each.cited)
        assert each.year == (int(found[0]) if found else None)


def test_a_lesson_needs_only_what_is_walked_before_it():
    for each in TECHNIQUES:
        numbers = [int(number) for number in re.findall(r"\b\d\d\b", each.needs)]
        assert numbers and each.needs.startswith("lesson") and each.rank not in numbers
        for path in each.paths:
            assert not set(numbers) & set(path.ranks[path.ranks.index(each.rank) :])


def test_paths_are_the_sources_in_its_order():
    assert [(path.name, path.ranks) for path in PATHS] == [
        ("Efficiency & Deployment", (1, 2, 5, 7, 23)),
        ("Architecture & Innovation", (3, 4, 10, 21, 22)),
        ("Training & Optimization", (6, 8, 9, 14, 20)),
        ("Applications & Specialization", (11, 12, 13, 17, 19)),
    ]
    assert [t.rank for t in PATHS[2].techniques] == [6, 8, 9, 14, 20]
    assert [path.name for path in TECHNIQUES[22].paths] == ["Efficiency & Deployment"]
    assert TECHNIQUES[24].paths == ()


def test_experiments_have_the_catalogues_number():
    for experiment in experiments.everything():
        assert catalogue.technique(experiment.slug).name == experiment.name


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.slug)
def test_a_lessons_claim_is_the_catalogues(technique):
    page = measured.claim(technique.slug).html
    for text in (technique.claimed, technique.paper, technique.source, technique.judged, measured.headline(technique.slug)):
        assert html.escape(text, quote=False) in page


@pytest.mark.parametrize("name", [6, "6", "06", "gradient_accumulation", "06_gradient_accumulation"])
def test_a_technique_is_found(name):
    assert catalogue.technique(name) is TECHNIQUES[5]


def test_what_is_not_there_is_said():
    for name in ("0", 26, "", "gradient"):
        with pytest.raises(InputError, match="give a number from 1 to 25 or a slug"):
            catalogue.technique(name)
    assert catalogue.learning_path("training") is PATHS[2]
    for name in ("", " ", "deployment"):
        with pytest.raises(InputError, match="Efficiency & Deployment, Architecture"):
            catalogue.learning_path(name)


# ---- figures

NAMES = re.compile(r"F1\b|SQuAD 2\.0|SST-2|TREC-6|GPT-3|T5|ImageNet32x32|CIFAR-10|float\d+|L2\b|c0(?:\^2)?|arXiv:[\d.]+")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
FIGURE = re.compile(r"\d(?:[\d,.]*\d)?(?:e\d+|e-\d+)?")
OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


# Differences that "what it really gives" takes of the paper's own figures, by rank.
GIVEN = {3: {"0.9", "2.3"}}


def prose(technique) -> str:
    texts = (technique.paper, technique.innovation, *technique.innovations, technique.use, technique.avoid)
    return YEAR.sub("", NAMES.sub("", " ".join(texts)))


def figures(text: str) -> set[str]:
    return set(FIGURE.findall(text))


def value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant):
        return node.value
    assert isinstance(node, ast.BinOp), ast.dump(node)
    return OPERATIONS[type(node.op)](value(node.left), value(node.right))


def rounds_to(shown: str, exact: float) -> bool:
    digits, _, exponent = shown.partition("e")
    decimals = len(digits.partition(".")[2]) - int(exponent or 0)
    return abs(float(shown) - exact) <= 0.5000001 * 10.0**-decimals


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.slug)
def test_every_figure_is_traceable(technique):
    traced = set()
    for origin, shown in technique.figures.items():
        assert origin and shown
        traced |= figures(shown)
        if origin.startswith("="):
            exact = value(ast.parse(origin[1:].strip(), mode="eval").body)
            for each in shown.split():
                assert rounds_to(each, exact), f"{origin} is {exact:.6g}, not {each}"
    text = prose(technique)
    assert figures(text) <= traced, "a figure without an origin"
    assert figures(YEAR.sub("", NAMES.sub("", technique.gives))) <= figures(text) | GIVEN.get(technique.rank, set())
    assert traced <= figures(text), "an origin of no figure"


def test_the_calculations_are_read_as_meant():
    assert rounds_to("+4.9", 4.875) and not rounds_to("4.9", 4.84) and rounds_to("-0.3", 84.0 - 84.3)
    assert rounds_to("9.1e33", 26.0**24) and not rounds_to("9.2e33", 26.0**24)
    assert figures("7.1e20 for 4.5 times, 2e-5 of 10,000. BERT 0.4.") == {"7.1e20", "4.5", "2e-5", "10,000", "0.4"}
    assert math.isclose(value(ast.parse("(2 + 3) * 2 ** 2 / 8", mode="eval").body), 2.5)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.slug)
def test_a_record_is_whole(technique):
    for name in (
        "title",
        "judged",
        "paper",
        "source",
        "reference",
        "innovation",
        "gives",
        "impact",
        "today",
        "needs",
        "use",
        "avoid",
    ):
        text = getattr(technique, name)
        assert text and text == " ".join(text.split()), name
    for sentence in (
        technique.paper,
        technique.gives,
        technique.impact,
        technique.today,
        technique.use,
        technique.avoid,
        *technique.innovations,
    ):
        assert sentence.endswith((".", '."')) and "!" not in sentence
    assert len(technique.innovation) <= 70 and not technique.innovation.endswith(".")
    assert len(technique.innovations) >= 2
    if technique.year:
        first = technique.cited.split()[0]
        assert first == "NVIDIA" or first in technique.reference
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|ICML 2009", technique.reference)
