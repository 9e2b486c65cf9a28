"""Evidence-guided OPD (arXiv:2605.23493): some rollouts are written with the privileged text in the prompt, and only
tokens that it makes likelier are learned.

    e = log T(y | x, r) - log T(y | x),  L = mean 1{e > tau} (log S - log T(y | x, r)) + beta KL(S || base)

A share rho of the rollouts is the student's with r before its eyes, so that what it would never try is in the data; the
loss scores them under the plain prompt, without a correction (biased, on purpose). T is the frozen start, read twice.

Evidence: the paper was read. rho 0.5, tau 0, beta 0.05, learning rate 5e-6 and the estimator (K1) are theirs. A guided
rollout reads the very prompt that the teacher reads. Their ablation without a mask but with a ratio is the weight
`anchored_ratio` over `reference` under `plain` with `advantage: null`.

Helps to learn facts and behaviour that the text states (their model's own name). With a text that holds a problem's
answer the mask hurt (AIME25 from 0.53 to 0.39): set `objective` without it there. Only tokens with evidence are
learned, so a step teaches less than `opsd`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from preceptor_trainer.parts.contexts import Plain, Reference
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.objectives import SampledReverseKL
from preceptor_trainer.parts.rollouts import Guided
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import ContextName, Recipe, Reduces, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Evidence(Weight, kind="evidence"):
    """1 where what one context shows makes the token likelier than the other does."""

    gate: ClassVar[bool] = True
    shown: ContextName = "reference"
    """The context with the text."""
    hidden: ContextName = "plain"
    """The same teacher without it."""
    tau: float = 0.0
    """Nats that the evidence has to be above."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        shown, hidden = view[self.shown], view[self.hidden]
        open_T = (shown.logprob_T - hidden.logprob_T > self.tau) & (shown.present_T * hidden.present_T > 0)
        return open_T.to(shown.logprob_T.dtype)


RECIPE = Recipe(
    paper="arXiv:2605.23493",
    rollout=Guided(share=0.5),
    contexts={"reference": Reference(teacher="self"), "plain": Plain(teacher="self")},
    target=Single(context="reference"),
    objective=(
        SampledReverseKL(weights=(Evidence(),), importance=False),
        ReverseKL(target=Single(context="plain"), coefficient=0.05),
    ),
    training={"learning_rate": 5e-6},
    reduces=(
        Reduces(
            to="opsd",
            when={"rollout": {"share": 0.0}, "objective": [{"kind": "sampled_reverse_kl", "importance": False}]},
            given={"objective": [{"kind": "sampled_reverse_kl", "importance": False}]},
        ),
    ),
)
