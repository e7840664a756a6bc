"""What can be asked of a worker: to be quiet, to go on, to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..wishes import Wish
from .commands import command
from .question import Question
from .visit import NoSuchPage, Visit

__all__ = ["asking", "telling"]

_TEXTS: dict[Wish, tuple[str, str, str]] = {
    "quiet": (
        "Quiet",
        "It claims nothing more, hands back what it has not started and ends what runs; it stays, and can go on.",
        "claims nothing more, in a second or two",
    ),
    "resume": ("Go on", "It claims again.", "claims again, in a second or two"),
    "stop": (
        "Stop",
        "It ends as at a shutdown: what runs has its grace. No other is started in its place.",
        "stops",
    ),
}


def _owner(visit: Visit) -> str:
    owner = visit.text("worker")
    if owner not in {worker.owner for worker in visit.snapshot.workers}:
        raise NoSuchPage(f"no worker is called {owner}: it may have ended")
    return owner


def asking(what: Wish) -> Callable[[Visit], Awaitable[Question]]:
    """The question of this wish."""

    async def ask(visit: Visit) -> Question:
        owner, (button, text, _) = _owner(visit), _TEXTS[what]
        return Question(
            title=f"{button}: {owner}?",
            text=text,
            button=button,
            command=command("workers", what, visit.desk.target, owner),
            danger=what == "stop",
            fields=(("worker", owner),),
        )

    return ask


def telling(what: Wish) -> Callable[[Visit], Awaitable[str]]:
    """What passes it on."""

    async def tell(visit: Visit) -> str:
        owner = _owner(visit)
        await visit.bus.tell_worker(owner, what)
        return f"{owner} {_TEXTS[what][2]}."

    return tell
