"""The builder on a lesson of a few cells: the same bytes twice, both editions, and what it refuses with the line at fault."""

import json

import nbformat
import pytest

from bertcraft.course import builder, inline, kernel, shelf
from bertcraft.errors import InputError

LESSON = '''
# %% [markdown]
# # A lesson
# Twice the same cell:

# %%
from typing import Any

import numpy as np

from bertcraft.errors import InputError
from bertcraft.tensor import tree

# %%
print(np.arange(3))

# %%
print(np.arange(3))

# %% quick="STEPS = 2"
STEPS = 50  # try 10
total = sum(range(STEPS))
print(total)

# %%
from bertcraft.techniques.gradient_accumulation import micro_batches  # inline

# %% [markdown]
# **Double it** *

# %% exercise="double" stars=1
def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %%
print(double(21))

# %% [markdown]
# **Find the bug** **

# %% exercise="half" stars=2
def half(x):
    ### BEGIN SOLUTION
    return x / 2
    ### END SOLUTION
    ### BEGIN STUB
    # if x:
    #     return x // 2
    ### END STUB

# %%
print(half(3))

# %% [markdown] solution=true
# The model answer.
'''


@pytest.fixture
def lesson(tmp_path):
    """A function that writes a lesson's source and gives its path."""

    def write(text: str = LESSON, name: str = "77_tiny"):
        path = tmp_path / f"{name}.py"
        path.write_text(text.lstrip("\n"), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The lesson's two notebooks, run twice: (solved, quick) -> (notebook, its bytes, the bytes of the second time)."""
    path = tmp_path_factory.mktemp("lesson") / "77_tiny.py"
    path.write_text(LESSON.lstrip("\n"), encoding="utf-8")
    made = {}
    for solved, quick in ((False, False), (True, True)):
        first, second = (builder.execute(builder.build(path, solved), quick) for _ in range(2))
        made[solved, quick] = first, builder.written(first), builder.written(second)
    return made


def sources(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells]


def printed(notebook) -> list[str]:
    return [output.text for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]


@pytest.mark.parametrize("edition", [(False, False), (True, True)])
def test_building_twice_gives_the_same_bytes_of_a_valid_notebook(built, edition):
    _, first, second = built[edition]
    assert first == second
    notebook = nbformat.reads(first.decode(), as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook.metadata.language_info == {"name": "python"}
    assert not any(shelf.MARK in cell.metadata or "execution" in cell.metadata for cell in notebook.cells)


def test_the_learner_gets_stubs_and_the_other_edition_the_solutions(built):
    (unsolved, *_), (solved, *_) = built[False, False], built[True, True]
    assert 'def double(x):\n    """Twice x."""\n    # your code here\n    ...' in sources(unsolved)
    assert 'def double(x):\n    """Twice x."""\n    return 2 * x' in sources(solved)
    assert "def half(x):\n    if x:\n        return x // 2" in sources(unsolved)
    assert "def half(x):\n    return x / 2" in sources(solved)
    assert "The model answer." in sources(solved) and "The model answer." not in sources(unsolved)
    assert not any("###" in text for text in sources(unsolved) + sources(solved))
    assert printed(unsolved)[-2:] == ["None\n", "1\n"]
    assert printed(solved)[-2:] == ["42\n", "1.5\n"]
    assert [cell.metadata for cell in unsolved.cells if cell.metadata] == [
        {"exercise": "double", "stars": 1},
        {"exercise": "half", "stars": 2},
    ]


def test_the_quick_mode_changes_values_before_they_are_used_and_no_reader_sees_it(built):
    (plain, *_), (quick, *_) = built[False, False], built[True, True]
    assert f"{sum(range(50))}\n" in printed(plain) and "1\n" == printed(quick)[2]
    assert not any("STEPS = 2\n" in text for text in sources(plain))


@pytest.mark.parametrize(
    ("cell", "line", "expected"),
    [
        ("A = 1\nB = 2\nuse(A, B)", "A = 9; B = 8", "A = 1\nB = 2\nA = 9; B = 8\nuse(A, B)"),
        ("A, B = 1, 2\nuse(A)\nA = 3", "A = 9; B = 8", "A, B = 1, 2\nA = 9; B = 8\nuse(A)\nA = 3"),
        ("A = f(\n    1,\n)\nuse(A)", "A = 9", "A = f(\n    1,\n)\nA = 9\nuse(A)"),
        ("%precision 3\nA = 1", "A = 9", "%precision 3\nA = 1\nA = 9"),
        ("use(A)", "B = 9", "use(A)\nB = 9"),
    ],
)
def test_a_quick_line_comes_right_after_what_it_replaces(cell, line, expected):
    assert builder.quickened(cell, line) == expected


def test_what_is_brought_in_is_the_package_s_own_text_in_the_order_that_it_needs():
    known = {"Any", "np", "Tree", "Callable"}
    text = inline.inlined("from bertcraft.course.source import unsolved, _replaced  # inline", known | {
        "BLOCK", "HERE", "InputError", "_stub_follows", "_uncommented"
    })  # fmt: skip
    assert text.startswith("# from bertcraft.course.source\n")
    assert 0 < text.index("def _replaced(") < text.index("def unsolved(")
    from bertcraft.course import source

    assert text.split("\n\n\n")[1] in open(source.__file__, encoding="utf-8").read()


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("from bertcraft.course.source import unsolved  # inline", "uses _replaced, which the notebook lacks; bring in: from"),
        ("from bertcraft.course.source import nothing  # inline", "line 6: bertcraft.course.source defines no 'nothing'"),
        ("from bertcraft.course.sauce import f  # inline", "line 6: there is no module bertcraft.course.sauce"),
        ("x = (", "line 6: '(' was never closed"),
        ("### BEGIN SOLUTION\nx = 1\n### END SOLUTION", "line 6: a solution without exercise="),
    ],
)
def test_a_source_at_fault_is_told_with_its_line(lesson, cell, told):
    path = lesson(f"# %% [markdown]\n# # A lesson\n# Text\n\n# %%\n{cell}\n")
    with pytest.raises(InputError) as caught:
        builder.build(path, solved=False)
    assert str(caught.value).startswith("77_tiny.py, ") and told in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("x = 1\nx / 0", "ZeroDivisionError: division by zero (line 2 of the cell)"),
        ("import warnings\nwarnings.warn('mind the gap')", "standard error has"),
        ("import sys\nprint('so it goes', file=sys.stderr)", "'so it goes'"),
        ("object()", "an object's address is on the page"),
        ("import os\nprint(os.getcwd())", "a path of this machine is on the page"),
        ("import sys\nsys.prefix", "a path of this machine is on the page"),
        ("import os\nos._exit(1)", "its Python ended in the middle"),
    ],
)
def test_what_must_not_be_on_a_page_raises_with_the_line(lesson, cell, told):
    path = lesson(f"# %% [markdown]\n# # A lesson\n\n# %%\n{cell}\n\n# %%\nprint('after')\n")
    with pytest.raises(InputError) as caught:
        builder.execute(builder.build(path, solved=False))
    assert told in str(caught.value)
    if "Python ended" not in told:
        assert str(caught.value).startswith("lessons/77_tiny.py, the cell at line 5 (77_tiny): ")


def test_a_notebook_that_takes_too_long_is_refused(lesson, monkeypatch):
    monkeypatch.setattr(kernel, "SECONDS", 0.05)
    monkeypatch.setattr(kernel, "PATIENCE", 100)
    path = lesson("# %%\nsum(range(20_000_000));\n")
    with pytest.raises(InputError, match="77_tiny: it took .* it may take 0.05 s on two cores"):
        builder.execute(builder.build(path, solved=False))
    with pytest.raises(InputError, match="a cell ran for 5.0 s"):
        builder.execute(builder.build(lesson("# %%\nimport time; time.sleep(60)\n"), solved=False))


def test_a_notebook_that_is_too_large_is_refused_with_its_largest_cells(lesson):
    notebook = builder.execute(
        builder.build(lesson("# %%\nprint(1)\n\n# %%\nprint(('0' * 99 + '\\n') * 15_000)\n"), solved=False)
    )
    with pytest.raises(InputError, match=r"77_tiny: the notebook has 1.6. MB.*cell 2 \(15.. kB\), cell 1"):
        builder.written(notebook)


def test_the_page_is_of_the_package_not_of_the_user(lesson, monkeypatch, tmp_path):
    """Her settings of matplotlib, IPython and BLAS threads reach no page; a check in a lesson is no progress of hers."""
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "hers"))
    (tmp_path / "hers").write_text("font.size: 33\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "hers.py").write_text("print('hers')\nhers = 1\n")
    monkeypatch.setenv("BERTCRAFT_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    cell = (
        "import os, sys, matplotlib\nfrom bertcraft.course import progress\nprogress.record('tiny', 'double', True)\n"
        "print(matplotlib.rcParams['font.size'], 'hers' in globals(), os.environ['OPENBLAS_NUM_THREADS'])"
    )
    notebook = builder.execute(builder.build(lesson(f"# %%\n{cell}\n"), solved=False))
    assert printed(notebook) == ["10.0 False 1\n"]
    assert not (tmp_path / "progress.json").exists()


def test_staleness_is_seen_without_running(lesson, monkeypatch, tmp_path):
    for name in ("notebooks", "results"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shelf, "folder", lambda name: tmp_path / name)
    path = lesson()
    assert builder.stale(path, False) == "it is not built yet"
    notebook = builder.build(path, False)
    builder.write("77_tiny", False, builder.written(kernel.without_marks(notebook)))
    assert builder.stale(path, False) == ""
    lesson(LESSON.replace("Twice the", "Two times the"))
    assert builder.stale(path, False) == "cell 1 ('# A lesson') is not that of the source"
    lesson(LESSON.replace("stars=1", "stars=3"))
    assert builder.stale(path, False).startswith("the header of cell 8")
    lesson(LESSON.replace("return 2 * x", "return x + x"))
    assert builder.stale(path, False) == ""  # which the learner's edition does not show
    lesson(LESSON + "\n# %%\nprint(1)\n")
    assert builder.stale(path, False) == "it has 12 cells, the source 13"
    lesson()
    (tmp_path / "results" / "77_tiny.json").write_text("{}")
    assert builder.stale(path, False) == "the results that it shows have changed since"


def test_a_difference_is_told_with_its_cell(built):
    notebook, content, _ = built[False, False]
    old = json.loads(content)
    assert builder.differs(old, notebook) == ""
    old["cells"][3]["outputs"][0]["text"] = ["[0 1 7]\n"]
    assert builder.differs(old, notebook) == "the output of cell 4 is another: it was '[0 1 7]', it is '[0 1 2]'"
    old = json.loads(content)
    old["metadata"]["widgets"] = {}
    assert builder.differs(old, notebook) == "its metadata are others"


def test_a_lesson_without_exercises_has_one_edition(lesson):
    assert builder.editions(lesson()) == (False, True)
    assert builder.editions(lesson("# %%\nprint(1)\n")) == (False,)
