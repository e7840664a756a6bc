"""A cluster: which server has which slot, as the cluster last said, and what scripts look like there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from ...errors import AccessRefused, TransportError
from .door import Blocking, Connection, Entrance, Recipe, Unreachable, hang_up, packed, unwelcome
from .scripts import Script

__all__ = ["PAUSE", "Slots", "slot_of"]

# Seconds until a slot that moves is asked for once more.
PAUSE = 0.02
# Seconds for one server to say who has what: the next one may be quicker, and knows the same.
_EACH = 1.0
_QUESTION = ("CLUSTER", "SLOTS")


class Slots:
    """The door of a cluster.  For the event loop and the lease thread alike: what changes is replaced as a whole.

    Args:
        seeds: servers that the URL names.
        recipe: how to reach a server, but for the address.
        name: for people.

    Attributes:
        stale: somebody did not answer, or sent us elsewhere: who has what is to be asked again.
        sharded: the bell is rung in the topic's own shard, which servers do from Redis 7 on.
    """

    def __init__(self, seeds: Sequence[tuple[str, int]], recipe: Recipe, name: str) -> None:
        self._recipe = recipe
        self._name = name
        self._doors: dict[tuple[str, int], Entrance] = {}
        self._seeds = [self._door(host, port) for host, port in seeds]
        self._owners: list[Entrance | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._others: list[Entrance] = []
        self._scripts: dict[bytes, Script] = {}
        self.stale = True
        self.sharded = False

    @property
    def patience(self) -> float:
        """See `Door.patience`."""
        return self._recipe.patience

    def owner(self, slot: int) -> Entrance:
        """Who has the slot, or somebody who will say so."""
        return self._owners[slot] or self._seeds[0]

    def follow(self, error: object) -> bool:
        """Whether a request was refused, undone, because its slot is elsewhere or on its way: then ask again."""
        match error:
            case MovedError():
                owners = list(self._owners)
                owners[error.slot_id] = self._door(error.host or self._host_of(error.slot_id), error.port)
                self._owners = owners
                self.stale = True
                return True
            case AskError() | TryAgainError() | ClusterDownError():
                self.stale = True
                return True
            case _:
                return False

    def _host_of(self, slot: int) -> str:
        return self.owner(slot).host

    # -- scripts

    def fitted(self, script: Script, keys: Sequence[Any]) -> tuple[Script, Sequence[Any]]:
        """The script and its keys as they are sent to a cluster.

        Those of a topic touch keys that they name themselves.  While a slot moves, a key that is not there is looked
        for at the other server, which would end the script half way.  A last key that never exists makes the server
        refuse such a script before it begins, until the slot has arrived.
        """
        fit = self._scripts.get(script.sha)
        if fit is None:
            fit = self._scripts[script.sha] = script.on_a_cluster(sharded=self.sharded)
        tag = str(keys[0]).partition("}")[0]
        return fit, (*keys, f"{tag}}}:-") if script.of_a_topic else keys

    # -- who has what

    async def look(self) -> None:
        """Ask who has what.

        Raises:
            Unreachable: when nobody says.
            AccessRefused: when nobody lets us in.
        """
        silent: list[TransportError] = []
        for door in self._everybody():
            try:
                async with asyncio.timeout(_EACH):
                    connection = await door.connect()
                    try:
                        await connection.send_packed_command(packed(_QUESTION), check_health=False)
                        self._learn(await connection.read_response(disable_decoding=True), door)
                    finally:
                        await hang_up(connection)
            except TimeoutError:
                silent.append(Unreachable(f"{door} did not answer within {_EACH:g} s"))
            except (RedisError, OSError) as error:
                silent.append(unwelcome(error, door))
            except TransportError as error:
                silent.append(error)
            else:
                return
        raise self._nobody(silent)

    def look_blocking(self) -> None:
        """As `look`, for a thread."""
        silent: list[TransportError] = []
        for door in self._everybody():
            try:
                connection = door.connect_blocking()
                try:
                    connection.send_command(*_QUESTION, check_health=False)
                    self._learn(connection.read_response(disable_decoding=True), door)
                finally:
                    connection.disconnect()
            except (RedisError, OSError) as error:
                silent.append(unwelcome(error, door))
            except TransportError as error:
                silent.append(error)
            else:
                return
        raise self._nobody(silent)

    def _everybody(self) -> Iterator[Entrance]:
        """Each server once, those that have slots first."""
        yield from dict.fromkeys((*self.servers(), *self._others, *self._seeds))

    def servers(self) -> list[Entrance]:
        """Those that have slots."""
        return list(dict.fromkeys(owner for owner in self._owners if owner is not None))

    def _learn(self, reply: Any, asked: Entrance) -> None:
        owners: list[Entrance | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        others: list[Entrance] = []
        for first, last, primary, *replicas in reply:
            owners[first : last + 1] = [self._said(primary, asked)] * (last + 1 - first)
            others += (self._said(replica, asked) for replica in replicas)
        if not any(owners):
            raise Unreachable(f"{asked} knows of nobody who has slots")
        self._owners, self._others, self.stale = owners, others, False

    def _said(self, node: Sequence[Any], asked: Entrance) -> Entrance:
        host = (node[0] or b"").decode()
        return self._door(host if host not in ("", "?") else asked.host, node[1])

    def _door(self, host: str, port: int) -> Entrance:
        door = self._doors.get((host, port))
        if door is None:
            door = self._doors[host, port] = Entrance(self._recipe.at(host, port), f"{self} at {host}:{port}")
        return door

    def _nobody(self, errors: Sequence[TransportError]) -> TransportError:
        text = f"{self} has no server that says who has what: " + "; ".join(map(str, errors))
        refused = all(isinstance(error, AccessRefused) for error in errors)
        return AccessRefused(text) if refused else Unreachable(text)

    # -- as a door

    async def connect(self) -> Connection:
        """A connection to any of the servers."""
        return await (self.servers() or self._seeds)[0].connect()

    def connect_blocking(self) -> Blocking:
        """As `connect`, for a thread."""
        return (self.servers() or self._seeds)[0].connect_blocking()

    def __str__(self) -> str:
        return self._name


def slot_of(key: Any) -> int:
    """The slot of a key."""
    return key_slot(key if isinstance(key, bytes) else str(key).encode())
