"""Error, attempt and luck in; outcome out.  Pure: no clock, no dice, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from .clock import Span, seconds
from .delivery import Bury, Outcome, Reject, Requeue, Snooze
from .errors import ConfigError
from .failure import Redact, describe, redacted

__all__ = ["Kinds", "Retry"]

Kinds = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What becomes of a failed attempt.

    Attributes:
        attempts: total tries, the first included.
        delay: seconds (or timedelta) before the second try.
        multiplier: each further wait is this many times the one before.
        max_delay: no wait is longer than this, jitter aside.
        jitter: up to this share of a wait is added to it, so that a wait is never shorter than stated.
        retry_on: only these errors are tried again; None means all.
        give_up_on: these are buried at once, whatever attempts are left.

    Raises:
        ConfigError: when a value makes no sense.
    """

    attempts: int = 10
    delay: Span = 1.0
    multiplier: float = 3.0
    max_delay: Span = 3600.0
    jitter: float = 0.25
    retry_on: Kinds | None = None
    give_up_on: Kinds = ()

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise ConfigError(
                f"Retry(attempts={self.attempts!r}): expected a whole number from 1, the first try included"
            )
        seconds(self.delay, "Retry delay")
        seconds(self.max_delay, "Retry max_delay")
        if not 1 <= self.multiplier < float("inf"):
            raise ConfigError(f"Retry(multiplier={self.multiplier!r}): expected a number from 1")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"Retry(jitter={self.jitter!r}): expected a share from 0 to 1")
        for kinds in (self.retry_on, self.give_up_on):
            for kind in kinds if isinstance(kinds, tuple) else (kinds,):
                if kind is not None and not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    raise ConfigError(f"Retry names {kind!r}: expected an exception class or a tuple of them")

    def wait_after(self, attempt: int, luck: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1); `luck` is from 0 to 1."""
        longest = _span(self.max_delay)
        try:
            wait = min(_span(self.delay) * self.multiplier ** (attempt - 1), longest)
        except OverflowError:
            wait = longest
        return wait * (1 + self.jitter * luck)

    def judge(self, error: BaseException, *, attempt: int, luck: float, redact: Redact = redacted) -> Outcome:
        """Return what becomes of a delivery whose attempt number `attempt` ended with `error`."""
        if isinstance(error, Reject):
            return Bury(error.reason, describe(error, redact))
        if isinstance(error, Snooze):
            return Requeue(error.seconds)
        failure = describe(error, redact)
        if isinstance(error, self.give_up_on) or not (self.retry_on is None or isinstance(error, self.retry_on)):
            return Bury(f"not retried: {failure.error}", failure)
        if attempt >= self.attempts:
            return Bury("attempts spent", failure)
        return Requeue(self.wait_after(attempt, luck), failure)


def _span(span: Span) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else float(span)
