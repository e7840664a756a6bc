"""The way to whichever server is the primary now: the sentinels are asked before each connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError, RedisError

from ...errors import AccessRefused, TransportError
from .door import Blocking, Connection, Entrance, Recipe, Unreachable, hang_up, packed, unwelcome

__all__ = ["Sentinels"]

# Seconds for one sentinel: the next one may be quicker, and knows the same.
_EACH = 1.0


class Sentinels:
    """The door of a primary that sentinels watch.

    Args:
        watchers: how to reach each sentinel.
        service: what they call the primary and its replicas.
        recipe: how to reach the primary, but for the address.
        name: for people.
    """

    def __init__(self, watchers: Sequence[Recipe], service: str, recipe: Recipe, name: str) -> None:
        self._watchers = [
            Entrance(Recipe(each.kind, each.told, min(_EACH, each.patience)), f"the sentinel {_place(each)}")
            for each in watchers
        ]
        self._service = service
        self._recipe = recipe
        self._name = name
        self._question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)

    @property
    def patience(self) -> float:
        """See `Door.patience`."""
        return self._recipe.patience

    async def connect(self) -> Connection:
        """See `Door.connect`."""
        primary = await self._primary()
        connection = await primary.connect()
        try:
            async with asyncio.timeout(self.patience):
                await connection.send_packed_command(packed(("ROLE",)), check_health=False)
                _check_role(await connection.read_response(disable_decoding=True), primary)
        except NoPermissionError:  # then a refused write shows that it is a replica
            return connection
        except (RedisError, OSError, TimeoutError) as error:
            await hang_up(connection)
            raise Unreachable(f"{primary} does not say what it is: {error}") from error
        except BaseException:
            await hang_up(connection)
            raise
        return connection

    def connect_blocking(self) -> Blocking:
        """See `Door.connect_blocking`."""
        primary = self._primary_blocking()
        connection = primary.connect_blocking()
        try:
            connection.send_command("ROLE", check_health=False)
            _check_role(connection.read_response(disable_decoding=True), primary)
        except NoPermissionError:
            return connection
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise Unreachable(f"{primary} does not say what it is: {error}") from error
        except BaseException:
            connection.disconnect()
            raise
        return connection

    # -- who it is

    async def _primary(self) -> Entrance:
        """Ask one sentinel after the other, beginning with the one that answered last."""
        silent: list[TransportError] = []
        for watcher in tuple(self._watchers):
            try:
                async with asyncio.timeout(_EACH):
                    answer = await self._ask(watcher)
            except TimeoutError:
                silent.append(Unreachable(f"{watcher} did not answer within {_EACH:g} s"))
            except TransportError as error:
                silent.append(error)
            else:
                return self._found(watcher, answer)
        raise self._nobody(silent)

    async def _ask(self, watcher: Entrance) -> Any:
        connection = await watcher.connect()
        try:
            await connection.send_packed_command(packed(self._question), check_health=False)
            answer = await connection.read_response(disable_decoding=True)
        except (RedisError, OSError) as error:
            raise unwelcome(error, watcher) from error
        finally:
            await hang_up(connection)
        return self._known(answer, watcher)

    def _primary_blocking(self) -> Entrance:
        silent: list[TransportError] = []
        for watcher in tuple(self._watchers):
            try:
                answer = self._ask_blocking(watcher)
            except TransportError as error:
                silent.append(error)
            else:
                return self._found(watcher, answer)
        raise self._nobody(silent)

    def _ask_blocking(self, watcher: Entrance) -> Any:
        connection = watcher.connect_blocking()
        try:
            connection.send_command(*self._question, check_health=False)
            answer = connection.read_response(disable_decoding=True)
        except (RedisError, OSError) as error:
            raise unwelcome(error, watcher) from error
        finally:
            connection.disconnect()
        return self._known(answer, watcher)

    def _known(self, answer: Any, watcher: Entrance) -> Any:
        if not answer:
            raise Unreachable(f"{watcher} knows no service {self._service!r}")
        return answer

    def _found(self, watcher: Entrance, answer: Any) -> Entrance:
        self._watchers.sort(key=lambda each: each is not watcher)
        recipe = self._recipe.at(answer[0].decode(), int(answer[1]))
        return Entrance(recipe, f"{self} at {_place(recipe)}")

    def _nobody(self, errors: Sequence[TransportError]) -> TransportError:
        text = f"{self} has no sentinel that knows its primary: " + "; ".join(map(str, errors))
        refused = all(isinstance(error, AccessRefused) for error in errors)
        return AccessRefused(text) if refused else Unreachable(text)

    def __str__(self) -> str:
        return self._name


def _check_role(answer: Any, primary: Entrance) -> None:
    """Sentinels may be behind: what was the primary comes back as a replica, which takes no writes."""
    if answer[0] != b"master":
        raise Unreachable(f"{primary} is a {answer[0].decode()} now")


def _place(recipe: Recipe) -> str:
    return f"{recipe.told['host']}:{recipe.told['port']}"
