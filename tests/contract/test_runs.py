"""Runs, from the wish to the result, through the SDK."""

from __future__ import annotations

import pytest

from preceptor.errors import Conflict, NotFound
from preceptor.wire.runs import RunState
from tests.contract.conftest import House


def test_a_run_is_queued_and_its_message_is_sent_after_the_commit(house: House):
    run = house.run()
    assert run.state is RunState.QUEUED
    assert run.teachers == {"self": "spelling"}
    assert run.training.steps == 4
    assert run.resolved["contexts"]["reference"]["kind"] == "reference"
    assert house.queue.sent == [run.id]
    assert house.admin.runs.get(run.id) == run


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
