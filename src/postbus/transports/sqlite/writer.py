"""The one connection of this process that writes: whatever waits for it is done in one transaction.

A caller with a thread of its own does its work on it, if nobody else is at it; a coroutine's work is done by the
writer's thread.  When anything in a shared transaction fails, it is rolled back and each piece is done alone, so that
one bad neighbour changes nothing for the others.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ...clock import Clock
from ...dice import dice
from ...errors import Closed, PostbusError, TransportBroken, TransportError
from .files import Place
from .operation import Operation, resolve
from .routing import RoutingCache
from .schema import Tables
from .store import Busy, CommitLost, Transaction, is_busy, translated
from .turnstile import Turnstile

__all__ = ["Writer"]

T = TypeVar("T")

# Pieces of work in one transaction; more would only make the first of them wait.
_TOGETHER = 64
# How long the thread waits for work before it looks after the house.
_IDLE = 0.5
# The least time between two looks while there is work.
_BETWEEN = 0.01


class Writer:
    """Serves operations from any thread, and from any number of event loops."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        turnstile: Turnstile,
        *,
        tables: Tables,
        place: Place,
        clock: Clock,
        rung: Callable[[list[str]], None],
        upkeep: Callable[[], float | None],
        synchronous: str,
    ) -> None:
        self.connection = connection
        self.routing = RoutingCache(tables)
        self.served_at = time.monotonic()
        self.last = 0
        self._changes = connection.total_changes
        self._execute = connection.execute
        self._turnstile = turnstile
        self._place = place
        self._clock = clock
        self._rung = rung
        self._upkeep = upkeep
        self._level = self._promised = synchronous
        self._counters = tables("SELECT seq, fence, revision FROM {meta}")
        self._count = tables("UPDATE {meta} SET seq = ?, fence = ?, revision = ?")
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Operation[Any] | None] = queue.SimpleQueue()
        self._broken: TransportBroken | None = None
        self._closed = self._ended = False
        self._again: list[Operation[Any]] = []
        self._thread = threading.Thread(target=self._work, name="postbus-sqlite-writer", daemon=True)

    def start(self) -> None:
        """Begin to serve coroutines."""
        self._thread.start()

    def close(self) -> None:
        """Do what waits, then end; operations that come later are refused."""
        self._closed = True
        self._inbox.put(None)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            self._ended = True
            self._refuse_rest()
            self._turnstile.close()
            self.connection.close()

    # -- asking

    async def run(self, operation: Operation[T], *, drop: bool = False) -> T:
        """Have it done by the writer's thread.  With `drop`, who is cancelled takes back what has not begun."""
        self._check()
        operation.loop = loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        operation.future = future
        self._put(operation)
        try:
            return await future
        except asyncio.CancelledError:
            if drop:
                operation.begin()
            if future.done() and not future.cancelled():  # answered already, but nobody will take it
                operation.abandon()
            raise

    def run_now(self, operation: Operation[T]) -> T:
        """Have it done on this thread, or by whoever is at it.

        Raises:
            Busy: when it did not begin in time, and never will.
            CommitLost: when it began, and there is no answer in time.
        """
        self._check()
        if self._lock.acquire(blocking=False):
            try:
                self._serve([operation])
            finally:
                self._lock.release()
            return operation.result()
        operation.gate = threading.Lock()
        operation.gate.acquire()
        self._put(operation)
        if not operation.gate.acquire(timeout=max(0.0, operation.deadline - time.monotonic())):
            if operation.begin():
                raise self._busy()
            # It is under way: its commit is all that can take long, and a disk that hangs must not hang the caller.
            if not operation.gate.acquire(timeout=0.5):
                raise CommitLost(f"{self._name} did not answer in time")
        return operation.result()

    def post(self, operation: Operation[Any]) -> None:
        """Have it done some time, again if it fails; nobody waits for the answer."""
        if not self._closed:
            self._put(operation)

    def _put(self, operation: Operation[Any]) -> None:
        self._inbox.put(operation)
        if self._ended:  # closed since we looked: nobody else will answer
            self._refuse_rest()

    def serve_here(self, operation: Operation[Any]) -> None:
        """Have it done on this thread, after whoever is at it."""
        with self._lock:
            self._serve([operation])

    def fold(self) -> bool:
        """Fold the write-ahead log into the file and cut it; whether somebody who reads or writes held it up."""
        with self._lock:
            try:
                (busy, _, _) = self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error:
                return True
            return bool(busy)

    @staticmethod
    def deadline(timeout: float) -> float:
        """The moment by which an operation must have begun."""
        return time.monotonic() + timeout

    def _check(self) -> None:
        if self._closed:
            raise Closed(f"the transport of {self._name} is closed")
        if self._broken is not None:
            raise self._broken

    # -- serving

    def _work(self) -> None:
        pause: float | None = _IDLE
        look_at = time.monotonic() + _IDLE
        while True:
            try:
                operation = self._inbox.get(timeout=pause)
            except queue.Empty:
                pause = self._look_after()
                continue
            if operation is None:
                return
            with self._lock:
                self._serve([operation])
            operation = None  # a waiting thread must not keep the last batch alive
            pause = pause or _IDLE
            if time.monotonic() >= look_at:
                pause = self._look_after() or _IDLE
                look_at = time.monotonic() + max(pause, _BETWEEN)

    def _look_after(self) -> float | None:
        """See to the house; return after how long it wants to be seen to again, None when only after more work."""
        again, self._again = self._again, []
        for operation in again:
            self._inbox.put(Operation(operation.act, time.monotonic() + _IDLE))
        return _IDLE if again else self._upkeep()

    def _serve(self, batch: list[Operation[Any]]) -> None:
        """Do these, and what else waits.  The caller holds the lock."""
        try:
            self._gather(batch)
            todo = [operation for operation in batch if operation.peek is None or not self._peeked(operation)]
            if todo and self._begin(todo, batch):
                self._together([operation for operation in todo if operation.begin()])
        except BaseException:  # Ctrl-C in a caller's thread: the others are not to wait for ever, or find it half done
            self._break_off(batch)
            raise
        finally:
            self._answer(batch)

    def _break_off(self, batch: Sequence[Operation[Any]]) -> None:
        self._rollback()
        self.routing.forget()
        for operation in batch:
            operation.begin()
            operation.error = operation.error or CommitLost(f"{self._name}: the transaction was broken off")

    def _gather(self, batch: list[Operation[Any]]) -> list[Operation[Any]]:
        fresh: list[Operation[Any]] = []
        while len(batch) + len(fresh) < _TOGETHER:
            try:
                operation = self._inbox.get_nowait()
            except queue.Empty:
                break
            if operation is None:  # close() says so to the thread, not to whoever serves now
                self._inbox.put(None)
                break
            fresh.append(operation)
        batch.extend(fresh)
        return fresh

    def _peeked(self, operation: Operation[Any]) -> bool:
        try:
            answer = operation.peek(self.connection)  # type: ignore[misc]  # only asked of those that can
        except sqlite3.Error:
            return False  # the transaction will meet the same error, and knows what to do with it
        except PostbusError as error:
            answer, operation.error = None, error
        if answer is None and operation.error is None:
            return False
        operation.value = answer
        operation.begin()
        return True

    def _begin(self, todo: list[Operation[Any]], batch: list[Operation[Any]] | None) -> bool:
        """Get the write lock; those whose time runs out meanwhile are told so, and newcomers join `batch`."""
        began = time.monotonic()
        in_door = self._turnstile.enter()
        try:
            while True:
                try:
                    self._be_durable(any(operation.durable for operation in todo))
                    self._execute("BEGIN IMMEDIATE")
                    self._place.check()
                except sqlite3.Error as error:
                    if not is_busy(error):
                        self._fail(todo, translated(error, self._place.path))
                        return False
                except TransportBroken as error:
                    self._rollback()
                    self._broken = error
                    self._fail(todo, error)
                    return False
                else:
                    return True
                if batch is not None:
                    todo.extend(self._gather(batch))
                if not self._expire(todo):
                    return False
                # Who has waited for long may wait a little longer: somebody's transaction takes its time.
                longer = min((time.monotonic() - began) / 20, 0.002)
                time.sleep(0.00005 + longer if in_door else dice.uniform(0.0002, 0.002))
                in_door = in_door or self._turnstile.enter()
        finally:
            if in_door:
                self._turnstile.leave()

    def _be_durable(self, needed: bool) -> None:  # noqa: FBT001 - the one thing it is about
        """Force the next commit to disk, or leave it to one that needs that, which takes all before it along."""
        level = self._promised if needed else "NORMAL"
        if level != self._level:
            self._execute(f"PRAGMA synchronous = {level}")
            self._level = level

    def _expire(self, todo: list[Operation[Any]]) -> bool:
        """Refuse those whose time is up; whether any are left."""
        now = time.monotonic()
        late = [operation for operation in todo if operation.deadline <= now]
        if late:
            self._fail(late, self._busy())
            todo[:] = [operation for operation in todo if operation.deadline > now]
        return bool(todo)

    def _fail(self, operations: Sequence[Operation[Any]], error: PostbusError) -> None:
        for operation in operations:
            operation.begin()
            operation.error = error

    def _together(self, batch: list[Operation[Any]]) -> None:
        """One transaction for all; each alone if that fails.  It has begun."""
        error = self._transact(batch)
        if error is None:
            return
        if len(batch) <= 1 or isinstance(error, CommitLost):
            for operation in batch:
                operation.error = error
            return
        for operation in batch:
            if self._begin([operation], None):
                operation.error = self._transact([operation])

    def _transact(self, batch: list[Operation[Any]]) -> BaseException | None:
        """Do the batch in the open transaction, and end it; the error that made it roll back."""
        transaction: Transaction | None = None
        committing = False
        try:
            seq, fence, revision = self._execute(self._counters).fetchone()
            routing = self.routing.at(revision, self._execute)
            now = self._clock.time()
            transaction = Transaction(self._execute, seq, fence, revision, now, routing, set(), [])
            for operation in batch:
                operation.value = operation.act(transaction)
            if (transaction.seq, transaction.fence, transaction.revision) != (seq, fence, revision):
                self._execute(self._count, (transaction.seq, transaction.fence, transaction.revision))
            committing = True
            self._execute("COMMIT")
            transaction.committed = True
            self.last = transaction.seq
        except Exception as error:  # noqa: BLE001 - the thread has no caller: whoever asked must hear of it
            self._rollback()
            self.routing.forget()  # it may have read what is now rolled back
            lost = committing and isinstance(error, sqlite3.Error) and not _was_refused(error)
            return CommitLost(f"{self._name}: the commit failed: {error}") if lost else self._meaning(error)
        finally:
            for end in () if transaction is None else transaction.ended:
                end()
        if self.connection.total_changes != self._changes:
            self._changes = self.connection.total_changes
            self.served_at = time.monotonic()
        if transaction.rung:
            by_id = transaction.routing.by_id
            self._rung([by_id[id_].spec.name for id_ in transaction.rung if id_ in by_id])
        return None

    def _meaning(self, error: Exception) -> BaseException:
        if isinstance(error, sqlite3.OperationalError | sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.IntegrityError | sqlite3.ProgrammingError
        ):
            return translated(error, self._place.path)
        return error

    def _rollback(self) -> None:
        if self.connection.in_transaction:
            try:
                self._execute("ROLLBACK")
            except sqlite3.Error as error:  # nothing can be trusted on a connection that cannot even do this
                self._broken = TransportBroken(f"{self._name} cannot be rolled back: {error}; restart this process")

    def _answer(self, batch: list[Operation[Any]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Operation[Any]]] = {}
        for operation in batch:
            if operation.gate is not None:
                operation.gate.release()
            elif operation.loop is not None:
                by_loop.setdefault(operation.loop, []).append(operation)
            elif isinstance(operation.error, TransportError) and not isinstance(operation.error, TransportBroken):
                self._again.append(operation)
        for loop, operations in by_loop.items():
            try:
                loop.call_soon_threadsafe(resolve, operations)
            except RuntimeError:  # that loop is closed: its callers are gone
                for operation in operations:
                    operation.abandon()

    def _refuse_rest(self) -> None:
        rest: list[Operation[Any]] = []
        while True:
            try:
                operation = self._inbox.get_nowait()
            except queue.Empty:
                break
            if operation is not None and operation.begin():
                operation.error = Closed(f"the transport of {self._name} is closed")
                rest.append(operation)
        self._answer(rest)

    @property
    def _name(self) -> str:
        return self._place.name

    def _busy(self) -> Busy:
        return Busy(
            f"{self._name} is busy: another connection has held the write lock too long; is a transaction left open?"
        )


def _was_refused(error: sqlite3.Error) -> bool:
    """Whether a failed COMMIT surely left nothing behind: it never wrote its last page."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY)
