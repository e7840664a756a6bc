"""The table of done marks as SQLAlchemy and Alembic see it; the same as `Marks` makes."""

from __future__ import annotations

from sqlalchemy import REAL, Column, DateTime, Index, LargeBinary, MetaData, Table, Text, Uuid

from ..marks import Marks

__all__ = ["tables"]


def tables(metadata: MetaData, *, namespace: str = "postbus") -> list[Table]:
    """Add the tables that `Bus(transactions=...)` keeps in your database, so that Alembic's autogenerate knows them.

    Args:
        metadata: yours, whose default schema is that of your connections.
        namespace: that of the bus.

    Returns:
        The tables: `<namespace>_inbox`.
    """
    name = Marks(namespace).table
    inbox = Table(
        name,
        metadata,
        Column("subscription", Text, primary_key=True),
        Column("id", Uuid().with_variant(LargeBinary(), "sqlite"), primary_key=True),
        Column("done_at", DateTime(timezone=True).with_variant(REAL(), "sqlite"), nullable=False),
        sqlite_with_rowid=False,
    )
    Index(f"{name}_when", inbox.c.done_at, postgresql_using="brin", postgresql_with={"pages_per_range": 16})
    return [inbox]
