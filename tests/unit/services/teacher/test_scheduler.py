"""One thing at a time, a bounded queue, and nothing leaks when somebody goes away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator

import pytest

from preceptor.errors import Overloaded
from preceptor_services.teacher.jobs import Abandoned, BrokenDown, Entry, Job, Steps
from preceptor_services.teacher.scheduler import Scheduler


def test_jobs_run_in_order_one_at_a_time() -> None:
    scheduler, seen, running = Scheduler(8), list[int](), threading.Semaphore(1)

    def work(index: int) -> int:
        assert running.acquire(blocking=False)
        seen.append(index)
        running.release()
        return index

    async def main() -> list[int]:
        done = await asyncio.gather(*(scheduler.run(Job(), lambda index=index: work(index)) for index in range(8)))
        return [each.result for each in done]

    assert asyncio.run(main()) == seen == list(range(8))
    scheduler.close()
    assert scheduler.depth == 0


def test_a_caller_that_goes_away_while_it_waits_leaves_no_trace() -> None:
    depths: list[int] = []
    scheduler, go_on = Scheduler(2, watch=depths.append), threading.Event()
    ran: list[str] = []

    async def main() -> None:
        first = asyncio.create_task(scheduler.run(Job(), lambda: go_on.wait(10)))
        second = asyncio.create_task(scheduler.run(Job(), lambda: ran.append("second")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()
        await first
        await scheduler.run(Job(), lambda: ran.append("third"))

    asyncio.run(main())
    scheduler.close()
    assert ran == ["third"] and scheduler.depth == 0 and max(depths) == 2


def test_a_job_that_is_done_before_its_submitter_goes_on_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full machine a lane does all of it while the thread that brought it waits for a core."""
    scheduler, depths = Scheduler(2), list[int]()
    enter = scheduler._turns.enter

    def enter_and_be_done(entry: Entry) -> None:
        enter(entry)
        assert entry.claim()
        entry.finish("by a lane")
        depths.append(scheduler.depth)

    monkeypatch.setattr(scheduler._turns, "enter", enter_and_be_done)
    assert scheduler.submit(Job(), lambda: "again").result(10).result == "by a lane"
    assert depths == [0], "else it is taken a second time, which ends the lane"
    monkeypatch.undo()
    assert scheduler.submit(Job(), lambda: "the next").result(10).result == "the next"
    scheduler.close()


def test_a_full_queue_refuses_at_once() -> None:
    scheduler, go_on = Scheduler(1), threading.Event()
    scheduler.submit(Job(), lambda: go_on.wait(10))
    with pytest.raises(Overloaded) as caught:
        scheduler.submit(Job(), lambda: None)
    assert caught.value.problem.status == 429
    go_on.set()
    scheduler.close()
    with pytest.raises(Overloaded, match="draining"):
        scheduler.submit(Job(), lambda: None)


def test_a_deadline_that_passed_in_the_queue_is_said() -> None:
    scheduler = Scheduler(1)
    with pytest.raises(Overloaded, match="deadline"):
        asyncio.run(scheduler.run(Job(deadline=time.monotonic() - 1), lambda: None))
    scheduler.close()


def test_what_the_work_raises_is_raised_and_the_next_one_runs() -> None:
    scheduler = Scheduler(1)

    def fail() -> None:
        raise MemoryError("too large")

    async def main() -> str:
        with pytest.raises(MemoryError):
            await scheduler.run(Job(), fail)
        return (await scheduler.run(Job(), lambda: "fine")).result

    assert asyncio.run(main()) == "fine"
    scheduler.close()


def test_exclusive_work_waits_for_what_has_begun_and_goes_before_what_has_not() -> None:
    scheduler, began, go_on, seen = Scheduler(8), threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        began.set()
        go_on.wait(10)
        seen.append("first")

    async def main() -> None:
        running = asyncio.create_task(scheduler.run(Job(), first))
        await asyncio.to_thread(began.wait, 10)
        swap = asyncio.create_task(scheduler.exclusive(lambda: seen.append("swap")))
        await asyncio.sleep(0)
        later = asyncio.create_task(scheduler.run(Job(), lambda: seen.append("later")))
        go_on.set()
        await asyncio.gather(running, swap, later)

    asyncio.run(main())
    scheduler.close()
    assert seen == ["first", "swap", "later"]


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_lane_that_ends_by_an_unknown_error_leaves_nobody_waiting(
    lanes: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, ended = Scheduler(8, lanes=lanes), threading.Event()
    all_at_work, go_on = threading.Barrier(lanes + 1), [threading.Event() for _ in range(lanes)]
    scheduler.when_broken = ended.set

    def work(until: threading.Event) -> None:
        all_at_work.wait(10)
        until.wait(10)

    begun = [scheduler.submit(Job(), lambda each=each: work(each)) for each in go_on]
    waiting = scheduler.submit(Job(), lambda: "never")
    all_at_work.wait(10)

    def no_turn(*_: object) -> None:
        raise KeyError("whose turn?")

    async def main() -> None:
        swap = asyncio.create_task(scheduler.exclusive(lambda: "never"))
        await asyncio.sleep(0)
        monkeypatch.setattr(scheduler._turns, "charge", no_turn)
        go_on[0].set()
        with pytest.raises(BrokenDown, match="KeyError"):
            await swap

    asyncio.run(main())
    assert ended.wait(10), "whoever serves it has to know"
    for future in (*begun, waiting):
        with pytest.raises(BrokenDown, match="whose turn") as caught:
            future.result(10)
        assert caught.value.problem.status == 503, "another teacher may do it"
    for each in go_on:
        each.set()
    scheduler.close()
    with pytest.raises(BrokenDown):
        scheduler.submit(Job(), lambda: None)
    assert [each.message for each in caplog.records] == ["a lane has ended, and with it the teacher"]


def test_what_cannot_be_tidied_up_ends_no_lane(caplog: pytest.LogCaptureFixture) -> None:
    scheduler, job = Scheduler(8), Job()

    def steps() -> Generator[None, None, str]:
        try:
            yield job.gone.set()
        finally:
            raise RuntimeError("its memory is gone")
        return "never"

    with pytest.raises(Abandoned):
        scheduler.submit(job, Steps(steps)).result(10)
    assert scheduler.submit(Job(), lambda: "the next").result(10).result == "the next"
    scheduler.close()
    assert "could not be left" in caplog.text and "its memory is gone" in caplog.text
