# %% [markdown]
# # Foundations, part 2: from a model to a decision
#
# [Part 1](00_foundations.ipynb) ends with an encoder that has learnt from plain text. This part does the two things that
# follow. First an encoder, MiniLM, is made to answer a question: which kind of request is this? Then we ask whether one way
# to do that is better than another, and say how all lessons decide such questions. The words are collected in the
# [glossary](00_glossary.ipynb).
#
# Set aside 125 minutes: one sitting for sections 1 to 3, one for the exercises.

# %%
import math
from dataclasses import replace

import numpy as np
import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("foundations_2")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. From encoder to classifier (25 minutes)
#
# BERT is made in two stages. **Pretraining** reads plain text, as in part 1, and takes days; its result is published as a
# **checkpoint**, the parameters in a file. **Fine-tuning** starts from a checkpoint and trains on the labelled texts of one
# task, and takes minutes. In between, one thing is added: the part that gives the answer.
#
# Every text begins with the token **[CLS]** and ends with **[SEP]**. The tokens between are cut by **WordPiece**: frequent words
# of the **vocabulary** stay whole, others are cut into pieces. Texts that are read together must be equally long: shorter ones
# are filled up with **[PAD]**, which attention and losses leave out. (Pretraining on long texts avoids padding by **packed
# rows**, filled with text from end to end.) After the last layer each token has its **hidden state**, a vector of $H$ numbers.
# The one at [CLS] is taken for the whole text. It goes through the **pooler**, a linear map and a tanh, and then through the new
# **head**, a linear map to one logit a class:
#
# $$z = W_{\mathrm{head}} \tanh(W_{\mathrm{pool}} h_1 + b_{\mathrm{pool}}) + b_{\mathrm{head}} \tag{1}$$
#
# $h_1$ is the vector at [CLS], $(H,)$; $W_{\mathrm{pool}}$ is $(H, H)$, $W_{\mathrm{head}}$ is $(C, H)$ for $C$ classes. The
# loss is the **cross-entropy** of part 1, with classes in place of tokens.

# %% alt="A text is cut into tokens with [CLS] in front and [SEP] behind, goes through embeddings and layers, both from the checkpoint; the vector at [CLS] goes through the pooler and a new head; the logits of the classes give the loss."
with drawing.schematic(columns=4, rows=2, width=8.4, row_height=1.15) as s:
    text = s.box("wake me at six", at=(0, 0), kind="data")
    tokens = s.box("[CLS] wake me\nat six [SEP]", at=(1, 0), kind="data")
    embeddings = s.box("embeddings", at=(2, 0))
    layers = s.box("layers 1 ... N", at=(3, 0))
    pooler = s.box("pooler", at=(3, 1))
    head = s.box("head", at=(2, 1), kind="new")
    answer = s.box("a logit for\neach class", at=(1, 1), kind="data")
    loss = s.box("cross-entropy", at=(0, 1))
    s.arrow(text, tokens, "tokenizer")
    s.arrow(tokens, embeddings, "(B, L)")
    s.arrow(embeddings, layers, "(B, L, H)")
    s.arrow(layers, pooler, "(B, H)\nat [CLS]")
    s.arrow(pooler, head, "(B, H)")
    s.arrow(head, answer, "(B, C)", kind="new")
    s.arrow(answer, loss)
    s.frame("from the checkpoint", embeddings, layers)

# %% [markdown]
# Grey is what plain BERT computes, blue is new, white is data; $B$ texts, $L$ tokens each. (A checkpoint holds the pooler
# too. That of MiniLM, our encoder, was left out of its last training, which used the mean of all tokens.) Equation (1) in the
# library, but for the last map, which follows below:

# %%
from bertcraft.bert import encoder, families, heads
from bertcraft.bert import Config
from bertcraft.tensor import functions as F

from bertcraft.bert.heads import pooled  # inline

# %% [markdown]
# ### The task
#
# HWU64 holds requests to a home assistant, in 64 classes. We take eight of them, with 20 training texts each. The data set comes
# in three parts, and every lesson keeps them apart:
#
# - **training texts**: parameters are computed from them;
# - **development texts** (*dev*): settings such as the learning rate are chosen by them. A score on them is too good, because
#   they helped to choose;
# - **test texts** (or **held-out** texts): read once, at the end. Nothing is chosen by them.

# %%
from bertcraft.data import task, weights

requests, model = task("hwu64"), bc.load(weights("minilm"))
CLASSES = "alarm_set alarm_query alarm_remove calendar_set lists_createoradd play_music play_radio weather_query".split()


def some(split, each, seed=0):
    """Texts of the eight classes, `each` of every one, with the numbers of their classes."""
    random, texts, labels = np.random.default_rng(seed), [], []
    for number, name in enumerate(CLASSES):
        own = np.flatnonzero(split.labels == requests.labels.index(name))
        own = random.permutation(own)[:each]
        texts += [split.texts[i] for i in own]
        labels += [number] * len(own)
    return texts, np.array(labels)


train_texts, train_labels = some(requests.train, 20)
test_texts, test_labels = some(requests.test, 30)
print(len(train_texts), "training texts,", len(test_texts), "test texts; for instance", train_texts[0::40])

# %% [markdown]
# What is to be had for nothing? Two **trivial rows** belong in every table of a classifier: the most frequent class, and
# **TF-IDF**, which counts a text's words, gives rare words more weight, and puts *logistic regression* on top: one linear map
# to a logit for each class, trained with the cross-entropy.

# %%
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

words = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(train_texts, train_labels)
print(f"most frequent class {np.bincount(test_labels).max() / len(test_labels):.1%}")
print(f"TF-IDF              {words.score(test_texts, test_labels):.1%}")

# %% [markdown]
# ### Fine-tuning, live
#
# The texts of one **batch** give one update, one **step**. Sixteen texts drawn for each of 40 steps are as many as four
# readings of the 160 (a reading of all training texts is called an **epoch**). The update rule is **AdamW**: each parameter's
# step is scaled by the recent size of its own gradient, and **weight decay** makes parameters a little smaller at each step.
# Two habits come with it. **Clipping** shortens a gradient that is longer than 1. **Warm-up** raises the **learning rate**
# from 0 over the first steps, after which it falls to 0. Each has a lesson: 14, 20 and 09.
#
# Nothing is **frozen** here: all 22.7 million parameters move. **Predict first**: what share of the test texts does it get right
# before the first step, and after 40?

# %% quick="STEPS = 6"
STEPS, RATE = 40, 3e-4

# %%
from bertcraft.data.batches import pad
from bertcraft.tensor import tree
from bertcraft.tensor.parallel import sharded_value_and_grad
from bertcraft.train import adamw, chain, clip_by_global_norm, warmup_linear

config = replace(model.config, head="sequence_classification", num_labels=len(CLASSES), id2label=None, label2id=None)
weight = 0.02 * np.random.default_rng(0).standard_normal((len(CLASSES), config.hidden_size), dtype=np.float32)
params = {**model.params, "classifier": {"weight": weight, "bias": np.zeros(len(CLASSES), np.float32)}}


def batch_of(texts, labels):
    input_ids, attention_mask = pad([np.array(each.ids) for each in model.tokenizer.encode_batch(texts)], pad_id=0)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def logits(params, batch, rng=None):
    hidden = encoder.encode(params, config, batch["input_ids"], batch["attention_mask"], rng=rng)
    vector = F.dropout(pooled(params, config, hidden), config.hidden_dropout_prob, rng)
    return encoder.dense(params["classifier"], vector)  # equation 1


# %%
def loss(params, batch, rng=None):
    return F.cross_entropy(logits(params, batch, rng), batch["labels"])


def score(params):
    right = np.argmax(logits(params, test), axis=1) == test["labels"]
    return float(loss(params, test)), right.mean()


test, order = batch_of(test_texts, test_labels), np.random.default_rng(1)
loss_and_gradient = sharded_value_and_grad(loss, shard_size=8)
rule = chain(clip_by_global_norm(1.0), adamw(warmup_linear(RATE, 5, STEPS)))
state, tuned = rule.init(params), params
print("before", "loss {:.2f} nats, {:.1%} right".format(*score(tuned)))
for step in range(STEPS):
    chosen = order.permutation(len(train_texts))[:16]
    value, gradient = loss_and_gradient(tuned, batch_of([train_texts[i] for i in chosen], train_labels[chosen]), step)
    updates, state = rule.update(gradient, state, tuned)
    tuned = tree.map(np.add, tuned, updates)
print("after ", "loss {:.2f} nats, {:.1%} right".format(*score(tuned)))

# %% [markdown]
# The loss before is near $\ln 8 = 2.08$ **nats**: a choice among eight. Forty steps were enough to pass TF-IDF, from the start
# that pretraining gave. (One run on 145 texts: how far to trust such a difference is the question of section 3.) How does it look
# on texts of yours?

# %%
for text in ("wake me up at six tomorrow", "do i need an umbrella", "put milk on the shopping list", "is there an alarm for monday"):
    p = F.softmax(logits(tuned, batch_of([text], np.array([0]))))[0]
    print(f"{text:32}", "  ".join(f"{CLASSES[i]} {p[i]:.0%}" for i in np.argsort(-p)[:2]))

# %% [markdown]
# ### Without training the encoder
#
# A frozen encoder computes each text's vector once. A simple classifier on such vectors is a **probe**: it asks what the vectors
# already know. The simplest is the **nearest mean**: average the vectors of each class, and give a new text the class of the
# nearest average. It takes no gradient at all. Section 3 uses it, because it takes milliseconds.
#
# What does it cost? An addition or a multiplication of two numbers is one **FLOP**. Reading a token takes about two for each
# parameter (outside of the embeddings), and the backward pass four. So a step costs three times as much as reading the same texts
# once, and a probe reads them only once.
#
# ## 2. Dropout (10 minutes)
#
# A model with 22.7 million parameters can learn 160 texts by heart. That is **overfitting**: better on the training texts,
# worse on others. **Dropout** is one remedy. In training, each number of a vector is set to 0 with some probability (BERT:
# 0.1), and the rest is divided by 1 less that probability, so that the mean stays. No number can rely on another one being
# there.
#
# By hand: $x = (2, 4, 6, 8)$, the probability is $\frac12$, and the second and third are dropped: $(4, 0, 0, 16)$. The sum is
# 20 as before, by luck. Over many draws the *mean* of each place is what it was.

# %%
from bertcraft.tensor.functions import keep_mask

from bertcraft.tensor.functions import dropout  # inline

# %%
random = np.random.default_rng(0)
x = np.array([2.0, 4.0, 6.0, 8.0])
draws = np.stack([dropout(x, 0.5, random) for _ in range(10_000)])
print("three draws\n", draws[:3])
print("mean of 10,000 draws", draws.mean(axis=0).round(2), "  without a generator:", dropout(x, 0.5, None))

# %% [markdown]
# The last call is how a model is used: without a random generator nothing is dropped. A model that gives another answer each
# time it is asked was left in training mode, a frequent bug.

# %% [markdown]
# ## 3. How we decide (30 minutes)
#
# Which vector should a probe read? We compare four **arms**, as recipes are called in an experiment:
#
# - `cls`: the hidden state at [CLS];
# - `mean`: the mean of all tokens' hidden states. This is the **baseline**, the arm that the others are compared with;
# - `words`: the mean without [CLS] and [SEP];
# - `unit`: as `mean`, but each text's vector is brought to length 1.
#
# The task: all 64 classes of HWU64, five training texts a class, the nearest mean, 400 test texts. One cell computes the
# vectors of a pool of twelve texts a class; after that a run takes milliseconds.


# %%
def vectors(split, numbers):
    """{arm: (n, H)} of some texts, and their classes."""
    ids = [np.array(each.ids) for each in model.tokenizer.encode_batch([split.texts[i] for i in numbers])]
    found = {arm: np.zeros((len(ids), config.hidden_size), np.float32) for arm in ("cls", "mean", "words")}
    by_length = np.argsort([len(each) for each in ids], kind="stable")
    for start in range(0, len(ids), 16):
        rows = by_length[start : start + 16]
        x, mask = pad([ids[i] for i in rows], pad_id=0)
        hidden = encoder.encode(model.params, model.config, x, mask)
        for arm, kept in (("mean", mask), ("words", mask * (x != 101) * (x != 102))):  # 101 and 102: [CLS] and [SEP]
            found[arm][rows] = (hidden * kept[:, :, None]).sum(axis=1) / kept.sum(axis=1, keepdims=True)
        found["cls"][rows] = hidden[:, 0]
    found["unit"] = F.normalize(found["mean"])
    return found, split.labels[numbers]


# %% quick="POOL = 6"
POOL = 12

# %%
order = np.random.default_rng(0).permutation(len(requests.train))
pool = np.concatenate([order[requests.train.labels[order] == c][:POOL] for c in range(64)])
known, known_labels = vectors(requests.train, pool)
asked, asked_labels = vectors(requests.test, np.random.default_rng(1).permutation(len(requests.test))[:400])


def run(seed):
    """{arm: % right} when five texts a class are drawn from the pool."""
    draw = np.random.default_rng(seed).permutation(len(pool))
    mine = np.concatenate([draw[known_labels[draw] == c][:5] for c in range(64)])
    right = {}
    for arm in known:
        means = np.stack([known[arm][mine][known_labels[mine] == c].mean(axis=0) for c in range(64)])
        nearest = np.argmax(asked[arm] @ means.T - 0.5 * (means**2).sum(axis=1), axis=1)  # the smallest distance
        right[arm] = 100 * (nearest == asked_labels).mean()
    return right


# %% [markdown]
# ### One run is one accident
#
# Which five texts were drawn decides a good part of the result. The number that all random choices of a run follow from is its
# **seed**: here they are the texts drawn, in other experiments also the starting values, the order of the texts, the dropout.
# **Predict first**: by how much will `mean` differ from seed to seed?

# %%
runs = [run(seed) for seed in range(5)]
print("seed ", "  ".join(f"{arm:>6}" for arm in runs[0]), "   unit - mean")
for seed, each in enumerate(runs):
    print(f"{seed:4} ", "  ".join(f"{value:6.1f}" for value in each.values()), f"   {each['unit'] - each['mean']:+8.1f}")

# %% [markdown]
# Read down the column `mean`: nothing but the five texts a class has changed, and it moves by almost three points. Had `mean`
# drawn the texts of its best row and `words` those of its worst, `mean` would seem the better by nearly two. Now read the
# last column. Both arms had the *same* texts in each row, so what made a draw easy or hard for both cancels in the
# difference. Such runs are **paired**, and in this project runs always are.
#
# ### An interval
#
# $n$ differences $d_1 \dots d_n$ have a mean $\bar d$ and a **standard deviation** $s$, the root of their mean squared distance
# from the mean (divided by $n - 1$, because the mean was computed from the same numbers):
#
# $$\bar d \pm t_n \frac{s}{\sqrt n}, \qquad s^2 = \frac{1}{n - 1} \sum_i (d_i - \bar d)^2 \tag{2}$$
#
# This is the 95 % **confidence interval** of Student. The factor $t_n$ comes from a table: 12.71 for two runs, 4.30 for three,
# 2.78 for five, 2.26 for ten. By hand: differences 3, 4, 2 have the mean 3 and the deviation 1; $4.30 / \sqrt 3 = 2.48$; the
# interval is $[0.5, 5.5]$. It says: the true mean difference may well be 1 or 5; it is hardly 0.

# %%
T = {3: 4.303, 5: 2.776, 10: 2.262}


def interval(differences):
    d = np.asarray(differences)
    half = T[len(d)] * d.std(ddof=1) / math.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


def against_mean(arm, seeds):
    return [each[arm] - each["mean"] for each in map(run, seeds)]


for arm in ("unit", "words", "cls"):
    print(f"{arm:5} - mean: {{:+.1f}} points [{{:+.1f}}, {{:+.1f}}]".format(*interval(against_mean(arm, range(5)))))

# %% [markdown]
# ### What the 95 % mean
#
# A run is cheap here, so we can watch the promise. Forty experiments of five seeds each give forty intervals for `unit` less
# `mean`. The mean over all two hundred runs is as good as the truth. **Predict first**: how many of the forty miss it?

# %% quick="EXPERIMENTS = 8"
EXPERIMENTS = 40

# %% alt="Forty intervals, one an experiment, drawn as upright lines around a level line, the mean over all runs. Most cross the line; those that miss it are drawn thick and orange."
found = np.array([interval(against_mean("unit", range(5 * i, 5 * i + 5))) for i in range(EXPERIMENTS)])
truth = found[:, 0].mean()
miss = (found[:, 1] > truth) | (found[:, 2] < truth)
with style.shown(height=2.6) as axes:
    axes.axhline(truth, color="0.2", linestyle=":", linewidth=1)
    for i, (middle, low, high) in enumerate(found):
        colour, width = (style.COLOURS[2], 2.6) if miss[i] else ("0.45", 1.2)
        axes.plot([i + 1, i + 1], [low, high], color=colour, linewidth=width)
        axes.plot(i + 1, middle, "o", color=colour)
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set(xlabel="experiment (five seeds each)", ylabel="unit - mean, points")
print(f"{miss.sum()} of {len(found)} intervals miss {truth:.2f}; two are expected")

# %% [markdown]
# An interval speaks of what was *varied*, and of nothing else. Here that is which texts were drawn from one pool. The task, the
# model and the 400 test texts were the same in all runs: about other tasks it says nothing, nor about another pool. (The lessons
# ask about texts in general. Where their seeds draw from one pool, the runs share texts and differ too little, and the intervals
# are widened by the rule of Nadeau and Bengio 2003.)
#
# ### The claim has a form
#
# "It works" cannot be tested. These claims can:
#
# | form | says | **reproduced** | **contradicted** |
# | --- | --- | --- | --- |
# | **superior** | better than the baseline | interval above 0 | interval below 0 |
# | **not worse than** a margin | "keeps 97 %" | interval above minus the margin | interval below minus the margin |
# | **equal within** a margin | "the same as" | interval inside the margins | interval outside the margins |
# | **exact** | counted or calculated | holds | does not hold; no interval |
#
# In all other cases the verdict is **cannot tell**. It is no word for "equal": an interval of $[-5, +6]$ says that we know
# little. To show equality you need a margin, fixed before the runs, and an interval that fits inside.
#
# The table is for scores, where more is better. For a loss, less is better, and the signs turn: $[-0.3, -0.1]$ nats is "superior,
# reproduced". And where two arms are divided, not subtracted ("0.5 times the memory"), 1 takes the place of 0.
#
# Three claims on our arms. **Predict first** each verdict: `unit` is superior to `mean`; `words` equals `mean` within 1 point;
# `cls` is not worse than `mean` by more than 1 point.

# %% alt="Left: five lines, one a seed, each from the score of mean up to the score of unit. Right: three intervals against the zones of their claims: unit lies within its zone, above 0; words reaches across the margin of 1; cls lies far below minus 1."
claims = {"unit": "superior", "words": "equal within 1", "cls": "not worse than 1"}
zones = {"unit": (0, 8), "words": (-1, 1), "cls": (-1, 8)}
with style.shown(columns=2, width=7.8, height=2.9) as (left, right):
    for each in runs:
        left.plot([0, 1], [each["mean"], each["unit"]], color="0.4", marker="o", linewidth=1)
    left.set_xticks([0, 1], ["mean", "unit"])
    left.set(xlim=(-0.3, 1.3), ylabel="% right", title="the same five draws")
    for place, arm in enumerate(claims):
        middle, low, high = interval([each[arm] - each["mean"] for each in runs])
        right.fill_betweenx([place - 0.35, place + 0.35], *zones[arm], color="0.88", linewidth=0)
        right.plot([low, high], [place, place], color=style.COLOURS[1], linewidth=2.4)
        right.plot(middle, place, "s", color=style.COLOURS[1])
    right.axvline(0, color="0.2", linewidth=0.8)
    right.set_yticks(range(3), [f"{arm}:\n{claim}" for arm, claim in claims.items()])
    right.set(xlim=(-22, 8), ylim=(2.6, -0.6), xlabel="difference to mean, points", title="grey: where the claim holds")

# %% [markdown]
# `unit` lies in its zone: reproduced. `cls` lies outside: contradicted. `words` sticks out of its zone: cannot tell, although its
# middle is well inside.
#
# ### Before the verdict
#
# **Checks.** A question may make no sense where it was asked. Two recipes for a masked language model cannot be compared on the
# plateau of part 1. So each experiment declares a **manipulation check**: what must hold first (the model is off the plateau, the
# classifier beats TF-IDF, the teacher beats the student). If one fails the verdict is **not testable here**.
#
# **Controls.** A **control** is an arm that rules out another explanation. Does a clever order of the texts help, or would any
# order of the same batches?
#
# **One question at a time.** The claim is one comparison, the **primary comparison**, declared beforehand. Of twenty others
# beside it, about one looks clear by accident, even if there is nothing to be found. A **p-value** is the probability of a
# difference at least this large if there were none; it is below 0.05 exactly where the 95 % interval leaves out 0. **Holm's
# correction** makes the others pay for their number. It multiplies the smallest of $n$ p-values by $n$, the next by $n - 1$,
# and so on; none may end below the one before it, nor above 1. By hand: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06, and only
# the first is still below 0.05.

# %% [markdown]
# ## 4. Exercises (55 minutes)
#
# ### 4.1 Drop and scale (one star, 5 minutes)
#
# `keep` says which numbers stay. Return what dropout returns in training. (`hint("drop")` helps, `solution("drop")` tells; so for
# every exercise.)


# %% exercise="drop" stars=1
def drop(x, keep, rate):
    """Dropout with given draws: x floats (n,), keep booleans (n,), each true with probability 1 - rate."""
    ### BEGIN SOLUTION
    return np.where(keep, x / (1 - rate), 0.0)
    ### END SOLUTION


# %%
check.drop(drop)

# %% [markdown]
# ### 4.2 The interval of a difference (two stars, 10 minutes)
#
# Write equation (2) for paired runs. `t` is the factor from the table.


# %% exercise="paired_interval" stars=2
def paired_interval(treatment, baseline, t):
    """(mean, low, high) of treatment - baseline. Both floats (n,), a number a seed, in the same order."""
    ### BEGIN SOLUTION
    d = treatment - baseline
    half = t * d.std(ddof=1) / math.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half
    ### END SOLUTION


# %%
check.paired_interval(paired_interval)

# %% [markdown]
# ### 4.3 The verdict (two stars, 10 minutes)
#
# Return "reproduced", "contradicted" or "cannot tell" for the interval of a difference (more is better). `form` is "superior",
# "not worse" or "equal".


# %% exercise="verdict" stars=2
def verdict(form, low, high, margin=0.0):
    """The verdict on a claim; margin is above 0 for "not worse" and "equal"."""
    ### BEGIN SOLUTION
    if form == "equal":
        if -margin < low and high < margin:
            return "reproduced"
        return "contradicted" if high < -margin or low > margin else "cannot tell"
    line = -margin if form == "not worse" else 0.0
    if low > line:
        return "reproduced"
    return "contradicted" if high < line else "cannot tell"
    ### END SOLUTION


# %%
check.verdict(verdict)

# %% [markdown]
# ### 4.4 Many questions (two stars, 15 minutes)
#
# Write Holm's correction. The answer has the order of the question.


# %% exercise="holm" stars=2
def holm(p):
    """Corrected p-values, floats (n,) as p is."""
    ### BEGIN SOLUTION
    order = np.argsort(p)
    raised = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return corrected
    ### END SOLUTION


# %%
check.holm(holm)

# %% [markdown]
# ### 4.5 Which vector goes into the product? (two stars, 15 minutes, a decision)
#
# Your assistant runs with `mean` today. Changing to another arm is a morning's work, so you will make one change or none. The
# table has ten new seeds. (It is to decide something, so the 400 texts serve as development texts here; how good the arm is
# that you take would have to be read on others.)

# %%
print("arm     % right   less mean   95 % interval")
for arm in known:
    middle, low, high = interval(against_mean(arm, range(300, 310)))
    score = np.mean([run(seed)[arm] for seed in range(300, 310)])
    print(f"{arm:6} {score:8.1f} " + ("  (in use)" if arm == "mean" else f"{middle:+11.1f}   [{low:+.1f}, {high:+.1f}]"))

# %% [markdown]
# Answer three questions, the second and the third with a letter.
#
# - `arm`: the arm that you take.
# - `because`: (a) it has the highest number in the table; (b) its interval lies well above 0, and above those of the others; (c)
#   `words` was shown to be equal to `mean`, so only one arm is left.
# - `unless`: what would change your mind? (a) ten more seeds of the same pool, in one of which the arm loses; (b) an interval that
#   holds 0 or lies below, from requests of your own users; (c) another paper that prefers [CLS].


# %% exercise="choose" stars=2
def choose():
    """{"arm": "cls", "mean", "words" or "unit", "because": "a", "b" or "c", "unless": "a", "b" or "c"}."""
    ### BEGIN SOLUTION
    return {"arm": "unit", "because": "b", "unless": "b"}
    ### END SOLUTION


# %%
check.choose(choose)

# %% [markdown]
# ## 5. Pitfalls, references, what next (5 minutes)
#
# - **"Not separated" is not "equal".** Without a margin no experiment shows equality.
# - **Five seeds of one task are one task.** The interval is about seeds.
# - **Settings chosen on test texts** make every interval too good, and no formula mends it.
# - **Two intervals that overlap** may belong to a clear difference: look at the interval of the difference.
# - **A pooler that training left out** (MiniLM's) gives no good vector before fine-tuning. Many sentence encoders, MiniLM too,
#   use the mean.
#
# Read on: Devlin et al. 2019, "BERT", arXiv:1810.04805, sections 3.2 and 4.1 (fine-tuning); Srivastava et al. 2014,
# "Dropout", JMLR 15; Student 1908, "The Probable Error of a Mean", Biometrika 6; Holm 1979, "A Simple Sequentially Rejective
# Multiple Test Procedure", Scandinavian Journal of Statistics 6; Nadeau and Bengio 2003, "Inference for the Generalization
# Error", Machine Learning 52; Reimers and Gurevych 2019, "Sentence-BERT", arXiv:1908.10084 (the mean against [CLS]).
#
# Next: the [index](00_index.ipynb) has four paths through the techniques.
