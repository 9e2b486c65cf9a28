"""Debates over HTTP: wishes, templates, leases, turns that are recorded once, what was held before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from preceptor.cli import debates as cli
from preceptor.cli import output
from preceptor.cli.main import create_app
from preceptor.debates.templates import BUILT_IN
from preceptor.errors import Conflict, Invalid, LeaseLost, NotAuthorised, NotFound
from preceptor.wire.common import Problem, Scope
from preceptor.wire.debate_reports import DebateFinish
from preceptor.wire.debates import (
    DebateBudget,
    DebateCreate,
    DebateResult,
    DebateState,
    DebateTemplate,
    DebateTurn,
)
from preceptor_services.api.sweeper import sweep
from tests.contract.conftest import ADMIN, House
from tests.contract.debating import register

ONE = BUILT_IN["discussion"]


@pytest.fixture
def ready(house: House) -> House:
    """With two teachers that write, and one that only scores."""
    for name in ("ann", "bob"):
        register(house, name, f"http://127.0.0.1:1/{name}")
    house.model()
    house.teacher()
    return house


def wish(**changes: Any) -> DebateCreate:
    return DebateCreate(**{"question": "Six times seven?", "teachers": ("ann", "bob"), **changes})


def turn(round: int, debater: str, **changes: Any) -> DebateTurn:
    said = {"argument": "It is 42.", "answer": "42", "confidence": 80, "tokens": 5}
    return DebateTurn(round=round, debater=debater, **{**said, **changes})


def result(**changes: Any) -> DebateResult:
    fields = {
        "ended": "agreement",
        "rounds": 1,
        "transcript": "ann: It is 42.",
        "weights": {"ann": 0.5, "bob": 0.5},
        "answer": "42",
        "agreed": True,
        "excluded": (),
        "calls": 2,
        "tokens": 10,
        "seconds": 1.5,
    }
    return DebateResult(**{**fields, **changes})


def hold(house: House, debate_id: str, **changes: Any) -> DebateFinish:
    """Do a worker's part: both speak once and agree."""
    grant = house.admin.debates.lease(debate_id, "w")
    house.admin.debates.record(debate_id, grant.fence, [turn(1, "ann"), turn(1, "bob", **changes)])
    finish = DebateFinish(fence=grant.fence, state=DebateState.SUCCEEDED, result=result())
    house.admin.debates.finish(debate_id, finish)
    return finish


def test_a_debate_from_its_wish_to_its_end(ready: House):
    debates = ready.admin.debates
    debate = debates.start(wish())
    assert debate.state is DebateState.QUEUED and ready.queue.sent == [debate.id]
    assert (debate.template.name, debate.template.version) == ("discussion", 1)
    grant = debates.lease(debate.id, "w")
    assert grant.fence == 1 and set(grant.teachers) == {"ann", "bob"} and grant.elapsed_seconds == 0
    with pytest.raises(Conflict, match="held by w"):
        debates.lease(debate.id, "other")
    assert not debates.record(debate.id, 1, [turn(1, "bob"), turn(1, "ann")]).cancel
    debates.record(debate.id, 1, [turn(1, "ann", argument="Said again."), turn(2, "ann")])
    shown = debates.get(debate.id)
    assert [(each.round, each.debater) for each in shown.turns] == [(1, "ann"), (1, "bob"), (2, "ann")]
    assert shown.turns[0].argument == "It is 42.", "the first record of a turn stays"
    finish = DebateFinish(fence=1, state=DebateState.SUCCEEDED, result=result())
    done = debates.finish(debate.id, finish)
    assert debates.finish(debate.id, finish) == done, "a report whose answer was lost is sent again"
    assert done.state is DebateState.SUCCEEDED and done.result == result() and len(done.turns) == 3
    with pytest.raises(LeaseLost):
        debates.record(debate.id, 1, [turn(2, "bob")])
    with pytest.raises(Conflict, match="succeeded already"):
        debates.cancel(debate.id)
    (listed,) = debates.list(state=DebateState.SUCCEEDED)
    assert (listed.id, listed.turns) == (debate.id, ()) and not list(debates.list(state=DebateState.FAILED))


def test_whoever_takes_a_debate_up_is_told_what_was_said_and_the_first_may_say_no_more(ready: House):
    debates = ready.admin.debates
    debate = debates.start(wish())
    debates.lease(debate.id, "first")
    debates.record(debate.id, 1, [turn(1, "ann")])
    ready.clock.pass_seconds(ready.settings.lease_seconds + 1)
    grant = debates.lease(debate.id, "second")
    assert (grant.fence, grant.debate.attempt) == (2, 2) and grant.elapsed_seconds > ready.settings.lease_seconds
    assert [each.debater for each in grant.debate.turns] == ["ann"]
    with pytest.raises(LeaseLost, match="fence 1"):
        debates.record(debate.id, 1, [turn(1, "bob")])
    assert len(debates.get(debate.id).turns) == 1
    debates.release(debate.id, 2)
    debates.release(debate.id, 2)
    assert debates.get(debate.id).state is DebateState.QUEUED and ready.queue.sent == [debate.id] * 2


def test_a_debate_is_cancelled_at_once_or_by_its_worker(ready: House):
    debates = ready.admin.debates
    waiting, running = debates.start(wish()), debates.start(wish(question="Seven times six?"))
    assert debates.cancel(waiting.id).state is DebateState.CANCELLED
    debates.lease(running.id, "w")
    assert debates.cancel(running.id).cancel_requested and debates.heartbeat(running.id, 1).cancel
    assert debates.finish(running.id, DebateFinish(fence=1, state=DebateState.CANCELLED)).error is None
    with pytest.raises(Conflict, match="is cancelled"):
        debates.lease(waiting.id, "w")


def test_the_same_debate_is_held_once(ready: House):
    debates = ready.admin.debates
    first = debates.start(wish())
    hold(ready, first.id)
    again = debates.start(wish())
    assert again.state is DebateState.SUCCEEDED and again.cached_from == first.id and again.result == result()
    assert [each.debater for each in again.turns] == ["ann", "bob"] and ready.queue.sent == [first.id]
    for other in (
        wish(fresh=True),
        wish(question="Seven times six?"),
        wish(attempt="41"),
        wish(tau=0.5),
        wish(overrides={"rounds": 3}),
    ):
        assert debates.start(other).state is DebateState.QUEUED
    ready.faculty.cards["http://127.0.0.1:1/ann"] = ready.faculty.cards["http://127.0.0.1:1/ann"].model_copy(
        update={"weights_version": 1}
    )
    ready.admin.teachers.probe("ann")
    assert debates.start(wish()).state is DebateState.QUEUED, "a teacher has moved on"


def test_what_may_go_better_another_time_is_held_again(ready: House):
    for missing in ("late", "unavailable"):
        first = ready.admin.debates.start(wish())
        hold(ready, first.id, argument=None, confidence=None, answer=None, missing=missing)
        assert ready.admin.debates.start(wish()).state is DebateState.QUEUED


def test_one_key_makes_one_debate(ready: House):
    debates = ready.admin.debates
    assert debates.start(wish(), idempotency_key="k").id == debates.start(wish(), idempotency_key="k").id
    with pytest.raises(Conflict, match="another body"):
        debates.start(wish(tau=2.0), idempotency_key="k")


def test_templates_have_versions_that_never_change(ready: House):
    debates = ready.admin.debates
    assert {"discussion", "panel"} <= {each.name for each in debates.templates()}
    first = debates.store_template("short", ONE)
    assert (first.version, first.hash) == (1, debates.template("discussion").hash), "a hash is of the words"
    assert debates.store_template("short", ONE) == first
    more = ONE.model_copy(update={"rounds": 4})
    assert debates.store_template("short", more).version == 2
    assert debates.store_template("discussion", more).version == 2, "after the one that comes with Preceptor"
    assert debates.template("discussion@1").template == ONE and debates.template("discussion").template == more
    old, new = debates.start(wish(template="short@1")), debates.start(wish(template="short"))
    assert (old.template.template.rounds, new.template.template.rounds) == (2, 4)
    changed = debates.start(wish(template="short@1", overrides={"rounds": 4}))
    assert changed.template.hash == new.template.hash
    with pytest.raises(NotFound, match="no debate template 'short@3'"):
        debates.template("short@3")


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "one teacher": ({"teachers": ("ann",)}, "teachers", "a debate has 2 to 8"),
    "nobody": ({"teachers": ()}, "teachers", "a debate has 2 to 8"),
    "too many": ({"teachers": tuple(f"t{n}" for n in range(9))}, "teachers", "a debate has 2 to 8"),
    "one twice": ({"teachers": ("ann", "ann")}, "teachers.1", "named twice"),
    "a stranger": ({"teachers": ("ann", "bo")}, "teachers.1", "there is no teacher 'bo'"),
    "no text": ({"teachers": ("ann", "spelling")}, "teachers.1", "writes no text"),
    "two names": ({"teachers": ("ann", "anna")}, "teachers.1", "under another name"),
    "no template": ({"template": "none"}, "template", "no debate template 'none'"),
    "rounds": ({"overrides": {"rounds": 9}}, "overrides.rounds", "less than or equal to 8"),
    "no such field": ({"overrides": {"round": 2}}, "overrides.round", "no such field"),
    "blind words": ({"overrides": {"ask": ONE.ask_sighted}}, "overrides.ask", "ask_sighted"),
    "no question": ({"overrides": {"ask": "<argument> <confidence> {debate}"}}, "overrides.ask", "{question}"),
    "no tokens": ({"budget": DebateBudget(tokens=1000)}, "budget.tokens", "do not cover one round"),
    "a quorum": ({"quorum": 3}, "quorum", "never left of 2"),
    "blank": ({"question": "  "}, "question", "blank"),
    "NUL": ({"question": "a\x00"}, "question", "NUL"),
    "a rule twice": ({"stop": ("agreement", "agreement")}, "stop", "twice"),
}


def test_what_makes_no_debate_is_refused_and_changes_nothing(ready: House):
    register(ready, "anna", "http://127.0.0.1:1/ann/")
    for case, (changes, field, says) in BAD.items():
        with pytest.raises(Invalid, match=says) as caught:
            ready.admin.debates.start(wish(**changes))
        assert caught.value.field == field, case
    assert not list(ready.admin.debates.list()) and not ready.queue.sent


BOUNDS: list[tuple[dict[str, Any], str]] = [
    ({"budget": {"tokens": 0}}, "budget.tokens"),
    ({"budget": {"seconds": 0}}, "budget.seconds"),
    ({"budget": {"seconds": 100_000}}, "budget.seconds"),
    ({"tau": 0}, "tau"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"quorum": 0}, "quorum"),
    ({"stop": ["boredom"]}, "stop.0"),
    ({"question": ""}, "question"),
    ({"rounds": 3}, "rounds"),
]


def test_bounds_are_told_by_their_field(sqlite_house: House):
    http = sqlite_house.http()
    for changes, field in BOUNDS:
        answer = http.post("/v1/debates", json={"question": "?", "teachers": ["ann", "bob"], **changes})
        assert answer.status_code == 422 and Problem.model_validate(answer.json()).field == field, changes


def test_a_worker_s_reports_are_held_against_the_debate(ready: House):
    debates = ready.admin.debates
    debate = debates.start(wish())
    debates.lease(debate.id, "w")
    with pytest.raises(Invalid, match="does not take part"):
        debates.record(debate.id, 1, [turn(1, "ann"), turn(1, "eve")])
    with pytest.raises(Invalid, match="has 2 rounds"):
        debates.record(debate.id, 1, [turn(3, "ann")])
    assert not debates.get(debate.id).turns, "a report is all or nothing"
    with pytest.raises(Invalid, match="needs one"):
        debates.finish(debate.id, DebateFinish(fence=1, state=DebateState.SUCCEEDED))
    with pytest.raises(Invalid, match="needs one"):
        debates.finish(debate.id, DebateFinish(fence=1, state=DebateState.FAILED))
    with pytest.raises(NotFound, match="no debate 'x'"):
        debates.get("x")


def test_readers_look_and_no_more(ready: House):
    reader = ready.scoped(Scope.READ)
    debate = ready.admin.debates.start(wish())
    assert reader.debates.get(debate.id).id == debate.id and reader.debates.templates()
    attempts: list[Callable[[], object]] = [
        lambda: reader.debates.start(wish()),
        lambda: reader.debates.cancel(debate.id),
        lambda: reader.debates.store_template("t", ONE),
    ]
    for attempt in attempts:
        with pytest.raises(NotAuthorised):
            attempt()


def test_a_broker_that_is_away_costs_no_debate_and_neither_does_a_silent_worker(ready: House):
    ready.queue.down = True
    debate = ready.admin.debates.start(wish())
    assert debate.state is DebateState.QUEUED and not ready.queue.sent
    ready.queue.down = False
    sweep(ready.plane)
    assert ready.queue.sent == [debate.id]
    ready.admin.debates.lease(debate.id, "w")
    ready.clock.pass_seconds(ready.settings.lease_seconds + 1)
    sweep(ready.plane)
    assert ready.admin.debates.get(debate.id).state is DebateState.QUEUED and ready.queue.sent == [debate.id] * 2


def test_debates_on_the_command_line(ready: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setattr(cli, "connect", lambda url, key_file: ready.client(ADMIN))
    monkeypatch.setattr(output.console, "width", 160)

    def say(*arguments: str) -> str:
        done = CliRunner().invoke(create_app(), ["debates", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "No debates yet" in say("list")
    options = ("--teacher", "ann", "--teacher", "bob", "--attempt", "41", "--set", "tau=0.25", "--rounds", "3")
    debate = json.loads(say("start", "Six times seven?", *options, "--tokens", "5000", "--json"))
    assert (debate["wish"]["tau"], debate["template"]["template"]["rounds"]) == (0.25, 3)
    assert debate["wish"]["budget"] == {"tokens": 5000, "seconds": 600.0}
    hold(ready, debate["id"], argument=None, confidence=None, answer=None, missing="unreadable", detail="No [tags].")
    shown = say("show", debate["id"])
    for words in ("round 1", "It is 42.", "ann (80% sure)", "bob: unreadable, excluded", "No [tags].", "agreement"):
        assert words in shown, shown
    assert json.loads(say("show", debate["id"], "--json"))["result"]["agreed"] is True
    assert "Six times seven?" in say("list") and len(json.loads(say("list", "--json"))) == 1
    queued = json.loads(say("start", "Why?", "--teacher", "ann", "--teacher", "bob", "--json"))
    assert "cancelled" in say("cancel", queued["id"])
    (tmp_path / "t.json").write_text(DebateTemplate(**ONE.model_dump()).model_dump_json())
    assert "short@1" in say("templates", "short", "--store", str(tmp_path / "t.json"))
    assert "discussion@1" in say("templates") and "{question}" in say("templates", "short@1")
