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
# A masked language model reads a whole row and is asked about one token in seven. ELECTRA asks about *every* token, and asks less
# of each: not "which word stood here?" but "is this the word that stood here?" The fakes come from a second, smaller model, which
# is thrown away at the end. You will write its parts, count the operations, and see fakes found in requests never read before.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for masked language models and [its second part](00_foundations_2.ipynb) for
# intervals. The sections take 205 minutes, half of them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style

lesson = open_lesson("electra_pretraining")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)
#
# "Four times as efficient" is a quotient of two amounts of compute: what RoBERTa and ELECTRA needed in *pretraining* until both
# had the same score after fine-tuning.

# %%
lesson.claim()

# %% [markdown]
# The paper trained smaller models, too, each against a BERT of its own at equal compute (right panel):

# %% alt="Left: GLUE score against FLOPs of pretraining on a log axis. ELECTRA-large reaches 89.0 at 7e20, where BERT has 87.2; RoBERTa reaches 88.9 at 3.2e21, an arrow marked 4.5 times. Right: ELECTRA minus BERT at equal FLOPs, 4.8 points for small, 2.9 for base, 1.8 for large models."
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
    left.legend(fontsize=8, loc="lower right")
    gains = [electra - bert for electra, bert in EQUAL.values()]
    right.bar(list(EQUAL), gains, 0.55, color=style.COLOURS[1])
    right.bar_label(right.containers[0], fmt="%+.1f", fontsize=9)
    right.set(ylabel="ELECTRA minus BERT (points)", ylim=(0, 5.6), title="at equal FLOPs")

# %% [markdown]
# The smaller the model, the larger the gain. Does that go on, down to a model that trains in minutes? Part 5 tries. Two
# conditions are usually left out. The claim is about *pretraining*: in use both models cost the same. And for large models at
# equal compute it is under two points; the factor is large because the curve is flat up there.
#
# ## 2. Background and motivation (10 minutes)
#
# BERT hides 15 % of the tokens and is judged there. More masks leave less of the sentence to guess from. The model
# sees [MASK] in training and never afterwards. And whatever it believes of the other 85 % changes no weight. ELECTRA's way out:

# %% alt="Of the sentence the chef cooked the meal two words are hidden, which gives MASK chef MASK the meal; a small generator fills in the and ate; the sentence the chef ate the meal goes to the discriminator, marked as new, which says original, original, replaced, original, original. The true words give the labels."
with drawing.schematic(columns=4, rows=3, width=9.6, row_height=0.95) as s:
    text = s.box("the chef cooked\nthe meal", at=(0, 0), kind="data")
    masked = s.box("[MASK] chef [MASK]\nthe meal", at=(0, 2), kind="data")
    guesser = s.box("generator\n(a small masked LM)", at=(1.1, 2))
    forged = s.box("the chef ate\nthe meal", at=(2.1, 2), kind="data")
    judge = s.box("discriminator\n(the model that is kept)", at=(3, 1), kind="new")
    said = s.box("original, original,\nreplaced, original,\noriginal", at=(3, 0), kind="data")
    labels = s.box("which words differ?", at=(1.5, 0))
    s.arrow(text, masked, "hide 15 %")
    s.arrow(masked, guesser, "(B, L)")
    s.arrow(guesser, forged, "draw")
    s.arrow(forged, judge, "(B, L)", kind="new")
    s.arrow(judge, said, "(B, L)", kind="new")
    s.arrow(text, labels)
    s.arrow(labels, said, "loss at every token")

# %% [markdown]
# ($B$ rows of $L$ tokens.) The generator guessed *the* right, so that token is an original; *ate* fits and is a fake. **Predict
# first.** Is a yes or no at every token worth more than a word at every seventh? Count the *nats* of each answer. Appendix A
# does.
#
# The trainings of this lesson read short requests to assistants:

# %%
from bertcraft.bert import encoder, heads
from bertcraft.lab.replaced_tokens import task_of
from bertcraft.techniques import electra_pretraining as technique
from bertcraft.tensor import functions as F

SMALL = {  # an encoder of 2 layers, 64 wide; the experiment of part 5 is the same with 128
    "corpus": "utterances", "length": 24, "vocab_size": 4096, "held_out": 500, "hidden": 64, "batch": 64, "shard": 32,
    "rate": 4e-3, "warmup": 40, "evaluations": 5,
}  # fmt: skip
OBJECTIVES = {
    "masked LM": {"fakes": "mask"},
    "fakes by frequency": {"fakes": "frequencies"},
    "ELECTRA": {"fakes": "generator", "width": 0.5, "weight": 50.0, "sharing": "disentangled", "detect": "all", "rate": 2e-3},
}
tasks = {name: task_of(SMALL | own, seed=0) for name, own in OBJECTIVES.items()}
mlm, electra = tasks["masked LM"], tasks["ELECTRA"]
pieces = [mlm.texts.tokenizer.id_to_token(i) for i in range(mlm.texts.tokenizer.get_vocab_size())]
print(len(mlm.texts.train), "requests;", len(pieces), "pieces in the vocabulary")

# %% [markdown]
# ## 3. Mathematical foundation (15 minutes)
#
# ### The game
#
# A row has tokens $x_1\dots x_L$ from a vocabulary of $V$ words; a set $S$ of positions, a share $\rho$ of them, is masked. The
# **generator** is a masked language model. From its last hidden state $h_t$, mapped to the length of an embedding, and the
# embedding matrix $E$ with the rows $e_w$ it gives each word a probability at each masked place:
#
# $$p_G(w\mid t)=\frac{\exp(e_w\cdot h_t+b_w)}{\sum_{v}\exp(e_v\cdot h_t+b_v)},\qquad
# \mathcal L_G=-\frac1{|S|}\sum_{t\in S}\ln p_G(x_t\mid t)\tag{1}$$
#
# One word $\hat x_t$ is **drawn** from $p_G$ at each masked place, and the row is put together again:
#
# $$\tilde x_t=\begin{cases}\hat x_t & t\in S\\ x_t & \text{otherwise}\end{cases}\qquad
# y_t=\begin{cases}1 & \tilde x_t\neq x_t\\ 0 & \tilde x_t=x_t\end{cases}\tag{2}$$
#
# Mind the second half: where the generator happens to write the true word, nothing is fake, and $y_t$ is 0.
#
# The **discriminator** reads $\tilde x$. It ends in one number $z_t$ a token, and $\sigma(z_t)=1/(1+e^{-z_t})$ is its probability
# that the token is a fake. It is judged on all $L$ tokens; padding does not count:
#
# $$\mathcal L_D=-\frac1L\sum_{t=1}^{L}\Bigl(y_t\ln\sigma(z_t)+(1-y_t)\ln(1-\sigma(z_t))\Bigr)\tag{3}$$
#
# Both are trained at once, on the sum
#
# $$\mathcal L=\mathcal L_G+\lambda\,\mathcal L_D,\qquad\lambda=50.\tag{4}$$
#
# **By hand.** *set an alarm*; *alarm* is masked. The generator gives *alarm* 1/2 and *order* 1/4: $\mathcal L_G=\ln2=0.69$. It
# draws *order*; the labels are $(0,0,1)$. The discriminator says 0.1, 0.1, 0.4:
# $\mathcal L_D=-(\ln0.9+\ln0.9+\ln0.4)/3=0.376$, and $\mathcal L=0.69+50\cdot0.376=19.5$.
#
# It is no GAN (*generative adversarial network*): the generator is not rewarded for deceiving, it learns from (1) alone.
# Backpropagation could not reward it, for a drawn word does not change by a little when a weight does. The paper tried
# reinforcement learning: the generator guessed worse (58 % right instead of 65 %), and the discriminator learnt less.
#
# ### How many fakes are there?
#
# Let $\bar p$ be the mean probability that the generator gives the true word at the masked places. A token is a fake with
# probability
#
# $$f=\rho\,(1-\bar p).\tag{5}$$
#
# Not its *accuracy*: that counts how often the true word is the most probable one, but the word is drawn, not chosen. With
# $\rho=0.15$ and $\bar p=0.5$, $f=7.5\,\%$. The better the generator, the rarer the fakes.
#
# ### What does a discriminator lose that understands nothing?
#
# It can still learn two things. [CLS] and [SEP] are never masked, so they are never fakes. And of the other tokens, a share $w$
# of all, the share $f$ is fake. If it says 0 at the special tokens and $f$ at all words, its loss is
#
# $$\mathcal L_\text{chance}=w\,\mathcal H(f),\qquad \mathcal H(f)=-f\ln f-(1-f)\ln(1-f).\tag{6}$$
#
# $\mathcal H(f)$ is the entropy of a coin that shows *fake* with probability $f$. For a young generator, $\bar p=0.04$, and rows
# of 20 tokens, $w=0.9$, (6) is $0.9\cdot\mathcal H(0.144)=0.371$. A loss that "converges nicely" from 0.69 to 0.37 has learnt
# *nothing at all*. So we report how far the loss lies *below chance*, in % of (6).
#
# ### The best answer that there is
#
# What *should* the discriminator say? Let $p(w)$ be the true probability of the word $w$ at a place, given the rest of the row.
# Somebody shows you $w$ there. It can have come about in three ways:
#
# | | probability |
# | --- | --- |
# | not masked, $w$ is the text's own | $(1-\rho)\,p(w)$ |
# | masked, $w$ drawn, the text has $w$, too: original | $\rho\,p_G(w)\,p(w)$ |
# | masked, $w$ drawn, the text has another word: **fake** | $\rho\,p_G(w)\,(1-p(w))$ |
#
# The share of the last row in all three is the best answer:
#
# $$D^*(w)=\frac{\rho\,p_G(w)\,(1-p(w))}{(1-\rho)\,p(w)+\rho\,p_G(w)}.\tag{7}$$
#
# With $p_G=p$, a *perfect* generator, the denominator is $p(w)$ and
#
# $$D^*(w)=\rho\,(1-p(w)).\tag{8}$$
#
# By hand: $\rho=0.15$, $p$ gives *alarm* 1/2 and *order* 1/100. Then (8) is $0.075$ for *alarm* and $0.149$ for *order*. Here is
# why the game teaches language: even against a perfect generator the best answer needs $p(w)$, the probability of each word in
# its context. And why it gets hard: (8) lies between 0 and $\rho$ for all words, where a poor generator's mistakes can be
# answered with nearly 1.

# %% alt="The best answer against the probability of the shown word, logarithmic. For a perfect generator it stays near 0.15 for all but likely words and falls to 0 where the word is certain. For fixed generator probabilities of 0.02 and 0.001 it falls from 0.78 and 0.15 to zero much earlier."
word = np.geomspace(0.001, 0.999, 400)  # p(w): how well the shown word fits
with style.shown(width=6.6, height=3.2) as ax:
    forgers = {"the word's own p(w): perfect": word, "0.02": 0.02, "0.001": 0.001}
    for place, (title, p_g) in enumerate(forgers.items()):
        d = 0.15 * p_g * (1 - word) / (0.85 * word + 0.15 * p_g)
        look = style.line((1, 0, 2)[place])
        ax.plot(word, d, color=look["color"], ls=look["linestyle"], label=title)
    ax.set(xscale="log", xlabel="p(w): how probable the shown word is in its context", ylabel="$D^*(w)$, equation (7)")
    ax.legend(title="the generator's p_G(w)", fontsize=8, title_fontsize=8)

# %% [markdown]
# ## 4. NumPy implementation (25 minutes)
#
# The generator (`generator_config`) is as deep as the discriminator, a part as wide, with embeddings of the same size. The
# paper's ELECTRA-small has 13.5 million parameters, its quarter generator 4.6, of which 3.9 are embeddings.
#
# ### One table for two models
#
# The paper ties the embeddings: both losses train them, because the generator's softmax touches every word at each step.
# DeBERTa-V3 found that the two losses pull the table in different directions (appendix B), and cut one string: its
# discriminator reads $\text{sg}(E)+\Delta$, where sg (*stop gradient*)
# makes a constant of the generator's table and $\Delta$ starts at zero.

# %%
from typing import Any, NamedTuple

from bertcraft.bert import Config
from bertcraft.tensor import stop_gradient, tree
from bertcraft.techniques.electra_pretraining import DETECT, DETECTION_WEIGHT, SHARING, _check, electra_batch, generator_config

from bertcraft.techniques.electra_pretraining import models  # inline

# %% [markdown]
# ### What is replaced: equations (1) and (2)
#
# To draw from a softmax, add up its probabilities and see where a uniform number falls: with $(0.5, 0.25, 0.25)$ and 0.6 the sums
# are $0.5, 0.75, 1$; one of them lies at or below 0.6, so the word is number 1.

# %%
from bertcraft.techniques.roberta_optimizations import predicted

from bertcraft.techniques.electra_pretraining import sample, Replaced, replace_tokens  # inline

# %% [markdown]
# *set an alarm for six*; *an* and *alarm* are masked (4), the draws are 11, which happens to be right, and 27.

# %%
tiny = {"input_ids": np.array([[2, 10, 4, 4, 13, 14, 3]]), "at": np.array([[3, 2]]), "labels": np.array([[12, 11]])}
replaced = replace_tokens(tiny, np.array([[27, 11]]))
print(replaced.input_ids[0], replaced.fake[0].astype(int), replaced.masked[0].astype(int), sep="\n")
three = np.log([[0.5, 0.25, 0.25]])
print("drawn with 0.6:", sample(three, np.array([0.6])), " of 10,000 draws:",
      np.bincount(sample(np.repeat(three, 10_000, 0), np.random.default_rng(0).random(10_000))) / 10_000)  # fmt: skip

# %% [markdown]
# Where the draw was right the token *was masked* (third line) but *is no fake* (second line): equation (2).
#
# ### The losses: (1), (3), (4)
#
# `detect="masked"` is the paper's ablation: (3) at the masked places only. `_share` is for training in shards: the two means run
# over different sets, so a shard weighs its two losses differently.

# %%
from bertcraft.techniques.electra_pretraining import Losses, _share  # inline

# %%
from bertcraft.techniques.electra_pretraining import losses  # inline

# %%
from bertcraft.techniques.electra_pretraining import electra_loss  # inline

# %% [markdown]
# ### Proof
#
# Against transformers' two classes with random weights and tied embeddings. They read *our* replaced rows, because what is drawn
# is up to chance.

# %%
from bertcraft.techniques.roberta_optimizations import mask_tokens

ids = np.random.default_rng(1).integers(5, 40, (5, 12))
ids[:, 0], ids[3:, 9:] = 2, 0  # a first token, and two rows that end early
numbers = np.random.default_rng(2).random((2, 5, 36))
rows = mask_tokens(ids, numbers[0], mask_id=4, vocab_size=40, first_word_id=5, rate=0.3)
rows = electra_batch({**rows._asdict(), "attention_mask": (ids != 0).astype(np.int64)}, numbers[1])
at_masked = np.full(ids.shape, -100)  # what transformers wants as labels
i, j = np.nonzero(rows["labels"] >= 0)
at_masked[i, rows["at"][i, j]] = rows["labels"][i, j]


def joined(guesser, judge) -> tuple[dict, dict]:
    """Configurations and parameters of two transformers models that share their embeddings, as ``losses`` wants them."""
    configs, params = {}, {}
    for name, model in (("generator", guesser), ("discriminator", judge)):
        configs[name] = Config.from_dict({**model.config.to_dict(), "architectures": [type(model).__name__]})
        params[name] = tree.nest({each: p.detach().numpy().copy() for each, p in model.named_parameters()})
    del params["discriminator"]["electra"]["embeddings"]
    return configs, params


# %%
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

# %%
if lesson.installed("transformers", "torch"):
    mask = torch.tensor(rows["attention_mask"])
    guessed = guesser(torch.tensor(rows["input_ids"]), mask, labels=torch.tensor(at_masked))
    told = judge(torch.tensor(parts.replaced.input_ids), mask, labels=torch.tensor(parts.replaced.fake).double())
    theirs = guessed.loss + 50 * told.loss.double()
    theirs.backward()
    worst = max(
        np.abs(leaf - dict(model.named_parameters())[name].grad.numpy()).max()
        for model, part in ((guesser, "generator"), (judge, "discriminator")) for name, leaf in tree.items(gradients[part])
    )  # fmt: skip
    print(f"L_G {float(parts.masked_lm):.4f} and {guessed.loss.item():.4f}")
    print(f"L_D {float(parts.detection):.4f} and {told.loss.item():.4f}")
    print("the sum the same to 1e-5:", abs(float(total) - theirs.item()) < 1e-5, " every gradient to 1e-5:", worst < 1e-5)

# %% [markdown]
# To $10^{-5}$ only, because `ElectraForPreTraining` computes its loss in single precision even in a double model; the library's
# tests redo that line and find $10^{-8}$. Does a gradient flow through the drawing? If not, the generator's own layers get theirs
# from $\mathcal L_G$ alone.

# %%
small = {"vocab_size": 40, "embedding_size": 12, "num_hidden_layers": 1, "max_position_embeddings": 12, "intermediate_size": 24,
         "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
judging = Config(family="electra", head="replaced_token_detection", hidden_size=16, num_attention_heads=2, **small)
pair = {"generator": technique.generator_config(judging, 0.5), "discriminator": judging}
params = technique.initial_params(*pair.values(), seed=0, dtype=np.float64)


def total(params):
    return electra_loss(params, rows, None, **pair)


both = bc.grad(total)(params), bc.grad(lambda params: losses(params, rows, None, **pair).masked_lm)(params)
layers = [tree.leaves(each["generator"]["electra"]["encoder"]) for each in both]
print("the generator's layers learn from L_G alone:", all(map(np.array_equal, *layers)))
named, query = dict(tree.items(params)), "generator.electra.encoder.layer.0.attention.self.query.weight"
bc.check_grads(lambda weight: total(tree.nest({**named, query: weight})), named[query], order=1)
print("analytic and numeric gradient of the sum agree")

# %% [markdown]
# ## 5. Performance analysis (25 minutes)
#
# ### Counted exactly: the bill of the claim
#
# A layer of width $H$ on a row of $L$ tokens: four projections, a feed-forward part four times as wide, and attention; 2 operations
# a multiplication. Training takes three forward passes' worth: one forward, two backward.


# %%
def encoder_flops(width, layers, length):
    """Forward, one row: projections and feed-forward, scores and their sums."""
    return layers * (2 * length * 12 * width**2 + 4 * length * length * width)


def guess_flops(width, embedding, vocabulary, places):
    """A masked language model's output layer at the masked places."""
    return places * 2 * (width * embedding + embedding * vocabulary)


L, H, layers = 512, 1024, 24
roberta = {"encoder": encoder_flops(H, layers, L), "words' softmax": guess_flops(H, H, 50265, round(0.15 * L))}
large = {
    "encoder": encoder_flops(H, layers, L) + 2 * L * H * H,  # the discriminator and its head
    "generator": encoder_flops(H // 4, layers, L) + 2 * L * H * H // 4,
    "words' softmax": guess_flops(H // 4, H, 30522, round(0.25 * L)),  # the large model masks 25 %
}
READ = {"RoBERTa, 500K steps of 8,000 rows": (roberta, 500e3 * 8000), "ELECTRA, 400K steps of 2,048 rows": (large, 400e3 * 2048)}
bills = {name: {part: 3 * flops * rows_read for part, flops in parts.items()} for name, (parts, rows_read) in READ.items()}
for name, bill in bills.items():
    print(f"{name}: {sum(bill.values()):.3g} FLOPs, a row costs {sum(READ[name][0].values()):.3g} forward")
first, second = (sum(bill.values()) for bill in bills.values())
print(f"quotient {first / second:.2f}, of the rows read alone {500e3 * 8000 / (400e3 * 2048):.2f}")

# %% [markdown]
# There is the factor of 4.5. (The paper's sums are three quarters of ours: it counts backward as dear as forward, and embedding
# look-ups as dense products.) ELECTRA's row is even a little *dearer*, but it read a fifth of the rows.
#
# ### Live: the same compute, three objectives
#
# 1. A masked language model.
# 2. A discriminator alone, its fakes *drawn by word frequency*: they cost nothing and are never good.
# 3. ELECTRA: generator of half the width, $\lambda=50$, embeddings disentangled.
#
# Same masks, same order; ELECTRA at half the rate. **Predict first**: which discriminator is further below chance (6) at the end?

# %% quick="BUDGET = 0.02"
BUDGET = 0.4  # TFLOP, million million operations, a training; take more, if you have some minutes
WEIGHT = 50.0  # of the discriminator's loss: try 5, or 0.5

# %%
from dataclasses import replace
from functools import partial

from bertcraft.lab import pretraining
from bertcraft.lab.experiment import Context
from bertcraft.lab.replaced_tokens import detection
from bertcraft.pretrain.held_out import HeldOut
from bertcraft.tensor.parallel import cpu_count

ours = partial(electra_loss, generator=electra.guesser, discriminator=electra.config, weight=WEIGHT, sharing="disentangled")
tasks["ELECTRA"] = replace(electra, loss=ours)  # the cells above: edit them, run them, and come back here
held_out = HeldOut(mlm.texts.held_out, mlm.texts)


def looked_at(task, params) -> dict:
    """At [MASK] of unread text the loss less word frequencies'; of the discriminator how far it is below chance, in %."""
    guesser, _ = task.split(params)
    found = {"guess": held_out(guesser, task.guesser)["loss"] - held_out.unigram} if task.guesser else {}
    return found | (detection(task, held_out, params) if task.detects else {})


def trained(task, budget):
    """A ``FitResult`` of what a budget buys of a task."""
    steps = max(5, int(budget * 1e12 / task.step_flops))
    setting = replace(task.setting, steps=steps, warmup=min(40, steps // 2))
    return pretraining.train(
        setting, task.start, task.loss, task.make_batch, seed=0, context=Context(threads=cpu_count()), signature={},
        weight=task.weight, evaluate=partial(looked_at, task),
    )  # fmt: skip


runs = {title: trained(task, BUDGET) for title, task in tasks.items()}

# %% alt="Left: loss at MASK less that of word frequencies against compute; the masked LM falls to 0.6 nats below, ELECTRA's generator to 0.1. Right: how far the discriminators are below chance, in percent; fakes by frequency rise from 0 to 10, ELECTRA stays at about 3."
with style.shown(columns=2, width=8.6, height=3.2) as (left, right):
    for (title, run), place in zip(runs.items(), (0, 2, 1), strict=True):
        compute = [step * tasks[title].step_flops / 1e12 for step, _ in run.evaluations]
        for ax, figure in ((left, "guess"), (right, "told")):
            if figure in run.evaluations[0][1]:
                ax.plot(compute, [found[figure] for _, found in run.evaluations], **style.line(place), label=title)
    for ax in (left, right):
        ax.axhline(0, color="0.3", lw=1, ls=(0, (1, 3)))
        ax.set(xlabel="compute (TFLOP)")
        ax.legend(fontsize=8)
    left.set(ylabel="loss above word frequencies' (nats)", title="who guesses, at [MASK]")
    right.set(ylabel="loss below chance (%)", title="who tells")

# %% [markdown]
# The masked language model ends about 0.6 nats below word frequencies. The discriminator of easy fakes is 10 % below chance, and
# its loss still falls. ELECTRA has paid for a generator: two thirds of the steps. Its discriminator leads at first and ends
# 3 % below chance. Whether easy fakes teach what fine-tuning can use, the stored experiment asks.
#
# ### What a discriminator sees
#
# The second arm's discriminator goes on for a while, then reads requests that it has never seen. Numbers and shades are its
# probability of a fake; frames are the true fakes.

# %% quick="MORE = 0.02"
MORE = 0.9  # TFLOP more

# %%
task = tasks["fakes by frequency"]
longer = replace(task, start=runs["fakes by frequency"].params)
params = trained(longer, MORE).params
rows_read = task.drawn(held_out.batch, (4,))
both = replace_tokens(rows_read, rows_read["samples"])
said = heads.detection_logits(params, task.config, encoder.encode(params, task.config, both.input_ids, rows_read["attention_mask"]))
probability = 1 / (1 + np.exp(-said))
real = rows_read["attention_mask"] == 1
at_fakes, at_originals = probability[both.fake & real].mean(), probability[real & ~both.fake & (both.input_ids >= 5)].mean()
print(f"mean probability at fakes {at_fakes:.2f}, at original words {at_originals:.2f}")

text, piece = mlm.texts.train, np.char.startswith(np.array(pieces), "##")
followed, count = (np.bincount(ids, minlength=len(pieces)) for ids in (text[:, :-1][piece[text[:, 1:]]], text.ravel()))
begun = followed / count.clip(1)
parts_of_words = piece | (begun > 0.1)  # a token that pieces often follow is no whole word
readable = ~(parts_of_words[both.input_ids] & real).any(axis=1) & np.isin(real.sum(axis=1), (9, 10, 11, 12))
some = np.flatnonzero(readable & (both.fake.sum(axis=1) >= 1))[:6]

# %% alt="Six requests, a row each, with the probability of a fake under every word. Ten of the twelve framed words, the fakes, are the darkest of their row or nearly, from 0.26 to 0.99; two, hold and my, are as pale as ordinary words, none of which is above 0.3."
from matplotlib.patches import Rectangle

with style.shown(width=8.6, height=3.2) as ax:
    seen = np.where(real[some], probability[some], np.nan)[:, :12]
    ax.imshow(seen, cmap="Oranges", vmin=0, vmax=0.8, aspect="auto")
    for y, n in enumerate(some):
        for x in range(int(real[n].sum())):
            look = {"ha": "center", "va": "center", "color": "white" if probability[n, x] > 0.5 else "black"}
            ax.text(x, y - 0.12, pieces[both.input_ids[n, x]], fontsize=7, **look)
            ax.text(x, y + 0.27, f"{probability[n, x]:.2f}", fontsize=6, **look)
            if both.fake[n, x]:
                ax.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, fill=False, lw=1.6))
    ax.set(xticks=[], yticks=[], title="probability of a fake; framed: fakes")
    ax.grid(False)

# %% [markdown]
# It sees that a word does not belong, though two of the twelve fakes escape it. Context, or words that are often fakes? Appendix C
# has a harder zero.
#
# ### The stored experiment
#
# The same model, twice as wide, up to twenty times the compute, ten seeds. The rate stays at its height; at a sixteenth, an
# eighth ... all of the compute a branch lets it fall to zero and is fine-tuned on 1,920 questions of TREC (47 kinds). So each
# point is a finished training, and the ratio of computes is the curves' distance in height, at 1.5 points a doubling (fixed
# beforehand). One arm has cheap fakes: a word that often follows the one before.
#
# Can the question be asked?

# %%
from bertcraft.course import display, measured

display.show(measured.checks(lesson.slug))

# %%
lesson.results("to_level", "mean", "accuracy", "intents", "gap", "told")

# %%
lesson.results("loss", "loss_kept", "loss_random", arms=("mlm", "electra"))

# %% [markdown]
# Where a word was kept it can be copied: there the generator stands at 5.0 nats, at [MASK] at 6.0.

# %%
lesson.comparisons()

# %% alt="Left: accuracy on TREC after fine-tuning against the compute of pretraining, logarithmic, with thin lines for seeds that cross each other. The mean of the masked LM rises from 62.1 at 0.5 TFLOP to 64.7 at 8, that of ELECTRA lies below it at each compute, between 59.8 and 63.2; dotted, a model that was not pretrained at 60.4. Right: the loss at MASK less that of word frequencies; the masked LM falls from 0.1 below to 2.3 below, the generator of ELECTRA from 0.1 above to 0.6 below."
lesson.plots(1)

# %% alt="A row for each arm with its accuracy on TREC after fine-tuning at the end of its compute: marks for seeds, a point for their mean. TF-IDF stands right of all at 69.6; the masked LM has 64.3, ELECTRA 62.1, its variants and the cheap fakes 61 to 63, the model that was not pretrained 60.3."
lesson.plots(2)

# %% [markdown]
# The claim is *not testable here*: at four of its five points the generator had not learnt, at two neither model. At 8 TFLOP,
# where both have, the two cannot be told apart; the claim's curve would have to run from there to 128. The masked LM stands 4.4
# points above no pretraining (a check); on the same five seeds TF-IDF stands 5.3 above the masked LM, 7.5 above ELECTRA.
#
# ### When does it not help?
#
# - **Where minutes of training are all there is**: we could not tell.
# - **When nobody looks at chance**: a loss of 0.37 may be the share of fakes alone.
# - **When the model is to name words**: prompts, gaps, augmentation.
#
# ## 6. In production (10 minutes)
#
# transformers has the two classes and no trainer for the pair: everybody writes the loop. One step of it, and ours beside it: the
# same weights after plain gradient descent.

# %%
if lesson.installed("transformers", "torch"):
    step = 0.01
    optimiser = torch.optim.SGD({id(p): p for model in (guesser, judge) for p in model.parameters()}.values(), lr=step)
    optimiser.zero_grad()
    configs, before = joined(guesser, judge)

    guessed = guesser(torch.tensor(rows["input_ids"]), mask, labels=torch.tensor(at_masked))
    places = i, rows["at"][i, j]
    logits = guessed.logits.detach().numpy()[places]  # no gradient through the drawing
    corrupted = torch.tensor(ids)
    corrupted[places] = torch.tensor(sample(logits, rows["draw"][i, j]))  # in torch: Categorical(logits=...).sample()
    is_fake = (corrupted != torch.tensor(ids)).double()  # not: the masked places
    (guessed.loss + 50 * judge(corrupted, mask, labels=is_fake).loss).backward()  # not without the mask
    optimiser.step()

    gradients = bc.grad(lambda p: electra_loss(p, rows, None, **configs))(before)
    after = tree.map(lambda weight, gradient: weight - step * gradient, before, gradients)
    _, theirs = joined(guesser, judge)
    gap = max(np.abs(a - b).max() for a, b in zip(tree.leaves(after), tree.leaves(theirs), strict=True))
    print("one step, the same weights to 1e-6:", gap < 1e-6)

# %% [markdown]
# Three lines of it are often wrong, and none of the mistakes raises an error:

# %%
if lesson.installed("transformers", "torch"):
    lucky = corrupted.clone()
    lucky[places[0][0], places[1][0]] = int(ids[places[0][0], places[1][0]])  # let one draw be right
    really = (lucky != torch.tensor(ids)).double()
    with torch.no_grad():
        right = judge(lucky, mask, labels=really).loss.item()
        no_mask = judge(lucky, labels=really).loss.item()
        as_masked = judge(lucky, mask, labels=torch.tensor(at_masked != -100).double()).loss.item()
    apart = ElectraForPreTraining(judge.config)
    shared = sum(p is q for p in guesser.electra.embeddings.parameters() for q in judge.electra.embeddings.parameters())
    shared_by_default = sum(p is q for p in guesser.parameters() for q in apart.parameters())
    print(f"loss {right:.4f}; attention_mask forgotten: {no_mask:.4f}; every masked token called a fake: {as_masked:.4f}")
    print(f"embedding tables shared: {shared} of 5 tensors after our assignment, {shared_by_default} by default")

# %% [markdown]
# 1. Without `attention_mask` the padding is judged, too: an easy success that dilutes the loss.
# 2. Labels are "differs from the original", not "was masked".
# 3. `tie_word_embeddings=True` ties the *generator's* own input and output. Between the two models it does nothing; our assignment
#    does, and it is gone after `save_pretrained` and `from_pretrained`.
#
# And `ElectraForMaskedLM.from_pretrained` of a *discriminator* only warns that its head is new, and fills gaps with noise.
#
# **Status today (2026).** DeBERTa-V3 (2021) is ELECTRA's objective with disentangled embeddings on another encoder, and still a
# strong choice for classification in English. ModernBERT (2024) went back to masked words: one loss and a head that fills gaps.
#
# ## 7. On your data (5 minutes)
#
# `bertcraft pretrain electra --corpus FOLDER --steps 90000 --out run` trains a pair on your `.txt` files and prints the
# discriminator's loss beside chance (6). More often you fine-tune a released discriminator:
#
# ```python
# from datasets import load_dataset
# from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments)
#
# name = "google/electra-small-discriminator"
# tokenizer = AutoTokenizer.from_pretrained(name)
# rows = load_dataset("csv", data_files="texts.csv")["train"].class_encode_column("label").train_test_split(0.2, seed=0)
# rows = rows.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=128), batched=True)
# model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=rows["train"].features["label"].num_classes)
# arguments = TrainingArguments("out", learning_rate=3e-4, num_train_epochs=3, warmup_steps=0.1, eval_strategy="epoch")
# trainer = Trainer(model, arguments, train_dataset=rows["train"], eval_dataset=rows["test"], processing_class=tokenizer)
# trainer.train()
# trainer.save_model("model")
# ```
#
# | symptom | setting |
# | --- | --- |
# | the discriminator's loss stands at chance (6) | longer training, a lower rate, easier fakes first |
# | the generator's loss lags behind a masked LM of its size | disentangle, or a smaller $\lambda$ |
# | fakes become rare, detection stops falling | the generator is too good: a quarter to a half of the width |
# | fine-tuning is unstable | the paper's rates: 3e-4 small, 1e-4 base, 5e-5 large, falling by layer |
#
# ## 8. Exercises (100 minutes)
#
# `hint("name")` helps, `solution("name")` tells.
#
# ### 8.1 An honest label (one star, 10 minutes)
#
# With these labels the better the generator becomes, the worse the discriminator looks. Find the mistake.


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
# ### 8.2 The zero of the plot (one star, 10 minutes)
#
# The $\mathcal H(f)$ of (6), with $f$ from (5); `right` is $\bar p$. A generator that is always right makes no fakes: then the
# loss is 0.


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
# ### 8.3 Draw a word (two stars, 15 minutes)
#
# Equation (1) and the drawing, for one place after another: logits (n, V), one uniform number in [0, 1) for each. Logits may be as
# large as 1,000, and the probabilities of a row may add up to 0.9999999.


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
# ### 8.4 Judge all tokens, and no padding (two stars, 15 minutes)
#
# Equation (3) for rows of unequal length. Each term is $\ln(1+e^{z})-yz$; `np.logaddexp(0, z)` is $\ln(1+e^z)$ without overflow.


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
# ### 8.5 The best answer (three stars, 20 minutes)
#
# Equation (7), for the whole vocabulary at one place. A word that can come about in no way ($p=p_G=0$) gets 0.


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
# ### 8.6 Which run goes on? (two stars, 15 minutes, a decision)
#
# Three pairs are in training on the same texts; one may go on for a week. After a day, on unread text ($w=0.92$; generator's loss
# at [MASK], word frequencies alone 6.9; accuracy after fine-tuning on the team's 2,000 tickets, five seeds, less that of a model
# that was not pretrained, 95 % interval):
#
# | run | generator | fakes $f$ | discriminator's loss | first step's | after fine-tuning |
# | --- | --- | --- | --- | --- | --- |
# | A | 6.9 | 14.5 % | 0.380 | 0.693 | -0.4 [-1.9, +1.1] |
# | B | 4.1 | 11.8 % | 0.306 | 0.701 | +3.1 [+1.4, +4.8] |
# | C | 2.6 | 8.0 % | 0.256 | 0.688 | +0.2 [-1.6, +2.0] |
#
# - `run`: "A", "B" or "C".
# - `because`: (a) the lowest loss of a discriminator; (b) the largest fall since the first step; (c) its loss is furthest below
#   chance (6), and fine-tuning finds the difference.
# - `c_is`: what is wrong with C? (a) nothing, its fakes are the best; (b) it stands at chance: the generator learns, the
#   discriminator does not; (c) its generator is too weak.
# - `unless`: what would change your mind? (a) a lower loss of A's after two days; (b) another run's interval, on the same tickets,
#   wholly above B's; (c) an accuracy of C's generator of 60 %.


# %% exercise="goes_on" stars=2
def goes_on():
    """{"run": "A", "B" or "C", "because": "a", "b" or "c", "c_is": "a", "b" or "c", "unless": "a", "b" or "c"}."""
    ### BEGIN SOLUTION
    return {"run": "B", "because": "c", "c_is": "b", "unless": "b"}
    ### END SOLUTION


# %%
check.goes_on(goes_on)

# %% [markdown]
# ### 8.7 What does the best discriminator lose? (two stars, 15 minutes)
#
# Let the generator be perfect, $p_G=p$. (a) How often is a token a fake, over all words of a place? (b) A place has one
# possible word ($p=1$): what does (8) say, and what does that place teach? (c) Another has a thousand equally likely words. Write
# the best loss there and compare it with $\mathcal H(\rho)$. (d) Which places are left to learn from, when the generator is nearly
# perfect?

# %% [markdown] solution=true
# **Model answer.** (a) $f=\sum_w p(w)\,\rho(1-p(w))=\rho\,(1-\sum_w p(w)^2)$: (5) with $\bar p=\sum_w p(w)^2$. (b) $D^*=0$: the
# generator is always right, nothing is ever a fake, and a discriminator that has seen this is right for certain. It teaches that
# the word is certain, no more. (c) $D^*(w)=\rho(1-1/1000)$ for all words: the same answer whatever is shown, so the best loss is
# $\mathcal H(0.999\,\rho)$, next to $\mathcal H(\rho)$: nothing can be told, and nothing is learnt. (d) Those in between, where
# words differ in probability: telling a likely word (answer well below $\rho$) from an unlikely one (answer near $\rho$). The gain
# per token over $\mathcal H(f)$ is then small, of second order in the spread of $D^*$. It is why a generator that is too strong
# hurts, and one reason for the quarter.

# %% [markdown]
# ## 9. Pitfalls, references, what next (5 minutes)
#
# - **The released ELECTRA-small is not the paper's.** It was trained with a generator as wide as the discriminator; the repository
#   says to pass `"generator_hidden_size": 1.0` to get it again. Base has a third, and large masks 25 %.
# - **A generator can be too good**: see (8). In the paper a quarter to a half of the width does best.
# - **Google's code masks 85 %** of the chosen tokens and keeps 15 %; ours uses BERT's 80/10/10, so that all objectives read the
#   same rows.
# - **A mean over shards** needs the number of tokens of each, and the two losses count different ones.
#
# **Read**: Clark, Luong, Le, Manning 2020, [ELECTRA](https://arxiv.org/abs/2003.10555): section 3.2 for all that was tried, 3.4 for
# the ablations. He, Gao, Chen 2021, [DeBERTaV3](https://arxiv.org/abs/2111.09543), section 3, for the tug of war. The original code
# is [google-research/electra](https://github.com/google-research/electra), the production code
# [transformers' `models/electra`](https://github.com/huggingface/transformers/tree/main/src/transformers/models/electra).
#
# **Open project**: fakes from `Forger(rows, V, neighbours=True)` of `bertcraft.lab.forgeries` (a word that often follows the one
# before), trained on your own texts, then fine-tuned on a task of yours. Three seeds, equal compute, and a model that was not
# pretrained beside it.
#
# **Next**: [05 knowledge distillation](05_knowledge_distillation.ipynb), where a large model answers with a whole distribution
# instead of yes or no. [01 RoBERTa](01_roberta_optimizations.ipynb) takes apart the model that the claim
# is measured against; [12 adapter modules](12_adapter_modules.ipynb) asks how little of an encoder has to be trained afterwards.

# %% [markdown]
# ## Appendix A. Count the nats (5 minutes)
#
# An answer can teach at most its entropy. The name of a masked word is worth what the model does not know of it yet,
# $\mathcal L_G$ nats. A yes or no is worth at most $\mathcal H(f)$. Per row of $L$ words that is $\rho L\,\mathcal L_G$ against
# $L\,\mathcal H(f)$:

# %%
for name, loss, right in (("young: 5.4 nats, 0.04 right", 5.4, 0.04), ("an example: 1.8 nats, 0.5 right", 1.8, 0.5)):
    f = 0.15 * (1 - right)
    entropy = -f * np.log(f) - (1 - f) * np.log(1 - f)
    print(f"{name:32s} guess: {0.15 * loss:.2f} nats a word of the row, tell: at most {entropy:.2f}")

# %% [markdown]
# All the yeses and noes together hold *less* than the names of the seventh do, or just as much. "More signal because all tokens
# count" is not the whole story. What the paper's ablations show is that the *places* matter: with the loss on the masked 15 % alone,
# ELECTRA's score falls from 85.0 to 82.4, and a masked language model that predicts *all* tokens comes within a point of it (84.3).
# A gradient at every token, on a row that has no [MASK]: that is what is bought.
#
# Where does the loss pull at a model without training? The length of $\partial\mathcal L/\partial h_t$ at each token of a request,
# for guessing what was masked and for telling what was replaced:

# %%
batch = electra.make_batch(0)
generator, discriminator = electra.split(electra.start)
replaced = electra.replaced(generator, batch)
whole = [not any(pieces[i].startswith("##") for i in ids) and 11 <= (ids != 0).sum() <= 14 for ids in replaced.input_ids]
row = int(np.argmax(whole))  # a request of whole words
length = int(batch["attention_mask"][row].sum())
shown = {"masked": batch["input_ids"][[row], :length], "replaced": replaced.input_ids[[row], :length]}
labels = np.full((1, length), -100)  # masked language model: the loss is here and nowhere else
counted = batch["labels"][row] >= 0
labels[0, batch["at"][row][counted]] = batch["labels"][row][counted]
fake = replaced.fake[[row], :length]

hidden = encoder.encode(mlm.start, mlm.config, shown["masked"])
_, pull_of_masks = bc.value_and_grad(lambda h: heads.masked_lm_loss(mlm.start, mlm.config, h, labels))(hidden)
hidden = encoder.encode(discriminator, electra.config, shown["replaced"])
judged = lambda h: F.binary_cross_entropy(heads.detection_logits(discriminator, electra.config, h), fake)  # noqa: E731
_, pull_of_fakes = bc.value_and_grad(judged)(hidden)

# %% alt="Two panels of bars, one bar for each token of a request. Left, guess what was masked: only the two masked tokens have a bar. Right, tell what was replaced: every token has a bar, of 0.3 to 1 times the largest, and the two masked places are among the lowest."
with style.shown(columns=2, width=9.0, height=3.2) as panels:
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
# In bold: the masked places. On the left nothing but they pull; on the right every token does.

# %% [markdown]
# ## Appendix B. Tug of war (5 minutes)
#
# With *one* table, how do the two losses pull at it? We train such a pair for a fifth of the compute and look.

# %%
shared = task_of(SMALL | OBJECTIVES["ELECTRA"] | {"sharing": "shared"}, seed=0)
steps = max(5, int(0.2 * BUDGET * 1e12 / shared.step_flops))
pair = pretraining.train(
    replace(shared.setting, steps=steps, warmup=steps // 2), shared.start, shared.loss, shared.make_batch, seed=0,
    context=Context(threads=cpu_count()), signature={}, weight=None,
).params  # fmt: skip
a_batch, pull = shared.make_batch(10_000), {}
configs = {"generator": shared.guesser, "discriminator": shared.config}
for name in ("masked_lm", "detection"):
    _, gradients = bc.value_and_grad(lambda p, name=name: getattr(losses(p, a_batch, None, **configs), name))(pair)
    pull[name] = gradients["generator"]["electra"]["embeddings"]["word_embeddings"]["weight"].ravel()
g, d = pull["masked_lm"], 50 * pull["detection"]
print(f"length of the discriminator's pull, times 50: {np.linalg.norm(d) / np.linalg.norm(g):.1f} times the generator's")
print(f"cosine between the two: {g @ d / np.linalg.norm(g) / np.linalg.norm(d):+.2f}")
left_over = g @ (g + d) / np.linalg.norm(g) / np.linalg.norm(g + d)
print(f"cosine between the generator's own direction and their sum: {left_over:.2f}")

# %% [markdown]
# AdamW divides a gradient by its usual size, so it is the *direction* of the sum that moves the table. The two do not oppose each
# other; they want unrelated things, and the last number is what is left of the generator's wish in each step.

# %% [markdown]
# ## Appendix C. Below chance, and still blind? (5 minutes)
#
# Some words are fakes more often than others, whatever stands around them. So there is a second zero below (6): a *table* that
# knows each word's own share of fakes and sees no context. We fill it from rows that the training could have read.


# %% quick="BATCHES = 5"
BATCHES = 60  # of 64 rows, to fill the table


def forged(task, params, rows):
    """What a discriminator of this task reads of some masked rows."""
    guesser, _ = task.split(params)
    return task.replaced(guesser, rows)


zeros = {}
unread = held_out.batch
for title in ("fakes by frequency", "ELECTRA"):
    task, params = tasks[title], runs[title].params
    count = np.full((2, len(pieces)), [[0.3], [2.0]])  # fakes, all: starts at about 15 %
    for step in range(BATCHES):
        made = forged(task, params, task.make_batch(10_000 + step))
        np.add.at(count[1], made.input_ids, 1)
        np.add.at(count[0], made.input_ids[made.fake], 1)
    made, real = forged(task, params, task.drawn(unread, (5,))), unread["attention_mask"] == 1
    share = np.clip(count[0] / count[1], 1e-4, 1 - 1e-4)[made.input_ids]
    by_word = -np.where(made.fake, np.log(share), np.log(1 - share))[real].mean()
    last = runs[title].evaluations[-1][1]
    zeros[title] = last["chance"], by_word, last["detection"]
    print(f"{title:19s} chance {last['chance']:.3f}, table {by_word:.3f}, discriminator {last['detection']:.3f}")

# %% [markdown]
# Filled from so few rows, the table is up to 0.02 nats *worse* than chance. The discriminator of easy fakes gained 0.036: that is
# context. ELECTRA's gained 0.009: this table cannot tell. A generator with favourites makes a table that beats (6); then the
# table is the zero to look at.
