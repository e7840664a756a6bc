"""What Alembic is told of our tables is what is there."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from desks import sqlalchemy_url
from sqlalchemy import MetaData, create_engine

from postbus.drivers import driver_of, perform
from postbus.integrations.sqlalchemy_tables import tables
from postbus.marks import Marks


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
@pytest.mark.parametrize("ours", [True, False], ids=["made by a worker", "made by a migration"])
def test_autogenerate_finds_nothing_to_do(
    dialect: str, ours: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    if dialect == "postgresql":
        url = sqlalchemy_url(request.getfixturevalue("postgres_url"), "psycopg")
    marks, metadata = Marks(namespace), MetaData()
    (table,) = tables(metadata, namespace=namespace)
    engine = create_engine(url)
    with engine.begin() as connection:
        if not ours:
            metadata.create_all(connection)
        raw = connection.connection.driver_connection
        driver = driver_of(raw)
        assert driver is not None
        perform(driver, raw, marks.make(driver.dialect))
        assert perform(driver, raw, marks.mark(driver.dialect, "bill", uuid4().bytes))
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, parents: kind != "table" or name == table.name,
            },
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()
