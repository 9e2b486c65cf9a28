"""Skill-conditioned gated self-distillation (arXiv:2605.28791): several skills, each a teacher that is followed or
avoided by what came of the answer.

Every pair of a skill and a mistake is a prompt of its own, and an opinion. One that finds the answer likelier than the
student does supports it: followed where the answer was right, pushed away from where it was wrong.

    delta_t = log T_k(y_t) - log S(y_t);  s_k = mean_t clip(delta_t, -3, 3);  c_k = sign(outcome) sign(s_k), 0 in |s_k|
    <= 0.05;  L = mean_x sum_k w_k c_k mean_t [log 2 - softplus(-delta_t^2 / 2 tau)],  w = softmax of retrieval scores

Evidence: the authors' code (walawalagoose/SGSD) was read. tau 1, the clip, the band, 8 pairs, temperature 1.1 and
learning rate 5e-6 (of LoRA, rank 64) are theirs. The skills are those of the run's bank, or the data's: `skill` holds
one or a list, most fitting first, `mistake` what goes with each, `skill_score` how well it was found (none: all alike).
Their bank grows every 25 steps in which less than 80% succeed; a run's does where it says so, with these numbers (state
`skill_bank`). Their other mode, the forward KL on the teacher's likeliest ids in delta's place, is the objective
`local_support`; the rest of the vocabulary as one event is ours. Deviation: tokens that carry no sense are left out
only where `silent` names their ids.

Helps where skills that apply to many questions are at hand or can be extracted. Not where a skill does not decide the
answer, or where a bank holds few that fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from preceptor_trainer.parts.contexts import Skills
from preceptor_trainer.parts.objectives import Redescending
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Each
from preceptor_trainer.parts.weights import rollout_mean
from preceptor_trainer.recipe import REWARD, Recipe, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Polarity(Weight, kind="polarity"):
    """c_k, by the rollout's reward and its mean log-ratio to this opinion."""

    reads: ClassVar[frozenset[str]] = frozenset({REWARD})
    clip: float = Field(default=3.0, gt=0)
    """Bound of a token's log-ratio."""
    band: float = Field(default=0.05, ge=0)
    """Support up to here is none."""
    success: float = 0.5
    """Reward above which an answer was right."""
    silent: tuple[int, ...] = ()
    """Ids of tokens that neither tell nor learn (line ends, special tokens)."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        delta_T = (opinion.logprob_T - view.student.logprob_T).clamp(min=-self.clip, max=self.clip)
        heard_T = delta_T * 0 + 1
        for token in self.silent:
            heard_T = heard_T.masked_fill(view.token_T == token, 0.0)
        support_B = rollout_mean(delta_T, view, heard_T)
        outcome_B = (view.reward_B > self.success).to(support_B.dtype) * 2 - 1
        return (outcome_B * support_B.sign() * (support_B.abs() > self.band))[view.rollout_T] * heard_T


RECIPE = Recipe(
    paper="arXiv:2605.28791",
    rollout=Student(samples=1, temperature=1.1),
    contexts={"skills": Skills(teacher="self")},
    weights=(Polarity(),),
    target=Each(contexts=("skills",)),
    objective=(Redescending(),),
    reduction="sequence",
    training={"learning_rate": 5e-6},
)
