"""Closed, open, half open: whoever keeps failing is left alone, ever longer, and one request finds out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from preceptor.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker
from tests.clock import Clock


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock=clock)
    for _ in range(FAILURES):
        assert breaker.enter()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_after_as_many_in_all() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(FAILURES - 1):
        breaker.failed()
    breaker.answered()
    for _ in range(FAILURES - 1):
        breaker.failed()
    assert breaker.enter() and breaker.opens_in == 0
    breaker.failed()
    assert not breaker.enter() and 0 < breaker.opens_in <= FIRST_PAUSE


def test_one_request_is_let_through_when_the_pause_is_over() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_PAUSE
    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(lambda _: breaker.enter(), range(64))) == 1
    assert breaker.opens_in == float("inf"), "nobody knows before that one is answered"
    breaker.answered()
    assert breaker.opens_in == 0 and breaker.enter() and breaker.enter()


def test_every_failed_try_doubles_the_pause_up_to_a_bound_and_an_answer_forgets_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    pauses: list[float] = []
    for _ in range(8):
        pauses.append(round(breaker.opens_in, 2))
        clock.now += breaker.opens_in
        assert breaker.enter()
        breaker.failed()
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30] and pauses[-1] == LONGEST_PAUSE
    clock.now += LONGEST_PAUSE
    assert breaker.enter()
    breaker.answered()
    for _ in range(FAILURES):
        breaker.failed()
    assert round(breaker.opens_in, 2) == FIRST_PAUSE


def test_a_try_that_was_broken_off_taught_nothing_and_another_may_be_made() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_PAUSE
    assert breaker.enter() and not breaker.enter()
    breaker.gave_up()
    assert breaker.enter()
