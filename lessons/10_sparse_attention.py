# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 10. Sparse attention: a long text, a few looks
#
# In BERT every token looks at every other one. Twice the text means four times the looks: a text of 4,096 tokens has 16.8 million
# pairs in each head of each layer. Longformer and BigBird let a token look at a few others only, and so reach texts of thousands
# of tokens. Whether that is a good trade depends on two questions: *how far does a token hear after some layers*, and *what did
# the looks cost in the first place*.
#
# You need both parts of [lesson 00](00_foundations.ipynb). The sections take 195 minutes, 90 of them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("sparse_attention")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (5 minutes)

# %%
lesson.claim()

# %% [markdown]
# "Linear in the length" is a statement about growth, not about cost. And its rival has changed since 2020: dense attention in a
# *fused* kernel, which never stores its scores. We measure a whole layer against both.
#
# ## 2. Background and motivation (15 minutes)
#
# **Predict first**: for BERT-base at its usual 512 tokens, which share of the arithmetic goes into attention scores and weighted
# sums, the part that grows with the square? 10 %? 50 %? 90 %?

# %% alt="Two panels against the length. Left: the share of a layer's operations in scores and sums grows from 3 percent at 128 tokens through 10 percent at 512 to one half at 4,608 and nearly 80 percent at 16,384; with a window it stays near 14 percent. Right: memory of the scores on logarithmic axes; at 16,384 tokens 12 GiB for all pairs, 0.6 GiB for the window."
H, HEADS, LAYERS, WINDOW = 768, 12, 12, 256  # BERT-base, and Longformer's window: 256 tokens to either side
L = 2 ** np.arange(7, 15)
linear = 24 * L * H**2  # 4 projections and 8 H^2 weights of the feed-forward part, 2 operations each
all_pairs = 4 * L**2 * H  # q . k for all pairs, and the weighted sums of v
banded = 4 * L * np.minimum(L, 3 * WINDOW) * H  # as it is computed: three blocks of keys for each query

with style.shown(columns=2, width=8.4, height=3.1) as (left, right):
    for place, (name, scores) in enumerate((("all pairs", all_pairs), ("window of 256 + 1 + 256", banded))):
        left.plot(L, 100 * scores / (scores + linear), **style.line(place), label=name)
        right.plot(L, HEADS * scores / H / 2**20, **style.line(place), label=name)
    left.axvline(6 * H, color="0.3", ls=":", lw=1)
    left.annotate("6H = 4,608", (6 * H, 92), xytext=(4, 0), textcoords="offset points", fontsize=8)
    left.set(xscale="log", ylim=(0, 100), xlabel="length L (tokens)", ylabel="scores and sums (% of operations)")
    right.set(xscale="log", yscale="log", xlabel="length L (tokens)", ylabel="scores of a layer, one text (MiB)")
    left.legend(fontsize=8, loc="upper left")
share, fewer = 100 * all_pairs / (all_pairs + linear), (all_pairs + linear) / (banded + linear)
print(f"at 512 tokens {share[2]:.0f} % of the operations are scores and sums, at 4,096 {share[5]:.0f} %")
print(f"with a window a layer takes {fewer[5]:.2f} times fewer operations at 4,096, {fewer[6]:.2f} times fewer at 8,192")

# %% [markdown]
# At 512 tokens the quadratic part is 10 % of BERT-base. It reaches one half at $L=6H$, 4,608 tokens. **In time, sparse
# attention is a technique for thousands of tokens.** In memory it used to matter earlier: at 4,096 tokens the scores of *one*
# layer take 768 MiB for one text in float32, and a plain implementation keeps them in every layer until the backward pass.
# Fused kernels (FlashAttention, 2022) keep none of them; they compute them a second time.
#
# ### Why looking nearby is a good guess
#
# Which other tokens are worth a look? Ask real text: the State of the Union addresses since 1790. How much does a token tell
# about the token $d$ places on? The *mutual information* measures it, in nats: 0 when the two are independent. It comes from
# counts of pairs of the 100 commonest tokens, less what pairs from two *unrelated* passages give.

# %%
from bertcraft.lab import pretraining

setting = pretraining.Setting(corpus="sotu", packed=True, vocab_size=2048, length=256, held_out=1000)
texts = pretraining.prepare(setting)
text = texts.train[:, 1:-1]
common = np.argsort(-np.bincount(text.ravel(), minlength=2048), kind="stable")[:100]
number = np.full(2048, 100)  # all the others count as one
number[common] = np.arange(100)
text = number[text]


def information(x: np.ndarray, y: np.ndarray) -> float:
    """Mutual information of two variables with values 0 ... 100, from pairs of them."""
    joint = np.bincount((101 * x + y).ravel(), minlength=101**2).reshape(101, 101) / x.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())


# %% alt="The information of two tokens about each other against their distance, both axes logarithmic: it falls from 0.38 nats at distance 1 to 0.0016 at 16, then only slowly to 0.0005 at 224."
distances = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 224])
other = np.roll(text, len(text) // 2, axis=0)  # passages that have nothing to do with each other
shared = [information(text[:, :-d], text[:, d:]) - information(text[:, :-d], other[:, d:]) for d in distances]
with style.shown(width=6.0, height=2.9) as ax:
    ax.plot(distances, shared, **style.line(1))
    ax.set(xscale="log", yscale="log", xlabel="distance d (tokens)", ylabel="information (nats)")
print(f"at 1: {shared[0]:.3g}, at 16: {shared[7]:.3g}, at 224: {shared[12]:.3g} nats")

# %% [markdown]
# A token knows its neighbour. Of one sixteen places off it knows less than a hundredth of that, and from there the curve falls
# slowly. So: **look closely nearby, and have *some* way to hear from afar.** Longformer cuts the text into blocks of $b$ tokens.
# Some tokens, G in number, are *global*: they see all others, and all see them.

# %% alt="Data flow: the tokens (L, H) are projected to queries, keys and values. Queries are cut into blocks, each is handed three blocks of keys and values, and ordinary attention with a band mask runs on the pieces; the keys of global tokens are put beside each piece. Global tokens have a second path of full attention over all tokens. Both are joined into the output (L, H)."
with drawing.schematic(columns=5, rows=3, width=9.6, row_height=0.95) as s:
    tokens = s.box("tokens", at=(0, 1), kind="data")
    maps = s.box("queries, keys,\nvalues", at=(1, 1))
    blocks = s.box("blocks of queries,\n3 blocks of keys each", at=(2, 0), kind="new")
    pieces = s.box("attention on pieces,\nband masked", at=(3, 0), kind="new")
    chosen = s.box("global tokens", at=(2, 2), kind="new")
    full = s.box("attention to all\nL tokens", at=(3, 2))
    joined = s.box("one row\na token", at=(4, 1), kind="data")
    s.arrow(tokens, maps, "(L, H)")
    s.arrow(maps, blocks, "(L/b, b, H)")
    s.arrow(blocks, pieces)
    s.arrow(maps, chosen, "(G, H)")
    s.arrow(chosen, full)
    s.arrow(chosen, pieces, "their keys, seen by all")
    s.arrow(pieces, joined, "(L, H)")
    s.arrow(full, joined, "(G, H)")

# %% [markdown]
# ## 3. Mathematical foundation (20 minutes)
#
# ### A set for each token
#
# Let $S(i)$ be the set of tokens that token $i$ may see. Queries $q_i$, keys $k_j$ and values $v_j$ are vectors of $D$ numbers.
# Attention is
#
# $$o_i=\sum_{j\in S(i)} a_{ij}\,v_j,\qquad
# a_{ij}=\frac{e^{q_i\cdot k_j/\sqrt D}}{\sum_{m\in S(i)}e^{q_i\cdot k_m/\sqrt D}}\tag{1}$$
#
# BERT has $S(i)=\{1,\dots,L\}$. Everything in this lesson is another choice of $S$. With $d$ places to either side, a dilation
# $\delta$ and the set $\mathcal G$ of global tokens,
#
# $$S_\text{window}(i)=\{j:\ |i-j|\le d\}\tag{2}$$
# $$S_\text{dilated}(i)=\{j:\ |i-j|\in\{0,\,\delta,\,2\delta,\dots,d\delta\}\}\tag{3}$$
# $$S_\text{global}(i)=\begin{cases}\{1,\dots,L\}& i\in\mathcal G\\ S_\text{window}(i)\cup\mathcal G & \text{otherwise}\end{cases}\tag{4}$$
#
# Global tokens, such as [CLS] or the question that is asked about a text, see all and are seen by all. BigBird cuts the text into
# blocks, and adds chance: a block sees itself, its two neighbours, the first, the last and some random blocks.
#
# **By hand.** Three tokens, all scores equal, values 1, 2, 6. Without limits each gets the mean, 3. With $d=1$ the first token
# sees 1 and 2 and gets 1.5; the second sees all, 3; the third sees 2 and 6, 4. The weights of what is left always sum to 1: a
# limit is not a zero *score*, it is a zero *weight*.
#
# ### What it costs
#
# A window has $L$ rows of $2d+1$ pairs, less what sticks out at both ends, $d+(d-1)+\dots+1$ each:
#
# $$P_\text{window}=L\,(2d+1)-d\,(d+1)\qquad(L>d)\tag{5}$$
#
# $L=5$, $d=1$: $15-2=13$. Longformer's "window of 512" is $d=256$: at $L=4096$ it has 8.2 times fewer pairs than $L^2$.
#
# ### How far it hears
#
# A token does not only hear those it sees. They have heard others, a layer below. After $N$ layers a window reaches
#
# $$\text{reach}=N\,d\tag{6}$$
#
# tokens to either side; one global token makes it everything in two layers. Yet that is the *farthest* it can hear, as a rumour
# through $N$ mouths. With equal weights in each layer, what arrives is a random walk of $N$ steps, each uniform on $-d\dots d$,
# and its spread is
#
# $$\sigma=\sqrt{N\;\frac{d(d+1)}{3}}\tag{7}$$
#
# Twelve layers with $d=256$ reach 3,072 tokens, but $\sigma=513$. Reach grows with $N$, $\sigma$ with $\sqrt N$ (exercise 8.5,
# appendix A).
#
# ## 4. NumPy implementation (25 minutes)
#
# ### A band out of blocks
#
# NumPy (and a GPU) multiplies dense matrices fast, and nothing else. So cut queries and keys into blocks of $b\ge d$. A query
# sees nothing outside of its own block and its two neighbours: each block of queries is handed three blocks of keys, and what
# lies outside of the band is masked. `_window_blocks` says which blocks (`near`, -1 for none) and which part of them (`band`).

# %%
import functools

from bertcraft.techniques.sparse_attention import _window_blocks  # inline

# %% alt="Four rows of queries against the twelve keys of three blocks: a diagonal band of seven keys a row is coloured, 28 of 48 places."
near, band = _window_blocks(blocks=5, block=4, window=3)
print("blocks of keys for each block of queries:\n", near)
with style.shown(width=4.6, height=1.9) as ax:
    ax.imshow(band, cmap="Blues", vmax=1.4)
    for edge in (3.5, 7.5):
        ax.axvline(edge, color="0.3", lw=1)
    ax.set(xlabel="the 12 keys of three blocks", ylabel="4 queries", yticks=range(4), xticks=range(12))
    ax.grid(False)

# %% [markdown]
# 28 of 48 places are used, the others are computed and masked. That is the price of dense products: a factor of 1.7 here, near
# 1.5 for a large window.
#
# The engine gathers blocks of keys and values, masks, and runs ordinary attention on many small texts at once. This is its heart,
# for one text whose length is a multiple of the block. The library's `attend_blocks` adds padding, several texts, dropout, and
# the keys that all see (`everywhere`).


# %%
def heart(query, key, value, near, band):
    """Each block of queries attends to its own blocks of keys: (L, D) each -> (L, D); near (blocks, 3), band (b, 3 b)."""
    blocks, (length, size) = len(near), query.shape
    cut = lambda x: x.reshape(blocks, -1, size)  # (L, D) -> (blocks, b, D)  # noqa: E731
    gather = lambda x: cut(x)[near].reshape(blocks, -1, size)  # (blocks, 3 b, D)  # noqa: E731
    there = np.repeat(near >= 0, length // blocks, axis=1)[:, None]  # (blocks, 1, 3 b): a block -1 is none
    scores = cut(query) @ gather(key).swapaxes(1, 2) / np.sqrt(size)  # (blocks, b, 3 b), never (L, L)
    scores = np.where(band & there, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return (weights / weights.sum(axis=2, keepdims=True) @ gather(value)).reshape(length, size)


# %% [markdown]
# `window_attention` cuts its text into blocks and calls the engine. **Dilation is free**: with $\delta=2$ the text is combed into
# two texts, that of the even and that of the odd tokens, and each has an ordinary window.

# %%
from bertcraft.techniques.sparse_attention import attend_blocks
from bertcraft.techniques.sparse_attention import _SMALLEST_BLOCK, _pad, window_attention  # inline

# %% [markdown]
# **Is it right?** Equation (1) says in a few lines what must come out. `seen` is the set $S$ as booleans (L, L).


# %%
def by_definition(query, key, value, seen):
    """Equation (1) for one head: (L, D) each, seen (L, L)."""
    scores = np.where(seen, query @ key.T / np.sqrt(query.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ value


rng = np.random.default_rng(0)
q, k, v = rng.standard_normal((3, 96, 8))
apart = np.abs(np.subtract.outer(np.arange(96), np.arange(96)))
for dilation in (1, 3):
    fast = window_attention(q[None], k[None], v[None], np.ones((1, 96), bool), 5, dilation=dilation)[0]
    seen = (apart <= 5 * dilation) & (apart % dilation == 0)
    print(f"dilation {dilation}: as by definition to 1e-12: {np.abs(fast - by_definition(q, k, v, seen)).max() < 1e-12}")
same = np.abs(heart(q, k, v, *_window_blocks(12, 8, 5)) - by_definition(q, k, v, apart <= 5)).max() < 1e-12
print("the heart alone, blocks of 8:", same)

# %% [markdown]
# ### Global tokens
#
# All tokens see the global ones, and there is a trap: their keys go *beside* the window, so they must be taken *out* of it, or a
# global token nearby would count twice in the denominator of (1). The global tokens see everything, through projections of their
# own where there are some, and that replaces what the window computed at their places. `longformer_attention` does both:

# %%
from bertcraft.techniques.sparse_attention import longformer_attention

maps = {name: {"weight": rng.standard_normal((8, 8)) / 3, "bias": rng.standard_normal(8)} for name in ("query", "key", "value")}
x, marked = rng.standard_normal((1, 96, 8)), np.array([0, 50])
query, key, value = (x[0] @ maps[name]["weight"].T + maps[name]["bias"] for name in ("query", "key", "value"))
seen = apart <= 5
seen[marked], seen[:, marked] = True, True  # a row and a column each
fast = longformer_attention(maps, x, None, 5, global_at=marked)[0]
print("two global tokens, as by definition to 1e-12:", np.abs(fast - by_definition(query, key, value, seen)).max() < 1e-12)

# %% [markdown]
# **Which tokens should be global?** Those that must hear everything because an answer is read there: [CLS] for a classifier, the
# tokens of the question for question answering, the separators for a summary of sections. A few: each costs a row and a column,
# and everything that passes through it shares one vector.
#
# `longformer(window, global_tokens)` and `bigbird(block, random)` make attention for the encoder's socket. Here is a portrait of
# all of them. With zero queries and keys all scores are equal, and with a unit matrix for the values
# the output *is* the matrix of weights.

# %%
from bertcraft.bert import encoder
from bertcraft.lab.figures.sparse_attention import who_sees_whom
from bertcraft.techniques.sparse_attention import bigbird, longformer

ROW = 64
PATTERNS = {  # try other windows, dilations, blocks
    "all pairs": encoder.self_attention,
    "window": longformer(6),
    "dilated, one head of two": longformer(6, dilations=[1, 4]),
    "window + global": longformer(6, global_tokens=1),
    "BigBird": bigbird(block=4, random=1),
}
portraits = {name: who_sees_whom(attention, ROW) for name, attention in PATTERNS.items()}  # (2 heads, 64, 64) each

# %% alt="Five squares of 64 queries by 64 keys: all pairs is full; the window is a diagonal band; the dilated window is a band with pale stripes beside it; window and global adds the first row and column; BigBird is a band of blocks with full first and last rows and columns and scattered blocks."
with style.shown(columns=5, width=9.6, height=2.3) as panels:
    for ax, (name, each) in zip(panels, portraits.items(), strict=True):
        ax.imshow(each.mean(axis=0), cmap="Blues", vmin=0, vmax=1.2, interpolation="nearest")
        ax.set_title(name, fontsize=8)
        ax.set(xticks=[], yticks=[], xlabel="key")
        ax.grid(False)
    panels[0].set_ylabel("query")
for name, each in portraits.items():
    print(f"{name:25s} {each.sum(axis=2).mean():5.1f} keys a query")

# %% [markdown]
# (Pale: only one of the two heads looks there.) **Predict**: after how many layers has every token heard from every other, in
# each of the five?

# %% alt="The same five patterns coloured by the number of layers after which the listener in the row has heard of the speaker in the column: all pairs 1, window 11, dilated 4, window and global 2, BigBird 2."
with style.shown(columns=5, width=9.6, height=2.6) as panels:
    for ax, (name, each) in zip(panels, portraits.items(), strict=True):
        sees = each.any(axis=0)
        heard, layers = np.eye(ROW, dtype=bool), np.full((ROW, ROW), np.inf)
        for layer in range(1, 13):
            heard = (sees.astype(int) @ heard) > 0
            layers = np.where(heard & np.isinf(layers), layer, layers)
        picture = ax.imshow(layers, cmap="viridis_r", vmin=1, vmax=11, interpolation="nearest")
        ax.set_title(f"{name}:\n{layers.max():.0f} layers, mean {layers.mean():.1f}", fontsize=8)
        ax.set(xticks=[], yticks=[], xlabel="speaker")
        ax.grid(False)
    panels[0].set_ylabel("listener")
    panels[-1].figure.colorbar(picture, ax=panels, label="layers", shrink=0.8)

# %% [markdown]
# The window needs $\lceil 63/6\rceil=11$ layers, as (6) says. One global token: two, through a narrow gate, one vector that must
# carry everything for everybody. BigBird gets there with many gates.
#
# ### Proof
#
# A numeric gradient first, through padding, a global token and two dilations at once.

# %%
mask = np.arange(20) < np.array([[20], [13]])
x = rng.standard_normal((2, 20, 8))


def of_inputs(x, weight):
    p = {**maps, "key": {**maps["key"], "weight": weight}}
    return longformer_attention(p, x, mask, 3, global_at=np.array([[0, 7], [2, -1]]), dilations=[1, 2], heads=2)


bc.check_grads(of_inputs, x, maps["key"]["weight"], order=1)
print("analytic and numeric gradients agree; padding gives zero:", not of_inputs(x, maps["key"]["weight"])[~mask].any())

# %% [markdown]
# Then the production implementation: transformers' `LongformerSelfAttention` with random weights, in double precision. (It takes
# the softmax in float32 whatever the rest is, so equality ends at about 1e-7.)

# %%
if lesson.installed("transformers", "torch"):
    import torch
    import transformers
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    from bertcraft.tensor import tree

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "attention_window": [8], "num_hidden_layers": 1}
    theirs = LongformerSelfAttention(transformers.LongformerConfig(**sizes), 0).double().eval()
    x, mask = rng.standard_normal((2, 32, 24)), np.arange(32) < np.array([[32], [21]])
    convention = np.where(mask, 0.0, -10000.0)  # of its own: below 0 padding, 0 local, above 0 global
    convention[:, 0] = 10000.0
    told, theirs_x = torch.tensor(convention), torch.tensor(x, requires_grad=True)
    out = theirs(theirs_x, told, is_index_masked=told < 0, is_index_global_attn=told > 0, is_global_attn=True)[0]
    (out**2).sum().backward()
    p = tree.nest({name: each.detach().numpy() for name, each in theirs.named_parameters()})
    ours = lambda x: longformer_attention(p, x, mask, window=4, global_at=np.array([0]), heads=3)  # noqa: E731
    gradient = bc.grad(lambda x: np.sum(ours(x) ** 2))(x)
    print("window, global token and padding, the same to 1e-6:", np.abs(ours(x) - out.detach().numpy()).max() < 1e-6)
    print("gradient the same to 1e-5:", np.abs(gradient - theirs_x.grad.numpy()).max() < 1e-5)

# %% [markdown]
# Mind the 8 and the 4: `attention_window` counts both sides together. This library's tests hold *every* gradient, BigBird's too,
# to 1e-8, with the float32 softmax taken out.
#
# ## 5. Performance analysis (20 minutes)
#
# ### Counted exactly

# %%
pairs = lambda L, d: L * (2 * d + 1) - d * (d + 1)  # noqa: E731  equation (5)
print(f"pairs at 4,096 tokens: {4096**2:,} and {pairs(4096, 256):,}, {4096**2 / pairs(4096, 256):.2f} times fewer")
print(f"computed in blocks of 256: {4096 * 3 * 256:,}, {4096 / (3 * 256):.2f} times fewer")
extra = LAYERS * 3 * (H**2 + H), (4096 - 512) * H
print(f"what Longformer-base adds to RoBERTa-base: {extra[0]:,} global projections, {extra[1]:,} positions")

# %% [markdown]
# A fifth more parameters; the positions are RoBERTa's 512, copied eight times.
#
# ### Live: two far words
#
# A task that needs hearing and nothing else. Into a real passage we plant two of the words rock, paper, scissors: the *question*
# at the beginning, after [CLS], the other anywhere. *Does the second beat the first?* One word alone tells nothing, and neither
# does the bag of words: rock and paper give "yes" in one order and "no" in the other. The answer is read at the question.

# %%
from bertcraft.lab.experiments.sparse_attention import ASKED, planted  # inline

# %% [markdown]
# Two layers, a window of 8 to either side, passages of 96 tokens; training begins with 16, where two words are soon found.
# **Predict first**: how does the accuracy of a window depend on the distance of the words? By (6), and with half of the rest
# guessed right: how much is that in all?

# %% quick="STEPS = 12"
STEPS = 240  # try 60

# %%
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments.sparse_attention import EXPERIMENT, fitted

live = {"length": 96, "steps": STEPS, "warmup": STEPS // 6, "grows": [[0, 16], [0.5, 96]], "draws": 1}
losses, right = {}, {}
for name in ("dense", "question", "window"):
    settings = EXPERIMENT.arm(name).settings | live
    result, logits, (ids, answers, distance) = fitted(settings, 0, Context(threads=2))
    scores = np.concatenate([logits(result.params, part) for part in np.array_split(ids, 40)])
    losses[name], right[name] = result.losses, scores.argmax(axis=1) == answers

# %% alt="Left: training loss against steps for dense attention, window with global [CLS] and question, and the plain window; the first two fall towards zero, the window stays higher once passages are long. Right: share of right answers against the distance of the words; the first two stay high at all distances, the window's falls to one half beyond 16 tokens."
with style.shown(columns=2, width=8.6, height=3.2) as (left, best):
    for place, name in enumerate(right):
        look, parts = style.line(place), np.array_split(np.arange(STEPS), 12)
        left.plot([part.mean() for part in parts], [losses[name][part].mean() for part in parts], **look)
        bins = np.arange(0, 93, 8)
        shares = [100 * right[name][(distance > a) & (distance <= a + 8)].mean() for a in bins]
        best.plot(bins + 4.5, shares, **look, label=EXPERIMENT.arm(name).title)
    left.axhline(np.log(2), color="0.3", lw=1, ls=":")
    left.set(xlabel="step", ylabel="training loss (nats); dotted: guessing")
    best.axhline(50, color="0.3", lw=1, ls=":")
    best.axvline(16, color="0.3", lw=1, ls="--")
    best.set(xlabel="distance of the words (dashed: 2 x 8)", ylabel="unread passages, % right", ylim=(0, 105))
    best.legend(fontsize=8, loc="lower left")
far = distance.max()
print(f"by (6) a window answers {100 * (16 + 0.5 * (far - 16)) / far:.0f} % if it learns all that it can hear")
for name in right:
    print(f"{EXPERIMENT.arm(name).title:34s} {100 * right[name].mean():.0f} % of unread passages; guessing: 50")

# %% [markdown]
# The cliff stands where (6) puts it, at $2d=16$ tokens. Beyond it the window guesses, and no training can change that: no path
# leads from one word to the other. A row and a column of the pattern give the task back.
#
# ### The stored experiment: quality
#
# The same at 256 tokens, with six patterns. The grey line is the prediction: all that the pattern can hear, the rest guessed.

# %%
lesson.results("near", "far")

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %% alt="Seven panels, for dense, window with global [CLS] and question, window with global [CLS], window, dilated window, BigBird and TF-IDF: the share of right answers by distance of the two words, over a grey line of what the pattern can hear. Dense, the two global patterns and BigBird stay at 100 percent, the window falls to 50 beyond 16 tokens, the dilated window lies at 92 to 100 up to 32 tokens, at 64 up to 64 and near 50 beyond, TF-IDF near 50 everywhere."
lesson.plots(2)

# %% [markdown]
# These learn to use their paths: a global question, BigBird (whose first block, global, holds the question) and [CLS] alone, a
# gate of one vector, do as well as dense attention. The window stops where (6) says. (The comparison below
# *cannot tell*: five seeds leave 6 points to either side of guessing.) **Hearing is not yet learning**: the dilated window varies
# by seed where news must pass through other tokens. These scores are at the ceiling: they tell who hears, not who reads better.
#
# ### The stored experiment: time
#
# A whole layer of BERT-base, forward and backward as in training, one text, one thread. Contenders are measured in turn, so that
# a ratio is one of neighbours in time. **Predict**: with 2.4 times fewer operations at 8,192 tokens, how many times faster is the
# window? And PyTorch's fused kernel, which computes *all* pairs?

# %%
lesson.results("ms", arms=("layer_dense", "layer_window", "layer_fused"))

# %%
from bertcraft.lab.figures.sparse_attention import told_times

for line in told_times(lesson.runs, EXPERIMENT):
    print(line)

# %% alt="Left: seconds of a layer against the length, on logarithmic axes, for dense attention and a window by this library and for PyTorch's fused dense attention. Right: how many times as long as the window's layer the other two take; a dotted line marks as long. Dense attention goes from 0.88 at 512 tokens to 4.1 at 8,192, the fused kernel from 0.79 to 2.2; the lines cross 1 near 1,000 and between 1,024 and 2,048 tokens."
lesson.plots(1)

# %%
lesson.comparisons()

# %% [markdown]
# The first comparison is like with like: the same library, dense or banded. It is more than the 2.4 of operations, which do not
# count moving 3.2 GB of scores. The second mixes kernel and library: up to 1,024 tokens PyTorch's *whole layer*, all pairs fused,
# takes less time than ours with a window; from 2,048 on the window is ahead, 2.2 times at 8,192, and still needs more memory.
# Today both ideas join in fused *window* kernels (FlashAttention, FlexAttention).
#
# ### When does it not help?
#
# - **Up to 1,000 tokens, 2,000 against a fused kernel**: three blocks of keys are much of the text, and the feed-forward half
#   costs more anyway.
# - **Where the first tokens tell enough.** Cutting is the baseline to beat.
# - **In a wide model.** The wider it is, the later the quadratic part matters: $6H$.
#
# ## 6. In production (10 minutes)
#
# `LongformerModel` of transformers on a small model with random weights, and the layers of ModernBERT.

# %%
if lesson.installed("transformers", "torch"):
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 32, "attention_window": 32}
    torch.manual_seed(0)
    small = transformers.LongformerConfig(vocab_size=2048, max_position_embeddings=200, pad_token_id=1, **sizes)
    model, lengths_seen = transformers.LongformerModel(small).eval(), []
    model.encoder.layer[0].register_forward_hook(lambda module, given, out: lengths_seen.append(given[0].shape[1]))
    ids = torch.tensor(texts.train[:1, :100].astype(np.int64))
    with torch.no_grad():
        local = model(ids).last_hidden_state
        first = torch.zeros_like(ids)
        first[:, 0] = 1
        with_global = model(ids, global_attention_mask=first).last_hidden_state
    print(f"100 tokens go in, {lengths_seen[0]} are computed, {local.shape[1]} come out")
    print("without global_attention_mask nothing is global:", not torch.allclose(local[:, 0], with_global[:, 0]))
    modern = transformers.ModernBertConfig()
    full, near = (modern.layer_types.count(f"{kind}_attention") for kind in ("full", "sliding"))
    print(f"ModernBERT-base, {modern.max_position_embeddings:,} tokens: {full} full layers and {near} with a window of", end=" ")
    print(f"{modern.local_attention // 2} to either side")

# %% [markdown]
# 1. **Padding to a multiple of the window**, silently: with the released model's 512, a text of 100 tokens costs as much as one
#    of 512.
# 2. **`LongformerModel` makes nothing global by itself.** `LongformerForSequenceClassification` does it for [CLS],
#    `LongformerForQuestionAnswering` for the question; for your own head you must pass the mask. Nothing fails without it; the
#    model is just worse.
# 3. **No dilation, no causal mode** in this version: the paper's character language models used both, the released checkpoints
#    neither.
#
# **Status today (2026).** Fused dense attention took over up to several thousand tokens, and Longformer and BigBird are rarely
# chosen for new work. The window lives on *inside* fused kernels, in layers that alternate with global ones: ModernBERT (Warner
# et al. 2024) attends to everything in every third layer, Gemma 3 in every sixth. A full layer replaces the global tokens: two
# hops suffice, and nobody has to choose them.
#
# ## 7. On your data (5 minutes)
#
# Long documents in a CSV with the columns text and label. `allenai/longformer-base-4096` goes in the same place; its classifier
# makes [CLS] global by itself.
#
# ```python
# from datasets import load_dataset
# from torch.nn.functional import cross_entropy
# from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
#
# def by_items(output, labels, num_items_in_batch):  # release 5.23 would add up the means of 16 micro-batches: lesson 06
#     return cross_entropy(output.logits, labels, reduction="sum") / num_items_in_batch
#
# name = "answerdotai/ModernBERT-base"
# data = load_dataset("csv", data_files="documents.csv")["train"].class_encode_column("label").train_test_split(0.2, seed=0)
# tokenizer = AutoTokenizer.from_pretrained(name)
# data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=4096), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=data["train"].features["label"].num_classes)
# small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "bf16": True}
# arguments = TrainingArguments("model", learning_rate=5e-5, num_train_epochs=3, **small)
# trainer = Trainer(model, arguments, train_dataset=data["train"], eval_dataset=data["test"], processing_class=tokenizer,
#                   compute_loss_func=by_items)
# trainer.train()
# print(trainer.evaluate())
# trainer.save_model("model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | no better than the first 512 tokens | stay with 512, or take the best of several pieces of the text |
# | answers depend on where the fact stands | make the question's tokens global, or take a model with full layers |
# | out of memory | batch 1 and accumulation; a fused kernel (`attn_implementation="sdpa"`); recompute activations |
# | slower than before on short texts | sort texts by length; Longformer pads to 512 |
#
# ## 8. Exercises (90 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 Who sees whom (one star, 10 minutes)
#
# Equations (2), (3) and (4) as booleans. The first `global_tokens` tokens are global.


# %% exercise="visible" stars=1
def visible(length, window, dilation=1, global_tokens=0):
    """Booleans (length, length): true where token i (row) may see token j (column)."""
    ### BEGIN SOLUTION
    place = np.arange(length)
    apart = np.abs(place[:, None] - place)
    seen = (apart <= window * dilation) & (apart % dilation == 0)
    is_global = place < global_tokens
    return seen | is_global[:, None] | is_global
    ### END SOLUTION


# %%
check.visible(visible)

# %% [markdown]
# ### 8.2 Zero is not nothing (one star, 5 minutes)
#
# Find the bug. It trains, and it even works a little.


# %% exercise="attention_weights" stars=1
def attention_weights(scores, seen):
    """The weights a of equation (1): scores (L, L), seen (L, L) booleans with at least one true in each row."""
    ### BEGIN SOLUTION
    scores = np.where(seen, scores, -np.inf)
    ### END SOLUTION
    ### BEGIN STUB
    # scores = scores * seen
    ### END STUB
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# %%
check.attention_weights(attention_weights)

# %% [markdown]
# ### 8.3 Who has heard of whom (two stars, 10 minutes)
#
# After some layers, which token's input can have reached which token? `seen` need not be symmetric.


# %% exercise="reached" stars=2
def reached(seen, layers):
    """Booleans (L, L): true where the input of token j can influence token i after some layers with the pattern seen (L, L)."""
    ### BEGIN SOLUTION
    heard = np.eye(len(seen), dtype=bool)
    for _ in range(layers):
        heard = (seen.astype(int) @ heard) > 0
    return heard
    ### END SOLUTION


# %%
check.reached(reached)

# %% [markdown]
# ### 8.4 The band, without the square (three stars, 20 minutes)
#
# Blocks are one way, a score for each *offset* $-d\dots d$ another. Write it without any array of L x L elements. A tip: pad
# the keys with `window` rows at both ends and look at `np.lib.stride_tricks.sliding_window_view`.


# %% exercise="band_scores" stars=3
def band_scores(query, key, window):
    """Scores q_i . k_j / sqrt(D) of a window, (L, 2 * window + 1): column c is for j = i - window + c, -inf outside of the text.

    query, key: (L, D).
    """
    ### BEGIN SOLUTION
    length, size = key.shape
    padded = np.pad(key, [(window, window), (0, 0)])
    keys = np.lib.stride_tricks.sliding_window_view(padded, 2 * window + 1, axis=0)  # (L, D, 2 window + 1), a view
    scores = np.einsum("nd,ndc->nc", query, keys) / np.sqrt(size)
    j = np.arange(length)[:, None] - window + np.arange(2 * window + 1)
    return np.where((j >= 0) & (j < length), scores, -np.inf)
    ### END SOLUTION


# %%
check.band_scores(band_scores)

# %% [markdown]
# ### 8.5 A rumour spreads (two stars, 15 minutes)
#
# Derive (7). Then a number: with twelve layers, which window would make $\sigma$ as large as 2,000 tokens? And what does a single
# layer with dilation $\delta$ do to $\sigma$?

# %% [markdown] solution=true
# **Model answer.** One layer moves a piece of news by $s$, uniform on $-d,\dots,d$. Its mean is 0 and its variance
# $\frac{1}{2d+1}\sum_{s=-d}^{d}s^2=\frac{2}{2d+1}\cdot\frac{d(d+1)(2d+1)}{6}=\frac{d(d+1)}{3}$. Layers are independent, so
# variances add up: $N\,d(d+1)/3$. For $\sigma=2000$, $N=12$: $d(d+1)=10^6$, $d\approx 1000$ to either side, four times
# Longformer's. With dilation a step is $\delta s$: its variance is $\delta^2$ times as large. That is why dilation is put into
# a few heads: a cheap way to a large $\sigma$, while the other heads read closely.

# %% [markdown]
# ### 8.6 Predict, then measure (two stars, 15 minutes)
#
# In the live run, give the plain window four layers instead of two (`"layers": 4` in `live`). Up to which distance can the second
# word be heard, by (6)? Two layers have $\sigma=6.9$ and learnt all 16: will four learn all they hear? Then take two layers of
# the arm `dilated`.

# %% [markdown] solution=true
# **What to expect.** Four layers reach $4\cdot 8=32$ tokens, with $\sigma=\sqrt{4\cdot 24}=9.8$. The dilated head reaches 32
# tokens in one layer and 64 in two, every fourth place only; with the other head's step of up to 8, everything up to 40. In both
# cases news from afar has to pass through tokens that must each learn to hand it on. Two layers did; four need not: measure.

# %% [markdown]
# ### 8.7 Which model reads the contracts? (two stars, 15 minutes, a decision)
#
# A team classifies contracts of about 3,000 tokens on a GPU. Invented figures: five seeds, points over cutting at 512, 95 %
# intervals, time of a training step relative to cutting:
#
# | arm | gain | less the fused dense | step |
# | --- | --- | --- | --- |
# | first 512 tokens | 0 | -3.1 [-4.2, -2.0] | 1 |
# | fused dense, 4,096 tokens | +3.1 [+2.0, +4.2] | | 9 |
# | window + global [CLS], 4,096 tokens | +2.9 [+1.7, +4.1] | -0.2 [-1.1, +0.7] | 12 |
# | window alone, 4,096 tokens | +0.4 [-0.8, +1.6] | -2.7 [-3.9, -1.5] | 11 |
#
# - `arm`: "cut", "fused", "global" or "window". A point is worth a step ten times as long to them.
# - `because`: (a) window attention is linear, so it is the cheaper one; (b) its gain over cutting is shown, and nothing cheaper is
#   shown to be as good; (c) the table shows that it is better than window + global.
# - `unless`: what would change your mind? (a) contracts of 20,000 tokens, where a measured step of the window is the shorter one;
#   (b) a paper in which Longformer wins on WikiHop; (c) another seed in which window + global is ahead.


# %% exercise="take" stars=2
def take():
    """{"arm": "cut", "fused", "global" or "window", "because": "a", "b" or "c", "unless": "a", "b" or "c"}."""
    ### BEGIN SOLUTION
    return {"arm": "fused", "because": "b", "unless": "a"}
    ### END SOLUTION


# %%
check.take(take)

# %% [markdown]
# **Open project.** ModernBERT's way in small, on your own texts: layers that alternate, `longformer(8)` and dense (write the loop
# over layers as in appendix A), against a plain window with as many pairs. Three seeds at least.
#
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **512 or 256?** The paper and transformers count both sides, this library one. Confusing them halves or doubles a window
#   without any error.
# - **A global token counts once**: taken out of the window, put beside it. There is one denominator in (1), not one for the window
#   and another for the globals.
# - **Padding**: keys at padding are hidden from everyone, also from global queries; a text's last block may hold nothing else.
# - **O(L) is for a fixed window.** If you let it grow with the text, it is quadratic again.
# - **Long input is not long memory**: models with such patterns have been found to neglect distant tokens (Qin, Feng, Van Durme
#   2022). Test with a task that needs them, like ours.
#
# **Read**: Beltagy, Peters, Cohan 2020, [Longformer](https://arxiv.org/abs/2004.05150), section 3. Zaheer et al. 2020, [Big
# Bird](https://arxiv.org/abs/2007.14062), section 2. Dao et al. 2022, [FlashAttention](https://arxiv.org/abs/2205.14135).
# Warner et al. 2024, [ModernBERT](https://arxiv.org/abs/2412.13663). Qin, Feng, Van Durme 2022, [The NLP task effectiveness of
# long-range transformers](https://arxiv.org/abs/2202.07856). The production code:
# [`modeling_longformer.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/models/longformer/modeling_longformer.py).
#
# **Next**: on the path *Architecture & Innovation*, 21 (mixture of experts) is sparse in the other
# half of the layer: each *token* visits few of the weights. Before it comes [04 ALBERT](04_albert_parameter_sharing.ipynb), which
# shares them.

# %% [markdown]
# ## Appendix A. Reach is not influence (5 minutes)
#
# Equation (7) with untrained weights and real text: four layers, $d=8$, a passage of 129 tokens. How strongly does the middle
# token's last hidden state depend on each token's embedding? That is a gradient.

# %%
from bertcraft.bert import initial_params

deep = pretraining.config_of(pretraining.Setting(length=129, layers=4, hidden=64), 2048, num_attention_heads=2)
params = bc.tensor.tree.map(lambda leaf: leaf.astype(np.float64), initial_params(deep, 0))
embedded = encoder.embed(params, deep, texts.train[:16, :129])


def influence(attention) -> np.ndarray:
    """The length of the gradient of the middle token's state by the embedding of each token: (129,), the mean of 16 passages."""
    sockets, direction = encoder.Sockets(attention=attention), np.random.default_rng(1).standard_normal(64)

    def middle(x):
        for layer in params["bert"]["encoder"]["layer"].values():
            x = encoder.post_layer_norm(layer, x, x, None, deep, sockets)
        return np.sum(x[:, 64] * direction)

    return np.linalg.norm(bc.grad(middle)(embedded), axis=-1).mean(axis=0)


# %% alt="Influence on the middle token against the place of the other token, logarithmic: the window's curve is highest in the middle and ends at 32 places to either side; with a global token it goes on at a low level to both ends, with a spike at the first token."
place = np.arange(129) - 64
with style.shown(width=6.6, height=3.2) as ax:
    arms = {"window": longformer(8), "window + global": longformer(8, global_tokens=1)}
    for i, (name, attention) in enumerate(arms.items()):
        found = influence(attention)
        found[64] = np.nan  # itself, through the residual connections
        ax.plot(place, np.where(found > 0, found, np.nan), color=style.COLOURS[2 - i], ls=("-", "--")[i], label=name)
        print(f"{name}: not a trace of {(found == 0).sum()} of the 128 other tokens")
    for edge, label in ((32, "reach of (6)"), (np.sqrt(4 * 8 * 9 / 3), "$\\sigma$ of (7)")):
        ax.axvline(edge, color="0.3", lw=1, ls=":")
        ax.annotate(label, (edge, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points", fontsize=8)
    ax.set(yscale="log", xlabel="place of the other token, from the middle", ylabel="influence on the middle token")
    ax.legend(fontsize=8, loc="lower right")

# %% [markdown]
# At 32 the window's curve ends as if cut with a knife: 64 tokens are *exactly* zero, to the last bit. Inside of its reach most
# of the influence comes from within two $\sigma$, 20 tokens. The global token (the spike at the left end) lifts the floor:
# everyone hears of everyone, faintly and all alike.
#
# ## Appendix B. A pattern of your own (5 minutes)

# %% alt="A square of 64 listeners by 64 speakers: dark where one layer hears, pale where two do, white where nothing is heard; with dilation 4 in every head only distances that are multiples of 4 are coloured."
def portrait(window: int = 4, dilation: int = 4, global_tokens: int = 0):
    """One pattern, alike in both heads: who sees whom, and what is left unheard after two layers."""
    sees = who_sees_whom(longformer(window, global_tokens, dilation), ROW)[0]
    heard = (sees.astype(int) @ sees) > 0
    with style.shown(width=3.4, height=2.8) as ax:
        ax.imshow(1.0 * sees + heard, cmap="Blues", vmin=0, vmax=2.6, interpolation="nearest")
        ax.set_title(f"{sees.sum(axis=1).mean():.1f} keys a query,\n{100 * heard.mean():.0f} % heard in two layers", fontsize=8)
        ax.set(xticks=[], yticks=[], xlabel="speaker", ylabel="listener")
        ax.grid(False)


lesson.play(portrait, window=[1, 2, 4, 6, 8], dilation=[1, 2, 4, 8], global_tokens=[0, 1, 2])

# %% [markdown]
# Dark: heard in one layer; pale: in two; white: unheard. The same dilation in every head has a hole that no depth fills: with
# $\delta=4$ a token never hears of those at distances that are no multiple of 4. That is why dilation goes into *some* heads.
# (With ipywidgets installed the picture has sliders.)
