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
# make one update after thirty-two rounds. It is the least glamorous technique of this collection and one of the most used. In
# the major libraries it also carried a bug, for years, that changes which of your texts the model learns from. The bug is one
# division. In this lesson you will find it on paper, see it in a gradient, train with it, and meet a relative of it that is
# still in a current release.
#
# You need NumPy, and from [lesson 00](00_foundations.ipynb) what a gradient is. Set aside 60 to 90 minutes.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson

lesson = open_lesson("gradient_accumulation")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim
#
# "It saves memory" is true and leaves out the three things that matter: *which* memory, *whose* gradient comes out, and what it
# costs in time.

# %%
lesson.claim()

# %% [markdown]
# ## 2. What fills the memory
#
# A training step holds four things. Three of them do not care how many texts there are: the parameters, their gradients, and
# the optimiser's state (two numbers a parameter for Adam). The fourth does: everything that the forward pass computed and the
# backward pass will ask for again. The slope of $\tanh(z)$ is $1-\tanh^2(z)$, so $\tanh(z)$ must stay until the way back.
#
# We can look. In this library each Tensor has a `node` that points to its parents; walking through them finds every array that
# is being kept. Here is a network of six layers, and that walk.

# %%
WIDTH, DEPTH = 64, 6
rng = np.random.default_rng(0)
weights = {f"layer{i}": rng.standard_normal((WIDTH, WIDTH), np.float32) / 8 for i in range(DEPTH)}


def network_loss(weights, x):
    for weight in weights.values():
        x = np.tanh(x @ weight)
    return np.mean(x * x)


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


states = 4 * sum(weight.nbytes for weight in weights.values())  # parameters, gradients, two moments of Adam
for rows in (1, 64, 512):
    print(f"{rows:4d} rows: {kept_for_the_way_back(rows) / 1e3:8.1f} kB kept; parameters, gradients, Adam: {states / 1e3:.0f} kB")

# %% [markdown]
# **Predict first.** The same two lines for BERT-base on texts of 512 tokens: at how many texts do the kept arrays overtake the
# parameters with all that belongs to them? At 1, 5, 50 or 500?
#
# For a transformer with 16-bit activations the kept bytes of one layer have been counted (Korthikanti et al. 2022, eq. 2): with
# $s$ tokens, $b$ texts, width $h$ and $a$ heads, $sbh\,(34+5as/h)$.

# %%
from bertcraft.lab import style


def activations(b, s=512, h=768, a=12, layers=12):
    """Bytes that BERT-base keeps for the way back, without embeddings and output layer."""
    return layers * s * b * h * (34 + 5 * a * s / h)


bert_states = 16 * 110e6  # 16 bytes a parameter: parameter, gradient, two moments in 32 bits
b = 2 ** np.arange(0, 9)
with style.shown(columns=2, width=8.2, height=3.2) as (left, right):
    rows = np.array([1, 64, 128, 256, 512, 1024])
    left.plot(rows, [kept_for_the_way_back(int(n)) / 1e6 for n in rows], **style.line(1), label="kept for the way back")
    left.axhline(states / 1e6, color=style.COLOURS[0], ls="--", label="parameters, gradients, Adam")
    left.set(xlabel="rows of the batch", ylabel="memory (MB)", title="six layers of tanh, counted")
    right.plot(b, activations(b) / 1e9, **style.line(1), label="kept for the way back")
    right.axhline(bert_states / 1e9, color=style.COLOURS[0], ls="--", label="parameters, gradients, Adam")
    right.axhline(24, color="0.2", lw=1, ls=":")
    right.annotate("a card of 24 GB", (1, 24), xytext=(2, 3), textcoords="offset points", fontsize=8)
    right.set(xscale="log", yscale="log", xlabel="texts of 512 tokens", ylabel="memory (GB)", title="BERT-base, by formula")
    for ax in (left, right):
        ax.legend(fontsize=8, loc="upper left" if ax is left else "lower right")
print(f"one text: {activations(1) / 1e9:.2f} GB; 256 texts: {activations(256) / 1e9:.0f} GB; states: {bert_states / 1e9:.2f} GB")
print(f"kept arrays overtake the states at {bert_states / activations(1):.1f} texts")

# %% [markdown]
# At five texts. A batch of 256, as BERT had, would need 90 GB, nearly all of it for arrays that are needed once and thrown
# away.
#
# What was tried before? A smaller batch: then learning rate and schedule must be found anew, and some losses are too noisy to
# follow. More machines: each takes a part of the batch and the gradients are added over the network. Accumulation is that
# second idea with *one* machine that takes all the parts in turn. Hence its bugs are those of data parallelism, too.

# %% [markdown]
# ## 3. The mathematics
#
# ### One mean, cut into pieces
#
# A batch has $N$ tokens to predict, with losses $\ell_1\dots\ell_N$, and its loss is their mean. Cut it into $K$ micro-batches;
# the $k$-th has $n_k$ of the tokens, and its own mean is $L_k$. A sum may be taken in any order, so
#
# $$L=\frac1N\sum_{i=1}^{N}\ell_i=\sum_{k=1}^{K}\frac{n_k}{N}\,L_k,\qquad N=n_1+\dots+n_K \tag{1}$$
#
# The gradient of a sum is the sum of the gradients. With $g_k=\nabla L_k$, an array as large as the parameters,
#
# $$g=\sum_{k=1}^{K}\frac{n_k}{N}\,g_k \tag{2}$$
#
# That is the technique, all of it. Add each $g_k$ when it is there, and forget what it was computed from.
#
# **By hand.** Micro-batch A has 2 tokens with losses 4 and 2: $n_A=2$, $L_A=3$. Micro-batch B has 6 tokens of loss 1 each:
# $n_B=6$, $L_B=1$. The batch: $(4+2+6\cdot 1)/8=1.5$. By (1): $\frac28\cdot 3+\frac68\cdot 1=1.5$.
#
# ### The bug: a mean of means
#
# A training framework calls the model, gets a number back, and does not know how many tokens are in it. So for years it divided
# by what it did know, the number of micro-batches:
#
# $$M=\frac1K\sum_{k=1}^{K}L_k \tag{3}$$
#
# In the example $M=(3+1)/2=2$, not 1.5. **Predict first:** when are (1) and (3) equal, and which tokens does (3) favour?
#
# Write $\bar n=N/K$ for the mean of the $n_k$. In (1) every token counts $1/N$. In (3) a token of micro-batch $k$ counts
# $1/(Kn_k)$. Its weight relative to the right one is
#
# $$r_k=\frac{1/(Kn_k)}{1/N}=\frac{\bar n}{n_k} \tag{4}$$
#
# In A: $4/2=2$, each token counts double. In B: $4/6=0.67$. **Texts with few tokens to predict are learnt more, long ones
# less.** In a chat model these are the short answers.
#
# ### How wrong is it?
#
# The mean of $n_kL_k$ over the micro-batches is $\bar n L$, by (1). So $M-L=\frac{1}{\bar n}\left(\bar n\cdot\overline{L_k}-
# \overline{n_kL_k}\right)$, and the bracket is minus a covariance:
#
# $$M-L=-\frac{\operatorname{cov}_k(n_k,L_k)}{\bar n} \tag{5}$$
#
# In the example $\operatorname{cov}=\frac12\left((2-4)(3-2)+(6-4)(1-2)\right)=-2$, and $-(-2)/4=0.5$, as it must be. The same
# holds for every entry of the gradient: $g_M-g=-\operatorname{cov}_k(n_k,g_k)/\bar n$.
#
# Three things follow, and they explain why the bug lived so long.
#
# - Equal counts: no error. Rows packed full of text, as in pretraining, never showed it.
# - Counts that have nothing to do with the gradients: the error is zero on average. What remains is *noise*.
# - Counts that *do*: a systematic error. It is largest when texts are sorted by length, for speed.
#
# ### How much noise?
#
# Suppose that counts and gradients are unrelated. Let the $g_k$ scatter by $\sigma$ around their mean (a root mean square, in
# norm), and let $c$ be the standard deviation of the counts over $\bar n$. A covariance of $K$ unrelated pairs is itself of
# size $\operatorname{sd}(n)\,\sigma/\sqrt K$. So
#
# $$\lVert g_M-g\rVert\approx c\cdot\frac{\sigma}{\sqrt K} \tag{6}$$
#
# and $\sigma/\sqrt K$ is the distance of a batch's gradient from that of all texts there are: noise that training lives with
# anyway. The bug adds $c$ times as much again. Squares add up, so with $c=0.3$ the total noise grows by $\sqrt{1+0.09}$: by 4
# %. Keep this in mind when you read that the bug "ruined" trainings.

# %% [markdown]
# Equations (1) to (6) in a few lines: many cuts of made-up token losses. First unrelated counts, then long texts that are
# easier.

# %%
rng = np.random.default_rng(1)


def error_of_means(slope: float, cuts: int = 4000, K: int = 8) -> np.ndarray:
    """M - L for random cuts; ``slope`` says by how much a micro-batch's loss falls with its number of tokens."""
    n = rng.integers(4, 29, (cuts, K))  # mean 16
    losses = 3 + 0.5 * rng.standard_normal((cuts, K)) - slope * (n - 16)
    whole = (n * losses).sum(axis=1) / n.sum(axis=1)  # (1)
    means = losses.mean(axis=1)  # (3)
    by_covariance = -((n - n.mean(axis=1, keepdims=True)) * losses).mean(axis=1) / n.mean(axis=1)  # (5)
    assert np.allclose(means - whole, by_covariance)
    return means - whole


with style.shown(width=6.6, height=3.0) as ax:
    bins = np.linspace(-0.4, 0.8, 61)
    for place, (title, slope) in enumerate({"counts unrelated to losses": 0.0, "long texts are easier": 0.05}.items(), 1):
        errors = error_of_means(slope)
        ax.hist(errors, bins, histtype="step", color=style.COLOURS[place], ls=style.DASHES[1 + place], lw=1.6, label=title)
        print(f"{title:27s} mean error {errors.mean():+.3f}, scatter {errors.std():.3f}")
    ax.axvline(0, color="0.3", lw=1)
    ax.set(xlabel="mean of means less the loss of the batch (nats)", ylabel="cuts of 4,000")
    ax.legend(fontsize=8)
c = np.sqrt((25**2 - 1) / 12) / 16  # of integers from 4 to 28
print(f"equation (6) for the first: {c * 0.5 / 8**0.5:.3f}")

# %% [markdown]
# ### What each part costs
#
# With $P$ parameters, $A$ bytes of kept arrays a text, and micro-batches of $m$ texts, 32-bit numbers and Adam:
#
# $$\text{peak}=16P+A\,m,\qquad\text{work}=K\cdot(\text{one micro-batch}) \tag{7}$$
#
# The peak no longer holds the size of the batch. The work does, in full: **accumulation saves no time at all**. The additions
# are cheap. A micro-batch of $t$ tokens needs about $6Pt$ floating-point operations, adding its gradient $P$.
#
# ### A loss that is no sum over texts
#
# Equation (1) needs a loss that is a mean over tokens *which do not see each other's texts*. A contrastive loss is not. It asks
# of each row $i$ which of the $N$ rows on the other side is its partner; with cosines $s_{ij}$ over a temperature $\tau$,
#
# $$\ell_i=-\ln\frac{e^{s_{ii}/\tau}}{\sum_{j=1}^{N}e^{s_{ij}/\tau}} \tag{8}$$
#
# The sum runs over the batch. Cut into pieces of $m$, each row has $m-1$ wrong answers to choose from instead of $N-1$.
# Somebody who guesses has a loss of $\ln m$ instead of $\ln N$: with 64 pairs 4.16 nats, in eight pieces 2.08. Nothing is
# miscounted here. It is an easier examination, and no weights can make it the hard one.
#
# Batch normalisation is of the same kind: its mean and variance are those of the micro-batch.

# %% [markdown]
# ## 4. The code
#
# ### Cutting
#
# A batch is a dict of arrays with a first axis in common. All are cut at the same rows.

# %%
import operator
from collections.abc import Callable, Sequence
from typing import Any

from bertcraft.errors import InputError
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree, value_and_grad

from bertcraft.techniques.gradient_accumulation import micro_batches, equally, no_dropout  # inline
from bertcraft.techniques.roberta_optimizations import predicted  # inline

# %% [markdown]
# `predicted` and `equally` are the two weights of this story: $n_k$ for equation (1), and 1 for equation (3). A label of -100
# means "nothing to predict here".

# %%
labels = np.array([[7, -100, -100, -100], [3, 9, -100, -100], [5, 6, 7, 8], [1, -100, 2, -100], [4, 4, -100, 4]])
for part in micro_batches({"labels": labels}, 2):
    print(part["labels"].shape, "n_k =", predicted(part), " equally:", equally(part))

# %% [markdown]
# ### Adding up: equation (2)
#
# The loop below is the technique. Look at the order. The *loss* is scaled before the backward pass, so each gradient arrives
# with its share and nothing has to be multiplied afterwards. And `scaled` is the only thing that leaves a round: the graph of
# the micro-batch is gone before the next begins.

# %%
Rng = Callable[[int], Any]  # the random numbers of the k-th micro-batch

from bertcraft.techniques.gradient_accumulation import accumulate  # inline

# %% [markdown]
# Now the example of part 3. The parameters shall be the token losses themselves, so the gradient *is* the weight of each token:
# 1/8 for all of them, or what equation (4) says.

# %%
example = {"place": np.array([[0, 1, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7]])}
example["labels"] = np.array([[0, 0] + 4 * [-100], 6 * [0]])
token_losses = np.array([4.0, 2.0, 1, 1, 1, 1, 1, 1])


def mean_of_chosen(losses, part, rng):
    return np.mean(losses[part["place"][part["labels"] != -100]])


parts = micro_batches(example, 1)
for weight in (predicted, equally):
    value, gradient = accumulate(mean_of_chosen, token_losses, parts, weight)
    print(f"{weight.__name__:9s} loss {float(value):.2f}, weight of the tokens", gradient.round(3))

# %% [markdown]
# ### One update
#
# What happens once an update must not happen once a micro-batch: clipping, the moving averages of Adam, the learning-rate
# schedule. `update` hands the rule one gradient.

# %%
from bertcraft.train import Rule

from bertcraft.techniques.gradient_accumulation import update  # inline

# %% [markdown]
# ### Real texts of unequal length
#
# Three texts in four are requests to an assistant, some ten words each. The fourth is a verse of the Bible: longer, and in
# another English altogether. Both are masked as in [lesson 01](01_roberta_optimizations.ipynb).

# %%
from bertcraft import data
from bertcraft.data.batches import frame, pad, tokenize
from bertcraft.data.tokenizer import train_wordpiece
from bertcraft.lab import pretraining

LENGTH, VOCABULARY, TEXTS = 64, 2048, 3000
verses = [first for first, _ in data.pairs("bible_pairs").train[: 2 * TEXTS]]
requests = [document.text for document in data.corpus("utterances").train]
requests = [requests[i] for i in np.random.default_rng(0).permutation(len(requests))[: 2 * TEXTS]]
tokenizer = train_wordpiece(requests + verses, VOCABULARY, "lesson06")


def rows_of(texts: list[str]) -> np.ndarray:
    """Token ids with [CLS] and [SEP], cut and padded to LENGTH: (n, LENGTH)."""
    return pad(frame(tokenize(tokenizer, texts), 2, 3, LENGTH), 0, LENGTH)[0]


kinds = {"requests": rows_of(requests), "verses": rows_of(verses)}
train = {kind: rows[:TEXTS] for kind, rows in kinds.items()}
held_out = {kind: rows[TEXTS : TEXTS + 400] for kind, rows in kinds.items()}
with style.shown(width=6.6, height=2.8) as ax:
    for place, (kind, rows) in enumerate(train.items(), 1):
        lengths = (rows != 0).sum(axis=1)
        ax.hist(lengths, np.arange(2, 67, 2), histtype="step", lw=1.6, color=style.COLOURS[place], ls=style.DASHES[1 + place],
                label=f"{kind}: {lengths.mean():.0f} tokens on average")  # fmt: skip
    ax.set(xlabel="tokens of a text (longer ones are cut at 64)", ylabel="texts of 3,000")
    ax.legend(fontsize=8)

# %% [markdown]
# A batch is 24 requests and 8 verses in random order. `grouped` sorts the same texts by length first, as trainers do to save
# padding (`group_by_length`). The batch is the same; only the cut differs.

# %%
BATCH = 32
words = pretraining.vocabulary(tokenizer)


def make_batch(step: int, grouped: bool = False) -> dict:
    rng = np.random.default_rng((6, step))
    rows = np.concatenate([rng.choice(train["requests"], 3 * BATCH // 4), rng.choice(train["verses"], BATCH // 4)])
    rows = rows[rng.permutation(BATCH)]
    numbers = np.arange(BATCH)
    if grouped:
        numbers = np.argsort((rows != 0).sum(axis=1), kind="stable")
    return pretraining.mask(rows[numbers], numbers, np.full(BATCH, step), 0, 0.15, words)  # a row's mask goes with it


for grouped in (False, True):
    counts = [predicted(part) for part in micro_batches(make_batch(0, grouped), 4)]
    title = "sorted by length" if grouped else "random order"
    print(f"{title:17s} n_k = {counts}, c = {np.std(counts) / np.mean(counts):.2f}")

# %% [markdown]
# ### Is it the large batch's gradient?
#
# The model is a BERT of two layers, 64 wide. First the proof on paper's terms: in double precision, the accumulated gradient of
# eight micro-batches against that of the whole batch, and a check of the accumulated loss by finite differences.

# %%
from bertcraft.bert import Config, encoder, heads

from bertcraft.techniques.roberta_optimizations import masked_lm_loss, trimmed  # inline

# %%
setting = pretraining.Setting(length=LENGTH, hidden=64)
config = pretraining.config_of(setting, VOCABULARY)
everything = np.concatenate([train["requests"], train["verses"][: TEXTS // 3]])
frequencies = pretraining.Texts(tokenizer, everything, everything, everything, pretraining.log_frequency(everything, VOCABULARY))
start = pretraining.initial(config, frequencies, seed=0)


def loss_of(params, part, rng):
    return masked_lm_loss(params, trimmed(part), rng, config)  # padding is cut to the longest text of the micro-batch


def length_of(gradients) -> float:
    """The norm of all gradients together."""
    return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in tree.leaves(gradients))))


def distance(one, other) -> float:
    """How far apart two gradients are, in % of the second one's norm."""
    return 100 * length_of(tree.map(np.subtract, one, other)) / length_of(other)


double = tree.map(lambda leaf: leaf.astype(np.float64), start)
batch = make_batch(0)
whole_value, whole = value_and_grad(loss_of)(double, batch, None)
value, gradients = accumulate(loss_of, double, micro_batches(batch, 4))
print(f"loss {float(whole_value):.4f} and {float(value):.4f}")
print("gradients apart by less than 1e-9 %:", distance(gradients, whole) < 1e-9)

bias = double["cls"]["predictions"]["bias"]


def loss_of_bias(bias):
    params = {**double, "cls": {"predictions": {**double["cls"]["predictions"], "bias": bias}}}
    return accumulate(loss_of, params, micro_batches(batch, 16))[0]


bc.check_grads(loss_of_bias, bias, order=1)
print("the accumulated loss has the numeric gradient")

# %% [markdown]
# **Predict first.** In single precision, and with four ways to add up: how far is each from the whole batch's gradient, in
# per cent of its norm? Does it get worse with more micro-batches?

# %% quick="CUTS = (2, 8)"
CUTS = (2, 4, 8, 16, 32)  # numbers of micro-batches

# %%
WAYS = {"weighted by tokens": (predicted, False), "mean of means": (equally, False), "mean of means, sorted": (equally, True)}
single_batch = [value_and_grad(loss_of)(start, make_batch(step), None)[1] for step in range(3)]


def error(weight, grouped: bool, cut: int) -> float:
    """Distance from the whole batch's gradient in %, the mean over three batches."""
    found = []
    for step, whole in enumerate(single_batch):
        parts = micro_batches(make_batch(step, grouped), BATCH // cut)
        found.append(distance(accumulate(loss_of, start, parts, weight)[1], whole))
    return float(np.mean(found))


errors = {title: [error(*way, cut) for cut in CUTS] for title, way in WAYS.items()}
with style.shown(width=6.8, height=3.4) as ax:
    for place, (title, values) in enumerate(errors.items(), 1):
        ax.plot(CUTS, values, **style.line(place), label=title)
    ax.set(xscale="log", yscale="log", xlabel="micro-batches into which 32 texts are cut", ylim=(1e-6, 1e3),
           ylabel="distance from the batch's\ngradient (% of its norm)")  # fmt: skip
    ax.set_xticks(CUTS, CUTS)
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="center right")
for title, values in errors.items():
    print(f"{title:22s} " + ", ".join(f"{cut}: {value:.2g} %" for cut, value in zip(CUTS, values, strict=True)))

# %% [markdown]
# Weighted by tokens the difference is rounding, five or six orders of magnitude below the others. The mean of means is off by
# some per cent in two pieces, and by half of the gradient's length when the texts are sorted, at any cut. (In 32 pieces of one
# text each no order is left: the two meet.) All three would pass a test that only asks whether the loss falls.
#
# ### A loss that does not accumulate, and the way out
#
# Equation (8), for verses in two translations: which verse of the other translation belongs to this one?

# %%
from bertcraft.techniques.gradient_accumulation import in_batch_negatives  # inline

# %% [markdown]
# The exact remedy is called GradCache (Gao et al. 2021). It rests on the chain rule. The loss needs only the sentence vectors
# $Z$, and these are small: 64 rows of some hundred numbers. So
#
# 1. encode every micro-batch and keep only $Z$, not how it came about;
# 2. compute the loss of all $Z$ together, and $G=\partial L/\partial Z$;
# 3. encode each micro-batch *again*, and take the gradient of $\sum Z_k\odot G_k$, with $G_k$ held constant. By the chain rule
#    that is what was wanted:
#
# $$\frac{\partial L}{\partial\theta}=\sum_k\left(\frac{\partial Z_k}{\partial\theta}\right)^{\!\top}G_k \tag{9}$$
#
# The price is one more forward pass: four units of work instead of three.

# %%
from bertcraft.techniques.gradient_accumulation import cached_value_and_grad  # inline

# %%
PAIRS = 32
two = [[pair[side] for pair in data.pairs("bible_pairs").train[:PAIRS]] for side in (0, 1)]
pair_batch = {"first": rows_of(two[0])[:, :32], "second": rows_of(two[1])[:, :32]}


def sentence_vectors(params, part, rng):
    """Mean of the tokens' last states, for both sides: a tuple of two (n, 64)."""
    masks = [(part[side] != 0).astype(np.int32) for side in ("first", "second")]
    states = [encoder.encode(params, config, part[side], mask) for side, mask in zip(("first", "second"), masks, strict=True)]
    return tuple(F.mean_pool(state, mask) for state, mask in zip(states, masks, strict=True))


def contrastive(params, part, rng):
    return in_batch_negatives(*sentence_vectors(params, part, rng))


whole_value, whole = value_and_grad(contrastive)(start, pair_batch, None)
print(f"{PAIRS} pairs at once: loss {float(whole_value):.3f}")
off = {"accumulated": [], "GradCache": []}
for cut in CUTS[:-1]:
    parts = micro_batches(pair_batch, PAIRS // cut)
    value, piecewise = accumulate(contrastive, start, parts, lambda part: len(part["first"]))
    cached_value, cached = cached_value_and_grad(sentence_vectors, in_batch_negatives, start, parts)
    off["accumulated"].append(distance(piecewise, whole))
    off["GradCache"].append(distance(cached, whole))
    print(f"in {cut:2d} pieces: accumulated loss {float(value):.3f}, GradCache {float(cached_value):.3f}")
with style.shown(width=6.2, height=3.0) as ax:
    for place, (title, values) in zip((2, 1), off.items(), strict=True):
        ax.plot(CUTS[:-1], values, **style.line(place), label=title)
    ax.set(xscale="log", yscale="log", xlabel=f"micro-batches into which {PAIRS} pairs are cut", ylim=(1e-6, 1e3),
           ylabel="distance from the gradient\nof all at once (% of its norm)")  # fmt: skip
    ax.set_xticks(CUTS[:-1], CUTS[:-1])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="center left")

# %% [markdown]
# The accumulated loss is smaller, and that is no success: the questions have become easier. Its gradient is another one.
# GradCache gives the whole gradient at every cut, up to rounding. (This encoder is untrained. What is left of the *direction*
# in a trained one is in the stored experiment.)

# %% [markdown]
# ## 5. What it is worth
#
# ### Counted exactly: which batch fits?
#
# Equation (7) for BERT-base with 512 tokens, and the batches that large-batch training was made for. LAMB trained BERT with
# 65,536 texts of 128 tokens and then 32,768 of 512 (You et al. 2020).

# %%
CARD = 24e9  # bytes; try 8e9
LARGE_BATCH = 32_768

micro = int((CARD - bert_states) // activations(1))
adding = 1 / (6 * micro * 512)  # P additions against 6 P t operations
print(f"a card of {CARD / 1e9:.0f} GB holds micro-batches of {micro} texts")
print(f"the whole batch of {LARGE_BATCH:,} would need {(bert_states + activations(LARGE_BATCH)) / 1e12:.1f} TB")
print(f"an update takes {-(-LARGE_BATCH // micro)} micro-batches, adding gradients costs {100 * adding:.4f} % more operations")

# %% [markdown]
# ### Live: does the bug matter to a model?
#
# Three trainings from the same start on the same batches, eight micro-batches of four texts. Clipping and AdamW see the
# accumulated gradient once. **Predict first**: by equation (4), which kind of text does the third one learn better than the
# first, and which worse?

# %% quick="STEPS = 4"
STEPS, MICRO = 120, 4  # try MICRO = 1: a request then counts as much as a verse
RATE = 2e-3

# %%
from bertcraft.train import adamw, chain, clip_by_global_norm, warmup_linear

held_out_batches = {
    kind: pretraining.mask(rows, np.arange(len(rows)), np.zeros(len(rows)), 9, 0.15, words) for kind, rows in held_out.items()
}


def trained(weight, grouped: bool) -> list[dict]:
    """Held-out losses of requests and verses, every STEPS / 4 steps."""
    rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(RATE, max(1, STEPS // 10), STEPS), weight_decay=0.01))
    params, found = start, []
    state = rule.init(params)
    for step in range(STEPS):
        _, params, state = update(rule, loss_of, params, state, micro_batches(make_batch(step, grouped), MICRO), weight)
        if (step + 1) % max(1, STEPS // 4) == 0:
            found.append({kind: float(loss_of(params, test, None)) for kind, test in held_out_batches.items()})
    return found


curves = {title: trained(*way) for title, way in WAYS.items()}

# %%
with style.shown(columns=2, width=7.8, height=2.9) as panels:
    for ax, kind in zip(panels, held_out_batches, strict=True):
        for place, (title, found) in enumerate(curves.items(), 1):
            steps = np.arange(1, len(found) + 1) * max(1, STEPS // 4)
            ax.plot(steps, [losses[kind] for losses in found], **style.line(place), label=title)
        ax.set(title=f"{kind} that were not read", xlabel="updates")
    panels[0].set_ylabel("loss (nats a masked token)")
    panels[0].legend(fontsize=8)
for title, found in curves.items():
    print(f"{title:22s} " + ", ".join(f"{kind} {loss:.3f}" for kind, loss in found[-1].items()))

# %% [markdown]
# As (4) says. With texts sorted by length the requests come out a little better and the verses clearly worse: a verse shares
# its micro-batch with other long texts, and each of its tokens counts too little. Shuffled, it is the same with a smaller
# effect. One seed and some seconds of learning prove nothing about size, the stored experiment below has seeds. But note the
# kind of damage. It is no loss of ability. It is a *choice*, made by accident, of what the model is for.
#
# ### The stored experiment
#
# The same question with paired seeds, larger models, and conversations in the place of verses: ten arms on three tasks.

# %%
lesson.results()

# %%
lesson.plots(1)

# %%
lesson.comparisons()

# %%
lesson.plots(3)

# %% [markdown]
# And memory and time, measured in a process of its own for each point:

# %%
lesson.plots(2)

# %%
from bertcraft.lab import statistics

QUESTIONS = {  # treatment, baseline, figure: the question
    ("weighted", "full", "loss"): "weighted by tokens against the full batch, all texts",
    ("mean_of_means", "full", "loss"): "mean of means, shuffled, all texts",
    ("grouped", "full", "loss"): "mean of means, sorted by length, all texts",
    ("grouped", "full", "short_loss"): "the same, short texts alone",
    ("grouped", "full", "long_loss"): "the same, long texts alone",
    ("sum_of_means", "mean_of_means", "loss"): "sum of means against mean of means",
}
stored = {(run["arm"], run["seed"]): run["figures"] for run in lesson.runs}
for (treatment, baseline, figure), question in QUESTIONS.items():
    seeds = sorted(seed for arm, seed in stored if arm == treatment and (baseline, seed) in stored)
    if len(seeds) < 2:
        print(f"{question}: not measured yet")
        continue
    more = statistics.paired([stored[treatment, s][figure] for s in seeds], [stored[baseline, s][figure] for s in seeds])
    answer = "HIGHER loss" if more.mean > 0 else "lower loss"
    if more.low <= 0 <= more.high:
        answer = "no difference that these seeds can tell"
    print(f"{question}: {answer} ({more.mean:+.4f} nats [{more.low:+.4f}, {more.high:+.4f}])")

# %% [markdown]
# **What stands out.** Weighted by tokens is the full batch, as (2) promises. The bug costs loss even on shuffled texts, and
# three times as much on sorted ones. The long texts pay for it, and the short ones have nothing from it. For a contrastive loss
# it is not a matter of weights: accumulated over eight pieces the encoder finds seven or eight verses in a hundred fewer, and
# GradCache gives all of them back. And LAMB, made for batches of tens of thousands, has no advantage over AdamW at 256.
#
# Two of these lines deserve a second look.
#
# *Short texts.* Equation (4) says what a token counts, not what it is worth. In the live run the favoured requests came out a
# little better; in the stored one they gained nothing that can be seen. The two kinds of text share most of their words, so a
# model that hears less of the long ones misses it on both.
#
# *The sum of means* has gradients eight times too long, and for plain gradient descent that would be steps eight times too
# long. Two things hide it. Adam divides the gradient by its own running size, so a constant factor cancels. And clipping cuts
# every gradient above the limit to the same length, with the factor or without. How often was that?

# %%
for name in ("mean_of_means", "sum_of_means"):
    found = [run["figures"]["gradient_norm"] for run in lesson.runs if run["arm"] == name]
    told = f"{np.mean(found):.1f}" if found else "not measured yet"
    print(f"{name:14s} norm of the gradient before clipping at 1, mean of the last quarter: {told}")

# %% [markdown]
# Where even the shorter of the two is well above 1, both arms see the same clipped gradient at nearly every step, and differ in
# nothing. **A bug that Adam and clipping forgive is a bug that nobody sees.**
#
# ### When does it not help?
#
# - **When you hope for speed.** On a GPU small micro-batches leave units idle, so it is slower. On a CPU it depends on the
#   cache and on what else the machine is doing; what it was here is in the plot above.
# - **When the batch need not be large.** A small batch with its own learning rate makes $K$ times as many updates for the same
#   work. The equivalence says that accumulation equals the large batch, not that the large batch is better.
# - **When the states are the problem.** $16P$ stays. For that there are optimisers with less state, and adapters
#   ([lesson 12](12_adapter_modules.ipynb)).
# - **When the loss looks across the batch**: use GradCache. Batch normalisation has no such remedy.

# %% [markdown]
# ## 6. In production
#
# ### The Trainer before and after October 2024
#
# Until then the Trainer of transformers divided each micro-batch's mean by $K$. Since then it counts the labels of the whole
# window, and passes `num_items_in_batch` to models whose `forward` accepts it: these return a *sum* divided by that number. A
# model that does not accept it gets the old treatment. Both are still in the code, so we can run both: `accepts_loss_kwargs` is
# the switch. The gradient is read off one step of gradient descent with rate 1.

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
    texts = [{"input_ids": torch.tensor(row), "labels": torch.tensor(target)} for row, target in zip(ids, targets, strict=True)]

    def step_of(model, loss_function=None) -> torch.Tensor:
        """The gradient that the Trainer accumulates over four micro-batches of two texts, as one vector."""
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1, optim="sgd", learning_rate=1.0,
                lr_scheduler_type="constant", max_grad_norm=0.0, train_sampling_strategy="sequential", use_cpu=True, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True,
            )  # fmt: skip
            Trainer(model, arguments, train_dataset=texts, compute_loss_func=loss_function).train()
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.nn.utils.vector_to_parameters(before, model.parameters())
        return before - after

    def whole_batch(model) -> torch.Tensor:
        model.train()
        model.zero_grad()
        model(input_ids=torch.tensor(ids), labels=torch.tensor(targets)).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

# %%
if lesson.installed("transformers", "torch", "accelerate"):

    def by_items(output, labels, num_items_in_batch):
        """The fix for any masked language model: a sum over tokens, over the number in the whole window."""
        total = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / num_items_in_batch

    def told(title: str, gradient, right) -> None:
        off = 100 * float((gradient - right).norm() / right.norm())
        shown = "less than 1e-9" if off < 1e-9 else f"{off:.3g}"
        print(f"{title:45s} {shown:>14s} % off, {float(gradient.norm() / right.norm()):.2f} times as long")

    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**small)).double()
    bert = BertForMaskedLM(BertConfig(**small, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).double()
    right = {"llama": whole_batch(llama), "bert": whole_batch(bert)}
    told("Llama, the Trainer as it is (fixed in 2024)", step_of(llama), right["llama"])
    for model, name in ((llama, "Llama"), (bert, "BERT")):
        model.accepts_loss_kwargs = False
        told(f"{name}, as it was until October 2024", step_of(model), right[name.lower()])
        del model.accepts_loss_kwargs
    told("BERT, the Trainer as it is (5.23)", step_of(bert), right["bert"])
    told("BERT, with compute_loss_func=by_items", step_of(bert, by_items), right["bert"])

# %% [markdown]
# Read the last but one line twice. `BertForMaskedLM.forward` takes `**kwargs`, so the Trainer believes that the loss is already
# divided by `num_items_in_batch` and does not divide by $K$. But BERT's loss is a plain mean. The means are *summed*: mean of
# means, times $K$ (issue 47688 of transformers, open in release 5.23). The last line is the remedy, and it works for any model.
#
# ### Your own loop with accelerate
#
# `accumulate()` tells the library when to synchronise and step; `backward()` divides the loss by the number of micro-batches,
# always. To weigh by tokens, count the window first, and multiply that division away.

# %%
if lesson.installed("transformers", "torch", "accelerate"):
    from accelerate import Accelerator

    K = 4
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=K)
    optimizer = torch.optim.SGD(bert.parameters(), lr=1.0)
    model, prepared = accelerator.prepare(bert, optimizer)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    window = [{"input_ids": torch.tensor(ids[i : i + 2]), "labels": torch.tensor(targets[i : i + 2])} for i in range(0, 8, 2)]
    items = sum(int((part["labels"] != -100).sum()) for part in window)
    for part in window:
        with accelerator.accumulate(model):
            logits = model(input_ids=part["input_ids"]).logits
            total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part["labels"].flatten(), reduction="sum")
            accelerator.backward(total / items * K)  # backward() divides by K
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1e9)  # once, on the whole gradient
            prepared.step()  # does nothing until the window is full
            prepared.zero_grad()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    told("accelerate, weighted by tokens", before - after, right["bert"])

# %% [markdown]
# Finally our own loop against torch's whole batch, the same weights, in double precision:

# %%
if lesson.installed("transformers", "torch", "accelerate"):
    torch.nn.utils.vector_to_parameters(before, bert.parameters())
    theirs = whole_batch(bert)
    params = tree.nest({name: p.detach().numpy().copy() for name, p in bert.named_parameters()})
    our_config = Config(family="bert", head="masked_lm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **small)
    parts = micro_batches({"input_ids": ids, "labels": targets}, 2)
    _, ours = accumulate(lambda p, part, rng: heads.loss(p, our_config, part, rng), params, parts)
    found = dict(tree.items(ours))
    ours = np.concatenate([found[name].ravel() for name, _ in bert.named_parameters()])
    print("every entry of the gradient the same to 1e-8:", bool(np.abs(ours - theirs.numpy()).max() < 1e-8))

# %% [markdown]
# ## 7. Exercises
#
# `hint("name")` helps, `solution("name")` tells. Stars say how hard it is.
#
# ### 7.1 The loss of the window (one star)
#
# A logger has the mean loss of each micro-batch and its number of predicted tokens. What is the loss of the batch? Mind a
# micro-batch in which nothing is predicted: torch reports `nan` for it, a mean of nothing.


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
# ### 7.2 Who is favoured? (one star)
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
# ### 7.3 A clip too many (two stars)
#
# This step trains without an error and with a falling loss. It is not the step of the large batch. Find the mistake and mend
# it. If you are not sure, run it on two opposite gradients of norm 10.


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
# ### 7.4 The last window (two stars)
#
# An epoch has 10 micro-batches and $K=4$. The third window has two. Many loops divide by 4 all the same, or drop it. Return
# what each micro-batch's mean loss has to be multiplied with, for every micro-batch of the epoch.


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
# ### 7.5 Several machines (three stars)
#
# $W$ machines each go through $K$ micro-batches, then the gradients are *averaged* over the machines: that is what
# `DistributedDataParallel` does, and it cannot be asked to sum. Find the factor by which each micro-batch's **mean** loss must
# be multiplied, so that the result is the gradient of the mean over all tokens on all machines.


# %% exercise="machine_factors" stars=3
def machine_factors(counts):
    """counts integers (W, K): the predicted tokens of each micro-batch on each machine. Returns the factors, (W, K)."""
    ### BEGIN SOLUTION
    return counts * len(counts) / np.sum(counts)
    ### END SOLUTION


# %%
check.machine_factors(machine_factors)

# %% [markdown]
# ### 7.6 The factor that Adam forgives (derive, two stars)
#
# The sum of means is $K$ times the mean of means, at each step. Adam's first moment is $m$, its second $v$, and it moves by
# $\eta\,m/(\sqrt v+\epsilon)$. (a) Show what the factor $K$ does to this step when nothing is clipped. (b) Gradients have norms
# around 0.5 and are clipped at 1. What changes with $K=8$? (c) Which two rules of [lesson 00](00_foundations.ipynb)'s kind
# would *not* forgive it?

# %% [markdown] solution=true
# **Model answer.** (a) $m$ is linear in the gradients, $v$ quadratic: they become $Km$ and $K^2v$. The step is $\eta Km/(K\sqrt
# v+\epsilon)=\eta m/(\sqrt v+\epsilon/K)$: the same step with a smaller $\epsilon$. (b) The norms are now around 4, so *every*
# gradient is scaled to length 1. Its direction stays, but all steps count the same in $m$ and $v$: outliers no longer stand
# out, which is normalised gradient descent with Adam on top. (c) Plain gradient descent and momentum, whose steps become $K$
# times as long.

# %% [markdown]
# ### 7.7 Find the mixture that hurts (open project, three stars)
#
# By (5) the damage depends on how counts and gradients go together. Change `make_batch`: one verse among 31 requests, or half
# and half; change `MICRO` to 1. Predict from (4) which text is favoured by how much, and check with the trainings of part 5 on
# three seeds. Is there a mixture for which the mean of means has the *lower* loss on what you care about?

# %% [markdown] solution=true
# **One way.** With `MICRO = 1` a request's token counts $\bar n/n_k$: some three times a verse's token at a mixture of 3 to 1.
# On requests alone the mean of means is then likely to win, for it trains on a mixture with more requests in it. That is no
# proof of quality: the fair rival is the right weights with *that mixture* of texts. Report both kinds of text, always.

# %% [markdown]
# ## 8. Pitfalls, references, what next
#
# - **Divide by the tokens of the whole window**, not by the number of micro-batches. Test it: one window, dropout off, against
#   the whole batch, to 1e-6. "The loss falls" is no test.
# - **Clip, step and schedule once an update.** A schedule of 1,000 updates that is stepped in each micro-batch is over after
#   $1000/K$ of them.
# - **With loss scaling** (16-bit training) undo the scale once, after the last micro-batch and before clipping.
# - **Dropout is drawn anew** in each micro-batch: compare with dropout off, or give each micro-batch its own seed, as `rng(k)`
#   does here.
# - **`zero_grad` in the wrong place** makes $K$ useless (only the last micro-batch counts) or never ends the window.
# - **Sorting by length** turns a small random error into a systematic one; so does a loader that puts one source in each
#   micro-batch.
# - **Contrastive losses and batch norm** are not reproduced, however the weights are chosen.
# - Accumulated sums in 16 bits lose small addends; keep the sum in 32.
#
# **Read**: Hugging Face, *Fixing gradient accumulation*, October 2024
# ([huggingface/blog, pull request 2414](https://github.com/huggingface/blog/pull/2414)), with the follow-ups
# [transformers 35438](https://github.com/huggingface/transformers/pull/35438) and
# [37766](https://github.com/huggingface/transformers/issues/37766). You et al. 2020,
# [LAMB](https://arxiv.org/abs/1904.00962): the rule for batches that need accumulation. Gao, Zhang, Han, Callan 2021,
# [GradCache](https://arxiv.org/abs/2101.06983). Korthikanti et al. 2022,
# [activation memory counted](https://arxiv.org/abs/2205.05198).
#
# **Next**: on the path *Training & Optimization* comes 08, layer-wise learning rates. If it is the parameters and not the
# activations that fill your memory, go to [12 adapters](12_adapter_modules.ipynb).
