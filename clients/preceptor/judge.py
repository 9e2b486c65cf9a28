"""Whether a teacher's numbers can be what it says they are. A run never learns from a number that failed here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.errors import BadScores
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Card

SLACK = 1e-2
"""How far above 0 a log-probability may round: bfloat16 softmaxes do not sum to exactly one."""


def judge(scores: Scores, request: ScoreRequest, card: Card, *, teacher: str) -> None:
    """Raises BadScores, naming the teacher and the position: NaN, plus infinity, minus infinity on a written token,
    a probability above one, an id beyond the vocabulary, another weights version than the one asked for.
    """
    bad = _Judge(scores, teacher)
    bad.where("logprob", ~np.isfinite(scores.logprob_T), scores.logprob_T)
    bad.where("logprob", scores.logprob_T > SLACK, scores.logprob_T)
    for name, array in (("entropy", scores.entropy_T), ("logsumexp", scores.logsumexp_T), ("hidden", scores.hidden_TD)):
        if array is not None:
            bad.where(name, ~np.isfinite(array), array)
    for name, array in (("logprobs", scores.logprobs_TK), ("tail", scores.tail_T)):
        if array is not None:
            bad.where(name, np.isnan(array) | (array > SLACK), array)  # minus infinity is a legal zero probability
    if scores.ids_TK is not None:
        bad.where("ids", scores.ids_TK >= card.tokenizer.vocab_size, scores.ids_TK)
        if request.candidate_ids is None:
            bad.where("ids", scores.ids_TK < 0, scores.ids_TK)
    if scores.rank_T is not None:
        bad.where("rank", (scores.rank_T < 0) | (scores.rank_T >= card.tokenizer.vocab_size), scores.rank_T)
    if scores.hidden_TD is not None and card.head is not None and scores.hidden_TD.shape[1] != card.head.hidden_size:
        bad.because(f"its hidden states have {scores.hidden_TD.shape[1]} numbers, its head {card.head.hidden_size}")
    wanted, found = request.weights_version, scores.stamp.weights_version
    if wanted is not None and wanted != found:
        bad.because(f"it answered with weights version {found} where {wanted} was asked for")
    if len(scores.stamp.context_hashes) != len(request.contexts):
        bad.because(f"it stamped {len(scores.stamp.context_hashes)} of {len(request.contexts)} contexts")


class _Judge:
    def __init__(self, scores: Scores, teacher: str) -> None:
        self._scores, self._teacher = scores, teacher

    def where(self, name: str, wrong: NDArray[np.bool_], array: NDArray[Any]) -> None:
        if not wrong.any():
            return
        position = int(np.argwhere(wrong)[0][0])
        value = array[tuple(np.argwhere(wrong)[0])]
        completion = int(np.searchsorted(self._scores.offsets, position, side="right")) - 1
        token = position - int(self._scores.offsets[completion])
        self.because(f"{name} is {value} at token {token} of completion {completion}")

    def because(self, why: str) -> None:
        raise BadScores(
            f"Teacher '{self._teacher}' answered with numbers that cannot be right: {why}.",
            teacher=self._teacher,
            remedy="Probe the teacher and look at its log; it may run in a dtype that overflows.",
        )
