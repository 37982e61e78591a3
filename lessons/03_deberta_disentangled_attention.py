# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 03. DeBERTa: what a word is, and how far away
#
# BERT adds a vector for the place to the vector of the word and lets attention sort the two out. DeBERTa never mixes them. The
# place becomes a *distance*, distances have queries and keys of their own, and a score is the sum of three meetings: word with
# word, word with distance, distance with word. You will write it without ever making an array of L x L vectors, hold it to
# transformers, find where the paper and its own code disagree, see two small models learn the same requests, and then move the
# requests to places where neither has ever read.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for attention and [its second part](00_foundations_2.ipynb) for intervals. The
# sections take 185 minutes, two fifths of them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("deberta_disentangled_attention")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)
#
# DeBERTa is famous for one number: in January 2021 it was the first single model above the figure that stands for *people* on
# SuperGLUE, eight hard tasks of language understanding.

# %%
lesson.claim()

# %% [markdown]
# Look at the tasks (left). And what is the *mechanism* worth? On a base model the authors took away one part at a time (right;
# c2p and p2c are the second and third meetings above, the decoder comes in section 4).

# %% alt="Left: bars of DeBERTa minus people in points on five SuperGLUE tasks, all below zero: COPA 3.2, RTE 0.4, WiC 3.6, WSC 4.1 and CB 0.9 points, beside the average, 0.1 above. Right: points for the SQuAD 2.0 F1 of a base model: all parts 82.5, without the enhanced mask decoder 81.3, without content to position 81.3, without position to content 80.8."
PEOPLE = {"CB": 95.8, "COPA": 100.0, "RTE": 93.6, "WiC": 80.0, "WSC": 100.0, "average of all 8": 89.8}
DEBERTA = {"CB": 94.9, "COPA": 96.8, "RTE": 93.2, "WiC": 76.4, "WSC": 95.9, "average of all 8": 89.9}  # 1.5 billion parameters
PARTS = {"all parts": 82.5, "without the decoder": 81.3, "without c2p": 81.3, "without p2c": 80.8}  # SQuAD 2.0 F1

with style.shown(columns=2, width=8.6, height=2.9) as (left, right):
    ahead = [DEBERTA[task] - PEOPLE[task] for task in PEOPLE]
    left.barh(list(PEOPLE), ahead, color=[style.COLOURS[0]] * 5 + [style.COLOURS[1]])
    left.axvline(0, color="0.3", lw=0.9)
    left.set(xlabel="DeBERTa minus people (points)", title="five tasks where people stay ahead")
    left.invert_yaxis()
    right.plot(list(PARTS.values()), list(PARTS), "o", color=style.COLOURS[1])
    for part, score in PARTS.items():
        right.annotate(f"{score:.1f}", (score, part), xytext=(7, -3), textcoords="offset points", fontsize=9)
    right.set(xlim=(80, 83), ylim=(3.5, -0.5), xlabel="SQuAD 2.0 (F1)", title="a base model, a part taken away")

# %% [markdown]
# The average is ahead by a tenth of a point; on five tasks people are ahead. The model has 1.5 billion parameters and an extra way
# to fine-tune, and its authors write that it is "by no means reaching the human-level intelligence". What this lesson can test is
# the mechanism: one or two points of F1 in the right panel.
#
# ## 2. Background and motivation (10 minutes)
#
# Why distances? Take two words that belong together, and look where they stand in requests that people typed:

# %%
from bertcraft.lab import architectures, pretraining
from bertcraft.lab.experiments import deberta_disentangled_attention as experiment

SMALL = {  # the experiment of part 5 is twice as wide, its rates tuned
    **experiment.REQUESTS, "hidden": 64, "held_out": 1000, "rate": 4e-3, "warmup": 40,
}  # fmt: skip
texts = pretraining.prepare(architectures.setting_of(SMALL))
pieces = np.array([texts.tokenizer.id_to_token(i) for i in range(texts.tokenizer.get_vocab_size())])


def places(word: str) -> np.ndarray:
    """Where a word stands: booleans (texts, L)."""
    return texts.train == texts.tokenizer.token_to_id(word)


# %% alt="Left: the places of the word card in its requests spread from 1 to 19. Right: the place of card less that of credit, in requests that have both, is 1 in most, nine in ten."
with style.shown(columns=2, width=8.2, height=2.7) as (left, right):
    row, place = np.nonzero(places("card"))
    left.hist(place, bins=np.arange(0.5, 20.5), color=style.COLOURS[0])
    left.set(xlabel="place of card", ylabel="requests", xticks=range(2, 20, 2))
    first, second = places("credit").argmax(axis=1), places("card").argmax(axis=1)
    both = places("credit").any(axis=1) & places("card").any(axis=1)
    right.hist((second - first)[both], bins=np.arange(-6.5, 7.5), color=style.COLOURS[1])
    right.set(xlabel="place of card less that of credit", ylabel="requests")

# %% [markdown]
# *card* stands anywhere. From *credit* it mostly stands one place to the right. A model that knows places has to learn that 3 follows 2,
# that 4 follows 3, and so on, a pair at a time. A model that knows distances learns one thing: +1.
#
# Shaw, Uszkoreit & Vaswani (2018) gave each distance a key of its own; T5 (2020) a single number. DeBERTa (2020) asks in both
# directions, and keeps all of it apart from the words:

# %% alt="The states of the words, B by L by H, go to queries and keys of the words, L by D in each head; a table of distances, 2 kappa by H, shared by all layers, goes to queries and keys of the distances, 2L minus 1 by D. The words' queries and keys meet in word meets word; the words' queries and the distances' keys in word meets distance, c2p; the words' keys and the distances' queries in distance meets word, p2c. Each gives L by L scores. They are added, divided by the root of 3 D, and go to the softmax."
with drawing.schematic(columns=5, rows=3, width=10.4, row_height=1.0) as s:
    states = s.box("states of\nthe words", at=(0, 0), kind="data")
    table = s.box("table of distances\n(all layers share it)", at=(0, 2), kind="new")
    content = s.box("queries and keys\nof the words", at=(1.3, 0))
    distance = s.box("queries and keys\nof the distances", at=(1.3, 2), kind="new")
    c2c = s.box("word\nmeets word", at=(2.75, 0))
    c2p = s.box("word\nmeets distance", at=(2.75, 1), kind="new")
    p2c = s.box("distance\nmeets word", at=(2.75, 2), kind="new")
    total = s.box("sum / root of 3 D,\nthen softmax", at=(4, 1), kind="data")
    s.arrow(states, content, "(B, L, H)")
    s.arrow(table, distance, "(2 κ, H)", kind="new")
    s.arrow(content, c2c, "both, (L, D)")
    s.arrow(content, c2p, "queries")
    s.arrow(content, p2c, "keys")
    s.arrow(distance, c2p, "keys", kind="new")
    s.arrow(distance, p2c, "queries, (2 L - 1, D)", kind="new")
    s.arrow(c2c, total, "(L, L)")
    s.arrow(c2p, total, "c2p, (L, L)", kind="new")
    s.arrow(p2c, total, "p2c, (L, L)", kind="new")

# %% [markdown]
# ## 3. Mathematical foundation (20 minutes)
#
# ### What BERT's sum hides
#
# BERT's state before the first layer is $h_i=x_i+\pi_i$: $H$ numbers of the word plus $H$ of its place, up to a layer norm. A
# head's maps $W_q$ and $W_k$, each $(D,H)$, make of them a query $q_i=W_qh_i$ and a key $k_j=W_kh_j$ of $D$ numbers. Their
# product, the score, falls into four parts:
#
# $$q_i\cdot k_j=\underbrace{W_qx_i\cdot W_kx_j}_{\text{word, word}}+\underbrace{W_qx_i\cdot W_k\pi_j}_{\text{word, place}}
# +\underbrace{W_q\pi_i\cdot W_kx_j}_{\text{place, word}}+\underbrace{W_q\pi_i\cdot W_k\pi_j}_{\text{place, place}}\tag{1}$$
#
# The same two maps serve words and places. And from the second layer on nobody can take $h_i$ apart again.
#
# ### Distances
#
# The distance of query $i$ and key $j$ is $d=i-j$: positive where the key stands before. Now $\pi$ is a table of distances, with
# $2\kappa$ rows of $H$ numbers, one for each distance from $-\kappa$ to $\kappa-1$. (The paper writes $k$ for $\kappa$; here $k$ is
# a key.) What is farther is cut:
#
# $$\mathrm{row}(d)=\min\bigl(\max(d+\kappa,\,0),\,2\kappa-1\bigr)\tag{2}$$
#
# Each head makes a key and a query, $D$ numbers each, of every row, with maps $(D,H)$ that the words do not use:
#
# $$k^\pi_d=W^\pi_k\,\pi_{\mathrm{row}(d)},\qquad q^\pi_d=W^\pi_q\,\pi_{\mathrm{row}(d)}\tag{3}$$
#
# ### The score
#
# $$s_{ij}=\frac{q_i\cdot k_j+q_i\cdot k^\pi_{i-j}+k_j\cdot q^\pi_{i-j}}{\sqrt{3D}}\tag{4}$$
#
# Here $q_i$ and $k_j$ come from words alone. The second term is *content to position* (c2p): what does this word look for, so far
# away? An adjective looks one place to the right. The third is *position to content* (p2c): which words matter to somebody so far
# away? *not* matters to what follows it. The fourth of (1), place and place, would be a number for each distance that no word
# changes (that is T5's bias, as it were); DeBERTa leaves it out.
#
# **By hand.** Three tokens, one head, $D=1$. Let $q=(1,2,0)$, $k=(1,0,1)$, $k^\pi_d=d$ and $q^\pi_d=1$ for $d=+1$, else 0. Then for
# $i=1$ (the second token), $j=0$, $d=1$: $q_1k_0+q_1k^\pi_1+k_0q^\pi_1=2+2+1=5$, and $s_{10}=5/\sqrt3$. For $j=2$, $d=-1$:
# $2-2+0=0$.
#
# ### Why the root of 3 D
#
# If all numbers in $q$ and $k$ are independent with mean 0 and variance 1, a product $q\cdot k$ of $D$ pairs has variance $D$. A
# sum of three such products has variance $3D$. Divided by $\sqrt{3D}$ the scores have variance 1, as BERT's have, and the softmax is
# as soft at the start:

# %%
rng = np.random.default_rng(0)
q, k, q_pi, k_pi = rng.standard_normal((4, 100_000, 64))
three = (q * k).sum(axis=1) + (q * k_pi).sum(axis=1) + (k * q_pi).sum(axis=1)
print(f"variance over sqrt(3 D): {np.var(three / np.sqrt(3 * 64)):.3f}, over sqrt(D): {np.var(three / np.sqrt(64)):.3f}")

# %% [markdown]
# ### No L x L vectors
#
# Written down naively, (4) wants a key $k^\pi_{i-j}$ for each *pair*: an array $(L,L,D)$ a head. But there are only $2L-1$ distances.
# So multiply every query with every distance, one product of matrices, and pick:
#
# $$z_{i,d}=q_i\cdot k^\pi_d\quad(L\times(2L-1)),\qquad (\text{c2p})_{ij}=z_{i,\,i-j}\tag{5}$$
#
# Row $i$ is read in a window that moves by one for each row. The next part does this with two reshapes.
#
# ### Buckets
#
# Versions 2 and 3 keep one row a distance only up to $d_\text{near}$, half of their number of buckets, and put ever more of the
# farther distances into one. With $d_\text{far}$ for the distance from which all is one:
#
# $$\mathrm{bucket}(d)=\begin{cases}d&|d|\le d_\text{near}\\ \mathrm{sign}(d)\Bigl(d_\text{near}+\bigl\lceil(d_\text{near}-1)\,
# \tfrac{\ln(|d|/d_\text{near})}{\ln((d_\text{far}-1)/d_\text{near})}\bigr\rceil\Bigr)&\text{otherwise}\end{cases}\tag{6}$$
#
# In version 3 they are 128 and 512. By hand, for $d=300$: $\ln(300/128)=0.852$, $\ln(511/128)=1.384$, and
# $128+\lceil127\cdot0.615\rceil=128+79=207$.

# %% alt="The row of the table against the distance, from minus 600 to 600. Version 1 is a straight line that is cut at 512. Version 3 is steep up to 128 and flat as a logarithm behind it."
from bertcraft.techniques import deberta_disentangled_attention as technique

d = np.arange(-600, 601)
with style.shown(width=6.2, height=2.8) as ax:
    ax.plot(d, technique.table_row(d, 512) - 512, color=style.COLOURS[0], label="version 1: 512 distances to either side")
    later = technique.table_row(technique.log_bucket(d, 256, 512), 256) - 256
    ax.plot(d, later, color=style.COLOURS[1], ls="--", label="versions 2 and 3: 256 buckets")
    ax.set(xlabel="distance i - j", ylabel="row, from the middle of the table")
    ax.legend(fontsize=8)

# %% [markdown]
# ## 4. NumPy implementation (25 minutes)
#
# In the code W is the number of distances, $2L-1$, and M that of queries: $L$, or fewer where only some are asked for.
#
# ### Which row: equations (2) and (6)

# %%
import math

from bertcraft.bert import encoder, heads
from bertcraft.bert.config import Config
from bertcraft.bert.encoder import Sockets
from bertcraft.tensor import functions as F

from bertcraft.techniques.deberta_disentangled_attention import log_bucket, table_row, table_rows  # inline

# %%
print("distances -3 ... 3, a table of 2 x 2 rows:", table_rows(4, reach=2))

# %% [markdown]
# ### The shift: equation (5)
#
# Think of $z$ with its distances *falling* from left to right. Row 0 needs the columns from $L-1$ on, row 1 those from $L-2$ on, and
# so on. Laid out in one line, what two successive rows need lies $2L-2$ apart. So read the line in rows of $2L-2$, from element
# $L-1$ on: everything that is needed stands in the first $L$ columns.

# %%
from bertcraft.techniques.deberta_disentangled_attention import shifted  # inline

# %%
z = np.array([[10 * i + d for d in (2, 1, 0, -1, -2)] for i in range(3)])  # z[i, d] = 10 i + d, d falling
print("products with all distances:", *z, "read off, [i, j] = 10 i + (i - j):", *shifted(z), sep="\n")

# %% alt="Left: five rows of nine cells, distances from plus 4 to minus 4; a framed window of five cells moves one column to the left from row to row. Right: the windows below each other, five by five: 0 on the diagonal, each diagonal one distance."
from matplotlib.patches import Rectangle

distance = np.tile(np.arange(4, -5, -1), (5, 1))  # of five queries, falling
with style.shown(columns=2, width=8.4, height=2.5) as panels:
    for ax, cells in zip(panels, (distance, shifted(distance)), strict=True):
        ax.imshow(cells, cmap="PuOr", vmin=-7, vmax=7, aspect="auto")
        for (i, j), d in np.ndenumerate(cells):
            ax.text(j, i, f"{d:+d}" if d else "0", ha="center", va="center", fontsize=8)
        ax.set(xticks=[], yticks=range(5), ylabel="query i")
        ax.grid(False)
    for i in range(5):
        panels[0].add_patch(Rectangle((3.5 - i, i - 0.5), 5, 1, fill=False, lw=1.6, clip_on=False))
    panels[0].set(title="z: distances; framed: what is read", xlabel="distance, falling")
    panels[1].set(title="read off: i - j", xlabel="key j", xticks=range(5))

# %% [markdown]
# ### Two terms
#
# `at` is for masked language models, which compute their last layer only where a word is guessed: then the queries stand at some
# places only, and picking replaces shifting.

# %%
from bertcraft.techniques.deberta_disentangled_attention import content_to_position  # inline

# %%
from bertcraft.techniques.deberta_disentangled_attention import position_to_content, position_to_content_as_printed  # inline

# %%
from bertcraft.techniques.deberta_disentangled_attention import position_scores  # inline

# %% [markdown]
# **The example by hand**, with these functions:

# %%
q, k = np.array([[[1.0], [2.0], [0.0]]]), np.array([[[1.0], [0.0], [1.0]]])  # (B, L, H) with B = H = 1
distances = np.arange(-2, 3)[:, None].astype(float)
added = position_scores(q, k, pos_key=distances, pos_query=(distances == 1) * 1.0)
print(np.round(math.sqrt(3) * added[0, 0] + q[0] @ k[0].T, 6))

# %% [markdown]
# Row 1 says 5 for the first key and 0 for the third, as above.
#
# ### The paper and its code disagree
#
# The paper's equation has $q^\pi_{j-i}$ in the third term: the distance seen *from the key*. The authors' code, transformers and so
# every released weight use $q^\pi_{i-j}$, as (4) does. Readers have asked in the authors' repository ([issue
# 162](https://github.com/microsoft/DeBERTa/issues/162), open). While nothing is trained, either is as good as the other, since the
# table's rows are random. For released weights only one is right:

# %%
printed = position_scores(q, k, pos_query=(distances == 1) * 1.0, terms=3, to_content=position_to_content_as_printed)
released = position_scores(q, k, pos_query=(distances == 1) * 1.0, terms=3)
print("released:", *np.round(math.sqrt(3) * released[0, 0]), "printed:", *np.round(math.sqrt(3) * printed[0, 0]), sep="\n")

# %% [markdown]
# Only keys that are 1 can be found here, the first and the third. In the released form the second query sees the one *before* it,
# in the printed form the one *after* it.
#
# ### Late places: the enhanced mask decoder
#
# *A new store opened beside the new mall*: mask *store* and *mall*. Their neighbours are alike; that one of them is the subject
# only its place tells. So DeBERTa adds absolute places just before words are guessed, to the queries of the last layer, which
# runs twice:

# %%
from bertcraft.techniques.deberta_disentangled_attention import enhanced_mask_decoder  # inline

# %% [markdown]
# ### Proof
#
# Against transformers' `DebertaModel` and `DebertaV2Model`, which is version 3 with these settings: random weights, two heads, a
# text longer than the table, double precision; states and every gradient. One line of transformers is replaced: the layer norm of
# version 1 rounds to single precision, whatever the model.

# %%
SIZES = {"vocab_size": 30, "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24,
         "max_position_embeddings": 40, "type_vocab_size": 0, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}  # fmt: skip
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 5,
            "position_biased_input": False}  # fmt: skip
LATER = {"max_relative_positions": 9, "position_buckets": 4, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
ids = np.random.default_rng(1).integers(1, 30, (2, 11))

if lesson.installed("transformers", "torch"):
    import torch
    from transformers import DebertaConfig, DebertaModel, DebertaV2Config, DebertaV2Model
    from transformers.models.deberta.modeling_deberta import DebertaLayerNorm

    DebertaLayerNorm.forward = lambda self, x: torch.nn.functional.layer_norm(
        x, x.shape[-1:], self.weight, self.bias, self.variance_epsilon)  # fmt: skip
    torch.manual_seed(0)
    networks = {
        "version 1": DebertaModel(DebertaConfig(**SIZES, **RELATIVE)),
        "version 3": DebertaV2Model(DebertaV2Config(**SIZES, **RELATIVE | LATER)),
    }

# %%
from bertcraft.tensor import tree

AS_PRINTED = Sockets(attention=lambda *args, **named: technique.attention(
    *args, **named, to_content=position_to_content_as_printed))  # fmt: skip


def held_to(network) -> tuple[float, float, float]:
    """Largest differences: of states, of gradients (over the largest number in each), of states with the paper's index."""
    states = network.double().eval()(torch.tensor(ids)).last_hidden_state
    states.pow(2).sum().backward()
    config = Config.from_dict({**network.config.to_dict(), "architectures": [type(network).__name__]})
    params = tree.nest({f"deberta.{name}": p.detach().numpy().copy() for name, p in network.named_parameters()})
    gradients = dict(tree.items(bc.grad(lambda params: np.sum(encoder.encode(params, config, ids) ** 2))(params)))
    theirs = {f"deberta.{name}": p.grad.numpy() for name, p in network.named_parameters()}
    worst = max(np.abs(gradients[name] - g).max() / max(1, np.abs(g).max()) for name, g in theirs.items())
    ours = (encoder.encode(params, config, ids, sockets=sockets) for sockets in (encoder.BERT, AS_PRINTED))
    code, paper = (np.abs(each - states.detach().numpy()).max() for each in ours)
    return code, worst, paper


# %%
for name, network in networks.items() if lesson.installed("transformers", "torch") else ():
    code, worst, paper = held_to(network)
    print(f"{name}: states the same to 1e-10: {code < 1e-10}, every gradient to 1e-10: {worst < 1e-10}")
    print(f"           with the paper's index the states differ by {paper:.2f}")

# %% [markdown]
# And is the derivative of the shifted scores right?

# %%
rng = np.random.default_rng(2)
query, key = rng.standard_normal((2, 1, 4, 6))
pos_key, pos_query, weights = rng.standard_normal((7, 6)), rng.standard_normal((7, 6)), rng.standard_normal((1, 2, 4, 4))
bc.check_grads(lambda *given: np.sum(position_scores(*given, heads=2) * weights), query, key, pos_key, pos_query)
print("analytic and numeric gradients agree")

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Counted exactly
#
# Two maps a layer and one table for all are what disentangling adds. And each term costs one product of all queries (or keys) with
# all distances:

# %%
H, layers, reach = 768, 12, 512
more = technique.extra_parameters(H, layers, reach)
print(f"DeBERTa-base: {2 * layers * H**2:,} + {2 * reach * H:,} = {more:,} more parameters")
print("operations of a layer's forward pass, a token:")
for L in (32, 128, 512):
    plain = 2 * 12 * H**2 + 2 * 2 * L * H
    terms = 2 * 2 * (2 * L - 1) * H + 2 * 2 * min(2 * L - 1, 2 * reach) * H**2 / (L * 32)  # the maps: once for 32 rows
    print(f"  {L:3d} tokens: {plain / 1e6:5.1f} million, disentangled {(plain + terms) / 1e6:5.1f} ({terms / plain:+.0%})")

# %% [markdown]
# ### Live: the same compute, two kinds of positions
#
# Two encoders of two layers learn the requests. They start from the same numbers, read the same masks, and may spend the same
# operations, so the disentangled one takes fewer steps. **Predict first**: which is better at the end, and by how much?

# %% quick="BUDGET = 0.004"
BUDGET = 0.6  # million million operations a training; take more, if you have some minutes

# %%
from functools import partial

from bertcraft.lab.experiment import Context
from bertcraft.tensor.parallel import cpu_count

KINDS = {"absolute positions": experiment.ABSOLUTE, "disentangled": experiment.DISTANCES}
chosen = SMALL | {"tflop": BUDGET, "warmup": 40 if BUDGET > 0.1 else 1}
tasks = {title: architectures.task_of(chosen | own, 0, experiment.build) for title, own in KINDS.items()}
judge = architectures.Judge(texts.held_out, texts)
fits = {
    title: architectures.fitted(task, chosen, 0, Context(threads=cpu_count()), evaluate=partial(judge, task.architecture))
    for title, task in tasks.items()
}
for title, fit in fits.items():
    last = fit.evaluations[-1][1]
    print(f"{title:20s} {tasks[title].setting.steps} steps, {last['accuracy']:.1f} % of the masked words guessed")

# %% alt="Loss at MASK on unread requests against compute, two falling curves below the dashed line of word frequencies; the disentangled one is lower."
with style.shown(width=6.2, height=3.0) as ax:
    for place, (title, fit) in enumerate(fits.items()):
        compute = [step * tasks[title].step_flops / 1e12 for step, _ in fit.evaluations]
        ax.plot(compute, [found["loss"] for _, found in fit.evaluations], **style.line(place), label=title)
    ax.axhline(judge.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    ax.set(xlabel="compute (TFLOP)", ylabel="loss at [MASK], unread (nats)")
    ax.legend(fontsize=8)

# %% [markdown]
# Both curves end below the dashed line, so both models use what stands around a gap. For equal operations the disentangled one is
# ahead from the second point on. That is one seed and one rate for both; the stored experiment has ten seeds and tunes rates.
#
# ### The same requests, further to the right
#
# Both models have read rows of 32 tokens, most of them much shorter, and have room for 64. Now every unread request stands a few
# places further to the right, behind padding that attention does not see. No word changes, no distance changes. **Predict first**:
# what does each model lose at 1 place, and at 32?

# %%
MASK = texts.tokenizer.token_to_id("[MASK]")
shown = np.take_along_axis(judge.batch["input_ids"], judge.batch["at"], axis=1) == MASK
unread = judge.batch | {"labels": np.where(shown, judge.batch["labels"], F.IGNORED)}  # hidden positions alone


def behind(places: int) -> dict:
    """The unread requests behind so many places of padding."""
    blank = np.zeros((len(unread["at"]), places), np.int64)
    moved = {name: np.hstack([blank, unread[name]]) for name in ("input_ids", "attention_mask")}
    return unread | moved | {"at": unread["at"] + places}


PLACES = (0, 1, 2, 4, 8, 16, 32)
lost = {
    title: np.array([float(task.architecture.loss(fits[title].params, behind(n))) for n in PLACES])
    for title, task in tasks.items()
}
print("the disentangled model's loss moves by less than 1e-4:", np.ptp(lost["disentangled"]) < 1e-4)

# %% alt="Loss at MASK against the number of places that the requests are moved, 0 to 32. The disentangled line is level. That of absolute positions rises with every place, up to the dashed line of word frequencies."
with style.shown(width=6.2, height=2.8) as ax:
    for i, (title, losses) in enumerate(lost.items()):
        ax.plot(PLACES, losses, **style.line(i), label=title)
    ax.axhline(judge.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    ax.set(xlabel="moved to the right by (places)", ylabel="loss at [MASK], unread (nats)", xticks=PLACES)
    ax.legend(fontsize=8)

# %% [markdown]
# A distance is the same everywhere: the disentangled model cannot even notice. The other one loses 0.3 nats with the first
# place, and with 32 all that it had learnt. It knows that 3 and 4 are neighbours, not that 35 and 36 are. In words,
# on requests that you can judge (try your own):


# %%
def filled(text: str, places: int = 0) -> list[str]:
    """The three likeliest words at [MASK] by each model, when the text stands so many places further to the right."""
    row = np.array([texts.tokenizer.encode(text).ids])
    row, mask = (np.pad(each, ((0, 0), (places, 0))) for each in (row, np.ones_like(row)))
    at, found = np.argwhere(row == MASK)[:, 1:], []
    for title, task in tasks.items():
        params, config = fits[title].params, task.architecture.config
        logits = heads.masked_lm_logits(params, config, encoder.encode(params, config, row, mask, at=at))[0, 0]
        found.append(" ".join(pieces[logits.argsort()[:-4:-1]]))
    return found


print(f"{'':32s}moved  {'absolute positions':22s}disentangled")
for text in ("turn [MASK] the lights on", "add milk to my shopping [MASK]", "how [MASK] does it take", "remind [MASK] to call mom"):
    for places in (0, 8):
        one, other = filled(text, places)
        print(f"{text:32s}{places:5d}  {one:22s}{other}")

# %% [markdown]
# A *longer* text asks for more: distances that no row had (from 16 on they share a vector). The stored experiment has that.
#
# ### What the distances have learnt
#
# The first layer's c2p: for each word of a request, which distances it looks to (the mean over heads of
# $q_i\cdot k^\pi_d/\sqrt{3D}$, less its row's mean).

# %%
task, trained = tasks["disentangled"], fits["disentangled"].params
config, layer = task.architecture.config, encoder.families.layers(trained, task.architecture.config)[0]
example = texts.held_out[[int(np.argmax((texts.held_out != 0).sum(axis=1) == 10))]][:, :10]
words = encoder.embed(trained, config, example)
maps = layer["attention"]["self"]
query = encoder.dense(maps["content"]["query"], words)
near = np.arange(4, -5, -1)  # distances i - j: from four places before the word to four after it
keys = encoder.dense(maps["position"]["key"], maps["position"]["table"][table_row(near, experiment.REACH)])
q, k_pi = (F.split_heads(each, config.num_attention_heads) for each in (query, keys[None]))
looks = (q @ np.swapaxes(k_pi, -1, -2))[0].mean(axis=0) / math.sqrt(3 * config.head_size)

# %% alt="A row for each token of a request, a column for each place from four before the word to four behind it. The column of the word just before has by far the strongest shades, of both signs; all others are pale."
with style.shown(width=6.4, height=3.4) as ax:
    shade = looks - looks.mean(axis=1, keepdims=True)
    image = ax.imshow(shade, cmap="PuOr", vmin=-abs(shade).max(), vmax=abs(shade).max(), aspect="auto")
    ax.set_yticks(range(len(shade)), pieces[example[0]])
    ax.set_xticks(range(len(near)), [f"{-d:+d}" if d else "self" for d in near])
    ax.set(xlabel="where the key stands, seen from the word")
    ax.grid(False)
    ax.figure.colorbar(image, label="c2p score, less the row's mean")

# %% [markdown]
# One column stands out: the word just before. Some words look there, others away; a number for each distance could not tell them
# apart.
#
# ### The stored experiment
#
# The same, twice as wide, five or ten times the compute. First, whether the question can be asked:

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results()

# %%
lesson.comparisons()

# %% alt="Two panels, a request a row and packed rows: loss at MASK on unread rows against compute for absolute positions, disentangled attention, T5's numbers and, left, no positions; a dashed line for word frequencies."
lesson.plots(1)

# %% alt="Each arm's loss less that of absolute positions trained as long, with 95 percent intervals: disentangled attention near minus 0.47, twice as long near minus 0.23, either term alone between; a number for each distance 0.5 and no positions 0.8 above it, the decoder's wide interval holds zero."
lesson.plots(2)

# %% alt="Loss above word frequencies' on packed rows of 32 tokens, which were learnt from, and of 64, for absolute positions, disentangled attention and T5's numbers."
lesson.plots(3)

# %% [markdown]
# The first row is the claim at this size: *reproduced*, half a nat, though absolute positions take more steps (second row). With
# twice the operations for both, half of it is left; for absolute positions alone they buy 0.27 nats more than distances do: these
# are worth less than twice the compute. A bare number for each distance is worse here than absolute places: what counts is that
# distances meet *words*. Neither term alone can be told from both, once corrected. The decoder, at a rate tuned without it, only
# harms; but two of its five runs hardly left the plateau. In packed rows neither rival has left it (absolute places have 0.98
# nats at *kept* words: they only copy), so nothing is compared; the disentangled model has, and rows twice as long cost it 0.06
# nats.
#
# ### When does it not help?
#
# - **When time counts, not operations.** Shifting and picking are no operations, but take time: 54 ms a step for 44 (first rows;
#   times scatter).
# - **With fused attention kernels** that take no bias of this form: DeBERTa cannot use most of them.
#
# ## 6. In production (10 minutes)
#
# Anybody who builds a `DebertaConfig` by hand meets this: relative attention is *off* by default. With
# `position_biased_input=False`, which every published model has, nothing then tells the model in which order its tokens stand.

# %%
if lesson.installed("transformers", "torch"):
    for relative in (False, True):
        torch.manual_seed(0)
        model = DebertaModel(DebertaConfig(**SIZES | RELATIVE | {"relative_attention": relative})).eval()
        with torch.no_grad():
            straight = model(torch.tensor(ids)).last_hidden_state
            turned = model(torch.tensor(ids[:, ::-1].copy())).last_hidden_state.flip(1)
        same = torch.allclose(straight, turned, atol=1e-5)
        print(f"relative_attention={relative!s:5}: backwards, each word has the same vector: {same}")

# %% [markdown]
# Three traps. The masked-LM classes of transformers have no enhanced mask decoder: they guess from a layer that pretraining did not
# guess from. Version 3 is pretrained as ELECTRA is (lesson 02): what opens is the discriminator, and filling gaps with it
# gives noise. And `pos_att_type` in old files is a string, `"c2p|p2c"`.
#
# A model of transformers opens here, and what is saved here opens there:

# %%
if lesson.installed("transformers", "torch"):
    import tempfile

    from transformers import AutoModel

    with tempfile.TemporaryDirectory() as folder:
        networks["version 3"].save_pretrained(f"{folder}/theirs")
        opened = bc.load(f"{folder}/theirs")
        opened.save(f"{folder}/ours")
        again = AutoModel.from_pretrained(f"{folder}/ours", dtype=torch.float64).eval()
        with torch.no_grad():
            states = again(torch.tensor(ids)).last_hidden_state.numpy()
        print(type(again).__name__, "there and back:", np.abs(opened(ids).last_hidden_state - states).max() < 1e-10)

# %% [markdown]
#
# **Status today (2026).** DeBERTa-v3 is still a strong start for classification of texts of up to 512 tokens. New encoders, such
# as ModernBERT (2024), take rotary positions: distances again, but built into queries and keys, so that fast kernels serve them.
#
# ## 7. On your data (5 minutes)
#
# From scratch, on your own texts, in a folder that transformers opens as `DebertaForMaskedLM`:
#
# ```
# bertcraft pretrain masked_lm --architecture deberta --size mini --corpus FOLDER --steps 20000 --out run
# ```
#
# More often one fine-tunes a released model:
#
# ```python
# from datasets import load_dataset
# from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments)
#
# name = "microsoft/deberta-v3-small"
# tokenizer = AutoTokenizer.from_pretrained(name)
# rows = load_dataset("csv", data_files="texts.csv")["train"].class_encode_column("label").train_test_split(0.2, seed=0)
# rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=128), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=rows["train"].features["label"].num_classes)
# arguments = TrainingArguments("out", learning_rate=3e-5, num_train_epochs=3, warmup_steps=0.1, eval_strategy="epoch")
# trainer = Trainer(model, arguments, train_dataset=rows["train"], eval_dataset=rows["test"], processing_class=tokenizer)
# trainer.train()
# trainer.save_model("model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | a model built by hand ignores word order | `relative_attention=True`, `pos_att_type=["c2p", "p2c"]` |
# | weights loaded by another code give nonsense | the index of p2c: $i-j$, not the paper's $j-i$ |
# | training is slow beside BERT | it is: more products, no fused kernel; shorter rows help most |
# | float16 overflows | the scale goes on the query before the product, as here |
#
# ## 8. Exercises (75 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 Which row? (one star, 10 minutes)
#
# Equation (2), for an array of distances of any shape.


# %% exercise="rows_of" stars=1
def rows_of(distance, reach):
    """Row of the table of 2 * reach vectors for each distance i - j: integers of the same shape."""
    ### BEGIN SOLUTION
    return np.clip(distance + reach, 0, 2 * reach - 1)
    ### END SOLUTION


# %%
check.rows_of(rows_of)

# %% [markdown]
# ### 8.2 Read it off (two stars, 15 minutes)
#
# From the products of each query with each distance in *rising* order, -(L - 1) to L - 1, the c2p scores (5). A double
# loop will do.


# %% exercise="read_off" stars=2
def read_off(products):
    """products (L, 2 L - 1): of query i and distance d, in column d + L - 1; returns (L, L), [i, j] that of distance i - j."""
    ### BEGIN SOLUTION
    length = len(products)
    i, j = np.arange(length)[:, None], np.arange(length)
    return products[i, i - j + length - 1]
    ### END SOLUTION


# %%
check.read_off(read_off)

# %% [markdown]
# ### 8.3 Find the bug (two stars, 15 minutes)
#
# Somebody wrote (4) for one head after the paper, without the scale. Loaded with released weights it gives nonsense. One index is
# wrong; and where a text is longer than the table something else goes wrong as well.


# %% exercise="scores" stars=2
def scores(q, k, pos_key, pos_query):
    """The sum in (4), unscaled: q, k (L, D); pos_key, pos_query (2 reach, D), the projected table; returns (L, L)."""
    ### BEGIN SOLUTION
    reach = len(pos_key) // 2
    distance = np.arange(len(q))[:, None] - np.arange(len(k))
    rows = np.clip(distance + reach, 0, 2 * reach - 1)
    return q @ k.T + np.einsum("id,ijd->ij", q, pos_key[rows]) + np.einsum("jd,ijd->ij", k, pos_query[rows])
    ### END SOLUTION
    ### BEGIN STUB
    # reach = len(pos_key) // 2
    # distance = np.arange(len(q))[:, None] - np.arange(len(k))
    # there = (distance + reach) % (2 * reach)
    # back = (-distance + reach) % (2 * reach)
    # return q @ k.T + np.einsum("id,ijd->ij", q, pos_key[there]) + np.einsum("jd,ijd->ij", k, pos_query[back])
    ### END STUB


# %%
check.scores(scores)

# %% [markdown]
# ### 8.4 How soft at the start? (one star, 10 minutes)
#
# A model has only c2p besides the words' own term. By what must its scores be divided so that they have variance 1, if all numbers
# have variance 1? And if the distances' keys and queries have variance $\sigma^2$ in place of 1?


# %% exercise="divisor" stars=1
def divisor(size, terms, variance):
    """What to divide by: size D, ``terms`` besides the words' own (0, 1 or 2), the ``variance`` of the distances' numbers."""
    ### BEGIN SOLUTION
    return float(np.sqrt(size * (1 + terms * variance)))
    ### END SOLUTION


# %%
check.divisor(divisor)

# %% [markdown]
# ### 8.5 Which positions? (two stars, 15 minutes, a decision)
#
# A team pretrains a small encoder on its own notes, rows of 128 tokens, and will read texts of up to 300 tokens with it. At equal
# operations, five seeds, loss at [MASK] less that of absolute positions (95 % interval), time of a step, and what rows of 256
# tokens cost each:
#
# | arm | loss | a step | rows of 256 |
# | --- | --- | --- | --- |
# | absolute | 0 | 100 ms | +2.10 |
# | a number for each distance | -0.14 [-0.17, -0.11] | 103 ms | -0.02 [-0.05, +0.01] |
# | disentangled | -0.19 [-0.22, -0.16] | 148 ms | -0.01 [-0.04, +0.02] |
# | disentangled against the numbers | -0.05 [-0.09, -0.01] | | |
#
# The week on the machine is what limits them: *time*, not operations. With half as much again of it, the arm with numbers gained
# 0.11 [0.08, 0.14] in a trial.
#
# - `arm`: "absolute", "numbers" or "disentangled".
# - `because`: (a) it has the lowest loss at equal operations; (b) it has the lowest loss for the time that they have; (c) it has the
#   fastest step.
# - `not_absolute`: (a) its loss is higher by little, but it cannot read their texts; (b) nothing speaks against it; (c) its step is
#   too slow.
# - `unless`: what would change your mind? (a) a kernel that makes the disentangled step 110 ms; (b) a lower p-value for -0.05;
#   (c) a sixth seed.


# %% exercise="positions" stars=2
def positions():
    """{"arm": ..., "because": "a", "b" or "c", "not_absolute": "a", "b" or "c", "unless": "a", "b" or "c"}."""
    ### BEGIN SOLUTION
    return {"arm": "numbers", "because": "b", "not_absolute": "a", "unless": "a"}
    ### END SOLUTION


# %%
check.positions(positions)

# %% [markdown]
# ### 8.6 The fourth term (two stars, 10 minutes)
#
# (a) Write the fourth term of (1) for distances. How many different numbers is it, a head? (b) What does adding the same number to
# all scores of one query change? And is the fourth term such a number? (c) Compare with T5's bias. What could the fourth term say
# that T5's numbers cannot?

# %% [markdown] solution=true
# **Model answer.** (a) $q^\pi_{i-j}\cdot k^\pi_{i-j}$ (with the same row in both): one number a row of the table, $2\kappa$ a head.
# (b) Nothing: the softmax divides it out. The fourth term differs from key to key of one query, with their distance, so it does
# change the weights. (c) It *is* a number for each distance, written as a product of two vectors that have other work as well;
# T5's are free. So it could say nothing that T5's cannot, and DeBERTa could well have added T5's.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **"Parameters" in the repository's table leave out embeddings.** Version 3 has 128,000 pieces: its base model counts 86 million in
#   the layers and 98 million in the table of words.
# - **The people in "human level"** are crowd workers, as reported, not experts.
# - **Dropout falls on the table**, in each layer anew; leaving it out gives other training curves.
# - **The table's ends must be learnt.** A row that training never reads ($\kappa$ longer than the texts) is noise when a longer text
#   comes.
#
# **Read**: He, Liu, Gao, Chen 2021, [DeBERTa](https://arxiv.org/abs/2006.03654): section 3 for the mechanism, table 4 for the
# ablation. Shaw, Uszkoreit, Vaswani 2018, [relative position representations](https://arxiv.org/abs/1803.02155). Raffel et al.
# 2020, [T5](https://arxiv.org/abs/1910.10683), section 2.1. Dai et al. 2019, [Transformer-XL](https://arxiv.org/abs/1901.02860),
# appendix B, for the shift. The original code is [microsoft/DeBERTa](https://github.com/microsoft/DeBERTa), the production code
# [transformers' `models/deberta`](https://github.com/huggingface/transformers/tree/main/src/transformers/models/deberta).
#
# **Open project**: pretrain `--architecture bert` and `--architecture deberta` on texts of your own for as many *minutes* each,
# three seeds, and compare them at [MASK] and after fine-tuning on a task of yours.
#
# **Next**: 04, ALBERT's parameter sharing: an encoder that has one layer and applies it again and again.
# [02 ELECTRA](02_electra_pretraining.ipynb) is how version 3 was pretrained; [10 sparse attention](10_sparse_attention.ipynb) asks
# which distances need to be looked at.
