"""The lease thread's own way to the server: one blocking round trip after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from ...clock import Clock
from ...errors import TransportError
from .door import Blocking, Door, demoted
from .scripts import Script, timed_by
from .slots import PAUSE, Slots, slot_of

__all__ = ["Hotline", "Hotlines"]


class Hotline:
    """One connection, made when it is needed and again when it failed."""

    def __init__(self, door: Door, clock: Clock) -> None:
        self._door = door
        self._timed = timed_by(clock)
        self._connection: Blocking | None = None

    def towards(self, key: str) -> Door:
        """Where a key is."""
        del key  # all are there
        return self._door

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """The reply of a script.

        Raises:
            TransportError: when there is none, or it is an error.
        """
        script = self._timed(script)
        command = ("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            try:
                return self._ask(command)
            except NoScriptError:
                self._ask(("SCRIPT", "LOAD", script.text))
                return self._ask(command)
        except ResponseError as error:
            raise self._refused(error) from error

    def one(self, *command: Any) -> Any:
        """The reply of a command on the key behind its name; raises as `run` does."""
        try:
            return self._ask(command)
        except ResponseError as error:
            raise self._refused(error) from error

    def _refused(self, error: ResponseError) -> TransportError:
        return TransportError(f"{self._door} refused: {error}")

    def _ask(self, command: Sequence[Any]) -> Any:
        """One round trip.  A connection that failed is left: what it still brings would answer another question."""
        connection = self._connection or self._door.connect_blocking()
        self._connection = connection
        try:
            connection.send_command(*command, check_health=False)
            return connection.read_response(disable_decoding=True)
        except ResponseError as error:
            if demoted(error):
                self.close()
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


class Hotlines:
    """The same to a cluster: a connection to each server that has something of ours."""

    def __init__(self, slots: Slots, clock: Clock) -> None:
        self._slots = slots
        self._clock = clock
        self._lines: dict[Door, Hotline] = {}

    def towards(self, key: str) -> Door:
        """See `Hotline.towards`."""
        return self._slots.owner(slot_of(key))

    def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """See `Hotline.run`."""
        fitted, fitted_keys = self._slots.fitted(script, keys)
        return self._follow(keys[0], lambda line: line.run(fitted, fitted_keys, args))

    def one(self, *command: Any) -> Any:
        """See `Hotline.one`."""
        return self._follow(command[1], lambda line: line.one(*command))

    def _follow(self, key: Any, ask: Callable[[Hotline], Any]) -> Any:
        until = time.monotonic() + self._slots.patience
        while True:
            if self._slots.stale:
                self._slots.look_blocking()
            server = self._slots.owner(slot_of(key))
            line = self._lines.get(server)
            if line is None:
                line = self._lines[server] = Hotline(server, self._clock)
            try:
                return ask(line)
            except TransportError as error:
                if not self._slots.follow(error.__cause__):
                    self._slots.stale = not isinstance(error.__cause__, ResponseError)
                    raise
                if time.monotonic() + PAUSE > until:
                    raise
            time.sleep(PAUSE)

    def close(self) -> None:
        """Hang up."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.close()
