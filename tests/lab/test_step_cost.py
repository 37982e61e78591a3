"""A step's memory and time: recomputation gives the plain gradient, and both ways to save memory do save it."""

import numpy as np
import pytest

from bertcraft.bert import initial_params
from bertcraft.lab import pretraining, step_cost
from bertcraft.tensor import tree

CONFIG = pretraining.config_of(pretraining.Setting(layers=3, hidden=64, length=16), 100)
WORDS = {"mask_id": 4, "vocab_size": 100, "first_word_id": pretraining.FIRST_WORD}


def batch_of(padded: bool) -> dict:
    ids = np.random.default_rng(0).integers(5, 100, (8, 16))
    if padded:
        ids[3, 9:], ids[5, 5:] = 0, 0
    return pretraining.mask(ids, np.arange(8), np.zeros(8), 0, 0.15, WORDS)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", [step_cost.ACCUMULATED, step_cost.RECOMPUTED])
def test_the_ways_to_save_memory_have_the_gradient_of_the_batch(way, padded):
    params, batch = initial_params(CONFIG, 0, np.float64), batch_of(padded)
    if not padded:
        batch.pop("attention_mask")
    value, whole = step_cost.step_gradient(step_cost.WHOLE, params, batch, CONFIG)
    other, found = step_cost.step_gradient(way, params, batch, CONFIG, 4)
    assert float(other) == pytest.approx(float(value), rel=1e-12)
    assert [name for name, _ in tree.items(found)] == [name for name, _ in tree.items(whole)]
    for (name, one), two in zip(tree.items(found), tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12, err_msg=name)
    assert all(np.abs(leaf).max() > 0 for name, leaf in tree.items(found) if "key.bias" not in name)


def test_a_process_measures_its_own_memory():
    whole, accumulated, recomputed = (step_cost.in_a_child(way, 8) for way in step_cost.WAYS)
    kept = [point["peak_mb"] - point["before_mb"] for point in (whole, accumulated, recomputed)]
    assert kept[0] > 1.5 * kept[1] and kept[0] > 1.3 * kept[2]
    assert all(point["step_seconds"] > 0 for point in (whole, accumulated, recomputed))
    assert recomputed["step_seconds"] > whole["step_seconds"], "a second forward pass"
