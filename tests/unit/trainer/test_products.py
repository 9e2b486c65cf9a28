"""Products by oneDNN are those of `linear`; where they do not pay or cannot be had, `linear` does them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor.wire.training import Training
from preceptor_trainer import products
from preceptor_trainer.grouping import cuts, hidden_states
from preceptor_trainer.model import load_model
from preceptor_trainer.products import WORK, Products, product
from preceptor_trainer.scoring import score
from preceptor_trainer.student import open_student
from tests.models import tiny_model_folder
from tests.unit.trainer.toy import toy_rows

WIDTH = 128
ROWS = WORK // WIDTH**2
"""As many as it takes for a square weight of this width."""


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every product that oneDNN was given."""
    if not products._there():
        pytest.skip("this build of torch has no oneDNN")
    rows, real = list[int](), products._multiplied

    def multiplied(input_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        rows.append(input_NI.numel() // input_NI.shape[-1])
        return real(input_NI, weight_OI, bias_O)

    monkeypatch.setattr(products, "_multiplied", multiplied)
    return rows


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4)])
def test_a_product_is_that_of_linear(counted: list[int], shape: tuple[int, ...], biased: bool) -> None:
    input_, weight_OI = drawn(*shape, WIDTH), drawn(2 * WIDTH, WIDTH)
    bias_O = drawn(2 * WIDTH) if biased else None
    with torch.inference_mode():
        found = product(input_, weight_OI, bias_O)
    assert counted == [ROWS]
    torch.testing.assert_close(found, linear(input_, weight_OI, bias_O), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", ["nothing", "input", "weight"])
@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4)])
def test_gradients_are_those_of_linear(counted: list[int], shape: tuple[int, ...], frozen: str) -> None:
    leaves = [drawn(*shape, WIDTH), drawn(2 * WIDTH, WIDTH), drawn(2 * WIDTH)]
    moving = [each for each, name in zip(leaves, ("input", "weight", "bias"), strict=True) if name != frozen]
    for each in moving:
        each.requires_grad_()
    found = product(*leaves)
    onto = drawn(2 * WIDTH, *reversed(shape)).transpose(0, -1)  # a gradient need not be contiguous
    grads = torch.autograd.grad(found, moving, onto)
    assert len(counted) == (2 if frozen != "nothing" else 3)
    wanted = linear(*leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grads, torch.autograd.grad(wanted, moving, onto), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("reason", ["little work", "float64", "autocast", "no oneDNN"])
def test_linear_does_what_does_not_pay_or_cannot_be_done(
    counted: list[int], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    rows = ROWS - 1 if reason == "little work" else ROWS
    dtype = torch.float64 if reason == "float64" else torch.float32
    input_NI, weight_OI = drawn(rows, WIDTH).to(dtype), drawn(WIDTH, WIDTH).to(dtype).requires_grad_()
    if reason == "no oneDNN":
        monkeypatch.setattr(products, "_there", lambda: False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reason == "autocast"):
        found = product(input_NI, weight_OI)
        assert torch.equal(found.detach(), linear(input_NI, weight_OI).detach())
    assert counted == [] and found.requires_grad
    assert found.dtype is (torch.bfloat16 if reason == "autocast" else dtype)


def test_modules_are_served_inside_only(counted: list[int]) -> None:
    module, input_NI = torch.nn.Linear(WIDTH, WIDTH), drawn(ROWS, WIDTH)
    with torch.inference_mode():
        with Products():
            module(input_NI)
        module(input_NI)
    assert counted == [ROWS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_with_a_head_are_those_of_torch(counted: list[int], dtype: torch.dtype) -> None:
    """In slices, the last one shorter; in float64 torch does them."""
    tokens, width, vocab = 40, 24, products.SLICE + 100
    hidden_TD, weight_VD, grad_TV = (
        drawn(*shape).to(dtype) for shape in ((tokens, width), (vocab, width), (tokens, vocab))
    )
    out_TV, out_TD, sum_VD = (
        torch.empty(tokens, vocab, dtype=dtype),
        torch.empty(tokens, width, dtype=dtype),
        weight_VD.clone(),
    )
    products.logits(hidden_TD, weight_VD, out_TV)
    products.onto_hidden(grad_TV, weight_VD, out_TD)
    products.onto_head(grad_TV, hidden_TD, sum_VD)
    assert len(counted) == (6 if dtype is torch.float32 else 0)
    torch.testing.assert_close(out_TV, hidden_TD @ weight_VD.t(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out_TD, grad_TV @ weight_VD, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sum_VD, weight_VD + grad_TV.t() @ hidden_TD, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_student_learns_the_same_with_it_and_without(
    counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpointing: bool
) -> None:
    monkeypatch.setattr(products, "WORK", 1)
    module = open_student(tiny_model_folder(tmp_path), Training(gradient_checkpointing=checkpointing)).model.module
    rows = toy_rows([4, 3, 5], group=2)
    (cut,) = cuts(rows, module, 1000)

    def learned() -> tuple[torch.Tensor, list[torch.Tensor]]:
        module.zero_grad()
        hidden_TD = hidden_states(module, cut)
        hidden_TD.backward(drawn(*hidden_TD.shape))
        return hidden_TD.detach(), [each.grad for each in module.parameters() if each.grad is not None]

    found = learned()
    linears = sum(isinstance(each, torch.nn.Linear) for each in module.base_model.modules())
    assert len(counted) == (4 if checkpointing else 3) * linears
    monkeypatch.setattr(products, "_there", lambda: False)
    torch.testing.assert_close(found, learned(), rtol=1e-4, atol=1e-5)


def test_scores_are_the_same_with_it_and_without(
    counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))
    monkeypatch.setattr(products, "WORK", 1)
    draw = np.random.default_rng(0)
    top = model.card.vocab_size
    request = ScoreRequest(
        contexts=[draw.integers(0, top, 5, dtype=np.int32) for _ in range(3)],
        completions=[draw.integers(0, top, 11, dtype=np.int32) for _ in range(6)],
        context_of=np.arange(6, dtype=np.int32) % 3,
        support=Support.TOPK,
        k=5,
    )
    found = score(model, request)
    assert counted
    monkeypatch.setattr(products, "_there", lambda: False)
    plain = score(model, request)
    np.testing.assert_allclose(found.logprob_T, plain.logprob_T, atol=1e-5)
    assert found.logprobs_TK is not None and plain.logprobs_TK is not None
    np.testing.assert_allclose(found.logprobs_TK, plain.logprobs_TK, atol=1e-5)
