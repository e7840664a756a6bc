import asyncio
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from postbus import Bus, event


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


class Invoice(Base):
    __tablename__ = "invoices"
    order_id: Mapped[str] = mapped_column(primary_key=True)


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int


engine = create_async_engine("sqlite+aiosqlite:///shop.db")
new_session = async_sessionmaker(engine, expire_on_commit=False)
bus = Bus("sqlite:///shop.db", transactions=new_session)


# --8<-- [start:publish]
async def place_order(order_id: str, cents: int) -> None:
    async with new_session.begin() as session:
        session.add(Order(id=order_id, cents=cents))
        await bus.publish(OrderPlaced(order_id, cents), within=session)
        if cents <= 0:
            raise ValueError("nothing to pay")  # neither the order nor the event remains


# --8<-- [end:publish]


@bus.on(OrderPlaced, after_commit=True)
async def say_so(event: OrderPlaced) -> None:
    print(f"{event.order_id} is committed")


# --8<-- [start:react]
@bus.subscriber(OrderPlaced, transactional=True)
async def invoice(event: OrderPlaced, session: AsyncSession) -> None:
    session.add(Invoice(order_id=event.order_id))  # committed once, however often the event is delivered


# --8<-- [end:react]


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with bus:
        await place_order("o-1", 4200)
        try:
            await place_order("o-2", 0)
        except ValueError as error:
            print(f"o-2 is not placed: {error}")
        await bus.drain()
    async with new_session() as session:
        print(await session.scalar(select(func.count()).select_from(Invoice)), "invoice")
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# o-1 is committed
# o-2 is not placed: nothing to pay
# 1 invoice
