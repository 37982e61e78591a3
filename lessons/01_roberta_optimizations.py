# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 01. RoBERTa: the same model, a better recipe
#
# RoBERTa has BERT's layers to the last matrix. In 2019 it matched or beat every model published as *better* than BERT.
# Everyone quotes the sum of its changes. You will run their code, see what it does to the text, and measure the one that most
# later recipes have kept: masks drawn anew.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for masked language models and [its second part](00_foundations_2.ipynb) for
# intervals. The sections take 205 minutes, half of them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("roberta_optimizations")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)
#
# "RoBERTa is 3 to 5 points better than BERT" compares two models that differ in six things: masks drawn anew; full sentences
# without *next sentence prediction* (NSP: does the second half of a row follow the first?); larger batches; a vocabulary of bytes
# instead of characters; rows of full length from the first step on; and far more text and steps. Only the first is measured here.

# %%
lesson.claim()

# %% [markdown]
# The paper's own numbers, against the tokens that each model read. On the right, all points but the first are the *same* recipe;
# only text and steps grow.

# %%
# GLUE development sets, single models (Liu et al. 2019, table 5): RoBERTa-large after 500,000 steps, BERT-large
GLUE = {"RTE": (86.6, 70.4), "CoLA": (68.0, 60.6), "MNLI": (90.2, 86.6), "SST-2": (96.4, 93.2), "MRPC": (90.9, 88.0),
        "QNLI": (94.7, 92.3), "STS-B": (92.4, 90.0), "QQP": (92.2, 91.3)}  # fmt: skip
gains = {task: roberta - bert for task, (roberta, bert) in GLUE.items()}
bert_read = 256 * 1e6 * (0.9 * 128 + 0.1 * 512)  # batch x steps x length: nine tenths of its steps read rows of 128 tokens
roberta_read = {steps: 8000 * steps * 512 for steps in (100e3, 300e3, 500e3)}
print(f"mean gain {np.mean(list(gains.values())):.1f} points, without RTE {(sum(gains.values()) - gains['RTE']) / 7:.1f}")
print(f"RoBERTa read {roberta_read[500e3] / bert_read:.0f} times as many tokens")

# %% alt="Left: bars of RoBERTa-large's gain over BERT-large on eight tasks, from 16 points on RTE down to 1 on QQP, with the mean at 4.9. Right: MNLI accuracy against tokens read on a log axis; BERT at 86.6, RoBERTa on the same text with almost ten times the tokens at 89.0, then a slow rise to 90.2."
with style.shown(columns=2, width=8.2, height=3.3) as (left, right):
    left.barh(list(gains)[::-1], list(gains.values())[::-1], color=style.COLOURS[1])
    left.axvline(np.mean(list(gains.values())), color="0.2", lw=1, ls="--")
    left.set(xlabel="RoBERTa-large minus BERT-large (points)\ndashed: mean of the eight", title="the famous gain, by task")
    right.plot(bert_read, 86.6, **style.line(0), label="BERT-large, 16 GB")
    right.plot(roberta_read[100e3], 89.0, "^", color=style.COLOURS[2], label="RoBERTa-large, 16 GB")
    right.plot(list(roberta_read.values()), [89.3, 90.0, 90.2], **style.line(1), label="RoBERTa-large, 160 GB")
    right.set(xscale="log", xlabel="tokens read in pretraining", ylabel="MNLI (% right)", title="and what it was paid with")
    right.legend(fontsize=8, loc="lower right")

# %% [markdown]
# Two fifths of the sum come from one small task, RTE. On MNLI two thirds of the gain are there at the first RoBERTa point: BERT's
# text, almost ten times as many tokens read. Ten times as much text adds 0.3 at equal steps; longer training the rest. (The 16.6
# times in the box counts as if all of BERT's rows had 512 tokens. Most had 128: in tokens read it is 48 times.)
#
# No point isolates masks, format or batch. Section 4 of the paper does, with BERT-base: tenths of a point.
#
# ## 2. Background and motivation (10 minutes)
#
# BERT masked its text *before* training. A script wrote ten masked copies of each row to disk, and training read these ten
# **static masks** over and over: 40 readings, each copy four times. RoBERTa draws the mask when a row is read.

# %% alt="Left to right: a text goes to the box choose and hide, then to the encoder, the head, and the loss. Below, two sources feed choose and hide: BERT's ten masks drawn once, dashed, and RoBERTa's mask drawn at each reading, in blue. The hidden words go directly to the loss."
with drawing.schematic(columns=5, rows=3, width=9.2, row_height=0.85) as s:
    text = s.box("a text\nof the corpus", at=(0, 1), kind="data")
    hide = s.box("choose 15 %\nand hide them", at=(1, 1))
    network = s.box("encoder", at=(2, 1))
    output = s.box("masked-LM\nhead", at=(3, 1))
    surprise = s.box("loss (1)", at=(4, 1))
    static = s.box("BERT: ten masks\ndrawn beforehand", at=(0.5, 2), kind="frozen")
    dynamic = s.box("RoBERTa: a mask\nat each reading", at=(1.75, 2), kind="new")
    labels_box = s.box("the hidden\nwords", at=(2.5, 0), kind="data")
    s.arrow(text, hide, "(B, L)")
    s.arrow(hide, network, "(B, L)")
    s.arrow(network, output, "(B, M, H)")
    s.arrow(output, surprise, "(B, M, V)")
    s.arrow(static, hide)
    s.arrow(dynamic, hide, kind="new")
    s.arrow(hide, labels_box, "(B, M)")
    s.arrow(labels_box, surprise, "(B, M)")

# %% [markdown]
# $B$ rows of $L$ tokens, $M$ of them chosen (in this lesson); $H$ numbers a token; $V$ words.
#
# **Predict first.** A row is read 40 times and 15 % of its tokens are hidden each time. What share of its tokens does a model with
# *ten* fixed masks never have to guess? And with a new mask at each reading?
#
# Here is a short request, and where the mask falls at eight readings.

# %%
from bertcraft.lab import pretraining
from bertcraft.techniques import roberta_optimizations as technique

setting = pretraining.Setting(
    corpus="utterances", texts=1024, vocab_size=2048, length=24, hidden=64, batch=32, shard=32, steps=384, rate=4e-3,
    held_out=500, evaluations=8,
)  # fmt: skip
texts = pretraining.prepare(setting)
pieces = [texts.tokenizer.id_to_token(i) for i in range(texts.tokenizer.get_vocab_size())]
spelt = [[pieces[i] for i in ids if i] for ids in texts.train]
row = 155  # a request of whole words
words = spelt[row]


def places_masked(row: int, reading: int, copies: int | None) -> np.ndarray:
    """Which tokens of a row are chosen when it is read for that time: booleans (L,)."""
    number = technique.reading_number(np.array([reading]), copies)
    batch = pretraining.mask(texts.train[[row]], np.array([row]), number, 0, 0.15, texts.vocabulary)
    chosen = np.zeros(texts.train.shape[1], bool)
    chosen[batch["at"][0][batch["labels"][0] >= 0]] = True
    return chosen


# %% alt="Three grids, a row a reading and a column a word of the request. One static mask: the same columns are filled in all eight rows. Three static masks: three patterns come again and again, in turn. Dynamic: the pattern keeps changing."
READINGS = 8
regimes = {"one static mask": 1, "three static masks": 3, "dynamic": None}
with style.shown(columns=3, width=9.0, height=3.0) as panels:
    for ax, (title, copies) in zip(panels, regimes.items(), strict=True):
        grid = np.array([places_masked(row, reading, copies)[: len(words)] for reading in range(READINGS)])
        ax.imshow(grid, cmap="Blues", vmax=1.3, aspect="auto")
        ax.set_xticks(range(len(words)), words, rotation=90, fontsize=7)
        ax.set(title=title, yticks=range(READINGS), yticklabels=range(1, READINGS + 1))
        ax.grid(False)
    panels[0].set_ylabel("reading")

# %% [markdown]
# With one mask each reading is the same puzzle, and the answer can be learnt by heart. With dynamic masks it is another puzzle
# about the same sentence. That is all of "dynamic masking", and it costs nothing.
#
# ## 3. Mathematical foundation (15 minutes)
#
# ### The loss
#
# A row $x$ has tokens $x_1 \dots x_L$. Some positions, the set $S$, are *chosen*. A corrupted row $\tilde x$ is shown to the
# model, which gives a probability $p_i(w \mid \tilde x)$ to each word $w$ at each position $i$. The loss is the mean surprise at
# the chosen ones, in *nats* (natural logarithms):
#
# $$\mathcal L = -\frac{1}{|S|}\sum_{i\in S}\ln p_i(x_i\mid\tilde x) \tag{1}$$
#
# By hand: of *set an alarm*, the words *set* and *alarm* are chosen; the model gives them probabilities 1/2 and 1/4. The loss
# is $(\ln 2+\ln 4)/2 = 1.04$ nats.
#
# ### The corruption
#
# A chosen token is replaced according to a die:
#
# $$\tilde x_i=\begin{cases}\texttt{[MASK]} & \text{with probability } 0.8\\ \text{a word drawn at random} & \text{with } 0.1\\
# x_i \text{ itself} & \text{with } 0.1\end{cases}\tag{2}$$
#
# The model is used later on text without [MASK]. The last two cases keep it from ignoring the words that it is shown. But a word
# that is left can be *copied*. So we score positions that show [MASK], and no others, against the *unigram loss*: that of a table
# of word frequencies. A model that has not left this **plateau** has learnt nothing from context, and cannot tell two recipes
# apart.
#
# ### What fixed masks leave out
#
# Let $\rho$ be the share of tokens that is chosen, $R$ the number of readings, and $\kappa$ the number of fixed masks. One mask
# leaves a given token out with probability $1-\rho$. Fixed masks are only $\kappa$ draws, however often the row is read:
#
# $$\text{never asked for} = (1-\rho)^{\min(R,\,\kappa)} \text{ (static)},\qquad (1-\rho)^{R}\text{ (dynamic)} \tag{3}$$
#
# BERT: $0.85^{10}=0.197$. **One token in five was never asked for**, in 40 readings. With dynamic masks it is
# $0.85^{40}=0.0015$. Up to ten readings the two are the same: nothing has come twice. Now (3) against masks that are really
# drawn, for all requests of 20 words, of which 15 % are exactly three.

# %%
every = pretraining.prepare(pretraining.Setting(corpus="utterances", vocab_size=2048, length=24)).train
twenty = every[(every >= pretraining.FIRST_WORD).sum(axis=1) == 20]
print(len(twenty), "requests of 20 words")


def never_asked_for(copies: int | None, readings: int) -> np.ndarray:
    """The share of tokens that no mask has chosen after 1, 2 ... readings."""
    asked, shares = np.zeros(twenty.shape, bool), []
    for reading in range(readings):
        number = technique.reading_number(np.full(len(twenty), reading), copies)
        batch = pretraining.mask(twenty, np.arange(len(twenty)), number, 0, 0.15, texts.vocabulary)
        n, m = np.nonzero(batch["labels"] >= 0)
        asked[n, batch["at"][n, m]] = True
        shares.append(1 - asked[twenty >= pretraining.FIRST_WORD].mean())
    return np.array(shares)


# %% alt="Share of tokens never asked for against readings. One static mask stays at 0.85. Ten static masks fall to 0.2 at ten readings and stay there. Dynamic masks fall on towards zero. Counted marks lie on the lines of equation 3."
R = np.arange(1, 41)
with style.shown(width=6.4, height=3.2) as ax:
    kinds = {"1 static mask": 1, "10 static masks (BERT)": 10, "dynamic (RoBERTa)": None}
    for place, (title, copies) in zip((2, 0, 1), kinds.items(), strict=True):
        look = style.line(place)
        ax.plot(R, 0.85 ** (R if copies is None else np.minimum(R, copies)), color=look["color"], ls=look["linestyle"], label=title)
        ax.plot(R[::3], never_asked_for(copies, 40)[::3], look["marker"], color=look["color"])
    ax.set(xlabel="times the row has been read", ylabel="share of tokens never asked for", ylim=(-0.02, 0.9))
    ax.legend(title="lines: equation (3); marks: counted", fontsize=8, title_fontsize=8)

# %% [markdown]
# ### How many masks are there?
#
# Of $n$ words $k$ are chosen: $\Omega=\binom{n}{k}$ masks, all equally likely. One draw misses a given mask with probability
# $1-1/\Omega$, $R$ draws with its $R$-th power. So the different masks seen are, on average,
#
# $$\Omega\left(1-\left(1-\tfrac1\Omega\right)^{R}\right) \tag{4}$$
#
# By hand: four words, one of them chosen, $\Omega=4$; four readings show $4\,(1-(3/4)^4)=2.73$ masks. A request of 10 words with
# 2 chosen has 45; 40 readings show 26.7. A row of 510 words has more masks than the visible universe has atoms. So in short rows
# even dynamic masks repeat.
#
# ## 4. NumPy implementation (25 minutes)
#
# ### Random numbers without a state
#
# A static mask must be drawn *again* in the same way at each reading, in any order, on any machine. So the numbers are a **hash**
# of (seed, row, reading). Static masks then need no file on disk: they are the dynamic ones with the reading's number taken modulo
# $\kappa$.

# %%
from bertcraft.techniques.roberta_optimizations import uniforms, _mix, reading_number, STATIC_COPIES  # inline

# %%
some, alone = uniforms(0, np.arange(10), np.zeros(10), 4), uniforms(0, np.array([7]), np.zeros(1), 4)
print("row 7 among others and alone:", np.array_equal(some[7], alone[0]))
first, second = (uniforms(0, np.arange(5000), np.full(5000, reading), 4) for reading in (0, 1))
print(f"mean {first.mean():.3f}, correlation of two readings {np.corrcoef(first.ravel(), second.ravel())[0, 1]:.3f}")
print("readings 0 ... 11 under ten static masks:", reading_number(np.arange(12), STATIC_COPIES))

# %% [markdown]
# ### Equation (2)
#
# `chosen_positions` *sorts* random numbers to choose exactly $k$ of $n$ words, instead of tossing a coin for each.

# %%
from typing import NamedTuple

from bertcraft.tensor import functions as F

from bertcraft.techniques.roberta_optimizations import Masked, chosen_positions  # inline

# %% [markdown]
# `mask_tokens` then replaces. It returns the chosen positions as a small array `at` (B, M), not as labels for all $L$ places, so
# the output layer with its thousands of rows is computed at $M$ of them only. And one number, `kind`, decides between the three
# cases.

# %%
from bertcraft.techniques.roberta_optimizations import mask_tokens  # inline

# %% [markdown]
# A row of six tokens: [CLS], four words, [SEP]. Half of the words are chosen: those with the two smallest
# numbers in `order`.

# %%
ids = np.array([[2, 11, 12, 13, 14, 3]])
order = np.array([[0.0, 0.9, 0.2, 0.7, 0.4, 0.1]])  # [CLS] and [SEP] are special: their numbers do not count
kind = np.array([[0.5, 0.5, 0.85, 0.5, 0.3, 0.5]])  # below 0.8: [MASK]; below 0.9: a random word
word = np.full((1, 6), 0.75)
masked = mask_tokens(ids, np.concatenate([order, kind, word], axis=1), mask_id=4, vocab_size=21, first_word_id=5, rate=0.5)
print("shown ", masked.input_ids[0], "\nat    ", masked.at[0], "\nlabels", masked.labels[0])

# %% [markdown]
# Position 2 (counted from 0) became $5+\lfloor 0.75\cdot 16\rfloor=17$, a random word; position 4 became 4, [MASK]. The labels
# are the words that stood there.
#
# Now a thousand real rows: which share of *all* words is replaced by [MASK]?

# %%
many = texts.train[:1000]
masked = mask_tokens(many, uniforms(1, np.arange(1000), np.zeros(1000), 3 * many.shape[1]), **texts.vocabulary)
chosen = masked.labels >= 0
now, before = np.take_along_axis(masked.input_ids, masked.at, axis=1)[chosen], masked.labels[chosen]
is_mask, same = now == texts.vocabulary["mask_id"], now == before
for what, share in {"[MASK]": is_mask, "another word": ~is_mask & ~same, "the same word": same}.items():
    print(f"{what:14s} {100 * share.mean():5.1f} % of the chosen")
total = (many >= pretraining.FIRST_WORD).sum()
print(f"chosen: {100 * chosen.sum() / total:.1f} % of the words; [MASK] instead of {100 * is_mask.sum() / total:.1f} %")

# %% [markdown]
# Nearly $0.15\cdot0.8$: in short rows the number of chosen words is rounded, and at least 1.
#
# ### The loss at the chosen places only

# %%
from bertcraft.bert import Config, encoder, heads

from bertcraft.techniques.roberta_optimizations import masked_lm_loss, predicted  # inline

# %% [markdown]
# `at=` tells the encoder where its last layer is needed; `heads.masked_lm_loss` is equation (1). **Proof**, first against the
# production implementation: transformers' BERT with random weights, the same rows, in double precision. Loss *and* every gradient.

# %%
small = Config(
    family="bert", head="masked_lm", vocab_size=len(pieces), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=48, max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
batch = pretraining.mask(texts.train[:6], np.arange(6), np.zeros(6), 0, 0.15, texts.vocabulary)
everywhere = np.full(batch["input_ids"].shape, -100)  # transformers wants a label at every place; -100: nothing is asked
n, m = np.nonzero(batch["labels"] >= 0)
everywhere[n, batch["at"][n, m]] = batch["labels"][n, m]

# %%
from bertcraft.tensor import tree

if lesson.installed("transformers", "torch"):
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    theirs = BertForMaskedLM(BertConfig(**{k: v for k, v in small.to_dict().items() if k != "architectures"})).double().eval()
    params = tree.nest({name: p.detach().numpy().copy() for name, p in theirs.named_parameters()})
    out = theirs(*(torch.tensor(batch[key]) for key in ("input_ids", "attention_mask")), labels=torch.tensor(everywhere))
    out.loss.backward()
    loss, gradients = bc.value_and_grad(masked_lm_loss)(params, batch, None, small)
    difference = max(np.abs(dict(tree.items(gradients))[name] - p.grad.numpy()).max() for name, p in theirs.named_parameters())
    print(f"loss: {float(loss):.4f} and {out.loss.item():.4f}, the same to 1e-10: {abs(float(loss) - out.loss.item()) < 1e-10}")
    print("every gradient the same to 1e-8:", difference < 1e-8)

# %% [markdown]
# And the gradient of the word table against finite differences: `check_grads` raises where they differ.

# %%
from bertcraft.bert import initial_params

params = tree.map(lambda leaf: leaf.astype(np.float64), initial_params(small, 0))


def loss_of(word_table):
    bert = params["bert"]
    embeddings = {**bert["embeddings"], "word_embeddings": {"weight": word_table}}
    return masked_lm_loss({**params, "bert": {**bert, "embeddings": embeddings}}, batch, None, small)


bc.check_grads(loss_of, params["bert"]["embeddings"]["word_embeddings"]["weight"], order=1)
print("analytic and numeric gradient agree")

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Counted exactly: the price of predicting
#
# Masking 40 % instead of 15 % makes 2.7 times as many predictions. What does it cost? BERT-base, one row of 512 tokens, products
# of the forward pass:

# %%
H, LAYERS, V, length = 768, 12, 30522, 512
layer = 2 * length * (4 * H * H + 8 * H * H) + 2 * 2 * length * length * H  # projections and feed-forward; scores, their sums
output = {f"{100 * share:.0f} %": 2 * round(share * (length - 2)) * (H * H + H * V) for share in (0.15, 0.40)}
output["all (labels of -100)"] = 2 * length * (H * H + H * V)
print(f"encoder {LAYERS * layer:.3g} FLOPs")
for what, flops in output.items():
    print(f"head for {what:21s} of the words {flops:.3g}: {100 * flops / (LAYERS * layer):.0f} % of the encoder")

# %% [markdown]
# So more masks are nearly free, if the output layer is computed only where it is needed. For models of
# BERT-large's size 40 % was better than 15 % (Wettig et al. 2023).
#
# ### Live: one static mask against dynamic ones
#
# A BERT of two layers, 64 wide, learns from 1,024 requests. Only the masks differ. **Predict first.** Which has the lower
# *training* loss at the end? Which the lower loss at [MASK] of requests it has never read?

# %% quick="STEPS = 24"
COPIES = {"one static mask": 1, "dynamic": None}  # try 10
STEPS = 640  # times 32 rows: twenty readings of 1,024 rows

# %%
from dataclasses import replace

from bertcraft.data.batches import batch_indices
from bertcraft.lab.experiment import Context
from bertcraft.pretrain.held_out import HeldOut

setting = replace(setting, steps=STEPS, warmup=STEPS // 10)
config = pretraining.config_of(setting, len(pieces))
held_out = HeldOut(texts.held_out, texts)
start = pretraining.initial(config, texts, seed=0)


def batch_maker(copies: int | None):
    """The batch of a step, with the functions above: change ``mask_tokens``, and it is your change that is trained."""

    def make_batch(step: int) -> dict:
        rows = batch_indices(len(texts.train), setting.batch, 0, step)  # each row once an epoch, in an order drawn for it
        reading = np.arange(step * setting.batch, (step + 1) * setting.batch) // len(texts.train)
        ids = texts.train[rows]
        random = uniforms(0, rows, reading_number(reading, copies), 3 * ids.shape[1])
        return {**mask_tokens(ids, random, **texts.vocabulary)._asdict(), "attention_mask": (ids != 0).astype(np.int32)}

    return make_batch


# %%
def pretrained(copies: int | None):
    """Train under a regime; losses of the steps and of held-out rows come with the parameters."""
    return pretraining.train(
        setting, start, lambda params, batch, rng: masked_lm_loss(params, batch, rng, config), batch_maker(copies), seed=0,
        context=Context(threads=2), signature={}, weight=predicted, evaluate=lambda params: held_out(params, config),
    )  # fmt: skip


trained = {title: pretrained(copies) for title, copies in COPIES.items()}

# %% alt="Loss against readings. One static mask: the dotted training loss falls far below the others while the loss on unread text rises above word frequencies. Dynamic: the loss on unread text ends below word frequencies, with the training loss 0.6 nats lower."
with style.shown(width=7.0, height=3.4) as ax:
    for place, (title, run) in zip((2, 1), trained.items(), strict=True):
        look = style.line(place)
        rows_read = np.array([step for step, _ in run.evaluations]) * setting.batch / len(texts.train)
        ax.plot(rows_read, [found["loss"] for _, found in run.evaluations], **look, label=title)
        window = max(1, len(run.losses) // len(run.evaluations))
        training = run.losses[: window * len(rows_read)].reshape(-1, window).mean(axis=1)
        ax.plot(rows_read, training, color=look["color"], lw=1, ls=":")
    ax.axhline(held_out.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    ax.set(xlabel="times that each row has been read", ylabel="loss (nats)", xlim=(0, None))
    ax.legend(title="at [MASK] of unread text; dotted: in training", fontsize=8, title_fontsize=8)
for title, run in trained.items():
    print(f"{title:17s} training {run.losses[-32:].mean():.2f}, unread text {run.evaluations[-1][1]['loss']:.2f} nats")
print(f"word frequencies  {held_out.unigram:.2f}")

# %% [markdown]
# With one mask the model is far better in training, and on unread text worse than word frequencies alone. It has learnt its
# answers by heart. (With dynamic masks it has only begun: 0.2 nats.) **If masks repeat, a falling training loss is no evidence
# that anything is learnt.**
#
# One mask exaggerates. `bertcraft run 01` reads 20,800 requests four times, under one static mask and under dynamic ones,
# and fills in words with the latter:
#
# ```
#                   loss at [MASK], nats   words guessed at [MASK], %
# static masks                     5.509                         19.5
# dynamic masks                    5.312                         20.6
# word frequencies                 6.641                          2.6
#
# how do i activate my new [MASK] ? -> card 33%, account 10%, pin 2%
# set an [MASK] for seven in the morning -> alarm 5%, me 3%, new 3%
# what is the exchange [MASK] for euros ? -> of 5%, rate 4%, in 4%
# ```
#
# ### The stored experiment
#
# The claim at BERT's proportions: ten static masks, 40 readings. A model of two layers, 128 wide, with dropout, reads 1,920
# requests 40 times in 1,200 steps. Then, at equal steps, more texts are read 20 times, or fewer 80 times. Every seed
# has requests of its own. **Predict first**: the box tells the cost of ten static masks at 40 readings, equation (3) that at 10.
# And at 20 and 80?
#
# First, every arm has to be half a nat below word frequencies, at [MASK]:

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results("loss", "loss_kept", "loss_random", "accuracy", "stopped")

# %% [markdown]
# *Stopped early*: at the lowest loss of development texts. Means of five seeds do not compare with means of ten; pairs do. *Kept*
# words can be copied: there even the arms that fail at [MASK] stand at 4.7 to 6.0 nats.

# %%
lesson.comparisons()

# %% alt="Two panels of the loss at MASK of unread text against readings, thin lines for seeds. Left: ten static masks and fresh ones fall together up to ten readings from the level of word frequencies; then fresh masks fall faster and end lower. Right: the same with one static mask, which rises far above word frequencies."
lesson.plots(1)

# %% alt="What ten static masks cost in nats, with 95 percent intervals, against how often each text is read. Zero at 10 readings, where both arms have the same masks; 0.03 at 20; 0.19 at 40, stopped early or not; at 80 hollow marks at 0.6 and 0.2, since a check failed."
lesson.plots(2)

# %% [markdown]
# At 40 readings fresh masks are better by 0.19 nats, where the two arms end 0.64 and 0.83 below word frequencies; at 20 by 0.03.
# At 80 readings 960 texts are too few: neither arm comes half a nat below word frequencies, so it is *not testable*. Nor is one
# static mask: it was learnt by heart.
#
# ### When does it not help?
#
# - **Text that is read once**, as most language models read it since 2020, has no use for dynamic masks: nothing repeats. Up to
#   ten readings, ten static masks are the same thing.
# - **In the paper**, with far more text and a larger model, the table for BERT-base (SQuAD 2.0 F1 / MNLI / SST-2) has static 78.3 /
#   84.3 / 92.5, dynamic 78.7 / 84.0 / 92.9. Up, down, up, by tenths.
# - **Not tested here**: larger batches, other shares of masks, full sentences, and NSP. Models of this size did not learn NSP,
#   so they cannot tell what it does. (Earlier figures on it are withdrawn.)
#
# ## 6. In production (10 minutes)
#
# Everyone pretrains with `DataCollatorForLanguageModeling` of transformers. It masks when a batch is put together: dynamic masks,
# by construction.

# %%
if lesson.installed("transformers", "torch"):
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=texts.tokenizer, **names)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=0)
    rows = texts.train[:1000]
    theirs = collator([{"input_ids": ids.tolist()} for ids in rows])
    shown, labels = theirs["input_ids"].numpy(), theirs["labels"].numpy()
    at = labels != -100
    print(f"chosen {100 * at.sum() / (rows >= 5).sum():.1f} % of the words, none special: {not at[rows < 5].any()}")
    is_mask, same = shown[at] == tokenizer.mask_token_id, shown[at] == rows[at]
    print(f"[MASK] {100 * is_mask.mean():.1f} %, unchanged {100 * same.mean():.1f} %")
    print(f"rows in which nothing at all was chosen: {(~at.any(axis=1)).sum()} of {len(rows)}")

# %% [markdown]
# Four things to know (the last appendix shows the first two).
#
# 1. **A coin for each word** instead of a fixed number. A row of $n$ words has no target at all with probability $0.85^n$, and a
#    *batch* without any gives `nan`, a mean of nothing.
# 2. **Random words come from the whole vocabulary**, special tokens included, as in BERT's code, not ours.
# 3. **Labels everywhere**, -100 at the places that do not count, and logits computed there all the same: the 25 % of section 5.
# 4. `whole_word_mask=True` also changes the die: all chosen words become [MASK] (100/0/0).
#
# A trap: calling the collator inside `dataset.map(...)` and caching the result. **That is static masking again, with
# one copy.**
#
# **Status today (2026).** The recipe has become the default: dynamic masks, no NSP, full rows, large batches. ModernBERT (2024),
# a usual choice for a new English encoder, masks 30 %, reads two trillion tokens with rows of up to 8,192, and changes the
# architecture at last (rotary positions, local and global attention in turn). XLM-RoBERTa is still the common multilingual base.
#
# ## 7. On your data (5 minutes)
#
# Let a checkpoint go on with your own text, then fine-tune it:
#
# ```
# bertcraft pretrain masked_lm --from minilm --corpus FOLDER --train top:2 \
#     --length 32 --batch 32 --steps 2000 --rate 5e-4 --warmup 100 --dropout 0 --out run
# ```
#
# `FOLDER` holds your `.txt` files; one block in twenty is held out and judged at [MASK] only; `run/model` opens in transformers.
# There the same is:
#
# ```python
# from datasets import load_dataset
# from transformers import (AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments)
#
# tokenizer = AutoTokenizer.from_pretrained("answerdotai/ModernBERT-base")
# rows = load_dataset("text", data_dir="FOLDER")["train"].map(
#     lambda batch: tokenizer(batch["text"], truncation=True, max_length=256), batched=True, remove_columns=["text"])
# model = AutoModelForMaskedLM.from_pretrained("answerdotai/ModernBERT-base")
# collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
# Trainer(model, TrainingArguments("out", learning_rate=5e-5, warmup_steps=100), train_dataset=rows, data_collator=collator).train()
# model.save_pretrained("model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | training loss falls, held-out loss rises | are the masks dynamic? else fewer readings, or dropout |
# | the loss stays at that of word frequencies | a higher rate with warm-up, shorter texts first, more steps |
# | the loss is `nan` now and then | batches without a target: larger batches, or one target a row at least |
# | the loss looks good, filled words do not | score positions that show [MASK] only |
#
# ## 8. Exercises (100 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 An 80/10/10 that is not (one star, 10 minutes)
#
# This way of drawing with two random numbers is found in many tutorials, with this mistake. Mend it.


# %% exercise="corrupt" stars=1
def corrupt(tokens, first, second, words, mask_id):
    """Equation (2) for chosen tokens (n,), with two uniform numbers in [0, 1) for each, first and second (n,).

    words (n,): a random word for each. Returns (n,): 80 % mask_id, 10 % the random word, 10 % the token itself.
    """
    ### BEGIN SOLUTION
    is_word = second < 0.5  # half of the 20 % that are left
    ### END SOLUTION
    ### BEGIN STUB
    # is_word = second < 0.1
    ### END STUB
    return np.where(first < 0.8, mask_id, np.where(is_word, words, tokens))


# %%
check.corrupt(corrupt)

# %% [markdown]
# ### 8.2 What was never asked for (one star, 10 minutes)
#
# Equation (3), as a function. `copies` is None for dynamic masks.


# %% exercise="never_predicted" stars=1
def never_predicted(rate, readings, copies=None):
    """The expected share of tokens that no mask has chosen after some readings; copies: fixed masks, None for dynamic ones."""
    ### BEGIN SOLUTION
    draws = readings if copies is None else min(readings, copies)
    return (1 - rate) ** draws
    ### END SOLUTION


# %%
check.never_predicted(never_predicted)

# %% [markdown]
# ### 8.3 How many different masks? (two stars, 15 minutes)
#
# Equation (4) for a row of some words, of which the share `rate`, rounded (`round`) and at least one, is chosen. It must be
# right for 5 words and for 510. `math.comb` counts exactly; what happens to `1 - 1 / N` when $N$ is $10^{90}$?


# %% exercise="distinct_masks" stars=2
def distinct_masks(words, rate, readings):
    """The expected number of different masks of a row after some readings with dynamic masks."""
    ### BEGIN SOLUTION
    import math

    masks = math.comb(words, max(1, round(rate * words)))
    if masks == 1:
        return 1.0
    return -masks * math.expm1(readings * math.log1p(-1 / masks))  # 1 - 1/N is 1 in floating point when N is large
    ### END SOLUTION


# %%
check.distinct_masks(distinct_masks)

# %% [markdown]
# ### 8.4 DOC-SENTENCES (two stars, 15 minutes)
#
# The paper's best input format was not used in the end, because its batches vary in size: rows are filled with running text but
# never run on into another document, so the last row of a document may be short (SQuAD 2.0 F1 79.7 against 79.1). Write it.


# %% exercise="document_rows" stars=2
def document_rows(documents, length, cls_id, sep_id):
    """Rows [CLS] tokens [SEP] of at most ``length`` tokens; no row holds tokens of two documents.

    documents: token ids of each, 1-D integer arrays, some of them empty. Returns a list of 1-D integer arrays.
    """
    ### BEGIN SOLUTION
    room, rows = length - 2, []
    for tokens in documents:
        for start in range(0, len(tokens), room):
            rows.append(np.concatenate([[cls_id], tokens[start : start + room], [sep_id]]))
    return rows
    ### END SOLUTION


# %%
check.document_rows(document_rows)

# %% [markdown]
# ### 8.5 The batch that is worth its price (three stars, 20 minutes)
#
# Read appendix A first. In practice nobody stores the gradient of every row. But accumulation and data parallelism give the
# gradients of small batches and of a large one for free, and (5) holds for both. From the two mean squared lengths, solve for
# $\lVert g\rVert^2$ and $S$ and return $B^*$ of (6).


# %% exercise="noise_scale" stars=3
def noise_scale(small_square, big_square, small, big):
    """B* from the mean squared length of the gradients of batches of ``small`` rows, and of batches of ``big`` rows.

    Infinity where the square of the true gradient comes out not above 0.
    """
    ### BEGIN SOLUTION
    square = (big * big_square - small * small_square) / (big - small)
    noise = (small_square - big_square) / (1 / small - 1 / big)
    return noise / square if square > 0 else float("inf")
    ### END SOLUTION


# %%
check.noise_scale(noise_scale)

# %% [markdown]
# ### 8.6 Which recipe goes on? (two stars, 15 minutes, a decision)
#
# A team lets a checkpoint go on with its 2 GB of tickets, which are read **three times**. Ten seeds, loss of unread tickets minus
# that of dynamic masks at 15 %, in nats (negative is better), 95 % intervals; every arm at its own best rate. Once at all chosen
# positions, each arm under masks of its own kind; once at [MASK], under masks that all arms share:
#
# | arm | at all chosen positions | at [MASK] | check: 0.5 nats below word frequencies, at [MASK] |
# | --- | --- | --- | --- |
# | ten static masks | 0.00 | 0.00 | passed |
# | 40 % masked | +0.21 [+0.18, +0.24] | -0.07 [-0.10, -0.04] | passed |
# | half of the chosen left as they are | -0.61 [-0.66, -0.56] | +1.90 [+1.82, +1.98] | failed |
#
# - `arm`: "dynamic15", "mask40" or "half_left".
# - `because`: (a) it has the lowest number of the table; (b) its interval at [MASK] lies below zero and it passed the check; (c) a
#   paper found it better.
# - `static`: why is the first row 0.00? (a) ten masks are enough for any number of readings; (b) seeds cancel; (c) in three
#   readings no mask comes twice, so the two arms are the same run.
# - `unless`: what would change your mind? (a) an eleventh seed; (b) accuracy on the team's labelled tickets, after fine-tuning, whose
#   interval lies on the other side; (c) a lower training loss of another arm.


# %% exercise="recipe" stars=2
def recipe():
    """{"arm": ..., "because": "a", "b" or "c", "static": "a", "b" or "c", "unless": "a", "b" or "c"}."""
    ### BEGIN SOLUTION
    return {"arm": "mask40", "because": "b", "static": "c", "unless": "b"}
    ### END SOLUTION


# %%
check.recipe(recipe)

# %% [markdown]
# ### 8.7 What should the model believe? (two stars, 15 minutes)
#
# A perfectly trained model sees the word *alarm*, not [MASK], at a position. (a) Of all positions that show a word, how
# many were chosen ($\rho=0.15$)? (b) *Given* that it was chosen: context says that *alarm* stands there with
# probability $p$. How likely is it, by Bayes, that *alarm* is the true word, for a vocabulary of $V$ words? Take $V=30{,}000$
# and $p=0.1$, then $p=10^{-6}$. At which $p$ is the true word as likely as a random one?

# %% [markdown] solution=true
# **Model answer.** (a) A position shows an ordinary word if it was not chosen (0.85), or chosen and kept (0.015), or chosen and
# replaced by a random word (0.015). So it was chosen with probability $0.03/0.88=3.4\,\%$. (b) Kept and replaced are equally
# likely beforehand, but they show *alarm* with different probabilities: kept shows it if it is the true word, $p$; replaced
# shows it if the die says so, $1/V$, whatever the true word is. By Bayes it was kept with probability $\frac{p}{p+1/V}$. For
# $p=0.1$ that is 0.9997; for $p=10^{-6}$ it is 0.029: a word that fits is almost surely the original, one that does not is
# almost surely random. They meet at $p=1/V$. (A replaced word can be the true one by chance; that adds a term of the size
# $p/V$.) So half of the *shown* words at chosen places are true on average, but the model need not spread its belief in halves:
# context decides. Were none kept (80/20/0), the answer would be $p$: a shown word would tell nothing, and the model would learn
# to overlook what it reads, where later it reads true words only.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **RoBERTa is no architecture.** "We used RoBERTa instead of BERT" usually means "a model that had read 160 GB instead of 16".
# - **"No NSP" is confounded** with the input format, in the paper and in most summaries of it: see appendix B.
# - **Positions begin at 2** in RoBERTa checkpoints (padding_idx + 1), which is why they have 514. Feeding positions from 0 gives no
#   error, only worse results.
# - Adam's $\beta_2=0.98$ belongs to the recipe for large batches, $\epsilon=10^{-6}$ is BERT's already; library defaults are
#   neither.
# - A held-out loss must be taken under fixed masks, the same for all models, and at [MASK].
#
# **Read**: Liu et al. 2019, [RoBERTa](https://arxiv.org/abs/1907.11692), sections 4.1 to 4.4. Devlin et al. 2019,
# [BERT](https://arxiv.org/abs/1810.04805), appendix A. McCandlish, Kaplan, Amodei 2018,
# [An empirical model of large-batch training](https://arxiv.org/abs/1812.06162). Wettig, Gao, Zhong, Chen 2023,
# [Should you mask 15 %?](https://arxiv.org/abs/2202.08005) Warner et al. 2024, [ModernBERT](https://arxiv.org/abs/2412.13663).
# The production code is
# [`data_collator.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/data/data_collator.py).
#
# **Open project**: change `mask_tokens` so that the pieces of a word (`##ing` and what it belongs to) are chosen together, at the
# same number of tokens. Give them one number in `order`, that of the first piece. Before you believe a difference at [MASK], repeat
# it with three seeds.
#
# **Next**: [02 ELECTRA](02_electra_pretraining.ipynb) asks of *every* token what BERT asks of 15 %.
# [06 gradient accumulation](06_gradient_accumulation.ipynb) makes large batches fit a small machine.

# %% [markdown]
# ## Appendix A. What a large batch does (10 minutes)
#
# Let $g_j$ be the gradient of one row, and $g$ the mean over all rows that there could be. A batch of $B$ rows has the gradient
# $\hat g=\frac1B\sum_j g_j$. The rows are drawn independently, so deviations add up as squares:
#
# $$\mathbb E\,\lVert\hat g-g\rVert^2=\frac{S}{B},\qquad \mathbb E\,\lVert\hat g\rVert^2=\lVert g\rVert^2+\frac{S}{B} \tag{5}$$
#
# where $S=\mathbb E\lVert g_j-g\rVert^2$ is the *noise* of a single row (here $S$ is a number, not the set of (1)). As long as
# $S/B$ is far above $\lVert g\rVert^2$ a step is mostly noise, and twice the batch is worth nearly two steps. Beyond
#
# $$B^*=S\,/\,\lVert g\rVert^2 \tag{6}$$
#
# the direction is known well enough: better take more steps (McCandlish et al. 2018). As training goes on, $\lVert g\rVert^2$
# shrinks faster than $S$, so large batches pay **late**. Gradients of groups of 8 rows are averaged to batches of 8, 16 ... 128,
# at the start and after the live run with dynamic masks:

# %% quick="GROUPS = 8"
GROUPS, SIZE = 64, 8  # more groups: better estimates

gradient_of = bc.value_and_grad(lambda params, batch: masked_lm_loss(params, batch, None, config))


def group_gradients(params) -> np.ndarray:
    """The gradients of GROUPS groups of SIZE rows, each as one long vector: (GROUPS, parameters)."""
    rows = np.arange(GROUPS * SIZE) % len(texts.train)
    batch = pretraining.mask(texts.train[rows], rows, np.full(len(rows), 999), 0, 0.15, texts.vocabulary)
    groups = ({name: array[i : i + SIZE] for name, array in batch.items()} for i in range(0, len(rows), SIZE))
    return np.stack([np.concatenate([leaf.ravel() for leaf in tree.leaves(gradient_of(params, group)[1])]) for group in groups])


# %%
def noise(g: np.ndarray) -> dict:
    """What equation (5) needs: the noise at some batch sizes, S, and the square of the true gradient with its error."""
    sizes = [SIZE * 2**i for i in range(int(np.log2(GROUPS)) - 1)]
    means = [g.reshape(-1, size // SIZE, g.shape[1]).mean(axis=1) for size in sizes]
    spread = [((m - m.mean(axis=0)) ** 2).sum() / (len(m) - 1) for m in means]
    products = g @ g.T
    others = (products.sum(axis=1) - np.diag(products)) / (GROUPS - 1)  # each gradient times the mean of the others
    square, error = others.mean(), 4 * others.std() / GROUPS**0.5  # noise that is independent cancels in such products
    return {"sizes": sizes, "spread": spread, "S": spread[0] * SIZE, "square": square, "error": error}


noises = {"at the start": noise(group_gradients(start)), "after training": noise(group_gradients(trained["dynamic"].params))}

# %% alt="Two log-log panels of squared gradient length against batch size. Measured noise lies on the line S over B. The squared true gradient is a dashed line with a band: high at the start, much lower after training, so the two meet at larger batches."
with style.shown(columns=2, width=8.2, height=3.4) as panels:
    for ax, (title, found) in zip(panels, noises.items(), strict=True):
        S, square = found["S"], found["square"]
        ax.plot(found["sizes"], found["spread"], "s", color=style.COLOURS[1], label=r"measured: $\|\hat g-g\|^2$")
        batch_sizes = np.array([4, 4096])
        ax.plot(batch_sizes, S / batch_sizes, color=style.COLOURS[1], lw=1, label="$S/B$")
        ax.axhspan(max(square - found["error"], 1e-9), square + found["error"], color=style.COLOURS[2], alpha=0.2, lw=0)
        ax.axhline(max(square, 1e-9), color=style.COLOURS[2], ls="--", label=r"$\|g\|^2$ and its 95 % band")
        at_least = float(f"{S / (square + found['error']):.2g}")
        ax.set(xscale="log", yscale="log", xlabel="batch B (rows)", title=f"{title}: $B^*$ is at least {at_least:.0f} rows")
        ax.set_ylim(S / 20_000, S / 2)
        ax.legend(fontsize=8, loc="upper right")
    panels[0].set_ylabel("squared length of gradients")

# %% [markdown]
# The points lie on $S/B$: that is (5), no more than averaging. $S$ falls to a sixth, $\lVert g\rVert^2$ further. At the start the
# rows agree on where to go; later each has its own wish, and it takes a large batch to hear what they share. (Where the band
# reaches down to nothing, only the lower bound of $B^*$ means anything.) BERT-base at equal epochs, in the paper: perplexity 3.99
# with batches of 256, 3.68 with 2,000, and 3.77 with 8,000: too large, even there.

# %% [markdown]
# ## Appendix B. Input formats and the second objective (5 minutes)
#
# BERT adds the loss of NSP to (1):
#
# $$\mathcal L_\text{BERT}=\mathcal L+\left(-\ln p(\text{answer}\mid h_1)\right) \tag{7}$$
#
# where $h_1$ is the last hidden state of [CLS]. RoBERTa drops the second term and changes the rows as well: FULL-SENTENCES are
# texts laid end to end and cut into rows, without padding or a second segment (the paper ends a row at a sentence, so its rows
# have "at most" 512 tokens; here a row is cut at a token). SEGMENT-PAIR has two segments, the second one torn from elsewhere half
# of the time.

# %%
from bertcraft.techniques.roberta_optimizations import full_sentences, sentence_pairs
from bertcraft.techniques.roberta_optimizations import SentencePairs, masked_lm_and_next_sentence_loss  # inline

three = [np.array([11, 12, 13]), np.array([21, 22]), np.array([31, 32, 33, 34, 35, 36])]
print("full sentences\n", full_sentences(three, length=6, cls_id=2, sep_id=3))

# %%
documents = [[np.array([11, 12]), np.array([13, 14, 15]), np.array([16])], [np.array([21]), np.array([22, 23, 24, 25, 26, 27])]]
pairs = sentence_pairs(documents, length=9, cls_id=2, sep_id=3, pad_id=0, rng=np.random.default_rng(1))
print(pairs.input_ids, "\n1: torn apart ->", pairs.labels)

# %% [markdown]
# Where the halves belong together, the second helps to guess the first one's words. In the others it is noise, for half of the row.
# **This is the confound**: dropping the loss and dropping the torn rows are two changes. The paper's "no NSP" arms change both,
# and it says itself that BERT's own ablation, which found NSP useful, "may only have removed the loss term while still retaining
# the SEGMENT-PAIR input format".

# %% [markdown]
# ## Appendix C. Production's coin (5 minutes)

# %% alt="Bars of the number of chosen tokens in rows of 12 words: BERT's code and this library always choose two; transformers' collator follows the binomial distribution, with about one row in seven that has no target at all."
if lesson.installed("transformers", "torch"):
    from scipy.stats import binom

    rows = np.concatenate([texts.train[(texts.train >= 5).sum(axis=1) == 12]] * 20)
    theirs = (collator([{"input_ids": ids.tolist()} for ids in rows])["labels"].numpy() != -100).sum(axis=1)
    random = uniforms(0, np.arange(len(rows)), np.zeros(len(rows)), 3 * rows.shape[1])
    ours = (mask_tokens(rows, random, **texts.vocabulary).labels >= 0).sum(axis=1)
    counts = np.arange(8)
    with style.shown(width=6.4, height=3.0) as ax:
        ax.bar(counts - 0.2, [(ours == k).mean() for k in counts], 0.4, color=style.COLOURS[0], label="BERT's code and ours")
        ax.bar(counts + 0.2, [(theirs == k).mean() for k in counts], 0.4, color=style.COLOURS[1], label="transformers' collator")
        ax.plot(counts + 0.2, binom.pmf(counts, 12, 0.15), "k_", ms=14, label="binomial")
        ax.set(xlabel="chosen tokens in a row of 12 words", ylabel="share of rows")
        ax.legend(fontsize=8)

# %%
if lesson.installed("transformers", "torch"):
    words_only = DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=0.0, random_replace_prob=1.0, seed=0)
    drawn = words_only([{"input_ids": ids.tolist()} for ids in texts.train])
    drawn = drawn["input_ids"][drawn["labels"] != -100]
    print(f"of {len(drawn)} words drawn at random, {int((drawn < 5).sum())} are special tokens")
    nothing = torch.nn.functional.cross_entropy(torch.zeros(4, 9), torch.full((4,), -100))
    print("loss of a batch without a target:", nothing.item())
