"""Roles of a run are filled by other teachers while it goes on: what is refused, what is heard, what is kept."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from preceptor.cli import output
from preceptor.cli import runs as cli
from preceptor.cli.main import create_app
from preceptor.errors import Conflict, Invalid, PreceptorError
from preceptor.wire.common import Scope
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import (
    CheckpointReport,
    Finish,
    LeaseGrant,
    Ledger,
    Run,
    RunState,
    StepReport,
    StepsReport,
    TeacherLedger,
)
from preceptor.wire.teachers import Support, Values
from tests.contract.conftest import ADMIN, House
from tests.contract.doubles import write_rows
from tests.contract.reports import result, steps
from tests.contract.test_submit_routing import TWO, by, faculty


def routed(house: House, recipe: str = "opd", *, fallbacks: Any = None, **overrides: Any) -> Run:
    """A run with a teacher for each of two domains; `spare` is registered, too."""
    student, teachers = house.model(), faculty(house, "letters", "maths", "spare")
    del teachers["spare"]
    more = {} if fallbacks is None else {"fallbacks": fallbacks}
    changes = {**by("letters", "maths"), **overrides}
    return house.run(recipe=recipe, student=student, teachers=teachers, data=TWO, overrides=changes, **more)


def refused(
    house: House, run: Run, wish: dict[str, str | None], kind: type[PreceptorError] = Invalid
) -> PreceptorError:
    """The error, after making sure that nothing has changed."""
    before, told = house.admin.runs.get(run.id), list(house.admin.runs.events(run.id, follow=False))
    with pytest.raises(kind) as caught:
        house.admin.runs.refill(run.id, wish)
    assert house.admin.runs.get(run.id) == before
    assert list(house.admin.runs.events(run.id, follow=False)) == told
    assert caught.value.problem.status in (409, 422)
    return caught.value


def notes(house: House, run: Run) -> list[str]:
    events = house.admin.runs.events(run.id, follow=False)
    return [event.data["message"] for event in events if event.kind == "note"]


def done(lease: LeaseGrant, step: int, role: str = "maths", **came: list[str]) -> StepsReport:
    """A worker's report of a step, whose ledger tells who came with it."""
    ledger = Ledger(teachers={role: TeacherLedger.model_validate(came)})
    return StepsReport(fence=lease.fence, steps=[StepReport(step=step, metrics={"loss": 0.5}, ledger=ledger)])


def test_a_queued_run_begins_with_its_new_teacher(house: House):
    run = routed(house)
    changed = house.admin.runs.refill(run.id, {"maths": "spare"})
    assert changed.teachers == {"letters": "letters", "maths": "spare"}
    (refill,) = changed.refilled
    assert (refill.role, refill.left, refill.joined, refill.step) == ("maths", "maths", "spare", None)
    assert house.admin.runs.refill(run.id, {"maths": "spare"}) == changed, "again changes nothing"
    assert notes(house, run) == ["Role maths: spare fills it in place of maths."]
    house.admin.teachers.remove("maths")
    lease = house.admin.runs.lease(run.id, "w")
    assert lease.teachers["maths"].name == "spare"
    assert lease.run.refilled[0].step == 1, "from the first step on"
    assert house.admin.runs.heartbeat(run.id, lease.fence).refilled == {}
    assert next(iter(house.admin.runs.list())).refilled == lease.run.refilled


def test_a_worker_hears_of_it_and_tells_from_which_step_on(house: House):
    run = routed(house)
    lease = house.admin.runs.lease(run.id, "w")
    house.admin.runs.report(run.id, steps(lease.fence, 1))
    house.admin.runs.refill(run.id, {"maths": "spare"})
    status = house.admin.runs.heartbeat(run.id, lease.fence)
    told = status.refilled["maths"]
    assert told is not None and told.name == "spare" and told.url.endswith("/spare")
    assert status.teachers is not None and status.teachers.keys() == {"letters"}, "no address is taken for another's"
    with pytest.raises(Conflict, match="still needs teacher maths"):
        house.admin.teachers.remove("maths")
    house.admin.runs.report(run.id, done(lease, 2))
    assert house.admin.runs.get(run.id).refilled[0].step is None
    house.admin.runs.report(run.id, done(lease, 3, teachers_left=["maths"], teachers_joined=["spare"]))
    assert house.admin.runs.get(run.id).refilled[0].step == 3
    house.admin.teachers.remove("maths")
    (third,) = house.admin.runs.metrics(run.id, after=2)
    assert third.ledger.teachers["maths"].teachers_joined == ["spare"]


def test_of_several_changes_each_has_its_step(sqlite_house: House):
    house = sqlite_house
    run = routed(house)
    house.teacher("third")
    lease = house.admin.runs.lease(run.id, "w")
    for name in ("spare", "third", "maths"):
        house.admin.runs.refill(run.id, {"maths": name})
    house.admin.runs.report(run.id, done(lease, 1, teachers_left=["maths"], teachers_joined=["third"]))
    house.admin.runs.report(run.id, done(lease, 2, teachers_left=["third"], teachers_joined=["maths"]))
    assert [each.step for each in house.admin.runs.get(run.id).refilled] == [1, 1, 2]


def test_a_resumed_run_goes_on_with_whoever_fills_the_role_and_says_so(house: House):
    run = routed(house)
    lease = house.admin.runs.lease(run.id, "w")
    folder = write_rows(house.tmp / "checkpoint" / "state.jsonl", [{"step": 1}]).parent
    held = house.admin.artifacts.push(folder, "checkpoint", "c")
    house.admin.runs.report(run.id, steps(lease.fence, 1))
    house.admin.runs.checkpoint(run.id, CheckpointReport(fence=lease.fence, step=1, artifact=held))
    house.admin.runs.refill(run.id, {"maths": "spare"})
    house.admin.runs.report(run.id, done(lease, 2))
    house.admin.runs.report(run.id, done(lease, 3, teachers_left=["maths"], teachers_joined=["spare"]))
    house.admin.runs.release(run.id, lease.fence)
    again = house.admin.runs.lease(run.id, "w2")
    assert (again.teachers["maths"].name, again.run.refilled[0].step) == ("spare", 2)
    assert "Steps 2 to 2 are computed again with spare as maths" in notes(house, run)[-1]
    house.admin.runs.release(run.id, again.fence)
    before = notes(house, run)
    third = house.admin.runs.lease(run.id, "w3")
    assert third.run.refilled == again.run.refilled and notes(house, run) == before, "it was said"


@pytest.mark.parametrize(
    ("wish", "field", "said"),
    [
        ({"maths": "nobody"}, "teachers.maths", "there is no teacher 'nobody'"),
        ({"law": "spare"}, "teachers.law", "the run has no such role; it has letters, maths"),
        ({"maths": "draining"}, "teachers.maths", "draining is draining, and takes no new runs"),
        ({"maths": "foreign"}, "teachers.maths", "foreign reads other tokens than the student does"),
        ({"maths": "writer"}, "teachers.maths", "writer is a text teacher: it writes, and gives no scores"),
        ({"maths": "tempered"}, "teachers.maths", "tempered gives tempered log-probabilities"),
        ({"maths": "thrifty"}, "teachers.maths", "thrifty would be asked for topk and letters for full"),
        ({"maths": "small"}, "overrides.rollout.max_tokens", "do not fit teacher small"),
        ({"letters": "spare", "maths": "nobody"}, "teachers.maths", "there is no teacher 'nobody'"),
        (
            {"letters": None, "maths": None},
            "teachers.letters",
            "the router of context 'teacher' would have nobody left",
        ),
    ],
)
def test_what_would_be_refused_at_submit_is_refused(
    sqlite_house: House, wish: dict[str, str | None], field: str, said: str
):
    house = sqlite_house
    run = routed(house, "gkd")
    house.model("other", vocab=("a", "c", "b", "<end>"))
    house.teacher("draining")
    house.admin.teachers.drain("draining")
    house.teacher("foreign", model="other")
    house.teacher("writer", supports=(), head=None, generates=True)
    house.teacher("tempered", values=Values.PROCESSED)
    house.teacher("thrifty", supports=(Support.SAMPLED, Support.TOPK))
    house.teacher("small", limits={"max_tokens": 8, "max_batch_tokens": 65536, "max_k": 64, "max_body_bytes": 2**28})
    house.admin.runs.lease(run.id, "w")
    error = refused(house, run, wish)
    assert error.problem.field == field and said in str(error)


def test_what_has_become_of_other_teachers_is_no_reason_to_refuse(sqlite_house: House):
    house = sqlite_house
    run = routed(house)
    house.admin.teachers.drain("letters")
    assert house.admin.runs.refill(run.id, {"maths": "spare"}).teachers["maths"] == "spare"
    assert house.admin.runs.refill(run.id, {"letters": "spare"}).teachers["letters"] == "spare", (
        "two roles, one teacher"
    )


def test_a_failed_run_goes_on_with_another_teacher_and_one_that_succeeded_does_not(sqlite_house: House):
    house = sqlite_house
    run = routed(house)
    lease = house.admin.runs.lease(run.id, "w")
    failure = {"title": "Unavailable", "detail": "Nobody answers.", "status": 503}
    house.admin.runs.finish(run.id, Finish.model_validate({"fence": lease.fence, "state": "failed", "error": failure}))
    house.admin.runs.refill(run.id, {"maths": "spare"})
    assert house.admin.runs.resume(run.id).teachers["maths"] == "spare"
    lease = house.admin.runs.lease(run.id, "w")
    house.admin.runs.finish(run.id, Finish(fence=lease.fence, state=RunState.SUCCEEDED, result=result()))
    refused(house, run, {"maths": "maths"}, Conflict)


@pytest.mark.parametrize(
    ("overrides", "wish", "why"),
    [
        ({}, {"self": "base"}, "'base' is the worker's own copy of the student"),
        ({"teacher": {"kind": "ema"}}, {"self": "spare"}, "the recipe moves its self-teacher"),
    ],
)
def test_some_roles_are_refilled_only_while_no_worker_has_the_run(
    sqlite_house: House, overrides: dict[str, Any], wish: dict[str, str | None], why: str
):
    house = sqlite_house
    student = house.model()
    house.teacher("moving", moves=True)
    house.teacher("spare", moves=True)
    run = house.run(student=student, teachers={"self": "moving"}, overrides=overrides)
    lease = house.admin.runs.lease(run.id, "w")
    error = refused(house, run, wish, Conflict)
    assert error.problem.field == "teachers.self" and why in str(error)
    house.admin.runs.pause(run.id)
    house.admin.runs.release(run.id, lease.fence)
    assert house.admin.runs.refill(run.id, wish).teachers == wish


def test_a_teacher_that_another_run_moves_is_refused(sqlite_house: House):
    house = sqlite_house
    run = routed(house)
    house.teacher("moving", moves=True)
    moves = {"teacher": {"kind": "ema"}}
    house.run(student=run.student, teachers={"self": "moving"}, overrides=moves, data=TaskSource(task="chain_sum"))
    error = refused(house, run, {"maths": "moving"})
    assert error.problem.field == "teachers.maths" and "that run sends it new weights" in str(error)


def test_a_domain_loses_its_teacher_and_has_one_again(house: House):
    run = routed(house)
    lease = house.admin.runs.lease(run.id, "w")
    emptied = house.admin.runs.refill(run.id, {"maths": None})
    assert emptied.teachers == {"letters": "letters"}
    assert house.admin.runs.heartbeat(run.id, lease.fence).refilled == {"maths": None}
    house.admin.runs.report(run.id, done(lease, 1, teachers_left=["maths"]))
    filled = house.admin.runs.refill(run.id, {"maths": "spare"})
    told = house.admin.runs.heartbeat(run.id, lease.fence).refilled["maths"]
    assert filled.teachers == {"letters": "letters", "maths": "spare"} and told is not None and told.name == "spare"
    house.admin.runs.report(run.id, done(lease, 2, teachers_joined=["spare"]))
    said = [(each.left, each.joined, each.step) for each in house.admin.runs.get(run.id).refilled]
    assert said == [("maths", None, 1), (None, "spare", 2)]


def test_only_a_router_does_without(sqlite_house: House):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters", "maths")
    house.teacher("writer", generates=True)
    overrides = {"contexts.teacher.router": {"kind": "classifier", "domains": ["letters", "maths"]}}
    teachers["classifier"] = "writer"
    run = house.run(recipe="opd", student=student, teachers=teachers, data=TWO, overrides=overrides)
    assert "it is asked for text" in str(refused(house, run, {"classifier": None}))
    plain = house.run(student=student, teachers={"self": "maths"})
    assert "context 'reference' asks it about every rollout" in str(refused(house, plain, {"self": None}))
    falling = {**by("letters", "maths"), "contexts.teacher.on_failure": "fallback"}
    both = dict.fromkeys(("letters", "maths"), "writer")
    wish = {"recipe": "opd", "student": student, "data": TWO, "teachers": {"letters": "letters", "maths": "maths"}}
    run = house.run(**wish, overrides=falling, fallbacks=both)
    assert "writer would be asked in nobody's stead" in str(refused(house, run, {"maths": None}))
    assert refused(house, run, {"maths": "writer"}).problem.field == "fallbacks.maths"


def test_a_domain_may_wait_for_its_teacher_from_the_start(sqlite_house: House):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters")
    wish = {"recipe": "opd", "student": student, "teachers": teachers, "data": TWO}
    run = house.run(**wish, overrides=by("letters", "maths"), vacant=("maths",))
    assert run.teachers == teachers
    assert house.admin.runs.refill(run.id, {"maths": "letters"}).refilled[0].left is None
    for vacant, field in ((("law",), "vacant.law"), (("letters",), "teachers.letters"), ((), "teachers.maths")):
        with pytest.raises(Invalid) as caught:
            house.run(**wish, overrides=by("letters", "maths"), vacant=vacant)
        assert caught.value.field == field


def test_on_the_command_line(sqlite_house: House, monkeypatch: pytest.MonkeyPatch):
    house = sqlite_house
    monkeypatch.setattr(cli, "connect", lambda url, key_file: house.client(ADMIN))
    monkeypatch.setattr(output.console, "width", 220)  # it has settled on one when it was imported
    run = routed(house)

    def say(*arguments: str) -> str:
        done = CliRunner().invoke(create_app(), ["runs", "teachers", run.id, *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert [line.split() for line in say().splitlines()[1:]] == [["letters", "letters", "-"], ["maths", "maths", "-"]]
    said = say("--set", "maths=spare")
    assert "letters" in said and "not yet" in said.splitlines()[-1] and "spare" in said.splitlines()[-1]
    assert Run.model_validate_json(say("--empty", "letters", "--json")).teachers == {"maths": "spare"}
    with pytest.raises(Invalid, match="'maths' names no teacher"):
        say("--set", "maths")


def test_who_only_looks_changes_no_teacher(sqlite_house: House):
    run = routed(sqlite_house)
    reader = sqlite_house.http(sqlite_house.admin.keys.create("r", Scope.READ).secret)
    body = {"teachers": {"maths": "spare"}}
    assert reader.patch(f"/v1/runs/{run.id}/teachers", json=body).status_code == 403
    assert sqlite_house.http().patch("/v1/runs/none/teachers", json=body).status_code == 404
    for bad in ({}, {"teachers": {}}, {"teachers": {"maths": 3}}, {"teachers": "spare"}):
        assert sqlite_house.http().patch(f"/v1/runs/{run.id}/teachers", json=bad).status_code == 422
