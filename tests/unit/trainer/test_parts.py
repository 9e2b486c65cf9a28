"""Objectives, targets and weights against what their papers say of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from preceptor_trainer.loss import blank_scalars, first_pass, fold
from preceptor_trainer.model import Head
from preceptor_trainer.parts.divergences import JSD, ForwardKL, Pointwise, ReverseKL, SkewForwardKL, SkewReverseKL
from preceptor_trainer.parts.objectives import SampledKL, SampledReverseKL, Unlikelihood
from preceptor_trainer.parts.schedules import Linear
from preceptor_trainer.parts.targets import Each, LogLinear, Mixture, Route, Single
from preceptor_trainer.parts.weights import (
    Disagreement,
    EntropyGate,
    GroupAdvantage,
    ImportanceBand,
    ImportanceTruncate,
    RewardGate,
)
from preceptor_trainer.recipe import Divergence, Target, Term
from preceptor_trainer.views import Opinion, TokenView
from preceptor_trainer.weighing import NonFiniteWeight, weigh
from tests.unit.trainer import reference as ref
from tests.unit.trainer.test_loss_reference import Case, case, composed, recipe
from tests.unit.trainer.toy import V, toy_batch, toy_rows, toy_slot, toy_student, with_head


def one_token(seed: int = 1) -> tuple[Tensor, Head, Tensor, Head]:
    """Hidden states and heads of a student and a teacher on one token."""
    student_TD, student = toy_student(1)
    slot = toy_slot(toy_rows((1,)), "a", seed)
    assert slot.hidden_TD is not None and slot.head is not None
    return student_TD, student, slot.hidden_TD, slot.head


def expectation(term: Term) -> Tensor:
    """Gradient on the hidden state, over every token that the student could have written."""
    student_TD, student, teacher_TD, teacher = one_token()
    s_V = (student_TD @ student.weight_VD.detach().T).softmax(-1)[0]
    total_TD = torch.zeros_like(student_TD)
    for token in range(V):
        row = [replace(toy_rows((1,))[0], completion_ids=(token,), logprobs=(float(s_V[token].log()),))]
        batch = toy_batch(row, with_head(row, "a", teacher_TD, teacher, torch.ones(1, dtype=torch.float64)))
        given = recipe(term, contexts=["a"], target=Single(context="a"))
        view = batch.view(blank_scalars(batch, torch.float64))
        total_TD += s_V[token] * fold(given, batch, view, weigh(given, view, None), student, student_TD, 0)[0]
    return total_TD


def full_gradient(loss: ref.Divergence) -> Tensor:
    student_TD, student, teacher_TD, teacher = one_token()
    leaf_TD = student_TD.clone().requires_grad_()
    t_TV = (teacher_TD @ teacher.weight_VD.T).softmax(-1)
    loss((leaf_TD @ student.weight_VD.detach().T).softmax(-1), t_TV).sum().backward()
    assert leaf_TD.grad is not None
    return leaf_TD.grad


@pytest.mark.parametrize(
    ("term", "whole"),
    [
        (SampledReverseKL(), "reverse_kl"),
        (SampledReverseKL(importance=False), "reverse_kl"),
        (SampledKL(estimator="k2"), "reverse_kl"),
        (SampledKL(estimator="k3"), "forward_kl"),
    ],
)
def test_what_an_estimator_s_gradient_is_in_expectation(term: Term, whole: str) -> None:
    wanted_TD = full_gradient(ref.DIVERGENCES[whole])
    # The behaviour's log-probabilities went through a float32 list: hence not to the last digit.
    torch.testing.assert_close(expectation(term), wanted_TD, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_gkd_s_generalised_jsd_on_random_tensors(beta: float) -> None:
    """beta 0 and 1 are the KLs, as GKD and TRL have it; between them it is `jsd`."""
    term: Term = ForwardKL() if beta == 0 else ReverseKL() if beta == 1 else JSD(beta=beta)
    for seed in range(5):
        on = random_case(seed)
        loss, grad_TD, _ = composed(recipe(term, contexts=["a"], target=Single(context="a")), on)
        leaf_TD = on.hidden_TD.clone().requires_grad_()
        teacher = on.batch.slots["a"][0]
        assert teacher.hidden_TD is not None and teacher.head is not None
        wanted = ref.generalised_jsd_of_logits(
            leaf_TD @ on.head.weight_VD.detach().T, teacher.hidden_TD @ teacher.head.weight_VD.T, beta
        )
        wanted.backward()
        assert loss == pytest.approx(wanted.item(), abs=1e-12)
        torch.testing.assert_close(grad_TD, leaf_TD.grad, atol=1e-12, rtol=0)


def random_case(seed: int) -> Case:
    rows = toy_rows((9,), seed=seed)
    hidden_TD, head = toy_student(9, seed=100 + seed, scale=2.0)
    return Case(toy_batch(rows, toy_slot(rows, "a", seed, scale=2.0)), hidden_TD, head, {}, {})


def value(term: Term, on: Case) -> float:
    return composed(recipe(term, contexts=["a"], target=Single(context="a")), on)[0]


def test_limits_and_reductions_of_the_divergences() -> None:
    on = random_case(0)
    assert value(JSD(beta=1e-9), on) / 1e-9 == pytest.approx(value(ForwardKL(), on), rel=1e-2)
    assert value(JSD(beta=1 - 1e-9), on) / 1e-9 == pytest.approx(value(ReverseKL(), on), rel=1e-2)
    assert value(SkewForwardKL(alpha=0), on) == value(ForwardKL(), on)
    assert value(SkewReverseKL(alpha=0), on) == pytest.approx(value(ReverseKL(), on), abs=1e-14)
    assert value(SkewReverseKL(alpha=0.2), on) < -torch.tensor(0.2).log()


@pytest.mark.parametrize("kl", [ForwardKL, ReverseKL, SkewForwardKL, SkewReverseKL])
def test_a_clip_of_single_events_may_turn_a_kl_around(kl: type[Pointwise]) -> None:
    """The hazard that the guard `clip` watches for, in the open: with OPSD's later setting a student at one half walks
    away from a sure teacher. The Jensen-Shannon divergence is never negative, and never turns."""
    teacher_TK = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()

    def pull(term: Divergence) -> tuple[float, float]:
        logits_TK = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        loss = term.compare(logits_TK.log_softmax(-1), teacher_TK).sum()
        (grad_TK,) = torch.autograd.grad(loss, logits_TK)
        return loss.item(), -grad_TK[0, 0].item()

    value, towards = pull(kl())
    assert value > 0 and towards > 0
    turned, away = pull(kl(clip=0.05))
    assert turned < 0 and away < 0
    for clip in (0.005, 0.05, 0.5):
        value, towards = pull(JSD(clip=clip))
        assert value >= 0 and towards >= 0


@pytest.mark.parametrize("kind", [ForwardKL, ReverseKL, JSD, SkewForwardKL, SkewReverseKL])
def test_a_clip_of_whole_tokens_keeps_every_direction(kind: type[Pointwise]) -> None:
    student_TD, student, teacher_TD, teacher = one_token()
    logits_TK = (student_TD @ student.weight_VD.detach().T).repeat(2, 1).requires_grad_()
    target_TK = (teacher_TD @ teacher.weight_VD.detach().T).log_softmax(-1)
    target_TK = torch.cat([target_TK, logits_TK.detach()[:1].log_softmax(-1).lerp(target_TK, 0.05).log_softmax(-1)])

    def pull(term: Pointwise) -> tuple[Tensor, Tensor]:
        loss_T = term.compare(logits_TK.log_softmax(-1), target_TK)
        (grad_TK,) = torch.autograd.grad(loss_T.sum(), logits_TK)
        closed = term.gradient(logits_TK.detach().log_softmax(-1), target_TK)
        assert closed is not None
        torch.testing.assert_close(closed, (loss_T.detach(), grad_TK))
        return loss_T.detach(), grad_TK

    loss_T, grad_TK = pull(kind())
    bound = float(loss_T.mean())
    assert loss_T[1] < bound < loss_T[0]
    bounded_T, kept_TK = pull(kind(clip=bound, clip_by="token"))
    torch.testing.assert_close(bounded_T, torch.stack([torch.tensor(bound, dtype=torch.float64), loss_T[1]]))
    torch.testing.assert_close(kept_TK, torch.stack([grad_TK[0] * bound / loss_T[0], grad_TK[1]]))


def test_a_sparse_support_never_says_more_than_the_whole() -> None:
    """Coarsening: a divergence over k ids and a tail rises with k, up to the full one."""
    for term in (ForwardKL(), ReverseKL(), JSD()):
        values = [value(term, narrow_to(k)) for k in range(1, V + 1)]
        assert all(one <= other + 1e-12 for one, other in pairwise(values))
        assert values[0] > 0 and values[-1] == pytest.approx(value(term, random_case(3)), abs=1e-12)


def narrow_to(k: int) -> Case:
    on = random_case(3)
    (slot,) = on.batch.slots["a"]
    assert slot.hidden_TD is not None and slot.head is not None
    p_TV = (slot.hidden_TD @ slot.head.weight_VD.T).softmax(-1)
    ids_TK = p_TV.topk(k).indices
    logs_TE = ref.events(p_TV, ids_TK).log().clamp(min=-1e4)
    sparse = replace(slot, hidden_TD=None, head=None, ids_TK=ids_TK, logprobs_TK=logs_TE[:, :-1], tail_T=logs_TE[:, -1])
    return replace(on, batch=replace(on.batch, slots={"a": [sparse]}))


def test_unlikelihood_is_bounded_where_the_token_is_certain() -> None:
    on = case({"a": ["sampled"]}, torch.float32, scale=1000.0)
    loss, grad_TD, _ = composed(recipe(Unlikelihood(), contexts=["a"]), on)
    assert 0 < loss < 17 and torch.isfinite(grad_TD).all()


# --- targets ----------------------------------------------------------------------------------------------------------


def opinion_of(target: Target, **supports: list[str]) -> tuple[Case, Opinion]:
    """What a target makes of a case's opinions."""
    from preceptor_trainer.blocks import walk

    on = case(supports)
    view = on.batch.view(blank_scalars(on.batch, torch.float64))
    (block,) = walk(on.batch, on.head, on.hidden_TD, 0)
    (opinion,) = target(block.view(on.batch, view, 0, on.batch.tokens))
    for mine, wanted in zip(target.outline(view)[0], (opinion.present_T, opinion.weight_T), strict=True):
        assert torch.equal(mine, wanted), "the outline says what the target does"
    return on, opinion


def log(on: Case, name: str) -> Tensor:
    return on.p_TV[name][0].log()


def test_log_linear_identities() -> None:
    """Of Purified OPSD (P0 base, T informed, R uninformed), beta-OPSD and ExOPD."""
    full = {"a": ["full"], "b": ["full"], "c": ["full"]}
    on, same = opinion_of(LogLinear(coefficients={"a": 1.0, "b": 0.0}), **full)
    torch.testing.assert_close(same.logprobs_TK, log(on, "a"), atol=1e-12, rtol=0)
    on, contrast = opinion_of(LogLinear(coefficients={"a": 1.0, "b": -1.0}, base="b"), **full)
    torch.testing.assert_close(contrast.logprobs_TK, log(on, "a"), atol=1e-12, rtol=0)
    on, nothing = opinion_of(LogLinear(coefficients={"a": 0.7, "b": 0.0}, base="c", clip=1e-9), **full)
    torch.testing.assert_close(nothing.logprobs_TK, log(on, "c"), atol=1e-8, rtol=0)
    on, purified = opinion_of(LogLinear(coefficients={"a": 0.5, "b": -0.5}, base="c", centre=True, clip=3.0), **full)
    delta_TV = 0.5 * (log(on, "a") - log(on, "b"))
    delta_TV = delta_TV - delta_TV.mean(-1, keepdim=True)
    wanted_TV = (log(on, "c") + 3 * (delta_TV / 3).tanh()).log_softmax(-1)
    torch.testing.assert_close(purified.logprobs_TK, wanted_TV, atol=1e-12, rtol=0)
    at_T = wanted_TV.gather(-1, on.batch.token_T[:, None]).squeeze(-1)
    torch.testing.assert_close(purified.logprob_T, at_T, atol=1e-12, rtol=0)


def test_a_composed_target_s_written_token_keeps_its_own_number_in_the_tail() -> None:
    on, opinion = opinion_of(LogLinear(coefficients={"a": 0.5, "b": 0.5}), a=["topk"], b=["full"])
    assert opinion.ids_TK is not None and opinion.logprobs_TK is not None
    named_TK = opinion.ids_TK == on.batch.token_T[:, None]
    column_T = opinion.logprobs_TK[:, :-1].gather(-1, named_TK.int().argmax(-1, keepdim=True)).squeeze(-1)
    hit_T = named_TK.any(-1) & (opinion.present_T > 0)
    missed_T = ~named_TK.any(-1) & (opinion.present_T > 0)
    assert hit_T.any() and missed_T.any()
    torch.testing.assert_close(opinion.logprob_T[hit_T], column_T[hit_T], atol=1e-12, rtol=0)
    assert (opinion.logprob_T[missed_T] < 0).all()


def test_a_mixture_weighs_prompts_and_knows_the_written_token() -> None:
    on, opinion = opinion_of(Mixture(contexts=("a", "b")), a=["sampled", "sampled"], b=["sampled"])
    (first, second), (other,) = on.batch.slots["a"], on.batch.slots["b"]
    shares = [0.25 * first.present_T, 0.75 * second.present_T, other.present_T]
    total_T = sum(shares[1:], shares[0])
    mixed_T = sum(share * slot.logprob_T.exp() for share, slot in zip(shares, (first, second, other), strict=True))
    there_T = total_T > 0
    assert isinstance(mixed_T, Tensor)
    torch.testing.assert_close(opinion.logprob_T[there_T].exp(), (mixed_T / total_T)[there_T], atol=1e-12, rtol=0)


def test_a_context_whose_share_is_nothing_is_as_if_it_were_not_there() -> None:
    alone, opinion = opinion_of(Mixture(contexts=("a", "b"), shares={"b": 0.0}), a=["sampled"], b=["sampled"])
    (a,) = alone.batch.slots["a"]
    assert torch.equal(opinion.present_T, a.present_T)
    torch.testing.assert_close(opinion.logprob_T * a.present_T, a.logprob_T * a.present_T, atol=1e-12, rtol=0)
    for name, share, said in (("c", 1.0, "none of the contexts, a, b"), ("a", -0.1, "not below 0")):
        with pytest.raises(ValidationError, match=said):
            Mixture(contexts=("a", "b"), shares={name: share})


def test_a_route_by_order_falls_to_the_next_who_is_there() -> None:
    on, opinion = opinion_of(Route(contexts=("a", "b")), a=["sampled"], b=["sampled"])
    (a,), (b,) = on.batch.slots["a"], on.batch.slots["b"]
    wanted_T = torch.where(a.present_T > 0, a.logprob_T, b.logprob_T)
    assert torch.equal(opinion.logprob_T, wanted_T)
    assert torch.equal(opinion.present_T, torch.maximum(a.present_T, b.present_T))
    on, opinion = opinion_of(Route(contexts=("a", "b"), by="likeliest"), a=["sampled"], b=["sampled"])
    both_T = (a.present_T > 0) & (b.present_T > 0)
    assert torch.equal(opinion.logprob_T[both_T], torch.maximum(a.logprob_T, b.logprob_T)[both_T])


def test_a_route_names_each_context_once() -> None:
    for target in (Each, Mixture, Route):
        with pytest.raises(ValidationError, match="'a' is named twice") as caught:
            target(contexts=("b", "a", "a"))
        assert caught.value.errors()[0]["loc"] == ("contexts",)


def test_a_target_that_hears_nobody_is_refused() -> None:
    with pytest.raises(ValidationError, match="shares: all are 0"):
        Mixture(contexts=("a", "b"), shares={"a": 0.0, "b": 0.0})
    with pytest.raises(ValidationError, match="nor zeros are a target"):
        LogLinear(coefficients={"a": 0.0, "b": 0.0})
    fades = Linear(start=1.0, end=0.0, steps=9)
    assert Mixture(contexts=("a",), shares={"a": fades}) and LogLinear(coefficients={"a": fades, "b": 0.0})
    assert LogLinear(coefficients={"a": 0.0}, base="b")


# --- weights ----------------------------------------------------------------------------------------------------------


def seen(on: Case) -> TokenView:
    """What weights look at, after the first pass."""
    given = recipe(Unlikelihood(weights=(ImportanceTruncate(),)), contexts=["a"])
    return on.batch.view(first_pass(given, on.batch, on.head, on.hidden_TD)[0])


def test_tokens_on_which_teachers_are_apart_are_told_from_those_on_which_they_agree() -> None:
    on = case({"a": ["sampled"], "b": ["sampled"]})
    given = recipe(Unlikelihood(weights=(ImportanceTruncate(),)), contexts=["a", "b"])
    view = on.batch.view(first_pass(given, on.batch, on.head, on.hidden_TD)[0])
    (a,), (b,) = on.batch.slots["a"], on.batch.slots["b"]
    apart_T = (a.logprob_T - b.logprob_T).abs() * a.present_T * b.present_T
    bound = float(apart_T[apart_T > 0].median())
    near_T = Disagreement(of=("a", "b"), most=bound)(view, view["a"])
    far_T = Disagreement(of=("a", "b"), least=bound)(view, view["a"])
    assert torch.equal(near_T, (apart_T < bound).to(near_T.dtype)) and torch.equal(
        near_T + far_T, torch.ones_like(far_T)
    )
    assert 0 < int(far_T.sum()) < len(far_T) and Disagreement.gate
    assert Disagreement(of=("a", "b"), most=bound).reading == {"a", "b"}
    for wrong, said in (({}, "needs a bound"), ({"least": 1.0, "most": 1.0}, "no token would be left")):
        with pytest.raises(ValidationError, match=said):
            Disagreement.model_validate({"of": ("a", "b"), **wrong})


def test_importance_is_truncated_or_banded() -> None:
    on = case({"a": ["sampled"]})
    view = seen(on)
    rho_T = (view.student.logprob_T - view.behaviour.logprob_T).exp()
    torch.testing.assert_close(ImportanceTruncate(most=1.5)(view, view.student), rho_T.clamp(max=1.5))
    band_T = ImportanceBand(low=0.5, high=2.0)(view, view.student)
    inside_T = (rho_T >= 0.5) & (rho_T <= 2.0)
    assert 0 < int(inside_T.sum()) < len(rho_T)
    torch.testing.assert_close(band_T, torch.where(inside_T, rho_T, 0.0))
    unsampled = replace(view, behaviour=replace(view.behaviour, present_T=torch.zeros_like(rho_T)))
    assert torch.equal(ImportanceTruncate()(unsampled, view.student), torch.ones_like(rho_T))


def test_group_advantage_is_centred_and_scaled_within_its_group() -> None:
    on = case({"a": ["sampled"]})
    view = replace(seen(on), reward_B=torch.tensor([1.0, 0.0, 3.0, 3.0, 5.0], dtype=torch.float64))
    a_T = GroupAdvantage()(view, view.student)
    wanted_B = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(a_T, wanted_B[view.rollout_T], atol=1e-5, rtol=0)
    plain_T = GroupAdvantage(scale=False)(view, view.student)
    torch.testing.assert_close(plain_T, (wanted_B / 2)[view.rollout_T], atol=1e-12, rtol=0)


def test_gates_open_where_their_bounds_say() -> None:
    on = case({"a": ["sampled"]})
    view = seen(on)
    assert view.student.entropy_T is not None
    middle = float(view.student.entropy_T.median())
    assert torch.equal(EntropyGate(least=middle)(view, view.student) > 0, view.student.entropy_T >= middle)
    assert torch.equal(EntropyGate(most=middle)(view, view.student) > 0, view.student.entropy_T <= middle)
    assert torch.equal(RewardGate(least=0.5)(view, view.student) > 0, view.reward_B[view.rollout_T] >= 0.5)
    assert torch.equal(RewardGate(most=0.5)(view, view.student) > 0, view.reward_B[view.rollout_T] <= 0.5)
    for gate in (EntropyGate, RewardGate):
        assert gate.gate
    with pytest.raises(ValidationError, match="no token would be left"):
        EntropyGate(least=2.0, most=1.0)
    with pytest.raises(ValidationError, match="a gate needs a bound"):
        RewardGate()


def test_a_weight_without_the_reward_that_it_reads_says_so() -> None:
    rows = [replace(row, verdict=None) for row in toy_rows((3, 2))]
    batch = toy_batch(rows, toy_slot(rows, "a"))
    given = recipe(ForwardKL(), contexts=["a"], target=Single(context="a"), weights=(GroupAdvantage(),))
    hidden_TD, head = toy_student(5)
    student, opinions = first_pass(given, batch, head, hidden_TD)
    with pytest.raises(NonFiniteWeight, match="weight 'group_advantage' gave nan at step 1; one that reads rewards"):
        weigh(given, batch.view(student), opinions)
