"""A live student as a teacher: it answers by the version that was published last, and nobody else can move it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from preceptor.chatting import chat
from preceptor.endpoint import TeacherClient
from preceptor.errors import Invalid, NotFound, Overloaded, PreceptorError
from preceptor.wire.chat import ChatMessage, ChatRequest
from preceptor_services.worker.live import LiveStudent
from preceptor_services.worker.pairing import version_at
from preceptor_trainer.model import load_model
from preceptor_trainer.trained import Trained
from tests.contract.teaching import KEY, asked
from tests.models import tiny_model_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "model")


@pytest.fixture
def student(folder: Path) -> Iterator[LiveStudent]:
    live = LiveStudent(folder, "pair-a", SecretStr(KEY), ("127.0.0.1", 0))
    yield live
    live.close()


def weights(folder: Path, more: float = 0.0) -> Trained:
    return Trained({name: each.detach() + more for name, each in load_model(folder).module.named_parameters()})


def test_a_version_is_announced_before_it_answers_and_its_texts_say_which_it_is(
    folder: Path, student: LiveStudent
) -> None:
    told = list[tuple[str, int]]()

    def announce(hash: str) -> None:
        told.append((hash, student.card.weights_version))

    student.move(weights(folder), 10_000_000, announce)
    with TeacherClient("http://{}:{}".format(*student.address), KEY) as client:
        first = client.card()
        assert (first.teacher, first.model, first.moves) == ("pair-a", "pair-a", True)
        before = client.score(asked(contexts=[[1, 2]], completions=[[3, 4]]))
        assert before.stamp.weights_version == first.weights_version == 10_000_000
        student.move(weights(folder, 0.05), 10_000_001, announce)
        after = client.score(asked(contexts=[[1, 2]], completions=[[3, 4]]))
        assert after.stamp.weights_version == 10_000_001
        assert (after.logprob_T != before.logprob_T).any()
        request = ChatRequest(messages=(ChatMessage(role="user", content="a"),), max_tokens=2)
        assert chat(client, request, "pair-a").weights_version == 10_000_001
        with pytest.raises(NotFound):
            client.load_weights(folder, version=10_000_002)
    assert [version for _, version in told] == [0, 10_000_000], "each was told of while the one before answered"
    assert len({hash for hash, _ in told}) == 2


def test_who_has_heard_of_a_version_is_not_answered_by_the_one_before(folder: Path, student: LiveStudent) -> None:
    student.move(weights(folder), 10_000_000, lambda hash: None)
    known, go_on = threading.Event(), threading.Event()

    def announce(hash: str) -> None:
        known.set()
        assert go_on.wait(20)

    with TeacherClient("http://{}:{}".format(*student.address), KEY) as client, ThreadPoolExecutor() as threads:
        newer = weights(folder, 0.05)
        moving = threads.submit(student.move, newer, 10_000_001, announce)
        assert known.wait(20)
        asking = threads.submit(client.score, asked(contexts=[[1, 2]], completions=[[3, 4]]))
        with pytest.raises(TimeoutError):
            asking.result(0.5)
        go_on.set()
        assert asking.result(20).stamp.weights_version == 10_000_001
        moving.result(20)


def test_what_is_refused_when_it_is_announced_never_answers(folder: Path, student: LiveStudent) -> None:
    student.move(weights(folder), 10_000_000, lambda hash: None)

    def refuse(hash: str) -> None:
        raise Invalid("taken")

    with pytest.raises(Invalid, match="taken"):
        student.move(weights(folder, 0.05), 10_000_001, refuse)
    assert student.card.weights_version == 10_000_000


def test_who_looks_for_it_finds_its_version_and_takes_no_other_for_it(
    folder: Path, student: LiveStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_A_PEER", KEY)
    student.move(weights(folder), 10_000_000, lambda hash: None)
    url = "http://{}:{}".format(*student.address)
    assert version_at("pair-a", url, "KEY_OF_A_PEER") == 10_000_000
    assert version_at("pair-b", url, "KEY_OF_A_PEER") is None, "another run's student may have its port by now"
    student.close()
    with pytest.raises(PreceptorError):
        version_at("pair-a", url, "KEY_OF_A_PEER")


def test_a_port_that_is_taken_is_said_so(folder: Path, student: LiveStudent) -> None:
    with pytest.raises(Invalid, match="cannot publish its student") as caught:
        LiveStudent(folder, "pair-b", SecretStr(KEY), student.address)
    assert caught.value.field == "PRECEPTOR_PEER_PORT"


def test_a_student_that_broke_down_does_not_hold_its_trainer_up(
    folder: Path, student: LiveStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("whose turn?")

    monkeypatch.setattr(student._service.scheduler._turns, "abandoned", broken)
    for version in (10_000_000, 10_000_001):
        with pytest.raises(Overloaded, match="broke down: KeyError"):
            student.move(weights(folder), version, lambda hash: None)
    loader = student._service.loader
    assert loader is not None and not list(loader.folder.iterdir()), "what never went live is not kept"
