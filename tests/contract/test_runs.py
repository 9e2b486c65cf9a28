"""Runs as their users know them, through the SDK: started, found, cancelled, resumed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire.common import Problem, Scope
from preceptor.wire.runs import Finish, RunState
from preceptor_services.api.sweeper import send_again
from preceptor_services.db import models
from tests.contract.conftest import House


def test_a_run_is_queued_and_its_message_is_sent_after_the_commit(house: House):
    run = house.run()
    assert run.state is RunState.QUEUED
    assert run.teachers == {"self": "spelling"}
    assert run.training.steps == 4
    assert run.resolved["contexts"]["reference"]["kind"] == "reference"
    assert house.queue.sent == [run.id]
    assert house.admin.runs.get(run.id) == run


def test_training_is_the_defaults_then_the_recipes_then_the_users(house: House):
    run = house.run(training={"learning_rate": 1e-3}, overrides={"training": {"seed": 7, "learning_rate": 1e-5}})
    assert run.training.learning_rate == 1e-3
    assert run.training.seed == 7
    assert run.training.batch == 64


def test_overrides_are_merged_into_the_recipe_and_kept(house: House):
    run = house.run(overrides={"rollout": {"max_tokens": 17}})
    assert run.overrides == {"rollout": {"max_tokens": 17}}
    assert run.resolved["rollout"]["max_tokens"] == 17
    assert run.resolved["rollout"]["kind"] == "student"


def test_an_unknown_run_is_not_found(house: House):
    with pytest.raises(NotFound, match="There is no run 'run-0'"):
        house.admin.runs.get("run-0")


def test_one_idempotency_key_makes_one_run(house: House):
    wish = house.wish()
    first = house.admin.runs.start(wish, idempotency_key="monday")
    again = house.admin.runs.start(wish, idempotency_key="monday")
    assert again == first
    assert house.queue.sent == [first.id]
    with pytest.raises(Conflict, match="'monday' was used for run") as caught:
        house.admin.runs.start(wish.model_copy(update={"name": "other"}), idempotency_key="monday")
    assert caught.value.problem.field == "idempotency-key"
    assert [each.id for each in house.admin.runs.list()] == [first.id]


def test_one_idempotency_key_makes_one_run_when_sent_many_times_at_once(house: House):
    wish = house.wish()
    with ThreadPoolExecutor(6) as pool:
        started = list(pool.map(lambda _: house.admin.runs.start(wish, idempotency_key="rush"), range(6)))
    assert {each.id for each in started} == {started[0].id}
    assert house.queue.sent == [started[0].id]


def test_idempotency_keys_of_two_callers_do_not_meet(house: House):
    wish = house.wish()
    other = house.scoped(Scope.RUN)
    first = house.admin.runs.start(wish, idempotency_key="monday")
    second = other.runs.start(wish, idempotency_key="monday")
    assert first.id != second.id


def test_runs_are_listed_newest_first_by_page_and_by_filter(house: House):
    wish = house.wish()
    started = [house.admin.runs.start(wish.model_copy(update={"name": f"run{number}"})) for number in range(5)]
    expected = [each.id for each in reversed(started)]
    assert [each.id for each in house.admin.runs.list()] == expected
    first = house.admin.runs.page(limit=2)
    second = house.admin.runs.page(limit=2, cursor=first.next_cursor)
    third = house.admin.runs.page(limit=2, cursor=second.next_cursor)
    assert [[each.id for each in page.items] for page in (first, second, third)] == [
        expected[:2],
        expected[2:4],
        expected[4:],
    ]
    assert third.next_cursor is None
    house.admin.runs.cancel(started[2].id)
    assert [each.id for each in house.admin.runs.list(state=RunState.CANCELLED)] == [started[2].id]
    assert [each.name for each in house.admin.runs.list(name="run3")] == ["run3"]
    assert list(house.admin.runs.list(recipe="sft")) == []


@pytest.mark.parametrize("cursor", ["x", "!!!", "a" * 299, "MjAyNi0wMS0wMg", "MQ==", "2026-01-02T00:00:00+00:00"])
def test_a_cursor_that_nobody_gave_out_is_refused(house: House, cursor: str):
    with pytest.raises(Invalid, match="cursor"):
        house.admin.runs.page(cursor=cursor)


def test_a_queued_run_is_cancelled_at_once(house: House):
    run = house.run()
    cancelled = house.admin.runs.cancel(run.id)
    assert cancelled.state is RunState.CANCELLED
    assert cancelled.finished_at is not None
    assert house.admin.runs.cancel(run.id) == cancelled
    with pytest.raises(Conflict, match="is cancelled; there is nothing to advance"):
        house.admin.runs.lease(run.id, "w")


def test_cancelling_a_running_run_tells_its_worker(house: House):
    run = house.run()
    lease = house.admin.runs.lease(run.id, "w")
    assert not house.admin.runs.heartbeat(run.id, lease.fence).cancel
    asked = house.admin.runs.cancel(run.id)
    assert asked.state is RunState.RUNNING
    assert asked.cancel_requested
    assert house.admin.runs.heartbeat(run.id, lease.fence).cancel
    ended = house.admin.runs.finish(run.id, Finish(fence=lease.fence, state=RunState.CANCELLED))
    assert ended.state is RunState.CANCELLED
    assert not ended.cancel_requested


def test_what_has_ended_cannot_be_cancelled(house: House):
    run = house.run()
    fail(house, run.id)
    with pytest.raises(Conflict, match="has failed already"):
        house.admin.runs.cancel(run.id)


def test_a_failed_run_is_resumed(house: House):
    run = house.run()
    fail(house, run.id)
    failed = house.admin.runs.get(run.id)
    assert failed.error is not None
    assert failed.error.detail == "Teacher spelling answered NaN at step 1."
    resumed = house.admin.runs.resume(run.id)
    assert resumed.state is RunState.QUEUED
    assert resumed.error is None
    assert resumed.finished_at is None
    assert house.queue.sent == [run.id, run.id]
    assert house.admin.runs.lease(run.id, "w").run.attempt == 2


@pytest.mark.parametrize("state", ["queued", "running"])
def test_what_has_not_ended_cannot_be_resumed(house: House, state: str):
    run = house.run()
    if state == "running":
        house.admin.runs.lease(run.id, "w")
    with pytest.raises(Conflict, match=f"is {state}; only a paused, failed or cancelled one"):
        house.admin.runs.resume(run.id)


def test_a_run_whose_teacher_is_gone_cannot_be_resumed(house: House):
    run = house.run()
    fail(house, run.id)
    house.admin.teachers.remove("spelling")
    with pytest.raises(Conflict, match="needs teacher spelling as self"):
        house.admin.runs.resume(run.id)
    assert house.admin.runs.get(run.id).state is RunState.FAILED


def test_a_run_is_kept_while_the_broker_is_down_and_sent_when_it_is_back(house: House):
    house.queue.down = True
    run = house.run()
    assert run.state is RunState.QUEUED
    assert house.queue.sent == []
    send_again(house.plane)
    house.queue.down = False
    send_again(house.plane)
    send_again(house.plane)
    assert house.queue.sent == [run.id]
    house.clock.pass_seconds(house.settings.requeue_seconds + 1)
    send_again(house.plane)
    assert house.queue.sent == [run.id, run.id], "a broker that lost its data is told again"


def test_a_wish_that_is_refused_leaves_nothing_behind(house: House):
    wish = house.wish(overrides={"rollout": {"max_tokens": 10_000}})
    with pytest.raises(Invalid):
        house.admin.runs.start(wish, idempotency_key="k")
    assert list(house.admin.runs.list()) == []
    assert house.queue.sent == []
    fixed = house.admin.runs.start(wish.model_copy(update={"overrides": {}}), idempotency_key="k")
    assert fixed.state is RunState.QUEUED


def test_every_transition_is_a_row_and_an_event(house: House):
    run = house.run()
    fail(house, run.id)
    house.admin.runs.resume(run.id)
    house.admin.runs.cancel(run.id)
    expected = [
        (None, "queued"),
        ("queued", "running"),
        ("running", "failed"),
        ("failed", "queued"),
        ("queued", "cancelled"),
    ]
    with house.plane.database.unit(writes=False) as unit:
        rows = unit.session.scalars(select(models.Transition).order_by(models.Transition.id))
        assert [(row.from_state, row.to_state) for row in rows] == expected
    events = [event for event in house.admin.runs.events(run.id) if event.kind == "state"]
    assert [(event.data["from"], event.data["to"]) for event in events] == expected


def fail(house: House, run_id: str) -> None:
    """Take a run and let it fail."""
    lease = house.admin.runs.lease(run_id, "w")
    problem = Problem(title="Bad scores", detail="Teacher spelling answered NaN at step 1.", status=502)
    house.admin.runs.finish(run_id, Finish(fence=lease.fence, state=RunState.FAILED, error=problem))
