"""What is unusually long, and who wins a race."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from preceptor.errors import Unreachable
from preceptor.hedge import LEAST_SECONDS, SAMPLES, Latencies, race

SECONDS = 30


def test_nothing_is_unusual_before_enough_is_known() -> None:
    latencies = Latencies()
    for _ in range(SAMPLES - 1):
        latencies.add(100, 1.0)
    assert latencies.unusual_after(100) is None
    latencies.add(100, 1.0)
    assert latencies.unusual_after(100) == 1.0


def test_what_95_of_100_took_is_usual() -> None:
    latencies = Latencies()
    for hundredths in range(1, 101):
        latencies.add(100, hundredths / 100)
    assert latencies.unusual_after(100) == pytest.approx(0.96)


def test_a_larger_request_is_given_more_time_and_a_smaller_one_no_less() -> None:
    latencies = Latencies()
    for _ in range(SAMPLES):
        latencies.add(100, 1.0)
    assert latencies.unusual_after(300) == 3.0
    assert latencies.unusual_after(1) == 1.0


def test_only_the_latest_count_and_nothing_is_unusual_at_once() -> None:
    latencies = Latencies()
    for seconds in (5.0, 0.0001):
        for _ in range(300):
            latencies.add(100, seconds)
    assert latencies.unusual_after(100) == LEAST_SECONDS


class Runner:
    """Ends when it is let, or broken off."""

    def __init__(self, answer: str | Exception, *, at_once: bool = False) -> None:
        self.answer = answer
        self.go_on, self.started, self.broken = threading.Event(), threading.Event(), threading.Event()
        if at_once:
            self.go_on.set()

    def run(self) -> str:
        self.started.set()
        assert self.go_on.wait(SECONDS)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def break_off(self) -> None:
        self.broken.set()
        self.go_on.set()


def letting(*runners: Runner, go: Runner) -> Callable[[], Runner]:
    """The second of the runners, once both have begun; then `go` is let."""

    def second() -> Runner:
        assert runners[0].started.wait(SECONDS)
        go.go_on.set()
        return runners[1]

    return second


def test_whoever_answers_in_time_is_alone() -> None:
    first = Runner("first", at_once=True)

    def second() -> Runner:
        raise AssertionError("nobody else is needed")

    assert race(first, second, SECONDS) == ("first", False)
    assert not first.broken.is_set()


def test_the_second_wins_and_the_first_is_broken_off() -> None:
    first, second = Runner("first"), Runner("second", at_once=True)
    assert race(first, lambda: second, 0.001) == ("second", True)
    assert first.broken.is_set() and not second.broken.is_set()


def test_the_first_wins_and_the_second_is_broken_off() -> None:
    first, second = Runner("first"), Runner("second")
    assert race(first, letting(first, second, go=first), 0.001) == ("first", False)
    assert second.broken.is_set() and not first.broken.is_set()


def test_a_failure_waits_for_the_other() -> None:
    first, second = Runner(Unreachable("first"), at_once=False), Runner("second")

    def later() -> Runner:
        first.go_on.set()
        second.go_on.set()
        return second

    assert race(first, later, 0.001) == ("second", True)


def test_when_both_fail_the_first_one_s_failure_is_raised() -> None:
    first, second = Runner(Unreachable("the first")), Runner(Unreachable("the second"), at_once=True)

    def both() -> Runner:
        first.go_on.set()
        return second

    with pytest.raises(Unreachable, match="the first"):
        race(first, both, 0.001)


def test_where_there_is_nobody_else_the_first_is_waited_for() -> None:
    first = Runner("first")

    def nobody() -> None:
        first.go_on.set()

    assert race(first, nobody, 0.001) == ("first", False)
