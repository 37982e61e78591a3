"""Hold a NumPy function against torch: value and gradient, for arrays of any layout in memory."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from bertcraft.tensor import value_and_grad

quick = settings(max_examples=60, deadline=None, derandomize=True)
LAYOUTS = ("contiguous", "transposed", "strided", "reversed")


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """An array of the same values that lies otherwise in memory."""
    if array.ndim == 0 or layout == "contiguous":
        return array
    if layout == "transposed":
        return np.array(array.T, order="C").T
    if layout == "strided":
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan, array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    return np.array(np.flip(array), order="C")[(slice(None, None, -1),) * array.ndim]


layouts = st.sampled_from(LAYOUTS)


def gradients(f, *arrays, seed=7):
    """The value of f and the gradient of a random projection of it, with the weights of that projection."""
    plain = np.asarray(f(*arrays))
    weights = np.random.default_rng(seed).standard_normal(plain.shape).astype(plain.dtype)

    def projected(xs):
        value = f(*xs)
        return np.sum(value * weights), value

    (_, value), grads = value_and_grad(projected, has_aux=True)(list(arrays))
    close(value, plain, 8 * np.finfo(plain.dtype).eps)  # on Tensors as on arrays
    return plain, grads, weights


def against_torch(f, reference, *arrays, tolerance=1e-10, seed=7):
    """Assert that value and gradients of f equal torch's, with the shape and dtype of the arguments."""
    value, grads, weights = gradients(f, *arrays, seed=seed)
    tensors = [torch.from_numpy(np.array(a, order="C")).requires_grad_() for a in arrays]
    out = reference(*tensors)
    assert tuple(out.shape) == value.shape
    close(value, out.detach().numpy(), tolerance)
    (out * torch.from_numpy(weights)).sum().backward()
    for array, grad, tensor in zip(arrays, grads, tensors, strict=True):
        assert grad.shape == array.shape and grad.dtype == array.dtype
        close(grad, np.zeros_like(array) if tensor.grad is None else tensor.grad.numpy(), tolerance)


def close(found, expected, tolerance):
    """Equal to the tolerance, relative to the largest element."""
    found, expected = np.asarray(found), np.asarray(expected)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(1.0, float(finite.max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)
