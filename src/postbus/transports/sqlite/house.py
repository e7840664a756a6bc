"""Everything that is open at once: made when the transport opens, taken down when it closes.  Blocking."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from ...address import Settings
from ...errors import Closed, ConfigError
from .burial import Burial
from .claiming import Claiming
from .declaring import Declaring
from .effects import Effects
from .files import Place, beside, boot, forget_other_boots, forget_sidecar, refuse_network
from .hastening import Hastening
from .liveness import Liveness, Renewer, Roll
from .operation import Operation
from .reading import Present, Reading, who_is_there
from .recording import Memoirs
from .rows import lenient
from .schema import Tables, create, create_workers
from .settling import Settling
from .spooling import Spooling
from .store import connect_main, connect_sidecar, is_damaged, patiently, translated
from .turnstile import Turnstile
from .upkeep import Upkeep
from .watch import Watch
from .writer import Writer

__all__ = ["House"]

T = TypeVar("T")


class House:
    """The open files, the threads that serve them, and the statements that move rows."""

    def __init__(
        self, path: Path, tables: Tables, settings: Settings, *, synchronous: str, patience: float, network: bool
    ) -> None:
        self.path = path
        self.patience = patience
        self._synchronous = synchronous
        self._clock = settings.clock
        self._tables = tables
        self._roll = Roll(tables)
        _refuse_folder(path)
        if not network:
            refuse_network(path)
        with ExitStack() as undo:
            main, self.identity = patiently(lambda: _opened(path, tables, synchronous), path, patience)
            undo.callback(main.close)
            self.place = Place(path)
            self.place.remember()
            sidecar = self._open_sidecar(undo)
            turnstile = Turnstile(beside(path, "-turn"))
            undo.callback(turnstile.close)
            self._build(main, sidecar, turnstile, settings)
            undo.pop_all()
        self.writer.start()

    def _open_sidecar(self, undo: ExitStack) -> sqlite3.Connection:
        this_boot = boot().replace("-", "")[:12] or "now"
        self._sidecar_place = Place(beside(self.path, f"-workers-{this_boot}"))
        forget_other_boots(self.path, self._sidecar_place.path)
        sidecar: sqlite3.Connection = patiently(
            lambda: _opened_sidecar(self._sidecar_place.path, self._tables), self.path, self.patience
        )
        undo.callback(sidecar.close)
        self._sidecar_place.remember()
        return sidecar

    def _build(
        self, main: sqlite3.Connection, sidecar: sqlite3.Connection, turnstile: Turnstile, settings: Settings
    ) -> None:
        tables, clock = self._tables, self._clock
        self.liveness = Liveness(self._roll, sidecar, clock)
        self._watch = Watch(
            tables,
            clock,
            self.place,
            connect=self._connect_reading,
            sweep=self._sweep,
            pace=lambda: self.liveness.lease / 4,
            ours=lambda: self.writer.last,
        )
        self.doorbell = self._watch.doorbell
        self.writer = Writer(
            main,
            turnstile,
            tables=tables,
            place=self.place,
            clock=clock,
            rung=self.doorbell.ring,
            upkeep=self._look_after,
            synchronous=self._synchronous,
        )
        self.settling = Settling(tables)
        self.claiming = Claiming(tables, main, self.liveness, clock.time)
        self.effects = Effects(tables, self.settling, self.place, clock, synchronous=self._synchronous)
        self.declaring = Declaring(tables, self.writer.routing, self.settling)
        self.burial = Burial(tables, self.settling)
        self.hastening = Hastening(tables, self.settling, clock.time)
        self.spooling = Spooling(tables, self.settling, clock.time)
        self._upkeep = Upkeep(tables, clock, self.declaring, beside(self.path, "-wal"), settings.retain)
        self.memoirs = Memoirs(self.path, tables.namespace, clock)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="postbus-sqlite-reader")
        self._reading: Reading | None = None
        self._roll_call: sqlite3.Connection | None = None
        self._read_only: list[sqlite3.Connection] = []
        self._closed = False

    # -- reading

    def read(self, look: Callable[[Reading], T]) -> T:
        """Look with the reader's connection; only on the reader's thread."""
        try:
            if self._reading is None:
                connection = self._connect_reading()
                connection.text_factory = lenient
                self._read_only.append(connection)
                self._reading = Reading(self._tables, connection, self._clock.time)
            return look(self._reading)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def present(self) -> Present:
        """Who lives; only on the reader's thread."""
        try:
            if self._roll_call is None:
                self._roll_call = self._connect_sidecar()
                self._read_only.append(self._roll_call)
            return who_is_there(self._roll, self._roll_call, self._clock.monotonic())
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    @property
    def reader(self) -> ThreadPoolExecutor:
        """The thread that reads.

        Raises:
            Closed: when the transport is.
        """
        if self._closed:
            raise Closed(f"the transport of {self.path.name} is closed")
        return self._reader

    def _connect_reading(self) -> sqlite3.Connection:
        return connect_main(self.path, synchronous="", reading=True)

    def _connect_sidecar(self) -> sqlite3.Connection:
        return connect_sidecar(self._sidecar_place.path)

    # -- leases

    def renewer(self, check: Callable[[], None]) -> Renewer:
        """A renewer with connections of its own."""
        return Renewer(
            self._roll,
            self._clock,
            self.liveness,
            main=self._connect_reading,
            sidecar=self._connect_sidecar,
            places=(self.place, self._sidecar_place),
            check=check,
            patience=self.patience,
        )

    def _sweep(self) -> None:
        """Have the writer look for the dead."""

        def peek(connection: sqlite3.Connection) -> bool | None:
            return None if self.liveness.sweep_needed(connection) else True

        def act(transaction: object) -> bool:
            self.liveness.sweep(transaction)  # type: ignore[arg-type]
            return True

        self.writer.post(Operation(act, self.writer.deadline(self.patience), peek=peek, durable=False))

    # -- upkeep

    def _look_after(self) -> float | None:
        return self._upkeep.look(self._tidy, self.writer.fold, self.writer.served_at)

    def _tidy(self) -> bool:
        operation = Operation(
            self._upkeep.tidy, self.writer.deadline(self.patience), peek=self._upkeep.peek, durable=False
        )
        self.writer.serve_here(operation)
        # Busy or full: the next look tries again, and callers hear of it themselves.
        return operation.error is None and bool(operation.value)

    def close(self) -> None:
        """Take it down; idempotent."""
        if self._closed:
            return
        self._closed = True
        self.doorbell.fail(Closed(f"the transport of {self.path.name} is closed"))
        self._watch.close()
        self.memoirs.close()
        self._reader.shutdown(wait=True)
        self.writer.close()
        self.liveness.close()
        for connection in self._read_only:
            connection.close()


def _refuse_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be opened: the directory {path.parent} does not exist; create it")
    if path.is_dir():
        raise ConfigError(f"{path} is a directory: expected a file, such as {path / 'events.db'}")


def _opened(path: Path, tables: Tables, synchronous: str) -> tuple[sqlite3.Connection, bytes]:
    connection = connect_main(path, synchronous=synchronous)
    try:
        return connection, create(connection, tables)
    except BaseException:
        connection.close()
        raise


def _opened_sidecar(path: Path, tables: Tables) -> sqlite3.Connection:
    """Nothing in it is forced to disk, so a machine that went down may leave it broken; then nobody in it is alive."""
    try:
        return _with_workers(path, tables)
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise
        forget_sidecar(path)
        return _with_workers(path, tables)


def _with_workers(path: Path, tables: Tables) -> sqlite3.Connection:
    connection = connect_sidecar(path, create=True)
    try:
        create_workers(connection, tables)
    except BaseException:
        connection.close()
        raise
    return connection
