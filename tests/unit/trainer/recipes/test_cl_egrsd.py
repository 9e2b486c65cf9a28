"""CL-EGRSD: the entropy of a token is the lowest among it and the W after it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch
from preceptor_trainer.recipe import Recipe
from tests.unit.trainer.setting import batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows, toy_slot

CL = recipes.load("cl_egrsd")
ROWS = toy_rows((4, 1, 9, 6))


def ahead(window: int) -> Recipe:
    return CL.override({"weights": [CL.weights[0].model_dump(), {"kind": "confidence", "window": window}]})


def factor(recipe: Recipe, batch: Batch) -> Tensor:
    bare = recipe.override({"weights": [recipe.weights[0].model_dump()]})
    return learn(recipe, batch).plans[0].weight_T[0] / learn(bare, batch).plans[0].weight_T[0]


@pytest.mark.parametrize("window", [0, 1, 3, 50])
def test_the_lowest_entropy_ahead_within_the_rollout_over_the_largest_of_all(window: int) -> None:
    batch = batch_of(CL, ROWS)
    logprobs_TV = said(opinion(ROWS, "reference", CL.contexts["reference"]))
    entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(-1)
    lowest = list[float]()
    for begin, end in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        lowest += [float(entropy_T[t : min(t + window + 1, end)].min()) for t in range(begin, end)]
    wanted_T = 1 - 0.3 * torch.tensor(lowest, dtype=torch.float64) / max(1.0, float(entropy_T.max()))
    torch.testing.assert_close(factor(ahead(window), batch), wanted_T.clamp(0.1, 1.0))


def test_looking_farther_never_takes_weight_away() -> None:
    batch = batch_of(CL, ROWS)
    weights = [factor(ahead(window), batch) for window in (0, 1, 2, 3, 8)]
    for near_T, far_T in pairwise(weights):
        assert bool((far_T >= near_T - 1e-12).all())
    assert weights[-1].max() > weights[0].max() or bool((weights[-1] > weights[0]).any())


def test_the_entropy_of_an_opinion_that_is_not_there_is_not_looked_at() -> None:
    """What is absent has an entropy that means nothing; the last token of a rollout must not see the next rollout's."""
    batch = batch_of(CL, ROWS, {"reference": toy_slot(ROWS, "reference", seed=6, absent=(1,))})
    alone = batch_of(CL, ROWS, {"reference": toy_slot(ROWS, "reference", seed=6)})
    first = slice(0, 4)
    torch.testing.assert_close(
        learn(CL, batch).plans[0].weight_T[0][first], learn(CL, alone).plans[0].weight_T[0][first]
    )
