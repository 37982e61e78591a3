# %% [markdown]
# # 12. Adapters: fine-tuning that leaves the model alone
#
# Fine-tuning BERT for a task changes all of its parameters, so ten tasks are ten BERTs. In 2019 Houlsby and others froze the
# model, put two tiny networks into each layer, and trained only those. It worked almost as well, and a family grew from it:
# LoRA, prefixes, IA3, BitFit. Today LoRA is how most large models are fine-tuned.
#
# You need [lesson 00](00_foundations.ipynb): what a Tensor remembers, and the encoder's four sockets. Set aside 60 to 90
# minutes.

# %%
import math

import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import style

lesson = open_lesson("adapter_modules")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim

# %%
lesson.claim()

# %% [markdown]
# "0.4 % of the parameters, 99 % of the performance" has been copied from list to list, and it is **garbled**. The paper's
# abstract says: within **0.4** of the performance of full fine-tuning, adding **3.6 %** parameters for each task. The 0.4 is
# the *loss in points*, not the share of parameters. (Even the publisher's page for the paper has it wrong in another way: it
# prints 0.8 % where the paper and its table 1 have 0.4.)
#
# What the paper reports, and where the garbled claim would lie:

# %%
# Houlsby et al. 2019, table 1: GLUE test score of BERT-large, parameters trained for a task (% of BERT-large)
TABLE_1 = {"full fine-tuning": (100, 80.4), "adapters, best size of 8, 64, 256": (3.6, 80.0), "adapters, size 64": (2.1, 79.6)}

with style.shown(width=6.6, height=3.0) as axes:
    for i, (name, (share, score)) in enumerate(TABLE_1.items()):
        axes.plot(share, score, **style.line(i) | {"linestyle": "none", "markersize": 7}, label=name)
    axes.plot(0.4, 0.99 * 80.4, "x", color="0.2", markersize=8, label="the claim as it is copied")
    axes.set(xscale="log", xlabel="parameters trained for a task, % of the model", ylabel="GLUE score", ylim=(79, 81))
    axes.set_xticks([0.4, 1, 3.6, 10, 100], ["0.4", "1", "3.6", "10", "100"])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# Two more things to know about these figures: each is the best of several runs and settings, chosen on development sets; and
# the best *size* of the adapter was chosen task by task. With one size for all (64) the loss is twice as large.
#
# ## 2. Background: one model, many tasks
#
# Suppose a company sorts its mail by 20 different criteria, and a new one comes every month. Before 2019 there were two ways:
#
# - **Feature extraction**: the encoder is a fixed function of the text, and only a classifier on top is trained. Small, but
#   the encoder cannot learn to look at what this task needs.
# - **Fine-tuning**: everything is trained. Better, but each task needs a copy of the whole model, on disk and in the memory
#   of whatever serves it.
#
# (Training only the top layers lies between the two, in both respects.) What does a shelf of tasks weigh? BERT-large has 335
# million parameters of 4 bytes.

# %%
tasks = np.arange(1, 51)
BERT_LARGE = 335_141_888 * 4 / 1e9  # gigabytes
shelf = {"full fine-tuning": tasks * BERT_LARGE}
for name, share in (("adapters, 3.6 %", 0.036), ("adapters, 2.1 %", 0.021)):
    shelf[name] = BERT_LARGE * (1 + share * tasks)

with style.shown(width=6.2, height=3.0) as axes:
    for i, (name, gigabytes) in enumerate(shelf.items()):
        axes.plot(tasks, gigabytes, **style.line(i) | {"marker": ""}, label=name)
        beside = ("center", "bottom", "top")[i]
        axes.text(51, gigabytes[-1], f"{gigabytes[-1]:.1f} GB", va=beside, color=style.COLOURS[i], fontsize=8)
    axes.set(xlabel="tasks", ylabel="to be stored (GB)", xlim=(0, 58))
    axes.legend()

# %% [markdown]
# There is a second gain, less often named: the frozen model **forgets nothing**. Take the adapters out and the old model is
# there, to the last bit. Tasks cannot spoil each other, because they share no trained number.
#
# ## 3. The mathematics
#
# ### A bottleneck
#
# An adapter takes a token's vector $h$ of $H$ numbers, squeezes it into $m$ numbers, bends them with a curve, widens them
# again, and adds the result to what came in:
#
# $$\mathrm{adapter}(h) = h + W_{\mathrm{up}}\, \mathrm{gelu}(W_{\mathrm{down}} h + b_{\mathrm{down}}) + b_{\mathrm{up}} \tag{1}$$
#
# $W_{\mathrm{down}}$ is $(m, H)$, $b_{\mathrm{down}}$ $(m,)$, $W_{\mathrm{up}}$ $(H, m)$, $b_{\mathrm{up}}$ $(H,)$. With $m$
# far below $H$ this is cheap.
#
# **By hand**, with $H = 2$, $m = 1$ and ReLU in place of GELU: $W_{\mathrm{down}} = (1, -1)$, $W_{\mathrm{up}} = (\frac12,
# 1)^\top$, no biases. For $h = (3, 1)$ the bottleneck holds $3 - 1 = 2$, and the result is $(3, 1) + 2 \cdot (\frac12, 1) =
# (4, 3)$. For $h = (1, 3)$ it holds $\mathrm{relu}(-2) = 0$, and nothing is changed.
#
# The sum with $h$ matters most at the **start**: where $W_{\mathrm{up}}$ is nearly zero the adapter is nearly the identity,
# and the model begins as the one that was pretrained. Each layer gets two adapters, one behind the attention half and one
# behind the feed-forward half, *before* the residual is added and normalised.
#
# How many numbers? One adapter has $2 m H$ in its matrices and $m + H$ in its biases; there are **two in each layer**:
#
# $$\text{numbers} = 2 \cdot \text{layers} \cdot (2 m H + m + H) \tag{2}$$
#
# Count the example: $2 \cdot 1 \cdot 2 + 1 + 2 = 7$. (The paper's text says "per layer" beside the formula of one module: a
# trap for those who copy it.)


# %%
def adapter_numbers(size, hidden, layers):
    return 2 * layers * (2 * size * hidden + size + hidden)  # equation 2


for model_name, hidden, layers, total in (("BERT-base", 768, 12, 109_482_240), ("BERT-large", 1024, 24, 335_141_888)):
    counts = {size: adapter_numbers(size, hidden, layers) for size in (8, 64, 256)}
    print(f"{model_name:10}", "  ".join(f"m = {m}: {n:>10,} ({n / total:.2%})" for m, n in counts.items()))

# %% [markdown]
# The claimed 0.4 % is in the neighbourhood of $m = 8$, which table 1 has only as one choice of three, made task by task.
#
# ### Its kin
#
# **LoRA** (Hu et al. 2021) adds to a frozen weight $W$ (out, in) the product of two thin matrices, $B$ (out, r) and $A$ (r,
# in):
#
# $$z = W x + b + \frac{\alpha}{r}\, B A\, x \tag{3}$$
#
# By hand: $A = (1, 1)$, $B = (1, 0)^\top$, $\alpha = r = 1$. Then $BA = \begin{pmatrix} 1 & 1 \\ 0 & 0 \end{pmatrix}$, and $x
# = (1, 2)$ gets $(3, 0)$ added. $BA$ is an ordinary matrix of the shape of $W$, so after training it can be **added to** $W$,
# and nothing remains of the method: no cost at all when the model is used. An adapter cannot be merged, because of the curve
# in its middle.
#
# **IA3** (Liu et al. 2022) multiplies keys, values and the inner activations of the feed-forward half by trained vectors,
# number by number:
#
# $$k' = l_k \odot k, \qquad v' = l_v \odot v, \qquad f' = l_f \odot f \tag{4}$$
#
# **Prefix-tuning** (Li and Liang 2021) puts $P$ trained keys and values before those of the text, in every layer; every token
# can attend to them:
#
# $$o_i = \mathrm{attention}\left(q_i, [K_P; K], [V_P; V]\right) \tag{5}$$
#
# **BitFit** (Zaken et al. 2022) adds nothing. It trains the biases that are there.
#
# ### What does freezing save?
#
# A linear layer $z = W x$ costs one product forward. Backward there are two: $g W$ (to pass the derivative on) and $g^\top x$
# (the derivative of $W$ itself), each as large. Freezing spares the last: **at most a third** of the work, not 96 %.
# **Predict first**: for which method must the derivative travel all the way down to the first layer, and for which does it
# stop at the top? The bars in section 5 will tell.
#
# What freezing does save is Adam's memory: two numbers for each *trained* number.
#
# ## 4. The implementation
#
# These are the functions of `bertcraft.techniques.adapter_modules`, yours to edit. Equation 1 is one line. `dense(p, x)` is
# the linear map with the weight and bias in `p`.

# %%
from collections.abc import Callable
from dataclasses import dataclass

from bertcraft.bert import Config, encoder
from bertcraft.bert.encoder import Sockets, dense
from bertcraft.tensor import functions as F
from bertcraft.tensor import tree

from bertcraft.techniques.adapter_modules import bottleneck  # inline

# %% [markdown]
# The example by hand, with GELU this time: $\mathrm{gelu}(2) = 1.954$ in place of 2, and $\mathrm{gelu}(-2) = -0.046$ in
# place of 0.

# %%
example = {
    "down": {"weight": np.array([[1.0, -1.0]]), "bias": np.zeros(1)},
    "up": {"weight": np.array([[0.5], [1.0]]), "bias": np.zeros(2)},
}
print(bottleneck(example, np.array([[3.0, 1.0], [1.0, 3.0]])).round(3))

# %% [markdown]
# Where it goes: a *wiring* for the encoder's fourth socket. Compare with the plain one of lesson 00: the two calls of
# `bottleneck` are all that is new.

# %%
from bertcraft.techniques.adapter_modules import houlsby_wiring  # inline

# %% [markdown]
# ### Two trees instead of one
#
# The frozen parameters stay as they are. What is trained is a **small tree of its own**, under the same names, and `overlay`
# lays one over the other. A gradient is taken with respect to the small tree only; frozen arrays are constants, and no work
# is done for constants.

# %%
from bertcraft.techniques.adapter_modules import overlay  # inline

# %%
from bertcraft.data import weights
from bertcraft.lab import finetune as tuning
from bertcraft.techniques import adapter_modules as technique

model = bc.load(weights("minilm"))
config, frozen = tuning.classifier(model, classes=3, seed=0, dropout=0.0)
trained = technique.start(technique.houlsby(8), frozen, config, np.random.default_rng(0))
for name, leaf in list(tree.items(trained))[:9]:
    print(f"{name:58} {leaf.shape}")
print("...  trained:", f"{technique.count(trained):,}", "of", f"{technique.count(frozen):,}")

# %% [markdown]
# Most of these 237,000 numbers are the **head**: BERT's pooler and the classifier stand on the encoder, and every method
# trains them. Claims of "0.1 % of the parameters" leave the head out without a word. This lesson says which is meant.
#
# ### Near the identity
#
# The authors' code draws $W_{\mathrm{down}}$ and $W_{\mathrm{up}}$ with a deviation of $10^{-3}$. Why so small? Put untrained
# adapters of different deviations into MiniLM and look how far its hidden states move. **Predict first**: the correction is a
# *product* of two matrices. Ten times the deviation moves the states how many times as far?

# %%
SENTENCES = ["how far is it from denver to aspen", "what county is modesto in", "who wrote the ballad of reading gaol"]
encoded = [model.tokenizer.encode(text).ids for text in SENTENCES]
short = min(map(len, encoded))
ids = np.array([row[:short] for row in encoded])
before = encoder.encode(frozen, config, ids)
deviations, moved = 10.0 ** np.arange(-4, 1, 0.5), []
start = technique.start(technique.houlsby(64), frozen, config, np.random.default_rng(1))
for deviation in deviations:
    scaled = {k: leaf * np.float32(deviation / 1e-3) if "adapter" in k else leaf for k, leaf in tree.items(start)}
    after = encoder.encode(overlay(frozen, tree.nest(scaled)), config, ids, sockets=Sockets(wiring=houlsby_wiring))
    moved.append(np.linalg.norm(after - before) / np.linalg.norm(before))

with style.shown(width=6.0, height=2.9) as axes:
    axes.plot(deviations, moved, **style.line(1))
    axes.axvline(1e-3, color="0.4", linestyle=":")
    axes.text(1.1e-3, 0.5, "authors' code", color="0.4", fontsize=8)
    axes.axvline(1e-2, color="0.4", linestyle="--")
    axes.text(1.1e-2, 2e-5, "above: worse, says the paper", color="0.4", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="deviation of the adapter's weights", ylabel="movement of the states, relative")

# %% [markdown]
# A hundred times: the line has slope 2. At $10^{-3}$ the model is its old self to four digits or so; at $10^{-1}$ what was
# pretrained is drowned. (Section 3.6 of the paper finds the same limit by training: fine up to $10^{-2}$, worse above.)
#
# ### LoRA

# %%
from bertcraft.techniques.adapter_modules import low_rank, _attend, lora_attention  # inline

# %% [markdown]
# Merged or not, the same result. Note the order in `low_rank`: first $A x$, then $B$ of that. The matrix $BA$ is never built
# in training.

# %%
from bertcraft.techniques.adapter_modules import _replaced, _merge_lora  # inline

# %%
rng = np.random.default_rng(2)
adapted = technique.start(technique.lora(8, 16), frozen, config, rng)
adapted = tree.map(lambda leaf: leaf + 0.02 * rng.standard_normal(leaf.shape).astype(leaf.dtype), adapted)  # as if trained
whole = overlay(frozen, adapted)
beside = encoder.encode(whole, config, ids, sockets=technique.lora(8, 16).sockets)
merged = encoder.encode(technique.merge(technique.lora(8, 16), whole, config), config, ids)
print(f"LoRA moved the states by {np.abs(beside - before).max():.2f}, merging moves them by {np.abs(merged - beside).max():.0e}")

# %% [markdown]
# ### IA3 and prefixes

# %%
from bertcraft.techniques.adapter_modules import ia3_attention, ia3_feed_forward, prefix_attention  # inline

# %% [markdown]
# In `prefix_attention` look at `bias`: it tells attention which places are padding. The prefix comes first, so the mask must
# grow by $P$ places at its front. Forget it and the shapes do not fit; put them at the end and the *text* is masked instead
# (exercise 5).
#
# ### A method is five short answers

# %%
from bertcraft.techniques.adapter_modules import Method  # inline

# %% [markdown]
# ### Proof
#
# The gradient of equation 1, against measured slopes, to second order; then LoRA against `peft`, the library in production:
# the same small random BERT, the same $A$ and $B$, in double precision. (The tests of this repository compare every trained
# parameter's gradient for LoRA, IA3 and prefixes with `peft` and for the adapters with a torch module: all agree to
# $10^{-8}$.)

# %%
pieces = [rng.standard_normal(shape) for shape in ((3, 6), (2, 6), (2,), (6, 2), (6,))]
bc.check_grads(
    lambda x, down, b, up, c: bottleneck({"down": {"weight": down, "bias": b}, "up": {"weight": up, "bias": c}}, x), *pieces
)
print("the bottleneck's derivatives agree with measured slopes, first and second order")

# %%
if lesson.installed("transformers", "torch", "peft"):
    import warnings

    import peft
    import torch
    import transformers

    warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers under an old name
    torch.manual_seed(0)
    shape = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    theirs = transformers.BertModel(transformers.BertConfig(**shape), add_pooling_layer=False).double().eval()
    plain = {f"bert.{name}": p.detach().numpy().copy() for name, p in theirs.named_parameters()}
    with_lora = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
    with_lora = with_lora.double().eval()  # peft makes A and B float32 else
    for name, p in with_lora.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p)
            plain["bert." + name.removeprefix("base_model.model.").removesuffix(".default.weight")] = p.detach().numpy()
    texts = rng.integers(99, size=(2, 7))
    small_config = Config(family="bert", head="base", **shape)
    ours = encoder.encode(tree.nest(plain), small_config, texts, sockets=technique.lora(4, 8).sockets)
    difference = np.abs(ours - with_lora(torch.tensor(texts)).last_hidden_state.detach().numpy()).max()
    print(f"LoRA here and in peft: largest difference {difference:.0e}")

# %% [markdown]
# ## 5. What it saves, and what it costs
#
# ### (a) Exactly
#
# For MiniLM (22.7 million parameters) and a task of three classes. *Own* is what a method trains of the encoder or adds to
# it; *stored* includes the head.

# %%
HEAD = ("bert.pooler.", "classifier.")
trees = {name: technique.start(m, frozen, config, np.random.default_rng(0)) for name, m in technique.METHODS.items()}
own = {name: sum(leaf.size for key, leaf in tree.items(small) if not key.startswith(HEAD)) for name, small in trees.items()}
total = technique.count(frozen)
print(f"{'method':12}{'own numbers':>12}{'own %':>8}{'stored MB':>11}{'Adam MB':>9}")
for name, small in trees.items():
    stored = technique.count(small) * 4 / 1e6
    print(f"{name:12}{own[name]:>12,}{own[name] / total:>8.2%}{stored:>11.2f}{2 * stored:>9.2f}")

# %% [markdown]
# Two things to see. The head alone weighs 0.6 MB: more than what LoRA, IA3, BitFit or the small adapters add. A share far
# below 1 % is then a saving on paper only. And on *this* model `houlsby-8` trains 0.39 %: the garbled claim happens to
# describe a real configuration of MiniLM, so it can be tested as it stands. The stored experiment does.
#
# Now the arithmetic of one training step. `flops.count` runs the real code and counts the multiplications and additions in
# its matrix products.

# %%
from bertcraft.lab import flops


def loss(small, frozen, batch, sockets):
    found = tuning.logits(overlay(frozen, small), config, sockets, batch)
    return F.cross_entropy(found, batch["labels"])


batch = {"input_ids": ids[:1], "attention_mask": None, "labels": np.array([1])}
work = {}
for name, method in technique.METHODS.items():
    forward = flops.count(loss, trees[name], frozen, batch, method.sockets)
    both = flops.count(bc.value_and_grad(loss), trees[name], frozen, batch, method.sockets)
    work[name] = forward / 1e6, (both - forward) / 1e6

with style.shown(width=7.0, height=3.1) as axes:
    forward, backward = np.array(list(work.values())).T
    axes.barh(list(work), forward, color=style.COLOURS[0], label="forward")
    axes.barh(list(work), backward, left=forward, color=style.COLOURS[1], hatch="//", edgecolor="white", label="backward")
    for i, (name, both) in enumerate(work.items()):
        axes.text(sum(both), i, f" {sum(both) / sum(work['full']):.0%}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=f"million operations for a text of {short} tokens (percent: of full)", xlim=(0, 1.15 * sum(work["full"])))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")

# %% [markdown]
# Training well under one percent of the numbers takes about two thirds of the work, as section 3 said: the forward pass and
# the way back down remain. Only `head` has nothing to send down. And when the model is *used*, adapters cost more than
# nothing:

# %%
for name in ("houlsby-8", "houlsby-64", "prefix", "lora"):
    print(f"{name:12} forward pass {work[name][0] / work['full'][0] - 1:+.2%}", "  (0 once merged)" if name == "lora" else "")

# %% [markdown]
# ### The learning rate is another one
#
# The most common mistake with all of these methods is to keep the rate of full fine-tuning. Here is what the experiment below
# tried before it began: accuracy on 300 *development* questions of TREC after 50 steps, one seed. **Predict first**: by which
# factor do the best rates of `full` and `houlsby-64` differ?

# %%
from bertcraft.lab.experiments import adapter_modules as experiment

with style.shown(width=7.0, height=3.3) as axes:
    for i, (name, tried) in enumerate(experiment.GRID.items()):
        axes.plot(list(tried), list(tried.values()), **style.line(i), label=name)
    axes.set(xscale="log", xlabel="learning rate", ylabel="accuracy on TREC, dev (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
best = {name: max(tried, key=tried.get) for name, tried in experiment.GRID.items()}
print("best rates:", "  ".join(f"{name} {rate:g}" for name, rate in best.items()))

# %% [markdown]
# Small changes must add up to a large effect, in numbers that start at zero. A curve whose best lies at its end has not been
# tried far enough. Note also how near the cliff is: twice its best rate, and the large adapters fall to 14 %.
#
# And a rate that is best for one task may spoil another. With TREC's best rate three methods (`houlsby-64`, IA3, the prefix)
# unlearnt the other two tasks of the experiment: at 0.01 the large adapters fell to 62 % on film reviews and 64 % on intents
# (development texts), where the head that all start from has 74 % and 70 %. So their rates there are lower, chosen by the
# mean over all three tasks. In fairness: this was noticed by training losses, but decided after the test accuracies of two
# seeds had been seen; the experiment's source says so, too.
#
# ### (b) A live run
#
# TREC: what does a question ask for? A distance, a person, a city ... 47 kinds. Four methods, each at its best rate for TREC,
# the same questions in the same batches, the same head to start from (trained on the frozen encoder, so that nobody loses
# steps to a random head).
#
# **Predict first**: order the four.

# %% quick="STEPS, TESTED, LIVE = 2, 20, ('full', 'lora')"
STEPS, SEED, TESTED = 40, 50, 250
LIVE = ("full", "houlsby-64", "lora", "bitfit")

# %%
from bertcraft.tensor.parallel import cpu_count

train, head = experiment.start("trec", 16 * STEPS, SEED)
test = experiment.drawn("trec", "test", TESTED, SEED, 1)
tuned, accuracy = {}, {}
for name in LIVE:
    settings = tuning.Settings(steps=STEPS, rate=best[name], batch_size=16, dropout=0.0, max_length=16)
    tuned[name] = tuning.finetune(
        model, train, None, name, settings, classes=47, seed=SEED, threads=cpu_count(), head=head
    )  # fmt: skip
    accuracy[name] = 100 * tuning.accuracy(tuned[name], test, cpu_count())

# %%
with style.shown(columns=2, width=7.4, height=3.0) as (left, right):
    for i, (name, each) in enumerate(tuned.items()):
        losses = np.array(each.history["losses"])
        smooth = np.convolve(losses, np.full(5, 0.2), mode="valid") if STEPS >= 5 else losses
        left.plot(np.arange(len(losses) - len(smooth), len(losses)) + 1, smooth, **style.line(i) | {"marker": ""}, label=name)
    left.set(xlabel="step of 16 questions", ylabel="training loss, mean of 5 steps (nats)", ylim=(0, 1.3 * left.get_ylim()[1]))
    left.legend(loc="upper left", ncols=2, fontsize=8)
    right.barh(list(accuracy), list(accuracy.values()), color=style.COLOURS[: len(accuracy)])
    for i, value in enumerate(accuracy.values()):
        right.text(value, i, f" {value:.1f}", va="center", fontsize=8)
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set(xlabel=f"accuracy on {TESTED} test questions (%)", xlim=(0, 100))

# %% [markdown]
# The losses *begin* low and rise, which looks like a fault and is none: the head was trained on these very questions and
# knows them by heart. As soon as the encoder moves, the head no longer fits it, and both must find together again. The larger
# the steps, the higher the hill. (A loss on questions already seen says little about new ones; the right side does.)
#
# One run, 250 questions: the standard error of each accuracy is about 3 points, so bars that differ by less tell nothing.
# That is what the stored experiment is for.
#
# ### Is the change of rank 8?
#
# LoRA bets that the *change* of a weight is simple, though the weight is not. We have a full fine-tuning at hand. Take what
# it changed in the query weights of each layer, $\Delta W = W_{\mathrm{after}} - W_{\mathrm{before}}$, and ask which part of
# its squared size the best approximation of rank $k$ keeps (the $k$ largest singular values squared, of the sum of all). For
# comparison: $W$ itself, and random numbers.


# %%
def kept(matrix):
    squared = np.linalg.svd(matrix, compute_uv=False) ** 2
    return np.cumsum(squared) / squared.sum()


full = tuned["full"]
after, before = full.params["bert"]["encoder"]["layer"], full.frozen["bert"]["encoder"]["layer"]
queries = [[layers[n]["attention"]["self"]["query"]["weight"] for n in before] for layers in (after, before)]
curves = {
    "random numbers": kept(rng.standard_normal(queries[1][0].shape)),
    "the weight, mean of the layers": np.mean([kept(w) for w in queries[1]], axis=0),
    "its change, mean of the layers": np.mean([kept(a - b) for a, b in zip(*queries)], axis=0),
}
with style.shown(width=6.6, height=3.1) as axes:
    for i, (name, curve) in enumerate(curves.items()):
        axes.plot(np.arange(1, len(curve) + 1), 100 * curve, **style.line(i) | {"marker": ""}, label=name)
    axes.axvline(8, color="0.4", linestyle=":")
    axes.set(xscale="log", xlabel="rank k", ylabel="squared size that rank k keeps (%)", ylim=(0, 101))
    axes.legend()
print("kept by rank 8:", "  ".join(f"{name}: {curve[7]:.0%}" for name, curve in curves.items()))

# %% [markdown]
# Read the figure with care, in two steps. The change is much simpler than the weight, which is LoRA's point. But what rank 8
# leaves out is not nothing, and a small part of the squared size may be what mattered, or noise: Adam moves *every* number by
# about the same amount in a step, whether its derivative is large or tiny. Exercise 7 lets you find out by cutting $\Delta W$
# to rank $k$ and testing.
#
# ### (c) The stored experiment
#
# Eight methods, three tasks (TREC, the intents of HWU64, film reviews), the same texts and batches for all within a seed, 40
# steps of 16 texts. Two controls: BitFit (must anything be *added*?) and the head alone (must the encoder be *touched*?).

# %%
lesson.results("accuracy", "own", "stored_mb", "step_seconds")

# %%
lesson.comparisons()

# %%
lesson.plots(1)

# %% [markdown]
# The question of this lesson in one picture: how much of full fine-tuning's accuracy is kept, by how much of the model each
# method trains? The cross is the garbled claim, the triangle the paper's BERT-large after long training.

# %%
runs = lesson.runs
if runs:
    from bertcraft.lab.statistics import mean

    of = {(run["arm"], run["seed"]): run["figures"] for run in runs}
    seeds = sorted({seed for arm, seed in of if arm == "full"})
    with style.shown(width=7.0, height=3.5) as axes:
        for i, arm in enumerate(each.name for each in experiment.EXPERIMENT.arms):
            pairs = [(of[arm, s], of["full", s]) for s in seeds if (arm, s) in of]
            if not pairs or arm == "head":  # its share is zero
                continue
            interval = mean([100 * a["accuracy"] / b["accuracy"] for a, b in pairs])
            half = 0 if interval.high is None else interval.high - interval.mean
            look = style.line(i) | {"linestyle": "none"}
            axes.errorbar(pairs[0][0]["own"], interval.mean, yerr=half, capsize=2, label=arm, **look)
        axes.plot(0.4, 99, "x", color="0.2", markersize=9, label="the claim")
        axes.plot(3.6, 99.5, "^", color="0.2", fillstyle="none", markersize=8, label="the paper")
        axes.axhline(100, color="0.6", linewidth=0.8)
        axes.set(xscale="log", xlabel="trained of the encoder or added to it (%)", ylabel="accuracy, % of full fine-tuning's")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
else:
    print("Not measured yet: this picture is drawn from results/12_adapter_modules.json.")

# %%
if runs:
    arms = {arm for arm, _ in of}
    accuracies = {arm: np.mean([of[arm, s]["accuracy"] for s in seeds if (arm, s) in of]) for arm in arms}
    best_small = max(arms - {"full"}, key=accuracies.get)
    gap = accuracies["full"] - accuracies.get("head", np.nan)
    print(f"best but for full: {best_small}, {accuracies[best_small] - accuracies['full']:+.2f} points from full")
    for arm in sorted(arms - {"full", "head"}, key=accuracies.get, reverse=True):
        closed = (accuracies[arm] - accuracies["head"]) / gap
        print(f"{arm:12} closes {closed:.0%} of the way from the head alone to full")
else:
    print("Not measured yet.")

# %% [markdown]
# How to read it. `houlsby-8` is the claim put to the test on this model: 0.39 %, and is it 99 % of full? A comparison whose
# interval contains 0 is *not separated*: these runs cannot tell the two apart. The share of the way from `head` to `full` is
# the honest scale, because a frozen encoder with a trained head is already a fair classifier: a percentage of full's accuracy
# flatters everything. And the first 40 steps are the first minute of a fine-tuning, where methods with small, slow changes
# are at a disadvantage; the paper trains for many epochs.
#
# ### (d) When it does not help
#
# - **One task, one machine, one model**: nothing is shared, so nothing is saved in storage; training is a third cheaper at
#   best, and the rate must be found anew.
# - **A small model**: MiniLM and its head need less memory than one batch's activations. The methods were made for models
#   whose Adam state does not fit.
# - **Much data far from what the encoder was trained on**: a small change may be too small. Then train everything, or go on
#   pretraining.
# - **Speed in use** matters and nothing else: adapters and prefixes stay in the forward pass. Take LoRA or IA3 and merge.
#
# ## 6. In production
#
# The library is `peft` (LoRA, IA3, prefix-tuning and many more; **no Houlsby adapters**: those are in `adapters`, as
# `DoubleSeqBnConfig`, with reduction 16 and *swish* in place of the paper's curve). This cell puts LoRA on MiniLM with
# `peft`, loads what *our* live run trained into it, and compares the predictions.

# %%
if lesson.installed("transformers", "torch", "peft"):
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    lora = tuned["lora"]
    base = transformers.AutoModelForSequenceClassification.from_pretrained(model.folder, num_labels=47).eval()
    both, head = ["query", "value"], ["pooler.dense", "classifier"]
    settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules=both, modules_to_save=head)
    theirs = peft.get_peft_model(base, settings).eval()
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, leaf in tree.items(lora.trained):
            if "lora_" in name:
                name = f"base_model.model.{name}.default.weight"
            else:
                module, _, last = name.rpartition(".")
                name = f"base_model.model.{module}.modules_to_save.default.{last}"
            parameters[name].copy_(torch.tensor(leaf))
        question = model.tokenizer.encode("how far is it from denver to aspen").ids
        found = theirs(torch.tensor([question])).logits.softmax(-1).numpy()
    ours = tuning.predict(lora, ["how far is it from denver to aspen"])
    print(f"largest difference of a probability: {np.abs(found - ours).max():.0e}")
    trainable = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    print(f"trained in peft {trainable:,}, here {technique.count(lora.trained):,}")

# %% [markdown]
# And what LoRA leaves behind when it is merged: an ordinary BERT classifier that any library opens, with no trace of the
# method.

# %%
if lesson.installed("transformers", "torch"):
    import tempfile

    from bertcraft.data import task

    with tempfile.TemporaryDirectory() as folder:
        tuning.export(tuned["lora"], folder, task("trec").labels)
        classify = transformers.pipeline("text-classification", folder, device="cpu")
        answers = classify(SENTENCES)
    ours = tuning.predict(tuned["lora"], SENTENCES)
    for text, answer, p in zip(SENTENCES, answers, ours):
        print(f"{text:38} {answer['label']:9} {answer['score']:.3f}   here: class_{p.argmax():<3} {p.max():.3f}")

# %% [markdown]
# What differs from the papers, and what to watch:
#
# - `LoraConfig` defaults to `r=8, lora_alpha=8` and, for BERT, to queries and values. $\alpha$ and the learning rate do the
#   same thing to $B A$ at the start: change one at a time.
# - `peft` freezes everything else, **the classifier too**, unless `task_type="SEQ_CLS"` or `modules_to_save` names it; and
#   the pooler stays frozen with `SEQ_CLS`. MiniLM's pooler is not even pretrained.
# - Prefixes in `transformers` are those of a text generator: the text's positions count on from $P$. Ours start at 0. The
#   same weights give different outputs.
# - After `merge_and_unload()` in half precision the rounding of $W + BA$ may undo small changes. Merge in float32.
#
# ## 7. Exercises
#
# ### Exercise 1 (one star): count
#
# How many numbers do Houlsby adapters of a size add to an encoder? Equation 2, and with `norms=True` also the layer norms
# that are trained beside them (two a layer, each with a weight and a bias).


# %% exercise="adapter_count" stars=1
def adapter_count(size, hidden, layers, norms=False):
    """How many numbers adapters of that size add to (and with norms: train of) an encoder."""
    ### BEGIN SOLUTION
    one = 2 * size * hidden + size + hidden
    return 2 * layers * (one + (2 * hidden if norms else 0))
    ### END SOLUTION


# %%
check.adapter_count(adapter_count)

# %% [markdown]
# ### Exercise 2 (two stars): an adapter
#
# Equation 1, for any number of leading axes. `F.gelu` is the curve.


# %% exercise="adapt" stars=2
def adapt(h, down, down_bias, up, up_bias):
    """Equation 1. h (..., H), down (m, H), down_bias (m,), up (H, m), up_bias (H,) -> (..., H)."""
    ### BEGIN SOLUTION
    inner = F.gelu(h @ down.T + down_bias)
    return h + inner @ up.T + up_bias
    ### END SOLUTION


# %%
check.adapt(adapt)

# %% [markdown]
# ### Exercise 3 (two stars): merge LoRA
#
# Return the weight of the plain linear layer that computes equation 3. The weight that is handed over belongs to the frozen
# model: do not change it.


# %% exercise="merge_lora" stars=2
def merge_lora(weight, a, b, alpha):
    """The merged weight (out, in). weight (out, in), a (r, in), b (out, r)."""
    ### BEGIN SOLUTION
    rank = a.shape[0]
    return weight + alpha / rank * (b @ a)
    ### END SOLUTION


# %%
check.merge_lora(merge_lora)

# %% [markdown]
# ### Exercise 4 (two stars): find the bug
#
# "LoRA must start as the plain model" says the paper, and this function makes sure of it. Yet a model that starts like this
# **never learns anything**: its loss is the same after a thousand steps. Find out why (exercise 6 asks for the proof) and
# mend it, so that the start changes nothing *and* learning begins.


# %% exercise="start_lora" stars=2
def start_lora(out, into, rank, rng):
    """The start of A (rank, in) and B (out, rank), float32."""
    ### BEGIN SOLUTION
    a = rng.standard_normal((rank, into)) / np.sqrt(into)
    return a.astype(np.float32), np.zeros((out, rank), np.float32)
    ### END SOLUTION
    ### BEGIN STUB
    # return np.zeros((rank, into), np.float32), np.zeros((out, rank), np.float32)
    ### END STUB


# %%
check.start_lora(start_lora)

# %% [markdown]
# ### Exercise 5 (three stars): a prefix, with padding
#
# Attention of one head with a prefix, equation 5. `mask` is 1 where the text has a token and 0 where it is padding; a masked
# token gets the weight 0, a prefix never does.


# %% exercise="attend_with_prefix" stars=3
def attend_with_prefix(query, key, value, prefix_key, prefix_value, mask):
    """query, key, value (L, D), prefix_key and prefix_value (P, D), mask (L,) of 0 and 1 -> (L, D)."""
    ### BEGIN SOLUTION
    key, value = np.concatenate([prefix_key, key]), np.concatenate([prefix_value, value])
    mask = np.concatenate([np.ones(len(prefix_key)), mask])
    scores = np.where(mask == 1, query @ key.T / math.sqrt(query.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ value
    ### END SOLUTION


# %%
check.attend_with_prefix(attend_with_prefix)

# %% [markdown]
# ### Exercise 6 (two stars): derive
#
# Let $g$ (out,) be the derivative of the loss along $z$ in equation 3, for one input $x$, and $s = \alpha / r$. Show that
#
# $$\frac{\partial \ell}{\partial B} = s\, g\, (A x)^\top, \qquad
# \frac{\partial \ell}{\partial A} = s\, B^\top g\, x^\top \tag{6}$$
#
# Conclude: with $A = B = 0$ nothing ever moves. With $B = 0$ and random $A$, which of the two moves in the first step, which
# only from the second on? Would $A = 0$ and random $B$ do as well?

# %% [markdown] solution=true
# **Answer.** $z$ depends on $B$ through $s B u$ with $u = A x$ fixed: a linear layer with input $u$, whose weight has the
# derivative $s\, g\, u^\top$ (equation 3 of lesson 00 for one row). $z$ depends on $A$ through $u$: the derivative along $u$
# is $s B^\top g$, and $u = A x$ is again a linear layer, so $A$ gets $(s B^\top g)\, x^\top$.
#
# If both are 0, both derivatives are 0, and stay so for ever: a stationary point. If $B = 0$ and $A$ is random, $B$ moves in
# the first step and $A$ from the second on. $A = 0$ with random $B$ works as well by symmetry (the model is unchanged, $A$
# moves first). The two differ in what the random half fixes: a random $A$ chooses which $r$ directions of the *input* are
# looked at first, a random $B$ in which $r$ directions of the *output* the first steps can push.

# %% [markdown]
# ### Exercise 7 (three stars): open projects
#
# - **What did rank 8 leave out?** Cut the $\Delta W$ of *every* query and value weight of `tuned["full"]` to rank $k$
#   (`np.linalg.svd`), put it back, and test. Draw accuracy against $k$. Predict where the knee is.
# - **One adapter a layer.** Pfeiffer et al. (2021) keep only the one behind the feed-forward half. Write the wiring; compare
#   at equal *numbers* (half the adapters, twice the size), not at equal size.
# - **Which layers matter?** Train adapters in the upper three layers only. The derivative then stops half-way down: count the
#   operations with `flops.count` and measure the accuracy.
#
# ## 8. Pitfalls, references, what next
#
# - **Say what is counted.** With or without head? Of which total? BERT-large is 340, 335, 334 or 330 million in four papers;
#   2.1 % in Houlsby's table is 1.9 % by equation 2 for $m = 64$.
# - **Fewer trained parameters is not faster**: two thirds of the work remain, and adapters make the model slower in use. It
#   is not much less memory for activations either.
# - **A new rate.** Tune it for each method, on development data, with the same number of trials for the baseline.
# - **A fair baseline** is full fine-tuning at *its* best rate, BitFit, and the head alone.
# - **Best of five seeds on validation data**, as in the paper, is not a mean: do not compare one with the other.
# - Frozen does not mean evaluation mode: dropout inside the frozen layers is still on while you train.
#
# Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", ICML, arXiv:1902.00751 (table 1, section 3.6); Hu et
# al. 2021, "LoRA", arXiv:2106.09685; Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than
# In-Context Learning" (IA3), arXiv:2205.05638; Li and Liang 2021, "Prefix-Tuning", arXiv:2101.00190; Zaken et al. 2022,
# "BitFit", arXiv:2106.10199; Kumar et al. 2022 on starting from a trained head, arXiv:2202.10054. Code:
# `bertcraft/techniques/adapter_modules.py`; github.com/huggingface/peft; github.com/adapter-hub/adapters;
# github.com/google-research/adapter-bert.
#
# This lesson is on the path **Applications and specialization**: before it 11 (contrastive learning), after it 13 (prompts,
# where the few trained numbers go into the *input*), then 17 (many tasks at once, the other answer to "one model, many
# tasks"). If memory is your limit, see 06 and 23.
