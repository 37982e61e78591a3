# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 14. Weight decay: which way does the pull go?
#
# Pull every weight a little towards 0 at each step, and a model has to justify what it keeps. There are two places in the code to
# put that pull, and for decades it made no difference which. Then came Adam, which divides by the size of the gradient, and
# libraries went on putting the pull where it is divided too. You will see on real words what that does, write both rules and
# BERT's own, and run sixty trainings to see whether the best decay depends on the learning rate.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for gradients, and [its second part](00_foundations_2.ipynb) for classifiers
# and intervals. The sections take 225 minutes, nearly half of them exercises.

# %%
import math
import re
from collections import Counter

import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style
from bertcraft.techniques import weight_decay as technique

lesson = open_lesson("weight_decay")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (5 minutes)

# %%
lesson.claim()

# %% [markdown]
# "Better" compares AdamW, whose pull stands beside the gradient, with Adam and the pull inside it, each tuned over a grid of rates and
# decays. Nothing in the paper is a language model. So two questions are left. Is beside better than inside on text too? And is any of
# it needed?
#
# ## 2. Background and motivation (15 minutes)
#
# In 2017 Adam had a bad name: on images it fitted fast and **generalised** worse than plain gradient descent (that is: it was
# worse on new examples; [Wilson and others 2017](https://arxiv.org/abs/1705.08292)). Loshchilov and Hutter found one cause. The
# libraries' argument `weight_decay` added $\lambda w$ to the gradient $g$; $w$ is a weight, $\lambda$ the strength of the decay. Here
# is Adam's update with both places ($u$: its running mean of $g^2$; $\eta$: the learning rate):

# %% alt="From left to right: the gradient g; plus lambda w, place one, L2 in the loss; Adam: running means, divide by the root; plus lambda w, place two, decoupled; times minus eta; the weights w. An arrow leads from the weights below to each of the two places."
with drawing.schematic(columns=6, rows=2, width=10.2, row_height=0.85) as s:
    names = ("gradient\n$g$", "$+\\,\\lambda w$\nplace 1: L2", "Adam: means,\ndivide by $\\sqrt{u}$", "$+\\,\\lambda w$\nplace 2:\ndecoupled",
             "times $-\\eta$", "add to\nweights $w$")  # fmt: skip
    kinds = ("data", "new", "step", "new", "step", "data")
    boxes = [s.box(name, at=(i, 0), kind=kind) for i, (name, kind) in enumerate(zip(names, kinds, strict=True))]
    for one, two in zip(boxes, boxes[1:], strict=False):
        s.arrow(one, two)
    weights = s.box("weights $w$", at=(2, 1), kind="data")
    s.arrow(weights, boxes[1], "either", kind="new")
    s.arrow(weights, boxes[3], "or", kind="new")

# %% [markdown]
# What enters Adam is divided by $\sqrt u$, the size of what entered lately. So at place 1 the pull is *weak where gradients are
# large and strong where they are small*. In text that is lopsided: "the" gets a gradient from every batch, "traffic" from one in
# three.
#
# To see it we need the smallest classifier that has a table of word vectors: add the vectors of a request's words, bend the sum
# with tanh, multiply by a matrix. Its 600 requests to an assistant (HWU64) have 64 intents.

# %%
from bertcraft.data import task
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.train import warmup_linear

requests = task("hwu64")
chosen = np.random.default_rng(0).permutation(len(requests.train))[:600]
words_of = lambda text: set(re.findall(r"[a-z]+", text.lower()))  # noqa: E731
seen = Counter(word for i in chosen for word in words_of(requests.train.texts[i]))
VOCABULARY = {word: place for place, word in enumerate(sorted(word for word in seen if seen[word] > 1))}


def bag(texts):
    """Which words are in each text: (n, V), divided by the root of how many there are."""
    x = np.zeros((len(texts), len(VOCABULARY)), np.float32)
    for row, text in enumerate(texts):
        x[row, [VOCABULARY[word] for word in words_of(text) if word in VOCABULARY]] = 1
    return x / np.sqrt(np.maximum(1, x.sum(1, keepdims=True)))


x, y = bag([requests.train.texts[i] for i in chosen]), np.asarray(requests.train.labels)[chosen]
print(f"{len(y)} requests, {len(VOCABULARY)} words that are in two of them or more, {len(requests.labels)} intents")

# %% quick="STEPS = 12"
STEPS, WIDE = 400, 16


# %%
def scores(params, x):
    return F.linear(np.tanh(x @ params["words"]), params["weight"], params["bias"])


gradient = bc.value_and_grad(lambda params, x, y: F.cross_entropy(scores(params, x), y))


def trained(rule):
    """The parameters after STEPS updates by a rule; the start and the batches are always the same."""
    draw = np.random.default_rng(1)
    first = {"words": 0.1 * draw.standard_normal((x.shape[1], WIDE)), "weight": draw.standard_normal((64, WIDE)) / WIDE**0.5}
    params = tree.map(np.float32, first | {"bias": np.zeros(64)})
    state = rule.init(params)
    for _ in range(STEPS):
        rows = draw.integers(0, len(y), 32)
        _, g = gradient(params, x[rows], y[rows])
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    return params


# %% [markdown]
# Three trainings: no decay, decay at place 1, decay at place 2, each as strong as section 5 finds best. The rate falls in a straight
# line from 0.04 to 0. **Predict first**: which words' vectors does place 1 shorten most, which least? And place 2?

# %% alt="Length of a word's vector with decay over without, against in how many of the 600 requests the word is, logarithmic. With decoupled decay the medians lie level at 0.7. With L2 in the gradient they rise from 0.45 for words of two or three requests to about 0.9 for the most frequent."
rate = warmup_linear(0.04, 0, STEPS)
runs = {"none": trained(technique.adam_decoupled(rate, 0.0)), "L2 in the gradient": trained(technique.adam_l2(rate, 10**-3.5)),
        "decoupled": trained(technique.adam_decoupled(rate, 0.2))}  # fmt: skip
length = {name: np.linalg.norm(params["words"], axis=1) for name, params in runs.items()}
often = np.array([seen[word] for word in VOCABULARY])
with style.shown(width=7.4, height=3.2) as ax:
    for place, name in enumerate(("L2 in the gradient", "decoupled")):
        look = style.line(place)
        kept = length[name] / length["none"]
        ax.plot(often, kept, look["marker"], ms=3, alpha=0.35, color=look["color"])
        parts = [(often >= low) & (often < 2 * low) for low in 2.0 ** np.arange(1, 9)]
        middle = [(np.exp(np.log(often[p]).mean()), np.median(kept[p])) for p in parts if p.any()]
        ax.plot(*zip(*middle, strict=True), **look, label=f"{name}: medians")
    ax.set(xscale="log", xlabel="requests that have the word, of 600", ylabel="length kept of a word's vector", ylim=(0, 1.3))
    ax.legend(fontsize=8, loc="upper left")

# %%
for word in ("the", "please", "alarm", "music", "traffic"):
    l2, decoupled = (length[name][VOCABULARY[word]] / length["none"][VOCABULARY[word]] for name in list(runs)[1:])
    print(f"{word:8s} in {seen[word]:3d} requests: keeps {l2:.2f} with L2, {decoupled:.2f} decoupled")

# %% [markdown]
# Decoupled decay takes some 30 % from rare and frequent words alike. L2 takes more than half from the rarest (the median) and a
# seventh or less from the most frequent, though it was given one strength for all.
#
# ## 3. Mathematical foundation (30 minutes)
#
# ### The rules
#
# Let $g$ be the gradient of a weight $w$, $t$ the update's number from 1, $\eta_t$ the learning rate then and $\eta$ its peak.
# **Adam** (Kingma and Ba 2015) keeps running means $m$ of $g$ and $u$ of $g^2$, and divides one by the root of the other. $\beta_1$
# and $\beta_2$, often 0.9 and 0.999, say how much of a mean is kept at an update; a small $\epsilon$ keeps the divisor above 0.
# Adam's direction, $\Delta$ in this lesson, is
#
# $$m\leftarrow\beta_1m+(1-\beta_1)g,\quad u\leftarrow\beta_2u+(1-\beta_2)g^2,\quad
# \Delta=\frac{m/(1-\beta_1^t)}{\sqrt{u/(1-\beta_2^t)}+\epsilon}.\tag{1}$$
#
# The divisors $1-\beta^t$ are the **bias correction**: the means start at 0 and would be too small at first. Decay by $\lambda$ is
# one of three:
#
# $$\text{L2 in the loss:}\quad g\leftarrow g+\lambda w\ \text{before (1)},\qquad w\leftarrow w-\eta_t\Delta\tag{2}$$
#
# $$\text{decoupled, as in torch:}\quad w\leftarrow w-\eta_t(\Delta+\lambda w)=(1-\eta_t\lambda)\,w-\eta_t\Delta\tag{3}$$
#
# $$\text{as published:}\quad w\leftarrow w-\tfrac{\eta_t}{\eta}\,(\eta\,\Delta+\lambda' w)\tag{4}$$
#
# (2) is called L2 because $\lambda w$ is the gradient of $\frac\lambda2 w^2$. The paper's algorithm 2 is (4): the pull follows the
# *schedule* $\eta_t/\eta$ but not the rate. It is (3) with $\lambda=\lambda'/\eta$.
#
# In plain gradient descent nothing stands between the places, and (2) and (3) are one rule:
#
# $$w-\eta\,(g+\lambda w)=(1-\eta\lambda)\,w-\eta g.\tag{5}$$
#
# ### How strong is the pull at place 1?
#
# Suppose a weight's gradient is noise of size $G$, as often up as down. Then $u$ is about $G^2+\lambda^2w^2$, and the mean of
# $\Delta$ is
#
# $$\text{L2's pull}\approx\frac{\lambda w}{\sqrt{G^2+\lambda^2w^2}+\epsilon}\qquad\text{(decoupled: }\lambda w).\tag{6}$$
#
# **By hand**: $w=1$, $\lambda=0.01$. With $G=0.1$ the pull is $0.01/0.1005=0.0995$, with $G=0.001$ it is $0.01/0.01005=0.995$. And
# with no gradient at all it is 1, *whatever* $\lambda$ *is*: Adam divides $\lambda w$ by itself.
#
# ### How much is decay, in the end?
#
# Without gradient, (3) multiplies a weight by $1-\eta_t\lambda$ at each update. After $T$ of them there is left
#
# $$\prod_{t=1}^T(1-\eta_t\lambda)\approx\exp\Bigl(-\lambda\sum_t\eta_t\Bigr).\tag{7}$$
#
# So it takes about $1/(\eta\lambda)$ updates to forget where a weight came from. In a training much *shorter* than that only the
# product $\eta\lambda$ matters, and does little. In a *longer* one the steps push against the pull. If $|\Delta|\le c$ at every
# update (for Adam $c$ is about 1), a weight with $|w|\le c/\lambda$ stays below this ceiling:
#
# $$|w|\le\tfrac c\lambda\ \Rightarrow\ |w_{\text{new}}|\le(1-\eta\lambda)\tfrac c\lambda+\eta c=\tfrac c\lambda.\tag{8}$$
#
# **The rate has cancelled.** In (3) the ceiling is $c/\lambda$ at every rate; in (4) it is $c\,\eta/\lambda'$.
#
# ### Behind a norm
#
# Now let $w$ be a whole matrix, whose result is normalised at once. Its length $\|w\|$ then changes nothing, so its gradient stands
# at right angles to it, and Adam's direction nearly. A step adds $\eta^2\|\Delta\|^2$ to $\|w\|^2$, and decay takes about
# $2\eta\lambda\|w\|^2$. Where these are equal, $\|w\|=\|\Delta\|\sqrt{\eta/(2\lambda)}$, and a step turns the matrix by an angle
# of about
#
# $$\frac{\eta\|\Delta\|}{\|w\|}=\sqrt{2\eta\lambda}.\tag{9}$$
#
# There the *product* is all that counts ([van Laarhoven 2017](https://arxiv.org/abs/1706.05350)).
#
# ### What BERT left out
#
# BERT's own optimiser is (3) without bias correction. As long as $\epsilon$ hardly counts, its direction at update $t$ is that of (1)
# times
#
# $$\frac{1-\beta_1^t}{\sqrt{1-\beta_2^t}},\tag{10}$$
#
# which for 0.9 and 0.999 is 3.2 at first, 6.5 at the tenth update and still 1.3 at the thousandth.
#
# ## 4. NumPy implementation (30 minutes)
#
# ### Adam's direction
#
# An update **rule** here is a pair of functions: one makes the first state, the other turns gradients and state into updates. Rules
# chain, so Adam without rate and sign is a link, (1). In the code `v` is our $u$, as in the paper, and `u` our $\Delta$.

# %%
from collections.abc import Iterable
from typing import Any

from bertcraft.errors import InputError
from bertcraft.train.rules import Decay, Rule, chain, check_adam, correction, default_decay, init_moments, like, named, rate_at
from bertcraft.train.schedules import Schedule

from bertcraft.train.rules import moments  # inline

# %%
from bertcraft.techniques.weight_decay import adam  # inline

# %% [markdown]
# `corrected=False` is BERT's. As for **epsilon**: outside the root it is compared with a gradient, *inside* with a gradient's square.
# So 1e-8 inside is worth 1e-4 outside:

# %% alt="Length of Adam's first direction against the size of the gradient, both axes logarithmic. With epsilon 1e-8 outside the root the direction is 1 for gradients above about 1e-7; with 1e-6 outside above 1e-5; with 1e-8 inside only above 1e-3."
sizes = 10.0 ** np.linspace(-10, 0, 41)
with style.shown(width=6.6, height=2.8) as ax:
    for place, (title, options) in enumerate({
        "1e-8 outside: torch": {"eps": 1e-8}, "1e-6 outside": {"eps": 1e-6}, "1e-8 inside": {"eps": 1e-8, "inside": True},
    }.items()):  # fmt: skip
        rule = adam(**options)
        first, _ = rule.update(sizes, rule.init(sizes), sizes)
        ax.plot(sizes, first, **style.line(place) | {"marker": ""}, label=title)
    ax.set(xscale="log", yscale="log", xlabel="size of the gradient", ylabel="length of the first direction")
    ax.legend(fontsize=8)

# %% [markdown]
# ### The pull
#
# One link, and where it stands is the technique. `which` says what decays: by default matrices, and nothing of one dimension.

# %%
from bertcraft.techniques.weight_decay import add_decay  # inline

# %% [markdown]
# The last links: go against the direction. Then the chains (2), (3) and (4):

# %%
from bertcraft.techniques.weight_decay import times, descend  # inline

# %%
from bertcraft.techniques.weight_decay import adam_l2, adam_decoupled, adam_published  # inline

# %% [markdown]
# **Try it.** A weight of 1 that gets no gradient, ten updates at a rate of 0.01, decays of 1, 0.1 and 0.01. **Predict first**: what do
# the three lines show?

# %%
nothing = {"w": np.zeros((1, 1))}
for decay in (1.0, 0.1, 0.01):
    told = []
    for make in (adam_l2, adam_decoupled):
        rule, params = make(0.01, decay), {"w": np.ones((1, 1))}
        state = rule.init(params)
        for _ in range(10):
            updates, state = rule.update(nothing, state, params)
            params = tree.map(np.add, params, updates)
        told.append(f"{params['w'][0, 0]:.4f}")
    print(f"decay {decay:<4g}  L2 in the gradient: {told[0]}   decoupled: {told[1]}")

# %% [markdown]
# The first column is (6) without gradient: ten steps of full length, at any strength.
#
# ### What decays, and what correction does

# %%
from bertcraft.techniques.weight_decay import left, uncorrected  # inline

# %% [markdown]
# Why not norms and biases? A norm's scale rests at 1, not at 0: pulling it to 0 says that signals should vanish, not that the
# model should be simple. A bias cannot make a model depend on its input too much. And they are few:

# %%
H, F_WIDE, LAYERS, ALL = 768, 3072, 12, 109_482_240  # BERT-base
few = LAYERS * ((4 * H + F_WIDE + H) + 4 * H) + 2 * H + H  # biases, two norms a layer; the embeddings' norm; the pooler's bias
print(f"BERT-base: {few:,} of {ALL:,} parameters do not decay, {few / ALL:.2%}")
schedule = warmup_linear(1e-4, 10_000, 10**6)
kept = left([schedule(step) for step in range(0, 10**6, 100)], 100 * 0.01)  # every hundredth update, a hundred times as much
print(f"left by its pretraining (peak 1e-4, a million updates, decay 0.01): {kept:.3f}")
print(f"left by fine-tuning (2e-5, 1,000 updates, decay 0.01): {left([2e-5] * 1000, 0.01):.4f}")

# %% [markdown]
# In pretraining decay is real; in fine-tuning it is 0.02 %. Now (10), as a curve, and as our own rule has it on our own words:

# %% alt="Left: how many times as long an update is without bias correction, against its number, logarithmic: for beta 2 of 0.999 from 3.2 up to 6.5 at the tenth and back to 1 after thousands, with marks of the measured ratio on the line; for 0.98 it goes from 0.7 over 1.5 to 1 within a hundred. Right: the rate that it amounts to, over the peak: without warm-up it begins at 3.2 and rises to 6.5; with a hundred steps of warm-up it rises from near 0 to 3.2 at their end."
number = np.unique(np.round(10 ** np.linspace(0, 3.7, 80)).astype(int))
with style.shown(columns=2, width=8.6, height=2.9) as (one, two):
    for place, b2 in enumerate((0.999, 0.98)):
        one.plot(number, uncorrected(number - 1, b2=b2), **style.line(place) | {"marker": ""}, label=f"$\\beta_2$ = {b2}")
    pair, params = [adam(corrected=corrected, eps=1e-12) for corrected in (False, True)], runs["none"]
    states = [rule.init(params) for rule in pair]
    for t in range(1, 33):
        _, g = gradient(params, x[t : t + 32], y[t : t + 32])
        moved, states = zip(*(rule.update(g, s, params) for rule, s in zip(pair, states, strict=True)), strict=True)
        if t in (1, 2, 4, 8, 16, 32):
            long, short = (np.linalg.norm(each["weight"]) for each in moved)
            one.plot(t, long / short, "o", color="0.2", mfc="white", label="measured" if t == 1 else None)
    for place, warm in enumerate((0, 100)):
        two.plot(number, uncorrected(number - 1) * np.minimum(1, number / max(warm, 1)), **style.line(place) | {"marker": ""},
                 label=f"{warm} steps of warm-up")  # fmt: skip
    one.set(xscale="log", xlabel="number of the update", ylabel="uncorrected over corrected")
    two.set(xscale="log", xlabel="number of the update", ylabel="rate it amounts to, over the peak")
    one.legend(fontsize=8)
    two.legend(fontsize=8)

# %% [markdown]
# Without **warm-up** BERT's optimiser takes its tenth step at 6.5 times the rate you asked for; a hundred steps of warm-up halve the
# worst, to 3.2. The missing correction is named as one cause of fine-tuning runs on few labels that fail (Zhang and others 2021;
# Mosbach and others 2021).
#
# ### Proof
#
# Fifty updates in double precision beside torch's own classes, a matrix that decays and a bias that does not:

# %%
draw = np.random.default_rng(0)
start = {"weight": draw.standard_normal((4, 3)), "bias": draw.standard_normal(3)}
GRADIENTS = [tree.map(lambda p: 10.0 ** draw.uniform(-3, 1) * draw.standard_normal(p.shape), start) for _ in range(50)]


def ours(rule):
    params, state = start, rule.init(start)
    for g in GRADIENTS:
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
    return params


def theirs(make, **options):
    import torch

    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    groups = [{"params": [tensors["weight"]], "weight_decay": 0.1}, {"params": [tensors["bias"]], "weight_decay": 0.0}]
    optimiser = make(groups, lr=3e-3, **options)
    for g in GRADIENTS:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(g[name])
        optimiser.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


# %%
if lesson.installed("torch"):
    from torch import optim

    plain = chain(add_decay(0.1), descend(3e-3))
    PAIRS = {"AdamW is (3)": (adam_decoupled(3e-3, 0.1), optim.AdamW, {}), "Adam is (2)": (adam_l2(3e-3, 0.1), optim.Adam, {}),
             "Adam, told to decouple, is (3)": (adam_decoupled(3e-3, 0.1), optim.Adam, {"decoupled_weight_decay": True}),
             "SGD is (5)": (plain, optim.SGD, {})}  # fmt: skip
    for title, (rule, make, options) in PAIRS.items():
        mine, other = ours(rule), theirs(make, **options)
        print(f"{title:31s}", all(np.abs(mine[name] - other[name]).max() < 1e-12 for name in start))

# %% [markdown]
# And that (2) is the gradient of $\frac\lambda2w^2$, measured as a slope:

# %%
penalty = lambda w: 0.5 * 0.1 * np.sum(w * w)  # noqa: E731
pull, _ = add_decay(0.1).update(tree.map(np.zeros_like, start), {}, start)
way = draw.standard_normal((4, 3))
slope = (penalty(start["weight"] + 1e-5 * way) - penalty(start["weight"] - 1e-5 * way)) / 2e-5
print(f"gradient along a direction over the measured slope: {np.sum(pull['weight'] * way) / slope:.6f}")

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Live: sixty trainings, three grids
#
# Does the best decay depend on the rate? Thirty trainings of the classifier by (3) and thirty by (2), each judged on 933
# development texts. For the third panel nothing is trained: by (4) it holds the second one's trainings again, each at
# $\lambda'=\eta\lambda$.
#
# **Predict first**, with (7), (8) and (9): in which panel is the best decay the same at every rate?


# %%
unread = {name: (bag(part.texts), np.asarray(part.labels)) for name, part in (("dev", requests.dev), ("test", requests.test))}


def judged(params, part):
    """Loss of unread texts, right answers, and how sure the classifier is of its answers: the mean of its largest probability."""
    bags, labels = unread[part]
    z = scores(params, bags).astype(float)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -np.log(p[np.arange(len(p)), labels]).mean(), (p.argmax(1) == labels).mean(), p.max(1).mean()


# %%
RATES = 0.01 * 2.0 ** np.arange(5)
DECAYS = {"L2": 1e-5 * 10 ** (np.arange(6) / 2), "decoupled": 0.025 * 2.0 ** np.arange(6)}
MAKE = {"L2": adam_l2, "decoupled": adam_decoupled}


def fitted(name, rate, decay):
    return trained(MAKE[name](warmup_linear(rate, 0, STEPS), decay))


grids = {"L2": np.array([[judged(fitted("L2", rate, decay), "dev")[0] for rate in RATES] for decay in DECAYS["L2"]])}

# %%
grids["decoupled"] = np.array(
    [[judged(fitted("decoupled", rate, decay), "dev")[0] for rate in RATES] for decay in DECAYS["decoupled"]]
)

# %% alt="Three panels of development loss over learning rate, 0.01 to 0.16, and decay, both logarithmic, dark is low, with a marked line through the best decay of each rate. L2 in the gradient: the line rises from the lowest decay at a rate of 0.01 and is level at 0.0003 from 0.02 on. Decoupled, decay as in torch: the line rises and is level at 0.2 from a rate of 0.04 on. The same trainings against rate times decay: the cells are a slanted parallelogram and the line climbs with the rate."
edges = lambda v: np.append(v, v[-1] * v[1] / v[0]) / (v[1] / v[0]) ** 0.5  # noqa: E731
PANELS = (("L2", 0, "L2 in the gradient, (2)"), ("decoupled", 0, "decoupled, as in torch, (3)"), ("decoupled", 1, "the same, as published, (4)"))
with style.shown(columns=3, width=10.2, height=3.3) as panels:
    for ax, (name, power, title) in zip(panels, PANELS, strict=True):
        grid, decays = grids[name], DECAYS[name]
        corners = np.meshgrid(edges(RATES), edges(decays))
        drawn = ax.pcolormesh(corners[0], corners[1] * corners[0] ** power, grid, cmap="gray", vmin=1.8, vmax=2.5)
        ax.plot(RATES, decays[grid.argmin(0)] * RATES**power, "o-", color=style.COLOURS[2], mec="white")
        ax.set(xscale="log", yscale="log", xlabel="learning rate $\\eta$", title=title)
        ax.set_ylabel("$\\lambda' = \\eta\\,\\lambda$" if power else "decay $\\lambda$")
        ax.grid(visible=False)
    panels[0].figure.colorbar(drawn, ax=panels, label="development loss (nats)")

# %%
for name, grid in grids.items():
    best = ", ".join(f"{rate:g}: {decay:.2g}" for rate, decay in zip(RATES, DECAYS[name][grid.argmin(0)], strict=True))
    print(f"{name:9s} best decay at each rate   {best}   lowest loss {grid.min():.3f}")

# %% [markdown]
# **A surprise**, if you know the paper by its abstract, which says that (4) frees the best decay from the rate. Here torch's (3)
# does: 0.2 at 0.04, at 0.08 and at 0.16, as the ceiling (8) has it. With these a weight forgets its past within
# $1/(\eta\lambda)=125$ updates or fewer, and there are 400. By (4) the best decay doubles with the rate. (In the left columns
# the training is too short: little is learnt by heart yet, and less decay is better.)
#
# But the paper's networks were ResNets, with a norm behind every matrix, where (9) rules: equal products, equal trainings. There it
# is (4) that should be level. One of the two panels must slant, because they show the same trainings; which one depends on the
# network. L2's line is level too; in this one seed its best loss is higher.
#
# Was it worth it? Take the best of each grid, and the best rate without decay, to the test texts:

# %%
alone = [fitted("decoupled", rate, 0.0) for rate in RATES]
best = {"no decay": min(alone, key=lambda params: judged(params, "dev")[0])}
for name, grid in grids.items():
    row, column = np.unravel_index(grid.argmin(), grid.shape)
    best[name] = fitted(name, RATES[column], DECAYS[name][row])
for name, params in best.items():
    loss, right, sure = judged(params, "test")
    print(f"{name:9s} test loss {loss:.3f}   right {right:5.1%}   sure of itself {sure:5.1%}")

# %% [markdown]
# About as many are right; what falls is the loss, and how sure the classifier is of itself. (One seed and a tiny classifier: look at
# the kind of change, not at its size.) Some answers, without decay and with it. **Predict first**: which lose most certainty, right
# ones or wrong ones?

# %%
some = requests.test.texts[5::130]
for text, *answers in zip(some, *(scores(best[name], bag(some)) for name in ("no decay", "decoupled")), strict=True):
    told = [f"{requests.labels[z.argmax()]} {np.exp(z.max()) / np.exp(z).sum():.0%}" for z in answers]
    print(f"{text[:46]:47s} {told[0]:26s} {told[1]}")

# %% [markdown]
# Three are wrong in both columns: the playlist, two plus two, and the takeaway, which is a `takeaway_order`. With decay the classifier
# doubts the first two, and is as sure as before of the third.
#
# ### The stored experiment
#
# The question on a language model: a BERT of two layers reads 2,000 short texts 32 times, often enough to learn them by heart.
# AdamW, L2, dropout and no decay have sixteen trials each, on development texts: here those of the two decays. **Predict first**:
# which of the grids will slant?

# %% alt="Two grids of development loss, rates from 0.0005 to 0.004 by four decays, dark is low. L2 in the gradient: the row of 0.001 is lowest at every rate, 5.37 at 0.002. AdamW: the rows of 1 and 3 are lowest, 5.46 at rate 0.002 and decay 1."
from bertcraft.course import shelf
from bertcraft.lab.experiments.weight_decay import EXPERIMENT
from bertcraft.lab.figures.weight_decay import show_grids
from bertcraft.lab.results import Results

with style.shown(columns=2, width=8.4, height=2.8) as axes:
    show_grids(axes, Results(EXPERIMENT, shelf.folder("results")).trials(), EXPERIMENT)

# %% [markdown]
# L2's does not; AdamW's grid is too short to tell. Now the best cells on unread texts, ten seeds. First, whether the question can
# be asked:

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
pulled = ("l2", "adamw", "none", "dropout", "everything", "l2_between", "adamw_between", "untrained", "unigram")
lesson.results("loss", "accuracy", "training", "size_matrices", "size_others", arms=pulled)

# %%
crossed = ("warm", "cold", "uncorrected", "uncorrected_cold", "uncorrected_half")
few = ("few", "few_cold", "few_uncorrected", "few_uncorrected_cold", "probe", "tfidf", "majority")
lesson.results("loss", "plateau", "right", "failed", arms=(*crossed, *few))

# %%
lesson.comparisons()

# %% alt="Loss at MASK of unread text less that of AdamW, with 95 percent intervals: L2 in the gradient at 0.00, from -0.05 to 0.05; no decay 0.45; dropout 0.41, from 0.26 to 0.56; all decay 0.22."
lesson.plots(2)

# %% alt="Five seeds each. Left, loss: AdamW with warm-up 5.2 to 5.6, without 5.5 to 6.0; without bias correction 6.5 to 6.7 with warm-up, 6.6 to 6.8 without. Right, MiniLM fine-tuned on 500 questions: 62 to 68 percent right with the correction; without it from 10 to 55 with warm-up and from 24 to 58 without."
lesson.plots(3)

# %% [markdown]
# **Beside or inside: one cannot tell.** AdamW less L2: -0.004 [-0.054, +0.046] nats. Half a step from each best cell to the second
# best, tried afterwards on five seeds, L2 has 0.077 less, AdamW 0.038 more: both intervals hold 0.
#
# **That matrices decay is worth 0.448 nats**, [+0.386, +0.510], *reproduced*; dropout does not replace it (0.409 worse). AdamW
# gains on the texts that it *reads*, too (3.95 for 4.16, five seeds); L2, with smaller weights and as good on unread ones, does
# not (4.22). Sparing norms and biases pays at this decay of 1: if they decay it costs +0.217 [+0.165, +0.269].
#
# **BERT's missing correction.** All ten runs without it end on the plateau, warm-up or not; at half the rate they end 0.39 below
# word frequencies, four of five by less than 0.5. MiniLM, at a rate chosen with correction, loses 30 points with warm-up, 23
# without, and one of its ten runs fails; of five seeds with common texts one *cannot tell*.
#
# ### When does it not help?
#
# - **In a short fine-tuning**: by (7) nothing decays.
# - **Where every text is read once**: there is little to overfit. What decay does there, it does as in (9): smaller weights are
#   changed more by the same step, as if the *rate* were higher.
# - **Behind a norm** it does not make a model simpler: by (9) it only sets how far a step turns a matrix.
#
# ## 6. In production (10 minutes)
#
# | | decay | what decays | epsilon |
# | --- | --- | --- | --- |
# | `torch.optim.AdamW` | (3), 0.01 | **everything** | 1e-8 |
# | `torch.optim.Adam(weight_decay=...)` | **(2)**, 0 | everything | 1e-8 |
# | `transformers.Trainer` | (3), **0** | no bias, no norm | 1e-8 |
# | BERT's own code | (3), 0.01, no correction | no bias, no norm | 1e-6 |
# | Composer's `DecoupledAdamW` | **(4)**, 1e-5 | everything | 1e-8 |
#
# So 0.01 is another decay in (2), (3) and (4). TensorFlow's Adam had yet another epsilon, the *epsilon hat* of Kingma and Ba's
# section 2, which is added before the correction (issue 9047 of tensorflow): worth more at first. That torch's decay follows the rate,
# and the paper's does not, is issue 38853 of pytorch, 292 of optax, 1849 of apex.
#
# The groups that `AdamW` wants you to make, and what it does without them:

# %%
if lesson.installed("torch"):
    import torch

    layer = torch.nn.TransformerEncoderLayer(32, 4, 64)
    matrices = [name for name, p in layer.named_parameters() if p.ndim > 1]
    others = [name for name, p in layer.named_parameters() if p.ndim <= 1]
    print(len(matrices), "decay:", ", ".join(matrices[:3]), "...")
    print(len(others), "do not:", ", ".join(others[-4:]), "...")
    norm = torch.nn.LayerNorm(4)
    optimiser = torch.optim.AdamW(norm.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(100):
        norm.weight.grad = torch.zeros(4)
        optimiser.step()
    print(f"a norm's scale after 100 steps without gradient, ungrouped: {norm.weight[0].item():.3f}")

# %% [markdown]
# **Status today (2026).** AdamW is the default of nearly all transformers, with a decay of 0.1 in language models such as GPT-3 and
# LLaMA where BERT had 0.01. The pair is tuned by its time-scale: Wang and Aitchison (2025) find that $1/(\eta\lambda)$, counted in readings of the
# data, hardly changes with the size of data and model. Newer rules (Lion, Muon) decay as (3).
#
# ## 7. On your data (5 minutes)
#
# ```python
# from datasets import load_dataset
# from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
#
# rows = load_dataset("csv", data_files="examples.csv")["train"]          # columns text, label (0, 1, ...)
# tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
# rows = rows.map(lambda r: tokenizer(r["text"], truncation=True), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=len(set(rows["label"])))
# arguments = TrainingArguments("out", learning_rate=2e-5, weight_decay=0.01, warmup_steps=100)   # its own default is no decay
# Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer).train()               # makes the groups itself
# model.save_pretrained("out/model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | training loss near 0, test loss rising | more decay; try factors of 3 |
# | decay changes nothing | compare `left(rates, decay)` with 1: the run may be too short for any |
# | a new rate needs a new decay | norms behind matrices: keep $\eta\lambda$; a long run without: keep $\lambda$ |
# | rare words are worse than before | `Adam(weight_decay=...)`: take `AdamW` |
# | fine-tuning on few labels fails now and then | bias correction on, warm-up, more steps |
#
# ## 8. Exercises (100 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 A new rate (one star, 10 minutes)
#
# You tuned torch's `AdamW` at one rate and must change the rate. Which decay keeps the factor $1-\eta\lambda$ of (7)? And which keeps
# the ceiling (8)?


# %% exercise="new_decay" stars=1
def new_decay(rate, decay, new_rate):
    """(the decay that leaves the shrinkage of an update as it was, the decay that leaves the ceiling c / decay as it was)."""
    ### BEGIN SOLUTION
    return rate * decay / new_rate, decay
    ### END SOLUTION


# %%
check.new_decay(new_decay)

# %% [markdown]
# ### 8.2 Where does epsilon stand? (two stars, 10 minutes)
#
# This is (1), as many a tutorial has it, and it learns nothing from small gradients. Find the mistake.


# %% exercise="direction" stars=2
def direction(m, u, t, b1, b2, eps):
    """Adam's direction (n,) at update t, from 1; m and u: the running means after it."""
    m, u = m / (1 - b1**t), u / (1 - b2**t)
    ### BEGIN SOLUTION
    return m / (np.sqrt(u) + eps)
    ### END SOLUTION
    ### BEGIN STUB
    # return m / np.sqrt(u + eps)
    ### END STUB


# %%
check.direction(direction)

# %% [markdown]
# ### 8.3 Is it decoupled? (two stars, 15 minutes)
#
# Somebody wrote AdamW in one line. It runs, and rare words suffer. Find the mistake.


# %% exercise="adamw_step" stars=2
def adamw_step(w, m, u, rate, decay, eps):
    """Weights (n,) after an update of AdamW, (3); m and u: the corrected running means."""
    ### BEGIN SOLUTION
    return w - rate * (m / (np.sqrt(u) + eps) + decay * w)
    ### END SOLUTION
    ### BEGIN STUB
    # return w - rate * (m + decay * w) / (np.sqrt(u) + eps)
    ### END STUB


# %%
check.adamw_step(adamw_step)

# %% [markdown]
# ### 8.4 LAMB's ratio (two stars, 20 minutes)
#
# **LAMB** (appendix A) scales each parameter's update, *decay included*, to the length of the parameter itself. Where either is 0
# nothing is scaled.


# %% exercise="lamb_step" stars=2
def lamb_step(w, direction, rate, decay):
    """A parameter (any shape) after a step against ``direction + decay * w``, made as long as w, times the rate."""
    ### BEGIN SOLUTION
    update = direction + decay * w
    length, moved = np.linalg.norm(w), np.linalg.norm(update)
    ratio = length / moved if length > 0 and moved > 0 else 1.0
    return w - rate * ratio * update
    ### END SOLUTION


# %%
check.lamb_step(lamb_step)

# %% [markdown]
# ### 8.5 Which decay? (two stars, 15 minutes, a decision)
#
# A team pretrains a small model. Its trials (an example; loss at [MASK] less AdamW's, five seeds, 95 % intervals):
#
# | arm | trials | best rate and decay | difference (nats) |
# | --- | --- | --- | --- |
# | AdamW | 16 | 2e-3, 0.3: inside its grid | |
# | L2 in the gradient | 16 | 2e-3, 1e-6: the lowest decay of its grid | +0.030 [+0.012, +0.048] |
# | no decay | 16 | 1e-3: inside its grid | +0.060 [+0.041, +0.079] |
# | AdamW, all decay | AdamW's | 2e-3, 0.3 | +0.004 [-0.009, +0.017] |
#
# - `arm`: "adamw", "l2", "none" or "all".
# - `l2_is`: (a) worse than AdamW; (b) not tried far enough to say; (c) the same.
# - `norms`: may norms and biases decay? (a) it costs loss; (b) it makes no difference; (c) no difference was shown.
# - `unless`: what would change your mind on `arm`? (a) L2's grid widened downward, and its best then lower than AdamW's; (b) AdamW
#   at a decay of 0.03 worse by 0.02; (c) a sixth seed of no decay with +0.05.


# %% exercise="which_decay" stars=2
def which_decay():
    """A dict with "arm", and "a", "b" or "c" for "l2_is", "norms" and "unless"."""
    ### BEGIN SOLUTION
    return {"arm": "adamw", "l2_is": "b", "norms": "c", "unless": "a"}
    ### END SOLUTION


# %%
check.which_decay(which_decay)

# %% [markdown]
# ### 8.6 A longer training (three stars, 30 minutes)
#
# (a) In section 2 set `STEPS` to 100 and run on. Before you look: from which rate on will 0.2 be the best decay of the second panel?
# (b) Derive from (3) that at a constant rate $w_T=(1-\eta\lambda)^Tw_0-\eta\sum_t(1-\eta\lambda)^{T-t}\Delta_t$: a moving average
# of directions. Over about how many updates does it average? (c) You double the data and train as many readings. What should
# become of $\lambda$?

# %% [markdown] solution=true
# **Model answer.** (a) With 400 updates 0.2 was best from a rate of 0.04 on, where the past is forgotten in 125 of them, a third.
# A third of 100 are 33 updates, $1/(\eta\lambda)$ at a rate of 0.16; and so it is. At 0.04 and below the lowest decay is best: nothing
# has been learnt by heart yet. (b) Put (3) into
# itself: each update multiplies all that is there by $1-\eta\lambda$ and adds $-\eta\Delta_t$. The weights of the sum fall by a
# factor e over $1/(\eta\lambda)$ updates, so it averages over about as many. (c) A reading now has twice as many updates. If the
# average is to reach over as many *readings* as before, $1/(\eta\lambda)$ has to double: halve $\lambda$, at the same rate.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Say which rule** a decay belongs to: 0.1 in torch at a rate of 1e-3 is 1e-4 in (4), and neither compares with (2)'s.
# - **Clip before, decay behind**: the pull is no gradient, and a clipped one would shrink with others' spikes.
# - **Rows of a table that a batch does not touch decay all the same** in (3). torch's `SparseAdam` has no decay.
# - **Tied matrices** must decay once: make groups from distinct tensors.
#
# **Read**: Loshchilov and Hutter 2019, [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), sections 2 and 3.
# Kingma and Ba 2015, [Adam](https://arxiv.org/abs/1412.6980). Zhang and others 2021,
# [Revisiting few-sample BERT fine-tuning](https://arxiv.org/abs/2006.05987). Mosbach and others 2021,
# [On the stability of fine-tuning BERT](https://arxiv.org/abs/2006.04884). Wang and Aitchison 2025,
# [How to set AdamW's weight decay](https://arxiv.org/abs/2405.13698). The production code is
# [torch.optim](https://github.com/pytorch/pytorch/tree/main/torch/optim).
#
# **Open project**: draw the grids for your own texts. Then put a norm behind the sum of the words: does the line do what (9) says?
#
# **Next**: on the path *Training & Optimization* comes [20, gradient clipping](20_gradient_clipping.ipynb). [06 gradient
# accumulation](06_gradient_accumulation.ipynb) is the batch that LAMB was made for;
# [07 mixed precision](07_mixed_precision_training.ipynb) says where epsilon becomes 0.

# %% [markdown]
# ## Appendix A. LAMB (10 minutes)
#
# With batches of 32,000 texts BERT can be trained in few updates, if rates may be high, and a rate is too high first where a
# parameter is *short*: the same step is a larger part of it. LAMB (You and others 2020, algorithm 2) makes each update as long as
# its parameter. The rate is then the part of its own length by which a parameter moves. It is one link more, behind (3)'s sum:

# %%
from bertcraft.techniques.weight_decay import trust_ratio, lamb  # inline

# %%
_, g = gradient(runs["none"], x[:32], y[:32])
for title, rule in (("AdamW", adam_decoupled(0.01, 0.01)), ("LAMB", lamb(0.01, 0.01))):
    updates, _ = rule.update(g, rule.init(runs["none"]), runs["none"])
    part = {name: np.linalg.norm(updates[name]) / np.linalg.norm(leaf) for name, leaf in runs["none"].items()}
    print(f"{title:6s} first update over the parameter:", ", ".join(f"{name} {each:.2%}" for name, each in part.items()))

# %% [markdown]
# One rate, and with LAMB both matrices move by the same part of their length. The bias is neither decayed nor scaled: `which` again.
