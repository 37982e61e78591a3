# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 04. ALBERT: one layer, many times
#
# BERT-large has 24 layers of 12.6 million numbers each. ALBERT-large has *one* such layer and uses it 24 times. Its file is a
# nineteenth as large, and it computes as much as before. You will see why both are true, what sharing did to the paper's scores
# and does to a small model, and why ALBERT asks for the order of two sentences where BERT asked whether they belong together.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for the parts of a layer and [its second part](00_foundations_2.ipynb) for
# intervals. The sections take 170 minutes, 70 of them for the exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("albert_parameter_sharing")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (5 minutes)
#
# "18 times fewer parameters" compares two models of the same shape. It does not say that they are equally good. The paper's
# scores are means over five tasks, on development texts.

# %%
lesson.claim()

# %% [markdown]
# The paper's model with 18 times fewer parameters *loses* to BERT-large; xlarge, with 5.6 times fewer, is level (85.5 against
# 85.2). xxlarge, which wins, is four times as wide as large and half as deep, has 0.70 of BERT-large's parameters, and
# trains at about a third of its speed.
#
# ## 2. Background and motivation (10 minutes)
#
# In 2019 models grew until they no longer fitted onto one accelerator, and machines that train one model together send each
# other every gradient: one number a parameter. Fewer parameters would help with both. ALBERT saves them in two places, and
# changes a question.
#
# **The table.** BERT's tokens have vectors as wide as its hidden states. A token's vector has to say only which token it is;
# the hidden states hold what it means here. So ALBERT's table is thin (128 numbers a token) and one matrix widens it.
#
# **The layers.** All of them use the same numbers. A program that refines its result in a loop does the same.
#
# **The order.** BERT's second question, *does B follow A?*, has a cheap answer: a B from elsewhere is about something else.
# ALBERT shows two neighbours, half of the time exchanged, and asks which way round they stand.
#
# In the picture A and B are sentences and $e$ is the width of the thin table, in this lesson alone; the others are those of the
# [notation](00_glossary.ipynb). Blue is new.

# %% alt="Left to right: token ids go into a thin table of V times e numbers, new, then a map from e to H, new, then one layer, new; its states (L, H) go back into it, N times in all, and then to the head for masked words and, at CLS, to that for sentence order, which is new."
with drawing.schematic(columns=5, rows=2, width=9.6, row_height=1.0) as s:
    ids = s.box("[CLS] A [SEP] B [SEP]", at=(0, 0), kind="data")
    table = s.box("thin table\nV x e", at=(1, 0), kind="new")
    widen = s.box("one map\ne x H", at=(2, 0), kind="new")
    layer = s.box("the layer", at=(3, 0), kind="new")
    words = s.box("masked words", at=(4, 0))
    order = s.box("order of A and B", at=(4, 1), kind="new")
    states = s.box("states", at=(3, 1), kind="data")
    again = s.box("again, N times\nin all", at=(2, 1), kind="data")
    s.arrow(ids, table, "(L,)")
    s.arrow(table, widen, "(L, e)")
    s.arrow(widen, layer, "(L, H)")
    s.arrow(layer, states, "(L, H)")
    s.arrow(states, again)
    s.arrow(again, layer)
    s.arrow(states, words)
    s.arrow(states, order, "[CLS]")

# %% [markdown]
# How cheap? A rule that understands nothing, on sentences of an encyclopedia: look for the word pieces that A and B have in
# common, give each the weight $-\ln(\text{frequency})$, so that rare ones weigh more, and add up. Above one threshold the
# answer is "B follows A"; for the order, "as in the text". **Predict first**: how often is it right on either question?

# %%
from bertcraft.lab import segment_pairs

corpus = segment_pairs.corpus_of("wikipedia", 4096)
special, telling = corpus.special("[CLS]", "[SEP]", "[PAD]"), -corpus.words.log_frequency


def in_common(ids, types):
    """What the pieces tell that stand in both segments of a row (L,), in nats."""
    both = set(ids[types == 0]) & set(ids[types == 1]) - set(special)
    return sum(telling[piece] for piece in both)


common = {}
for kind in ("next", "order"):
    pairs = segment_pairs.pairs_of(corpus, "dev", kind, 40, 0, 0)
    common[kind] = np.array([in_common(*row) for row in zip(pairs.input_ids, pairs.token_type_ids, strict=True)]), pairs.labels

# %% alt="Two panels of histograms of what the pieces in common tell. Left, does B follow A: strangers mostly below 10 nats, neighbours spread up to 40 and more, a grey line at the threshold, 13, which is right on 75 percent; right, which way round: the two histograms lie on each other, and a threshold at 57 is right on 50 percent."
titles = {"next": ("does B follow A?", "it does", "from elsewhere"), "order": ("which way round?", "as in the text", "exchanged")}
with style.shown(columns=2, width=8.4, height=3.0) as axes:
    for ax, (kind, (amount, label)) in zip(axes, common.items(), strict=True):
        half = len(label) // 2  # the threshold is chosen on the first half and judged on the second
        threshold = max(np.unique(amount[:half]), key=lambda cut: np.mean((amount[:half] < cut) == label[:half]))
        right = np.mean((amount[half:] < threshold) == label[half:])
        for y in (0, 1):
            ax.hist(amount[label == y], np.arange(0, 105, 3), histtype="step", color=style.COLOURS[y], lw=1.8 - 0.6 * y,
                    ls="-" if y == 0 else "--", label=titles[kind][1 + y])  # fmt: skip
        ax.axvline(threshold, color="0.6", lw=1, label="threshold")
        ax.set(title=f"{titles[kind][0]} {right:.0%} right", xlabel="what the pieces in common tell (nats)", ylabel="pairs")
        ax.legend(fontsize=8)

# %% [markdown]
# The rule is right on three of four pairs, a coin on two. So a model can be good at BERT's question without reading a sentence.
# At ALBERT's the rule is a coin: what two sentences have in common is the same both ways round.
#
# ## 3. Mathematical foundation (20 minutes)
#
# ### Two matrices for one
#
# A table $(V,H)$ holds $VH$ numbers. ALBERT keeps a thin table $(V,e)$ and a map $(e,H)$, together
#
# $$V\,e+e\,H \tag{1}$$
#
# numbers. With $V=30{,}000$, $H=1024$ and $e=128$ that is 3.97 million in place of 30.72. Their product is a $(V,H)$ table,
# too, but every row of it is a mixture of the same 128 rows, those of the map: its *rank* is at most $e$.
#
# ### One layer for many
#
# Let $h^{(0)}$ $(L,H)$ be the states that enter the first layer, $h^{(n)}$ those after layer $n$, and $f$ what a layer
# computes. BERT's layer $n$ has parameters $\theta_n$; ALBERT's layers have the same $\theta$:
#
# $$h^{(n)}=f\bigl(h^{(n-1)};\theta_n\bigr)\quad\longrightarrow\quad h^{(n)}=f\bigl(h^{(n-1)};\theta\bigr),\qquad n=1\dots N \tag{2}$$
#
# A layer keeps about $4H^2$ numbers for attention (four matrices) and $2HF$ for the feed-forward part (two), twice as many when
# $F=4H$. Shared, they are kept once; either part can be shared alone. A product, though, is computed each time. Counting a
# multiplication and its addition as two, with $2LH$ for a token's scores and averages, and without the heads:
#
# $$\text{operations a token}=2\Bigl(eH+N\bigl(4H^2+2HF+2LH\bigr)\Bigr) \tag{3}$$
#
# The $N$ in (3) stays, whatever is shared.
#
# ### The gradient of a number that is used often
#
# Give every use a copy of its own, $\theta_1=\dots=\theta_N=\theta$. The loss is a function of all copies, and by the chain rule
# for several variables
#
# $$\frac{\partial\mathcal L}{\partial\theta}=\sum_{n=1}^{N}\frac{\partial\mathcal L}{\partial\theta_n}\bigg|_{\theta_1=\dots=\theta_N=\theta} \tag{4}$$
#
# **By hand.** One weight $w$, used twice: $h=w\,(w\,x)$ with $x=1$, $w=3$, and the loss is $h$. As two copies, $h=w_2w_1x$, the
# derivatives are $w_2x=3$ by $w_1$ and $w_1x=3$ by $w_2$. Their sum, 6, is the derivative of $w^2$ at 3.
#
# **Predict first.** Here both uses ask for the same change, 3. Will the four uses of a layer in a network do so?
#
# ### Which way round?
#
# Let $z$ $(2,)$ be the logits from the pooled [CLS], and $\mathcal L_\text{words}$ the loss of the masked language model. With
# $y=0$ for two neighbours in their order and $y=1$ exchanged,
#
# $$\mathcal L=\mathcal L_\text{words}+\mathcal L_\text{order},\qquad \mathcal L_\text{order}=-\ln p_y,\quad p=\operatorname{softmax}(z) \tag{5}$$
#
# A model that knows the topics and nothing else has $p=(\frac12,\frac12)$ and the loss $\ln2=0.69$.
#
# ## 4. NumPy implementation (20 minutes)
#
# A model is a tree of arrays. In a shared tree a part stands in the first layer alone. `shared` takes out what the later layers
# are to have in common with it; `complete` fills it in again: the same array, not a copy.
#
# Checkpoints call layers with the same numbers a *group*; here each layer starts as a group of its own. `_groups` fetches the
# groups out of a tree, `_with_groups` puts others in, `SHARING` names the parts.

# %%
from bertcraft.bert import Config
from bertcraft.errors import InputError
from bertcraft.techniques import albert_parameter_sharing as technique
from bertcraft.techniques import roberta_optimizations as masking
from bertcraft.techniques.albert_parameter_sharing import SHARING, _groups, _with_groups
from bertcraft.tensor import tree

from bertcraft.techniques.albert_parameter_sharing import shared  # inline

# %%
from bertcraft.techniques.albert_parameter_sharing import complete  # inline

# %% [markdown]
# **Try it.** Four layers, 8 wide. How many numbers are left, and do layers 1 and 4 hold the same object?

# %%
config = Config(family="albert", head="masked_lm", vocab_size=40, hidden_size=8, embedding_size=4, num_attention_heads=2,
                intermediate_size=16, num_hidden_layers=4, num_hidden_groups=4, max_position_embeddings=12)  # fmt: skip
untied = technique.initial_params(config, seed=0, sharing="none", dtype=np.float64)
for sharing in SHARING:
    kept = shared(untied, sharing)
    layers = _groups(complete(kept, config))
    once = [layers["0"]["0"][part] is layers["3"]["0"][part] for part in ("attention", "ffn")]
    print(f"{sharing:13} {sum(leaf.size for leaf in tree.leaves(kept)):5} numbers; the same object in layers 1 and 4:",
          f"attention {once[0]}, feed-forward {once[1]}")  # fmt: skip

# %% [markdown]
# Because it is the same object, `grad` adds up its uses by itself. Equation (4), then, by giving every layer a copy; and the
# directions of the four gradients, compared by their cosines: 1 is the same direction, 0 a right angle.

# %%
rng = np.random.default_rng(0)
batch = {"input_ids": rng.integers(5, 40, (6, 9)), "at": rng.integers(1, 9, (6, 2)), "labels": rng.integers(5, 40, (6, 2))}


def loss(params):
    """The masked language model's, of parameters that may lack what is shared."""
    return masking.masked_lm_loss(complete(params, config), batch, None, config)


tied = shared(untied, "all")
of_shared = bc.grad(loss)(tied)
of_copies = bc.grad(loss)(tree.map(np.copy, complete(tied, config)))
ask = [_groups(of_copies)[str(i)]["0"]["ffn"]["weight"] for i in range(4)]
added_up = np.allclose(sum(ask), _groups(of_shared)["0"]["0"]["ffn"]["weight"], atol=1e-12)
print("the sum over the copies is the gradient:", added_up)
cosine = [[float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)) for a in ask] for b in ask]
print("cosines of what the four uses ask for:", *np.round(cosine, 2), sep="\n")

# %% [markdown]
# They do not ask for the same. In this untrained model, uses next to each other want similar changes (0.5 to 0.7), the first
# and the last almost unrelated ones (0.05).
#
# ### Which way round?
#
# `consecutive` finds neighbours, of one document only. Where a pair is too long, `fitting` cuts the longer: a rule that left
# the first one longer would give the order away. `order_pairs`, the library's, exchanges half of them. Below, 2 is [CLS], 3 is
# [SEP] and 0 is padding.

# %%
from collections.abc import Iterator

from bertcraft.techniques.albert_parameter_sharing import consecutive, fitting  # inline

# %%
documents = [[np.array([10, 11]), np.array([12, 13, 14]), np.array([15])], [np.array([20, 21]), np.array([22])]]
print("neighbours:", [(a.tolist(), b.tolist()) for document in documents for a, b in consecutive([document])])
print("what stays of 9 and 3 tokens where there is room for 8:", fitting(9, 3, 8))
pairs = technique.order_pairs(documents, 9, cls_id=2, sep_id=3, pad_id=0, rng=np.random.default_rng(3))
for row, label in zip(pairs.input_ids, pairs.labels, strict=True):
    print(row, "exchanged" if label else "as it was")

# %% [markdown]
# ### Proof
#
# Against transformers' `AlbertForPreTraining`, from copied random weights: the sum of both losses, and every gradient.

# %%
if lesson.installed("transformers", "torch"):
    import torch
    from transformers import AlbertConfig, AlbertForPreTraining

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 8, "embedding_size": 4, "num_attention_heads": 2, "intermediate_size": 16,
             "num_hidden_layers": 4, "max_position_embeddings": 12, "initializer_range": 0.3}  # fmt: skip
    theirs = AlbertForPreTraining(AlbertConfig(**sizes)).double().eval()
    copied = tree.nest({name: p.detach().numpy().copy() for name, p in theirs.named_parameters()})
    both = Config.from_dict({**theirs.config.to_dict(), "num_hidden_groups": 4, "architectures": ["AlbertForPreTraining"]})
    types = np.array([[0] * 5 + [1] * 4] * 6)
    asked = {**batch, "at": np.array([[1, 3]] * 6), "token_type_ids": types, "next_sentence": np.array([0, 1, 1, 0, 1, 0])}
    labels = np.full((6, 9), -100)
    labels[:, [1, 3]] = asked["labels"]

# %%
if lesson.installed("transformers", "torch"):
    out = theirs(torch.tensor(asked["input_ids"]), token_type_ids=torch.tensor(types), labels=torch.tensor(labels),
                 sentence_order_label=torch.tensor(asked["next_sentence"]))  # fmt: skip
    out.loss.backward()
    value, gradients = bc.value_and_grad(technique.albert_loss)(copied, asked, None, both)
    reference = dict(theirs.named_parameters())
    worst = max(np.abs(leaf - reference[name].grad.numpy()).max() for name, leaf in tree.items(gradients))
    print(f"loss {float(value):.6f} and {out.loss.item():.6f}; every gradient the same to 1e-8:", worst < 1e-8)

# %% [markdown]
# And without trusting anybody, numerically:

# %%
named, weight = dict(tree.items(tied)), "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"
bc.check_grads(lambda value: loss(tree.nest({**named, weight: value})), named[weight], order=1)
print("analytic and numeric gradient of a shared matrix agree")

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Counted exactly

# %%
PARAMETERS = 335_141_888  # of BERT-large
operations = technique.flops_per_token(Config(family="bert", **technique.SIZES["large"]), 512)
print(f"{'':15} {'parameters':>12} {'BERT-large has':>18} {'operations a token':>26}")
for size, shape in technique.SIZES.items():
    albert = Config(family="albert", **shape)
    count = sum(technique.parameter_counts(albert).values())
    work = technique.flops_per_token(albert, 512) / operations
    print(f"ALBERT-{size:8} {count:12,} {PARAMETERS / count:12.2f} times {work:12.2f} of BERT-large")

# %% [markdown]
# In the second row stands the claim, 18.95 by exact count, and beside it what it does not say: the model computes as much as
# BERT-large. The last row wins the paper's comparisons, with 7.5 times BERT-large's operations. (The paper prints 235 million
# for it; its configuration counts 222.6.)
#
# Sharing may also stop at half a layer. The next figure has ALBERT-base, shared in four ways, and the paper's score for each.
# **Predict first**: which half costs more to share?

# %% alt="Left: stacked bars of ALBERT-base's parameters in millions for all shared, feed-forward shared, attention shared and none shared: 12, 38, 64 and 90. Right: the score that the paper reports for each: 80.1, 80.2, 81.7 and 81.6."
base = Config(family="albert", **technique.SIZES["base"], num_hidden_groups=12)
REPORTED = {"all": 80.1, "feed_forward": 80.2, "attention": 81.7, "none": 81.6}  # mean score, base, e = 128
names = [sharing.replace("_", "-") for sharing in REPORTED]
with style.shown(columns=2, width=8.4, height=3.2) as (left, right):
    bottom = np.zeros(4)
    for place, part in enumerate(("embeddings", "projection", "attention", "feed_forward", "pooler")):
        millions = np.array([technique.parameter_counts(base, sharing)[part] / 1e6 for sharing in REPORTED])
        left.bar(names, millions, 0.6, bottom=bottom, color=style.COLOURS[place], label=part.replace("_", "-"))
        bottom += millions
    left.set(ylabel="parameters (millions)", xlabel="shared")
    left.legend(fontsize=8)
    right.plot(names, list(REPORTED.values()), **style.line(1) | {"linestyle": "none"})
    right.set(ylabel="mean score (reported)", xlabel="shared", ylim=(79.5, 82.2), xlim=(-0.4, 3.4))

# %% [markdown]
# Sharing attention costs this model nothing, and sharing the feed-forward part nearly all that is lost (Lan et al. 2020, table
# 4). It is also the larger part: two thirds of a layer. With $e=768$, BERT's wide table, sharing attention does cost 0.7, and
# sharing all 2.5.
#
# ### Live: half of the layers' numbers
#
# Two masked language models of two layers, 64 wide, on short requests: layers of their own, and one layer used twice. **Predict
# first**: how far apart are they at [MASK]?

# %% quick="STEPS = 8"
STEPS = 900  # try 300

# %%
from dataclasses import replace
from functools import partial

from bertcraft.lab import architectures
from bertcraft.lab.experiment import Context
from bertcraft.lab.experiments.albert_parameter_sharing import build
from bertcraft.tensor.parallel import cpu_count

SMALL = {"corpus": "utterances", "length": 24, "vocab_size": 2048, "held_out": 500, "layers": 2, "hidden": 64, "embedding": 64,
         "batch": 64, "shard": 32, "rate": 4e-3, "warmup": min(40, STEPS // 2), "steps": STEPS, "evaluations": 5}  # fmt: skip


def task_of(sharing):
    """The training of a model; its layers are completed by the cell of part 4: edit it, run it, and come back here."""
    task = architectures.task_of(SMALL | {"sharing": sharing}, 0, build)
    return replace(task, architecture=replace(task.architecture, whole=partial(complete, config=task.architecture.config)))


tasks = {"layers of their own": task_of("none"), "one layer, twice": task_of("all")}

# %%
judge = architectures.judge(architectures.setting_of(SMALL), "held_out", 24)
context = Context(threads=cpu_count())
runs = {
    title: architectures.fitted(task, {}, 0, context, evaluate=lambda p, own=task.architecture: judge(own, p))
    for title, task in tasks.items()
}

# %% alt="Loss at MASK of unread requests against steps for layers of their own and for one layer used twice; both fall below the dotted line of word frequencies, 6.42, within 0.05 of each other, and end near 5.77 and 5.73."
with style.shown(width=6.0, height=3.2) as ax:
    for place, (title, run) in enumerate(runs.items()):
        steps, found = zip(*run.evaluations, strict=True)
        ax.plot(steps, [each["loss"] for each in found], **style.line(place), label=title)
    ax.axhline(judge.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    ax.set(xlabel="step", ylabel="loss at [MASK] (nats)")
    ax.legend(fontsize=8)

# %%
from bertcraft.bert import Model

for title, run in runs.items():
    own = tasks[title].architecture
    model = Model(own.config, own.whole(run.params))
    model.tokenizer = tasks[title].texts.tokenizer
    guesses = ", ".join(word for word, _ in model.fill("how do i activate my new [MASK] ?", top=3)[0])
    print(f"{title:20} how do i activate my new [MASK] ?   {guesses}")

# %% [markdown]
# **What happened.** Both are far below the word frequencies and end within a few hundredths of a nat of each other. Both have
# *card* among their first three guesses, beside nonsense. One seed is no evidence; the stored experiment has more.
#
# ### Once more, for nothing?
#
# A shared layer can be used more often than it was trained for, without one more parameter. **Predict first**: the layer that was
# trained to be used twice is used once, three times, eight times. Where is the loss least? And how far does each use turn a token's
# state, as the angle between the vector before and after?

# %%
twice, trained = tasks["one layer, twice"].architecture, runs["one layer, twice"].params


def used(times):
    """The shared layer, so many times."""
    config = replace(twice.config, num_hidden_layers=times, num_hidden_groups=times)
    return replace(twice, config=config, whole=partial(complete, config=config))


rows = tasks["one layer, twice"].texts.held_out[:200]
moved = technique.layer_changes(used(8).whole(trained), used(8).config, rows, (rows != 0).astype(np.int32))
losses = {times: judge(used(times), trained)["loss"] for times in (1, 2, 3, 4, 8)}

# %% alt="Left: loss at MASK against how often the layer is used; it is least at two uses, as in training, higher for one and for more, and at eight above the dotted line of word frequencies. Right: the angle between a use's input and its output falls from 62 to 20 degrees from the first to the eighth."
with style.shown(columns=2, width=8.4, height=3.2) as (left, right):
    left.plot(list(losses), list(losses.values()), **style.line(1))
    left.axhline(judge.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    left.axvline(2, color="0.6", lw=1, label="as in training")
    left.set(xlabel="uses of the layer", ylabel="loss at [MASK] (nats)", xticks=list(losses))
    left.legend(fontsize=8)
    right.plot(range(1, 9), moved.angle, **style.line(1))
    right.set(xlabel="use", ylabel="angle, input to output (degrees)", ylim=(0, None), xticks=range(1, 9))

# %% [markdown]
# **What happened.** Two uses are best, as in training. A third already costs something, one use alone costs more, and after
# eight the model guesses far worse than word frequencies do. Nor do the states settle: each use turns them less than the one
# before, but the eighth still by some 20 degrees. How often a layer is used is part of what it has learnt; a model that may be
# stopped at any use has to be trained for that (Dehghani et al. 2019).
#
# ### The stored experiment
#
# Models of four layers, 128 wide. The primary comparison: layers of their own against one layer used four times, at equal width
# and steps. In the paper the shared model is worse; so the claim, fixed before any measurement, is that layers of their own win.
# Others share half a layer, have thinner tables, or use one layer once. What sharing frees can be spent on a model twice as wide,
# whose one layer has as many numbers as the four: for as many steps, and for as many operations.
#
# Another three models read pairs of sentences. One is asked for the order, one whether B follows A, one nothing. Part 2's
# rule is the rival of what follows, naive Bayes on the words of each sentence that of the order.
#
# First, whether the questions can be asked:

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results("loss", "accuracy", "parameters", "tflop", "order", "next")

# %%
lesson.comparisons()

# %% [markdown]
# **Layers of their own: -0.10 nats [-0.23, +0.03]; one cannot tell.** They win in eight of ten seeds, but half of the mean
# is one seed in which the shared model hardly left the frequencies. Which half of a layer costs, one cannot tell either. The
# surprise is *one layer, once*: 5.12 nats, 0.7 better than used four times, for a sixth of the operations (the last layer is
# computed at [MASK] alone). One layer bears twice the rate; what sharing costs where depth is needed is not seen here. Twice as
# wide, at equal steps (3.7 times the operations), one cannot tell; at equal operations (268 steps), as with thin tables, the check
# failed.
#
# What a model keeps, and what its training computes; sharing saves on the left alone:

# %% alt="Two panels of loss at MASK, a point an arm, the mean of five seeds, with marks for them; left against parameters, right against operations. One layer once lies at 5.1, with 0.5 million parameters and 0.86 TFLOP. From 0.5 to 1.1 million, shared in part, in whole or not, arms lie between 5.7 and 5.85 at 5.1 TFLOP; the shared one twice as wide too, at 19. Hollow: embeddings of 32 and 64 at 6.0, twice as wide for equal operations at 6.3."
lesson.plots(1)

# %% [markdown]
# How far each layer moves the states (the paper's figure 1): shared uses move them less and less:

# %% alt="Two panels by layer: the distance between a layer's input and its output, and the angle. Layers of their own are level, near 11 and 60 degrees; uses of one layer fall from 11.5 to 5 and from 61 to 26 degrees. Thin lines, the seeds, lie close."
lesson.plots(2)

# %% [markdown]
# And the pairs. In the paper a model asked what follows told the order of 52.0 % of them, a coin's share; one asked for the order
# told 86.5 %, and what follows for 78.9 % (table 5). Here all are fine-tuned on either question first:

# %% alt="Pairs told right after fine-tuning, their order and whether B follows. Asked for the order 63 and 61 percent, asked whether it follows 61 and 61, asked nothing 57 and 59, where seeds of the order spread from 54 to 61; a dotted line at 50."
lesson.plots(3)

# %% [markdown]
# Asked for the order, a model tells 63 %, asked nothing 57; corrected, no difference is shown, and counted words tell 64. What
# follows was not learnt by the bar (59.5 % before fine-tuning): *not testable*; part 2's rule tells it for 75 % of its pairs. All
# three hardly learnt words.
#
# ### When it does not help
#
# When you want a faster model, or less memory for activations: (3) has no saving in it. The paper's ALBERT-large read
# text 1.7 times as fast as BERT-large (table 2), for less communication, it says, and fewer computations, which (3) denies.
#
# In the paper sharing pays by room for width: at equal training time xxlarge scored 88.7, BERT-large 87.2 (table 6).
#
# ## 6. In production (10 minutes)
#
# `AlbertConfig()` without arguments is *xxlarge*, 4,096 wide. `num_hidden_groups` says how many groups have numbers of their
# own; the default, 1, shares everything. The folder of such a model holds one layer:

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    tied32 = tree.map(lambda leaf: leaf.astype(np.float32), tied)
    Model(replace(config, num_hidden_groups=1), tied32).save(Path(folder) / "shared")
    Model(config, complete(tied32, config)).save(Path(folder) / "copies")
    for name in ("shared", "copies"):
        size = (Path(folder) / name / "model.safetensors").stat().st_size
        print(f"{name:7} {size:,} bytes")
    if lesson.installed("transformers", "torch"):
        from transformers import AlbertForMaskedLM

        opened = AlbertForMaskedLM.from_pretrained(Path(folder) / "shared").eval()
        with torch.no_grad():
            logits = opened(torch.tensor(batch["input_ids"])).logits.numpy()
        ours = Model(config, complete(tied32, config))(batch["input_ids"]).logits
        print("transformers computes the same from it:", np.allclose(logits, ours, atol=1e-4))

# %% [markdown]
# **Status today (2026).** ALBERT checkpoints are rare. Sharing lives on in language models for phones:
# [MobileLLM-LS](https://arxiv.org/abs/2402.14905) (2024) uses each layer twice; and in looped models
# ([2025](https://arxiv.org/abs/2502.05171)), which use theirs as often as a text asks. The thin table went into ELECTRA-small.
#
# ## 7. On your data (5 minutes)
#
# `bertcraft pretrain masked_lm --architecture albert --corpus FOLDER --steps 90000 --out run` trains one on your `.txt` files.
# More often you fine-tune a released one:
#
# ```python
# from transformers import pipeline, AutoTokenizer, AutoModelForSequenceClassification, Trainer, TrainingArguments
# from datasets import load_dataset
#
# name = "albert/albert-base-v2"
# tokenizer = AutoTokenizer.from_pretrained(name)
# data = load_dataset("csv", data_files="texts.csv")["train"].class_encode_column("label").train_test_split(0.2, seed=0)
# data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
# names = data["train"].features["label"].names
# model = AutoModelForSequenceClassification.from_pretrained(name, id2label=dict(enumerate(names)),
#                                                            label2id={each: i for i, each in enumerate(names)})
# trainer = Trainer(model, TrainingArguments("out", num_train_epochs=3, learning_rate=2e-5), train_dataset=data["train"],
#                   eval_dataset=data["test"], processing_class=tokenizer)
# trainer.train(); print(trainer.evaluate()); trainer.save_model("my_model")
# print(pipeline("text-classification", "my_model")("a text of yours"))
# ```
#
# | symptom | setting |
# | --- | --- |
# | the folder is small, yet memory is full | activations are those of an unshared model: smaller batches, [accumulated](06_gradient_accumulation.ipynb); transformers refuses `gradient_checkpointing` for ALBERT |
# | no faster than BERT | expected, see (3): a model of fewer layers, or distillation |
# | the loss stays where it began | a longer warm-up, or half the rate (0.002 failed four layers, shared or not) |
#
# ## 8. Exercises (70 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 Count it (one star, 10 minutes)
#
# The weights of an encoder with a thin table and a given part shared: no biases, norms, positions, pooler or head. The
# arguments are $V$, $e$, $H$, $F$, $N$ and what is shared.


# %% exercise="count_weights" stars=1
def count_weights(vocabulary, thin, hidden, inner, layers, shared):
    """shared: "all", "attention", "feed_forward" or "none". An integer."""
    ### BEGIN SOLUTION
    attention = 1 if shared in ("all", "attention") else layers
    feed_forward = 1 if shared in ("all", "feed_forward") else layers
    return vocabulary * thin + thin * hidden + attention * 4 * hidden**2 + feed_forward * 2 * hidden * inner
    ### END SOLUTION


# %%
check.count_weights(count_weights)

# %% [markdown]
# ### 8.2 Find the mistake (two stars, 10 minutes)
#
# Back through $z=W\,W\cdots W\,x$, as in (4). It runs, and it is wrong as soon as $W$ is used twice. Find the mistake and mend
# it.


# %% exercise="shared_gradient" stars=2
def shared_gradient(weight, x, gradient, uses):
    """The gradient of W (H, H), given x (H,) and the gradient of the loss by z (H,)."""
    inputs = [x]
    for _ in range(uses):
        inputs.append(weight @ inputs[-1])
    total = np.zeros_like(weight)
    for use in reversed(range(uses)):
        ### BEGIN SOLUTION
        total += np.outer(gradient, inputs[use])
        ### END SOLUTION
        ### BEGIN STUB
        # total = np.outer(gradient, inputs[use])
        ### END STUB
        gradient = weight.T @ gradient
    return total


# %%
check.shared_gradient(shared_gradient)

# %% [markdown]
# ### 8.3 Pairs whose topic tells nothing (two stars, 15 minutes)
#
# All pairs of neighbours of every document, each pair exchanged with probability one half. `rng` is the only source of chance.
# A segment goes into its triple as it is.


# %% exercise="honest_pairs" stars=2
def honest_pairs(documents, rng):
    """documents: lists of segments. A list of triples (first, second, label): 0 as in the text, 1 exchanged."""
    ### BEGIN SOLUTION
    found = []
    for document in documents:
        for a, b in zip(document, document[1:], strict=False):
            exchanged = int(rng.random() < 0.5)
            found.append((b, a, 1) if exchanged else (a, b, 0))
    return found
    ### END SOLUTION


# %%
check.honest_pairs(honest_pairs)

# %% [markdown]
# ### 8.4 The best thin table (three stars, 15 minutes)
#
# You have a trained table $(V,H)$ and want (1): a $(V,e)$ table and an $(e,H)$ map whose product is as near to it as possible,
# in squared error.
#
# The *singular value decomposition*, `np.linalg.svd`, writes a matrix as a sum of parts, largest first: each a column times a
# row times a number, its size. No sum of $e$ such products is nearer to it than that of the first $e$ parts.


# %% exercise="thin_table" stars=3
def thin_table(table, width):
    """table (V, H) -> the thin table (V, width) and the map (width, H)."""
    ### BEGIN SOLUTION
    u, s, vt = np.linalg.svd(table, full_matrices=False)
    return u[:, :width] * s[:width], vt[:width]
    ### END SOLUTION


# %%
check.thin_table(thin_table)

# %% [markdown]
# ### 8.5 Which one do you ship? (two stars, 10 minutes, a decision)
#
# An app may download 130 MB. Models of ALBERT-base's shape, two bytes a number; the accuracies are invented for this exercise, as
# if measured on the app's own task (ten seeds; the last column is the difference to the unshared model in points, with its 95 %
# interval):
#
# | shared | download | a text takes | accuracy |
# | --- | --- | --- | --- |
# | none | 179 MB | 31 ms | |
# | attention | 127 MB | 31 ms | -0.1 [-0.5, +0.3] |
# | all | 23 MB | 31 ms | -1.5 [-2.0, -0.9] |
#
# - `model`: "none", "attention" or "all".
# - `because`: (a) it is faster; (b) it fits, and the one that is smaller is shown to be worse than unshared; (c) it was shown to
#   be as good as the unshared model.
# - `unless`: what would change your mind? (a) a slower phone; (b) five more seeds; (c) a limit of 50 MB.


# %% exercise="ship" stars=2
def ship():
    """Your choices."""
    ### BEGIN SOLUTION
    return {"model": "attention", "because": "b", "unless": "c"}
    ### END SOLUTION


# %%
check.ship(ship)

# %% [markdown]
# ### 8.6 Deeper for nothing? (three stars, 10 minutes)
#
# A shared layer costs no parameters when it is used once more. On paper: let $f(h)=\kappa\,(h-h^*)+h^*$, with the parameters
# $\kappa$ (a number, $|\kappa|<1$) and $h^*$ (a vector). Where does $h^{(N)}$ go as $N$ grows, and how much does use $N+1$ move
# it? By (4), what does each use add to the gradients by $h^*$ and by $\kappa$? Then compare with the eight uses of part 5, and
# with the paper's remark that the states of its shared layers do *not* settle.

# %% [markdown] solution=true
# **Model answer.** $h^{(N)}-h^*=\kappa^N(h^{(0)}-h^*)$: it goes to the fixed point $h^*$; use $N+1$ moves it by
# $(\kappa-1)\kappa^N(h^{(0)}-h^*)$, geometrically less. Let $g$ be the gradient by $h^{(N)}$. Use $n$ receives $\kappa^{N-n}g$.
# By $h^*$ it adds $(1-\kappa)\kappa^{N-n}g$: the first uses hardly count. By $\kappa$ it adds
# $\kappa^{N-n}g\cdot(h^{(n-1)}-h^*)=\kappa^{N-1}g\cdot(h^{(0)}-h^*)$: all uses count alike, and together, $N\kappa^{N-1}$, they
# vanish. So if layers settled, more of them would be useless. The small layer of part 5 turns the states less with each use,
# but not geometrically less: no such $f$. The paper draws how far each of ALBERT-large's 24 uses moves them: less than BERT's
# layers do, but it does not go to zero (figure 1).

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **Parameters are not time, nor activations.**
# - **Three changes came at once.** To know what one of them does, switch one at a time: table, layers, order.
# - **Version 2 of the checkpoints** trained longer, on more data, without dropout: base went from 80.1 to 82.3, more than any of
#   the three changes brought.
# - **A shared parameter gets the sum of gradients.** SGD and clipping by norm see it, Adam's step hardly does. Tune the rate of
#   either model for itself.
# - **Sentence order needs documents.** Neighbours of a shuffled file of sentences are no neighbours.
#
# **Read**: Lan et al. 2020, [ALBERT](https://arxiv.org/abs/1909.11942), with [code](https://github.com/google-research/albert).
# Dehghani et al. 2019, [Universal transformers](https://arxiv.org/abs/1807.03819), shared layers before it.
#
# **Next** on the path *Architecture & Innovation*: [10, sparse attention](10_sparse_attention.ipynb).
