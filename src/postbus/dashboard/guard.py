"""What every request must pass, and what every answer carries.  Knows nothing of buses and pages."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

# No inline code or style, no other origin, no frame around it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not none at all: a form would then say that it comes from nowhere.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_SAFE = frozenset({"GET", "HEAD"})
# An amended payload is the largest thing that is sent here.
_LONGEST = 4 * 1024 * 1024


class Guard:
    """Refuses what did not come from the dashboard's own pages.

    Args:
        app: what is guarded.
        hosts: the names it may be asked by, without port; None where the embedding program sees to that.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None = None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 4xx, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, sealed)
        else:
            status, why = refusal
            await PlainTextResponse(f"{why}\n", status)(scope, receive, sealed)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and not self._known(_hostname(host)):
            # The way in of DNS rebinding: a name of theirs that leads to this machine.  An address is nobody's name.
            return 421, "this dashboard is not known by that name: add it with --allow-host"
        if scope["method"] in _SAFE:
            return None
        if scope["method"] != "POST":
            return 405, "expected GET or POST"
        if not headers.get("content-length", "").isdigit() or int(headers["content-length"]) > _LONGEST:
            return 413, f"expected a body of at most {_LONGEST:,} bytes, with its length"
        return _foreign(headers, host, scope)

    def _known(self, name: str) -> bool:
        if self._hosts is not None and name in self._hosts:
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _foreign(headers: Headers, host: str, scope: Scope) -> tuple[int, str] | None:
    """Whether a page of somebody else sent this.  Browsers say so themselves; the others have a header to add."""
    site = headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return 403, "a page of another origin may not do this"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return 403, "the Origin is not this dashboard's"
    # No form can set a header, and no script of another origin may without being asked for first, which is never
    # answered.  The form of the login works without a script, and has nothing to lose.
    if headers.get("x-postbus") is None and not scope["path"].endswith("/login"):
        return 403, "expected the header X-Postbus"
    return None


def _hostname(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "") if host.isprintable() else ""
