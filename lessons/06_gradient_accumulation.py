# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 06. Gradient accumulation: a large batch on a small machine
#
# A batch of 256 texts does not fit into memory. So take eight texts, keep only their gradient, take the next eight, add, and
# make one update after thirty-two rounds. In the major libraries it
# also carried a bug, for years, that changes which of your texts the model learns from. The bug is one division. You will find
# it on paper, in a gradient, in a trained model and, in another form, in a current release. You will also meet accumulation's
# rival, recomputation, and learn when to take which.
#
# You need NumPy and both parts of [lesson 00](00_foundations.ipynb). The sections take 185 minutes, nearly half of
# them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("gradient_accumulation")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (5 minutes)

# %%
lesson.claim()

# %% [markdown]
# ## 2. Background and motivation: what fills the memory (15 minutes)
#
# A training step holds four things. Three do not care how many texts there are: the parameters, their gradients, and the
# optimiser's state (two numbers a parameter for Adam). The fourth does: everything that the forward pass computed and the
# backward pass will ask for again. The slope of $\tanh(z)$ is $1-\tanh^2(z)$, so $\tanh(z)$ must stay until the way back.
#
# While a gradient is taken, each array has a `node` that points to those it was computed from. Here is a network of
# six layers, and a walk that finds every array that is kept.

# %%
WIDTH, DEPTH = 64, 6
rng = np.random.default_rng(0)
weights = {f"layer{i}": rng.standard_normal((WIDTH, WIDTH), np.float32) / 8 for i in range(DEPTH)}


def network_loss(weights, x):
    for weight in weights.values():
        x = np.tanh(x @ weight)
    return np.mean(x * x)


# %%
def kept_for_the_way_back(rows: int) -> int:
    """Bytes of the arrays between the parameters and the loss, for a batch of some rows."""
    found = {}

    def spy(weights):
        loss = network_loss(weights, np.ones((rows, WIDTH), np.float32))
        waiting = [loss.node]
        while waiting:
            node = waiting.pop()
            if node is not None and node.parents and node not in found:  # a node without parents is a parameter
                found[node] = node.value.nbytes
                waiting += node.parents
        return loss

    bc.value_and_grad(spy)(weights)
    return sum(found.values())


states = 4 * sum(weight.nbytes for weight in weights.values())  # parameters, gradients, two means of Adam
for rows in (1, 64, 512):
    print(f"{rows:4d} rows: {kept_for_the_way_back(rows) / 1e3:7.1f} kB kept; parameters, gradients, Adam: {states / 1e3:.0f} kB")

# %% [markdown]
# For BERT the kept bytes of a layer have been counted (Korthikanti et al. 2022, eq. 2). With numbers of 16 bits, $B$ texts of
# $L$ tokens, width $H$ and $A$ heads they are $LBH\,(34+5AL/H)$. The second term is attention's $L\times L$ scores.
# FlashAttention never stores them (it recomputes them), and that term is gone. Parameters, gradients and Adam take 16 bytes a
# parameter, in 32 bits (4 + 4 + 8) as in mixed precision (2 + 2, and 12 for the optimiser's own copy and means).
#
# **Predict first.** BERT-base, 512 tokens: at how many texts do the kept arrays overtake those 16 bytes a parameter?

# %%
CARD = 24e9  # bytes of memory; try 8e9


def activations(texts, flash=False, L=512, H=768, A=12, layers=12):
    """Bytes that BERT-base keeps for the way back in 16 bits, without embeddings and output layer."""
    return layers * L * texts * H * (34 + (0 if flash else 5 * A * L / H))


bert_states = 16 * 110e6
for title, flash in (("plain attention", False), ("FlashAttention", True)):
    one = activations(1, flash)
    print(f"{title:16s} one text {one / 1e9:.2f} GB; 256 texts {256 * one / 1e9:3.0f} GB; states {bert_states / 1e9:.2f} GB; "
          f"equal at {bert_states / one:.0f} texts; a card of {CARD / 1e9:.0f} GB holds {int((CARD - bert_states) / one)}")  # fmt: skip

# %% [markdown]
# Past five texts, or at eleven with FlashAttention. A batch of 256 needs 89 GB with plain attention. Ways out:
#
# - **A smaller batch**, with a learning rate of its own. It often works: see *Status today*.
# - **More machines**: each takes a part of the batch, and gradients are added over the network.
# - **Accumulation**: the same with *one* machine, which takes the parts (*micro-batches*) in turn.
# - **Recomputation** ("gradient checkpointing", Chen et al. 2016): keep only what goes *into* each layer. When the way back
#   reaches a layer, run it forward again. One more forward pass is the price: about a third more work.

# %% [markdown]
# Accumulation drawn, for $K$ micro-batches and a model of $P$ parameters. The $k$-th micro-batch has $n_k$ of the batch's $n$
# tokens, and $g_k$ is its gradient.

# %% alt="Left: a batch of B texts is cut into K micro-batches. Each goes through forward and backward passes; what it kept is freed, and its gradient, weighted by its share of tokens n_k over n, is added to a sum as large as the P parameters. After the last one, clip and update once."
with drawing.schematic(columns=5, rows=3, width=9.4, row_height=0.95) as s:
    batch = s.box("batch\nof B texts", at=(0, 1), kind="data")
    parts = [s.box(f"micro-batch {k}", at=(1, row), kind="data") for row, k in enumerate(("1", "2", "K"))]
    passes = [s.box("forward,\nbackward", at=(2.05, row)) for row in range(3)]
    total = s.box("sum of\ngradients", at=(3.15, 1), kind="new")
    once = s.box("clip, update:\nonce", at=(4.15, 1))
    for k, part, one in zip("12K", parts, passes, strict=True):
        s.arrow(batch, part)
        s.arrow(part, one, "B/K texts")
        s.arrow(one, total, f"$n_{k}/n$ · $g_{k}$", kind="new")
    s.arrow(total, once, "(P,)")
    s.note("what was kept is freed\nbefore the next begins", at=(3.3, 2.15))

# %% [markdown]
# ## 3. Mathematical foundation (20 minutes)
#
# ### One mean, cut into pieces
#
# A batch has $n$ tokens to predict, with losses $\ell_1\dots\ell_n$, and its loss is their mean. Cut it into $K$ micro-batches;
# the $k$-th has $n_k$ of the tokens, and its own mean is $\mathcal L_k$. A sum may be taken in any order, so
#
# $$\mathcal L=\frac1n\sum_{i=1}^{n}\ell_i=\sum_{k=1}^{K}\frac{n_k}{n}\,\mathcal L_k,\qquad n=n_1+\dots+n_K \tag{1}$$
#
# The gradient of a sum is the sum of the gradients. With $g_k=\nabla\mathcal L_k$, an array as large as the parameters,
#
# $$g=\sum_{k=1}^{K}\frac{n_k}{n}\,g_k \tag{2}$$
#
# That is the technique. Add each $g_k$ when it is there, and forget what it was computed from.
#
# **By hand.** Micro-batch 1 has 2 tokens with losses 4 and 2: $n_1=2$, $\mathcal L_1=3$. Micro-batch 2 has 6 tokens of loss 1
# each: $n_2=6$, $\mathcal L_2=1$. The batch: $(4+2+6\cdot 1)/8=1.5$. By (1): $\frac28\cdot 3+\frac68\cdot 1=1.5$.
#
# ### The bug: a mean of means
#
# A training framework gets one number from the model, without its count of tokens. So for years it divided by what it knew, the
# number of micro-batches:
#
# $$\widetilde{\mathcal L}=\frac1K\sum_{k=1}^{K}\mathcal L_k \tag{3}$$
#
# In the example it is $(3+1)/2=2$, not 1.5. **Predict first:** when are (1) and (3) equal, and which tokens does (3) favour?
#
# Write $\bar n=n/K$ for the mean of the $n_k$. In (1) every token counts $1/n$. In (3) a token of micro-batch $k$ counts
# $1/(Kn_k)$. Relative to the right one that is
#
# $$\frac{1/(Kn_k)}{1/n}=\frac{\bar n}{n_k} \tag{4}$$
#
# In micro-batch 1: $4/2=2$, each token counts double. In micro-batch 2: $4/6=0.67$. **Micro-batches with few tokens to predict
# are learnt more, full ones less.** Where texts are sorted by length the short ones gain: in a chat model, short answers. With
# one text a micro-batch, (3) is the mean over *texts*, a goal that one may choose.
#
# ### How wrong is it?
#
# The mean of $n_k\mathcal L_k$ over the micro-batches is $\bar n\mathcal L$, by (1). So $\widetilde{\mathcal L}-\mathcal L$ is
# the mean of $(\bar n-n_k)\,\mathcal L_k$ over $\bar n$. That is minus a covariance (the mean product of two deviations from
# their means):
#
# $$\widetilde{\mathcal L}-\mathcal L=-\frac{\operatorname{cov}_k(n_k,\mathcal L_k)}{\bar n} \tag{5}$$
#
# In the example $\operatorname{cov}=\frac12\left((2-4)(3-2)+(6-4)(1-2)\right)=-2$, and $-(-2)/4=0.5$, as it must be. The same
# holds for every entry of the gradient. This is how the bug stayed hidden:
#
# - Equal counts: no error. Rows packed full of text, as in pretraining, never showed it.
# - Counts that have nothing to do with the gradients: noise that is zero on average ([appendix A](#appendix-a) has its size).
# - Counts that *do*: a systematic error, largest when texts are sorted by length, for speed.
#
# ### What each way costs
#
# With $S$ bytes kept for a text, of which $S_0$ are the layers' inputs and $S_1$ belong to one layer:
#
# $$\text{peak}=16P+\begin{cases}B\,S&\text{the whole batch}\\ \frac BK\,S&K\text{ micro-batches}\\ B\,(S_0+S_1)&\text{recomputation}
# \end{cases} \tag{6}$$
#
# Work: the same for accumulation (**it saves no operations**; many small pieces cost time: section 5), about $\frac43$ for
# recomputation, since a backward pass is two forward passes' worth.
#
# ### A loss that is no sum over texts
#
# Equation (1) needs losses that do not depend on the batch's *other* texts. A contrastive loss asks for a text's partner among
# them. In smaller pieces that is an easier question, and no weights make it the hard one ([appendix B](#appendix-b)).
# Batch normalisation has the same trouble.
#
# ## 4. NumPy implementation (20 minutes)
#
# A batch is a dict of arrays with a first axis in common. All are cut at the same rows.

# %%
import operator
from collections.abc import Callable, Sequence
from typing import Any

from bertcraft.errors import InputError
from bertcraft.techniques.roberta_optimizations import predicted  # how many labels are not -100: n_k
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad

from bertcraft.techniques.gradient_accumulation import micro_batches, equally, no_dropout  # inline

# %% [markdown]
# `predicted` and `equally` are the two weights: $n_k$ for (1), and 1 for (3). A label of -100 means "nothing to predict here".

# %%
labels = np.array([[7, -100, -100, -100], [3, 9, -100, -100], [5, 6, 7, 8], [1, -100, 2, -100], [4, 4, -100, 4]])
for part in micro_batches({"labels": labels}, 2):
    print(part["labels"].shape, "n_k =", predicted(part), " equally:", equally(part))

# %% [markdown]
# The loop below is equation (2). The *loss* is scaled, so each gradient arrives with its share. `scaled` is the only thing that
# leaves a round: the graph of the micro-batch is gone before the next begins.

# %%
Rng = Callable[[int], Any]  # the random numbers of the k-th micro-batch

from bertcraft.techniques.gradient_accumulation import accumulate  # inline

# %% [markdown]
# The example of section 3. The parameters are the token losses themselves, so the gradient *is* the weight of each token:
# 1/8 for all of them, or what (4) says.

# %%
example = {"place": np.array([[0, 1, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7]])}
example["labels"] = np.array([[0, 0] + 4 * [-100], 6 * [0]])
token_losses = np.array([4.0, 2.0, 1, 1, 1, 1, 1, 1])


def mean_of_chosen(losses, part, rng):
    return np.mean(losses[part["place"][part["labels"] != -100]])


for weight in (predicted, equally):
    value, gradient = accumulate(mean_of_chosen, token_losses, micro_batches(example, 1), weight)
    print(f"{weight.__name__:9s} loss {float(value):.2f}, weight of the tokens", gradient.round(3))

# %% [markdown]
# What happens once an update must not happen once a micro-batch: clipping, Adam's running means, the learning-rate schedule.
# `update` hands the rule one gradient.

# %%
from bertcraft.train.rules import Rule, refuse_loss_scale

from bertcraft.techniques.gradient_accumulation import update  # inline

# %% [markdown]
# ### The rival in ten lines
#
# Recomputation for the network of section 2. Go forward and keep the inputs of the layers only. On the way back, run one layer
# again and turn the gradient `g` of its output into those of its weight and its input: they are the gradients of the sum of
# output times `g`.

# %%
def recomputed(weights, x):
    """Loss and gradients of network_loss; of each layer only its input is kept."""
    inputs = [x]
    for weight in weights.values():
        inputs.append(np.tanh(inputs[-1] @ weight))  # plain arrays: no graph
    loss, g = value_and_grad(lambda top: np.mean(top * top))(inputs.pop())
    gradients = {}
    for name, weight in reversed(weights.items()):
        layer = lambda both: np.sum(np.tanh(both["x"] @ both["weight"]) * g)  # noqa: B023, E731
        _, back = value_and_grad(layer)({"weight": weight, "x": inputs.pop()})
        gradients[name], g = back["weight"], back["x"]
    return loss, gradients


x = rng.standard_normal((32, WIDTH), np.float32)
plain, again = value_and_grad(network_loss)(weights, x)[1], recomputed(weights, x)[1]
print("the same gradient, to 1e-6:", all(np.allclose(plain[name], again[name], rtol=0, atol=1e-6) for name in weights))

# %% [markdown]
# ### Real texts of unequal length
#
# Three texts in four are requests to an assistant. The fourth is three questions to a bank, end to end. Both are masked as in
# [lesson 01](01_roberta_optimizations.ipynb).

# %%
from bertcraft.lab import lengths
from bertcraft.lab.experiments.gradient_accumulation import model

BATCH, CUT = 32, 8
texts = lengths.texts()
config, loss_of = model()  # a BERT of two layers, 128 wide, and its masked-LM loss
mixed, by_length = (lengths.batch_maker(BATCH, BATCH // 4, 6, grouped) for grouped in (False, True))
for kind, own in texts.items():
    tokens = (own.train != 0).sum(axis=1)
    print(f"{kind:5s} {tokens.mean():4.1f} tokens:", own.tokenizer.decode(own.train[0][own.train[0] != 0])[:90])
for title, make_batch in (("random order", mixed), ("sorted by length", by_length)):
    print(f"{title:17s} n_k =", [predicted(part) for part in micro_batches(make_batch(0), BATCH // CUT)])

# %% [markdown]
# `by_length` has the same texts under the same masks, sorted by length, as trainers do to save padding (`group_by_length`).
#
# **Proof.** In double precision, the accumulated gradient of eight micro-batches against that of the whole batch; then the
# accumulated loss against finite differences.

# %%
from bertcraft.lab import pretraining
from bertcraft.lab.experiments.gradient_accumulation import norm, distance  # inline

start = pretraining.initial(config, texts["short"], seed=0)
double = tree.map(lambda leaf: leaf.astype(np.float64), start)
whole_value, whole = value_and_grad(loss_of)(double, mixed(0), None)
value, gradients = accumulate(loss_of, double, micro_batches(mixed(0), BATCH // CUT))
print(f"loss {float(whole_value):.6f} and {float(value):.6f}; gradients less than 1e-12 apart:", distance(gradients, whole) < 1e-12)

bias = double["cls"]["predictions"]["bias"]


def loss_of_bias(bias):
    params = {**double, "cls": {"predictions": {**double["cls"]["predictions"], "bias": bias}}}
    return accumulate(loss_of, params, micro_batches(mixed(0), 16))[0]


bc.check_grads(loss_of_bias, bias, order=1)
print("the accumulated loss has the numeric gradient")

# %% [markdown]
# **Predict first.** With the wrong divisor, how far is the gradient from the batch's, in per cent of its norm? And sorted?

# %% quick="CUTS = (2, 8)"
CUTS = (2, 4, 8, 16, 32)  # numbers of micro-batches

# %% alt="Distance from the batch's gradient in per cent of its norm against the number of micro-batches, 2 to 32. Weighted by tokens lies on zero. The mean of means rises from 4 to 92 with the number of micro-batches; with sorted texts it is at 67 for two micro-batches and near 90 from four on; at 32 the two meet."
WAYS = {
    "weighted by tokens": (predicted, mixed), "mean of means": (equally, mixed), "mean of means, sorted": (equally, by_length)
}  # fmt: skip
single_whole = value_and_grad(loss_of)(start, mixed(0), None)[1]
errors = {
    title: [distance(accumulate(loss_of, start, micro_batches(make(0), BATCH // cut), weight)[1], single_whole) for cut in CUTS]
    for title, (weight, make) in WAYS.items()
}
with style.shown(width=6.6, height=3.0) as ax:
    for place, (title, values) in enumerate(errors.items(), 1):
        ax.plot(CUTS, 100 * np.array(values), **style.line(place), label=title)
    ax.set(xscale="log", xlabel="micro-batches into which 32 texts are cut", ylabel="distance (% of the norm)")
    ax.set_xticks(CUTS, CUTS)
    ax.minorticks_off()
    ax.legend(fontsize=8)
print("weighted by tokens, in single precision: at most", f"{max(errors['weighted by tokens']):.0e} of the norm")

# %% [markdown]
# By tokens the difference is rounding. The mean of means is off by a few per cent in two pieces, by nearly half in eight; sorted,
# by two thirds in two. With one text a piece order changes nothing: the curves meet.
#
# ## 5. Performance analysis (20 minutes)
#
# ### Live: one batch, and eight micro-batches
#
# Three trainings from the same start, on the same batches, sorted. Clipping and AdamW see one gradient an update.

# %% quick="STEPS = 6"
STEPS, RATE = 40, 2e-3

# %%
from bertcraft.train import adamw, chain, clip_by_global_norm, warmup_linear


def losses_of(cut: int, weight, make_batch) -> np.ndarray:
    """The batch's true loss before each update."""
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(RATE, 5, STEPS), weight_decay=0.01))
    params, state, found = start, rule.init(start), []
    for step in range(STEPS):
        parts = micro_batches(make_batch(step), BATCH // cut)
        counts = [predicted(part) for part in parts]
        seen = []
        kept = lambda p, part, rng: seen.append(float((value := loss_of(p, part, rng)).value)) or value  # noqa: B023, E731
        _, params, state = update(rule, kept, params, state, parts, weight)
        found.append(np.average(seen, weights=counts))
    return np.array(found)


curves = {
    "one batch": losses_of(1, predicted, by_length), "8, by tokens": losses_of(8, predicted, by_length),
    "8, mean of means": losses_of(8, equally, by_length),
}  # fmt: skip

# %% alt="Two panels against 40 updates. Left: training losses, which jump from batch to batch between 7 and 5.6 nats; one batch and eight micro-batches by tokens lie on each other, the mean of means mostly a little above. Right: distance from the loss of one batch on a logarithmic axis; by tokens it stays near a millionth of a nat and below, the mean of means is about a tenth of a nat off from the fourth update on."
with style.shown(columns=2, width=8.4, height=2.9) as (left, right):
    for place, (title, values) in enumerate(curves.items()):
        left.plot(values, color=style.COLOURS[place], ls=style.DASHES[place + 1], label=title)
        if place:
            right.plot(np.abs(values - curves["one batch"]) + 1e-9, color=style.COLOURS[place], ls=style.DASHES[place + 1])
    left.set(xlabel="update", ylabel="loss of the batch (nats)")
    left.legend(fontsize=8)
    right.set(xlabel="update", ylabel="distance from one batch (nats)", yscale="log")

# %% [markdown]
# This is what accumulation is for: the curve of the large batch, from pieces an eighth of its size. The mean of means trains
# too; without the other two nobody would see that its curve is too high.
#
# ### Whom does it favour?
#
# The simplest language model knows word frequencies only. Trained on the right mean, it ends at the frequencies of the tokens.
# Trained on the mean of means, each token counts as (4) says. Both can be counted, here in 300 sorted batches. **Predict
# first**: what happens to *card*, what to *play*?

# %% quick="BATCHES = 10"
BATCHES = 300

# %%
right_count, bug_count = (np.zeros(lengths.VOCABULARY) for _ in range(2))
for step in range(BATCHES):
    parts = micro_batches(by_length(step), BATCH // CUT)
    mean_count = np.mean([predicted(part) for part in parts])
    for part in parts:
        words = part["labels"][part["labels"] != -100]
        np.add.at(right_count, words, 1)
        np.add.at(bug_count, words, mean_count / predicted(part))  # (4)
ratio = (bug_count / bug_count.sum()) / np.maximum(right_count / right_count.sum(), 1e-9)

# %% alt="Bars for eight words: how many times as probable a model of word frequencies holds each of them under the mean of means as under the right mean. Below 1: card 0.7, transfer 0.5, account 0.7, i 0.7. Above 1: what 1.2, play 2.0, alarm 2.2, weather 2.7."
tokenizer = texts["short"].tokenizer
shown = ("card", "transfer", "account", "i", "what", "play", "alarm", "weather")
numbers = [tokenizer.token_to_id(word) for word in shown]
with style.shown(width=6.4, height=2.6) as ax:
    ax.barh(range(len(shown)), ratio[numbers] - 1, left=1, color=[style.COLOURS[1 + int(ratio[n] < 1)] for n in numbers])
    ax.axvline(1, color="0.3", lw=1)
    ax.set_yticks(range(len(shown)), shown)
    ax.invert_yaxis()
    ax.set(xlabel="probability under the mean of means, times the right one", xlim=(0, None))
    ax.grid(axis="y", visible=False)

# %% [markdown]
# *card* loses more than a quarter, *transfer* half; *play* doubles. That is a *choice*, made by accident, of what the model is
# for.
#
# ### The stored experiment
#
# Memory and time of a step, each way in its own process:

# %%
lesson.results("peak_mb", "step_seconds", "gradient_error")

# %% alt="Peak memory of the process against processor time of a step: one batch at 454 MB and 0.85 s, eight micro-batches at 237 MB and 0.96 s, recomputation at 319 MB and 1.12 s. A thin curve over other numbers of micro-batches falls steeply to 16 and hardly at all to 32, which takes 1.5 s. A dotted line at 109 MB: memory before the first step."
lesson.plots(1)

# %% [markdown]
# Eight micro-batches need half of the memory, at a gradient equal to 1e-15, and an eighth more time; a tenth had been allowed
# for. Recomputation needs more of both here; by (6) its gain grows with the number of layers.
#
# Then the bug in training: all arms go on from one model that has learnt both kinds of text. Losses count only positions that
# show [MASK], and are averaged over tokens, the goal of (1), and over texts, the goal of (3) with one text a micro-batch.
# **Predict first**: which of the two does the sorted mean of means improve? Does it matter to clipped AdamW that a *sum* of
# means is eight times too long? To gradient descent with momentum, unclipped?

# %%
lesson.results("loss", "text_loss", "short_loss", "long_loss")

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.comparisons()

# %% alt="Loss at [MASK] less that of the arm weighted by tokens, with 95 percent intervals, on short texts, long texts, all by token and all by text. Sorted means: short texts 0.015 lower, long texts 0.043 higher, by token 0.019 higher, by text about zero. The mean of means, the sum of means and the mean of means with SGD look alike: long texts and all by token higher by 0.014 or less, the other intervals hold zero."
lesson.plots(2)

# %% [markdown]
# Equation (4) comes true. Effects are small after 150 updates:
#
# | against the arm weighted by tokens | nats at [MASK], 95 % interval |
# | --- | --- |
# | means, sorted: long texts | +0.043 [+0.038, +0.048]: worse, as (4) says |
# | means, sorted: short texts | -0.015 [-0.024, -0.006]: better, as (4) says |
# | means, sorted: all, by token | +0.019 [+0.015, +0.023]: worse |
# | means, sorted: all, by text | -0.001 [-0.008, +0.005]: cannot tell |
# | mean of means, mixed: all, by token | +0.006 [+0.004, +0.009]: worse |
# | sum against mean of means, AdamW | 0.000: equal; each gradient was clipped to the same length |
# | the same, SGD with momentum, unclipped | +0.259 [+0.235, +0.283]: not equal, worse than *where all go on* |
#
# So far, the bug on sorted texts made the mean over tokens worse, that over texts not measurably better.
#
# ### When does it not help?
#
# - **When you hope for speed.** On a GPU small micro-batches leave units idle.
# - **When the batch need not be large.** That the large batch is better is another claim.
# - **When the states are the problem.** $16P$ stays. For that there are optimisers with less state, sharding, and adapters
#   ([lesson 12](12_adapter_modules.ipynb)).
# - **When one text does not fit**: recomputation helps there, accumulation cannot.
# - **When the loss looks across the batch**: recomputation or GradCache.
#
# ## 6. In production (15 minutes)
#
# Until October 2024 the Trainer of transformers divided each micro-batch's mean by $K$. Since then it counts the labels of the
# window (all micro-batches of an update) and passes `num_items_in_batch` to models whose `forward` accepts it: these return a
# *sum* over that number. Others get the old treatment; `accepts_loss_kwargs` is the switch, so we can run both. The gradient is
# read off one step of gradient descent with rate 1.

# %%
import contextlib
import io
import tempfile

if lesson.installed("transformers", "torch", "accelerate"):
    import torch
    import transformers
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    transformers.utils.logging.set_verbosity_error()
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = np.random.default_rng(3).integers(5, 50, (8, 12))
    targets = np.where(np.arange(12) < np.array([2, 11, 3, 2, 10, 9, 2, 3])[:, None], ids, -100)  # 2 to 11 tokens a text
    rows = [{"input_ids": torch.tensor(row), "labels": torch.tensor(target)} for row, target in zip(ids, targets, strict=True)]

    def whole_batch(model) -> torch.Tensor:
        model.train()
        model.zero_grad()
        model(input_ids=torch.tensor(ids), labels=torch.tensor(targets)).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

# %%
if lesson.installed("transformers", "torch", "accelerate"):

    def step_of(model, loss_function=None, **more) -> torch.Tensor:
        """The gradient that the Trainer accumulates over four micro-batches of two texts, as one vector."""
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1, optim="sgd", learning_rate=1.0,
                lr_scheduler_type="constant", max_grad_norm=0.0, train_sampling_strategy="sequential", use_cpu=True, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, **more,
            )  # fmt: skip
            Trainer(model, arguments, train_dataset=rows, compute_loss_func=loss_function).train()
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.nn.utils.vector_to_parameters(before, model.parameters())
        return before - after

    def by_items(output, labels, num_items_in_batch):
        """The fix for any masked language model: a sum over tokens, over the number in the whole window."""
        total = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / num_items_in_batch

# %%
if lesson.installed("transformers", "torch", "accelerate"):

    def told(title: str, gradient, right) -> None:
        off = 100 * float((gradient - right).norm() / right.norm())
        shown = "less than 1e-9" if off < 1e-9 else f"{off:.3g}"
        print(f"{title:45s} {shown:>14s} % off, {float(gradient.norm() / right.norm()):.2f} times as long")

    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**small)).double()
    bert = BertForMaskedLM(BertConfig(**small, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).double()
    right = {"llama": whole_batch(llama), "bert": whole_batch(bert)}
    told("Llama, the Trainer as it is (fixed in 2024)", step_of(llama), right["llama"])
    for one, name in ((llama, "Llama"), (bert, "BERT")):
        one.accepts_loss_kwargs = False
        told(f"{name}, as it was until October 2024", step_of(one), right[name.lower()])
        del one.accepts_loss_kwargs
    told("BERT, the Trainer as it is (5.23)", step_of(bert), right["bert"])
    told("BERT, with compute_loss_func=by_items", step_of(bert, by_items), right["bert"])
    told("the same, and recomputation", step_of(bert, by_items, activation_checkpointing=True), right["bert"])

# %% [markdown]
# Look at the line "as it is (5.23)". `BertForMaskedLM.forward` takes `**kwargs`, so the Trainer believes that the loss is
# already divided by `num_items_in_batch` and does not divide by $K$. But BERT's loss is a plain mean. The means are *summed*:
# mean of means, times $K$ (issue 47688 of transformers, open in release 5.23). `BertForSequenceClassification` does the same.
# Below it stands the remedy.
#
# Our own loop against torch's whole batch, the same weights, in double precision:

# %%
from bertcraft.bert import Config, heads

if lesson.installed("transformers", "torch", "accelerate"):
    params = tree.nest({name: p.detach().numpy().copy() for name, p in bert.named_parameters()})
    our_config = Config(family="bert", head="masked_lm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **small)
    parts = micro_batches({"input_ids": ids, "labels": targets}, 2)
    _, ours = accumulate(lambda p, part, rng: heads.loss(p, our_config, part, rng), params, parts)
    found = dict(tree.items(ours))
    ours = np.concatenate([found[name].ravel() for name, _ in bert.named_parameters()])
    print("every entry of the gradient the same to 1e-8:", bool(np.abs(ours - right["bert"].numpy()).max() < 1e-8))

# %% [markdown]
# **Status today (2026).** Accumulation is in every trainer, usually together with recomputation, FlashAttention and sharding of
# the states over devices. Marek et al. (2025) find that language models train as well per operation with small batches, down to
# one text, if Adam's second mean is given the same half-life in tokens; they advise accumulation only across several devices.
#
# ## 7. On your data (5 minutes)
#
# ```python
# from datasets import load_dataset
# from torch.nn.functional import cross_entropy
# from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
#
# def by_items(output, labels, num_items_in_batch):
#     return cross_entropy(output.logits, labels, reduction="sum") / num_items_in_batch
#
# rows = load_dataset("csv", data_files="examples.csv")["train"]          # columns text, label (0, 1, ...)
# tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
# rows = rows.map(lambda r: tokenizer(r["text"], truncation=True), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=len(set(rows["label"])))
# arguments = TrainingArguments("out", per_device_train_batch_size=8, gradient_accumulation_steps=4)   # a batch of 32
# Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer, compute_loss_func=by_items).train()
# model.save_pretrained("out/model")
# ```
#
# Release 5.23 sums a classifier's means, hence `by_items`; a masked language model takes that of section 6. Your own loop with
# accelerate: [appendix C](#appendix-c).
#
# | symptom | setting |
# | --- | --- |
# | out of memory in the first step | halve `per_device_train_batch_size`, double `gradient_accumulation_steps` |
# | out of memory with one text a micro-batch | `activation_checkpointing=True` (older releases: `gradient_checkpointing`) |
# | out of memory before the first step | neither helps: adapters, a smaller optimiser, sharding |
# | the norm of the gradient is $K$ times that of the whole batch | a sum of means: `compute_loss_func` |
# | the loss differs from the whole batch's with texts of unequal length | divide by the window's tokens; dropout off to compare |
# | the schedule ends at $1/K$ of training | step it once an update |
#
# ## 8. Exercises (80 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 The loss of the window (one star, 10 minutes)
#
# Given the mean loss of each micro-batch and its number of predicted tokens, what is the loss of the batch? Mind a micro-batch
# in which nothing is predicted: torch reports `nan`, a mean of nothing.


# %% exercise="window_loss" stars=1
def window_loss(means, counts):
    """Equation (1): means floats (K,), nan where the count is 0; counts integers (K,), not all 0. Returns a number."""
    ### BEGIN SOLUTION
    some = counts > 0
    return np.sum(means[some] * counts[some]) / np.sum(counts)
    ### END SOLUTION


# %%
check.window_loss(window_loss)

# %% [markdown]
# ### 8.2 Who is favoured? (one star, 5 minutes)
#
# Equation (4): what a token of each micro-batch counts under the mean of means, relative to what it should.


# %% exercise="favour" stars=1
def favour(counts):
    """counts integers (K,), all above 0 -> (K,): 1 where a token counts as much as it should, 2 where it counts double."""
    ### BEGIN SOLUTION
    return np.mean(counts) / counts
    ### END SOLUTION


# %%
check.favour(favour)

# %% [markdown]
# ### 8.3 A clip too many (two stars, 10 minutes)
#
# This step runs, and the loss falls. It is not the step of the large batch. Find the mistake and mend it.


# %% exercise="clipped_gradient" stars=2
def clipped_gradient(gradients, counts, limit):
    """The gradient for one update, its norm at most ``limit``.

    gradients: those of the micro-batches' mean losses, (K, P); counts (K,): their predicted tokens. Returns (P,).
    """
    shares = counts / np.sum(counts)
    ### BEGIN SOLUTION
    total = shares @ gradients
    norm = np.linalg.norm(total)
    if norm > limit:
        total = total * (limit / norm)
    ### END SOLUTION
    ### BEGIN STUB
    # total = np.zeros(gradients.shape[1])
    # for share, gradient in zip(shares, gradients):
    #     norm = np.linalg.norm(gradient)
    #     if norm > limit:
    #         gradient = gradient * (limit / norm)
    #     total = total + share * gradient
    ### END STUB
    return total


# %%
check.clipped_gradient(clipped_gradient)

# %% [markdown]
# ### 8.4 The last window (two stars, 15 minutes)
#
# An epoch has 10 micro-batches and $K=4$, so the third window has two. Many loops divide by 4 all the same, or drop it. Return
# the factor of each micro-batch's mean loss.


# %% exercise="window_shares" stars=2
def window_shares(counts, K):
    """counts integers (n,), the predicted tokens of the epoch's micro-batches in order; an update follows each K of them, and
    the last. Returns (n,): the share of each in its own window; they add up to 1 in every window.
    """
    ### BEGIN SOLUTION
    shares = np.empty(len(counts))
    for start in range(0, len(counts), K):
        window = counts[start : start + K]
        shares[start : start + K] = window / window.sum()
    return shares
    ### END SOLUTION


# %%
check.window_shares(window_shares)

# %% [markdown]
# ### 8.5 Several machines (three stars, 15 minutes)
#
# Some machines each go through $K$ micro-batches, then the gradients are *averaged* over the machines, as
# `DistributedDataParallel` does. By which factor must each micro-batch's **mean** loss be multiplied, so that the result is the
# gradient of the mean over all tokens on all machines?


# %% exercise="machine_factors" stars=3
def machine_factors(counts):
    """counts integers (machines, K): the predicted tokens of each micro-batch. Returns the factors, (machines, K)."""
    ### BEGIN SOLUTION
    return counts * len(counts) / np.sum(counts)
    ### END SOLUTION


# %%
check.machine_factors(machine_factors)

# %% [markdown]
# ### 8.6 Which way to the large batch? (two stars, 10 minutes, a decision)
#
# A team fine-tunes BERT-base on 512 tokens and wants the updates of 64 texts. Its card has 16 GB. Peaks are those of (6); the
# rest is invented, as if measured in five runs each, with 95 % intervals:
#
# | arm | peak | time of 64 texts | held-out loss less that of the first arm that fits |
# | --- | --- | --- | --- |
# | 64 texts at once | 24.1 GB: does not fit | | |
# | 8 micro-batches of 8, by tokens | 4.6 GB | 1.12 [1.09, 1.15] s | (the first that fits) |
# | recomputation, 64 at once | 4.2 GB | 1.35 [1.33, 1.37] s | -0.00 [-0.01, +0.01] |
# | 8 updates of 8 texts, rate unchanged | 4.6 GB | 1.20 [1.16, 1.24] s | +0.05 [-0.06, +0.16] |
#
# - `arm`: "accumulation", "recomputation" or "small".
# - `because`: (a) it has the lowest peak; (b) two arms fit and have the batch's gradient, and of these it takes less time, with
#   intervals apart; (c) its loss was shown to be equal to that of all others.
# - `unless`: what would change your mind? (a) a sixth run in which it is slower; (b) a loss that compares the texts of the batch
#   with each other; (c) a batch of 128 in place of 64.


# %% exercise="which_way" stars=2
def which_way():
    """{"arm": "accumulation", "recomputation" or "small", "because": "a", "b" or "c", "unless": "a", "b" or "c"}."""
    ### BEGIN SOLUTION
    return {"arm": "accumulation", "because": "b", "unless": "b"}
    ### END SOLUTION


# %%
check.which_way(which_way)

# %% [markdown]
# ### 8.7 The factor that Adam forgives (two stars, 15 minutes)
#
# Derive it on paper. The sum of means is $K$ times the mean of means, at each step. Adam's first mean is $m$, its second $u$, and
# it moves by $\eta\,m/(\sqrt u+\epsilon)$. (a) Show what the factor $K$ does to this step when nothing is clipped. (b) Gradients
# have norms around 0.5 and are clipped at 1. What changes with $K=8$? (c) Which rules would *not* forgive it?

# %% [markdown] solution=true
# **Model answer.** (a) $m$ is linear in the gradients, $u$ quadratic: they become $Km$ and $K^2u$. The step is $\eta Km/(K\sqrt
# u+\epsilon)=\eta m/(\sqrt u+\epsilon/K)$: the same step with a smaller $\epsilon$. (b) The norms are now around 4, so *every*
# gradient is scaled to length 1. Its direction stays, but all steps count the same in $m$ and $u$: outliers no longer stand
# out. (c) Plain gradient descent and momentum, whose steps become $K$ times as long.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Divide by the tokens of the whole window.** Test it: one window, dropout off, against the whole batch, to 1e-6. "The loss
#   falls" is no test.
# - **Clip, step and schedule once an update**, and undo a loss scale once, before clipping.
# - **Dropout is drawn anew** in each micro-batch; recomputation must draw the *same* numbers twice.
# - **`zero_grad` in the wrong place** makes $K$ useless (only the last micro-batch counts) or never ends the window.
# - **Keep the sum in 32 bits**: in 16 bits it loses small addends.
#
# **Read**: Hugging Face, *Fixing gradient accumulation*, October 2024
# ([huggingface/blog, pull request 2414](https://github.com/huggingface/blog/pull/2414)), with the follow-ups
# [transformers 35438](https://github.com/huggingface/transformers/pull/35438) and
# [37766](https://github.com/huggingface/transformers/issues/37766). Chen, Xu, Zhang, Guestrin 2016,
# [recomputation](https://arxiv.org/abs/1604.06174). Korthikanti et al. 2022,
# [activation memory counted](https://arxiv.org/abs/2205.05198). Dao et al. 2022,
# [FlashAttention](https://arxiv.org/abs/2205.14135). Gao, Zhang, Han, Callan 2021,
# [GradCache](https://arxiv.org/abs/2101.06983). Marek et al. 2025,
# [small batches](https://arxiv.org/abs/2507.07101).
#
# **Open project**: one long text among 31 short ones. Predict from (4) who is favoured, then train on three seeds.
#
# **Next**: on the path *Training & Optimization* comes [08, layer-wise learning rates](08_layerwise_learning_rates.ipynb). If the
# parameters fill your memory, go to [12 adapters](12_adapter_modules.ipynb).

# %% [markdown]
# <a id="appendix-a"></a>
#
# ## Appendix A: how much noise? (10 minutes)
#
# Suppose that counts and gradients are unrelated. Let the $g_k$ scatter by $\sigma$ around their mean (a root mean square, in
# norm), and let $\sigma_n$ be the standard deviation of the counts. A covariance of $K$ unrelated pairs is itself of size
# $\sigma_n\,\sigma/\sqrt K$. So, with $\tilde g$ the gradient of the mean of means,
#
# $$\lVert\tilde g-g\rVert\approx\frac{\sigma_n}{\bar n}\cdot\frac{\sigma}{\sqrt K} \tag{7}$$
#
# and $\sigma/\sqrt K$ is about the distance of a batch's gradient from that of all texts there are: noise that training lives
# with anyway. The bug's is $\sigma_n/\bar n$ times that. It adds to it where a larger count lowers the scatter (independent
# tokens); where it does not, as below, the weighted mean is the noisier of the two. Equations (1), (3), (5) and (7), for many
# cuts of made-up losses:

# %% alt="Histograms of the mean of means less the batch's loss over 4,000 cuts. Where counts have nothing to do with losses the errors scatter around zero, from about -0.2 to 0.2; where long texts are easier they scatter around 0.14 and are seldom below zero."
rng = np.random.default_rng(1)


def error_of_means(slope: float, cuts: int = 4000, K: int = 8) -> np.ndarray:
    """Mean of means less the right mean; ``slope``: by how much a micro-batch's loss falls with its number of tokens."""
    n = rng.integers(4, 29, (cuts, K))  # mean 16
    losses = 3 + 0.5 * rng.standard_normal((cuts, K)) - slope * (n - 16)
    found = losses.mean(axis=1) - (n * losses).sum(axis=1) / n.sum(axis=1)  # (3) less (1)
    assert np.allclose(found, -((n - n.mean(axis=1, keepdims=True)) * losses).mean(axis=1) / n.mean(axis=1))  # (5)
    return found


with style.shown(width=6.6, height=2.8) as ax:
    for place, (title, slope) in enumerate({"counts unrelated to losses": 0.0, "long texts are easier": 0.05}.items(), 1):
        errors, look = error_of_means(slope), {"color": style.COLOURS[place], "ls": style.DASHES[1 + place], "lw": 1.6}
        ax.hist(errors, np.linspace(-0.4, 0.8, 61), histtype="step", label=title, **look)
        print(f"{title:27s} mean error {errors.mean():+.3f}, scatter {errors.std():.3f}")
    ax.set(xlabel="mean of means less the loss of the batch (nats)", ylabel="cuts of 4,000")
    ax.legend(fontsize=8)
print(f"equation (7) for the first: {np.sqrt((25**2 - 1) / 12) / 16 * 0.5 / 8**0.5:.3f}")

# %% [markdown]
# <a id="appendix-b"></a>
#
# ## Appendix B: GradCache, for losses that compare (10 minutes)
#
# A contrastive loss asks of each row $i$ which of the $B$ rows on the other side is its partner, by scores $s_{ij}$ over a
# temperature $\tau$:
#
# $$\ell_i=-\ln\frac{e^{s_{ii}/\tau}}{\sum_{j=1}^{B}e^{s_{ij}/\tau}} \tag{8}$$
#
# The sum runs over the batch. Somebody who guesses has a loss of $\ln B$: with 64 pairs 4.16 nats, in eight pieces of 8 pairs
# 2.08. Nothing is miscounted, but accumulated gradients are those of another loss. Recomputation of layers keeps this loss exact.
# The remedy in the manner of accumulation (Gao et al. 2021) rests on the chain rule. The loss needs only the sentence vectors, and
# these are small. So encode every micro-batch and keep only the vectors $x$; take the loss of all of them together, and its
# gradient by each, $r$; then encode each micro-batch *again* and take the gradient of $\sum x_k\cdot r_k$, with $r_k$ held
# constant:
#
# $$\frac{\partial\mathcal L}{\partial\theta}=\sum_k\left(\frac{\partial x_k}{\partial\theta}\right)^{\!\top}r_k \tag{9}$$
#
# It is recomputation with the whole encoder as one layer, and costs the same: one more forward pass.

# %%
from bertcraft.techniques.gradient_accumulation import in_batch_negatives  # inline

# %%
from bertcraft.techniques.gradient_accumulation import cached_value_and_grad  # inline

# %% alt="Distance from the gradient of all pairs at once, on a logarithmic axis, against the number of pieces, 2 to 16: accumulated it rises from 0.13 to 0.66 of the norm, with GradCache it stays near one millionth, which is rounding."
from bertcraft.bert import encoder

pairs = {"first": texts["long"].train[:32], "second": texts["long"].train[32:64]}


def sentence_vectors(params, part, rng):
    """Means of the tokens' last states, for both sides: a tuple of two (n, 128)."""
    masks = [(part[side] != 0).astype(np.int32) for side in pairs]
    states = [encoder.encode(params, config, part[side], mask) for side, mask in zip(pairs, masks, strict=True)]
    return tuple(F.mean_pool(state, mask) for state, mask in zip(states, masks, strict=True))


contrastive = lambda params, part, rng: in_batch_negatives(*sentence_vectors(params, part, rng))  # noqa: E731
whole, off = value_and_grad(contrastive)(start, pairs, None)[1], {"accumulated": [], "GradCache": []}
for cut in CUTS[:-1]:
    parts = micro_batches(pairs, 32 // cut)
    off["accumulated"].append(distance(accumulate(contrastive, start, parts, lambda part: len(part["first"]))[1], whole))
    off["GradCache"].append(distance(cached_value_and_grad(sentence_vectors, in_batch_negatives, start, parts)[1], whole))
with style.shown(width=6.2, height=2.8) as ax:
    for place, (title, values) in zip((2, 1), off.items(), strict=True):
        ax.plot(CUTS[:-1], values, **style.line(place), label=title)
    ax.set(xscale="log", yscale="log", xlabel="pieces", ylabel="distance (share of the norm)")
    ax.set_xticks(CUTS[:-1], CUTS[:-1])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="center left")

# %% [markdown]
# <a id="appendix-c"></a>
#
# ## Appendix C: your own loop with accelerate (5 minutes)
#
# `accumulate()` tells the library when to synchronise and step; `backward()` divides the loss by the number of micro-batches,
# always. To weigh by tokens, count the window first, and multiply that division away.

# %%
if lesson.installed("transformers", "torch", "accelerate"):
    from accelerate import Accelerator

    K = 4
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=K)
    wrapped, prepared = accelerator.prepare(bert, torch.optim.SGD(bert.parameters(), lr=1.0))
    before = torch.cat([p.detach().flatten().clone() for p in wrapped.parameters()])
    window = [{"input_ids": torch.tensor(ids[i : i + 2]), "labels": torch.tensor(targets[i : i + 2])} for i in range(0, 8, 2)]
    items = sum(int((part["labels"] != -100).sum()) for part in window)
    for part in window:
        with accelerator.accumulate(wrapped):
            logits = wrapped(input_ids=part["input_ids"]).logits
            total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part["labels"].flatten(), reduction="sum")
            accelerator.backward(total / items * K)  # backward() divides by K
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(wrapped.parameters(), 1e9)  # once, on the whole gradient
            prepared.step()  # does nothing until the window is full
            prepared.zero_grad()
    after = torch.cat([p.detach().flatten() for p in wrapped.parameters()])
    told("accelerate, weighted by tokens", before - after, right["bert"])
