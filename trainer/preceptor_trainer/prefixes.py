"""Keys and values of contexts that were read before, in bounded memory, by weights version.

Shape letters: L layers, H key-value heads, Q prefix positions, E head size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from preceptor_trainer.packing import Packed

SHORTEST = 128
"""A prefix shorter than this is computed again. It costs little, and a context that is held is laid out otherwise in
its forward pass: its numbers agree with the first time's to 1e-5, not to the last bit. Where reading it again is
cheap, a resumed run should see the very same ones.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What a model computed of one context, its last token left out."""

    keys: tuple[Tensor, ...]
    """Per layer [H, Q, E]."""
    values: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in (*self.keys, *self.values))


class PrefixCache:
    """The most recently used prefixes, `limit_bytes` of them. Not thread-safe: a model computes one thing at a time."""

    def __init__(self, limit_bytes: int, shortest: int = SHORTEST) -> None:
        """`shortest`: prefixes of fewer tokens are not kept."""
        self._limit = limit_bytes
        self._shortest = shortest
        self._held: OrderedDict[tuple[int, bytes], Prefix] = OrderedDict()
        self.bytes = 0
        """Held now."""

    def get(self, version: int, context: NDArray[np.int32]) -> Prefix | None:
        """The prefix of a context under a weights version, if it is held."""
        key = (version, context.tobytes())
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def wants(self, rows: Sequence[Packed]) -> bool:
        """Whether `put` would keep anything of these rows."""
        return self._limit > 0 and any(row.prefix >= self._shortest for row in rows)

    def put(self, version: int, rows: Sequence[Packed], cache: DynamicCache) -> None:
        """Keep the rows' prefixes, of which `cache` holds the keys and values at the first positions."""
        for index, row in enumerate(rows):
            if row.prefix < self._shortest or self.get(version, row.context) is not None:
                continue
            layers: list[Any] = cache.layers
            prefix = Prefix(
                keys=tuple(layer.keys[index, :, : row.prefix].clone() for layer in layers),
                values=tuple(layer.values[index, :, : row.prefix].clone() for layer in layers),
            )
            if prefix.bytes <= self._limit:
                self._held[version, row.context.tobytes()] = prefix
                self.bytes += prefix.bytes
        while self.bytes > self._limit:
            _, oldest = self._held.popitem(last=False)
            self.bytes -= oldest.bytes

    def forget(self, version: int) -> None:
        """Drop what belongs to a weights version that is no longer served."""
        for key in [key for key in self._held if key[0] == version]:
            self.bytes -= self._held.pop(key).bytes


def stack(prefixes: Sequence[Prefix], module: PreTrainedModel) -> DynamicCache:
    """A cache for one forward pass over rows with these prefixes, each padded on the right to the longest."""
    cache = DynamicCache(config=module.config)
    longest = max(prefix.keys[0].shape[1] for prefix in prefixes)
    for layer in range(len(prefixes[0].keys)):
        keys = torch.stack([_pad(prefix.keys[layer], longest) for prefix in prefixes])
        values = torch.stack([_pad(prefix.values[layer], longest) for prefix in prefixes])
        cache.update(keys, values, layer)
    return cache


def _pad(tensor_HQE: Tensor, longest: int) -> Tensor:
    return torch.nn.functional.pad(tensor_HQE, (0, 0, 0, longest - tensor_HQE.shape[1]))
