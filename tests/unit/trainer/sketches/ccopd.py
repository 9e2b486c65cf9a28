"""Canonical-context OPD (arXiv:2605.30251): a multi-turn history with drifting replies is taught by the same
question as one prompt.

The student answers shard after shard; only its last answer learns, towards the frozen base that reads the full prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, RolloutPolicy, SingleContext
from preceptor_trainer.views import ContextView, Message, Plan, PlanView, Turn


class Shards(RolloutPolicy, kind="sketch_shards"):
    """One user turn a shard; the student answers each, and only the last answer is learned."""

    column: str = "shards"
    """The data column that holds the shards."""

    def plan(self, view: PlanView) -> Plan:
        shards: Sequence[str] = view.task.columns[self.column]
        last = len(shards) - 1
        return Plan(
            turns=tuple(
                Turn(messages=(Message(role="user", content=shard),), learn=index == last)
                for index, shard in enumerate(shards)
            )
        )


class Canonical(SingleContext, kind="sketch_canonical"):
    """All the evidence in one prompt."""

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        return view.task.messages


RECIPE = Recipe(
    paper="arXiv:2605.30251",
    rollout=Shards(),
    contexts={"canonical": Canonical(teacher="self")},
    target=Single(context="canonical"),
    objective=(ReverseKL(),),
)
