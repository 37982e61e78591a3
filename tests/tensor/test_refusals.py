"""What cannot be differentiated says so, names itself and the remedy; nothing degrades to an object array."""

import copy
import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars
import pytest
import torch
from scipy.sparse import csr_array, csr_matrix

from bertcraft.tensor import Tensor, grad, value_and_grad
from bertcraft.tensor import functions as F
from bertcraft.tensor.kernels import kernels_disabled
from bertcraft.tensor.tensor import CONSTANT

X = np.array([[0.5, -1.5], [2.0, 0.25]])


def on_tensor(code):
    """Run code on a tracked Tensor."""
    return grad(lambda x: np.sum(code(x)))(X.copy())


def refused(message, code):
    with pytest.raises(TypeError, match=message):
        on_tensor(code)


def _set_item(x):
    x[0] = 1


def _add_in_place(x):
    total = np.zeros_like(X)
    total += x
    return total


def _write_into_array(x):
    np.zeros((2, 2))[0] = x[0]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("cannot be written into.*np.where", _set_item),
        (r"np.add\(out=...\) would overwrite.*x = x \+ y", _add_in_place),
        (r"np.exp\(out=...\) would overwrite", lambda x: np.exp(x, out=np.empty((2, 2)))),
        (r"np.sum\(out=...\) would overwrite", lambda x: np.sum(x, axis=0, out=np.empty(2))),
        (r"np.vstack\(out=...\)|np.vstack on a Tensor", lambda x: np.vstack([x, x], dtype=np.float32)),
        (r"np.concatenate on a Tensor takes \(arrays, axis=0\)", lambda x: np.concatenate([x, x], casting="no")),
        ("cannot become a plain array.*np.stack", lambda x: np.array(x)),
        ("cannot become a plain array", lambda x: np.asarray(x)),
        ("cannot become a plain array", lambda x: np.array([x, x])),
        ("cannot become a plain array", lambda x: np.array(x, dtype=object)),
        ("cannot become a plain array", lambda x: np.sum([x, x])),
        ("cannot become a plain array", lambda x: x + [x[0], x[1]]),
        ("cannot become a plain array", lambda x: X + [x[0], x[1]]),
        ("cannot become a plain array|Python number", _write_into_array),
        ("cannot become a plain array", lambda x: np.full((2, 2), x[0, 0])),
        ("cannot become a Python number", lambda x: float(x[0, 0])),
        ("cannot become a Python number.*NumPy's functions", lambda x: math.sqrt(x[0, 0])),
        ("cannot become a Python number", lambda x: int(x[0, 0])),
        ("cannot become a Python number", lambda x: complex(x[0, 0])),
        ("cannot become a Python number", lambda x: [0, 1][x[0, 0]]),
        ("cannot become a Python number|cannot become a plain array", lambda x: np.random.default_rng().normal(x)),
        ("truth of a Tensor is not differentiable: use np.where", lambda x: x if x[0, 0] else -x),
        ("np.linalg.svd has no derivative. Write it with functions that have one.*derivatives.py.*stop_gradient",
         np.linalg.svd),
        ("np.median has no derivative", np.median),
        ("np.unique has no derivative", np.unique),
        ("np.modf has no derivative", np.modf),
        ("fft has no derivative", np.fft.fft),
        ("np.block has no derivative for Tensors inside a list.*np.concatenate", lambda x: np.block([[x, x]])),
        ("np.add.accumulate has no derivative", np.add.accumulate),
        ("np.add.outer has no derivative", lambda x: np.add.outer(x, x)),
        ("np.add.at has no derivative", lambda x: np.add.at(x, 0, 1)),
        (r"np.exp on a Tensor takes \(x\), but got 1 arguments by position, where=", lambda x: np.exp(x, where=X > 0)),
        (r"np.sum on a Tensor takes \(x, axis=None, \*, keepdims=False\)", lambda x: np.sum(x, where=X > 0)),
        (r"np.sum on a Tensor takes .* but got 3 arguments by position", lambda x: np.sum(x, 0, np.float64)),
        (r"np.mean on a Tensor .*dtype=", lambda x: np.mean(x, dtype=np.float32)),
        (r"np.reshape on a Tensor takes \(x, shape\)", lambda x: np.reshape(x, (4,), order="F")),
        (r"np.ravel on a Tensor takes \(x\)", lambda x: np.ravel(x, order="F")),
        (r"np.where on a Tensor takes \(c, x, y\)", lambda x: np.where(x)),
        ("np.pad has a derivative for mode='constant' only, got 'edge'", lambda x: np.pad(x, 1, mode="edge")),
        ("np.dot has a derivative for vectors and matrices only", lambda x: np.dot(x, np.ones((2, 2, 2)))),
        ("diagonal has a derivative for matrices only", lambda x: np.trace(x[None])),
        ("np.where has no derivative with respect to its argument number 1", lambda x: np.where(x, 1.0, 2.0)),
        ("np.average has no derivative", lambda x: np.average(X, weights=x)),
        ("np.bincount has no derivative", lambda x: np.bincount([0, 1], weights=x[0])),
        ("np.pad has no derivative with respect to constant_values: pass its .value",
         lambda x: np.pad(x, 1, constant_values=x[0, 0])),
        ("np.nan_to_num has no derivative with respect to nan", lambda x: np.nan_to_num(x, nan=x[0, 0])),
        (r"np.sum on a Tensor takes .* initial=", lambda x: np.sum(x, initial=x[0, 0])),
        (r"np.mean on a Tensor .*axis=, dtype=", lambda x: np.mean(x, axis=0, dtype=np.float32)),
        ("can become floats, integers or booleans, not object", lambda x: x.astype(object)),
        ("not complex128", lambda x: x.astype(complex)),
        ("np.multiply gave complex128, which has no derivative here", lambda x: x * 1j),
        ("np.power gave complex128", lambda x: x ** np.array(1j)),
        ("np.multiply gave object.*floats", lambda x: x * np.array([1.0, 2.0], object)),
        ("np.multiply gave timedelta64", lambda x: x * np.timedelta64(3, "s")),
        (r"a fractions.Fraction object: convert it with float\(\)", lambda x: x * Fraction(1, 2)),
        (r"a fractions.Fraction object", lambda x: Fraction(1, 2) + x),
        (r"a decimal.Decimal object: convert it with float\(\)", lambda x: Decimal(2) * x),
        (r"a fractions.Fraction object", lambda x: np.add(x, [Fraction(1, 2), Fraction(1, 3)])),
        (r"a torch.Tensor object: convert it to a plain array with np.asarray", lambda x: x * torch.ones(2)),
        (r"a torch.Tensor object", lambda x: torch.ones(2, 2) @ x),
        (r"a torch.Tensor object", lambda x: np.concatenate([x, torch.ones(2, 2)])),
        (r"a polars.series.series.Series object", lambda x: x[0] * polars.Series([1.0, 2.0])),
        (r"the format '.3f' is for one number, got a Tensor of shape \(2, 2\).*x.value", lambda x: f"{x:.3f}"),
        (r"a scipy.sparse\S+csr_matrix object: convert it to a plain array with .toarray\(\)", lambda x: x * csr_matrix(X)),
        (r"a scipy.sparse\S+csr_array object", lambda x: x @ csr_array(X)),
        ("np.select has no derivative for Tensors inside a list.*np.where", lambda x: np.select([X > 0], [x])),
        ("np.choose has no derivative for Tensors inside a list.*np.where", lambda x: np.choose([0, 1], [x[0], x[1]])),
        (r"takes 2 positional arguments but 3 were given|unsupported operand", lambda x: pow(x, 2, 3)),
        (r"np.sum on a Tensor takes .* but got 1 arguments by position, f=", lambda x: x.sum(f=np.mean)),
        ("0-d Tensor cannot be iterated", lambda x: list(x[0, 0])),
        ("unhashable", lambda x: {x}),
    ],
    ids=lambda _: "",
)  # fmt: skip
def test_operations_that_would_lose_the_history_are_refused(message, code):
    refused(message, code)


@pytest.mark.parametrize("array", [np.ma.array(X, mask=X > 1), np.ma.array(X), np.matrix(X), np.ma.masked], ids=range(4))
@pytest.mark.parametrize("code", [
    lambda x, a: x * a, lambda x, a: a * x, lambda x, a: a @ x, lambda x, a: np.where(x > 0, x, a), lambda x, a: x - a.T,
    lambda x, a: np.concatenate([x, a]), lambda x, a: np.stack([a, x]), lambda x, a: np.where(a > 0, x, 0), lambda x, a: x[a > 0],
    lambda x, a: np.einsum("ij,ij->i", x, a), lambda x, a: F.linear(x, a), lambda x, a: F.gelu(x) + a,
    lambda x, a: F.layer_norm(x, a, X[0], 1e-5), lambda x, a: F.embedding(x, a.astype(int)), lambda x, a: np.ma.multiply(x, a),
], ids=range(15))  # fmt: skip
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_masked_arrays_and_matrices_are_refused(array, code):
    """They would be right in value and wrong in gradient: masks and products are rules of their own."""
    refused("gradients are of plain arrays, got numpy.*(np.where for the mask|np.asarray)|cannot become a plain array",
            lambda x: code(x, array))  # fmt: skip


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_masked_arrays_and_matrices_are_no_parameters(tmp_path):
    for array in (np.ma.array(X, mask=X > 1), np.matrix(X)):
        with pytest.raises(TypeError, match="gradients are of plain arrays, got numpy"):
            grad(lambda p: np.sum(p["a"]))({"a": array})
    mapped = np.memmap(tmp_path / "x", X.dtype, "w+", shape=X.shape)  # a plain array on a disk
    mapped[...] = X
    np.testing.assert_array_equal(grad(lambda x: np.sum(x * x))(mapped), 2 * X)
    np.testing.assert_array_equal(on_tensor(lambda x: x * mapped), X)


@pytest.mark.parametrize(
    ("named", "right"),
    [
        (lambda x: np.sum(a=x, axis=0), lambda x: np.sum(x, 0)),
        (lambda x: np.mean(axis=1, a=x), lambda x: np.mean(x, 1)),
        (lambda x: np.std(a=x, axis=0, ddof=1), lambda x: np.std(x, 0, ddof=1)),
        (lambda x: np.swapaxes(x, axis1=0, axis2=1), lambda x: np.swapaxes(x, 0, 1)),
        (lambda x: np.moveaxis(x, source=0, destination=-1), lambda x: np.moveaxis(x, 0, -1)),
        (lambda x: np.pad(x, pad_width=1), lambda x: np.pad(x, 1)),
        (lambda x: np.pad(array=x, pad_width=1, constant_values=2.0), lambda x: np.pad(x, 1, constant_values=2.0)),
        (lambda x: np.transpose(a=x, axes=(1, 0)), lambda x: np.transpose(x, (1, 0))),
        (lambda x: np.take(a=x, indices=[1, 0], axis=1), lambda x: np.take(x, [1, 0], 1)),
        (lambda x: np.take_along_axis(arr=x, indices=np.array([[1, 0]]), axis=1), lambda x: x[:, ::-1]),
        (lambda x: np.vstack(tup=[x, x]), lambda x: np.vstack([x, x])),
        (lambda x: np.stack(arrays=[x, X]), lambda x: np.stack([x, X])),
        (lambda x: np.append(arr=X, values=x, axis=0), lambda x: np.append(X, x, 0)),
        (lambda x: np.tile(A=x, reps=2), lambda x: np.tile(x, 2)),
        (lambda x: np.split(ary=x, indices_or_sections=2)[1], lambda x: x[1:]),
        (lambda x: np.dot(a=X, b=x), lambda x: np.dot(X, x)),
        (lambda x: np.tensordot(a=x, b=X, axes=1), lambda x: np.tensordot(x, X, 1)),
        (lambda x: np.linalg.solve(a=X, b=x), lambda x: np.linalg.solve(X, x)),
        (lambda x: np.linalg.norm(x=x, axis=0), lambda x: np.linalg.norm(x, axis=0)),
        (lambda x: np.broadcast_to(array=x, shape=(2, 2, 2)), lambda x: np.broadcast_to(x, (2, 2, 2))),
        (lambda x: np.full_like(a=x, fill_value=x), lambda x: np.full_like(x, x)),
        (lambda x: np.clip(X, min=x), lambda x: np.clip(X, x, None)),
        (lambda x: np.clip(X, max=x, min=-9), lambda x: np.clip(X, -9, x)),
        (lambda x: np.clip(a=x, min=0), lambda x: np.clip(x, 0, None)),
        (lambda x: np.clip(a=X, a_min=None, a_max=x), lambda x: np.clip(X, None, x)),
        (lambda x: x * np.argmax(a=x), lambda x: x * np.argmax(x)),
    ],
    ids=range(26),
)
def test_arguments_may_be_given_by_numpys_own_names(named, right):
    square = lambda f: lambda x: np.sum(f(x * 1.1) ** 2)  # noqa: E731
    np.testing.assert_array_equal(named(X), right(X))
    np.testing.assert_array_equal(grad(square(named))(X), grad(square(right))(X))


def test_a_function_without_a_derivative_is_refused_before_it_runs():
    """np.put, np.copyto and the like would write into the value."""
    for code in (lambda x: np.put(x, [0], 9), lambda x: np.copyto(x, 9), lambda x: np.fill_diagonal(x, 9)):
        values = X.copy()
        with pytest.raises(TypeError, match="has no derivative"):
            grad(lambda x, f=code: f(x))(values)
        np.testing.assert_array_equal(values, X)


@pytest.mark.parametrize(
    ("message", "function", "params"),
    [
        (r"of a floating-point scalar, but the function returned shape \(2, 2\): sum or average it", lambda x: x, X),
        (r"returned shape \(1,\)", lambda x: x[0, :1], X),
        ("of a floating-point scalar, but the function returned list", lambda x: [np.sum(x)], X),
        ("of a floating-point scalar, but the function returned tuple", lambda x: (np.sum(x), 1), X),
        ("of a floating-point scalar, but the function returned NoneType", lambda x: None, X),
        ("floating-point scalar, but the function returned bool", lambda x: np.all(x > 0), X),
        ("floating-point scalar, but the function returned bool", lambda x: np.allclose(x, 1), X),
        ("floating-point scalar, but the function returned int64", lambda x: np.sum(x > 0), X),
        ("floating-point scalar, but the function returned int64", lambda x: np.array(3), X),
        ("floating-point scalar, but the function returned int", lambda x: 3, X),
        ("floating-point scalar, but the function returned str", lambda x: "0.5", X),
        ("floating-point arrays, got int64", np.sum, np.arange(3)),
        ("floating-point arrays, got bool", np.sum, X > 0),
        ("floating-point arrays, got complex128", np.sum, X + 1j),
        ("floating-point arrays, got int64 at a.1", lambda p: 1.0, {"a": [X, 3]}),
        ("floating-point arrays, got object at layer.bias", lambda p: 1.0, {"layer": {"bias": None}}),
        ("floating-point arrays, got <U4", np.sum, "text"),
    ],
    ids=lambda _: "",
)
def test_unsuitable_results_and_parameters_are_refused(message, function, params):
    with pytest.raises(TypeError, match=message):
        grad(function)(params)


def test_has_aux_needs_a_pair():
    for result in (1.0, [1.0, 2], (1.0, 2, 3)):
        with pytest.raises(TypeError, match=r"returns a pair \(loss, aux\), but it returned"):
            value_and_grad(lambda x, r=result: r, has_aux=True)(X)


def test_a_tensor_that_leaked_from_a_gradient_is_refused():
    leaked = []
    grad(lambda x: np.sum(leaked.append(x * 2) or leaked[0]))(X)
    with pytest.raises(ValueError, match="from an earlier gradient computation.*has_aux=True"):
        grad(lambda x: np.sum(x * leaked[0]))(X)
    with pytest.raises(ValueError, match="a parameter is a Tensor of another gradient computation.*pass its .value"):
        grad(lambda x: np.sum(x))(leaked[0])
    np.testing.assert_array_equal(leaked[0].value, 2 * X)


@pytest.mark.parametrize("within", [lambda f: f, lambda f: lambda x: np.sum(grad(f)(x) ** 2)], ids=["first", "second"])
@pytest.mark.parametrize("reached", [False, True])
@pytest.mark.parametrize(
    "used", [lambda x, t: np.sum(x) * t, lambda x, t: np.sum(x + grad(lambda y: y * t * y)(2.0)), lambda x, t: t]
)
def test_a_tensor_kept_from_an_earlier_computation_is_no_constant(within, reached, used):
    """Whether or not its backward pass went through it; used outside or inside of an inner gradient."""
    cache = {}

    def loss(x, use):
        cache.setdefault("size", np.sum(x**2))
        return used(x, cache["size"]) if use else np.sum(x) + reached * cache["size"]

    grad(lambda x: loss(x, False))(X)
    with pytest.raises(ValueError, match="from an earlier gradient computation"):
        grad(within(lambda x: loss(x, True)))(X)


def test_a_tensor_of_another_thread_is_no_constant():
    """Neither of one that runs at the same time, nor the outer Tensor in an inner gradient on a worker."""
    with ThreadPoolExecutor(1) as pool:
        inner = lambda x: pool.submit(grad(lambda y: np.sum(x * y)), X).result()  # noqa: E731
        with pytest.raises(ValueError, match="on another thread"):
            grad(lambda x: np.sum(inner(x)))(X)

        def outer(x):
            pool.submit(grad(lambda y: shared.append(y * y) or np.sum(y)), X).result()
            return np.sum(x * shared[0])

        shared = []
        with pytest.raises(ValueError, match="on another thread"):
            grad(outer)(X)


@pytest.mark.parametrize("kernel", [
    lambda x: F.layer_norm(x, X[0], X[0], 0.1), F.gelu_tanh, lambda x: F.linear(x, X),
    lambda x: F.cross_entropy(x, np.array([0, 1])), lambda x: F.attention(x[None], x[None], x[None]),
], ids=["layer_norm", "gelu_tanh", "linear", "cross_entropy", "attention"])  # fmt: skip
def test_a_kernel_on_another_thread_has_a_first_derivative_only(kernel):
    with ThreadPoolExecutor(1) as pool:
        elsewhere = lambda x: pool.submit(kernel, x).result()  # noqa: E731
        square = lambda f: lambda x: np.sum(f(x) ** 2)  # noqa: E731
        np.testing.assert_array_equal(grad(square(elsewhere))(X), grad(square(kernel))(X))
        with pytest.raises(ValueError, match="kernel.*on another thread.*kernels_disabled"):
            grad(lambda x: np.sum(grad(square(elsewhere))(x) ** 2))(X)
        with kernels_disabled():
            found = grad(lambda x: np.sum(grad(square(elsewhere))(x) ** 2))(X)
        np.testing.assert_allclose(found, grad(lambda x: np.sum(grad(square(kernel))(x) ** 2))(X), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps, lambda x: copy.deepcopy({"a": [x]}),
                                    lambda x: pickle.dumps((1, x), 0)])  # fmt: skip
def test_a_copy_that_would_lose_the_history_is_refused(copied):
    refused(r"cannot be deep-copied or pickled.*np.copy\(x\)", copied)
    constant = Tensor(X)
    np.testing.assert_array_equal(copy.deepcopy(constant).value, X)


def test_copies_that_keep_the_history():
    for copied in (copy.copy, np.copy, lambda x: x.copy(), lambda x: copy.copy([x])[0]):
        np.testing.assert_array_equal(on_tensor(lambda x, c=copied: c(x) * c(x)), 2 * X)


def test_a_tensor_is_printed_as_its_value_is():
    def code(x):
        total = x[0, 0]
        assert f"{total:.3f} {total:>8.1e}" == "0.500  5.0e-01" and "{:.0%}".format(total) == "50%"  # noqa: UP032
        assert f"{total}" == str(total) and round(total * 1.2345, 2) == 0.62 and round(total * 5) == 2
        return x

    on_tensor(code)
    refused(r"float\(x.value\)", lambda x: "%.3f" % x[0, 0])  # noqa: UP031
    with pytest.raises(AttributeError, match=r"'Tensor' object has no attribute 'item': x.value.item"):
        on_tensor(lambda x: x[0, 0].item())
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'cuda'$"):
        on_tensor(lambda x: x.cuda())


@pytest.mark.parametrize("write", [
    lambda a, x: a.__setitem__(0, x[0, 0]), lambda a, x: a.__setitem__(0, x), lambda a, x: a.__setitem__(slice(0, 1), x[0, :1]),
    lambda a, x: a.__setitem__(a == 0, [x[0, 0], x[0, 1]]), lambda a, x: a.fill(x[0, 0]),
    lambda a, x: np.fromiter((v for v in x[0]), a.dtype),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, bool])
def test_a_tensor_in_a_plain_array_is_named(write, dtype):
    """NumPy's own error is that an element was set with a sequence."""
    with pytest.raises(TypeError, match=r"a Tensor (cannot|.*np.where)"):
        on_tensor(lambda x: write(np.zeros(2, dtype), x) or x)
    with pytest.raises(ValueError, match="could not be broadcast|cannot reshape"):  # others are let through
        on_tensor(lambda x: np.reshape(x, (3, 3)))


def test_a_broken_gradient_leaves_the_thread_as_it_was():
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            grad(lambda x: grad(lambda y: 1 / 0)(x))(X)
    assert type(grad(np.sum)(X)) is np.ndarray


# ------------------------------------------------------------------------------------------- all of NumPy, one by one

_SKIP = {  # they print, write files, change settings, or make no arrays
    "save", "savez", "savez_compressed", "savetxt", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "info",
    "test", "show_config", "show_runtime", "seterr", "seterrcall", "setbufsize", "set_printoptions", "printoptions",
    "bmat", "errstate", "get_include", "getbufsize", "geterr", "geterrcall", "get_printoptions",
}  # fmt: skip
_NO_FLOATS = set(
    "apply_over_axes binary_repr bitwise_left_shift bitwise_right_shift broadcast_shapes busday_count "
    "busday_offset can_cast datetime_as_string datetime_data dsplit eye frombuffer fromfunction frompyfunc fromregex "
    "fromstring gcd identity is_busday isdtype isnat issubdtype lcm left_shift mask_indices nested_iters packbits "
    "promote_types ravel_multi_index right_shift typename unpackbits unravel_index".split()
)
_DESCRIBING = {"shape", "fix", "array_repr", "array_str", "array2string", "iterable", "isscalar", "isfortran"}


def _functions():
    for prefix, module in (("np", np), ("np.linalg", np.linalg), ("np.fft", np.fft)):
        for name in sorted(module.__all__):
            function = getattr(module, name)
            if callable(function) and not isinstance(function, type) and name not in _SKIP:
                yield pytest.param(function, id=f"{prefix}.{name}")


def _attempts(x):
    """Simple arguments: a matrix, vectors, a scalar, lists of them, beside numbers and plain arrays."""
    v, s = x[0], x[0, 0]
    plain, indices, condition = X + 1, np.array([[0, 1], [1, 0]]), X > 0
    yield from (
        (x,),
        (v,),
        (s,),
        (x, x),
        (v, v),
        (x, plain),
        (plain, x),
        (x, 1),
        (1, x),
        (2.0, s),
        (x, (1, 0)),
    )
    yield from (([x, x],), ((v, v),), ([[x, x]],), ([v, plain],), (x, 0, 1), (x, x, x), (v, 0.0, 1.0), (s, 5))
    yield from (
        (condition, x, 0),
        (condition, x),
        (x, indices),
        (x, indices, 1),
        (x, (2, 2)),
        ("ij,jk->ik", x, x),
    )
    yield from (
        (0, s, 3),
        ((2, 2), s),
        (x, 0, plain),
        ([condition], [x]),
        (lambda a: a * 2, 0, x),
        (x, [1.0]),
    )
    yield from ((plain, condition, v), (plain, 0, s), (plain, indices, x, 1))
    three = np.arange(3.0)
    yield from (
        (three * s, three),
        (x @ np.swapaxes(x, 0, 1),),
        (v, np.array([0.0, 1.0]), v),
        (x, np.float32),
    )
    yield from (
        (three, three * s, 1),
        (np.arange(2), v),
        (x, np.ones((2, 2), bool)),
        ([1, 2], x, 0),
        (x > 0, condition),
    )


def _arrays(result):
    if isinstance(result, (tuple, list)):
        for part in result:
            yield from _arrays(part)
    else:
        yield result


@pytest.mark.parametrize("function", list(_functions()))
def test_numpy_works_on_tensors_or_raises_type_error(function):
    """Where NumPy accepts plain arrays, Tensors work or raise TypeError; no history is lost in silence."""
    constant = function in CONSTANT or function.__name__ in _DESCRIBING
    tried = 0
    for number in range(len(list(_attempts(X)))):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            attempt = lambda x: function(*list(_attempts(x))[number])  # noqa: E731
            try:
                expected, elsewhere = attempt(X.copy()), attempt(X + 0.37)
            except Exception:  # not a call that NumPy knows
                continue
            tried += 1
            values, found = X.copy(), []
            try:
                grad(lambda x: found.append(attempt(x)) or np.sum(x))(values)
            except TypeError as error:
                assert len(str(error)) > 20
            except AttributeError as error:
                assert "'Tensor' object has no attribute" in str(error)
        np.testing.assert_array_equal(values, X, err_msg=f"attempt {number} wrote into a Tensor")
        for part, right, other in zip(_arrays(found), _arrays([expected]), _arrays([elsewhere]), strict=False):
            value = part.value if type(part) is Tensor else part
            if type(value) is np.ndarray and function is not np.empty_like:
                assert value.dtype == right.dtype, f"attempt {number}"
                if value.dtype.kind in "biuf":
                    np.testing.assert_allclose(value, right, rtol=1e-14, err_msg=f"attempt {number}")
            if type(part) is not Tensor and not constant and getattr(right, "dtype", np.array(right).dtype).kind == "f":
                lost = f"attempt {number} lost its history"
                np.testing.assert_array_equal(right, other, err_msg=lost)  # it depends on x
    assert tried or function.__name__ in _NO_FLOATS


@pytest.mark.parametrize("code", [
    lambda x: np.tensordot(x, X, axes=1), lambda x: np.inner(x, np.ones((2, 4))), lambda x: np.vecdot(x, np.ones((3, 4))),
], ids=["tensordot", "inner", "vecdot"])  # fmt: skip
def test_an_axis_that_is_summed_over_is_not_broadcast(code):
    x = np.ones((3, 1))
    with pytest.raises(ValueError):
        code(x)
    with pytest.raises(ValueError, match="axes that are summed over differ in size"):
        grad(lambda x: np.sum(code(x)))(x)
