"""The composing loss against plain materialised tables in float64: every objective, support and way of composing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from preceptor_trainer.batch import Batch, Row, Slot
from preceptor_trainer.loss import blank_scalars, first_pass, fold
from preceptor_trainer.model import Head
from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import JSD, ForwardKL, ReverseKL, SkewForwardKL, SkewReverseKL
from preceptor_trainer.parts.objectives import (
    NLL,
    PolicyGradient,
    SampledKL,
    SampledReverseKL,
    Unlikelihood,
)
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Each, LogLinear, Mixture, Route, Single
from preceptor_trainer.recipe import Recipe, Target, Term, Weight
from preceptor_trainer.views import FLOOR, Scalars, TokenView
from preceptor_trainer.weighing import weigh
from tests.unit.trainer import reference as ref
from tests.unit.trainer.toy import V, toy_batch, toy_rows, toy_slot, toy_student

LENGTHS = (3, 0, 5, 1, 4)
ABSENT = {"a": (2,), "b": (3,)}
"""Rows that a context says nothing about."""
K = 4

DIVERGENCES: dict[str, Term] = {
    "forward_kl": ForwardKL(),
    "reverse_kl": ReverseKL(),
    "jsd": JSD(beta=0.5),
    "jsd_skewed": JSD(beta=0.1),
    "skew_forward_kl": SkewForwardKL(alpha=0.1),
    "skew_forward_kl_0": SkewForwardKL(alpha=0.0),
    "skew_reverse_kl": SkewReverseKL(alpha=0.3),
    "skew_reverse_kl_0": SkewReverseKL(alpha=0.0),
    "forward_kl_clipped": ForwardKL(clip=0.05),
    "jsd_clipped": JSD(clip=0.02),
}
SAMPLED: dict[str, Term] = {
    "sampled_reverse_kl": SampledReverseKL(),
    "sampled_reverse_kl_alone": SampledReverseKL(importance=False),
    "k2": SampledKL(estimator="k2"),
    "k3": SampledKL(estimator="k3"),
    "policy_gradient": PolicyGradient(),
    "nll": NLL(),
    "unlikelihood": Unlikelihood(),
}
SUPPORTS = ("full", "topk", "ids", "whole_topk")


class Signed(Weight, kind="test_reference_signed"):
    """A number per token of either sign, and 0 on some."""

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return ((view.token_T % 4) - 1).to(opinion.logprob_T.dtype)


class Gate(Weight, kind="test_reference_gate"):
    """Every other position."""

    gate = True

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        return (view.position_T % 2 == 0).to(opinion.logprob_T.dtype)


@dataclass(frozen=True)
class Case:
    """Everything that the reference needs, in float64."""

    batch: Batch
    hidden_TD: Tensor
    head: Head
    p_TV: dict[str, list[Tensor]]
    """What every opinion truly is, by context."""
    ids_TK: dict[str, list[Tensor | None]]
    """What it was narrowed to."""


def narrowed(slot: Slot, rows: Sequence[Row], support: str, seed: int) -> tuple[Slot, Tensor, Tensor | None]:
    """A slot as a teacher with this support would fill it; the true probabilities; the ids."""
    assert slot.hidden_TD is not None and slot.head is not None
    logprobs_TV = (slot.hidden_TD.double() @ slot.head.weight_VD.double().T).log_softmax(-1)
    p_TV = logprobs_TV.exp()
    if support == "full":
        return slot, p_TV, None
    bare = replace(slot, hidden_TD=None, head=None)
    if support == "sampled":
        return bare, p_TV, None
    here_T1 = (slot.present_T > 0)[:, None]
    k = V if support == "whole_topk" else K
    ids_TK = logprobs_TV.topk(k, -1).indices
    if support == "ids":  # anybody's ids, with a pad on some tokens
        generator = torch.Generator().manual_seed(seed)
        ids_TK = torch.stack([torch.randperm(V, generator=generator)[:k] for _ in p_TV]).reshape(-1, k)
        ids_TK[::2, -1] = -1
    ids_TK = torch.where(here_T1, ids_TK, -1)
    at_TE = ref.events(p_TV, ids_TK).log().clamp(min=FLOOR).to(slot.logprob_T.dtype)
    at_TE = torch.where(here_T1, at_TE, torch.tensor([*[FLOOR] * k, 0.0], dtype=at_TE.dtype))
    return replace(bare, ids_TK=ids_TK, logprobs_TK=at_TE[:, :-1], tail_T=at_TE[:, -1]), p_TV, ids_TK


def case(supports: Mapping[str, Sequence[str]], dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Case:
    """Rows with opinions of these supports, by context; a context may have several."""
    rows = toy_rows(LENGTHS, group=2)
    slots, p, ids = list[Slot](), dict[str, list[Tensor]](), dict[str, list[Tensor | None]]()
    for index, (name, wanted) in enumerate(supports.items()):
        for fan, support in enumerate(wanted):
            weight = 1.0 if len(wanted) == 1 else (0.25, 0.75)[fan]
            seed = 10 * index + fan + 1
            full = toy_slot(rows, name, seed, ABSENT.get(name, ()), weight, scale, dtype)
            slot, p_TV, ids_TK = narrowed(full, rows, support, seed)
            slots.append(slot)
            p.setdefault(name, []).append(p_TV)
            ids.setdefault(name, []).append(ids_TK)
    hidden_TD, head = toy_student(sum(LENGTHS), scale=scale, dtype=dtype)
    return Case(toy_batch(rows, *slots, dtype=dtype), hidden_TD, head, p, ids)


def recipe(*terms: Term, contexts: Sequence[str], **fields: object) -> Recipe:
    base = {"paper": "test", "rollout": Student(), "contexts": {name: Plain() for name in contexts}}
    return Recipe.model_validate({**base, "objective": terms, **fields})


def composed(given: Recipe, on: Case, block: int | None = 5) -> tuple[float, Tensor, Tensor]:
    """Loss and gradients as the composing loss has them."""
    on.head.weight_VD.grad = None
    view, opinions = on.batch.view(blank_scalars(on.batch, on.hidden_TD.dtype)), None
    if given.weights or any(term.weights for term in given.objective):
        student, opinions = first_pass(given, on.batch, on.head, on.hidden_TD, block)
        view = on.batch.view(student)
    plans = weigh(given, view, opinions)
    grad_TD, sums = fold(given, on.batch, view, plans, on.head, on.hidden_TD, 0, block)
    assert on.head.weight_VD.grad is not None
    return sums.loss, grad_TD, on.head.weight_VD.grad.clone()


def expected(on: Case, loss: ref.Callable[[Tensor], Tensor]) -> tuple[float, Tensor, Tensor]:
    """The same by autograd from whole tables; `loss` is given the student's probabilities."""
    leaf_TD = on.hidden_TD.detach().double().requires_grad_()
    leaf_VD = on.head.weight_VD.detach().double().requires_grad_()
    value = loss((leaf_TD @ leaf_VD.T).softmax(-1))
    value.backward()
    assert leaf_TD.grad is not None and leaf_VD.grad is not None
    return value.item(), leaf_TD.grad, leaf_VD.grad


def same(ours: tuple[float, Tensor, Tensor], theirs: tuple[float, Tensor, Tensor], dtype: torch.dtype) -> None:
    rtol, atol = (1e-10, 1e-10) if dtype == torch.float64 else (1e-4, 1e-6)
    assert ours[0] == pytest.approx(theirs[0], rel=rtol, abs=atol)
    for mine, wanted in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(mine.double(), wanted, rtol=rtol, atol=atol)


def here(on: Case, name: str, fan: int = 0) -> Tensor:
    return on.batch.slots[name][fan].present_T.double()


def at(p_TV: Tensor, on: Case) -> Tensor:
    """Log-probability of the written tokens."""
    return p_TV.gather(-1, on.batch.token_T[:, None]).squeeze(-1).log()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_on_any_support(name: str, support: str, dtype: torch.dtype) -> None:
    on = case({"a": [support]}, dtype)
    there_T, ids_TK = here(on, "a"), on.ids_TK["a"][0]
    target_TE = ref.events(on.p_TV["a"][0], ids_TK)

    def plain(s_TV: Tensor) -> Tensor:
        return (ref.DIVERGENCES[name](ref.events(s_TV, ids_TK), target_TE) * there_T).sum() / there_T.sum()

    given = recipe(DIVERGENCES[name], contexts=["a"], target=Single(context="a"))
    for block in (1, 5, None):
        same(composed(given, on, block), expected(on, plain), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("support", ["sampled", "topk", "full"])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_term_of_the_written_token_with_signed_weights(name: str, support: str, dtype: torch.dtype) -> None:
    on = case({"a": [support]}, dtype)
    term = SAMPLED[name].model_copy(update={"weights": (Signed(), Gate())})
    there_T = here(on, "a") if term.targeted else torch.ones(on.batch.tokens, dtype=torch.float64)
    open_T = there_T * (on.batch.position_T % 2 == 0)
    weight_T = open_T * (on.batch.token_T % 4 - 1)
    # What the teacher answered, not what it would have in more digits.
    said_T, written_T = on.batch.slots["a"][0].logprob_T.double(), on.batch.behaviour.logprob_T.double()

    def plain(s_TV: Tensor) -> Tensor:
        per_T = ref.SAMPLED[name](at(s_TV, on), said_T, written_T, weight_T)
        return (weight_T * per_T).sum() / open_T.sum()

    given = recipe(term, contexts=["a"], target=Single(context="a"))
    same(composed(given, on), expected(on, plain), dtype)


def pads(ids_TK: Tensor | None, p_TE: Tensor) -> Tensor:
    found_TE = torch.zeros_like(p_TE, dtype=torch.bool)
    if ids_TK is not None:
        found_TE[:, :-1] = ids_TK < 0
    return found_TE


def shared(on: Case, names: Sequence[str]) -> Tensor | None:
    """The ids that composing is done on: what all sparse opinions that are there name, in the first's order."""
    sparse = [(name, ids) for name in names if (ids := on.ids_TK[name][0]) is not None]
    if not sparse:
        return None
    rows = []
    for t in range(on.batch.tokens):
        said = [ids[t].tolist() for name, ids in sparse if here(on, name)[t] > 0]
        if said:
            first, *rest = said
            rows.append([i if all(i in other for other in rest) else -1 for i in first])
            continue
        whole = [name for name in names if on.ids_TK[name][0] is None and here(on, name)[t] > 0]
        rows.append(on.p_TV[whole[0]][0][t].topk(K).indices.tolist() if whole else [-1] * K)
    return torch.tensor(rows)


PAIRS = [("full", "full"), ("topk", "topk"), ("ids", "ids"), ("full", "topk"), ("ids", "full")]


@pytest.mark.parametrize("supports", PAIRS, ids=["+".join(pair) for pair in PAIRS])
@pytest.mark.parametrize("name", ["forward_kl", "jsd", "skew_reverse_kl", "forward_kl_clipped"])
@pytest.mark.parametrize("target", ["log_linear", "extrapolation", "mixture", "surer", "surest", "order"])
def test_two_contexts_of_any_supports_composed(target: str, name: str, supports: tuple[str, str]) -> None:
    on = case({"a": [supports[0]], "b": [supports[1]]})
    ids_TK = shared(on, ["a", "b"])
    a_TE, b_TE = (ref.events(on.p_TV[each][0], ids_TK) for each in ("a", "b"))
    a_T, b_T = here(on, "a"), here(on, "b")
    part: Target
    if target in ("log_linear", "extrapolation"):
        share = 0.3 if target == "log_linear" else 1.2
        part, there_T = LogLinear(coefficients={"a": share, "b": 1 - share}), a_T * b_T
        q_TE = ref.log_linear([a_TE, b_TE], [share, 1 - share], pads(ids_TK, a_TE))
    else:
        there_T = torch.maximum(a_T, b_T)
        entropies = [-torch.special.xlogy(each, each).sum(-1) for each in (a_TE, b_TE)]
        if target == "surer":
            part = Mixture(contexts=("a", "b"), shares={"b": 0.4}, tau=0.7)
            sure = [a_T * (-entropies[0] / 0.7).exp(), 0.4 * b_T * (-entropies[1] / 0.7).exp()]
            total_T = sum(sure[1:], sure[0]).clamp(min=1e-9)
            q_TE = (a_TE * sure[0][:, None] + b_TE * sure[1][:, None]) / total_T[:, None]
        elif target == "mixture":
            part = Mixture(contexts=("a", "b"))
            q_TE = (a_TE * a_T[:, None] + b_TE * b_T[:, None]) / (a_T + b_T).clamp(min=1)[:, None]
        else:
            better_T = (a_T == 0) if target == "order" else (a_T == 0) | (entropies[1] < entropies[0])
            part = Route.model_validate({"contexts": ("a", "b"), "by": target})
            q_TE = torch.where((better_T & (b_T > 0))[:, None], b_TE, a_TE)
    assert 0 < int(there_T.sum()) < on.batch.tokens + 1

    def plain(s_TV: Tensor) -> Tensor:
        return (ref.DIVERGENCES[name](ref.events(s_TV, ids_TK), q_TE) * there_T).sum() / there_T.sum()

    given = recipe(DIVERGENCES[name], contexts=["a", "b"], target=part)
    same(composed(given, on), expected(on, plain), torch.float64)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("second", ["full", "topk", "sampled"])
def test_several_terms_weights_and_fans_at_once(second: str, reduction: str) -> None:
    """A weighted sum of divergences from two prompts, a gated sampled term on another context, and likelihood."""
    on = case({"a": ["full", "topk"], "b": [second]})
    token_T, position_T = on.batch.token_T, on.batch.position_T
    given = recipe(
        JSD(beta=0.5, coefficient=0.7, weights=(Signed(),)),
        SampledReverseKL(target=Single(context="b"), weights=(Gate(),)),
        NLL(coefficient=0.1),
        contexts=["a", "b"],
        target=Each(contexts=("a",)),
        reduction=reduction,
    )

    def divide(weighted_T: Tensor, open_T: Tensor) -> Tensor:
        if reduction == "token":
            return weighted_T.sum() / open_T.sum()
        rows = [on.batch.rollout_T == row for row in range(len(LENGTHS))]
        means = [weighted_T[row].sum() / open_T[row].sum() for row in rows if open_T[row].sum() > 0]
        return torch.stack(means).mean()

    def plain(s_TV: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for fan, share in enumerate((0.25, 0.75)):
            ids_TK = on.ids_TK["a"][fan]
            per_T = ref.jsd(ref.events(s_TV, ids_TK), ref.events(on.p_TV["a"][fan], ids_TK), 0.5)
            total = total + 0.7 * divide(share * (token_T % 4 - 1) * here(on, "a", fan) * per_T, here(on, "a"))
        open_T = here(on, "b") * (position_T % 2 == 0)
        s_T, b_T = at(s_TV, on), on.batch.behaviour.logprob_T.double()
        total = total + divide(
            open_T * ref.SAMPLED["sampled_reverse_kl"](s_T, at(on.p_TV["b"][0], on), b_T, b_T), open_T
        )
        return total + 0.1 * divide(-s_T, torch.ones_like(s_T))

    same(composed(given, on), expected(on, plain), torch.float64)


def test_a_tied_head_gets_both_of_its_gradients() -> None:
    """The head's weight is the embedding too: hidden states depend on it."""
    on = case({"a": ["topk"]})
    weight_VD, token_T = on.head.weight_VD.detach(), on.batch.token_T
    ids_TK, there_T = on.ids_TK["a"][0], here(on, "a")
    given = recipe(ForwardKL(), contexts=["a"], target=Single(context="a"))

    tied_VD = weight_VD.clone().requires_grad_()
    hidden_TD = (2 * tied_VD[token_T]).tanh()
    view = on.batch.view(blank_scalars(on.batch, torch.float64))
    grad_TD, _ = fold(given, on.batch, view, weigh(given, view, None), Head(tied_VD), hidden_TD.detach(), 0, 4)
    hidden_TD.backward(grad_TD)

    leaf_VD = weight_VD.clone().requires_grad_()
    s_TV = ((2 * leaf_VD[token_T]).tanh() @ leaf_VD.T).softmax(-1)
    per_T = ref.kl(ref.events(on.p_TV["a"][0], ids_TK), ref.events(s_TV, ids_TK))
    ((per_T * there_T).sum() / there_T.sum()).backward()
    torch.testing.assert_close(tied_VD.grad, leaf_VD.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("support", ["full", "topk"])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"])
def test_bfloat16_stays_within_two_hundredths(name: str, support: str) -> None:
    """Logits are rounded to 8 bits, once on the student's side and, on the support full, once on the teacher's."""
    on = case({"a": [support]}, torch.bfloat16)
    there_T, ids_TK = here(on, "a"), on.ids_TK["a"][0]
    target_TE = ref.events(on.p_TV["a"][0], ids_TK)

    def plain(s_TV: Tensor) -> Tensor:
        return (ref.DIVERGENCES[name](ref.events(s_TV, ids_TK), target_TE) * there_T).sum() / there_T.sum()

    ours = composed(recipe(DIVERGENCES[name], contexts=["a"], target=Single(context="a")), on)
    theirs = expected(on, plain)
    assert ours[0] == pytest.approx(theirs[0], rel=2e-2)
    for mine, wanted in zip(ours[1:], theirs[1:], strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - wanted).norm() < 2e-2 * wanted.norm()
