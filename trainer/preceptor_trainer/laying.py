"""Answers laid along a batch's tokens: one slot per prompt of a context.

Shape letters: T tokens of the whole batch, K ids of a sparse support, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from preceptor.wire.teachers import Stamp, Support
from preceptor_trainer.asking import Answer, Wish
from preceptor_trainer.batch import NOT_ASKED, OWN_TOKENS, Row, Slot
from preceptor_trainer.model import Head
from preceptor_trainer.views import FLOOR

Answers = Mapping[tuple[str, int, int], Answer]
"""By context, prompt and row."""


def slots_of(
    name: str,
    teacher: str,
    wishes: Sequence[Wish],
    answers: Answers,
    rows: Sequence[Row],
    dtype: torch.dtype,
    vocab_size: int,
    need: Support,
) -> list[Slot]:
    """The slots of one context, as many as its rollouts have prompts. `teacher` is the role of one without any wish;
    `vocab_size` the student's; `need` the least support that the recipe reads of it. A wish without an answer was
    dropped: nothing is present there."""
    mine = [wish for wish in wishes if wish.context == name]
    fans = 1 + max((wish.fan for wish in mine), default=0)
    offsets = np.cumsum([0, *(len(row.completion_ids) for row in rows)])
    mine = _made_up(mine, answers)
    return [
        _slot(name, teacher, [wish for wish in mine if wish.fan == fan], answers, offsets, dtype, vocab_size, need)
        for fan in range(fans)
    ]


def _made_up(wishes: Sequence[Wish], answers: Answers) -> list[Wish]:
    """The wishes of a context with the weights that they have once others make up for what was dropped."""
    lost, kept = defaultdict[int, float](float), defaultdict[int, float](float)
    for wish in wishes:
        dropped = wish.prompt.made_up and (wish.context, wish.fan, wish.row) not in answers
        (lost if dropped else kept)[wish.row] += wish.prompt.weight
    return [
        replace(wish, prompt=replace(wish.prompt, weight=wish.prompt.weight * (1 + lost[wish.row] / kept[wish.row])))
        if lost[wish.row] and kept[wish.row]
        else wish
        for wish in wishes
    ]


def _slot(
    name: str,
    teacher: str,
    wishes: Sequence[Wish],
    answers: Answers,
    offsets: np.ndarray,
    dtype: torch.dtype,
    vocab_size: int,
    need: Support,
) -> Slot:
    laid = _Laid(int(offsets[-1]), dtype, vocab_size)
    stamps: dict[int, Stamp] = {}
    for wish in wishes:
        answer = answers.get((name, wish.fan, wish.row))
        if answer is None:
            continue
        tokens = slice(int(offsets[wish.row]), int(offsets[wish.row + 1]))
        laid.put(tokens, answer, wish.prompt.weight)
        if wish.inside_T is not None:
            laid.weight_T[tokens] *= torch.as_tensor(wish.inside_T, dtype=dtype)
        stamps[wish.row] = answer.stamp
    if laid.hears_both:
        raise ValueError(
            f"contexts.{name}: some of its teachers answer with whole distributions and some with a few ids; set "
            '{"sparse": {"always": true}}, so that all are asked for ids'
        )
    hidden_TD, head = laid.hidden(silent=need is not Support.SAMPLED and not stamps)
    return Slot(
        context=name,
        role=", ".join(sorted({wish.role for wish in wishes}) or [teacher]),
        logprob_T=laid.logprob_T,
        present_T=laid.present_T,
        weight_T=laid.weight_T,
        span_T=laid.span_T,
        hidden_TD=hidden_TD,
        head=head,
        ids_TK=laid.ids_TK,
        logprobs_TK=laid.logprobs_TK,
        tail_T=laid.tail_T,
        stamps=stamps,
    )


class _Laid:
    """Arrays over the batch's tokens, filled row by row; what no row brings stays None."""

    def __init__(self, total: int, dtype: torch.dtype, vocab_size: int) -> None:
        self._total, self._dtype, self._vocab_size = total, dtype, vocab_size
        self.logprob_T, self.present_T, self.weight_T = (torch.zeros(total, dtype=dtype) for _ in range(3))
        self._span_T, self._spanned = torch.full((total,), NOT_ASKED, dtype=torch.int64), False
        self._said: dict[str, list[tuple[slice, np.ndarray]]] = {}  # hidden states, by the head that they belong to
        self._heads: dict[str, Head] = {}
        self.ids_TK: Tensor | None = None
        self.logprobs_TK: Tensor | None = None
        self.tail_T: Tensor | None = None

    def put(self, tokens: slice, answer: Answer, weight: float) -> None:
        self.logprob_T[tokens] = torch.as_tensor(answer.logprob_T, dtype=self._dtype)
        self.present_T[tokens] = 1.0
        self.weight_T[tokens] = weight
        if answer.spans is None:
            self._span_T[tokens] = OWN_TOKENS
        else:
            self._spanned = True
            own_T = torch.as_tensor(answer.spans.student_T)
            self.present_T[tokens] = (own_T >= 0).to(self._dtype)
            # No more spans than tokens: numbers that begin at the row's offset are its own.
            self._span_T[tokens] = torch.where(own_T >= 0, own_T + tokens.start, own_T)
        if answer.hidden_TD is not None and answer.head is not None:
            hash = answer.stamp.head_hash or ""
            self._heads.setdefault(hash, answer.head)
            self._said.setdefault(hash, []).append((tokens, answer.hidden_TD))
        if answer.ids_TK is not None and answer.logprobs_TK is not None and answer.tail_T is not None:
            self._put_sparse(tokens, answer.ids_TK, answer.logprobs_TK, answer.tail_T)

    @property
    def span_T(self) -> Tensor | None:
        """None: every teacher reads the student's tokens."""
        return self._span_T if self._spanned else None

    @property
    def hears_both(self) -> bool:
        """Whether some answers are whole distributions and others are not."""
        return bool(self._said) and self.ids_TK is not None

    def hidden(self, *, silent: bool) -> tuple[Tensor | None, Head | None]:
        """Hidden states over the batch, and the head that they belong to.

        Where rollouts have different teachers, a fallback answered for some, or weights moved, there are several
        heads. They become one by standing side by side: each row is zero at the others' columns, so that its logits are
        its own head's.
        `silent`: nobody said anything of whole distributions, and something must stand where they are read, with no
        presence: every token alike.
        """
        if silent:
            weight_VD = torch.zeros(self._vocab_size, 1, dtype=self._dtype)
            return torch.zeros(self._total, 1, dtype=self._dtype), Head(weight_VD=weight_VD, bias_V=None)
        if not self._said:
            return None, None
        if len(self._said) == 1:
            (head,), (said,) = self._heads.values(), self._said.values()
            return self._rows(said), head
        columns, weights = list[Tensor](), list[Tensor]()
        for hash, said in self._said.items():
            head = self._heads[hash]
            columns.append(self._rows(said))
            weights.append(head.weight_VD)
            if head.bias_V is not None:
                columns.append(self._rows([(tokens, np.ones((len(rows), 1))) for tokens, rows in said]))
                weights.append(head.bias_V[:, None])
        return torch.cat(columns, dim=1), Head(weight_VD=torch.cat(weights, dim=1), bias_V=None)

    def _rows(self, said: Sequence[tuple[slice, np.ndarray]]) -> Tensor:
        hidden_TD = torch.zeros(self._total, said[0][1].shape[1], dtype=self._dtype)
        for tokens, rows in said:
            hidden_TD[tokens] = torch.as_tensor(rows, dtype=self._dtype)
        return hidden_TD

    def _put_sparse(self, tokens: slice, ids_TK: np.ndarray, logprobs_TK: np.ndarray, tail_T: np.ndarray) -> None:
        if self.ids_TK is None or self.logprobs_TK is None or self.tail_T is None:
            width = ids_TK.shape[1]
            self.ids_TK = torch.full((self._total, width), -1, dtype=torch.int64)
            self.logprobs_TK = torch.full((self._total, width), FLOOR, dtype=self._dtype)
            self.tail_T = torch.zeros(self._total, dtype=self._dtype)
        # What the student has no output for (a padded head) is a part of the tail.
        ours_TK = (ids_TK >= 0) & (ids_TK < self._vocab_size)
        beyond_TK = np.where((ids_TK >= 0) & ~ours_TK, logprobs_TK, -np.inf).astype(np.float64)
        left_T = np.logaddexp(tail_T.astype(np.float64), np.logaddexp.reduce(beyond_TK, axis=1))
        kept_TK = np.where(ours_TK, np.maximum(logprobs_TK, FLOOR), FLOOR)
        self.ids_TK[tokens] = torch.as_tensor(np.where(ours_TK, ids_TK, -1), dtype=torch.int64)
        self.logprobs_TK[tokens] = torch.as_tensor(kept_TK, dtype=self._dtype)
        self.tail_T[tokens] = torch.as_tensor(np.maximum(left_T, FLOOR), dtype=self._dtype)
