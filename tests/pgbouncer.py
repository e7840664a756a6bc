"""A pgbouncer in transaction mode before a PostgreSQL, for tests; it is taken from PATH, or from Debian's place."""

from __future__ import annotations

import shutil
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from server_kinds import PostgresKind, group_of

__all__ = ["PgbouncerKind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PgbouncerKind:
    """See `server_kinds.Kind`.  `behind` is the URL of the PostgreSQL."""

    behind: str
    name: str = "pgbouncer"
    variable: str = "POSTBUS_TEST_PGBOUNCER_URL"
    wheel: str = "nothing: it comes with the system, as in `apt-get install pgbouncer`"
    stop_signal: signal.Signals = signal.SIGTERM

    @property
    def user(self) -> str | None:
        return PostgresKind().user

    def binary(self) -> Path | None:
        found = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        return None if found is None else Path(found)

    def prepare(self, folder: Path) -> None:
        if self.user is not None:
            shutil.chown(folder, self.user, group_of(self.user))

    def command(self, folder: Path, port: int) -> list[str]:
        place = urlsplit(self.behind)
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            f"""
            [databases]
            * = host={place.hostname} port={place.port} user=postgres
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 20
            max_client_conn = 500
            """.replace("\n            ", "\n")
        )
        return [str(self.binary()), str(settings)]

    def url(self, port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/postgres?prepare=off&listen=off"

    def greet(self, connection: socket.socket) -> bool:
        about = b"user\0postgres\0database\0postgres\0\0"
        connection.sendall(struct.pack("!ii", 8 + len(about), 3 << 16) + about)
        return connection.recv(1) == b"R"
