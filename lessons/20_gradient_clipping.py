# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 20. Gradient clipping: no step longer than a threshold
#
# One line stands in nearly every training script: if the gradient is longer than 1, shorten it to 1. It was invented against cliffs
# in the loss of recurrent networks. BERT is not recurrent, and Adam divides every gradient by its own size anyway. So what does the
# line do? You will walk over the original cliff, prove in two lines what a constant shortening does under Adam, and see what a
# single long gradient does without any.
#
# You need [lesson 00](00_foundations.ipynb) for gradients and Adam, and [lesson 06](06_gradient_accumulation.ipynb) for
# micro-batches. The sections take 225 minutes, 95 of them for exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style
from bertcraft.techniques import gradient_clipping as technique

lesson = open_lesson("gradient_clipping")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (5 minutes)

# %%
lesson.claim()

# %% [markdown]
# *Training stability*, without a number, as in its paper. What people set differs:
#
# | | longest gradient, over all parameters (its *global norm*) |
# | --- | --- |
# | BERT, and `Trainer` of transformers today | 1 |
# | DistilBERT | 5 |
# | RoBERTa | none |
# | Pascanu and others 2013 | half to ten times the mean norm |
#
# So nobody can call it needed. We test a narrower claim: **does a clipped model train at higher learning rates?**
#
# ## 2. Background and motivation: the cliff (20 minutes)
#
# A recurrent network applies one function again and again. Pascanu, Mikolov and Bengio took the smallest one there is, a single
# unit with one weight $w$ and one bias $b$, fifty times over, and drew its loss over $w$ and $b$. That drawing, their figure 6, is
# the picture of this technique. Their function, and its derivatives:

# %%
from bertcraft.tensor import functions as F

from bertcraft.techniques.gradient_clipping import one_unit_loss  # inline

slopes = bc.grad(lambda params: np.sum(one_unit_loss(params)))
w, b = np.meshgrid(np.linspace(3.6, 5.6, 241), np.linspace(-2.8, -0.9, 241))
height, slope = one_unit_loss({"w": w, "b": b}), slopes({"w": w, "b": b})
steep = np.hypot(slope["w"], slope["b"])
print(f"length of the gradient on this map: half are below {np.median(steep):.2f}, the largest is {steep.max():,.0f}")

# %% [markdown]
# `descent` walks downhill by a rule. **Predict first**: with the rate 0.3, how far does a step go where the gradient is 100 long?

# %%
from collections.abc import Callable
from typing import Any

from bertcraft.tensor import grad, tree
from bertcraft.train import Rule, adamw, chain, sgd

from bertcraft.techniques.gradient_clipping import descent  # inline

START, RATE, THRESHOLD = {"w": 4.7, "b": -1.9}, 0.3, 0.2  # try other starts: many never meet the steep part
walks = {
    "unclipped": descent(one_unit_loss, START, sgd(RATE), 60),
    "clipped at 0.2": descent(one_unit_loss, START, chain(technique.by_global_norm(THRESHOLD), sgd(RATE)), 60),
}

# %% alt="Left: map of the loss over the weight w and the bias b. A high plain, dark, below; a low one, light, above; between them a wall along a falling diagonal, with the valley at its foot. From a star both walks go down to the foot; the unclipped one meets the wall and is thrown far across the low plain, the clipped one stays at the foot. Right: the loss along both. After a leap the unclipped walk stays higher than it began; the clipped one climbs the wall now and again, less high each time, and ends near zero."
with style.shown(columns=2, width=9.0, height=3.3) as (left, right):
    left.contourf(w, b, height, levels=12, cmap="Greys")
    for place, (title, walk) in enumerate(walks.items()):
        left.plot(walk["w"], walk["b"], **style.line(2 - place) | {"markersize": 3, "linewidth": 1}, label=title)
        loss = one_unit_loss(walk)
        right.plot(loss, **style.line(2 - place) | {"markersize": 3, "linewidth": 1}, label=f"{title}: ends at {loss[-1]:.4f}")
    left.plot(*START.values(), "*", color="black", markersize=10)
    left.set(xlabel="weight w", ylabel="bias b", title="loss: the darker the higher")
    left.grid(False)
    left.legend(fontsize=8)
    right.set(xlabel="steps", ylabel="loss", ylim=(-0.01, 0.34))
    right.legend(fontsize=8, loc="upper left")

# %% [markdown]
# It goes 30, and the map is 2 wide. Here a gradient of 4.8 was enough: the descent stepped onto the wall, believed its slope, and
# was thrown 1.4 away. Clipped, it steps onto the wall again and again, and each time gets off by at most $0.3\cdot0.2=0.06$.
#
# Today the shortening stands in one place, between the sum of everything and the update. $\kappa$ is the threshold, a *process* one
# of several that share a batch, $S$ a number by which some multiply the loss (lesson [07](07_mixed_precision_training.ipynb)):

# %% alt="Two processes each add up the gradients of their micro-batches, times the loss scale S. The sums of the processes are added, divided by S, and give the true gradient g of P numbers. From it one number, the norm, is computed over all parameters; g times the smaller of 1 and kappa over the norm goes to Adam."
with drawing.schematic(columns=5, rows=3, width=9.6, row_height=0.95) as s:
    parts = [s.box(f"process {k}: sum of\nits micro-batches", at=(0, row), kind="data") for k, row in ((1, 0), (2, 2))]
    total = s.box("sum over\nprocesses", at=(1.1, 1))
    true = s.box("divide by S", at=(2.1, 1))
    norm = s.box("norm of all\nparameters", at=(3.1, 0), kind="new")
    short = s.box("times\nmin(1, κ / norm)", at=(3.1, 1), kind="new")
    rule = s.box("Adam", at=(4.2, 1))
    for part in parts:
        s.arrow(part, total, "$S\\,g_k$")
    s.arrow(total, true, "$S\\,g$")
    s.arrow(true, short, "$g$")
    s.arrow(true, norm, "(P,)", kind="new")
    s.arrow(norm, short, "one number", kind="new")
    s.arrow(short, rule)

# %% [markdown]
# ## 3. Mathematical foundation (30 minutes)
#
# ### Why there are cliffs
#
# Leave the curve out: $x_t=w\,x_{t-1}$ from $x_0=1$. Then
#
# $$x_t=w^t,\qquad\frac{dx_t}{dw}=t\,w^{t-1},\qquad\frac{d^2x_t}{dw^2}=t(t-1)\,w^{t-2}.\tag{1}$$
#
# **By hand**, $t=50$: with $w=0.9$ the slope is 0.29, with $w=1.1$ it is 5,336. A step of gradient descent with the rate 0.001
# would move $w$ by 5. But the slope changes as well, at the rate of the second derivative, the *curvature*. Slope over curvature is
# $w/(t-1)=0.022$: that far, roughly, the gradient tells the truth, and the step is 240 times as long. **Where slopes explode, the
# reach of a slope does not grow with them.** Its direction may be trusted, its length may not.
#
# ### By the global norm
#
# With $g$ the gradient of all $P$ parameters as one vector, $|g|=\sqrt{g_1^2+\dots+g_P^2}$ and $\kappa$ the threshold:
#
# $$g\leftarrow g\cdot\min\Bigl(1,\frac{\kappa}{|g|}\Bigr)\tag{2}$$
#
# A step of gradient descent is then at most $\eta\kappa$ long, and the direction is kept. **By hand**: $(3,4)$ has the length 5;
# at $\kappa=1$ it becomes $(0.6,0.8)$. torch divides by $|g|+10^{-6}$, so that it never divides by 0: $(0.59999988,0.79999984)$.
#
# ### Three other ways
#
# **By value**: each number by itself,
#
# $$g_i\leftarrow\max(-\kappa,\min(\kappa,g_i)).\tag{3}$$
#
# $(3,0.1)$ at 1 becomes $(1,0.1)$. It pointed 1.9 degrees off the first axis, now 5.7: the direction turns, towards a diagonal.
#
# **By block**: (2) for each layer, or each array, alone. Each keeps its direction; the whole does not.
#
# **Adaptive**, of NFNets (Brock and others 2021): what is long for a small weight is short for a large one. With $W_i$ the $i$-th
# row of a matrix, $G_i$ that of its gradient, and $\epsilon$ the least that a row of weights counts for (it is not Adam's),
#
# $$G_i\leftarrow G_i\cdot\min\Bigl(1,\frac{\kappa\,\max(|W_i|,\epsilon)}{|G_i|}\Bigr).\tag{4}$$
#
# $W_i=(0.3,0.4)$, $G_i=(3,4)$, $\kappa=0.01$: the row may be 0.005 long, and becomes $(0.003,0.004)$.
#
# ### Under Adam a constant factor does nothing
#
# Adam keeps $m$, a running mean of gradients, and $u$, one of their squares. Let every gradient be $S$ times as long. Both are
# sums, so $m$ becomes $S\,m$ and $u$ becomes $S^2u$, and the step is
#
# $$\eta\,\frac{S\,m}{\sqrt{S^2u}+\epsilon}=\eta\,\frac{m}{\sqrt u+\epsilon/S}.\tag{5}$$
#
# The factor is gone, but for $\epsilon$, which is as if divided by $S$. **Predict first**: all gradients of a run are longer than 1.
# How does a run clipped at 1 differ from one clipped at 0.1?
#
# Not at all, by (5), $\epsilon$ aside: one run's gradients are a tenth of the other's. But both differ from an unclipped run:
# clipping divided each gradient by *its own* norm, which is no constant. **Under Adam it acts by making some steps count less than
# others.**
#
# ### What one long gradient does
#
# Let a number's gradient be 1 at every step, but $S$ at one. After it, with $t$ counted from it, $m$ and $u$ are
#
# $$m_t=1+(1-\beta_1)\,\beta_1^t\,(S-1),\qquad u_t=1+(1-\beta_2)\,\beta_2^t\,(S^2-1).\tag{6}$$
#
# With $S=1000$, $\beta_1=0.9$, $\beta_2=0.999$: the first step is $100.9/31.6=3.2$ times a usual one. That is not the harm. In a
# hundred steps $m$ has forgotten, $u$ has not: each step is then a thirtieth of a usual one. It takes
# $\ln\!\left((1-\beta_2)S^2\right)/\ln(1/\beta_2)$, some 6,900 steps, until the long gradient's part in $u$ is down to that of all
# others. With RoBERTa's $\beta_2=0.98$ it takes 490. **For such a number the leap is small and the standstill long.** Clipped at
# twice the usual norm, $S$ would be 2:

# %%
SPIKE = 1000.0  # S; try 10

# %% alt="Adam's step over its usual length against steps since a gradient that was a thousand times as long, both logarithmic. With beta-2 0.999 it is 3 at first, a thirtieth after a hundred steps and back only after thousands; with 0.98 it begins at 0.7, falls to a sixty-sixth and is back after some five hundred; and with S = 2, a gradient clipped at twice the usual norm, it hardly leaves 1."
since = np.unique(np.geomspace(1, 20_000, 60).astype(int)) - 1
with style.shown(width=6.6, height=2.8) as ax:
    for place, (b2, size) in enumerate(((0.999, SPIKE), (0.98, SPIKE), (0.999, 2.0))):
        m, u = (1 + (1 - beta) * beta**since * (size**power - 1) for beta, power in ((0.9, 1), (b2, 2)))
        ax.plot(since + 1, m / np.sqrt(u), **style.line(place) | {"markersize": 3}, label=f"β₂ = {b2}, S = {size:g}")
    ax.set(xscale="log", yscale="log", xlabel="steps, the long gradient's own the first", ylabel="step over a usual one")
    ax.legend(fontsize=8)

# %% [markdown]
# ### After sums, after unscaling
#
# Two micro-batches have the gradients 4 and $-3$; their mean is 0.5, shorter than $\kappa=1$, and stays. Clipped one by one they are
# 1 and $-1$, and their mean is *nothing*:
#
# $$\operatorname{clip}(g_1+g_2)\ne\operatorname{clip}(g_1)+\operatorname{clip}(g_2).\tag{7}$$
#
# So clip after the last micro-batch, and after the sum over processes. Where each process holds a part of the *parameters*, the
# squares of the parts' norms are to be added up first. And a gradient that still carries the scale $S$ of its loss meets a
# threshold that is $S$ times as strict:
#
# $$\frac1S\operatorname{clip}_{\kappa}(S\,g)=\operatorname{clip}_{\kappa/S}(g).\tag{8}$$
#
# ## 4. NumPy implementation (20 minutes)
#
# A rule takes gradients and hands on changed ones. Ours keep no memory but the last norm, for the log.

# %%
from bertcraft.train.rules import global_norm  # inline

# %%
from bertcraft.techniques.gradient_clipping import Kept, _rule, none  # inline


def by_norm(max_norm: float, eps: float = 1e-6) -> Rule:
    """Equation (2). The library's, clip_by_global_norm, never writes the shorter gradient down: it tells Adam the factor."""

    def clip(gradients, params):
        factor = np.minimum(1.0, max_norm / (global_norm(gradients) + eps))
        return tree.map(lambda g: g * factor.astype(g.dtype), gradients)

    return _rule(clip)


# %% [markdown]
# Equation (3), and the angle by which anything turned:

# %%
from bertcraft.errors import InputError

from bertcraft.techniques.gradient_clipping import _positive, by_value, angle  # inline

# %% [markdown]
# By block: the names say which parameters belong together. (Equation (1) of the library is our (2).)

# %%
from bertcraft.techniques.gradient_clipping import by_block  # inline

# %%
from bertcraft.techniques.gradient_clipping import layer_of  # inline

# %% [markdown]
# Equation (4); a bias counts as one row. Mind $\epsilon$: weights of 0, as biases begin, may move a little; without it, never.

# %%
from bertcraft.techniques.gradient_clipping import unit_norms, adaptive  # inline

# %% [markdown]
# **Try it.** Two layers of a made-up model, the second with a gradient a hundred times as long:

# %%
rng = np.random.default_rng(0)
params = tree.nest({f"layer.{i}.weight": rng.standard_normal((4, 4)) for i in range(2)})
made = tree.nest({f"layer.{i}.weight": 100.0**i * rng.standard_normal((4, 4)) for i in range(2)})
for title, rule in {"none": none(), "norm, 1": by_norm(1.0), "value, 1": by_value(1.0), "layer, 1": by_block(1.0, layer_of),
                    "adaptive, 0.01": adaptive(0.01)}.items():  # fmt: skip
    kept, _ = rule.update(made, rule.init(params), params)
    lengths = [float(np.linalg.norm(leaf)) for leaf in tree.leaves(kept)]
    print(f"{title:15s} lengths {lengths[0]:8.4f} {lengths[1]:8.4f}   turned by {angle(kept, made):4.1f} degrees")

# %% [markdown]
# By the norm, the first layer is shortened for what the second did. By block, both count alike.
#
# **Proof.** The library's rule and ours; the cliff's slope, measured:

# %%
library = technique.by_global_norm(1.0)
both = [rule.update(made, rule.init(params), params)[0] for rule in (library, by_norm(1.0))]
gaps = [np.abs(a - b).max() for a, b in zip(*map(tree.leaves, both), strict=True)]
print("ours equals the library's to 1e-15:", max(gaps) < 1e-15)
up, down = (float(one_unit_loss({"w": 4.2 + h, "b": -1.9})) for h in (1e-6, -1e-6))
exact = float(slopes({"w": np.array(4.2), "b": np.array(-1.9)})["w"])
print(f"slope along w: {exact:.6f}, measured {(up - down) / 2e-6:.6f}")

# %% [markdown]
# ## 5. Performance analysis (30 minutes)
#
# ### Counted exactly: what it costs, and when ε wakes up

# %%
P, TOKENS = 109_482_240, 256 * 512  # BERT-base, its batch
print(f"norm and shortening: 3 operations a number, {3 * P / (6 * P * TOKENS):.0e} of a training step")
for most in (1.0, 0.01):
    print(f"clipped at {most}: a number's root mean square {most / np.sqrt(P):.1e}, BERT's epsilon 1e-06")

# %% [markdown]
# Next to nothing. But clipped at 0.01, BERT's numbers are as small as its $\epsilon$, and by (5) the factor is no longer harmless.
#
# ### Live: the cliff, from many starts
#
# Now 200 starts, at five rates. How many are in the valley, below 0.01, after 60 steps?

# %%
RATES, MOST = (0.03, 0.1, 0.3, 1.0, 3.0), (np.inf, 1.0, 0.1)
rng = np.random.default_rng(0)
starts = {"w": rng.uniform(3.5, 7, 200), "b": rng.uniform(-3.5, -1.5, 200)}


def arrived(rate: float, most: float, steps: int = 60) -> float:
    """The share of the starts that are below 0.01 after some steps, in %."""
    at = starts
    for _ in range(steps):
        g = slopes(at)
        factor = np.minimum(1, most / np.maximum(np.hypot(g["w"], g["b"]), 1e-30))
        at = {name: at[name] - rate * factor * g[name] for name in at}
    return 100 * np.mean(one_unit_loss(at) < 0.01)


shares = {most: [arrived(rate, most) for rate in RATES] for most in MOST}

# %% alt="Share of 200 starts that reach the valley against the learning rate from 0.03 to 3, for no clipping, a threshold of 1 and one of 0.1. Unclipped it rises from 16 to 40 per cent, with a dip to 27 at the rate 1; clipped at 1 it lies above that up to the rate 1, with 49, and is equal at 3; clipped at 0.1 it begins lowest, with 14, and ends highest, with 59."
with style.shown(width=6.2, height=2.8) as ax:
    for place, (most, share) in enumerate(shares.items()):
        ax.plot(RATES, share, **style.line(place), label="unclipped" if most == np.inf else f"clipped at {most}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="starts that arrive (%)", ylim=(0, 70))
    ax.set_xticks(RATES, RATES)
    ax.minorticks_off()
    ax.legend(fontsize=8)

# %% [markdown]
# At the rate 1 a quarter arrive unclipped, clipped about half. At 3 only 0.1, no help at small rates, still helps; and
# unclipped, too, 3 is the best rate.
#
# ### Live: a small BERT, and one bad batch
#
# The stored experiment's task with two layers in place of six: 128 requests to assistants, read again and again, and judged on
# these, for we ask whether training gets anywhere. Half way we plant a broken batch: its gradient is a thousand times too long.
# First an untouched run.

# %% quick="STEPS = 8"
STEPS, SIZE = 400, 1000.0  # SIZE: how much too long the planted gradient is

# %%
from bertcraft.lab import stability
from bertcraft.lab.experiments import gradient_clipping as experiment
from bertcraft.techniques.roberta_optimizations import predicted, trimmed
from bertcraft.tensor.parallel import cpu_count, sharded_value_and_grad
from bertcraft.train import fit, warmup_linear

settings = {**experiment.EXPERIMENT.arm("none").settings, "layers": 2}
task = stability.task_of(settings, seed=100, build=experiment.build)
bert, start = task.architecture, task.architecture.start
step = sharded_value_and_grad(bert.loss, shard_size=32, weight=predicted, prepare=trimmed, threads=cpu_count())


def planted(times: float) -> Rule:
    """Gradients as they are, but that of the step half way, which is ``times`` as long."""

    def update(gradients, state, params):
        factor = np.float32(times if state["step"] == STEPS // 2 else 1)
        return tree.map(lambda g: factor * g, gradients), {"step": state["step"] + 1}

    return Rule(lambda params: {"step": np.zeros((), int)}, update)


# %%
def trained(clip: Rule, times: float = SIZE, b2: float = 0.98):
    """A ``FitResult`` of AdamW; after each eighth of the steps the loss at [MASK] of the texts read, too."""
    rule = chain(planted(times), clip, adamw(warmup_linear(3e-3, STEPS // 8, STEPS), b2=b2, eps=1e-6))
    return fit(step, tree.map(np.copy, start), rule, task.make_batch, STEPS, seed=0,
               evaluate=lambda params: task.read(bert, params)["loss"], evaluate_every=STEPS // 8)  # fmt: skip


runs = {"nothing planted": trained(none(), times=1.0)}
norms = runs["nothing planted"].gradient_norms
print(f"norm of the gradient: mean {norms.mean():.2f}, median {np.median(norms):.2f}, largest {norms.max():.2f}")
print("the paper's thresholds, half to ten times the mean:", technique.thresholds(norms).round(2))
print(f"longer than 1: {np.mean(norms > 1):.0%} of the steps; than twice the mean: {np.mean(norms > 2 * norms.mean()):.0%}")

# %% [markdown]
# Every gradient of this run is longer than 1: clipped at 1, each is divided by its own norm. None is twice as long as the mean.
#
# **Predict first**: the same run with the bad batch, unclipped; clipped at 1; and unclipped with torch's $\beta_2=0.999$ in place
# of 0.98. Which one is thrown off, which one stands still?

# %%
runs |= {"bad batch, unclipped": trained(none()), "bad batch, clipped at 1": trained(by_norm(1.0)),
         "the same, unclipped, β₂ = 0.999": trained(none(), b2=0.999)}  # fmt: skip

# %% alt="Left: norm of the gradient over 400 steps with nothing planted, logarithmic: from 4 down to 2 in the first thirty steps, up to 4 by the two hundredth, then about 4 with one peak at 7; a dotted line at 1 lies below all of it, a band from 1.8 to 37 marks half to ten times the mean. Right: loss at MASK of texts read. With nothing planted, and with the bad batch clipped at 1, it falls on one line from 5.8 to 2.0. Unclipped it leaps at the bad batch from 3.5 to 4.7 and ends at 4.0; with beta-2 0.999 it leaps to 5.8, the level of word frequencies, and ends at 5.1."
with style.shown(columns=2, width=9.0, height=3.1) as (left, right):
    left.plot(norms, color="black", lw=0.8)
    left.axhspan(*technique.thresholds(norms)[[0, -1]], color="0.92", label="half to ten times the mean")
    left.axhline(1, color="0.3", lw=1, ls=":", label="1")
    left.set(yscale="log", xlabel="steps", ylabel="norm of the gradient", title="nothing planted")
    left.legend(fontsize=8, frameon=True, facecolor="white", framealpha=1)
    for place, (title, run) in enumerate(runs.items()):
        right.plot(*zip(*run.evaluations, strict=True), **style.line(place), label=title)
    right.axhline(task.plateau, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    right.set(xlabel="steps", ylabel="loss at [MASK] (nats)")
    right.legend(fontsize=7, loc="lower left")

# %% [markdown]
# Clipped, the bad batch leaves no trace. Unclipped, the loss leaps by more than a nat, then crawls; with $\beta_2=0.999$ it is
# back at word frequencies.
#
# **A surprise**: (6) promised a standstill, and hardly a leap. But there a number's gradient was always 1. Real ones change
# their sign from batch to batch, so usually $m$ is small beside $\sqrt u$. After the bad batch *every* number follows that one batch,
# for some ten steps, at $0.1/\sqrt{1-\beta_2}$ times the full rate: 0.7 with 0.98, 3.2 with 0.999. That is the leap, and why 0.999
# leaps further.
#
# What do the models know of four texts that they have read? In each the middle word is hidden.

# %%
from bertcraft.bert import Model

for ids in task.texts.train[:4]:
    words = task.texts.tokenizer.decode(ids[ids != 0]).split()
    hidden, words[len(words) // 2] = words[len(words) // 2], "[MASK]"
    print(f"{' '.join(words)}   (hidden: {hidden})")
    for title in ("bad batch, unclipped", "bad batch, clipped at 1"):
        model = Model(bert.config, runs[title].params)
        model.tokenizer = task.texts.tokenizer
        print(f"   {title:24s}", ", ".join(f"{word} {p:.0%}" for word, p in model.fill(" ".join(words), top=3)[0]))

# %% [markdown]
# ### Live: a constant factor, on real gradients
#
# Ten of its gradients, all times $S$, go through Adam. How long is its tenth step, against $S=1$ and hardly any $\epsilon$?

# %%
stored = [step(start, task.make_batch(number), number)[1] for number in range(10)]


def tenth_step(factor: float, eps: float) -> float:
    """The length of Adam's tenth step when every gradient comes times ``factor``."""
    rule = adamw(1.0, b2=0.98, eps=eps, weight_decay=0.0)
    state = rule.init(start)
    for g in stored:
        change, state = rule.update(tree.map(lambda x: np.float32(factor) * x, g), state, start)
    return float(global_norm(change))


# %% alt="Length of Adam's tenth step in per cent against the constant factor, from 1e-7 to 1000. With epsilon 1e-8 it is 100 from a factor of 0.1 on, with 1e-6 from 10 on; below it falls, in the end to 4 and to 0."
factors, plain = 10.0 ** np.arange(-7, 4), tenth_step(1.0, 1e-12)
with style.shown(width=6.2, height=2.7) as ax:
    for place, eps in enumerate((1e-8, 1e-6)):
        lengths = [100 * tenth_step(factor, eps) / plain for factor in factors]
        ax.plot(factors, lengths, **style.line(place + 1), label=f"ε = {eps:.0e}")
    ax.set(xscale="log", xlabel="every gradient times S", ylabel="length of the step (%)", ylim=(0, 103))
    ax.legend(fontsize=8)

# %% [markdown]
# To the right nothing changes, as (5) says. To the left, steps are a third shorter for gradients a hundredth as long with BERT's
# $\epsilon=10^{-6}$, a ten-thousandth with torch's $10^{-8}$.
#
# ### The stored experiment
#
# Six layers, layer norms where BERT has them, a ladder of rates, each twice the one before: which is the highest that still trains?
# Gradient descent with momentum does not train here in so few steps (tried beforehand); up to which rate do its numbers stay finite?
# First, whether the question can be asked:

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results("highest", "finite", "share", "loss", "lost", "angle", "kept")

# %%
lesson.comparisons()

# %% alt="Loss at MASK of texts read where each learning rate ended, medians over five seeds. Left, AdamW, none and five ways of clipping close together: 4.7 to 4.8 nats at the rate 0.0005, 4.5 to 4.8 at 0.001, 5.5 to 5.6 at 0.002 and the level of word frequencies, 5.7, from 0.004 on, adaptive at first a little above; a line at 5.2 marks what counts as training. Unclipped and ten times the mean are one line. Without warm-up both lie higher: 5.3 at 0.00025, 5.1 and 5.2 at 0.0005, 5.6 and 5.7 at 0.001. Right, gradient descent: 5.8 up to 0.48; from 0.96 on the unclipped one is not finite, the clipped one stays at 5.8, then rises to 6.0 at 1.92 and 6.7 at 3.84."
lesson.plots(1)

# %% alt="Largest norm of a gradient in each tenth of a run of one seed, logarithmic, a line for each rate, left unclipped, right clipped at 1. Both much alike: at rates of 0.0005 and 0.001 between 2 and 10 all along; at 0.002 from 6 down to 2; at 0.004 it falls from 5 to about the threshold of 1, at higher rates to a half, and stays there. Single peaks: 13 at the rate 0.002, unclipped, and a last 3 at 0.004, clipped."
lesson.plots(2)

# %% alt="Highest rate of each way of clipping over that of no clipping, with 95 percent intervals. Under AdamW: norm 1 at 0.81, from 0.64 to 1.03; half the mean and adaptive 0.87, from 0.59 to 1.28; ten times the mean and by value exactly 1. Gradient descent, finite numbers: at least 8."
lesson.plots(3)

# %% [markdown]
# **The claim does not show.** Under AdamW clipping at 1 had 0.81 times the highest rate of no clipping, [0.64, 1.03]: *cannot tell*.
# Three of ten seeds lost a step of the ladder; none won one, by any threshold. *Ten times the mean* never clips.
#
# The second figure suggests why. Clipping is for a run that learns and is thrown off. Ours, at 0.004 and above, stay near word
# frequencies, where gradients are mostly *short*. No run left the plateau and came back.
#
# Nor does clipping do a warm-up's work: without one no run trains at 0.001, where all do with one. At 0.0005 five of five clipped
# runs train, three of five unclipped (asked afterwards): too few to tell.
#
# Unclipped gradient descent overflows from 0.96 on. Clipped, its numbers stay finite to the ladder's end: at least 8 times, in
# all five seeds: 1 in 16 by chance (*cannot tell*). It trains nowhere.
#
# **So clipping is an insurance**: it pays when something breaks, as with the planted batch, and buys no higher rate here.
#
# ### When does it not help?
#
# - **Against vanishing gradients**: nothing is ever made longer.
# - **Where every gradient is broken**, by wrong labels, say. Clipping turns a crash into a slow failure.
# - **Against infinity**: $\kappa/\infty=0$, and $0\cdot\infty$ is nan. Skip such a step, as a loss scaler does.
#
# ## 6. In production (15 minutes)
#
# `torch.nn.utils.clip_grad_norm_` changes gradients in place and returns the norm *before* clipping. With its $10^{-6}$ our rule
# equals it; without, it is the paper's:

# %%
if lesson.installed("torch"):
    import torch

    def clipped_by_torch(values, most: float):
        weight = torch.nn.Parameter(torch.zeros(len(values), dtype=torch.float64))
        weight.grad = torch.tensor(values, dtype=torch.float64)
        norm = torch.nn.utils.clip_grad_norm_([weight], most)
        return weight.grad.numpy(), float(norm)

    vector = {"w": np.array([3.0, 4.0])}
    theirs, norm = clipped_by_torch([3.0, 4.0], 1.0)
    for title, eps in (("with eps", 1e-6), ("without", 0.0)):
        rule = by_norm(1.0, eps)
        ours, _ = rule.update(vector, rule.init(vector), vector)
        print(f"{title:9s} {ours['w']}, as torch to 1e-15: {bool(np.abs(ours['w'] - theirs).max() < 1e-15)}")
    print("torch returns", norm, "- and of an infinite gradient makes", clipped_by_torch([np.inf, 4.0], 1.0)[0])

# %% [markdown]
# Whole runs: 50 clipped steps of torch's AdamW and of ours; and (8).

# %%
if lesson.installed("torch"):
    draw, params = np.random.default_rng(0), {"w": np.ones(6)}
    weight = torch.nn.Parameter(torch.ones(6, dtype=torch.float64))
    optimiser = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.01)
    rule = chain(by_norm(1.0), adamw(1e-2, weight_decay=0.01, decay=lambda name, leaf: True))
    state = rule.init(params)
    for _ in range(50):
        g = draw.standard_normal(6) * 10 ** draw.uniform(-2, 1)
        weight.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimiser.step()
        change, state = rule.update({"w": g}, state, params)
        params = tree.map(np.add, params, change)
    print("the same weights to 1e-12:", bool(np.abs(weight.detach().numpy() - params["w"]).max() < 1e-12))
    scaled, _ = clipped_by_torch(1024 * vector["w"], 1.0)
    strict, _ = clipped_by_torch(vector["w"], 1 / 1024)
    print("clipped before unscaling, as by (8):", bool(np.allclose(scaled / 1024, strict, rtol=1e-3)), scaled / 1024)
if lesson.installed("transformers"):
    from transformers import TrainingArguments

    print("Trainer clips at", TrainingArguments.__dataclass_fields__["max_grad_norm"].default)

# %% [markdown]
# The order does go wrong: Lightning clipped scaled gradients until 1.4.9 (issue 9599: "the loss converged very slow"). With
# parameters cut over processes by FSDP (not FSDP2), torch's function sees a part of the norm only: call the wrapper's
# `clip_grad_norm_`. `accelerate`'s does both right.
#
# **Status today (2026).** Usual, at 1, in pretraining. At scale it is not enough: PaLM (Chowdhery and others 2022, section 5.1) was
# clipped, and its loss leapt some 20 times all the same; each time the run went back a hundred steps and left out 200 to 500
# batches. Newer rules clip what is unusual for this run, not what exceeds a fixed number (ZClip, Kumar and others 2025).
#
# ## 7. On your data (5 minutes)
#
# `bertcraft pretrain masked_lm --corpus FOLDER --clip 1 --steps 3000 --out run` trains on your `.txt` files; `run/metrics.jsonl` has
# the norm of each step, and `--clip 0` leaves gradients as they are. `bertcraft compare FILE.csv --techniques full,clipping` asks
# whether it matters for your classifier. With transformers:
#
# ```python
# from datasets import load_dataset
# from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
#
# rows = load_dataset("csv", data_files="examples.csv")["train"]          # columns text, label (0, 1, ...)
# tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
# rows = rows.map(lambda r: tokenizer(r["text"], truncation=True), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=len(set(rows["label"])))
# arguments = TrainingArguments("out", max_grad_norm=1.0, logging_steps=1)  # 0: none; the log has grad_norm
# Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
# model.save_pretrained("out/model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | loss leaps once and stays high | clip at one to two times the usual norm; look at the batch |
# | loss flat for hundreds of steps after a leap in the norm | the same; or a smaller $\beta_2$ |
# | every step is clipped | under Adam a lower threshold changes nothing more; under gradient descent raise the threshold, or read it as a lower rate |
# | the norm grows for many steps before the leap | the rate: clipping hides it |
# | loss hardly falls in 16 bits | unscale before you clip |
#
# ## 8. Exercises (95 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 One norm for all (one star, 10 minutes)
#
# Equation (2), without torch's $10^{-6}$, for the arrays of a whole model.


# %% exercise="clip_all" stars=1
def clip_all(gradients, most):
    """A list of arrays of any shapes, shortened so that all of them together are at most ``most`` long."""
    ### BEGIN SOLUTION
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    if norm <= most:
        return gradients
    return [g * (most / norm) for g in gradients]
    ### END SOLUTION


# %%
check.clip_all(clip_all)

# %% [markdown]
# ### 8.2 Too early (two stars, 15 minutes)
#
# This step accumulates micro-batches of equal size that carry a loss scale. It runs, and learns almost nothing. Mend it.


# %% exercise="accumulated_step" stars=2
def accumulated_step(weights, scaled_gradients, scale, most, rate):
    """Weights (n,) after gradient descent along the mean of ``scaled_gradients`` (K, n), those of scale * loss, clipped."""

    def clip(g):
        return g * min(1.0, most / (np.linalg.norm(g) + 1e-6))

    ### BEGIN SOLUTION
    gradient = np.mean(scaled_gradients, axis=0) / scale
    return weights - rate * clip(gradient)
    ### END SOLUTION
    ### BEGIN STUB
    # total = np.zeros(len(weights))
    # for gradient in scaled_gradients:
    #     total = total + clip(gradient)
    # return weights - rate * total / len(scaled_gradients) / scale
    ### END STUB


# %%
check.accumulated_step(accumulated_step)

# %% [markdown]
# ### 8.3 Row by row (two stars, 15 minutes)
#
# Equation (4) for a matrix. A row of the gradient may be 0.


# %% exercise="clip_rows" stars=2
def clip_rows(gradient, weight, ratio, eps):
    """The gradient (out, in), no row longer than ratio times that row of the weight, which counts as at least eps long."""
    ### BEGIN SOLUTION
    longest = ratio * np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), eps)
    length = np.linalg.norm(gradient, axis=1, keepdims=True)
    return gradient * np.minimum(1, longest / np.maximum(length, 1e-12))
    ### END SOLUTION


# %%
check.clip_rows(clip_rows)

# %% [markdown]
# ### 8.4 After the spike (three stars, 20 minutes)
#
# Adam step by step, for one number: its gradient has been 1 for ever, so that $m=u=1$; now it is `size` once, then 1 again. Return
# what (6) predicts, found by running Adam, not by (6). (After so long a past Adam's corrections are 1, and $\epsilon$ is 0.)


# %% exercise="after_spike" stars=3
def after_spike(size, steps, b1, b2):
    """m / sqrt(u), floats (steps,): of the step whose gradient is ``size``, and of those after it."""
    ### BEGIN SOLUTION
    m, u, found = 1.0, 1.0, []
    for number in range(steps):
        g = size if number == 0 else 1.0
        m = b1 * m + (1 - b1) * g
        u = b2 * u + (1 - b2) * g**2
        found.append(m / np.sqrt(u))
    return np.array(found)
    ### END SOLUTION


# %%
check.after_spike(after_spike)

# %% [markdown]
# ### 8.5 Which threshold? (two stars, 15 minutes, a decision)
#
# A team pretrains with AdamW, at one rate for all. Before any run it agreed: of the arms shown to be *not worse than unclipped by
# 0.02 nats* where nothing broke, take the one that lost fewest runs. Ten seeds for the loss, with 95 % intervals, and 40 short runs
# with the bad batches of their crawl:
#
# | arm | loss less unclipped (nats) | runs lost, of 40 | steps clipped |
# | --- | --- | --- | --- |
# | unclipped | | 15 | 0 % |
# | norm, 1 | +0.002 [-0.009, +0.013] | 3 | 4 % |
# | norm, 0.05 | -0.014 [-0.055, +0.027] | 2 | 100 % |
# | value, 0.01 | +0.041 [+0.027, +0.055] | 1 | |
#
# - `arm`: "none", "norm_1", "norm_0.05" or "value".
# - `because`: (a) its loss is the lowest; (b) its interval lies wholly below +0.02, and of such arms it lost fewest; (c) its interval
#   holds 0.
# - `clipping_at_1`: (a) lowers the loss; (b) raises it; (c) changes it by less than 0.02, if at all.
# - `unless`: what would change your mind? (a) twenty more seeds after which norm, 0.05 lies wholly below +0.02 and 40 more runs in
#   which it still loses fewer; (b) an eleventh seed of norm, 1 with +0.012; (c) 5 % of the steps clipped, not 4.


# %% exercise="which_threshold" stars=2
def which_threshold():
    """A dict with "arm", and "a", "b" or "c" for "because", "clipping_at_1" and "unless"."""
    ### BEGIN SOLUTION
    return {"arm": "norm_1", "because": "b", "clipping_at_1": "c", "unless": "a"}
    ### END SOLUTION


# %%
check.which_threshold(which_threshold)

# %% [markdown]
# ### 8.6 How far can it turn? (three stars, 20 minutes)
#
# (a) Clipping by value never turns a gradient by 90 degrees or more. Why? (b) Which gradient of $P$ numbers does it turn most, and
# how far, when $\kappa$ is tiny? (c) How long would the spike's own step, 3.2 in section 3, be with $\beta_1=0$? (d) Two runs differ in
# the threshold, 1 and 0.5, and half of all gradients are longer than 1. Why does (5) not make them equal?

# %% [markdown] solution=true
# **Model answer.** (a) Each number keeps its sign, so every product of old and new is at least 0, and their sum, the cosine up to
# the two lengths, is above 0. (b) With $\kappa$ below all $|g_i|$ above 0 only signs are left. The cosine of $g$ with its signs is
# $\sum|g_i|/(|g|\sqrt n)$, $n$ the numbers that are not 0. One number far above all others makes it nearly $1/\sqrt P$: close to
# 90 degrees for a large model. (c) $S/\sqrt{1+(1-\beta_2)(S^2-1)}$, at most $1/\sqrt{1-\beta_2}$: 32 usual steps for 0.999. The mean
# of gradients is what softens it to 3.2. (d) Those between 0.5 and 1 long are shortened in one run only, by factors that differ; of
# the shorter ones none is. The factor is no constant.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Clip once**: after all sums, after unscaling, before the update.
# - **Log the norm before clipping**: the one after tells nothing.
# - **A threshold from another model is a guess.** The norm depends on the model's size and the batch's. Look first.
# - **Clipping changes what a mean is**: shortened steps no longer add up to the mean gradient of the data. Rare texts with long
#   gradients are heard less.
# - **It is not differential privacy**, which clips the gradient of each *text*, then adds noise.
#
# **Read**: Pascanu, Mikolov and Bengio 2013, [On the difficulty of training recurrent neural
# networks](https://arxiv.org/abs/1211.5063), sections 2.3 and 3.2. Zhang, He, Sra and Jadbabaie 2020, [Why gradient clipping
# accelerates training](https://arxiv.org/abs/1905.11881): where curvature grows with the gradient, as in (1), clipped descent
# can be faster than any fixed rate. Brock and others 2021, [NFNets](https://arxiv.org/abs/2102.06171), section 4. The production
# code is
# [torch.nn.utils.clip_grad](https://github.com/pytorch/pytorch/blob/main/torch/nn/utils/clip_grad.py).
#
# **Open project**: train on your own texts with `--clip 0` and plot the norm from `metrics.jsonl`. What is in the batch with the
# longest gradient?
#
# **Next**: this is the last stop of the path *Training & Optimization*. [07 mixed precision](07_mixed_precision_training.ipynb) has
# the scale that has to be divided out first. [06 gradient accumulation](06_gradient_accumulation.ipynb) has the sum that comes before.
