"""A run that is killed at twenty random moments has the numbers of one that was left alone, to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO, Any

import pytest

from preceptor.client import Client
from preceptor.wire.runs import Run, RunState
from preceptor_services import tether
from tests.platform.nursery import STAGES, Marks
from tests.platform.stack import ROOT, Stack, alive, running, steps_of

pytestmark = pytest.mark.slow

STEPS = 12
PLAN: dict[str, Any] = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 3, "seed": 5}
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "all-weights": (13, {}),
    "adapters-and-moving-teacher": (
        7,
        {"overrides": {"teacher": {"kind": "ema", "decay": 0.8}}, "lora": {"rank": 2, "alpha": 4}},
    ),
}
"""How often each is killed, and what it is."""
TIMED = {"seconds", "tokens_per_second"}
"""Metrics that say how fast a machine is, not what a run computes."""
REACHED_SECONDS = 120


@dataclass(frozen=True)
class Moment:
    """When to kill: the run has reported this step, the stage is at work, and a share of its usual time has passed."""

    step: int
    stage: str
    share: float


@dataclass(frozen=True)
class Born:
    """A worker of the nursery."""

    pid: int
    marks: Marks
    log: Path

    def reach(self, moment: Moment, furthest: int, usual: dict[str, float]) -> int:
        """Wait for the moment. Returns the last step that was reported by anyone."""
        deadline = time.monotonic() + REACHED_SECONDS
        due = 0 if moment.stage == "taking up" else moment.step  # which comes before any step of this worker's
        while (reached := max(furthest, self.marks.step)) < due or moment.stage not in self.marks.at_work:
            assert alive(self.pid) and time.monotonic() < deadline, (moment, self.log.read_text()[-2000:])
            time.sleep(0.0005)
        time.sleep(moment.share * usual[moment.stage])
        return reached

    def kill(self) -> list[str]:
        """It and all that it has started. Returns what was at work."""
        os.killpg(self.pid, signal.SIGKILL)
        while alive(self.pid):
            time.sleep(0.001)
        return self.marks.at_work


class Nursery:
    """Workers of a stack, one after the other."""

    def __init__(self, stack: Stack) -> None:
        self._folder = stack.folder / "nursery"
        self._folder.mkdir()
        environment = stack.environment(
            URL=stack.url,
            KEY=stack.worker_key,
            BROKER_URL=stack.broker_url,
            WORKER_NAME="born",
            CACHE_DIR=str(self._folder),
            VISIBILITY_TIMEOUT="2",
            TEACHER_KEY=stack.teacher_key,
            SCORE_CACHE_BYTES="0",
        )
        command = tether.command(sys.executable, "-m", "tests.platform.nursery", str(self._folder))
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self._born = 0

    def bear(self) -> Born:
        """One that takes whatever run is queued."""
        tell: IO[str] | None = self._popen.stdin
        assert tell is not None and self._popen.stdout is not None
        marks, log = (self._folder / f"{name}" for name in (f"marks-{self._born}", f"worker-{self._born}.log"))
        watched = Marks(marks)
        tell.write("\n")
        tell.flush()
        self._born += 1
        return Born(int(self._popen.stdout.readline()), watched, log)

    def close(self) -> None:
        """All of them die with it."""
        self._popen.kill()
        self._popen.communicate()


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack in which a dead worker's lease ends within a second, and whose teacher can be moved."""
    with running(tmp_path_factory.mktemp("brief"), None, "--takes-weights", lease_seconds=1.0) as stack:
        yield stack


@pytest.fixture(scope="module")
def nursery(brief: Stack) -> Iterator[Nursery]:
    opened = Nursery(brief)
    yield opened
    opened.close()


def moments(seed: str, kills: int, moving: bool) -> list[Moment]:
    """From the run's beginning to the upload of its end; every stage has its turn before any comes again."""
    random, stages = Random(seed), list[str]()
    known = [name for name in STAGES if moving or name != "publishing"]
    while len(stages) < kills - 1:
        stages += random.sample(known, len(known))
    steps = sorted(random.randrange(STEPS - 2) for _ in range(kills - 1))
    found = [Moment(step, stage, random.random()) for step, stage in zip(steps, stages, strict=False)]
    return [*found, Moment(STEPS, "uploading", random.random())]


def outcome(client: Client, run: Run) -> dict[str, Any]:
    """All that a run has computed: every step, every evaluation, weights, optimizer and self-teacher."""
    assert run.state is RunState.SUCCEEDED, run.error
    assert run.result is not None and run.result.model is not None and run.checkpoint is not None
    tensors = {
        file.path: file.sha256
        for artifact in (run.checkpoint.artifact, run.result.model)
        for file in client.artifacts.get(artifact).manifest.files
        if file.path.endswith(".safetensors")
    }
    steps = list(client.runs.metrics(run.id))
    return {
        "steps": [{name: each for name, each in step.metrics.items() if name not in TIMED} for step in steps],
        "scored": [step.ledger.scored_sequences for step in steps],
        "evaluations": [each.model_dump(exclude=TIMED) for each in client.runs.evaluations(run.id)],
        "tensors": tensors,
        "result": run.result.model_dump(exclude={"train_seconds", "model"}),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_at_random_moments_computes_what_it_would_have(
    brief: Stack, nursery: Nursery, kind: str
) -> None:
    kills, settings = KINDS[kind]
    with brief.client() as client:
        first = nursery.bear()
        alone = brief.start_run(client, f"alone-{kind}", **PLAN, **settings)
        list(client.runs.events(alone.id))
        usual, _ = first.marks.seconds, first.kill()
        run, furthest, hit = brief.start_run(client, f"killed-{kind}", **PLAN, **settings), 0, list[list[str]]()
        for moment in moments(kind, kills, "overrides" in settings):
            worker = nursery.bear()
            furthest = worker.reach(moment, furthest, usual)
            hit.append(worker.kill())
        last = nursery.bear()
        told = list(client.runs.events(run.id))
        last.kill()
        expected, found = (outcome(client, client.runs.get(each.id)) for each in (alone, run))
        again = client.runs.get(run.id)
    assert found == expected
    assert steps_of(told) == list(range(1, STEPS + 1)), "every step is recorded once"
    assert all(event.data["largest_difference"] == 0.0 for event in told if event.kind == "resumed")
    assert again.attempt > kills / 2, "most kills have cost a lease"
    stages = Counter(stage for each in hit for stage in each)
    print("killed during", [" and ".join(each) or "none" for each in hit])
    assert len(stages) >= kills / 3, hit  # a busy machine's kills come late: some fall between two stages
