"""The composing loss on whatever a batch may hold: ragged, empty, masked, extreme. Numbers, always; never NaN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preceptor_trainer.loss import blank_scalars, fold
from preceptor_trainer.model import Head
from preceptor_trainer.parts.divergences import JSD, ForwardKL
from preceptor_trainer.parts.targets import LogLinear, Mixture, Route, Single
from preceptor_trainer.recipe import Target, Term
from preceptor_trainer.weighing import TermWeights, weigh
from tests.unit.trainer import reference as ref
from tests.unit.trainer.test_loss_reference import DIVERGENCES, SAMPLED, SUPPORTS, Signed, composed, narrowed, recipe
from tests.unit.trainer.test_loss_reference import case as two_rows_of
from tests.unit.trainer.toy import D, V, toy_batch, toy_rows, toy_slot, toy_student

TERMS = {**DIVERGENCES, **SAMPLED}


def finite(loss: float, *tensors: Tensor) -> None:
    assert torch.isfinite(torch.tensor(loss))
    for tensor in tensors:
        assert torch.isfinite(tensor).all()


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    absent=st.sets(st.integers(0, 3)),
    support=st.sampled_from(SUPPORTS),
    name=st.sampled_from(sorted(TERMS)),
    block=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_any_batch_cut_anyhow_equals_the_whole(
    lengths: list[int], absent: set[int], support: str, name: str, block: int, seed: int
) -> None:
    rows = toy_rows([*lengths, 1], seed=seed)
    slot, p_TV, ids_TK = narrowed(toy_slot(rows, "a", seed, tuple(absent)), rows, support, seed)
    batch = toy_batch(rows, slot)
    hidden_TD, head = toy_student(batch.tokens, seed=seed + 1)
    term = TERMS[name]
    given_ = recipe(term, contexts=["a"], target=Single(context="a"))
    view = batch.view(blank_scalars(batch, torch.float64))
    plans = weigh(given_, view, None)
    if plans[0].denominator == 0:
        assert not slot.present_T.any()
        return
    grad_TD, sums = fold(given_, batch, view, plans, head, hidden_TD, 0, block)
    whole_TD, whole = fold(given_, batch, view, plans, head, hidden_TD, 0, 1000)
    finite(sums.loss, grad_TD)
    assert sums.loss == pytest.approx(whole.loss, abs=1e-12)
    torch.testing.assert_close(grad_TD, whole_TD, atol=1e-12, rtol=0)
    if name in DIVERGENCES:
        s_TV = (hidden_TD @ head.weight_VD.detach().T).softmax(-1)
        per_T = ref.DIVERGENCES[name](ref.events(s_TV, ids_TK), ref.events(p_TV, ids_TK)) * slot.present_T
        assert sums.loss == pytest.approx(float(per_T.sum() / slot.present_T.sum()), abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", sorted(TERMS))
def test_extreme_logits_give_numbers(name: str, support: str, dtype: torch.dtype) -> None:
    on = two_rows_of({"a": [support]}, dtype, scale=300.0)
    finite(*composed(recipe(TERMS[name], contexts=["a"], target=Single(context="a")), on))


@pytest.mark.parametrize(
    "target",
    [
        LogLinear(coefficients={"a": 2.0, "b": -1.0}),
        LogLinear(coefficients={"a": 1.0, "b": -1.0}, base="a", centre=True, clip=10.0),
        Mixture(contexts=("a", "b")),
        Mixture(contexts=("a", "b"), shares={"a": 0.3}, tau=0.01),
        Route(contexts=("a", "b"), by="surest"),
        Route(contexts=("a", "b"), by="likeliest"),
    ],
    ids=lambda target: target.kind,
)
@pytest.mark.parametrize("supports", [("full", "full"), ("full", "topk"), ("ids", "topk")])
@pytest.mark.parametrize("name", ["reverse_kl", "jsd", "skew_forward_kl"])
def test_extreme_opinions_compose_to_numbers(name: str, supports: tuple[str, str], target: Target) -> None:
    for dtype in (torch.float64, torch.float32):
        on = two_rows_of({"a": [supports[0]], "b": [supports[1]]}, dtype, scale=300.0)
        finite(*composed(recipe(TERMS[name], contexts=["a", "b"], target=target), on))


@pytest.mark.parametrize("name", sorted(TERMS))
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_tokens_that_are_impossible_give_numbers(name: str, whose: str) -> None:
    """A bias of minus infinity on tokens that were not written, as a vocabulary mask sets it."""
    rows = toy_rows((6, 3))
    written = {token for row in rows for token in row.completion_ids}
    bias_V = torch.zeros(V, dtype=torch.float64)
    bias_V[[token for token in range(V) if token not in written][:2]] = float("-inf")
    slot = toy_slot(rows, "a")
    assert slot.hidden_TD is not None and slot.head is not None
    if whose != "student":
        teacher = Head(slot.head.weight_VD, bias_V)
        logprobs_TV = (slot.hidden_TD @ teacher.weight_VD.T + bias_V).log_softmax(-1)
        token_T1 = torch.tensor([token for row in rows for token in row.completion_ids])[:, None]
        slot = replace(slot, head=teacher, logprob_T=logprobs_TV.gather(-1, token_T1).squeeze(-1))
    batch = toy_batch(rows, slot)
    hidden_TD, head = toy_student(batch.tokens)
    head = Head(head.weight_VD, bias_V if whose != "teacher" else None)
    given_ = recipe(TERMS[name], contexts=["a"], target=Single(context="a"))
    view = batch.view(blank_scalars(batch, torch.float64))
    grad_TD, sums = fold(given_, batch, view, weigh(given_, view, None), head, hidden_TD, 0, 4)
    assert head.weight_VD.grad is not None
    finite(sums.loss, grad_TD, head.weight_VD.grad)


@pytest.mark.parametrize("name", sorted(TERMS))
def test_weights_of_zero_give_zero(name: str) -> None:
    """Even where the loss itself is not a number."""
    on = two_rows_of({"a": ["full"]})
    given_ = recipe(TERMS[name], contexts=["a"], target=Single(context="a"))
    zeros_T = torch.zeros(on.batch.tokens, dtype=torch.float64)
    plan = TermWeights(weight_T=(zeros_T,), denominator=3.0)
    view = on.batch.view(blank_scalars(on.batch, torch.float64))
    grad_TD, sums = fold(given_, on.batch, view, [plan], on.head, on.hidden_TD, 0, 4)
    assert sums.loss == 0.0 and not grad_TD.any()


@pytest.mark.parametrize("term", [JSD(), ForwardKL(clip=0.05), SAMPLED["nll"]], ids=["closed", "autograd", "sampled"])
def test_a_batch_without_a_token_gives_nothing(term: Term) -> None:
    rows = toy_rows((0, 0))
    batch = toy_batch(rows, toy_slot(rows, "a"))
    hidden_TD, head = torch.zeros(0, D, dtype=torch.float64), toy_student(1)[1]
    given_ = recipe(term, contexts=["a"], target=Single(context="a"), weights=(Signed(),))
    view = batch.view(blank_scalars(batch, torch.float64))
    plan = TermWeights(weight_T=(torch.zeros(0, dtype=torch.float64),), denominator=0.0)
    grad_TD, sums = fold(given_, batch, view, [plan], head, hidden_TD, 0)
    assert grad_TD.shape == (0, D) and sums.loss == 0.0 and sums.tokens == 0
