"""One optimizer step: AdamW, a learning rate by schedule, clipping by the global gradient norm, an update held to a
constraint.

A constraint holds the *update*: where a mask is closed the weight keeps its bits, weight decay or not, while norms and
moments are those of the whole gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import cos, pi

import torch
from torch import Tensor, nn

from preceptor.wire.training import Training
from preceptor_trainer.recipe import Constraint
from preceptor_trainer.sharding import as_held, on_first, whole

MASK = "mask"
"""What a mask is called among a parameter's tensors in a saved state."""


class NonFiniteGradient(FloatingPointError):
    """The gradient's norm is NaN or infinite; the weights were left as they were."""


class Optimizer:
    """AdamW over the parameters that may move: a LoRA student's adapters, else what the recipe's constraint names."""

    def __init__(self, module: nn.Module, training: Training, constraint: Constraint) -> None:
        self._training = training
        self._named = free(module, training, constraint)
        masks = {name: constraint.mask(name, whole(each.detach())) for name, each in self._named.items()}
        self._masks = {name: as_held(mask, self._named[name]) for name, mask in masks.items() if mask is not None}
        self._adamw = torch.optim.AdamW(
            self._named.values(),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
        )

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def learning_rate(self, step: int) -> float:
        """At a step counted from 1."""
        training = self._training
        peak, warmup = training.learning_rate, training.warmup_steps
        if step <= warmup or training.schedule == "constant":
            return peak * min(1.0, step / max(warmup, 1))
        final = training.final_learning_rate or 0.0
        share = (step - warmup) / (training.steps - warmup + 1)
        return final + (peak - final) * (1 - share if training.schedule == "linear" else (1 + cos(pi * share)) / 2)

    def step(self, step: int) -> float:
        """Apply the gradients that were accumulated; returns their norm before clipping. Raises NonFiniteGradient."""
        norm = float(whole(nn.utils.clip_grad_norm_(self._named.values(), self._training.clip_norm)))
        if not norm < float("inf"):
            self.zero_grad()
            raise NonFiniteGradient(
                f"the gradient's norm is {norm} at step {step}; lower the learning rate, or look at this step's samples"
            )
        for group in self._adamw.param_groups:
            group["lr"] = self.learning_rate(step)
        held = {name: self._named[name].detach().clone() for name in self._masks}
        self._adamw.step()
        for name, before in held.items():
            after = self._named[name].detach()
            after.copy_(torch.where(self._masks[name], after, before))
        self.zero_grad()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, as named tensors on the CPU. Ranks ask for it together, and the first is
        given it; the others get the names."""
        moments = {
            f"{name}/{key}": on_first(torch.as_tensor(value))
            for name, each in self._named.items()
            for key, value in self._adamw.state.get(each, {}).items()
        }
        return moments | {f"{name}/{MASK}": on_first(mask) for name, mask in self._masks.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved state; an empty one begins anew. Raises ValueError when it is of other parameters."""
        held: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, value in state.items():
            name, _, what = key.rpartition("/")
            held[name][what] = value.clone()
        if unknown := held.keys() - self._named.keys():
            raise ValueError(
                f"the checkpoint's optimizer state is of other parameters: {', '.join(sorted(unknown)[:3])}"
            )
        self._adamw.state.clear()
        for name, each in self._named.items():
            mine = held.get(name, {})
            if (mask := mine.pop(MASK, None)) is not None:
                self._masks[name] = as_held(mask, each)
            if mine:
                self._adamw.state[each] = {
                    key: value if value.dim() == 0 else as_held(value, each) for key, value in mine.items()
                }


def free(module: nn.Module, training: Training, constraint: Constraint) -> dict[str, nn.Parameter]:
    """What may move carries gradient from now on, and nothing else does. Raises ValueError where that is nothing."""
    named = dict(movable(module, training, constraint))
    if not named:
        raise ValueError("constraint: no parameter of this student may move; there is nothing to train")
    for name, each in module.named_parameters():
        each.requires_grad_(name in named)
    return named


def movable(module: nn.Module, training: Training, constraint: Constraint) -> list[tuple[str, nn.Parameter]]:
    """The parameters that a run may move, in the module's order."""
    named = list(module.named_parameters())
    if training.lora is not None:
        return [(name, each) for name, each in named if is_adapter(name)]
    return [(name, each) for name, each in named if constraint.trains(name)]


def is_adapter(parameter: str) -> bool:
    """Whether the parameter of this name belongs to a low-rank adapter."""
    return ".lora_" in parameter
