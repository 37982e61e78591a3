# %% [markdown]
# # Glossary and notation
#
# The words and letters that the lessons share. A page to look things up in, not to read from top to bottom: a lesson explains a
# word where it first needs it, or sends you here. What is behind most of these words is in the foundations,
# [part 1](00_foundations.ipynb) and [part 2](00_foundations_2.ipynb).

# %%
from bertcraft.course import glossary

# %% [markdown]
# ## Text as numbers

# %%
glossary.table("Text as numbers")

# %% [markdown]
# ## The model

# %%
glossary.table("The model")

# %% [markdown]
# ## Training

# %%
glossary.table("Training")

# %% [markdown]
# ## Masked language models

# %%
glossary.table("Masked language models")

# %% [markdown]
# ## Evidence
#
# How experiments are declared and judged. [Part 2 of the foundations](00_foundations_2.ipynb) walks through one.

# %%
glossary.table("Evidence")

# %% [markdown]
# ## Notation
#
# With few exceptions one letter has one meaning in all lessons. Sizes are capitals; a shape is written as NumPy has it, so
# $(B, L, H)$ is a batch of rows of vectors. A letter that a lesson needs for itself alone is explained there, also where this table
# has it for something else (in the foundations' smallest examples $t$ is the right answer, in lesson 02 a token's place; $d$ is a
# difference of two runs, and $s$ the standard deviation of such differences).

# %%
glossary.notation()
