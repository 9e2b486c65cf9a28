"""Passes that requests share, and turns that they take: small ones do not wait for huge ones, and no one starves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from preceptor_services.teacher import scheduler as turns_taken
from preceptor_services.teacher import turns
from preceptor_services.teacher.jobs import Abandoned, Done, Entry, Job, Passes, Steps, Whole
from preceptor_services.teacher.scheduler import Scheduler
from preceptor_services.teacher.shares import Shares
from preceptor_services.teacher.turns import Turns
from tests.clock import Clock


@dataclass
class Rows:
    """A part of equal rows."""

    name: str
    left: int
    bad: bool = False


@dataclass
class Model:
    """Computes one token of each part that fits into a pass, when it is let."""

    most: int = 8
    passes: list[list[str]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    before: Callable[[list[str]], object] = lambda names: None

    def __post_init__(self) -> None:
        self.go_on.set()

    def advance(self, parts: Sequence[Rows]) -> Sequence[int]:
        self.go_on.wait(10)
        self.before([part.name for part in parts])
        self.passes.append([part.name for part in parts])
        if any(part.bad for part in parts):
            raise MemoryError("too large")
        tokens: list[int] = []
        room = self.most
        for part in parts:
            mine = min(room, part.left)
            part.left -= mine
            room -= mine
            tokens.append(mine)
        return tokens


def work(name: str, left: int, bad: bool = False, bytes: int = 1) -> Passes[str]:
    return Passes(lambda: Rows(name, left, bad), lambda part: part.name, tokens=left, bytes=bytes)


def scheduler_of(model: Model, max_queue: int = 64) -> Scheduler:
    return Scheduler(max_queue, advance=model.advance, pass_tokens=model.most)


def held(model: Model) -> tuple[Scheduler, threading.Event]:
    """A scheduler whose lane is busy until the event is set: what is submitted meanwhile waits together."""
    scheduler, go_on, began = scheduler_of(model), threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        go_on.wait(10)

    scheduler.submit(Job(), block)
    assert began.wait(10)
    return scheduler, go_on


def test_small_requests_share_a_pass() -> None:
    model = Model(most=8)
    scheduler, go_on = held(model)
    futures = [scheduler.submit(Job(), work(name, 2)) for name in "abcde"]
    go_on.set()
    assert [future.result(10).result for future in futures] == list("abcde")
    scheduler.close()
    assert model.passes == [["a", "b", "c", "d"], ["e"]]


def test_a_small_request_does_not_wait_for_the_end_of_a_huge_one() -> None:
    model, ended = Model(most=8), list[str]()
    scheduler, go_on = held(model)
    huge = scheduler.submit(Job(), work("huge", 8 * 50))
    small = scheduler.submit(Job(), work("small", 2))
    for name, future in (("huge", huge), ("small", small)):
        future.add_done_callback(lambda _, name=name: ended.append(name))
    go_on.set()
    huge.result(10)
    scheduler.close()
    assert ended == ["small", "huge"]
    assert [names[0] for names in model.passes].index("small") <= 2


def test_callers_get_equal_time_however_many_requests_they_send() -> None:
    shares = Shares()
    for request in range(5):
        shares.enter("many", request)
    shares.enter("one", "only")
    served: list[str] = []
    for _ in range(20):
        caller, request = min(
            [("many", each) for each in range(5)] + [("one", "only")], key=lambda each: shares.place(*each)
        )
        served.append(caller)
        shares.charge(caller, request, 1.0)
    assert served.count("one") == served.count("many") == 10
    shares.enter("late", "first")
    assert shares.place("late", "first")[0] == 10.0, "who comes late has not saved turns up"
    shares.leave("one", "only")
    shares.enter("one", "again")
    assert shares.place("one", "again")[0] == 10.0


def test_a_stream_of_small_requests_does_not_starve_a_huge_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()  # by which every pass costs the same, however busy the machine is
    monkeypatch.setattr(turns_taken, "time", SimpleNamespace(monotonic=clock))
    model, small, before_it_ended = Model(most=8), list[Future[Done[str]]](), list[int]()
    scheduler = scheduler_of(model)

    def keep_coming(names: list[str]) -> None:
        clock.sleep(1.0)
        if len(small) < 60:
            small.append(scheduler.submit(Job(), work("small", 8)))

    model.before = keep_coming
    huge = scheduler.submit(Job(), work("huge", 8 * 5))
    huge.add_done_callback(lambda _: before_it_ended.append(len(small)))
    huge.result(10)
    scheduler.close()
    assert before_it_ended[0] < 30


def test_one_request_that_fails_does_not_take_its_neighbours_along() -> None:
    model = Model(most=8)
    scheduler, go_on = held(model)
    good, bad, other = (scheduler.submit(Job(), work(name, 2, bad=name == "bad")) for name in ("good", "bad", "other"))
    go_on.set()
    assert (good.result(10).result, other.result(10).result) == ("good", "other")
    with pytest.raises(MemoryError):
        bad.result(10)
    scheduler.close()
    assert model.passes == [["good", "bad", "other"], ["good"], ["bad"], ["other"]]
    assert scheduler.depth == 0


def test_one_that_cannot_begin_does_not_take_its_neighbours_along() -> None:
    model = Model()
    scheduler, go_on = held(model)

    def refuse() -> Rows:
        raise ValueError("gone")

    bad: Future[Done[str]] = scheduler.submit(Job(), Passes(refuse, str, tokens=1, bytes=1))
    good = scheduler.submit(Job(), work("good", 2))
    go_on.set()
    assert good.result(10).result == "good"
    with pytest.raises(ValueError, match="gone"):
        bad.result(10)
    scheduler.close()


def test_a_caller_that_goes_away_frees_its_rows_of_a_shared_pass() -> None:
    model = Model(most=8)
    scheduler, go_on = held(model)
    leaving = Job()
    gone = scheduler.submit(leaving, work("gone", 100))
    stays = scheduler.submit(Job(), work("stays", 100))
    model.before = lambda names: leaving.gone.set() if len(model.passes) == 3 else None
    go_on.set()
    assert stays.result(10).result == "stays"
    with pytest.raises(Abandoned, match="went away"):
        gone.result(10)
    scheduler.close()
    assert all("gone" not in names for names in model.passes[4:])


def test_seconds_waited_and_seconds_computed_are_told_apart() -> None:
    model = Model(most=8)
    scheduler, go_on = held(model)
    one, other = scheduler.submit(Job(), work("one", 4)), scheduler.submit(Job(), work("other", 4))
    ticking = threading.Event()
    model.before = lambda names: ticking.wait(0.05)
    go_on.set()
    done = one.result(10), other.result(10)
    scheduler.close()
    assert done[0].computed_seconds == done[1].computed_seconds >= 0.05, "both took part in the one pass"
    assert all(each.queued_seconds >= 0 for each in done)


def test_nothing_to_compute_is_finished_without_a_pass() -> None:
    model = Model()
    scheduler = scheduler_of(model)
    assert scheduler.submit(Job(), work("empty", 0)).result(10).result == "empty"
    scheduler.close()
    assert model.passes == []


def test_weights_change_when_what_has_begun_has_ended_and_before_what_waits() -> None:
    model, seen = Model(most=8), list[str]()
    scheduler, go_on = held(model)

    async def main() -> None:
        begun = scheduler.submit(Job(), work("begun", 24))
        begun.add_done_callback(lambda _: seen.append("begun"))
        arrived = threading.Event()
        late: list[Future[Done[str]]] = []

        def arrive(names: list[str]) -> None:
            if not late:
                late.append(scheduler.submit(Job(), work("late", 2)))
                late[0].add_done_callback(lambda _: seen.append("late"))
                asyncio.run_coroutine_threadsafe(asyncio.to_thread(arrived.set), loop)
                swapped.wait(10)

        swapped = threading.Event()
        loop = asyncio.get_running_loop()
        model.before = arrive
        go_on.set()
        await asyncio.to_thread(arrived.wait, 10)
        swap = asyncio.create_task(scheduler.exclusive(lambda: seen.append("swap")))
        await asyncio.sleep(0)
        swapped.set()
        await swap
        await asyncio.wrap_future(late[0])

    asyncio.run(main())
    scheduler.close()
    assert seen == ["begun", "swap", "late"]


def test_what_an_exclusive_work_raises_is_raised_and_work_goes_on() -> None:
    scheduler = scheduler_of(Model())

    def fail() -> None:
        raise ValueError("no such weights")

    with pytest.raises(ValueError, match="no such weights"):
        asyncio.run(scheduler.exclusive(fail))
    assert scheduler.submit(Job(), work("a", 2)).result(10).result == "a"
    scheduler.close()


def test_a_text_that_is_written_lets_scores_through() -> None:
    model, ended = Model(), list[str]()
    scheduler, go_on = held(model)

    def write() -> Generator[None, None, str]:
        for _ in range(1000):
            yield
        ended.append("text")
        return "text"

    text = scheduler.submit(Job(), Steps(write))
    score = scheduler.submit(Job(), work("score", 2))
    score.add_done_callback(lambda _: ended.append("score"))
    go_on.set()
    assert text.result(10).result == "text"
    scheduler.close()
    assert ended == ["score", "text"]


def test_texts_are_written_one_after_the_other() -> None:
    open_now, most = set[str](), 0

    def write(name: str) -> Generator[None, None, None]:
        nonlocal most
        open_now.add(name)
        for _ in range(5):
            most = max(most, len(open_now))
            yield
        open_now.remove(name)

    scheduler = Scheduler(8)
    for future in [scheduler.submit(Job(), Steps(lambda name=name: write(name))) for name in "abc"]:
        future.result(10)
    scheduler.close()
    assert most == 1


def test_a_text_that_nobody_reads_is_closed() -> None:
    closed, job = threading.Event(), Job()

    def write() -> Generator[None, None, None]:
        try:
            while True:
                job.gone.set()
                yield
        finally:
            closed.set()

    scheduler = Scheduler(8)
    with pytest.raises(Abandoned):
        scheduler.submit(job, Steps(write)).result(10)
    assert closed.wait(10)
    scheduler.close()


def test_an_engine_gets_several_requests_at_once() -> None:
    together = threading.Barrier(3)
    scheduler = Scheduler(8, lanes=3)
    futures = [scheduler.submit(Job(), lambda: together.wait(10)) for _ in range(3)]
    assert sorted(future.result(10).result for future in futures) == [0, 1, 2]
    scheduler.close()


def test_several_lanes_stand_still_for_exclusive_work() -> None:
    running, most = set[int](), list[int]()
    scheduler = Scheduler(64, lanes=4)

    def compute(index: int) -> None:
        running.add(index)
        threading.Event().wait(0.002)
        running.remove(index)

    async def main() -> None:
        jobs = [asyncio.create_task(scheduler.run(Job(), lambda index=index: compute(index))) for index in range(20)]
        swaps = [asyncio.create_task(scheduler.exclusive(lambda: most.append(len(running)))) for _ in range(3)]
        await asyncio.gather(*jobs, *swaps)

    asyncio.run(main())
    scheduler.close()
    assert most == [0, 0, 0]


def entry(work: Any, caller: str = "") -> Entry:
    return Entry(Job(caller=caller), work)


def test_answers_in_memory_keep_to_a_bound() -> None:
    waiting = Turns(pass_tokens=10**9)
    large = [entry(work("large", 1, bytes=turns.OPEN_BYTES)) for _ in range(2)]
    small = [entry(work("small", 1, bytes=turns.OPEN_BYTES // 4)) for _ in range(6)]
    for each in (*large, *small):
        waiting.enter(each)
    assert waiting.take(finish_only=False) == [large[0], *small[:4]]
    assert waiting.take(finish_only=False) == [], "until one of them has ended"
    waiting.leave(small[0])
    assert waiting.take(finish_only=False) == [small[4]]
    waiting.leave(large[0])
    assert waiting.take(finish_only=False) == [large[1]]


def test_nothing_begins_while_a_change_waits() -> None:
    waiting = Turns(pass_tokens=8)
    waiting.enter(entry(Whole(lambda: None)))
    assert waiting.take(finish_only=True) == []
    assert len(waiting.take(finish_only=False)) == 1
