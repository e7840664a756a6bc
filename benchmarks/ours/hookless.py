"""postbus as it would be if nothing could be put around publishes and deliveries, nor observe them.

Wherever the road asks for middleware or observers, there is an empty tuple instead, before the code is compiled: so the
question and what would follow from it are gone.  Import this before anything of postbus.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

__all__ = ["HOOKS", "ROOMS", "install"]

# What holds middleware and observers, and the rooms that ask for it.
HOOKS = {
    "postbus.publish": {"_middleware", "observers"},
    "postbus.dispatch": {"_around", "_around_thread"},
    "postbus.slots": {"_observers"},
    "postbus.settler": {"_observers"},
}
ROOMS = frozenset(HOOKS)


class _Without(ast.NodeTransformer):
    """Puts an empty tuple where one of these attributes of `self` is read."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self.count = 0

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """One attribute."""
        self.generic_visit(node)
        own = isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in self._names
        if not own or not isinstance(node.ctx, ast.Load):
            return node
        self.count += 1
        return ast.copy_location(ast.Tuple([], ast.Load()), node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """A method of that name is none of them."""
        if isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
            node.args = [self.visit(one) for one in node.args]
            node.keywords = [self.visit(one) for one in node.keywords]
            return node
        self.generic_visit(node)
        return node


class _Loader(SourceFileLoader):
    """Compiles without the hooks, and neither reads nor writes compiled files."""

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code."""
        path = self.get_filename(fullname)
        without = _Without(HOOKS[fullname])
        tree = ast.fix_missing_locations(without.visit(ast.parse(self.get_data(path), path)))
        if not without.count:
            raise ImportError(f"{fullname} asks for no hook: say in {__name__} where it does now")
        return compile(tree, path, "exec")


class _Finder:
    """Finds those rooms."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The same file with another loader."""
        if name not in ROOMS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


def install() -> None:
    """From now on they are imported so.

    Raises:
        ImportError: when it is too late.
    """
    if late := ROOMS & sys.modules.keys():
        raise ImportError(f"{', '.join(sorted(late))} are imported already")
    finder: Any = _Finder
    sys.meta_path.insert(0, finder)


install()
