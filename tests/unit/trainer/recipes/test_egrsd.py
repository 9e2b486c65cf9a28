"""EGRSD: L = -mean A w omega log S, omega = clip(1 - gamma H_T / max(1, largest H_T), 0.1, 1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch, Slot
from preceptor_trainer.recipe import Recipe
from tests.unit.trainer.by_hand import evidence, pushed
from tests.unit.trainer.setting import batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows, toy_slot

EGRSD = recipes.load("egrsd")
ROWS = toy_rows((4, 2, 6, 3))


def entropies(slot: Slot) -> Tensor:
    return -(said(slot).exp() * said(slot)).sum(-1)


def whitened(batch: Batch) -> Tensor:
    rewards = torch.tensor(
        [float(r) * (1 + 0.5 * (1 - int(n) / 1024)) for r, n in zip(batch.reward_B, batch.length_B, strict=True)],
        dtype=torch.float64,
    )
    return ((rewards - rewards.mean()) / (rewards.std(unbiased=False) + 1e-6))[batch.rollout_T]


def confident(recipe: Recipe, **changes: float) -> Recipe:
    ratio, confidence = recipe.weights
    return recipe.override({"weights": [ratio.model_dump(), {**confidence.model_dump(), **changes}]})


def factor(recipe: Recipe, batch: Batch) -> Tensor:
    """omega [T]: the weight over what it is without confidence."""
    bare = recipe.override({"weights": [recipe.weights[0].model_dump()]})
    return learn(recipe, batch).plans[0].weight_T[0] / learn(bare, batch).plans[0].weight_T[0]


def test_the_gradient_is_that_of_the_paper_s_product() -> None:
    batch = batch_of(EGRSD, ROWS)
    slot = opinion(ROWS, "reference", EGRSD.contexts["reference"])
    advantage_T, entropy_T = whitened(batch), entropies(slot)
    ratio_T = (advantage_T.sign() * evidence(batch, slot)).exp().clamp(0.8, 1.2)
    omega_T = (1 - 0.3 * entropy_T / max(1.0, float(entropy_T.max()))).clamp(0.1, 1.0)
    wanted_TD = pushed(batch, advantage_T * ratio_T * omega_T)
    torch.testing.assert_close(learn(EGRSD, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_confidence_stays_within_its_bounds_and_falls_with_entropy(scale: float) -> None:
    slot = toy_slot(ROWS, "reference", seed=4, scale=scale)
    batch = batch_of(EGRSD, ROWS, {"reference": slot})
    for gamma in (0.3, 1.0):
        omega_T = factor(confident(EGRSD, gamma=gamma), batch)
        assert bool((omega_T >= 0.1 - 1e-12).all()) and bool((omega_T <= 1 + 1e-12).all())
        in_order_T = omega_T[entropies(slot).argsort()]
        assert bool((in_order_T[1:] <= in_order_T[:-1] + 1e-9).all())


def test_a_teacher_that_is_sure_everywhere_is_not_made_to_look_unsure() -> None:
    """The scale of entropy is one nat at least: the batch's largest may be next to nothing."""
    slot = toy_slot(ROWS, "reference", seed=4, scale=30.0)
    batch = batch_of(EGRSD, ROWS, {"reference": slot})
    assert entropies(slot).max() < 1
    torch.testing.assert_close(factor(EGRSD, batch), 1 - 0.3 * entropies(slot))


def test_a_token_that_the_teacher_says_nothing_about_is_left_out() -> None:
    slot = toy_slot(ROWS, "reference", seed=4, absent=(1,))
    batch = batch_of(EGRSD, ROWS, {"reference": slot})
    learned = learn(EGRSD, batch)
    assert torch.equal(learned.moved_T, slot.present_T > 0)
    assert learned.plans[0].denominator == float(slot.present_T.sum())


def test_a_short_success_earns_more_and_a_failure_earns_nothing_either_way() -> None:
    egrsd = EGRSD.override({"weights": [{"kind": "batch_advantage", "bonus": 0.5, "longest": 6}]})
    rows = toy_rows((2, 3, 6, 6))
    batch = batch_of(egrsd, rows)
    weight_T = learn(egrsd, batch).plans[0].weight_T[0]
    each = [float(weight_T[batch.rollout_T == row][0]) for row in range(4)]
    assert each[0] > each[2] > 0 > each[1] == each[3]
    assert sum(each) == pytest.approx(0.0, abs=1e-9)
    swapped = batch_of(egrsd, [rows[0], replace(rows[3], task=rows[1].task), rows[2], rows[3]])
    assert float(learn(egrsd, swapped).plans[0].weight_T[0][0]) == pytest.approx(each[0])


def test_it_asks_the_teacher_for_whole_distributions() -> None:
    assert EGRSD.needs("reference") == "full"
