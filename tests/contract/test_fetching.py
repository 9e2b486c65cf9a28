"""A worker that fetches what its run needs over a link that breaks: nothing is fetched twice, and the run goes on."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from preceptor.client import Client
from preceptor.errors import Unreachable
from preceptor.wire.runs import RunState
from preceptor_services.worker import here
from preceptor_services.worker.advance import Bench, advance
from preceptor_services.worker.cache import ArtifactCache
from tests.contract.conftest import ADMIN, House
from tests.contract.test_worker_run import start
from tests.models import tiny_model_folder

PIECE = 20_000


class Frayed(httpx.BaseTransport):
    """Loses the link in the midst of every content, and finds it again after so many attempts."""

    def __init__(self, inner: httpx.BaseTransport, away: int) -> None:
        self._inner, self._away = inner, away
        self._left = 0
        self.fetched = 0
        """Bytes of contents that have arrived."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if "/v1/blobs/" not in request.url.path:
            return self._inner.handle_request(request)
        if self._left:
            self._left -= 1
            raise httpx.ConnectError("No route to host", request=request)
        answer = self._inner.handle_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=Fraying(self, answer), request=request)

    def lose(self) -> None:
        self._left = self._away


class Fraying(httpx.SyncByteStream):
    def __init__(self, line: Frayed, answer: httpx.Response) -> None:
        self._line, self._answer = line, answer

    def __iter__(self):
        for piece in self._answer.iter_raw(PIECE):
            self._line.fetched += len(piece)
            yield piece
            if len(piece) == PIECE:
                self._line.lose()
                raise httpx.ReadError("the link was lost")

    def close(self) -> None:
        self._answer.close()


def size_of(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir())


def cache_of(client: Client, folder: Path) -> ArtifactCache:
    return ArtifactCache(client, folder, 10**9)


def test_a_pull_that_was_given_up_goes_on_where_it_was(sqlite_house: House) -> None:
    folder = tiny_model_folder(sqlite_house.tmp / "student")
    student = sqlite_house.admin.artifacts.push(folder, "model", "student")
    frayed = Frayed(sqlite_house.bridge, away=100)
    with pytest.raises(Unreachable):
        cache_of(sqlite_house.client(ADMIN, transport=frayed), sqlite_house.tmp / "cache").folder_of(student)
    had = frayed.fetched
    assert had >= PIECE
    again = Frayed(sqlite_house.bridge, away=1)
    pulled = cache_of(sqlite_house.client(ADMIN, transport=again), sqlite_house.tmp / "cache").folder_of(student)
    assert {each.name: each.read_bytes() for each in pulled.iterdir()} == {
        each.name: each.read_bytes() for each in folder.iterdir()
    }
    assert had + again.fetched == size_of(folder), "no byte came twice"


def test_a_run_waits_for_what_it_needs(sqlite_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "AGAIN_SECONDS", 0.01)
    run = start(sqlite_house)
    frayed = Frayed(sqlite_house.bridge, away=9)  # more than the SDK's own attempts
    client, folder = sqlite_house.client(ADMIN, transport=frayed), sqlite_house.tmp / "worker"
    advance(run.id, Bench(client=client, name="w", folder=folder, cache=cache_of(client, folder)))
    run = sqlite_house.admin.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert frayed.fetched < size_of(sqlite_house.tmp / "student") + PIECE, "no piece came twice"
