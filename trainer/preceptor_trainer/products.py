"""Float32 matrix products on a CPU by oneDNN, where that pays: the same numbers to the last few bits, twice as fast.

torch computes them with MKL, which on processors of other makers than its own leaves half of their width unused. The
operator is the one that torch's own compiler uses, given weights as they lie: nothing is laid out anew, or kept. Where
a build lacks it, or it disagrees with `linear`, where anything is not float32 or not on a CPU, or where there is too
little to compute, `linear` it is.

Shape letters: N rows, I inputs, O outputs; T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

WORK = 1 << 20
"""Multiplications from which on the operator is not the slower one: a call of it costs ten microseconds more."""
SLICE = 4096
"""Rows of a head whose products exist beside what they are added to."""
AGREE = 1e-4

_log = logging.getLogger(__name__)


def faster(module: PreTrainedModel, rows: int) -> AbstractContextManager[object]:
    """For passes of so many rows without gradient. Looking at every call costs a small model a tenth of its time: one
    that cannot gain is left alone."""
    hidden_size = module.config.get_text_config().hidden_size
    return Products() if module.device.type == "cpu" and pays(rows, hidden_size, hidden_size) else nullcontext()


def learning(module: PreTrainedModel) -> AbstractContextManager[object]:
    """For passes that take a gradient. The way back is computed as the way there was."""
    return Products() if module.device.type == "cpu" else nullcontext()


def pays(rows: int, inputs: int, outputs: int) -> bool:
    """Whether there is enough to compute."""
    return rows * inputs * outputs >= WORK


class Products(TorchFunctionMode):
    """Inside, `linear` is computed so wherever it pays, with gradient or without."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.linear and not kwargs and len(args) in (2, 3):
            return product(*args)
        return func(*args, **(kwargs or {}))


def product(input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`linear`. The input may have more dimensions in front."""
    rows = input_NI.numel() // max(input_NI.shape[-1], 1)
    # Under autocast it is no float32 product, whatever comes in.
    if torch.is_autocast_enabled("cpu") or not _suits(rows, input_NI, weight_OI):
        return functional.linear(input_NI, weight_OI, bias_O)
    if torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in (input_NI, weight_OI, bias_O)
    ):
        return cast("Tensor", _Linear.apply(input_NI, weight_OI, bias_O))
    return _multiplied(input_NI, weight_OI, bias_O)


def logits(hidden_TD: Tensor, weight_VD: Tensor, out_TV: Tensor) -> Tensor:
    """`out_TV`, overwritten by hidden states times head. No gradient."""
    if not _suits(len(hidden_TD), hidden_TD, weight_VD):
        return torch.mm(hidden_TD, weight_VD.t(), out=out_TV)
    for begin in range(0, len(weight_VD), SLICE):
        part_VD = weight_VD[begin : begin + SLICE]
        out_TV[:, begin : begin + SLICE] = _multiplied(hidden_TD, part_VD, None)
    return out_TV


def onto_hidden(grad_TV: Tensor, weight_VD: Tensor, out_TD: Tensor) -> None:
    """Overwrite `out_TD` by a gradient on logits, on the hidden states. No gradient."""
    if not _suits(len(grad_TV), grad_TV, weight_VD):
        torch.mm(grad_TV, weight_VD, out=out_TD)
        return
    out_TD.zero_()
    for begin in range(0, len(weight_VD), SLICE):
        part_VD = weight_VD[begin : begin + SLICE]
        out_TD += _multiplied(grad_TV[:, begin : begin + SLICE], part_VD.t(), None)


def onto_head(grad_TV: Tensor, hidden_TD: Tensor, sum_VD: Tensor) -> None:
    """Add a gradient on logits, on the head, to `sum_VD`. No gradient."""
    if not _suits(len(hidden_TD), grad_TV, sum_VD):
        sum_VD.addmm_(grad_TV.t().to(sum_VD.dtype), hidden_TD.to(sum_VD.dtype))
        return
    for begin in range(0, len(sum_VD), SLICE):
        part_TV = grad_TV[:, begin : begin + SLICE]
        sum_VD[begin : begin + SLICE] += _multiplied(part_TV.t(), hidden_TD.t(), None)


class _Linear(torch.autograd.Function):
    """`linear`, forward and back."""

    @staticmethod
    def forward(ctx: Any, input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(input_NI, weight_OI)
        return _multiplied(input_NI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input_NI, weight_OI = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_NO = grad.reshape(-1, grad.shape[-1]).contiguous()
        on_input = on_weight = on_bias = None
        if ctx.needs_input_grad[0]:
            on_input = _multiplied(grad_NO, weight_OI.t(), None).view_as(input_NI)
        if ctx.needs_input_grad[1]:
            on_weight = _multiplied(grad_NO.t(), input_NI.reshape(-1, input_NI.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            on_bias = grad_NO.sum(0)
        return on_input, on_weight, on_bias


def _suits(rows: int, *tensors: Tensor) -> bool:
    """Whether a product of so many rows with the last of these, a matrix, is computed so."""
    matrix = tensors[-1]
    return (
        matrix.dim() == 2
        and pays(rows, *matrix.shape)
        and all(
            type(each) in (Tensor, nn.Parameter) and each.dtype is torch.float32 and each.device.type == "cpu"
            for each in tensors
        )
        and _there()
    )


def _multiplied(input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input_NI, weight_OI, bias_O, "none", [], "")


@cache
def _there() -> bool:
    """Whether this build of torch has the operator, and it says what `linear` says, however the two are laid out."""
    if not torch.backends.mkldnn.is_available():
        return False
    draw = torch.Generator().manual_seed(0)
    input_NI, weight_OI, bias_O = (torch.randn(*shape, generator=draw) for shape in ((6, 24), (16, 24), (16,)))
    asked: list[tuple[Tensor, Tensor, Tensor | None]] = [
        (input_NI, weight_OI, bias_O),
        (input_NI.t().contiguous().t(), weight_OI.t().contiguous().t(), None),
        (input_NI[:, :8], weight_OI[:, :8], None),
    ]
    try:
        agrees = all(_agree(_multiplied, *each) for each in asked)
    except (AttributeError, RuntimeError) as error:
        _log.info("products are computed by torch's default library: oneDNN's operator cannot be called (%s)", error)
        return False
    if not agrees:
        _log.warning("products are computed by torch's default library: oneDNN's disagree with it on this machine")
    return agrees


def _agree(
    multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    input_NI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
) -> bool:
    found, wanted = multiply(input_NI, weight_OI, bias_O), functional.linear(input_NI, weight_OI, bias_O)
    return bool((found - wanted).abs().max() <= AGREE)
