"""`postbus worker` as a process: what it runs, how it ends, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest

from deeds import Apart, Blocking, Deed, make
from postbus import Bus, DeadLetter
from postbus.inspection import inspectable
from postbus.transport import SubscriptionStats, WorkerInfo
from running import DEEDS, Running, Shop, alive
from server_kinds import Kind, PostgresKind, RedisKind
from servers import own

T = TypeVar("T")

APP = "deeds:bus"
TERM, KILL = signal.SIGTERM, signal.SIGKILL


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """On SQLite, unless a test asks for a server."""
    with contextlib.ExitStack() as stack:
        shop = Shop(tmp_path)
        if kind := SERVERS.get(getattr(request, "param", "")):
            server = own(kind)
            stack.callback(server.close)  # type: ignore[attr-defined]  # it is a generator, which ends what it started
            shop.env["DEEDS_URL"] = next(server).url
        for name, value in shop.env.items():
            monkeypatch.setenv(name, value)
        yield shop


SERVERS: dict[str, Kind] = {"redis": RedisKind(), "postgres": PostgresKind()}
everywhere = pytest.mark.parametrize(
    "shop", ["sqlite", *(pytest.param(name, marks=pytest.mark.once) for name in SERVERS)], indirect=True
)


def with_bus(work: Callable[[Bus], Awaitable[T]]) -> T:
    async def run() -> T:
        async with make() as bus:
            return await work(bus)

    return asyncio.run(run())


def publish(*deeds: Deed | Blocking | Apart) -> None:
    with_bus(lambda bus: bus.publish_many(deeds))


def stats(subscription: str = "work") -> SubscriptionStats:
    return with_bus(lambda bus: bus.stats())[subscription]


def letters() -> Sequence[DeadLetter]:
    return with_bus(lambda bus: bus.dead.list(limit=1000))


def live_workers() -> Sequence[WorkerInfo]:
    return with_bus(lambda bus: inspectable(bus.transport).workers())


# -- running


def test_a_burst_runs_what_is_there_and_ends(shop: Shop) -> None:
    publish(*map(Deed, range(50)))
    assert shop.run("worker", APP, "--burst", "-w", "2").returncode == 0
    assert sorted(line.number for line in shop.lines("END")) == list(range(50))


def test_it_ends_after_so_many_deliveries_and_hands_back_the_rest(shop: Shop) -> None:
    publish(*map(Deed, range(20)))
    assert shop.run("worker", APP, "--max-messages", "7").returncode == 0
    assert len(shop.lines("END")) == 7
    assert (stats().backlog, stats().in_flight) == (13, 0)


def test_only_what_was_asked_for_runs(shop: Shop) -> None:
    publish(Deed(0))
    publish(Blocking(0))
    assert shop.run("worker", APP, "--burst", "-s", "blocks").returncode == 0
    assert len(shop.lines("END")) == 1
    assert shop.run("worker", APP, "--burst", "-x", "work").returncode == 0
    assert len(shop.lines("END")) == 1
    unknown = shop.run("worker", APP, "-s", "others")
    assert (unknown.returncode, "no subscriber is named 'others'" in unknown.stderr) == (2, True)


def test_options_win_over_the_environment_which_wins_over_the_bus(shop: Shop) -> None:
    def lease(*options: str, **env: str) -> str:
        shown = shop.run("worker", APP, "--dry-run", *options, **env)
        assert shown.returncode == 0, shown.stderr
        return next(line.split()[-1] for line in shown.stdout.splitlines() if line.startswith("lease:"))

    assert lease() == "0.5s"
    assert lease(POSTBUS_LEASE="7") == "7.0s"
    assert lease(POSTBUS_LEASE="7", POSTBUS_WORKER_LEASE="8s") == "8.0s"
    assert lease("--lease", "9", POSTBUS_LEASE="7", POSTBUS_WORKER_LEASE="8") == "9.0s"
    assert "23" in shop.run("worker", APP, "--dry-run", POSTBUS_CONCURRENCY="23").stdout
    assert shop.run("worker", APP, "--dry-run", POSTBUS_GRACE="soon").returncode == 2
    assert not (shop.folder / "deeds.db").exists()


def test_logs_can_be_json_and_nothing_in_them_steers_a_terminal_or_tells_a_password(shop: Shop) -> None:
    publish(Deed(0, "fail", 0))
    for form in ("text", "json"):
        with shop.start("worker", APP, "--log-format", form) as worker:
            worker.says("failed")
            worker.tell(TERM)
            assert worker.ends() == 0
        said = worker.said()
        assert "\x1b" not in said
        assert "canary" not in said
        if form == "json":
            records = [json.loads(line) for line in said.splitlines()]
            failed = [record for record in records if record.get("subscription") == "work"]
            assert {"time", "level", "logger", "pid", "message", "event_id", "attempt"} <= set(failed[0])
        publish(Deed(0, "fail", 0))


# -- what operators ask of one


@everywhere
def test_an_operator_quiets_a_worker_lets_it_go_on_and_stops_it(shop: Shop) -> None:
    def ask(what: str, owner: str) -> None:
        asked = shop.run("workers", what, APP, owner)
        assert asked.returncode == 0, asked.stderr

    with shop.start("worker", APP) as worker:
        shop.until(live_workers)
        (one,) = live_workers()
        ask("quiet", one.owner)
        shop.until(lambda: [info.state for info in live_workers()] == ["quiet"])
        publish(Deed(0))
        assert (stats().backlog, shop.lines("START")) == (1, [])
        ask("resume", one.owner)
        shop.until(lambda: shop.lines("END"))
        shop.until(lambda: [info.state for info in live_workers()] == ["running"])
        ask("stop", one.owner)
        assert worker.ends() == 0
        assert "stopped by an operator, and is not started again" in worker.said()
    unknown = shop.run("workers", "stop", APP, one.owner)
    assert (unknown.returncode, "no worker is called" in unknown.stderr) == (1, True)


# -- ending: GUARANTEES 14, faults 9 and 32


@everywhere
def test_a_signal_lets_the_running_finish_and_hands_back_what_has_not_started(shop: Shop) -> None:
    publish(*(Deed(number, "sleep", 1.0) for number in range(15)))
    with shop.start("worker", APP) as worker:
        shop.until(lambda: len(shop.lines("START")) == 10)
        worker.tell(TERM)
        assert worker.ends() == 0
    assert len(shop.lines("END")) == 10
    assert (stats().backlog, stats().in_flight) == (5, 0)
    assert shop.run("worker", APP, "--burst").returncode == 0
    assert {line.attempt for line in shop.lines("START")} == {1}
    assert len(shop.lines("START")) == 15


def test_what_outlives_the_grace_is_cancelled_and_spends_no_attempt(shop: Shop) -> None:
    publish(Deed(0, "sleep", 600))
    with shop.start("worker", APP, "--grace", "0.2") as worker:
        shop.until(lambda: shop.lines("START"))
        worker.tell(signal.SIGINT)
        assert worker.ends() == 0
    assert len(shop.lines("CANCELLED")) == 1
    with shop.start("worker", APP):
        shop.until(lambda: len(shop.lines("START")) == 2)
    assert [line.attempt for line in shop.lines("START")] == [1, 1]


@pytest.mark.parametrize(
    "deed", [Blocking(0, "sleep", 600), Deed(0, "hold", 600), Deed(0, "deaf", 600)], ids=["thread", "hold", "deaf"]
)
def test_what_cannot_be_cancelled_does_not_outlive_the_grace_by_more_than_a_second(
    shop: Shop, deed: Deed | Blocking
) -> None:
    publish(deed)
    with shop.start("worker", APP, "--grace", "0.2") as worker:
        shop.until(lambda: shop.lines("START"))
        worker.tell(TERM)
        told = time.monotonic()
        assert worker.ends() == 5
        assert time.monotonic() - told < 0.2 + 1 + 2  # two seconds for a slow machine
        assert "abandoned" in worker.said()
    with shop.start("worker", APP):  # handed on when the lease ends, in a process of its own
        shop.until(lambda: len(shop.lines("START")) == 2)
    assert [line.attempt for line in shop.lines("START")] == [1, 1]


@everywhere
def test_the_second_signal_ends_at_once(shop: Shop) -> None:
    publish(Deed(0, "sleep", 600))
    with shop.start("worker", APP, "--grace", "600") as worker:
        shop.until(lambda: shop.lines("START"))
        worker.tell(TERM)
        worker.says("stopping")
        time.sleep(0.1)  # signals closer together than this are one wish
        worker.tell(TERM)
        told = time.monotonic()
        assert worker.ends() == 5
        assert time.monotonic() - told < 0.5 + 2  # two seconds for a slow machine
    with shop.start("worker", APP):
        shop.until(lambda: len(shop.lines("START")) == 2)
    assert [line.attempt for line in shop.lines("START")] == [1, 1]


def test_it_waits_for_a_transport_that_is_not_up_and_gives_up_in_one_clear_line(shop: Shop) -> None:
    shop.env["DEEDS_URL"] += "?busy_timeout=0.1"
    holder = locked(shop)
    late = shop.run("worker", APP, "--connect-timeout", "0.3")
    assert late.returncode == 3
    assert late.stderr.count("CRITICAL") == 1
    assert "deeds.db" in late.stderr
    with shop.start("worker", APP, "--connect-timeout", "60") as worker:
        worker.says("trying on")
        holder.close()
        worker.is_ready()


def locked(shop: Shop) -> sqlite3.Connection:
    """A store that nobody can open until this connection is closed."""
    holder = sqlite3.connect(shop.folder / "deeds.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    return holder


def test_a_wrong_program_ends_it_at_once(shop: Shop) -> None:
    for app in ("deeds:nothing", "nowhere:bus", "deeds:Deed"):
        assert shop.run("worker", app).returncode == 2
    wrong = shop.run("worker", APP, DEEDS_URL="sqlite:///x.db?passwort=canary")
    assert (wrong.returncode, "canary" in wrong.stderr) == (2, False)


def test_a_store_that_was_deleted_ends_it(shop: Shop) -> None:
    with shop.start("worker", APP) as worker:
        worker.is_ready()
        (shop.folder / "deeds.db").unlink()
        assert worker.ends() == 1


# -- what subscribers do: faults 7, 10, 11, GUARANTEES 10


@everywhere
def test_whatever_a_subscriber_raises_is_one_failed_attempt_and_the_worker_lives(shop: Shop) -> None:
    raised = ["exit", "interrupt", "end generator", "unusual", "group", "time out"]
    publish(*(Deed(number, do) for number, do in enumerate(raised)), Deed(9))
    with shop.start("worker", APP) as worker:
        shop.until(lambda: len(shop.lines("START")) == 19 and stats().dead == 6)
        worker.tell(TERM)
        assert worker.ends() == 0
    assert len({line.pid for line in shop.lines()}) == 1
    for number in range(len(raised)):
        assert [line.attempt for line in shop.lines("START") if line.number == number] == [1, 2, 3]
    errors = [letter.error for letter in letters()]
    assert any("several" in error and "ValueError: one" in error for error in errors)


def test_a_message_that_kills_its_worker_is_buried_and_no_other_loses_an_attempt(shop: Shop) -> None:
    publish(*(Deed(number, "die" if number == 77 else "nothing") for number in range(201)))
    with shop.start("worker", APP) as worker:
        # Not so many lines, but so many deliveries: what ended just before the kill ends twice.
        shop.until(lambda: len({line.number for line in shop.lines("END")}) == 200 and stats().dead == 1, 60)
        worker.tell(TERM)
        assert worker.ends() == 0
    killed = [line for line in shop.lines("START") if line.number == 77]
    assert [line.attempt for line in killed] == [1, 1, 2, 3]  # with its neighbours, and then thrice alone
    assert {line.attempt for line in shop.lines("START") if line.number != 77} == {1}
    assert {line.number for line in shop.lines("END")} == set(range(201)) - {77}
    (letter,) = letters()
    assert (letter.reason, letter.attempts) == ("attempts spent", 3)
    assert "SIGKILL" in letter.error


def test_the_healthy_go_on_while_a_suspect_runs(shop: Shop) -> None:
    publish(Deed(0, "sleep", 2))
    with shop.start("worker", APP) as worker:
        shop.until(lambda: shop.lines("START"))
        os.kill(worker.is_ready().workers()[0], KILL)
        shop.until(lambda: len(shop.lines("START")) == 2)
        (suspect,) = {line.pid for line in shop.lines("START")} & set(worker.isolates())
        publish(Deed(1))
        shop.until(lambda: shop.lines("END"))
        assert shop.lines("END")[0].number == 1
        assert shop.lines("END")[0].pid != suspect
        shop.until(lambda: len(shop.lines("END")) == 2)
    assert {line.attempt for line in shop.lines("START")} == {1}


@everywhere
def test_a_message_that_devours_the_memory_is_buried_alone(shop: Shop) -> None:
    shop.env["DEEDS_LIMIT"] = str(2 * 1024**3)
    publish(*(Deed(number, "devour" if number == 5 else "nothing") for number in range(20)))
    with shop.start("worker", APP, "-w", "2") as worker:
        shop.until(lambda: len(shop.lines("END")) == 19 and stats().dead == 1, 60)
        worker.tell(TERM)
        assert worker.ends() == 0
    (letter,) = letters()
    assert letter.error.endswith("MemoryError\n")
    assert {line.attempt for line in shop.lines("END")} == {1}


@everywhere
def test_a_subscriber_that_ignores_its_end_is_given_up_and_its_worker_replaced(shop: Shop) -> None:
    shop.env |= {"DEEDS_TIMEOUT": "0.2", "DEEDS_AT_ONCE": "1"}
    publish(Deed(0, "deaf", 600))
    with shop.start("worker", APP, "--grace", "0.1") as worker:
        worker.says("does not end: its slot is lost")
        worker.says("starts in")
        shop.until(lambda: len(shop.lines("START")) == 2)
    first, second = shop.lines("START")
    assert first.pid != second.pid
    assert (first.attempt, second.attempt) == (1, 2)


def test_a_subscriber_in_a_process_of_its_own_kills_only_that(shop: Shop) -> None:
    publish(Apart(0, "die"), Apart(1), Apart(2))
    publish(Deed(9, "sleep", 0.5))
    with shop.start("worker", APP) as worker:
        shop.until(lambda: len(shop.lines("END")) == 3 and stats("apart").dead == 1)
        workers = set(worker.workers())
        worker.tell(TERM)
        assert worker.ends() == 0
    apart = [line for line in shop.lines("START") if line.number != 9]
    assert [line.attempt for line in apart if line.number == 0] == [1, 2, 3]
    assert not {line.pid for line in apart} & workers
    assert {line.pid for line in shop.lines("END") if line.number == 9} == workers


# -- what happens to processes: faults 13, 14, 34


@everywhere
def test_children_stop_with_a_supervisor_that_was_killed(shop: Shop) -> None:
    publish(Deed(0, "sleep", 0.5))
    publish(Apart(1, "sleep", 600))
    with shop.start("worker", APP, "-w", "2", "--grace", "1") as worker:
        shop.until(lambda: len(shop.lines("START")) == 2)
        family = [process.pid for process in worker.is_ready(2).family()]
        assert len(family) >= 3
        worker.tell(KILL)
        worker.ends()
        worker.shop.until(lambda: not any(alive(pid) for pid in family), 10)
    assert [line.number for line in shop.lines("END")] == [0]
    assert stats().in_flight == 0


@everywhere
def test_a_worker_that_dies_at_start_again_and_again_leaves_nothing_behind(shop: Shop) -> None:
    publish(Deed(0))
    dying = shop.run("worker", APP, DEEDS_DIES_AT_START="1")
    assert dying.returncode == 1
    assert dying.stderr.count("was killed by SIGKILL") == 5
    assert live_workers() == []
    assert shop.run("worker", APP, "--burst").returncode == 0
    assert len(shop.lines("END")) == 1


@everywhere
def test_records_of_workers_that_died_do_not_pile_up(shop: Shop) -> None:
    with shop.start("worker", APP, "--lease", "0.3") as worker:
        for times in range(1, 5):
            worker.is_ready(times)
            shop.until(worker.workers)
            os.kill(worker.workers()[0], KILL)
        worker.is_ready(5)
        shop.until(lambda: len(live_workers()) == 1)


def test_a_worker_whose_loops_have_died_says_so_and_ends(shop: Shop) -> None:
    (shop.folder / "stalling.py").write_text(
        "import asyncio\nfrom postbus.claims import Claims\nfrom deeds import make\n"
        "async def broken(self):\n    await asyncio.sleep(0.3)\n    raise RuntimeError('the fetch loop is gone')\n"
        "Claims._listen = broken\nbus = make()\n"
    )
    shop.env["PYTHONPATH"] = str(DEEDS)
    with shop.start("worker", "stalling:bus", "--app-dir", str(shop.folder), "--health-port", "0") as worker:
        url = health_url(worker)
        shop.until(lambda: asked(url + "/livez")[0] == 200)
        shop.until(lambda: asked(url + "/livez")[0] == 503)
        assert worker.ends() == 1
    assert "the fetch loop is gone" in worker.said()


# -- health


def health_url(worker: Running) -> str:
    worker.says("health at http://")
    return "http://" + worker.said().partition("health at http://")[2].partition("/")[0]


def asked(url: str) -> tuple[int, dict[str, object]]:
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


def test_health_tells_whether_the_event_loop_turns(shop: Shop) -> None:
    file = shop.folder / "health.json"
    with shop.start("worker", APP, "--health-port", "0", "--health-file", str(file)) as worker:
        url = health_url(worker)
        shop.until(lambda: asked(url + "/readyz")[0] == 200)
        shop.until(file.exists)
        (record,) = asked(url + "/livez")[1]["workers"]  # type: ignore[misc]
        assert record["pid"] == worker.workers()[0]
        assert asked(url + "/other")[0] == 404
        publish(Deed(0, "hold", 600))
        shop.until(lambda: asked(url + "/livez")[0] == 503)
        shop.until(lambda: not file.exists())
        worker.tell(TERM)
        worker.says("stopping")
    assert not file.exists()


def test_a_worker_that_is_killed_is_not_live_until_another_is_ready(shop: Shop) -> None:
    with shop.start("worker", APP, "--health-port", "0") as worker:
        url = health_url(worker)
        shop.until(lambda: asked(url + "/readyz")[0] == 200)
        os.kill(worker.is_ready().workers()[0], KILL)
        shop.until(lambda: asked(url + "/livez")[0] == 503)
        shop.until(lambda: asked(url + "/readyz")[0] == 200)


def test_a_port_that_is_taken_is_said_at_once(shop: Shop) -> None:
    with shop.start("worker", APP, "--health-port", "0") as worker:
        port = health_url(worker).rpartition(":")[2]
        second = shop.run("worker", APP, "--health-port", port)
    assert second.returncode == 3
    assert f"--health-port {port}" in second.stderr


# -- changes, and questions


def test_sighup_replaces_the_processes_without_losing_a_delivery(shop: Shop) -> None:
    publish(Deed(0, "sleep", 0.5))
    with shop.start("worker", APP, "-w", "2") as worker:
        shop.until(lambda: shop.lines("START"))
        before = set(worker.is_ready(2).workers())
        worker.tell(signal.SIGHUP)
        worker.is_ready(4)
        shop.until(lambda: len(worker.workers()) == 2 and not before & set(worker.workers()))
        publish(Deed(1))
        shop.until(lambda: len(shop.lines("END")) == 2)
    assert {line.attempt for line in shop.lines("START")} == {1}


def test_reload_takes_up_a_change_and_keeps_working_through_a_mistake(shop: Shop) -> None:
    program = shop.folder / "changing.py"
    text = "from deeds import make\nbus = make()\nprint('this is {}', flush=True)\n"
    shop.env["PYTHONPATH"] = str(DEEDS)
    program.write_text(text.format("one"))
    with shop.start("worker", "changing:bus", "--app-dir", str(shop.folder), "--reload") as worker:
        worker.says("this is one")
        worker.is_ready()
        program.write_text("1 / 0")
        worker.says("the old one goes on")
        publish(Deed(0))
        shop.until(lambda: shop.lines("END"))
        program.write_text(text.format("two"))
        worker.says("this is two")
        worker.is_ready(2)


def test_sigusr1_writes_what_it_does_to_the_log_even_while_it_is_blocked(shop: Shop) -> None:
    publish(Deed(0, "hold", 600))
    with shop.start("worker", APP) as worker:
        shop.until(lambda: shop.lines("START"))
        worker.tell(signal.SIGUSR1)
        worker.says("thread MainThread:")
        assert "slots are taken" in worker.said()
        assert "deeds.py" in worker.said()
        assert psutil.pid_exists(worker.workers()[0])
