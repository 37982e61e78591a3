"""The training step that is timed: its sizes and the floating-point operations of its matrix products."""

import math
from dataclasses import dataclass

from bertcraft.errors import InputError


@dataclass(frozen=True)
class Sizes:
    """A BERT with a masked-LM head, and its batch. The feed-forward width is four times ``hidden``.

    Raises InputError for sizes below 1 and for heads that do not divide ``hidden``.
    """

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    vocabulary: int = 8192
    batch: int = 32
    length: int = 128

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name}: got {value}, expected at least 1")
        if self.hidden % self.heads:
            raise InputError(f"heads: got {self.heads}, expected a divisor of hidden, which is {self.hidden}")

    @property
    def predicted(self) -> int:
        """Predicted positions in a row: 15 %, rounded up (Devlin et al. 2019, section 3.1)."""
        return math.ceil(0.15 * self.length)

    @property
    def positions(self) -> int:
        """Rows of the table of position embeddings: BERT's 512, or more if the batch is longer."""
        return max(512, self.length)

    @property
    def tokens(self) -> int:
        """Tokens in a batch."""
        return self.batch * self.length


def product_flops(sizes: Sizes, read: int | None = None) -> int:
    """Floating-point operations of all matrix products in one step, forward and backward; a product counts 2
    m n k.

    ``read`` is the number of positions in a row where the last layer's queries, feed-forward network and the
    head are computed: the predicted ones, as in bertcraft (``encode(..., at=...)``), by default;
    ``sizes.length`` for a model that computes everything everywhere. Products of a matrix and a vector (sums
    of bias gradients) are not counted.
    """
    length, hidden, inner = sizes.length, sizes.hidden, 4 * sizes.hidden
    read = sizes.predicted if read is None else read

    def layer(queries: int) -> int:
        keys_values = 2 * length * hidden * hidden
        query_output = 2 * queries * hidden * hidden
        scores_context = 2 * queries * length * hidden
        feed_forward = 2 * queries * hidden * inner
        return keys_values + query_output + scores_context + feed_forward

    head = read * hidden * hidden + read * hidden * sizes.vocabulary
    multiplications = sizes.batch * ((sizes.layers - 1) * layer(length) + layer(read) + head)
    # A multiplication and an addition; the backward pass has two products for each one of the forward pass.
    return 3 * 2 * multiplications
