"""SQLAlchemy Core on psycopg: one INSERT in an open transaction, of a session or of a connection."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..load import order
from ..task import Measure, Task
from .postgres import each, make, row

_QUEUE = sa.Table(
    "queue",
    sa.MetaData(),
    sa.Column("seq", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("id", sa.Uuid),
    sa.Column("topic", sa.Text),
    sa.Column("body", sa.LargeBinary),
)
_INSERT = _QUEUE.insert().inline()


def insert(task: Task) -> Measure:
    """One row after the other inside one open transaction of a connection."""
    make(task)
    with _engine(task).connect() as connection:
        return each(task.events, lambda: connection.execute(_INSERT, _columns()))


def insert_in_session(task: Task) -> Measure:
    """One row after the other inside one open transaction of a session, as a program that has one does it."""
    make(task)
    with Session(_engine(task)) as session:
        return each(task.events, lambda: session.execute(_INSERT, _columns()))


def _engine(task: Task) -> sa.Engine:
    return sa.create_engine(task.text("url").replace("postgresql:", "postgresql+psycopg:"))


def _columns() -> dict[str, Any]:
    id_, topic, body = row(order())
    return {"id": id_, "topic": topic, "body": body}
