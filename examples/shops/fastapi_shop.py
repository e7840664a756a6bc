"""A shop: FastAPI, SQLAlchemy and PostgreSQL.  An order and its event are committed together, or not at all.

uvicorn fastapi_shop:app            # the shop
postbus worker fastapi_shop:bus     # what happens after an order
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from postbus import Bus, event
from postbus.integrations.fastapi import BusDep
from postbus.integrations.starlette import lifespan

DATABASE = os.environ.get("SHOP_DATABASE", "postgresql://localhost/shop")

engine = create_async_engine(DATABASE.replace("postgresql://", "postgresql+psycopg://"))
Session = async_sessionmaker(engine, expire_on_commit=False)
bus = Bus(DATABASE, transactions=Session)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]
    invoices: Mapped[int] = mapped_column(default=0)


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int


@bus.on(OrderPlaced)  # part of publish(), in the caller's transaction: an error here takes the order back
async def reserve_stock(event: OrderPlaced) -> None:
    if event.order_id.startswith("sold-out"):
        raise HTTPException(409, f"{event.order_id} is sold out")


@bus.subscriber(OrderPlaced, transactional=True)  # in a worker; its changes and "done" are one commit
async def write_invoice(event: OrderPlaced, session: AsyncSession) -> None:
    order = await session.get_one(Order, event.order_id)
    order.invoices += 1


@asynccontextmanager
async def tables(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


# --8<-- [start:app]
app = FastAPI(lifespan=lifespan(bus, inner=tables))


@app.post("/orders/{order_id}", status_code=201)
async def place_order(order_id: str, cents: int, bus: BusDep) -> dict[str, str]:
    async with Session.begin() as session:
        session.add(Order(id=order_id, cents=cents))
        await session.flush()
        await bus.publish(OrderPlaced(order_id, cents), within=session)
    return {"order": order_id}


# --8<-- [end:app]
@app.get("/orders/{order_id}")
async def show_order(order_id: str) -> dict[str, int]:
    async with Session() as session:
        order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404)
    return {"cents": order.cents, "invoices": order.invoices}
