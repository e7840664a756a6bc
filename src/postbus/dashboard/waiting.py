"""Which retries somebody means: some, or all that match; and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from ..errors import UnknownSubscription
from ..event import valid_name
from ..inspection import Stats
from ..retrying import Retrying
from .commands import command
from .counting import count_up
from .desk import Desk
from .tasks import Task
from .visit import Visit, uuid_of

__all__ = ["Waiting"]

_MOST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The retries that a page, a form or a link names.

    Attributes:
        sub: of this subscription; None for all.
        ids: of these events only; picked rows say `subscription/id`.
        picked: the same, as they were picked.
        name, key, error: as of `bus.retries.each`.
    """

    sub: str | None = None
    ids: tuple[UUID, ...] = ()
    picked: tuple[tuple[str, UUID], ...] = ()
    name: str | None = None
    key: str | None = None
    error: str | None = None

    @classmethod
    def by(cls, visit: Visit) -> Waiting:
        """As the parameters say.

        Raises:
            InvalidName: when one of them cannot be what it should.
        """
        sub = visit.text("sub")
        parts = [text.rpartition("/") for text in visit.many("ids")[:_MOST]]
        picked = [(valid_name(name or sub, "subscription name"), uuid_of(text)) for name, _, text in parts]
        known = tuple((name, id_) for name, id_ in picked if id_ is not None)
        return cls(
            sub=valid_name(sub, "subscription name") if sub else None,
            ids=tuple(id_ for _, id_ in known),
            picked=known,
            name=visit.event_name("name"),
            key=visit.key("key"),
            error=visit.text("error") or None,
        )

    @property
    def query(self) -> dict[str, Any]:
        """As `bus.retries` takes it."""
        return {"name": self.name, "key": self.key, "error": self.error}

    @property
    def filters(self) -> dict[str, str]:
        """What goes into a link; ids do not."""
        given = {"sub": self.sub, "name": self.name, "key": self.key, "error": self.error}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """What a form sends on."""
        return (*self.filters.items(), *(("ids", f"{name}/{id_}") for name, id_ in self.picked))

    def command(self, target: str, action: Literal["list", "run-now", "discard"]) -> str:
        """The command that does the same."""
        subs = {name for name, _ in self.picked}
        options = dict(self.filters)
        if len(subs) == 1:
            options["sub"] = next(iter(subs))
        if self.ids:
            options["ids"] = ",".join(str(id_) for id_ in self.ids)
        every = ["--all"] if not options and action != "list" else []
        return command(
            "retries",
            action,
            target,
            *(word for name, value in options.items() for word in (f"--{name}", value)),
            *every,
        )

    def subs(self, stats: Stats) -> list[str]:
        """Whose."""
        if self.picked:
            return list(dict.fromkeys(name for name, _ in self.picked))
        return [self.sub] if self.sub is not None else [one.name for one in stats.values() if one.retrying]

    def of(self, sub: str) -> dict[str, Any]:
        """What of this subscription."""
        ids = [id_ for name, id_ in self.picked if name == sub]
        return {**self.query, "ids": ids or None}

    async def count(self, desk: Desk) -> tuple[int, bool]:
        """How many there are, and whether that is all of them: counting ends before anybody grows impatient."""
        if self.picked:
            return len(self.picked), True
        if self.name is self.key is self.error is None:
            stats = desk.pulse.last.stats
            return sum(stats[name].retrying for name in self.subs(stats) if name in stats), True
        subs = self.subs(desk.pulse.last.stats)
        return await count_up(1 for sub in subs async for _ in desk.bus.retries.each(sub, **self.of(sub)))

    async def page(self, desk: Desk, limit: int) -> list[Retrying]:
        """The soonest of them."""
        found: list[Retrying] = []
        for sub in self.subs(desk.pulse.last.stats):
            count = 0
            async for one in _each(desk, sub, self):
                found.append(one)
                count += 1
                if count == limit:
                    break
        return sorted(found, key=lambda one: one.due_at)[:limit]

    async def do(self, desk: Desk, action: Literal["run", "discard"], task: Task) -> int:
        """Run them now or discard them, as they are now: one that fails again meanwhile stays."""
        act = desk.bus.retries.run_now if action == "run" else desk.bus.retries.discard
        done = 0
        for sub in self.subs(await desk.bus.stats()):

            def progressed(count: int, before: int = done) -> None:
                task.done = before + count
                task.total = max(task.total, task.done)

            done += await act(sub, progress=progressed, **self.of(sub))
        task.done = done
        return done


async def _each(desk: Desk, sub: str, waiting: Waiting) -> Any:
    try:
        async for one in desk.bus.retries.each(sub, **waiting.of(sub)):
            yield one
    except UnknownSubscription:  # it was renamed or retired meanwhile
        return
