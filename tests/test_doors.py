"""What each room offers: `__all__` is complete and true.  What users import from `postbus` is sorted and explained."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import types
import typing
from functools import cached_property
from importlib.metadata import version

import pytest

import postbus
from house import File, files

# These run when they are imported.
PROGRAMS = {"__main__.py", "demo/app.py"}
# The command line and the demo are programs, whose rooms nobody else imports.
ROOMS = [file for file in files() if file.name not in PROGRAMS]
OFFERING = [file for file in ROOMS if file.room not in ("cli", "demo")]
EXTRAS = {"rich", "watchfiles", "uvloop", "pytest", "hypothesis"}


def module_of(file: File) -> str:
    return f"postbus.{file.name.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")


def offered(file: File) -> list[str] | None:
    """Its `__all__` as written."""
    for node in file.tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
            case _:
                pass
    return None


def defined(file: File) -> set[str]:
    """The public names it defines itself: type variables and what it imports are no offers."""
    found: set[str] = set()
    for node in file.tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Assign(targets=[target], value=value) if not _is_type_variable(value):
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                found.update(part.id for part in parts if isinstance(part, ast.Name))
            case _:
                pass
    return {name for name in found if not name.startswith("_")}


def _is_type_variable(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "ParamSpec", "TypeVarTuple")


def test_every_room_says_what_it_offers() -> None:
    assert [file.name for file in OFFERING if offered(file) is None and defined(file)] == []


def test_a_room_offers_what_it_defines_and_no_more() -> None:
    """A package's own file may offer what its rooms define."""
    wrong = []
    for file in OFFERING:
        names = offered(file)
        if names is None:
            continue
        borrowed = {i.name for i in file.imports} if file.name.endswith("__init__.py") else set()
        optional = {"log"}  # a logger is an offer only where others log through it
        if extra := set(names) - defined(file) - borrowed:
            wrong.append(f"{file.name} offers {', '.join(sorted(extra))}, and does not define it")
        if constants := {name for name in names if name.startswith("_")}:
            wrong.append(f"{file.name} offers {', '.join(sorted(constants))}, which reads as private")
        if hidden := {name for name in defined(file) - set(names) - optional if not name.isupper()}:
            wrong.append(f"{file.name} defines {', '.join(sorted(hidden))}: offer it in __all__, or begin it with _")
    assert not wrong, "\n" + "\n".join(wrong)


def test_what_is_offered_can_be_imported() -> None:
    """Django's rooms can be imported in a project alone: the shop of integrations/test_shops.py is one."""
    wrong = []
    for file in ROOMS:
        if file.name.startswith("integrations/django/"):
            continue
        try:
            module = importlib.import_module(module_of(file))
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            continue
        wrong += [f"{file.name} has no {name}" for name in offered(file) or () if not hasattr(module, name)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_front_door_is_sorted_and_closed() -> None:
    names = list(postbus.__all__)
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert set(names) <= set(dir(postbus))
    with pytest.raises(AttributeError, match="has no attribute 'Buss'"):
        _ = postbus.Buss  # type: ignore[attr-defined]


def public_members(thing: type) -> list[tuple[str, object]]:
    """What a class defines itself and users may call."""
    own = [(name, value) for name, value in vars(thing).items() if not name.startswith("_")]
    kinds = (types.FunctionType, property, classmethod, staticmethod, cached_property)
    return [(name, value) for name, value in own if isinstance(value, kinds)]


@pytest.mark.parametrize("name", postbus.__all__)
def test_what_users_import_is_explained(name: str) -> None:
    thing = getattr(postbus, name)
    silent = []
    if isinstance(thing, type) or inspect.isroutine(thing):
        assert inspect.getdoc(thing), f"{name} has no docstring"
    if isinstance(thing, type):
        silent = [f"{name}.{member}" for member, value in public_members(thing) if not inspect.getdoc(value)]
    else:
        assert inspect.isroutine(thing) or typing.get_origin(thing) is not None or isinstance(thing, str), name
    assert silent == []


def test_names_and_rooms_of_one_spelling_do_not_collide() -> None:
    """`postbus.event` is the decorator, whoever imports the module of that name, and in whatever order."""
    program = (
        "import postbus, postbus.event, postbus.retry\n"
        "import postbus.bus\n"
        "assert postbus.event.__name__ == 'event' and callable(postbus.event), postbus.event\n"
        "from postbus import event\n"
        "assert callable(event)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_knows_its_version() -> None:
    assert postbus.__version__ == version("postbus")
