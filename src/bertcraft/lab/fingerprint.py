"""When a stored result is stale: a hash of the code that computed it."""

import ast
import hashlib
import importlib
from pathlib import Path
from types import ModuleType

from bertcraft.lab.experiment import Experiment


def of(experiment: Experiment) -> str:
    """A hash of what the technique's module, the experiment's own and those it names would compute.

    Comments, docstrings and layout do not count, nor do functions whose name begins with ``show`` (how a result is drawn
    changes no figure), nor the declaration ``EXPERIMENT`` itself: the settings of each arm are stored with its runs.
    """
    names = (f"bertcraft.techniques.{experiment.slug}", experiment.run.__module__)
    modules = [importlib.import_module(name) for name in names] + list(experiment.code)
    digest = hashlib.sha256()
    for module in sorted(set(modules), key=lambda each: each.__name__):
        digest.update(module.__name__.encode() + b"\0" + _computation(module).encode() + b"\0")
    return digest.hexdigest()[:16]


def _computation(module: ModuleType) -> str:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not _is_display(node)]
    return _dump(tree)


def _is_display(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name.lstrip("_").startswith("show")
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "EXPERIMENT" for target in targets)


def _dump(node) -> str:
    """A syntax tree as text, without docstrings and positions; the same for every version of Python (ast.dump's is not)."""
    if isinstance(node, ast.AST):
        fields = [
            (name, value)
            for name, value in ast.iter_fields(node)
            if value not in (None, []) and name not in ("ctx", "kind", "type_comment")
        ]
        parts = [f"{name}={_dump(_without_docstring(node, name, value))}" for name, value in fields]
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)


def _without_docstring(node, name: str, value):
    documented = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and name == "body" and value
    if documented and isinstance(value[0], ast.Expr) and isinstance(value[0].value, ast.Constant):
        return value[1:]
    return value
