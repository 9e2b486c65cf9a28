"""Disks fill up and rot: the run fails with a sentence, its last checkpoint is whole, and it goes on once that is seen
to, with the same numbers."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from preceptor.client import Client
from preceptor.errors import Conflict
from preceptor.wire.runs import Run, RunState
from tests.platform.stack import Stack, steps_of, until

STEPS = 24
PLAN: dict[str, Any] = {"steps": STEPS, "checkpoint_every": 8, "evaluate_every": STEPS, "seed": 3}
ROOM = 200_000
"""Bytes that a file may have: less than the student's, more than the worker's log."""


def losses(client: Client, run: Run) -> list[float]:
    return [step.metrics["loss"] for step in client.runs.metrics(run.id)]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_a_checkpoint_that_the_kernel_takes_no_more_of_fails_the_run_and_room_lets_it_go_on(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    worker = stack.only_worker()
    alone = stack.start_run(client, "with-room", **PLAN)
    list(client.runs.events(alone.id))

    run = stack.start_run(client, "without-room", **PLAN)
    events = client.runs.events(run.id)
    until(events, lambda event: event.kind == "checkpoint")
    before = resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE, (ROOM, before[1]))
    list(events)
    failed = client.runs.get(run.id)
    assert failed.state is RunState.FAILED and failed.error is not None and failed.checkpoint is not None
    kept = failed.checkpoint.step
    assert kept in (8, 16), "the one before"
    assert f"the checkpoint at step {kept + 8} could not be written" in failed.error.detail
    assert "File too large" in failed.error.detail and "Make room on the worker" in (failed.error.remedy or "")
    assert f"goes on from the checkpoint after step {kept}" in (failed.error.remedy or "")
    client.artifacts.pull(failed.checkpoint.artifact, tmp_path / "kept")  # whole: its hashes are checked

    resource.prlimit(worker.popen.pid, resource.RLIMIT_FSIZE, before)
    client.runs.resume(run.id)
    told = list(client.runs.events(run.id))
    assert client.runs.get(run.id).state is RunState.SUCCEEDED
    assert steps_of(told) == list(range(1, STEPS + 1))
    assert losses(client, run) == losses(client, alone)


def test_a_checkpoint_that_has_rotted_is_refused_by_the_file_and_what_a_worker_holds_of_it_is_pulled_again(
    stack: Stack, client: Client
) -> None:
    worker = stack.only_worker()
    run = stack.start_run(client, "rotted", **PLAN)
    events = client.runs.events(run.id)
    until(events, lambda event: event.kind == "checkpoint" and event.data["step"] > 8)
    client.runs.pause(run.id)
    until(events, lambda event: event.kind == "state" and event.data["to"] == "paused")
    paused = client.runs.get(run.id)
    assert paused.checkpoint is not None
    files = {file.path: file for file in client.artifacts.get(paused.checkpoint.artifact).manifest.files}
    optimizer = files["optimizer.safetensors"]
    held = stack.folder / f"cache-{worker.name}" / "artifacts" / paused.checkpoint.artifact.removeprefix("sha256:")
    (blob,) = (stack.folder / "home" / "blobs").rglob(f"*{optimizer.sha256}*")

    whole = blob.read_bytes()
    rot(blob)
    client.runs.resume(run.id)
    list(events)
    failed = client.runs.get(run.id)
    assert failed.state is RunState.FAILED and failed.error is not None
    assert "optimizer.safetensors arrived with the hash" in failed.error.detail
    assert "preceptor runs resume RUN --step STEP" in (failed.error.remedy or "")
    assert failed.checkpoint == paused.checkpoint and not held.exists(), "nothing of it is kept on the worker"
    with pytest.raises(Conflict, match=r"no checkpoint of step 3; it has those of \[\d+, \d+\]"):
        client.runs.resume(run.id, step=3)

    blob.write_bytes(whole)
    client.artifacts.pull(paused.checkpoint.artifact, held)
    rot(held / "optimizer.safetensors")
    client.runs.resume(run.id)
    told = list(client.runs.events(run.id))
    assert client.runs.get(run.id).state is RunState.SUCCEEDED, client.runs.get(run.id).error
    assert steps_of(told) == list(range(1, STEPS + 1))
    assert all(event.data["largest_difference"] == 0.0 for event in told if event.kind == "resumed")


def test_a_run_goes_on_from_an_older_checkpoint_that_is_kept(stack: Stack, client: Client) -> None:
    stack.worker()
    run = stack.start_run(client, "older", **PLAN)
    events = client.runs.events(run.id)
    until(events, lambda event: event.kind == "checkpoint" and event.data["step"] == 16)
    client.runs.cancel(run.id)
    list(events)
    cancelled = client.runs.get(run.id)
    assert cancelled.state is RunState.CANCELLED and cancelled.checkpoint is not None
    last = cancelled.checkpoint.step
    older = 16 if last > 16 else 8
    again = client.runs.resume(run.id, step=older)
    assert again.checkpoint is not None and again.checkpoint.step == older
    told = list(client.runs.events(run.id))
    assert client.runs.get(run.id).state is RunState.SUCCEEDED
    assert steps_of(told) == list(range(1, STEPS + 1))
    (resumed,) = [event.data for event in told if event.kind == "resumed"]
    assert (resumed["from_step"], resumed["largest_difference"]) == (older, 0.0)


def rot(file: Path) -> None:
    """Flip a bit in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
