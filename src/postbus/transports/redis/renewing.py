"""Renews leases and tells that a worker lives, on a connection of its own, from one thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from ...delivery import Delivery
from ...errors import TransportError
from ...transport import WorkerInfo
from .door import Door
from .hotline import Hotline, Hotlines
from .registry import Keys
from .scripts import BEAT, BRING, RENEW
from .settling import Receipt, words_to_bring

__all__ = ["Beat", "RedisRenewer", "beat_of"]

# What a worker that beats before it ever renews is given.
_LEASE = 30.0
# Deliveries that one script call renews: the server serves others too.
_BATCH = 500


class Beat(msgspec.Struct, frozen=True):
    """A worker as it last said of itself, and until when that counts, by the server's clock."""

    until: float
    info: WorkerInfo


_beat = msgspec.json.Decoder(Beat)


def beat_of(raw: bytes) -> Beat | None:
    """A stored beat; None for nonsense."""
    try:
        return _beat.decode(raw)
    except msgspec.MsgspecError:
        return None


class RedisRenewer:
    """See `Renewer`."""

    def __init__(self, line: Hotline | Hotlines, keys: Keys, check: Callable[[], None]) -> None:
        self._line = line
        self._keys = keys
        self._check = check
        self._lease = _LEASE
        self._failed: set[Door] = set()

    def renew(self, deliveries: Sequence[Delivery], lease: float) -> Collection[Delivery]:
        """Extend these leases; return those that are lost."""
        self._check()
        self._lease = lease
        groups: dict[tuple[str, str], list[Delivery]] = {}
        for delivery in deliveries:
            receipt: Receipt = delivery.receipt
            groups.setdefault((receipt.topic, receipt.subscription), []).append(delivery)
        lost: list[Delivery] = []
        failed: dict[Door, TransportError] = {}
        servers = {topic: self._line.towards(self._keys.stream(topic)) for topic, _ in groups}
        # Of several servers, those that failed the last time come last: they may take long to fail again.
        for (topic, subscription), held in sorted(
            groups.items(), key=lambda group: servers[group[0][0]] in self._failed
        ):
            if servers[topic] in failed:
                continue
            try:
                for begin in range(0, len(held), _BATCH):
                    lost += self._renew(topic, subscription, held[begin : begin + _BATCH], lease)
            except TransportError as error:
                failed[servers[topic]] = error
        self._failed = set(failed)
        if failed:
            raise next(iter(failed.values()))
        return lost

    def _renew(self, topic: str, subscription: str, held: Sequence[Delivery], lease: float) -> list[Delivery]:
        args: list[Any] = [subscription, _ms(lease)]
        for delivery in held:
            receipt: Receipt = delivery.receipt
            args += (receipt.group, receipt.id, delivery.fence, delivery.owner)
        answers = self._line.run(RENEW, [self._keys.stream(topic)], args)
        trimmed = [delivery for delivery, answer in zip(held, answers, strict=True) if answer == ord("t")]
        if trimmed:
            self._bring(topic, subscription, trimmed, lease)
        return [delivery for delivery, answer in zip(held, answers, strict=True) if answer == ord("0")]

    def _bring(self, topic: str, subscription: str, held: Sequence[Delivery], lease: float) -> None:
        """Somebody else removed these from the stream: what is known of them here is all that is left."""
        args: list[Any] = [subscription, _ms(lease)]
        for delivery in held:
            receipt: Receipt = delivery.receipt
            args += (receipt.id, delivery.fence, delivery.owner, *words_to_bring(delivery))
        self._line.run(BRING, [self._keys.stream(topic)], args)

    def beat(self, worker: WorkerInfo) -> None:
        """Say that this worker lives."""
        self._check()
        if worker.state == "gone":
            self._line.one("HDEL", self._keys.workers, worker.owner)
            return
        self._line.run(BEAT, [self._keys.workers], [worker.owner, _ms(self._lease), msgspec.json.encode(worker)])

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
