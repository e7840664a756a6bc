"""`postbus trace`: why an event runs or does not, its attempts, and what it led to."""

from __future__ import annotations

from typing import Any

import click

from ..bus import Bus
from ..explain import Explanation, Standing
from ..lineage import Cause, Lineage
from ..shown import one_line
from ..trail import Attempt
from .events import event_id
from .given import as_json, takes_app, without_app
from .output import Table, moment, print_json
from .records import of_envelope
from .session import with_bus

__all__ = ["trace"]


@click.command()
@takes_app("[APP] ID", required=True)
@as_json
def trace(words: tuple[str, ...], *, app_dir: str, factory: bool, as_json: bool) -> None:
    """Say why an event runs or does not, and show what it led to.

    A sentence for each subscription, every attempt that the journal remembers, and the events that its handling
    published.
    """
    program, (text,) = without_app(words, app_dir, factory=factory, names=1)
    wanted = event_id(text)

    async def look(bus: Bus) -> tuple[Explanation, Lineage]:
        return await bus.explain(wanted), await bus.lineage(wanted)

    explanation, lineage = with_bus(program, look)
    if as_json:
        print_json(_record(explanation, lineage))
    else:
        _show(explanation, lineage)


def _show(explanation: Explanation, lineage: Lineage) -> None:
    envelope = explanation.envelope
    if envelope is not None:
        key = "" if envelope.key is None else f" of key {envelope.key}"
        click.echo(one_line(f"{envelope.name}{key}, published {moment(envelope.time)} UTC", 200))
    click.echo(one_line(explanation.summary, 1000))
    for standing in explanation.standings:
        click.echo("")
        click.echo(one_line(f"{standing.subscription} {standing.because}.", 1000))
        if standing.remedy:
            click.echo(f"  {one_line(standing.remedy, 300)}")
    if explanation.attempts:
        click.echo("")
        _attempts(explanation.attempts).show()
    if lineage.root.effects:
        click.echo("")
        for depth, cause in lineage.walk():
            mark = " <- this one" if cause.event_id == explanation.event_id else ""
            states = (
                "" if cause.stored is None else ", ".join(f"{n}: {s}" for n, s in sorted(cause.stored.states.items()))
            )
            click.echo(
                one_line(f"{'  ' * depth}{cause.name or 'no longer stored'} {cause.event_id} {states}{mark}", 300)
            )
        if lineage.cut:
            click.echo("(there are more)")


def _attempts(attempts: tuple[Attempt, ...]) -> Table:
    table = Table(["started", "subscription", ">attempt", ">took", "outcome", "error", "worker"])
    for attempt in attempts:
        failure = attempt.failure
        error = attempt.reason if failure is None else f"{failure.error}: {failure.message}"
        table.add(
            moment(attempt.started_at), attempt.subscription, attempt.attempt, f"{attempt.took * 1000:.3g} ms",
            attempt.outcome, error, attempt.worker,
        )  # fmt: skip
    return table


def _record(explanation: Explanation, lineage: Lineage) -> dict[str, Any]:
    return {
        "id": str(explanation.event_id),
        "event": None if explanation.envelope is None else of_envelope(explanation.envelope),
        "summary": explanation.summary,
        "subscriptions": [_of_standing(standing) for standing in explanation.standings],
        "attempts": [_of_attempt(attempt) for attempt in explanation.attempts],
        "lineage": _of_family(lineage),
    }


def _of_standing(standing: Standing) -> dict[str, Any]:
    return {
        "subscription": standing.subscription,
        "state": standing.state,
        "because": standing.because,
        "remedy": standing.remedy,
        "due_at": standing.due_at,
        "dead_letter": None if standing.letter is None else str(standing.letter.id),
    }


def _of_attempt(attempt: Attempt) -> dict[str, Any]:
    failure = attempt.failure
    return {
        "subscription": attempt.subscription,
        "attempt": attempt.attempt,
        "started_at": attempt.started_at,
        "took": attempt.took,
        "outcome": attempt.outcome,
        "error": None if failure is None else failure.error,
        "message": None if failure is None else failure.message,
        "reason": attempt.reason,
        "due_at": attempt.due_at,
        "worker": attempt.worker,
    }


def _of_family(lineage: Lineage) -> list[dict[str, Any]]:
    """Flat, parents first: a chain may be deeper than JSON can nest."""
    parents: dict[Any, Cause] = {effect.event_id: cause for _, cause in lineage.walk() for effect in cause.effects}
    return [
        {
            "id": str(cause.event_id),
            "name": cause.name,
            "parent": str(parents[cause.event_id].event_id) if cause.event_id in parents else None,
            "depth": depth,
            "states": None if cause.stored is None else dict(cause.stored.states),
        }
        for depth, cause in lineage.walk()
    ]
