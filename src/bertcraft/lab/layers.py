"""Time and memory of a layer of BERT-base on one long text: dense attention and a window by this library, fused dense attention
by PyTorch.

The layer is whole (projections, 12 heads, feed-forward 3,072, both norms), in float32, forward and backward, as in training. Two
processes, one with this library and one with PyTorch, are asked in turn, one thread each: contenders of one round meet the same
minutes of the machine, and their ratio is one of neighbours in time. Both are new for each round. Each reads a text once before
it is timed: taking memory from the system for the first time is slow, and a training loop does it once.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from bertcraft import machine
from bertcraft.bert import encoder, initial_params
from bertcraft.errors import InputError
from bertcraft.lab import pretraining
from bertcraft.lab.pretraining import Setting
from bertcraft.techniques import sparse_attention as technique

WIDTH, HEADS, INNER = 768, 12, 3072  # BERT-base
WINDOW = 256  # to either side: Longformer's 512
CONTENDERS = {"window": "numpy", "dense": "numpy", "fused": "torch"}  # by the process that has them, the cheapest first
ENOUGH = 2048  # tokens that are taken at least, shorter texts several times over


def round_of(contenders: Sequence[str], lengths: Sequence[int], told: Callable = lambda *_: None) -> dict[str, dict]:
    """One round: for each contender "ms" at each length and "mb", what its process grew by at the longest.

    ``told(done, total, text)`` is called before each. Raises InputError where PyTorch is needed and not installed.
    """
    found = {name: {"ms": [0.0] * len(lengths)} for name in contenders}
    processes = {kind: _started(kind) for kind in {CONTENDERS[name] for name in contenders}}
    turns = [(length, name) for length in sorted(lengths, reverse=True) for name in CONTENDERS if name in contenders]
    try:
        for i, (length, name) in enumerate(turns):
            told(i, len(turns), f"{name}, {length} tokens")
            answer = _asked(processes[CONTENDERS[name]], name, length)
            found[name]["ms"][list(lengths).index(length)] = answer["ms"]
            found[name].setdefault("mb", answer["mb"])  # the longest comes first: later peaks are still its own
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return found


def scores_mb(name: str, length: int) -> float:
    """The scores of a layer's attention of one text in float32, in MB (10^6 bytes), masked ones included.

    Of fused attention none is ever stored whole.
    """
    if name == "fused":
        return 0.0
    number = length * length
    if name == "window":
        near, _ = technique._window_blocks(length // WINDOW, WINDOW, WINDOW)
        number = near.size * WINDOW * WINDOW
    return 4 * HEADS * number / 1e6


def _started(kind: str) -> subprocess.Popen:
    command = [sys.executable, "-m", __name__, kind]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=machine.child_environment()
    )


def _asked(process: subprocess.Popen, name: str, length: int) -> dict:
    try:
        process.stdin.write(json.dumps([name, length]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        why = process.communicate()[1].strip()
        if "No module named 'torch'" in why:
            raise InputError("the fused layer is PyTorch's: pip install torch")
        raise InputError(f"{name} at {length} tokens could not be measured: {why[-300:] or 'killed, by lack of memory?'}")
    return json.loads(line)


# ---------------------------------------------------------------------------------------------- in the measuring process


def layer_and_text(length: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """Weights of a layer, a text (1, length, 768) and what its outputs are weighted with: the same for every contender."""
    layer = initial_params(config_of(), 0)["bert"]["encoder"]["layer"]["0"]
    return layer, *np.random.default_rng(0).standard_normal((2, 1, length, WIDTH), np.float32)


def config_of():
    """BERT-base's numbers, of one layer."""
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER}
    return pretraining.config_of(Setting(layers=1, length=1), 10, **sizes)


def ours(name: str, length: int) -> Callable[[], tuple]:
    """A function that takes the layer forward and backward: a weighted sum of its outputs, and its gradients."""
    from bertcraft.tensor import value_and_grad

    attention = encoder.self_attention if name == "dense" else technique.longformer(WINDOW)
    config, sockets = config_of(), encoder.Sockets(attention=attention)
    layer, x, weights = layer_and_text(length)

    def loss(own):
        return np.sum(weights * encoder.post_layer_norm(own[0], own[1], own[1], None, config, sockets))

    return lambda: value_and_grad(loss)((layer, x))


def fused(length: int) -> Callable[[], tuple]:
    """The same by PyTorch, with its fused attention."""
    import torch
    from torch.nn import functional as T

    from bertcraft.tensor import tree

    eps = config_of().layer_norm_eps
    layer, *arrays = layer_and_text(length)
    p = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in tree.items(layer)}
    x, weights = map(torch.tensor, arrays)
    x.requires_grad_()

    def linear(name, x):
        return T.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name, x):
        return T.layer_norm(x, (WIDTH,), p[f"{name}.weight"], p[f"{name}.bias"], eps)

    def both():
        parts = (linear(f"attention.self.{name}", x) for name in ("query", "key", "value"))
        heads = (part.view(1, length, HEADS, -1).transpose(1, 2) for part in parts)
        context = T.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(1, length, WIDTH)
        y = norm("attention.output.LayerNorm", x + linear("attention.output.dense", context))
        inner = T.gelu(linear("intermediate.dense", y))
        total = (weights * norm("output.LayerNorm", y + linear("output.dense", inner))).sum()
        return total.item(), torch.autograd.grad(total, [x, *p.values()])

    return both


def _serve(kind: str) -> None:
    """Answer the lines of standard input; before the first, each contender is run once on a short text."""
    from bertcraft.tensor.parallel import one_blas_thread

    def function(name: str, length: int) -> Callable:
        return fused(length) if name == "fused" else ours(name, length)

    if kind == "torch":
        import torch

        torch.set_num_threads(1)
    with one_blas_thread():
        for name in (name for name, where in CONTENDERS.items() if where == kind):
            function(name, 2 * WINDOW)()
        before = machine.peak_memory()
        for line in sys.stdin:
            name, length = json.loads(line)
            both, times = function(name, length), max(1, ENOUGH // length)
            both()
            start = time.perf_counter()
            for _ in range(times):
                both()
            ms = 1000 * (time.perf_counter() - start) / times
            print(json.dumps({"ms": ms, "mb": machine.peak_memory() - before}), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
