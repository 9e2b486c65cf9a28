"""MiniLLM: rewards to go, and that without a discount they make the gradient of the sequence's reverse KL."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from preceptor_trainer import recipes
from preceptor_trainer.batch import Row
from preceptor_trainer.model import Head
from preceptor_trainer.recipe import Recipe
from tests.unit.trainer.setting import agreeing, batch_of, learn, own_logprobs
from tests.unit.trainer.toy import D, toy_rows, with_head

RECIPE = recipes.load("minillm")
SIZE = 3
"""Vocabulary of the toy that is enumerated."""


def long_term(gamma: float, mean: bool) -> Recipe:
    weight = {"kind": "reward_to_go", "context": "teacher", "gamma": gamma, "mean": mean}
    return RECIPE.override({"objective": [{"kind": "policy_gradient", "weights": [weight]}]})


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_the_reward_to_go_is_the_sum_that_the_paper_writes(gamma: float, mean: bool) -> None:
    recipe = long_term(gamma, mean)
    batch = batch_of(recipe, toy_rows((4, 1, 3)))
    own_T = own_logprobs(batch).gather(-1, batch.token_T[:, None]).squeeze(-1)
    r = (batch.slots["teacher"][0].logprob_T - own_T).tolist()
    expected = list[float]()
    for begin, end in ((0, 4), (4, 5), (5, 8)):
        for t in range(begin, end):
            shares = [gamma ** (i - t) for i in range(t, end)]
            total = sum(share * r[i] for share, i in zip(shares, range(t, end), strict=True))
            expected.append(total / sum(shares) if mean else total)
    (plan,) = learn(recipe, batch).plans
    torch.testing.assert_close(plan.weight_T[0], torch.tensor(expected, dtype=torch.float64))


def views(seed: int) -> tuple[Tensor, Head]:
    """Hidden states [1 + SIZE, D] (of the first token, and of the second after each first one), and a head."""
    generator = torch.Generator().manual_seed(seed)
    hidden_SD = torch.randn(1 + SIZE, D, generator=generator, dtype=torch.float64)
    return hidden_SD, Head(weight_VD=torch.randn(SIZE, D, generator=generator, dtype=torch.float64))


def expected_gradient(recipe: Recipe) -> Tensor:
    """On the student's hidden states, over all sequences of two tokens that it could write."""
    (own_SD, own), (other_SD, other) = views(1), views(2)
    own = Head(weight_VD=own.weight_VD.requires_grad_())
    logprobs_SV = (own_SD @ own.weight_VD.detach().T).log_softmax(-1)
    total_SD, ones_T = torch.zeros_like(own_SD), torch.ones(2, dtype=torch.float64)
    for first, second in product(range(SIZE), repeat=2):
        states = torch.tensor([0, 1 + first])
        written_T = torch.stack([logprobs_SV[0, first], logprobs_SV[1 + first, second]])
        row: Row = replace(toy_rows((2,))[0], completion_ids=(first, second), logprobs=tuple(written_T.tolist()))
        slot = with_head([row], "teacher", other_SD[states], other, ones_T)
        grad_TD = learn(
            recipe, batch_of(recipe, [row], {"teacher": slot}, on_policy=False), (own_SD[states], own)
        ).grad_TD
        total_SD.index_add_(0, states, written_T.sum().exp() * 2 * grad_TD)
    return total_SD


def test_without_a_discount_it_is_the_gradient_of_the_sequence_s_reverse_kl() -> None:
    (own_SD, own), (other_SD, other) = views(1), views(2)
    leaf_SD = own_SD.requires_grad_()
    s_SV, t_SV = (leaf_SD @ own.weight_VD.T).log_softmax(-1), (other_SD @ other.weight_VD.T).log_softmax(-1)
    pairs = [
        (s_SV[0, first] + s_SV[1 + first, second], t_SV[0, first] + t_SV[1 + first, second])
        for first, second in product(range(SIZE), repeat=2)
    ]
    torch.stack([s.exp() * (s - t) for s, t in pairs]).sum().backward()
    assert leaf_SD.grad is not None
    torch.testing.assert_close(expected_gradient(long_term(1.0, mean=False)), leaf_SD.grad, atol=1e-6, rtol=1e-6)
    token_by_token = expected_gradient(long_term(0.0, mean=False))
    assert (token_by_token - leaf_SD.grad).abs().max() > 1e-3, "the first token's share in what follows is missing"
    torch.testing.assert_close(token_by_token[1:], leaf_SD.grad[1:], atol=1e-6, rtol=1e-6)


def test_a_teacher_that_agrees_teaches_nothing() -> None:
    rows = toy_rows((3, 5))
    batch = batch_of(RECIPE, rows)
    same = {"teacher": agreeing(batch.slots["teacher"][0], batch)}
    assert learn(RECIPE, batch_of(RECIPE, rows, same)).grad_TD.abs().max() < 1e-14
