"""A pair by processes: two workers train a side each, publish their students to each other, and both get better."""

from __future__ import annotations

from typing import Any

from preceptor.client import Client
from preceptor.wire.codistillations import Codistillation, CodistillationCreate, CodistillationState, SideCreate
from preceptor.wire.data import TaskSource
from preceptor.wire.pairs import PairPolicy, step_of
from preceptor.wire.runs import RunCreate
from tests.platform.stack import MODEL, Stack

STEPS = 3
TRAINING = {
    "steps": STEPS,
    "batch": 8,
    "warmup_steps": 1,
    "checkpoint_every": 2,
    "evaluate_every": STEPS,
    "evaluate_items": 12,
}
OVERRIDES = {"rollout.max_tokens": 24, "contexts.peer.confidence": 0.01}


def side(student: str, name: str, teaches: tuple[str, ...], **training: Any) -> SideCreate:
    run = RunCreate(
        name=name,
        recipe="peer_opd",
        overrides=OVERRIDES,
        student=student,
        teachers={"start": "base"},
        data=TaskSource(task="two_domains"),
        training={**TRAINING, **training},
    )
    return SideCreate(run=run, teaches=teaches)


def pair(client: Client, name: str, *, policy: PairPolicy, **training: Any) -> Codistillation:
    student = client.artifacts.push(MODEL, "model", "tiny")
    return client.codistillations.start(
        CodistillationCreate(
            name=name,
            a=side(student, f"{name}-1", ("letters",), seed=1, **training),
            b=side(student, f"{name}-2", ("maths",), seed=2, **training),
            policy=policy,
        )
    )


def two_workers(stack: Stack) -> None:
    alive = [each for each in stack.workers if each.popen.poll() is None]
    for number in range(len(alive), 2):
        stack.start_worker(f"of-a-pair-{number}")


def test_two_workers_teach_each_other(stack: Stack, client: Client) -> None:
    two_workers(stack)
    started = pair(client, "lockstep", policy=PairPolicy(max_lag=0, patience=60))
    for run in (started.a.run, started.b.run):
        list(client.runs.events(run))
    done = client.codistillations.get(started.id)
    assert done.state is CodistillationState.SUCCEEDED, [client.runs.get(each.run).error for each in (done.a, done.b)]
    assert done.a.worker != done.b.worker and done.a.url != done.b.url
    record = client.codistillations.record(started.id)
    for one, peer in ((record.a, done.b), (record.b, done.a)):
        assert not one.unpublished and not one.alone
        assert peer.published == STEPS + 1 and peer.version is not None and step_of(peer.version) == STEPS
        assert sum(each.count for each in one.heard) > 0
        assert one.largest_lag is not None and one.largest_lag <= 0, "the bound is no lag at all"
        assert {each.domain for each in one.accuracy} == {"letters", "maths"}
    assert {each.domain for each in record.a.gates if each.open} <= {"maths"}
    assert {each.domain for each in record.b.gates if each.open} <= {"letters"}
