"""The shape of a lesson: a page that has it is built, and each way to miss it is told with what was expected."""

import pytest

from bertcraft.course import builder, shape, shelf
from bertcraft.course.catalogue import TECHNIQUES
from bertcraft.errors import InputError

EXERCISES = "".join(
    f"""
# %% [markdown]
# ### 8.{i} Twice (one star, 4 minutes{", a decision" if i == 3 else ""})

# %% exercise="twice_{i}" stars=1
def twice_{i}(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
"""
    for i in (1, 2, 3)
)
LESSON = f"""
# %% [markdown]
# # 05. A lesson
# Set aside 55 minutes.
#
# ## 1. The claim: twice as good (5 minutes)
#
# One two three $x = 4$ five.
#
# | not | counted |
# | --- | --- |
# | ten | eleven |
#
# ## 2. Background and motivation (5 minutes)
# ## 3. Mathematical foundation (5 minutes)
#
# $$a + b = c$$
#
# ```python
# ## 4. no heading
# ```
# ## 4. NumPy implementation (5 minutes)

# %%
schematic = print
schematic(1)

schematic(2)

# %% [markdown]
# ## 5. Performance analysis (5 minutes)
# ## 6. In production (5 minutes)
#
# **Status today (2026).** It is used.
#
# ## 7. On your data (0 minutes)
# ## 8. Exercises (20 minutes)
{EXERCISES}
# %% [markdown]
# ### 8.4 Derive (two stars, 4 minutes)
# ### 8.5 A project (three stars, 4 minutes)
# ## 9. Pitfalls, references, what next (5 minutes)

# %% [markdown]
# ## Appendix A. A proof (5 minutes)
#
# Many words.
"""


@pytest.fixture
def lesson(tmp_path):
    """A function that writes a lesson, altered or not, and gives its path."""

    def write(old: str = "", new: str = "", name: str = "05_knowledge_distillation", text: str = LESSON):
        assert old in text
        path = tmp_path / f"{name}.py"
        path.write_text(text.replace(old, new, 1).lstrip("\n"), encoding="utf-8")
        return path

    return write


def test_a_lesson_of_the_shape_is_built_and_counted(lesson):
    counted = shape.counts(builder.build(lesson(), solved=False))
    builder.build(lesson(), solved=True)
    assert counted.lines == 3 and counted.longest == 3 and counted.figures == 0
    assert counted.minutes == 55


def test_words_are_those_of_the_prose():
    text = "## One two\n\nThree $x + y$ five; a *b* - c.\n\n| no | no |\n\n$$no = no$$\n\n```python\n## no\n```\n<b>eight</b>"
    assert shape.words(text) == len("One two Three x five a b c eight".split())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("55 minutes", "60 minutes", "the first cell tells 60 as the minutes of the page, its sections sum up to 55"),
        ("Set aside 55 minutes.", "", "the first cell tells none as the minutes"),
        ("implementation (5 minutes)", "implementation", "no '(N minutes)' in the heading of '4. NumPy implementation'"),
        ("## 8. Exercises (20", "## 8. Exercises (25", "the exercises take 20 minutes, their section says 25"),
        ("## 3. Mathematical foundation", "## 3. The mathematics",
         "section 3 is headed '3. The mathematics', expected '3. Mathematical foundation'"),
        ("# ## 9. Pitfalls, references, what next (5 minutes)\n", "", "section 9 is headed 'nothing', expected '9. Pitfalls"),
        ("Status today (2026)", "Status today", "nothing is headed **Status today (year)**"),
        ("schematic = print\nschematic(1)\n\nschematic(2)", "print(1)", "no cell draws the canonical picture"),
        ("# ### 8.5 A project (three stars, 4 minutes)\n", "", "4 exercises, expected at least 5"),
        ("### 8.1 Twice (one star, 4 minutes)", "### 8.1 Twice (one star)", "the exercise is headed '8.1 Twice (one star)'"),
        ("### 8.1 Twice (one star", "### 8.1 Twice (two stars", "the heading says two stars, the cell stars=1"),
        (' exercise="twice_1" stars=1\ndef twice_1(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION', "\n1",
         "2 checked exercises, expected at least 3"),
        (", a decision", "", "no checked exercise is marked as a decision"),
        ("One two", "word " * 2500, "words of prose, at most 2,500"),
        ("schematic(1)\n", "schematic(1)\n\n" * 24, "line 24: a cell of 26 lines, at most 25 are allowed"),
        ("    return 2 * x\n", "    return 2 * x\n" * 25, "a cell of 26 lines"),
        ("schematic(1)\n", "schematic(1)\n\n# %%\n" + "x = 1\n\n" * 23 + "\n# %%\n1" * 325, "lines of code, at most 350"),
    ],
)  # fmt: skip
def test_each_way_to_miss_the_shape_is_told(lesson, old, new, told):
    with pytest.raises(InputError) as caught:
        for solved in (False, True):
            builder.build(lesson(old, new), solved)
    assert str(caught.value).startswith("05_knowledge_distillation.py: ") and told in str(caught.value)


def test_what_is_folded_or_in_an_appendix_is_not_counted(lesson):
    folded = lesson("One two", "<details><summary>More</summary>\n#\n# " + "word " * 2500 + "\n#\n# </details>")
    builder.build(folded, solved=False)
    builder.build(lesson("Many words", "word " * 2500), solved=False)


def test_a_page_that_is_no_technique_s_keeps_the_rules_on_cells_and_minutes_alone(lesson):
    text = "# %% [markdown]\n# # A page\n# 5 minutes.\n# ## One (5 minutes)\n\n# %%\nprint(1)\n"
    builder.build(lesson(name="00_page", text=text), solved=False)
    builder.build(lesson("(5 minutes)", "", name="00_page", text=text), solved=False)
    with pytest.raises(InputError, match="its sections sum up to 6"):
        builder.build(lesson("(5 minutes)", "(6 minutes)", name="00_page", text=text), solved=False)
    with pytest.raises(InputError, match="line 7: a cell of 26 lines"):
        builder.build(lesson("print(1)", "print(1)\n" * 26, name="00_page", text=text), solved=False)


def test_a_figure_has_its_alternative_text_where_programs_look_for_it(lesson):
    draw = "from bertcraft.lab import style\nwith style.shown(width=1, height=1) as axes:\n    axes.plot([0, 1])\n"
    text = f'# %% [markdown]\n# # A page\n\n# %% alt="A line that rises."\n{draw}'
    notebook = builder.execute(builder.build(lesson(name="00_page", text=text), solved=False))
    (output,) = notebook.cells[1].outputs
    assert output.data["text/plain"] == output.metadata["image/png"]["alt"] == "A line that rises."
    assert notebook.cells[1].metadata == {"alt": "A line that rises."}
    assert shape.counts(notebook).figures == 1
    with pytest.raises(InputError, match="00_page.py, the cell at line 5: it shows a figure without alternative text"):
        builder.execute(builder.build(lesson(' alt="A line that rises."', "", name="00_page", text=text), solved=False))
    with pytest.raises(InputError, match="it shows 2 figures"):
        builder.execute(builder.build(lesson(draw, draw * 2, name="00_page", text=text), solved=False))


def test_the_list_of_old_lessons_holds_only_lessons_that_miss_the_shape(monkeypatch):
    listed = shape.OLD_SHAPE
    assert set(listed) <= {"00_index"} | {technique.name for technique in TECHNIQUES}
    monkeypatch.setattr(shape, "OLD_SHAPE", ())
    for name in listed:
        if name.startswith("00_"):
            continue
        with pytest.raises(InputError):
            builder.build(shelf.folder("lessons") / f"{name}.py", solved=False)
