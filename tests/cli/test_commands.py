"""The commands that are no worker: what they print, what they change, and what they refuse."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from commands import APP, Result, postbus

from deeds import Deed, make
from postbus import Bus, RawEvent, Reject
from postbus.delivery import Failure, Requeue
from running import DEEDS, Shop
from server_kinds import RedisKind
from servers import own

COMMANDS = (
    "worker", "publish", "status", "events", "dead", "subs", "setup", "doctor", "demo", "bench", "init", "completion",
    "version",
)  # fmt: skip
NASTY = "\x1b]0;owned\x07\x1b[31m red \u202e \x00"


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the program keeps its events."""
    if request.param == "sqlite":
        yield Shop(tmp_path).url
        return
    for server in own(RedisKind()):
        yield server.url


@pytest.fixture
def shop(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path, DEEDS_URL=url)
    for name, value in shop.env.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "POSTBUS_APP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return shop


def with_bus(work: Callable[[Bus], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with make() as bus:
            return await work(bus)

    return asyncio.run(run())


def bury(*deeds: Deed) -> None:
    async def work(bus: Bus) -> None:
        await bus.publish_many(deeds)
        await bus.drain(only=["work"])

    with_bus(work)


# -- starting, and finding the app


def test_help_loads_no_event_loop_no_codec_and_no_rich() -> None:
    code = (
        "import sys; from postbus.cli import run; assert run(['--help']) == 0; "
        "heavy = {'asyncio', 'msgspec', 'rich', 'postbus.bus', 'postbus.cli.worker'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_every_command_has_help_and_is_listed() -> None:
    listed = postbus("--help").out
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        result = postbus(name, "--help")
        assert (result.code, result.err) == (0, "")
        assert "Usage: postbus " + name in result.out
    assert postbus("run", "--help").out == postbus("worker", "--help").out


def test_without_a_command_it_explains_itself_and_says_that_one_is_missing() -> None:
    for arguments in ((), ("dead",)):
        result = postbus(*arguments)
        assert result.code == 2
        assert result.err.startswith("Usage: postbus")
        assert "Error" not in result.err


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("nowhere:bus", "there is no module 'nowhere'"),
        ("deeds:nothing", "deeds has no attribute 'nothing'"),
        ("deeds:Deed", "is a type, not a postbus.Bus"),
        ("deeds:make", "add --factory"),
        ("deeds", "'deeds' is not an app: expected module:attribute"),
        ("deeds.py:bus", "not an app"),
        ("../x:bus", "not an app"),
        ("broken:bus", "ZeroDivisionError"),
        ("importing:bus", "No module named 'nowhere_at_all'"),
        ("leaving:bus", "SystemExit"),
    ],
)
def test_a_wrong_app_is_named_with_what_was_expected(shop: Shop, app: str, says: str) -> None:
    for name, text in {"broken": "1 / 0", "importing": "import nowhere_at_all", "leaving": "raise SystemExit"}.items():
        (shop.folder / f"{name}.py").write_text(text)
    folder = str(DEEDS if app.startswith("deeds") else shop.folder)
    result = postbus("status", "--app-dir", folder, app)
    assert result.code == 2
    assert says in result.err
    assert result.out == ""


def test_the_app_is_taken_from_the_environment_or_from_pyproject(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no app is named" in postbus("status").err
    (shop.folder / "pyproject.toml").write_text('[tool.postbus]\napp = "deeds:make"\n')
    assert postbus("status", "--factory", "--app-dir", str(DEEDS)).code == 0
    (shop.folder / "pyproject.toml").write_text('[tool.postbus]\napp = "deeds:nothing"\n')
    monkeypatch.setenv("POSTBUS_APP", "deeds:make")
    monkeypatch.setenv("POSTBUS_STATUS_FACTORY", "1")
    monkeypatch.setenv("POSTBUS_STATUS_APP_DIR", str(DEEDS))
    assert postbus("status").code == 0


@pytest.mark.parametrize(
    "arguments", [("publish", "--factory", "deeds:make"), ("dead", "show"), ("subs", "rename", "a")]
)
def test_a_missing_argument_is_a_usage_error(shop: Shop, arguments: tuple[str, ...]) -> None:
    result = postbus(*arguments)
    assert result.code == 2
    assert "Missing argument" in result.err


@pytest.mark.parametrize(
    "name", ["../x", "a;drop table", "a'b", "{x}", "a b", "a\r\nPUB", "x" * 10_000, "", "\u0430dmin"]
)
def test_a_bad_name_is_refused_before_anything_is_opened(shop: Shop, name: str) -> None:
    for arguments in (
        ("publish", *APP, "--", name, "1"),
        ("subs", "pause", *APP, "--", name),
        ("subs", "rename", *APP, "--", "work", name),
        ("dead", "list", *APP, "--sub", name),
        ("dead", "list", *APP, "--name", name),
        ("events", "list", *APP, "--name", name),
    ):
        result = postbus(*arguments)
        assert result.code == 2
        assert result.out == ""
    assert not (shop.folder / "deeds.db").exists()


# -- publish


def test_publish_prints_the_id_of_what_was_stored(shop: Shop) -> None:
    result = postbus("publish", *APP, "deeds.deed.asked", '{"number": 1}')
    assert result.code == 0
    shown = postbus("events", "show", *APP, result.out.strip(), "--json").json
    assert (shown["name"], shown["payload"]["number"]) == ("deeds.deed.asked", 1)


def test_publish_takes_key_header_id_and_delay(shop: Shop) -> None:
    wanted = str(uuid4())
    options = ("--key", "k-1", "--header", "trace=abc", "--id", wanted, "--delay", "1h", "--json")
    sent = postbus("publish", *APP, "deeds.deed.followed", '{"number": 1}', *options).json
    assert (sent["id"], sent["key"], sent["headers"]) == (wanted, "k-1", {"trace": "abc"})
    assert postbus("status", *APP, "--json").json["totals"]["scheduled"] == 1


def test_publish_reads_a_payload_from_stdin(shop: Shop) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "postbus", "publish", "deeds:bus", "deeds.deed.asked", "-"],
        cwd=DEEDS, input='{"number": 3}', text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert len(result.stdout.strip()) == 36


@pytest.mark.parametrize(
    ("name", "payload", "says"),
    [
        ("deeds.deed.asked", '{"number": "one"}', "number"),
        ("deeds.deed.asked", "{", "no JSON"),
        ("deeds.deed.asked", '{"number": 1}{}', "no JSON"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(shop: Shop, name: str, payload: str, says: str) -> None:
    result = postbus("publish", *APP, name, payload)
    assert result.code == 2
    assert says in result.err


def test_publish_takes_a_file_of_payloads_in_order(shop: Shop) -> None:
    file = shop.folder / "deeds.jsonl"
    file.write_text("".join(f'{{"number": {number}}}\n' for number in range(250)))
    result = postbus("publish", *APP, "deeds.deed.asked", "--file", str(file))
    assert (result.code, result.out) == (0, "250 events published\n")
    stored = postbus("events", "list", *APP, "--limit", "1000", "--json").lines
    assert len(stored) == 250
    shown = postbus("events", "show", *APP, stored[0]["id"], "--json").json
    assert shown["payload"]["number"] == 249


def test_a_file_with_a_bad_line_publishes_nothing_and_names_the_line(shop: Shop) -> None:
    file = shop.folder / "deeds.jsonl"
    file.write_text('{"number": 1}\n\n{"number": \n')
    result = postbus("publish", *APP, "deeds.deed.asked", "--file", str(file))
    assert result.code == 2
    assert "line 3" in result.err
    assert postbus("events", "list", *APP, "--json").out == ""


def test_a_rate_holds_back(shop: Shop) -> None:
    file = shop.folder / "deeds.jsonl"
    file.write_text('{"number": 1}\n' * 20)
    began = time.monotonic()
    assert postbus("publish", *APP, "deeds.deed.asked", "--file", str(file), "--rate", "40/s").code == 0
    assert time.monotonic() - began >= 0.2


# -- status


def test_status_tells_people_and_programs_how_every_subscription_stands(shop: Shop) -> None:
    postbus("publish", *APP, "deeds.deed.asked", '{"number": 1}')
    bury(Deed(2, "reject"))
    table = postbus("status", *APP)
    assert table.code == 0
    assert table.out.splitlines()[0].split()[:2] == ["subscription", "ready"]
    row = next(line for line in table.out.splitlines() if line.startswith("work "))
    assert row.split()[-3:] == ["1", "0", "ok"]
    status = postbus("status", *APP, "--json").json
    work = next(s for s in status["subscriptions"] if s["name"] == "work")
    assert set(work) == {
        "name", "backlog", "in_flight", "scheduled", "retrying", "dead", "oldest_age", "next_due", "parked", "waiting",
        "parked_events", "trimmed", "workers", "paused",
    }  # fmt: skip
    assert set(status) == {"subscriptions", "totals", "workers", "outbox", "broken_limits"}
    assert (work["dead"], status["totals"]["dead"]) == (1, 1)


@pytest.mark.parametrize(
    ("limits", "code"),
    [("dead>0", 4), ("lag>0,dead>5", 4), ("lag>1000", 0), ("workers<1", 4), ("age>1h", 0), ("dead>=1", 4)],
)
def test_a_limit_that_is_broken_fails_the_check(shop: Shop, limits: str, code: int) -> None:
    bury(Deed(1, "reject"))
    postbus("publish", *APP, "deeds.deed.asked", '{"number": 1}')
    result = postbus("status", *APP, "--fail-on", limits)
    assert result.code == code
    assert ("work: " in result.err) == (code == 4)


@pytest.mark.parametrize("limits", ["dead", "luck>0", "dead>many"])
def test_a_limit_that_is_none_is_a_usage_error(shop: Shop, limits: str) -> None:
    assert postbus("status", *APP, "--fail-on", limits).code == 2


# -- events


def test_events_lists_what_the_program_declares_and_what_is_stored(shop: Shop) -> None:
    declared = postbus("events", *APP, "--json").lines
    asked = next(one for one in declared if one["name"] == "deeds.deed.asked")
    assert (asked["class"], asked["subscriptions"]) == ("deeds.Deed", ["work"])
    assert postbus("events", "list", *APP, "--json").out == ""
    postbus("publish", *APP, "deeds.deed.asked", '{"number": 1}')
    (stored,) = postbus("events", "list", *APP, "--name", "deeds.*.asked", "--json").lines
    assert stored["states"] == {"work": "ready"}
    assert postbus("events", "list", *APP, "--name", "deeds.deed.followed", "--json").out == ""
    assert stored["id"] in postbus("events", "list", *APP).out


def test_an_event_that_is_not_stored_is_an_error(shop: Shop) -> None:
    result = postbus("events", "show", *APP, str(uuid4()))
    assert (result.code, result.out) == (1, "")


# -- dead letters


def test_dead_letters_are_listed_filtered_and_shown(shop: Shop) -> None:
    bury(Deed(1, "reject"), Deed(2, "fail"))
    letters = postbus("dead", "list", *APP, "--json").lines
    assert [letter["reason"] for letter in letters] == ["not this one", "attempts spent"]
    for filters, count in {
        ("--error", "valueerror"): 1,
        ("--reason", "not this"): 1,
        ("--name", "deeds.deed.*"): 2,
        ("--sub", "follows"): 0,
        ("--older-than", "1h"): 0,
        ("--older-than", "0s"): 2,
        ("--limit", "1"): 1,
        ("--ids", letters[0]["id"]): 1,
    }.items():
        assert len(postbus("dead", "list", *APP, *filters, "--json").lines) == count, filters
    shown = postbus("dead", "show", *APP, letters[1]["id"], "--json").json
    assert shown["payload"]["do"] == "fail"
    assert "ValueError" in shown["traceback"]
    assert postbus("dead", "show", *APP, letters[1]["event"]["id"], "--json").json["id"] == letters[1]["id"]


def test_an_unknown_subscription_is_named_with_those_there_are(shop: Shop) -> None:
    bury(Deed(1, "reject"))
    result = postbus("dead", "list", *APP, "--sub", "other")
    assert result.code == 2
    assert "there are apart, blocks, follows, work" in result.err


def test_a_dry_run_counts_and_does_nothing(shop: Shop) -> None:
    bury(Deed(1, "reject"), Deed(2, "reject"))
    for what in ("replay", "discard"):
        result = postbus("dead", what, *APP, "--all", "--dry-run")
        assert (result.code, result.out) == (0, "")
        assert "2 dead letters would be" in result.err
    assert len(postbus("dead", "list", *APP, "--json").lines) == 2


@pytest.mark.parametrize(
    "arguments", [("dead", "discard", "--all"), ("dead", "replay", "--all"), ("subs", "retire", "work")]
)
def test_without_a_terminal_nothing_is_destroyed_unless_yes_was_said(shop: Shop, arguments: tuple[str, ...]) -> None:
    bury(Deed(1, "reject"))
    group, command, *rest = arguments
    result = postbus(group, command, *APP, *rest)
    assert result.code == 2
    assert "--yes" in result.err
    assert "1 dead letters" in result.err
    assert len(postbus("dead", "list", *APP, "--json").lines) == 1


def test_what_to_replay_must_be_said(shop: Shop) -> None:
    result = postbus("dead", "replay", *APP, "--yes")
    assert result.code == 2
    assert "--all" in result.err


def test_replay_and_discard_move_what_was_chosen(shop: Shop) -> None:
    bury(Deed(1, "reject"), Deed(2, "reject"), Deed(3, "fail"))
    letters = postbus("dead", "list", *APP, "--json").lines
    assert postbus("dead", "replay", *APP, letters[0]["id"], "--yes").out == "1 dead letters replayed\n"
    assert postbus("status", *APP, "--json").json["totals"]["backlog"] == 1
    assert postbus("dead", "discard", *APP, "--error", "ValueError", "--yes", "--rate", "1000/s").out.startswith("1 ")
    assert [letter["id"] for letter in postbus("dead", "list", *APP, "--json").lines] == [letters[1]["id"]]


def test_retries_are_listed_run_now_and_discarded(shop: Shop) -> None:
    async def fail(bus: Bus) -> None:
        await bus.publish_many([Deed(number) for number in range(3)])
        claimed = await bus.transport.claim("work", owner="a", limit=3, lease=60)
        failed = Requeue(600, Failure("builtins.OSError", "no route to host"))
        await bus.transport.settle([(delivery, failed) for delivery in claimed.deliveries])

    def standing() -> tuple[int, int, int]:
        work = with_bus(lambda bus: bus.stats())["work"]
        return work.backlog, work.retrying, work.dead

    with_bus(fail)
    listed = postbus("retries", "list", *APP, "--json").lines
    assert [(one["subscription"], one["attempt"]) for one in listed] == [("work", 2)] * 3
    first, second, third = (one["event"]["id"] for one in listed)
    assert first in postbus("retries", "list", *APP).out
    assert postbus("retries", "list", *APP, "--sub", "work", "--name", "other.>", "--json").lines == []
    assert "3 retries would be discarded" in postbus("retries", "discard", *APP, "--all", "--dry-run").err
    assert postbus("retries", "discard", *APP).code == 2
    assert postbus("retries", "run-now", *APP, first, "--yes").out == "1 retries run now\n"
    assert standing() == (1, 2, 0)
    assert postbus("retries", "discard", *APP, "--sub", "work", "--ids", f"{second},{third}", "--yes").out.startswith(
        "2 "
    )
    assert standing() == (1, 0, 0)


def test_workers_are_listed_and_only_those_that_live_can_be_asked(shop: Shop) -> None:
    assert postbus("workers", "list", *APP, "--json").lines == []
    for what in ("quiet", "resume", "stop"):
        refused = postbus("workers", what, *APP, "nobody")
        assert (refused.code, "no worker is called nobody: there are none" in refused.err) == (1, True)


def test_what_is_exported_can_be_published_again(shop: Shop) -> None:
    bury(Deed(1, "reject"))
    file = shop.folder / "dead.jsonl"
    assert postbus("dead", "export", *APP, "--output", str(file)).code == 0
    (record,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert (record["name"], record["payload"]["number"]) == ("deeds.deed.asked", 1)
    assert {"body_base64", "traceback", "reason", "subscription", "letter"} <= set(record)
    file.write_text(json.dumps({**record, "id": str(uuid4())}))
    assert postbus("publish", *APP, "--file", str(file)).out == "1 events published\n"


# -- subscriptions


def test_subscriptions_are_listed_paused_resumed_renamed_and_retired(shop: Shop) -> None:
    postbus("setup", *APP)
    assert {one["name"] for one in postbus("subs", "list", *APP, "--json").lines} == {
        "work",
        "follows",
        "blocks",
        "apart",
    }
    assert postbus("subs", "pause", *APP, "work").out == "work paused\n"
    assert "paused" in postbus("status", *APP).out
    assert postbus("subs", "resume", *APP, "work").code == 0
    assert postbus("subs", "rename", *APP, "work", "worked", "--dry-run").out == "work would be renamed to worked\n"
    assert postbus("subs", "rename", *APP, "work", "worked").out == "work is renamed to worked\n"
    assert postbus("subs", "retire", *APP, "worked", "--yes").code == 0
    assert {one["name"] for one in postbus("subs", "list", *APP, "--json").lines} == {"follows", "blocks", "apart"}
    assert postbus("subs", "pause", *APP, "work").code == 2


def test_looking_declares_nothing(shop: Shop) -> None:
    for arguments in (("status",), ("events", "list"), ("dead", "list"), ("subs", "list"), ("doctor",)):
        postbus(*arguments, *APP)
    assert postbus("subs", "list", *APP, "--json").out == ""


def test_seek_counts_first_and_then_delivers_again(shop: Shop) -> None:
    postbus("publish", *APP, "deeds.deed.asked", '{"number": 1}')
    dry = postbus("subs", "seek", *APP, "work", "--to", "start", "--dry-run")
    assert (dry.code, "up to 1 events" in dry.err) == (0, True)
    assert postbus("subs", "seek", *APP, "work", "--to", "1h", "--yes").code == 0
    assert postbus("subs", "seek", *APP, "work", "--to", "yesterday", "--yes").code == 2


# -- doctor


def test_the_doctor_finds_what_is_undeclared_waiting_dead_and_paused(shop: Shop) -> None:
    sick = postbus("doctor", *APP, "--json")
    assert sick.code == 4
    assert {f["what"] for f in sick.json["findings"] if f["level"] == "error"} == {
        f"subscription {name}" for name in ("work", "follows", "blocks", "apart")
    }
    postbus("setup", *APP)
    assert postbus("doctor", *APP, "--json").json["ok"] is True
    bury(Deed(1, "reject"))
    postbus("publish", *APP, "deeds.deed.asked", '{"number": 1}')
    postbus("subs", "pause", *APP, "follows")
    found = {(f["level"], f["what"]): f for f in postbus("doctor", *APP, "--json").json["findings"]}
    assert found["error", "subscription work"]["advice"] == "postbus worker"
    assert "dead letters" in found["warning", "subscription work"]["text"]
    assert "paused" in found["warning", "subscription follows"]["text"]
    assert postbus("doctor", *APP, "--strict").code == 4


def test_the_doctor_names_a_transport_it_cannot_open(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEDS_URL", "sqlite:////nowhere/at/all.db")
    result = postbus("doctor", *APP)
    assert result.code == 4
    assert "/nowhere/at" in result.out


# -- the terminal, and secrets


def test_nothing_that_comes_from_outside_steers_the_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bus(nasty)
    (letter,) = postbus("dead", "list", *APP, "--json").lines
    shown: list[Result] = [postbus(*words, *APP) for words in (("dead", "list"), ("status",), ("events", "list"))]
    shown += [postbus("dead", "show", *APP, letter["id"]), postbus("dead", "show", *APP, letter["id"], "--json")]
    shown += [postbus("subs", "pause", *APP, NASTY), postbus("publish", *APP, "a.b", NASTY), postbus(NASTY)]
    shown += [postbus("dead", "export", *APP), postbus("dead", "list", *APP, "--json")]
    monkeypatch.setenv("FORCE_COLOR", "1")
    for result in shown:
        assert all(char.isprintable() or char == "\n" for char in result.out + result.err), result
    assert "\\x1b" in shown[3].out
    coloured = postbus("dead", "list", *APP)
    assert "\x1b]0" not in coloured.out
    assert "\x07" not in coloured.out


async def nasty(bus: Bus) -> None:
    @bus.subscriber("deeds.odd.asked", name="odd")
    def odd(event: RawEvent) -> None:
        raise Reject(NASTY)

    await bus.publish(RawEvent("deeds.odd.asked", {"text": NASTY}, key=NASTY.rstrip("\0")))
    await bus.drain(only=["odd"])


def test_a_password_is_never_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("redis://:canary@localhost:1/0", "sqlite:///x.db?password=canary", "canary://me:canary@host/x"):
        monkeypatch.setenv("DEEDS_URL", url)
        for arguments in (("status",), ("doctor",), ("worker", "--dry-run"), ("publish", "deeds.deed.asked", "{}")):
            command, *rest = arguments
            result = postbus(command, *APP, *rest)
            assert result.code in (0, 2, 3, 4)
            assert "canary" not in (result.out + result.err).replace("'canary'", "").replace("canary://", "")


def test_colours_are_for_terminals_and_can_be_had_and_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    bury(Deed(1, "reject"))
    assert "\x1b[" not in postbus("status", *APP).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in postbus("status", *APP).out
    assert "\x1b[" not in postbus("--no-color", "status", *APP).out


# -- the others


def test_init_writes_a_program_that_runs_and_never_overwrites_one(shop: Shop) -> None:
    assert postbus("init").code == 0
    assert postbus("init").code == 1
    program = shop.folder / "shop.py"
    assert 25 <= len(program.read_text().splitlines()) <= 35
    ran = subprocess.run([sys.executable, "shop.py"], cwd=shop.folder, capture_output=True, text=True, check=True)
    assert "published" in ran.stdout
    assert postbus("doctor", "--app-dir", str(shop.folder), "shop:bus").code == 4  # it waits, and no worker runs it
    assert postbus("init", "not-a-module.py").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    assert "_POSTBUS_COMPLETE" in postbus("completion", shell).out


def test_completion_knows_the_commands() -> None:
    env = {**os.environ, "_POSTBUS_COMPLETE": "bash_complete", "COMP_WORDS": "postbus sta", "COMP_CWORD": "1"}
    found = subprocess.run([sys.executable, "-m", "postbus"], env=env, capture_output=True, text=True, check=False)
    assert "status" in found.stdout


def test_version_is_plain_for_people_and_full_for_programs() -> None:
    plain = postbus("version").out.strip()
    assert postbus("version", "--json").json["postbus"] == plain
    assert plain in postbus("--version").out


def test_bench_measures_the_transport_it_is_given(shop: Shop) -> None:
    result = postbus("bench", "--seconds", "0.05", "--rounds", "1", "--json")
    assert result.code == 0
    rates = result.json["events_per_second"]
    assert all(rate > 0 for rounds in rates.values() for rate in rounds)
    assert any("drain" in what for what in rates)
