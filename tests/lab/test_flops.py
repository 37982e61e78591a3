"""The counter of products, against PyTorch's own on the same model, and against formulas."""

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import bertcraft as bc
from bertcraft.bert import Config, encoder, heads, initial_params
from bertcraft.lab import flops

ROWS, LENGTH = 3, 13
IDS = np.random.default_rng(0).integers(5, 90, (ROWS, LENGTH))


def config():
    return Config(
        family="bert", head="masked_lm", vocab_size=97, hidden_size=36, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=50, max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def loss(params, ids, config):
    return heads.masked_lm_loss(params, config, encoder.encode(params, config, ids), ids)


def torchs(backward: bool) -> int:
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=97, hidden_size=36, num_hidden_layers=3, num_attention_heads=3, intermediate_size=50,
            max_position_embeddings=16, attn_implementation="eager",
        )
    )  # fmt: skip
    ids = torch.tensor(IDS)
    with FlopCounterMode(display=False) as counter:
        value = model(ids, labels=ids).loss
        if backward:
            value.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backward", [False, True])
def test_a_bert_costs_what_pytorch_counts(backward):
    params = initial_params(config(), 0)
    function = bc.value_and_grad(loss) if backward else loss
    assert flops.count(function, params, IDS, config()) == torchs(backward)


def test_only_what_depends_on_a_parameter_is_differentiated():
    w, x = np.ones((3, 4), np.float32), np.ones((5, 3), np.float32)
    forward = flops.count(lambda w, x: x @ w, w, x)
    assert forward == 2 * 5 * 3 * 4
    assert flops.count(bc.value_and_grad(lambda w, x: np.sum(x @ w)), w, x) == 2 * forward  # no gradient for x


def test_the_gradient_of_a_gradient_is_counted():
    w, x = np.ones((3, 3)), np.ones((5, 3))
    inner = bc.grad(lambda w, x: np.sum(np.tanh(x @ w) ** 2))
    first = flops.count(inner, w, x)
    second = flops.count(bc.grad(lambda w, x: np.sum(inner(w, x) ** 2)), w, x)
    assert first == 2 * (2 * 5 * 3 * 3)  # x w, and its transpose times the gradient
    assert second == 2 * first  # each of the two is differentiated by w once more


def test_counting_changes_no_value():
    params = initial_params(config(), 1, np.float64)
    plain = loss(params, IDS, config())
    seen = []
    flops.count(lambda p: seen.append(float(loss(p, IDS, config()))), params)
    np.testing.assert_allclose(seen[0], plain, rtol=1e-12)


def test_a_vector_counts_as_a_row_or_a_column():
    a, b, v = np.ones((4, 3)), np.ones((3, 2)), np.ones(3)
    assert flops.count(lambda a, v: a @ v, a, v) == 2 * 4 * 3
    assert flops.count(lambda v, b: v @ b, v, b) == 2 * 3 * 2
    assert flops.count(lambda a, b: np.stack([a, a]) @ b, a, b) == 2 * 2 * 4 * 3 * 2
