"""Who writes the completions that are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import Field

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.recipe import Coefficient, RolloutPolicy, at
from preceptor_trainer.views import ContextView, Message, Plan, PlanView, Rollout, Turn


class Student(RolloutPolicy, kind="student"):
    """The student answers the plain prompt: on-policy."""

    def plan(self, view: PlanView) -> Plan:
        return Plan(turns=(Turn(messages=view.task.messages),))


class Dataset(RolloutPolicy, kind="dataset"):
    """The task's reference is the completion: off-policy, for supervised baselines."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("reference",)

    def plan(self, view: PlanView) -> Plan:
        return given(view)


class Mixed(RolloutPolicy, kind="mixed"):
    """Some rollouts the student writes, the others are the task's reference: GKD's mixture (arXiv:2306.13649).

    Drawn rollout by rollout, not batch by batch.
    """

    share: Coefficient = 0.5
    """Chance that the student writes; 1: always, and no reference is needed."""

    @property
    def columns(self) -> tuple[str, ...]:
        return () if isinstance(self.share, float) and self.share >= 1 else ("reference",)

    def plan(self, view: PlanView) -> Plan:
        if view.rng.random() < at(self.share, view.step):
            return Plan(turns=(Turn(messages=view.task.messages),))
        return given(view)


class Horizon(RolloutPolicy, kind="horizon"):
    """The student answers the plain prompt, and is cut off early while it trains: nothing beyond is written, scored or
    learned. It is evaluated at its full length."""

    share: Coefficient = 1.0
    """Of `max_tokens`; at least one token, at most all."""

    def plan(self, view: PlanView) -> Plan:
        horizon = round(at(self.share, view.step) * self.max_tokens)
        return Plan(turns=(Turn(messages=view.task.messages),), max_tokens=min(max(horizon, 1), self.max_tokens))


class InTurns(RolloutPolicy, kind="in_turns"):
    """The student is told the question bit by bit, by the data's `shards`, and replies to each; the last reply alone is
    the rollout, the ones before are a part of its prompt (CCOPD, arXiv:2605.30251). It is evaluated on the task's own
    messages; a task without shards is asked those here, too."""

    def plan(self, view: PlanView) -> Plan:
        shards = view.task.columns.get("shards")
        if not isinstance(shards, list | tuple) or not shards:
            return Plan(turns=(Turn(messages=view.task.messages),))
        *before, last = [str(shard) for shard in cast("Sequence[Any]", shards)]
        turns = [Turn(messages=(Message(role="user", content=shard),), learn=False) for shard in before]
        return Plan(turns=(*turns, Turn(messages=(Message(role="user", content=last),))))


class Guided(Student, kind="guided"):
    """Some rollouts the student writes while it is shown the reference (EDGE-OPD, arXiv:2605.23493). The loss prompt
    never holds it."""

    share: float = Field(default=0.5, ge=0, le=1)
    """Chance that a rollout is guided. A task without a reference has none."""
    guide: Reference = Reference()
    """What the guided student is shown."""

    def plan(self, view: PlanView) -> Plan:
        plain, own = super().plan(view), Rollout(index=view.index, text="")
        if view.rng.random() >= self.share:
            return plain
        seen = ContextView(task=view.task, rollout=own, group=(own,), step=view.step, rng=view.rng)
        shown = self.guide.messages(seen)
        return Plan(turns=plain.turns, behaviour=None if shown is None else tuple(shown))


def given(view: PlanView) -> Plan:
    """The task's reference as the completion. Raises ValueError for a task without one."""
    if view.task.reference is None:
        raise ValueError(
            f"task {view.task.id} has no reference to learn from; "
            "map a column to `reference` in the run's data, or use a recipe whose rollouts the student writes"
        )
    return Plan(source="dataset", turns=(Turn(messages=view.task.messages),), completion=view.task.reference)
