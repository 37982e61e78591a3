"""NumPy that remembers how it was computed: derivatives of any order, kernels, shards, XLA."""

from bertcraft.tensor import composed as _composed  # noqa: F401 - fills the table of compositions
from bertcraft.tensor import derivatives as _derivatives  # noqa: F401 - fills the table
from bertcraft.tensor import fused as _fused  # noqa: F401 - registers the kernels
from bertcraft.tensor import fused_attention as _fused_attention  # noqa: F401 - and one more
from bertcraft.tensor import linear_algebra as _linear_algebra  # noqa: F401 - its second part
from bertcraft.tensor import xla as _xla  # noqa: F401 - fills the table of XLA equivalents; imports no JAX
from bertcraft.tensor.gradient import grad, stop_gradient, value_and_grad
from bertcraft.tensor.tensor import Tensor

__all__ = ["Tensor", "grad", "stop_gradient", "value_and_grad"]
