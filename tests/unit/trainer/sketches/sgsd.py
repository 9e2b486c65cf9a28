"""Skill-conditioned gated self-distillation (arXiv:2605.28791): K skill-mistake teachers, each pulled to or pushed
from.

delta_t = sg log T_k(y_t) - log S(y_t);  s_k = mean_t clip(delta_t, -3, 3);
c_k = sign(outcome) * sign(s_k), 0 in the neutral band;
l(delta) = log 2 - softplus(-delta^2 / 2 tau);  L = mean_x sum_k w_k c_k mean_t l(delta_t).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Protocol, cast

from pydantic import Field

from preceptor.wire.teachers import Support
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Each
from preceptor_trainer.recipe import Context, Recipe, State, Term, Weight
from preceptor_trainer.views import BlockView, ContextView, Message, Opinion, Prompt, Rollout, Scalars, Task, TokenView
from tests.unit.trainer.sketches.common import mean_by_rollout

if TYPE_CHECKING:
    from torch import Tensor


class Bank(Protocol):
    """What a skill bank offers a context."""

    def pairs(self, question: str, k: int) -> Sequence[tuple[str, str, float]]: ...


class SkillBank(State, kind="sketch_skill_bank"):
    """The bank's content lives in the run; extraction is a job of its own, so a step leaves it alone."""

    name: str
    """Which bank."""

    def update(self, content: object, rollouts: Sequence[tuple[Task, Rollout]], replies: Mapping[str, str]) -> object:
        return content


class Skills(Context, kind="sketch_skills"):
    """K prompts, one a retrieved skill-mistake pair, weighted by the retrieval."""

    k: int = Field(default=8, ge=1)
    """Pairs shown, one a prompt."""

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        bank = cast("Bank", view.state["skills"])
        question = view.task.messages[-1]["content"]
        return [
            Prompt(
                messages=(Message(role="user", content=f"{question}\nSkill: {skill}\nAvoid: {mistake}"),), weight=weight
            )
            for skill, mistake, weight in bank.pairs(question, self.k)
        ]


class Polarity(Weight, kind="sketch_polarity"):
    """Sign of the outcome times the sign of the teacher's support; 0 within the neutral band."""

    clip: float = 3.0
    """Bound of a token's log-ratio."""
    band: float = 0.05
    """Support below this is neutral."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        delta_T = (opinion.logprob_T - view.student.logprob_T).clamp(-self.clip, self.clip)
        support_B = mean_by_rollout(delta_T, view)
        outcome_B = (view.reward_B > 0.5).to(support_B.dtype) * 2 - 1
        return (outcome_B * support_B.sign() * (support_B.abs() > self.band))[view.rollout_T]


class Redescending(Term, kind="sketch_redescending"):
    """log 2 - softplus(-delta^2 / 2 tau): quadratic near 0, flat where the views are far apart."""

    needs = Support.SAMPLED
    tau: float = Field(default=1.0, gt=0)
    """Width."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        delta_T = target.logprob_T - block.student.logprob_T
        return log(2) - (-delta_T.square() / (2 * self.tau)).exp().log1p()


RECIPE = Recipe(
    paper="arXiv:2605.28791",
    rollout=Student(samples=1),
    contexts={"skills": Skills(teacher="self")},
    weights=(Polarity(),),
    target=Each(contexts=("skills",)),
    objective=(Redescending(),),
    state={"skills": SkillBank(name="general")},
    reduction="sequence",
)
