"""A shop: Flask and SQLite.  An order and its event are committed together, or not at all.

flask --app flask_shop run              # the shop
flask --app flask_shop postbus worker   # what happens after an order
"""

import os
import sqlite3
from dataclasses import dataclass

from flask import Flask, abort, g

from postbus import Bus, DeliveryContext, event
from postbus.integrations.flask import Postbus, in_app_context

DATABASE = os.environ.get("SHOP_DATABASE", "shop.db")

# --8<-- [start:bus]
bus = Bus(f"sqlite:///{DATABASE}", middleware=[in_app_context(lambda: app)])
app = Flask(__name__)
app.config["CURRENCY"] = "EUR"
Postbus(bus, app)
# --8<-- [end:bus]


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int


class SoldOut(Exception):
    pass


@bus.on(OrderPlaced)  # part of publish(), in the caller's transaction: an error here takes the order back
def reserve_stock(event: OrderPlaced) -> None:
    if event.order_id.startswith("sold-out"):
        raise SoldOut(event.order_id)


@bus.subscriber(OrderPlaced, transactional=True)  # in a worker; its changes and "done" are one commit
def write_invoice(event: OrderPlaced, context: DeliveryContext) -> None:
    connection = context.tx_as(sqlite3.Connection)
    text = f"{event.cents / 100:.2f} {app.config['CURRENCY']}"
    connection.execute("INSERT INTO invoices VALUES (?, ?)", (event.order_id, text))


def database() -> sqlite3.Connection:
    if "database" not in g:
        g.database = sqlite3.connect(DATABASE)
        g.database.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, cents INTEGER)")
        g.database.execute("CREATE TABLE IF NOT EXISTS invoices (order_id TEXT, text TEXT)")
    return g.database


@app.teardown_appcontext
def close_database(_: BaseException | None) -> None:
    if "database" in g:
        g.database.close()


@app.errorhandler(SoldOut)
def sold_out(error: SoldOut) -> tuple[str, int]:
    return f"{error} is sold out", 409


@app.post("/orders/<order_id>/<int:cents>")
def place_order(order_id: str, cents: int) -> tuple[str, int]:
    with bus.transaction(database()) as tx:
        tx.execute("INSERT INTO orders VALUES (?, ?)", (order_id, cents))
        bus.publish_sync(OrderPlaced(order_id, cents), within=tx)
    return order_id, 201


@app.get("/orders/<order_id>")
def show_order(order_id: str) -> dict[str, object]:
    found = database().execute("SELECT cents FROM orders WHERE id = ?", (order_id,)).fetchone()
    if found is None:
        abort(404)
    invoices = database().execute("SELECT text FROM invoices WHERE order_id = ?", (order_id,)).fetchall()
    return {"cents": found[0], "invoices": [text for (text,) in invoices]}
