"""Renews leases and tells that a worker lives, on a connection of its own, from one thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ...delivery import Delivery
from ...errors import TransportError
from ...transport import WorkerInfo
from .door import Blocking, Door
from .registry import Keys
from .scripts import RENEW
from .settling import Receipt

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

    def __init__(self, door: Door, keys: Keys, check: Callable[[], None]) -> None:
        self._door = door
        self._keys = keys
        self._check = check
        self._lease = _LEASE
        self._connection: Blocking | None = None

    def renew(self, deliveries: Sequence[Delivery], lease: float) -> Collection[Delivery]:
        """Extend these leases; return those that are lost."""
        self._check()
        self._lease = lease
        groups: dict[tuple[str, str], list[Delivery]] = {}
        for delivery in deliveries:
            receipt: Receipt = delivery.receipt
            groups.setdefault((receipt.topic, receipt.subscription), []).append(delivery)
        lost: list[Delivery] = []
        for (topic, subscription), held in groups.items():
            for begin in range(0, len(held), _BATCH):
                lost += self._renew(topic, subscription, held[begin : begin + _BATCH], lease)
        return lost

    def _renew(self, topic: str, subscription: str, held: Sequence[Delivery], lease: float) -> list[Delivery]:
        args: list[Any] = [subscription, max(1, round(lease * 1000))]
        for delivery in held:
            receipt: Receipt = delivery.receipt
            args += (receipt.group, receipt.id, delivery.fence, delivery.owner)
        command = ("EVALSHA", RENEW.sha, 1, self._keys.stream(topic), *args)
        try:
            answers = self._ask(command)
        except NoScriptError:
            self._said("SCRIPT", "LOAD", RENEW.text)
            answers = self._said(*command)
        except ResponseError as error:
            raise TransportError(f"{self._door} refused to renew: {error}") from error
        return [delivery for delivery, answer in zip(held, answers, strict=True) if answer != ord("1")]

    def beat(self, worker: WorkerInfo) -> None:
        """Say that this worker lives."""
        self._check()
        if worker.state == "gone":
            self._said("HDEL", self._keys.workers, worker.owner)
            return
        seconds, micros = self._said("TIME")
        until = int(seconds) + int(micros) / 1e6 + self._lease
        self._said("HSET", self._keys.workers, worker.owner, msgspec.json.encode(Beat(until, worker)))

    def _said(self, *command: Any) -> Any:
        try:
            return self._ask(command)
        except ResponseError as error:
            raise TransportError(f"{self._door} refused: {error}") from error

    def _ask(self, command: Sequence[Any]) -> Any:
        """One round trip.  A connection that failed is left: what it still brings would answer another question."""
        connection = self._connection or self._door.blocking()
        self._connection = connection
        try:
            connection.send_command(*command, check_health=False)
            return connection.read_response(disable_decoding=True)
        except ResponseError:
            raise
        except (RedisError, OSError) as error:
            self.close()
            raise TransportError(f"{self._door} cannot be reached: {error}") from error

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                connection.disconnect()
