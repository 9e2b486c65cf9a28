"""The composing loss against plain formulas, materialised in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preceptor_trainer.batch import Batch
from preceptor_trainer.loss import NonFiniteLoss, TeacherDisagrees, blank_scalars, first_pass, fold
from preceptor_trainer.model import Head
from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import JSD, ForwardKL, ReverseKL
from preceptor_trainer.parts.objectives import NLL, SampledReverseKL
from preceptor_trainer.parts.rollouts import Dataset, Student
from preceptor_trainer.parts.targets import Each, Single
from preceptor_trainer.recipe import Recipe, Term, Weight
from preceptor_trainer.views import BlockView, Opinion, Scalars, TokenView
from preceptor_trainer.weighing import weigh
from tests.unit.trainer.toy import toy_batch, toy_rows, toy_slot, toy_student, with_head

LENGTHS = (3, 0, 5, 1)


def recipe(term: Term, **fields: object) -> Recipe:
    base = {"paper": "test", "rollout": Student(), "contexts": {"t": Plain()}, "target": Single(context="t")}
    return Recipe.model_validate({**base, "objective": (term,), **fields})


def run(recipe: Recipe, batch: Batch, hidden_TD: Tensor, head: Head, block: int = 4) -> tuple[float, Tensor, Tensor]:
    """Loss, and gradients of hidden states and head."""
    head.weight_VD.grad = None
    view, opinions = batch.view(blank_scalars(batch, hidden_TD.dtype)), None
    if recipe.weights or any(term.weights for term in recipe.objective):
        student, opinions = first_pass(recipe, batch, head, hidden_TD, block)
        view = batch.view(student)
    plans = weigh(recipe, view, opinions)
    grad_TD, sums = fold(recipe, batch, view, plans, head, hidden_TD, 0, block)
    assert head.weight_VD.grad is not None
    return sums.loss, grad_TD, head.weight_VD.grad.clone()


def kl(p_TV: Tensor, q_TV: Tensor) -> Tensor:
    return (p_TV * (p_TV.log() - q_TV.log())).sum(-1)


def jsd(s_TV: Tensor, t_TV: Tensor, beta: float) -> Tensor:
    m_TV = beta * t_TV + (1 - beta) * s_TV
    return beta * kl(t_TV, m_TV) + (1 - beta) * kl(s_TV, m_TV)


def sampled_pg(s_TV: Tensor, t_TV: Tensor, token_T: Tensor) -> Tensor:
    s_T, t_T = (x.gather(-1, token_T[:, None]).squeeze(-1).log() for x in (s_TV, t_TV))
    return -(t_T - s_T).detach() * (s_T - s_T.detach()).exp()


DIVERGENCES: dict[str, tuple[Term, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "forward_kl": (ForwardKL(), lambda s, t, _: kl(t, s)),
    "reverse_kl": (ReverseKL(), lambda s, t, _: kl(s, t)),
    "jsd": (JSD(beta=0.5), lambda s, t, _: jsd(s, t, 0.5)),
    "jsd_skewed": (JSD(beta=0.1), lambda s, t, _: jsd(s, t, 0.1)),
    "sampled": (SampledReverseKL(importance=False), sampled_pg),
    "nll": (NLL(), lambda s, _, token: -s.gather(-1, token[:, None]).squeeze(-1).log()),
}


@pytest.mark.parametrize("block", [1, 4, 1000])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_blocks_give_the_materialised_loss_and_gradient(name: str, block: int) -> None:
    term, plain = DIVERGENCES[name]
    rows = toy_rows(LENGTHS)
    batch = toy_batch(rows, toy_slot(rows, "t"))
    hidden_TD, head = toy_student(batch.tokens)
    loss, grad_TD, grad_VD = run(recipe(term), batch, hidden_TD, head, block)

    slot = batch.slots["t"][0]
    assert slot.hidden_TD is not None and slot.head is not None
    leaf_TD, leaf_VD = hidden_TD.clone().requires_grad_(), head.weight_VD.detach().clone().requires_grad_()
    student_TV = (leaf_TD @ leaf_VD.T).softmax(-1)
    teacher_TV = (slot.hidden_TD @ slot.head.weight_VD.T).softmax(-1)
    expected = plain(student_TV, teacher_TV, batch.token_T).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(grad_TD, leaf_TD.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(grad_VD, leaf_VD.grad, atol=1e-12, rtol=0)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), seed=st.integers(0, 99), block=st.integers(1, 20))
def test_any_cut_into_blocks_gives_the_same_numbers(lengths: list[int], seed: int, block: int) -> None:
    rows = toy_rows([*lengths, 1], seed=seed)
    batch = toy_batch(rows, toy_slot(rows, "t", seed=seed, absent=(0,)))
    hidden_TD, head = toy_student(batch.tokens, seed=seed + 1)
    whole = run(recipe(JSD(beta=0.5)), batch, hidden_TD, head, 1000)
    cut = run(recipe(JSD(beta=0.5)), batch, hidden_TD, head, block)
    assert cut[0] == pytest.approx(whole[0], abs=1e-12)
    torch.testing.assert_close(cut[1], whole[1], atol=1e-12, rtol=0)
    torch.testing.assert_close(cut[2], whole[2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "jsd_skewed", "sampled"])
def test_the_student_s_own_view_teaches_nothing(name: str) -> None:
    rows = toy_rows(LENGTHS)
    hidden_TD, head = toy_student(sum(LENGTHS))
    same = Head(weight_VD=head.weight_VD.detach())
    batch = toy_batch(rows, with_head(rows, "t", hidden_TD, same, torch.ones(sum(LENGTHS), dtype=torch.float64)))
    loss, grad_TD, grad_VD = run(recipe(DIVERGENCES[name][0]), batch, hidden_TD, head)
    assert abs(loss) < 1e-14
    assert grad_TD.abs().max() < 1e-14
    assert grad_VD.abs().max() < 1e-14


def test_gradients_on_the_logits_are_the_closed_forms() -> None:
    rows = toy_rows((4,))
    batch = toy_batch(rows, toy_slot(rows, "t"))
    hidden_TD, head = toy_student(4)
    slot = batch.slots["t"][0]
    assert slot.hidden_TD is not None and slot.head is not None
    s_TV = (hidden_TD @ head.weight_VD.detach().T).softmax(-1)
    t_TV = (slot.hidden_TD @ slot.head.weight_VD.T).softmax(-1)
    d_TV, m_TV = s_TV.log() - t_TV.log(), (s_TV + t_TV) / 2
    a_TV = (s_TV / m_TV).log()
    closed = {
        "forward_kl": s_TV - t_TV,
        "reverse_kl": s_TV * (d_TV - kl(s_TV, t_TV)[:, None]),
        "jsd": 0.5 * s_TV * (a_TV - (s_TV * a_TV).sum(-1, keepdim=True)),
    }
    for name, grad_TV in closed.items():
        _, grad_TD, _ = run(recipe(DIVERGENCES[name][0]), batch, hidden_TD, head)
        torch.testing.assert_close(grad_TD, grad_TV @ head.weight_VD.detach() / 4, atol=1e-14, rtol=0)


def test_a_token_without_an_opinion_neither_learns_nor_counts() -> None:
    rows = toy_rows((3, 5, 2))
    hidden_TD, head = toy_student(10)
    slot = toy_slot(rows, "t", absent=(1,))
    _, grad_TD, _ = run(recipe(ReverseKL()), toy_batch(rows, slot), hidden_TD, head)
    assert grad_TD[3:8].abs().max() == 0
    assert grad_TD[:3].abs().min(-1).values.max() > 0
    assert slot.hidden_TD is not None and slot.head is not None
    kept = torch.cat([hidden_TD[:3], hidden_TD[8:]])
    rest = [rows[0], rows[2]]
    others = with_head(
        rest, "t", torch.cat([slot.hidden_TD[:3], slot.hidden_TD[8:]]), slot.head, torch.ones(5, dtype=torch.float64)
    )
    loss, _, _ = run(recipe(ReverseKL()), toy_batch(rest, others), kept, head)
    whole, _, _ = run(recipe(ReverseKL()), toy_batch(rows, slot), hidden_TD, head)
    assert whole == pytest.approx(loss, abs=1e-14)


def test_nobody_has_an_opinion() -> None:
    rows = toy_rows((3, 2))
    batch = toy_batch(rows, toy_slot(rows, "t", absent=(0, 1)))
    view = batch.view(blank_scalars(batch, torch.float64))
    assert [plan.denominator for plan in weigh(recipe(JSD()), view, None)] == [0.0]


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "sampled", "nll"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_give_numbers(name: str, dtype: torch.dtype) -> None:
    rows = toy_rows((6,))
    batch = toy_batch(rows, toy_slot(rows, "t", scale=300.0, dtype=dtype), dtype=dtype)
    hidden_TD, head = toy_student(6, scale=300.0, dtype=dtype)
    loss, grad_TD, grad_VD = run(recipe(DIVERGENCES[name][0]), batch, hidden_TD, head)
    assert torch.isfinite(torch.tensor(loss)) and torch.isfinite(grad_TD).all() and torch.isfinite(grad_VD).all()


def test_jsd_is_bounded_and_symmetric_at_one_half() -> None:
    rows = toy_rows((40,))
    slot = toy_slot(rows, "t", scale=50.0)
    hidden_TD, head = toy_student(40, scale=50.0)
    loss, _, _ = run(recipe(JSD(beta=0.5)), toy_batch(rows, slot), hidden_TD, head)
    assert 0 < loss <= log(2)
    assert slot.hidden_TD is not None and slot.head is not None
    swapped = with_head(
        rows, "t", hidden_TD, Head(weight_VD=head.weight_VD.detach()), torch.ones(40, dtype=torch.float64)
    )
    other = Head(weight_VD=slot.head.weight_VD.clone().requires_grad_())
    again, _, _ = run(recipe(JSD(beta=0.5)), toy_batch(rows, swapped), slot.hidden_TD, other)
    assert again == pytest.approx(loss, abs=1e-12)


def test_each_sums_divergences_by_the_prompts_weights() -> None:
    rows = toy_rows((4, 3))
    slots = [toy_slot(rows, "t", seed=seed, weight=weight) for seed, weight in ((1, 0.25), (2, 0.75))]
    hidden_TD, head = toy_student(7)
    each = recipe(ReverseKL(), target=Each(contexts=("t",)))
    together, grad_TD, _ = run(each, toy_batch(rows, *slots), hidden_TD, head)
    parts = [run(recipe(ReverseKL()), toy_batch(rows, slot), hidden_TD, head) for slot in slots]
    assert together == pytest.approx(sum(part[0] for part in parts), abs=1e-12)
    torch.testing.assert_close(grad_TD, parts[0][1] + parts[1][1], atol=1e-12, rtol=0)


class _Positive(Weight, kind="test_positive_gate"):
    """A gate: tokens the target likes better than the student does."""

    gate = True

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return (opinion.logprob_T > view.student.logprob_T).to(opinion.logprob_T.dtype)


class _Half(Weight, kind="test_half"):
    """A scale."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return torch.full_like(opinion.logprob_T, 0.5)


def test_a_gate_leaves_the_denominator_and_a_scale_does_not() -> None:
    rows = toy_rows((9,))
    batch = toy_batch(rows, toy_slot(rows, "t"))
    hidden_TD, head = toy_student(9)
    plain, _, _ = run(recipe(ReverseKL()), batch, hidden_TD, head)
    half, _, _ = run(recipe(ReverseKL(weights=(_Half(),))), batch, hidden_TD, head)
    assert half == pytest.approx(plain / 2, abs=1e-12)

    slot = batch.slots["t"][0]
    assert slot.hidden_TD is not None and slot.head is not None
    s_TV = (hidden_TD @ head.weight_VD.detach().T).softmax(-1)
    t_TV = (slot.hidden_TD @ slot.head.weight_VD.T).softmax(-1)
    open_T = (t_TV > s_TV).gather(-1, batch.token_T[:, None]).squeeze(-1)
    assert 0 < int(open_T.sum()) < 9
    gated, _, _ = run(recipe(ReverseKL(), weights=(_Positive(),)), batch, hidden_TD, head)
    assert gated == pytest.approx(float(kl(s_TV, t_TV)[open_T].mean()), abs=1e-12)


def test_sequence_reduction_lets_every_rollout_count_alike() -> None:
    rows = toy_rows((2, 8))
    batch = toy_batch(rows, toy_slot(rows, "t"))
    hidden_TD, head = toy_student(10)
    slot = batch.slots["t"][0]
    assert slot.hidden_TD is not None and slot.head is not None
    kl_T = kl((hidden_TD @ head.weight_VD.detach().T).softmax(-1), (slot.hidden_TD @ slot.head.weight_VD.T).softmax(-1))
    loss, _, _ = run(recipe(ReverseKL(), reduction="sequence"), batch, hidden_TD, head)
    assert loss == pytest.approx(float((kl_T[:2].mean() + kl_T[2:].mean()) / 2), abs=1e-12)


def test_the_teacher_s_head_never_receives_a_gradient() -> None:
    rows = toy_rows((5,))
    slot = toy_slot(rows, "t")
    assert slot.hidden_TD is not None and slot.head is not None
    slot.hidden_TD.requires_grad_()
    slot.head.weight_VD.requires_grad_()
    hidden_TD, head = toy_student(5)
    run(recipe(JSD()), toy_batch(rows, slot), hidden_TD, head)
    assert slot.hidden_TD.grad is None and slot.head.weight_VD.grad is None


def test_a_head_of_other_weights_is_found_out() -> None:
    rows = toy_rows((5,))
    slot = toy_slot(rows, "t")
    assert slot.head is not None
    slot.head.weight_VD.mul_(3)
    hidden_TD, head = toy_student(5)
    with pytest.raises(TeacherDisagrees, match="teacher 'teacher' answered log-probabilities that differ by"):
        run(recipe(JSD()), toy_batch(rows, slot), hidden_TD, head)


class _Broken(Term, kind="test_broken"):
    """NaN on every token."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return block.student.logprob_T * float("nan")


def test_a_term_that_gives_nan_is_named() -> None:
    rows = toy_rows((5,))
    hidden_TD, head = toy_student(5)
    with pytest.raises(NonFiniteLoss, match=r"objective\[0\] \(test_broken\) gave nan at step 7"):
        run(recipe(_Broken()), toy_batch(rows, toy_slot(rows, "t"), step=7), hidden_TD, head)


def test_supervised_learning_needs_no_teacher() -> None:
    rows = toy_rows((4, 2))
    sft = Recipe(paper="test", rollout=Dataset(), objective=(NLL(),))
    hidden_TD, head = toy_student(6)
    loss, _, _ = run(sft, toy_batch(rows), hidden_TD, head)
    batch = toy_batch(rows)
    logprobs_TV = (hidden_TD @ head.weight_VD.detach().T).log_softmax(-1)
    assert loss == pytest.approx(-float(logprobs_TV.gather(-1, batch.token_T[:, None]).mean()), abs=1e-12)


def test_the_sampled_gradient_is_the_reverse_kl_s_in_expectation() -> None:
    """Sum over every token the student could have written, weighted by how likely it was to."""
    rows = toy_rows((1,))
    slot = toy_slot(rows, "t")
    assert slot.hidden_TD is not None and slot.head is not None
    hidden_TD, head = toy_student(1)
    s_V = (hidden_TD @ head.weight_VD.detach().T).softmax(-1)[0]
    expected_TD = torch.zeros_like(hidden_TD)
    for token in range(len(s_V)):
        row = [replace(rows[0], completion_ids=(token,))]
        sampled = with_head(row, "t", slot.hidden_TD, slot.head, torch.ones(1, dtype=torch.float64))
        _, grad_TD, _ = run(recipe(SampledReverseKL(importance=False)), toy_batch(row, sampled), hidden_TD, head)
        expected_TD += s_V[token] * grad_TD
    _, grad_TD, _ = run(recipe(ReverseKL()), toy_batch(rows, slot), hidden_TD, head)
    torch.testing.assert_close(grad_TD, expected_TD, atol=1e-12, rtol=0)
