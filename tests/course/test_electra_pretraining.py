"""Lesson 02: its equations by independent naive functions, its exercises by right and wrong answers, its pages run."""

import itertools
import math

import numpy as np
import pytest
from tests.course.lessons import altered, solution, stub, told

from bertcraft.bert import Config, encode, heads
from bertcraft.course import measured
from bertcraft.lab import statistics, verdicts
from bertcraft.lab.experiments import electra_pretraining as module
from bertcraft.techniques import electra_pretraining as technique
from bertcraft.techniques.roberta_optimizations import mask_tokens
from bertcraft.tensor import tree

SLUG = "electra_pretraining"
DISCRIMINATOR = Config(
    family="electra", head="replaced_token_detection", vocab_size=20, embedding_size=6, hidden_size=8, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=10, max_position_embeddings=9, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)  # fmt: skip
BOTH = {"generator": technique.generator_config(DISCRIMINATOR, 0.5), "discriminator": DISCRIMINATOR}


# ------------------------------------------------------------------------------------------------------- the equations


@pytest.fixture(scope="module")
def played():
    """A batch of rows of unequal length, parameters, and what the technique makes of them."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 20, (4, 9))
    ids[2:, 6:] = 0
    masked = mask_tokens(ids, rng.random((4, 27)), mask_id=4, vocab_size=20, first_word_id=5, rate=0.4)
    mask = (ids != 0).astype(np.int64)
    batch = technique.electra_batch({**masked._asdict(), "attention_mask": mask}, rng.random((4, 9)))
    params = technique.initial_params(*BOTH.values(), 1, "separate", np.float64)
    params = tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape), params)
    return ids, batch, params, technique.losses(params, batch, None, **BOTH, sharing="separate")


def test_equation_1_is_the_mean_surprise_of_a_softmax_over_embeddings(played):
    ids, batch, params, parts = played
    generator = params["generator"]
    hidden = encode(generator, BOTH["generator"], batch["input_ids"], batch["attention_mask"], at=batch["at"])
    g = hidden @ generator["generator_predictions"]["dense"]["weight"].T + generator["generator_predictions"]["dense"]["bias"]
    g = 0.5 * g * (1 + np.vectorize(math.erf)(g / math.sqrt(2)))
    norm = generator["generator_predictions"]["LayerNorm"]
    g = (g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + 1e-12) * norm["weight"] + norm["bias"]
    table, b = generator["electra"]["embeddings"]["word_embeddings"]["weight"], generator["generator_lm_head"]["bias"]
    surprise = []
    for row, column in zip(*np.nonzero(batch["labels"] >= 0), strict=True):
        scores = [math.exp(sum(table[w] * g[row, column]) + b[w]) for w in range(20)]
        surprise.append(-math.log(scores[batch["labels"][row, column]] / sum(scores)))
    assert float(parts.masked_lm) == pytest.approx(np.mean(surprise), rel=1e-9)


def test_equation_2_token_by_token(played):
    ids, batch, params, parts = played
    hidden = encode(params["generator"], BOTH["generator"], batch["input_ids"], batch["attention_mask"], at=batch["at"])
    logits = heads.masked_lm_logits(params["generator"], BOTH["generator"], hidden)
    drawn = technique.sample(logits, batch["draw"])
    for row in range(len(ids)):
        places = {int(t): m for m, t in enumerate(batch["at"][row]) if batch["labels"][row, m] >= 0}
        for t in range(ids.shape[1]):
            shown = drawn[row, places[t]] if t in places else ids[row, t]
            assert parts.replaced.input_ids[row, t] == shown
            assert parts.replaced.fake[row, t] == (shown != ids[row, t])
    assert parts.replaced.fake.any()


def test_equations_3_and_4_by_logarithms_of_sigmoids(played):
    _, batch, params, parts = played
    hidden = encode(params["discriminator"], DISCRIMINATOR, parts.replaced.input_ids, batch["attention_mask"])
    z = heads.detection_logits(params["discriminator"], DISCRIMINATOR, hidden)
    lost = []
    for row, t in zip(*np.nonzero(batch["attention_mask"]), strict=True):
        said = 1 / (1 + math.exp(-z[row, t]))
        lost.append(-math.log(said if parts.replaced.fake[row, t] else 1 - said))
    assert float(parts.detection) == pytest.approx(np.mean(lost), rel=1e-9)
    total = technique.electra_loss(params, batch, None, **BOTH, sharing="separate")
    assert float(total) == pytest.approx(float(parts.masked_lm) + 50 * np.mean(lost), rel=1e-9)


def game(p, p_g, rate, tokens=40_000):
    """The game at one place, played: which word was shown, and whether it was a fake."""
    rng = np.random.default_rng(0)
    words = np.arange(len(p))
    true, drawn = rng.choice(words, tokens, p=p), rng.choice(words, tokens, p=p_g)
    masked = rng.random(tokens) < rate
    shown = np.where(masked, drawn, true)
    return shown, shown != true


P, P_G, RATE = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), 0.4


def test_equation_5_by_enumeration_and_by_play():
    right = sum(P[w] * P_G[w] for w in range(3))
    f = sum(P[true] * RATE * P_G[drawn] for true, drawn in itertools.product(range(3), repeat=2) if true != drawn)
    assert RATE * (1 - right) == pytest.approx(f)
    assert game(P, P_G, RATE)[1].mean() == pytest.approx(f, abs=0.01)


def test_equation_6_is_the_least_loss_of_one_answer_for_all_words():
    """Rows of 18 words and 2 special tokens, which are known to be no fakes and cost nothing."""
    f, words, tokens = 0.15 * (1 - 0.3), 18, 20
    answers = np.linspace(0.001, 0.999, 999)
    lost = [words / tokens * (-f * math.log(q) - (1 - f) * math.log(1 - q)) for q in answers]
    assert answers[int(np.argmin(lost))] == pytest.approx(f, abs=1e-3)
    assert words / tokens * solution(SLUG, "chance_loss")(0.15, 0.3) == pytest.approx(min(lost), abs=1e-5)


@pytest.mark.parametrize("p_g", [P_G, P])
def test_equations_7_and_8_by_play(p_g):
    shown, fake = game(P, p_g, RATE)
    best = solution(SLUG, "best_answer")(P, p_g, RATE)
    for word in range(3):
        assert best[word] == pytest.approx(fake[shown == word].mean(), abs=0.02)
    if p_g is P:
        np.testing.assert_allclose(best, RATE * (1 - P))


# ------------------------------------------------------------------------------------------------------- the exercises


def test_the_bug_to_be_found_is_told_what_it_does():
    state, text = told(SLUG, "fake_labels", stub(SLUG, "fake_labels"))
    assert state == "wrong" and "2 of the 4 masked tokens got their own word back" in text


BEST = "return np.divide(fakes, shown, out=np.zeros_like(shown), where=shown > 0)"
REACHED = "sums[:, :-1] <= uniform[:, None] * sums[:, -1:]"
MEAN = "float(terms[attention_mask == 1].mean())"
WRONG = [
    ("fake_labels", "corrupted != original", "corrupted == original", "changed places"),
    ("fake_labels", "corrupted != original", "masked & (corrupted == original)", "ones that are no fakes"),
    ("fake_labels", "corrupted != original", "(corrupted != original).astype(np.int64)", "booleans are wanted"),
    ("chance_loss", "rate * (1 - right)", "rate", "the draws that are right are no fakes"),
    ("chance_loss", "rate * (1 - right)", "rate * right", "fakes are the others"),
    ("chance_loss", " - (1 - f) * np.log1p(-f)", "", "one half of (6)"),
    ("chance_loss", "float(-f", "float(f", "expected"),
    ("chance_loss", "return float(", "return 1 / np.log(2) * float(", "in bits"),
    ("chance_loss", "if f in (0, 1):", "if f == 1:", "0 ln 0"),
    ("draw_words", "reached.sum(axis=-1)", "p.argmax(axis=-1)", "choosing, not drawing"),
    ("draw_words", "<= uniform[", "< uniform[", "has been used up"),
    ("draw_words", "reached.sum(axis=-1)", "reached.sum(axis=-1) + 1", "one too high"),
    ("draw_words", " - logits.max(axis=-1, keepdims=True)", "", "overflow in exp"),
    ("draw_words", "np.exp(logits - logits.max(axis=-1, keepdims=True))", "logits", "exp first"),
    ("draw_words", REACHED, "sums / sums[:, -1:] * (1 - 1e-7) <= uniform[:, None]", "beyond"),
    ("detection_loss", MEAN, "float(terms.mean())", "the padding is judged, too"),
    ("detection_loss", MEAN, "float((terms * attention_mask).mean())", "divided by all places"),
    ("detection_loss", MEAN, "float(np.mean([t[m == 1].mean() for t, m in zip(terms, attention_mask)]))", "counts more"),
    ("detection_loss", "fake * logits", "(1 - fake) * logits", "changed places"),
    ("detection_loss", "np.logaddexp(0, logits)", "np.log(1 + np.exp(logits))", "exp overflows"),
    ("detection_loss", MEAN, "float(terms[fake].mean())", "only the fakes are judged"),
    ("detection_loss", MEAN, "terms", "a loss for each token"),
    ("detection_loss", MEAN, "float(terms[attention_mask].mean())", "attention_mask == 1"),
    ("best_answer", "rate * p_generator * (1 - p)", "rate * p_generator", "one that happens to be the text's"),
    ("best_answer", "rate * p_generator\n    return", "rate * p_generator * (1 - p)\n    return", "drawn and right"),
    ("best_answer", BEST, "return rate * (1 - p)", "that is (8)"),
    ("best_answer", BEST, "return p_generator / (p + p_generator)", "of a GAN"),
    ("best_answer", BEST, "return fakes / shown", "0 / 0"),
    ("goes_on", '"run": "B"', '"run": "C"', "because fakes are rare"),
    ("goes_on", '"run": "B"', '"run": "A"', "it stands at chance"),
    ("goes_on", '"because": "c"', '"because": "b"', "from ln 2 to chance"),
    ("goes_on", '"c_is": "b"', '"c_is": "c"', "the best generator of the three"),
    ("goes_on", '"unless": "b"', '"unless": "a"', "may be rarer fakes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_a_wrong_answer_is_told_why(name, old, new, message):
    with np.errstate(all="ignore"):
        state, text = told(SLUG, name, altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


RIGHT = [
    ("fake_labels", "corrupted != original", "masked & (corrupted != original)"),
    ("chance_loss", "if f in (0, 1):\n        return 0.0", "f = np.clip(f, 1e-12, 1 - 1e-12)"),
    ("draw_words", "return reached.sum(axis=-1)", """p /= p.sum(axis=-1, keepdims=True)
    return np.minimum((np.cumsum(p, axis=-1) <= uniform[:, None]).sum(axis=-1), p.shape[1] - 1)"""),
    ("detection_loss", MEAN, "np.average(terms, weights=attention_mask)"),
    ("best_answer", BEST, "return np.nan_to_num(fakes / shown)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), RIGHT)
def test_another_right_answer_is_solved(name, old, new):
    assert told(SLUG, name, altered(SLUG, name, old, new)) == ("solved", "")


# ----------------------------------------------------------------------------------------------------------- the pages


def test_what_the_lesson_says_of_the_stored_runs():
    experiment, runs = module.EXPERIMENT, measured.runs(SLUG)
    assert verdicts.primary(experiment, runs).verdict == statistics.NOT_TESTABLE
    found = {(run["arm"], run["seed"]): run["figures"] for run in runs}
    of = lambda arm, figure: {seed: figures[figure] for (each, seed), figures in found.items() if each == arm}  # noqa: E731
    tfidf = of("tfidf", "accuracy")
    for arm, above in (("mlm", 5.3), ("electra", 7.5)):
        scores = of(arm, "accuracy")
        assert len(tfidf) == 5 and len(scores) == 10
        assert np.mean([tfidf[seed] - scores[seed] for seed in tfidf]) == pytest.approx(above, abs=0.051)
    gained = np.mean([of("mlm", "accuracy")[seed] - of("untrained", "accuracy")[seed] for seed in range(10)])
    assert round(gained) == 4
    gaps = np.mean([[each["gap"] for each in seen] for seen in of("electra", "seen").values()], axis=0)
    assert (gaps[:-1] > -0.5).all() and gaps[-1] < -0.5, "four of five points before the generator had learnt"
    means = [np.mean(list(of("electra", figure).values())) for figure in ("loss_kept", "loss")]
    assert [round(mean, 1) for mean in means] == [5.0, 6.0], "the generator copies"


def test_what_the_lesson_says_of_the_figures():
    """Numbers that the text states without computing them on the page."""
    entropy = lambda f: -f * math.log(f) - (1 - f) * math.log(1 - f)  # noqa: E731
    assert 0.15 * 0.96 == pytest.approx(0.144)
    assert 0.9 * entropy(0.144) == pytest.approx(0.371, abs=5e-4)
    by_hand = -(2 * math.log(0.9) + math.log(0.4)) / 3
    assert by_hand == pytest.approx(0.376, abs=5e-4)
    assert math.log(2) + 50 * by_hand == pytest.approx(19.5, abs=0.05)
    assert 0.15 * 0.5 == pytest.approx(0.075)
    chance = {run: 0.92 * entropy(f) for run, f in {"A": 0.145, "B": 0.118, "C": 0.080}.items()}  # of the decision
    below = {run: 1 - loss / chance[run] for run, loss in {"A": 0.380, "B": 0.306, "C": 0.256}.items()}
    assert below["B"] > 0.08 and max(abs(below["A"]), abs(below["C"])) < 0.005
    best = solution(SLUG, "best_answer")
    p = np.array([0.5, 0.01, 0.49])
    np.testing.assert_allclose(best(p, p, 0.15)[:2], [0.075, 0.149], atol=1e-3)
