"""Schedules equal those of transformers, for Python and NumPy integers and under jax.jit."""

import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcraft.errors import InputError
from bertcraft.train import constant, warmup_cosine, warmup_inverse_sqrt, warmup_linear, warmup_stable_decay


def of_transformers(name, **kwargs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return getattr(transformers, name)(optimizer, **kwargs).lr_lambdas[0]


@st.composite
def spans(draw):
    total = draw(st.integers(1, 300))
    return draw(st.integers(0, total)), total


@settings(deadline=None)
@given(spans(), st.floats(1e-6, 10))
def test_linear_equals_transformers(span, peak):
    warmup, total = span
    expected = of_transformers("get_linear_schedule_with_warmup", num_warmup_steps=warmup, num_training_steps=total)
    schedule = warmup_linear(peak, warmup, total)
    for step in range(total + 5):
        assert math.isclose(schedule(step), peak * expected(step), rel_tol=1e-14, abs_tol=1e-16)


@settings(deadline=None)
@given(spans(), st.floats(1e-6, 10))
def test_cosine_equals_transformers_and_stays_at_zero(span, peak):
    warmup, total = span
    expected = of_transformers("get_cosine_schedule_with_warmup", num_warmup_steps=warmup, num_training_steps=total)
    schedule = warmup_cosine(peak, warmup, total)
    for step in range(total + 1):
        assert math.isclose(schedule(step), peak * expected(step), rel_tol=1e-13, abs_tol=1e-15 * peak)
    if warmup < total:
        assert schedule(total) == schedule(total + 1) == schedule(3 * total) == 0


@settings(deadline=None)
@given(st.integers(1, 100), st.floats(1e-6, 10))
def test_inverse_square_root_equals_transformers(warmup, peak):
    expected = of_transformers("get_inverse_sqrt_schedule", num_warmup_steps=warmup)
    schedule = warmup_inverse_sqrt(peak, warmup)
    for step in range(4 * warmup):
        assert math.isclose(schedule(step), peak * expected(step), rel_tol=1e-14)


def test_until_it_falls_the_rate_does_not_depend_on_the_length():
    short, long = warmup_stable_decay(0.3, 5, 8, 40), warmup_stable_decay(0.3, 5, 20, 100)
    assert all(short(step) == long(step) for step in range(33)) and short(33) < long(33)
    with pytest.raises(InputError, match="decay must be between 0 and the 35 steps"):
        warmup_stable_decay(0.3, 5, 36, 40)


ALL = [constant(0.3), warmup_linear(0.3, 5, 20), warmup_linear(0.3, 0, 20), warmup_cosine(0.3, 5, 20),
       warmup_cosine(0.3, 0, 20), warmup_inverse_sqrt(0.3, 5), warmup_stable_decay(0.3, 5, 8, 20)]  # fmt: skip


@pytest.mark.parametrize("schedule", ALL)
def test_every_kind_of_integer_gives_the_same_rate(schedule):
    import jax

    from bertcraft.tensor import Tensor

    traced = jax.jit(lambda step: getattr(rate := schedule(Tensor(step)), "value", rate))
    for step in range(25):
        rate = float(schedule(step))
        assert rate == float(schedule(np.int64(step))) == float(schedule(np.asarray(step, np.int32)))
        assert math.isclose(rate, float(traced(step)), rel_tol=1e-6, abs_tol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant(-1.0),
        lambda: constant(math.nan),
        lambda: warmup_linear(1.0, -1, 10),
        lambda: warmup_linear(1.0, 11, 10),
        lambda: warmup_cosine(1.0, 0, 0),
        lambda: warmup_inverse_sqrt(1.0, 0),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(InputError, match="got"):
        make()
