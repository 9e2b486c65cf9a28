"""One optimizer step: AdamW, linear warm-up, clipping by the global gradient norm, an update held to a constraint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from preceptor.wire.runs import Training
from preceptor_trainer.recipe import Constraint


class NonFiniteGradient(FloatingPointError):
    """The gradient's norm is NaN or infinite; the weights were left as they were."""


class Optimizer:
    """AdamW over the parameters that the recipe's constraint lets move."""

    def __init__(self, module: nn.Module, training: Training, constraint: Constraint) -> None:
        self._training = training
        named = [(name, each) for name, each in module.named_parameters() if constraint.trains(name)]
        if not named:
            raise ValueError("constraint: no parameter of this student may move; there is nothing to train")
        trained = {name for name, _ in named}
        for name, each in module.named_parameters():
            each.requires_grad_(name in trained)
        self._names = [name for name, _ in named]
        self._parameters: list[nn.Parameter] = [each for _, each in named]
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
        )

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def learning_rate(self, step: int) -> float:
        """At a step counted from 1."""
        return self._training.learning_rate * min(1.0, step / max(self._training.warmup_steps, 1))

    def step(self, step: int) -> float:
        """Apply the gradients that were accumulated; returns their norm before clipping. Raises NonFiniteGradient."""
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._training.clip_norm))
        if not norm < float("inf"):
            self.zero_grad()
            raise NonFiniteGradient(
                f"the gradient's norm is {norm} at step {step}; lower the learning rate, or look at this step's samples"
            )
        for group in self._adamw.param_groups:
            group["lr"] = self.learning_rate(step)
        self._adamw.step()
        self.zero_grad()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, as named tensors."""
        return {
            f"{name}/{key}": torch.as_tensor(value)
            for name, each in zip(self._names, self._parameters, strict=True)
            for key, value in self._adamw.state.get(each, {}).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved state. Raises ValueError when it is of other parameters."""
        unknown = {key.rsplit("/", 1)[0] for key in state} - set(self._names)
        if unknown:
            raise ValueError(
                f"the checkpoint's optimizer state is of other parameters: {', '.join(sorted(unknown)[:3])}"
            )
        for name, each in zip(self._names, self._parameters, strict=True):
            held = {
                key.rsplit("/", 1)[1]: value.clone() for key, value in state.items() if key.rsplit("/", 1)[0] == name
            }
            if held:
                self._adamw.state[each] = held
