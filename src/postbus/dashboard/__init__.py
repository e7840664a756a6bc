"""The dashboard: what flows, what lags, what failed and why, and what to do about it; needs `postbus[dashboard]`."""

from __future__ import annotations

from ..bus import Bus
from ..errors import ConfigError

try:
    from starlette.types import ASGIApp
except ModuleNotFoundError as error:
    raise ConfigError("postbus[dashboard] is not installed: pip install 'postbus[dashboard]'") from error

from .access import ACTIONS, Access, Authorize, Grant, local_only
from .desk import Desk
from .guard import Guard
from .server import Server
from .session import Account, Logins
from .shown import Redact, Shown

__all__ = ["ACTIONS", "Access", "Account", "Authorize", "Grant", "Redact", "Shown", "app", "local_only"]


def _as_it_is(shown: Shown) -> Shown:
    return shown


def app(
    bus: Bus,
    *,
    authorize: Authorize | None = None,
    read_only: bool = False,
    redact: Redact | None = None,
    accounts: tuple[Account, ...] = (),
    hosts: frozenset[str] | None = None,
    target: str = "APP",
    title: str = "",
) -> ASGIApp:
    """Return the dashboard of a bus as an ASGI application, to be mounted under any path.

    It opens the bus when nobody else has, needs no lifespan, and works while somebody looks.

    Args:
        bus: what is shown.
        authorize: says for each request what its sender may do: `Access.FULL`, `READ_ONLY`, `DENY`, or a set of
            `ACTIONS`; may be async.  Without it, and without `accounts`, only this machine may look.
        read_only: nobody may do anything.
        redact: is given a `Shown`, and returns it without what must not be seen.  Fields and headers that are named
            like secrets are hidden already.
        accounts: who may log in, where the embedding program has no logins of its own.
        hosts: the names it may be asked by, without port; None where the embedding program sees to that.
        target: what the commands beside the actions call the bus, such as `shop:bus`.
        title: a name for the window; default the transport's and the namespace's.
    """
    desk = Desk(bus, redact=redact or _as_it_is, target=target, title=title or bus.transport.traits.name)
    logins = Logins(accounts) if accounts else None
    server = Server(desk, authorize=authorize or local_only, read_only=read_only, logins=logins)
    return Guard(server.app(), hosts)
