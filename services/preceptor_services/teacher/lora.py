"""LoRA adapters as peft writes them, merged into the weights that they were made for. numpy only.

W' = W + scale * B @ A, computed in float32: what `merge_and_unload` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from preceptor.errors import Invalid
from preceptor.tensorfiles import Held, Source, Stored, widened
from preceptor.tensors import Tensor
from preceptor_services.teacher.backends import Layout

PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class Adapter:
    """Two thin matrices for one weight."""

    down: Source
    """A, [rank, in]."""
    up: Source
    """B, [out, rank]."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A weight with its adapter added."""

    base: Source
    adapter: Adapter
    scale: float

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def tensor(self) -> Tensor:
        """[out, in] float32."""
        down_RI, up_OR = widened(self.adapter.down.tensor()), widened(self.adapter.up.tensor())
        return Tensor("F32", widened(self.base.tensor()) + np.float32(self.scale) * (up_OR @ down_RI))

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Its bytes, a few at a time."""
        yield from Held(self.tensor()).pieces()


def adapters_of(tensors: Mapping[str, Stored], layout: Layout) -> dict[str, Adapter]:
    """The adapters of a body by the name of the weight that each changes. Raises Invalid where they do not fit it."""
    halves: dict[str, dict[str, Stored]] = {}
    for name, stored in tensors.items():
        half = next((each for each in (DOWN, UP) if name.endswith(each)), None)
        if half is None:
            raise Invalid(
                f"weights: '{name[:200]}' is no matrix of a LoRA adapter; those end with {DOWN} or {UP}.",
                field="weights",
                remedy="Send what peft's save_pretrained writes for plain LoRA of linear layers, or full weights.",
            )
        weight = name.removeprefix(PREFIX).removesuffix(half) + ".weight"
        halves.setdefault(layout.tied.get(weight, weight), {})[half] = stored
    if not halves:
        raise Invalid("weights: the adapter has no matrices.", field="weights")
    return {weight: _adapter(weight, found, layout) for weight, found in halves.items()}


def _adapter(weight: str, found: Mapping[str, Stored], layout: Layout) -> Adapter:
    shape = layout.shapes.get(weight)
    if shape is None or len(shape) != 2:
        raise Invalid(
            f"weights: the adapter is for '{weight[:200]}', which this model has not.",
            field="weights",
            remedy="Send an adapter of this teacher's model.",
        )
    if missing := [half for half in (DOWN, UP) if half not in found]:
        raise Invalid(f"weights: the adapter of '{weight}' has no {missing[0].strip('.')}.", field="weights")
    down, up = found[DOWN], found[UP]
    rank = down.shape[0] if down.shape else 0
    if rank < 1 or (down.shape, up.shape) != ((rank, shape[1]), (shape[0], rank)):
        raise Invalid(
            f"weights: the adapter of '{weight}' is A {list(down.shape)} and B {list(up.shape)}; a weight of "
            f"{list(shape)} takes [rank, {shape[1]}] and [{shape[0]}, rank].",
            field="weights",
        )
    return Adapter(down, up)
