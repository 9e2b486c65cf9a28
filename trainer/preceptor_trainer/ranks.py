"""The processes that train one run together: one, or as many as torchrun has started.

A rank is a process with a device of its own. Every rank runs the whole loop on its share of each step's tasks; what
the global batch decides (weights, denominators, guards, signals) is told to all at the same points of it, so that no
rank ever does what another does not. What is told goes through gloo, whatever the weights' gradients go through: values
as JSON of a kind that the caller names, tensors as safetensors. Nothing that arrives is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from pydantic_core import to_json
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from preceptor_trainer.views import Task

PATIENCE = timedelta(hours=2)
"""How long ranks wait for one that is at work outside (an upload, a teacher that takes weights). One that has died is
not waited for: its connections close."""

Value = TypeVar("Value")

NOTHING = TypeAdapter(None)
_TRUTH = TypeAdapter(bool)
_OUTLINES = TypeAdapter(list[tuple[str, tuple[int, ...], str]])
"""Name, shape and dtype of tensors."""


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

    def every(self, mine: Value, kind: TypeAdapter[Value]) -> list[Value]:
        """What each rank has, in their order. Raises pydantic's ValidationError where one is of another kind."""
        if self.mesh is None:
            return [mine]
        return [decoded(each, kind) for each in self._gathered(encoded(mine))]

    def every_tensor(self, mine: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The tensors that each rank has, on the CPU, in the ranks' order. Names and shapes may differ."""
        if self.mesh is None:
            return [{name: each.cpu() for name, each in mine.items()}]
        # Copies: safetensors takes no two tensors of one memory.
        apart = {name: each.detach().cpu().clone(memory_format=torch.contiguous_format) for name, each in mine.items()}
        return [load(each) for each in self._gathered(save(apart))]

    def told(self, value: Value, kind: TypeAdapter[Value]) -> Value:
        """What the first rank has; whatever other ranks give is not looked at. Raises like `every`."""
        if self.mesh is None:
            return value
        mine = _as_tensor(encoded(value) if self.first else b"")
        length = torch.tensor(len(mine))
        dist.broadcast(length, src=0)
        held = mine if self.first else mine.new_empty(int(length))
        dist.broadcast(held, src=0)
        return decoded(held.numpy().tobytes(), kind)

    def all(self, mine: bool) -> bool:
        """Whether it holds for every rank."""
        return all(self.every(mine, _TRUTH))

    def wait(self) -> None:
        """Until every rank is here."""
        self.every(None, NOTHING)

    def share(self, tasks: Sequence[Task]) -> list[Task]:
        """This rank's among a step's tasks. The rollouts of one question stay together: contexts see siblings."""
        order = {task_id: index for index, task_id in enumerate(dict.fromkeys(task.id for task in tasks))}
        return [task for task in tasks if order[task.id] % self.count == self.rank]

    def copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first rank's tensors, on the CPU; whatever other ranks give is not looked at."""
        if self.mesh is None:
            return dict(tensors)
        mine = [(name, tuple(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in tensors.items()]
        held: dict[str, Tensor] = {}
        for name, shape, dtype in self.told(mine, _OUTLINES):
            empty = {"size": shape, "dtype": getattr(torch, dtype)}
            held[name] = tensors[name].cpu().contiguous() if self.first else torch.empty(**empty)
            dist.broadcast(held[name], src=0)
        return held

    def _gathered(self, mine: bytes) -> list[bytes]:
        """The bytes that each rank has. As many pass as the longest has, times the ranks."""
        lengths = [torch.tensor(0) for _ in range(self.count)]
        dist.all_gather(lengths, torch.tensor(len(mine)))
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(mine)] = _as_tensor(mine)
        found = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(found, padded)
        return [each[: int(length)].numpy().tobytes() for each, length in zip(found, lengths, strict=True)]


def encoded(value: object) -> bytes:
    """JSON, with NaN and infinities as Python writes them: every float comes back as the same bits, but for a NaN's
    payload. Raises PydanticSerializationError for what has no such form, a tensor say."""
    return to_json(value, inf_nan_mode="constants", fallback=_number)


def decoded(text: bytes, kind: TypeAdapter[Value]) -> Value:
    """A value of this kind: tuples, enums and dataclasses as they were. Raises pydantic's ValidationError."""
    return kind.validate_json(text)


def _number(value: object) -> object:
    """What numpy computed, as Python has it: an own verifier may give such a reward."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"ranks do not tell one another of a {type(value).__name__}: it is no number, text, list or model")


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


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
