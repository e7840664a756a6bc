"""The ledger as people and as programs read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from .ledger import Account, Ledger, TakeOver

__all__ = ["as_json", "as_text"]

COLUMNS = ("subscription", "published", "succeeded", "dead", "stored", "missing", "run twice", "failures")
WIDTHS = (10, 10, 6, 7, 8, 10, 9)


def as_text(ledger: Ledger) -> str:
    """The whole ledger."""
    return "\n".join(_lines(ledger))


def _lines(ledger: Ledger) -> Iterator[str]:
    yield "The ledger, from what every process wrote down for itself:"
    yield ""
    yield _row(COLUMNS)
    for account in ledger.accounts:
        yield _row(_cells(account))
    yield ""
    yield from (f"  {sentence}" for sentence in sentences(ledger))
    yield ""
    if ledger.adds_up:
        yield "It adds up: published = succeeded + dead + stored, compared id by id."
    else:
        yield "It does not add up:"
        yield from (f"  {problem}" for problem in ledger.problems)


def _cells(account: Account) -> Sequence[str]:
    numbers = (
        account.published,
        account.succeeded,
        account.dead,
        account.stored,
        len(account.missing),
        account.repeated,
        account.failed,
    )
    return (account.subscription, *(f"{number:,}" for number in numbers))


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    return f"  {first:<13}" + "".join(f"{cell:>{width}}" for cell, width in zip(others, WIDTHS, strict=True))


def sentences(ledger: Ledger) -> Iterator[str]:
    """What else the records show."""
    yield f"{ledger.published:,} events were accepted."
    if ledger.withdrawn:
        yield f"{ledger.withdrawn:,} were rolled back with their transaction, and reached nobody."
    if ledger.aircraft:
        verdict = (
            "each had its events in order" if not ledger.out_of_order else f"{len(ledger.out_of_order)} out of order"
        )
        yield f"{ledger.aircraft:,} aircraft: {verdict}."
    yield from (_take_over(one) for one in ledger.take_overs)
    repeats = sum(account.repeated for account in ledger.accounts)
    recognised = sum(account.recognised for account in ledger.accounts)
    if repeats:
        yield f"{repeats:,} deliveries were done twice: a death repeats what was running, and never more."
    if recognised:
        yield f"{recognised:,} times a service was asked for what it had done before: it knew the idempotency key."
    unsettled = sum(account.unsettled for account in ledger.accounts)
    if unsettled:
        yield f"{unsettled:,} of those that succeeded were not settled when the run ended: they would run again."


def _take_over(one: TakeOver) -> str:
    if not one.unfinished:
        return f"Worker {one.worker} (pid {one.pid}) was killed between two deliveries."
    what = "1 delivery" if one.unfinished == 1 else f"{one.unfinished} deliveries"
    begun = f"Worker {one.worker} (pid {one.pid}) was killed in the middle of {what}"
    if one.seconds is None:
        return f"{begun}; {one.taken} of them were done by others."
    return f"{begun}; all were done by others within {one.seconds:.1f} s."


def as_json(ledger: Ledger, **more: object) -> str:
    """The ledger as one JSON object."""
    return json.dumps({"adds_up": ledger.adds_up, **asdict(ledger), **more}, indent=2, default=str)
