"""What the pages say, and what their actions do, asked without a browser, on every transport."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from office import HOSTILE, Office, OrderPlaced, ask, bus_at, office_at, until
from starlette.requests import Request

import postbus
from postbus import RawEvent
from postbus.dashboard import ACTIONS, Access, Shown, app
from postbus.dashboard.serving import Serving

# They share a loop and servers, and so a process.
pytestmark = [pytest.mark.asyncio(loop_scope="session")]

PAGES = (
    "/", "/topics", "/subscriptions", "/subscriptions/receipts", "/events", "/retries", "/dead", "/dead/letters",
    "/workers", "/outbox", "/catalogue", "/system",
)  # fmt: skip


async def test_every_page_answers(any_office: Office) -> None:
    await any_office.bury(1)
    for path in PAGES:
        answer = await ask(any_office, path)
        assert answer.status == 200, (path, answer.text[:500])
        assert answer.headers["content-type"].startswith("text/html")


async def test_an_event_is_found_by_name_key_id_and_chain(any_office: Office) -> None:
    key = f"o-{uuid4().hex[:6]}"
    envelope = await any_office.bus.publish(OrderPlaced(key, note="later"))

    async def paid() -> bool:
        return len(await any_office.bus.events.list(name="orders.order.paid", key=key)) == 1

    await until(paid)
    for query in (f"key={key}&name=orders.order.placed", f"id={envelope.id}", f"name=orders.*.placed&key={key}"):
        found = (await ask(any_office, f"/events?{query}")).text
        assert f"/events/{envelope.id}" in found, query
        assert found.count("data-row") == 1, query
    chain = (await ask(any_office, f"/events?correlation={envelope.id}")).text
    assert "orders.order.paid" in chain
    shown = (await ask(any_office, f"/events/{envelope.id}")).text
    assert "the bank is closed" in shown
    assert "orders.order.paid" in shown  # what it caused
    assert "Next try" in shown


async def test_an_action_says_its_command_and_who_did_it_is_written_down(any_office: Office) -> None:
    question = await ask(any_office, "/ask/pause?sub=ledger")
    assert "postbus subs pause shop:bus ledger" in question.text
    assert not (await any_office.bus.stats())["ledger"].paused  # asking does nothing
    done = await ask(any_office, "/do/pause", form={"sub": "ledger"})
    assert (done.status, "paused" in done.text) == (200, True)
    assert (await any_office.bus.stats())["ledger"].paused
    (action,) = await any_office.bus.journal.actions(limit=1)
    assert (action.what, action.target, action.who) == ("subscription.pause", "ledger", "127.0.0.1 (dashboard)")
    await ask(any_office, "/do/resume", form={"sub": "ledger"})
    assert not (await any_office.bus.stats())["ledger"].paused
    assert "subscription.pause" in (await ask(any_office, "/system")).text


async def test_letters_are_replayed_discarded_and_exported(any_office: Office) -> None:
    await any_office.bus.dead.discard("receipts")
    one, two, three = await any_office.bury(3)
    lines = (await ask(any_office, f"/dead/export?sub=receipts&ids={one}&ids={two}")).text.splitlines()
    exported = [json.loads(line) for line in lines]
    assert {record["id"] for record in exported} == {str(one), str(two)}
    assert exported[0]["payload"]["amount"] == 9_007_199_254_740_993
    assert "body_base64" not in exported[0]  # its password is hidden, in the bytes, too
    assert exported[0]["payload"]["password"] == "•••"
    done = await ask(any_office, "/do/discard", form={"sub": "receipts", "ids": str(one)})
    assert "1 discarded" in done.text
    refused = await ask(any_office, "/do/discard", form={"sub": "receipts", "ids": [str(two), str(three)]})
    assert refused.status == 400
    assert await any_office.dead() == 2
    done = await ask(any_office, "/do/replay", form={"sub": "receipts"})
    assert "2 replayed" in done.text
    await until(lambda: _is(any_office.dead(), 2))
    done = await ask(any_office, "/do/discard", form={"sub": "receipts", "typed": "discard"})
    assert "2 discarded" in done.text
    assert await any_office.dead() == 0


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)


async def test_workers_say_which_release_they_are(any_office: Office) -> None:
    async def beats() -> bool:  # the first heartbeat comes a moment after the worker
        return bool(await any_office.bus.workers())

    await until(beats)
    (worker,) = await any_office.bus.workers()
    assert worker.version == postbus.__version__
    assert f">{postbus.__version__}<" in (await ask(any_office, "/workers")).text


async def test_retries_are_run_now_and_discarded(any_office: Office) -> None:
    await any_office.bus.retries.discard("billing")
    one, two, three = [await any_office.bus.publish(OrderPlaced(f"o-retry-{n}", note="later")) for n in range(3)]
    await until(lambda: _is(any_office.bus.retries.count("billing"), 3))
    page = (await ask(any_office, "/retries?sub=billing")).text
    assert page.count("data-row") == 3
    assert "the bank is closed" in page
    assert "1 of 5" in page

    async def found() -> bool:  # of all subscriptions those that had retries at the last look
        return (await ask(any_office, f"/retries?key={one.key}")).text.count("data-row") == 1

    await until(found)
    assert (await ask(any_office, "/retries?error=CLOSED")).text.count("data-row") == 3
    assert (await ask(any_office, "/retries?error=other")).text.count("data-row") == 0
    question = (await ask(any_office, f"/ask/hasten?sub=billing&ids=billing/{one.id}")).text
    assert f"postbus retries run-now shop:bus --sub billing --ids {one.id}" in question
    done = await ask(any_office, "/do/hasten", form={"sub": "billing", "ids": f"billing/{one.id}"})
    assert "1 run now" in done.text

    async def tried_again() -> bool:
        return any(retry.attempt == 3 for retry in await any_office.bus.retries.list("billing"))

    await until(tried_again)
    refused = await ask(any_office, "/do/abandon", form={"sub": "billing"})
    assert refused.status == 400
    done = await ask(
        any_office, "/do/abandon", form={"ids": [f"billing/{two.id}", f"billing/{three.id}"], "typed": "discard"}
    )
    assert "2 discarded" in done.text
    (left,) = await any_office.bus.retries.list("billing")
    assert left.envelope.id == one.id
    refused = await ask(any_office, "/do/abandon", form={"sub": "billing"})
    assert refused.status == 400, "one that matches now may be many by the time it is done"
    what = [action.what for action in await any_office.bus.journal.actions(limit=2)]
    assert what == ["retry.discard", "retry.run"]
    assert (await any_office.bus.stats())["billing"].dead == 0
    await any_office.bus.retries.discard("billing")


async def test_events_and_letters_are_found_by_when_they_were(any_office: Office) -> None:
    (letter,) = await any_office.bury(1)
    event = (await any_office.bus.dead.list("receipts", ids=(letter,)))[0].envelope
    for path, shown in (
        (f"/events?id={event.id}&within=900", 1),
        (f"/events?id={event.id}&until=900", 0),
        (f"/dead/letters?sub=receipts&key={event.key}&within=900", 1),
        (f"/dead/letters?sub=receipts&key={event.key}&within=99999999999&until=1e9", 1),
        (f"/dead/letters?sub=receipts&key={event.key}&until=3600", 0),
    ):
        answer = await ask(any_office, path)
        assert (answer.status, answer.text.count("data-row")) == (200, shown), path
    question = (await ask(any_office, f"/ask/replay?sub=receipts&key={event.key}&until=3600")).text
    assert f"postbus dead replay shop:bus --sub receipts --key {event.key} --older-than 3600s" in question
    assert "disabled" in question  # there are none


async def test_letters_of_the_outbox_are_grouped_and_discarded(redis_url: str, tmp_path: Path) -> None:
    own = f"sqlite:///{tmp_path}/own.db"
    async with office_at(redis_url, outbox=own, settings={"require_subscription": True}) as office:
        for number in range(3):
            await office.bus.publish(RawEvent("orders.order.lost", {"number": number}))

        async def refused() -> bool:
            assert office.bus.outbox is not None
            return (await office.bus.outbox.stats()).dead == 3

        await until(refused)

        async def grouped() -> bool:
            page = (await ask(office, "/dead?sub=postbus.outbox")).text
            return page.count('id="g-') == 1 and "no subscription takes" in page and "Replay all 3" in page

        await until(grouped)
        group = (await ask(office, "/dead?sub=postbus.outbox")).text.partition('id="g-')[2].partition('"')[0]
        assert (await ask(office, f"/dead/letters?sub=postbus.outbox&group={group}")).text.count("data-row") == 3
        assert "Why they were refused" in (await ask(office, "/outbox")).text
        form = {"sub": "postbus.outbox", "group": group, "typed": "discard"}
        assert "3 discarded" in (await ask(office, "/do/discard", form=form)).text
        assert office.bus.outbox is not None
        assert (await office.bus.outbox.stats()).dead == 0


async def test_a_long_action_shows_its_progress_and_can_be_stopped(memory_office: Office) -> None:
    await memory_office.bus.dead.discard("receipts")
    await memory_office.bury(450)
    done = await ask(memory_office, "/do/replay", form={"sub": "receipts"})
    assert "450" in done.text
    await until(lambda: _is(memory_office.dead(), 450))
    assert (await ask(memory_office, "/tasks/999")).status == 404
    await memory_office.bus.dead.discard("receipts")


async def test_what_is_not_there_is_said_in_a_page(memory_office: Office) -> None:
    for path in ("/subscriptions/nobody", f"/events/{uuid4()}", f"/dead/{uuid4()}", "/nothing", "/dead/x", "/events/x"):
        answer = await ask(memory_office, path)
        assert answer.status == 404, path
        assert "There is nothing here" in answer.text
    assert (await ask(memory_office, "/ask/explode")).status == 404
    assert (await ask(memory_office, "/do/explode", form={})).status == 404


async def test_a_store_that_is_away_is_said_and_what_was_seen_stays(redis_server: Any) -> None:
    async with office_at(redis_server.url, work=False) as office:
        await office.bus.publish(OrderPlaced("o-1"))
        assert "receipts" in (await ask(office, "/subscriptions")).text
        redis_server.stop()

        async def said() -> bool:
            return "The store does not answer" in (await ask(office, "/subscriptions")).text

        await until(said)
        assert "receipts" in (await ask(office, "/subscriptions")).text
        assert (await ask(office, "/events")).status == 503
        redis_server.start()

        async def back() -> bool:
            return "The store does not answer" not in (await ask(office, "/subscriptions")).text

        await until(back)


async def test_a_stream_sends_what_changes_and_ends_with_its_reader(memory_office: Office) -> None:
    url = urlsplit(memory_office.url)

    def listen() -> str:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)
        connection.request("GET", "/subscriptions?live=1")
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        first = answer.readline()
        connection.close()
        return first.decode()

    assert (await asyncio.to_thread(listen)).startswith("data: ")


async def test_a_stream_shows_nothing_older_than_the_page_that_asks_for_it(memory_office: Office) -> None:
    url = urlsplit(memory_office.url)

    def first() -> str:
        """The first message of a stream."""
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)
        connection.request("GET", "/dead/letters?sub=receipts&live=60")
        lines = iter(connection.getresponse().readline, b"\r\n")
        said = b"".join(lines).decode()
        connection.close()
        return said

    for _ in range(3):  # at one of these times no look at the bus lies between the two
        (letter,) = await memory_office.bury(1)
        assert str(letter) in await asyncio.to_thread(first)
        await memory_office.bus.dead.discard("receipts")
        assert str(letter) not in await asyncio.to_thread(first)


async def test_what_the_embedding_program_hides_is_hidden_everywhere() -> None:
    def redact(shown: Shown) -> Shown:
        return replace(shown, payload={**shown.payload, "note": "hidden"} if shown.payload else shown.payload)

    async with office_at("memory://", redact=redact) as office:
        (letter,) = await office.bury(1, note="fail secretly-so")
        stored = (await office.bus.dead.list("receipts"))[0].envelope
        for path in (f"/events/{stored.id}", "/events"):
            assert "secretly-so" not in (await ask(office, path)).text.partition("Payload")[2]
        assert "secretly-so" not in json.loads((await ask(office, "/dead/export")).text)["payload"]["note"]
        assert (await ask(office, f"/ask/amend?sub=receipts&ids={letter}")).status == 400


async def test_the_embedding_program_says_who_may_do_what() -> None:
    grants: dict[str, Any] = {"full": Access.FULL, "reader": Access.READ_ONLY, "pauser": {"pause"}, "": Access.DENY}

    async def authorize(request: Request) -> Any:
        return grants[request.headers.get("x-user", "")]

    async with office_at("memory://", authorize=authorize) as office:
        assert (await ask(office, "/")).status == 403
        assert (await ask(office, "/dead?live=1")).status == 403
        assert (await ask(office, "/series.json")).status == 403
        for user, may in (("full", set(ACTIONS)), ("reader", set()), ("pauser", {"pause"})):
            headers = {"x-user": user}
            assert (await ask(office, "/", headers=headers)).status == 200
            for action in ACTIONS - {"export"}:
                asked = await ask(office, f"/ask/{action}?sub=ledger", headers=headers)
                done = await ask(office, f"/do/{action}", form={"sub": "nobody"}, headers=headers)
                assert (asked.status == 403) == (action not in may), (user, action)
                assert (done.status == 403) == (action not in may), (user, action)
            export = await ask(office, "/dead/export", headers=headers)
            assert (export.status == 403) == ("export" not in may)
        refused = [one for one in await office.bus.journal.actions() if one.result == "refused"]
        assert {action.what for action in refused} >= {"dashboard.replay", "dashboard.discard"}


async def test_it_opens_a_bus_that_nobody_has_opened(tmp_path: Any) -> None:
    bus = bus_at(f"sqlite:///{tmp_path}/alone.db")
    serving = Serving(app(bus), port=0)
    address = (await serving.start()).rstrip("/")
    assert (await ask(address, "/subscriptions")).status == 200
    assert "receipts" in (await ask(address, "/subscriptions")).text
    serving.end()
    await serving.ended()
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "postbus-dashboard" and not task.done()]
    for task in tasks:
        if task.get_coro().cr_frame.f_locals["self"]._bus is bus:  # type: ignore[union-attr]
            task.cancel()
            await asyncio.wait([task])
    assert not bus._life._opens


async def test_hostile_text_is_escaped_in_every_answer(memory_office: Office) -> None:
    note = "fail " + HOSTILE
    await memory_office.bus.publish(OrderPlaced("o-x", note=note))
    await until(lambda: _hostile(memory_office, note))
    for path in (*PAGES, "/dead/letters?sub=receipts", "/events?name=" + "%3Cscript%3E", "/nothing/%3Cscript%3Ehit"):
        answer = await ask(memory_office, path)
        assert "<script>window" not in answer.text, path
        assert "<script>hit" not in answer.text, path
        assert "\u202e" not in answer.text, path


async def _hostile(office: Office, note: str) -> bool:
    return any([letter async for letter in office.bus.dead.each("receipts", error="window.hit")])


async def test_an_outbox_shows_what_waits_and_its_relays(redis_url: str, tmp_path: Any) -> None:
    connection = sqlite3.connect(tmp_path / "own.db")
    async with office_at(redis_url, outbox=f"sqlite:///{tmp_path}/own.db", work=False) as office:
        connection.execute("BEGIN IMMEDIATE")
        envelope = await office.bus.publish(OrderPlaced("o-boxed"), within=connection)
        connection.execute("COMMIT")

        async def pending() -> bool:
            return str(envelope.id) in (await ask(office, "/outbox")).text

        await until(pending)
        assert "No relay lives" in (await ask(office, "/outbox")).text
        paused = await ask(office, "/do/pause", form={"sub": "postbus.outbox"})
        assert paused.status == 200
        assert office.bus.outbox is not None
        assert (await office.bus.outbox.stats()).paused
        await ask(office, "/do/resume", form={"sub": "postbus.outbox"})
        async with office.bus.worker():

            async def relayed() -> bool:
                text = (await ask(office, "/outbox")).text
                return "Everything is relayed" in text and "No relay lives" not in text

            await until(relayed)
    connection.close()
