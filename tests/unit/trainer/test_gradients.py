"""Where the gradient on logits goes: heads with a bias, heads that are computed, heads that stand still."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from preceptor_trainer.loss import blank_scalars, fold
from preceptor_trainer.model import Head
from preceptor_trainer.parts.divergences import ForwardKL
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Term
from preceptor_trainer.views import BlockView, Opinion
from preceptor_trainer.weighing import weigh
from tests.unit.trainer import reference as ref
from tests.unit.trainer.test_loss_reference import Case, case, here, recipe
from tests.unit.trainer.toy import D, V


def run(on: Case, term: Term, head: Head, block: int = 5) -> Tensor:
    given = recipe(term, contexts=["a"], target=Single(context="a"))
    view = on.batch.view(blank_scalars(on.batch, on.hidden_TD.dtype))
    return fold(given, on.batch, view, weigh(given, view, None), head, on.hidden_TD, 0, block)[0]


def plain(on: Case, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None) -> None:
    s_TV = torch.nn.functional.linear(hidden_TD, weight_VD, bias_V).softmax(-1)
    there_T, ids_TK = here(on, "a"), on.ids_TK["a"][0]
    per_T = ref.kl(ref.events(on.p_TV["a"][0], ids_TK), ref.events(s_TV, ids_TK))
    ((per_T * there_T).sum() / there_T.sum()).backward()


@pytest.mark.parametrize("support", ["full", "topk"])
def test_a_bias_learns_too(support: str) -> None:
    on = case({"a": [support]})
    start_V = torch.linspace(-1, 1, V, dtype=torch.float64)
    mine = [on.head.weight_VD.detach().clone().requires_grad_(), start_V.clone().requires_grad_()]
    theirs = [each.detach().clone().requires_grad_() for each in mine]
    leaf_TD = on.hidden_TD.clone().requires_grad_()
    grad_TD = run(on, ForwardKL(), Head(mine[0], mine[1]))
    plain(on, leaf_TD, theirs[0], theirs[1])
    torch.testing.assert_close(grad_TD, leaf_TD.grad, atol=1e-12, rtol=0)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=0)


def test_a_head_with_an_adapter_sends_its_gradient_to_the_adapter() -> None:
    """Two microbatches, one graph: W is frozen, its low-rank change learns."""
    on = case({"a": ["full"]})
    base_VD = on.head.weight_VD.detach()
    generator = torch.Generator().manual_seed(4)
    down_RD, up_VR = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((2, D), (V, 2)))
    mine = [down_RD.clone().requires_grad_(), up_VR.clone().requires_grad_()]
    theirs = [down_RD.clone().requires_grad_(), up_VR.clone().requires_grad_()]
    weight_VD = base_VD + mine[1] @ mine[0]
    given = recipe(ForwardKL(), contexts=["a"], target=Single(context="a"))
    view = on.batch.view(blank_scalars(on.batch, torch.float64))
    plans = weigh(given, view, None)
    for begin, end in ((0, 8), (8, on.batch.tokens)):
        fold(given, on.batch, view, plans, Head(weight_VD), on.hidden_TD[begin:end], begin, 3)
    plain(on, on.hidden_TD, base_VD + theirs[1] @ theirs[0])
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=0)


def test_a_frozen_head_is_left_alone_and_hidden_states_learn_all_the_same() -> None:
    on = case({"a": ["topk"]})
    frozen = Head(on.head.weight_VD.detach())
    assert torch.equal(run(on, ForwardKL(), frozen), run(on, ForwardKL(), on.head))
    assert frozen.weight_VD.grad is None


def test_float32_weights_under_bfloat16_hidden_states_gather_in_float32() -> None:
    on = case({"a": ["full"]}, torch.float32)
    exact = Head(on.head.weight_VD.detach().clone().requires_grad_())
    run(on, ForwardKL(), exact)
    on.hidden_TD.data = on.hidden_TD.to(torch.bfloat16)
    mixed = Head(on.head.weight_VD.detach().clone().requires_grad_())
    grad_TD = run(on, ForwardKL(), mixed)
    assert grad_TD.dtype == torch.bfloat16
    assert mixed.weight_VD.grad is not None and exact.weight_VD.grad is not None
    assert mixed.weight_VD.grad.dtype == torch.float32
    assert (mixed.weight_VD.grad - exact.weight_VD.grad).norm() < 2e-2 * exact.weight_VD.grad.norm()


class _Looks(Term, kind="test_gradients_looks"):
    """Needs nothing but the written token, and yet looks at a distribution."""

    needs = ForwardKL.needs.__class__("sampled")

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return block.pair(target)[0].sum(-1)


def test_a_term_that_looks_at_more_than_it_says_is_told() -> None:
    on = case({"a": ["full"]})
    with pytest.raises(ValueError, match="its `needs` must say so"):
        run(on, _Looks(), on.head)


class _Constant(Term, kind="test_gradients_constant"):
    """Depends on nothing."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return target.logprob_T * 0 + 3


def test_a_term_that_depends_on_nothing_moves_nothing() -> None:
    on = case({"a": ["full"]})
    assert not run(on, _Constant(), on.head).any()
