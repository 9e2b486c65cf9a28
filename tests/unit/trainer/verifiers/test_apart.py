"""Verifiers that need a main thread work in a worker's thread too, and are cut off there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from preceptor_trainer.verifiers import Math
from preceptor_trainer.verifiers.apart import in_main_thread
from preceptor_trainer.views import Message, Task, Verdict

Result = TypeVar("Result")
TASK = Task(id="t", messages=(Message(role="user", content="?"),), answer="1/2")


def threaded(work: Callable[[], Result]) -> Result:
    """What `work` gives in a thread that is not the main one."""
    found: list[Result | BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (only,) = found
    if isinstance(only, BaseException):
        raise only
    return only


def main_thread_name(_: int) -> bool:
    return threading.current_thread() is threading.main_thread()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_work_finds_itself_in_a_main_thread() -> None:
    assert in_main_thread(60, main_thread_name, 0)
    assert threaded(lambda: in_main_thread(60, main_thread_name, 0))


def test_work_that_does_not_end_is_cut_off_and_the_next_is_done() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.5 s"):
        threaded(lambda: in_main_thread(0.5, sleep, 600.0))
    assert threaded(lambda: in_main_thread(60, main_thread_name, 0))


def test_mathematics_is_verified_in_a_thread() -> None:
    assert threaded(lambda: Math()(TASK, "so it is \\boxed{0.5}")).correct
    assert not threaded(lambda: Math()(TASK, "so it is \\boxed{0.6}")).correct


def test_an_expression_that_never_ends_is_wrong() -> None:
    verdict: Verdict = threaded(lambda: Math(seconds=1)(TASK, "$9^{9^{9^{9^{9}}}}$"))
    assert not verdict.correct
