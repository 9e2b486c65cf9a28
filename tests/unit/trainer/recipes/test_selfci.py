"""SELFCI: two reverse KLs are one to the weighted geometric mean; either weight alone is its half of the method."""

from __future__ import annotations

from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.model import Head
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.views import ContextView, Message, Rollout, Task
from tests.unit.trainer.setting import batch_of, learn, said
from tests.unit.trainer.toy import V, toy_rows, toy_student

RECIPE = recipes.load("selfci")
ROWS = toy_rows((4, 3))


def weighted(disallowed: float, allowed: float) -> Recipe:
    terms = [
        {"kind": "reverse_kl", "coefficient": weight, "target": {"kind": "single", "context": name}}
        for name, weight in (("disallowed", disallowed), ("allowed", allowed))
    ]
    return RECIPE.override({"objective": terms})


@pytest.mark.parametrize(("disallowed", "allowed"), [(1.0, 1.0), (0.5, 0.5), (0.3, 1.2)])
def test_the_gradient_is_that_of_the_reverse_kl_to_the_weighted_geometric_mean(
    disallowed: float, allowed: float
) -> None:
    total = disallowed + allowed
    mean = {"kind": "log_linear", "coefficients": {"disallowed": disallowed / total, "allowed": allowed / total}}
    one = RECIPE.override({"target": mean, "objective": [{"kind": "reverse_kl", "coefficient": total}]})
    ours, theirs = (learn(each, batch_of(each, ROWS)) for each in (weighted(disallowed, allowed), one))
    torch.testing.assert_close(ours.grad_TD, theirs.grad_TD)
    torch.testing.assert_close(ours.grad_VD, theirs.grad_VD)
    assert ours.loss > theirs.loss, "they differ by the constant -log Z, which is never negative"


def test_with_one_weight_at_zero_only_the_other_half_teaches() -> None:
    single = RECIPE.override(
        {"objective": [{"kind": "reverse_kl"}], "target": {"kind": "single", "context": "disallowed"}}
    )
    ours, theirs = (learn(each, batch_of(each, ROWS)) for each in (weighted(1.0, 0.0), single))
    torch.testing.assert_close(ours.grad_TD, theirs.grad_TD)


def test_a_student_at_the_product_of_experts_has_arrived() -> None:
    """The student's head is the identity, so that its hidden states are its logits."""
    batch = batch_of(RECIPE, ROWS)
    best_TV = (said(batch.slots["disallowed"][0]) + said(batch.slots["allowed"][0])) / 2
    head = Head(weight_VD=torch.eye(V, dtype=torch.float64).requires_grad_())
    assert learn(RECIPE, batch, (best_TV, head)).grad_TD.abs().max() < 1e-14
    away_TV = toy_student(7)[0] @ torch.ones(5, V, dtype=torch.float64) + torch.arange(V)
    assert learn(RECIPE, batch, (away_TV, head)).grad_TD.abs().max() > 1e-3


def test_each_half_of_the_feedback_has_its_own_context() -> None:
    columns = {"allowed": "the time", "disallowed": "the illness"}
    task = Task(id="t", messages=(Message(role="user", content="Reply."),), columns=columns)
    own = Rollout(index=0, text="3")
    view = ContextView(task=task, rollout=own, group=(own,), step=1, rng=Random(0))
    for name, text in columns.items():
        (prompt,) = RECIPE.contexts[name].prompts(view)
        assert text in prompt.messages[-1]["content"]
        assert not any(other in prompt.messages[-1]["content"] for other in columns.values() if other != text)
