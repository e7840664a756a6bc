"""One batch from an outbox to its target, which may refuse, stay silent, or forget to answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from postbus.envelope import Envelope, new_id
from postbus.errors import NotAccepted, PublishFailed, PublishUnknown, TooLarge, TransportError, TransportFull
from postbus.forward import Forward, Round
from postbus.spool import Waiting
from postbus.transport import Append, Duplicate, Outgoing, Refused, Stored, Unknown

Answer = Callable[[Outgoing], Append | None]


class Target:
    """A transport as far as a relay sees it: stores each id once, and answers as it is told.

    `answer` may give another answer than the true one, with nothing stored; `deaf` ones are stored and not answered.
    """

    def __init__(self, answer: Answer = lambda _: None, *, deaf: Callable[[], bool] = lambda: False) -> None:
        self.stored: dict[bytes, Outgoing] = {}
        self.answer = answer
        self.deaf = deaf
        self.up = True

    async def append(self, items: Sequence[Outgoing]) -> list[Append]:
        if not self.up:
            return [Refused(PublishFailed("away"))] * len(items)
        results = [self._one(item) for item in items]
        return [Unknown(PublishUnknown("no answer"))] * len(items) if self.deaf() else results

    def _one(self, item: Outgoing) -> Append:
        if (told := self.answer(item)) is not None:
            return told
        if item.envelope.id_bytes in self.stored:
            return Duplicate()
        self.stored[item.envelope.id_bytes] = item
        return Stored(1)

    async def ping(self) -> float:
        if not self.up:
            raise TransportError("away")
        return 0.0

    def numbers(self, key: str | None) -> list[int]:
        return [item.envelope.version for item in self.stored.values() if item.envelope.key == key]


class Together(Target):
    """One event that cannot be stored spoils the whole batch of its topic, as on Redis."""

    async def append(self, items: Sequence[Outgoing]) -> list[Append]:
        bad = next((told for item in items if (told := self.answer(item)) is not None), None)
        return await super().append(items) if bad is None else [bad] * len(items)


def row(number: int, key: str | None = None, topic: str = "t", defect: str = "") -> Waiting:
    return Waiting(Envelope(new_id(), f"{topic}.e", topic, key, 1, number, "f", b""), number, 0.0, defect)


def forward(target: Target) -> Forward:
    return Forward(target, require_subscription=False)  # type: ignore[arg-type]  # as far as it is used


async def rounds(carry: Forward, rows: Sequence[Waiting], count: int) -> list[Round]:
    """So many rounds, each with what the one before left."""
    done: list[Round] = []
    left = list(rows)
    for _ in range(count):
        done.append(await carry.round(left, lambda one: one.delay))
        left = done[-1].left
    return done


def refuse(*numbers: int, error: PublishFailed) -> Answer:
    return lambda item: Refused(error) if item.envelope.version in numbers else None


async def test_what_is_stored_is_told_from_what_was_there_and_what_nobody_took() -> None:
    target = Target(lambda item: Stored(0) if item.envelope.version == 3 else None)
    carry, rows = forward(target), [row(1), row(2), row(3)]
    await target.append([Outgoing(rows[0].envelope)])
    (found,) = await rounds(carry, rows, 1)
    assert (found.stored, found.duplicates, found.unrouted, found.left) == ([1, 2, 3], 1, 1, [])


async def test_what_will_never_be_taken_is_refused_at_once() -> None:
    for error in (TooLarge("2 MB"), NotAccepted("nobody")):
        (found,) = await rounds(forward(Target(refuse(2, error=error))), [row(1), row(2), row(3)], 1)
        assert (found.stored, found.refused) == ([1, 3], [(2, str(error))])


async def test_a_row_that_is_no_event_is_not_sent() -> None:
    target = Target()
    (found,) = await rounds(forward(target), [row(1, defect="undecodable"), row(2)], 1)
    assert (found.stored, found.refused) == ([2], [(1, "undecodable")])
    assert len(target.stored) == 1


async def test_an_outage_leaves_everything_in_order_however_long_it_lasts() -> None:
    target = Target()
    target.up = False
    rows = [row(n, "k") for n in range(1, 30)]
    found = await rounds(forward(target), rows, 50)
    assert all(one.left == rows and not one.refused and str(one.error) == "away" for one in found)


async def test_a_full_transport_is_an_outage() -> None:
    """Also one that answers to a ping, and takes events of other topics."""
    target = Target(lambda item: Refused(TransportFull("full")) if item.envelope.topic == "full" else None)
    rows = [row(1, topic="full"), row(2, topic="free"), *(row(n, topic="full") for n in range(3, 20))]
    found = await rounds(forward(target), rows, 20)
    assert found[0].stored == [2]
    assert all(one.left for one in found)
    assert not any(one.refused for one in found)


async def test_an_event_that_spoils_every_batch_is_set_aside_and_given_up_after_some_tries() -> None:
    target = Together(refuse(3, error=PublishFailed("the connection broke")))
    rows = [row(1), row(2), row(3), row(4), row(5)]
    carry = forward(target)
    (first,) = await rounds(carry, rows, 1)
    assert (first.stored, first.left) == ([1, 2, 4, 5], [rows[2]])
    left = first.left
    for number in range(10, 20):  # neighbours go on while it is tried again
        found = await carry.round([*left, row(number)], lambda one: one.delay)
        left = found.left
        assert found.stored == [number]
        if found.refused:
            break
    ((refused, reason),) = found.refused
    assert refused == 3
    assert "others of its topic were taken: the connection broke" in reason


async def test_an_event_alone_is_never_given_up() -> None:
    """Nothing shows that it is the event's fault."""
    found = await rounds(forward(Target(refuse(1, error=PublishFailed("no")))), [row(1)], 40)
    assert not any(one.refused for one in found)


async def test_the_key_of_an_event_that_is_set_aside_waits_behind_it() -> None:
    target = Together(refuse(2, error=PublishFailed("no")))
    rows = [row(1, "a"), row(2, "a"), row(3, "a"), row(4, "b"), row(5)]
    (found,) = await rounds(forward(target), rows, 1)
    assert found.stored == [1, 4, 5]
    assert found.left == rows[1:2]
    assert found.held == {("t", "a")}
    assert target.numbers("a") == [1]


async def test_many_bad_ones_at_the_head_do_not_hold_up_the_topic() -> None:
    target = Together(lambda item: Refused(PublishFailed("no")) if item.envelope.version < 20 else None)
    carry, left = forward(target), [row(n) for n in range(1, 20)]
    given_up: list[int] = []
    for number in range(20, 40):
        rows = [*left, row(number)]
        found = await carry.round(rows, lambda one: one.delay)
        done = {*found.stored, *(refused for refused, _ in found.refused)}
        left = [one for one in rows if one.number not in done]  # what was not tried is read again
        given_up += [refused for refused, _ in found.refused]
    assert target.numbers(None) == list(range(20, 40))
    assert sorted(given_up) == list(range(1, 20))


async def test_what_is_sent_is_told_what_is_left_of_its_delay() -> None:
    target = Target()
    rows = [Waiting(row(1).envelope, 1, 5.0), row(2)]
    await forward(target).round(rows, lambda one: one.delay - 2)
    assert [item.delay for item in target.stored.values()] == [3.0, 0.0]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), keys=st.integers(1, 4), relays=st.integers(1, 3))
async def test_whatever_a_target_answers_and_however_many_relay_no_key_is_out_of_order(
    seed: int, keys: int, relays: int
) -> None:
    luck = random.Random(seed)
    bad = refuse(*luck.sample(range(30), 2), error=PublishFailed("not this one"))
    target = Together(bad, deaf=lambda: luck.random() < 0.2)
    waiting = {n: row(n, f"k{n % keys}") for n in range(30)}
    carries = [forward(target) for _ in range(relays)]
    before = {carry: Round() for carry in carries}
    given_up: set[int] = set()
    for _ in range(500):
        carry = luck.choice(carries)
        target.up = luck.random() < 0.8
        left = {row.number: row for row in before[carry].left}
        fresh = [waiting[n] for n in sorted(waiting) if n not in left]  # each reads from the oldest on
        fresh = [row for row in fresh if ("t", row.envelope.key) not in before[carry].held]
        rows = sorted([*left.values(), *fresh[: luck.randint(1, 8)]], key=lambda row: row.number)
        before[carry] = found = await carry.round(rows, lambda one: one.delay)
        given_up.update(number for number, _ in found.refused)
        for number in (*found.stored, *(number for number, _ in found.refused)):
            if luck.random() < 0.8:  # else the relay dies before it forgets
                waiting.pop(number, None)
        if not waiting:
            break
    held = {one.envelope.key for one in waiting.values() if bad(Outgoing(one.envelope)) is not None}
    assert {one.envelope.key for one in waiting.values()} <= held, "only behind a bad one of its own key may any wait"
    for key in {f"k{n}" for n in range(keys)}:
        assert target.numbers(key) == sorted(target.numbers(key))
    stored = {item.envelope.version for item in target.stored.values()}
    assert stored | given_up | set(waiting) == set(range(30))
