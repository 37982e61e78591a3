"""Code that a page prints without running it: it is Python, and what it takes from libraries is in the versions of today."""

import ast
import importlib
import importlib.util
import inspect
import re

import pytest

from bertcraft.course import shelf

KNOWN = ("transformers", "torch", "bertcraft", "peft", "sentence_transformers", "datasets")
KEYWORDS = ("TrainingArguments", "Trainer")  # whose names change from version to version


def recipes() -> list:
    """Every fenced block of Python in the lessons."""
    found = []
    for path in sorted(shelf.folder("lessons").glob("[0-9][0-9]_*.py")):
        text = re.sub(r"^# ?", "", path.read_text(encoding="utf-8"), flags=re.M)
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)):
            found.append(pytest.param(code, id=f"{path.stem}-{number}"))
    return found


def unknown(code: str) -> list[str]:
    """What a recipe names and a library that is installed lacks."""
    tree, found = ast.parse(code), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in KNOWN:
            if importlib.util.find_spec(node.module.split(".")[0]):
                found += [f"{node.module}.{alias.name}" for alias in node.names if not _is_there(node.module, alias.name)]
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in KEYWORDS:
                import transformers

                there = inspect.signature(getattr(transformers, name)).parameters
                found += [f"{name}({each.arg}=)" for each in node.keywords if each.arg and each.arg not in there]
    return found


def _is_there(module: str, name: str) -> bool:
    """Whether ``from module import name`` would work, as a member or as a module of its own."""
    return hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize("code", recipes())
def test_a_recipe_names_what_is_there(code):
    assert unknown(code) == []


def test_what_a_library_lacks_is_found():
    code = "from transformers import TrainingArguments, Nothing\nTrainingArguments('out', warmup_ratio=0.1, warmup_steps=0.1)"
    assert unknown(code) == ["transformers.Nothing", "TrainingArguments(warmup_ratio=)"]
