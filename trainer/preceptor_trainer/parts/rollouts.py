"""Who writes the completions that are learned from."""

from __future__ import annotations

from preceptor_trainer.recipe import RolloutPolicy
from preceptor_trainer.views import Plan, PlanView, Turn


class Student(RolloutPolicy, kind="student"):
    """The student answers the plain prompt: on-policy."""

    def plan(self, view: PlanView) -> Plan:
        return Plan(turns=(Turn(messages=view.task.messages),))


class Dataset(RolloutPolicy, kind="dataset"):
    """The task's reference is the completion: off-policy, for supervised baselines."""

    def plan(self, view: PlanView) -> Plan:
        if view.task.reference is None:
            raise ValueError(
                f"task {view.task.id} has no reference to learn from; "
                "map a column to `reference` in the run's data, or use a recipe whose rollouts the student writes"
            )
        return Plan(source="dataset", turns=(Turn(messages=view.task.messages),), completion=view.task.reference)
