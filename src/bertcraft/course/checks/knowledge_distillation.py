"""The checkers of lesson 05: softening, the soft loss and its factor, one target for two losses, layers to keep, a decision."""

import numpy as np

from bertcraft.course.exercises import Exercise, Wrong, decision, same
from bertcraft.techniques.knowledge_distillation import soft_target_loss
from bertcraft.tensor import functions as F


def _close(got, expected) -> bool:
    return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-6, atol=1e-9))


def _check_soften(function) -> None:
    logits = np.random.default_rng(0).standard_normal((4, 5))
    got, tau = function(logits, 2.0), 2.0
    for wrong, message in (
        (F.softmax(logits * tau), "the logits are multiplied by the temperature: a higher one is to make them softer, so divide"),
        (F.softmax(logits) / tau, "the probabilities are divided by the temperature, so that they sum to 1/2: divide the logits"),
        (F.softmax(logits) ** (1 / tau), "rows do not sum to 1: after the powers, divide by their sum again"),
        (F.softmax(logits), "the temperature is not used"),
        (
            F.softmax(logits / tau**2),
            "they are divided by the temperature squared: the square belongs to the loss, not here",
        ),
        (F.log_softmax(logits / tau), "these are the logarithms of the probabilities"),
        (
            F.softmax((logits / tau).ravel()).reshape(logits.shape),
            "the whole batch sums to 1: divide by the sum of each row, axis=1",
        ),
    ):
        if _close(got, wrong):
            raise Wrong(message)
    if np.shape(got) == logits.shape and np.allclose(np.sum(got, axis=0), 1):
        raise Wrong("the columns sum to 1: the probabilities are those of a text's classes, axis=1")
    same(got, F.softmax(logits / tau), "the probabilities at temperature 2")
    large = np.array([[10_000.0, 9_999.0], [-3.0, 3.0]])
    got = function(large, 0.01)
    if not np.all(np.isfinite(np.asarray(got, float))):
        raise Wrong("logits of 10,000 at temperature 0.01 give nan: subtract the largest of each row before exp, nothing changes")
    same(got, np.array([[1.0, 0.0], [0.0, 1.0]]), "the probabilities of logits of 10,000 at temperature 0.01")


def _check_soft_loss(function) -> None:
    rng = np.random.default_rng(1)
    student, teacher = 2 * rng.standard_normal((6, 5)), 2 * rng.standard_normal((6, 5))
    if _close(function(student, teacher, 1.0), soft_target_loss(teacher, student, 1.0)):
        raise Wrong("student and teacher are swapped: the teacher's probabilities are the weights, KL(teacher || student)")
    for tau in (1.0, 3.0):
        got, right = function(student, teacher, tau), soft_target_loss(student, teacher, tau)
        p, p_hat = F.softmax(student / tau), F.softmax(teacher / tau)
        for wrong, message in (
            (right / tau**2, "the factor temperature^2 is missing: by (4) the gradient shrinks like 1 / temperature^2; beside "
             "the labels' loss the teacher's weight shrinks with it"),
            (right / tau, "the factor is the temperature, not its square: the derivative takes one, the softness the other"),
            (right / tau**4, "divided by the temperature squared, the gradient shrinks even faster: multiply"),
            (right / 5, "this is the mean over texts and classes: sum over the classes, then take the mean over texts"),
            (6 * right, "this is the sum over texts: take their mean"),
            (-(tau**2) * np.mean(np.sum(p_hat * np.log(p), axis=1)), "this is the cross-entropy with soft targets: its "
             "gradient is right, but it is not 0 where both agree; subtract the teacher's entropy, or take log_p_hat - log_p"),
            (tau**2 * np.mean(np.sum(p_hat * np.log(p_hat / F.softmax(student)), axis=1)), "the student is not softened: "
             "both are divided by the temperature"),
            (tau**2 * np.mean(np.sum(F.softmax(teacher) * np.log(F.softmax(teacher) / p), axis=1)), "the teacher is not "
             "softened: both are divided by the temperature"),
        ):  # fmt: skip
            if not _close(wrong, right) and _close(got, wrong):
                raise Wrong(f"temperature {tau:g}: {message}")
        same(got, right, f"the loss at temperature {tau:g}")


def _check_one_target(function) -> None:
    rng = np.random.default_rng(2)
    teacher, labels = 3 * rng.standard_normal((5, 4)), np.array([2, 0, 1, 1, 0])  # the last class is absent
    hard, p_hat = np.eye(4)[labels], F.softmax(teacher)
    got, expected = function(teacher, labels, 0.7), 0.7 * p_hat + 0.3 * hard
    for wrong, message in (
        (0.3 * p_hat + 0.7 * hard, "the shares are swapped: soft is the weight of the teacher's probabilities"),
        (p_hat, "the labels are missing: a share of 1 - soft goes to the right class"),
        (hard, "the teacher is missing: a share of soft is its probabilities"),
        (0.7 * p_hat, "rows sum to 0.7: the rest, 1 - soft, belongs to the right class"),
        (0.7 * p_hat + hard, "rows sum to 1.7: the label's share is 1 - soft, not 1"),
        (p_hat + 0.3 * hard, "rows sum to 1.3: the teacher's share is soft, not 1"),
        (0.7 * teacher + 0.3 * hard, "the teacher's logits are mixed in as they are: turn them into probabilities first"),
        (
            F.softmax(0.7 * teacher + 0.3 * hard),
            "mix probabilities, not logits: the softmax of a mixture is another thing",
        ),
        (np.where(hard == 1, 0.3, 0.7 * p_hat), "the right class lost the teacher's part: add the label's share to it"),
        (0.7 * F.softmax(teacher, axis=0) + 0.3 * hard, "the teacher's columns sum to 1: softmax is over the classes, axis=1"),
    ):
        if _close(got, wrong):
            raise Wrong(message)
    same(got, expected, "the targets with soft = 0.7")
    got = function(np.zeros((5, 4)), labels, 0.1)
    same(got, 0.025 + 0.9 * hard, "the targets of a teacher of zeros with soft = 0.1 (smoothed labels)")


def _check_layers_kept(function) -> None:
    small = (0.533, 1000, 16, 12)  # here biases and norms decide
    for smaller, vocabulary, hidden, layers in ((0.6, 30522, 768, 12), (0.39, 30522, 768, 12), (0.23, 30522, 384, 6), small):
        layer, table = 12 * hidden**2 + 13 * hidden, vocabulary * hidden
        room = (1 - smaller) * (table + layers * layer) - table
        matrices = (1 - smaller) * (table / (12 * hidden**2) + layers) - table / (12 * hidden**2)
        got, what = function(smaller, vocabulary, hidden, layers), f"{smaller:.0%} smaller than {layers} layers of {hidden}"
        for wrong, message in (
            (
                int((1 - smaller) * layers),
                "that is the share of the layers: the table of words stays, so they must give more",
            ),
            (
                int(smaller * (table + layers * layer) // layer),
                "that is how many layers are lost: count those that remain",
            ),
            (
                int(((1 - smaller) * (table + layers * layer)) // layer),
                "the student keeps the table: take V H off its share",
            ),
            (int(matrices), "a layer's biases and norms are missing: it has 12 H^2 + 13 H numbers"),
            (round(room / layer), "rounded up it is not smaller by that much any more: round down"),
            (int(-(-room // layer)), "rounded up it is not smaller by that much any more: round down"),
        ):
            if np.ndim(got) == 0 and got == wrong != max(0, int(room // layer)):
                raise Wrong(f"{what}: {message}")
        if np.ndim(got) == 0 and got == room / layer:
            raise Wrong(f"{what}: layers come whole: round down")
        same(got, max(0, int(room // layer)), f"the most layers of a student {what}")
    got = function(0.6, 30522, 384, 6)
    if np.ndim(got) == 0 and got < 0:
        raise Wrong(f"the table alone is more than 40 % of MiniLM, so no student of its is 60 % smaller: return 0, not {got}")
    same(got, 0, "the most layers of a student 60% smaller than MiniLM, whose table is half of it,")


EXERCISES = (
    Exercise(
        name="soften", title="Soften", stars=1, check=_check_soften,
        hints=(
            "Divide the logits first; the rest is the softmax that you know.",
            "exp(1000) is inf. What does a number that is subtracted from all logits of a row change?",
        ),
    ),
    Exercise(
        name="soft_loss", title="Find the bug: a teacher that fades", stars=2, check=_check_soft_loss,
        hints=(
            "Nothing is wrong at temperature 1. What in (2) is 1 there?",
            "Look at (4): what keeps the gradient from shrinking as the temperature rises?",
        ),
    ),
    Exercise(
        name="one_target", title="One target for two losses", stars=2, check=_check_one_target,
        hints=(
            "Both losses are -(sum of target times ln p): with which targets? Weigh and add them.",
            "np.arange(len(labels)), labels addresses the right class of each row.",
        ),
    ),
    Exercise(
        name="layers_kept", title="How many layers may it keep?", stars=2, check=_check_layers_kept,
        hints=(
            "The teacher has V H + N (12 H^2 + 13 H) numbers; the student may have (1 - smaller) of them.",
            "Take the table off what it may have. How many whole layers fit into the rest?",
        ),
    ),
    Exercise(
        name="in_service", title="Which student goes into service?", stars=2,
        check=decision({
            "arm": {
                "distilled_4": "",
                "teacher": "a text takes it 24 ms, and may take 10",
                "distilled_6": "nothing is lost with it, but a text takes 13 ms and may take 10",
                "smoothed_4": "its interval reaches to -1.6: a loss of more than a point is not excluded",
                "labels_4": "its interval reaches to -1.9: a loss of more than a point is not excluded",
                "distilled_2": "its whole interval lies below -1: the loss would be noticed",
            },
            "because": {
                "a": "",
                "b": "no significant difference is no evidence of a small one: that of smoothed labels is not significant either",
                "c": "keeping 97 % of 92.0 would allow a loss of 2.8 points, and more than one would be noticed",
            },
            "teaching": {
                "b": "",
                "a": "against smoothed labels the interval holds 0: a teacher who knows nothing may do as well",
                "c": "against labels alone the whole interval lies above 0",
            },
            "unless": {
                "a": "",
                "b": "a training loss is about the texts that were read, and other losses are on another scale",
                "c": "other tasks, other mails: the table has two layers, and there they lose more than a point",
            },
        }),
        hints=(
            "Which arms take 10 ms or less? Of these, whose whole interval lies above -1?",
            "A comparison with hard labels cannot tell a teacher from any softening. Which one can?",
        ),
    ),
)  # fmt: skip
