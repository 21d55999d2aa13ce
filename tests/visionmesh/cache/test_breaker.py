"""A server that fails is left alone for longer and longer, but never for good."""

from __future__ import annotations

import time
from datetime import timedelta

from visionmesh.cache.breaker import Breaker

HOUR = timedelta(hours=1)
MOMENT = timedelta(milliseconds=10)


def closes_after(breaker: Breaker) -> float:
    """Return for how many seconds the breaker stays open."""
    begin = time.monotonic()
    while breaker.is_open:
        time.sleep(0.0005)
    return time.monotonic() - begin


def test_it_is_closed_until_something_fails() -> None:
    breaker = Breaker(first=HOUR, longest=HOUR)
    assert not breaker.is_open
    breaker.fail()
    assert breaker.is_open


def test_each_further_failure_doubles_the_pause_up_to_the_longest() -> None:
    breaker = Breaker(first=MOMENT, longest=4 * MOMENT)
    for factor in (1, 2, 4, 4, 4, 4, 4):
        breaker.fail()
        assert closes_after(breaker) >= 0.9 * factor * MOMENT.total_seconds()
    breaker.fail()
    assert closes_after(breaker) < 128 * MOMENT.total_seconds()


def test_calls_that_fail_together_count_once() -> None:
    breaker = Breaker(first=MOMENT, longest=HOUR)
    for _ in range(20):
        breaker.fail()
    assert closes_after(breaker) < 1


def test_a_success_forgets_the_failures() -> None:
    breaker = Breaker(first=MOMENT, longest=HOUR)
    for _ in range(6):
        breaker.fail()
        closes_after(breaker)
    breaker.succeed()
    breaker.fail()
    assert closes_after(breaker) < 64 * MOMENT.total_seconds()


def test_a_late_success_does_not_close_what_a_failure_opened() -> None:
    breaker = Breaker(first=HOUR, longest=HOUR)
    breaker.fail()
    breaker.succeed()
    assert breaker.is_open
