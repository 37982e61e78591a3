# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 15. Layer norm: where it stands, and what it divides by
#
# A layer of BERT adds, then normalises. Nearly all large language models since GPT-2 normalise first and add afterwards. The two
# differ by the order of two lines. You will wire five kinds of layer, derive how the length of a state decides the size of a
# gradient, measure both in a BERT before its first step, and see what the best-known explanation leaves open. Then you train.
#
# You need NumPy and both parts of [lesson 00](00_foundations.ipynb). The sections take 215 minutes, nearly half of
# them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style
from bertcraft.techniques import layer_norm_variants as technique

lesson = open_lesson("layer_norm_variants")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)

# %%
lesson.claim()

# %% [markdown]
# "Stability" mixes two questions with two papers.
#
# - **Where does the norm stand?** Behind the addition (**post-LN**), as in BERT, or before attention and feed-forward
#   (**pre-LN**). Xiong and others (2020) trained translators without a warm-up, at the full learning rate from the first step:
#   post-LN reached 8.45 BLEU (a score of translations, at most 100) where it has 34 with a warm-up; pre-LN did not mind. They do
#   not say that pre-LN ends better: "comparable results".
# - **What does it divide by?** **RMSNorm** (Zhang and Sennrich 2019) leaves the mean out. Its promise is time, not stability.

# %%
def here(metric: str, arm: str) -> float:
    """The mean of a metric over an arm's stored runs."""
    return float(np.mean([run["figures"][metric] for run in lesson.runs if run["arm"] == arm]))


print(f"{'without a warm-up':30s} {'paper':22s} here")
print(f"{'pre-LN':30s} {'as good as with one':22s} {here('share', 'pre'):.0f} % of four rates train")
print(f"{'post-LN':30s} {'8.45 BLEU for 34':22s} {here('share', 'post'):.0f} % of them")
print(f"{'time, RMSNorm over layer norm':30s} {'0.36 to 0.93':22s} {here('time', 'pre_rms') / here('time', 'pre'):.2f}")

# %% [markdown]
# (Paired, the last is 0.94 [0.89, 1.00]: *cannot tell*.)
#
# ## 2. Background and motivation (10 minutes)
#
# In 2017 the Transformer came with a recipe: let the learning rate rise for 4,000 steps, then fall. GPT-2 (2019) moved the norms
# to the front. Five wirings are in use, drawn here for a *half* of a layer. A half is attention or feed-forward; a layer has
# both, one after the other.

# %% alt="Five wirings side by side, each from an input x of shape (B, L, H) down to a plus and an output. Post-LN: x goes to a half and past it to the plus, and a norm stands behind the plus. Pre-LN: a norm stands before the half, none behind the plus. Pre-RMSNorm: the same with an RMSNorm. Sandwich: a norm before the half and another behind it, both within the branch. DeepNorm: as post-LN, with x times alpha on the way past."
KINDS = (("post-LN", "BERT, 2018", "", "", "LN"), ("pre-LN", "GPT-2, 2019", "LN", "", ""),
         ("pre, RMSNorm", "LLaMA, 2023", "RMS", "", ""), ("sandwich", "CogView, 2021", "LN", "LN", ""),
         ("DeepNorm", "2022", "", "", "LN"))  # fmt: skip
with drawing.schematic(columns=10, rows=7, width=10.6, row_height=0.58) as s:
    for column, (title, seen, before, behind, after) in zip(range(0, 10, 2), KINDS, strict=True):
        s.note(f"{title}\n{seen}", at=(column + 0.5, -0.1))
        x, last = s.box("x", at=(column, 1), kind="data"), s.box("x", at=(column, 6), kind="data")
        places = ((before, 2, "new"), ("half", 3, "step"), (behind, 4, "new"))
        branch = [s.box(text, at=(column + 1, row), kind=kind) for text, row, kind in places if text]
        plus = s.box("+", at=(column, 5 if not after else 4.2))
        path = [x, *branch, plus] + ([s.box(after, at=(column, 5.1), kind="new")] if after else []) + [last]
        for one, two in zip(path, path[1:], strict=False):
            s.arrow(one, two)
        s.arrow(x, plus, {"post-LN": "(B, L, H)", "DeepNorm": "times α"}.get(title, ""))

# %% [markdown]
# Look at the vertical line on the left of each, the [residual](00_glossary.ipynb) path: the three in the middle have no norm on
# it, and need one more behind all layers.
#
# Xiong and others asked how large the gradient is *before the first step*. We ask it of the model of this lesson's experiment:
# thin layers, 64 wide, that read short requests to assistants. Weights start with a deviation of 0.07: BERT's 0.02 at 768,
# times $\sqrt{768/64}$ for the smaller width. The figure shows the last layer's second feed-forward matrix, for models of 3 to
# 24 layers. **Predict first**: which line is level?

# %% quick="BATCHES, LAYERS, DEPTHS = 1, 4, (2, 4)"
BATCHES, LAYERS, DEPTHS = 2, 12, (3, 6, 12, 24)  # if you have some minutes: 32 BATCHES
DEVIATION = 0.07  # of the weights at the start; try 0.125, which is 1 / sqrt(64), and read on with it

# %%
from bertcraft.lab import stability
from bertcraft.lab.experiments import layer_norm_variants as experiment

SETTINGS = experiment.EXPERIMENT.arm("post").settings | {"deviation": DEVIATION}


def task_of(wiring: str, **changes):
    """A model at its start, its texts and its batches: those of the experiment, but of a seed that it does not report."""
    return stability.task_of(SETTINGS | {"wiring": wiring} | changes, 1000, experiment.build)


def at_start(wiring: str, layers: int):
    """Norms of the mean gradient by layer and matrix: (layers, 2)."""
    task = task_of(wiring, layers=layers)
    batches = map(task.make_batch, range(BATCHES))
    return technique.gradient_norms(task.architecture.loss, task.architecture.start, batches, task.architecture.config)


NAMES = {"post": "post-LN", "pre": "pre-LN", "sandwich": "sandwich", "deep": "DeepNorm"}
found = {wiring: {layers: at_start(wiring, layers) for layers in DEPTHS} for wiring in ("post", "pre")}

# %% alt="Norm of the last layer's gradient against the number of layers, 3 to 24. Post-LN stays between 0.22 and 0.29, pre-LN falls from 0.25 to 0.11; a dotted line falls as one over the root of the depth."
with style.shown(width=6.0, height=2.9) as ax:
    for place, wiring in enumerate(("post", "pre")):
        last = np.array([found[wiring][layers][-1, 1] for layers in DEPTHS])
        ax.plot(DEPTHS, last, **style.line(place), label=NAMES[wiring])
    ax.plot(DEPTHS, last[0] * (np.array(DEPTHS) / DEPTHS[0]) ** -0.5, color="0.5", lw=1, ls=":", label="1 / root of the layers")
    ax.set(xscale="log", xlabel="layers of the model", ylabel="norm of the last layer's gradient", ylim=(0, None))
    ax.set_xticks(DEPTHS, map(str, DEPTHS))
    ax.set_xticks([], minor=True)
    ax.legend(fontsize=8)

# %% [markdown]
# Post-LN's has no trend; pre-LN's falls, nearly as the dotted line. Section 3 derives it. (Two batches leave much noise: the stored
# experiment takes eight; its lines lie lower.)
#
# ## 3. Mathematical foundation (25 minutes)
#
# ### Two norms
#
# A token's vector $x$ has $H$ numbers with mean $\mu$ and variance $\sigma^2$. With $\gamma,\beta$ learnt, of shape $(H,)$,
# $\epsilon$ tiny, and $\odot$ for number by number:
#
# $$\mathrm{LN}(x)=\gamma\odot\frac{x-\mu}{\sqrt{\sigma^2+\epsilon}}+\beta\tag{1}$$
#
# $$\mathrm{RMS}(x)=\gamma\odot\frac{x}{\sqrt{\frac1H\sum_i x_i^2+\epsilon}}\tag{2}$$
#
# **By hand**, $x=(1,7)$, $\epsilon=0$: the mean is 4, the deviation 3, so $\mathrm{LN}=(-1,1)$. The mean square is 25, so
# $\mathrm{RMS}=(0.2,1.4)$. Both have mean square 1: a length of $\sqrt H$. LN is RMS of what is left when the mean is taken
# away,
#
# $$\mathrm{LN}(x)=\mathrm{RMS}(x-\mu)+\beta,\tag{3}$$
#
# so add 100 to every number of $x$ and LN says the same, RMS does not.
#
# ### Four wirings
#
# With $\varphi$ for what a half computes, $v$ for its mean square (letters of this lesson) and $N$ layers:
#
# $$\text{post-LN:}\quad x\leftarrow\mathrm{LN}(x+\varphi(x))\tag{4}$$
#
# $$\text{pre-LN:}\quad x\leftarrow x+\varphi(\mathrm{LN}(x))\tag{5}$$
#
# $$\text{sandwich:}\quad x\leftarrow x+\mathrm{LN}(\varphi(\mathrm{LN}(x)))\tag{6}$$
#
# $$\text{DeepNorm:}\quad x\leftarrow\mathrm{LN}(\alpha x+\varphi(x)),\qquad\alpha=(2N)^{1/4}\tag{7}$$
#
# DeepNorm also starts with smaller matrices: those of values, of attention's output and both of feed-forward are multiplied by
# $(8N)^{-1/4}$. (Its $\alpha$ is no learning rate.) For 12 layers: 2.21 and 0.32.
#
# ### How long is a state?
#
# With $|x|^2$ for the sum of squares and $\gamma=1$, $\beta=0$ as at the start, post-LN and DeepNorm end every half with
# $|x|^2=H$. In pre-LN and sandwich things add up. Let what a half adds have nothing to do with $x$. Then the mixed products
# cancel on average ($\mathbb E$), and after $l$ layers of two halves each
#
# $$\frac{\mathbb E|x|^2}{H}=1+2\,l\,v.\tag{8}$$
#
# For sandwich $v=1$, exactly: what is added comes out of a norm. For pre-LN the weights decide it. (Xiong and others, lemma 2:
# between $1+\frac l2$ and $1+\frac{3l}2$ where matrices have variance $1/H$.)

# %% alt="Mean square of a state against the layer, 1 to 12. Post-LN, a wide line, and DeepNorm upon it stay at 1. Pre-LN rises to between 3 and 4, sandwich to nearly 30, above the dotted line 1 plus 2 times the layer by up to a half."
sizes = {}
for wiring in NAMES:
    task = task_of(wiring, layers=LAYERS)
    start, config, ids = task.architecture.start, task.architecture.config, task.make_batch(0)["input_ids"]
    sizes[wiring] = technique.state_sizes(start, config, ids, technique.sockets(wiring))
depth = np.arange(1, LAYERS + 1)
with style.shown(width=6.0, height=2.9) as ax:
    for place, (wiring, size) in enumerate(sizes.items()):
        under = {"lw": 4, "ms": 8.5} if wiring == "post" else {}  # DeepNorm lies upon it
        ax.plot(depth, size, **style.line(place), **under, label=NAMES[wiring])
    ax.plot(depth, 1 + 2 * depth, color="0.5", lw=1, ls=":", label="1 + 2 l")
    ax.set(yscale="log", xlabel="behind layer l", ylabel="mean square of a state")
    ax.set_yticks((1, 3, 10, 30), ("1", "3", "10", "30"))
    ax.legend(fontsize=8)

# %% [markdown]
# Sandwich lies above its line here; the stored five seeds lie at it or a little below. In pre-LN $v$
# is $(3.4-1)/24=0.1$.
#
# ### A norm's derivative
#
# Without $\epsilon$ and $\gamma$, (2) is $y=\sqrt H\,x/|x|$. The quotient rule gives, with $1_{i=j}$ for 1 where $i=j$ and else
# 0,
#
# $$\frac{\partial y_i}{\partial x_j}=\frac{\sqrt H}{|x|}\Bigl(1_{i=j}-\frac{x_ix_j}{|x|^2}\Bigr).\tag{9}$$
#
# Two things to read off. Along $x$ itself nothing passes: a longer $x$ gives the same $y$. And all else is multiplied by
# $\sqrt H/|x|$: **the longer the state, the smaller the gradient that comes back through its norm**. By hand, $x=(3,4)$:
# $\sqrt2/5=0.28$, times the matrix with rows $(0.64,-0.48)$ and $(-0.48,0.36)$. Times $(3,4)$ it is 0.
#
# ### The gradient at the start
#
# A gradient comes back from the loss and meets the last norm. In pre-LN that norm reads a state whose mean square is (8) with
# $l=N$, and what passes then runs down the residual path unchanged:
#
# $$\text{pre-LN:}\quad|g|\;\text{is multiplied by about}\;\frac1{\sqrt{1+2Nv}}\tag{10}$$
#
# For many layers this falls as $1/\sqrt N$. In post-LN the last norm reads $x+\varphi(x)$, whose mean square is $1+v$: no $N$
# at all. This is the core of Xiong's theorem 1, which is about the *last* layer only. Section 5 looks at the others.
#
# ## 4. NumPy implementation (20 minutes)
#
# The tree of parameters tells a norm's place by its name: `attention.LayerNorm` stands before attention,
# `attention.output.LayerNorm` behind it. A norm without a bias is an RMSNorm.

# %%
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from bertcraft.bert import encoder, families
from bertcraft.bert.config import Config
from bertcraft.bert.encoder import Sockets
from bertcraft.tensor import functions as F
from bertcraft.tensor import grad, tree

# %%
from bertcraft.techniques.layer_norm_variants import normed, norm  # inline

# %%
x, one = np.array([1.0, 7.0]), np.ones(2)
print("LN(1, 7)  ", F.layer_norm(x, one, 0 * one, eps=0), "  of (101, 107)", F.layer_norm(x + 100, one, 0 * one, eps=0))
print("RMS(1, 7) ", F.rms_norm(x, one, eps=0), " of (101, 107)", F.rms_norm(x + 100, one, eps=0).round(3))

# %% [markdown]
# Equations (5) and (6) differ by what is done behind a half. (`source`, which keys and values are computed from, is x but in a
# last layer that is computed at masked places only.)

# %%
from bertcraft.techniques.layer_norm_variants import pre_layer_norm, sandwich_layer_norm, _within  # inline

# %% [markdown]
# Equation (7):

# %%
from bertcraft.techniques.layer_norm_variants import DeepNorm, deep_norm_constants, deep_norm  # inline

# %% [markdown]
# And the two measurements. The gradient is averaged *before* it is measured: single batches have more noise than gradient.

# %%
from bertcraft.techniques.layer_norm_variants import gradient_norms  # inline

# %%
from bertcraft.techniques.layer_norm_variants import state_sizes  # inline

# %% [markdown]
# ### Proof
#
# First against torch: RMSNorm, and a whole pre-LN layer; random weights, double precision, gradients too.

# %%
rng = np.random.default_rng(0)


def of_torch(layer) -> dict:
    """The tree of a torch.nn.TransformerEncoderLayer with its norms first."""
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    pair = lambda name: {"weight": p[f"{name}.weight"], "bias": p[f"{name}.bias"]}  # noqa: E731
    maps = zip(np.split(p["self_attn.in_proj_weight"], 3), np.split(p["self_attn.in_proj_bias"], 3), strict=True)
    own = {name: {"weight": w, "bias": b} for name, (w, b) in zip(("query", "key", "value"), maps, strict=True)}
    return {"attention": {"self": own, "output": {"dense": pair("self_attn.out_proj")}, "LayerNorm": pair("norm1")},
            "intermediate": {"dense": pair("linear1"), "LayerNorm": pair("norm2")},
            "output": {"dense": pair("linear2")}}  # fmt: skip


# %%
SMALL = Config(family="bert", hidden_size=6, num_attention_heads=3, num_hidden_layers=2, intermediate_size=7, vocab_size=13,
               max_position_embeddings=12, layer_norm_eps=1e-5, hidden_dropout_prob=0.0,
               attention_probs_dropout_prob=0.0)  # fmt: skip
if lesson.installed("torch"):
    import torch

    def held_to(module, ours, x) -> None:
        """Whether values and gradients with respect to x are the same to 1e-10."""
        theirs = torch.tensor(x, requires_grad=True)
        (module(theirs) ** 3).sum().backward()
        value = np.abs(ours(x) - module(torch.tensor(x)).detach().numpy()).max()
        slope = np.abs(bc.grad(lambda x: np.sum(ours(x) ** 3))(x) - theirs.grad.numpy()).max()
        print(f"{type(module).__name__:24s} values {value < 1e-10}, gradients {slope < 1e-10}")

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(6, 3, 7, 0.0, "gelu", 1e-5, batch_first=True, norm_first=True, dtype=torch.float64)
    own = technique.sockets("pre")
    held_to(torch.nn.RMSNorm(6, dtype=torch.float64), lambda x: F.rms_norm(x, np.ones(6)), rng.standard_normal((2, 6)))
    held_to(layer, lambda x: pre_layer_norm(of_torch(layer), x, x, None, SMALL, own), rng.standard_normal((2, 5, 6)))

# %% [markdown]
# Then without trusting anybody: every wiring's derivative against differences.

# %%
for wiring in NAMES:
    params = technique.initial_params(SMALL, 0, wiring, dtype=np.float64)
    sockets, layer = technique.sockets(wiring), families.layers(params, SMALL)[0]
    weights = rng.standard_normal((1, 3, 6))
    bc.check_grads(lambda x: np.sum(sockets.wiring(layer, x, x, None, SMALL, sockets) * weights), rng.standard_normal((1, 3, 6)))
print("analytic and numeric gradients agree")

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Counted exactly
#
# What is there to save in a norm? Each operation on a number counted as one, for BERT-base:

# %%
base = Config(family="bert")
H, tokens = base.hidden_size, 128
layer_flops = 24 * H**2 + 4 * tokens * H
for name, norms, flops in (("layer norm", "layer", 7 * H), ("RMSNorm", "rms", 4 * H)):
    count, share = technique.norm_parameters(base, norms=norms), 2 * flops / layer_flops
    print(f"{name:10s} {count:6,} parameters, {share:.2%} of a layer's operations")

# %% [markdown]
# Less than a thousandth. So time can only come from *moving* numbers: written as seven small operations, a norm reads and
# writes the whole state seven times. A fused norm, one routine for all seven, reads it once, and little is left to gain.
#
# ### Live: all layers at the start
#
# Twelve layers, the four wirings, the gradient of each layer's second feed-forward matrix. **Predict first**: does post-LN's
# gradient grow on its way down to the first layer, shrink, or neither?

# %% alt="Norm of the mean gradient against the layer for four wirings, logarithmic. Post-LN is about level near 0.2; pre-LN falls from 0.24 to 0.14, sandwich from 0.47 to 0.18; DeepNorm is level near 0.04."
with style.shown(width=6.2, height=3.0) as ax:
    for place, wiring in enumerate(NAMES):
        norms = found[wiring][LAYERS] if wiring in found else at_start(wiring, LAYERS)
        ax.plot(depth, norms[:, 1], **style.line(place), label=NAMES[wiring])
    ax.set(yscale="log", xlabel=f"layer of {LAYERS}", ylabel="norm of the mean gradient")
    ax.set_yticks((0.05, 0.1, 0.2, 0.4), ("0.05", "0.1", "0.2", "0.4"))
    ax.set_yticks([], minor=True)
    ax.legend(fontsize=8)

# %% [markdown]
# Post-LN's is level. In the last layer it lies above pre-LN's, as (10) says. But the gap is small and gone in the first layers,
# and DeepNorm, with its norms where post-LN has them, has by far the smallest: its last norm reads a state 2.2 times as long (9),
# the matrix numbers 0.32 times as large; $0.23\cdot0.32/2.2=0.03$.
#
# ### A question that the theory leaves open
#
# BERT is trained with Adam, which divides each number of a gradient by its size. **Its first step moves every weight by the
# learning rate, up or down, however large the gradient is.** So why should a large gradient hurt? Liu and others (2020) looked
# elsewhere: at how much the *output* changes when all weights change a little. Do Adam's first step, and look at the last states:

# %% quick="RATES = RATES[:3]"
RATES = 10.0 ** np.linspace(-5, -2, 7)


# %%
def moved(wiring: str, layers: int, deviation: float = DEVIATION) -> np.ndarray:
    """Mean square of what Adam's first step changes in the last states, over theirs; for each rate."""
    task, sockets = task_of(wiring, layers=layers, deviation=deviation), technique.sockets(wiring)
    start, config, batch = task.architecture.start, task.architecture.config, task.make_batch(0)
    direction = tree.map(np.sign, grad(task.architecture.loss)(start, batch))

    def states(rate):
        params = tree.map(lambda p, d: p - np.float32(rate) * d, start, direction)
        return encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], sockets=sockets)

    before = states(0)
    return np.array([np.mean((states(rate) - before) ** 2) / np.mean(before**2) for rate in RATES])


changes = {(wiring, layers): moved(wiring, layers) for wiring in NAMES for layers in (DEPTHS[0], LAYERS)}

# %% alt="How much Adam's first step changes the last states, relative to their size, against the learning rate, both logarithmic; left 3 layers, right 12. At 3 layers post-LN and pre-LN lie together, sandwich above them. At 12 layers post-LN and sandwich lie together, pre-LN up to three times lower; DeepNorm lies far below in both."
with style.shown(columns=2, width=8.8, height=3.0) as panels:
    for ax, layers in zip(panels, (DEPTHS[0], LAYERS), strict=True):
        for place, wiring in enumerate(NAMES):
            ax.plot(RATES, changes[wiring, layers], **style.line(place), label=NAMES[wiring])
        ax.axhline(1, color="0.5", lw=1, ls=":")
        ax.set(xscale="log", yscale="log", xlabel="learning rate of the first step", title=f"{layers} layers", ylim=(4e-7, 3))
    panels[0].set_ylabel("change of the last states")
    panels[0].legend(fontsize=8)

# %% [markdown]
# A change of 1 has the mean square of the states themselves. At three layers post-LN and pre-LN are alike. At twelve, a first
# step of 0.001 changes post-LN's states by 1, pre-LN's by a half, DeepNorm's, made to bound this, by a fortieth.
#
# The larger a half's share of the state that it adds to, the more a change of its weights counts. In post-LN the share is
# $v/(1+v)$, in every layer. In pre-LN it is $v/(1+2lv)$, less from layer to layer; in sandwich the same with $v=1$. With the
# $v=0.1$ of section 3 and twelve layers: 0.09 throughout, from 0.08 down to 0.03, from 0.33 down to 0.04. DeepNorm's small
# matrices divide $v$ by $8N=96$. What if all weights are larger?

# %%
for deviation in (0.07, 0.125):
    first = {NAMES[wiring]: moved(wiring, LAYERS, deviation)[2] for wiring in ("post", "pre")}
    told = ", ".join(f"{name} {change:.4f}" for name, change in first.items())
    print(f"weights of deviation {deviation}, a first step of {RATES[2]:.0e}: {told}")

# %% [markdown]
# With nearly twice the deviation $v$ is about ten times as large (8.7 asks why). Post-LN's share rises to a half, and its
# states change thirteen times as much. Pre-LN's share stays below $1/2l$, and the same step is a smaller part of larger
# weights: its states change no more than before.
#
# So a **warm-up** makes the first steps short where a step goes far. That is not all: sandwich goes as far as post-LN, and trains
# without one. (With 0.125 post-LN hardly learnt even with a warm-up; so the experiment starts with 0.07.)
#
# ### Live: two trainings without a warm-up
#
# Same weights, same texts, same masks; a rate of 0.002 that falls to zero from the first step on. No gradient is clipped.
# **Predict first**: which of the two gets below the line of word frequencies?

# %% quick="STEPS = 10"
STEPS, RATE, WARMUP = 240, 2e-3, 0  # if you have some minutes: a WARMUP of 48; four times the STEPS

# %%
from bertcraft.techniques.roberta_optimizations import predicted, trimmed
from bertcraft.tensor.parallel import cpu_count, sharded_value_and_grad
from bertcraft.train import adamw, fit, warmup_linear


def trained(wiring: str):
    """A ``FitResult``; after each sixth of the steps the loss at [MASK] of the texts that are read, too."""
    task = task_of(wiring)
    rule = adamw(warmup_linear(RATE, WARMUP, STEPS), b2=0.98, eps=1e-6, weight_decay=0.01)
    loss = task.architecture.loss
    step = sharded_value_and_grad(loss, shard_size=32, weight=predicted, prepare=trimmed, threads=cpu_count())
    return fit(step, task.architecture.start, rule, task.make_batch, STEPS, seed=0, evaluate_every=STEPS // 6,
               evaluate=lambda params: task.read(task.architecture, params)["loss"])  # fmt: skip


runs = {NAMES[wiring]: trained(wiring) for wiring in ("post", "pre")}

# %% alt="Loss at MASK of the texts that are read against steps, 40 to 240. Both curves begin at 6.03. Post-LN levels out at 5.83, just above the dotted line of word frequencies at 5.77; pre-LN crosses it after about 100 steps and ends half a nat below."
task = task_of("post")
with style.shown(width=6.2, height=3.0) as ax:
    for place, (title, run) in enumerate(runs.items()):
        steps, losses = zip(*run.evaluations, strict=True)
        ax.plot(steps, losses, **style.line(place), label=title)
    ax.axhline(task.plateau, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    ax.set(xlabel="steps", ylabel="loss at [MASK], texts read (nats)")
    ax.legend(fontsize=8)

# %% [markdown]
# Post-LN learns which words are frequent, and stays there. Pre-LN gets off the plateau. That is one seed, one rate, few steps. In
# words, on requests that both have read 60 times:

# %%
from bertcraft.bert import heads

MASK = task.texts.tokenizer.token_to_id("[MASK]")


def filled(title: str, row: np.ndarray, place: int) -> str:
    """The two likeliest words of a trained model where a word of a row is hidden."""
    params, own = runs[title].params, technique.sockets("pre" if title == "pre-LN" else "post")
    hidden, config = row.copy(), task.architecture.config
    hidden[place] = MASK
    states = encoder.encode(params, config, hidden[None], hidden[None] != 0, sockets=own)
    logits = heads.masked_lm_logits(params, config, states)[0, place]
    return ", ".join(task.texts.tokenizer.id_to_token(i) for i in logits.argsort()[:-3:-1])


for row in task.texts.train[[3, 10, 40]]:
    words = [task.texts.tokenizer.id_to_token(i) for i in row if i]
    place = len(words) // 2
    print(" ".join(words[1:place]), "[...]", " ".join(words[place + 1 : -1]), "| hidden:", words[place])
    print("   ", "; ".join(f"{title}: {filled(title, row, place)}" for title in runs))

# %% [markdown]
# Post-LN says the same two words everywhere. Pre-LN has begun to look around the gap, and fills one of the three.
#
# ### The stored experiment
#
# Four rates, 0.001 to 0.008, ten seeds. A rate *trains* where the loss at [MASK] of texts read ends half a nat below their
# words' frequencies. Compared is the share of the four that do, so no rate has to be chosen. First, can the question be asked:
# does post-LN train *with* a warm-up?

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results("share", "loss", "unread", "time", "last", "slope")

# %%
lesson.comparisons()

# %% alt="Loss at MASK of texts read where each rate ended, a mark a seed and a line through medians for each arm. Post-LN, clipped or not, lies on the dotted line of word frequencies, 5.7, at all four rates from 0.001 on; at 0.00025 and 0.0005 it ends at 4.9 and 4.4. Pre-LN, with layer norm or RMSNorm, ends near 3.3 at 0.001 and 0.002, at 4.5 to 4.8 at 0.004 and near 5.5 at 0.008; sandwich rises from 4.3 to 5.3, the line half a nat below word frequencies. Post-LN with a warm-up ends at 2.9 and 2.7, then on the dotted line. DeepNorm falls from 3.6 to 1.2 at 0.004, where two of five stay on the dotted line, and is on the dotted line at 0.008."
lesson.plots(1)

# %% alt="Norm of the expected gradient at the start, logarithmic. Left, by layer of twelve: post-LN level at 0.17; pre-LN falls from 0.17 to 0.10, sandwich from 0.36 to 0.12; DeepNorm level at 0.023. Right, the last layer's against 3 to 24 layers: post-LN level, power 0.05; pre-LN falls from 0.15 to 0.08, power -0.30, along the dotted line of (10); sandwich power -0.43, DeepNorm -0.50."
lesson.plots(2)

# %% [markdown]
# **The claim holds.** Without a warm-up pre-LN trains at 75 % of the rates, post-LN at 8: +68 [+55, +80], *reproduced*. So is its
# reason: with a warm-up post-LN trains at half of them, +45 [+31, +59]. Clipping: +5 [-9, +19], *cannot tell*. Beside it belongs:
#
# - **It is one of these rates.** At 0.00025 and 0.0005 post-LN trains without a warm-up in all five seeds (asked afterwards).
# - **Most rates is not least loss**: sandwich 4.16 nats, pre-LN 3.32, post-LN with a warm-up 2.78, DeepNorm 1.49
#   (five seeds, each at its own best rate).
# - **The start explains slopes, not training.** The last layer's gradient goes with the depth to the power 0.05 in post-LN, -0.30
#   in pre-LN, -0.43 in sandwich; (10) has -0.31 and -0.47. But sandwich has the largest gradients of all, in its first layers,
#   and trains.
# - **RMSNorm**: -0.007 [-0.253, +0.240] nats, 0.94 [0.89, 1.00] of the time; *cannot tell*, both.
#
# ### When does it not help?
#
# - **With weights that are trained.** A post-LN checkpoint has learnt where its norms stand; it cannot be switched.
# - **With few layers**, perhaps: at three a first step goes as far in both; BERT's twelve train in post-LN, with a warm-up.
# - **At the end.** Liu and others (2020) report post-LN ahead of pre-LN where it trains; here only with a warm-up, and on texts
#   read.
#
# ## 6. In production (15 minutes)
#
# transformers has RoBERTa as pre-LN too: RoBERTa-PreLayerNorm. Its folders open here, and go back:

# %%
SIZES = {"vocab_size": 30, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 20,
         "max_position_embeddings": 20, "type_vocab_size": 1, "initializer_range": 0.3}  # fmt: skip
ids = np.random.default_rng(1).integers(4, 30, (2, 9))

if lesson.installed("transformers", "torch"):
    import tempfile

    from transformers import AutoModel, RobertaPreLayerNormConfig, RobertaPreLayerNormModel

    torch.manual_seed(0)
    network = RobertaPreLayerNormModel(RobertaPreLayerNormConfig(**SIZES)).double().eval()
    states = network(torch.tensor(ids)).last_hidden_state
    states.pow(2).sum().backward()
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(f"{folder}/theirs")
        opened = bc.load(f"{folder}/theirs")
        opened.save(f"{folder}/ours")
        again = AutoModel.from_pretrained(f"{folder}/ours", dtype=torch.float64).eval()
        returned = again(torch.tensor(ids)).last_hidden_state.detach().numpy()
    gap = np.abs(opened(ids).last_hidden_state - states.detach().numpy()).max()
    print(type(again).__name__, "there and back:", max(gap, np.abs(opened(ids).last_hidden_state - returned).max()) < 1e-10)

# %%
if lesson.installed("transformers", "torch"):
    own = dict(tree.items(bc.grad(lambda params: np.sum(encoder.encode(params, opened.config, ids) ** 2))(opened.params)))
    theirs = {f"roberta_prelayernorm.{name}": p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    worst = max(np.abs(own[name] - g).max() / max(1, np.abs(g).max()) for name, g in theirs.items())
    print(f"{len(theirs)} parameters, every gradient to 1e-10: {worst < 1e-10}")

# %% [markdown]
# Two defaults of torch to know. `TransformerEncoder` has no norm behind its layers unless you give it one: right for post-LN,
# wrong for `norm_first=True`. And the $\epsilon$ of `torch.nn.RMSNorm(H)` depends on the numbers' type:

# %%
if lesson.installed("torch"):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 256, 0.0, batch_first=True, norm_first=True)
    for norm_behind in (None, torch.nn.LayerNorm(64)):
        stack = torch.nn.TransformerEncoder(layer, 24, norm_behind, enable_nested_tensor=False).eval()
        with torch.no_grad():
            square = stack(torch.randn(2, 9, 64)).pow(2).mean()
        print(f"24 layers, a norm behind them: {norm_behind is not None!s:5}, mean square of a state {square:.1f}")
    small = torch.full((1, 4), 1e-4)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        print(f"RMSNorm of four numbers 0.0001, {dtype}: {torch.nn.RMSNorm(4, dtype=dtype)(small.to(dtype))[0, 0].item():.3f}")

# %% [markdown]
# In double precision the result is 1, in single 0.28: $\epsilon$ is 1.2e-7 there, twelve times the mean square. (Until
# [2025](https://github.com/pytorch/pytorch/pull/142848) bfloat16 had 0.0078.) Always give $\epsilon$, and the checkpoint's own.
#
# **Status today (2026).** Nearly all large language models are pre-LN with RMSNorm; some are sandwiches (Gemma since its second
# version). Encoders follow: ModernBERT (2024) is pre-LN.
#
# ## 7. On your data (5 minutes)
#
# From scratch, in a folder that transformers opens as `RobertaPreLayerNormForMaskedLM`:
#
# ```
# bertcraft pretrain masked_lm --architecture roberta_prelayernorm --size mini --corpus FOLDER --steps 20000 --out run
# ```
#
# Or fine-tune a released one, trained with 40 % masks:
#
# ```python
# from datasets import load_dataset
# from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
#
# name = "andreasmadsen/efficient_mlm_m0.40"
# tokenizer = AutoTokenizer.from_pretrained(name)
# rows = load_dataset("csv", data_files="texts.csv")["train"]               # columns text, label (0, 1, ...)
# rows = rows.map(lambda r: tokenizer(r["text"], truncation=True, max_length=128), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=len(set(rows["label"])))
# Trainer(model, TrainingArguments("out", learning_rate=3e-5), train_dataset=rows, processing_class=tokenizer).train()
# model.save_pretrained("out/model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | loss stays at the words' frequencies | a lower rate, a warm-up, pre-LN; smaller weights at the start |
# | logits grow with the depth | the norm behind all layers is missing |
# | float16 overflows in a deep pre-LN model | states grow (8): bfloat16; or sandwich, whose $\gamma$ bounds what a half adds |
# | a converted model is slightly off | $\epsilon$, or a weight stored as its distance from 1 (Gemma) |
#
# ## 8. Exercises (100 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 RMSNorm (one star, 10 minutes)
#
# Equation (2), without calling `F.rms_norm`.


# %% exercise="rms_norm" stars=1
def rms_norm(x, weight, eps):
    """x (..., H) over the root of its mean square, times weight (H,)."""
    ### BEGIN SOLUTION
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight
    ### END SOLUTION


# %%
check.rms_norm(rms_norm)

# %% [markdown]
# ### 8.2 The norm that lost its digits (two stars, 10 minutes)
#
# $\sigma^2=\overline{x^2}-\mu^2$ ($\overline{x^2}$: the mean of the squares) needs one pass over the numbers instead of two,
# and is often used. It passes every test with numbers around 0. In a deep pre-LN model some numbers are in the thousands. Find
# out what happens, and mend it.


# %% exercise="layer_norm" stars=2
def layer_norm(x, weight, bias, eps):
    """Equation (1) over the last axis: x (..., H), weight and bias (H,); in the precision of x."""
    mean = np.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    ### BEGIN SOLUTION
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    ### END SOLUTION
    ### BEGIN STUB
    # variance = np.mean(x**2, axis=-1, keepdims=True) - mean**2
    ### END STUB
    return centred / np.sqrt(variance + eps) * weight + bias


# %%
check.layer_norm(layer_norm)

# %% [markdown]
# ### 8.3 A pre-LN layer (two stars, 15 minutes)
#
# Equation (5), twice. All four parts are functions of an array.


# %% exercise="pre_layer" stars=2
def pre_layer(x, attention, feed_forward, first, second):
    """A layer: ``attention`` reads the norm ``first``, ``feed_forward`` the norm ``second``; x (L, H) in and out."""
    ### BEGIN SOLUTION
    x = x + attention(first(x))
    return x + feed_forward(second(x))
    ### END SOLUTION


# %%
check.pre_layer(pre_layer)

# %% [markdown]
# ### 8.4 Fold a norm into what reads it (two stars, 15 minutes)
#
# In pre-LN a norm is read by linear maps only. Its scale and shift can then be moved into them, once, before the model is used:
# $W(\gamma\odot n+\beta)+b=W'n+b'$ for every $n$. Return $W'$ and $b'$.


# %% exercise="folded" stars=2
def folded(scale, shift, weight, bias):
    """The map that reads n as (weight, bias) reads scale * n + shift: scale, shift (in,), weight (out, in), bias (out,)."""
    ### BEGIN SOLUTION
    return weight * scale, bias + weight @ shift
    ### END SOLUTION


# %%
check.folded(folded)

# %% [markdown]
# ### 8.5 Back through an RMSNorm (three stars, 20 minutes)
#
# `g` is the derivative of the loss with respect to what the norm gives. Return that with respect to `x`. (9) is nearly all of
# it.


# %% exercise="rms_norm_backward" stars=3
def rms_norm_backward(g, x, weight, eps):
    """g, x (..., H), weight (H,): the gradient with respect to x of the loss whose gradient with respect to the result is g."""
    ### BEGIN SOLUTION
    root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    y = x / root
    g = g * weight
    return (g - y * np.mean(g * y, axis=-1, keepdims=True)) / root
    ### END SOLUTION


# %%
check.rms_norm_backward(rms_norm_backward)

# %% [markdown]
# ### 8.6 Which wiring? (two stars, 15 minutes, a decision)
#
# A team can pay for *one* training of a model of 24 layers, and for no search of its rate. Trials with 12 layers, five seeds,
# four rates, 95 % intervals; "the same loss" was agreed to mean within 0.02 nats:
#
# | arm | rates that train, of 4 | loss at the best rate (nats) | a step |
# | --- | --- | --- | --- |
# | post-LN, warm-up | 1.4 | 0 (the reference) | 100 ms |
# | pre-LN | 3.2 | +0.030 [+0.010, +0.050] to post-LN | 100 ms |
# | pre-LN, RMSNorm | 3.2 | +0.002 [-0.005, +0.009] to pre-LN | 93 ms |
#
# - `arm`: "post", "pre" or "rms".
# - `because`: (a) it has the lowest loss; (b) it trains at most rates, and of the two that do it is the faster at the same loss;
#   (c) it has the fewest parameters.
# - `post_is`: at its best rate post-LN is (a) better than pre-LN; (b) worse; (c) the same.
# - `unless`: what would change your mind? (a) money for five rates at 24 layers; (b) a sixth seed with 3 of 4 for pre-LN; (c) a
#   step of 95 ms for RMSNorm.


# %% exercise="which_wiring" stars=2
def which_wiring():
    """A dict with "arm", and "a", "b" or "c" for "because", "post_is" and "unless"."""
    ### BEGIN SOLUTION
    return {"arm": "rms", "because": "b", "post_is": "a", "unless": "a"}
    ### END SOLUTION


# %%
check.which_wiring(which_wiring)

# %% [markdown]
# ### 8.7 What is left of the theorem? (three stars, 15 minutes)
#
# (a) Multiply the loss by 1,000. What happens to Xiong's gradients? What to Adam's first step? (b) A warm-up of Adam can also
# be explained without any norm: after one step its mean of squares is one number's square
# ([lesson 09](09_advanced_scheduling.ipynb)). How would you tell the two explanations apart by an experiment? (c) All weights of all
# halves are multiplied by $c$. What does (8) become in pre-LN with ReLU, and what does sandwich do?

# %% [markdown] solution=true
# **Model answer.** (a) Gradients are 1,000 times as large; Adam's step stays as it was, but for $\epsilon$. So a gradient's size
# alone cannot explain trouble with Adam; its *differences* between parts of the model, or the way a step is amplified, can. (b)
# Hold one and change the other: pre-LN and post-LN with the same optimiser (this lesson), and post-LN with an optimiser whose
# variance is warmed up (RAdam) or that has none (SGD). If post-LN fails without a warm-up under all of them, it is the norms.
# (c) A half is a product of two maps (values and output; in and out), with nothing but ReLU or averages between: it adds $c^2$
# times as much, $v$ becomes $c^4v$ (attention's weights change as well, a little). In sandwich the second norm divides $c$ out:
# $v=1$ stays.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **A pre-LN state is not normalised.** A probe or a picture of it must apply the last norm first: otherwise deep layers look
#   important because they are long.
# - **Leave norms out of weight decay**: a decayed $\gamma$ has no meaning of its own, the map behind it can undo it (8.4).
# - **16 bits**: compute the mean of squares in float32, whatever the states are in. $300^2$ is above float16's largest number.
# - **DeepNorm is two changes**, $\alpha$ and smaller weights; one without the other is not it.
#
# **Read**: Xiong and others 2020, [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745),
# section 3. Liu and others 2020, [Understanding the Difficulty of Training Transformers](https://arxiv.org/abs/2004.08249).
# Zhang and Sennrich 2019, [RMSNorm](https://arxiv.org/abs/1910.07467). Wang and others 2022,
# [DeepNet](https://arxiv.org/abs/2203.00555). The production code is
# [RoBERTa-PreLayerNorm](https://github.com/huggingface/transformers/tree/main/src/transformers/models/roberta_prelayernorm).
#
# **Open project**: train `--architecture bert` and `--architecture roberta_prelayernorm` on your own texts at three rates each,
# with `--warmup 0` and with the default. Which of the twelve end below your texts' word frequencies?
#
# **Next**: this technique is on none of the four paths. [07 mixed precision](07_mixed_precision_training.ipynb) shows what
# states that grow do to 16-bit numbers; [09 schedules](09_advanced_scheduling.ipynb) asks what else a warm-up is good for;
# [20 clipping](20_gradient_clipping.ipynb) is the other remedy for steps that go too far.
