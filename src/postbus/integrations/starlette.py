"""Starlette: a bus that opens and closes with the application, and its worker beside the server where wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from starlette.requests import HTTPConnection

from ..bus import Bus
from ..errors import ConfigError

__all__ = ["Lifespan", "bus_of", "lifespan"]

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]

_STATE = "bus"


def lifespan(
    bus: Bus,
    *,
    worker: bool = False,
    inner: Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]] | None = None,
    **options: Any,
) -> Lifespan:
    """Return a lifespan that has the bus open while the application runs.

    Args:
        bus: the bus; requests find it with `bus_of`.
        worker: run the bus's subscribers beside the server, too, in this process.  Otherwise they are run by
            `postbus worker module:bus`, which several server processes share.
        inner: the application's own lifespan; runs inside, so that it may publish from its first line to its last.
        options: of the worker, as `Bus.worker` takes them.

    Raises:
        ConfigError: for options without a worker.
    """
    if options and not worker:
        raise ConfigError(f"{', '.join(sorted(options))}: only a worker has these; say worker=True as well")

    @asynccontextmanager
    async def around(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(bus)
            if worker:
                await stack.enter_async_context(bus.worker(**options))
            state = None if inner is None else await stack.enter_async_context(inner(app))
            yield {**(state or {}), _STATE: bus}

    return around


def bus_of(connection: HTTPConnection) -> Bus:
    """The bus of the application that a request or websocket came to.

    Raises:
        ConfigError: when its lifespan is not ours.
    """
    bus = connection.scope.get("state", {}).get(_STATE)
    if not isinstance(bus, Bus):
        raise ConfigError(
            "this application has no bus: make it with lifespan=postbus.integrations.starlette.lifespan(bus), and run "
            "its lifespan (a TestClient does so inside `with TestClient(app)`; a mounted application has its parent's)"
        )
    return bus
