"""A run on two devices: torchrun's ranks give the numbers of one, and end in a clear state when one of them is lost."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from preceptor.client import Client
from preceptor.wire.runs import Run, RunState
from tests.platform.stack import ROOT, Child, Stack, alive, free_port, steps_of, until

PLAN: dict[str, Any] = {"steps": 6, "batch": 4, "checkpoint_every": 2, "evaluate_every": 3, "seed": 5}
LONG: dict[str, Any] = {**PLAN, "steps": 60, "evaluate_every": 60, "checkpoint_every": 4}
"""Long enough that what happens at one step happens many steps before the end."""
RECIPE: dict[str, Any] = {
    "rollout": {"samples": 2, "max_tokens": 8},
    "objective": [
        {"kind": "jsd", "beta": 0.5},
        {"kind": "sampled_reverse_kl", "coefficient": 0.3, "weights": [{"kind": "group_advantage"}]},
    ],
}
"""With a weight that looks at the whole batch."""

SABOTAGE = """
import os
if os.environ.get("RANK") == "1":
    from preceptor_trainer.learner import Learner
    learn = Learner.learn

    def sabotaged(self, batch):
        if str(batch.step) == open(os.environ["SABOTAGE"]).read():
            raise MemoryError("no room for 7 GiB")
        return learn(self, batch)

    Learner.learn = sabotaged
"""
"""What every interpreter imports at its start; it has an effect on the second rank alone."""


@pytest.fixture(scope="module")
def sabotage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds the number of the step in which the second rank fails, of whatever is started from here on."""
    folder = tmp_path_factory.mktemp("sabotage")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    (folder / "step").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("SABOTAGE", str(folder / "step"))
        yield folder / "step"


@pytest.fixture(scope="module")
def worker(stack: Stack, sabotage: Path) -> Iterator[Child]:
    """The only worker: it may start two ranks."""
    for each in stack.workers:
        if each.popen.poll() is None:
            each.stop()
    child = stack.start_worker("two-devices", DEVICES="2")
    yield child
    if child.popen.poll() is None:
        child.stop()


def ranks(worker: str) -> dict[int, int]:
    """The ranks of a worker that live: their process ids."""
    found: dict[int, int] = {}
    mine = f"PRECEPTOR_WORKER_NAME={worker}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended, or is somebody else's
            continue
        rank = next((each for each in environment if each.startswith(b"RANK=")), None)
        if b"preceptor_services.worker.rank" in command and mine in environment and rank is not None:
            found[int(rank.removeprefix(b"RANK="))] = int(folder.name)
    return found


def losses(client: Client, run: Run) -> list[float]:
    return [step.metrics["loss"] for step in client.runs.metrics(run.id)]


def weights(client: Client, run: Run, folder: Path) -> dict[str, torch.Tensor]:
    assert run.result is not None and run.result.model is not None
    client.artifacts.pull(run.result.model, folder)
    return load_file(folder / "model.safetensors")


def done(client: Client, run: Run) -> Run:
    """Once it has ended."""
    assert list(client.runs.events(run.id))
    return client.runs.get(run.id)


def test_two_ranks_of_a_worker_give_the_numbers_of_one(
    stack: Stack, client: Client, worker: Child, tmp_path: Path
) -> None:
    one, two = (
        done(client, stack.start_run(client, f"on-{devices}", overrides=RECIPE, devices=devices, **PLAN))
        for devices in (1, 2)
    )
    assert one.state is RunState.SUCCEEDED and two.state is RunState.SUCCEEDED, (one.error, two.error)
    assert losses(client, two) == pytest.approx(losses(client, one), rel=1e-4)
    before, after = (client.runs.evaluations(run.id) for run in (one, two))
    assert [each.hits for each in after] == [each.hits for each in before]
    first, second = (weights(client, run, tmp_path / run.name) for run in (one, two))
    for name, each in first.items():
        torch.testing.assert_close(second[name], each, atol=1e-5, rtol=0)


def test_a_rank_that_fails_fails_the_run_with_its_cause(
    stack: Stack, client: Client, worker: Child, sabotage: Path
) -> None:
    sabotage.write_text("3")
    run = done(client, stack.start_run(client, "rank-fails", devices=2, **PLAN))
    assert run.state is RunState.FAILED and run.error is not None
    assert run.error.detail == "Step 3: rank 1 of 2: The worker two-devices ran out of memory: no room for 7 GiB"
    assert (run.error.remedy or "").startswith("Lower training.microbatch_tokens")
    assert "goes on from the checkpoint after step 2" in (run.error.remedy or "")
    assert run.checkpoint is not None and run.checkpoint.step == 2
    assert ranks(worker.name) == {}
    sabotage.write_text("")


def test_a_killed_rank_is_named_and_the_run_goes_on_with_the_same_numbers(
    stack: Stack, client: Client, worker: Child
) -> None:
    run = stack.start_run(client, "rank-killed", devices=2, **LONG)
    until(client.runs.events(run.id), lambda event: event.kind == "step" and event.data["step"] == 6)
    before = ranks(worker.name)
    assert sorted(before) == [0, 1]
    os.kill(before[1], signal.SIGKILL)
    failed = done(client, run)
    assert failed.state is RunState.FAILED and failed.error is not None
    assert re.match(r"Step \d+: rank 1 of 2: .* killed by signal 9 \(SIGKILL\)", failed.error.detail)
    assert failed.checkpoint is not None and failed.checkpoint.step >= 4
    assert not any(alive(pid) for pid in before.values())

    client.runs.resume(run.id)
    (resumed,) = [event for event in until(client.runs.events(run.id), lambda event: event.kind == "resumed")][-1:]
    assert resumed.data["from_step"] == failed.checkpoint.step
    assert resumed.data["largest_difference"] == 0.0, "on as many ranks, the same bits"
    client.runs.cancel(run.id)
    cancelled = done(client, run)
    assert cancelled.state is RunState.CANCELLED and cancelled.step < LONG["steps"]
    assert cancelled.checkpoint is not None and cancelled.checkpoint.step == cancelled.step, "after the step in hand"


def machines(stack: Stack, run: Run, name: str) -> list[Child]:
    """What docs/scale-out.md says to start on two machines: here two torchruns of a rank each."""
    page, port, started = (ROOT / "docs" / "scale-out.md").read_text(), free_port(), list[Child]()
    for number, command in enumerate(re.findall(r"^torchrun .*$", page, re.MULTILINE)):
        for written, meant in (("ml-1:29400", f"127.0.0.1:{port}"), ("--nproc-per-node 8", "--nproc-per-node 1")):
            assert written in command
            command = command.replace(written, meant)
        words = shlex.split(re.sub(r"\bRUN\b", run.id, command))
        settings = {"URL": stack.url, "KEY": stack.worker_key, "TEACHER_KEY": stack.teacher_key}
        folder = str(stack.folder / f"cache-machine-{number}")
        started.append(stack.spawn(f"{name}-{number}", *words, **settings, CACHE_DIR=folder, WORKER_NAME=name))
    assert len(started) == 2
    return started


def test_the_page_s_two_commands_take_up_a_run_that_no_worker_has_the_devices_for(
    stack: Stack, client: Client, worker: Child, sabotage: Path
) -> None:
    """It was given back by a worker of two devices. On the machines a rank fails; the second time it is done."""
    run = stack.start_run(client, "two-machines", devices=2, **{**LONG, "steps": 16, "evaluate_every": 16})
    until(client.runs.events(run.id), lambda event: event.kind == "step" and event.data["step"] == 2)
    pids = ranks(worker.name)
    assert worker.stop() == 0
    run = client.runs.get(run.id)
    assert run.state is RunState.QUEUED
    assert run.checkpoint is not None and 2 <= run.checkpoint.step == run.step
    assert not any(alive(pid) for pid in pids.values())
    small = stack.start_worker("one-device", DEVICES="1")
    words = f"run {run.id}: left to others; it wants 2 devices, this worker has 1"
    small.wait_until("offered the run", lambda: small.said(words), seconds=60)

    sabotage.write_text(str(run.step + 1))
    started = machines(stack, run, "fails")
    failed = done(client, run)
    assert failed.state is RunState.FAILED and failed.error is not None
    assert failed.error.detail.startswith(f"Step {run.step + 1}: rank 1 of 2: The worker fails ran out of memory")
    assert all(machine.popen.wait(60) != 0 for machine in started)
    sabotage.write_text("")

    client.runs.resume(run.id)
    started = machines(stack, run, "lives")
    assert steps_of(list(client.runs.events(run.id))) == list(range(1, 17))
    ended = client.runs.get(run.id)
    assert ended.state is RunState.SUCCEEDED, ended.error
    assert [machine.popen.wait(120) for machine in started] == [0, 0]
    small.stop()
