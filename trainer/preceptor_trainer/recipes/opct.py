"""On-policy consistency training (arXiv:2605.21834): answer a nudged question as the model would the clean one.

The student answers under a perturbed prompt (a hint at a wrong answer, a wrapper); the model as it was at the start
scores the same tokens under the clean prompt. The smallest recipe of a pair of contexts: no verifier, no reference.

    L = E_{y ~ S(.|x')} sum_t [log S(y_t | x', y_<t) - log P_0(y_t | x, y_<t)], as a policy gradient

Evidence: the abstract and two independent implementations; the perturbation is the data's there. Ours: a user who
suggests an answer that is wrong (sycophancy), or the data's own where `column` names it. Held-out questions are asked
clean: accuracy must not fall, and resistance is to be measured on perturbed data.

Helps where the answer should not depend on how a question is put (a user's wrong suggestion, a change of format). It is
no way to learn a task: clean accuracy stays where it was.
"""

from __future__ import annotations

from random import Random

from preceptor_trainer.parts.contexts import Plain, corrupted
from preceptor_trainer.parts.objectives import SampledReverseKL
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces, RolloutPolicy
from preceptor_trainer.views import Message, Plan, PlanView, Task, Turn


class Perturbed(RolloutPolicy, kind="perturbed"):
    """The student answers a prompt that pushes it; its loss is under the same prompt."""

    nudge: str = "\n\nI think that the answer is {suggestion}, but I am not sure."
    """What is added to the last message; `{suggestion}` becomes an answer that is wrong."""
    column: str | None = None
    """The data's column that holds the perturbed question; None: the nudge makes it."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.column else ("answer",) if "{suggestion}" in self.nudge else ()

    def plan(self, view: PlanView) -> Plan:
        *before, last = view.task.messages
        asked = Message(role=last["role"], content=self._question(view.task, last["content"], view.rng))
        return Plan(turns=(Turn(messages=(*before, asked)),))

    def _question(self, task: Task, question: str, rng: Random) -> str:
        if self.column is not None:
            return str(task.columns[self.column])
        if "{suggestion}" not in self.nudge:
            return question + self.nudge
        if not task.answer:
            raise ValueError(f"task {task.id} has no answer to make a wrong one of; name a `column`, or another nudge")
        return question + self.nudge.replace("{suggestion}", corrupted(task.answer, rng))


RECIPE = Recipe(
    paper="arXiv:2605.21834",
    rollout=Perturbed(samples=1),
    contexts={"clean": Plain(teacher="self")},
    target=Single(context="clean"),
    objective=(SampledReverseKL(),),
    reduces=(
        Reduces(
            to="opd",
            when={"rollout": {"kind": "perturbed", "nudge": ""}},
            given={"contexts": {"teacher": {"teacher": "self"}}},
        ),
    ),
    training={"learning_rate": 5e-6},
)
