"""A self-teacher that moves: its weights follow the student's by the recipe's rule, and are sent to whoever serves it.

They are held in float32, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from preceptor.errors import Invalid
from preceptor.wire.runs import Run
from preceptor_trainer.model import Model
from preceptor_trainer.recipe import Recipe, TeacherUpdate
from preceptor_trainer.trained import Trained, copied, held, trained

ROLE = "self"
"""The role whose teacher moves."""


class Publisher(Protocol):
    """Sends weights to a role's teacher, at every endpoint it has."""

    def publish(self, role: str, weights: Trained) -> object:
        """Returns once they are live. Raises the SDK's errors."""
        ...


class SelfTeacher:
    """The moving teacher's weights."""

    def __init__(self, update: TeacherUpdate, model: Model, run: Run, publisher: Publisher) -> None:
        self._update, self._model, self._publisher = update, model, publisher
        self._lora = run.training.lora
        begins = copied(model, self._lora)
        self._weights, self._kind, self._scale = dict(begins.tensors), begins.kind, begins.scale
        self._start = {name: each.clone() for name, each in self._weights.items()} if update.anchor else {}

    def publish(self) -> None:
        """Make the teacher serve these weights."""
        self._publisher.publish(ROLE, Trained(self._weights, self._kind, self._scale))

    def follow(self, step: int) -> None:
        """Move after a step, where the rule says so, and publish."""
        decay = self._update.decay_after(step)
        if decay is None:
            return
        anchor = self._update.anchor
        for name, each in trained(self._model, self._lora).items():
            goal = held(each)
            if anchor:
                goal.lerp_(self._start[name], anchor)
            # At 0 a copy to the last bit.
            self._weights[name] = self._weights[name].mul_(decay).add_(goal, alpha=1 - decay) if decay else goal
        self.publish()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {f"now/{name}": each for name, each in self._weights.items()} | {
            f"start/{name}": each for name, each in self._start.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a checkpoint's. Raises ValueError where it is of another student."""
        if state.keys() != self.state().keys():
            raise ValueError("the checkpoint's self-teacher has other weights than this student")
        self._weights = {name: state[f"now/{name}"].clone() for name in self._weights}
        self._start = {name: state[f"start/{name}"].clone() for name in self._start}


def open_self_teacher(recipe: Recipe, model: Model, run: Run, publisher: Publisher | None) -> SelfTeacher | None:
    """The run's moving self-teacher; None where it is frozen. Raises Invalid where nobody can be sent its weights."""
    if recipe.teacher.kind == "frozen":
        return None
    if publisher is None:
        raise Invalid(
            f"recipe.teacher: the self-teacher moves ('{recipe.teacher.kind}'), and this process publishes no weights.",
            field="overrides.teacher",
            remedy='Run it on a worker, or override it: {"teacher": {"kind": "frozen"}}.',
        )
    return SelfTeacher(recipe.teacher, model, run, publisher)
