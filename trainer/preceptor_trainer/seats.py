"""What rows that are written at the same time keep in memory: prompts, read once, and slots to go on in.

A cache that grows by concatenation copies all it holds for every token, and all its rows have one length. Here a row
has a slot of fixed capacity: its next token goes behind its last one, wherever that is, and a row that ends leaves its
slot to another. A prompt that several rows begin with is copied into their slots, not read again.

Shape letters: R slots, B rows at work (the first slots), H key-value heads, C capacity in tokens, E head size, K
positions in use, P positions of prompts padded on the right, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from preceptor_trainer.model import head_of
from preceptor_trainer.products import faster, product

READ_TOKENS = 2048
"""Prompt tokens, padding included, that are read at once; a longer prompt is read alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A prompt that was read."""

    length: int
    cache: DynamicCache
    index: int
    """Its row in the cache."""
    logits_V: Tensor
    """Of the token that comes next."""


class Prompts:
    """Prompts, each read once. They are asked for in their order."""

    def __init__(self, module: PreTrainedModel, prompts: Sequence[tuple[int, ...]], most: int) -> None:
        """`prompts` are distinct, the longest first; at most `most` are held at a time."""
        self._module = module
        self._prompts = prompts
        self._most = most
        self._next = 0
        self._held: dict[tuple[int, ...], Read] = {}

    def __getitem__(self, prompt: tuple[int, ...]) -> Read:
        """Reads it, and the ones after it that fit into the same forward pass, where it is not at hand."""
        if prompt not in self._held:
            size = max(1, min(self._most, READ_TOKENS // max(1, len(prompt))))
            batch = self._prompts[self._next : self._next + size]
            self._next += len(batch)
            self._held = dict(zip(batch, self._read(batch), strict=True))
        return self._held[prompt]

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> list[Read]:
        device, longest = self._module.device, max(map(len, prompts))
        ids_BP = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        cache = DynamicCache(config=self._module.config)
        # No mask: what pads on the right is behind everything that is looked at.
        with faster(self._module, ids_BP.numel()):
            hidden_BPD = self._module.base_model(
                input_ids=ids_BP,
                position_ids=torch.arange(longest, device=device).expand_as(ids_BP),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        last_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        logits_BV = product(hidden_BPD[torch.arange(len(prompts), device=device), last_B], *head_of(self._module))
        return [Read(len(prompt), cache, index, logits_BV[index]) for index, prompt in enumerate(prompts)]


@dataclass(slots=True)
class _Cursor:
    """Where the next tokens go; the same for all layers."""

    row_B: Tensor
    at_B: Tensor
    used: int = 0
    """K."""


class _Layer(CacheLayerMixin):
    """One layer's slots."""

    is_sliding = False

    def __init__(self, like: Any, rows: int, capacity: int, cursor: _Cursor) -> None:
        super().__init__()
        self._cursor = cursor
        # Zeros, since what is masked is still multiplied: with 0, which makes NaN of what memory happens to hold.
        self.keys = like.keys.new_zeros(rows, like.keys.shape[1], capacity, like.keys.shape[3])
        self.values = like.values.new_zeros(rows, like.values.shape[1], capacity, like.values.shape[3])
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Put one token of each row at work [B, H, 1, E] behind its others; returns all there is [B, H, K, E]."""
        assert self.keys is not None and self.values is not None
        cursor, rows = self._cursor, key_states.shape[0]
        # Under autocast what comes is narrower than what is held.
        self.keys[cursor.row_B, :, cursor.at_B] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[cursor.row_B, :, cursor.at_B] = value_states[:, :, 0].to(self.values.dtype)
        return self.keys[:rows, :, : cursor.used], self.values[:rows, :, : cursor.used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cursor.used, 0

    def get_seq_length(self) -> int:
        return max(self._cursor.used - 1, 0)

    def get_max_length(self) -> int:
        assert self.keys is not None
        return self.keys.shape[2]


class Slots(Cache):
    """A transformers cache for forward passes over one new token of every row at work."""

    def __init__(self, like: Read, rows: int, capacity: int) -> None:
        """`like`: any prompt that the model read; its cache tells shapes, dtype and device."""
        layers: list[Any] = like.cache.layers
        nothing = torch.zeros(0, dtype=torch.int64, device=like.logits_V.device)
        self._cursor = _Cursor(row_B=nothing, at_B=nothing)
        super().__init__(layers=[_Layer(layer, rows, capacity, self._cursor) for layer in layers])

    def fill(self, slots: Sequence[int], prompts: Sequence[Read]) -> None:
        """Copy prompts that were read together into these slots, one each.

        What pads a short one comes along: it lies behind the row's last token, where nobody looks before it is
        overwritten.
        """
        device, length = prompts[0].logits_V.device, max(prompt.length for prompt in prompts)
        at_R = torch.tensor(slots, device=device)
        from_R = torch.tensor([prompt.index for prompt in prompts], device=device)
        theirs: list[Any] = prompts[0].cache.layers
        for mine, layer in zip(self._layers, theirs, strict=True):
            mine.keys[at_R, :, :length] = layer.keys[from_R, :, :length]
            mine.values[at_R, :, :length] = layer.values[from_R, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one slot's first `length` tokens to another."""
        for layer in self._layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def seek(self, held: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The next token of every row goes behind the `held` ones it has. Returns those positions [B, 1], and what each
        may look at [B, 1, 1, K]."""
        device = self._cursor.at_B.device
        at_B = torch.tensor(held, device=device)
        self._cursor.row_B, self._cursor.at_B = torch.arange(len(held), device=device), at_B
        self._cursor.used = max(held) + 1
        seen_BK = torch.arange(self._cursor.used, device=device) <= at_B[:, None]
        return at_B[:, None], seen_BK[:, None, None]

    @property
    def _layers(self) -> list[Any]:
        return list(self.layers)


def token_bytes(read: Read) -> int:
    """Bytes that one token of one row takes in a cache."""
    layers: list[Any] = read.cache.layers
    held = (tensor for layer in layers for tensor in (layer.keys, layer.values))
    return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in held)
