"""Templates to text: whole pages, the part of a page that changes, and the fragments that actions answer with."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sse_starlette.event import ServerSentEvent

from .. import __version__
from .desk import Desk
from .pages.page import Page
from .present import environment
from .visit import Visit

__all__ = ["Drawn", "Render", "drawn"]

_KEPT = 200
# How long ago something was: the browser counts that on by itself.
_AGES = re.compile(r"(<time [^>]*>)[^<]*")


class Drawn(NamedTuple):
    """The changing part of a page at one moment: what of it is news, and the message that says it."""

    news: str
    message: bytes


class _Made(NamedTuple):
    """What was made of a page: at which look at the bus, begun when, and what."""

    number: int
    began: float
    drawn: asyncio.Future[Drawn]


class Render:
    """The templates of one dashboard, with what was made of them for this moment."""

    def __init__(self, desk: Desk, pages: Sequence[Page], *, leaves: bool) -> None:
        """`leaves` says that visitors may log out."""
        self._env = environment()
        self._env.globals |= {"menu": [page for page in pages if page.jump], "leaves": leaves, "version": __version__}
        self._desk = desk
        self._made: dict[tuple[object, ...], _Made] = {}

    def text(self, template: str, visit: Visit, **values: Any) -> str:
        """One template."""
        return self._env.get_template(template).render(self._values(visit, values))

    async def page(self, page: Page, visit: Visit) -> str:
        """The whole page."""
        return self.text(page.template, visit, page=page, **await page.view(visit))

    async def live(self, page: Page, visit: Visit, since: float) -> Drawn:
        """The part of the page that changes; made once for all who look at it now.

        Whoever looks since a moment on the monotonic clock has seen the page as it was then: nothing older is shown.
        """
        key = (page.path, str(visit.request.url.remove_query_params("live")), visit.rights.actions)
        made = self._made.get(key)
        if made is None or made.number != visit.snapshot.number or made.began < since:
            made = _Made(visit.snapshot.number, time.monotonic(), asyncio.ensure_future(self._block(page, visit)))
            self._made[key] = made
            while len(self._made) > _KEPT:
                del self._made[next(iter(self._made))]
        return await asyncio.shield(made.drawn)

    async def _block(self, page: Page, visit: Visit) -> Drawn:
        view = await page.view(visit)
        with self._drawing():
            template = self._env.get_template(page.template)
            values = self._values(visit, {"page": page, "oob": True, **view})
            changing = "".join(template.blocks["live"](template.new_context(values)))
            return drawn(changing + self._env.get_template("route.html").render(values))

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._desk.pulse.drew(time.perf_counter() - began)

    def _values(self, visit: Visit, values: dict[str, Any]) -> dict[str, Any]:
        return {
            "visit": visit,
            "desk": self._desk,
            "snapshot": visit.snapshot,
            "now": datetime.now(UTC),
            "url": visit.url,
            "may": visit.rights.may,
            **values,
        }


def drawn(text: str) -> Drawn:
    """A text as a message of a stream, encoded once for all who get it."""
    return Drawn(_AGES.sub(r"\1", text), ServerSentEvent(text).encode())
