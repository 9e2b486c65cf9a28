"""Products by oneDNN are those of `linear`; where they do not pay or cannot be had, `linear` does them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer import products
from preceptor_trainer.model import load_model
from preceptor_trainer.products import ROWS, WIDTH, Products, product
from preceptor_trainer.scoring import score
from tests.models import tiny_model_folder


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every product that oneDNN was given."""
    if not products._there():
        pytest.skip("this build of torch has no oneDNN")
    rows, real = list[int](), products._multiplied

    def multiplied(input_NI: torch.Tensor, laid_out: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        rows.append(input_NI.numel() // input_NI.shape[-1])
        return real(input_NI, laid_out, bias_O)

    monkeypatch.setattr(products, "_multiplied", multiplied)
    return rows


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4)])
def test_a_product_is_that_of_linear(counted: list[int], shape: tuple[int, ...], biased: bool) -> None:
    input_, weight_OI = drawn(*shape, WIDTH), drawn(2 * WIDTH, WIDTH)
    bias_O = drawn(2 * WIDTH) if biased else None
    with torch.inference_mode():
        found = product(weight_OI, bias_O, ROWS)(input_)
    assert counted == [ROWS]
    torch.testing.assert_close(found, linear(input_, weight_OI, bias_O), rtol=1e-4, atol=1e-4)


def test_one_layout_serves_several_calls(counted: list[int]) -> None:
    input_NI, weight_OI = drawn(2 * ROWS, WIDTH), drawn(WIDTH, WIDTH)
    with torch.inference_mode():
        multiply = product(weight_OI, None, len(input_NI))
        found = torch.cat([multiply(part) for part in input_NI.split(100)])
    assert sum(counted) == 2 * ROWS and len(counted) > 1
    torch.testing.assert_close(found, linear(input_NI, weight_OI), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reason", ["few rows", "narrow", "float64", "gradient", "no oneDNN"])
def test_linear_does_what_does_not_pay_or_cannot_be_done(
    counted: list[int], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    rows = ROWS - 1 if reason == "few rows" else ROWS
    width = WIDTH - 1 if reason == "narrow" else WIDTH
    dtype = torch.float64 if reason == "float64" else torch.float32
    input_NI, weight_OI = drawn(rows, width).to(dtype), drawn(WIDTH, width).to(dtype).requires_grad_()
    if reason == "no oneDNN":
        monkeypatch.setattr(products, "_there", lambda: False)
    with torch.set_grad_enabled(reason == "gradient"):
        found = product(weight_OI, None, rows)(input_NI)
    assert counted == []
    assert torch.equal(found.detach(), linear(input_NI, weight_OI).detach())
    assert found.requires_grad is (reason == "gradient")


def test_modules_are_served_inside_only(counted: list[int]) -> None:
    module, input_NI = torch.nn.Linear(WIDTH, WIDTH), drawn(ROWS, WIDTH)
    with torch.inference_mode():
        with Products():
            module(input_NI)
        module(input_NI)
    assert counted == [ROWS]


def test_new_weights_are_heeded_at_once(counted: list[int]) -> None:
    module, input_NI = torch.nn.Linear(WIDTH, WIDTH, bias=False), drawn(ROWS, WIDTH)
    with torch.inference_mode(), Products():
        before = module(input_NI)
        module.weight.data = 2 * module.weight.data
        after = module(input_NI)
    torch.testing.assert_close(after, 2 * before, rtol=1e-4, atol=1e-4)


def test_scores_are_the_same_with_it_and_without(
    counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))
    monkeypatch.setattr(products, "WIDTH", 8)
    monkeypatch.setattr(products, "ROWS", 16)
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
