"""Products of matrices of every dimension, einsum patterns, linear systems."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from bertcraft.tensor import grad
from bertcraft.tensor.check import check_grads

from .compare import against_torch, laid_out, layouts, quick


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@quick
@given(
    shapes=mutually_broadcastable_shapes(signature=np.matmul.signature, min_side=0, max_side=3, max_dims=2),
    layout=st.tuples(layouts, layouts),
)
def test_matmul_of_vectors_matrices_and_batches(shapes, layout):
    x, y = (laid_out(numbers(shape, i), layout[i]) for i, shape in enumerate(shapes.input_shapes))
    against_torch(np.matmul, torch.matmul, x, y)
    check_grads(np.matmul, x, y)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (3, 3)])
def test_a_matrix_with_itself(shape):
    code = lambda x: x @ x.mT @ x  # noqa: E731
    against_torch(code, code, numbers(shape))
    check_grads(code, numbers(shape))


@pytest.mark.parametrize(
    ("pattern", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,kj", [(2, 3), (4, 3)]),
        ("ij->ji", [(2, 3)]),
        ("ij->", [(2, 3)]),
        ("ij->i", [(2, 3)]),
        ("ba", [(2, 3)]),
        ("i,j->ij", [(2,), (3,)]),
        ("i,i->", [(3,), (3,)]),
        ("i,i->i", [(3,), (3,)]),
        ("bhqd, bhkd -> bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("bqhd,hde->bqe", [(2, 3, 2, 4), (2, 4, 5)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
        ("ij,j,j->", [(2, 3), (3,), (3,)]),
        ("ij,k->i", [(2, 3), (4,)]),
        ("...ij,...jk->...ik", [(2, 2, 3), (3, 4)]),
        ("...i,i...", [(2, 3, 4), (4, 2, 3)]),
        ("b...,b->b...", [(2, 3, 4), (2,)]),
        ("...d,...d->...", [(2, 1, 3), (4, 3)]),
        ("ij,ij->ij", [(1, 3), (2, 3)]),
        (",ij->ij", [(), (2, 3)]),
    ],
)
@pytest.mark.parametrize("optimize", [False, True])
def test_einsum(pattern, shapes, optimize):
    arrays = [np.asarray(numbers(shape, i)) for i, shape in enumerate(shapes)]
    code = lambda *xs: np.einsum(pattern, *xs, optimize=optimize)  # noqa: E731
    against_torch(code, lambda *xs: torch.einsum(pattern.replace(" ", ""), *xs), *arrays)
    check_grads(code, *arrays)


def test_einsum_refuses_a_repeated_index_of_one_operand():
    with pytest.raises(TypeError, match="np.einsum has no derivative for a repeated index in one operand, got 'ii->i'"):
        grad(lambda x: np.sum(np.einsum("ii->i", x)))(np.ones((2, 2)))


@pytest.mark.parametrize("matrix", [
    [[1, 2], [2, 4]], [[1, 2], [2, 4 + 1e-13]], [[0, 0], [0, 0]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    [[1, 2, 3], [2, 4, 6], [3, 6, 9]], [[0]], [[[1, 2], [2, 4]], [[1, 2], [3, 4]]], np.zeros((4, 4)),
])  # fmt: skip
def test_the_determinant_of_a_singular_matrix_has_its_cofactors_as_gradient(matrix):
    """Exact where there is no inverse (by the definition: each element's cofactor), and so to second order."""
    x = np.array(matrix, float)
    found = grad(lambda x: np.sum(np.linalg.det(x)))(x)
    for place in np.ndindex(x.shape):
        *_, i, j = place
        minor = np.delete(np.delete(x[place[:-2]], i, 0), j, 1)
        np.testing.assert_allclose(found[place], (-1) ** (i + j) * np.linalg.det(minor), atol=1e-12)
    check_grads(np.linalg.det, x)


def test_norm_refuses_other_norms_than_the_2_norm():
    for call in (
        lambda x: np.linalg.norm(x, 1),
        lambda x: np.linalg.norm(x, 2),
        lambda x: np.linalg.norm(x, np.inf, 0),
    ):
        with pytest.raises(TypeError, match="np.linalg.norm has a derivative for the 2-norm of the elements only"):
            grad(lambda x, f=call: np.sum(f(x)))(np.ones((2, 2)))


def test_operands_may_be_lists_and_float32_stays():
    table = [[1.0, 2.0], [3.0, 4.0]]
    check_grads(lambda x: x @ table + np.matmul(table, x) + x * table, numbers((2, 2)))
    for code in (lambda x: x @ x.T, lambda x: np.einsum("ij,kj->ik", x, x), lambda x: np.linalg.norm(x)):
        assert grad(lambda x, f=code: np.sum(f(x)))(numbers((2, 2)).astype(np.float32)).dtype == np.float32
