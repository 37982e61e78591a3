"""Lesson 12: its equations, naively, against the technique's code; its exercises with wrong answers that learners give."""

import math

import numpy as np
import pytest
from tests.course import lessons

import bertcraft as bc
from bertcraft.bert import Config, encoder
from bertcraft.techniques import adapter_modules as technique

SLUG = "adapter_modules"


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def linear(rng, out, into):
    return {"weight": rng.standard_normal((out, into)), "bias": rng.standard_normal(out)}


# ---------------------------------------------------------------------------------------------------------- equations


def naive_gelu(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def naive_linear(p, x):
    return [sum(w * number for w, number in zip(row, x, strict=True)) + b for row, b in zip(p["weight"], p["bias"], strict=True)]


def test_equation_1_the_bottleneck(rng):
    p, h = {"down": linear(rng, 3, 5), "up": linear(rng, 5, 3)}, rng.standard_normal(5)
    change = naive_linear(p["up"], [naive_gelu(x) for x in naive_linear(p["down"], h)])
    np.testing.assert_allclose(technique.bottleneck(p, h[None])[0], [a + b for a, b in zip(h, change, strict=True)], atol=1e-12)


def test_equation_1_by_hand():
    p = {
        "down": {"weight": np.array([[1.0, -1.0]]), "bias": np.zeros(1)},
        "up": {"weight": np.array([[0.5], [1.0]]), "bias": 0.0},
    }
    relu = lambda h: h + max(h[0] - h[1], 0) * np.array([0.5, 1])  # noqa: E731
    np.testing.assert_allclose([relu(np.array([3.0, 1])), relu(np.array([1.0, 3]))], [[4, 3], [1, 3]])
    found = technique.bottleneck(p, np.array([[3.0, 1], [1, 3]])) - np.array([[3.0, 1], [1, 3]])
    np.testing.assert_allclose(found[:, 1], [naive_gelu(2), naive_gelu(-2)])
    assert (round(naive_gelu(2), 3), round(naive_gelu(-2), 3)) == (1.954, -0.046)


def test_equation_2_counts_what_is_added():
    config = Config(family="bert", head="base", vocab_size=9, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
                    intermediate_size=16, max_position_embeddings=8)  # fmt: skip
    from bertcraft.bert import initial_params

    params = initial_params(config, 0)
    trained = technique.start(technique.houlsby(5), params, config, np.random.default_rng(0))
    heads = sum(leaf.size for leaf in technique.tree.leaves(params["bert"].get("pooler", {})))
    assert technique.count(trained) - heads == 2 * 3 * (2 * 5 * 8 + 5 + 8) + 3 * 4 * 8
    assert lessons.solution(SLUG, "adapter_count")(5, 8, 3, norms=True) == technique.count(trained) - heads


def test_equation_3_lora(rng):
    p, x, s = (
        {**linear(rng, 4, 3), "lora_A": rng.standard_normal((2, 3)), "lora_B": rng.standard_normal((4, 2))},
        rng.standard_normal(3),
        5 / 2,
    )
    change = [[sum(p["lora_B"][o, k] * p["lora_A"][k, i] for k in range(2)) for i in range(3)] for o in range(4)]
    naive = [
        z + s * sum(c * number for c, number in zip(row, x, strict=True))
        for z, row in zip(naive_linear(p, x), change, strict=True)
    ]
    np.testing.assert_allclose(technique.low_rank(p, x[None], s)[0], naive, atol=1e-12)
    np.testing.assert_allclose(np.array([[1.0], [0.0]]) @ np.array([[1.0, 1.0]]) @ np.array([1.0, 2.0]), [3, 0])


def naive_layer(rng, hidden=4, inner=6):
    layer = {"attention": {"self": {part: linear(rng, hidden, hidden) for part in ("query", "key", "value")}}}
    layer["attention"]["output"] = {"dense": {"weight": np.eye(hidden), "bias": np.zeros(hidden)}}
    return layer | {"intermediate": {"dense": linear(rng, inner, hidden)}, "output": {"dense": linear(rng, hidden, inner)}}


CONFIG = Config(family="bert", head="base", hidden_size=4, num_attention_heads=1, hidden_act="gelu")


def naive_attention(query, key, value):
    result = []
    for q in query:
        powers = [math.exp(sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q))) for k in key]
        result.append(sum(power / sum(powers) * v for power, v in zip(powers, value, strict=True)))
    return np.array(result)


def test_equation_4_ia3(rng):
    layer, x = naive_layer(rng), rng.standard_normal((3, 4))
    inner = layer["attention"]["self"]
    scales = {part: rng.standard_normal(4) for part in ("key", "value")}
    query, key, value = (np.array([naive_linear(inner[part], row) for row in x]) for part in ("query", "key", "value"))
    expected = naive_attention(query, key * scales["key"], value * scales["value"])
    for part, scale in scales.items():
        inner[part]["ia3"] = scale
    np.testing.assert_allclose(technique.ia3_attention(layer, x[None], x[None], None, CONFIG)[0], expected, atol=1e-12)
    scale = layer["output"]["dense"]["ia3"] = rng.standard_normal(6)
    fed = [
        naive_linear(
            layer["output"]["dense"],
            [naive_gelu(f) * s for f, s in zip(naive_linear(layer["intermediate"]["dense"], row), scale, strict=True)],
        )
        for row in x
    ]
    np.testing.assert_allclose(technique.ia3_feed_forward(layer, x[None], CONFIG)[0], fed, atol=1e-12)


def test_equation_5_a_prefix(rng):
    layer, x = naive_layer(rng), rng.standard_normal((3, 4))
    inner = layer["attention"]["self"]
    prefix = inner["prefix"] = {part: rng.standard_normal((2, 4)) for part in ("key", "value")}
    query, key, value = (np.array([naive_linear(inner[part], row) for row in x]) for part in ("query", "key", "value"))
    expected = naive_attention(query, [*prefix["key"], *key], [*prefix["value"], *value])
    np.testing.assert_allclose(technique.prefix_attention(layer, x[None], x[None], None, CONFIG)[0], expected, atol=1e-12)
    theirs = lessons.solution(SLUG, "attend_with_prefix")(query, key, value, prefix["key"], prefix["value"], np.ones(3))
    np.testing.assert_allclose(theirs, expected, atol=1e-12)


def test_equation_6_the_derivatives_of_lora(rng):
    p, x, g, s = linear(rng, 4, 3), rng.standard_normal(3), rng.standard_normal(4), 2.5
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((4, 2))
    found = bc.grad(lambda ab: np.sum(technique.low_rank({**p, "lora_A": ab[0], "lora_B": ab[1]}, x[None], s) * g))((a, b))
    np.testing.assert_allclose(found[0], s * np.outer(b.T @ g, x), atol=1e-12)
    np.testing.assert_allclose(found[1], s * np.outer(g, a @ x), atol=1e-12)


def test_the_wiring_without_adapters_of_any_effect_is_the_plain_one(rng):
    layer, x = naive_layer(rng), rng.standard_normal((1, 3, 4))
    norms = {"weight": rng.standard_normal(4), "bias": rng.standard_normal(4)}
    zero = {"down": linear(rng, 2, 4), "up": {"weight": np.zeros((4, 2)), "bias": np.zeros(4)}}
    for half in (layer["attention"]["output"], layer["output"]):
        half |= {"LayerNorm": norms, "adapter": zero}
    plain = encoder.post_layer_norm(layer, x, x, None, CONFIG, encoder.BERT)
    assert np.array_equal(technique.houlsby_wiring(layer, x, x, None, CONFIG, encoder.BERT), plain)


# ---------------------------------------------------------------------------------------------------------- exercises


def test_the_bugs_to_be_found_are_told_what_they_do():
    state, text = lessons.told(SLUG, "start_lora", lessons.stub(SLUG, "start_lora"))
    assert state == "wrong"
    assert "Neither ever moves" in text
    state, text = lessons.told(SLUG, "peft_settings", lessons.stub(SLUG, "peft_settings"))
    assert state == "wrong"
    assert "the whole head is frozen" in text


WRONG = {
    "adapter_count": (
        ("2 * layers *", "layers *", "two, one behind the attention"),
        ("2 * layers *", "2 *", "multiply by the number of layers"),
        ("2 * size * hidden + size + hidden", "2 * size * hidden", "biases are missing"),
        ("2 * size * hidden + size + hidden", "2 * size * hidden + 2 * hidden", "r numbers, not H"),
        ("2 * size * hidden + size + hidden", "2 * size * hidden + 2 * size", "H numbers, not r"),
        ("2 * hidden if norms else 0", "2 * hidden", "only with norms=True"),
        ("2 * hidden if norms else 0", "hidden if norms else 0", "a weight *and* a bias"),
        ("2 * hidden if norms else 0", "0", "the same count as norms=False"),
    ),
    "start_lora": (
        ("np.zeros((out, rank), np.float32)", "rng.standard_normal((out, rank)).astype(np.float32)", "start changes the model"),
        ("a.astype(np.float32)", "a", "A is float64"),
        ("rng.standard_normal((rank, into))", "np.ones((rank, into))", "has rank 1, expected 3"),
        ("rng.standard_normal((rank, into))", "rng.standard_normal((into, rank))", "A has shape"),
        ("rng.standard_normal((rank, into)) / np.sqrt(into)", "np.zeros((rank, into))", "Neither ever moves"),
    ),
    "attend_with_prefix": (
        ("np.ones(len(prefix_key)), mask", "mask, np.ones(len(prefix_key))", "grew at its end"),
        ("np.ones(len(prefix_key))", "np.zeros(len(prefix_key))", "unmasked"),
        ("mask == 1", "mask >= 0", "the mask is not used"),
        ("-np.inf", "0", "no weight of 0"),
        ("np.concatenate([prefix_value, value])", "np.concatenate([0 * prefix_value, value])", "hands over zeros"),
        (" / math.sqrt(query.shape[1])", "", "not divided by the square root"),
        ("    scores = np.where", "    query = np.concatenate([prefix_key, query])\n    scores = np.where", "no queries"),
    ),
    "peft_settings": (
        ('["pooler.dense", "classifier"]', '["classifier"]', "the pooler is frozen at random numbers"),
        ('["pooler.dense", "classifier"]', '["pooler.dense"]', "the classifier is frozen at random numbers"),
        ('["pooler.dense", "classifier"]', '["dense", "classifier"]', "the end of many names"),
        ('["pooler.dense", "classifier"]', '["pooler.dense", "classifier", "embeddings"]', "only LoRA is to be trained"),
        ('"modules_to_save": on_top', '"task_type": "SEQ_CLS"', "the pooler is frozen at random numbers"),
        ('["query", "value"]', '["query", "key"]', "queries and values"),
        ('"modules_to_save": on_top', '"modules_to_save": "pooler.dense", "task_type": "SEQ_CLS"', "expected a list of names"),
        ('"modules_to_save": on_top', '"modules_to_save": on_top, "bias": "all"', "trains biases of the encoder"),
        ('"modules_to_save": on_top', '"modules_to_save": on_top, "task_type": "TOKEN_CLS"', "a classifier of texts"),
        ('"r": 8', '"r": 4', "r is 4"),
    ),
    "take": (
        ('"lora"', '"full"', "8.8 GB"),
        ('"lora"', '"lora_merged"', "a whole model"),
        ('"lora"', '"houlsby"', "a third of its memory"),
        ('"lora"', '"bitfit"', "is not excluded"),
        ('"lora"', '"head"', "wholly below -1"),
        ('"because": "a", "unless": "b"', '"because": "b", "unless": "b"', "no evidence of a small one"),
        ('"because": "a", "unless": "b"', '"because": "c", "unless": "b"', "ten points"),
        ('"unless": "b"', '"unless": "a"', "one seed of eleven"),
        ('"unless": "b"', '"unless": "c"', "your own tasks"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_answer_gets_the_message_meant_for_it(name, old, new, message):
    state, text = lessons.told(SLUG, name, lessons.altered(SLUG, name, old, new))
    assert state == "wrong"
    assert message in text


def test_a_task_type_and_the_pooler_will_do_too_and_peft_trains_what_the_checker_says():
    def peft_settings():
        return {"r": 8, "target_modules": ("value", "query"), "task_type": "SEQ_CLS", "modules_to_save": ["pooler"]}

    assert lessons.told(SLUG, "peft_settings", peft_settings) == ("solved", "")
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    shape = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    defaults = {"modules_to_save": ["pooler.dense", "classifier"]}  # r and target_modules are those that are asked for
    assert lessons.told(SLUG, "peft_settings", lambda: defaults) == ("solved", "")
    for settings in (peft_settings(), lessons.solution(SLUG, "peft_settings")(), defaults):
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**shape))
        model = peft.get_peft_model(model, peft.LoraConfig(**settings))
        assert {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name} == {"query", "value"}
        trained = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
        assert {"pooler" in name or "classifier" in name for name in trained} == {True} and len(trained) == 4


def test_the_rows_of_a_must_differ_not_its_numbers():
    def start_lora(out, into, rank, rng):
        return np.eye(rank, into, dtype=np.float32), np.zeros((out, rank), np.float32)

    assert lessons.told(SLUG, "start_lora", start_lora) == ("solved", "")


def test_a_random_b_beside_a_zero_a_is_a_good_start_too():
    def start_lora(out, into, rank, rng):
        return np.zeros((rank, into), np.float32), rng.standard_normal((out, rank)).astype(np.float32)

    assert lessons.told(SLUG, "start_lora", start_lora) == ("solved", "")


# ------------------------------------------------------------------------------------------------------------ the lesson


@pytest.mark.parametrize("solved", [False, True])
def test_the_page_shows_what_it_promises(solved):
    notebook = lessons.built(SLUG, solved)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 8 and all(output["metadata"]["image/png"]["alt"] for output in images)
    text = "".join(output.get("text", "") for output in outputs)
    assert "trained in peft" in text and "LoRA here and in peft: largest difference" in text  # the production cells ran
    plain = [output.get("data", {}).get("text/plain", "") for output in outputs]
    assert sum(each.startswith("Solved: ") for each in plain) == (5 if solved else 0)
