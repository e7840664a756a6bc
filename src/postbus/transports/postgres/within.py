"""What is done inside the caller's own transaction, as scripts: on the caller's connection, of whichever client."""

from __future__ import annotations

from collections.abc import Sequence, Set

from ...delivery import Delivery
from ...drivers import Script, StatementFailed
from ...errors import ConfigError, LeaseLost, PublishFailed
from ...transport import Append, Duplicate, Outgoing, Refused, Settle, Settled
from .appending import Batch, Statements
from .line import Row
from .routing import Registry, Routing
from .schema import Tables

__all__ = ["Within"]

_SETTLED = Settled()
_DUPLICATE = Duplicate()
# No such schema, function, table; and no right to look into it.
_ELSEWHERE = ("3F000", "42883", "42P01", "42501")
# What `postbus.done` raises.
_LEASE_LOST = "PB001"


class Within:
    """The scripts."""

    def __init__(
        self, tables: Tables, registry: Registry, append: Statements, retain: float | None, identity: bytes
    ) -> None:
        self._schema = tables.schema
        self._registry = registry
        self._retain = retain
        self._identity = identity
        self._routing: Routing | None = None
        # Revisions begin anywhere: one that fits says that this is the place too, whatever pools do with connections.
        self._append = append
        self._read = registry.select
        self._where = tables("SELECT uuid_send(identity) FROM postbus.meta")
        self._exists = "SELECT to_regclass(%s)::text"
        self._seen = tables("SELECT uuid_send(id) FROM postbus.seen WHERE id = ANY (%s::uuid[])")
        self._look = tables("SELECT postbus.look(%s, %s, %s, %s, %s::uuid)")
        self._done = tables("SELECT postbus.done(%s, %s, %s, %s, %s::uuid, %s)::text")

    def append(self, items: Sequence[Outgoing]) -> Script[list[Append]]:
        """See `Enlisting.append_within`."""
        try:
            return (yield from self._store(items))
        except StatementFailed as failed:
            if failed.sqlstate in _ELSEWHERE:
                raise self._elsewhere() from failed
            error = PublishFailed(f"not stored: {failed}")
            error.__cause__ = failed
            return [Refused(error)] * len(items)

    def _store(self, items: Sequence[Outgoing]) -> Script[list[Append]]:
        routing = self._routing
        for _ in range(10):
            if routing is None:
                yield from self._refuse_elsewhere()
                routing = self._routing = self._registry.routing_of((yield self._read, ()))
            batch = Batch(items, routing, self._retain)
            one, values = batch.call
            ((new,),) = yield (self._append.one if one else self._append.many), values
            if new is not None:
                return batch.answered(new)
            routing = None
        error = PublishFailed("not stored: subscriptions are declared faster than events can be routed")
        return [Refused(error)] * len(items)

    def _refuse_elsewhere(self) -> Script[None]:
        if not (yield from self.holds()):
            raise self._elsewhere()

    def holds(self) -> Script[bool]:
        """See `Marking.holds`."""
        rows: list[Row] = yield self._exists, (f"{self._schema}.meta",)
        if rows[0][0] is None:
            return False
        rows = yield self._where, ()
        return bool(rows[0][0] == self._identity)

    def surviving(self, ids: Sequence[bytes]) -> Script[Set[bytes]]:
        """See `Enlisting.surviving`."""
        rows: list[Row] = yield self._seen, ([id_.hex() for id_ in ids],)
        return {row[0] for row in rows}

    # -- a delivery's own transaction

    def begin(self, delivery: Delivery) -> Script[Settle | Duplicate]:
        """The lease and the mark are only looked at: a run that is frozen holds up nobody."""
        receipt, id_ = delivery.receipt, delivery.envelope.id_bytes.hex()
        ((found,),) = yield self._look, (delivery.owner, receipt.seq, receipt.subscription, delivery.fence, id_)
        if found == 0:
            return _lost(delivery)
        return _DUPLICATE if found == 1 else _SETTLED

    def end(self, delivery: Delivery, *, repeated: bool) -> Script[Settle]:
        """Settled and marked; refused when the lease is lost by now."""
        receipt, id_ = delivery.receipt, delivery.envelope.id_bytes.hex()
        values = (delivery.owner, receipt.seq, receipt.subscription, delivery.fence, id_, repeated)
        try:
            yield self._done, values
        except StatementFailed as failed:
            if failed.sqlstate != _LEASE_LOST:
                raise
            return _lost(delivery)
        return _SETTLED

    def _elsewhere(self) -> ConfigError:
        return ConfigError(
            f"the connection given as within= is not to the database that holds the schema {self._schema} of this bus: "
            f"open it on that database, or use outbox="
        )


def _lost(delivery: Delivery) -> LeaseLost:
    return LeaseLost(
        f"event {delivery.envelope.id} is no longer leased for {delivery.subscription!r} to {delivery.owner!r}"
    )
