"""The student as a run trains it: opened, with adapters where it has some, computing as the settings say.

Precision and recomputation are the module's own affair: whoever runs it (sampler, learner, base scorer) does the same.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from preceptor.errors import Invalid
from preceptor.wire.training import Training
from preceptor_trainer import lora
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.optim import free
from preceptor_trainer.products import learning
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.recipe import Constraint
from preceptor_trainer.sharding import Learning, Sharded


@dataclass(frozen=True, slots=True)
class Student:
    """What a run trains."""

    model: Model
    base: Model | None = None
    """A LoRA student without its adapters: other modules around the same weights, which stay as they are."""


def open_student(
    folder: Path, training: Training, resume: Path | None = None, device: torch.device | str = "cpu"
) -> Student:
    """The student of a run on a device, from its model folder, or as the checkpoint folder `resume` holds it.

    Raises UnreadableModel where the folder holds none, Invalid where a setting does not fit it, OSError.
    """
    whole = training.lora is None
    model = load_model(resume / "model" if resume is not None and whole else folder, str(device))
    model.module.train(False)
    if training.gradient_checkpointing:
        _recompute(model)  # before there are adapters, for transformers would have every embedding carry gradient then
    if training.lora is None:
        return Student(_computing(model, training))
    base = lora.bare(model)
    lora.add_adapter(model, training.lora, training.seed)
    if resume is not None:
        lora.load_adapter(model, resume / "adapter")
    if training.lora.dropout > 0:
        _only_with_gradient(model, [each for each in model.module.modules() if isinstance(each, nn.Dropout)])
    return Student(_computing(model, training), _computing(base, training))


def open_learning(
    model: Model, folder: Path, training: Training, constraint: Constraint, resume: Path | None, ranks: Ranks
) -> Learning:
    """An open student as this rank learns with it; the rest as in `open_student`. What may not move no longer carries
    gradient."""
    free(model.module, training, constraint)
    if ranks.mesh is None:
        return Learning(model, ranks)
    return Sharded(model, open_student(folder, training, resume, ranks.device).model, ranks)


def put_weights(model: Model, training: Training, saved: Path) -> None:
    """Give the open student the weights of a saved one: a model folder, or an adapter folder of a LoRA student."""
    if training.lora is not None:
        lora.load_adapter(model, saved)
        return
    other = load_model(saved).module.state_dict()
    with torch.no_grad():
        for name, each in model.module.state_dict().items():
            each.copy_(other[name])


def _computing(model: Model, training: Training) -> Model:
    if training.precision == "bf16":
        _autocast(model)
    return model


def _recompute(model: Model) -> None:
    layers = [each for each in model.module.modules() if isinstance(each, GradientCheckpointingLayer)]
    module: Any = model.module
    # Its newer name first: the older one warns.
    enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
    try:
        # What is computed again is computed as it was.
        enable({"use_reentrant": False, "context_fn": lambda: (learning(model.module), learning(model.module))})
    except ValueError as error:
        layers = []
        why = str(error)
    else:
        why = "it has no layer that can be computed twice"
    if not layers:
        raise Invalid(
            f"training.gradient_checkpointing: {type(model.module).__name__} cannot do it ({why}).",
            field="training.gradient_checkpointing",
            remedy="Leave it out, and lower training.microbatch_tokens instead.",
        )
    _only_with_gradient(model, layers)


def _only_with_gradient(model: Model, parts: list[Any]) -> None:
    """Have modules be in training mode there where a gradient is taken: sampling and scoring go on without."""

    def switch(module: nn.Module, args: Any) -> None:
        for each in parts:
            each.training = torch.is_grad_enabled()

    cast("nn.Module", model.module.base_model).register_forward_pre_hook(switch)


def _autocast(model: Model) -> None:
    base: Any = model.module.base_model
    forward, device = base.forward, model.device.type

    @functools.wraps(forward)
    def in_bf16(*args: Any, **settings: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            out = forward(*args, **settings)
        out.last_hidden_state = out.last_hidden_state.float()
        return out

    base.forward = in_bf16
