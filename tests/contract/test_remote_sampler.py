"""A run whose rollouts a server writes: weights out before every step, token ids and log-probabilities back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.errors import BadScores, Conflict, Invalid, NotFound, Overloaded, TeacherRefused, TooLarge
from preceptor.wire.write import WriteRequest, Written
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_trainer.model import load_model
from preceptor_trainer.reporting import Signal
from preceptor_trainer.sampler import Job, LocalSampler
from preceptor_trainer.samplers import Remote
from preceptor_trainer.trained import Trained
from tests.contract.replicas import KEY_ENV, house
from tests.contract.sampling import Stale, go
from tests.contract.teaching import KEY, Teaching, table, teaching
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import weights_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("student"))


class Writer(HfBackend):
    """The hf backend, which remembers what it wrote and may be made to misbehave."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.wrote: list[Written] = []
        self.change: Callable[[Written], Sequence[Written]] = lambda written: [written]

    def write(self, wanted: WriteRequest, between: Callable[[], object]) -> Iterator[Sequence[Written]]:
        for finished in super().write(wanted, between):
            changed = [each for written in finished for each in self.change(written)]
            self.wrote.extend(changed)
            yield changed


@pytest.fixture
def backend(folder: Path) -> Writer:
    return Writer(folder)


@pytest.fixture
def taught(backend: Writer) -> Iterator[Teaching]:
    with teaching(backend, teacher_takes_weights=True) as taught:
        yield taught


@pytest.mark.parametrize("adapters", [None, {"rank": 4, "alpha": 8}])
def test_what_a_server_writes_is_what_the_student_would_have(
    taught: Teaching, backend: Writer, folder: Path, tmp_path: Path, adapters: dict[str, Any] | None
) -> None:
    """The hf backend is the trainer's own sampler: with the weights of every step it writes the same tokens."""
    assert taught.client.card().writes
    ended, there = go(taught, folder, tmp_path / "there", lora=adapters)
    local, here = go(None, folder, tmp_path / "here", lora=adapters)
    versions = sorted({each.weights_version for each in backend.wrote})
    assert versions == list(range(versions[0], versions[0] + 4)), "each step's rollouts by that step's weights"
    assert there.losses == pytest.approx(here.losses, abs=1e-5)
    for step in there.steps:
        assert step.metrics["sampler_gap/largest"] < 1e-5 and step.metrics["sampler_kl"] < 1e-9
        assert step.metrics["sampler_beyond"] == 0 and step.metrics["lag"] == 0
    assert ended.model is not None and local.model is not None
    if adapters is None:
        assert torch.allclose(weights_of(load_model(ended.model)), weights_of(load_model(local.model)), atol=1e-4)


def test_a_server_that_keeps_old_weights_shows_in_the_mismatch(taught: Teaching, folder: Path, tmp_path: Path) -> None:
    _, reporter = go(taught, folder, tmp_path / "work", wrapped=Stale, learning_rate=2e-2)
    first, *_, last = [step.metrics for step in reporter.steps]
    assert first["sampler_gap"] < 1e-5 and last["sampler_gap"] > 0.02 and last["sampler_kl"] > 1e-4


Change = Callable[[Written], Sequence[Written]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda written: [] if written.job == 1 else [written], "wrote 5 of 6 completions"),
        (lambda written: [written, written], "came twice"),
        (lambda written: [written.model_copy(update={"logprobs": written.logprobs[1:]})], "log-probabilities"),
        (
            lambda written: [written.model_copy(update={"logprobs": (nan, *written.logprobs[1:])})],
            "log-probability nan",
        ),
        (
            lambda written: [written.model_copy(update={"logprobs": (0.5, *written.logprobs[1:])})],
            "log-probability 0.5",
        ),
        (lambda written: [written.model_copy(update={"token_ids": (2, *written.token_ids[1:])})], "does not end where"),
        (lambda written: [written.model_copy(update={"finished": not written.finished})], "does not end where"),
        (lambda written: [written.model_copy(update={"weights_version": 0})], "was written by weights version 0, not"),
        (lambda written: [written.model_copy(update={"job": 99})], "of job 99, and 6 were sent"),
    ],
)
def test_a_completion_that_cannot_be_right_ends_the_run_with_the_server_s_name(
    taught: Teaching, backend: Writer, folder: Path, tmp_path: Path, change: Change, why: str
) -> None:
    backend.change = change
    with pytest.raises(BadScores, match=f"Teacher 'pen': .*{why}"):
        go(taught, folder, tmp_path / "work")


def test_a_server_that_fails_in_the_middle_says_why(
    taught: Teaching, backend: Writer, folder: Path, tmp_path: Path
) -> None:
    def broken(written: Written) -> Sequence[Written]:
        if backend.wrote:
            raise TooLarge("There is no memory for the rest.", remedy="Write less at once.")
        return [written]

    backend.change = broken
    with pytest.raises(TeacherRefused, match="Teacher 'pen' refused: There is no memory for the rest"):
        go(taught, folder, tmp_path / "work")
    assert len(backend.wrote) == 1


def test_a_server_started_anew_is_sent_its_weights_again(folder: Path, tmp_path: Path) -> None:
    """It comes back with the weights of its folder: nothing that those write is learned from."""
    backend = Writer(folder)
    with teaching(backend, teacher_takes_weights=True) as taught:

        def anew(step: int) -> Signal:
            if step == 2:
                fresh = HfBackend(folder)
                for name, tensor in backend._model.module.state_dict(keep_vars=True).items():
                    tensor.data = fresh._model.module.state_dict(keep_vars=True)[name].data
                backend.about = fresh.about
            return Signal.GO

        _, reporter = go(taught, folder, tmp_path / "work", signal=anew)
    assert all(step.metrics["sampler_gap/largest"] < 1e-5 for step in reporter.steps)


def test_weights_that_move_while_it_writes_are_sent_again(
    taught: Teaching, backend: Writer, folder: Path, tmp_path: Path
) -> None:
    """Somebody else's version is not the run's: what is missing is written by the run's own."""
    moved = list[int]()

    class Meddling:
        def __init__(self, remote: Remote) -> None:
            self._remote = remote

        def publish(self, weights: Trained) -> int:
            return self._remote.publish(weights)

        def write(self, request: WriteRequest, check: Callable[[], None]) -> Iterator[Written]:
            if not moved:
                backend.about = replace(backend.about, weights_version=backend.about.weights_version - 1)
                moved.append(1)
            return self._remote.write(request, check)

    _, reporter = go(taught, folder, tmp_path / "work", wrapped=Meddling)
    assert moved and len(reporter.steps) == 4
    assert all(step.metrics["sampler_gap/largest"] < 1e-5 for step in reporter.steps)


def test_it_writes_ahead_within_the_lag(taught: Teaching, folder: Path, tmp_path: Path) -> None:
    _, reporter = go(taught, folder, tmp_path / "work", max_lag=2, steps=8)
    lags = [step.metrics["lag"] for step in reporter.steps]
    assert max(lags) <= 2
    for step in reporter.steps:
        assert step.metrics["lag"] > 0 or step.metrics["sampler_gap/largest"] < 1e-5


def test_a_resumed_run_sends_what_its_checkpoint_holds(taught: Teaching, folder: Path, tmp_path: Path) -> None:
    _, everything = go(taught, folder, tmp_path / "whole")
    stops = {2: Signal.STOP}
    _, head = go(taught, folder, tmp_path / "head", signal=lambda step: stops.get(step, Signal.GO))
    _, tail = go(taught, folder, tmp_path / "tail", resume=head.checkpoints[-1][1])
    assert head.losses + tail.losses == pytest.approx(everything.losses, abs=1e-6)


def test_a_request_that_does_not_fit_is_refused_by_its_field(taught: Teaching) -> None:
    fits: dict[str, Any] = {"prompts": [[5, 6]], "jobs": [{"prompt": 0, "seed": 1, "max_tokens": 4}]}
    assert len(list(taught.client.write(WriteRequest.model_validate(fits)))) == 1
    for wrong, sentence in (
        ({"prompts": [[5, 64]]}, "beyond this vocabulary of 64"),
        ({"jobs": [{"prompt": 0, "seed": 1, "max_tokens": 511}]}, "more than the 512"),
        ({"jobs": [{"prompt": 0, "seed": 1, "max_tokens": 5000}]}, "more than this teacher writes"),
    ):
        with pytest.raises(Invalid, match=sentence):
            list(taught.client.write(WriteRequest.model_validate({**fits, **wrong})))
    with pytest.raises(Conflict, match="weights_version: 9 is gone"):
        list(taught.client.write(WriteRequest.model_validate({**fits, "weights_version": 9})))
    answer = taught.http.post("/v1/write", json={**fits, "jobs": [{"prompt": 1, "seed": 1, "max_tokens": 4}]})
    assert answer.status_code == 422 and "prompt 1 is not among the 1 prompts" in answer.json()["detail"]
    with teaching(table()) as scores, pytest.raises(NotFound, match="writes no rollouts"):
        assert not scores.client.card().writes
        list(scores.client.write(WriteRequest.model_validate(fits)))


def wanted(count: int) -> WriteRequest:
    jobs = [{"prompt": number % 3, "seed": number, "max_tokens": 4 + number % 4} for number in range(count)]
    return WriteRequest.model_validate({"prompts": [[5, 6], [7], [8, 9, 10]], "jobs": jobs, "ends": [2]})


def test_several_endpoints_share_a_batch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    writers = {"one": Writer(folder), "two": Writer(folder)}
    with house(tmp_path / "heads", dict(writers)) as opened:
        found = {each.job: each for each in opened.pool.write("expert", wanted(12))}
        ledger = opened.ledger()
    assert found.keys() == set(range(12)) and {len(each.wrote) for each in writers.values()} == {6}
    assert (ledger.sequences, ledger.tokens) == (12, sum(len(each.token_ids) for each in found.values()))
    assert ledger.endpoints == {"http://one": 1, "http://two": 1} and ledger.bytes_received > 0
    alone = LocalSampler(load_model(folder), ends=[2])
    request = wanted(12)
    jobs = [
        Job(prompt_ids=request.prompts[job.prompt], seed=job.seed, max_tokens=job.max_tokens) for job in request.jobs
    ]
    assert [found[number].token_ids for number in range(12)] == [each.token_ids for each in alone.sample(jobs, 1.0)]


def test_what_an_endpoint_leaves_unfinished_another_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    writers = {"one": Writer(folder), "two": Writer(folder)}

    def breaks(written: Written) -> Sequence[Written]:
        if writers["one"].wrote:
            raise Overloaded("Draining.")
        return [written]

    writers["one"].change = breaks
    with house(tmp_path / "heads", dict(writers)) as opened:
        found = [each.job for each in opened.pool.write("expert", wanted(12))]
        ledger = opened.ledger()
    assert sorted(found) == list(range(12)), "each once"
    first = len(writers["one"].wrote)
    assert 0 < first < 6 and len(writers["two"].wrote) == 12 - first
    assert ledger.failovers == 1 and ledger.sequences == 12


def test_work_that_nobody_wants_any_more_ends(taught: Teaching, backend: Writer) -> None:
    many = wanted(100)
    short, *others = [job.model_copy(update={"max_tokens": 400}) for job in many.jobs]
    jobs = (short.model_copy(update={"max_tokens": 1}), *others)
    endless = many.model_copy(update={"ends": (), "jobs": jobs})
    stream = taught.client.write(endless)
    assert next(stream).job == 0
    stream.close()
    # The teacher computes one thing at a time: this is answered once it has let go of the rest.
    assert len(list(taught.client.write(wanted(1)))) == 1
    assert len(backend.wrote) == 2
