"""Who publishes what, as the program's source says it: calls of `publish` whose event can be told without running.

Publishers are not declared anywhere, so this reads the modules that the events and subscribers live in, and the
packages around them.  What is built far from its publish, or under a name made at run time, is not seen.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .event import RawEvent, mark_if_any

__all__ = ["publishers_in", "source_modules"]

_CALLS = frozenset(
    ("publish", "publish_sync", "publish_many", "publish_many_sync", "call", "call_sync", "notify", "notify_sync")
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_modules(names: Iterable[str]) -> list[ModuleType]:
    """The loaded modules with a source file that belong to the packages of these."""
    scopes = {_scope(name) for name in names}
    return [
        module
        for name, module in sorted(sys.modules.items())
        if any(name == scope or name.startswith(f"{scope}.") for scope in scopes)
        and str(getattr(module, "__file__", "")).endswith(".py")
    ]


def _scope(name: str) -> str:
    """The whole program a module belongs to; of ours, only the folder it is in."""
    top = name.partition(".")[0]
    return name.rpartition(".")[0] if top == "postbus" else top


def publishers_in(modules: Iterable[ModuleType]) -> dict[str, set[str]]:
    """Wire name to the functions that publish it, as `module:function`."""
    found: dict[str, set[str]] = {}
    for module in modules:
        try:
            tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError):  # it was imported, but its source is not there any more
            continue
        for place, function in _functions(tree):
            for name in _published(function, vars(module)):
                found.setdefault(name, set()).add(f"{module.__name__}:{place}")
    return found


def _functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Each function with its qualified name, and the module's own code; none twice."""
    if isinstance(tree, ast.Module):
        yield "<module>", tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _Function | ast.ClassDef):
            place = f"{inside}.{node.name}" if inside else node.name
            if isinstance(node, _Function):
                yield place, node
            yield from _functions(node, place)
        else:
            yield from _functions(node, inside)


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What belongs to this function and not to one inside it."""
    for node in ast.iter_child_nodes(function):
        yield node
        if not isinstance(node, _Function | ast.ClassDef):
            yield from _own_nodes(node)


def _published(function: ast.AST, names: Mapping[str, Any]) -> Iterator[str]:
    made: dict[str, set[str]] = {}
    calls: list[ast.Call] = []
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    made.setdefault(target.id, set()).update(_events(node.value, names, {}))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CALLS:
            calls.append(node)
    for call in calls:
        for argument in call.args[:1]:
            yield from _events(argument, names, made)


def _events(expression: ast.AST, names: Mapping[str, Any], made: Mapping[str, set[str]]) -> Iterator[str]:
    """The wire names of the events that an expression makes, or that a variable was given."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Name):
            yield from made.get(node.id, ())
        elif isinstance(node, ast.Call):
            kind = _value(node.func, names)
            mark = mark_if_any(kind)
            if mark is not None:
                yield mark.name
            elif kind is RawEvent and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def _value(expression: ast.AST, names: Mapping[str, Any]) -> Any:
    """What a name, or a name of a module, stands for."""
    if isinstance(expression, ast.Name):
        return names.get(expression.id)
    if isinstance(expression, ast.Attribute):
        return getattr(_value(expression.value, names), expression.attr, None)
    return None
