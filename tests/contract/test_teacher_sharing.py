"""Many callers at one teacher: their requests share passes, each gets its own numbers, and nobody ruins another's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.errors import PreceptorError, ServerFault, TooLarge
from preceptor.frames import encode_request
from preceptor.wire.score import Extra, ScoreRequest, Scores
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_trainer import scoring
from preceptor_trainer.model import Model, load_model
from tests.bridge import Exchange
from tests.contract.teaching import Teaching, asked, teaching
from tests.models import tiny_model_folder

FRAME = {"Content-Type": "application/x-safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


class Gated(HfBackend):
    """A teacher whose first pass waits until it is let go, so that requests gather."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.began, self.go_on = threading.Event(), threading.Event()
        self.companies: list[int] = []

    def advance(self, parts: Sequence[scoring.Scoring]) -> Sequence[int]:
        self.began.set()
        assert self.go_on.wait(20)
        self.companies.append(len(parts))
        return super().advance(parts)


def mixed(count: int) -> list[ScoreRequest]:
    """Requests of every support, some about the same context."""
    rng = np.random.default_rng(3)
    shared = rng.integers(0, 64, 40, dtype=np.int32)
    requests: list[ScoreRequest] = []
    for index in range(count):
        support = list(Support)[index % 4]
        completions = [rng.integers(0, 64, length, dtype=np.int32) for length in rng.integers(1, 9, 3)]
        total = sum(len(each) for each in completions)
        candidates = np.tile(np.arange(4, dtype=np.int32), (total, 1)) if support is Support.IDS else None
        context = shared if index % 3 == 0 else rng.integers(0, 64, 12, dtype=np.int32)
        more = {"extras": frozenset({Extra.ENTROPY}), "candidate_ids": candidates}
        requests.append(
            asked(contexts=[list(context)], completions=[list(each) for each in completions], support=support, **more)
        )
    return requests


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def gathered(
    taught: Teaching, backend: Gated, threads: ThreadPoolExecutor, requests: Sequence[ScoreRequest]
) -> list[Future[Scores]]:
    """Ask for all of them while the first pass is held, then let it go."""
    first = threads.submit(taught.client.score, asked())
    assert backend.began.wait(20)
    futures = [threads.submit(taught.client.score, request) for request in requests]
    scheduler = taught.app.state.service.scheduler
    while scheduler.depth < len(requests) + 1:
        threading.Event().wait(0.002)
    backend.go_on.set()
    first.result(30)
    return futures


def test_callers_share_passes_and_get_their_own_numbers(
    folder: Path, model: Model, threads: ThreadPoolExecutor
) -> None:
    backend, requests = Gated(folder), mixed(16)
    with teaching(backend) as taught:
        futures = gathered(taught, backend, threads, requests)
        for request, future in zip(requests, futures, strict=True):
            found, alone = future.result(30), scoring.score(model, request)
            for name in ("logprob_T", "logprobs_TK", "tail_T", "hidden_TD", "entropy_T"):
                one, other = getattr(found, name), getattr(alone, name)
                assert (one is None) == (other is None)
                if one is not None:
                    np.testing.assert_allclose(one, other, atol=1e-4, err_msg=name)
            assert found.stamp.queued_seconds > 0 and found.stamp.computed_seconds > 0
    assert len(backend.companies) < 8, "seventeen requests took a few passes"


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        (lambda: MemoryError(), TooLarge),
        (lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."), TooLarge),
        (lambda: ValueError("a bug"), ServerFault),
    ],
)
def test_one_that_cannot_be_computed_is_refused_by_name_and_its_neighbours_are_answered(
    folder: Path,
    threads: ThreadPoolExecutor,
    failing: Callable[[], Exception],
    error: type[PreceptorError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = Gated(folder)
    real = backend._scorer.advance

    def advance(scorings: Sequence[scoring.Scoring]) -> list[int]:
        if any(each.left and len(each.rows[0].context) == 13 for each in scorings):
            raise failing()
        return real(scorings)

    monkeypatch.setattr(backend._scorer, "advance", advance)
    bad = asked(contexts=[[1] * 13])
    with teaching(backend) as taught:
        good = mixed(6)
        futures = gathered(taught, backend, threads, [*good[:3], bad, *good[3:]])
        for index, future in enumerate(futures):
            if index == 3:
                with pytest.raises(error):
                    future.result(30)
            else:
                assert np.isfinite(future.result(30).logprob_T).all()
        if error is ServerFault:
            assert [str(fault) for fault in taught.bridge.faults] == ["a bug"]
            taught.bridge.faults.clear()


def test_a_caller_that_hangs_up_frees_its_rows_and_the_others_go_on(folder: Path, threads: ThreadPoolExecutor) -> None:
    backend = Gated(folder, forward_tokens=40)
    long = asked(contexts=[[1, 2]], completions=[[3] * 30] * 40)
    with teaching(backend) as taught:
        request = taught.http.build_request("POST", "/v1/score", content=encode_request(long), headers=FRAME)
        exchange = Exchange(request, taught.bridge._loop)
        asking = threads.submit(taught.bridge.call, exchange.run(taught.app, taught.bridge.faults))
        assert backend.began.wait(20)
        staying = threads.submit(taught.client.score, asked())
        scheduler = taught.app.state.service.scheduler
        while scheduler.depth < 2:
            threading.Event().wait(0.002)
        exchange.close()
        while not any(entry.job.gone.is_set() for entry in scheduler._turns._entries):
            threading.Event().wait(0.002)
        backend.go_on.set()
        asking.result(30)
        assert staying.result(30).logprob_T.shape == (3,)
        assert len(backend.companies) <= 4, "of forty rows, a pass each"
        assert scheduler.depth == 0
