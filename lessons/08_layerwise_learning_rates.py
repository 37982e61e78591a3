# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 08. Layer-wise learning rates: the lower, the slower
#
# A pretrained encoder is not equally finished everywhere. The word vectors at its bottom serve any task; the layers on top were
# made for the task of pretraining. Why should fine-tuning push them all equally hard? You will give each layer a rate of its own,
# let layers join late, see the one line of Adam that goes wrong when they do, and read what the claimed points shrink to on BERT.
#
# You need NumPy, [lesson 00](00_foundations.ipynb) for gradients and the encoder, and [its second part](00_foundations_2.ipynb)
# for fine-tuning, Adam and intervals. The sections take 200 minutes, half of them exercises.

# %%
import numpy as np

import bertcraft as bc
from bertcraft.course import open_lesson
from bertcraft.lab import drawing, style
from bertcraft.techniques import layerwise_learning_rates as technique

lesson = open_lesson("layerwise_learning_rates")
check, hint, solution = lesson.check, lesson.hint, lesson.solution

# %% [markdown]
# ## 1. The claim (10 minutes)

# %%
lesson.claim()

# %% [markdown]
# The technique is from ULMFiT (Howard and Ruder 2018), whose model is an LSTM of three layers. BERT appeared nine months later,
# and Sun and others (2019) tried the idea on it. Both tables, drawn:

# %% alt="Left: validation error of ULMFiT for five recipes on three tasks. Rates by layer alone lower IMDb from 6.87 to 5.57, TREC-6 from 6.86 to 6.21, AG from 5.81 to 5.62; with gradual unfreezing AG rises to 6.04, and the slanted triangle on top gives 5.00, 5.69 and 5.38. Right: BERT-base's test error on IMDb against the decay a layer, 1 to 0.85, for two rates: 5.42, 5.40, 5.52, 5.65 and 5.52, 5.46, 5.44, 5.58; a bar shows two standard errors."
# Howard & Ruder 2018, table 7: validation error (%) on IMDb, TREC-6, AG
ULMFIT = {"one rate": (6.87, 6.86, 5.81), "rates by layer": (5.57, 6.21, 5.62), "unfreezing": (6.37, 6.86, 5.81),
          "rates, unfreezing": (5.39, 5.86, 6.04), "rates, unfreezing,\ntriangle": (5.00, 5.69, 5.38)}  # fmt: skip
# Sun et al. 2019: test error (%) of BERT-base on IMDb, by decay a layer, for two rates of the top layer
DECAYS, SUN = (1.0, 0.95, 0.9, 0.85), {"rate 2e-5": (5.42, 5.40, 5.52, 5.65), "rate 2.5e-5": (5.52, 5.46, 5.44, 5.58)}
deviation = 100 * np.sqrt(0.054 * 0.946 / 25_000)

with style.shown(columns=2, width=9.4, height=3.1) as (left, right):
    for place, (task, errors) in enumerate(zip(("IMDb", "TREC-6", "AG"), zip(*ULMFIT.values(), strict=True), strict=True)):
        left.plot(errors, range(len(ULMFIT)), **style.line(place) | {"linestyle": ":"}, label=task)
    left.set_yticks(range(len(ULMFIT)), ULMFIT)
    left.set(xlabel="validation error (%)", ylim=(4.4, -0.4), title="ULMFiT, three LSTM layers")
    for place, (rate, errors) in enumerate(SUN.items()):
        right.plot(DECAYS, errors, **style.line(place), label=rate)
    right.errorbar(0.96, 5.6, 2 * deviation, color="0.4", capsize=3, label="two standard errors")
    right.set(xlabel="decay a layer", ylabel="test error (%)", xlim=(1.01, 0.84), ylim=(5.2, 5.95), title="BERT-base, IMDb")
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="upper left")
print(f"0.02 points of 25,000 reviews: {0.0002 * 25_000:.0f} reviews. Standard error of an error of 5.4 %: {deviation:.2f} points.")

# %% [markdown]
# More than a point was gained once: on IMDb, by the LSTM. On AG rates and unfreezing together did *harm*. And BERT's 0.02 points
# are five reviews, a seventh of one standard error; the best of eight settings was picked by looking at the test error. What is
# left to test: **with few labels, is there a gain at all, when one rate is tuned just as carefully?**
#
# ## 2. Background and motivation (15 minutes)
#
# Before 2018 one either froze a pretrained model or trained all of it, and with few labels the latter could *forget*: what
# pretraining had put there was overwritten. ULMFiT's answer has three parts: lower layers learn more slowly
# (**discriminative** rates), they join later (**gradual unfreezing**), and the rate rises briefly and falls long (**slanted
# triangle**).

# %% alt="The stack from bottom to top: token ids, embeddings, layers 1, 2, up to N minus 1 and N, head. Beside each depth the factor of its rate: xi to the N for the embeddings, xi to the N minus 1 for layer 1, xi for layer N minus 1, one for layer N and the head; and the step at which it joins: the head at 0, layer N after one epoch, the embeddings after N plus 1."
with drawing.schematic(columns=4, rows=8, width=8.6, row_height=0.56) as s:
    rows = (("head", "new", "$\\eta$", "0"), ("layer N", "step", "$\\eta$", "1 epoch"), ("layer N - 1", "step", "$\\xi\\,\\eta$", "2 epochs"),
            ("...", "step", "...", "..."), ("layer 1", "step", "$\\xi^{N-1}\\eta$", "N epochs"),
            ("embeddings", "step", "$\\xi^{N}\\eta$", "N + 1 epochs"))  # fmt: skip
    for place, title in ((1.2, "depth"), (2.1, "learning rate"), (3.1, "joins after")):
        s.note(title, at=(place, 0), kind="new" if place == 2.1 else "step")
    below = s.box("token ids", at=(0.3, 7), kind="data")
    for i, (name, kind, rate, joins) in reversed(list(enumerate(rows, 1))):
        box = s.box(name, at=(0.3, i), kind=kind)
        s.arrow(below, box, "(B, L)" if i == 6 else "(B, L, H)" if i > 1 else "(B, H)")
        depth = {1: "N + 1", 2: "N", 3: "N - 1", 4: "...", 5: "1", 6: "0"}[i]
        for place, text in ((1.2, depth), (2.1, rate), (3.1, joins)):
            s.note(text, at=(place, i), kind="new" if place == 2.1 else "step")
        below = box

# %% [markdown]
# Is what is low really general? Take MiniLM, six layers, never fine-tuned here. The mean of a question's token vectors at each
# depth goes to two linear maps: one names the *kind* of question (TREC, 47 kinds: a date, a city, a reason ...), the other says
# which of 100 frequent *words* it holds. **Predict first**: which of the two gets easier with depth, which harder?

# %% quick="READ, TESTED = 150, 60"
READ, TESTED = 1200, 500

# %% alt="Two curves over the depth of MiniLM, from the embeddings at 0 to layer 6: the share of questions whose kind a linear map names, and the share of the words' variance that another explains."
from bertcraft.bert import sentences
from bertcraft.data.batches import pad
from bertcraft.lab.experiments import layerwise_learning_rates as experiment

model = experiment.model()
questions, parts = experiment.data_of("trec")
rows = np.concatenate([np.random.default_rng(0).permutation(parts.train)[:READ], parts.dev[:TESTED]])


def by_depth(model, texts):
    """The mean of the token vectors at each depth: (depths, texts, H)."""
    ids, mask = pad([np.array(each) for each in sentences.tokenize(model, texts, experiment.LONGEST)], 0)
    states = model(ids, mask, output_hidden_states=True).hidden_states
    return np.stack([(h * mask[..., None]).sum(1) / mask.sum(1, keepdims=True) for h in states])


def mapped(x, y, strength=100.0):
    """Least squares from the first READ rows: what it says of the others."""
    x = (x - x[:READ].mean(0)) / x[:READ].std(0)
    known, mean = x[:READ], y[:READ].mean(0)
    return mean + x[READ:] @ np.linalg.solve(known.T @ known + strength * np.eye(x.shape[1]), known.T @ (y[:READ] - mean))


# %% [markdown]
# .
