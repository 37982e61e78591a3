"""The course's commands, in processes of their own, in a terminal of 80 columns; a learner's copies."""

import json
import os
import re
import subprocess
import sys
import threading

import pytest

from bertcraft.course import checks, copies, shelf
from bertcraft.course.catalogue import PATHS, TECHNIQUES
from bertcraft.errors import DataError, InputError


def run(*arguments, folder, **environment):
    """The command in a folder: (exit status, standard output, standard error)."""
    own = {"COLUMNS": "80", "NO_COLOR": "1", "BERTCRAFT_PROGRESS": str(folder / "progress.json")}
    result = subprocess.run(
        [sys.executable, "-m", "bertcraft.cli", *map(str, arguments)],
        cwd=folder, env=os.environ | own | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr


# ---- copies


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Two built notebooks, and a function that writes an edition of one."""
    for name in ("lessons", "notebooks", "results"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shelf, "folder", lambda name: tmp_path / name)

    def build(name: str, edition: str) -> None:
        content = {"cells": [], "metadata": {shelf.MARK: {"edition": edition}}}
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(json.dumps(content))

    build("00_index", "a")
    build("06_gradient_accumulation", "a")
    return build


def names(paths) -> list[str]:
    return sorted(path.name for path in paths)


def test_copies_are_made_once_and_never_written_over(course, tmp_path):
    folder = tmp_path / "hers"
    done = copies.bring(folder)
    assert names(done.made) == ["00_index.ipynb", "06_gradient_accumulation.ipynb"] and not done.newer
    hers = folder / "06_gradient_accumulation.ipynb"
    edited = json.loads(hers.read_text()) | {"cells": ["her answer"]}
    hers.write_text(json.dumps(edited))
    assert copies.bring(folder) == copies.Copies(folder, (), ())
    course("06_gradient_accumulation", "b")
    assert names(copies.bring(folder).newer) == ["06_gradient_accumulation-2.ipynb"]
    assert copies.bring(folder).newer == ()  # brought once
    course("06_gradient_accumulation", "c")
    assert names(copies.bring(folder).newer) == ["06_gradient_accumulation-3.ipynb"]
    assert json.loads(hers.read_text()) == edited
    assert [copies.edition(path) for path in sorted(folder.glob("06*-*"))] == ["b", "c"]


def test_pages_that_the_notebooks_link_to_come_with_them_and_are_renewed(course, tmp_path):
    page, hers = tmp_path / "notebooks" / "evidence" / "06.md", tmp_path / "hers" / "evidence" / "06.md"
    page.parent.mkdir()
    for text in ("as measured", "as measured anew"):
        page.write_text(text)
        copies.bring(tmp_path / "hers")
        assert hers.read_text() == text


def test_a_file_that_tells_no_edition_is_hers(course, tmp_path):
    folder = tmp_path / "hers"
    folder.mkdir()
    (folder / "06_gradient_accumulation.ipynb").write_text("half a not")
    assert names(copies.bring(folder).newer) == ["06_gradient_accumulation-2.ipynb"]
    assert (folder / "06_gradient_accumulation.ipynb").read_text() == "half a not"


def test_the_course_s_own_notebooks_are_no_place_for_copies(course, tmp_path):
    with pytest.raises(InputError, match="holds the course's own notebooks"):
        copies.bring(tmp_path / "notebooks")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="choose another with --folder"):
        copies.bring(tmp_path / "file")


def test_in_the_folder_of_the_copies_they_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert copies.folder(None) == tmp_path / "bertcraft-lessons"
    (tmp_path / "bertcraft-lessons").mkdir()
    (tmp_path / "bertcraft-lessons" / "00_index.ipynb").touch()
    monkeypatch.chdir(tmp_path / "bertcraft-lessons")
    assert copies.folder(None) == tmp_path / "bertcraft-lessons"


# ---- commands


def test_learn_copies_and_says_where(tmp_path):
    status, output, errors = run("learn", "--copy", folder=tmp_path)
    assert (status, errors) == (0, "")
    built = {path.name for path in shelf.folder("notebooks").glob("*.ipynb")}
    assert {path.name for path in (tmp_path / "bertcraft-lessons").glob("*.ipynb")} == built
    assert re.search(rf"^{len(built)} notebooks? copied to \S+bertcraft-lessons$", output, re.M)
    assert output.splitlines()[-1].endswith("00_index.ipynb")
    status, output, _ = run("learn", "index", "--copy", folder=tmp_path)
    assert status == 0 and output.startswith("your copies are in ")


def test_learn_without_jupyterlab_says_what_to_install_and_makes_nothing(tmp_path):
    code = (
        "import sys; sys.modules['jupyterlab'] = None; sys.argv = ['bertcraft', 'learn']\n"
        "from bertcraft.cli import main\nmain()"
    )  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: this needs jupyterlab: pip install 'bertcraft[notebook]'; --copy makes your copies for another program\n"
    )
    assert not list(tmp_path.iterdir())


def test_learn_starts_jupyterlab_at_the_notebook(tmp_path):
    pytest.importorskip("jupyterlab")
    command = [sys.executable, "-m", "bertcraft.cli", "learn", "index", "--", "--no-browser", "--allow-root", "--port=0"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "run")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        late = threading.Timer(120, process.kill)
        late.start()
        try:
            told = []
            for line in process.stdout:
                told.append(line)
                if re.search(r"https?://\S+/lab/tree/00_index\.ipynb", line):
                    break
            else:
                raise AssertionError("".join(told))
        finally:
            late.cancel()
            process.terminate()
            process.stdout.read()
    assert (tmp_path / "bertcraft-lessons" / "00_index.ipynb").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("learn", "77", "--copy"), "'77' is no lesson; there are 00_index"),
        (("learn", "22", "--copy"), "22 Neural architecture search is not written yet; there are 00_index"),
        (("learn", "index", "07", "--copy"), "--copy opens nothing, and what follows a lesson is for JupyterLab; leave out '07'"),
        (("learn", "--copy", "--folder", "~nosuchuser/x"), "~nosuchuser/x: there is no user nosuchuser here"),
        (("list", "--path", "nowhere"), "names no learning path; there are Efficiency"),
        (("lessons", "build", "77"), "'77' is no lesson"),
    ],
)
def test_a_name_that_is_none_is_told(tmp_path, arguments, told):
    status, output, errors = run(*arguments, folder=tmp_path)
    assert (status, output) == (2, "")
    assert errors.startswith("error: ") and told in errors and errors.count("\n") == 1


def test_list_shows_all_techniques_or_those_of_a_path(tmp_path):
    status, output, errors = run("list", folder=tmp_path)
    assert (status, errors) == (0, "") and "…" not in output and max(map(len, output.splitlines())) <= 80
    assert re.findall(r"^(\d\d)  ", output, re.M) == [f"{t.rank:02d}" for t in TECHNIQUES]
    assert all(t.title in output for t in TECHNIQUES) and all(path.name in output for path in PATHS)
    status, output, errors = run("list", "--path", "training", folder=tmp_path)
    assert re.findall(r"^(\d\d)  ", output, re.M) == ["06", "08", "09", "14", "20"]
    assert output.startswith("Training & Optimization")


def test_progress_shows_what_was_checked_and_what_is_next(tmp_path, monkeypatch):
    lessons = [name for name in shelf.lesson_names() if checks.of(name[3:]) and shelf.notebook(name).exists()]
    if not lessons:
        pytest.skip("no lesson with exercises is built yet")
    status, output, errors = run("progress", folder=tmp_path)
    assert (status, errors) == (0, "") and "…" not in output
    assert max(map(len, output.splitlines()[:-1])) <= 80  # the last holds the path of the file
    assert re.findall(r"^(\d\d) ", output, re.M) == [name[:2] for name in lessons]
    monkeypatch.setenv("BERTCRAFT_PROGRESS", str(tmp_path / "progress.json"))
    from bertcraft.course import progress

    first, *rest = checks.of(lessons[-1][3:])
    progress.record(lessons[-1][3:], first.name, True)
    status, output, errors = run("progress", folder=tmp_path)
    total = 1 + len(rest)
    assert re.search(rf"^{lessons[-1][:2]} .* +{total} +1  #{re.escape('.' * len(rest))} +1$", output, re.M), output
    assert f"bertcraft learn {lessons[-1][:2]}\n" in output and f"exercise {rest[0].name}\n" in output
