"""Functions brought into a notebook: ``from bertcraft.x import f, g  # inline`` becomes their source."""

import ast
import builtins
import importlib.util
import symtable
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bertcraft.errors import InputError


def inlined(text: str, known: set[str]) -> str:
    """A code cell with its ``# inline`` imports replaced by the source of what they name, in the order that it needs.

    ``known``: the names that the notebook has so far; those of this cell are added. Raises InputError when a module lacks a
    name, or when what is inlined uses a name of its module that the notebook lacks.
    """
    tree = parsed(text)
    lines = text.splitlines()
    for node in reversed(tree.body):
        if isinstance(node, ast.ImportFrom) and _is_marked(lines, node):
            if any(alias.asname for alias in node.names):
                raise InputError(f"'from {node.module} import ...  # inline' cannot rename what it brings in")
            wanted = [alias.name for alias in node.names]
            brought = _sources(node.module, wanted)
            lines[node.lineno - 1 : node.end_lineno] = [f"# from {node.module}", *"\n\n\n".join(brought).splitlines()]
            _check_names(node.module, wanted, known | _stored(tree))
    known |= _stored(tree)
    return "\n".join(lines)


def _is_marked(lines: list[str], node: ast.stmt) -> bool:
    return any(line.rstrip().endswith("# inline") for line in lines[node.lineno - 1 : node.end_lineno])


def parsed(text: str) -> ast.Module:
    """The syntax tree of a cell; IPython's own lines (%magic, !command) count as comments."""
    return ast.parse("\n".join("#" + line if line.lstrip()[:1] in ("%", "!") else line for line in text.splitlines()))


def _stored(tree: ast.AST) -> set[str]:
    """Every name that code outside of functions binds."""
    return set(bound(tree))


def bound(node: ast.AST) -> Iterator[str]:
    """The names that the children of a node bind, outside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield child.name
            continue
        if isinstance(child, ast.alias):
            yield (child.asname or child.name).partition(".")[0]
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        yield from bound(child)


@cache
def _module(name: str) -> tuple[str, dict[str, ast.stmt], dict[str, str]]:
    """The text of a module, the statements that define its names, and the imports that bring in others."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None or not found.origin:
        raise InputError(f"there is no module {name} to inline from")
    text = Path(found.origin).read_text(encoding="utf-8")
    defined: dict[str, ast.stmt] = {}
    imports: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                alone = type(node)(**vars(node) | {"names": [alias]})
                imports[(alias.asname or alias.name).partition(".")[0]] = ast.unparse(alone)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)):
            holder = ast.Module([node], [])
            defined |= dict.fromkeys(_stored(holder), node)
    return text, defined, imports


def _statement(module: str, name: str) -> ast.stmt:
    defined = _module(module)[1]
    if name not in defined:
        raise InputError(f"{module} defines no {name!r} that could be inlined")
    return defined[name]


def _text(module: str, name: str) -> str:
    """The source of a name, whole lines, with its decorators."""
    node = _statement(module, name)
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return "\n".join(_module(module)[0].splitlines()[first - 1 : node.end_lineno])


@cache
def _globals(module: str, name: str) -> frozenset[str]:
    """The names outside of it that a function, class or constant reads, Python's own not among them."""
    found = set()
    tables = [symtable.symtable(_text(module, name), module, "exec")]
    while tables:
        table = tables.pop()
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or top):
                found.add(symbol.get_name())
        tables += table.get_children()
    return frozenset(found - {name} - set(dir(builtins)))


def _sources(module: str, wanted: list[str]) -> list[str]:
    """The sources of some names, each after those that it uses; otherwise in the order of the module."""
    wanted = sorted(wanted, key=lambda name: _statement(module, name).lineno)
    ordered: list[str] = []
    waiting: set[str] = set()

    def add(name: str) -> None:
        if name in ordered or name in waiting:  # two that call each other stand in the module's order
            return
        waiting.add(name)
        for other in wanted:
            if other in _globals(module, name):
                add(other)
        ordered.append(name)

    for name in wanted:
        add(name)
    return [_text(module, name) for name in ordered]


def _check_names(module: str, wanted: list[str], known: set[str]) -> None:
    _, own, imports = _module(module)
    for name in wanted:
        if missing := sorted(_globals(module, name) - known):
            ways = [f"from {module} import {each}  # inline" if each in own else imports.get(each, each) for each in missing]
            ways = "; ".join(dict.fromkeys(ways))
            raise InputError(f"{name} of {module} uses {', '.join(missing)}, which the notebook lacks; bring in: {ways}")
