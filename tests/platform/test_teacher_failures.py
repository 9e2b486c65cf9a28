"""Teachers die, come back, join and leave while runs use them: no number changes, or what changed is counted."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.wire.runs import Event, Run, RunState, TeacherLedger
from preceptor.wire.teachers import EndpointCreate, TeacherState
from tests.platform.stack import Child, Stack, answers, free_port, steps_of, until

STEPS = 40
PLAN: dict[str, Any] = {"steps": STEPS, "checkpoint_every": STEPS, "evaluate_every": STEPS, "seed": 11}
"""Long enough that a signal sent at one step arrives many steps before the end."""
LONG: dict[str, Any] = {"steps": 5000, "checkpoint_every": 5000, "evaluate_every": 5000, "seed": 12}
"""Ended by whoever has seen enough."""
KEY_ENV = "PRECEPTOR_TEACHER_KEY"


@dataclass
class Served:
    """A teacher of this test's own: one process at one URL."""

    stack: Stack
    name: str
    url: str
    child: Child

    @classmethod
    def start(cls, stack: Stack, name: str, url: str) -> Served:
        return cls(stack, name, url, stack.start_teacher(url, name, log=f"teacher-{name}-{url.rpartition(':')[2]}"))

    def ready(self) -> Served:
        self.child.wait_until("ready", lambda: answers(f"{self.url}/readyz"))
        return self

    def again(self) -> None:
        """Start it where it was."""
        self.child = Served.start(self.stack, self.name, self.url).ready().child


Serve = Callable[[str, int], list[Served]]
"""Starts so many teachers of this name."""


@pytest.fixture
def serve(stack: Stack) -> Iterator[Serve]:
    """Starts teachers, and stops them when the test has ended."""
    started: list[Served] = []

    def start(name: str, count: int) -> list[Served]:
        started.extend(Served.start(stack, name, f"http://127.0.0.1:{free_port()}") for _ in range(count))
        return [each.ready() for each in started[-count:]]

    yield start
    for each in started:
        if each.child.popen.poll() is None:
            each.child.stop()


@pytest.fixture(autouse=True)
def _no_run_is_left(stack: Stack) -> Iterator[None]:
    """A test that fails must not leave its run to the next one's worker."""
    yield
    with stack.client() as client:
        for run in client.runs.list():
            if not run.state.ended:
                client.runs.cancel(run.id)


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> list[float]:
    """The losses of the same run with a teacher that nobody touches."""
    stack.worker()
    with stack.client() as client:
        run = stack.start_run(client, "teacher-left-alone", **PLAN)
        assert list(client.runs.events(run.id))
        return losses(client, run)


@pytest.fixture
def hasty(stack: Stack) -> Iterator[Child]:
    """The only worker: it gives up a call after a second."""
    for worker in stack.workers:
        if worker.popen.poll() is None:
            worker.stop()
    worker = stack.start_worker(f"hasty-{len(stack.workers)}", TEACHER_DEADLINE="1")
    yield worker
    worker.stop()


def losses(client: Client, run: Run) -> list[float]:
    return [step.metrics["loss"] for step in client.runs.metrics(run.id)]


def ledgers(client: Client, run: Run) -> list[TeacherLedger]:
    """What passed between the run and its teacher, step by step."""
    return [step.ledger.teachers["self"] for step in client.runs.metrics(run.id)]


def asked(ledger: list[TeacherLedger]) -> dict[str, int]:
    """Requests by endpoint."""
    urls = {url for each in ledger for url in each.endpoints}
    return {url: sum(each.endpoints.get(url, 0) for each in ledger) for url in urls}


def at_step(step: int) -> Any:
    return lambda event: event.kind == "step" and event.data["step"] == step


def told(url: str, state: str) -> Any:
    """The control plane says that an endpoint is in this state, or gone."""
    return lambda event: event.kind == "note" and event.data.get("endpoint") == url and event.data.get("state") == state


def add_endpoint(client: Client, name: str, url: str) -> None:
    client.teachers.add_endpoint(name, EndpointCreate(url=url, key_env=KEY_ENV))


def succeeded(client: Client, run: Run, seen: list[Event]) -> None:
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert run.attempt == 1, "no worker had to take it up again"
    assert steps_of(seen) == list(range(1, STEPS + 1)), "every step is recorded exactly once"


def test_a_teacher_killed_with_a_replica_up_changes_no_number(
    stack: Stack, client: Client, undisturbed: list[float], serve: Serve
) -> None:
    pair = serve("pair", 2)
    stack.register_teacher(client, "pair", pair[0].url)
    add_endpoint(client, "pair", pair[1].url)
    stack.worker()
    run = stack.start_run(client, "one-of-two-killed", teacher="pair", **PLAN)
    events = client.runs.events(run.id)
    seen = until(events, at_step(10))
    so_far = asked(ledgers(client, run))
    victim = max(pair, key=lambda each: so_far.get(each.url, 0))
    (other,) = [each for each in pair if each is not victim]
    victim.child.kill()
    seen += list(events)

    succeeded(client, run, seen)
    assert losses(client, run) == undisturbed, "the loss curve is that of a run whose teacher nobody touched"
    counted = ledgers(client, run)
    assert sum(each.failovers for each in counted) >= 1, "what the killed one was asked, the other answered"
    assert set(counted[-1].endpoints) == {other.url}
    assert not any(each.dropped or each.fallbacks for each in counted)


def test_a_teacher_killed_without_a_replica_is_waited_for(
    stack: Stack, client: Client, undisturbed: list[float], serve: Serve
) -> None:
    (alone,) = serve("alone", 1)
    stack.register_teacher(client, "alone", alone.url)
    stack.worker()
    run = stack.start_run(client, "only-teacher-killed", teacher="alone", **PLAN)
    events = client.runs.events(run.id)
    seen = until(events, at_step(10))
    alone.child.kill()
    seen += until(events, told(alone.url, "down"))
    assert client.teachers.get("alone").state is TeacherState.DOWN
    assert client.runs.get(run.id).state is RunState.RUNNING, "it waits"
    alone.again()
    seen += list(events)

    succeeded(client, run, seen)
    assert any(map(told(alone.url, "ready"), seen))
    assert losses(client, run) == undisturbed
    counted = ledgers(client, run)
    assert sum(each.waited_seconds for each in counted) > 0 and sum(each.retries for each in counted) >= 1
    assert not any(each.dropped or each.fallbacks for each in counted)


def test_a_run_that_waits_for_its_teacher_can_be_given_back_and_cancelled(
    stack: Stack, client: Client, serve: Serve
) -> None:
    (gone,) = serve("gone", 1)
    stack.register_teacher(client, "gone", gone.url)
    leaving = stack.only_worker()
    run = stack.start_run(client, "waits-in-vain", teacher="gone", **PLAN)
    events = client.runs.events(run.id)
    until(events, at_step(3))
    gone.child.kill()
    assert until(events, told(gone.url, "down"))
    assert leaving.stop() == 0
    run = client.runs.get(run.id)
    assert (run.state, run.error) == (RunState.QUEUED, None), "a worker that is told to stop does not fail it"

    heir = stack.worker()
    until(events, lambda event: event.kind == "state" and event.data["to"] == "running")
    client.runs.cancel(run.id)
    list(events)
    assert client.runs.get(run.id).state is RunState.CANCELLED
    after = stack.start_run(client, "after-it", steps=2)
    assert steps_of(list(client.runs.events(after.id))) == [1, 2]
    assert client.runs.get(after.id).worker == heir.name, "which is free for another run"


def test_endpoints_join_and_leave_a_running_job(stack: Stack, client: Client, serve: Serve) -> None:
    first, second = serve("growing", 2)
    stack.register_teacher(client, "growing", first.url)
    stack.worker()
    run = stack.start_run(client, "grows-and-shrinks", teacher="growing", **LONG)
    events = client.runs.events(run.id)
    until(events, at_step(2))
    add_endpoint(client, "growing", second.url)
    assert until(events, told(second.url, "ready"))
    asked_of(client, run, events, lambda urls: second.url in urls)

    (leaving,) = [each for each in client.teachers.get("growing").endpoints if each.url == first.url]
    client.teachers.drain_endpoint("growing", leaving.id)
    assert until(events, told(first.url, "draining"))
    asked_of(client, run, events, lambda urls: urls == {second.url}, steps=10)
    assert first.child.stop() in (0, -signal.SIGTERM), "nobody needs it any more"
    asked_of(client, run, events, lambda urls: urls == {second.url}, steps=5)

    client.teachers.remove_endpoint("growing", leaving.id)
    assert until(events, told(first.url, "gone"))
    client.runs.cancel(run.id)
    list(events)
    run = client.runs.get(run.id)
    assert run.state is RunState.CANCELLED and run.attempt == 1, run.error
    asked = ledgers(client, run)
    assert not any(each.retries or each.dropped for each in asked), "nothing failed on the way"
    changed = [(each.joined, each.left) for each in asked if each.joined or each.left]
    assert changed == [([second.url], []), ([], [first.url])], "each in the ledger of the step in which it was"


def asked_of(client: Client, run: Run, events: Iterator[Event], true: Any, *, steps: int = 1) -> None:
    """Watch until so many steps in a row, from the next one on, asked endpoints of which it is true."""
    row, seen = 0, 0
    for event in events:
        if event.kind != "step" or event.data["step"] <= seen:
            continue
        for step in client.runs.metrics(run.id, after=seen or event.data["step"] - 1):
            row = row + 1 if true(set(step.ledger.teachers["self"].endpoints)) else 0
            seen = step.step
            if row == steps:
                return
    raise AssertionError("the run ended before that")


def test_a_fallback_answers_and_is_counted(
    stack: Stack, client: Client, undisturbed: list[float], serve: Serve, hasty: Child
) -> None:
    (fickle,) = serve("fickle", 1)
    stack.register_teacher(client, "fickle", fickle.url)
    plan = {**PLAN, "samples_kept": 1}
    run = stack.start_run(
        client, "falls-back", teacher="fickle", fallback="tiny", context={"on_failure": "fallback"}, **plan
    )
    events = client.runs.events(run.id)
    seen = until(events, at_step(10))
    fickle.child.kill()
    seen += list(events)

    succeeded(client, run, seen)
    counted = ledgers(client, run)
    first = next(index for index, each in enumerate(counted) if each.fallbacks)
    assert first >= 10 and all(each.fallbacks for each in counted[first:]), "it did not come back"
    assert not any(each.dropped for each in counted)
    stamps = {sample.step: sample.stamps["reference"].teacher for sample in client.runs.samples(run.id)}
    assert stamps == {step: "fickle" if step <= first else "tiny" for step in range(1, STEPS + 1)}
    assert losses(client, run) == undisturbed, "the fallback has the same weights here"


def test_what_is_dropped_is_counted_and_the_run_goes_on(
    stack: Stack, client: Client, serve: Serve, hasty: Child
) -> None:
    (missed,) = serve("missed", 1)
    stack.register_teacher(client, "missed", missed.url)
    run = stack.start_run(client, "drops", teacher="missed", context={"on_failure": "drop"}, **PLAN)
    events = client.runs.events(run.id)
    seen = until(events, at_step(10))
    missed.child.kill()
    seen += list(events)

    succeeded(client, run, seen)
    steps = list(client.runs.metrics(run.id))
    dropped = [step.ledger.teachers["self"].dropped for step in steps]
    assert not any(dropped[:10]) and dropped[-1] > 0
    for step, missing in zip(steps, dropped, strict=True):
        assert step.ledger.scored_sequences + missing == step.ledger.contexts, "scored or counted, never neither"
