"""The rollouts of a batch laid into as few tokens as the learner needs: a prompt stands once for all its rollouts.

A group is a prompt and the rollouts that follow it in the batch. Its tokens stand one after another: the prompt, then
every completion but for its last token, which predicts nothing. A completion's tokens see the prompt and themselves,
never a sibling, and positions go on from the prompt's end for each: so loss and gradient are those of rows padded one
by one. Groups are laid end to end into lines as long as the longest of them, where that takes less padding.

That holds for models whose layers look at everything before, under the attention implementations `eager` and `sdpa`
(CPU and CUDA), which take a mask of our own. For any other (`flash_attention_2`, `flash_attention_3`, `flex_attention`,
sliding windows, recurrent layers) rows are padded one by one; `why_padded` says why.

Shape letters: B lines, S positions, T completion tokens of a cut, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from preceptor_trainer.batch import Row
from preceptor_trainer.packing import MASK_ELEMENTS, as_taken, most_new, packable
from preceptor_trainer.products import learning
from preceptor_trainer.scoring import final_hidden

_PAD, _PROMPT = -1, 0
"""What a position holds: padding, a prompt; completions count from 1."""


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt and completions of it, all of which stand behind one copy."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(max(len(ids) - 1, 0) for ids in self.completions)


@dataclass(frozen=True, slots=True)
class Cut:
    """Consecutive rows of a batch that go through the model at once."""

    rows: range
    lines: tuple[tuple[Group, ...], ...]
    """What stands in each line, in the rows' order."""

    @property
    def width(self) -> int:
        """S."""
        return max(sum(map(len, line)) for line in self.lines)

    @property
    def tokens(self) -> int:
        """Positions that are computed, padding included."""
        return self.width * len(self.lines)

    @property
    def causal(self) -> bool:
        """Whether every line is one text: then nothing but what comes later is hidden from it."""
        return all(len(line) == 1 and len(line[0].completions) == 1 for line in self.lines)


def why_padded(module: PreTrainedModel) -> str | None:
    """Why this model's rows are padded one by one; None where they are packed."""
    if packable(module):
        return None
    name = module.config.get_text_config()._attn_implementation
    if name not in ("eager", "sdpa"):
        return f"its attention implementation, {name}, takes no mask of our own: load it with sdpa or eager"
    return "not all its layers look at everything before"


def cuts(rows: Sequence[Row], module: PreTrainedModel, budget: int) -> list[Cut]:
    """Rows cut into passes of at most `budget` positions, padding included; a longer single group gets its own."""
    packs = packable(module)
    hidden_size = module.config.get_text_config().hidden_size
    groups = list(_groups(rows, hidden_size if packs else 0, budget))
    single = all(len(group.completions) == 1 for group in groups)
    # A line of several texts costs attention what its mask hides; texts of one rollout need none, so that only short
    # ones are worth joining.
    joins = packs and not (single and max(map(len, groups), default=0) > hidden_size)
    made: list[Cut] = []
    held: list[Group] = []
    lines = _Lines(joins)
    for group in groups:
        grown = lines.with_one(len(group))
        if held and (grown.tokens > budget or grown.tokens * grown.width > MASK_ELEMENTS):
            made.append(_cut(made[-1].rows.stop if made else 0, held, joins))
            held, grown = [], _Lines(joins).with_one(len(group))
        held.append(group)
        lines = grown
    return [*made, _cut(made[-1].rows.stop if made else 0, held, joins)] if held else made


def hidden_states(module: PreTrainedModel, cut: Cut) -> Tensor:
    """The final hidden states that predict the cut's completion tokens, in row order [T, D]. Carries gradient."""
    laid = _lay_out(cut)
    device = module.device
    if cut.causal:
        mask = torch.from_numpy((laid.piece_BS != _PAD).astype(np.int64)).to(device)
    else:
        mask = as_taken(laid.mask_B1SS(device), module)
    ids_BS, position_BS = (torch.from_numpy(each).to(device) for each in (laid.ids_BS, laid.position_BS))
    with learning(module):
        hidden_BSD = final_hidden(module, ids_BS, mask, position_BS)
    line_T, state_T = (torch.from_numpy(each).to(device) for each in (laid.line_T, laid.state_T))
    return hidden_BSD[line_T, state_T]


def _groups(rows: Sequence[Row], hidden_size: int, budget: int) -> Iterator[Group]:
    """The rows' groups in order, cut where packing would cost more than it saves; one row each at `hidden_size` 0."""
    for prompt, same in groupby(rows, key=lambda row: row.prompt_ids):
        most = most_new(len(prompt), hidden_size) if hidden_size else 0
        held: list[tuple[int, ...]] = []
        new = 0
        for row in same:
            grown = new + max(len(row.completion_ids) - 1, 0)
            over = grown > most or len(prompt) + grown > budget or (len(prompt) + grown) ** 2 > MASK_ELEMENTS
            if held and over:
                yield Group(prompt, tuple(held))
                held, grown = [], max(len(row.completion_ids) - 1, 0)
            held.append(row.completion_ids)
            new = grown
        yield Group(prompt, tuple(held))


@dataclass(frozen=True, slots=True)
class _Lines:
    """Groups end to end, in their order, in lines no longer than the longest of them; by their lengths alone."""

    joins: bool
    """False: each has a line of its own."""
    lengths: tuple[int, ...] = ()
    width: int = 0
    starts: tuple[int, ...] = ()
    """Which groups begin a line."""
    room: int = 0
    """Left in the last line."""

    @property
    def tokens(self) -> int:
        return self.width * len(self.starts)

    def with_one(self, length: int) -> _Lines:
        """One more group at the end."""
        lengths = (*self.lengths, length)
        if length > self.width and self.joins and self.lengths:
            again = _Lines(self.joins, width=length)
            for each in lengths:
                again = again.with_one(each)
            return again
        width = max(self.width, length)
        if self.joins and length <= self.room:
            return _Lines(self.joins, lengths, width, self.starts, self.room - length)
        return _Lines(self.joins, lengths, width, (*self.starts, len(self.lengths)), width - length)


def _cut(first: int, groups: Sequence[Group], joins: bool) -> Cut:
    lines = _Lines(joins)
    for group in groups:
        lines = lines.with_one(len(group))
    ends = [*lines.starts[1:], len(groups)]
    return Cut(
        range(first, first + sum(len(group.completions) for group in groups)),
        tuple(tuple(groups[begin:end]) for begin, end in zip(lines.starts, ends, strict=True)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Laid:
    """A cut as arrays."""

    ids_BS: NDArray[np.int64]
    position_BS: NDArray[np.int64]
    group_BS: NDArray[np.int64]
    piece_BS: NDArray[np.int64]
    line_T: NDArray[np.int64]
    state_T: NDArray[np.int64]

    def mask_B1SS(self, device: torch.device) -> Tensor:
        """True where a position may look at another."""
        group_BS, piece_BS = (torch.from_numpy(each).to(device) for each in (self.group_BS, self.piece_BS))
        place_S = torch.arange(group_BS.shape[1], device=device)
        seen_BSS = (piece_BS[:, None, :] == piece_BS[:, :, None]) | (piece_BS[:, None, :] == _PROMPT)
        seen_BSS &= group_BS[:, None, :] == group_BS[:, :, None]
        # Padding is a group of its own: it sees padding, so that no position sees nothing, which would be NaN.
        return (seen_BSS & (place_S[None, :] <= place_S[:, None]))[:, None]


def _lay_out(cut: Cut) -> _Laid:
    shape = (len(cut.lines), cut.width)
    ids_BS, position_BS = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    group_BS, piece_BS = np.full(shape, _PAD, dtype=np.int64), np.full(shape, _PAD, dtype=np.int64)
    line_T, state_T = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for number, line in enumerate(cut.lines):
        begin = 0
        for index, group in enumerate(line):
            end = begin + len(group.prompt)
            group_BS[number, begin : begin + len(group)] = index
            ids_BS[number, begin:end] = group.prompt
            position_BS[number, begin:end] = np.arange(len(group.prompt))
            piece_BS[number, begin:end] = _PROMPT
            stem, begin = end - 1, end
            for piece, ids in enumerate(group.completions, 1):
                if not ids:
                    continue
                end = begin + len(ids) - 1
                ids_BS[number, begin:end] = ids[:-1]
                position_BS[number, begin:end] = len(group.prompt) + np.arange(len(ids) - 1)
                piece_BS[number, begin:end] = piece
                # The first token is predicted by the prompt's last, which the group shares.
                state_T.append(np.concatenate([[stem], np.arange(begin, end)]))
                line_T.append(np.full(len(ids), number))
                begin = end
    nothing = np.zeros(0, dtype=np.int64)
    return _Laid(
        ids_BS, position_BS, group_BS, piece_BS, np.concatenate([nothing, *line_T]), np.concatenate([nothing, *state_T])
    )
