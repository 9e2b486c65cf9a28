"""A run on one host, scored by a teacher on another: over links that are cut, and slow ones in mid-transfer."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.endpoint import TeacherClient
from preceptor.errors import Overloaded, Unreachable
from preceptor.weights import body_of
from preceptor.wire.runs import Run, RunState
from preceptor.wire.teachers import TeacherCreate
from preceptor.wire.weights import WeightsLoaded
from tests.platform.apart import CONTROL, Apart, running_apart
from tests.platform.stack import MODEL, answers, steps_of, until

pytestmark = pytest.mark.slow

STEPS = 6
CUT_SECONDS = float(os.environ.get("CUT_SECONDS", "6"))
"""How long a link is cut. Leases end after less: a host that the control plane does not hear loses its run."""
LEASE_SECONDS = 2 / 3 * CUT_SECONDS
IMPATIENT = 1.5
"""Seconds after which a client gives a connection up that brings nothing."""


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """A worker on a; on b a teacher, registered as `far`."""
    with running_apart(tmp_path_factory.mktemp("apart"), "a", "b", lease_seconds=LEASE_SECONDS) as stack:
        teacher, url = stack.start_teacher_on("b", "far", "--takes-weights")
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


def test_what_is_cut_off_in_mid_transfer_goes_on_where_it_was(apart: Apart, tmp_path: Path) -> None:
    """Up to the control plane, down from it, and to a teacher; nothing is sent twice but what was under way."""
    hosts, under_way = apart.hosts, 800_000
    hosts.slow()
    (tmp_path / "weights").write_bytes(content := random.randbytes(2_000_000))
    with (
        hosts["a"].inside(),
        Client(apart.url, apart.worker_key, timeout=IMPATIENT) as there,
        ThreadPoolExecutor() as one,
    ):
        before = hosts.carried("a", CONTROL)
        hosts.cut_after("a", CONTROL, 1_000_000)
        pushing = one.submit(there.artifacts.push, tmp_path / "weights", "checkpoint", "cut")
        wait_for_the_end_of_a_cut(apart, "a", before + 1_000_000)
        artifact = pushing.result(60)
        assert hosts.carried("a", CONTROL) - before < len(content) + under_way
        before = hosts.carried("a", CONTROL)
        hosts.cut_after(CONTROL, "a", 1_000_000)
        pulling = one.submit(there.artifacts.pull, artifact, tmp_path / "pulled")
        wait_for_the_end_of_a_cut(apart, "a", before + 1_000_000)
        assert (pulling.result(60) / "weights").read_bytes() == content
        assert hosts.carried("a", CONTROL) - before < len(content) + under_way
    with apart.client() as client, TeacherClient(client.teachers.get("far").url, apart.teacher_key) as far:
        hosts.cut_after(CONTROL, "b", 1_000_000)
        with pytest.raises(Unreachable):
            far.send_weights(body_of(MODEL), timeout=1.5)
        hosts.mend("b")
        loaded = sent_again(far)
    assert loaded.weights_hash == body_of(MODEL).hash()
    assert loaded.received_bytes < body_of(MODEL).size - 500_000


def wait_for_the_end_of_a_cut(apart: Apart, host: str, carried: int) -> None:
    """Once so much has passed between the host and the control plane the link is cut; it is mended a while later."""
    while apart.hosts.carried(host, CONTROL) < carried:
        time.sleep(0.05)
    time.sleep(1.5 * IMPATIENT)
    apart.hosts.mend(host)


def sent_again(teacher: TeacherClient) -> WeightsLoaded:
    """As soon as the teacher has heard that the sender before has hung up."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return teacher.load_weights(MODEL)
        except Overloaded:
            assert time.monotonic() < deadline
            time.sleep(0.2)
