"""Lesson 05: its equations, naively, against the technique's code; its figures; its exercises with answers that learners give."""

import math

import numpy as np
import pytest
from tests.course import lessons

import bertcraft as bc
from bertcraft.bert import Config
from bertcraft.course import source
from bertcraft.techniques import knowledge_distillation as technique
from bertcraft.tensor import functions as F

SLUG = "knowledge_distillation"


@pytest.fixture
def rng():
    return np.random.default_rng(5)


# ---------------------------------------------------------------------------------------------------------- equations


def naive_softmax(z, tau):
    powers = [math.exp(each / tau) for each in z]
    return [power / sum(powers) for power in powers]


def naive_soft_loss(z, z_hat, tau):
    p, p_hat = naive_softmax(z, tau), naive_softmax(z_hat, tau)
    return tau**2 * sum(one * math.log(one / own) for one, own in zip(p_hat, p, strict=True))


@pytest.mark.parametrize("tau", [0.5, 1, 2, 8])
def test_equations_1_to_3_soft_targets_and_their_gradient(rng, tau):
    z, z_hat = 2 * rng.standard_normal((3, 5)), 2 * rng.standard_normal((3, 5))
    value, gradient = bc.value_and_grad(technique.soft_target_loss)(z, z_hat, tau)
    assert value == pytest.approx(np.mean([naive_soft_loss(*pair, tau) for pair in zip(z, z_hat, strict=True)]), rel=1e-12)
    naive = [np.subtract(naive_softmax(a, tau), naive_softmax(b, tau)) * tau / 3 for a, b in zip(z, z_hat, strict=True)]
    np.testing.assert_allclose(gradient, naive, atol=1e-12)
    np.testing.assert_allclose(lessons.solution(SLUG, "soften")(z, tau), [naive_softmax(row, tau) for row in z], atol=1e-12)
    assert lessons.solution(SLUG, "soft_loss")(z, z_hat, tau) == pytest.approx(float(value), rel=1e-12)


def test_equations_1_to_3_by_hand():
    z_hat = (2 * math.log(3), 0)
    np.testing.assert_allclose(naive_softmax(z_hat, 2), [3 / 4, 1 / 4])
    np.testing.assert_allclose(naive_softmax(z_hat, 1), [9 / 10, 1 / 10])
    divergence = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert divergence == pytest.approx(0.131, abs=5e-4) and naive_soft_loss((0, 0), z_hat, 2) == pytest.approx(0.523, abs=5e-4)
    value, gradient = bc.value_and_grad(technique.soft_target_loss)(np.zeros((1, 2)), np.array([z_hat]), 2.0)
    assert float(value) == pytest.approx(4 * divergence)
    np.testing.assert_allclose(gradient, [[-1 / 2, 1 / 2]])


def test_equation_4_at_infinity_logits_are_matched_and_without_the_square_the_gradient_dies(rng):
    z, z_hat = rng.standard_normal((1, 6)), rng.standard_normal((1, 6))
    matched = bc.grad(lambda z: 0.5 * np.mean(np.square((z - np.mean(z)) - (z_hat - np.mean(z_hat)))))(z)
    limit = ((z - z.mean()) - (z_hat - z_hat.mean())) / 6
    np.testing.assert_allclose(matched, limit, atol=1e-12)
    hot = [bc.grad(lambda z, tau=tau: technique.soft_target_loss(z, z_hat, tau))(z) for tau in (1e3, 1e4)]
    np.testing.assert_allclose(hot[1], limit, atol=1e-3)
    bare = [np.linalg.norm(each) / tau**2 for each, tau in zip(hot, (1e3, 1e4), strict=True)]
    assert bare[0] / bare[1] == pytest.approx(100, rel=0.01)


def test_equation_6_smoothing_is_a_teacher_who_knows_nothing(rng):
    z, y = rng.standard_normal((4, 7)), np.array([0, 6, 2, 2])

    def smoothed(z):
        logs = [np.log(naive_softmax(row, 1)) for row in z]
        return np.mean([-0.9 * row[label] - 0.1 / 7 * row.sum() for row, label in zip(logs, y, strict=True)])

    found = technique.hinton_loss(z, np.zeros((4, 7)), y, temperature=1.0, soft=0.1)
    assert found + 0.1 * math.log(7) == pytest.approx(smoothed(z), rel=1e-12), "but for a constant"
    torch = pytest.importorskip("torch")
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.tensor(z), torch.tensor(y))
    assert theirs.item() == pytest.approx(smoothed(z), rel=1e-12)


def test_equation_7_the_angle(rng):
    h, h_hat = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    naive = [1 - a @ b / math.sqrt(a @ a) / math.sqrt(b @ b) for a, b in zip(h, h_hat, strict=True)]
    assert technique.cosine_loss(h, h_hat) == pytest.approx(np.mean(naive), rel=1e-12)


def test_exercise_3_one_target_has_the_gradient_of_both_losses(rng):
    z, z_hat, y = rng.standard_normal((4, 5)), rng.standard_normal((4, 5)), np.array([0, 4, 2, 2])
    target = lessons.solution(SLUG, "one_target")(z_hat, y, 0.7)
    both = bc.grad(lambda z: technique.hinton_loss(z, z_hat, y, 1.0, 0.7))(z)
    one = bc.grad(lambda z: -np.mean(np.sum(target * F.log_softmax(z), axis=1)))(z)
    np.testing.assert_allclose(both, one, atol=1e-12)


def test_exercise_6_labels_are_a_noisy_teacher(rng):
    true, p = naive_softmax(rng.standard_normal(4), 1), np.array(naive_softmax(rng.standard_normal(4), 1))
    gradients = np.array([p - np.eye(4)[y] for y in range(4)])
    mean = true @ gradients
    np.testing.assert_allclose(mean, p - true, atol=1e-12)
    np.testing.assert_allclose(true @ np.square(gradients - mean), np.multiply(true, np.subtract(1, true)), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------- figures


def test_what_the_page_says_of_the_paper():
    assert 668 / 410 == pytest.approx(1.63, abs=5e-3) and 1 - 410 / 668 == pytest.approx(0.386, abs=5e-4)
    bert, distilbert = (technique.count(Config(family=family)) for family in ("bert", "distilbert"))
    assert f"{distilbert / bert:.1%}" == "60.6%" and f"{1 - distilbert / bert:.1%}" == "39.4%"
    namespace: dict = {}
    (cell,) = (cell for cell in source.read(lessons.path(SLUG)) if cell.type == "code" and "GLUE = {" in cell.text)
    exec(cell.text.split("kept =")[0], namespace)
    scores = namespace["GLUE"]
    assert len(scores) == 9
    one, other = np.mean(list(scores.values()), axis=0)
    assert (round(one, 1), round(other, 1), f"{other / one:.1%}") == (79.5, 77.0, "96.9%")
    one, other = np.mean([pair for name, pair in scores.items() if name != "WNLI"], axis=0)
    assert f"{other / one:.1%}" == "96.2%" and 100 * 40 / 71 == pytest.approx(scores["WNLI"][1], abs=0.05)


def test_layers_that_a_student_may_keep():
    layers_kept = lessons.solution(SLUG, "layers_kept")
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 2 * 2 * 768
    assert layer == 12 * 768**2 + 13 * 768
    assert layers_kept(0.6, 30522, 768, 12) == 2 and layers_kept(0.39, 30522, 768, 12) == 6
    assert layers_kept(0.6, 30522, 384, 6) == 0, "MiniLM's table is too large"


# ----------------------------------------------------------------------------------------------------------- exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = lessons.told(SLUG, "soft_loss", lessons.stub(SLUG, "soft_loss"))
    assert state == "wrong" and "the factor temperature^2 is missing" in text


PLAIN = "    p = np.exp(logits - logits.max(1, keepdims=True))\n    p = p / p.sum(1, keepdims=True)\n"
WRONG = {
    "soften": (
        ("logits / temperature", "logits * temperature", "so divide"),
        ("logits / temperature", "logits / temperature**2", "temperature squared"),
        ("logits / temperature", "logits", "is not used"),
        ("powers / powers.sum(axis=1, keepdims=True)", "powers / powers.sum(axis=0, keepdims=True)", "axis=1"),
        ("powers / powers.sum(axis=1, keepdims=True)", "np.exp(scaled) / np.exp(scaled).sum()", "whole batch sums to 1"),
        ("scaled - scaled.max(axis=1, keepdims=True)", "scaled", "give nan"),
        ("    scaled = logits", f"{PLAIN}    return p / temperature\n    scaled = logits", "sum to 1/2"),
        ("    scaled = logits", f"{PLAIN}    return p ** (1 / temperature)\n    scaled = logits", "divide by their sum again"),
    ),
    "soft_loss": (
        ("return temperature**2 * np.mean(", "return 1 / temperature**2 * np.mean(", "shrinks even faster"),
        ("temperature**2 * ", "", "temperature^2 is missing"),
        ("temperature**2 * ", "temperature * ", "not its square"),
        ("(student, teacher))", "(teacher, student))", "swapped"),
        ("np.mean(np.sum(np.exp(log_p_hat) * (log_p_hat - log_p), axis=1))", "np.mean(np.exp(log_p_hat) * (log_p_hat - log_p))",
         "mean over texts and classes"),
        ("np.mean(np.sum(np.exp(log_p_hat) * (log_p_hat - log_p), axis=1))", "np.sum(np.exp(log_p_hat) * (log_p_hat - log_p))",
         "sum over texts"),
        ("(log_p_hat - log_p)", "-log_p", "cross-entropy"),
        ("(logits / temperature for logits in (student, teacher))", "student, teacher / temperature", "student is not softened"),
        ("(logits / temperature for logits in (student, teacher))", "student / temperature, teacher", "teacher is not softened"),
    ),
    "one_target": (
        ("+= 1 - soft", "= 1 - soft", "lost the teacher's part"),
        ("+= 1 - soft", "+= 1", "not 1"),
        ("+= 1 - soft", "+= 0", "rows sum to 0.7"),
        ("soft * powers", "powers", "not 1"),
        ("    targets[np.", "    targets = soft * teacher\n    targets[np.", "as they are"),
    ),
    "layers_kept": (
        ("(1 - smaller) * (table + layers * layer) - table", "(1 - smaller) * layers * layer", "table of words stays"),
        ("(table + layers * layer) - table", "(table + layers * layer)", "take V H off"),
        ("(1 - smaller) * (table + layers * layer) - table", "smaller * (table + layers * layer)", "layers are lost"),
        ("+ 13 * hidden,", ",", "biases and norms are missing"),
        ("+ 13 * hidden,", "+ 9 * hidden,", "biases and norms are missing"),
        ("int(room // layer)", "round(room / layer)", "round down"),
        ("int(room // layer)", "room / layer", "round down"),
        ("max(0, int(room // layer))", "int(room // layer)", "return 0"),
    ),
    "in_service": (
        ('"distilled_4"', '"teacher"', "24 ms"),
        ('"distilled_4"', '"distilled_6"', "13 ms"),
        ('"distilled_4"', '"smoothed_4"', "-1.6"),
        ('"distilled_4"', '"labels_4"', "-1.9"),
        ('"distilled_4"', '"distilled_2"', "whole interval lies below"),
        ('"because": "a", "teaching"', '"because": "b", "teaching"', "no evidence of a small one"),
        ('"because": "a", "teaching"', '"because": "c", "teaching"', "2.8 points"),
        ('"teaching": "b"', '"teaching": "a"', "knows nothing may do as well"),
        ('"teaching": "b"', '"teaching": "c"', "lies above 0"),
        ('"unless": "a"}', '"unless": "b"}', "another scale"),
        ('"unless": "a"}', '"unless": "c"}', "other mails"),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of answers that overflow
@pytest.mark.parametrize(("name", "old", "new", "message"), [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_answer_gets_the_message_meant_for_it(name, old, new, message):
    state, text = lessons.told(SLUG, name, lessons.altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text, text


def test_mixed_shares_and_mixed_logits_are_told(rng):
    def swapped(teacher, labels, soft):
        return (1 - soft) * F.softmax(teacher) + soft * np.eye(teacher.shape[1])[labels]

    def mixed(teacher, labels, soft):
        return F.softmax(soft * teacher + (1 - soft) * np.eye(teacher.shape[1])[labels])

    assert "shares are swapped" in lessons.told(SLUG, "one_target", swapped)[1]
    assert "mix probabilities" in lessons.told(SLUG, "one_target", mixed)[1]


def test_targets_for_only_the_classes_among_the_labels_are_refused():
    def narrow(teacher, labels, soft):
        return soft * F.softmax(teacher) + (1 - soft) * np.eye(labels.max() + 1)[labels]

    assert lessons.told(SLUG, "one_target", narrow)[0] == "wrong"


# ------------------------------------------------------------------------------------------------------------ the lesson


@pytest.mark.parametrize("solved", [False, True])
def test_the_page_shows_what_it_promises(solved):
    notebook = lessons.built(SLUG, solved)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 5 and all(output["metadata"]["image/png"]["alt"] for output in images)
    text = "".join(output.get("text", "") for output in outputs)
    assert "batchmean" in text and "gradients of Hinton's loss, transformers' and ours" in text  # the production cells ran
    assert "judged by the teacher, 1,280 right" in text
    plain = [output.get("data", {}).get("text/plain", "") for output in outputs]
    assert sum(each.startswith("Solved: ") for each in plain) == (5 if solved else 0)
