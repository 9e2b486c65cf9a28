"""What a run trains of its student, and nothing else, for the rest never moves: as it is sent to whoever serves it.

Of a LoRA student that is the adapters under peft's names, else whole weights under the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor.wire.training import LoRA
from preceptor.wire.weights import WeightsKind
from preceptor_trainer.lora import adapter_state
from preceptor_trainer.model import Model


@dataclass(frozen=True, slots=True)
class Trained:
    """Copies that travel: float32, on the CPU."""

    tensors: Mapping[str, Tensor]
    kind: WeightsKind = WeightsKind.FULL
    scale: float | None = None
    """For an adapter: what B @ A is multiplied with."""


def copied(model: Model, lora: LoRA | None) -> Trained:
    """The student's as they are now."""
    tensors = {name: held(each) for name, each in trained(model, lora).items()}
    return Trained(tensors) if lora is None else Trained(tensors, WeightsKind.LORA, lora.alpha / lora.rank)


def trained(model: Model, lora: LoRA | None) -> dict[str, Tensor]:
    """The same, sharing the model's memory."""
    if lora is not None:
        return adapter_state(model)
    # A tied weight has two names and is one: the first stands for it.
    return {name: each.detach() for name, each in model.module.named_parameters()}


def held(weight: Tensor) -> Tensor:
    """A copy that travels."""
    return weight.detach().to(device="cpu", dtype=torch.float32, copy=True)
