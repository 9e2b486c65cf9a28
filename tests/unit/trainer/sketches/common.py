"""Parts that more than one sketch needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preceptor_trainer.views import TokenView

if TYPE_CHECKING:
    from torch import Tensor


def mean_by_rollout(values_T: Tensor, view: TokenView) -> Tensor:
    """[B] mean of a per-token quantity over each rollout."""
    zeros_B = view.reward_B.new_zeros(len(view.reward_B))
    return zeros_B.index_add(0, view.rollout_T, values_T) / view.length_B.clamp(min=1)
