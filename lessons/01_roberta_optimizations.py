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
# RoBERTa has BERT's architecture to the last matrix. In 2019 it matched or beat every model that had been published as *better*
# than BERT, and showed that BERT had been stopped too early. Its paper changes five things: the masks, the input format, the
# second objective, the batch, and above all the amount of text and computing. Everyone quotes the sum of the five. This lesson
# takes them apart: you will run each one's code, see what it does to the training text, and measure what it is worth by itself.
#
# You need NumPy, and what [lesson 00](00_foundations.ipynb) says of masked language models. Set aside 60 to 90 minutes.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson

lesson = open_lesson("roberta_optimizations")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim
#
# "RoBERTa is 3 to 5 points better than BERT" is true of a comparison between two models that differ in all five at once.

# %%
lesson.claim()

# %% [markdown]
# The paper's own numbers tell most of the story, if they are drawn against the number of tokens that each model was shown. On
# the right, all points but the first are the *same* recipe; only the text and the steps grow.

# %%
from bertcraft.lab import style

# GLUE development sets, single models (Liu et al. 2019, table 5): RoBERTa-large after 500,000 steps, BERT-large
GLUE = {"RTE": (86.6, 70.4), "CoLA": (68.0, 60.6), "MNLI": (90.2, 86.6), "SST-2": (96.4, 93.2), "MRPC": (90.9, 88.0),
        "QNLI": (94.7, 92.3), "STS-B": (92.4, 90.0), "QQP": (92.2, 91.3)}  # fmt: skip
gains = {task: roberta - bert for task, (roberta, bert) in GLUE.items()}

LENGTH = 512
bert_if_512 = 256 * 1e6 * LENGTH  # batch x steps x length: how BERT is usually counted
bert = 256 * 1e6 * (0.9 * 128 + 0.1 * LENGTH)  # how it was trained: nine tenths of its steps read rows of 128 tokens
roberta = {steps: 8000 * steps * LENGTH for steps in (100e3, 300e3, 500e3)}

with style.shown(columns=2, width=8.2, height=3.3) as (left, right):
    left.barh(list(gains)[::-1], list(gains.values())[::-1], color=style.COLOURS[1])
    left.axvline(np.mean(list(gains.values())), color="0.2", lw=1, ls="--")
    left.set(xlabel="RoBERTa-large minus BERT-large (points)\ndashed: mean of the eight", title="the famous gain, by task")
    right.plot(bert, 86.6, **style.line(0), label="BERT-large, 16 GB")
    right.plot(roberta[100e3], 89.0, "^", color=style.COLOURS[2], label="RoBERTa-large, 16 GB")
    right.plot(list(roberta.values()), [89.3, 90.0, 90.2], **style.line(1), label="RoBERTa-large, 160 GB")
    right.set(xscale="log", xlabel="tokens read in pretraining", ylabel="MNLI (% right)", title="and what it was paid with")
    right.legend(fontsize=8, loc="lower right")

without = [gain for task, gain in gains.items() if task != "RTE"]
print(f"mean gain {np.mean(list(gains.values())):.1f} points; without RTE {np.mean(without):.1f}")
print(f"tokens read: BERT {bert:.3g}, RoBERTa {roberta[500e3]:.3g}: {roberta[500e3] / bert:.0f} times as many")
print(f"the usual count takes BERT's rows for 512 tokens long: then {roberta[500e3] / bert_if_512:.1f} times")

# %% [markdown]
# Three things to notice.
#
# - Two fifths of the sum come from one small task, RTE.
# - On MNLI, two thirds of the gain are there at the first RoBERTa point: BERT's 16 GB of text, but more than nine times as many
#   tokens read. Ten times as much text adds 0.3 at equal steps. Longer training adds the rest.
# - "16 times the compute" is kind to RoBERTa. BERT read rows of 128 tokens for 90 % of its steps (Devlin et al. 2019, appendix
#   A.2), so in tokens the ratio is near 50.
#
# None of these points isolates masks, format or batch. Section 4 of the paper does so, at the size of BERT-base, and finds
# differences of tenths of a point. So do we, on a small model, with seeds and intervals, in part 5.

# %% [markdown]
# ## 2. What was odd about BERT's recipe
#
# BERT masked its text *before* training. A script wrote ten masked copies of each row to disk, and the training read these ten
# over and over: 40 times in all, so each copy four times. That is simple: training only has to read prepared files.
#
# **Predict first.** A row is read 40 times and 15 % of its tokens are hidden each time. How many of its tokens does a model
# with *ten* fixed masks never have to guess? And with a new mask at each reading?
#
# Let us look at real text before we count. Here is a request to an assistant, and where the mask falls at eight readings under
# three regimes. The function that draws the masks is the one you will read in part 4.

# %%
from bertcraft.lab import pretraining
from bertcraft.techniques import roberta_optimizations as technique

setting = pretraining.Setting(
    corpus="utterances", texts=1024, vocab_size=2048, hidden=64, batch=32, shard=32, steps=384, rate=4e-3,
    held_out=500, evaluations=8,
)  # fmt: skip
texts = pretraining.prepare(setting)
pieces = [texts.tokenizer.id_to_token(i) for i in range(texts.tokenizer.get_vocab_size())]
print(texts.train.shape, "rows of token ids;", len(pieces), "pieces in the vocabulary")
row = next(  # a row of whole words only
    i for i, ids in enumerate(texts.train) if 13 <= (ids != 0).sum() <= 16 and not any(pieces[j].startswith("##") for j in ids)
)
print(" ".join(pieces[i] for i in texts.train[row] if i))


# %%
def places_masked(row: int, reading: int, copies: int | None) -> np.ndarray:
    """Which tokens of a row are chosen when it is read for that time: booleans (L,)."""
    number = technique.reading_number(np.array([reading]), copies)
    batch = pretraining.mask(texts.train[[row]], np.array([row]), number, 0, 0.15, texts.vocabulary)
    chosen = np.zeros(texts.train.shape[1], bool)
    chosen[batch["at"][0][batch["labels"][0] >= 0]] = True
    return chosen


READINGS = 8
regimes = {"one static mask": 1, "three static masks": 3, "dynamic": None}
words = [pieces[i] for i in texts.train[row] if i]
with style.shown(columns=3, width=9.0, height=3.0) as panels:
    for ax, (title, copies) in zip(panels, regimes.items(), strict=True):
        grid = np.array([places_masked(row, reading, copies)[: len(words)] for reading in range(READINGS)])
        ax.imshow(grid, cmap="Blues", vmax=1.3, aspect="auto")
        ax.set_xticks(range(len(words)), words, rotation=90, fontsize=7)
        ax.set(title=title, yticks=range(READINGS), yticklabels=range(1, READINGS + 1))
        ax.grid(False)
    panels[0].set_ylabel("reading")

# %% [markdown]
# With one mask the model sees the same puzzle at each reading. It can learn the answer by heart. With dynamic masks each
# reading is another puzzle about the same sentence. That is the whole of "dynamic masking", and it costs nothing.

# %% [markdown]
# ## 3. The mathematics
#
# ### The loss
#
# A row $x$ has tokens $x_1 \dots x_n$. A set $M$ of positions is *chosen*. A corrupted row $\tilde x$ is shown to the model,
# which gives a probability $p_i(w \mid \tilde x)$ for each word $w$ at each position $i$. The loss is the mean surprise at the
# chosen ones:
#
# $$\mathcal L = -\frac{1}{|M|}\sum_{i\in M}\ln p_i(x_i\mid\tilde x) \tag{1}$$
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
# The model is used later on text without [MASK]. The last two cases keep it from ignoring the words that it is shown: some of
# them are wrong, and some that are right are asked for.
#
# ### What fixed masks leave out
#
# Let $r$ be the share of tokens that is chosen, $E$ the number of readings, and $c$ the number of fixed masks. What has been
# drawn $k$ times independently leaves a given token out with probability $(1-r)^k$. With fixed masks there are only $c$ draws,
# however often the row is read:
#
# $$\text{never asked for} = (1-r)^{\min(E,\,c)} \text{ (static)},\qquad (1-r)^{E}\text{ (dynamic)} \tag{3}$$
#
# BERT: $0.85^{10}=0.197$. **One token in five was never asked for**, in 40 readings. With dynamic masks it is
# $0.85^{40}=0.0015$. Was that your prediction? Let us hold (3) against masks that are really drawn.


# %%
def never_asked_for(copies: int | None, readings: int) -> np.ndarray:
    """The share of tokens that no mask has chosen after 1, 2 ... readings, counted on all rows of 20 words: three are 15 %."""
    rows = texts.train[(texts.train >= pretraining.FIRST_WORD).sum(axis=1) == 20]
    asked, shares = np.zeros(rows.shape, bool), []
    for reading in range(readings):
        number = technique.reading_number(np.full(len(rows), reading), copies)
        batch = pretraining.mask(rows, np.arange(len(rows)), number, 0, 0.15, texts.vocabulary)
        n, m = np.nonzero(batch["labels"] >= 0)
        asked[n, batch["at"][n, m]] = True
        shares.append(1 - asked[rows >= pretraining.FIRST_WORD].mean())
    return np.array(shares)


E = np.arange(1, 41)
with style.shown(width=6.4, height=3.4) as ax:
    kinds = {"1 static mask": 1, "10 static masks (BERT)": 10, "dynamic (RoBERTa)": None}
    for place, (title, copies) in enumerate(kinds.items()):
        k = E if copies is None else np.minimum(E, copies)
        look = style.line((2, 0, 1)[place])
        ax.plot(E, 0.85**k, color=look["color"], ls=look["linestyle"], label=title)
        ax.plot(E[::3], never_asked_for(copies, 40)[::3], look["marker"], color=look["color"])
    ax.set(xlabel="times the row has been read", ylabel="share of tokens never asked for", ylim=(-0.02, 0.9))
    ax.legend(title="lines: equation (3); marks: counted", fontsize=8, title_fontsize=8)

# %% [markdown]
# ### How many masks are there?
#
# Of $w$ words $k$ are chosen: that makes $N=\binom{w}{k}$ masks, all equally likely. After $E$ draws, how many different ones
# have been seen? A given mask is missed by one draw with probability $1-1/N$, by all of them with $(1-1/N)^E$. So, on average,
#
# $$D = N\left(1-\left(1-\tfrac1N\right)^{E}\right) \tag{4}$$
#
# have been seen. By hand: four words, one of them chosen, $N=4$. After four readings $D=4\,(1-(3/4)^4)=2.73$ masks: even
# dynamic masks repeat themselves. A request of 10 words with 2 chosen has 45 masks; 40 readings show 26.7 of them. A row of 510
# words has more masks than there are atoms in the universe: every reading is new. *Dynamic* is a matter of the length of the
# row, too.
#
# ### What a large batch does
#
# Let $g_j$ be the gradient of one row, and $g$ the mean over all rows that there could be. A batch of $B$ rows has the gradient
# $\hat g=\frac1B\sum_j g_j$. The rows are drawn independently, so deviations add up as squares:
#
# $$\mathbb E\,\lVert\hat g-g\rVert^2=\frac{S}{B},\qquad \mathbb E\,\lVert\hat g\rVert^2=\lVert g\rVert^2+\frac{S}{B} \tag{5}$$
#
# where $S=\mathbb E\lVert g_j-g\rVert^2$ is the *noise* of a single row. As long as $S/B$ is far above $\lVert g\rVert^2$ a
# step is mostly noise, and twice the batch is worth nearly two steps. Beyond
#
# $$B^*=S\,/\,\lVert g\rVert^2 \tag{6}$$
#
# the direction is known well enough, and more rows in the batch are wasted: better take more steps (McCandlish et al. 2018).
# $B^*$ is not a constant. As training goes on, $\lVert g\rVert^2$ shrinks faster than $S$, so large batches pay **late**. Keep
# this in mind for part 5.
#
# ### Two objectives or one
#
# BERT also asked whether the second half of a row follows the first (*next sentence prediction*, NSP), and added the two
# losses:
#
# $$\mathcal L_\text{BERT}=\mathcal L+\left(-\ln p(\text{answer}\mid h_1)\right) \tag{7}$$
#
# $h_1$ is the last hidden state of the first token, [CLS]. RoBERTa drops the second term. It changes the rows as well: no
# pairs, half of which are torn apart at random, but running text. Paper and textbooks speak of "no NSP" where two things have
# changed.

# %% [markdown]
# ## 4. The code
#
# ### Random numbers without a state
#
# A static mask must be drawn *again* in exactly the same way at each reading, for any row, in any order, on any machine. A
# generator with a state cannot do that without replaying its past. So the numbers are a **hash** of (seed, row, reading): the
# same question always has the same answer. Static masks then need no file on disk. They are the dynamic ones with the reading's
# number taken modulo $c$.

# %%
from bertcraft.techniques.roberta_optimizations import uniforms, _mix, reading_number, STATIC_COPIES  # inline

# %% [markdown]
# **Try it.** The numbers of row 7 do not depend on which rows are asked for besides. And the second reading knows nothing of
# the first.

# %%
some, alone = uniforms(0, np.arange(10), np.zeros(10), 4), uniforms(0, np.array([7]), np.zeros(1), 4)
print(np.array_equal(some[7], alone[0]), alone[0].round(3))
first, second = (uniforms(0, np.arange(5000), np.full(5000, reading), 4) for reading in (0, 1))
print(f"mean {first.mean():.3f}, correlation of two readings {np.corrcoef(first.ravel(), second.ravel())[0, 1]:.3f}")
print("readings 0 ... 11 under ten static masks:", reading_number(np.arange(12), STATIC_COPIES))

# %% [markdown]
# ### Equation (2)
#
# `mask_tokens` does the choosing and the replacing for a whole batch. Three tricks are worth a look. It *sorts* random numbers
# to choose exactly $k$ of $w$ words, instead of tossing a coin for each. It returns the chosen positions as a small array `at`
# of shape (N, M), not as labels for all L positions: the output layer, with its thousands of rows, is then computed at M places
# only. And one uniform number `kind` decides between the three cases, so that their shares cannot interfere.

# %%
from typing import NamedTuple

from bertcraft.tensor import functions as F

from bertcraft.techniques.roberta_optimizations import Masked, mask_tokens  # inline

# %% [markdown]
# A row of six tokens, small enough to follow: [CLS], four words, [SEP]. Half of the words are to be chosen. The words with the
# two smallest numbers in `order` are.

# %%
ids = np.array([[2, 11, 12, 13, 14, 3]])
order = np.array([[0.0, 0.9, 0.2, 0.7, 0.4, 0.1]])  # [CLS] and [SEP] are special: their numbers do not count
kind = np.array([[0.5, 0.5, 0.85, 0.5, 0.3, 0.5]])  # below 0.8: [MASK]; below 0.9: a random word
word = np.full((1, 6), 0.75)
masked = mask_tokens(ids, np.concatenate([order, kind, word], axis=1), mask_id=4, vocab_size=21, first_word_id=5, rate=0.5)
print("shown ", masked.input_ids[0], "\nat    ", masked.at[0], "\nlabels", masked.labels[0])

# %% [markdown]
# Position 2 became $5+\lfloor 0.75\cdot 16\rfloor=17$, a random word; position 4 became 4, [MASK]. The labels are the words
# that stood there.
#
# Now a thousand real rows. **Predict first**: which share of *all* words does the model see replaced by [MASK]?

# %%
many = texts.train[:1000]
masked = mask_tokens(many, uniforms(1, np.arange(1000), np.zeros(1000), 3 * many.shape[1]), **texts.vocabulary)
chosen = masked.labels >= 0
now, before = np.take_along_axis(masked.input_ids, masked.at, axis=1)[chosen], masked.labels[chosen]
is_mask, same = now == texts.vocabulary["mask_id"], now == before
for what, share in {"[MASK]": is_mask, "another word": ~is_mask & ~same, "the same word": same}.items():
    print(f"{what:14s} {100 * share.mean():5.1f} % of the chosen")
words = (many >= pretraining.FIRST_WORD).sum()
print(f"chosen: {100 * chosen.sum() / words:.1f} % of the words; [MASK] instead of {100 * is_mask.sum() / words:.1f} %")

# %% [markdown]
# Chosen are 15 %, and [MASK] stands at about 12 %. (These rows are short, and a share is rounded to whole words with at least
# one: that is why it need not be 15.0.)
#
# ### The loss at the chosen places only

# %%
from bertcraft.bert import Config, encoder, heads

from bertcraft.techniques.roberta_optimizations import masked_lm_loss, predicted  # inline

# %% [markdown]
# `at=` tells the encoder where its last layer is needed, `heads.masked_lm_loss` is equation (1). Is it right? First against the
# production implementation: transformers' BERT with random weights, the same rows, in double precision. Loss *and* every
# gradient.

# %%
config = Config(
    family="bert", head="masked_lm", vocab_size=len(pieces), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=48, max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
batch = pretraining.mask(texts.train[:6], np.arange(6), np.zeros(6), 0, 0.15, texts.vocabulary)

if lesson.installed("transformers", "torch"):
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from bertcraft.tensor import tree

    torch.manual_seed(0)
    theirs = BertForMaskedLM(BertConfig(**{k: v for k, v in config.to_dict().items() if k != "architectures"})).double().eval()
    params = tree.nest({name: p.detach().numpy().copy() for name, p in theirs.named_parameters()})
    labels = np.full(batch["input_ids"].shape, -100)  # transformers wants a label at every place
    n, m = np.nonzero(batch["labels"] >= 0)
    labels[n, batch["at"][n, m]] = batch["labels"][n, m]
    out = theirs(torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"]), labels=torch.tensor(labels))
    out.loss.backward()
    loss, gradients = bc.value_and_grad(masked_lm_loss)(params, batch, None, config)
    difference = max(np.abs(dict(tree.items(gradients))[name] - p.grad.numpy()).max() for name, p in theirs.named_parameters())
    print(f"loss: {float(loss):.4f} and {out.loss.item():.4f}, the same to 1e-10: {abs(float(loss) - out.loss.item()) < 1e-10}")
    print("every gradient the same to 1e-8:", difference < 1e-8)

# %% [markdown]
# And without trusting anybody: the gradient of one weight matrix against finite differences, which `check_grads` takes along a
# random direction. It raises where they differ.

# %%
from bertcraft.bert import initial_params
from bertcraft.tensor import tree

params = tree.map(lambda leaf: leaf.astype(np.float64), initial_params(config, 0))
query = params["bert"]["encoder"]["layer"]["0"]["attention"]["self"]["query"]


def loss_of_weight(weight):
    layer = params["bert"]["encoder"]["layer"]["0"]
    attention = {**layer["attention"], "self": {**layer["attention"]["self"], "query": {**query, "weight": weight}}}
    layers = {**params["bert"]["encoder"]["layer"], "0": {**layer, "attention": attention}}
    return masked_lm_loss({**params, "bert": {**params["bert"], "encoder": {"layer": layers}}}, batch, None, config)


bc.check_grads(loss_of_weight, query["weight"], order=1)
print("analytic and numeric gradient agree")

# %% [markdown]
# ### The input formats
#
# FULL-SENTENCES: the texts are laid end to end and cut into rows. No padding, no second segment. This is the whole of it:

# %%
from collections.abc import Iterable

from bertcraft.errors import DataError, InputError

from bertcraft.data.batches import pack  # inline
from bertcraft.techniques.roberta_optimizations import full_sentences  # inline

# %%
three = [np.array([11, 12, 13]), np.array([21, 22]), np.array([31, 32, 33, 34, 35, 36])]
print(full_sentences(three, length=6, cls_id=2, sep_id=3))

# %% [markdown]
# The paper ends a row at the end of a sentence, so its rows are "at most" 512 tokens; here a row is cut at a token, so that all
# are full. The 3 inside of a row says that another text begins.
#
# SEGMENT-PAIR, BERT's own: two segments, the second one torn from elsewhere half of the time, and the objective (7) with it.

# %%
from bertcraft.techniques.roberta_optimizations import SentencePairs, sentence_pairs, masked_lm_and_next_sentence_loss  # inline

# %%
documents = [[np.array([11, 12]), np.array([13, 14, 15]), np.array([16])], [np.array([21]), np.array([22, 23, 24, 25, 26, 27])]]
pairs = sentence_pairs(documents, length=9, cls_id=2, sep_id=3, pad_id=0, rng=np.random.default_rng(1))
print(pairs.input_ids, "\n1: torn apart ->", pairs.labels)

# %% [markdown]
# Look at what a model can learn from such a row. Where the halves belong together the second helps to guess the first one's
# words. In the others it is noise, for half of the row. **This is the confound**: dropping the loss (7) and dropping the torn
# rows are two changes. The paper's "no NSP" arms change both, and it says itself that BERT's own ablation, which found NSP
# useful, "may only have removed the loss term while still retaining the SEGMENT-PAIR input format". Our experiment has the
# missing arm: pairs kept, loss dropped.

# %% [markdown]
# ## 5. What it is worth
#
# ### Counted exactly: the price of predicting
#
# Masking 40 % instead of 15 % makes 2.7 times as many predictions for nearly the same work, as long as the output layer is
# computed where it is needed. BERT-base, one row of 512 tokens, products of the forward pass:

# %%
H, LAYERS, V, n = 768, 12, 30522, 512
layer = 2 * n * (4 * H * H + 8 * H * H) + 2 * 2 * n * n * H  # four projections, feed-forward; scores and their sums
head = {share: 2 * round(share * (n - 2)) * (H * H + H * V) for share in (0.15, 0.40)}
everywhere = 2 * n * (H * H + H * V)
print(f"encoder                          {LAYERS * layer:.3g} FLOPs")
for share, flops in head.items():
    print(f"head, {100 * share:.0f} % of the words          {flops:.3g}  ({100 * flops / (LAYERS * layer):.0f} % of the encoder)")
print(f"head everywhere (labels of -100) {everywhere:.3g}  ({100 * everywhere / (LAYERS * layer):.0f} %)")

# %% [markdown]
# ### Live: one static mask, three, dynamic
#
# A BERT of two layers, 64 wide, learns from 1,024 requests, each read twelve times. It starts out knowing the word frequencies,
# so all it can gain is context. Only the masks differ.
#
# **Predict first.** Which of the three has the lowest *training* loss at the end? Which the lowest loss on requests it has
# never read?

# %% quick="STEPS = 24"
COPIES = {"one static mask": 1, "three static masks": 3, "dynamic": None}  # try 6, or 12: with 12 readings what must happen?
STEPS = 384  # times 32 rows: twelve readings of 1,024 rows

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

# %%
with style.shown(width=7.0, height=3.6) as ax:
    for place, (title, run) in zip((2, 0, 1), trained.items(), strict=True):
        look = style.line(place)
        rows_read = np.array([step for step, _ in run.evaluations]) * setting.batch / len(texts.train)
        ax.plot(rows_read, [found["loss"] for _, found in run.evaluations], **look, label=title)
        window = max(1, len(run.losses) // len(run.evaluations))
        training = run.losses[: window * len(rows_read)].reshape(-1, window).mean(axis=1)
        ax.plot(rows_read, training, color=look["color"], lw=1, ls=":")
    ax.axhline(held_out.unigram, color="0.3", lw=1, ls=(0, (1, 3)), label="word frequencies alone")
    ax.set(xlabel="times that each row has been read", ylabel="loss (nats a chosen token)", xlim=(0, None))
    ax.legend(title="on unread text; dotted: in training", fontsize=8, title_fontsize=8)
for title, run in trained.items():
    print(f"{title:20s} training {run.losses[-32:].mean():.2f}, unread text {run.evaluations[-1][1]['loss']:.2f} nats")

# %% [markdown]
# The model with one mask is best in training by far, and worst on unread text: worse than knowing nothing but word frequencies.
# It has learnt 1,024 answers by heart. A falling training loss is no evidence that a masked language model learns, if its masks
# repeat.
#
# This exaggerates on purpose. BERT had ten masks, four readings each, and some hundred thousand times as much text. The paper's
# table for BERT-base (SQuAD 2.0 F1 / MNLI / SST-2): static 78.3 / 84.3 / 92.5, dynamic 78.7 / 84.0 / 92.9. Up, down, up, by
# tenths.
#
# ### Live: how noisy is a gradient?
#
# Now equation (5). Gradients of groups of 8 rows are averaged to batches of 8, 16 ... 256; their spread is $S/B$. Once at the
# start, once after the training with dynamic masks.

# %% quick="GROUPS = 8"
GROUPS, SIZE = 64, 8  # more groups: better estimates

gradient_of = bc.value_and_grad(lambda params, batch: masked_lm_loss(params, batch, None, config))


def gradients(params) -> np.ndarray:
    """The gradients of GROUPS groups of SIZE rows, each as one long vector: (GROUPS, parameters)."""
    rows = np.arange(GROUPS * SIZE) % len(texts.train)
    batch = pretraining.mask(texts.train[rows], rows, np.full(len(rows), 999), 0, 0.15, texts.vocabulary)
    groups = ({name: array[i : i + SIZE] for name, array in batch.items()} for i in range(0, len(rows), SIZE))
    return np.stack([np.concatenate([leaf.ravel() for leaf in tree.leaves(gradient_of(params, group)[1])]) for group in groups])


def noise(g: np.ndarray) -> dict:
    """What equation (5) needs: the noise at some batch sizes, S, and the square of the true gradient with its error."""
    sizes = [SIZE * 2**i for i in range(int(np.log2(GROUPS)) - 1)]
    means = [g.reshape(-1, size // SIZE, g.shape[1]).mean(axis=1) for size in sizes]
    spread = [((m - m.mean(axis=0)) ** 2).sum() / (len(m) - 1) for m in means]
    products = g @ g.T
    others = (products.sum(axis=1) - np.diag(products)) / (GROUPS - 1)  # each gradient times the mean of the others
    square, error = others.mean(), 4 * others.std() / GROUPS**0.5  # noise that is independent cancels in such products
    return {"sizes": sizes, "spread": spread, "S": spread[0] * SIZE, "square": square, "error": error}


measured = {"at the start": noise(gradients(start)), "after training": noise(gradients(trained["dynamic"].params))}

# %%
with style.shown(columns=2, width=8.2, height=3.4) as panels:
    for ax, (title, found) in zip(panels, measured.items(), strict=True):
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
# The measured points lie on $S/B$: that is (5), no more than averaging. What changes is the level of $\lVert g\rVert^2$. At the
# start the rows agree on where to go: all want the same first corrections. Later each row has its own wish, what they share is
# small, and it takes a large batch to hear it. (The band says how well 512 rows know $\lVert g\rVert^2$: where it reaches down
# to nothing, only the lower bound of $B^*$ means anything.) **So a large batch is a choice for long runs.** BERT-base at equal
# epochs, in the paper: perplexity 3.99 with batches of 256, 3.68 with 2,000, and 3.77 with 8,000: too large, even there.
#
# One thing (5) does not say: how *long* a step may be. At equal tokens a batch four times as large takes a quarter of the
# steps, so each has to go farther. Adam's steps cannot be made longer at will. In our experiment, rates were tried on the
# development texts: 0.002 was the best for batches of 64 *and* of 256. What do you expect of a run that ends after some
# minutes?
#
# ### The stored experiment
#
# Nine arms, some minutes each, on two settings: short requests for masks, batch and masking share; conversations for the
# formats. An arm differs in one thing from another, and all comparisons are paired by seed. Held-out loss is taken under masks
# that all arms share.

# %%
lesson.results()

# %%
lesson.plots(1)

# %% [markdown]
# Now the differences. *Claimed* says on which side of zero the difference should be if the recipe is right.

# %%
lesson.comparisons()

# %%
lesson.plots(2)

# %% [markdown]
# The same in words. The sentences are made from the stored runs: an interval that holds 0 gives no answer.

# %%
from bertcraft.lab import statistics

QUESTIONS = {  # treatment, baseline: what differs
    ("dynamic", "static10"): "new masks at each reading instead of ten fixed ones",
    ("static10", "static1"): "ten fixed masks instead of one",
    ("base", "dynamic"): "eighteen times as much text, at equal steps",
    ("batch256", "base"): "a batch of 256 instead of 64, at equal tokens",
    ("full", "pairs_nsp"): "no NSP and full sentences (both of the paper's changes)",
    ("pairs", "pairs_nsp"): "no NSP, the same torn pairs (the objective alone)",
    ("full", "pairs"): "full sentences instead of torn pairs (the format alone)",
    ("mask40", "base"): "40 % masked instead of 15 %, at equal steps",
}
found = {(run["arm"], run["seed"]): run["figures"]["loss"] for run in lesson.runs}
for (treatment, baseline), what in QUESTIONS.items():
    seeds = sorted(seed for arm, seed in found if arm == treatment and (baseline, seed) in found)
    if not seeds:
        print(f"{what}: not measured yet")
        continue
    gain = statistics.paired([found[baseline, s] for s in seeds], [found[treatment, s] for s in seeds])
    answer = f"{'lower' if gain.mean > 0 else 'HIGHER'} loss by {abs(gain.mean):.3f} nats"
    if gain.low is None:
        answer += " with one seed, which is no answer yet"
    elif gain.low <= 0 <= gain.high:
        answer = f"no difference that {len(seeds)} seeds can tell"
    print(f"{what}: {answer}")

answered = [run["figures"]["next_sentence"] for run in lesson.runs if "next_sentence" in run["figures"]]
if answered:
    print(f"by the way: the models with NSP answer it right for {np.mean(answered):.1f} % of unread pairs; 50 is chance")
    if np.mean(answered) < 55:
        print("they have not learnt it, so whatever NSP does to them, it is not by what it teaches")

# %% [markdown]
# ### When does it not help?
#
# - **Dynamic masks** help in so far as fixed ones would repeat. Text that is read once has no use for them: at one reading the
#   two are the same thing. Most language models since 2020 read their text about once.
# - **A large batch** at equal tokens means fewer steps. Whether these are worth more than a quieter gradient depends on $B^*$,
#   so on how far the training has come.
# - **Dropping NSP** is a name for two changes. Read our three differences side by side before you say which one did it.
# - **15 %** is no law. With 40 % a model of BERT-large's size did better (Wettig et al. 2023). In our table, mind that its arm
#   makes 2.7 times as many predictions a step.
# - A bigger corpus cannot be bought with a recipe. Compare the arm "all requests" with "dynamic masks": same code, same steps,
#   more text.

# %% [markdown]
# ## 6. In production
#
# Everyone pretrains with `DataCollatorForLanguageModeling` of transformers. It masks when a batch is put together: dynamic
# masks, by construction. It differs from BERT's code in four ways that are worth knowing. This cell and the next show three of
# them.

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
# 1. **A coin for each word** instead of a fixed number. A row of $w$ words has a binomial number of targets, and none at all
#    with probability $0.85^w$. A *batch* without any gives `nan`, for it is a mean of nothing.
# 2. **Random words come from the whole vocabulary**, special tokens included: now and then a [SEP] or a [PAD] in the middle of
#    a sentence. With 30,000 words nobody notices; with a vocabulary of 300 you would.
# 3. **Labels everywhere**: -100 at the places that do not count, and logits computed there all the same: the 25 % of part 5.
# 4. `whole_word_mask=True` also changes the die: it warns, and then all chosen words become [MASK] (100/0/0).

# %%
if lesson.installed("transformers", "torch"):
    from scipy.stats import binom

    length = 12
    rows = np.concatenate([texts.train[(texts.train >= 5).sum(axis=1) == length]] * 20)
    theirs = (collator([{"input_ids": ids.tolist()} for ids in rows])["labels"].numpy() != -100).sum(axis=1)
    random = uniforms(0, np.arange(len(rows)), np.zeros(len(rows)), 3 * rows.shape[1])
    ours = (mask_tokens(rows, random, **texts.vocabulary).labels >= 0).sum(axis=1)
    counts = np.arange(8)
    with style.shown(width=6.4, height=3.0) as ax:
        ax.bar(counts - 0.2, [(ours == k).mean() for k in counts], 0.4, color=style.COLOURS[0], label="BERT's code and ours")
        ax.bar(counts + 0.2, [(theirs == k).mean() for k in counts], 0.4, color=style.COLOURS[1], label="transformers' collator")
        ax.plot(counts + 0.2, binom.pmf(counts, length, 0.15), "k_", ms=14, label="binomial")
        ax.set(xlabel=f"chosen tokens in a row of {length} words", ylabel="share of rows")
        ax.legend(fontsize=8)
    words_only = DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=0.0, random_replace_prob=1.0, seed=0)
    drawn = words_only([{"input_ids": ids.tolist()} for ids in texts.train])
    drawn = drawn["input_ids"][drawn["labels"] != -100]
    print(f"of {len(drawn)} words drawn at random, {int((drawn < 5).sum())} are special tokens")
    nothing = torch.full((1, 4), -100)
    print("loss of a batch without a target:", torch.nn.functional.cross_entropy(torch.zeros(4, 9), nothing[0]).item())

# %% [markdown]
# A trap of its own: calling the collator inside `dataset.map(...)` and caching the result. The masks are then drawn once.
# **That is static masking again, with one copy**, and you have seen what it does.

# %% [markdown]
# ## 7. Exercises
#
# `hint("name")` helps, `solution("name")` tells. Stars say how hard it is.
#
# ### 7.1 An 80/10/10 that is not (one star)
#
# This way of drawing with two random numbers is found in many tutorials, with this mistake. Find it. Run it on many tokens
# first and look at the shares, if you like.


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
# ### 7.2 What was never asked for (one star)
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
# ### 7.3 How many different masks? (two stars)
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
# ### 7.4 DOC-SENTENCES (two stars)
#
# In the paper's own table the best format is a third one: rows are filled like FULL-SENTENCES but never run on into another
# document, so the last row of a document may be short (SQuAD 2.0 F1 79.7 against 79.1). It was not used because such batches
# vary in size. Write it.


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
# ### 7.5 The batch that is worth its price (three stars)
#
# In practice nobody stores the gradient of every row. But accumulation and data parallelism give the gradients of small batches
# and of a large one for free, and (5) holds for both. From the two mean squared lengths, solve for $\lVert g\rVert^2$ and $S$
# and return $B^*$ of (6).


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
# ### 7.6 What should the model believe? (derive, two stars)
#
# A perfectly trained model sees the word *alarm*, not [MASK], at a position. (a) How likely is it, before any context is read,
# that the position was chosen? (b) *Given* that it was chosen, how likely is it that *alarm* is the true word? Take $r=0.15$
# and a large vocabulary. What does this say about the tenth of the chosen tokens that is left as it is?

# %% [markdown] solution=true
# **Model answer.** (a) A position shows an ordinary word if it was not chosen (0.85), or chosen and kept (0.015), or chosen and
# replaced by a random word (0.015). So it was chosen with probability $0.03/0.88=3.4\,\%$. (b) Kept and replaced are equally
# likely, so the shown word is the true one with probability 1/2 (a little more: a random word may be the true one by chance).
# At a chosen position the loss asks for the word, and the best answer is half of the probability on what is shown and half
# spread by context. If no token were kept (80/20/0), the shown word would be evidence *against* itself, and the model would
# learn to distrust each word it reads, where fine-tuning later shows it only true ones. With 80/10/10 it learns to weigh word
# and context.

# %% [markdown]
# ### 7.7 Masks of whole words (open project, three stars)
#
# Change `mask_tokens` so that the pieces of a word (`##ing` and what it belongs to) are chosen together, at the same number of
# tokens. Train it like part 5 and compare on `held_out`, whose masks do not change. Before you believe a difference, repeat it
# with three seeds. Then try spans of three neighbouring words.

# %% [markdown] solution=true
# **One way.** Give all pieces of a word the same number in `order` (that of its first piece): `begins = ~is_continuation[ids]`,
# then `order = np.take_along_axis(order, np.maximum.accumulate(np.where(begins, np.arange(L), 0), axis=1), axis=1)`. A stable
# sort then puts the pieces of a word side by side; cut after the last whole word that fits. Expect the training loss to rise (a
# piece can no longer be guessed from its other half). Whether unread text is guessed better is what three seeds have to say.

# %% [markdown]
# ## 8. Pitfalls, references, what next
#
# - **RoBERTa is no architecture.** "We used RoBERTa instead of BERT" usually means "we used a model that had read 160 GB
#   instead of 16".
# - **"No NSP" is confounded** with the format, in the paper and in most summaries of it.
# - **RTE's +16** is a small set (277 development examples); for the *test* scores RTE, MRPC and STS-B started from the MNLI
#   model, so they are not like for like.
# - **Positions begin at 2** in RoBERTa checkpoints (padding_idx + 1), which is why they have 514. Feeding positions from 0
#   gives no error, only worse results.
# - Adam's $\beta_2=0.98$ and $\epsilon=10^{-6}$ belong to the recipe for large batches; the library defaults (0.999, $10^{-8}$)
#   do not.
# - A held-out loss must be taken under fixed masks, the same for all models. With masks drawn at each evaluation you compare
#   luck.
#
# **Read**: Liu et al. 2019, [RoBERTa](https://arxiv.org/abs/1907.11692), sections 4.1 to 4.3 for what you have rebuilt. Devlin
# et al. 2019, [BERT](https://arxiv.org/abs/1810.04805), appendix A. McCandlish, Kaplan, Amodei 2018, [An empirical model of
# large-batch training](https://arxiv.org/abs/1812.06162), for (5) and (6). Wettig, Gao, Zhong, Chen 2023, [Should you mask 15
# %?](https://arxiv.org/abs/2202.08005). The production code is
# [`data_collator.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/data/data_collator.py).
#
# **Next**: on the path *Efficiency & Deployment*, [02 ELECTRA](02_electra_pretraining.ipynb) asks of *every* token what BERT
# asks of 15 %. Large batches on a small machine are the matter of [06 gradient accumulation](06_gradient_accumulation.ipynb).
