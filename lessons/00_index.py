# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Twenty-five techniques that made BERT better
#
# Each technique gets one notebook ([below](#The-notebooks): which of them are written so far). It says what the technique is
# famous for and what its paper really reports, explains the mathematics, brings in the plain NumPy code as cells that you can
# edit, measures the technique on real text, shows the library that people use for it in production, and ends with exercises
# that tell you what is wrong.
#
# This page is the map: all techniques, four paths through them, what was measured, and how far you are. Ranks, impact levels,
# adoption and claimed gains are **the judgement of the list** that this collection follows. Nobody measured them, and we repeat
# them because you will meet them elsewhere. What can be checked stands beside them, further down: the figure in the paper, and
# our own measurement with its interval.

# %% [markdown]
# ## Quick start
#
# ```
# pip install -e '.[notebook]'     # in a checkout of the repository
# bertcraft learn                  # opens JupyterLab on your own copy of the lessons, at this page
# bertcraft learn 06               # or at a lesson
# ```
#
# There is no framework to learn. A technique is a plain NumPy function; `bertcraft` differentiates it. Here is attention
# for three tokens, and the gradient of a loss through it:

# %%
import numpy as np

import bertcraft as bc


def attention(q, k, v):
    """Each token's mixture of values: q, k and v are (tokens, width)."""
    scores = np.exp(q @ k.T / np.sqrt(k.shape[1]))
    return scores / np.sum(scores, axis=1, keepdims=True) @ v


rng = np.random.default_rng(0)
q, k, v = rng.normal(size=(3, 3, 4))  # three tokens, four numbers each


def loss(q):
    return np.sum(attention(q, k, v) ** 2)


print("the gradient of the loss with respect to q:")
print(np.round(bc.grad(loss)(q), 3))

# %% [markdown]
# Change the function and run the cell again: the gradient follows. If you have never seen the inside of a transformer, begin
# with [the foundations](00_foundations.ipynb): it takes nothing for granted that the other lessons need.
#
# ## What you will be able to do
#
# After a lesson you can
#
# - write the technique in NumPy, forward and gradient, and prove it equal to the library that people use;
# - say what its paper really reports, under which conditions, and what of its fame is not in the paper;
# - read a comparison with its interval and its controls, and see when two recipes cannot be told apart;
# - decide whether it is worth it for your data, and use the production library without its known traps.
#
# After a path you can choose and combine: what saves time, what saves memory, what only sounds as if it did.
#
# ## The techniques

# %%
from bertcraft.course import index
from bertcraft.course import index_plots as plots

index.techniques()

# %% [markdown]
# [The rankings page](00_technique_rankings.md) has a section on each: key innovations, figures and where they stand, when to
# use it and when not.
#
# ### Impact levels
#
# The list gives the level by the rank: the first four are its "Revolutionary" ones (its word), the last five its "Emerging" ones.

# %%
plots.levels()

# %% [markdown]
# ### Adoption in practice
#
# How widely a technique is used, again as the list judges it. Of the five that it calls universal, none changes the
# architecture: they change how a model is trained.

# %%
plots.adoption()

# %% [markdown]
# ### Impact against adoption
#
# **Predict first**: does the list rank highly what everybody uses? A perfect agreement would be a diagonal.

# %%
plots.impact_and_adoption()

# %% [markdown]
# Roughly it does. The exceptions: ALBERT (04) stands on top with medium adoption (it saves storage, not time), and weight
# decay (14) is universal on the third level. Both judgements are the same list's, so do not take their agreement for evidence.
#
# ### When the papers appeared

# %%
plots.timeline()

# %% [markdown]
# Six of these papers are older than BERT, and seven are of the year after it. Several are not about BERT at all: their lessons
# say what is known about BERT, and measure the rest.

# %% [markdown]
# ## What is claimed, what is true, what we measured
#
# **Predict first**: of 25 well-known claims, how many are what their papers say?

# %%
plots.truth()

# %% [markdown]
# The table has the details. The last column is the primary comparison of our experiment, paired over seeds; its verdict follows
# a rule and not our hopes: *reproduced* when the interval lies where the claim says, *contradicted* when it lies outside,
# *cannot tell* when it holds both, *not testable here* when the models had not learnt what the question is about. All of it is
# about small models on two cores: a technique that shows nothing here may do so at a thousand times the size.

# %%
index.claims()

# %% [markdown]
# ## Four paths
#
# Five techniques each, in an order in which each helps with the next. Any lesson can also be read alone.

# %%
index.paths()

# %% [markdown]
# ## The notebooks

# %%
index.notebooks()

# %% [markdown]
# ## Your progress
#
# `check.<exercise>(...)` in a lesson notes what you have solved, in one small file of yours. Run this cell again whenever you
# like; `bertcraft progress` shows the same in a terminal.

# %%
index.your_progress()

# %% [markdown]
# Where to begin? If transformers are new to you, with the foundations. If you train models, with gradient accumulation (06): it
# is short, and the mistake that it shows stood in major libraries for years. If you deploy them, with the path
# Efficiency & Deployment.
