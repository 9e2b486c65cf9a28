"""MiniLLM (arXiv:2306.08543): the reverse KL of whole answers, by policy gradient.

What the teacher thinks of the rest of the answer is every token's reward; on top, the exact reverse KL of the token
itself. Mode-seeking over sequences, where OPD is so token by token.

    r_t = log T(y_t) - log S(y_t);  R_t = sum_{i>=t} gamma^(i-t) r_i / sum_{i>=t} gamma^(i-t)
    L = -clip(rho, 1 - 0.2, 1 + 0.2) R_t + KL(S || T)_t

Evidence: the code of the authors (LMOps) and of TRL was read. gamma 1 (chosen): what makes it the sequence's reverse
KL; TRL's default is 0. The exponent is i - t: TRL's, without the length's mean, is i, wrong by gamma^t. Deviations: the
student alone samples (as TRL; theirs mixes 0.2 of the teacher in, token by token), there is no pre-training corpus, and
rewards are neither scaled nor clipped.

Helps where a long answer's early tokens decide how well it ends, since a token is paid for what follows it. Not with
few rollouts: what is summed up over an answer is noisy, and `opd` is steadier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.objectives import PolicyGradient
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import ContextName, Recipe, Reduces, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class RewardToGo(Weight, kind="reward_to_go"):
    """What the teacher thinks of the token and of all that follows it in the rollout, against the student."""

    context: ContextName
    """Whose opinion."""
    gamma: float = Field(default=1.0, ge=0, le=1)
    """What a token's share loses with every place that it is farther on; 0: the token alone."""
    mean: bool = True
    """Divide by the shares' sum, so that long answers weigh no more."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        heard = view[self.context]
        reward_T = (heard.logprob_T - view.student.logprob_T) * heard.present_T
        total_T = self._rest(reward_T, view)
        return total_T / self._rest(reward_T.new_ones(len(reward_T)), view) if self.mean else total_T

    def _rest(self, values_T: Tensor, view: TokenView) -> Tensor:
        left_BL = values_T.new_zeros(len(view.length_B), int(view.length_B.max()))
        left_BL[view.rollout_T, view.position_T] = values_T
        for t in reversed(range(left_BL.shape[1] - 1)):
            left_BL[:, t] += self.gamma * left_BL[:, t + 1]
        return left_BL[view.rollout_T, view.position_T]


ONE_STEP = {"kind": "policy_gradient", "weights": [{"kind": "reward_to_go", "context": "teacher", "gamma": 0.0}]}

RECIPE = Recipe(
    paper="arXiv:2306.08543",
    rollout=Student(samples=1),
    contexts={"teacher": Plain(teacher="teacher")},
    target=Single(context="teacher"),
    objective=(PolicyGradient(weights=(RewardToGo(context="teacher"),)), ReverseKL()),
    reduces=(Reduces(to="opd", when={"objective": [ONE_STEP]}),),
    training={"learning_rate": 5e-6},
)
