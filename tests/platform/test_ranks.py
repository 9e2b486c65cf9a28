"""A run on two devices: torchrun's ranks give the numbers of one, and end in a clear state when one of them is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from preceptor.client import Client
from preceptor.wire.runs import Run, RunState
from tests.platform.stack import Child, Stack

pytestmark = pytest.mark.xdist_group("platform")  # one process, one stack

PLAN: dict[str, Any] = {"steps": 6, "batch": 4, "checkpoint_every": 3, "evaluate_every": 3, "seed": 5}
RECIPE: dict[str, Any] = {
    "rollout": {"samples": 2, "max_tokens": 8},
    "objective": [
        {"kind": "jsd", "beta": 0.5},
        {"kind": "sampled_reverse_kl", "coefficient": 0.3, "weights": [{"kind": "group_advantage"}]},
    ],
}
"""With a weight that looks at the whole batch."""


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Iterator[Child]:
    """The only worker: it may start two ranks."""
    for each in stack.workers:
        if each.popen.poll() is None:
            each.stop()
    child = stack.start_worker("two-devices", DEVICES="2")
    yield child
    child.stop()


def ranks(worker: Child) -> dict[int, int]:
    """Process ids of the ranks below a worker, by rank."""
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = dict(each.partition(b"=")[::2] for each in (folder / "environ").read_bytes().split(b"\0"))
        except OSError:  # it has just ended, or is somebody else's
            continue
        if (
            b"preceptor_services.worker.rank" in command
            and environment.get(b"PRECEPTOR_WORKER_NAME") == worker.name.encode()
            and b"RANK" in environment
        ):
            found[int(environment[b"RANK"])] = int(folder.name)
    return found


def losses(client: Client, run: Run) -> list[float]:
    return [step.metrics["loss"] for step in client.runs.metrics(run.id)]


def weights(client: Client, run: Run, folder: Path) -> dict[str, torch.Tensor]:
    assert run.result is not None and run.result.model is not None
    client.artifacts.pull(run.result.model, folder)
    return load_file(folder / "model.safetensors")


def test_two_ranks_of_a_worker_give_the_numbers_of_one(
    stack: Stack, client: Client, worker: Child, tmp_path: Path
) -> None:
    runs: list[Run] = []
    for devices in (1, 2):
        run = stack.start_run(client, f"on-{devices}", overrides=RECIPE, devices=devices, **PLAN)
        assert list(client.runs.events(run.id))
        runs.append(client.runs.get(run.id))
        assert runs[-1].state is RunState.SUCCEEDED, runs[-1].error
    one, two = runs
    assert losses(client, two) == pytest.approx(losses(client, one), rel=1e-4)
    before, after = (client.runs.evaluations(run.id) for run in runs)
    assert [each.hits for each in after] == [each.hits for each in before]
    first, second = (weights(client, run, tmp_path / str(index)) for index, run in enumerate(runs))
    for name, each in first.items():
        torch.testing.assert_close(second[name], each, atol=1e-5, rtol=0)
