# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 07. Mixed precision: sixteen bits, and what they lose
#
# Numbers of 32 bits are more exact than a training needs, and hardware multiplies numbers of 16 bits many times faster. So why
# not use 16 everywhere? Because a gradient of $10^{-8}$ becomes 0, and a weight of 1 to which 0.0003 is added a thousand times
# stays 1. You will see both happen, write the two remedies, watch a real BERT's gradients fall off the edge of float16 and come
# back, and count what is saved.
#
# You need NumPy and both parts of [lesson 00](00_foundations.ipynb). The sections take 225 minutes, nearly half of
# them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style
from bertcraft.techniques import mixed_precision_training as technique

lesson = open_lesson("mixed_precision_training")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)

# %%
lesson.claim()

# %% [markdown]
# **The speed** is the hardware's. It comes from units that multiply 16-bit numbers, such as *tensor cores*; the paper times single
# operations and no training from end to end. NumPy has no such products: nothing on this page runs faster for being rounded.
#
# **The memory**: 50 % is false for training. Adam's bill for one parameter, in bytes:
#
# | | weight | gradient | master weight | Adam's two means | sum |
# | --- | --- | --- | --- | --- | --- |
# | float32 | 4 | 4 | | 4 + 4 | **16** |
# | mixed | 2 | 2 | 4 | 4 + 4 | **16** |
#
# What halves is what the layers keep for the way back. (Lesson [06](06_gradient_accumulation.ipynb) counts it.) So the saving
# depends on the batch. **Predict first**: BERT-base, 512 tokens, 4 texts. How much smaller is the whole?

# %% alt="Left: gigabytes of a training step of BERT-base against texts in a batch, 1 to 32, for float32 and mixed precision; both start at the 1.75 gigabytes of weights, gradients and Adam. Right: mixed over float32 in per cent; 87 with one text, 72 with four, 55 with 64."
P, texts = 109_482_240, np.array([1, 2, 4, 8, 16, 32, 64])
memory = {}
for title, wide in (("float32", 4), ("mixed", 2)):
    memory[title] = (16 * P + 12 * np.array([technique.kept_by_a_layer(n, 512, 768, 12, wide) for n in texts])) / 1e9
share = 100 * memory["mixed"] / memory["float32"]
with style.shown(columns=2, width=8.2, height=2.8) as (left, right):
    for place, (title, gigabytes) in enumerate(memory.items()):
        left.plot(texts, gigabytes, **style.line(place), label=title)
    left.axhline(16 * P / 1e9, color="0.3", lw=1, ls=":", label="weights, gradients, Adam")
    left.set(xlabel="texts of 512 tokens in a batch", ylabel="memory (GB)", ylim=(0, 24), xlim=(0, 34))
    left.legend(fontsize=8)
    right.plot(texts, share, **style.line(1))
    right.axhline(50, color="0.3", lw=1, ls=":", label="the claim")
    right.legend(fontsize=8)
    right.set(xscale="log", xlabel="texts of 512 tokens in a batch", ylabel="mixed over float32 (%)", ylim=(45, 100))
    right.set_xticks(texts, texts)
    right.minorticks_off()

# %% [markdown]
# With 4 texts 72 % are left, with 64 it is 55. (`torch.autocast` does not even shrink weights and gradients: they stay in float32, and 4 + 4 + 4 + 4 is 16 again.)
#
# So the claim that is left to test: **is the model as good?**
#
# ## 2. Background and motivation (10 minutes)
#
# In 2017 NVIDIA's Volta came with tensor cores: they multiply small matrices of float16 and add up in float32. An A100's data
# sheet says 312 TFLOP/s for 16-bit products and 19.5 for plain float32. Gupta et al. (2015) had trained in 16 bits
# before, in fixed point. Where do the bits go?

# %% alt="Bits of five formats as rows of squares: sign, exponent, digits. float32 has 1, 8, 23; float16 1, 5, 10; bfloat16 1, 8, 7; float8 e4m3 1, 4, 3; float8 e5m2 1, 5, 2. Beside each its smallest and largest number and its unit roundoff."
BITS = {"float32": (8, 23), "float16": (5, 10), "bfloat16": (8, 7), "float8_e4m3": (4, 3), "float8_e5m2": (5, 2)}
TOLD = ("1e-45 to 3e38, u = 6.0e-8", "6.0e-8 to 65,504, u = 4.9e-4", "9e-41 to 3e38, u = 3.9e-3", "2e-3 to 448, u = 6.2e-2",
        "1.5e-5 to 57,344, u = 0.12")  # fmt: skip
LOOKS = {"sign": ("white", ""), "exponent": (style.COLOURS[5], "///"), "digits": (style.COLOURS[6], "")}
with style.shown(width=9.2, height=2.3) as ax:
    for row, ((name, (exponent, digits)), told) in enumerate(zip(BITS.items(), TOLD, strict=True)):
        start = 0
        for (part, (colour, hatch)), count in zip(LOOKS.items(), (1, exponent, digits), strict=True):
            ax.barh([row] * count, 1, 0.7, start + np.arange(count), color=colour, edgecolor="0.4", hatch=hatch, lw=0.7,
                    label=part if row == 0 else None)  # fmt: skip
            start += count
        ax.text(start + 0.4, row, told, va="center", fontsize=8)
    ax.set_yticks(range(len(BITS)), BITS)
    ax.set(ylim=(4.6, -0.6), xlim=(0, 45), xticks=[])
    ax.grid(False)
    ax.legend(fontsize=8, loc="lower right")

# %% [markdown]
# The **exponent**'s bits decide how small and how large a number may be, the **digits** how exact it is: $u$ is the largest
# relative error of a rounding. float16 has digits and little range; **bfloat16** is float32 with 16 bits cut off: all of the
# range, few digits. The paper's recipe for float16, with a large number $S$ (why, says section 3):

# %% alt="Master weights in float32 are rounded to float16 weights. Forward pass and loss; the loss times S goes into the backward pass, in float16, and gives S times the gradients. Divided by S in float32 they go to clip and Adam, which change the master weights. If any is infinite the step is skipped and S halved."
with drawing.schematic(columns=4, rows=3, width=9.4, row_height=0.95) as s:
    master = s.box("master weights\nfloat32", at=(0, 1), kind="new")
    low = s.box("weights\nfloat16", at=(0.5, 0))
    forward = s.box("forward pass\nproducts float16,\nsums float32", at=(1.6, 0))
    loss = s.box("loss\nfloat32", at=(3, 0))
    scaled = s.box("loss times S", at=(3, 1), kind="new")
    backward = s.box("backward pass\nas forward", at=(2.4, 2))
    true = s.box("divide by S\nfloat32", at=(1.3, 2), kind="new")
    rule = s.box("clip, Adam", at=(0.2, 2))
    s.arrow(master, low, "round", kind="new")
    for one, two, label in ((low, forward, ""), (forward, loss, ""), (loss, scaled, ""), (scaled, backward, ""),
                            (backward, true, "$S\\,g$"), (true, rule, "$g$"), (rule, master, "update")):  # fmt: skip
        s.arrow(one, two, label)
    s.note("a gradient is infinite or nan:\nskip the step, halve S", at=(1.3, 1.2))

# %% [markdown]
# ## 3. Mathematical foundation (25 minutes)
#
# ### What a format can say
#
# With $d$ digits behind the point (a letter of this lesson) and an exponent $e$ from $e_\min$ to $e_\max$, the **normal** numbers
# are
#
# $$x=\pm\Bigl(1+\frac{j}{2^d}\Bigr)\,2^{e},\qquad j=0,1,\dots,2^d-1.\tag{1}$$
#
# float16 has $d=10$, $e$ from $-14$ to $15$. Below $2^{e_\min}$ come the **subnormal** numbers $j\,2^{e_\min-d}$, at equal
# distances down to 0: float16's smallest is $2^{-24}=6\cdot10^{-8}$.
#
# **By hand**: $0.1=1.6\cdot2^{-4}$, so $e=-4$. The nearest $j$ to $0.6\cdot1024=614.4$ is 614, and float16 says
# $(1+\frac{614}{1024})/16=0.09998$.
#
# ### How far off is a rounded number?
#
# From $2^e$ to $2^{e+1}$ neighbours are $2^{e-d}$ apart. The nearest is at most half of that away, so with $r$ for rounding
#
# $$|r(x)-x|\le 2^{e-d-1}\le u\,|x|,\qquad u=2^{-d-1}.\tag{2}$$
#
# $u$ is the **unit roundoff**: 0.05 % for float16, 0.4 % for bfloat16. Of two equally near neighbours the one with an even $j$
# is taken. With the 1 before the point float16's numbers have 11 digits, bfloat16's 8. A product of two of 11 has 22, which
# float32's 24 hold exactly; long *sums* would suffer, and tensor cores add in float32.
#
# ### Underflow: gradients that are too small
#
# $$r(x)=0\quad\text{where}\quad|x|\le2^{-25}=3\cdot10^{-8}\qquad\text{(float16)}\tag{3}$$
#
# Are gradients that small? A masked language model scores all $V$ words at $n$ masked places. The derivative of its mean loss
# with respect to the score $z_c$ of word $c$, of probability $p_c$, is, with $y_c=1$ for the right word and 0 for others,
#
# $$\frac{\partial\mathcal L}{\partial z_c}=\frac{p_c-y_c}{n}.\tag{4}$$
#
# BERT's batch of 256 rows, taken in one piece, has 15 % of 131,072 tokens masked: $n=19{,}661$. By (3) a wrong word is told *less
# of this* only where $p_c>n\,2^{-25}=0.0006$. The mean probability of 30,522 words is 0.00003. **Nearly all are told nothing.**
#
# ### Scaling the loss scales every gradient
#
# Multiply the loss by $S$. The backward pass begins with $S$ instead of 1, and each of its steps multiplies what comes in by a
# local derivative. A factor at the start is a factor everywhere:
#
# $$\frac{\partial(S\mathcal L)}{\partial x}=S\,\frac{\partial\mathcal L}{\partial x}\qquad\text{for every number }x
# \text{ on the way.}\tag{5}$$
#
# With $S=2^{k}$, $S\,g$ has the digits of $g$; its exponent is larger by $k$. Scaling changes no gradient. It moves the window
# through which float16 sees them, from $[2^{-24},2^{16})$ to $[2^{-24-k},2^{16-k})$. What sticks out at the *upper* end becomes
# infinite; that is noticed, where a 0 is not. So take $S$ as large as it goes: begin with $2^{16}$, halve it whenever a gradient
# is infinite or nan (and skip that step), double it after 2,000 good steps. This is **dynamic loss scaling**.
#
# ### Swamping: updates that are too small
#
# A step is $w\leftarrow w-\eta g$. By (2) it falls back to where it came from if $\eta g$ is less than half the distance between
# neighbours, which is between $\frac u2|w|$ and $u|w|$:
#
# $$r(w-\eta g)=w\quad\text{if}\quad|\eta g|<\tfrac u2\,|w|;\qquad\text{it moves for certain if}\quad|\eta g|>u\,|w|.\tag{6}$$
#
# **By hand**: $w=1$ and $\eta g=-0.0003$. In float16 $u=0.00049$, and the upper neighbour is 1.00098: the sum 1.0003 is rounded
# back. A thousand such steps change nothing; they should have added 0.3. In bfloat16 an update below 0.2 % of its weight is lost.
# That is what **master weights** are for: $w$ stays in float32, and only the copy that is multiplied is rounded.
#
# The other way out is *stochastic rounding*: up with a probability that is the distance to the lower neighbour, in distances
# of neighbours. Then the mean is right, however small the step:
#
# $$\mathbb E\,r_{\text{stochastic}}(x)=x.\tag{7}$$
#
# **Predict first**: below, a weight of 1 gets $+0.0003$ a thousand times. Two of the ends you know. Where does the third end?

# %% alt="A weight over a thousand additions of 0.0003. In float32 it rises straight to 1.3; in float16 it stays at 1; in bfloat16, rounded stochastically, it climbs in steps near the straight line and ends at 1.25."
WAYS = {"float32": ("float32", False), "float16": ("float16", False), "bfloat16, stochastic": ("bfloat16", True)}
STEPS, UPDATE = 1000, 0.0003  # try 0.0005
rng = np.random.default_rng(0)
with style.shown(width=6.6, height=2.7) as ax:
    for place, (title, (form, by_chance)) in enumerate(WAYS.items()):
        w, path = np.float32([1.0]), []
        for _ in range(STEPS):
            w = w + np.float32(UPDATE)
            w = w if form == "float32" else technique.rounded(w, form, rng.random(1, np.float32) if by_chance else None)
            path.append(w[0])
        ax.plot(path, **style.line(place) | {"marker": ""}, label=title)
    ax.set(xlabel="updates", ylabel="weight")
    ax.legend(fontsize=8)

# %% [markdown]
# Rounded by chance it ends at 1.25: right on average, with a noise of 0.05.
#
# ## 4. NumPy implementation (30 minutes)
#
# ### Rounding
#
# Equation (1) as code: `unit` is $2^e$, so $x$ over it, times $2^d$, is to be a whole number. All of these products are by powers
# of two, and exact. (`_power` reads $2^e$ off the bits of a number.)

# %%
from typing import NamedTuple

from bertcraft.techniques.mixed_precision_training import Format, FORMATS  # inline

# %%
from bertcraft.techniques.mixed_precision_training import _power
from bertcraft.tensor.tensor import apply

from bertcraft.techniques.mixed_precision_training import _neighbour, _beyond  # inline

# %% [markdown]
# **Try it.** The number of section 3; a tie; what becomes of small and of large numbers.

# %%
for x in (0.1, 1 + 2.0**-11, 2.0**-25, 2.0**-25 * 1.01, 65519.0, 65520.0):
    print(f"{x:<15.10g} in float16: {_beyond(_neighbour(np.float32([x]), 'float16'), 'float16')[0]:.7g}")

# %% [markdown]
# Backward there are two choices. The true slope of a staircase is 0 or infinite, so `rounded` is **straight-through**: its
# derivative is 1. `cast` is what a conversion to 16 bits does: the *gradient* that passes it is rounded as well.

# %%
from bertcraft.tensor.workspace import empty

from bertcraft.techniques.mixed_precision_training import _BLOCK, _rounded, rounded  # inline

# %%
from bertcraft.tensor.derivatives import elementwise

from bertcraft.techniques.mixed_precision_training import _cast, cast  # inline

elementwise(_rounded, lambda g, z, x, form, noise=None: g)  # straight-through
elementwise(_cast, lambda g, z, x, form: cast(g, form))

# %% [markdown]
# ### Products of 16-bit numbers
#
# We keep rounded numbers in float32 arrays: their products are exact there and the sums are float32's, as in a tensor core. All
# matrix products are replaced; softmax, norms and losses are left.

# %%
from collections.abc import Callable
from functools import partial

from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor.tensor import replaced

from bertcraft.techniques.mixed_precision_training import HALF, product, linear  # inline

LOWERED = technique.LOWERED | {F.linear: linear, np.matmul: product}  # and attention, and the output layer with its loss

# %%
from bertcraft.techniques.mixed_precision_training import mixed_precision  # inline

# %% [markdown]
# ### Loss scaling
#
# What becomes of the scale:

# %%
from typing import Any

from bertcraft.tensor import tree

from bertcraft.techniques.mixed_precision_training import all_finite, next_scale  # inline

# %% [markdown]
# And a rule around any other rule. Mind the order: first divide, then let the inner rule clip and average. (`inplace` is the same
# without copies; `fit` multiplies the loss by `loss_scale`.)

# %%
from bertcraft.train import Rule
from bertcraft.techniques.mixed_precision_training import _check_scaling

# %%
from bertcraft.techniques.mixed_precision_training import loss_scaling  # inline

# %% [markdown]
# ### Proof
#
# All 65,536 patterns of bits, and a million random numbers, against NumPy's float16 and against `ml_dtypes`, whose bfloat16 JAX
# uses:

# %%
every = np.arange(2**16, dtype=np.uint16)
some = np.random.default_rng(0).integers(0, 2**32, 10**6, dtype=np.uint32).view(np.float32)


def same(form: str, theirs) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        stays = every.view(theirs).astype(np.float32)
        pairs = (stays, rounded(stays, form)), (some.astype(theirs).astype(np.float32), rounded(some, form))
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


print("float16, the same numbers:", same("float16", np.float16))
if lesson.installed("ml_dtypes"):
    import ml_dtypes

    print("bfloat16, the same numbers:", same("bfloat16", ml_dtypes.bfloat16))

# %% [markdown]
# Then a model: a small BERT that reads requests to assistants, half as wide as the stored experiment's. Its gradient in 16 bits
# should be the slope of the loss, but for rounding. A slope along a random direction, measured in double precision:

# %%
from bertcraft.lab import pretraining, ruled
from bertcraft.lab.experiments import mixed_precision_training as experiment

SMALL = {"corpus": "utterances", "length": 24, "vocab_size": 4096, "texts": 20_000, "held_out": 300, "hidden": 64, "batch": 64,
         "evaluations": 6, "dropout": 0.0}  # fmt: skip
task = ruled.task_of(SMALL, seed=0)
start = pretraining.initial(task.config, task.texts, seed=0)
batch = task.make_batch(0)
draw = np.random.default_rng(1)
way = tree.map(lambda leaf: draw.standard_normal(leaf.shape), start)
at = lambda t: float(task.loss(tree.map(lambda p, v: p.astype(np.float64) + t * v, start, way), batch))  # noqa: E731
slope = (at(1e-5) - at(-1e-5)) / 2e-5
for form in ("float32", *HALF):
    _, g = bc.value_and_grad(mixed_precision(task.loss, form))(start, batch)
    along = sum(float(np.sum(a * b)) for a, b in zip(tree.leaves(g), tree.leaves(way), strict=True))
    print(f"{form:9s} gradient along the direction over the measured slope: {along / slope:.3f}")

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Counted exactly: who carries the sixteen bytes?
#
# Of the 16 bytes, 12 are float32 numbers that only the update needs. With several devices each can keep a part of them, and hand
# out 16-bit weights: that is ZeRO (Rajbhandari et al. 2020). Its figure 1, for 7.5 billion parameters on 64 devices, in GB a
# device:

# %%
for stage, divided in enumerate(("nothing", "float32 weights and means", "gradients too", "16-bit weights too")):
    print(f"{divided:26s} {technique.zero_bytes(7_500_000_000, 64, stage) / 1e9:6.1f}")

# %% [markdown]
# ### Live: the same training in three precisions
#
# 1. float32.
# 2. float16 with master weights and a scaled loss: the recipe.
# 3. bfloat16 *alone*: weights are bfloat16 too, without a float32 copy (`technique.kept_in`). Eight digits for everything.
#
# Same start, texts, masks and rate. **Predict first**: how far apart do 1 and 2 end? And 3?

# %% quick="STEPS = 12"
STEPS, RATE = 500, 3e-3

# %%
from bertcraft.techniques.roberta_optimizations import predicted, trimmed
from bertcraft.tensor.parallel import cpu_count, sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, fit, warmup_linear


def trained(form: str, scaled: bool = False, alone: bool = False):
    """A ``FitResult``: after each sixth of the steps the loss at [MASK] of unread text, too."""
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(RATE, STEPS // 8, STEPS), b2=0.98, eps=1e-6))
    rule = technique.kept_in(rule, form) if alone else rule
    rule = loss_scaling(rule) if scaled else rule
    first = tree.map(lambda leaf: rounded(leaf, form) if alone else leaf.copy(), start)
    step = sharded_value_and_grad(
        mixed_precision(task.loss, form), shard_size=32, weight=predicted, prepare=trimmed, threads=cpu_count()
    )
    return fit(step, first, rule, task.make_batch, STEPS, seed=0, evaluate=lambda p: task.judge(p, task.config),
               evaluate_every=STEPS // 6)  # fmt: skip


runs = {
    "float32": trained("float32"), "float16, master, scaled": trained("float16", scaled=True),
    "bfloat16 alone": trained("bfloat16", alone=True),
}  # fmt: skip

# %% alt="Left: loss at MASK of unread text against steps for float32, float16 with master weights and scaled loss, and bfloat16 alone; all three fall together from above the level of word frequencies to half a nat below it. Right: the loss less that of float32; float16 stays within two hundredths of zero, bfloat16 alone wanders and ends about four hundredths above it."
with style.shown(columns=2, width=8.6, height=2.9) as (left, right):
    for place, (title, run) in enumerate(runs.items()):
        steps, seen = zip(*run.evaluations, strict=True)
        losses = np.array([each["loss"] for each in seen])
        exact = losses if place == 0 else exact
        left.plot(steps, losses, **style.line(place), label=title)
        right.plot(steps, losses - exact, **style.line(place))
    left.axhline(task.judge.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    left.set(xlabel="steps", ylabel="loss at [MASK] (nats)")
    left.legend(fontsize=7.5)
    right.set(xlabel="steps", ylabel="loss less float32's (nats)")

# %% [markdown]
# float16 stays with float32, though not in every digit: each rounding is noise in all that follows.
# bfloat16 alone ends behind: swamped updates (appendix A), or the luck of one seed? The stored experiment has more.
# And what have the two learnt in a minute? Not much beyond frequent words, but the same:

# %%
from bertcraft.bert import Model

SENTENCES = ("how do i activate my new [MASK] ?", "set an [MASK] for seven in the morning", "play some [MASK] music please")
for sentence in SENTENCES:
    print(sentence)
    for title in list(runs)[:2]:
        model = Model(task.config, runs[title].params)
        model.tokenizer = task.texts.tokenizer
        print(f"   {title:24s}", ", ".join(f"{word} {p:.0%}" for word, p in model.fill(sentence, top=4)[0]))

# %% [markdown]
# ### The picture: real gradients over float16's window
#
# One more batch, in float32, through the trained model. Every number of its gradient is sorted by size: with respect to weights,
# to the hidden states behind each layer, and to the scores (4). Our batch asks for few words; in BERT's own, by (4), the very same
# numbers are divided by 19,661. In the grey part float16 makes 0 of them.

# %%
SHIFT = 14  # S is 2 to the power of it; try 8, or 24
gradients = experiment.gradients(task, runs["float32"].params, seed=0)
asked = np.count_nonzero(gradients["scores"].reshape(-1, len(task.texts.log_frequency)).any(axis=1))
gradients["scores, BERT's batch"] = gradients["scores"] * np.float32(asked / 19_661)

# %% alt="Two histograms of the sizes of gradient numbers by powers of two, for weights, hidden states, scores, and scores in a batch as large as BERT's. As they are, the last of these lie deep in the grey region where float16 makes 0 of them; times 2 to the 14 nearly all have moved out of it, and none reaches the largest float16."
from bertcraft.lab.figures import mixed_precision_training as picture

powers = np.arange(-60, 13)
with style.shown(columns=2, width=9.0, height=3.2) as panels:
    for ax, shift in zip(panels, (0, SHIFT), strict=True):
        ax.axvspan(-62, picture.FLUSHED, color="0.85", label="float16 makes 0 of it")
        ax.axvspan(picture.FLUSHED, picture.SUBNORMAL, color="0.94", label="subnormal: fewer digits")
        for place, (kind, values) in enumerate(gradients.items()):
            numbers = np.array(experiment.counted(values))
            ax.step(powers + shift, 100 * numbers / numbers.sum(), where="post", label=kind, **style.line(place) | {"marker": ""})
        ax.axvline(picture.LARGEST, color="0.3", lw=1, ls="--", label="float16's largest")
        ax.set(xlabel="power of two", ylabel="numbers (%)", xlim=(-50, 20), ylim=(0, None), title=f"times $2^{{{shift}}}$")
    panels[1].legend(fontsize=7, loc="upper left", frameon=True, facecolor="white", framealpha=1)

# %% [markdown]
# **A surprise.** Count what is lost in two ways: how many of the numbers, and how much of the gradient's length.

# %%
for kind, values in gradients.items():
    for shift in (0, SHIFT):
        gone = (rounded(values * np.float32(2.0**shift), "float16") == 0) & (values != 0)
        length = np.linalg.norm(values[gone].astype(float)) / np.linalg.norm(values.astype(float))
        print(f"{kind:20s} times 2^{shift:<2d} lost {gone.sum() / (values != 0).sum():5.1%} of the numbers, {length:.0e} of length")

# %% [markdown]
# In BERT's own batch float16 makes 0 of more than nine in ten of the scores' numbers, and of less than a hundredth of their length:
# each is a whisper to a word that was improbable anyway. Does losing them *matter*? No histogram can say, only trainings can.
#
# ### The stored experiment
#
# The same model, twice as wide: 900 steps, 3,840 texts. float16 with both precautions takes float32's rate: the claim is that
# nothing else has to change; "the same" was fixed beforehand as *within 0.02 nats*. Arms that lack a precaution were tuned alone;
# all chose its rate. First, whether the question can be asked:

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results("loss", "lost_scores", "lost_states", "lost", "skipped", "state_bytes")

# %%
lesson.comparisons()

# %% alt="Loss at MASK less that of float32 trained as long for each arm, paired over seeds, with 95 percent intervals, and a band of 0.02 nats to either side in which arms count as the same. All intervals but the last hold zero; float16 twice as long lies from 0.005 to 0.157."
lesson.plots(2)

# %% [markdown]
# **Cannot tell.** float16 with both precautions is 0.006 nats better, the interval, [-0.050, +0.039], wider than the 0.02 that
# count as the same. Rounding alone parts trainings: float32's pairs, summed in another order, spread by 0.03, float16's
# by 0.06. At least forty pairs would be needed; ten exclude a harm above 0.04.
#
# | | nats at [MASK], 95 % interval |
# | --- | --- |
# | without scaling (the whispers) | +0.031 [-0.088, +0.150]: cannot tell |
# | without master weights (swamping) | +0.018 [-0.077, +0.113]: cannot tell |
# | float16 alone, against float32 | +0.005 [-0.065, +0.075]: cannot tell |
# | bfloat16 alone, against master weights | +0.067 [+0.019, +0.115]: cannot tell, once corrected |
# | stochastic rounding, against bfloat16 alone | -0.070 [-0.116, -0.024]: cannot tell, once corrected |
# | float16 against float32, twice as long | +0.081 [+0.005, +0.157]: cannot tell |
#
# Scaling saves 0.35 % of the weights' numbers and 5 % of the scores', and no loss shows it: so small a model has shown no need of
# either precaution. The last row's gap is there at half time and grows no further.
#
# ### When does it not help?
#
# - **On hardware without 16-bit products**: on our core torch's bfloat16 product takes 1.87 times [1.79, 1.95] as long
#   as float32's. NumPy's own float16 is computed in software.
# - **When weights and Adam fill the memory**: 16 bytes either way. Divide them (ZeRO), or train less (lesson
#   [12](12_adapter_modules.ipynb)).
#
# ## 6. In production (15 minutes)
#
# torch has two parts: `torch.autocast` casts, `torch.amp.GradScaler` scales. Step by step against our rule, with overflows
# planted:

# %%
if lesson.installed("torch"):
    import torch

    first, planted, same_scale = draw.standard_normal((3, 4)).astype(np.float32), {0, 1, 9, 15, 16}, True
    weight = torch.nn.Parameter(torch.tensor(first))
    optimiser = torch.optim.AdamW([weight], lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=5)
    rule = loss_scaling(chain(clip_by_global_norm(1.0), adamw(1e-2, b2=0.98, eps=1e-6)), interval=5)
    params = {"w": first.copy()}
    state = rule.init(params)
    for number in range(30):
        g = draw.standard_normal((3, 4)).astype(np.float32) * (np.inf if number in planted else 1)
        optimiser.zero_grad()
        scaler.scale((weight * torch.tensor(g)).sum()).backward()
        scaler.unscale_(optimiser)  # before clipping
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        scaler.step(optimiser)  # skips the step where a gradient is not finite
        scaler.update()
        updates, state = rule.update({"w": g * np.float32(rule.loss_scale(state))}, state, params)
        params = tree.map(np.add, params, updates)
        same_scale &= scaler.get_scale() == float(state["scale"])
    print("30 steps, the same scale at each:", same_scale, " skipped:", int(state["skipped"]))
    print("the same weights to 1e-6:", bool(np.abs(weight.detach().numpy() - params["w"]).max() < 1e-6))

# %% [markdown]
# What autocast casts, and that it computes what `linear` does. On a CPU its type is bfloat16:

# %%
if lesson.installed("torch"):
    x, w, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((5, 8), (6, 8), (6,)))
    tx, tw, tb = map(torch.tensor, (x, w, b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = torch.nn.functional.linear(tx, tw, tb)
        kinds = {"linear": theirs, "softmax": torch.softmax(tx, -1), "residual sum": tx[:, :6] + theirs}
    print({name: str(value.dtype).removeprefix("torch.") for name, value in kinds.items()})
    gap = np.abs(linear(x, w, b, form="bfloat16") - theirs.float().numpy()).max()
    print("ours within a unit of bfloat16:", bool(gap <= 2.0**-8 * float(theirs.abs().max())))

# %% [markdown]
# Three mistakes that are met again and again:

# %%
if lesson.installed("torch"):
    half = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    adam = torch.optim.AdamW([half], lr=1e-3, foreach=False)  # its eps is 1e-8
    half.grad = torch.full((2,), 1e-5, dtype=torch.float16)
    adam.step()
    print("1. model.half() and Adam: eps is", torch.tensor(1e-8).half().item(), "and the weights are", half.tolist())

    weight.grad = torch.full((3, 4), 0.1) * 2**16  # a scaled gradient
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    print(f"2. clipped before it is unscaled, its length is {float((weight.grad / 2**16).norm()):.1e}, not 0.35")

    scaler.scale(torch.tensor(1.0))
    try:
        scaler.unscale_(adam)
    except ValueError as error:
        print("3. a scaler for 16-bit weights:", error)

# %% [markdown]
# 1. The squares of small gradients are 0 in float16, and so is Adam's $\epsilon$: a division by 0.
# 2. torch's own minGPT example forgot `unscale_` (issue 1196 of pytorch/examples). Adam hides it, for it forgives a constant
#    factor; plain gradient descent stands still.
# 3. Weights loaded in float16 and then trained (issue 9628 of diffusers, and many more). Load in float32, let autocast cast.
#
# How much faster is a 16-bit product? The stored experiment has it for one core of ours; measure yours:

# %%
MEASURE = False  # True: torch multiplies (1024, 768) by (768, 3072) on one core, forty times each

# %%
lesson.results("product_ms", "product_error", arms=("product_float32", "product_bfloat16"))
if MEASURE:
    print({form: experiment.product(form, seed=0, times=40)["product_ms"] for form in ("float32", "bfloat16")}, "ms")

# %% [markdown]
# **Status today (2026).** bfloat16 with float32 master weights is the default, and nobody scales. 8-bit floats carry the products
# of the largest trainings (DeepSeek-V3, 2024), with scales for small blocks of numbers: loss scaling, made local. Optimisers with
# 8-bit means attack the other twelve bytes.
#
# ## 7. On your data (5 minutes)
#
# `bertcraft pretrain masked_lm --corpus FOLDER --precision float16 --steps 3000 --out run` trains on your `.txt` files with these
# very functions and marks skipped steps in `run/metrics.jsonl`; `bfloat16` needs no scaling. Where the hardware has the units:
#
# ```python
# from datasets import load_dataset
# from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
#
# rows = load_dataset("csv", data_files="examples.csv")["train"]          # columns text, label (0, 1, ...)
# tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
# rows = rows.map(lambda r: tokenizer(r["text"], truncation=True), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=len(set(rows["label"])))
# arguments = TrainingArguments("out", bf16=True)                         # fp16=True: float16 and a GradScaler
# Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()
# model.save_pretrained("out/model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | the first few steps are skipped | nothing: the scale is finding its place |
# | every step is skipped, the scale goes to 0 | a real nan: look for it with `--precision float32` |
# | loss is nan in float16, fine in float32 | activations above 65,504: bfloat16 |
# | bfloat16 stalls late, at small rates | weights are bfloat16: keep them in float32, or round stochastically |
# | no faster | no such units, or widths that are no multiples of 8 |
#
# ## 8. Exercises (100 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 The next number (one star, 10 minutes)
#
# The distance between neighbours at $x$, as in (1): mind the subnormal numbers. `np.frexp(x)` gives $m$ and $e$ with $x=m\,2^e$
# and $\frac12\le|m|<1$.


# %% exercise="spacing" stars=1
def spacing(x, digits, lowest):
    """The distance from each |x| (n,), none of them 0, to the next larger number of a format.

    digits: d; lowest: the exponent of the smallest normal numbers, -14 for float16.
    """
    ### BEGIN SOLUTION
    _, e = np.frexp(x)
    return 2.0 ** (np.maximum(e - 1, lowest) - digits)
    ### END SOLUTION


# %%
check.spacing(spacing)

# %% [markdown]
# ### 8.2 The largest scale that fits (one star, 10 minutes)
#
# For a static scale somebody has looked at all gradients of a run. Return the largest power of two by which none of them
# overflows float16, whose largest number is 65,504.


# %% exercise="largest_scale" stars=1
def largest_scale(gradients):
    """The largest S = 2^k, k a whole number of either sign, with S * |g| <= 65504 for every g of the array."""
    ### BEGIN SOLUTION
    return 2.0 ** np.floor(np.log2(65504 / np.abs(gradients).max()))
    ### END SOLUTION


# %%
check.largest_scale(largest_scale)

# %% [markdown]
# ### 8.3 The life of a scale (two stars, 15 minutes)
#
# Dynamic scaling, without looking at `next_scale`: halve at an overflow; double after `interval` good steps *in a row*, then count
# anew.


# %% exercise="scales" stars=2
def scales(finite, scale, interval):
    """The scale after each step: floats (T,). finite: booleans (T,), False where a gradient overflowed; scale: at the start."""
    ### BEGIN SOLUTION
    after, good = [], 0
    for step_is_finite in finite:
        good = good + 1 if step_is_finite else 0
        if not step_is_finite:
            scale = scale / 2
        elif good == interval:
            scale, good = scale * 2, 0
        after.append(scale)
    return np.array(after, float)
    ### END SOLUTION


# %%
check.scales(scales)

# %% [markdown]
# ### 8.4 A step that goes nowhere (two stars, 10 minutes)
#
# This step runs, skips what it should, and the model hardly learns. Find the mistake.


# %% exercise="scaled_step" stars=2
def scaled_step(weights, scaled_gradient, scale, limit, rate):
    """Weights (n,) after gradient descent, the gradient's length at most ``limit``; scaled_gradient is that of scale * loss."""
    if not np.isfinite(scaled_gradient).all():
        return weights
    ### BEGIN SOLUTION
    gradient = scaled_gradient / scale
    length = np.linalg.norm(gradient)
    if length > limit:
        gradient = gradient * (limit / length)
    ### END SOLUTION
    ### BEGIN STUB
    # gradient = scaled_gradient
    # length = np.linalg.norm(gradient)
    # if length > limit:
    #     gradient = gradient * (limit / length)
    # gradient = gradient / scale
    ### END STUB
    return weights - rate * gradient


# %%
check.scaled_step(scaled_step)

# %% [markdown]
# ### 8.5 bfloat16 by its bits (three stars, 20 minutes)
#
# `x.view(np.uint32)` are the bits of a float32; the upper 16 of them are a bfloat16, cut off. To *round*, add something to the
# lower half first, so that it carries into the upper one when it should: a half is not always a carry. A nan must stay one.


# %% exercise="bfloat16_bits" stars=3
def bfloat16_bits(x):
    """The bits of the nearest bfloat16 of float32 numbers (n,), of two as near the even one: uint16 (n,)."""
    ### BEGIN SOLUTION
    bits = x.view(np.uint32)
    last = (bits >> 16) & 1  # is the number below odd?
    nearest = (bits + 0x7FFF + last) >> 16
    return np.where(np.isnan(x), 0x7FC0, nearest).astype(np.uint16)
    ### END SOLUTION


# %%
check.bfloat16_bits(bfloat16_bits)

# %% [markdown]
# ### 8.6 Which precision? (two stars, 15 minutes, a decision)
#
# A team pretrains for a month, on a card that multiplies float16 and bfloat16 equally fast. Before any run it agreed: *the same*
# means within 0.02 nats of float32. Trials, five seeds each, loss at [MASK] less float32's with 95 % intervals:
#
# | arm | difference (nats) | bytes a parameter | time a step |
# | --- | --- | --- | --- |
# | float32 | | 16 | 1.00 |
# | float16, master weights, scaled | +0.003 [-0.006, +0.012] | 16 | 0.55 |
# | bfloat16, master weights | +0.001 [-0.034, +0.036] | 16 | 0.54 |
# | bfloat16 alone | +0.110 [+0.071, +0.149] | 12 | 0.50 |
#
# - `arm`: "float16", "bfloat16" or "alone".
# - `because`: (a) its difference is the smallest; (b) its interval lies wholly within 0.02; (c) its interval holds 0.
# - `bfloat16_is`: (a) the same as float32; (b) worse; (c) not known yet.
# - `unless`: what would change your mind? (a) five more seeds after which bfloat16's interval lies within 0.02 as well; (b) a
#   sixth seed of float16 with +0.010; (c) bfloat16 alone in 0.45 of the time.


# %% exercise="which_precision" stars=2
def which_precision():
    """A dict with "arm", and "a", "b" or "c" for "because", "bfloat16_is" and "unless"."""
    ### BEGIN SOLUTION
    return {"arm": "float16", "because": "b", "bfloat16_is": "c", "unless": "a"}
    ### END SOLUTION


# %%
check.which_precision(which_precision)

# %% [markdown]
# ### 8.7 How far does scaling reach? (three stars, 20 minutes)
#
# (a) How many powers of two are there from float16's smallest number to its largest? (b) The numbers of a gradient go from
# $2^{-50}$ to $2^{-2}$. Which scale loses fewest, and what is lost whichever you take? (c) Adam keeps a mean of *squares*. Which
# gradients have a square that float16 holds, and does the scale of the loss help there? (d) bfloat16 has float32's range. Name an
# operation of a training step in which it is worse than float16 all the same.

# %% [markdown] solution=true
# **Model answer.** (a) From $2^{-24}$ to below $2^{16}$: 40. (b) The largest must stay below $2^{16}$: $S=2^{17}$ moves $2^{-2}$ to
# $2^{15}$. The window then begins at $2^{-24-17}=2^{-41}$, and numbers from $2^{-50}$ to about $2^{-42}$ are 0 whatever the scale
# of the loss; only scales of their own for parts of the model would reach them. (c) $g^2\ge2^{-24}$ needs $|g|\ge2^{-12}=0.00024$,
# which few gradients have. The scale does not help: Adam must see *true* gradients, or its mean of squares changes its
# meaning with every change of the scale. So its means stay in float32. (d) Every one whose trouble is digits and not range: an
# update of a weight kept in 16 bits is swamped below $2^{-9}$ of it, where float16 holds on to $2^{-12}$; a sum of 300 ones
# stops growing at 256.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Unscale before anything looks at a gradient**: clipping, its norm in a log, a noise scale.
# - **Accumulate** ([06](06_gradient_accumulation.ipynb)) scaled gradients under *one* scale; unscale, step and update once.
# - **The scale is state**: a run that resumes without it begins with skipped steps.
# - **A skipped step is not a step** of the schedule; in torch a scheduler that is stepped all the same runs ahead.
# - **Loss scaling has no effect on Adam's step but for rounding**: if it seems to have one, $\epsilon$ sees scaled gradients.
#
# **Read**: Micikevicius and others 2018, [Mixed Precision Training](https://arxiv.org/abs/1710.03740), sections 3.1 to 3.3.
# Kalamkar and others 2019, [bfloat16](https://arxiv.org/abs/1905.12322). Zamirai and others 2020,
# [Revisiting BFloat16 Training](https://arxiv.org/abs/2010.06192): weights in 16 bits, with stochastic rounding. The production
# code is [torch.amp](https://github.com/pytorch/pytorch/tree/main/torch/amp).
#
# **Open project**: train on your own texts with `--precision float16` and plot the scale from `metrics.jsonl` against the norm of
# the gradient. Then once more with half the rate. Does the scale tell you when training is unstable?
#
# **Next**: on the path *Efficiency & Deployment* comes 23, quantization: fewer bits where a model is used, not trained.
# [06 gradient accumulation](06_gradient_accumulation.ipynb) saves the other part of the memory, with the same numbers.
# [12 adapter modules](12_adapter_modules.ipynb) shrinks the sixteen bytes, by training few parameters.

# %% [markdown]
# ## Appendix A. Which updates of a real model are lost? (5 minutes)
#
# (6) for every weight of the trained model. Adam's direction after twenty batches, times a learning rate, is added to the weights
# in 16 bits. How many of them move?

# %% quick="BATCHES = 2"
BATCHES = 20

# %% alt="Share of weights that an update does not move against the learning rate, logarithmic, for float16 and bfloat16. At 1e-2 few are lost; at 1e-4 bfloat16 loses nine in ten, float16 half; at 1e-5 both nearly all."
weights = runs["float32"].params
rule = adamw(1.0, b2=0.98, eps=1e-6, weight_decay=0.0)
state = rule.init(weights)
for number in range(BATCHES):
    _, g = bc.value_and_grad(task.loss)(weights, trimmed(task.make_batch(1000 + number)))
    direction, state = rule.update(g, state, weights)
w, direction = (np.concatenate([leaf.ravel() for leaf in tree.leaves(each)]) for each in (weights, direction))
rates = 10.0 ** np.linspace(-6, -2, 9)
with style.shown(width=6.2, height=2.8) as ax:
    for place, form in enumerate(HALF, 1):
        low = rounded(w, form)
        stay = [100 * np.mean(rounded(low + np.float32(rate) * direction, form) == low) for rate in rates]
        ax.plot(rates, stay, **style.line(place), label=form)
    ax.set(xscale="log", xlabel="learning rate", ylabel="weights that do not move (%)", ylim=(0, 102))
    ax.legend(fontsize=8)

# %% [markdown]
# A schedule that falls to zero walks through this figure from right to left: the last steps of a training, which polish it, are
# the first that a 16-bit weight does not feel.
