"""A run on one host, scored by a teacher on another, over a link that is slow, is cut, and with a worker that dies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.wire.runs import Run, RunState
from preceptor.wire.teachers import TeacherCreate
from tests.platform.apart import CONTROL, Apart, running_apart
from tests.platform.stack import answers, steps_of, until

pytestmark = pytest.mark.slow

STEPS = 6
CUT_SECONDS = float(os.environ.get("CUT_SECONDS", "4"))
"""How long a link is cut. Leases end after less: a host that the control plane does not hear loses its run."""
LEASE_SECONDS = 2.5


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """A worker on a; on b a teacher, registered as `far`."""
    with running_apart(tmp_path_factory.mktemp("apart"), "a", "b", lease_seconds=LEASE_SECONDS) as stack:
        teacher, url = stack.start_teacher_on("b", "far")
        stack.start_worker("worker-a")
        teacher.wait_until("ready", lambda: answers(f"{url}/readyz"))
        with stack.client() as client:
            client.teachers.add(TeacherCreate(name="far", url=url, key_env="PRECEPTOR_TEACHER_KEY"))
        yield stack


@pytest.fixture
def client(apart: Apart) -> Iterator[Client]:
    apart.hosts.fast()
    with apart.client() as opened:
        yield opened


def started(apart: Apart, client: Client, name: str) -> Run:
    return apart.start_run(client, name, teacher="far", steps=STEPS, checkpoint_every=3, evaluate_every=STEPS, seed=3)


def outcome(client: Client, run: Run) -> list[dict[str, Any]]:
    """What every step has computed, once the run has succeeded; each is recorded once."""
    told = list(client.runs.events(run.id))
    run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert steps_of(told) == list(range(1, STEPS + 1))
    timed = {"seconds", "tokens_per_second"}
    return [
        {name: each for name, each in step.metrics.items() if name not in timed} for step in client.runs.metrics(run.id)
    ]


def cut(apart: Apart, one: str, *others: str) -> None:
    apart.hosts.cut(one, *others)
    time.sleep(CUT_SECONDS)  # there is nothing to wait for: that nothing happens is what a cut is
    apart.hosts.mend(one, *others)


@pytest.fixture(scope="module")
def alone(apart: Apart) -> list[dict[str, Any]]:
    """What the run computes where nothing is slow and nothing breaks."""
    with apart.client() as client:
        return outcome(client, started(apart, client, "undisturbed"))


def test_they_share_no_disk_and_talk_over_their_link(apart: Apart, client: Client, alone: list[dict[str, Any]]) -> None:
    assert apart.hosts.carried("a", "b") > 0 and apart.hosts.carried("a", CONTROL) > 0
    assert apart.hosts["b"].run("ls", str(apart.disk / "cache-worker-a")).returncode != 0
    assert apart.hosts["a"].run("ls", str(apart.disk / "cache-worker-a")).returncode == 0


def test_a_link_that_is_cut_between_the_hosts_costs_time_alone(
    apart: Apart, client: Client, alone: list[dict[str, Any]]
) -> None:
    run = started(apart, client, "cut-between")
    until(client.runs.events(run.id), lambda event: event.kind == "step" and event.data["step"] == 2)
    cut(apart, "a", "b")
    assert outcome(client, run) == alone
    assert client.runs.get(run.id).attempt == 1, "the control plane heard of it all the while"


def test_a_host_that_is_cut_off_comes_back_and_goes_on(
    apart: Apart, client: Client, alone: list[dict[str, Any]]
) -> None:
    run = started(apart, client, "cut-off")
    until(client.runs.events(run.id), lambda event: event.kind == "step" and event.data["step"] == 2)
    cut(apart, "a")
    assert outcome(client, run) == alone
    assert client.runs.get(run.id).attempt > 1, "its lease ended meanwhile"


def test_a_worker_that_is_killed_on_a_slow_link_goes_on(
    apart: Apart, client: Client, alone: list[dict[str, Any]]
) -> None:
    apart.hosts.slow()
    run = started(apart, client, "killed")
    until(client.runs.events(run.id), lambda event: event.kind == "step" and event.data["step"] == 4)
    apart.worker().kill()
    apart.start_worker("worker-again-a")
    assert outcome(client, run) == alone
    assert client.runs.get(run.id).attempt > 1
