"""Text teachers: asked through the pool, ours and others'; refused at submit where they cannot do what a role wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from preceptor.errors import Invalid, TeacherRefused, TeacherUnavailable
from preceptor.pool import TeacherPool
from preceptor.probe import probe_teacher
from preceptor.wire.chat import ChatMessage, ChatRequest
from preceptor.wire.runs import OnFailure, TeacherEndpoint
from preceptor.wire.teachers import Outcome, TeacherCreate, TeacherKind
from preceptor_services.teacher.backends.scripted import ScriptedBackend
from tests.clock import Clock
from tests.contract.conftest import House
from tests.contract.refusing import refused
from tests.contract.teaching import KEY, URL, Teaching, asked, table, teaching

ASK = (
    "Look.\n<question>\nSpell this word backward (example: sun -> nus): planet\n</question>\n"
    "<attempt>\ntenalq\n</attempt>\nReply between <critique> and </critique>."
)


@pytest.fixture(scope="module")
def taught() -> Iterator[Teaching]:
    with teaching(ScriptedBackend(), teacher_name="critic") as taught:
        yield taught


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_KEY", KEY)


def request(text: str = ASK, max_tokens: int = 200) -> ChatRequest:
    return ChatRequest(messages=(ChatMessage(role="user", content=text),), max_tokens=max_tokens)


def pool(
    taught: Teaching, cache: Path, transport: httpx.BaseTransport | None = None, clock: Clock | None = None
) -> TeacherPool:
    card = taught.client.card()
    endpoint = TeacherEndpoint(name="critic", url=URL, key_env="CRITIC_KEY", card=card)
    clock = clock or Clock()
    sleep, through = clock.sleep, transport or taught.bridge
    return TeacherPool({"critic": endpoint}, cache, transport=through, clock=clock, sleep=sleep, deadline=20.0, wait=60)


def test_a_scripted_teacher_is_a_text_teacher_like_any_other(taught: Teaching) -> None:
    card, probe = probe_teacher(URL, KEY, transport=taught.bridge)
    assert (card.supports, card.generates, card.engine, card.tokenizer.fingerprint) == ((), True, "scripted 1", None)
    assert probe.ok and [check.outcome for check in probe.checks] == [Outcome.PASSED]
    with pytest.raises(Invalid, match="offers none"):
        taught.client.score(asked())


def test_a_text_comes_through_the_pool_and_is_counted(taught: Teaching, tmp_path: Path) -> None:
    with pool(taught, tmp_path) as teachers:
        replies = [teachers.chat("critic", request()) for _ in range(2)]
        ledger = teachers.take_ledger()["critic"]
    assert replies[0] == replies[1] and replies[0].finished
    assert replies[0].text == "<critique>\ntenalp\n</critique>"
    assert ledger.requests == 2 and ledger.bytes_sent > 2 * len(ASK) and ledger.bytes_received > 0


def test_a_text_that_is_cut_off_says_so(taught: Teaching, tmp_path: Path) -> None:
    with pool(taught, tmp_path) as teachers:
        assert not teachers.chat("critic", request(max_tokens=9)).finished


@pytest.mark.parametrize("on_failure", ["wait", "drop"])
def test_a_writer_that_is_away_is_waited_for_or_done_without(
    taught: Teaching, tmp_path: Path, on_failure: OnFailure
) -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    clock = Clock()
    with pool(taught, tmp_path, httpx.MockTransport(away), clock) as teachers:
        with pytest.raises(TeacherUnavailable, match="'critic' gave no answer"):
            teachers.chat("critic", request(), on_failure=on_failure)
        assert teachers.take_ledger()["critic"].dropped == 0, "whoever wanted the text counts"
    assert (sum(clock.slept) > 30) == (on_failure == "wait")


def test_a_teacher_that_only_scores_is_asked_for_no_text(tmp_path: Path) -> None:
    with (
        teaching(table()) as taught,
        pool(taught, tmp_path) as teachers,
        pytest.raises(TeacherRefused, match="scores and writes no text"),
    ):
        teachers.chat("critic", request())


def test_a_role_that_only_writes_takes_a_text_teacher_and_no_other(sqlite_house: House) -> None:
    house = sqlite_house
    with teaching(ScriptedBackend(), teacher_name="critic") as taught:
        house.faculty.cards["http://127.0.0.1:8477"] = taught.client.card()
    house.admin.teachers.add(TeacherCreate(name="critic", url="http://127.0.0.1:8477", kind=TeacherKind.PRECEPTOR))
    house.wish()  # puts the teacher `spelling` in place
    wish: dict[str, Any] = {"recipe": "step_critique", "overrides": {"teacher": {"kind": "frozen"}}}
    error = refused(house, **wish, teachers={"self": "spelling", "critic": "spelling"})
    assert error.field == "teachers.critic" and "writes no text" in str(error)
    error = refused(house, **wish, teachers={"self": "critic", "critic": "critic"})
    assert error.field == "teachers.self" and "no scores to learn from" in str(error)
    error = refused(house, **wish, teachers={"self": "spelling"})
    assert error.field == "teachers.critic"
    teachers = {"self": "spelling", "critic": "critic"}
    falling = {**wish["overrides"], "contexts": {"critique": {"on_failure": "fallback"}}}
    error = refused(house, recipe="step_critique", overrides=falling, teachers=teachers)
    assert str(error.field).startswith("fallbacks.")
    assert house.run(**wish, teachers=teachers).teachers == teachers
