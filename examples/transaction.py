import sqlite3
from dataclasses import dataclass

from postbus import Bus, Context, event


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    product: str


bus = Bus("sqlite:///app.db")  # the file that the application keeps its own tables in


@bus.on(OrderPlaced)
def reserve_stock(event: OrderPlaced, context: Context) -> None:
    database = context.tx_as(sqlite3.Connection)  # the caller's connection, in its transaction
    taken = database.execute("UPDATE stock SET left = left - 1 WHERE product = ? AND left > 0", [event.product])
    if taken.rowcount == 0:
        raise LookupError(f"{event.product} is sold out")


@bus.on(OrderPlaced, after_commit=True)
def say_so(event: OrderPlaced) -> None:
    print(f"{event.order_id} is committed")


@bus.subscriber(OrderPlaced)
def pack(event: OrderPlaced) -> None:
    print(f"packing {event.product}")


# --8<-- [start:place]
def place_order(database: sqlite3.Connection, order_id: str, product: str) -> None:
    with bus.transaction(database) as tx:
        tx.execute("INSERT INTO orders VALUES (?, ?)", [order_id, product])
        bus.publish_sync(OrderPlaced(order_id, product), within=tx)
    # The order, the stock taken and the event are committed together, or none of them is.


# --8<-- [end:place]


def main() -> None:
    database = sqlite3.connect("app.db")
    database.executescript(
        "CREATE TABLE orders (id TEXT PRIMARY KEY, product TEXT);"
        "CREATE TABLE stock (product TEXT PRIMARY KEY, left INTEGER);"
        "INSERT INTO stock VALUES ('kettle', 1);"
    )
    with bus:
        place_order(database, "o-1", "kettle")
        try:
            place_order(database, "o-2", "kettle")
        except LookupError as error:
            print(f"o-2 is not placed: {error}")
    print(database.execute("SELECT id FROM orders").fetchall())
    database.close()


if __name__ == "__main__":
    main()

# Output:
# o-1 is committed
# o-2 is not placed: kettle is sold out
# [('o-1',)]
