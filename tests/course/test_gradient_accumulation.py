"""Lesson 06: its equations by independent naive functions, its exercises by right and wrong answers, its pages run."""

import math
import re
import tempfile

import numpy as np
import pytest
from tests.course.lessons import altered, solution, stub, told

from bertcraft.course import shelf
from bertcraft.techniques import gradient_accumulation as technique
from bertcraft.tensor import functions as F
from bertcraft.tensor import value_and_grad

SLUG = "gradient_accumulation"


# ------------------------------------------------------------------------------------------------------- the equations


def problem(seed=0, rows=8):
    """A softmax over four words for rows of very unequal numbers of tokens, and its weights."""
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(6) < rng.integers(1, 7, (rows, 1)), rng.integers(0, 4, (rows, 6)), F.IGNORED)
    return {"x": rng.standard_normal((rows, 6, 3)), "labels": labels}, rng.standard_normal((3, 4))


def loss(w, part, rng=None):
    return F.cross_entropy(part["x"] @ w, part["labels"])


def token_gradients(w, part):
    """Loss and gradient of every predicted token, one at a time, from the definition of a softmax."""
    losses, gradients = [], []
    for x, label in zip(part["x"].reshape(-1, 3), part["labels"].ravel(), strict=True):
        if label != F.IGNORED:
            scores = [sum(x[i] * w[i, j] for i in range(3)) for j in range(4)]
            p = np.array([math.exp(s) for s in scores]) / sum(math.exp(s) for s in scores)
            losses.append(-math.log(p[label]))
            gradients.append(np.outer(x, p - np.eye(4)[label]))
    return np.array(losses), np.array(gradients)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_equations_1_and_2_token_by_token(size):
    batch, w = problem()
    losses, gradients = token_gradients(w, batch)
    value, gradient = technique.accumulate(loss, w, technique.micro_batches(batch, size))
    assert float(value) == pytest.approx(losses.mean())
    np.testing.assert_allclose(gradient, gradients.mean(axis=0), atol=1e-12)


def test_equations_3_to_5_token_by_token():
    batch, w = problem(1)
    parts = technique.micro_batches(batch, 2)
    each = [token_gradients(w, part) for part in parts]
    counts = np.array([len(losses) for losses, _ in each])
    means = np.array([losses.mean() for losses, _ in each])
    assert len(set(counts)) > 1
    value, gradient = technique.accumulate(loss, w, parts, technique.equally)
    assert float(value) == pytest.approx(sum(means) / len(means)), "equation (3)"

    favours = solution(SLUG, "favour")(counts)
    N = counts.sum()
    weighted = sum(favour / N * g.sum(axis=0) for favour, (_, g) in zip(favours, each, strict=True))
    np.testing.assert_allclose(gradient, weighted, atol=1e-12, err_msg="equation (4)")

    whole_value, whole = value_and_grad(loss)(w, batch)
    covariance = sum((n - counts.mean()) * (m - means.mean()) for n, m in zip(counts, means, strict=True)) / len(counts)
    assert float(value) - float(whole_value) == pytest.approx(-covariance / counts.mean()), "equation (5)"
    g = np.array([g.mean(axis=0) for _, g in each])
    by_entry = np.mean((counts - counts.mean())[:, None, None] * (g - g.mean(axis=0)), axis=0)
    np.testing.assert_allclose(gradient - whole, -by_entry / counts.mean(), atol=1e-12, err_msg="(5) for the gradient")


def test_equation_7_for_unrelated_counts():
    rng = np.random.default_rng(0)
    K, sigma, errors = 64, 2.0, []
    for _ in range(2000):
        n, g = rng.choice([5, 15], K), sigma * rng.standard_normal(K)
        errors.append(g.mean() - (n * g).sum() / n.sum())
    assert np.std(errors) == pytest.approx(0.5 * sigma / K**0.5, rel=0.06)  # c = 5 / 10


def test_equation_6_counts_for_bert_base():
    """Korthikanti et al. 2022: 34 s b h + 5 a s^2 b bytes a layer; the figures that the text and the decision state."""
    s, h, a, layers = 512, 768, 12, 12
    one, flash = layers * (34 * s * h + 5 * a * s * s), layers * 34 * s * h
    states = 16 * 110e6
    assert one / 1e9 == pytest.approx(0.35, abs=0.005) and flash / 1e9 == pytest.approx(0.16, abs=0.005)
    assert states / one == pytest.approx(5, abs=0.1) and states / flash == pytest.approx(11, abs=0.1)
    assert one * 256 / 1e9 == pytest.approx(90, abs=1)
    inputs = layers * 2 * s * h  # 16 bits each
    peaks = [states + 64 * one, states + 8 * one, states + 64 * (inputs + one / layers)]
    assert [peak / 1e9 for peak in peaks] == pytest.approx([24.1, 4.6, 4.2], abs=0.05)
    assert math.sqrt(1 + 0.3**2) == pytest.approx(1.04, abs=0.005)


def test_equation_8_row_by_row():
    rng = np.random.default_rng(0)
    first, second, tau = rng.standard_normal((5, 3)), rng.standard_normal((5, 3)), 0.2
    losses = []
    for i in range(5):
        s = [first[i] @ b / math.sqrt(first[i] @ first[i]) / math.sqrt(b @ b) for b in second]
        losses.append(-math.log(math.exp(s[i] / tau) / sum(math.exp(x / tau) for x in s)))
    assert float(technique.in_batch_negatives(first, second, tau)) == pytest.approx(np.mean(losses))
    same = np.ones((64, 3))
    assert float(technique.in_batch_negatives(same, same)) == pytest.approx(math.log(64)) == pytest.approx(4.16, abs=0.005)
    assert float(technique.in_batch_negatives(same[:8], same[:8])) == pytest.approx(2.08, abs=0.005)


def test_equation_9_for_linear_vectors():
    """Z = X w: dL/dw is the sum over micro-batches of X_k^T G_k, with G by finite differences."""
    rng = np.random.default_rng(0)
    a, b, w = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), rng.standard_normal((3, 3))

    def whole(za, zb):
        return float(technique.in_batch_negatives(za, zb, 1.0))

    expected, step = np.zeros((3, 3)), 1e-6
    for start in (0, 2):
        for x, side in ((a, 0), (b, 1)):
            for i in range(start, start + 2):
                for j in range(3):
                    up, down = [a @ w, b @ w], [a @ w, b @ w]
                    up[side][i, j] += step
                    down[side][i, j] -= step
                    expected[:, j] += x[i] * (whole(*up) - whole(*down)) / (2 * step)
    parts = technique.micro_batches({"first": a, "second": b}, 2)
    _, gradient = technique.cached_value_and_grad(
        lambda w, part, rng: (part["first"] @ w, part["second"] @ w),
        lambda za, zb: technique.in_batch_negatives(za, zb, 1.0), w, parts,
    )  # fmt: skip
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_the_factor_that_adam_forgives():
    """Exercise 8.7: K times the gradients are the same steps with epsilon / K."""
    from bertcraft.train import adamw

    gradients = np.random.default_rng(0).standard_normal((5, 3)) * 1e-3
    ends = []
    for factor, eps in ((1, 1e-4), (8, 8e-4)):
        rule, w = adamw(0.1, eps=eps, weight_decay=0.0), np.zeros(3)
        state = rule.init(w)
        for g in gradients:
            move, state = rule.update(factor * g, state, w)
            w = w + move
        ends.append(w)
    np.testing.assert_allclose(*ends, rtol=1e-9)


def recipe(slug):
    """The Python that section 7 prints without running it."""
    [path] = shelf.folder("lessons").glob(f"[0-9][0-9]_{slug}.py")
    text = re.sub(r"^# ?", "", path.read_text(encoding="utf-8"), flags=re.M)
    return re.search(r"^```python\n(.*?)^```", text, re.S | re.M)[1]


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "clipped_gradient", stub(SLUG, "clipped_gradient"))
    assert state == "wrong"
    assert "add first, clip once" in text


WEIGHED = "np.sum(means[some] * counts[some]) / np.sum(counts)"
SCALED = "total * (limit / norm)"
SHORT_AGAIN = "    rest = len(counts) % K\n    shares[-rest:] = counts[-rest:] / counts[-rest:].sum()\n    return shares"
WRONG = [
    ("window_loss", WEIGHED, "np.mean(means[some])", "the bug itself"),
    ("window_loss", WEIGHED, "np.sum(means[some] * counts[some])", "divide by their number"),
    ("window_loss", WEIGHED, "np.sum(means[some] * counts[some]) / len(counts)", "divide by the number of tokens"),
    ("window_loss", WEIGHED, "np.sum(means * counts) / np.sum(counts)", "0 * nan is nan"),
    ("window_loss", WEIGHED, "np.average(means[some], weights=1 / counts[some])", "the *more* it counts"),
    ("favour", "np.mean(counts) / counts", "counts / np.mean(counts)", "the other way round"),
    ("favour", "np.mean(counts) / counts", "1 / (len(counts) * counts)", "divide it by what it should count"),
    ("favour", "np.mean(counts) / counts", "np.sum(counts) / counts", "K times too large"),
    ("favour", "np.mean(counts) / counts", "counts / np.sum(counts)", "the right share of a *micro-batch*"),
    ("clipped_gradient", "if norm > limit:", "if False:", "nothing is clipped"),
    ("clipped_gradient", "if norm > limit:", "if True:", "clipping only ever shortens"),
    ("clipped_gradient", "shares @ gradients", "gradients.mean(axis=0)", "weigh each by its share"),
    ("clipped_gradient", SCALED, "np.clip(total, -limit, limit)", "keep its direction"),
    ("clipped_gradient", SCALED, "total / norm", "scale to `limit`"),
    ("window_shares", "window / window.sum()", "1 / K", "adds up to 1/2"),
    ("window_shares", "window / window.sum()", "window / counts.sum()", "over the whole epoch"),
    ("window_shares", "window / window.sum()", "1 / len(window)", "count equally"),
    ("window_shares", "    return shares", "    return shares[: len(counts) // K * K]", "thrown away"),
    ("window_shares", "window / window.sum()", "window / window.sum() * len(window) / K", "as if K micro-batches were in it"),
    ("machine_factors", "counts * len(counts) / np.sum(counts)", "counts / np.sum(counts)", "2 times too small"),
    (
        "machine_factors", "counts * len(counts) / np.sum(counts)", "counts / np.sum(counts, axis=1, keepdims=True)",
        "mean of means again",
    ),
    ("machine_factors", "counts * len(counts) / np.sum(counts)", "counts / np.sum(counts, axis=0)", "over one axis only"),
    ("machine_factors", "counts * len(counts)", "0 * counts + len(counts)", "their n is missing"),
    ("window_shares", "    return shares", SHORT_AGAIN, "where no window is short"),
    ("machine_factors", "len(counts)", "counts.shape[1]", "you multiply by K"),
    ("machine_factors", "len(counts)", "counts.size", "K times too large"),
    ("machine_factors", "len(counts)", "2", "the factors of 3 machines"),
    ("which_way", '"accumulation", "because"', '"recomputation", "because"', "takes longer"),
    ("which_way", '"accumulation", "because"', '"small", "because"', "nothing is shown for it"),
    ("which_way", '"because": "b"', '"because": "a"', "what fits, fits"),
    ("which_way", '"because": "b"', '"because": "c"', "shows no equality"),
    ("which_way", '"unless": "b"', '"unless": "a"', "the spread between runs"),
    ("which_way", '"unless": "b"', '"unless": "c"', "does not depend on the batch"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


def test_the_factors_of_several_machines_give_the_gradient_of_all_tokens():
    """W machines average what they accumulated; held against the whole, not against the formula."""
    batch, w = problem(3)
    machines = [technique.micro_batches(half, 2) for half in technique.micro_batches(batch, 4)]
    counts = np.array([[technique.predicted(part) for part in parts] for parts in machines])
    factors = solution(SLUG, "machine_factors")(counts)
    own = [
        sum(factor * value_and_grad(loss)(w, part)[1] for factor, part in zip(row, parts, strict=True))
        for row, parts in zip(factors, machines, strict=True)
    ]
    np.testing.assert_allclose(np.mean(own, axis=0), value_and_grad(loss)(w, batch)[1], atol=1e-12)


def test_the_recipe_for_a_csv_counts_rightly_where_the_trainer_alone_does_not():
    """Section 7's ``by_items``; transformers 5.23 alone adds up the means of BERT's classifier (issue 47688)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    code = re.search(r"def by_items.*?\n\n", recipe(SLUG), re.S)[0]
    names = {"cross_entropy": torch.nn.functional.cross_entropy}
    exec(code, names)

    rng = np.random.default_rng(3)
    ids, labels = torch.tensor(rng.integers(5, 50, (8, 12))), torch.tensor(rng.integers(0, 3, 8))
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).double().train()
    model(input_ids=ids, labels=labels).loss.backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()

    def step_of(loss_function, folder):
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        arguments = transformers.TrainingArguments(
            folder, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1, optim="sgd", learning_rate=1.0,
            lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
        transformers.Trainer(model, arguments, train_dataset=rows, compute_loss_func=loss_function).train()
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.nn.utils.vector_to_parameters(before, model.parameters())
        return before - after

    with tempfile.TemporaryDirectory() as folder:
        torch.testing.assert_close(step_of(names["by_items"], folder), whole, rtol=0, atol=1e-10)
        torch.testing.assert_close(step_of(None, folder), 4 * whole, rtol=0, atol=1e-10)
