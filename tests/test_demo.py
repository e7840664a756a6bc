"""The demo: its data is what it says, its storm is told in order, its ledger finds what is wrong, and a run adds up."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from postbus import Bus, ConfigError
from postbus.demo import DemoOptions, run
from postbus.demo.airport import AT_ONCE, MEANT_FOR, airport, bus_at
from postbus.demo.announcer import Announcer
from postbus.demo.board import Accepted, Airport, accepted_events, create_tables, open_board, read_board
from postbus.demo.crew import Crew, CrewFailed
from postbus.demo.events import FlightArrived, FlightCancelled, FlightDelayed, FlightDeparted, FlightScheduled
from postbus.demo.flights import NEW_YORK, Flight, Hour, read_flights, read_weather
from postbus.demo.ledger import Evidence, Holding, Killed, Ledger, reckon
from postbus.demo.outside import Outside
from postbus.demo.place import VARIABLE, Place
from postbus.demo.plain import Lines
from postbus.demo.records import Entry, Reader
from postbus.demo.report import as_json, as_text
from postbus.demo.roster import Member, Roster
from postbus.demo.screen import draw
from postbus.demo.services import Desk, Refused, Request, Unavailable, ask
from postbus.demo.sight import Lane, News, Sight, strip_of
from postbus.demo.storm import SCRIPT, happenings, mends_left, window
from postbus.transport import WorkerInfo
from server_kinds import Kind, PostgresKind, RedisKind
from servers import own

# -- the data


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("flights.csv.gz", "e075fd0e5103664a64df2ecdc85c266115a53570aa915d7d375510068f3a13fd"),
        ("weather.csv.gz", "2544ea7df0a1c786a01315c104167fe2883a9ea345d6510a2d3b06b55c7b193f"),
    ],
)
def test_the_extract_is_the_one_its_source_note_describes(name: str, digest: str) -> None:
    data = files("postbus.demo") / "data"
    content = gzip.decompress((data / name).read_bytes())
    assert hashlib.sha256(content).hexdigest() == digest
    assert digest in (data / "SOURCE.md").read_text()


def test_there_are_3375_flights_of_which_895_were_cancelled() -> None:
    flights = read_flights()
    assert len(flights) == 3_375
    assert sum(flight.cancelled for flight in flights) == 895
    assert sum(flight.cancelled and flight.tail is None for flight in flights) == 337
    assert {flight.departs_at.day for flight in flights} == {7, 8, 9, 10}
    assert len(read_weather()) == 4 * 24


def test_every_landing_leaves_time_for_the_recorded_flight_and_some_taxiing() -> None:
    for flight in read_flights():
        if flight.departed_at and flight.arrived_at and flight.minutes_in_air is not None:
            on_the_ground = (flight.arrived_at - flight.departed_at).total_seconds() / 60 - flight.minutes_in_air
            assert 0 < on_the_ground < 150, flight


# -- the storm


def a_flight(**changes: object) -> Flight:
    at = datetime(2013, 2, 8, 12, 0, tzinfo=NEW_YORK)
    flight = Flight(
        carrier="UA",
        number="1545",
        tail="N14228",
        seats=149,
        origin="EWR",
        destination="IAH",
        departs_at=at,
        departed_at=at + timedelta(minutes=20),
        arrived_at=at + timedelta(hours=4),
        minutes_in_air=200,
    )
    return replace(flight, **changes)  # type: ignore[arg-type]


def test_a_late_flight_is_scheduled_then_delayed_then_departs_and_arrives() -> None:
    told = happenings([a_flight()])
    assert [type(h.event) for h in told] == [FlightScheduled, FlightDelayed, FlightDeparted, FlightArrived]
    assert [h.at.strftime("%H:%M") for h in told] == ["09:00", "12:00", "12:20", "16:00"]
    assert told[1].event == FlightDelayed(told[0].event.leg, 20)


def test_a_cancelled_flight_is_called_off_before_its_time_and_a_lost_one_never_arrives() -> None:
    cancelled = happenings([a_flight(departed_at=None, arrived_at=None, minutes_in_air=None)])
    assert [(type(h.event), h.at.hour) for h in cancelled] == [(FlightScheduled, 9), (FlightCancelled, 10)]
    lost = happenings([a_flight(arrived_at=None, minutes_in_air=None)])
    assert not any(isinstance(h.event, FlightArrived) for h in lost)


def test_the_four_days_are_told_in_order_and_completely() -> None:
    told = happenings(read_flights())
    assert all(one.at <= two.at for one, two in itertools.pairwise(told))
    kinds = Counter(type(h.event) for h in told)
    assert kinds == {
        FlightScheduled: 3_375,
        FlightCancelled: 895,
        FlightDeparted: 2_480,
        FlightArrived: 2_477,
        FlightDelayed: 570,
    }
    assert len({(type(h.event), h.event.leg.id) for h in told}) == len(told)


def test_all_four_days_fit_into_the_seconds_given() -> None:
    told = happenings(read_flights())
    pace = window(told, seconds=50, speed=None)
    assert (pace.clock(0), pace.clock(50)) == (told[0].at, told[-1].at)
    assert pace.share(pace.clock(25)) == pytest.approx(0.5)


def test_a_run_too_short_for_its_speed_plays_the_worst_of_the_storm() -> None:
    told = happenings(read_flights())
    pace = window(told, seconds=8, speed=7_200)
    assert pace.ends_at - pace.begins_at == timedelta(hours=16)
    played = [h for h in told if pace.begins_at <= h.at <= pace.ends_at]
    assert sum(isinstance(h.event, FlightCancelled) for h in played) > 400


def test_whatever_is_broken_by_the_script_is_mended_however_early_a_run_ends() -> None:
    acts = [scene.act for scene in SCRIPT]
    for broken, mended in (("rebooking down", "rebooking up"), ("pause crews", "resume crews")):
        place = acts.index(broken)  # type: ignore[arg-type]
        assert mended not in [scene.act for scene in mends_left(SCRIPT, place)]
        assert mended in [scene.act for scene in mends_left(SCRIPT, place + 1)]
    assert [scene.act for scene in mends_left(SCRIPT, 0)] == ["fix refunds"]
    assert mends_left(SCRIPT, len(SCRIPT)) == ()


# -- the outside services


def test_a_desk_does_a_thing_once_for_each_key() -> None:
    desk = Desk("refunds", (0, 0))
    request = Request("refunds", "e1:refunds", "UA 1545", "N14228")
    assert [desk.decide(request).says for _ in range(2)] == ["done", "repeat"]


def test_a_desk_that_is_down_does_nothing_and_one_with_a_fault_refuses_some() -> None:
    desk = Desk("refunds", (0.01, 0.02), needs_tail=True)
    with_aircraft, without = Request("refunds", "1", "UA 1", "N1"), Request("refunds", "2", "UA 2", None)
    assert (desk.decide(without).says, desk.decide(with_aircraft).says) == ("refused", "done")
    desk.down, desk.needs_tail = True, False
    assert desk.decide(without).says == "unavailable"
    desk.down = False
    assert desk.decide(without).says == "done"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b'{"says":"unavailable"}\n', Unavailable),
        (b'{"says":"refused"}\n', Refused),
        (b"", Unavailable),
        (b"?\n", Unavailable),
    ],
)
async def test_asking_a_desk_raises_what_it_says(reply: bytes, expected: type[Exception]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(expected):
            await ask(server.sockets[0].getsockname()[1], Request("refunds", "1", "UA 1", None))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    services = Outside(tmp_path, seed=1)
    yield services
    services.stop()


async def test_the_outside_services_obey_orders_and_keep_a_record_of_their_own(outside: Outside) -> None:
    port, event = outside.port(), uuid4()
    request = Request("rebooking", f"{event}:rebooking", "UA 1545", None)

    outside.tell("down", "rebooking")
    await asyncio.wait_for(until_down(port), 10)
    assert outside.trouble["rebooking"] == "down"
    outside.tell("up", "rebooking")
    outside.tell("fix", "refunds")
    await asyncio.wait_for(until_served(port, request), 10)
    assert (await ask(port, request)).says == "repeat"
    assert outside.trouble == {}
    outside.stop()
    assert [says for desk, id_, says in outside.served() if (desk, id_) == ("rebooking", event)] == ["done", "repeat"]


async def until_down(port: int) -> None:
    """Orders reach the services a moment after they were given."""
    with suppress(Unavailable):
        while True:
            await ask(port, Request("rebooking", f"{uuid4()}:rebooking", "UA 1", None))


async def until_served(port: int, request: Request) -> None:
    while True:
        with suppress(Unavailable):
            await ask(port, request)
            return


# -- the publisher


async def test_where_the_bus_has_a_store_of_its_own_the_board_keeps_a_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(folder=tmp_path, url="redis://elsewhere", namespace="demo")
    place.save()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    told = happenings(read_flights())[:50]
    with closing(open_board(place.board)) as connection:
        create_tables(connection)
        async with bus_at(replace(place, url="memory://")) as bus:
            announcer = Announcer(bus, connection, enlists=place.enlists)
            assert await announcer.withdraw(told) == 0
            await announcer.announce(told)
            stored = {event.envelope.id for event in await bus.events.list()}
        assert {event.id for event in accepted_events(connection)} == stored
        assert (announcer.count, len(stored)) == (50, 50)
        assert sum(line.waiting for line in read_board(connection)) == 50


# -- the records


def test_a_record_is_read_line_by_line_and_a_line_on_its_way_is_left_for_later(tmp_path: Path) -> None:
    reader, id_ = Reader(tmp_path), uuid4()
    file = tmp_path / "42.log"
    file.write_text(f"1.5 start crews {id_} 1\n2.5 do")
    assert reader.new_entries() == [Entry(1.5, 42, "start", "crews", id_, 1)]
    file.write_text(f"1.5 start crews {id_} 1\n2.5 done crews {id_} 1\n")
    assert reader.new_entries() == [Entry(2.5, 42, "done", "crews", id_, 1)]
    assert reader.new_entries() == []


# -- the roster


def a_beat(owner: str, pid: int, *, draining: bool = False, host: str | None = None) -> WorkerInfo:
    return WorkerInfo(
        owner=owner,
        host=host or socket.gethostname(),
        pid=pid,
        version="1",
        started_at=datetime(2013, 2, 7, tzinfo=NEW_YORK),
        subscriptions=("crews",),
        concurrency=10,
        state="draining" if draining else "running",
    )


def test_a_worker_that_is_listed_though_its_process_is_gone_has_died() -> None:
    living = {1, 2}
    roster = Roster(living.__contains__)
    roster.update([a_beat("a", 1), a_beat("b", 2)])
    living.remove(2)
    roster.update([a_beat("a", 1), a_beat("b", 2)])
    assert [member.state for member in roster.members()] == ["running", "killed"]
    assert [member.pid for member in roster.died()] == [2]
    roster.update([a_beat("a", 1)])
    assert (roster.died(), [member.number for member in roster.living()]) == ([], [1])


def test_a_worker_that_took_itself_off_the_list_has_ended() -> None:
    roster = Roster(lambda pid: pid == 1)
    roster.update([a_beat("a", 1), a_beat("b", 2, host="elsewhere")])
    roster.update([a_beat("a", 1, draining=True)])
    assert [member.state for member in roster.members()] == ["stopping", "gone"]
    assert roster.died() == []


def test_each_worker_that_comes_is_told_once() -> None:
    roster = Roster(lambda _: True)
    roster.update([a_beat("a", 1)])
    assert [member.number for member in roster.arrived()] == [1]
    roster.update([a_beat("a", 1), a_beat("b", 2)])
    assert [member.number for member in roster.arrived()] == [2]


# -- the ledger


class Story:
    """Evidence of a small run, told line by line; one aircraft, and the subscriptions `refunds` and `crews`."""

    def __init__(self, events: int = 3) -> None:
        self.published = [Accepted(uuid4(), "f.cancelled", "N1", f"UA {n}") for n in range(events)]
        self.entries: list[Entry] = []
        self.dead: set[UUID] = set()
        self.stored: set[UUID] = set()
        self.withdrawn: set[UUID] = set()
        self.served: list[tuple[str, UUID, str]] = []
        self.killed: list[Killed] = []
        self._now = 0.0

    def does(self, what: str, event: int, *, by: int = 1, subscription: str = "refunds") -> None:
        self._now += 1
        id_ = self.published[event].id
        self.entries.append(Entry(self._now, by, what, subscription, id_, 1))  # type: ignore[arg-type]
        if what == "done":
            self.served.append(("refunds", id_, "done"))

    def ledger(self, subscription: str = "refunds") -> Ledger:
        holding = Holding(
            subscription=subscription,
            meant_for={"f.cancelled"},
            dead=self.dead,
            stored=self.stored,
            desk="refunds" if subscription == "refunds" else None,
        )
        return reckon(
            Evidence(
                published=self.published,
                withdrawn=self.withdrawn,
                entries=self.entries,
                served=self.served,
                holdings=[holding],
                killed=self.killed,
                at_once=1,
            )
        )


def test_a_run_adds_up_when_each_event_was_done_or_is_dead_or_stored() -> None:
    story = Story(3)
    story.does("done", 0)
    story.dead = {story.published[1].id}
    story.stored = {story.published[2].id}
    ledger = story.ledger()
    (account,) = ledger.accounts
    assert (account.published, account.succeeded, account.dead, account.stored) == (3, 1, 1, 1)
    assert ledger.adds_up


def test_an_event_that_nobody_has_is_missing_by_name() -> None:
    story = Story(2)
    story.does("done", 0)
    ledger = story.ledger()
    assert not ledger.adds_up
    assert "cancelled UA 1" in ledger.problems[0]
    assert str(story.published[1].id) in as_text(ledger)
    assert "does not add up" in as_text(ledger)


def test_equal_counts_of_different_events_do_not_add_up() -> None:
    story = Story(1)
    story.stored = {uuid4()}
    assert not story.ledger().adds_up


def test_what_was_delivered_and_never_published_is_a_phantom() -> None:
    story = Story(2)
    story.does("done", 0)
    story.does("done", 1)
    story.withdrawn = {story.published.pop().id}
    problems = story.ledger().problems
    assert any("never published" in problem for problem in problems)
    assert any("rolled back, and yet delivered" in problem for problem in problems)


def test_work_that_no_desk_heard_of_does_not_add_up() -> None:
    story = Story(1)
    story.does("done", 0)
    story.served.clear()
    assert "unknown to the desk" in story.ledger().problems[0]


def test_repeats_are_counted_and_are_a_fault_only_where_no_death_explains_them() -> None:
    story = Story(1)
    story.does("done", 0, by=1)
    story.does("done", 0, by=2)
    assert "done twice" in story.ledger().problems[0]
    story.killed = [Killed(worker=1, pid=1, at=1.5)]
    ledger = story.ledger()
    assert ledger.adds_up
    assert ledger.accounts[0].repeated == 1


def test_the_bound_on_repeats_is_what_one_worker_runs_at_once() -> None:
    bus = Bus("memory://")
    bus.include(airport)
    assert sum(subscriber.concurrency for subscriber in bus._all_subscribers()) == AT_ONCE


def test_what_was_done_but_not_settled_is_named_so() -> None:
    story = Story(1)
    story.does("done", 0)
    story.stored = {story.published[0].id}
    account = story.ledger().accounts[0]
    assert (account.succeeded, account.stored, account.unsettled) == (1, 0, 1)


def test_events_of_one_aircraft_out_of_order_are_found() -> None:
    story = Story(2)
    for event in (1, 0):
        story.does("start", event, subscription="crews")
        story.does("done", event, subscription="crews")
    ledger = story.ledger("crews")
    assert "out of order" in ledger.problems[0]
    assert ledger.aircraft == 1


def test_a_repeat_by_another_worker_is_not_out_of_order() -> None:
    story = Story(2)
    story.does("start", 0, by=1, subscription="crews")
    for event in (0, 1):
        story.does("start", event, by=2, subscription="crews")
        story.does("done", event, by=2, subscription="crews")
    assert story.ledger("crews").adds_up


def test_the_work_of_a_killed_worker_is_followed_to_whoever_did_it() -> None:
    story = Story(3)
    story.does("start", 0, by=1)
    story.does("done", 0, by=1)
    story.does("start", 1, by=1)
    story.does("failed", 1, by=1)
    story.does("start", 1, by=1)
    story.does("start", 2, by=1)
    story.killed = [Killed(worker=1, pid=1, at=6.0)]
    story.does("done", 1, by=2)
    story.stored = {story.published[2].id}
    (take_over,) = story.ledger().take_overs
    assert (take_over.unfinished, take_over.taken, take_over.seconds) == (2, 1, None)
    story.does("done", 2, by=2)
    (take_over,) = story.ledger().take_overs
    assert (take_over.unfinished, take_over.taken, take_over.seconds) == (2, 2, 2.0)


def test_the_ledger_as_json_says_the_same() -> None:
    story = Story(2)
    story.does("done", 0)
    said = json.loads(as_json(story.ledger(), seconds=1.5))
    assert (said["adds_up"], said["published"], said["seconds"]) == (False, 2, 1.5)
    assert said["accounts"][0]["missing"] == [f"cancelled UA 1 ({story.published[1].id})"]


# -- what is seen

NOW = datetime(2013, 2, 8, 16, 40, tzinfo=NEW_YORK)


STRIP = strip_of(happenings(read_flights()), 64)


def a_sight(**changes: object) -> Sight:
    sight = Sight(
        clock=NOW,
        elapsed=20.0,
        share=0.4,
        published=4_112,
        total=9_797,
        weather=Hour(starts_at=NOW, fahrenheit=33, wind_mph=32, visibility_miles=1.5),
        strip=STRIP,
        airports=(
            Airport(code="EWR", waiting=120, cancelled=151),
            Airport(code="JFK"),
            Airport(code="LGA", arrived=77),
        ),
        lanes=(
            Lane(name="passengers", done=1_204, rate=45.2, running=3),
            Lane(name="rebooking", done=310, waiting=121, running=18, retrying=90, dead=14),
        ),
        workers=(
            Member(number=1, pid=4_123, state="running"),
            Member(number=2, pid=4_124, state="killed"),
        ),
        trouble={"rebooking": "down"},
        news=(
            News(NOW - timedelta(hours=4), "the rebooking service went down", "bad"),
            News(NOW, "worker 2 was killed", "bad"),
        ),
        tries=("kill -9 4123",),
    )
    return replace(sight, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (160, 50)])
def test_the_screen_shows_the_whole_story_and_fits(width: int, height: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width, height=height).print(draw(a_sight(), width, height))
    text = out.getvalue()
    assert len(text.splitlines()) <= height
    assert max(map(len, text.splitlines())) <= width
    for shown in ("16:40", "4,112 events", "snow", "229", "14", "✗", "went down", "was killed", "kill -9 4123"):
        assert shown in text, shown


def test_lines_come_once_a_second_and_leave_out_no_news() -> None:
    out = io.StringIO()
    with Lines(out) as lines:
        for tenth in range(21):
            lines.show(a_sight(elapsed=tenth / 10))
    printed = out.getvalue().splitlines()
    assert len(printed) == 3
    assert "went down" in printed[0]
    assert "was killed" in printed[1]
    assert "published  4,112 of 9,797" in printed[2]
    assert "behind: rebooking 229" in printed[2]


def test_news_that_had_to_wait_is_told_at_the_end() -> None:
    out = io.StringIO()
    with Lines(out) as lines:
        lines.show(a_sight())
    assert "was killed" in out.getvalue().splitlines()[-1]


# -- options


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"speed": -1.0}, {"workers": 0}, {"url": "memory://"}], ids=str)
def test_options_that_cannot_work_are_refused_at_once(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        DemoOptions(**wrong)  # type: ignore[arg-type]


# -- whole runs, with worker processes


def a_run(**options: object) -> tuple[int, dict[str, Any], str]:
    """The exit code, the ledger, and what was said."""
    out, err = io.StringIO(), io.StringIO()
    code = run(DemoOptions(json=True, headless=True, **options), out=out, err=err)  # type: ignore[arg-type]
    return code, json.loads(out.getvalue()), err.getvalue()


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_all_four_days_in_twelve_seconds_add_up() -> None:
    code, ledger, said = a_run(seconds=12)
    assert (code, ledger["problems"], ledger["broken"]) == (0, [], None), said
    accounts = {account["subscription"]: account for account in ledger["accounts"]}
    assert {name: account["published"] for name, account in accounts.items()} == {
        "passengers": 1_465,
        "rebooking": 895,
        "refunds": 895,
        "crews": 4_957,
        "logbook": 9_797,
    }
    assert {name: account["dead"] for name, account in accounts.items() if account["dead"]} == {"crews": 5}
    assert not any(account["stored"] or account["unsettled"] for account in accounts.values())
    assert (ledger["published"], ledger["withdrawn"], ledger["aircraft"]) == (9_797, 10, 1_306)
    (taken,) = ledger["take_overs"]
    assert taken["taken"] == taken["unfinished"]
    assert "the refund service was fixed" in said
    assert "payroll closes its month" in said


@pytest.mark.timeout(120)
def test_a_few_hours_of_the_storm_add_up_with_what_broke_mended() -> None:
    code, ledger, said = a_run(seconds=4, speed=10_000, workers=2)
    assert (code, ledger["problems"], ledger["broken"]) == (0, [], None), said
    assert {account["subscription"]: account["stored"] for account in ledger["accounts"]} == dict.fromkeys(MEANT_FOR, 0)
    assert ledger["published"] > 500
    assert "the refund service was fixed" in said
    assert {account["subscription"]: account["dead"] for account in ledger["accounts"]}["refunds"] == 0


@pytest.mark.once
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "kind",
    [RedisKind(durable=True, fsync="everysec"), PostgresKind()],
    ids=["redis", "postgresql"],
)
def test_a_few_hours_of_the_storm_add_up_on_a_server(kind: Kind, tmp_path: Path) -> None:
    for server in own(kind):
        command = [sys.executable, "-m", "postbus", "demo", "--url", server.url, "--headless", "--json"]
        pace = ["--seconds", "4", "--speed", "10000", "--workers", "2"]
        demo = subprocess.run([*command, *pace], cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False)
        assert demo.returncode == 0, demo.stdout + demo.stderr
        ledger = json.loads(demo.stdout)
        assert (ledger["problems"], ledger["broken"]) == ([], None), demo.stderr
        stored = {account["subscription"]: account["stored"] for account in ledger["accounts"]}
        assert stored == dict.fromkeys(MEANT_FOR, 0)
        assert ledger["published"] > 500
        assert "dead letters of 'refunds' replayed" in demo.stderr


@pytest.mark.timeout(120)
def test_an_interrupted_run_says_what_is_still_stored_and_adds_up() -> None:
    code = "import sys; from postbus.demo import *; sys.exit(run(DemoOptions(seconds=30, headless=True, json=True)))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        said = next(line for line in demo.stderr if "published" in line)
        demo.send_signal(signal.SIGINT)
        out, _ = demo.communicate(timeout=60)
    ledger = json.loads(out)
    assert (demo.returncode, ledger["problems"]) == (130, []), said
    assert 0 < ledger["published"] < 9_797


def test_a_crew_that_cannot_start_says_why(tmp_path: Path) -> None:
    crew = Crew(tmp_path, 1)
    crew.start()
    assert crew._supervisor is not None
    crew._supervisor.wait(30)
    with pytest.raises(CrewFailed, match="holds no running demo"):
        crew.check()


@pytest.mark.timeout(120)
def test_in_a_terminal_the_screen_is_shown_and_given_back_before_the_ledger() -> None:
    ours, its = os.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "34"}
    environment = {name: value for name, value in environment.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "postbus", "demo", "--seconds", "2", "--speed", "6000", "--workers", "1"]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as demo:
        os.close(its)
        shown, pages = "", ""
        while chunk := _read(ours):
            shown += chunk.decode(errors="replace")
            if not pages and (found := re.search(r"the dashboard is at (http://127\.0\.0\.1:\d+/)", shown)):
                pages = urllib.request.urlopen(found[1]).read().decode()
    os.close(ours)
    assert "New York, February 2013" in pages
    screen, _, after = shown.partition("\x1b[?1049l")
    assert demo.returncode == 0, shown[-2_000:]
    assert "\x1b[?1049h" in screen
    assert "the blizzard of February 2013" in screen
    assert "kill -9" in screen
    assert "It adds up" in after


def _read(terminal: int) -> bytes:
    """What was written to the terminal; nothing when its last writer has gone."""
    try:
        return os.read(terminal, 65_536)
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017 - how Linux says that nobody holds the other end
        return b""
