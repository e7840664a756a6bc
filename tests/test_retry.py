"""The policy: error, attempt and luck in; outcome out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import ConfigError, Reject, Retry, Snooze
from postbus.delivery import Bury, Requeue


def test_the_last_attempt_is_buried() -> None:
    outcome = Retry(attempts=3).judge(OSError("no"), attempt=3, luck=0)
    assert isinstance(outcome, Bury)
    assert outcome.reason == "attempts spent"
    assert outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.message) == ("OSError", "no")


def test_waits_grow_by_the_multiplier_up_to_the_longest() -> None:
    policy = Retry(attempts=9, delay=0.1, multiplier=2, max_delay=0.5, jitter=0)
    assert [policy.wait_after(n, luck=0.9) for n in range(1, 6)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_spans_may_be_timedeltas() -> None:
    policy = Retry(delay=timedelta(milliseconds=100), max_delay=timedelta(minutes=1), jitter=0)
    assert policy.wait_after(1, luck=0) == pytest.approx(0.1)


@given(
    attempt=st.integers(1, 10_000),
    delay=st.floats(0, 1e6),
    multiplier=st.floats(1, 100),
    jitter=st.floats(0, 1),
    luck=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_is_never_shorter_than_stated(
    attempt: int, delay: float, multiplier: float, jitter: float, luck: float
) -> None:
    policy = Retry(delay=delay, multiplier=multiplier, jitter=jitter, max_delay=3600)
    stated = Retry(delay=delay, multiplier=multiplier, jitter=0, max_delay=3600).wait_after(attempt, 0)
    assert stated <= policy.wait_after(attempt, luck) <= stated * 2 + 1e-9
    assert stated <= 3600


def test_reject_buries_with_its_reason_whatever_attempts_are_left() -> None:
    outcome = Retry().judge(Reject("address unknown"), attempt=1, luck=0)
    assert isinstance(outcome, Bury)
    assert outcome.reason == "address unknown"


def test_snooze_spends_no_attempt() -> None:
    assert Retry(attempts=1).judge(Snooze(7), attempt=1, luck=0) == Requeue(7.0, None)
    assert Retry(attempts=1).judge(Snooze(timedelta(minutes=1)), attempt=1, luck=0) == Requeue(60.0, None)


def test_errors_to_give_up_on_are_buried_at_once() -> None:
    outcome = Retry(give_up_on=KeyError).judge(KeyError("x"), attempt=1, luck=0)
    assert isinstance(outcome, Bury)
    assert outcome.reason == "not retried: KeyError"


def test_only_the_errors_named_are_retried() -> None:
    policy = Retry(retry_on=(OSError,))
    assert isinstance(policy.judge(ConnectionError(), attempt=1, luck=0), Requeue)
    assert isinstance(policy.judge(ValueError(), attempt=1, luck=0), Bury)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": True},
        {"delay": -1},
        {"delay": float("nan")},
        {"multiplier": 0.5},
        {"jitter": 2},
        {"max_delay": "1h"},
        {"give_up_on": ("ValueError",)},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Retry(**wrong)


def test_an_error_whose_text_cannot_be_made_is_still_described() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text for you")

    outcome = Retry(attempts=1).judge(Rude(), attempt=1, luck=0)
    assert isinstance(outcome, Bury)
    assert outcome.failure is not None
    assert "__str__ raised RuntimeError" in outcome.failure.message


def test_failures_are_bounded_and_carry_no_password() -> None:
    error = ConnectionError("cannot reach redis://app:hunter2@db:6379/0 " + "x" * 100_000)
    outcome = Retry(attempts=1).judge(error, attempt=1, luck=0)
    assert isinstance(outcome, Bury)
    assert outcome.failure is not None
    assert "hunter2" not in str(outcome.failure)
    assert len(outcome.failure.message) <= 1_000
    assert len(outcome.failure.traceback) <= 4_000
