# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 08. Layer-wise learning rates: the lower, the slower
#
# A pretrained encoder is not equally finished everywhere. The word vectors at its bottom serve any task; the layers on top were
# made for the task of pretraining. Why should fine-tuning push them all equally hard? You will give each layer a rate of its own,
# let layers join late, see the one line of Adam that goes wrong when they do, and read what the claimed points shrink to on BERT.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for gradients and the encoder, and [its second part](00_foundations_2.ipynb)
# for fine-tuning, Adam and intervals. The sections take 225 minutes, nearly half of them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style
from bertcraft.techniques import layerwise_learning_rates as technique

lesson = open_lesson("layerwise_learning_rates")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)

# %%
lesson.claim()

# %% [markdown]
# The technique is from ULMFiT (Howard and Ruder 2018), whose model is an LSTM (a network that reads word by word) of three layers.
# Sun and others (2019) tried the idea on BERT. Both tables, drawn:

# %% alt="Left: validation error of ULMFiT for five recipes on three tasks. Rates by layer alone lower IMDb from 6.87 to 5.57, TREC-6 from 6.86 to 6.21, AG from 5.81 to 5.62; with gradual unfreezing AG rises to 6.04, and the slanted triangle on top gives 5.00, 5.69 and 5.38. Right: BERT-base's test error on IMDb against the decay a layer, 1 to 0.85, for two rates: 5.42, 5.40, 5.52, 5.65 and 5.52, 5.46, 5.44, 5.58; all lie in a grey band of two standard errors around 5.42."
# Howard & Ruder 2018, table 7: validation error (%) on IMDb, TREC-6, AG
ULMFIT = {"one rate": (6.87, 6.86, 5.81), "rates by layer": (5.57, 6.21, 5.62), "unfreezing": (6.37, 6.86, 5.81),
          "rates, unfreezing": (5.39, 5.86, 6.04), "rates, unfreezing,\ntriangle": (5.00, 5.69, 5.38)}  # fmt: skip
# Sun et al. 2019: test error (%) of BERT-base on IMDb, by decay a layer, for two rates of the top layer
DECAYS, SUN = (1.0, 0.95, 0.9, 0.85), {"rate 2e-5": (5.42, 5.40, 5.52, 5.65), "rate 2.5e-5": (5.52, 5.46, 5.44, 5.58)}
deviation = 100 * np.sqrt(0.054 * 0.946 / 25_000)

with style.shown(columns=2, width=9.4, height=3.1) as (left, right):
    for place, (task, errors) in enumerate(zip(("IMDb", "TREC-6", "AG"), zip(*ULMFIT.values(), strict=True), strict=True)):
        left.plot(errors, range(len(ULMFIT)), **style.line(place) | {"linestyle": ":"}, label=task)
    left.set_yticks(range(len(ULMFIT)), ULMFIT)
    left.set(xlabel="validation error (%)", ylim=(4.4, -0.4), title="ULMFiT, three LSTM layers")
    for place, (rate, errors) in enumerate(SUN.items()):
        right.plot(DECAYS, errors, **style.line(place), label=rate)
    right.axhspan(5.42 - 2 * deviation, 5.42 + 2 * deviation, color="0.9", label="5.42, two standard errors")
    right.set(xlabel="decay a layer", ylabel="test error (%)", xlim=(1.01, 0.84), ylim=(5, 6.2), title="BERT-base, IMDb")
    right.set_xticks(DECAYS)
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="upper left")
print(f"0.02 points of 25,000 reviews: {0.0002 * 25_000:.0f} reviews. Standard error of an error of 5.4 %: {deviation:.2f} points.")

# %% [markdown]
# Rates by layer alone gained more than a point once: on IMDb, with the LSTM. On AG, rates and unfreezing together did *harm*. BERT's
# 0.02 points are five reviews, a seventh of one standard error, and its 5.40 is the best of eight settings by their *test* error.
# What is left to test: **with few labels, is there a gain at all, when one rate is tuned just as carefully?**
#
# ## 2. Background and motivation (15 minutes)
#
# Before 2018 most froze a pretrained model or trained all of it, and with few labels the latter could *forget* what pretraining had
# taught. ULMFiT's answer has three parts: lower layers learn more slowly (**discriminative** rates), they join later (**gradual
# unfreezing**), and the rate rises briefly and falls long (**slanted triangle**). Here are the first two; $\eta$ is the top layer's
# rate, and $\xi$ (xi), at most 1, the factor from a layer to the one below it:

# %% alt="The stack from bottom to top: token ids, embeddings, layer 1, and so on to layers N minus 1 and N, head; arrows carry shapes B, L, H. At each depth a blue box with its rate points at it: xi to the N eta for the embeddings, xi to the N minus 1 eta for layer 1, xi eta for layer N minus 1, eta for layer N and the head. The arrows say when it joins: the head at once, layer N after one epoch, N minus 1 after two, the embeddings after N plus 1."
PARTS = (("token ids", "", ""), ("embeddings", "$\\xi^{N}\\,\\eta$", "after N + 1 epochs"),
         ("layer 1", "$\\xi^{N-1}\\,\\eta$", "after N epochs"), ("...", "...", ""),
         ("layer N - 1", "$\\xi\\,\\eta$", "after 2 epochs"), ("layer N", "$\\eta$", "after 1 epoch"), ("head", "$\\eta$", "at once"))  # fmt: skip
with drawing.schematic(columns=3, rows=7, width=7.0, row_height=0.6) as s:
    below = None
    for i, (name, rate, joins) in enumerate(PARTS):
        box = s.box(name, at=(0.4, 6 - i), kind="data" if i == 0 else "step")
        if below:
            s.arrow(below, box, {1: "(B, L)", 6: "(B, H)"}.get(i, "(B, L, H)"))
            s.arrow(s.box(rate, at=(2.2, 6 - i), kind="new"), box, joins, kind="new")
        below = box

# %% [markdown]
# Is what is low really general? Take MiniLM, six layers, never fine-tuned here. The mean of a question's token vectors at each
# depth goes to two linear maps: one names the *kind* of question (TREC, 47 kinds: a date, a city, a reason ...), the other says
# which of 100 frequent *words* it holds. **Predict first**: which of the two gets easier with depth, which harder?

# %% quick="READ, TESTED = 150, 60"
READ, TESTED = 1000, 300

# %%
from bertcraft.bert import sentences
from bertcraft.data.batches import pad
from bertcraft.lab.experiments import layerwise_learning_rates as experiment

model = experiment.model()
questions, parts = experiment.data_of("trec")
rows = np.concatenate([np.random.default_rng(0).permutation(parts.train)[:READ], parts.dev[:TESTED]])


def by_depth(which, texts):
    """The mean of the token vectors of a model of MiniLM's shape at each depth: (depths, texts, H)."""
    ids = [np.array(each) for each in sentences.tokenize(model, texts, experiment.LONGEST)]
    found = np.empty((7, len(ids), 384), np.float32)
    for rows in np.array_split(np.argsort([len(each) for each in ids]), -(-len(ids) // 64)):  # of like length
        padded, mask = pad([ids[i] for i in rows], 0)
        states = which(padded, mask, output_hidden_states=True).hidden_states
        found[:, rows] = [(h * mask[..., None]).sum(1) / mask.sum(1, keepdims=True) for h in states]
    return found


def mapped(x, y, strength=300.0):
    """Least squares from the first READ rows: what it says of the others."""
    x = (x - x[:READ].mean(0)) / (x[:READ].std(0) + 1e-6)  # a number of the last layer is always the same
    known, mean = x[:READ], y[:READ].mean(0)
    return mean + x[READ:] @ np.linalg.solve(known.T @ known + strength * np.eye(x.shape[1]), known.T @ (y[:READ] - mean))


# %% alt="Two curves over the depth of MiniLM, from the embeddings at 0 to layer 6. Left: the share of questions whose kind a linear map names, between 60 and 63 percent at every depth. Right: the share of the words' variance that another explains, falling from 38 percent at depths 0 and 1 to 12 at layer 6."
texts, kinds = [questions.texts[i] for i in rows], questions.numbers[rows]
split_up = [text.casefold().split() for text in texts]
counted = sorted({word for words in split_up for word in words}, key=lambda w: (-sum(w in words for words in split_up), w))
holds = np.array([[word in words for word in counted[20:120]] for words in split_up], float)
vectors = by_depth(model, texts)
of_kind = [100 * np.mean(mapped(x, np.eye(len(questions.labels))[kinds]).argmax(1) == kinds[READ:]) for x in vectors]
left_over = [np.sum((mapped(x, holds) - holds[READ:]) ** 2) for x in vectors]
explained = 100 * (1 - np.array(left_over) / np.sum((holds[READ:] - holds[:READ].mean(0)) ** 2))

with style.shown(columns=2, width=8.4, height=2.6) as panels:
    for place, (curve, title) in enumerate(((of_kind, "kinds named (%)"), (explained, "words explained (%)"))):
        panels[place].plot(curve, **style.line(place))
        panels[place].set(xlabel="depth (0: embeddings)", ylabel=title, ylim=(0, 1.4 * max(curve)))

# %% [markdown]
# The words fade on the way up. The kinds are about equally easy at every depth (with 300 questions the standard error is nearly
# three points): the upper layers add nothing that can be seen, so the top is not yet made for this task. That what is low should
# change *less* is still a guess.
#
# ## 3. Mathematical foundation (25 minutes)
#
# ### A rate for each depth
#
# Let $\theta_l$ be the parameters at depth $l$: $l=0$ the embeddings, 1 to $N$ the layers, $N+1$ the head, and $g_l$ their
# gradient. With a **decay** $\xi\le1$ (a letter of this lesson) a step of gradient descent is
#
# $$\theta_l\leftarrow\theta_l-\eta_l\,g_l,\qquad\eta_{l-1}=\xi\,\eta_l,\qquad\text{so}\quad\eta_l=\xi^{N-l}\,\eta\quad(l\le N).\tag{1}$$
#
# The head gets a rate of its own, $\eta$ or more.
#
# **By hand**, ULMFiT's $\xi=1/2.6$ with $N=3$ and $\eta=0.01$: $0.01$, $0.0038$, $0.0015$, and $0.0006$ for the embeddings. With
# BERT's $N=12$ the embeddings would get $2.6^{-12}=0.00001$ of the rate: a frozen model. Comparable between depths is not $\xi$ but the span
# $\xi^N$: $2.6^{-3}=0.057\approx0.79^{12}$, nearly the 0.8 of ELECTRA's code. Sun's $0.95^{12}=0.54$ is far gentler.
#
# ### It is the update that is multiplied
#
# Why not multiply each layer's *gradient* by $\xi^{N-l}$? Because Adam divides it out again. It keeps running means $m$ of $g$ and $u$
# of $g^2$ ($\beta_1=0.9$ and $\beta_2=0.999$ of them stay at each step, $\epsilon$ is tiny). At its $t$-th gradient it moves by
#
# $$\Delta\theta=-\eta\,\frac{m/(1-\beta_1^t)}{\sqrt{u/(1-\beta_2^t)}+\epsilon},\qquad m\leftarrow\beta_1m+(1-\beta_1)g,\quad
# u\leftarrow\beta_2u+(1-\beta_2)g^2.\tag{2}$$
#
# With $cg$ in place of $g$, $c$ any number above 0, $m$ becomes $cm$ and $\sqrt u$ becomes $c\sqrt u$: nothing changes, $\epsilon$
# aside. The *first* step is $-\eta\,g/|g|$, as long as the rate whatever the gradient. So under Adam a layer's rate says how far it can
# go: hardly farther than the sum of its rates. Weight decay is multiplied by the same rate, so lower layers also decay less.
#
# ### A layer that joins late
#
# Let depth $l$ learn from step $s_l$ on: the head from the first, each other depth *every* steps (in ULMFiT an epoch) after the one
# above it,
#
# $$s_l=\text{every}\cdot(N+1-l).\tag{3}$$
#
# What is $t$ in (2) then? The divisors are there because $m$ and $u$ begin at 0: the weights of $t$ gradients in them sum to
# $1-\beta_1^t$ and $1-\beta_2^t$. So $t$ counts the gradients that *this* parameter has seen. Count all steps of the training
# instead, and the $k$-th update of a layer that slept $s$ steps is multiplied by
#
# $$\frac{1-\beta_1^{k}}{1-\beta_1^{s+k}}\Bigg/\sqrt{\frac{1-\beta_2^{k}}{1-\beta_2^{s+k}}}.\tag{4}$$
#
# **By hand**, after a long sleep: the first update is $0.1/\sqrt{0.001}=3.2$ times as long as it should be. **Predict first**: when is
# it worst?

# %% alt="The factor of equation 4 against the number of updates since a layer joined, logarithmic, for sleeps of 25, 1,000 and 10,000 steps. After 10,000 it begins at 3.2, rises to 6.6 at the twelfth update and falls to 1.3 at the thousandth; after 1,000 it is at first lower by a fifth; after 25 it begins at 0.54 and stays below 1.4."
SLEEPS = (25, 1_000, 10_000)  # steps
k = np.unique(np.geomspace(1, 3000, 200).astype(int))


def too_long(k, s, b1=0.9, b2=0.999):
    return (1 - b1**k) / (1 - b1 ** (s + k)) / np.sqrt((1 - b2**k) / (1 - b2 ** (s + k)))  # equation 4


with style.shown(width=6.6, height=2.8) as ax:
    for place, sleep in enumerate(SLEEPS):
        ax.plot(k, too_long(k, sleep), **style.line(place) | {"marker": ""}, label=f"slept {sleep:,} steps")
    ax.axhline(1, color="0.3", lw=1, ls=":")
    ax.set(xscale="log", xlabel="updates since it joined", ylabel="longer than it should be", ylim=(0, 7))
    ax.legend(fontsize=8)

# %% [markdown]
# At the twelfth update, 6.6 times: $m$ has caught up with its gradients long before $u$ has. And a short sleep makes the first
# steps too *short*.
#
# ### The slanted triangle
#
# Up in a tenth of the steps, then down. With $T$ steps and a peak at step $\text{cut}=\lfloor0.1\,T\rfloor$ that is 32 times as high
# as the start (the *ratio*),
#
# $$\eta(t)=\eta\,\frac{1+p\,(\text{ratio}-1)}{\text{ratio}},\qquad p=\frac t{\text{cut}}\ \text{ up to cut},\qquad
# p=\frac{T-t}{T-\text{cut}}\ \text{ behind it.}\tag{5}$$
#
# By hand, $T=40$: it starts at $\eta/32$, has its peak at step 4, and half-way down, at step 22, $p=\frac12$ gives $0.516\,\eta$.
# (The paper prints another second $p$: appendix A.)
#
# ## 4. NumPy implementation (25 minutes)
#
# ### How deep is a parameter?
#
# Eight families of models name their layers differently, but the library knows which arrays are whose.

# %%
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bertcraft.bert import Config, Model, encoder, families
from bertcraft.errors import InputError
from bertcraft.lab import finetune as tuning
from bertcraft.techniques.layerwise_learning_rates import by_epoch, by_group
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree
from bertcraft.train.rules import Rule, adamw, chain, clip_by_global_norm, refuse_loss_scale
from bertcraft.train.schedules import Schedule, warmup_linear

# %%
from bertcraft.techniques.layerwise_learning_rates import depths  # inline

# %%
config, start = tuning.classifier(model, classes=len(questions.labels), seed=0, dropout=0.1)
depth = depths(start, config)
for d in range(config.num_hidden_layers + 2):
    own = {name: leaf for name, leaf in tree.items(start) if depth[name] == d}
    print(f"depth {d}: {sum(leaf.size for leaf in own.values()):>10,} numbers, {next(iter(own))} ...")

# %% [markdown]
# Half of MiniLM lies at depth 0. The pooler counts as head: it was never pretrained.
#
# ### Rates by depth

# %%
from bertcraft.techniques.layerwise_learning_rates import factors, unfreezing  # inline

# %% [markdown]
# ### Frozen, or late
#
# Frozen is not a rate of 0, under which Adam gathers means, nor a gradient of 0, under which momentum goes on and weights decay, but a
# rule that does nothing (`technique.FROZEN`). A layer that joins late has a rule that sleeps:

# %%
from bertcraft.techniques.layerwise_learning_rates import delayed  # inline

# %% [markdown]
# `layerwise` makes a rule for each depth, AdamW (`make`) with the schedule times the depth's factor. `by_group` hands each rule its
# part of the tree. A sleeper's own step is 0 when it wakes, the schedule's is not: hence `step + starts[d]`.

# %%
from bertcraft.techniques.layerwise_learning_rates import layerwise  # inline

# %% [markdown]
# Now ULMFiT whole, with its triangle:

# %%
from bertcraft.techniques.layerwise_learning_rates import slanted_triangle  # inline

# %%
DECAY, EVERY, STEPS_SHOWN = 0.8, 6, 60  # try 1 / 2.6

# %% alt="Left: the learning rate of each depth of a model of six layers against steps, on a slanted triangle; a depth's line begins where it joins, the head first, and lower depths have lower lines. Right: a rate that falls linearly after a warm-up, by step as a smooth line and by epoch as stairs; the stairs stay at zero for the whole first epoch."
shares = factors(DECAY, 6, head=1 / DECAY)
with style.shown(columns=2, width=9.2, height=3.0) as (left, right):
    triangle = slanted_triangle(1.0, STEPS_SHOWN)
    for d, joins in reversed(list(enumerate(unfreezing(6, EVERY)))):
        steps = np.arange(joins, STEPS_SHOWN)
        label = {0: "embeddings", 7: "head"}.get(d, f"layer {d}")
        left.plot(steps, shares[d] * triangle(steps), **style.line(7 - d) | {"markevery": [0]}, label=label)
    left.set(xlabel="steps", ylabel="rate (of layer 6's peak)", ylim=(0, 1.3))
    left.legend(fontsize=7)
    steps = np.arange(60)
    right.plot(steps, warmup_linear(1.0, 12, 60)(steps), **style.line(0) | {"marker": ""}, label="by step")
    staircase = by_epoch(warmup_linear(1.0, 1, 5), 12)
    right.step(steps, [staircase(step) for step in steps], where="post", **style.line(1) | {"marker": ""}, label="by epoch of 12 steps")
    right.set(xlabel="steps", ylabel="rate (of the peak)", ylim=(-0.03, 1.05))
    right.legend(fontsize=8)

# %% [markdown]
# On the right, a schedule that is advanced once an epoch (`by_epoch`): the whole first epoch has a rate of 0.
#
# ### A frozen layer still drops out
#
# Freezing concerns updates; dropout belongs to the forward pass. `below` computes what is frozen without it, `above` the rest. What
# `below` gives never changes, so for texts that are read often it can be kept.

# %%
from bertcraft.techniques.layerwise_learning_rates import _through, below, above  # inline

# %%
ids = np.array([model.tokenizer.encode("how far is it from denver to aspen").ids])
states, chance = below(start, config, ids, frozen=3), np.random.default_rng(0)
print("above without dropout is the encoder:", np.allclose(above(start, config, states, frozen=3), encoder.encode(start, config, ids), atol=1e-5))
for title, read in (("all layers", lambda: encoder.encode(start, config, ids, rng=chance)),
                    ("the upper three", lambda: above(start, config, states, frozen=3, rng=chance))):  # fmt: skip
    print(f"dropout in {title}: the states of two readings differ by {np.sqrt(np.mean((read() - read()) ** 2)):.2f}")

# %% [markdown]
# Most of the noise comes from the upper half.
#
# ### Proof
#
# A derivative through `above` against the measured slope, in double precision. Then (1): each depth's update is its factor
# times that of plain AdamW.

# %%
wide, draw = dict(tree.items(tree.map(lambda leaf: leaf.astype(np.float64), start))), np.random.default_rng(0)
kept, name = below(tree.nest(wide), config, ids, frozen=3), "bert.encoder.layer.4.output.dense.bias"
bc.check_grads(lambda bias: np.mean(above(tree.nest(wide | {name: bias}), config, kept, frozen=3) ** 3), wide[name], order=1)
g = tree.map(lambda leaf: draw.standard_normal(leaf.shape), start)
updates, _ = (rule := layerwise(lambda step: 1e-3, factors(0.9, 6), depth)).update(g, rule.init(start), start)
plain, _ = adamw(1e-3).update(g, adamw(1e-3).init(start), start)
pairs = zip(tree.items(updates), tree.leaves(plain), strict=True)
print("each update is its factor times AdamW's:", all(np.allclose(u, factors(0.9, 6)[depth[n]] * v) for (n, u), v in pairs))

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Counted exactly: what the lowest gets
#
# The embeddings' share of the top layer's rate, $\xi^N$ (0.38 is 1/2.6):

# %%
for title, layers in (("an LSTM, 3", 3), ("MiniLM, 6", 6), ("BERT-base, 12", 12), ("BERT-large, 24", 24)):
    lowest = {f"{decay:.2g}": factors(decay, layers)[0] for decay in (0.95, 0.9, 0.8, technique.ULMFIT)}
    print(f"{title:15}", "  ".join(f"{decay}: {share:<7.2g}" for decay, share in lowest.items()))

# %% [markdown]
# ### Counted exactly: what freezing saves
#
# **Predict first**: embeddings and half of the layers are frozen. How much of a step's work is saved?
#
# A layer costs one part of work forward and two backward: the derivative of its weights, and that of its input. A derivative need not
# go below the lowest layer that learns. So of $3N$ parts, where the upper $N'$ of the $N$ layers learn,
#
# $$N+2N'\quad\text{are left, or }3N'\text{ where the states below are kept.}\tag{6}$$
#
# The real code's matrix products, counted:

# %%
from bertcraft.lab import flops


def step_loss(learning, rest, states, frozen):
    whole = tree.nest(dict(tree.items(rest)) | dict(tree.items(learning)))
    x = below(whole, config, ids, frozen=frozen) if states is None else states
    return np.sum(above(whole, config, x, frozen=frozen))


work = bc.value_and_grad(step_loss)
whole = flops.count(work, start, start, None, 0)
upper = tree.nest({name: leaf for name, leaf in tree.items(start) if depth[name] > 3})
print(f"three of six frozen: {flops.count(work, upper, start, None, 3) / whole:.0%} left", end=", ")
print(f"states kept: {flops.count(work, upper, start, below(start, config, ids, frozen=3), 3) / whole:.0%}")

# %% [markdown]
# By (6) two thirds and one half; a little less is left, for the lowest layer that learns passes no derivative on.
#
# ### Live: three decays, and how far each layer goes
#
# MiniLM learns the kinds of 500 questions in 80 steps of 16. All three have the same rate for the top layer, and six times as
# much for the head, which is new. **Predict first**: by (2), which depth below the head moves farthest? And where do the *states*
# of unseen texts change most?

# %% quick="STEPS = 2"
STEPS, RATE, HEAD, SEED = 80, 5e-4, 6.0, 51  # HEAD: times the top layer's rate, for it is new
RECIPES = {"one rate": 1.0, "0.9 a layer": 0.9, "1/2.6 a layer": technique.ULMFIT}

# %%
from bertcraft.lab import ruled
from bertcraft.lab.experiment import Context
from bertcraft.tensor.parallel import cpu_count

learnt_from, test = experiment.some("trec", experiment.split(500, SEED).train), experiment.some("trec", parts.dev[:TESTED])
settings = tuning.Settings(steps=STEPS, batch_size=16, shard_size=16, dropout=0.1, max_length=experiment.LONGEST)


def recipe(decay):
    schedule = warmup_linear(RATE, STEPS // 10, STEPS)
    return lambda params, config: chain(
        clip_by_global_norm(1.0), layerwise(schedule, factors(decay, config.num_hidden_layers, HEAD), depths(params, config))
    )


tuned = {}
for name, decay in RECIPES.items():
    tuned[name], losses = ruled.classifier(
        model, learnt_from, recipe(decay), settings, classes=len(questions.labels), seed=SEED, context=Context(cpu_count())
    )  # fmt: skip
    right = 100 * tuning.accuracy(tuned[name], test, cpu_count())
    print(f"{name:14} loss {losses[:5].mean():.2f} to {losses[-5:].mean():.2f}, {right:.1f} % of {len(test)} questions")

# %%
KINDS = {0: "manner", 1: "title", 5: "duration", 7: "abbreviation", 8: "person", 9: "organisation", 11: "definition", 12: "date", 13: "reason",
         15: "state", 16: "description", 17: "number", 18: "place", 22: "country", 23: "colour", 25: "city", 40: "length"}  # fmt: skip
SHOWN = range(41, 49)
answers = {name: tuning.predict(each, [test.texts[i] for i in SHOWN]).argmax(axis=1) for name, each in tuned.items()}
print(f"{'question':46}", *(f"{name:14}" for name in tuned), "right")
for *said, i in zip(*answers.values(), SHOWN, strict=True):
    told = [KINDS.get(int(c), f"kind {c}") for c in (*said, test.labels[i])]
    print(f"{test.texts[i][:45]:46}", *(f"{each:14}" for each in told))

# %% alt="Left: how far the weights of each depth have moved from their start, in percent of their length. With one rate the embeddings 1.0, the layers 4.5 to 5.2; with 0.9 a layer the embeddings 0.6, the layers from 2.8 up to 5.3; with 1/2.6 nearly nothing up to layer 3, then steeply up to 5.7 at layer 6. Right: how far the mean vectors of unseen requests have turned, more at each depth, up to 0.64, 0.46 and 0.16 at layer 6."
requests, request_parts = experiment.data_of("hwu64")
known = np.concatenate([request_parts.train[requests.numbers[request_parts.train] == c][:5] for c in range(64)])
other = [requests.texts[i] for i in (*known, *request_parts.dev[:TESTED])]
seen = {"not tuned": by_depth(model, other)}
with style.shown(columns=2, width=9.2, height=2.9) as (left, right):
    for place, (name, each) in enumerate(tuned.items()):
        pairs = [(depth[n], a, b) for (n, a), b in zip(tree.items(each.trained), tree.leaves(each.frozen), strict=True)]
        length = lambda d, f: np.sqrt(sum(np.sum(f(a, b) ** 2) for own, a, b in pairs if own == d))  # noqa: B023, E731
        left.plot([100 * length(d, np.subtract) / length(d, lambda a, b: b) for d in range(7)], **style.line(place), label=name)
        seen[name] = by_depth(Model(each.config, each.trained), other)
        one, two = (x[:, len(known) :] for x in (seen["not tuned"], seen[name]))
        alike = np.sum(one * two, -1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)
        right.plot(1 - alike.mean(axis=1), **style.line(place))
    left.set(xlabel="depth (0: embeddings)", ylabel="weights moved (% of their length)", ylim=(0, None))
    right.set(xlabel="depth (0: embeddings)", ylabel="states turned (1 - cosine)")
    left.legend(fontsize=8)

# %% [markdown]
# With one rate the layers go about equally far, as (2) says; only the embeddings do less, for most words never occur. With 0.9 the
# lowest layer goes six tenths as far, which is $0.9^5$. The states turn most on top whatever the recipe: each layer adds its own change
# to those of all below.
#
# What is *forgotten*? The tuned encoders, heads off, meet a task they were not tuned for: HWU64's 64 kinds of requests to an assistant.
# Each kind is the mean of five labelled vectors, and a new request goes to the nearest.

# %%
for name, vectors in seen.items():
    x = vectors[-1] / np.linalg.norm(vectors[-1], axis=1, keepdims=True)
    means = x[: len(known)].reshape(64, 5, -1).mean(axis=1)
    right = (x[len(known) :] @ means.T).argmax(axis=1) == requests.numbers[request_parts.dev[:TESTED]]
    print(f"{name:14} {100 * right.mean():.1f} % of {len(right)} requests")

# %% [markdown]
# Eighty steps on questions cost the encoder 28 of its 63 points on requests with one rate, 15 with 0.9 a layer, and none with 1/2.6.
# (Standard error: nearly three points.) **That is what a decay promises: learn the new task, keep the old model.**
#
# And 0.9 has answered the most questions. Is it better, then? This is one seed, and 5e-4 is high: beside a faster head, the trials
# below preferred 2e-4. A decay lowers nearly all rates, and a lower single rate may also forget less. So the experiment gives each
# arm the rate that is best for it.
#
# ### The stored experiment
#
# 500 labelled texts of TREC, HWU64 or BANKING77, 200 steps of 16 (unfreezing: a depth every 14); each arm tries five rates on
# development texts, moved up where the best was the last. MiniLM has six layers, so 0.9 spans what 0.95 does over twelve, and is
# the claim. First, whether the question can be asked:

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results()

# %%
lesson.comparisons()

# %% alt="Accuracy less that of one rate with as many labels, in points, paired over seeds, with intervals, and a mark for each seed by task. 0.9 a layer 1.3, from minus 3.1 to 5.6; 0.95 a layer 0.3; 1/2.6 a layer 8.2, from 1.9 to 14.5; 0.9 with a slanted triangle 1.7, with gradual unfreezing 7.4; head ten times the body 11.1, from minus 6.4 to 28.6, its seeds between 5 and 17.8, highest on TREC; lower half frozen 4.9, without dropout 7.0; 0.9 with 100 labels 2.6, from minus 8.9 to 14."
lesson.plots(2)

# %% [markdown]
# **0.9 a layer is 1.3 points [-3.1, +5.6] better than one rate: one cannot tell.** With 100 labels neither (asked
# afterwards, at 500's rates). (On HWU64 and BANKING77 both stay 6 to 15 points below a frozen probe.)
#
# Now the rivals. None is shown to be better either, yet in all five seeds a *head ten times the body* beats one rate by 5.0 points
# or more, 1/2.6 a layer by 5.6, the frozen half without dropout by 5.5, unfreezing by 3.6. All have faster heads, 8e-4 to 2e-3 (one
# rate: 4e-4), and a lower training loss (`lesson.plots(1)`): 0.1 to 0.6 nats at the end, one rate 1.2. So what counts may not
# be depth, but a head fast enough for 200 steps; more steps were not tried. A rate of the head's own is the cheaper trial.
#
# ### When does it not help?
#
# - **Where the frozen vectors know already**: a frozen probe has 79 % on HWU64 (the best recipe 80) and 78 % on BANKING77 (75).
# - **With many labels**: on IMDb's 25,000 BERT gained nothing that can be told from chance (section 1).
# - **When the new texts are unlike the old ones**: then the lower layers may have most to learn.
#
# ## 6. In production (15 minutes)
#
# torch has **parameter groups**. Ours against them, with ULMFiT's whole recipe, on the names of MiniLM with two rows of each array:

# %%
if lesson.installed("torch"):
    import torch

    params = tree.nest({name: leaf[:2].astype(np.float64) for name, leaf in tree.items(start)})
    starts, shares, triangle = unfreezing(6, every=2), factors(0.8, 6, head=2.0), slanted_triangle(1.0, 20)
    rule = layerwise(lambda step: 3e-3 * triangle(step), shares, depth, starts=starts)
    state, weights = rule.init(params), {name: torch.nn.Parameter(torch.tensor(leaf)) for name, leaf in tree.items(params)}
    groups = [
        {"params": [w], "lr": 3e-3 * shares[depth[name]], "weight_decay": 0.01 if w.ndim > 1 else 0.0}
        for name, w in weights.items()
    ]
    adam = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: float(triangle(step)))  # multiplies each group's own rate
    for step in range(20):
        g = tree.map(lambda leaf: draw.standard_normal(leaf.shape), params)
        updates, state = rule.update(g, state, params)
        params = tree.map(np.add, params, updates)
        for name, leaf in tree.items(g):
            weights[name].grad = torch.tensor(leaf) if step >= starts[depth[name]] else None  # None: requires_grad is False
        adam.step()
        scheduler.step()

# %%
if lesson.installed("torch"):
    mine = {name: state[str(d)].get("rule", state[str(d)]) for name, d in depth.items()}
    theirs = {name: adam.state[w] for name, w in weights.items()}
    gaps = [np.abs(leaf - weights[name].detach().numpy()).max() for name, leaf in tree.items(params)]
    gaps += [np.abs(leaf - theirs[name]["exp_avg_sq"].numpy()).max() for each in mine.values() for name, leaf in tree.items(each["v"])]
    print("20 steps, the same weights and mean squares to 1e-12:", max(gaps) < 1e-12)
    print("the same counts of updates:", all(each["step"] == theirs[name]["step"] for name, each in mine.items()))
    print("by depth:", {depth[name]: int(each["step"]) for name, each in mine.items()})

# %% [markdown]
# torch keeps a count for every parameter, from its first gradient on. Three things go wrong without an error:

# %%
if lesson.installed("torch"):
    w, late = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    adam = torch.optim.AdamW([{"params": [w], "lr_scale": 0.1}], lr=0.01, weight_decay=0.0)
    w.grad = torch.ones(1)
    adam.step()
    print(f"1. lr_scale is 0.1, the rate 0.01, and the step {1 - w.item():.4f} long")

    adam = torch.optim.AdamW([late], lr=0.01, weight_decay=0.0)
    for step in range(2001):  # frozen for 2,000 steps by gradients of zero
        late.grad = torch.full((1,), float(step == 2000))
        adam.step()
    print(f"2. frozen by zeros, then the rate is 0.01 and the first step {1 - late.item():.4f} long")

    layer, x = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.1)), torch.ones(4, 8)
    layer.requires_grad_(False)
    twice = [torch.equal(layer(x), layer(x)), torch.equal(layer.eval()(x), layer(x))]
    print("3. frozen, the same output twice:", twice[0], " after eval():", twice[1])

# %% [markdown]
# 1. torch accepts any key in a group and ignores it. `lr_scale` is a key of BEiT, MAE and timm, and only *their* schedulers read
#    it: with others, `layer_decay` had no effect at all (pytorch-image-models, pull request 2532).
# 2. Equation (4). `grad = None`, or `requires_grad = False` from the start, is safe. Weights frozen *later* by zeros move on by
#    momentum, and decay.
# 3. `model.train()` at the start of each epoch turns dropout on again.
#
# Count depths with care: ELECTRA's code did not (appendix A). transformers' `Trainer` has no rates by layer: hand it an optimiser
# (section 7).
#
# **Status today (2026).** A decay by layer is common where vision transformers (MAE's code: 0.75) and encoders (ELECTRA's: 0.8) are
# fine-tuned. Large language models get low-rank adapters instead.
#
# ## 7. On your data (5 minutes)
#
# With `rate_of` of exercise 8.1, a CSV with the columns text and label (0, 1, ...):
#
# ```python
# import datasets, torch, transformers as t
# data = datasets.load_dataset("csv", data_files="texts.csv")["train"]
# name = "sentence-transformers/all-MiniLM-L6-v2"
# words = t.AutoTokenizer.from_pretrained(name)
# data = data.map(lambda row: words(row["text"], truncation=True, max_length=128))
# model = t.AutoModelForSequenceClassification.from_pretrained(name, num_labels=len(set(data["label"])))
# layers = model.config.num_hidden_layers
# is_head = lambda n: "embeddings" not in n and ".layer." not in n
# groups = [{"params": [w], "lr": rate_of(n, 2e-4, 0.9, layers) * (10 if is_head(n) else 1),
#            "weight_decay": 0.01 if w.ndim > 1 else 0.0} for n, w in model.named_parameters()]
# arguments = t.TrainingArguments("out", num_train_epochs=3, lr_scheduler_type="linear", warmup_steps=0.1)  # a share: transformers 5
# trainer = t.Trainer(model, arguments, train_dataset=data, processing_class=words, optimizers=(torch.optim.AdamW(groups), None))
# trainer.train(); trainer.save_model("my_model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | training loss hardly falls | first a higher rate, above all for the head; a stronger decay needs a higher rate on top (1/2.6 here: 1.6e-3) |
# | a jump in the loss when a layer joins | bias correction by a count of all steps, or a rate at its peak just then |
# | good on training texts, worse than a probe on new ones | a lower rate first; then freeze the lower half |
# | a decay changes nothing | print each group's `lr` after a step of the scheduler |
# | slower than expected with frozen layers | gradients are still computed: set `requires_grad`, not the rate |
#
# ## 8. Exercises (100 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 A rate by its name (one star, 10 minutes)
#
# For torch's groups: from a parameter's name in a BERT classifier to its rate, by (1). Twelve layers are called
# `bert.encoder.layer.0` to `bert.encoder.layer.11`, and all of `bert.embeddings` lies below them. Pooler and classifier learn as fast
# as the top layer.


# %% exercise="rate_of" stars=1
def rate_of(name, rate, decay, layers):
    """The learning rate of the parameter of that name; rate: of the top layer; layers: how many there are."""
    ### BEGIN SOLUTION
    if "embeddings" in name:
        return rate * decay**layers
    if ".layer." in name:
        number = int(name.split(".layer.")[1].split(".")[0])
        return rate * decay ** (layers - 1 - number)
    return rate
    ### END SOLUTION


# %%
check.rate_of(rate_of)

# %% [markdown]
# ### 8.2 Another number of layers (one star, 5 minutes)
#
# A decay was good for a model of `layers` layers. Which decay leaves the embeddings the same share of the rate in a model of
# `own_layers`?


# %% exercise="carried_over" stars=1
def carried_over(decay, layers, own_layers):
    """The decay a layer for ``own_layers`` that spans as much as ``decay`` does over ``layers``."""
    ### BEGIN SOLUTION
    return decay ** (layers / own_layers)
    ### END SOLUTION


# %%
check.carried_over(carried_over)

# %% [markdown]
# ### 8.3 The triangle (two stars, 15 minutes)
#
# Equation (5) without looking at `slanted_triangle`, with `cut_frac` in place of 0.1. It also has to hold where $T$ is no multiple of
# ten, and behind the end.


# %% exercise="slanted" stars=2
def slanted(step, total, cut_frac, ratio):
    """The share of the peak at a step, a whole number from 0; from step ``total`` on it is 1 / ratio."""
    ### BEGIN SOLUTION
    cut = int(total * cut_frac)
    p = step / cut if step < cut else max(0, (total - step) / (total - cut))
    return (1 + p * (ratio - 1)) / ratio
    ### END SOLUTION


# %%
check.slanted(slanted)

# %% [markdown]
# ### 8.4 A layer that jumps (two stars, 15 minutes)
#
# Adam for one weight that joins after `start` steps, without epsilon. It runs, and the weight's first steps have the wrong length. Find
# out why, and mend it.


# %% exercise="late_adam" stars=2
def late_adam(gradients, start, rate):
    """The updates of all steps, an array (T,) as gradients are: 0 for the first ``start`` of them, then Adam's."""
    b1, b2, m, u, updates = 0.9, 0.999, 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        if t <= start:
            updates.append(0.0)
            continue
        m, u = b1 * m + (1 - b1) * g, b2 * u + (1 - b2) * g * g
        ### BEGIN SOLUTION
        count = t - start
        updates.append(-rate * (m / (1 - b1**count)) / np.sqrt(u / (1 - b2**count)))
        ### END SOLUTION
        ### BEGIN STUB
        # updates.append(-rate * (m / (1 - b1**t)) / np.sqrt(u / (1 - b2**t)))
        ### END STUB
    return np.array(updates)


# %%
check.late_adam(late_adam)

# %% [markdown]
# ### 8.5 By epoch (one star, 10 minutes)
#
# Many a script calls `scheduler.step()` once an epoch. Which rates does it train with? Then, for the right panel of section 4, compare
# the sum of all rates with that of the schedule by step: what has the model lost?


# %% exercise="stairs" stars=1
def stairs(schedule, steps_an_epoch, steps):
    """The rates (steps,) of steps 0, 1, 2, ... where ``schedule(count)`` is asked for the number of epochs that are over."""
    ### BEGIN SOLUTION
    return np.array([schedule(step // steps_an_epoch) for step in range(steps)])
    ### END SOLUTION


# %%
check.stairs(stairs)

# %% [markdown] solution=true
# **Model answer.** Both sums are 30. What is lost is not rate but time: one epoch of five teaches nothing, and the next begins at the
# full rate, so that the warm-up is gone.

# %% [markdown]
# ### 8.6 Which recipe? (two stars, 20 minutes, a decision)
#
# A team fine-tunes a model of twelve layers with one rate, 5e-5, that was chosen years ago. Somebody tries 0.9 a layer at 1e-4. Agreed
# before: one rate, well chosen, stays unless falling rates are *shown* to be better. One seed on development texts, accuracy (%):
#
# | top layer's rate | 2.5e-5 | 5e-5 | 1e-4 | 2e-4 | 4e-4 |
# | --- | --- | --- | --- | --- | --- |
# | one rate | 80.1 | 82.0 | 83.3 | 82.9 | 71.5 |
# | 0.9 a layer | 78.9 | 81.2 | 83.1 | 83.5 | 81.8 |
#
# Ten new seeds on test texts, points with 95 % intervals; half a point would matter:
#
# | | difference |
# | --- | --- |
# | A: 0.9 at 1e-4 less one rate at 5e-5 | +1.1 [+0.4, +1.8] |
# | B: 0.9 at 2e-4 less one rate at 1e-4 | +0.2 [-0.5, +0.9] |
#
# - `recipe`: "one at 5e-5", "one at 1e-4", "0.9 at 1e-4" or "0.9 at 2e-4".
# - `gain_in_A` comes from: (a) the falling rates; (b) the higher rate, as far as the first table tells; (c) chance.
# - `B_says`: (a) 0.9 is better; (b) the two are equal within half a point; (c) neither is shown.
# - `unless`: what would change your mind? (a) more seeds, after which B's interval lies above 0; (b) a seed in which 0.9 has 84 %;
#   (c) A with twice as many seeds.


# %% exercise="which_recipe" stars=2
def which_recipe():
    """A dict with "recipe", and "a", "b" or "c" for "gain_in_A", "B_says" and "unless"."""
    ### BEGIN SOLUTION
    return {"recipe": "one at 1e-4", "gain_in_A": "b", "B_says": "c", "unless": "a"}
    ### END SOLUTION


# %%
check.which_recipe(which_recipe)

# %% [markdown]
# ### 8.7 Derive: how much slower is it all? (three stars, 25 minutes)
#
# (a) What is the geometric mean of the factors in (1) over the depths 0 to $N$? For $\xi=0.9$ and $N=6$, which single rate has it?
# (b) Show that for SGD with momentum, multiplying the gradient by $c$ *is* the same as multiplying the rate, and that clipping all
# gradients to one norm changes that.

# %% [markdown] solution=true
# **Model answer.** (a) $\bigl(\prod_{l=0}^N\xi^{N-l}\bigr)^{1/(N+1)}=\xi^{N(N+1)/2\,/\,(N+1)}=\xi^{N/2}$: here $0.9^3=0.73$. A
# single rate of $0.73\,\eta$ is the fair rival if nothing is tuned. (b) The velocity is linear in the gradients: with $cg$ it is $c$
# times as large at every step, and so is the update, $\eta$ times it. Clipping divides by the norm of *all* gradients: shrink some of them first, and that
# norm is smaller and the others come out larger. So clip true gradients, and let the rates follow.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Tune both arms**: a decay lowers the mean rate, which alone may help.
# - **Tune a decay anew** for another number of layers: $\xi^N$ changes.
# - **The head** is new: it may need more than the top layer. ULMFiT gave it 2.6 times as much.
# - **Clip before the groups**, over what learns. (Our unfreezing arm still counts sleeping layers.)
#
# **Read**: Howard and Ruder 2018, [ULMFiT](https://arxiv.org/abs/1801.06146), sections 3.2 and 3.3. Sun and others 2019, [How to
# Fine-Tune BERT for Text Classification?](https://arxiv.org/abs/1905.05583). He and others 2022,
# [MAE](https://arxiv.org/abs/2111.06377). Code:
# [torch's parameter groups](https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options),
# [timm](https://github.com/huggingface/pytorch-image-models),
# [ELECTRA](https://github.com/google-research/electra/blob/master/model/optimization.py).
#
# **Open project**: on your own texts, tune one rate and 0.9 a layer with the same five rates; ten seeds for the best of each.
#
# **Next** on the path *Training & Optimization*: [09 learning-rate schedules](09_advanced_scheduling.ipynb), of which the triangle is one.
# [12 adapter modules](12_adapter_modules.ipynb) leave the old layers alone altogether.

# %% [markdown]
# ## Appendix A. Two slips (5 minutes)
#
# **The printed triangle.** ULMFiT's equation 3 has $p=1-(t-\text{cut})/(\text{cut}\,(1/0.1-1))$ behind the peak, the same as (5)
# unless cut was rounded. Where it was, the rate ends below $\eta/32$, and for $T=77$ below *zero*.
#
# **A depth too many.** ELECTRA's released code gives the top layer $0.8^2$ of the head's rate where 0.8 was meant, because a pooler
# was removed and its depth was not (google-research/electra, issue 51).
