"""Debates that runs hold for themselves: recorded once, under the run's lease, and shown like any other."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from preceptor.cli import debates as cli
from preceptor.cli import output
from preceptor.cli.main import create_app
from preceptor.debates import protocol
from preceptor.debates.templates import BUILT_IN
from preceptor.errors import Conflict, Invalid, LeaseLost, NotFound
from preceptor.resources import debates as resource
from preceptor.wire.common import Scope
from preceptor.wire.debate_reports import DebateFinish, HeldDebate, RunWish
from preceptor.wire.debates import DebateBudget, DebateCreate, DebateState, DebateTurn, Voice
from preceptor.wire.runs import LeaseGrant
from tests.contract.conftest import ADMIN, House
from tests.contract.debating import register
from tests.contract.reports import steps

SPOKEN = {"contexts": {"debate": {"teacher": "a", "debaters": ["a", "b"], "speakers": ["first", "second"]}}}
VOICES = {
    name: Voice(role=name, teacher=name, model="talker", engine="openai", weights_version=0)
    for name in ("first", "second")
}


@pytest.fixture
def run(house: House) -> LeaseGrant:
    """A run that a worker has taken, with two steps recorded."""
    grant = house.admin.runs.lease(house.run().id, "gpu-1")
    house.admin.runs.report(grant.run.id, steps(1, 1, 2))
    return grant


def turn(number: int, debater: str, **changes: Any) -> DebateTurn:
    said: dict[str, Any] = {"argument": f"{debater} says 42\x00.", "answer": "42", "confidence": 80, "tokens": 5}
    return DebateTurn(round=number, debater=debater, seconds=number + 0.5, **{**said, **changes})


TURNS = tuple(turn(number, debater) for number in (1, 2) for debater in VOICES)


def held(step: int = 1, rollout: int = 0, **changes: Any) -> HeldDebate:
    wish = DebateCreate(question="Six times seven?", attempt="41", teachers=tuple(VOICES), stop=())
    fields = {"wish": wish, "template": BUILT_IN["discussion"], "voices": VOICES, "turns": TURNS, **changes}
    return HeldDebate(step=step, context="debate", task="t" * 32, rollout=rollout, **fields)


def test_a_runs_debates_are_listed_by_run_and_shown_like_any_other(house: House, run: LeaseGrant):
    debates = house.admin.debates
    debates.record_held(run.run.id, 1, [held(1), held(1, 1), held(2, turns=(*TURNS[:3], turn(2, "second", tokens=9)))])
    assert not list(debates.list()), "those that were asked for are listed by themselves"
    found = list(debates.list(run=run.run.id))
    assert {(each.run.step, each.run.rollout) for each in found if each.run} == {(2, 0), (1, 1), (1, 0)}
    (second,) = debates.list(run=run.run.id, step=2)
    shown = debates.get(second.id)
    assert shown.state is DebateState.SUCCEEDED and shown.result is not None and shown.run is not None
    assert (shown.run.run, shown.run.context, shown.run.task, shown.run.voices) == (
        run.run.id,
        "debate",
        "t" * 32,
        VOICES,
    )
    assert [(each.round, each.debater) for each in shown.turns] == [
        (1, "first"),
        (1, "second"),
        (2, "first"),
        (2, "second"),
    ]
    assert shown.turns[0].argument == "first says 42\x00."
    result = shown.result
    assert (result.ended, result.tokens, result.calls, result.answer) == ("rounds", 24, 4, "42")
    assert result.seconds == 1.5 + 2.5, "debaters of a round speak side by side"
    assert result.weights == {"first": 0.5, "second": 0.5} and result.agreed
    assert (shown.worker, shown.fence, shown.template.name) == ("gpu-1", 1, "recipe")


def test_a_replayed_step_records_no_debate_twice_and_the_first_stays(house: House, run: LeaseGrant):
    debates = house.admin.debates
    debates.record_held(run.run.id, 1, [held(1), held(1)])
    (first,) = debates.list(run=run.run.id)
    house.admin.runs.release(run.run.id, 1)
    again = house.admin.runs.lease(run.run.id, "gpu-2")
    other = tuple(each.model_copy(update={"argument": "Something else."}) for each in TURNS)
    status = debates.record_held(run.run.id, again.fence, [held(1, turns=other), held(2)])
    assert not status.cancel
    assert {each.run.step for each in debates.list(run=run.run.id) if each.run} == {1, 2}
    (kept,) = debates.list(run=run.run.id, step=1)
    assert kept == first and debates.get(first.id).turns == TURNS
    with pytest.raises(LeaseLost):
        debates.record_held(run.run.id, 1, [held(2, 1)])


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"step": 3}, Conflict, "step 3 is not recorded; 2 is the last one"),
        ({"turns": TURNS[:3]}, Invalid, "debates.1.turns: in round 2 nothing is said of second"),
        ({"turns": (*TURNS, turn(3, "first"))}, Invalid, "first does not speak in round 3"),
        ({"turns": (*TURNS, turn(2, "first"))}, Invalid, "debates.1.turns.4: first speaks twice in round 2"),
        ({"turns": (turn(1, "other"),)}, Invalid, "other does not speak"),
        ({"voices": {"first": VOICES["first"]}}, Invalid, "debates.1.voices"),
    ],
)
def test_what_is_no_debate_of_the_run_is_refused_whole(
    house: House, run: LeaseGrant, changes: dict[str, Any], error: type[Exception], says: str
):
    with pytest.raises(error, match=says):
        house.admin.debates.record_held(run.run.id, 1, [held(), held(rollout=1, **changes)])
    assert not list(house.admin.debates.list(run=run.run.id))


def test_who_was_excluded_and_a_debate_without_enough_debaters_are_kept_with_the_reason(house: House, run: LeaseGrant):
    lost = DebateTurn(round=1, debater="second", missing="unreadable", detail="<confidence> is missing", tokens=3)
    alone = (turn(1, "first"), lost, turn(2, "first"))
    strict = held().wish.model_copy(update={"quorum": 2})
    house.admin.debates.record_held(run.run.id, 1, [held(turns=alone), held(rollout=1, turns=alone[:2], wish=strict)])
    found = {each.run.rollout: each for each in house.admin.debates.list(run=run.run.id) if each.run}
    assert found[0].result is not None and found[0].result.weights == {"first": 1.0}
    (excluded,) = found[0].result.excluded
    assert (excluded.debater, excluded.missing, excluded.detail) == ("second", "unreadable", "<confidence> is missing")
    assert found[1].state is DebateState.FAILED and found[1].error is not None
    assert "1 of 2 debaters are left" in found[1].error.detail


def test_a_step_of_many_debates_travels_in_portions(house: House, run: LeaseGrant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "PORTION_BYTES", 3 * len(held().model_dump_json()))
    sizes, post = list[int](), house.admin.debates._connection.post

    def counted(kind: Any, path: str, body: Any, **more: Any) -> Any:
        sizes.append(len(body.debates))
        return post(kind, path, body, **more)

    monkeypatch.setattr(house.admin.debates._connection, "post", counted)
    house.admin.debates.record_held(run.run.id, 1, [held(rollout=index) for index in range(8)])
    assert sizes == [3, 3, 2] and len(list(house.admin.debates.list(run=run.run.id))) == 8


def test_the_command_line_shows_them(sqlite_house: House, monkeypatch: pytest.MonkeyPatch):
    grant = sqlite_house.admin.runs.lease(sqlite_house.run().id, "w")
    sqlite_house.admin.runs.report(grant.run.id, steps(1, 1))
    sqlite_house.admin.debates.record_held(grant.run.id, 1, [held(1, 3)])
    (one,) = sqlite_house.admin.debates.list(run=grant.run.id)
    monkeypatch.setattr(cli, "connect", lambda url, key_file: sqlite_house.client(ADMIN))
    monkeypatch.setattr(output.console, "width", 160)

    def say(*arguments: str) -> str:
        done = CliRunner().invoke(create_app(), ["debates", *arguments])
        return done.output + str(done.exception or "")

    assert "step 1, rollout 3" in say("list", "--run", grant.run.id) and one.id not in say("list")
    shown = say("show", one.id)
    assert "first: first (version 0)" in shown and "the run's recipe" in shown and grant.run.id in shown
    assert "--run" in say("list", "--step", "1")


@pytest.fixture
def talked(house: House) -> LeaseGrant:
    """A run whose debaters are registered chat endpoints of the roles' names, with two steps recorded."""
    for name in VOICES:
        register(house, name, f"http://127.0.0.1:1/{name}")
    teachers = {"a": "base", "b": "base", "first": "first", "second": "second"}
    run = house.run(recipe="mad_opd", teachers=teachers, overrides=SPOKEN)
    grant = house.admin.runs.lease(run.id, "gpu-1")
    house.admin.runs.report(grant.run.id, steps(1, 1, 2))
    return grant


def test_what_was_held_before_is_known_whoever_held_it(house: House, talked: LeaseGrant):
    debates, run = house.admin.debates, talked.run.id
    blind = DebateCreate(question="Six times seven?", teachers=tuple(VOICES), stop=(), budget=DebateBudget(tokens=2048))
    mine = held(wish=blind)
    wanted = RunWish(wish=blind, template=mine.template, voices=VOICES)
    assert debates.known(run, [wanted]) == (None,)
    debates.record_held(run, 1, [mine])
    (first,) = debates.list(run=run)
    other = wanted.model_copy(update={"wish": blind.model_copy(update={"question": "Seven times six?"})})
    found, unknown = debates.known(run, [wanted, other])
    assert found is not None and (found.debate, found.turns) == (first.id, TURNS) and unknown is None

    asked = debates.start(blind.model_copy(update={"budget": DebateBudget()}))
    assert (asked.state, asked.cached_from) == (DebateState.SUCCEEDED, first.id), "the service knows it, too"
    small = blind.model_copy(update={"budget": DebateBudget(tokens=1024)})
    assert debates.start(small).cached_from is None, "it might have ended before"

    debates.record_held(run, 1, [held(2, wish=blind, turns=(), cached_from=first.id)])
    (taken,) = debates.list(run=run, step=2)
    again = debates.get(taken.id)
    assert (again.cached_from, again.result, again.turns) == (first.id, first.result, TURNS)
    with pytest.raises(Invalid, match="cached_from"):
        debates.record_held(run, 1, [held(2, 1, turns=(), cached_from="debate-none")])

    url = "http://127.0.0.1:1/first"
    house.faculty.cards[url] = house.faculty.cards[url].model_copy(update={"weights_version": 1})
    house.admin.teachers.probe("first")
    assert debates.known(run, [wanted]) == (None,), "that teacher has moved on"


def test_a_debate_that_the_service_held_is_known_to_a_run(house: House, talked: LeaseGrant):
    debates = house.admin.debates
    wish = DebateCreate(question="Six times seven?", teachers=tuple(VOICES), stop=())
    asked = debates.start(wish)
    fence = debates.lease(asked.id, "w").fence
    debates.record(asked.id, fence, TURNS)
    rules = protocol.rules_of(wish, BUILT_IN["discussion"])
    end = protocol.following(rules, TURNS)
    assert isinstance(end, protocol.End)
    result = protocol.outcome(rules, TURNS, end, 3.0)
    debates.finish(asked.id, DebateFinish(fence=fence, state=DebateState.SUCCEEDED, result=result))
    mine = RunWish(wish=wish, template=BUILT_IN["discussion"], voices=VOICES)
    (found,) = debates.known(talked.run.id, [mine])
    assert found is not None and found.debate == asked.id


@pytest.mark.parametrize(
    "changes",
    [
        {"wish": {"temperature": 0.5}},
        {"voices": VOICES | {"first": VOICES["first"].model_copy(update={"weights_version": 7})}},
        {"turns": (*TURNS[:3], turn(2, "second", weights_version=7))},
        {"turns": (TURNS[0], DebateTurn(round=1, debater="second", missing="unavailable"), TURNS[2])},
    ],
)
def test_what_might_go_another_way_another_time_is_not_given_out(
    house: House, talked: LeaseGrant, changes: dict[str, Any]
):
    wish = held().wish.model_copy(update=changes.get("wish", {}))
    mine = held(**{**changes, "wish": wish})
    house.admin.debates.record_held(talked.run.id, 1, [mine])
    same = RunWish(wish=wish, template=mine.template, voices=mine.voices)
    assert house.admin.debates.known(talked.run.id, [same]) == (None,)


def test_a_list_of_no_run_or_of_a_step_without_one_is_refused(sqlite_house: House):
    with pytest.raises(NotFound, match="no run 'nobody'"):
        list(sqlite_house.admin.debates.list(run="nobody"))
    with pytest.raises(Invalid, match="step"):
        list(sqlite_house.admin.debates.list(step=1))


def test_whoever_may_only_read_records_none(house: House, run: LeaseGrant):
    with pytest.raises(Exception, match="scope"):
        house.scoped(Scope.READ).debates.record_held(run.run.id, 1, [held()])
