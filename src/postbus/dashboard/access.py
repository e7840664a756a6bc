"""Who may do what in the dashboard.  Decides from what the embedding program answers; asks nobody itself."""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from starlette.requests import Request

from ..errors import ConfigError

__all__ = ["ACTIONS", "Access", "Authorize", "Grant", "Rights", "is_loopback", "local_only", "rights_of"]

# Everything that changes something, or takes payloads away.
ACTIONS = frozenset(
    {
        "pause",
        "resume",
        "seek",
        "replay",
        "discard",
        "amend",
        "export",
        "hasten",
        "abandon",
        "quiet-worker",
        "resume-worker",
        "stop-worker",
    }
)


class Access(Enum):
    """What `authorize` answers, where it does not name single actions."""

    FULL = "full"
    READ_ONLY = "read-only"
    DENY = "deny"


Grant: TypeAlias = Access | Collection[str]
Authorize: TypeAlias = Callable[[Request], Grant | Awaitable[Grant]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What one visitor may do.

    Attributes:
        who: their name, for the audit trail.
        actions: of `ACTIONS`; None where not even looking is allowed.
    """

    who: str
    actions: frozenset[str] | None

    @property
    def may_look(self) -> bool:
        """Whether pages are shown at all."""
        return self.actions is not None

    def may(self, action: str) -> bool:
        """Whether this action is allowed."""
        return self.actions is not None and action in self.actions


async def rights_of(request: Request, authorize: Authorize, *, read_only: bool) -> Rights:
    """Ask `authorize`, and make nothing of its answer that it did not say.

    Raises:
        ConfigError: when it names an action that there is not.
    """
    answer = authorize(request)
    grant = await answer if inspect.isawaitable(answer) else answer
    return Rights(who=_name(request), actions=_actions(grant, read_only=read_only))


def _actions(grant: Grant, *, read_only: bool) -> frozenset[str] | None:
    if grant is Access.DENY:
        return None
    if read_only or grant is Access.READ_ONLY:
        return frozenset()
    if grant is Access.FULL:
        return ACTIONS
    if isinstance(grant, str | Access) or not isinstance(grant, Collection):
        raise ConfigError(f"authorize answered {grant!r}: expected Access.FULL, READ_ONLY, DENY or a set of actions")
    if unknown := sorted(set(grant) - ACTIONS):
        raise ConfigError(f"authorize named {', '.join(unknown)}: expected some of {', '.join(sorted(ACTIONS))}")
    return frozenset(grant)


def _name(request: Request) -> str:
    """As the embedding program's own middleware calls the visitor, else where they come from."""
    user = request.scope.get("user")
    name = getattr(user, "display_name", None) or getattr(user, "username", None)
    if isinstance(name, str) and name:
        return name[:200]
    return request.client.host if request.client is not None else "unknown"


def local_only(request: Request) -> Access:
    """Full access from this machine by a name of this machine, and none from elsewhere.

    A request that a proxy forwarded is from elsewhere, wherever the proxy runs.
    """
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host"))
    client = request.client.host if request.client is not None else ""
    host = request.url.hostname or ""
    return Access.FULL if not forwarded and is_loopback(client) and is_loopback(host) else Access.DENY


def is_loopback(host: str) -> bool:
    """Whether this address or name is the machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
