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
# BERT (Devlin and others 2018) is a neural network that reads a text and gives every word a row of numbers that knows of the
# words around it. It is trained once, on plain text, and then for a task: to sort requests, to find an answer, to search. Many
# techniques are said to make it better, faster or smaller. This collection follows a list that ranks twenty-five of them.
#
# Each technique gets one notebook (the table of lessons says which are written). It says what the technique is famous for and
# what its paper really reports, explains the mathematics, brings in the plain NumPy code as cells that you can edit, measures
# the technique on real text, shows the library that people use for it in production, and ends with exercises that tell you
# what is wrong. This page is the map.
#
# ## Where to begin?

# %%
from bertcraft.course import index
from bertcraft.course import index_plots as plots

index.start()

# %% [markdown]
# If you are new to transformers, read both parts of the foundations first; they take about six hours. If you are not, read
# section 3 of the [second part](00_foundations_2.ipynb), which takes half an hour: every lesson tells what was measured by
# intervals and verdicts, and that section says what they mean.
#
# ## The lessons
#
# Minutes include the exercises. Stars say how hard the exercises are. *Lesson 00* is the first part of the foundations, where no
# part is named.

# %%
index.lessons()

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
# Change the function and run the cell again: the gradient follows. Words and letters that the lessons use are explained in
# [the glossary](00_glossary.ipynb).
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
# ## Four paths
#
# Five techniques each, in an order in which each helps with the next. Any lesson can also be read alone. After a path you can
# choose and combine: what saves time, what saves memory, what only sounds as if it did.

# %%
index.paths()

# %% [markdown]
# ## Your progress
#
# `check.<exercise>(...)` in a lesson notes what you have solved, in one small file of yours. Run this cell again whenever you
# like; `bertcraft progress` shows the same in a terminal.

# %%
index.your_progress()

# %% [markdown]
# ### How to learn from a lesson
#
# - **Predict first.** Where a page says so, write your guess down before you run the cell. A wrong guess is what you remember.
# - **Break the code.** Every function on the page is editable. Change a sign, run the proof cell and see which line goes red.
# - **Use the hints late.** A checker names the mistake; read its message twice before you ask for a hint.
# - **Come back.** Repeat one exercise of the lesson before when you begin a new one, without looking.
# - **End on your own data.** The section *On your data* of each lesson takes a file of yours; the last exercise is a project.
#
# ## What each technique changed
#
# The list judges how widely a technique is used; the last column, on what is used today, is ours.

# %%
index.impact()

# %% [markdown]
# ## What is claimed, what is true, what we measured
#
# Ranks, impact levels and adoption are **the judgement of the list**: nobody measured them. The claimed gains are quoted as the
# list has them, because you will meet them elsewhere. What can be checked stands beside them. The last column is the primary
# comparison of our experiment and what it must not be read without, paired over seeds. (For a loss, in nats, less is better: a
# difference below 0 is a gain.) The verdict follows a rule and not our hopes: *reproduced* when the interval lies where the claim
# says, *contradicted* when it lies outside, *cannot tell* when it holds both (comparisons beside the claim are corrected for
# their number first), *not testable here* when the models had not learnt what the question is about. All of it is
# about small models on two cores: a technique that shows nothing here may do so at a thousand times the size.
# [The rankings page](00_technique_rankings.md) has when to use each and when not.
#
# **Predict first**: of 25 well-known claims, how many are what their papers say?

# %%
index.claims()

# %% [markdown]
# ## Resources
#
# - **Papers**: each technique's page of evidence, linked from the rankings, names its paper, the table its figures stand in and
#   the later work that corrects it.
# - **Production code** that the lessons are proven against: transformers, sentence-transformers, peft and accelerate of Hugging
#   Face, and PyTorch.
# - **Benchmarks**: [GLUE](https://gluebenchmark.com) and [SuperGLUE](https://super.gluebenchmark.com) for understanding,
#   [MTEB](https://arxiv.org/abs/2210.07316) for sentence vectors, [BEIR](https://arxiv.org/abs/2104.08663) for search,
#   [BANKING77](https://arxiv.org/abs/2003.04807) and [CLINC150](https://arxiv.org/abs/1909.02027) for intents.
# - **Courses and books**: Stanford's [CS224n](https://web.stanford.edu/class/cs224n/) (lectures and notes),
#   [Dive into Deep Learning](https://d2l.ai) (a book that runs), [The Annotated
#   Transformer](https://nlp.seas.harvard.edu/annotated-transformer/) (the paper line by line in PyTorch), and
#   [ARENA](https://www.arena.education) (exercises with checks, on transformers and their inside).
#
# ## The list in pictures
#
# ### The list itself

# %%
index.techniques()

# %% [markdown]
# ### Impact levels
#
# The list gives the level by the rank: the first four are its "Revolutionary" ones (its word), the last five its "Emerging" ones.

# %% alt="Five rows of numbered tiles: Revolutionary 01 to 04, High 05 to 10, Significant 11 to 15, Specialized 16 to 20, Emerging 21 to 25."
plots.levels()

# %% [markdown]
# ### Adoption in practice
#
# How widely a technique is used, again as the list judges it. Of the five that it calls universal, none changes the
# architecture: they change how a model is trained.

# %% alt="Four rows of numbered tiles: Universal 01, 06, 07, 09, 14; High 02, 03, 05, 08, 11, 12, 13, 20; Medium 04, 10, 15, 17, 18, 23; Low 16, 19, 21, 22, 24, 25."
plots.adoption()

# %% [markdown]
# ### Impact against adoption
#
# **Predict first**: does the list rank highly what everybody uses? A perfect agreement would be a diagonal.

# %% alt="The ranks by adoption, from low to universal, and by impact level, from emerging to revolutionary. They rise from the lower left to the upper right; 04 stands on top over medium, 14 on the third level over universal, 20 on the fourth over high."
plots.impact_and_adoption()

# %% [markdown]
# Roughly it does. The exceptions: ALBERT (04) stands on top with medium adoption (it saves storage, not time), weight decay
# (14) is universal on the third level, and gradient clipping (20) is high on the fourth. Both judgements are the same list's,
# so do not take their agreement for evidence.
#
# ### When the papers appeared

# %% alt="A mark for each technique at the year of its paper, from 2009 to 2021, and a dashed line at BERT, October 2018: six stand before it, seven at 2019, six at 2020, three at 2021."
plots.timeline()

# %% [markdown]
# Six of these papers are older than BERT, and seven are of the year after it. Several are not about BERT at all: their lessons
# say what is known about BERT, and measure the rest.

# %% [markdown]
# ### Claims held against their papers
#
# The column *so the claim is* of the table above, counted:

# %% alt="Five rows of numbered tiles: accurate 02, 10, 11, 20; no figure claimed, paper cited rightly 14, 16, 17, 19, 22, 23; no figure, no founding paper 06, 09, 24; imprecise 01, 03, 04, 07, 08, 13, 15, 18, 21, 25; wrong 05, 12."
plots.truth()

# %% [markdown]
# Four are, one of them under a condition (02) and one for its year only (11). For nine there is no figure to check: six cite
# their paper rightly, for three there is no one founding paper. Ten are imprecise, and two are wrong (05 and 12).
