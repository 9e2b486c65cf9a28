"""DemoPSD: how far the target leans, what it minimises, and who shows a success to whom."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from preceptor_trainer import recipes
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.recipes.demopsd import Disagreement
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict
from tests.unit.trainer import reference as ref
from tests.unit.trainer.setting import agreeing, batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import toy_rows

RECIPE = recipes.load("demopsd")
ROWS = toy_rows((4, 3), group=2)


def leaning(**settings: Any) -> Recipe:
    return RECIPE.override({"target": {"coefficients": {"peer": settings, "plain": settings}}})


def target_of(recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """Target, informed view and plain view, all log-probabilities [T, V]."""
    batch = batch_of(recipe, ROWS)
    peer_TV, plain_TV = said(batch.slots["peer"][0]), said(batch.slots["plain"][0])
    d_T = ref.jsd(peer_TV.exp(), plain_TV.exp(), 0.5)
    lean_T1 = (2 * 0.15 * ((50 * d_T).sigmoid() - 0.5))[:, None]
    return ((1 - lean_T1) * peer_TV + lean_T1 * plain_TV).log_softmax(-1), peer_TV, plain_TV


def test_the_loss_is_the_reverse_kl_to_the_barycenter() -> None:
    q_TV, _, _ = target_of(RECIPE)
    batch = batch_of(RECIPE, ROWS)
    expected = ref.kl(own_logprobs(batch).exp(), q_TV.exp()).mean()
    assert learn(RECIPE, batch).loss == pytest.approx(float(expected), abs=1e-12)


def test_the_barycenter_minimises_the_two_kls() -> None:
    """min over q of (1 - a) KL(q || T) + a KL(q || P) is -log Z."""
    q_TV, peer_TV, plain_TV = target_of(RECIPE)
    d_T = ref.jsd(peer_TV.exp(), plain_TV.exp(), 0.5)
    a_T = 2 * 0.15 * ((50 * d_T).sigmoid() - 0.5)

    def cost(q: Tensor) -> Tensor:
        return (1 - a_T) * ref.kl(q, peer_TV.exp()) + a_T * ref.kl(q, plain_TV.exp())

    least_T = cost(q_TV.exp())
    torch.testing.assert_close(least_T, -((1 - a_T)[:, None] * peer_TV + a_T[:, None] * plain_TV).logsumexp(-1))
    for seed in range(5):
        noise_TV = torch.randn(q_TV.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert (cost((q_TV + 0.1 * noise_TV).softmax(-1)) > least_T).all()


def test_where_both_views_agree_the_target_is_theirs() -> None:
    shown = batch_of(RECIPE, ROWS).slots["peer"][0]
    both = {"peer": shown, "plain": shown}
    single = RECIPE.override({"target": {"kind": "single", "context": "peer"}})
    ours, theirs = (learn(each, batch_of(each, ROWS, both)) for each in (RECIPE, single))
    torch.testing.assert_close(ours.grad_TD, theirs.grad_TD)


def test_leaning_all_the_way_on_a_plain_view_that_agrees_teaches_nothing() -> None:
    recipe = leaning(most=1.0, slope=1e9)
    batch = batch_of(recipe, ROWS)
    same = {"plain": agreeing(batch.slots["plain"][0], batch)}
    assert learn(recipe, batch_of(recipe, ROWS, same)).grad_TD.abs().max() < 1e-12


@pytest.mark.parametrize("most", [0.0, 0.1, 0.5, 0.9])
def test_against_the_student_s_own_view_the_gradient_shrinks_by_the_lean(most: float) -> None:
    """(1 - a) times the gradient of KL(S || T); the slope makes a its most everywhere."""
    recipe, single = leaning(most=most, slope=1e9), leaning(most=0.0)
    batch = batch_of(recipe, ROWS)
    same = {"plain": agreeing(batch.slots["plain"][0], batch)}
    ours, theirs = (learn(each, batch_of(each, ROWS, same)).grad_TD for each in (recipe, single))
    torch.testing.assert_close(ours, (1 - most) * theirs)


@pytest.mark.parametrize(("slope", "share"), [(25, 0.848), (50, 0.987), (100, 1.0)])
def test_it_leans_nearly_all_it_may_from_a_divergence_of_a_tenth_on(slope: float, share: float) -> None:
    assert 2 * (torch.tensor(slope * 0.1).sigmoid() - 0.5) == pytest.approx(share, abs=1e-3)
    assert Disagreement(between=("peer", "plain")).slope == 50


def test_only_a_sibling_s_success_is_shown_and_without_one_the_rollout_is_passed_over() -> None:
    task = Task(id="t", messages=(Message(role="user", content="1+1?"),))
    right, wrong = Verdict(reward=1.0, correct=True), Verdict(reward=0.0, correct=False)
    group = (Rollout(index=0, text="mine", verdict=right), Rollout(index=1, text="theirs", verdict=wrong))
    peer = RECIPE.contexts["peer"]
    views = [ContextView(task=task, rollout=each, group=group, step=1, rng=Random(0)) for each in group]
    assert list(peer.prompts(views[0])) == []
    (prompt,) = peer.prompts(views[1])
    assert "mine" in prompt.messages[-1]["content"]
