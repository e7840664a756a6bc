"""Why an event runs or does not: the sentences are true, on each embedded transport and from any process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from postbus import Bus, Context, RawEvent, Reject, Retry, Snooze
from postbus.explain import Explanation, Standing
from postbus.testing.clock import ManualClock

Make = Callable[..., Bus]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    url = f"sqlite:///{tmp_path}/bus.db" if request.param == "sqlite" else "memory://"

    def bus(**options: Any) -> Bus:
        return Bus(url, **options)

    return bus


def only(explanation: Explanation) -> Standing:
    (standing,) = explanation.standings
    return standing


async def until(done: Callable[[], object]) -> None:
    """Wait for what no bell tells of."""
    while not done():  # noqa: ASYNC110 - as it says
        await asyncio.sleep(0.005)


async def nothing(_: RawEvent) -> None:
    pass


async def test_an_event_without_a_worker_says_so_and_how_to_start_one(make: Make) -> None:
    bus = make()
    bus.add_subscriber(nothing, "orders.>", name="receipts")
    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        told = await bus.explain(envelope.id)
    assert told.summary == "receipts has it ready, and no worker runs this subscription."
    assert (only(told).state, only(told).remedy) == ("ready", "postbus worker -s receipts")


async def test_a_paused_subscription_says_so_and_how_to_resume(make: Make) -> None:
    bus = make()
    bus.add_subscriber(nothing, "orders.>", name="receipts")
    async with bus:
        await bus.subscriptions.pause("receipts")
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        told = await bus.explain(envelope.id)
    assert told.summary == "receipts is paused, and does not run it until it is resumed."
    assert only(told).remedy == "postbus subs resume receipts"


async def test_a_retry_says_when_it_is_due_and_what_failed(make: Make) -> None:
    bus = make(clock=ManualClock())

    @bus.subscriber("orders.>", retry=Retry(delay=42, jitter=0))
    async def receipts(_: RawEvent) -> None:
        raise OSError("the mail server is away")

    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        await bus.drain()
        told = await bus.explain(envelope.id)
    assert told.summary == "receipts runs it again in 42 s: attempt 1 failed (OSError: the mail server is away)."
    assert only(told).due_at is not None
    assert [attempt.outcome for attempt in told.attempts] == ["retried"]


async def test_a_retry_is_explained_without_a_journal_too(make: Make) -> None:
    bus = make(clock=ManualClock(), journal=False)

    @bus.subscriber("orders.>")
    async def receipts(_: RawEvent) -> None:
        raise Snooze(90)

    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        await bus.drain()
        told = await bus.explain(envelope.id)
    assert told.summary == "receipts runs it again in 90 s."


async def test_an_event_that_waits_for_its_time_says_when(make: Make) -> None:
    bus = make(clock=ManualClock())
    bus.add_subscriber(nothing, "orders.>", name="receipts")
    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"), delay=600)
        told = await bus.explain(envelope.id)
    assert told.summary == "receipts has it scheduled: it is due in 10 min."


async def test_an_event_behind_a_dead_letter_names_the_key_and_the_letter(make: Make) -> None:
    bus = make()

    @bus.subscriber("orders.>", ordered=True, on_bury="park")
    async def receipts(event: RawEvent) -> None:
        raise Reject("no such address")

    async with bus:
        await bus.publish(RawEvent("orders.order.placed"), key="o-1")
        second = await bus.publish(RawEvent("orders.order.paid"), key="o-1")
        await bus.drain()
        told = await bus.explain(second.id)
        (letter,) = await bus.dead.list("receipts")
    assert told.summary == f"receipts waits for key 'o-1', which dead letter {letter.id} holds (no such address)."
    assert only(told).remedy == f"postbus dead replay {letter.id}"


async def test_an_event_behind_a_retry_names_the_event_that_holds_its_key(make: Make) -> None:
    bus = make(clock=ManualClock())

    @bus.subscriber("orders.>", ordered=True)
    async def receipts(event: RawEvent) -> None:
        raise OSError("away")

    async with bus:
        first = await bus.publish(RawEvent("orders.order.placed"), key="o-1")
        second = await bus.publish(RawEvent("orders.order.paid"), key="o-1")
        async with bus.worker():
            await until(lambda: bus.counters.requeued)
        told = await bus.explain(second.id)
    assert told.summary == (
        f"receipts waits for key 'o-1', which event {first.id} holds: it failed and is to be tried again."
    )


async def test_a_dead_letter_says_why_and_how_to_replay_it(make: Make) -> None:
    bus = make()

    @bus.subscriber("orders.>", retry=Retry(attempts=1))
    async def receipts(_: RawEvent) -> None:
        raise OSError("away")

    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        await bus.drain()
        told = await bus.explain(envelope.id)
    assert only(told).state == "dead"
    assert "after 1 attempt: attempts spent (OSError: away)" in told.summary
    assert only(told).letter is not None


async def test_what_runs_now_and_what_is_done_are_told_apart(make: Make) -> None:
    bus, began, go = make(retain=3600), asyncio.Event(), asyncio.Event()

    @bus.subscriber("orders.>")
    async def slow(_: RawEvent) -> None:
        began.set()
        await go.wait()

    bus.add_subscriber(nothing, "orders.>", name="quick")
    bus.add_subscriber(nothing, "users.>", name="other")
    async with bus, bus.worker() as worker:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        await began.wait()
        await until(lambda: bus.counters.acked)
        told = await bus.explain(envelope.id)
        assert {standing.subscription: standing.state for standing in told.standings} == {
            "slow": "running",
            "quick": "done",
        }
        assert told.summary == "slow is running it now."
        go.set()
        await until(lambda: worker.idle)
        told = await bus.explain(envelope.id)
    assert told.summary == "All 2 subscriptions that take orders.order.placed are done with it."
    assert all("was done with it at" in standing.because for standing in told.standings)


async def test_an_event_that_is_gone_is_explained_by_what_is_remembered(make: Make) -> None:
    bus = make()
    bus.add_subscriber(nothing, "orders.>", name="receipts")
    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        await bus.drain()
        told = await bus.explain(envelope.id)
        unknown = await bus.explain(uuid4())
    assert told.envelope is None
    assert told.summary.startswith("It is no longer stored, so every subscription is done with it; receipts last ran")
    assert unknown.summary.startswith("It is not stored, and no attempt is remembered")


async def test_an_event_that_nobody_takes_says_so(make: Make) -> None:
    bus = make(retain=3600)
    bus.add_subscriber(nothing, "users.>", name="other")
    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        told = await bus.explain(envelope.id)
    assert told.summary == "No subscription takes orders.order.placed."


async def test_a_family_is_shown_from_its_first_event_on(make: Make) -> None:
    bus = make(retain=3600)

    @bus.subscriber("a.a.began")
    async def first(_: RawEvent, context: Context) -> None:
        await context.publish(RawEvent("b.b.followed"))
        await context.publish(RawEvent("b.b.ended"))

    @bus.subscriber("b.b.followed")
    async def second(_: RawEvent, context: Context) -> None:
        await context.publish(RawEvent("c.c.ended"))

    async with bus:
        root = await bus.publish(RawEvent("a.a.began"))
        await bus.drain()
        lineage = await bus.lineage(root.id)
        (leaf,) = [cause for _, cause in lineage.walk() if cause.name == "c.c.ended"]
        again = await bus.lineage(leaf.event_id)
    assert [(depth, cause.name) for depth, cause in lineage.walk()] == [
        (0, "a.a.began"),
        (1, "b.b.followed"),
        (2, "c.c.ended"),
        (1, "b.b.ended"),
    ]
    assert again == lineage
    assert not lineage.cut


async def test_a_family_whose_middle_is_gone_is_shown_all_the_same(make: Make) -> None:
    bus = make()
    bus.add_subscriber(nothing, "orders.>", name="receipts")
    first, middle = uuid4(), uuid4()
    async with bus:
        headers = {"correlationid": str(first), "causationid": str(middle)}
        envelope = await bus.publish(RawEvent("orders.order.placed"), headers=headers)
        lineage = await bus.lineage(envelope.id)
    assert [(depth, cause.event_id) for depth, cause in lineage.walk()] == [(0, first), (1, middle), (2, envelope.id)]


async def test_hostile_ids_in_headers_make_no_endless_family(make: Make) -> None:
    bus = make()
    bus.add_subscriber(nothing, "orders.>", name="receipts")
    one, other = uuid4(), uuid4()
    async with bus:
        ring = {"correlationid": str(one), "causationid": str(other)}
        await bus.publish(RawEvent("orders.order.placed"), id=one, headers=ring)
        await bus.publish(RawEvent("orders.order.placed"), id=other, headers={**ring, "causationid": str(one)})
        lineage = await bus.lineage(one)
        told = await bus.publish(RawEvent("orders.order.placed"), headers={"correlationid": "no id"})
        alone = await bus.lineage(told.id)
    assert [cause.event_id for _, cause in lineage.walk()] == [one, other]
    assert [cause.event_id for _, cause in alone.walk()] == [told.id]
