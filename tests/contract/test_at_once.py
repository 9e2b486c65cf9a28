"""Two requests at once, on PostgreSQL: of what both may not have, one has it, and neither waits for the other's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from preceptor.errors import Conflict, Invalid
from preceptor.resources.artifacts import manifest_of
from preceptor.wire.artifacts import ArtifactKind
from preceptor.wire.codistillations import Codistillation
from preceptor.wire.common import Problem
from preceptor.wire.pairs import PeerServing
from preceptor.wire.runs import Finish, Run, RunState
from preceptor.wire.teachers import TeacherState
from preceptor_services.api.artifacts import service as artifacts
from preceptor_services.api.codistillations import publishing
from preceptor_services.api.runs import service as runs
from preceptor_services.api.teachers import service as teachers
from tests.contract.conftest import ADMIN, House
from tests.contract.crossing import crossing
from tests.contract.doubles import card_for, write_model
from tests.contract.test_codistillations import leased, wish

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def no_deadlock(caplog: pytest.LogCaptureFixture) -> Any:
    """One that the database has to break is asked again by the SDK, and would not be seen otherwise."""
    yield
    assert not [each for each in caplog.get_records("call") if "deadlock" in each.getMessage()]


def test_both_sides_of_a_pair_begin_to_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = house.admin.codistillations.start(wish(house))
    card = card_for(house.tmp / "tiny", "two-a", moves=True)

    def serve(run: str, port: int) -> object:
        serving = PeerServing(fence=leased(house, run), url=f"http://127.0.0.1:{port}/", card=card)
        return house.client(ADMIN).codistillations.serve(run, serving)

    serves = [lambda: serve(pair.a.run, 1), lambda: serve(pair.b.run, 2)]
    crossing(house, monkeypatch, [(publishing.news, "put")], *serves)
    assert {house.admin.teachers.get(name).state for name in ("two-a", "two-b")} == {TeacherState.READY}


def test_two_pairs_that_ask_the_same_teachers_crosswise(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.model()
    for name in ("x", "y"):
        house.teacher(name)

    def start(name: str, a: str, b: str) -> Callable[[], object]:
        asked = wish(house, {"teachers": {"start": a}}, {"teachers": {"start": b}}).model_copy(update={"name": name})
        return lambda: house.client(ADMIN).codistillations.start(asked)

    found = crossing(house, monkeypatch, [(runs, "check")], start("one", "x", "y"), start("other", "y", "x"))
    assert [type(each) for each in found] == [Codistillation, Codistillation], found


def test_a_run_begins_while_its_teacher_is_forgotten(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = house.wish()
    started, removed = crossing(
        house,
        monkeypatch,
        [(runs, "resolved"), (teachers, "users")],
        lambda: house.client(ADMIN).runs.start(asked),
        lambda: house.client(ADMIN).teachers.remove("spelling"),
    )
    if isinstance(started, Run):
        assert isinstance(removed, Conflict), "it would wait for ever for a teacher that nobody knows"
    else:
        assert isinstance(started, Invalid) and removed is None


def test_two_runs_that_move_one_teacher_are_resumed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.model()
    house.teacher(moves=True)
    moving = {"overrides": {"teacher": {"kind": "ema", "decay": 0.9}}, "teachers": {"self": "spelling"}}

    def failed() -> str:
        run = house.run(**moving).id
        error = Problem(title="Away", detail="It was away.", status=503)
        house.admin.runs.finish(run, Finish(fence=leased(house, run), state=RunState.FAILED, error=error))
        return run

    one, other = failed(), failed()
    resume = [lambda each=each: house.client(ADMIN).runs.resume(each) for each in (one, other)]
    found = crossing(house, monkeypatch, [(runs, "take_up_file")], *resume)
    assert sorted(isinstance(each, Conflict) for each in found) == [False, True], found


def test_one_model_is_announced_twice(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    said = manifest_of(write_model(house.tmp / "same"), ArtifactKind.MODEL, "same").model_dump(mode="json")

    def announce() -> int:
        return house.http().post("/v1/artifacts", json=said).status_code

    assert crossing(house, monkeypatch, [(artifacts, "missing")], announce, announce) == [200, 200]
