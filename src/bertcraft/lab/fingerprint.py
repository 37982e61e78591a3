"""When a stored result is stale: hashes of the code that computed it, and of the kernels that decided its digits."""

import ast
import functools
import hashlib
import importlib
from pathlib import Path

from bertcraft.lab.experiment import Experiment

DECLARED = {"ARMS", "CHECKS", "CLAIM", "COMPARISONS", "EXPERIMENT", "METRICS", "NOTES", "TUNING", "WHOLE"}
_KERNELS = ("tensor", "bert", "train")  # packages that every experiment computes with


def of(experiment: Experiment) -> str:
    """A hash of what the technique's module, the experiment's own and those it names would compute.

    Comments, docstrings and layout do not count, nor does what an experiment declares under one of the names ``DECLARED``: the
    settings of each arm are stored with its runs, and checks, claims and words are judged anew whenever they are shown.
    """
    names = (f"bertcraft.techniques.{experiment.slug}", experiment.run.__module__)
    modules = [importlib.import_module(name) for name in names] + list(experiment.code)
    return _hash({module.__name__: Path(module.__file__) for module in modules})


@functools.cache
def kernels() -> str:
    """A hash of the code below all experiments: the engine, the model and the training loop.

    A change of it need not change what a run means, but the order of a sum decides last digits, and these grow in training.
    """
    return _below(Path(__file__).parents[1])


def _below(root: Path) -> str:
    return _hash({str(path.relative_to(root)): path for package in _KERNELS for path in (root / package).rglob("*.py")})


def _hash(paths: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(paths.items()):
        digest.update(name.encode() + b"\0" + _computation(path).encode() + b"\0")
    return digest.hexdigest()[:16]


def _computation(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not _is_declaration(node)]
    return _dump(tree)


def _is_declaration(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id in DECLARED for target in targets)


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
