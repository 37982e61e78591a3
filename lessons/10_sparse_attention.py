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
# In BERT every token looks at every other one. Twice the text means four times the looks; a text of 4,096 tokens has 16.8
# million pairs, in each head of each layer. Longformer and BigBird let a token look at a few others only, and reach texts of
# thousands of tokens. Two questions decide whether that is a good trade: *how far does a token hear after some layers*, and
# *what did the looks cost in the first place*. The answers are not the ones that the big O suggests.
#
# The trick that makes it fast is a picture puzzle: how to compute a narrow band of a matrix with nothing but ordinary, dense
# products. You need [lesson 00](00_foundations.ipynb)'s attention on three tokens. 60 to 90 minutes.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson

lesson = open_lesson("sparse_attention")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim

# %%
lesson.claim()

# %% [markdown]
# "Linear in the length" is a statement about growth, not about cost. Before the technique, the problem: **predict**, for
# BERT-base at its usual 512 tokens, which share of the arithmetic goes into attention scores and weighted sums, the part that
# grows with the square. 10 %? 50 %? 90 %?

# %%
from bertcraft.lab import style

H, HEADS, LAYERS, W = 768, 12, 12, 256  # BERT-base, and Longformer's window: 256 tokens to either side
n = 2 ** np.arange(7, 15)
linear = 24 * n * H**2  # 4 projections and 8 H^2 weights of the feed-forward part, 2 operations each
all_pairs = 4 * n**2 * H  # q . k for all pairs, and the weighted sums of v
banded = 4 * n * np.minimum(n, 3 * W) * H  # as Longformer computes it: three blocks of W keys for each query

with style.shown(columns=2, width=8.4, height=3.3) as (left, right):
    left.fill_between(
        n, 100 * all_pairs / (all_pairs + linear), color=style.COLOURS[0], alpha=0.35, label="scores and sums, all pairs"
    )
    left.plot(n, 100 * banded / (banded + linear), **style.line(1), label="in a window of 256 + 1 + 256")
    left.axvline(6 * H, color="0.3", ls=":", lw=1)
    left.annotate("6H = 4,608", (6 * H, 88), xytext=(4, 0), textcoords="offset points", fontsize=8)
    left.set(xscale="log", ylim=(0, 100), xlabel="length n (tokens)", ylabel="share of a layer's operations (%)")
    left.legend(fontsize=8, loc="upper left")
    right.plot(n, 4 * HEADS * n**2 / 2**20, **style.line(0), label="all pairs")
    right.plot(n, 4 * HEADS * n * np.minimum(n, 3 * W) / 2**20, **style.line(1), label="window")
    right.set(xscale="log", yscale="log", xlabel="length n (tokens)", ylabel="scores of a layer, one text (MiB)")
    right.legend(fontsize=8)
for length in (512, 4096):
    at = list(n).index(length)
    print(f"n = {length}: {100 * all_pairs[at] / (all_pairs[at] + linear[at]):.0f} % of the operations are scores and sums")
fewer, faster = n[5] / (3 * W), (all_pairs + linear)[5] / (banded + linear)[5]
print(f"so at n = 4096, with {fewer:.1f} times fewer scores, a layer takes {faster:.2f} times fewer operations")

# %% [markdown]
# At 512 tokens the quadratic part is 10 % of BERT-base. Take it away altogether, and nobody notices. It reaches one half at
# $n=6H$, 4,608 tokens. **In time, sparse attention is a technique for thousands of tokens.** In memory it matters earlier: at
# 4,096 tokens the scores of *one* layer take 768 MiB for one text in float32, and training keeps those of all twelve layers.

# %% [markdown]
# ## 2. Why looking nearby is a good guess
#
# Which other tokens are worth a look? Let us ask real text: the State of the Union addresses since 1790. How much does a token
# tell about the token $d$ places on? The *mutual information* measures it, in nats: 0 when the two are independent. It is
# estimated from counts of pairs, over the 100 commonest tokens. Counts of finite samples never look quite independent, so the
# value of pairs from two *unrelated* passages is subtracted.

# %%
from bertcraft.lab.experiments.sparse_attention import speeches

passages = speeches(vocab_size=4096, length=512, periods=8, most=250)
text = passages.rows["train"][:, 1:-1]
common = np.argsort(-np.bincount(text.ravel(), minlength=4096), kind="stable")[:100]
number = np.full(4096, 100)  # all the others count as one
number[common] = np.arange(100)
text = number[text]


def information(x: np.ndarray, y: np.ndarray) -> float:
    """Mutual information of two variables with values 0 ... 100, from pairs of them."""
    joint = np.bincount((101 * x + y).ravel(), minlength=101**2).reshape(101, 101) / x.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())


# %%
distances = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256])
other = np.roll(text, len(text) // 2, axis=0)  # the passage beside which it stands has nothing to do with it
shared = [information(text[:, :-d], text[:, d:]) - information(text[:, :-d], other[:, d:]) for d in distances]
with style.shown(width=6.4, height=3.2) as ax:
    ax.plot(distances, shared, **style.line(1))
    ax.set(xscale="log", yscale="log", xlabel="distance d (tokens)", ylabel="information about each other (nats)")
print(f"at 1: {shared[0]:.3g}, at 16: {shared[7]:.3g}, at 256: {shared[12]:.3g} nats")

# %% [markdown]
# A token knows its neighbour. Of one a dozen places off it knows less than a hundredth of that, and from there on the curve
# falls slowly: at 256 places a third of it is still there. (That is the subject, the speaker, the century.) So: **look closely
# nearby, and have *some* way to hear from afar.** Both Longformer and BigBird are this sentence, spelt out.

# %% [markdown]
# ## 3. The mathematics
#
# ### A set for each token
#
# Let $S(i)$ be the set of tokens that token $i$ may see. Queries $q_i$, keys $k_j$ and values $v_j$ are vectors of size $d$.
# Attention is
#
# $$c_i=\sum_{j\in S(i)} a_{ij}\,v_j,\qquad
# a_{ij}=\frac{e^{q_i\cdot k_j/\sqrt d}}{\sum_{m\in S(i)}e^{q_i\cdot k_m/\sqrt d}}\tag{1}$$
#
# BERT has $S(i)=\{1,\dots,n\}$. Everything in this lesson is another choice of $S$:
#
# $$S_\text{window}(i)=\{j:\ |i-j|\le w\}\tag{2}$$
# $$S_\text{dilated}(i)=\{j:\ |i-j|\in\{0,\,\delta,\,2\delta,\dots,w\delta\}\}\tag{3}$$
# $$S_\text{global}(i)=\begin{cases}\{1,\dots,n\}& i\in G\\ S_\text{window}(i)\cup G & \text{otherwise}\end{cases}\tag{4}$$
#
# $G$ is a small set of *global* tokens, such as [CLS], or the question that is asked about a text. They see all and are seen by
# all. BigBird cuts the text into blocks, and adds chance: a block sees itself, its two neighbours, the first, the last and $r$
# random blocks.
#
# **By hand.** Three tokens, all scores equal, values 1, 2, 6. Without limits each gets the mean, 3. With $w=1$ the first token
# sees 1 and 2 and gets 1.5; the second sees all, 3; the third sees 2 and 6, 4. The weights of what is left always sum to 1: a
# limit is not a zero *score*, it is a zero *weight*. (Exercise 7.2 is about those who mixed this up.)
#
# ### What it costs
#
# The number of pairs with a window is $n$ rows of $2w+1$, less what sticks out at both ends, $w+(w-1)+\dots+1$ each:
#
# $$P_\text{window}=n\,(2w+1)-w\,(w+1)\qquad(n>w)\tag{5}$$
#
# $n=5$, $w=1$: $15-2=13$. Each global token adds a row and a column. Longformer's "window of 512" is $w=256$: at $n=4096$ it
# has 8.2 times fewer pairs than $n^2$.
#
# ### How far it hears
#
# A token does not only hear those it sees. They have heard others, a layer below. After $\ell$ layers a window reaches
#
# $$R=\ell\,w\tag{6}$$
#
# tokens to either side; one global token makes it everything in two layers. Yet that is the *farthest* it can hear, as a rumour
# through $\ell$ mouths. Take equal weights in each layer. What arrives is then a random walk of $\ell$ steps, each uniform on
# $-w\dots w$, and its spread is
#
# $$\sigma=\sqrt{\ell\;\frac{w(w+1)}{3}}\tag{7}$$
#
# Twelve layers with $w=256$: $R=3072$, but $\sigma=513$. Reach grows with $\ell$, influence with $\sqrt\ell$. You will derive
# (7) in exercise 7.5, and see it in part 4.

# %% [markdown]
# ## 4. The code
#
# ### A band out of blocks
#
# NumPy (and a GPU) multiplies dense matrices fast, and nothing else. So cut queries and keys into blocks of $b\ge w$. A query
# of block $i$ sees nothing outside of the blocks $i-1$, $i$, $i+1$: each block of queries is handed three blocks of keys,
# multiplied densely, and what lies outside of the band is masked. `_window_blocks` says which blocks (`near`, -1 for none) and
# which part of them (`band`).

# %%
import functools
import itertools

from bertcraft.bert.config import Config
from bertcraft.bert.encoder import take_positions
from bertcraft.tensor import functions as F

from bertcraft.techniques.sparse_attention import _window_blocks  # inline

# %%
near, band = _window_blocks(blocks=5, block=4, window=3)
print("blocks of keys for each block of queries:\n", near)
with style.shown(width=4.6, height=1.9) as ax:
    ax.imshow(band, cmap="Blues", vmax=1.4)
    for edge in (3.5, 7.5):
        ax.axvline(edge, color="0.3", lw=1)
    ax.set(xlabel="the 12 keys of three blocks", ylabel="4 queries", yticks=range(4), xticks=range(12))
    ax.grid(False)

# %% [markdown]
# 28 of 48 places are used, the others are computed and masked. That is the price of dense products, and it never grows with the
# length.
#
# Now attention on such pieces. It is the whole engine, for all four patterns: gather the blocks of keys and values, put the
# shared ones (`everywhere`) beside them, mask, and run ordinary attention on many small texts at once. The largest array has
# `pieces x b x 3b` scores.

# %%
from bertcraft.techniques.sparse_attention import attend_blocks, _bias, _repeat_rows  # inline

# %% [markdown]
# The window cuts its text into blocks. **Dilation is free**: with $\delta=2$ the text is combed into two texts, that of the
# even and that of the odd tokens, and each has an ordinary window.

# %%
from bertcraft.techniques.sparse_attention import _SMALLEST_BLOCK, _pad, window_attention  # inline

# %% [markdown]
# **Is it right?** Equation (1) says in one line what must come out. `seen` is the set $S$ as booleans (n, n).


# %%
def by_definition(query, key, value, seen):
    """Equation (1) for one head: (n, d) each, seen (n, n)."""
    scores = np.where(seen, query @ key.T / np.sqrt(query.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ value


rng = np.random.default_rng(0)
q, k, v = rng.standard_normal((3, 100, 8))
apart = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
everything = np.ones((1, 100), bool)
for dilation in (1, 3):
    fast = window_attention(q[None], k[None], v[None], everything, 5, dilation=dilation)[0]
    seen = (apart <= 5 * dilation) & (apart % dilation == 0)
    print(f"dilation {dilation}: largest difference below 1e-12: {np.abs(fast - by_definition(q, k, v, seen)).max() < 1e-12}")

# %% [markdown]
# **Is it linear?** Counted, not timed: `flops.count` follows a function and adds up its matrix products.

# %%
from bertcraft.lab import flops

WINDOW = 32  # to either side; try 8: why does the count not fall to a quarter?
lengths = 2 ** np.arange(6, 12)
counted: dict[str, list[int]] = {"all pairs": [], "window": []}
for length in lengths:
    x = rng.standard_normal((1, length, 16)).astype(np.float32)
    counted["all pairs"].append(flops.count(F.attention, x, x, x, heads=1))
    counted["window"].append(flops.count(window_attention, x, x, x, np.ones((1, length), bool), WINDOW))

# %%
pairs = lengths * (2 * WINDOW + 1) - WINDOW * (WINDOW + 1)
with style.shown(width=6.2, height=3.4) as ax:
    for place, (name, values) in enumerate(counted.items()):
        ax.plot(lengths, values, **style.line(place), label=f"{name}, counted")
    ax.plot(lengths, 4 * 16 * pairs, color=style.COLOURS[1], lw=1, ls=":", label="pairs of equation (5)")
    ax.set(xscale="log", yscale="log", xlabel="length n (tokens)", ylabel="operations")
    ax.legend(fontsize=8)
print("growth at the last doubling:", {name: round(v[-1] / v[-2], 2) for name, v in counted.items()})

# %% [markdown]
# Four times against twice. The gap between the dots and the dotted line is the masked part of the blocks, a constant factor of
# about 1.5. Below $n\approx 3b$ the "sparse" code does *more* than the dense one.
#
# ### Global tokens
#
# Two things happen, and both have a trap. All tokens see the global ones: their keys go *beside* the window, so they must be
# taken *out* of the window, or a global token near by would count twice in the denominator of (1). And the global tokens see
# everything, through projections of their own (`query_global` and so on), which replace what the window computed at their
# places.

# %%
from bertcraft.errors import InputError

from bertcraft.bert.encoder import dense  # inline
from bertcraft.techniques.sparse_attention import _slots, longformer_attention  # inline

# %% [markdown]
# The encoder takes any function of this form in its socket for attention. `longformer(window, global_tokens)` makes one; it
# reads the padding back out of what the encoder adds to the scores.

# %%
from collections.abc import Callable, Sequence

from bertcraft.techniques.sparse_attention import _mask, _checked, longformer  # inline

# %% [markdown]
# ### Random blocks
#
# BigBird's argument is about graphs. In a window, news travels $w$ places a layer. Add a few random links, and any two places
# are some steps apart, however long the text is: a *small world*. The blocks are drawn once, the same for all texts; each head
# draws its own.

# %%
from bertcraft.techniques.sparse_attention import random_blocks, bigbird_attention, bigbird  # inline

# %% [markdown]
# Now a portrait of all of them, drawn by the code itself. With zero queries and keys all scores are equal, and with a unit
# matrix for the values the output *is* the matrix of weights.

# %%
from bertcraft.bert import encoder
from bertcraft.lab import pretraining

N = 64
PATTERNS = {  # try other windows, dilations, blocks
    "all pairs": encoder.self_attention,
    "window": longformer(6),
    "dilated, one head of two": longformer(6, dilations=[1, 4]),
    "window + global": longformer(6, global_tokens=1),
    "BigBird": bigbird(block=4, random=1),
}
setting = pretraining.Setting(length=N, layers=1)
two_heads = pretraining.config_of(setting, 10, hidden_size=2 * N, num_attention_heads=2)


def weights_of(attention) -> np.ndarray:
    """The weights (2 heads, N, N) of an attention when all scores are equal."""
    zero, one = np.zeros((2 * N, 2 * N)), np.eye(2 * N)
    maps = {name: {"weight": w, "bias": np.zeros(2 * N)} for name, w in {"query": zero, "key": zero, "value": one}.items()}
    layer = {"attention": {"self": maps, "output": {"dense": {"weight": one, "bias": np.zeros(2 * N)}}}}
    x = np.concatenate([np.eye(N)] * 2, axis=1)[None]
    return np.stack(np.split(attention(layer, x, x, None, two_heads)[0], 2, axis=1))


weights = {name: weights_of(attention) for name, attention in PATTERNS.items()}

# %%
with style.shown(columns=5, width=9.6, height=2.3) as panels:
    for ax, (name, each) in zip(panels, weights.items(), strict=True):
        ax.imshow((each > 0).mean(axis=0), cmap="Blues", vmin=0, vmax=1.2, interpolation="nearest")
        ax.set_title(name, fontsize=8)
        ax.set(xticks=[], yticks=[], xlabel="key")
        ax.grid(False)
    panels[0].set_ylabel("query")
for name, each in weights.items():
    print(f"{name:25s} {(each > 0).sum(axis=2).mean():5.1f} keys a query, rows sum to 1: {np.allclose(each.sum(axis=2), 1)}")

# %% [markdown]
# (Pale: only one of the two heads looks there.) **Predict**: after how many layers has every token heard from every other, in
# each of the five?

# %%
with style.shown(columns=5, width=9.6, height=2.6) as panels:
    for ax, (name, each) in zip(panels, weights.items(), strict=True):
        sees = (each > 0).any(axis=0)
        heard, layers = np.eye(N, dtype=bool), np.full((N, N), np.inf)
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
# The window needs $\lceil 63/6\rceil=11$ layers, as (6) says. One global token: two, through itself. It is a narrow gate,
# though: one vector that must carry everything for everybody. BigBird gets there with many gates. Now a pattern of your own:


# %%
def portrait(window: int = 4, dilation: int = 4, global_tokens: int = 0):
    """One pattern, alike in both heads: who sees whom, and what is left unheard after two layers."""
    sees = weights_of(longformer(window, global_tokens, dilation))[0] > 0
    heard = (sees.astype(int) @ sees) > 0
    with style.shown(width=3.4, height=2.6) as ax:
        ax.imshow(1.0 * sees + heard, cmap="Blues", vmin=0, vmax=2.6, interpolation="nearest")
        ax.set_title(f"{sees.sum(axis=1).mean():.1f} keys a query, {100 * heard.mean():.0f} % heard in two layers", fontsize=8)
        ax.set(xticks=[], yticks=[], xlabel="dark: one layer, pale: two, white: unheard", ylabel="listener")
        ax.grid(False)


lesson.play(portrait, window=[1, 2, 4, 6, 8], dilation=[1, 2, 4, 8], global_tokens=[0, 1, 2])

# %% [markdown]
# The same dilation in every head has a hole that no depth fills: with $\delta=4$ a token never hears of those at distances that
# are no multiple of 4. That is why dilation goes into *some* heads. (With ipywidgets installed the picture above has sliders.)
#
# ### Reach is not influence
#
# Now (7), with real weights and real text: four layers, $w=8$, a passage of 129 tokens. How strongly does the middle token's
# last hidden state depend on each token's embedding? That is a gradient.

# %%
from bertcraft.bert import initial_params

deep = pretraining.config_of(pretraining.Setting(length=129, layers=4, hidden=64), 4096, num_attention_heads=2)
params = bc.tensor.tree.map(lambda leaf: leaf.astype(np.float64), initial_params(deep, 0))
embedded = encoder.embed(params, deep, passages.rows["train"][:16, :129])


def influence(attention) -> np.ndarray:
    """The length of the gradient of the middle token's state by the embedding of each token: (129,), the mean of 16 passages."""
    sockets, direction = encoder.Sockets(attention=attention), np.random.default_rng(1).standard_normal(64)

    def middle(x):
        for layer in params["bert"]["encoder"]["layer"].values():
            x = encoder.post_layer_norm(layer, x, x, None, deep, sockets)
        return np.sum(x[:, 64] * direction)

    return np.linalg.norm(bc.grad(middle)(embedded), axis=-1).mean(axis=0)


place = np.arange(129) - 64
with style.shown(width=6.6, height=3.3) as ax:
    for number, (name, attention) in enumerate(
        {"window": longformer(8), "window + global": longformer(8, global_tokens=1)}.items()
    ):
        found = influence(attention)
        found[64] = np.nan  # itself, through the residual connections
        ax.plot(place, np.where(found > 0, found, np.nan), color=style.COLOURS[2 - number], ls=("-", "--")[number], label=name)
        print(f"{name}: not a trace of {(found == 0).sum()} of the 128 other tokens")
    for edge, label in ((32, "reach $\\ell w$"), (np.sqrt(4 * 8 * 9 / 3), "$\\sigma$ of (7)")):
        ax.axvline(edge, color="0.3", lw=1, ls=":")
        ax.annotate(label, (edge, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points", fontsize=8)
    ax.set(yscale="log", xlabel="place of the other token, from the middle", ylabel="influence on the middle token")
    ax.legend(fontsize=8, loc="lower right")

# %% [markdown]
# At 32 the window's curve ends as if cut with a knife: 64 tokens are *exactly* zero, to the last bit. Inside of its reach most
# of the weight is within some $\sigma$. The global token (the spike at the left end) lifts the floor: everyone hears of
# everyone, faintly and all alike.
#
# ### Proof
#
# A numeric gradient first, through padding, a global token and two dilations at once.

# %%
maps = {f"{name}{end}": {"weight": rng.standard_normal((8, 8)) / 3, "bias": rng.standard_normal(8)}
        for name in ("query", "key", "value") for end in ("", "_global")}  # fmt: skip
mask = np.arange(20) < np.array([[20], [13]])
x = rng.standard_normal((2, 20, 8))


def of_inputs(x, weight):
    p = {**maps, "key": {**maps["key"], "weight": weight}}
    return longformer_attention(p, x, mask, 3, global_at=np.array([[0, 7], [2, -1]]), dilations=[1, 2], heads=2)


bc.check_grads(of_inputs, x, maps["key"]["weight"], order=1)
print("analytic and numeric gradients agree; padding gives zero:", not of_inputs(x, maps["key"]["weight"])[~mask].any())

# %% [markdown]
# Then the production implementation: transformers' `LongformerSelfAttention` with random weights, in double precision. (It
# takes the softmax in float32 whatever the rest is, so equality ends at about 1e-7.)

# %%
if lesson.installed("transformers", "torch"):
    import torch
    import transformers
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    from bertcraft.tensor import tree

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    longformer_config = transformers.LongformerConfig(
        hidden_size=24, num_attention_heads=3, attention_window=[8], num_hidden_layers=1
    )
    theirs = LongformerSelfAttention(longformer_config, 0).double().eval()
    x, mask = rng.standard_normal((2, 32, 24)), np.arange(32) < np.array([[32], [21]])
    convention = np.where(mask, 0.0, -10000.0)  # of its own: below 0 padding, 0 local, above 0 global
    convention[:, 0] = 10000.0
    told = torch.tensor(convention)
    theirs_x = torch.tensor(x, requires_grad=True)
    out = theirs(theirs_x, told, is_index_masked=told < 0, is_index_global_attn=told > 0, is_global_attn=True)[0]
    (out**2).sum().backward()
    p = tree.nest({name: each.detach().numpy() for name, each in theirs.named_parameters()})
    ours = longformer_attention(p, x, mask, window=4, global_at=np.array([0]), heads=3)
    gradient = bc.grad(lambda x: np.sum(longformer_attention(p, x, mask, window=4, global_at=np.array([0]), heads=3) ** 2))(x)
    print("window, global token and padding, the same to 1e-6:", np.abs(ours - out.detach().numpy()).max() < 1e-6)
    print("gradient the same to 1e-5:", np.abs(gradient - theirs_x.grad.numpy()).max() < 1e-5)

# %% [markdown]
# Mind the 8 and the 4: `attention_window` counts both sides together. This library's tests hold *every* gradient to 1e-8, with
# the float32 softmax taken out, and BigBird's as well.

# %% [markdown]
# ## 5. What it buys, and what it costs
#
# ### Counted exactly

# %%
pairs = lambda n, w: n * (2 * w + 1) - w * (w + 1)  # noqa: E731  equation (5)
print(f"pairs at 4,096 tokens: {4096**2:,} and {pairs(4096, 256):,}, {4096**2 / pairs(4096, 256):.2f} times fewer")
print(f"computed in blocks of 256: {4096 * 3 * 256 - 2 * 256**2:,}, {4096**2 / (4096 * 3 * 256 - 2 * 256**2):.2f} times fewer")
extra = LAYERS * 3 * (H**2 + H), (4096 - 512) * H
print(f"what Longformer-base adds to RoBERTa-base: {extra[0]:,} global projections, {extra[1]:,} positions")

# %% [markdown]
# A fifth more parameters: linear attention is not free even there. The positions are the 512 of RoBERTa, copied eight times
# over, then trained on.
#
# ### Live: one word in a passage
#
# A task that needs hearing and nothing else. In a real passage of 96 tokens, one token at a random place is replaced by one of
# two *cues*, tokens that occur nowhere in these texts. [CLS], at place 0, must say which it was. Two layers, $w=8$. In
# training, near places are drawn more often (evenly on a logarithmic scale), so that a window gets what it can use; in the test
# all places are drawn alike.
#
# **Predict first**: how will the accuracy of the window look, drawn against the place of the cue? From (6), and half of the
# rest guessed: which accuracy in all?

# %% quick="STEPS = 4"
STEPS = 120
LENGTH, NEAR = 96, 8
ARMS = {
    "all pairs": encoder.self_attention,
    "window + global": longformer(NEAR, global_tokens=1),
    "window": longformer(NEAR),
}

# %%
from bertcraft.bert import heads
from bertcraft.lab.experiment import Context

counts = np.bincount(np.concatenate([rows.ravel() for rows in passages.rows.values()]), minlength=4096)
cues = np.flatnonzero(counts[5:] == 0)[:2] + 5
setting = pretraining.Setting(
    length=LENGTH, hidden=64, batch=16, shard=4, steps=STEPS, rate=3e-3, warmup=STEPS // 10, evaluations=1
)
config = pretraining.config_of(setting, 4096, head="sequence_classification", num_labels=2, num_attention_heads=2)


def planted(rows: np.ndarray, at: np.ndarray, rng) -> dict:
    """Passages with a cue at the given places."""
    ids, which = rows[:, :LENGTH].copy(), rng.integers(0, 2, len(rows))
    ids[np.arange(len(rows)), at] = cues[which]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": which}


def one_batch(step: int) -> dict:
    rng = np.random.default_rng((0, step))
    rows = passages.rows["train"][rng.integers(0, len(passages.rows["train"]), setting.batch)]
    return planted(rows, np.floor(LENGTH ** rng.random(setting.batch)).astype(int), rng)


# %%
cue_at = 1 + np.arange(4 * 250) % (LENGTH - 1)
unread = planted(np.concatenate([passages.rows["held_out"]] * 4), cue_at, np.random.default_rng(7))
runs, right = {}, {}
for name, attention in ARMS.items():

    def logits(params, ids, sockets=encoder.Sockets(attention=attention)):
        return heads.classification_logits(params, config, encoder.encode(params, config, ids, sockets=sockets))

    def loss(params, batch, rng):
        return F.cross_entropy(logits(params, batch["input_ids"]), batch["labels"])

    runs[name] = pretraining.train(
        setting, initial_params(config, 0), loss, one_batch, seed=0, context=Context(threads=2), signature={},
        weight=lambda batch: len(batch["labels"]),
    )  # fmt: skip
    scores = np.concatenate([logits(runs[name].params, part) for part in np.array_split(unread["input_ids"], 40)])
    right[name] = scores.argmax(axis=1) == unread["labels"]

# %%
with style.shown(columns=2, width=8.6, height=3.3) as (left, best):
    for number, name in enumerate(ARMS):
        look = style.line(number)
        parts = np.array_split(np.arange(STEPS), max(2, STEPS // 12))
        left.plot([part.mean() for part in parts], [runs[name].losses[part].mean() for part in parts], **look, label=name)
        bins = np.arange(1, LENGTH, 4)
        shares = [100 * right[name][(cue_at >= a) & (cue_at < a + 4)].mean() for a in bins]
        best.plot(bins + 1.5, shares, **look)
    left.axhline(np.log(2), color="0.3", lw=1, ls=":")
    left.set(xlabel="step", ylabel="training loss (nats); dotted: guessing")
    left.legend(fontsize=8)
    best.axhline(50, color="0.3", lw=1, ls=":")
    best.axvline(2 * NEAR, color="0.3", lw=1, ls="--")
    best.set(xlabel="place of the cue (dashed: reach of two windows)", ylabel="unread passages answered (%)", ylim=(0, 105))
predicted = (2 * NEAR + 0.5 * (LENGTH - 1 - 2 * NEAR)) / (LENGTH - 1)
print(f"by (6) a window answers {100 * predicted:.0f} % if it learns all that it can hear")
for name in ARMS:
    print(f"{name:16s} {100 * right[name].mean():.0f} % of unread passages; guessing: 50")

# %% [markdown]
# The cliff stands where (6) puts it, at $2w=16$ places. Before it the window answers nearly all; beyond it, it guesses, and no
# training can change that: no path leads from the cue to [CLS]. One global token, a row and a column of the pattern, gives the
# task back.
#
# ### The stored experiment
#
# The same question where all of the text matters a little: in which of eight periods was a passage of 512 tokens spoken? Seven
# arms, and the time and memory of a layer at lengths up to 32,768, each in a process of its own.

# %%
lesson.results("time_exponent", "memory_exponent", "ms_512", "ms_8192", "mb_8192", "break_even")

# %%
lesson.plots(2)

# %%
lesson.results("loss", "accuracy")

# %%
lesson.plots(3)

# %%
lesson.comparisons()

# %%
from bertcraft.lab import statistics


def arm(name: str, figure: str) -> dict[int, float]:
    return {run["seed"]: run["figures"][figure] for run in lesson.runs if run["arm"] == name and figure in run["figures"]}


def difference(treatment: str, baseline: str) -> str:
    one, other = arm(treatment, "loss"), arm(baseline, "loss")
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return "not measured yet"
    gain = statistics.paired([other[s] for s in seeds], [one[s] for s in seeds])
    answer = f"{'better' if gain.mean > 0 else 'worse'} by {abs(gain.mean):.3f} nats"
    if gain.low is None:
        return f"{answer} with one seed, which is no answer yet"
    return f"no difference that {len(seeds)} seeds can tell" if gain.low <= 0 <= gain.high else f"{answer} ({len(seeds)} seeds)"


print("window + global against all pairs:         ", difference("global", "dense"))
print("BigBird against all pairs:                 ", difference("bigbird", "dense"))
print("the same window without the global token:  ", difference("window", "global"))
print("first 128 tokens only against these:       ", difference("cut", "global"))
for name in ("global", "window", "bigbird", "dilated"):
    if found := arm(name, "break_even"):
        print(f"{name:8s} faster than all pairs from {np.mean(list(found.values())):.0f} tokens on, in this library's NumPy")

# %% [markdown]
# ### When does it not help?
#
# - **Below some hundred tokens**, where blocks of keys are as many as the text. The break-even above is for this code; on a GPU
#   fused dense kernels (FlashAttention) never store the scores, take the memory argument away and can push the break-even up to
#   thousands of tokens.
# - **Where the first tokens tell enough.** Cutting is the baseline to beat, and it is cheaper than any pattern.
# - **Where two far facts must meet.** Through one global token all has to pass in one vector. Put global attention on what is
#   asked *about*.
# - **In a wide model.** The wider it is, the later the quadratic part matters: $6H$.

# %% [markdown]
# ## 6. In production
#
# `LongformerModel` and `BigBirdModel` of transformers. Three things to know, shown on a small model with random weights.

# %%
if lesson.installed("transformers", "torch"):
    small = transformers.LongformerConfig(
        vocab_size=4096, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=32, attention_window=32,
        max_position_embeddings=200, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LongformerModel(small).eval()
    lengths_seen = []
    model.encoder.layer[0].register_forward_hook(lambda module, given, out: lengths_seen.append(given[0].shape[1]))
    ids = torch.tensor(passages.rows["train"][:1, :100].astype(np.int64))
    with torch.no_grad():
        local = model(ids).last_hidden_state
        first = torch.zeros_like(ids)
        first[:, 0] = 1
        with_global = model(ids, global_attention_mask=first).last_hidden_state
    print(f"100 tokens go in, {lengths_seen[0]} are computed, {local.shape[1]} come out")
    print("without global_attention_mask nothing is global:", not torch.allclose(local[:, 0], with_global[:, 0]))
    with torch.device("meta"):  # shapes without numbers: the real size
        base = transformers.LongformerModel(
            transformers.LongformerConfig(vocab_size=50265, max_position_embeddings=4098, type_vocab_size=1, attention_window=512)
        )
    total = sum(p.numel() for p in base.parameters())
    extra = sum(p.numel() for name, p in base.named_parameters() if "_global" in name)
    print(f"Longformer-base: {total:,} parameters, {extra:,} of them global projections")

# %% [markdown]
# 1. **Padding to a multiple of the window**, silently: with the released model's 512, a text of 100 tokens costs as much as one
#    of 512.
# 2. **`LongformerModel` makes nothing global by itself.** `LongformerForSequenceClassification` does it for [CLS]; for your own
#    head you must pass the mask, or [CLS] hears its neighbourhood only. Nothing fails; the model is just worse.
# 3. **No dilation, no causal mode** in this version: the paper's character language models used both, the released checkpoints
#    neither.

# %% [markdown]
# ## 7. Exercises
#
# ### 7.1 Who sees whom (one star)
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
# ### 7.2 Zero is not nothing (one star)
#
# Find the bug. It trains, it even works a little, and it has been published more than once.


# %% exercise="attention_weights" stars=1
def attention_weights(scores, seen):
    """The weights a of equation (1): scores (n, n), seen (n, n) booleans with at least one true in each row."""
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
# ### 7.3 Who has heard of whom (two stars)
#
# The picture of part 4 as a function: after some layers, which token's input can have reached which token? `seen` need not be
# symmetric.


# %% exercise="reached" stars=2
def reached(seen, layers):
    """Booleans (n, n): true where the input of token j can influence token i after some layers with the pattern seen (n, n)."""
    ### BEGIN SOLUTION
    heard = np.eye(len(seen), dtype=bool)
    for _ in range(layers):
        heard = (seen.astype(int) @ heard) > 0
    return heard
    ### END SOLUTION


# %%
check.reached(reached)

# %% [markdown]
# ### 7.4 The band, without the square (three stars)
#
# Blocks are one way. This is the other, used by custom kernels: a score for each *offset* $-w\dots w$. Write it without any
# array of n x n elements. A tip: pad the keys with $w$ rows at both ends and look at
# `np.lib.stride_tricks.sliding_window_view`.


# %% exercise="band_scores" stars=3
def band_scores(query, key, window):
    """Scores q_i . k_j / sqrt(d) of a window, (n, 2 * window + 1): column c is for j = i - window + c, -inf outside of the text.

    query, key: (n, d).
    """
    ### BEGIN SOLUTION
    n, d = key.shape
    padded = np.pad(key, [(window, window), (0, 0)])
    keys = np.lib.stride_tricks.sliding_window_view(padded, 2 * window + 1, axis=0)  # (n, d, 2 w + 1), a view
    scores = np.einsum("nd,ndc->nc", query, keys) / np.sqrt(d)
    j = np.arange(n)[:, None] - window + np.arange(2 * window + 1)
    return np.where((j >= 0) & (j < n), scores, -np.inf)
    ### END SOLUTION


# %%
check.band_scores(band_scores)

# %% [markdown]
# ### 7.5 A rumour spreads (derive, two stars)
#
# Derive (7). Then a number: with twelve layers, which window would make $\sigma$ as large as 2,000 tokens? And what does a
# single layer with dilation $\delta$ do to $\sigma$?

# %% [markdown] solution=true
# **Model answer.** One layer moves a piece of news by $s$, uniform on $-w,\dots,w$. Its mean is 0 and its variance
# $\frac{1}{2w+1}\sum_{s=-w}^{w}s^2=\frac{2}{2w+1}\cdot\frac{w(w+1)(2w+1)}{6}=\frac{w(w+1)}{3}$. Layers are independent, so
# variances add up: $\ell\,w(w+1)/3$. For $\sigma=2000$, $\ell=12$: $w(w+1)=10^6$, $w\approx 1000$ to either side, four times
# Longformer's. With dilation a step is $\delta s$: its variance is $\delta^2$ times as large. That is why dilation is put into
# a few heads: a cheap way to a large $\sigma$, while the other heads read closely.

# %% [markdown]
# ### 7.6 Predict, then measure (two stars)
#
# In the live run, give [CLS] no global attention but four layers instead of two (`layers=4` in the `Setting`). From (6) and
# (7): up to which place can the cue be heard, and to which is it *likely* to be learnt? Then try two layers with `dilations=[1,
# 4]`.

# %% [markdown] solution=true
# **What to expect.** Four layers reach $4\cdot 8=32$ places, with $\sigma=\sqrt{4\cdot 24}=9.8$. A dilated head reaches 32
# places in one layer and 64 in two, but sees every fourth place only; the two heads together can combine a step of each. In
# both cases an untrained [CLS] gets most of its news from nearby, and a cue far off has to be found through a chain of tokens
# that must each learn to pass it on. Expect accuracy to fall long before the reach.

# %% [markdown]
# ### 7.7 A window that grows (open project, three stars)
#
# Longformer's character models have small windows in the low layers and large ones above. Build it: `Sockets.attention` is the
# same for all layers, so write an encoder loop of your own (as in `influence`) with a list of attentions. Train it on the
# periods task of the experiment (`task_of` in `bertcraft.lab.experiments.sparse_attention` shows how) at equal numbers of
# pairs: 32 + 96 against 64 + 64. Three seeds at least.

# %% [markdown] solution=true
# **One way.** `for layer, attention in zip(layers, (longformer(32, 1), longformer(96, 1))): x = encoder.post_layer_norm(layer,
# x, x, bias, config, encoder.Sockets(attention=attention), rng)`. Equation (5) gives the pairs; keep them equal to within a
# percent. Report the paired difference with its interval, and expect it to be small: with a global token in place, neither
# choice limits what can be heard.

# %% [markdown]
# ## 8. Pitfalls, references, what next
#
# - **512 or 256?** The paper and transformers count both sides, this library one. An off-by-two here halves or doubles a window
#   without any error.
# - **A global token counts once**: taken out of the window, put beside it.
# - **The order of the two softmaxes.** A separate softmax for window and globals, added up, is another model. There is one
#   denominator in (1).
# - **Padding**: keys at padding are hidden from everyone, also from global queries; and a block at the end of a text may hold
#   nothing but padding.
# - **O(n) is for fixed $w$.** If you let the window grow with the text, it is quadratic again.
# - **Long input is not long memory**: models with such patterns have been found to neglect distant tokens (Qin, Feng, Van Durme
#   2022). Test with a task that needs them, like ours, before you pay for 4,096 tokens.
#
# **Read**: Beltagy, Peters, Cohan 2020, [Longformer](https://arxiv.org/abs/2004.05150), section 3. Zaheer et al. 2020, [Big
# Bird](https://arxiv.org/abs/2007.14062), section 2. Qin, Feng, Van Durme 2022, [The NLP task effectiveness of long-range
# transformers](https://arxiv.org/abs/2202.07856). The production code:
# [`modeling_longformer.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/models/longformer/modeling_longformer.py).
#
# **Next**: on the path *Architecture & Innovation*, [21 mixture of experts](21_mixture_of_experts.ipynb) is sparse in the other
# half of the layer: each *token* visits few of the weights. Before it comes [04 ALBERT](04_albert_parameter_sharing.ipynb),
# which shares them.
