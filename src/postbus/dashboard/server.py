"""The application: asks for rights, hands visits to pages and actions, and says in pages what went wrong."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import InvalidName, PostbusError
from ..journal import acting_as
from ..shown import one_line
from .access import Authorize, Rights, rights_of
from .actions import ACTS, Refused
from .desk import Desk
from .export import exported
from .letters import Chosen
from .pages.catalogue import CATALOGUE
from .pages.dead import DEAD, LETTER, LETTERS
from .pages.events import EVENT, EVENTS
from .pages.outbox import OUTBOX
from .pages.overview import OVERVIEW
from .pages.page import Page
from .pages.retries import RETRIES
from .pages.subscriptions import SUBSCRIPTION, SUBSCRIPTIONS
from .pages.system import SYSTEM
from .pages.topics import TOPICS
from .pages.workers import WORKERS
from .present import STATIC
from .pulse import Snapshot
from .render import Drawn, Render, drawn
from .session import COOKIE, Logins
from .tasks import Task
from .visit import NoSuchPage, Visit

__all__ = ["PAGES", "Server"]

PAGES = (
    OVERVIEW, TOPICS, SUBSCRIPTIONS, SUBSCRIPTION, EVENTS, EVENT, RETRIES, DEAD, LETTERS, LETTER, WORKERS, OUTBOX,
    CATALOGUE, SYSTEM,
)  # fmt: skip
# Pauses between two messages of a stream, in seconds; the browser asks for one of them.
_PAUSES = (1, 2, 5, 15, 60)
_STREAMS = 200
# Of a pause: looks are not to the millisecond.
_NEARLY = 0.75
_DAY = 86_400
_FIELDS = 500
# So long an action may take before its progress is shown instead of its end.
_PATIENCE = 0.4

_Answer: TypeAlias = Callable[[Visit], Awaitable[Response]]


class Server:
    """The routes of one dashboard."""

    def __init__(self, desk: Desk, *, authorize: Authorize, read_only: bool, logins: Logins | None) -> None:
        self._desk = desk
        self._authorize = authorize
        self._read_only = read_only
        self._logins = logins
        self._render = Render(desk, PAGES, leaves=logins is not None)
        self._streams = 0

    def app(self) -> Starlette:
        """The application, without its guard."""
        routes: list[Route | Mount] = [
            Route("/healthz", self._healthy),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Mount("/static", _Static(directory=str(STATIC)), name="static"),
            Route("/ask/{action}", self._route(self._ask)),
            Route("/do/{action}", self._route(self._do), methods=["POST"]),
            Route("/tasks/{id}", self._route(self._task)),
            Route("/tasks/{id}/stop", self._route(self._stop), methods=["POST"]),
            Route("/series.json", self._route(self._series)),
            Route("/dead/export", self._route(self._export)),
            *(Route(page.path, self._route(self._page(page))) for page in PAGES),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._missing})

    # -- who asks, and what went wrong

    def _route(self, answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            rights = await self._rights(request)
            if rights is None:
                return self._unknown(request)
            if not rights.may_look:
                return self._say(request, rights, 403, "You may not look at this", _HINT)
            return await self._answer(request, rights, answer)

        return handle

    async def _answer(self, request: Request, rights: Rights, answer: _Answer) -> Response:
        try:
            snapshot = await self._desk.pulse.now()
            given = {} if request.method == "GET" else await _fields(request)
            visit = Visit(desk=self._desk, request=request, rights=rights, snapshot=snapshot, given=given)
            return await answer(visit)
        except NoSuchPage as error:
            return self._say(request, rights, 404, "There is nothing here", str(error))
        except (InvalidName, Refused) as error:
            return self._say(request, rights, 400, "That cannot be", str(error))
        except PermissionError as error:
            return self._say(request, rights, 403, "Not now, or not by you", str(error))
        except PostbusError as error:
            return self._say(request, rights, 503, "The bus does not answer", str(error))

    async def _rights(self, request: Request) -> Rights | None:
        """None where somebody must log in first."""
        if self._logins is None:
            return await rights_of(request, self._authorize, read_only=self._read_only)
        account = self._logins.account_of(request)
        if account is None:
            return None
        rights = await rights_of(request, lambda _: account.access, read_only=self._read_only)
        return Rights(who=account.name, actions=rights.actions)

    def _unknown(self, request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        if request.method == "GET" and "hx-request" not in request.headers and "live" not in request.query_params:
            return RedirectResponse(f"{root}/login", 303)
        return HTMLResponse("log in first", 401)

    def _say(self, request: Request, rights: Rights, status: int, title: str, text: str) -> Response:
        """In a page, or in the dialog that asked."""
        snapshot = Snapshot(number=0, at=self._desk.pulse.last.at)
        visit = Visit(desk=self._desk, request=request, rights=rights, snapshot=snapshot)
        template = "said.html" if "hx-request" in request.headers else "problem.html"
        return HTMLResponse(self._render.text(template, visit, page=None, title=title, text=text, good=False), status)

    async def _missing(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        rights = await self._rights(request)
        if rights is None or not rights.may_look:
            return HTMLResponse("not found", status)
        return self._say(request, rights, status, "There is nothing here", f"no page is called {request.url.path}")

    # -- pages

    def _page(self, page: Page) -> _Answer:
        async def answer(visit: Visit) -> Response:
            if "live" in visit.request.query_params:
                return self._stream(page, visit)
            return HTMLResponse(await self._render.page(page, visit))

        return answer

    def _stream(self, page: Page, visit: Visit) -> Response:
        if self._streams >= _STREAMS:
            return HTMLResponse("too many look already", 503)
        pause = min(_PAUSES, key=lambda known: abs(known - visit.number("live", 2, most=60)))
        return EventSourceResponse(self._changes(page, visit, pause), ping=15, send_timeout=20)

    async def _changes(self, page: Page, visit: Visit, pause: int) -> AsyncIterator[bytes]:
        """The changing part of a page, again and again; nothing where nothing changed."""
        self._streams += 1
        try:
            with self._desk.pulse.watched(pause):
                sent, number = "", -1  # at once: whoever comes back to a tab has not seen anything for long
                at, began = float("-inf"), time.monotonic()
                while True:
                    snapshot = await self._desk.pulse.after(number)
                    number = snapshot.number
                    # All who look every two seconds are told at the same look, so that it is drawn once for them;
                    # those who want to know more seldom let some looks pass.
                    if time.monotonic() - at < pause * _NEARLY:
                        continue
                    at = time.monotonic()
                    rights = await self._rights(visit.request)
                    if rights is None or rights.actions != visit.rights.actions:
                        return  # the session ended, or means something else by now
                    current = Visit(desk=self._desk, request=visit.request, rights=rights, snapshot=snapshot)
                    found = await self._changed(page, current, began)
                    if found.news != sent:
                        sent = found.news
                        yield found.message
        finally:
            self._streams -= 1

    async def _changed(self, page: Page, visit: Visit, since: float) -> Drawn:
        try:
            return await self._render.live(page, visit, since)
        except NoSuchPage as error:
            said = self._render.text("said.html", visit, title="It is gone", text=str(error), good=True)
        except PostbusError as error:
            said = self._render.text("said.html", visit, title="The bus does not answer", text=str(error), good=False)
        return drawn(said)

    async def _series(self, visit: Visit) -> Response:
        history = await self._desk.past.history(_DAY if visit.text("span") == "day" else 900)
        return JSONResponse({} if history is None else self._desk.past.chart(history))

    # -- actions

    async def _may(self, visit: Visit, action: str) -> None:
        if action not in ACTS and action != "export":
            raise NoSuchPage(f"no action is called {action}")
        if not visit.rights.may(action):
            if visit.request.method == "POST":
                await self._note(visit.rights.who, f"dashboard.{action}", visit.text("sub"), "refused")
            raise PermissionError(f"you may look, but not {action}")

    async def _ask(self, visit: Visit) -> Response:
        action = visit.path("action")
        await self._may(visit, action)
        question = await ACTS[action].ask(visit)
        return HTMLResponse(self._render.text("ask.html", visit, action=action, question=question))

    async def _do(self, visit: Visit) -> Response:
        action = visit.path("action")
        await self._may(visit, action)
        with acting_as(visit.signature):
            done = await ACTS[action].do(visit)
        if isinstance(done, str):
            self._desk.pulse.stir()
            return HTMLResponse(self._render.text("said.html", visit, title="Done", text=done, good=True))
        return self._progress(visit, await self._desk.tasks.settled(done, _PATIENCE))

    async def _task(self, visit: Visit) -> Response:
        task = self._desk.tasks.get(visit.path("id"))
        if task is None:
            raise NoSuchPage("that action is long done")
        return self._progress(visit, task)

    async def _stop(self, visit: Visit) -> Response:
        task = self._desk.tasks.get(visit.path("id"))
        if task is None:
            raise NoSuchPage("that action is long done")
        if not visit.rights.actions:
            raise PermissionError("you may look, but not stop it")
        self._desk.tasks.stop(task.id)
        return self._progress(visit, await self._desk.tasks.settled(task, _PATIENCE))

    def _progress(self, visit: Visit, task: Task) -> Response:
        return HTMLResponse(self._render.text("task.html", visit, task=task))

    async def _export(self, visit: Visit) -> Response:
        await self._may(visit, "export")
        chosen = Chosen.by(visit)
        headers = {"content-disposition": 'attachment; filename="dead-letters.jsonl"'}
        lines = exported(visit, chosen)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)

    # -- in and out

    async def _healthy(self, _: Request) -> Response:
        return JSONResponse({"ok": True})

    async def _login(self, request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        if self._logins is None:
            return RedirectResponse(f"{root}/", 303)
        if request.method == "GET":
            return self._login_page(request, 200, "")
        given = await _fields(request)
        client = request.client.host if request.client is not None else ""
        name, password = ("".join(given.get(word, [""])[:1])[:300] for word in ("name", "password"))
        try:
            session = self._logins.login(client, name, password)
        except PermissionError as error:
            return self._login_page(request, 429, str(error))
        await self._note(name, "dashboard.login", client, "refused" if session is None else "ok")
        if session is None:
            return self._login_page(request, 401, "that name and password do not belong together")
        answer = RedirectResponse(f"{root}/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", secure=secure, path=f"{root}/")
        return answer

    async def _note(self, who: str, what: str, detail: str, result: str) -> None:
        """For the trail of actions; while the bus is closed there is none."""
        with suppress(PostbusError), acting_as(f"{one_line(who, 60)} (dashboard)"):
            await self._desk.pulse.now()
            await self._desk.bus.journal.note(what, detail=detail, result=result)

    def _login_page(self, request: Request, status: int, said: str) -> Response:
        rights = Rights(who="", actions=None)
        visit = Visit(desk=self._desk, request=request, rights=rights, snapshot=self._desk.pulse.last)
        return HTMLResponse(self._render.text("login.html", visit, page=None, said=said), status)

    async def _logout(self, request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        answer = HTMLResponse("", headers={"hx-redirect": f"{root}/login"})
        answer.delete_cookie(COOKIE, path=f"{root}/")
        return answer


_HINT = (
    "Without authorize=, this dashboard answers to this machine alone, asked by a name of this machine. "
    "Pass authorize= to say who else may look."
)


async def _fields(request: Request) -> Mapping[str, Sequence[str]]:
    """The fields of a form as browsers send it without files; the guard bounded its length.

    Raises:
        Refused: when it is none.
    """
    try:
        return parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError as error:
        raise Refused(f"that is no form: {error}") from error


class _Static(StaticFiles):
    """Files whose address changes with their content."""

    def file_response(self, *given: Any, **named: Any) -> Response:
        """Kept for ever by browsers."""
        answer = super().file_response(*given, **named)
        answer.headers["cache-control"] = "public, max-age=31536000, immutable"
        return answer
