"""A PostgreSQL whose time a test moves by hand: a database with other clocks before the server's.

No lease ends there because a machine was busy, and nobody waits for one that should.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from postbus.testing.clock import ManualClock

__all__ = ["Hand", "on_database", "with_hand"]

# A sequence, because what it holds is seen at once, in whatever transaction.
_HAND = """
CREATE SCHEMA hand;
CREATE SEQUENCE hand.micros;
CREATE FUNCTION hand.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    $$ SELECT to_timestamp(0) + last_value * interval '1 microsecond' FROM hand.micros $$;
CREATE FUNCTION hand.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
    $$ SELECT hand.clock_timestamp() $$;
"""


class Hand:
    """Moves the time of one database.

    Attributes:
        database: its name; its URL is that of the server with this name.
    """

    def __init__(self, database: str, connection: psycopg.Connection) -> None:
        self.database = database
        self._connection = connection

    def follow(self, clock: ManualClock) -> None:
        """Be as late as this clock says, from now on."""

        def move() -> None:
            self._connection.execute("SELECT setval('hand.micros', %s)", (round(clock.time() * 1e6),))

        move()
        clock.on_advance(move)


@contextmanager
def with_hand(server_url: str) -> Iterator[Hand]:
    """A database on this server, dropped afterwards."""
    name = f"hand_{uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
        server.execute(f"ALTER DATABASE {name} SET search_path = hand, pg_catalog".encode())
        try:
            with psycopg.connect(on_database(server_url, name), autocommit=True) as connection:
                connection.execute(_HAND)
                yield Hand(name, connection)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def on_database(url: str, name: str) -> str:
    """The same server's URL, with another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()
