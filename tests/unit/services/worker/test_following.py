"""What a worker hears of its teachers: followed from a step on that no rank works on, and told in its ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preceptor.client import Client
from preceptor.pool import TeacherPool
from preceptor.wire.runs import (
    LeaseGrant,
    LeaseStatus,
    Ledger,
    Note,
    ReplicaAddress,
    StepReport,
    StepsReport,
    TeacherEndpoint,
    TeacherLedger,
)
from preceptor_services.worker.following import Following, hear_along
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.reporter import RunReporter
from preceptor_trainer import recipes
from preceptor_trainer.loop import train
from preceptor_trainer.model import load_model
from preceptor_trainer.reporting import Signal
from tests.contract.doubles import card_for, write_model
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Runs:
    """A control plane that keeps what it is told."""

    def __init__(self) -> None:
        self.answer = LeaseStatus(until=NOW)
        self.steps = list[StepReport]()
        self.notes = list[str]()

    def report(self, run_id: str, report: StepsReport) -> LeaseStatus:
        self.steps += report.steps
        return self.answer

    def note(self, run_id: str, note: Note) -> LeaseStatus:
        self.notes.append(note.data["message"])
        return self.answer


class Pool:
    """Keeps what it is to ask."""

    def __init__(self) -> None:
        self.updates = list[Any]()
        self.refills = list[tuple[dict[str, str | None], int]]()

    def update(self, endpoints: Any) -> dict[str, Any]:
        self.updates.append(endpoints)
        return {}

    def refill(self, wanted: Mapping[str, TeacherEndpoint | None], step: int) -> dict[str, Any]:
        if wanted:
            self.refills.append(({role: each and each.name for role, each in wanted.items()}, step))
        return {}


class Worker:
    """One that has done `done` steps of a run and writes at most `max_lag` ahead."""

    def __init__(self, *, done: int = 0, max_lag: int = 0, refilled: tuple[Any, ...] = ()) -> None:
        self.runs, self.pool = Runs(), Pool()
        checkpoint = SimpleNamespace(step=done) if done else None
        run = SimpleNamespace(
            id="run-1",
            name="mine",
            checkpoint=checkpoint,
            attempt=1,
            training=SimpleNamespace(max_lag=max_lag),
            teachers={"maths": "old", "law": "law", "peer": "them"},
            refilled=refilled,
        )
        pair = SimpleNamespace(role="peer")
        grant = cast(LeaseGrant, SimpleNamespace(run=run, fence=7, ttl_seconds=60.0, recorded_step=0, pair=pair))
        silent = SimpleNamespace(record_held=lambda *told: None)
        client = cast(Client, SimpleNamespace(runs=self.runs, debates=silent))
        self.lease = Lease.on_run(client, grant)
        self.reporter = RunReporter(client, grant, self.lease, cast(Any, SimpleNamespace(is_set=lambda: False)))
        self.following = Following(grant, self.lease, self.reporter, cast(TeacherPool, self.pool))

    def hears(self, teachers: Any = None, **refilled: TeacherEndpoint | None) -> None:
        self.lease.heard(LeaseStatus(until=NOW, teachers=teachers, refilled=refilled))

    def looks(self) -> None:
        """As the loop does while it waits for a step."""
        if (news := self.following.news()) is not None:
            self.following.hear(news)

    def does(self, step: int) -> TeacherLedger:
        """A step; what its ledger says of the role."""
        ledger = Ledger(teachers={"maths": TeacherLedger(requests=step)})
        self.runs.answer = LeaseStatus(until=NOW, refilled=dict(self.lease.refilled))
        self.reporter.step(StepReport(step=step, metrics={"loss": 0.5}, ledger=ledger), [])
        return self.runs.steps[-1].ledger.teachers["maths"]


def teacher(tmp_path: Any, name: str, *further: str) -> TeacherEndpoint:
    card = card_for(write_model(tmp_path / "tiny"), name)
    replicas = tuple(ReplicaAddress(url=url) for url in further)
    return TeacherEndpoint(name=name, url=f"http://{name}", replicas=replicas, card=card)


def came(ledger: TeacherLedger) -> tuple[list[str], list[str]]:
    return ledger.teachers_left, ledger.teachers_joined


def test_it_is_followed_once_and_told_in_the_ledger_of_its_step(tmp_path: Any) -> None:
    worker = Worker()
    worker.looks()
    worker.hears(maths=teacher(tmp_path, "new"))
    for _ in range(3):
        worker.looks()
    assert worker.pool.refills == [({"maths": "new"}, 2)], "the first step is being worked on"
    assert worker.runs.notes == ["Role maths: from step 2 on new is asked"]
    first, second, third = (worker.does(step) for step in (1, 2, 3))
    assert came(first) == came(third) == ([], [])
    assert came(second) == (["old"], ["new"]) and second.requests == 2


def test_nobody_has_been_asked_for_the_step_it_begins_with(tmp_path: Any) -> None:
    """With steps written ahead, and after a resume."""
    worker = Worker(done=10, max_lag=3)
    worker.hears(maths=teacher(tmp_path, "new"))
    worker.looks()
    assert worker.pool.refills == [({"maths": "new"}, 15)], "11 is waited for, and 14 may be written by its weights"
    assert came(worker.does(11)) == ([], [])


class Asked(LocalScorer):
    """Keeps the latest step that anybody was asked about."""

    latest = 0

    def begin(self, step: int) -> Collection[str]:
        self.latest = max(self.latest, step)
        return ()


@pytest.mark.parametrize("max_lag", [0, 2])
def test_the_loop_asks_about_no_such_step_before_it_asks_for_a_signal(max_lag: int, tmp_path: Path) -> None:
    """What the step that a change begins with rests on."""
    folder = tiny_model_folder(tmp_path / "model")
    scorer, ahead = Asked({"self": load_model(folder)}), list[int]()

    class Looking(Remembering):
        def signal(self) -> Signal:
            ahead.append(scorer.latest - len(self.steps))
            return Signal.GO

    recipe = recipes.load("opsd").override({"rollout": {"max_tokens": 4}})
    run = toy_run(recipe, steps=6, max_lag=max_lag)
    train(run, folder, ToyData(), scorer, Looking(), tmp_path / "work")
    worker = Worker(max_lag=max_lag)
    worker.hears(maths=None)
    worker.looks()
    ((_, first),) = worker.pool.refills
    assert len(ahead) >= 6 and max(ahead) < first


def test_a_step_that_is_asked_anew_is_the_one_that_they_came_with(tmp_path: Any) -> None:
    worker = Worker(done=4, max_lag=1)
    for name in ("new", "newer"):
        worker.hears(maths=teacher(tmp_path, name), law=None)
        worker.looks()
    assert worker.does(5).requests == 5
    worker.reporter.asked_anew()
    assert worker.runs.notes[-2:] == [
        "Role law: all of step 6 is asked anew, of nobody in place of law",
        "Role maths: all of step 6 is asked anew, of newer in place of old",
    ]
    assert came(worker.does(6)) == (["old"], ["newer"])
    assert came(worker.runs.steps[-1].ledger.teachers["law"]) == (["law"], [])
    assert came(worker.does(7)) == ([], []), "what was planned has happened"
    told = len(worker.runs.notes)
    worker.reporter.asked_anew()
    assert len(worker.runs.notes) == told


def test_changes_of_one_step_are_one_in_its_ledger(tmp_path: Any) -> None:
    worker = Worker()
    for name in ("new", "newer"):
        worker.hears(maths=teacher(tmp_path, name))
        worker.looks()
    worker.hears(maths=None)
    worker.does(1)
    worker.looks()
    assert worker.pool.refills == [({"maths": "new"}, 2), ({"maths": "newer"}, 2), ({"maths": None}, 3)]
    assert came(worker.does(2)) == (["old"], ["newer"])
    assert came(worker.does(3)) == (["newer"], [])


def test_who_came_before_the_lease_is_told_with_its_first_step() -> None:
    changes = [("maths", "oldest", "middle", 5), ("maths", "middle", "old", 5), ("law", "x", "law", 3)]
    refilled = tuple(SimpleNamespace(role=r, left=a, joined=b, step=at) for r, a, b, at in changes)
    worker = Worker(done=4, refilled=refilled)
    assert came(worker.does(5)) == (["oldest"], ["old"])
    assert "law" not in worker.runs.steps[-1].ledger.teachers


def test_more_endpoints_of_the_same_teacher_are_no_other_teacher(tmp_path: Any) -> None:
    worker = Worker()
    worker.hears(maths=teacher(tmp_path, "new"))
    worker.looks()
    worker.hears(maths=teacher(tmp_path, "new", "http://more"))
    worker.looks()
    assert len(worker.pool.refills) == 2 and len(worker.runs.notes) == 1


def test_addresses_are_not_given_to_another_than_whose_they_are(tmp_path: Any) -> None:
    worker, here = Worker(), (ReplicaAddress(url="http://here"),)
    with worker.reporter.following(worker.following.update):
        worker.hears(teachers={"maths": here, "law": here, "peer": here})
        worker.hears(maths=teacher(tmp_path, "new"))
        worker.looks()
        worker.hears(teachers={"maths": here}, maths=teacher(tmp_path, "new"))  # a heartbeat that was overtaken
    assert worker.pool.updates == [{"maths": here, "law": here}, {}], "nor the peer's to the pool"


def test_other_ranks_follow_what_the_first_has_heard(tmp_path: Any) -> None:
    worker, other = Worker(max_lag=1), Pool()
    here = (ReplicaAddress(url="http://here"),)
    with worker.reporter.following(worker.following.update):
        worker.hears(teachers={"law": here}, maths=teacher(tmp_path, "new"))
    news = worker.following.news()
    assert news is not None
    hear_along(cast(TeacherPool, other), news)
    worker.following.hear(news)
    assert other.refills == worker.pool.refills == [({"maths": "new"}, 3)]
    assert other.updates == [{"law": here}] and worker.following.news() is None


def test_endpoints_that_were_heard_before_do_not_become_those_of_who_joins(tmp_path: Any) -> None:
    """A heartbeat brings them while the loop tells of another teacher."""
    worker, done, telling = Worker(), list[str](), list[Future[None]]()
    worker.hears(maths=teacher(tmp_path, "new"))
    news = worker.following.news()
    assert news is not None

    def late(endpoints: Any) -> dict[str, Any]:
        telling.append(threads.submit(worker.following.hear, news))
        wait(telling, timeout=0.1)
        done.append(f"asks {list(endpoints)}")
        return {}

    def refill(wanted: Any, step: int) -> dict[str, Any]:
        done.append("refilled")
        return {}

    with ThreadPoolExecutor(1) as threads:
        worker.pool.update, worker.pool.refill = late, refill
        worker.following.update({"maths": ()})
        telling[0].result(10)
    assert done == ["asks ['maths']", "refilled"]
    assert worker.following.news() is None, "nor are other ranks told of them"
