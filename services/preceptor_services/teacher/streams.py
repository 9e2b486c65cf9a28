"""What a job makes, as it makes it: from the scheduler's threads to the event loop that sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TypeVar

from preceptor_services.teacher.jobs import Job, Steps
from preceptor_services.teacher.service import Service

Item = TypeVar("Item")


def started(
    teacher: Service, job: Job, items: Callable[[], Iterator[Item]]
) -> asyncio.Queue[Item | BaseException | None]:
    """Queue the work; what it makes arrives in what is returned: None last, or why there is no more. Others may have a
    turn after every item. Raises Overloaded at once."""
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()

    def put(item: Item | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody reads any more
            loop.call_soon_threadsafe(came.put_nowait, item)

    def work() -> Generator[None, None, None]:
        for each in items():
            put(each)
            yield

    future = teacher.scheduler.submit(job, Steps(work))
    future.add_done_callback(lambda done: put(None if done.cancelled() else done.exception()))
    return came
