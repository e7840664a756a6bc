"""Reads the source as a plan: what each file imports, and how long things are.  Judges nothing: see test_house.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["ROOT", "File", "Function", "Import", "files"]

ROOT = Path(__file__).parents[1] / "src" / "postbus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name.  `module` is absolute; `name` is None for `import module`."""

    module: str
    name: str | None
    line: int
    in_function: bool
    for_types: bool

    @property
    def room(self) -> str | None:
        """The room of postbus it belongs to; '' for the package's own door; None for what is not postbus."""
        top, _, rest = self.module.partition(".")
        if top != "postbus":
            return None
        return rest.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function as its reader sees it."""

    name: str
    line: int
    length: int
    positional: int


class File:
    """One file of the package; `name` is its path below it, as in 'transports/memory.py'."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def __repr__(self) -> str:
        return self.name

    @property
    def room(self) -> str:
        """The first part of its name: the house knows a folder as one room."""
        return self.name.removesuffix(".py").partition("/")[0]

    @property
    def lines(self) -> int:
        """How long it is."""
        return len(self.text.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Everything it imports, wherever that stands."""
        return tuple(self._imports(self.tree, in_function=False, for_types=False))

    def functions(self) -> Iterator[Function]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield _function(node)

    def swallowing_handlers(self) -> Iterator[int]:
        """Lines of `except` clauses that catch everything and raise nothing."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _raises(node):
                yield node.lineno

    def calls(self) -> Iterator[tuple[str, int]]:
        """Names of what it calls, as in 'import_module' for `importlib.import_module(...)`, with lines."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Call(func=ast.Attribute(attr=name)) | ast.Call(func=ast.Name(id=name)):
                    yield name, node.lineno
                case _:
                    pass

    def _imports(self, node: ast.AST, *, in_function: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = for_types or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            for module, name in self._named(child):
                line = getattr(child, "lineno", 0)
                yield Import(module=module, name=name, line=line, in_function=inside, for_types=types)
            yield from self._imports(child, in_function=inside, for_types=types)

    def _named(self, node: ast.AST) -> list[tuple[str, str | None]]:
        match node:
            case ast.Import(names=names):
                return [(alias.name, None) for alias in names]
            case ast.ImportFrom(names=names):
                return [(self._absolute(node), alias.name) for alias in names]
            case _:
                return []

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        folders = ["postbus", *self.name.split("/")[:-1]]
        base = folders[: len(folders) - node.level + 1]
        return ".".join([*base, node.module] if node.module else base)


def files() -> list[File]:
    """Every file of the package."""
    paths = sorted(ROOT.rglob("*.py"))
    return [File(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    last = node.end_lineno or node.lineno
    length = last - body[0].lineno + 1 if body else 1
    arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    positional = len([name for name in arguments if name not in ("self", "cls")])
    return Function(name=node.name, line=node.lineno, length=length, positional=positional)


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException") for kind in caught)


def _raises(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))
