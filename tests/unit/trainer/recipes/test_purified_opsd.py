"""Purified OPSD: what the reference alone explains cancels; what is left is a tilt of the plain view."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from preceptor_trainer import recipes
from preceptor_trainer.model import Head
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.views import ContextView, Message, Rollout, Task
from tests.unit.trainer.setting import batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import toy_rows, toy_student

RECIPE = recipes.load("purified_opsd").override({"objective": [{"kind": "forward_kl"}]})
"""With a divergence whose gradient on the logits is S - q, so that q can be read off."""
ROWS = toy_rows((4, 3))


def views(recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    slots = batch_of(recipe, ROWS).slots
    return said(slots["informed"][0]), said(slots["reference"][0]), said(slots["plain"][0])


def pulls(recipe: Recipe, q_TV: Tensor) -> None:
    """The recipe's gradient is that of a student drawn to q."""
    batch = batch_of(recipe, ROWS)
    on_logits = (own_logprobs(batch).exp() - q_TV) / 7
    torch.testing.assert_close(learn(recipe, batch).grad_TD, on_logits @ toy_student(7)[1].weight_VD.detach())


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_the_target_is_the_plain_view_tilted_by_the_clipped_contrast(beta: float) -> None:
    tilt = {"coefficients": {"informed": 1 / beta, "reference": -1 / beta}, "clip": 2.0 / beta}
    recipe = RECIPE.override({"target": tilt})
    informed_TV, reference_TV, plain_TV = views(recipe)
    contrast_TV = informed_TV - reference_TV
    contrast_TV = 2.0 * ((contrast_TV - contrast_TV.mean(-1, keepdim=True)) / 2.0).tanh()
    pulls(recipe, (plain_TV + contrast_TV / beta).softmax(-1))


def test_it_is_the_best_answer_to_the_contrast_near_the_plain_view() -> None:
    """max over P of E_P[D] - beta KL(P || P0) is beta log E_P0[exp(D / beta)], at the target."""
    beta = 1.7
    informed_TV, reference_TV, plain_TV = views(RECIPE)
    d_TV = informed_TV - reference_TV
    d_TV = 10 * ((d_TV - d_TV.mean(-1, keepdim=True)) / 10).tanh()

    def value(p_TV: Tensor) -> Tensor:
        return (p_TV * d_TV).sum(-1) - beta * (p_TV * (p_TV.log() - plain_TV)).sum(-1)

    q_TV = (plain_TV + d_TV / beta).softmax(-1)
    pulls(
        RECIPE.override(
            {"target": {"coefficients": {"informed": 1 / beta, "reference": -1 / beta}, "clip": 10 / beta}}
        ),
        q_TV,
    )
    best_T = value(q_TV)
    torch.testing.assert_close(best_T, beta * (plain_TV + d_TV / beta).logsumexp(-1))
    noise_TV = torch.randn(q_TV.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (value((q_TV.log() + 0.1 * noise_TV).softmax(-1)) < best_T).all()


def test_a_contrast_that_hardly_counts_leaves_the_plain_view() -> None:
    recipe = RECIPE.override({"target": {"coefficients": {"informed": 1e-12, "reference": -1e-12}}})
    pulls(recipe, views(recipe)[2].exp())


def test_what_the_reference_explains_alone_teaches_nothing_more() -> None:
    slots = batch_of(RECIPE, ROWS).slots
    same = {"informed": slots["informed"][0], "reference": slots["informed"][0]}
    plain = RECIPE.override({"target": {"kind": "single", "context": "plain"}})
    ours, theirs = (learn(each, batch_of(each, ROWS, same)) for each in (RECIPE, plain))
    torch.testing.assert_close(ours.grad_TD, theirs.grad_TD)


def test_a_constant_on_a_teacher_s_logits_changes_nothing() -> None:
    """Centring is what makes the clip safe from it: here by a bias on the head, the same for every token."""
    slot = batch_of(RECIPE, ROWS).slots["informed"][0]
    assert slot.head is not None
    weight_VD = slot.head.weight_VD
    moved = replace(slot, head=Head(weight_VD=weight_VD, bias_V=weight_VD.new_full((len(weight_VD),), 3.0)))
    ours, theirs = (learn(RECIPE, batch_of(RECIPE, ROWS, {"informed": each})) for each in (moved, slot))
    torch.testing.assert_close(ours.grad_TD, theirs.grad_TD)


def test_the_reference_stands_alone_without_the_question() -> None:
    task = Task(id="t", messages=(Message(role="user", content="What is 1+1?"),), reference="two: 2")
    own = Rollout(index=0, text="3")
    view = ContextView(task=task, rollout=own, group=(own,), step=1, rng=Random(0))
    context = recipes.load("purified_opsd").contexts["reference"]
    (prompt,) = context.prompts(view)
    assert "two: 2" in prompt.messages[0]["content"] and "1+1" not in prompt.messages[0]["content"]
    (wrong,) = context.model_copy(update={"wrong": True}).prompts(view)
    assert "two: 2" not in wrong.messages[0]["content"]
    assert list(context.prompts(replace(view, task=replace(task, reference=None)))) == []
