"""The processes that train one run together: one, or as many as torchrun has started.

A rank is a process with a device of its own. Every rank runs the whole loop on its share of each step's tasks; what
the global batch decides (weights, denominators, guards, signals) is told to all at the same points of it, so that no
rank ever does what another does not. What is told goes through gloo, whatever the weights' gradients go through.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from preceptor_trainer.views import Task

PATIENCE = timedelta(hours=2)
"""How long ranks wait for one that is at work outside (an upload, a teacher that takes weights). One that has died is
not waited for: its connections close."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train a run. Alone unless `joined`."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """This rank's own."""
    local: int = 0
    """Its number on its machine."""
    mesh: DeviceMesh | None = None
    """All ranks in a row; None: this one is alone."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that reports, writes checkpoints and publishes."""
        return self.rank == 0

    def every(self, mine: Value) -> list[Value]:
        """What each rank has, in their order."""
        if self.mesh is None:
            return [mine]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, mine)
        return cast("list[Value]", found)

    def told(self, value: Value) -> Value:
        """What the first rank has."""
        if self.mesh is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all(self, mine: bool) -> bool:
        """Whether it holds for every rank."""
        return all(self.every(mine))

    def wait(self) -> None:
        """Until every rank is here."""
        self.every(None)

    def share(self, tasks: Sequence[Task]) -> list[Task]:
        """This rank's among a step's tasks. The rollouts of one question stay together: contexts see siblings."""
        order = {task_id: index for index, task_id in enumerate(dict.fromkeys(task.id for task in tasks))}
        return [task for task in tasks if order[task.id] % self.count == self.rank]

    def copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first rank's tensors, on the CPU; whatever other ranks give is not looked at."""
        if self.mesh is None:
            return dict(tensors)
        outline = self.told([(name, each.shape, each.dtype) for name, each in tensors.items()] if self.first else [])
        held: dict[str, Tensor] = {}
        for name, shape, dtype in outline:
            held[name] = tensors[name].cpu().contiguous() if self.first else torch.empty(shape, dtype=dtype)
            dist.broadcast(held[name], src=0)
        return held


def own_device(local_rank: int = 0) -> torch.device:
    """The CUDA device of this rank of the machine, where there are such; else the CPU.

    Raises ValueError where the machine has CUDA devices, and fewer than it has ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"rank {local_rank} of this machine has no device: the machine has {torch.cuda.device_count()}; start no "
            "more ranks here (training.devices, --nproc-per-node) than that"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def joined() -> Generator[Ranks]:
    """The ranks that torchrun has started, by its environment variables. Raises what a failed rendezvous raises."""
    local = int(os.environ["LOCAL_RANK"])
    device = own_device(local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    count = dist.get_world_size()
    yield Ranks(dist.get_rank(), count, device, local, init_device_mesh(device.type, (count,)))
    dist.destroy_process_group()  # not after a failure: ranks that are gone would be waited for
