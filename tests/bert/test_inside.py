"""Hidden states and attention probabilities of every layer, against transformers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bertcraft.bert.model import Model

sys.path.insert(0, str(Path(__file__).parent))
from transformers_models import FAMILIES, inputs, make, ours


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, "roberta-prelayernorm"])
def test_every_layer_equals_transformers(family, padded):
    network = make(family, "base", 8)
    arrays = inputs(network, 8, padded=padded)
    with torch.no_grad():
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        theirs = network(**tensors, output_hidden_states=True, output_attentions=True)
    model = Model(*ours(network, family, "base"))
    out = model(**arrays, output_hidden_states=True, output_attentions=True)
    real = arrays.get("attention_mask", np.ones_like(arrays["input_ids"])) == 1
    assert len(out.hidden_states) == len(theirs.hidden_states) == len(out.attentions) + 1 == len(theirs.attentions) + 1
    for state, expected in zip(out.hidden_states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(state[real], expected.numpy()[real], atol=1e-8)
    for attention, expected in zip(out.attentions, theirs.attentions, strict=True):
        rows = np.nonzero(real)
        np.testing.assert_allclose(attention[rows[0], :, rows[1]], expected.numpy()[rows[0], :, rows[1]], atol=1e-8)
        np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-12)
    plain = model(**arrays)
    assert plain.hidden_states is None and plain.attentions is None
    np.testing.assert_allclose(plain.last_hidden_state[real], out.hidden_states[-1][real], atol=1e-12)
    assert model(**arrays, output_attentions=True).hidden_states is None
