"""Multi-teacher on-policy distillation (MiMo-V2-Flash, section 4.4): a specialist for each domain teaches one student.

    L = -mean w A log S,  w = rho where 0.5 <= rho <= 2, else 0,  A = log T_domain - log S + alpha A_group

The data's `domain` column says whose turn it is; rho, the ratio of learner to sampler, masks tokens that two engines
see too differently; the verifier's advantage is added. Nothing but the written token's number is asked of a teacher.

Evidence: the paper's section and NeMo-RL's implementation were read. The bounds of rho and alpha are not given there:
0.5, 2 and 1 are ours, as are four rollouts a task. Domains and roles are the recipe's contexts, `maths` and `code`
here: override `contexts` and `target.contexts` for others. A task of no domain teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from preceptor_trainer.parts.objectives import Reinforce, SampledReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Route
from preceptor_trainer.parts.weights import GroupAdvantage, ImportanceBand
from preceptor_trainer.recipe import Recipe, Reduces, SingleContext
from preceptor_trainer.views import ContextView, Message


class Domain(SingleContext, kind="domain"):
    """The student's own prompt, for a teacher that is heard on the tasks of one domain only."""

    columns: ClassVar[tuple[str, ...]] = ("domain",)
    domain: str
    """The tasks' `domain` that it is asked about."""

    def messages(self, view: ContextView) -> Sequence[Message] | None:
        return view.task.messages if view.task.columns.get("domain") == self.domain else None


RECIPE = Recipe(
    paper="MiMo-V2-Flash, section 4.4",
    rollout=Student(samples=4),
    contexts={
        "maths": Domain(teacher="maths", domain="maths"),
        "code": Domain(teacher="code", domain="code"),
    },
    weights=(ImportanceBand(low=0.5, high=2.0),),
    target=Route(contexts=("maths", "code")),
    objective=(SampledReverseKL(importance=False), Reinforce(coefficient=1.0, weights=(GroupAdvantage(),))),
    reduction="sequence",
    reduces=(
        Reduces(
            to="opd",
            when={"objective": [{"kind": "sampled_reverse_kl", "importance": False}], "reduction": "token"},
            given={"contexts": {"teacher": {"kind": "domain", "teacher": "maths", "domain": "maths"}}},
        ),
        Reduces(
            to="grpo",
            when={"objective": [{"kind": "reinforce", "weights": [{"kind": "group_advantage"}]}], "reduction": "token"},
            up_to="gradient",
        ),
    ),
)
