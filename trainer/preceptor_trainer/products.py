"""Matrix products on a CPU by oneDNN, where that pays: the same numbers to the last few bits, a third sooner.

torch computes float32 products with MKL, which is slow on processors of other makers than its own, and anyhow lays out
the weight again for every call. oneDNN's own layout is made once for all rows of a pass here, and thrown away after:
memory is one weight, and new weights need no notice. The operators are those that torch's own compiler uses; where a
build lacks them, or they disagree with `linear`, `linear` it is.

Shape letters: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ROWS = 512
"""From this many rows on, a new layout is paid back."""
WIDTH = 256
"""Narrower weights are multiplied as fast as they are."""
AGREE = 1e-4

_log = logging.getLogger(__name__)


def product(weight_OI: Tensor, bias_O: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """`linear` by this weight, for about `rows` rows in one call or several. oneDNN does it only without gradient."""
    if not _pays(weight_OI, rows):
        return lambda input_NI: functional.linear(input_NI, weight_OI, bias_O)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight_OI)
    return lambda input_NI: _multiplied(input_NI, laid_out, bias_O)


class Products(TorchFunctionMode):
    """Inside, `linear` is what `product` makes of it. For passes without gradient."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.linear and not given and len(args) in (2, 3) and args[0].dtype is torch.float32:
            bias_O = args[2] if len(args) == 3 else None
            return product(args[1], bias_O, args[0].numel() // max(args[0].shape[-1], 1))(args[0])
        return func(*args, **given)


def pays(rows: int, width: int) -> bool:
    """Whether a pass of so many rows may gain: looking at every call costs a small model a tenth of its time."""
    return rows >= ROWS and width >= WIDTH


def _pays(weight_OI: Tensor, rows: int) -> bool:
    return (
        weight_OI.device.type == "cpu"
        and weight_OI.dtype is torch.float32
        and weight_OI.dim() == 2
        and pays(rows, min(weight_OI.shape))
        and not torch.is_grad_enabled()
        and _there()
    )


def _multiplied(input_NI: Tensor, laid_out: Tensor, bias_O: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input_NI, laid_out, bias_O, "none", [], "")


@cache
def _there() -> bool:
    """Whether this build of torch has the operators, and they say what `linear` says."""
    if not torch.backends.mkldnn.is_available():
        return False
    draw = torch.Generator().manual_seed(0)
    input_NI, weight_OI, bias_O = (torch.randn(*shape, generator=draw) for shape in ((3, 4, 24), (16, 24), (16,)))
    try:
        found = _multiplied(input_NI, torch.ops.mkldnn._reorder_linear_weight(weight_OI), bias_O)
    except (AttributeError, RuntimeError) as error:
        _log.info("products are computed by torch's default library: oneDNN's operators cannot be called (%s)", error)
        return False
    agrees = bool((found - functional.linear(input_NI, weight_OI, bias_O)).abs().max() <= AGREE)
    if not agrees:
        _log.warning("products are computed by torch's default library: oneDNN's disagree with it on this machine")
    return agrees
