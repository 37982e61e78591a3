"""A plain array that was written into after its use gives an error, never a wrong gradient."""

import numpy as np
import pytest

import bertcraft as bc
from bertcraft.tensor import functions as F
from bertcraft.tensor.kernels import kernels_disabled
from bertcraft.tensor.plain import _some

BUFFER = np.empty((4, 4))
ROWS = np.array([0, 1, 2, 3])
LARGE = np.ones(100_000)


def _product(x):
    BUFFER[...] = 2.0
    y = x * BUFFER
    BUFFER[...] = 3.0
    return np.sum(y)


def _by_matrix(x):
    BUFFER[...] = 2.0
    y = x @ BUFFER
    BUFFER[3, 3] = 3.0
    return np.sum(y)


def _index(x):
    ROWS[:] = 0, 1, 2, 3
    y = x[ROWS, ROWS]
    ROWS[2] = 0
    return np.sum(y)


def _fused(x):
    BUFFER[...] = 2.0
    y = F.linear(BUFFER, x, x[0])
    BUFFER[...] = 3.0
    return np.sum(y)


def _large(x):
    LARGE[:] = 1
    y = np.sum(x[0, 0] * LARGE)
    LARGE[:] = 2
    return y


@pytest.mark.parametrize("loss", [_product, _by_matrix, _index, _fused, _large])
def test_it_is_found(loss):
    with pytest.raises(ValueError, match=r"shape .* was written into after .* had used it.*pass a copy"):
        bc.grad(loss)(np.ones((4, 4)))
    with kernels_disabled(), pytest.raises(ValueError, match="was written into"):
        bc.grad(loss)(np.ones((4, 4)))


COLUMNS, WIDE = np.zeros((64, 5)), np.ones((128, 768))


def _a_column_in_turn(x):
    total = 0.0
    for t in range(1, 5):
        COLUMNS[:, t] = t
        total = total + np.sum(x[0, 0] * COLUMNS)
        COLUMNS[:, t] = 0
    return total


def _all_but_one_column(x):
    WIDE[...] = 1
    y = np.sum(x[0, 0] * WIDE)
    WIDE[:, 1:] = 0
    return y


def _one_row_of_many(x):
    WIDE[...] = 1
    y = np.sum(x[0, 0] * WIDE)
    WIDE[77] = 0
    return y


def _in_a_tuple_of_tuples(x):
    BUFFER[...] = 2.0
    y = x * ((BUFFER,),)
    BUFFER[0, 1] = 9.0
    return np.sum(y)


def _in_a_long_list(x):
    LARGE[:] = 1
    y = np.sum(x[0, 0] * [LARGE, LARGE])
    LARGE[50_000] = 2
    return y


PARTS = [_a_column_in_turn, _all_but_one_column, _one_row_of_many, _in_a_tuple_of_tuples, _in_a_long_list]


@pytest.mark.parametrize("loss", PARTS)
def test_a_part_is_found(loss):
    with pytest.raises(ValueError, match="was written into"):
        bc.grad(loss)(np.ones((4, 4)))


def _list(x):
    numbers = [2.0, 2.0, 2.0, 2.0]
    y = x * numbers
    numbers[0] = 3.0
    return np.sum(y)


def _list_as_index(x):
    numbers = [0, 1]
    y = x[0, numbers]
    numbers[0] = 3
    return np.sum(y)


def _named(x):
    BUFFER[...] = 0.0
    y = np.clip(x, min=BUFFER)
    BUFFER[...] = 3.0
    return np.sum(y)


def _named_index(x):
    ROWS[:] = 0, 1, 2, 3
    y = np.take(x, axis=0, indices=ROWS)
    ROWS[2] = 0
    return np.sum(y)


@pytest.mark.parametrize("loss", [_list, _list_as_index, _named, _named_index])
def test_it_is_found_in_lists_and_in_arguments_by_name(loss):
    with pytest.raises(ValueError, match="(a list|shape .*) was written into after .* had used it.*pass a copy"):
        bc.grad(loss)(np.ones((4, 4)))


def test_it_is_found_in_an_array_on_a_disk(tmp_path):
    mapped = np.memmap(tmp_path / "x", float, "w+", shape=4)

    def loss(x):
        mapped[:] = 2
        y = x * mapped
        mapped[:] = 3
        return np.sum(y)

    with pytest.raises(ValueError, match="was written into"):
        bc.grad(loss)(np.ones(4))


@pytest.mark.parametrize("within", [lambda f: f, lambda f: lambda x: np.sum(bc.grad(f)(x) ** 2)], ids=["first", "second"])
def test_a_parameter_may_not_be_written_into_on_the_way(within):
    x = np.ones(4)

    def loss(p):
        y = p * p
        x[0] = 5  # the array behind p
        return np.sum(y)

    with pytest.raises(ValueError, match="written into after the function had used it"):
        bc.grad(within(loss))(x)
    np.testing.assert_array_equal(bc.grad(lambda p: np.sum(p * p))(x), 2 * x)


def test_what_stop_gradient_gives_cannot_be_written_into():
    """It is the array that the gradient needs, not a copy."""

    def loss(x):
        y = x * 2
        constant = bc.stop_gradient(y)
        constant -= constant.max()
        return np.sum(y * y)

    with pytest.raises(ValueError, match="read-only"):
        bc.grad(loss)(np.ones(4))
    x = np.ones(4)
    assert bc.grad(lambda p: np.sum(p * (bc.stop_gradient(p) + 1)))(x).tolist() == [2.0] * 4 and x.flags.writeable


def test_it_is_found_within_an_inner_gradient():
    with pytest.raises(ValueError, match="was written into after np.multiply"):
        bc.grad(lambda x: np.sum(bc.grad(_product)(x) * x))(np.ones((4, 4)))


def test_where_no_value_is_needed_a_buffer_may_be_filled_anew():
    def loss(x):
        for turn in (1.0, 2.0):
            BUFFER[...] = turn
            x = x + BUFFER
        return np.sum(x * x)

    np.testing.assert_array_equal(bc.grad(loss)(np.zeros((4, 4))), np.full((4, 4), 6.0))


def test_a_buffer_that_is_filled_after_the_gradient_is_nobodys_business():
    for turn in (1.0, 2.0):
        BUFFER[...] = turn
        np.testing.assert_array_equal(bc.grad(lambda x: np.sum(x * BUFFER))(np.ones((4, 4))), BUFFER)


def test_few_large_items_are_watched_too():
    names = np.array([["a" * 20_000]])

    def loss(x):
        chosen = np.where(names == "b", x, 2 * x)
        return np.sum(chosen)

    assert bc.grad(loss)(np.ones((1, 1))) == 2
    assert _some(names) == _some(names.copy()) != _some(np.array([["b" * 20_000]]))
