"""Layers that are timed: all contenders compute the same, rounds go in turn, what is counted is what is stored."""

import io
import json
import time

import numpy as np
import pytest

from bertcraft.errors import InputError
from bertcraft.lab import layers
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.tensor.kernels import kernels_disabled


def near(one, other):
    return np.abs(one - other).max() < 2e-5 * np.abs(other).max() + 1e-6


def test_dense_and_fused_compute_the_same_with_every_gradient():
    value, (layer, x) = layers.ours("dense", 96)()
    other, (their_x, *theirs) = layers.fused(96)()
    assert float(value) == pytest.approx(other, rel=1e-3)
    assert near(x, their_x.numpy())
    ours = dict(tree.items(layer))
    assert len(ours) == len(theirs) == 16
    for (name, one), two in zip(ours.items(), theirs, strict=True):
        if name != "attention.self.key.bias":  # by theory zero: what is left is rounding
            assert near(one, two.numpy()), name


def test_the_window_differs_only_beyond_its_reach(monkeypatch):
    assert float(layers.ours("window", 200)()[0]) == pytest.approx(float(layers.ours("dense", 200)()[0]), rel=1e-3)
    monkeypatch.setattr(layers, "WINDOW", 32)
    assert abs(float(layers.ours("window", 200)()[0]) - float(layers.ours("dense", 200)()[0])) > 1e-2


@pytest.mark.parametrize("name", ["dense", "window"])
def test_scores_are_those_that_a_softmax_is_taken_of(name, monkeypatch):
    monkeypatch.setattr(layers, "WINDOW", 32)
    taken, softmax = [], F.softmax
    monkeypatch.setattr(F, "softmax", lambda x, *args, **kwargs: taken.append(x.size) or softmax(x, *args, **kwargs))
    with kernels_disabled():
        layers.ours(name, 128)()
    assert layers.scores_mb(name, 128) == pytest.approx(4 * sum(taken) / 1e6)
    assert layers.scores_mb("dense", 8192) == pytest.approx(4 * 12 * 8192**2 / 1e6)


def test_a_round_takes_the_longest_first_and_the_contenders_in_turn():
    told = []
    found = layers.round_of(["dense", "window"], [256, 512], lambda done, total, text: told.append(text))
    assert told == ["window, 512 tokens", "dense, 512 tokens", "window, 256 tokens", "dense, 256 tokens"]
    for name in ("dense", "window"):
        assert len(found[name]["ms"]) == 2 and min(found[name]["ms"]) > 0 and found[name]["mb"] > 0


def test_the_first_reading_of_a_text_is_not_timed(monkeypatch, capsys):
    def slow_at_first(name, length):
        calls = []

        def both():
            calls.append(length)
            time.sleep(0.3 if len(calls) == 1 else 0.001)

        return both

    monkeypatch.setattr(layers, "ours", slow_at_first)
    monkeypatch.setattr("sys.stdin", io.StringIO('["dense", 4096]\n["window", 512]\n'))
    layers._serve("numpy")
    dense, window = (json.loads(line)["ms"] for line in capsys.readouterr().out.splitlines())
    assert 1 <= dense < 150 and 1 <= window < 150


def test_what_goes_wrong_in_a_measuring_process_is_told(monkeypatch):
    monkeypatch.setitem(layers.CONTENDERS, "dense", "torch")  # whose process then has no dense layer of 0 tokens
    with pytest.raises(InputError, match="could not be measured"):
        layers.round_of(["dense"], [0])
