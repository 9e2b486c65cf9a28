"""A run's events as a stream: in order, none twice, over as many connections as it takes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from preceptor.errors import NotFound, Unreachable
from preceptor.wire.runs import Event, Finish, Note, RunState
from tests.contract.conftest import ADMIN, House
from tests.contract.reports import steps


def test_events_are_followed_while_they_happen_and_end_with_the_run(house: House):
    run = house.run()
    seen: list[Event] = []
    some = threading.Event()

    def watch() -> None:
        for event in house.client(ADMIN).runs.events(run.id):
            seen.append(event)
            some.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert some.wait(30)
    lease = house.admin.runs.lease(run.id, "w")
    house.admin.runs.report(run.id, steps(lease.fence, 1, 2))
    house.admin.runs.finish(run.id, Finish(fence=lease.fence, state=RunState.CANCELLED))
    watcher.join(30)
    assert not watcher.is_alive()
    assert [event.kind for event in seen] == ["state", "state", "step", "step", "state"]
    assert [event.id for event in seen] == [1, 2, 3, 4, 5]


def test_a_stream_goes_on_after_the_event_that_is_named(house: House):
    run = house.run()
    lease = house.admin.runs.lease(run.id, "w")
    house.admin.runs.report(run.id, steps(lease.fence, 1, 2))
    assert [event.id for event in house.admin.runs.events(run.id, after=2, follow=False)] == [3, 4]
    answer = house.http().get(f"/v1/runs/{run.id}/events", headers={"Last-Event-ID": "3"}, params={"follow": "false"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("id: 4\nevent: step\ndata: {")
    assert answer.text.endswith("event: end\ndata: {}\n\n")


def test_a_stream_that_is_cut_off_is_taken_up_where_it_was(house: House):
    run = house.run()
    lease = house.admin.runs.lease(run.id, "w")
    house.admin.runs.report(run.id, steps(lease.fence, 1, 2, 3, 4))
    house.admin.runs.finish(run.id, Finish(fence=lease.fence, state=RunState.CANCELLED))
    cut = Cut(house.bridge, after=1200)
    events = list(house.client(ADMIN, transport=cut).runs.events(run.id))
    assert [event.id for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert cut.requests > 2


def test_a_stream_that_can_never_be_read_is_given_up(house: House):
    run = house.run()
    with pytest.raises(Unreachable):
        list(house.client(ADMIN, transport=Cut(house.bridge, after=0)).runs.events(run.id))


def test_events_of_a_run_that_does_not_exist(house: House):
    with pytest.raises(NotFound):
        list(house.admin.runs.events("run-0"))


def test_events_of_concurrent_writers_are_numbered_without_gaps(house: House):
    run = house.run()
    lease = house.admin.runs.lease(run.id, "w")

    def note(number: int) -> None:
        house.admin.runs.note(run.id, Note(fence=lease.fence, data={"number": number}))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(note, range(24)))
    events = list(house.admin.runs.events(run.id, follow=False))
    assert [event.id for event in events] == list(range(1, 27))
    assert {event.data["number"] for event in events[2:]} == set(range(24))


def test_more_events_than_one_look_takes(house: House):
    run = house.run(training={"steps": 1000})
    lease = house.admin.runs.lease(run.id, "w")
    house.admin.runs.report(run.id, steps(lease.fence, *range(1, 501)))
    assert [event.id for event in house.admin.runs.events(run.id, follow=False)] == list(range(1, 503))


class Cut(httpx.BaseTransport):
    """Breaks every answer off after some bytes."""

    def __init__(self, inner: httpx.BaseTransport, after: int) -> None:
        self._inner, self._after, self.requests = inner, after, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        answer = self._inner.handle_request(request)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        stream = CutStream(answer.stream, self._after)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=stream, request=request)


class CutStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, after: int) -> None:
        self._inner, self._left = inner, after

    def __iter__(self):
        for piece in self._inner:
            yield piece[: self._left]
            self._left -= len(piece)
            if self._left <= 0:
                raise httpx.ReadError("the connection was cut")

    def close(self) -> None:
        self._inner.close()
