"""The plan of the house: a flat corridor of rooms, each importing only rooms before it.

A new file gets its place here first.  A test that fails asks a question, and the answer is seldom a longer list.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import pytest

from house import ROOT, File, files

Rule = Callable[[File], list[str]]

# One room a word.  What stands in a line uses what stands before it, and nothing behind.
CORRIDOR = tuple(
    """
    errors dice limits models event envelope delivery grouping clock failure codec signing catalog cloudevents
    drivers address finding migrating recording retrying transport enlisting spool observe tally
    retry context middleware signature subscription router
    threads dispatch local transaction adapters marks joining courier gathering options publish
    leases lanes claims settler watch slots wishes worker child supervisor
    history inbox portal trail journal bulk inspection letters retries lineage explain connect environment lifecycle
    forward hold relay outbox given background bus figures schema compatibility publishers graph
    health doctor shown logs program isolate
    """.split()  # noqa: SIM905 - a corridor, not a column
)

# Folders of rooms.  The corridor never imports them, nor they each other; but `postbus demo` is a command, and
# `flask postbus` is all of them.
FOLDERS = ("transports", "integrations", "dashboard", "cli", "testing", "demo")
BETWEEN: Mapping[str, set[str]] = {"integrations": {"cli"}, "cli": {"dashboard", "demo"}, "demo": {"dashboard"}}

DOORS = ("__init__", "__main__")

# A framework that is another one with more on top.
STANDS_ON: Mapping[str, str] = {"fastapi": "starlette"}

# What a room must never import, though its place would allow it.
NEVER: Mapping[str, set[str]] = {
    "event": {"asyncio", "threading", "time", "random", "dice", "clock", "transport"},
    "envelope": {"asyncio", "threading", "time", "random", "dice", "clock", "transport"},
    "delivery": {"asyncio", "threading", "time", "random", "dice", "clock", "transport"},
    "catalog": {"asyncio", "transport", "bus"},
    "retry": {"asyncio", "random", "dice", "time"},
    "dispatch": {"transport", "bus", "worker"},
    "local": {"transport", "worker"},
    "supervisor": {"asyncio", "dispatch", "bus", "worker"},
    "cli": {"dispatch", "local", "courier", "leases", "settler", "lanes"},
    "dashboard": {"dispatch", "local", "courier", "leases", "settler", "lanes"},
    "testing": {"dispatch", "local", "courier", "leases", "settler", "lanes"},
    "integrations": {"dispatch", "local", "courier", "leases", "settler", "lanes", "worker"},
    "demo": {"dispatch", "local", "courier", "leases", "settler", "lanes"},
}

# What carries envelopes knows the facts and the contract; nothing of buses, workers, codecs or other transports.
FOR_TRANSPORTS = {
    "errors",
    "dice",
    "limits",
    "event",
    "envelope",
    "delivery",
    "clock",
    "failure",
    "address",
    "finding",
    "migrating",
    "transport",
    "drivers",
    "enlisting",
    "spool",
    "recording",
    "retrying",
}

# Only the background claims, renews and settles; transports do it inside themselves, the suite to hold them to it.
BACKGROUND = {
    "relay",
    "worker",
    "slots",
    "leases",
    "lanes",
    "claims",
    "settler",
    "isolate",
    "watch",
    "transports",
    "testing",
}

# What is not in the standard library, and where it may be imported.
THIRD_PARTY: Mapping[str, set[str]] = {
    "msgspec": {*CORRIDOR, *FOLDERS},
    "uuid_utils": {"envelope"},
    "click": {"cli", "demo", "program", "integrations"},
    "rich": {"cli", "demo"},
    "watchfiles": {"cli", "supervisor"},
    "pytest": {"testing"},
    "hypothesis": {"testing"},
}

# Imports that wait until they are needed, and why.
LAZY: Mapping[str, str] = {
    "__init__.py": "public names are imported when first asked for, so that `postbus --help` loads no event loop",
    "adapters.py": "an integration is imported when something of its framework is handed over",
    "connect.py": "a transport is imported when its scheme is asked for",
    "drivers.py": "the client of a connection that exists is there",
    "program.py": "it imports the user's program, by the name given on the command line",
    "cli/__init__.py": "a command is imported when it is run",
    "cli/metrics.py": "prometheus_client is optional",
    "cli/output.py": "rich is optional",
    "cli/process.py": "uvloop is optional",
    "cli/reload.py": "watchfiles is optional",
    "demo/program.py": "the screen needs rich, and the pages starlette, which are optional",
    "testing/__init__.py": "the suite needs pytest, which a clock does not",
}

# Who may catch everything, at how many places, and why.  A clause that raises is free.
CATCHES: Mapping[str, tuple[int, str]] = {
    "dispatch.py": (9, "whatever a subscriber raises becomes an outcome"),
    "local.py": (9, "whatever an in-process handler raises goes to the publisher, with its note"),
    "codec.py": (9, "event classes are users' code: whatever they raise becomes a CodecError"),
    "failure.py": (2, "describing an error calls the user's own __str__"),
    "given.py": (1, "each client has errors of its own, and tidying up has no caller"),
    "leases.py": (1, "a thread has no caller: the worker must hear of it"),
    "limits.py": (1, "a part of a payload is asked whether it raises, for an error that is already known"),
    "threads.py": (1, "carried from the thread to the dispatch, which judges it"),
    "transports/sqlite/writer.py": (1, "a thread has no caller: whoever asked must hear of it"),
}

LINES = 400
LONGER: Mapping[str, tuple[int, str]] = {
    "transport.py": (560, "the contract is read as one page, and is docstrings for the most part"),
    "bus.py": (570, "the front door: every public call with its docstring, and nothing decided"),
}
FUNCTION = 45
LONGER_FUNCTIONS: Mapping[str, tuple[int, str]] = {}
INTEGRATION = 160
POSITIONAL = 6

FILES = files()


def test_every_file_has_its_place() -> None:
    known = {*CORRIDOR, *FOLDERS, *DOORS}
    assert [file.name for file in FILES if file.room not in known] == []
    assert len(set(CORRIDOR)) == len(CORRIDOR)


def test_no_room_is_a_heap() -> None:
    heaps = {"utils", "util", "helpers", "common", "misc", "base", "core", "types", "constants"}
    assert [file.name for file in FILES if file.name.rpartition("/")[2].removesuffix(".py") in heaps] == []


def test_a_room_uses_only_rooms_before_it() -> None:
    hold(out_of_order)


def test_a_room_never_imports_what_would_break_its_word() -> None:
    hold(forbidden)


def test_a_transport_knows_the_facts_and_the_contract_alone() -> None:
    hold(beyond_the_contract)


def test_alternatives_do_not_know_each_other() -> None:
    hold(neighbours)


def test_only_the_background_claims_and_renews() -> None:
    hold(claiming)


def test_the_core_needs_no_extra() -> None:
    hold(foreign)


def test_imports_stand_at_the_top() -> None:
    hold(hidden)


def test_a_private_name_stays_in_its_room() -> None:
    hold(private)


def test_everything_is_caught_only_where_others_code_is_called() -> None:
    hold(swallowing)


def test_a_file_owns_one_thing_and_a_function_fits_on_a_screen() -> None:
    hold(too_long)


def test_a_function_takes_few_things_by_position() -> None:
    hold(too_many)


def test_exceptions_to_the_plan_are_still_needed() -> None:
    by_name = {file.name: file for file in FILES}
    assert {*LONGER, *LONGER_FUNCTIONS, *CATCHES, *LAZY} - set(by_name) == set()
    assert [name for name in LONGER if by_name[name].lines <= LINES] == []
    assert [name for name in CATCHES if not list(by_name[name].swallowing_handlers())] == []


# -- the rules: what is wrong with one file, each with its line


def hold(rule: Rule) -> None:
    """Fail with everything that the rule finds in the house."""
    found = [f"src/postbus/{file.name}:{what}" for file in FILES for what in rule(file)]
    assert not found, "\n" + "\n".join(found)


def out_of_order(file: File) -> list[str]:
    """What a corridor room imports from itself or behind it, or any room from a folder that is not its own."""
    if file.room in DOORS:
        return []
    before = CORRIDOR[: CORRIDOR.index(file.room)] if file.room in CORRIDOR else CORRIDOR
    front_door = {"", file.room, *BETWEEN.get(file.room, ())} if file.room in FOLDERS else set()
    allowed = {*before, *front_door}
    wrong = [f"{i.line}: {i.module}" for i in file.imports if i.room is not None and i.room not in allowed]
    modules = [f"{i.line}: from {i.module} import {i.name}" for i in file.imports if names_a_module(i.module, i.name)]
    return wrong + modules


def names_a_module(module: str, name: str | None) -> bool:
    """Whether this is `from . import room`, which hides a room among names."""
    if name is None or module.partition(".")[0] != "postbus" or (module, name) == ("postbus", "event"):
        return False
    folder = ROOT.joinpath(*module.split(".")[1:])
    return folder.is_dir() and (folder.joinpath(f"{name}.py").exists() or folder.joinpath(name).is_dir())


def forbidden(file: File) -> list[str]:
    """Imports that the table NEVER rules out."""
    never = NEVER.get(file.room, set())
    return [
        f"{i.line}: {i.module}"
        for i in file.imports
        if (i.module.partition(".")[0] if i.room is None else i.room) in never
    ]


def beyond_the_contract(file: File) -> list[str]:
    """What a transport imports besides facts, the contract and itself."""
    if file.room != "transports":
        return []
    allowed = {*FOR_TRANSPORTS, "transports"}
    return [f"{i.line}: {i.module}" for i in file.imports if i.room is not None and i.room not in allowed]


def neighbours(file: File) -> list[str]:
    """What one transport or integration imports from another: `memory_ids` belongs to `memory`, `redis` does not."""
    if file.room not in ("transports", "integrations") or "/" not in file.name:
        return []
    inside = [i for i in file.imports if i.module.startswith(f"postbus.{file.room}.")]
    mine = {kind_of(file.name), STANDS_ON.get(kind_of(file.name), "")}
    return [f"{i.line}: {i.module}" for i in inside if kind_of(i.module.split(".")[2]) not in mine]


def kind_of(name: str) -> str:
    """'memory' for 'memory', 'transports/memory_ids.py' and 'transports/memory/ids.py'."""
    parts = name.removesuffix(".py").split("/")
    return (parts[1] if len(parts) > 1 else parts[0]).partition("_")[0]


def foreign(file: File) -> list[str]:
    """Imports of packages that are not declared for this room."""
    names = {(i.module.partition(".")[0], i.line) for i in file.imports if i.room is None}
    return [
        f"{line}: {name}"
        for name, line in sorted(names)
        if name not in sys.stdlib_module_names and file.room not in THIRD_PARTY.get(name, set()) | optional(name)
    ]


def optional(name: str) -> set[str]:
    """A client library belongs to its transport, a framework to its integration: connect.py and users ask for them."""
    clients = {"redis", "hiredis", "psycopg", "psycopg_pool", "nats", "aio_pika", "aiormq"}
    frameworks = {
        "sqlalchemy",
        "django",
        "flask",
        "werkzeug",
        "fastapi",
        "starlette",
        "opentelemetry",
        "prometheus_client",
    }
    pages = {"starlette", "jinja2", "markupsafe", "sse_starlette", "uvicorn"}
    return {
        room
        for room, names in {"transports": clients, "integrations": frameworks, "dashboard": pages}.items()
        if name in names
    }


def claiming(file: File) -> list[str]:
    """Calls that only the background makes."""
    if file.room in BACKGROUND:
        return []
    return [f"{line}: {name}()" for name, line in file.calls() if name in ("claim", "renew")]


def private(file: File) -> list[str]:
    """Names that another room keeps to itself."""
    return [
        f"{i.line}: {i.name}"
        for i in file.imports
        if i.room is not None and (i.name or "").startswith("_") and i.name != "__version__"
    ]


def swallowing(file: File) -> list[str]:
    """Clauses that catch everything, beyond those in CATCHES."""
    allowed, _ = CATCHES.get(file.name, (0, ""))
    lines = sorted(file.swallowing_handlers())
    return [f"{line}: catches everything" for line in lines] if len(lines) > allowed else []


def too_long(file: File) -> list[str]:
    """The file, and functions in it."""
    lines, _ = LONGER.get(file.name, (INTEGRATION if file.room == "integrations" else LINES, ""))
    longest, _ = LONGER_FUNCTIONS.get(file.name, (FUNCTION, ""))
    whole = [f"1: {file.lines} lines; which two things does it own?"] if file.lines > lines else []
    return whole + [f"{f.line}: {f.name} has {f.length} lines" for f in file.functions() if f.length > longest]


def too_many(file: File) -> list[str]:
    """Functions with more positional parameters than a caller can keep apart."""
    return [f"{f.line}: {f.name} has {f.positional}" for f in file.functions() if f.positional > POSITIONAL]


def hidden(file: File) -> list[str]:
    """Imports inside functions, by call, or for types alone."""
    if file.name in LAZY:
        return []
    calls = [line for name, line in file.calls() if name in ("import_module", "__import__")]
    lines = {*calls, *(i.line for i in file.imports if i.in_function or i.for_types)}
    return [f"{line}" for line in sorted(lines)]


# -- and the rules do find what they are for


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (out_of_order, "middleware.py", "from .worker import Worker"),
        (out_of_order, "middleware.py", "from postbus.worker import Worker"),
        (out_of_order, "middleware.py", "import postbus.worker"),
        (out_of_order, "middleware.py", "from .middleware import compose"),
        (out_of_order, "bus.py", "from .transports.memory import connect"),
        (out_of_order, "bus.py", "from .cli.process import run"),
        (out_of_order, "bus.py", "from . import errors"),
        (out_of_order, "cli/status.py", "from .. import errors"),
        (out_of_order, "cli/status.py", "from ..transports.memory import connect"),
        (forbidden, "retry.py", "import random"),
        (forbidden, "dispatch.py", "from .transport import Traits"),
        (forbidden, "testing/suite.py", "from ..dispatch import Dispatch"),
        (beyond_the_contract, "transports/memory.py", "from ..codec import Codec"),
        (beyond_the_contract, "transports/sqlite/rows.py", "from ...catalog import Catalog"),
        (neighbours, "transports/memory_ids.py", "from .sqlite.rows import row"),
        (neighbours, "transports/sqlite/rows.py", "from ..memory import connect"),
        (neighbours, "integrations/flask.py", "from .fastapi import BusDep"),
        (foreign, "codec.py", "import pydantic"),
        (foreign, "bus.py", "import click"),
        (foreign, "integrations/flask.py", "import redis"),
        (hidden, "bus.py", "def run():\n    from .worker import Worker"),
        (hidden, "bus.py", "def run():\n    return importlib.import_module('postbus.worker')"),
        (claiming, "bus.py", "await transport.claim('receipts')"),
        (private, "cli/status.py", "from ..shown import _table"),
        (swallowing, "bus.py", "try: f()\nexcept Exception: pass"),
        (too_long, "slots.py", "\n" * 401),
        (too_long, "integrations/flask.py", "\n" * 161),
        (too_long, "bus.py", "def f():\n" + "    g()\n" * 46),
        (too_many, "bus.py", "def f(a, b, c, d, e, f, g): ..."),
        (hidden, "bus.py", "if TYPE_CHECKING:\n    from .worker import Worker"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule: Rule, name: str, text: str) -> None:
    assert rule(File(name, text)) != []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bus.py", "import asyncio\nfrom .worker import Worker\nimport msgspec"),
        ("transports/memory_ids.py", "from ..clock import Clock\nfrom .memory_store import Store"),
        ("transports/sqlite/rows.py", "from ...delivery import Delivery\nfrom .schema import SCHEMA"),
        (
            "cli/status.py",
            "import click\nfrom .. import __version__\nfrom ..inspection import Stats\nfrom .shown import table",
        ),
        ("demo/app.py", "from postbus import Bus, event\nfrom .events import FlightArrived"),
    ],
)
def test_the_rules_leave_good_files_alone(name: str, text: str) -> None:
    file = File(name, text)
    rules = (out_of_order, forbidden, beyond_the_contract, neighbours, claiming, foreign, hidden, private, too_many)
    assert [found for rule in rules for found in rule(file)] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("try: f()\nexcept Exception: pass", 1),
        ("try: f()\nexcept (OSError, BaseException): pass", 1),
        ("try: f()\nexcept: pass", 1),
        ("try: f()\nexcept BaseException:\n    g()\n    raise", 0),
        ("try: f()\nexcept Exception as error: raise Other from error", 0),
        ("try: f()\nexcept OSError: pass", 0),
    ],
)
def test_a_clause_that_catches_everything_is_seen(text: str, count: int) -> None:
    assert len(list(File("bus.py", text).swallowing_handlers())) == count


def test_lengths_are_counted_as_a_reader_does() -> None:
    body = "\n".join(["    x()"] * 50)
    file = File(
        "bus.py", f'@decorated\ndef long(self, a, b, *, c):\n    """Says so.\n\n    At length.\n    """\n{body}\n'
    )
    assert [(f.length, f.positional) for f in file.functions()] == [(50, 2)]
