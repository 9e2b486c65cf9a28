"""The layers of a model, compiled by torch: tried out before they are believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from preceptor.errors import Invalid
from preceptor_trainer.model import Model
from preceptor_trainer.scoring import packable

AGREE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far hidden states may be from those of the module itself, relative to the largest."""

_NOTHING_HELD = {"past_key_values": None, "use_cache": False}


def compiled(model: Model) -> Callable[..., Any]:
    """`module.base_model`, compiled for any batch and length. Takes a minute or more: it is run here.

    Raises Invalid where torch cannot compile it on this machine, or makes other numbers of it.
    """
    base: Any = model.module.base_model
    forward = torch.compile(base, dynamic=True)
    for inputs in _both_kinds(model):
        with torch.inference_mode():
            expected_BSD = base(**inputs).last_hidden_state
            try:
                found_BSD = forward(**inputs).last_hidden_state
            except Exception as error:  # whatever the compiler, or the lack of one, made it stumble over
                raise Invalid(
                    f"compile: torch cannot compile this model here ({_first_line(error)}).",
                    field="compile",
                    remedy="Install a C++ compiler (on a GPU also Triton), or serve it without --compile.",
                ) from error
        apart = float((found_BSD - expected_BSD).abs().max() / expected_BSD.abs().max().clamp(min=1e-12))
        if not apart <= AGREE.get(found_BSD.dtype, 5e-2):
            raise Invalid(
                f"compile: what torch compiled is {apart:.1e} away from the model itself.",
                field="compile",
                remedy="Serve it without --compile.",
            )
    return forward


def _both_kinds(model: Model) -> list[dict[str, Any]]:
    """What `Scorer` asks for: rows of one text each, and, where the model takes a mask of ours, packed ones."""
    ids_BS = torch.arange(24, device=model.device).reshape(2, 12) % model.card.vocab_size
    if not packable(model.module):
        every_BS = torch.ones_like(ids_BS)
        positions_BS = torch.arange(12, device=model.device).expand(2, 12).contiguous()
        return [{"input_ids": ids_BS, "attention_mask": every_BS, "position_ids": positions_BS, **_NOTHING_HELD}]
    mask_B1SK = torch.ones(2, 1, 12, 12, dtype=torch.bool, device=model.device).tril()
    positions_BS = torch.arange(12, device=model.device).expand(2, 12).contiguous()
    plain = {"input_ids": ids_BS, "attention_mask": None, "position_ids": None, **_NOTHING_HELD}
    return [plain, {**plain, "attention_mask": mask_B1SK, "position_ids": positions_BS}]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
