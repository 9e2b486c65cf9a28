"""How much a rollout counts that was written by weights which have moved since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from preceptor_trainer.parts.objectives import sampler_drift
from preceptor_trainer.parts.weights import rollout_mean
from preceptor_trainer.recipe import ContextName, Weight
from preceptor_trainer.views import Scalars, TokenView

if TYPE_CHECKING:
    from torch import Tensor


class Freshness(Weight, kind="freshness"):
    """ReLU(f - xi) on each token of a rollout, f = exp(-(a sqrt(D_roll) + b sqrt(D_sup))) / (lag + 1) (f-OPD,
    arXiv:2605.17862)."""

    a: float = Field(default=1.0, ge=0)
    """What the student's drift costs."""
    b: float = Field(default=1.0, ge=0)
    """What the teacher's does."""
    xi: float = Field(default=0.05, ge=0, lt=1)
    """Freshness at which a rollout teaches nothing."""
    kappa_f: float = Field(default=0.05, ge=0, lt=1)
    """Mean freshness at which what is written ahead is written anew."""
    kappa_roll: float = Field(default=0.5, ge=0, le=1)
    """So it is where a smaller share of the rollouts is aligned with the student; 0: however few are."""
    kappa_sup: float = Field(default=0.5, ge=0, le=1)
    """The same for the teacher."""
    aligned: float = Field(default=0.5, ge=0)
    """Largest square root of a drift that is aligned."""
    now: ContextName = "teacher"
    """The teacher's context."""
    then: ContextName = "teacher"
    """The same teacher's as it was when the rollout was written; the same name: it has not moved."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return (self._fresh(view)[2] - self.xi).clamp(min=0)[view.rollout_T]

    def stale(self, view: TokenView, opinion: Scalars) -> bool:
        rolled_B, moved_B, fresh_B = self._fresh(view)
        few = ((rolled_B, self.kappa_roll), (moved_B, self.kappa_sup))
        covers = all(float((each <= self.aligned).double().mean()) >= least for each, least in few)
        return bool(fresh_B.mean() <= self.kappa_f) or not covers

    def _fresh(self, view: TokenView) -> tuple[Tensor, Tensor, Tensor]:
        """sqrt(D_roll), sqrt(D_sup) and f of every rollout."""
        drift_T = sampler_drift(view.student.logprob_T, view.behaviour.logprob_T) * view.behaviour.present_T
        moved_T = (view[self.now].logprob_T - view[self.then].logprob_T).square() / 2 * view[self.then].present_T
        rolled_B, moved_B = rollout_mean(drift_T, view).sqrt(), rollout_mean(moved_T, view).sqrt()
        return rolled_B, moved_B, (-self.a * rolled_B - self.b * moved_B).exp() / (view.lag_B + 1)
