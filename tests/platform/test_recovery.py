"""Workers die, messages come twice, people change their minds: the run goes on with the same numbers, nothing twice."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.client import Client
from preceptor.wire.runs import Event, Run, RunState
from tests.platform.stack import Stack, steps_of, until

STEPS = 40
PLAN: dict[str, Any] = {"steps": STEPS, "checkpoint_every": 20, "evaluate_every": 20, "seed": 11}
"""Long enough that a signal sent at one step arrives many steps before the end."""
ALL = list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> Run:
    """The same run, left alone."""
    stack.worker()
    with stack.client() as client:
        run = stack.start_run(client, "undisturbed", **PLAN)
        assert list(client.runs.events(run.id))
        return client.runs.get(run.id)


def losses(client: Client, run: Run) -> list[float]:
    return [step.metrics["loss"] for step in client.runs.metrics(run.id)]


def weights(client: Client, run: Run) -> dict[str, str]:
    assert run.result is not None and run.result.model is not None
    manifest = client.artifacts.get(run.result.model).manifest
    return {file.path: file.sha256 for file in manifest.files if file.path.endswith(".safetensors")}


def test_a_killed_worker_is_replaced_and_the_numbers_go_on(stack: Stack, client: Client, undisturbed: Run) -> None:
    victim = stack.only_worker()
    run = stack.start_run(client, "killed", **PLAN)
    events = client.runs.events(run.id)
    seen = until(events, lambda event: event.kind == "step" and event.data["step"] == 30)
    victim.kill()
    heir = stack.start_worker("heir")
    seen += list(events)

    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert (run.attempt, run.worker) == (2, heir.name)
    assert steps_of(seen) == ALL, "every step is recorded exactly once"
    (resumed,) = [event for event in seen if event.kind == "resumed"]
    assert resumed.data["from_step"] == 20
    assert 30 <= resumed.data["recorded_step"] < STEPS
    assert resumed.data["largest_difference"] == 0.0
    assert losses(client, run) == losses(client, undisturbed)
    assert weights(client, run) == weights(client, undisturbed)
    assert client.runs.evaluations(run.id)[-1].hits == client.runs.evaluations(undisturbed.id)[-1].hits


def test_a_worker_that_is_told_to_stop_gives_its_run_back(stack: Stack, client: Client, undisturbed: Run) -> None:
    leaving = stack.only_worker()
    run = stack.start_run(client, "given-back", **PLAN)
    events = client.runs.events(run.id)
    seen = until(events, lambda event: event.kind == "step" and event.data["step"] == 4)
    assert leaving.stop() == 0
    run = client.runs.get(run.id)
    assert run.state is RunState.QUEUED
    assert run.checkpoint is not None and 4 <= run.checkpoint.step == run.step < STEPS, "the step in hand is kept"

    stack.worker()
    seen += list(events)
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert steps_of(seen) == ALL
    assert losses(client, run) == losses(client, undisturbed)


def test_a_broker_that_was_gone_is_found_again(stack: Stack, client: Client) -> None:
    """It loses every message; the database has not, and the worker listens again."""
    worker = stack.worker()
    stack.broker.kill()
    run = stack.start_run(client, "while-the-broker-was-gone", steps=2)
    assert run.state is RunState.QUEUED, "a wish is taken although its message cannot be sent"
    stack.start_broker()
    events = list(client.runs.events(run.id))
    assert steps_of(events) == [1, 2]
    assert client.runs.get(run.id).worker == worker.name


def test_a_control_plane_that_restarts_is_waited_for(stack: Stack, client: Client, undisturbed: Run) -> None:
    stack.worker()
    run = stack.start_run(client, "while-the-api-was-gone", **PLAN)
    until(client.runs.events(run.id), lambda event: event.kind == "step" and event.data["step"] == 4)
    stack.api.kill()
    stack.start_api()
    assert steps_of(list(client.runs.events(run.id))) == ALL
    assert client.runs.get(run.id).state is RunState.SUCCEEDED
    assert losses(client, run) == losses(client, undisturbed)


def test_a_message_that_comes_again_does_nothing_twice_and_cancel_stops_within_a_step(
    stack: Stack, client: Client
) -> None:
    """The broker's visibility timeout is two seconds here: it hands the message out again while the run goes on."""
    stack.only_worker()
    idle = stack.start_worker("idle")
    run = stack.start_run(client, "delivered-again", steps=5000, evaluate_every=5000, checkpoint_every=5000)
    events = client.runs.events(run.id)
    seen = until(events, lambda event: event.kind == "step")
    first = client.runs.get(run.id)
    other = next(worker for worker in stack.workers if worker.name != first.worker and worker.popen.poll() is None)
    other.wait_until("offered the run again", lambda: other.said(f"run {run.id}: nothing to do"), seconds=60)
    assert {first.worker, other.name} >= {idle.name}

    asked = client.runs.cancel(run.id)
    assert asked.cancel_requested and asked.state is RunState.RUNNING
    seen += list(events)
    run = client.runs.get(run.id)
    assert run.state is RunState.CANCELLED
    assert run.step - asked.step <= 1, "cancel takes effect within one step"
    assert run.checkpoint is not None and run.checkpoint.step == run.step, "and leaves a checkpoint"
    assert (run.attempt, run.fence, run.worker) == (1, first.fence, first.worker), "the other worker never had it"
    assert steps_of(seen) == list(range(1, run.step + 1))


def test_a_cancelled_run_goes_on_from_its_checkpoint(stack: Stack, client: Client, undisturbed: Run) -> None:
    stack.worker()
    run = stack.start_run(client, "cancelled", **PLAN)
    events = client.runs.events(run.id)
    until(events, lambda event: event.kind == "step" and event.data["step"] == 2)
    client.runs.cancel(run.id)
    list(events)
    cancelled = client.runs.get(run.id)
    assert cancelled.state is RunState.CANCELLED and cancelled.checkpoint is not None
    assert cancelled.step < STEPS

    client.runs.resume(run.id)
    told: list[Event] = list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert steps_of(told) == ALL
    assert losses(client, run) == losses(client, undisturbed)
