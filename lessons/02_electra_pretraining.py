# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 02. ELECTRA: find the fake
#
# A masked language model reads a whole row and is asked about one token in seven. The rest of its work goes unmarked. ELECTRA
# asks about *every* token, and asks less of each: not "which word stood here?" but "is this the word that stood here?" The
# forgeries come from a second, smaller model, which is thrown away at the end. You will write the forger's sampling, the
# detector's loss and the question's best possible answer, weigh the bill in floating-point operations, and watch the
# published constants fail on a model that is small enough.
#
# You need NumPy and what [lesson 00](00_foundations.ipynb) says of masked language models. Set aside 60 to 90 minutes.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson

lesson = open_lesson("electra_pretraining")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim
#
# "Four times as efficient" is a quotient of two bills: what RoBERTa and ELECTRA cost to *pretrain* until both score the same
# after fine-tuning.

# %%
lesson.claim()

# %% [markdown]
# The claim is about large models. The paper trained smaller ones, too, each against a BERT of its own at equal compute. Look at
# the right panel before you read on: in which direction does the gain go?

# %%
from bertcraft.lab import style

# GLUE development sets (Clark et al. 2020, tables 1 and 2): FLOPs of pretraining, mean score
LARGE = {"BERT (own)": (7.1e20, 87.2), "RoBERTa": (3.2e21, 88.9), "XLNet": (3.9e21, 89.1)}
ELECTRA = {"400K steps": (7.1e20, 89.0), "1.75M steps": (3.1e21, 89.5)}
EQUAL = {"small": (79.9, 75.1), "base": (85.1, 82.2), "large": (89.0, 87.2)}

with style.shown(columns=2, width=8.2, height=3.3) as (left, right):
    for (name, (flops, score)), beside in zip(LARGE.items(), ((8, -3), (4, -13), (7, -3)), strict=True):
        left.plot(flops, score, "o", color=style.COLOURS[0])
        left.annotate(name, (flops, score), xytext=beside, textcoords="offset points", fontsize=8)
    left.plot(*zip(*ELECTRA.values(), strict=True), **style.line(1), label="ELECTRA-large")
    left.annotate("", (3.0e21, 88.9), (7.6e20, 88.98), arrowprops={"arrowstyle": "<->", "color": "0.3"})
    left.text(1.5e21, 88.8, "x 4.5", ha="center", va="top", fontsize=9)
    left.set(xscale="log", xlim=(5e20, 7e21), ylim=(86.8, 89.8), xlabel="FLOPs of pretraining", ylabel="GLUE dev (mean score)")
    left.minorticks_off()
    left.set_xticks([5e20, 1e21, 2e21, 5e21], ["5e20", "1e21", "2e21", "5e21"])
    left.set_title("the claim")
    left.legend(fontsize=8, loc="lower right")
    gains = [electra - bert for electra, bert in EQUAL.values()]
    right.bar(list(EQUAL), gains, 0.55, color=style.COLOURS[1])
    right.bar_label(right.containers[0], fmt="%+.1f", fontsize=9)
    right.set(ylabel="ELECTRA minus BERT (points)", ylim=(0, 5.6), title="at equal FLOPs")

# %% [markdown]
# The smaller the model, the larger the gain: 4.8, 2.9, 1.8 points. A hasty reader continues the row and expects wonders of the
# model that trains in minutes on a laptop. Keep that expectation in mind. Part 5 tests it.
#
# Two conditions of the claim are usually left out. It compares *pretraining* compute only: in use both models cost the same.
# And at equal compute the difference is under two points; the factor is large because the curve is flat up there.

# %% [markdown]
# ## 2. One token in seven
#
# BERT hides 15 % of the tokens and is judged there. Its inventors tried to ask for more: with more masks, too little of the
# sentence is left to guess from. Two other things bothered people. The model sees [MASK] in training and never afterwards. And
# whatever it believes of the other 85 % changes no weight.
#
# Let us make that last point visible. A model without training reads a real request; we draw how strongly the loss pulls at the
# last hidden state $h_t$ of each token, $\lVert\partial\mathcal L/\partial h_t\rVert$. First for guessing what was masked, then
# for telling what was replaced.

# %%
from bertcraft.bert import encoder, heads
from bertcraft.lab.experiment import Arm
from bertcraft.lab.experiments import electra_pretraining as experiment
from bertcraft.techniques import electra_pretraining as technique
from bertcraft.tensor import functions as F

SMALL = {  # an encoder of 2 layers, 64 wide; the experiment of part 5 is the same with 128
    "corpus": "utterances", "length": 32, "vocab_size": 512, "held_out": 500, "hidden": 64, "batch": 32, "shard": 32,
    "rate": 4e-3, "warmup": 30, "evaluations": 6, "budget": 0.15,
}  # fmt: skip
PAPER = SMALL | {"width": 0.25, "weight": 50.0, "sharing": "shared", "detect": "all"}
(mlm,), (electra,) = (experiment.tasks_of(Arm("", "", settings), seed=0) for settings in (SMALL, PAPER))
pieces = [mlm.texts.tokenizer.id_to_token(i) for i in range(512)]
print(len(mlm.texts.train), "requests;", len(pieces), "pieces in the vocabulary")

# %%
batch = electra.make_batch(2)
generator, discriminator = electra.split(electra.start)
parts = technique.losses({"generator": generator, "discriminator": discriminator}, batch, None, electra.guesser, electra.config,
                         sharing="separate")  # fmt: skip
ordinary = [not {"[UNK]"} & {pieces[i] for i in ids} and 11 <= (ids != 0).sum() <= 17 for ids in batch["input_ids"]]
split = np.array([sum(pieces[i].startswith("##") for i in ids) for ids in batch["input_ids"]])
row = int(np.argmin(np.where(ordinary, split, 99)))  # a short one with the fewest words in pieces
length = int(batch["attention_mask"][row].sum())
shown = {"masked": batch["input_ids"][[row], :length], "replaced": parts.replaced.input_ids[[row], :length]}

labels = np.full((1, length), -100)  # masked language model: the loss is here and nowhere else
masked = batch["labels"][row] >= 0
labels[0, batch["at"][row][masked]] = batch["labels"][row][masked]
fake = parts.replaced.fake[[row], :length]

hidden = encoder.encode(mlm.start, mlm.config, shown["masked"])
_, pull_of_masks = bc.value_and_grad(lambda h: heads.masked_lm_loss(mlm.start, mlm.config, h, labels))(hidden)
hidden = encoder.encode(discriminator, electra.config, shown["replaced"])
judge = lambda h: F.binary_cross_entropy(heads.detection_logits(discriminator, electra.config, h), fake)  # noqa: E731
_, pull_of_fakes = bc.value_and_grad(judge)(hidden)

# %%
with style.shown(columns=2, width=9.0, height=3.4) as panels:
    for place, (ax, pull, ids, title) in enumerate(zip(
        panels, (pull_of_masks, pull_of_fakes), shown.values(), ("guess what was masked", "tell what was replaced"), strict=True
    )):  # fmt: skip
        size = np.linalg.norm(pull[0], axis=-1)
        ax.bar(range(length), size / size.max(), color=style.COLOURS[place])
        ax.set_xticks(range(length), [pieces[i] for i in ids[0]], rotation=90, fontsize=7)
        for t in np.flatnonzero(labels[0] >= 0):
            ax.get_xticklabels()[t].set_fontweight("bold")
        ax.set(title=title, ylim=(0, 1.1))
    panels[0].set_ylabel("pull of the loss at $h_t$\n(largest = 1)")

# %% [markdown]
# In bold: the masked places. On the left nothing but they pull. On the right every token does, all about alike: the model knows
# nothing yet, and at each of them there is something to learn.
#
# **Predict first.** Is a yes-or-no answer at every token worth more than a word at every seventh? Think of how many *bits* each
# answer holds. We shall count them at the end of part 3.

# %% [markdown]
# ## 3. The mathematics
#
# ### The game
#
# A row has tokens $x_1\dots x_n$ from a vocabulary of $V$ words; a set $M$ of positions, a share $r$ of them, is masked. The
# **generator** $G$ is a masked language model. From its last hidden state $g_t$ (as long as a word's embedding) and the
# embedding matrix $E$ ($V$ rows) it gives each word a probability at each masked place:
#
# $$p_G(w\mid t)=\frac{\exp(e_w\cdot g_t+b_w)}{\sum_{v}\exp(e_v\cdot g_t+b_v)},\qquad
# \mathcal L_G=-\frac1{|M|}\sum_{t\in M}\ln p_G(x_t\mid t)\tag{1}$$
#
# One word $\hat x_t$ is **drawn** from $p_G$ at each masked place, and the row is put together again:
#
# $$\tilde x_t=\begin{cases}\hat x_t & t\in M\\ x_t & \text{otherwise}\end{cases}\qquad
# y_t=\begin{cases}1 & \tilde x_t\neq x_t\\ 0 & \tilde x_t=x_t\end{cases}\tag{2}$$
#
# Mind the second half: a forger who happens to write the true word has forged nothing. $y_t$ is 0 there.
#
# The **discriminator** $D$ reads $\tilde x$. It ends in one number $z_t$ a token, and $\sigma(z_t)=1/(1+e^{-z_t})$ is its
# probability that the token is a fake. It is judged on all $n$ tokens; padding does not count:
#
# $$\mathcal L_D=-\frac1n\sum_{t=1}^{n}\Bigl(y_t\ln\sigma(z_t)+(1-y_t)\ln(1-\sigma(z_t))\Bigr)\tag{3}$$
#
# Both are trained at once, on the sum
#
# $$\mathcal L=\mathcal L_G+\lambda\,\mathcal L_D,\qquad\lambda=50.\tag{4}$$
#
# **By hand.** *set an alarm*; *alarm* is masked. The generator gives *alarm* 1/2 and *order* 1/4: $\mathcal L_G=\ln2=0.69$. It
# draws *order*; the labels are $(0,0,1)$. The discriminator says 0.1, 0.1, 0.4:
# $\mathcal L_D=-(\ln0.9+\ln0.9+\ln0.4)/3=0.376$, and $\mathcal L=0.69+50\cdot0.376=19.5$. Of these 19.5 the generator's part
# is 3.6 %. So $\lambda$ looks enormous. Equation (6) will have something to say about it.
#
# Why is it no GAN? In a GAN the forger is rewarded for deceiving. Here it is not: it learns from (1) alone. It could not be
# rewarded by backpropagation anyway, for $\hat x_t$ is drawn, and a drawn word does not change by a little when a weight does.
# The paper tried a reward by reinforcement learning: its generator then guessed worse (58 % right instead of 65 %), and the
# discriminator learnt less from it.
#
# ### How many fakes are there?
#
# A masked token becomes a fake unless the draw is right. Let $a$ be the mean probability that the generator gives the true
# word, the mean of $p_G(x_t\mid t)$ over the masked places. Then a token is a fake with probability
#
# $$f=r\,(1-a).\tag{5}$$
#
# Not its *accuracy*, though the two are often confused: accuracy counts how often the true word is the most probable one, but
# the word is drawn, not chosen. With $r=0.15$ and $a=0.65$, $f=5.3\,\%$. The better the forger, the rarer the fakes.
#
# ### What does a discriminator lose that understands nothing?
#
# It can still learn two things. [CLS] and [SEP] are never masked, so they are never fakes. And of the words, a share $w$ of the
# tokens, the share $f$ of (5) are. Who answers 0 at the former and $f$ at all words loses the entropy of a coin that shows
# *fake* with probability $f$, at the words only:
#
# $$\mathcal L_\text{chance}=w\,H(f),\qquad H(f)=-f\ln f-(1-f)\ln(1-f).\tag{6}$$
#
# This number is the zero of every plot of a discriminator's loss. For a young generator, $a=0.04$, and rows of 20 tokens,
# $w=0.9$, it is $0.9\cdot H(0.144)=0.371$. A loss that "converges nicely" from 0.69 to 0.37 has learnt *nothing at all*. It is
# the first thing to look at when ELECTRA is trained, and the one that is most often not looked at. It also says something about
# $\lambda$: on an English vocabulary $\mathcal L_G$ is some nats, and $\mathcal L_D$ has three or four tenths to win, spread
# over all tokens.

# %%
hidden = encoder.encode(generator, electra.guesser, batch["input_ids"], batch["attention_mask"], at=batch["at"])
logits = heads.masked_lm_logits(generator, electra.guesser, hidden)
truth = np.where(batch["labels"] >= 0, batch["labels"], 0)[..., None]
forgeries = []
for told in (0, 3, 5, 6, 7, 9):  # the more is added at the true word, the better a forger
    better = logits.copy()
    np.put_along_axis(better, truth, np.take_along_axis(logits, truth, 2) + told, 2)
    a = np.take_along_axis(F.softmax(better), truth, 2)[batch["labels"] >= 0].mean()
    counted = technique.replace_tokens(batch, technique.sample(better, batch["draw"]))
    forgeries.append((a, 100 * counted.fake.sum() / (batch["input_ids"] >= 5).sum()))

# %%
f = np.linspace(1e-4, 0.5, 400)
entropy = -f * np.log(f) - (1 - f) * np.log(1 - f)
with style.shown(columns=2, width=8.2, height=3.2) as (left, right):
    r = counted.masked.sum() / (batch["input_ids"] >= 5).sum()
    left.plot([0, 1], [100 * r, 0], color=style.COLOURS[1], label=f"equation (5), r = {100 * r:.0f} %")
    left.plot(*zip(*forgeries, strict=True), "^", color=style.COLOURS[2], label="counted in one batch")
    left.set(xlabel="a: mean probability of the true word", ylabel="fakes f (% of the words)", ylim=(0, 19))
    left.legend(fontsize=8)
    right.plot(100 * f, entropy, color=style.COLOURS[1], label="H(f): knows the share, nothing else")
    right.axhline(np.log(2), color="0.4", lw=1, ls=":")
    right.annotate("ln 2: a coin, not even the share", (2, np.log(2)), xytext=(0, -11), textcoords="offset points", fontsize=8)
    right.set(xlabel="fakes f (% of the words)", ylabel="loss (nats a word)", ylim=(0, 0.75))
    right.legend(fontsize=8, loc="lower right")

# %% [markdown]
# On the left the untrained generator is made a better and better forger, by adding to its logits at the true words. ($r$ is 17
# % because these rows are short and at least one word of each is chosen.) On the right the loss to beat at a word.
#
# ### The best answer that there is
#
# What *should* the discriminator say? Let $p(w)$ be the true probability of the word $w$ at a place, given the rest of the row,
# and $p_G(w)$ the generator's. Somebody shows you $w$ there. It can have come about in three ways:
#
# | | probability |
# | --- | --- |
# | not masked, $w$ is the text's own | $(1-r)\,p(w)$ |
# | masked, $w$ drawn, the text has $w$, too: original | $r\,p_G(w)\,p(w)$ |
# | masked, $w$ drawn, the text has another word: **fake** | $r\,p_G(w)\,(1-p(w))$ |
#
# The share of the last row in all three is the best answer:
#
# $$D^*(w)=\frac{r\,p_G(w)\,(1-p(w))}{(1-r)\,p(w)+r\,p_G(w)}.\tag{7}$$
#
# By hand: $r=0.15$, and $p_G=p$ gives *alarm* 1/2 and *order* 1/100. Then $D^*(\text{alarm})=0.15\cdot\frac12=0.075$ and
# $D^*(\text{order})=0.15\cdot0.99=0.149$. With $p_G=p$, a *perfect* forger, the denominator is $p(w)$ and
#
# $$D^*(w)=r\,(1-p(w)).\tag{8}$$
#
# Here is why the game teaches language: even against a perfect forger the best answer needs $p(w)$, the probability of each
# word in its context, which is all that a language model knows. And here is why it gets hard: (8) lies between 0 and $r$ for
# all words whatever. Knowing everything about English moves the answer from 0.15 to 0.075, where a poor forger's mistakes can
# be answered with nearly 1.

# %%
word = np.geomspace(0.001, 0.999, 400)  # p(w): how well the shown word fits
with style.shown(width=6.6, height=3.4) as ax:
    forgers = {"the word's own p(w): perfect": word, "0.02": 0.02, "0.001": 0.001}
    for place, (title, p_g) in enumerate(forgers.items()):
        d = 0.15 * p_g * (1 - word) / (0.85 * word + 0.15 * p_g)
        look = style.line((1, 0, 2)[place])
        ax.plot(word, d, color=look["color"], ls=look["linestyle"], label=title)
    ax.set(xscale="log", xlabel="p(w): how probable the shown word is in its context", ylabel="$D^*(w)$, equation (7)")
    ax.legend(title="the forger's p_G(w)", fontsize=8, title_fontsize=8)

# %% [markdown]
# ### Count the bits
#
# Now the question of part 2. An answer can teach at most its entropy. The name of a masked word is worth what the model does
# not know of it yet: $\mathcal L_G$ nats. A yes or no is worth at most $H(f)$. Per row of $n$ words that is
# $r\,n\,\mathcal L_G$ against $n\,H(f)$:

# %%
for name, loss, a in (("small and young", 5.4, 0.04), ("ELECTRA-large's generator", 1.8, 0.65)):
    f = 0.15 * (1 - a)
    chance = -f * np.log(f) - (1 - f) * np.log(1 - f)
    print(f"{name:26s} guess: {0.15 * loss:.2f} nats a word of the row, tell: at most {chance:.2f}")

# %% [markdown]
# (The 1.8 nats are an example; the paper gives accuracies.) All answers together hold *less* than the seventh does. "More
# signal because all tokens count" is therefore not the whole story. What the paper's ablations show is that the *places*
# matter: with the loss on the masked 15 % alone, ELECTRA's score falls from 85.0 to 82.4, and a masked language model that
# predicts *all* tokens comes within a point of it (84.3). A gradient at every token, on a row that has no [MASK]: that is what
# is bought.

# %% [markdown]
# ## 4. The code
#
# ### A generator's measures
#
# As deep as the discriminator, a quarter as wide, embeddings of the same size: these are shared, so a matrix (E to H) leads
# from them into the narrow model.

# %%
from dataclasses import replace
from typing import Any, NamedTuple

from bertcraft.bert import Config
from bertcraft.errors import InputError

from bertcraft.techniques.electra_pretraining import generator_config  # inline

# %% [markdown]
# How much does it weigh? The paper's ELECTRA-small: 12 layers, 256 wide, embeddings of 128.

# %%
from bertcraft.bert.layout import parameter_shapes

small = Config(family="electra", head="replaced_token_detection", embedding_size=128, hidden_size=256, num_hidden_layers=12,
               num_attention_heads=4, intermediate_size=1024)  # fmt: skip
for name, config in (
    ("discriminator", small),
    ("generator, 1/4", generator_config(small)),
    ("generator, 1", generator_config(small, 1.0)),
):
    count = sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())
    print(f"{name:15s} {count:>10,} parameters, {config.num_attention_heads} attention heads of {config.head_size}")

# %% [markdown]
# Of the 4.6 million parameters of the quarter generator 3.9 million are the embeddings, and those it shares. (The *released*
# ELECTRA-small was trained with the generator of width 1: see the pitfalls.)
#
# ### One table for two models
#
# The paper ties the embeddings: all of them trained by both losses. Its reason: the discriminator's loss touches only words
# that are shown, the generator's softmax touches every word at each step. DeBERTa-V3 later found that the two losses pull at
# the table in different directions, and cut one string: its discriminator reads $\text{sg}(E)+\Delta$, where sg (*stop
# gradient*) makes a constant of the generator's table and $\Delta$ starts at zero.

# %%
from bertcraft.bert.initialise import initial_params as initial_model
from bertcraft.tensor import stop_gradient, tree

from bertcraft.techniques.electra_pretraining import SHARING, DETECT, DETECTION_WEIGHT, _check, initial_params, models  # inline

# %% [markdown]
# ### What is replaced: equations (1) and (2)
#
# To draw from a softmax, add up its probabilities and see where a uniform number falls: with $(0.5, 0.25, 0.25)$ and $u=0.6$
# the sums are $0.5, 0.75, 1$; one of them lies at or below 0.6, so the word is number 1. The function counts sums. It never
# looks at the last one, which floating point may leave at 0.9999999: $u$ could lie above it.

# %%
from bertcraft.techniques.roberta_optimizations import predicted

from bertcraft.techniques.electra_pretraining import electra_batch, sample, Replaced, replace_tokens  # inline

# %% [markdown]
# **Try it.** *set an alarm for six*; *an* and *alarm* are masked (4), the draws are 11, which happens to be right, and 27.

# %%
tiny = {"input_ids": np.array([[2, 10, 4, 4, 13, 14, 3]]), "at": np.array([[3, 2]]), "labels": np.array([[12, 11]])}
replaced = replace_tokens(tiny, np.array([[27, 11]]))
print(replaced.input_ids[0], replaced.fake[0].astype(int), replaced.masked[0].astype(int), sep="\n")
three = np.log([[0.5, 0.25, 0.25]])
print("drawn with u = 0.6:", sample(three, np.array([0.6])), " of 10,000 draws:",
      np.bincount(sample(np.repeat(three, 10_000, 0), np.random.default_rng(0).random(10_000))) / 10_000)  # fmt: skip

# %% [markdown]
# Two rows of labels that look alike, and the difference is equation (2): at the place where the draw was right the token *was
# masked* (third line) but *is no fake* (second line).
#
# ### The losses: (1), (3), (4)
#
# `detect="masked"` is the paper's ablation: (3) at the masked places only. `_share` is for training in shards: the two means
# run over different sets (masked tokens; all tokens), so a shard weighs its two losses differently, and a single weight a shard
# would be wrong.

# %%
from bertcraft.techniques.electra_pretraining import Losses, _share, losses, electra_loss  # inline

# %% [markdown]
# The worked example of part 3, by the same functions: logits of 0.1, 0.1, 0.4 and labels (0, 0, 1).

# %%
said = np.array([[0.1, 0.1, 0.4]])
detection = F.binary_cross_entropy(np.log(said / (1 - said)), np.array([[0, 0, 1]]))
print(f"L_D = {detection:.3f}, L = {np.log(2) + DETECTION_WEIGHT * detection:.1f}")

# %% [markdown]
# ### Proof
#
# Against transformers' two classes with random weights, their embeddings tied, in double precision. They read *our* replaced
# rows: what is drawn is up to chance, what follows from it is not. Both losses, the sum (4) and every gradient.

# %%
ids = np.random.default_rng(1).integers(5, 40, (5, 12))
ids[:, 0], ids[3:, 9:] = 2, 0  # a first token, and two rows that end early
from bertcraft.techniques.roberta_optimizations import mask_tokens

numbers = np.random.default_rng(2).random((2, 5, 36))
rows = mask_tokens(ids, numbers[0], mask_id=4, vocab_size=40, first_word_id=5, rate=0.3)
rows = electra_batch({**rows._asdict(), "attention_mask": (ids != 0).astype(np.int64)}, numbers[1])


def joined(guesser, judge) -> tuple[dict, dict]:
    """Configurations and parameters of two transformers models that share their embeddings, as ``losses`` wants them."""
    configs, params = {}, {}
    for name, model in (("generator", guesser), ("discriminator", judge)):
        configs[name] = Config.from_dict({**model.config.to_dict(), "architectures": [type(model).__name__]})
        params[name] = tree.nest({each: p.detach().numpy().copy() for each, p in model.named_parameters()})
    del params["discriminator"]["electra"]["embeddings"]
    return configs, params


if lesson.installed("transformers", "torch"):
    import torch
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "embedding_size": 12, "num_hidden_layers": 2, "max_position_embeddings": 12,
             "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}  # fmt: skip
    guesser = ElectraForMaskedLM(ElectraConfig(**sizes, hidden_size=8, num_attention_heads=1, intermediate_size=16)).double()
    judge = ElectraForPreTraining(ElectraConfig(**sizes, hidden_size=16, num_attention_heads=2, intermediate_size=32)).double()
    judge.electra.embeddings = guesser.electra.embeddings  # nobody else ties them
    configs, params = joined(guesser, judge)

    parts = losses(params, rows, None, **configs)
    total, gradients = bc.value_and_grad(lambda p: electra_loss(p, rows, None, **configs))(params)
    labels = np.full(ids.shape, -100)
    i, j = np.nonzero(rows["labels"] >= 0)
    labels[i, rows["at"][i, j]] = rows["labels"][i, j]
    mask = torch.tensor(rows["attention_mask"])
    guessed = guesser(torch.tensor(rows["input_ids"]), mask, labels=torch.tensor(labels))
    judged = judge(torch.tensor(parts.replaced.input_ids), mask, labels=torch.tensor(parts.replaced.fake).double())
    theirs = guessed.loss + 50 * judged.loss.double()
    theirs.backward()
    worst = max(
        np.abs(leaf - dict(model.named_parameters())[name].grad.numpy()).max()
        for model, part in ((guesser, "generator"), (judge, "discriminator")) for name, leaf in tree.items(gradients[part])
    )  # fmt: skip
    print(f"L_G {float(parts.masked_lm):.4f} and {guessed.loss.item():.4f}")
    print(f"L_D {float(parts.detection):.4f} and {judged.loss.item():.4f}")
    print("the sum the same to 1e-5:", abs(float(total) - theirs.item()) < 1e-5, " every gradient to 1e-5:", worst < 1e-5)

# %% [markdown]
# To $10^{-5}$ only, because `ElectraForPreTraining` computes its loss in single precision even in a double model (it casts the
# labels with `.float()`); the library's tests redo that line in double precision and find $10^{-8}$. And without trusting
# anybody: does a gradient flow through the drawing? By (4) the generator's own layers must get theirs from $\mathcal L_G$
# alone. We ask a number: change one generator weight by a little, and see whether the *sum* changes by what $\mathcal L_G$'s
# gradient says.

# %%
config = Config(family="electra", head="replaced_token_detection", vocab_size=40, embedding_size=12, hidden_size=16,
                num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, max_position_embeddings=12,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
pair = {"generator": generator_config(config, 0.5), "discriminator": config}
params = initial_params(*pair.values(), seed=0, dtype=np.float64)
query = params["generator"]["electra"]["encoder"]["layer"]["0"]["attention"]["self"]["query"]


def with_query(weight, loss):
    changed = tree.map(lambda leaf: leaf, params)  # the same arrays in new dicts
    changed["generator"]["electra"]["encoder"]["layer"]["0"]["attention"]["self"]["query"] = {**query, "weight": weight}
    return loss(changed)


of_sum = bc.grad(lambda w: with_query(w, lambda p: electra_loss(p, rows, None, **pair)))(query["weight"])
of_guessing = bc.grad(lambda w: with_query(w, lambda p: losses(p, rows, None, **pair).masked_lm))(query["weight"])
print("the generator's layers learn from L_G alone:", np.array_equal(of_sum, of_guessing))
bc.check_grads(lambda w: with_query(w, lambda p: electra_loss(p, rows, None, **pair)), query["weight"], order=1)
print("analytic and numeric gradient of the sum agree: no draw lies within a small step of its limit")

# %% [markdown]
# ## 5. What it costs, and what it buys
#
# ### Counted exactly: the bill of the claim
#
# Let us redo the paper's bill with our own hands. A layer of width $H$ on a row of $n$ tokens: four projections, a feed-forward
# part four times as wide, and attention; 2 operations a multiplication. Training is three forward passes' worth: one forward,
# two backward. (The paper counts backward as dear as forward, so its sums are two thirds of ours; the quotient hardly minds.)


# %%
def encoder_flops(width, layers, n):
    """Forward, one row: projections and feed-forward, scores and their sums."""
    return layers * (2 * n * 12 * width**2 + 4 * n * n * width)


def guess_flops(width, embedding, vocabulary, places):
    """A masked language model's output layer at the masked places."""
    return places * 2 * (width * embedding + embedding * vocabulary)


n, H, L = 512, 1024, 24
roberta = {"encoder": encoder_flops(H, L, n), "words' softmax": guess_flops(H, H, 50265, round(0.15 * n))}
large = {
    "encoder": encoder_flops(H, L, n) + 2 * n * H * H,  # the discriminator and its head
    "generator": encoder_flops(H // 4, L, n) + 2 * n * H * H // 4,
    "words' softmax": guess_flops(H // 4, H, 30522, round(0.25 * n)),  # the large model masks 25 %
}
RUNS = {"RoBERTa, 500K steps of 8,000 rows": (roberta, 500e3 * 8000), "ELECTRA, 400K steps of 2,048 rows": (large, 400e3 * 2048)}
bills = {name: {part: 3 * flops * rows_read for part, flops in parts.items()} for name, (parts, rows_read) in RUNS.items()}
for name, bill in bills.items():
    print(f"{name}: {sum(bill.values()):.3g} FLOPs, a row costs {sum(RUNS[name][0].values()):.3g} forward")
first, second = (sum(bill.values()) for bill in bills.values())
print(f"quotient {first / second:.2f}, of the rows read alone {500e3 * 8000 / (400e3 * 2048):.2f}")

# %% [markdown]
# There is the factor of 4.5. And there is where it comes from: ELECTRA's row is even a little *dearer* than RoBERTa's. It read
# a fifth of the rows. The claim says that a row teaches it nearly five times as much.
#
# In our own small models the bill looks different. A wide softmax over the vocabulary and a generator weigh more beside a
# narrow encoder. `lab.flops` counts every matrix product of a step, forward and backward, as it runs:

# %%
WIDE = PAPER | {"width": 1.0, "weight": 50.0, "sharing": "disentangled"}
(wide,) = experiment.tasks_of(Arm("", "", WIDE), seed=0)
prices = {"masked LM": mlm, "ELECTRA, generator 1/4": electra, "ELECTRA, generator 1": wide}
with style.shown(columns=2, width=9.0, height=3.0) as (left, right):
    parts = ("encoder", "generator", "words' softmax")
    start = np.zeros(2)
    for place, part in enumerate(parts):
        size = np.array([100 * bills[name].get(part, 0) / first for name in bills])
        left.barh([name.replace(", ", "\n", 1) for name in bills], size, left=start, color=style.COLOURS[place], label=part)
        start += size
    left.invert_yaxis()
    left.set(xlabel="FLOPs (RoBERTa's run = 100)", title="the paper's runs, a bill redone")
    left.legend(fontsize=8, loc="lower right")
    gflops = [task.step_flops / 1e9 for task in prices.values()]
    right.barh(list(prices), gflops, color=[style.COLOURS[i] for i in (0, 1, 3)])
    told = [f"{g:.2f}: {task.setting.steps} steps" for g, task in zip(gflops, prices.values(), strict=True)]
    right.bar_label(right.containers[0], told, fontsize=8, padding=3)
    right.invert_yaxis()
    right.set(xlabel="GFLOP a step", xlim=(0, 1.6 * max(gflops)), title="ours: steps that the same compute buys")

# %% [markdown]
# ### Live: at equal compute
#
# Three trainings of the model that you have met, with one budget of operations:
#
# 1. a masked language model;
# 2. ELECTRA with the paper's constants: generator of a quarter, $\lambda=50$, one table;
# 3. ELECTRA from a **warm start**: half of the budget for a masked language model, which then becomes the generator *and* the
#    discriminator's first weights. The paper describes this, too, and why: without it, "the discriminator would sometimes fail
#    to learn at all beyond the majority class". Embeddings disentangled, as in DeBERTa-V3.
#
# All read the same masks in the same order. They start out knowing the word frequencies, so what they gain is context.
#
# **Predict first.** Which generator guesses better at the end: one that shares its table with a discriminator, or one that does
# not? Will the second arm's discriminator stay above, at or below chance (6)?

# %% quick="BUDGET = 0.02"
BUDGET = 0.15  # million million operations a training; take more, if you have some minutes
WEIGHT = 50.0  # of the discriminator's loss: try 5, or 0.5

# %%
from functools import partial

from bertcraft.lab.experiment import Context
from bertcraft.tensor.parallel import cpu_count

SMALL = SMALL | {"budget": BUDGET, "warmup": 5 if BUDGET < 0.05 else 30}
ARMS = {
    "masked LM": SMALL,
    "ELECTRA, paper's constants": SMALL | {"width": 0.25, "weight": WEIGHT, "sharing": "shared", "detect": "all"},
    "ELECTRA, warm start": SMALL | {"width": 1.0, "weight": WEIGHT, "sharing": "disentangled", "detect": "all", "first": 0.5,
                                    "first_rate": 4e-3, "rate": 2e-3},
}  # fmt: skip
held_out = experiment.HeldOut(mlm.texts.held_out, mlm.texts)


def with_our_loss(task, settings):
    """The task with the loss of the cells above: edit them, run them, and come back here."""
    if not task.detects:
        return task
    ours = partial(electra_loss, generator=task.guesser, discriminator=task.config,
                   **{name: settings[name] for name in ("weight", "sharing", "detect")})  # fmt: skip
    return replace(task, loss=ours)


def looked_at(task, params) -> dict:
    """The guesser's loss on unread text; the discriminator's, and chance (6)."""
    guesser, _ = task.split(params)
    found = {"guess": held_out(guesser, task.guesser)["loss"]}
    return found | (experiment.detection(task, held_out, params) if task.detects else {})


def trained(title, settings):
    """(compute, what was seen) along a training, and where it ended: the last task and its parameters."""
    arm, spent, seen, params = Arm(title, title, settings), 0.0, [], None
    for task in experiment.tasks_of(arm, seed=0):
        task = with_our_loss(task, settings)
        if params is not None:
            task = replace(task, start=experiment.warm(task.start, params))
        result = experiment.fitted(arm, 0, Context(threads=cpu_count()), task, partial(looked_at, task))
        seen += [(spent + step * task.step_flops / 1e12, found) for step, found in result.evaluations]
        spent, params = seen[-1][0], result.params
    return seen, task, params


runs = {title: trained(title, settings) for title, settings in ARMS.items()}

# %%
with style.shown(columns=2, width=8.6, height=3.5) as (left, right):
    for place, (title, (seen, _, _)) in zip((0, 1, 3), runs.items(), strict=True):
        look = style.line(place)
        left.plot([x for x, _ in seen], [found["guess"] for _, found in seen], **look, label=title)
        told = [(x, found["detection"] - found["chance"]) for x, found in seen if "chance" in found]
        if told:
            right.plot(*zip(*told, strict=True), **look, label=title)
    left.axhline(held_out.unigram, color="0.3", lw=1, ls=(0, (1, 3)))
    left.annotate("word frequencies", (0.6 * BUDGET, held_out.unigram), xytext=(0, 3), textcoords="offset points", fontsize=8)
    left.set(xlabel="compute (TFLOP)", ylabel="guessing: loss on unread text (nats)", title="who guesses")
    right.axhline(0, color="0.3", lw=1, ls=(0, (1, 3)))
    right.set(xlabel="compute (TFLOP)", ylabel="telling: loss above chance (6) (nats)", title="who tells", xlim=left.get_xlim())
    left.legend(fontsize=8)
for title, (seen, _, _) in runs.items():
    last = seen[-1][1]
    told = f"; tells {last['detection']:.3f}, chance {last['chance']:.3f}" if "chance" in last else ""
    print(f"{title:27s} guesses {last['guess']:.2f} (frequencies {held_out.unigram:.2f}){told}")

# %% [markdown]
# The masked language model is well below word frequencies. The generator of the second arm is not even there when its budget is
# spent: a quarter as wide, six tenths of the steps, and a table that somebody else pulls at. Its fakes are still those of a
# word count. Its discriminator has passed chance, by a hundredth of a nat. The third arm's guesser stands still from where the
# two are joined, and its discriminator, which began far above chance with a new head, has not quite reached it. One seed and
# seconds of training: what matters is the size. A hundredth of a nat a token here, where the masked language model gained two
# tenths a guess.
#
# ### Below chance, and still blind
#
# Some words are fakes more often than others, whatever stands around them: a forger has favourites. So there is a second zero,
# below (6): a *table* that knows each word's own share of fakes and sees no context at all. We fill it from rows that the
# training could have read, and hold it against the two discriminators on unread ones.


# %% quick="BATCHES = 5"
BATCHES = 100  # of 32 rows, to fill the table


def forged(forger, task, rows):
    """What this generator makes of a batch."""
    hidden = encoder.encode(forger, task.guesser, rows["input_ids"], rows["attention_mask"], at=rows["at"])
    return replace_tokens(rows, sample(heads.masked_lm_logits(forger, task.guesser, hidden), rows["draw"]))


some_rows = {name: array[: experiment.JUDGED] for name, array in held_out.batch.items()}
some_rows = electra_batch(some_rows, np.random.default_rng(5).random(some_rows["at"].shape))
zeros = {}
for title, (seen, task, params) in runs.items():
    if not task.detects:
        continue
    forger, _ = task.split(params)
    count = np.full((2, len(pieces)), [[0.3], [2.0]])  # fakes, all: starts at about 15 %
    for step in range(BATCHES):
        made = forged(forger, task, task.make_batch(10_000 + step))
        np.add.at(count[1], made.input_ids, 1)
        np.add.at(count[0], made.input_ids[made.fake], 1)
    made, real = forged(forger, task, some_rows), some_rows["attention_mask"] == 1
    share = np.clip(count[0] / count[1], 1e-4, 1 - 1e-4)[made.input_ids]
    by_word = -np.where(made.fake, np.log(share), np.log(1 - share))[real].mean()
    zeros[title] = seen[-1][1]["chance"], by_word, seen[-1][1]["detection"]

with style.shown(width=7.0, height=2.4) as ax:
    y = np.arange(len(zeros))
    for place, name in enumerate(("chance (6)", "a table by word, no context", "the discriminator")):
        look = style.line((7, 0, 1)[place]) | {"linestyle": "none"}
        ax.plot([each[place] for each in zeros.values()], y, **look, label=name)
    ax.set_yticks(y, [title.replace(", ", ",\n") for title in zeros])
    ax.set(xlabel="loss of detection on unread text (nats a token)", ylim=(len(y) - 0.5, -0.5))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
for title, each in zeros.items():
    print(f"{title:27s} chance {each[0]:.3f}, table {each[1]:.3f}, discriminator {each[2]:.3f}")

# %% [markdown]
# The second arm's discriminator is below the table, too: by half a hundredth of a nat it has begun to look at the context. The
# third one's steps did not bring it even to the table. Whoever plots the loss of detection without these two zeros would report
# progress for both.
#
# ### Tug of war
#
# The second arm's generator shares its table with a discriminator whose loss counts 50 times. How do the two pull at it, where
# its training ended?

# %%
_, task, params = runs["ELECTRA, paper's constants"]
rows = task.make_batch(10_000)
configs = {"generator": task.guesser, "discriminator": task.config}
pull = {}
for name in ("masked_lm", "detection"):
    _, gradients = bc.value_and_grad(lambda p, name=name: getattr(losses(p, rows, None, **configs), name))(params)
    pull[name] = gradients["generator"]["electra"]["embeddings"]["word_embeddings"]["weight"].ravel()
g, d = pull["masked_lm"], WEIGHT * pull["detection"]
print(f"length of the discriminator's pull, times its weight: {np.linalg.norm(d) / np.linalg.norm(g):.1f} times the generator's")
print(f"cosine between the two: {g @ d / np.linalg.norm(g) / np.linalg.norm(d):+.2f}")
left_over = g @ (g + d) / np.linalg.norm(g) / np.linalg.norm(g + d)
print(f"cosine between the generator's own direction and their sum: {left_over:.2f}")

# %% [markdown]
# AdamW divides a gradient by its usual size, so it is the *direction* of the sum that moves the table, and the sum goes mostly
# where the discriminator wants. The two do not even oppose each other; they want unrelated things (a cosine near 0). That is
# enough: the third number is how much of the generator's wish is left in each step of its table. With `WEIGHT = 1` run the last
# two cells again: who leads now?
#
# ### What a discriminator sees
#
# The third arm's discriminator reads requests that it has never seen. Numbers and shades are its probability of a fake, frames
# are the true ones.

# %%
from matplotlib.patches import Rectangle

_, task, params = runs["ELECTRA, warm start"]
known, kept = task.split(params)
place = np.random.default_rng(3).permutation(len(held_out.batch["at"]))
lengths = held_out.batch["attention_mask"].sum(axis=1)
chosen = [i for i in place if 11 <= lengths[i] <= 14][:60]
rows = electra_batch({name: array[chosen] for name, array in held_out.batch.items()},
                     np.random.default_rng(4).random((len(chosen), held_out.batch["at"].shape[1])))  # fmt: skip
both = losses({"generator": known, "discriminator": kept}, rows, None, task.guesser, task.config, sharing="separate").replaced
said = heads.detection_logits(kept, task.config, encoder.encode(kept, task.config, both.input_ids, rows["attention_mask"]))
probability = 1 / (1 + np.exp(-said))
some = np.flatnonzero(both.fake.sum(axis=1) >= 2)[:5]
with style.shown(width=8.6, height=2.9) as ax:
    width = 14
    ax.imshow(np.where(rows["attention_mask"][some] == 1, probability[some], np.nan)[:, :width], cmap="Oranges", vmin=0, vmax=0.3,
              aspect="auto")  # fmt: skip
    for y, i in enumerate(some):
        for x in range(int(lengths[chosen[i]])):
            ax.text(x, y - 0.12, pieces[both.input_ids[i, x]], ha="center", va="center", fontsize=7)
            ax.text(x, y + 0.27, f"{probability[i, x]:.2f}", ha="center", va="center", fontsize=6, color="0.25")
            if both.fake[i, x]:
                ax.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, fill=False, lw=1.6))
    ax.set(xticks=[], yticks=[], title="probability of a fake; framed: fakes")
    ax.grid(False)
real = rows["attention_mask"] == 1
at_fakes, at_originals = probability[both.fake & real].mean(), probability[real & ~both.fake & (both.input_ids >= 5)].mean()
print(f"mean probability at fakes {at_fakes:.3f}, at original words {at_originals:.3f}")

# %% [markdown]
# [CLS] and [SEP] it has understood: they are pale. Everywhere else it says about the share, a little more at fakes than at
# originals. This is what "nothing beyond the majority class" looks like from inside, and no loss curve shows it as plainly.
#
# ### The stored experiment
#
# The same model, twice as wide, a vocabulary of 2,048, 33 times the compute, five seeds. Arms: masked LM; ELECTRA with the
# paper's constants; with a half-width generator and weight 5, the best of some small trials; the warm start; the
# warm start with the loss at the masked places only; and a quarter of the compute for masked LM and warm start. Three linear
# probes of the frozen encoder, the first two of which word counts cannot solve: have two neighbours changed places (*bigram
# shift*), is this word another's (*replaced word*, ELECTRA's own question), what is the request for (*intents*, ten labels
# each).

# %%
lesson.results()

# %%
lesson.plots(1)

# %% [markdown]
# Dotted lines: the scores whose price is compared below. The price of *any* score, as a quotient, is the next picture: above 1
# ELECTRA is cheaper, at 4 the claim is true.

# %%
lesson.plots(2)

# %%
lesson.comparisons()

# %% [markdown]
# Did the discriminators learn at all? Zero is chance, (6).

# %%
lesson.plots(3)

# %% [markdown]
# The same in words, made from the stored runs. An interval that holds 1 (a quotient) or 0 (a difference) gives no answer.

# %%
from bertcraft.lab import statistics

found = {(run["arm"], run["seed"]): run["figures"] for run in lesson.runs}


def in_words(treatment, baseline, metric="bigram_shift"):
    """The mean paired difference in points, and whether its interval leaves zero."""
    seeds = sorted(seed for arm, seed in found if arm == treatment and (baseline, seed) in found)
    if len(seeds) < 2:
        return "not measured yet"
    gap = statistics.paired(*([found[arm, seed][metric] for seed in seeds] for arm in (treatment, baseline)))
    if gap.low <= 0 <= gap.high:
        return f"no difference that {len(seeds)} seeds can tell ({gap.mean:+.1f} points)"
    return f"{'better' if gap.mean > 0 else 'WORSE'} by {abs(gap.mean):.1f} points"


for treatment, baseline, what in (
    ("electra", "mlm", "the paper's constants against masked LM, equal compute"),
    ("half", "mlm", "half width and weight 5 against masked LM, equal compute"),
    ("warm", "mlm", "warm start against masked LM, equal compute"),
    ("warm_quarter", "mlm", "warm start on a quarter of the compute against masked LM on all of it: the claim"),
    ("warm", "warm_masked", "all tokens judged against the masked 15 % alone"),
):
    print(f"{what}: {in_words(treatment, baseline)}")

never = [
    run["arm"] for run in lesson.runs if not run["figures"]["reached_bigram_shift"] and run["arm"] in ("mlm", "electra", "half")
]
for arm in sorted(set(never)):
    print(
        f"{experiment.EXPERIMENT.arm(arm).title}: never reached the score in {never.count(arm)} seeds: that quotient is a bound"
    )
judged = [arm.name for arm in experiment.EXPERIMENT.arms if arm.settings.get("detect") == "all"]  # asked about every token
learnt = [(run["arm"], run["figures"]["detected"][-1]) for run in lesson.runs if run["arm"] in judged]
for arm in dict.fromkeys(arm for arm, _ in learnt):
    gap = np.mean([last["chance"] - last["detection"] for each, last in learnt if each == arm])
    side = "below" if gap > 0 else "ABOVE"
    print(f"{experiment.EXPERIMENT.arm(arm).title}: ends {abs(gap):.3f} nats {side} the share of fakes alone")

# %% [markdown]
# ### When does it not help?
#
# - **When the forger is as good as a word count.** Then fakes are frequent words in wrong places, and the discriminator has to
#   learn from a yes or no what a masked language model is told outright.
# - **When nobody looks at chance.** A loss that falls from 0.69 to 0.37 looks like learning. It is the share of fakes.
# - **When the model is to guess words**: prompts, filling gaps, augmentation by replacement. The head tells; it cannot name.
# - **When pretraining is not what costs.** The encoder that comes out is no faster than another.
# - **Under a tiny budget** the generator is paid before it is of use. The paper's own comparison at equal compute is between
#   runs of days.

# %% [markdown]
# ## 6. In production
#
# transformers has the two classes and no trainer for the pair: the loop that joins them is everybody's own, and so are its
# mistakes. Here is one step of it, and ours beside it: the same weights after plain gradient descent.

# %%
if lesson.installed("transformers", "torch"):
    step = 0.01
    optimiser = torch.optim.SGD({id(p): p for model in (guesser, judge) for p in model.parameters()}.values(), lr=step)
    optimiser.zero_grad()
    configs, before = joined(guesser, judge)
    rows = mask_tokens(ids, numbers[0], mask_id=4, vocab_size=40, first_word_id=5, rate=0.3)
    rows = electra_batch({**rows._asdict(), "attention_mask": (ids != 0).astype(np.int64)}, numbers[1])
    target = torch.tensor(labels)

    guessed = guesser(torch.tensor(rows["input_ids"]), mask, labels=target)
    i, j = np.nonzero(rows["labels"] >= 0)
    places = i, rows["at"][i, j]
    logits = guessed.logits.detach().numpy()[places]  # no gradient through the drawing
    corrupted = torch.tensor(ids)
    corrupted[places] = torch.tensor(sample(logits, rows["draw"][i, j]))  # in torch: Categorical(logits=...).sample()
    is_fake = (corrupted != torch.tensor(ids)).double()  # not: the masked places
    judged = judge(corrupted, mask, labels=is_fake)  # not without the mask
    (guessed.loss + 50 * judged.loss).backward()
    optimiser.step()

    gradients = bc.grad(lambda p: electra_loss(p, rows, None, **configs))(before)
    after = tree.map(lambda weight, gradient: weight - step * gradient, before, gradients)
    _, theirs = joined(guesser, judge)
    gap = max(np.abs(a - b).max() for a, b in zip(tree.leaves(after), tree.leaves(theirs), strict=True))
    print("one step, the same weights to 1e-6:", gap < 1e-6)

# %% [markdown]
# Three lines of it are wrong in many repositories, and none of the mistakes raises an error:

# %%
if lesson.installed("transformers", "torch"):
    lucky = corrupted.clone()
    lucky[places[0][0], places[1][0]] = int(ids[places[0][0], places[1][0]])  # let one draw be right
    really = (lucky != torch.tensor(ids)).double()
    with torch.no_grad():
        right = judge(lucky, mask, labels=really).loss.item()
        no_mask = judge(lucky, labels=really).loss.item()
        as_masked = judge(lucky, mask, labels=(target != -100).double()).loss.item()
    apart = ElectraForPreTraining(judge.config)
    shared = sum(p is q for p in guesser.electra.embeddings.parameters() for q in judge.electra.embeddings.parameters())
    shared_by_default = sum(p is q for p in guesser.parameters() for q in apart.parameters())
    print(f"loss {right:.4f}; attention_mask forgotten: {no_mask:.4f}; every masked token called a fake: {as_masked:.4f}")
    print(f"embedding tables shared: {shared} of 5 tensors after our assignment, {shared_by_default} by default")

# %% [markdown]
# 1. Without `attention_mask` the padding is judged, too, as original: an easy success that dilutes the loss.
# 2. Labels are "differs from the original", not "was masked".
# 3. `tie_word_embeddings=True` ties the *generator's* own input and output. It does nothing between the two models; that is the
#    assignment above, and it is gone after `save_pretrained` and `from_pretrained`.
#
# And defaults that are not the paper's: `ElectraConfig()` is the small model (128, 256, 12 layers, 4 heads) with dropout 0.1,
# for a discriminator and a generator alike. `ElectraForMaskedLM.from_pretrained` of a *discriminator* checkpoint only warns
# that its head is new, and fills gaps with noise. Ours goes the other way without a mapping: what the lab trained opens in
# transformers.

# %%
if lesson.installed("transformers", "torch"):
    import tempfile

    import transformers

    from bertcraft.bert import Model

    transformers.utils.logging.disable_progress_bar()

    with tempfile.TemporaryDirectory() as folder:
        Model(task.config, kept).save(folder)
        opened = ElectraForPreTraining.from_pretrained(folder).eval()
    seen = both.input_ids[some]
    with torch.no_grad():
        logits = opened(torch.tensor(seen), torch.tensor(rows_mask := (seen != 0).astype(np.int64))).logits.numpy()
    print("the warm-started discriminator, opened by transformers, says the same:", np.allclose(logits[rows_mask == 1],
          said[some][rows_mask == 1], atol=1e-4))  # fmt: skip

# %% [markdown]
# ## 7. Exercises
#
# `hint("name")` helps, `solution("name")` tells. Stars say how hard it is.
#
# ### 7.1 The honest forger (one star)
#
# A discriminator trained with these labels never gets below a certain loss, however good it is, and the better the generator
# becomes the worse it looks. Find the mistake.


# %% exercise="fake_labels" stars=1
def fake_labels(original, corrupted, masked):
    """Equation (2): booleans (N, L), which tokens are fakes.

    original, corrupted: token ids (N, L); masked: booleans (N, L), where the generator was asked.
    """
    ### BEGIN SOLUTION
    return corrupted != original
    ### END SOLUTION
    ### BEGIN STUB
    # return masked
    ### END STUB


# %%
check.fake_labels(fake_labels)

# %% [markdown]
# ### 7.2 The zero of the plot (one star)
#
# The $H(f)$ of (6), with $f$ from (5): what is lost at a word, in nats, by a discriminator that knows the share of fakes and
# nothing else. `right` is $a$, the mean probability that the generator gives the true word. A perfect generator makes no fakes:
# then the loss is 0.


# %% exercise="chance_loss" stars=1
def chance_loss(rate, right):
    """H(f) for a share ``rate`` of masked tokens and a generator that draws the true word with probability ``right``."""
    ### BEGIN SOLUTION
    f = rate * (1 - right)
    if f in (0, 1):
        return 0.0
    return float(-f * np.log(f) - (1 - f) * np.log1p(-f))
    ### END SOLUTION


# %%
check.chance_loss(chance_loss)

# %% [markdown]
# ### 7.3 Draw a word (two stars)
#
# Equation (1) and the drawing, for one place after another: logits (n, V), one uniform number in
# [0, 1) for each. Logits may be as large as 1,000, and the probabilities of a row may add up to 0.9999999.


# %% exercise="draw_words" stars=2
def draw_words(logits, uniform):
    """Words (n,) drawn from softmax(logits (n, V)): the k with (p_0 + ... + p_(k-1)) <= uniform < (p_0 + ... + p_k)."""
    ### BEGIN SOLUTION
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    sums = np.cumsum(p, axis=-1)
    reached = sums[:, :-1] <= uniform[:, None] * sums[:, -1:]  # the last sum is never asked: no draw lies beyond it
    return reached.sum(axis=-1)
    ### END SOLUTION


# %%
check.draw_words(draw_words)

# %% [markdown]
# ### 7.4 Judge all tokens, and no padding (two stars)
#
# Equation (3) for a batch of rows of unequal length. Do not write $\ln\sigma(z)$ as it stands: for $z=-1000$ it is
# $\ln 0$. With $\ln(1+e^{z})-yz$ each term is one expression; `np.logaddexp(0, z)` is $\ln(1+e^z)$ without overflow.


# %% exercise="detection_loss" stars=2
def detection_loss(logits, fake, attention_mask):
    """The mean over all tokens of the batch that are no padding, in nats: a float.

    logits (N, L); fake (N, L) booleans; attention_mask (N, L), 1 for a token and 0 for padding.
    """
    ### BEGIN SOLUTION
    terms = np.logaddexp(0, logits) - fake * logits
    return float(terms[attention_mask == 1].mean())
    ### END SOLUTION


# %%
check.detection_loss(detection_loss)

# %% [markdown]
# ### 7.5 The best answer (three stars)
#
# Equation (7), for the whole vocabulary at one place: true probabilities, the forger's, and the rate. A word that can come
# about in no way ($p=p_G=0$) gets 0.


# %% exercise="best_answer" stars=3
def best_answer(p, p_generator, rate):
    """D* (V,): the probability that a shown word is a fake, for each word; p and p_generator (V,) sum to 1."""
    ### BEGIN SOLUTION
    fakes = rate * p_generator * (1 - p)
    shown = (1 - rate) * p + rate * p_generator
    return np.divide(fakes, shown, out=np.zeros_like(shown), where=shown > 0)
    ### END SOLUTION


# %%
check.best_answer(best_answer)

# %% [markdown]
# ### 7.6 What does the best discriminator lose? (derive, two stars)
#
# Let the forger be perfect, $p_G=p$. (a) How often is a token shown as a fake, over all words of a place? (b) A place has one
# possible word ($p=1$): what does (8) say, and what does that place teach? (c) Another has a thousand equally likely words.
# Write the best loss there and compare it with $H(r)$. (d) Which places are left to learn from, when the generator is nearly
# perfect?

# %% [markdown] solution=true
# **Model answer.** (a) $f=\sum_w p(w)\,r(1-p(w))=r\,(1-\sum_w p(w)^2)$: (5) with $a=\sum_w p(w)^2$. (b) $D^*=0$: the forger is
# always right, nothing is ever a fake, and a discriminator that has seen this is right for certain. It teaches that the word is
# certain, no more. (c) $D^*(w)=r(1-1/1000)$ for all words: the same answer whatever is shown, so the best loss is
# $H(0.999\,r)$, next to $H(r)$: nothing can be told, and nothing is learnt. (d) Those in between, where words differ in
# probability: telling a likely word (answer well below $r$) from an unlikely one (answer near $r$). The gain per token over
# $H(f)$ is then small, of second order in the spread of $D^*$. It is why a forger that is too strong hurts, and one reason for
# the quarter.

# %% [markdown]
# ### 7.7 Without a generator (open project, three stars)
#
# Replace the generator by word frequencies: fakes drawn from `np.exp(mlm.texts.log_frequency)`, no second model to pay for. At
# equal compute the discriminator gets more steps, of an easier game. Does it leave chance sooner? Where does it stop? Take
# three seeds, and one probe that is not about replaced words (`bertcraft.lab.probes`).

# %% [markdown] solution=true
# **One way.** In `make_batch`, draw `np.random.default_rng((seed, 4, step)).choice(V, p=frequency, size=at.shape)` and pass it
# to `replace_tokens`; the loss is `F.binary_cross_entropy(heads.detection_logits(...), fake, mask == 1)` alone, with a config
# of the head "replaced_token_detection". `lab.flops.count` of its gradient gives the price of a step. Expect a quick start
# where a word is impossible beside its neighbour, and an early stop: such fakes never force the model to weigh two words that
# both fit. A growing difficulty (first frequencies, then a generator) is what the joint training gives for nothing.

# %% [markdown]
# ## 8. Pitfalls, references, what next
#
# - **The released ELECTRA-small is not the paper's.** It was trained with a generator as wide as the discriminator; the
#   repository says to pass `"generator_hidden_size": 1.0` to get it again.
# - **Base has a third, not a quarter**, and large masks 25 %, not 15 %. "The paper's constants" differ by size.
# - **A forger can be too good**: see (8). In the paper generators of a quarter to a half do best.
# - **Google's code masks 85 %** of the chosen tokens and keeps 15 %; ours uses BERT's 80/10/10, so that both objectives read
#   the same rows.
# - **No prompting.** The head tells one word from its neighbours; it does not name any. For cloze questions take the generator,
#   if you still have it.
# - **Sharing pulls.** Look at the generator's loss beside a masked language model of its own size; if it lags, disentangle.
# - **A mean over shards** needs the number of tokens of each, and the two losses count different ones.
#
# **Read**: Clark, Luong, Le, Manning 2020, [ELECTRA](https://arxiv.org/abs/2003.10555): section 3.2 for all that was tried
# (two-stage, adversarial, sizes), 3.4 for the ablations. He, Gao, Chen 2021, [DeBERTaV3](https://arxiv.org/abs/2111.09543),
# section 3, for the tug of war. The original code is [google-research/electra](https://github.com/google-research/electra), the
# production code [transformers' `models/electra`](https://github.com/huggingface/transformers/tree/main/src/transformers/models/electra).
#
# **Next**: on the path *Efficiency & Deployment* comes 05, knowledge distillation: a large model answers for every token, too,
# and with a whole distribution instead of yes or no. Came here first? [01 RoBERTa](01_roberta_optimizations.ipynb) takes apart
# the model that the claim is measured against. How little of an encoder has to be trained afterwards is the matter of
# [12 adapter modules](12_adapter_modules.ipynb).
