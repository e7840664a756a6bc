"""One piece of work for the writer: what is to be done, by when, and who waits for the answer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .store import Transaction

__all__ = ["Operation", "resolve"]

T = TypeVar("T")


class Operation(Generic[T]):
    """One piece of work.

    Attributes:
        act: does it, in a transaction; may be called again after a rollback.
        deadline: on the monotonic clock; work that could not start by then is never done.
        peek: an answer without a transaction, or None when one is needed.
        orphan: told the answer that nobody waits for any more.
        durable: whether it is to survive a power loss, where the transport promises that.
    """

    __slots__ = ("_begun", "act", "deadline", "durable", "error", "future", "gate", "loop", "orphan", "peek", "value")

    def __init__(
        self,
        act: Callable[[Transaction], T],
        deadline: float,
        *,
        peek: Callable[[sqlite3.Connection], T | None] | None = None,
        orphan: Callable[[T], None] | None = None,
        durable: bool = True,
    ) -> None:
        self.act = act
        self.deadline = deadline
        self.peek = peek
        self.orphan = orphan
        self.durable = durable
        self.value: T | None = None
        self.error: BaseException | None = None
        self.future: asyncio.Future[T] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.gate: threading.Lock | None = None
        self._begun = threading.Lock()

    def begin(self) -> bool:
        """Whether the work may be done: true once, to the first who asks.  Who gives up asks too."""
        return self._begun.acquire(blocking=False)

    def result(self) -> T:
        """The answer, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only where T allows it

    def resolve(self) -> None:
        """Answer the coroutine that waits, on its loop."""
        future = self.future
        if future is None or future.done():
            self.abandon()
        elif self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.value)  # type: ignore[arg-type]

    def abandon(self) -> None:
        """Nobody will take the answer, if there is one."""
        if self.orphan is not None and self.value is not None:
            self.orphan(self.value)


def resolve(operations: Sequence[Operation[Any]]) -> None:
    """Answer coroutines, on their loop."""
    for operation in operations:
        operation.resolve()
