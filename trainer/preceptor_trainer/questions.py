"""The score stage: what rollouts are to be scored after which prompts becomes one request a teacher, all sent at once.

Teachers answer while others do, and their answers are taken in the order in which they were asked: a step takes as long
as its slowest teacher, and its numbers do not depend on who was first.

Shape letters: T tokens of a rollout, D hidden size, K ids of a sparse support.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from preceptor.errors import TeacherUnavailable
from preceptor.wire.runs import Alignment, OnFailure
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Stamp, Support
from preceptor_trainer.asking import Answer, MissingScore, Scorer, Wish
from preceptor_trainer.batch import Row
from preceptor_trainer.model import Head, Model
from preceptor_trainer.readers import OtherTokens, Reader, Reading, SameTokens
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.scoring import score
from preceptor_trainer.support import Wanted, choose_support
from preceptor_trainer.texts import side_by_side, wording

Answers = dict[tuple[str, int, int], Answer]
"""By context, prompt and row."""


class Questions:
    """Puts wishes to a run's teachers."""

    def __init__(
        self, recipe: Recipe, model: Model, scorer: Scorer, dtype: torch.dtype, alignment: Alignment = "ids"
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._scorer = scorer
        self._dtype = dtype
        self._alignment = alignment
        self._heads: dict[str, tuple[str, Head]] = {}
        self._step: int | None = None
        self._readers: dict[str, Reader] = {}
        self._same = SameTokens(model)
        self._others: dict[tuple[str, str | None], OtherTokens] = {}

    @property
    def aligned(self) -> bool:
        """Whether some teacher that was asked reads other tokens than the student."""
        return bool(self._others)

    def begin(self, step: int) -> Collection[str]:
        """What is asked from now on is asked for this step, in which others may fill the roles than before. Returns
        the roles that nobody fills."""
        if step != self._step:
            self._step, self._readers = step, {}
        return self._scorer.begin(step)

    def begin_again(self) -> None:
        """Others may fill the roles of the same step."""
        self._step = None

    def ask(self, wishes: Sequence[Wish], rows: Sequence[Row]) -> Answers:
        """What teachers say of these rows. A wish that nobody answered, of a context that does without, is absent.
        Raises the scorer's errors, NoSupport and MissingScore."""
        alike: defaultdict[tuple[str, Wanted, OnFailure], list[Wish]] = defaultdict(list)
        for wish in wishes:
            alike[wish.role, self._wanted(wish), self._recipe.contexts[wish.context].on_failure].append(wish)
        questions = [self._question(*key, mine, rows) for key, mine in alike.items()]
        answers: Answers = {}
        for question, said in zip(questions, side_by_side(self._ask, questions), strict=True):
            if said is not None:
                answers.update(self._read(question, *said))
        return answers

    def reader(self, role: str) -> Reader:
        """How this role's teacher reads. Only a run that is aligned by bytes may have one with another tokenizer."""
        if role not in self._readers:
            self._readers[role] = self._same if self._alignment == "ids" else self._reader(role)
        return self._readers[role]

    def _reader(self, role: str) -> Reader:
        card = self._scorer.card(role)
        if card.tokenizer.fingerprint == self._model.card.fingerprint:
            return self._same
        known = (card.teacher, card.tokenizer.fingerprint)
        if known not in self._others:
            self._others[known] = OtherTokens(self._model, self._scorer.tokenizer(role), card.teacher)
        return self._others[known]

    def _wanted(self, wish: Wish) -> Wanted:
        """What to ask the teacher for. Raises NoSupport."""
        need = self._recipe.needs(wish.context)
        if need is Support.SAMPLED:
            return Wanted(need)
        card = self._scorer.card(wish.role)
        if isinstance(self.reader(wish.role), OtherTokens):
            raise ValueError(
                f"alignment: teacher '{card.teacher}' (role '{wish.role}') has another tokenizer, and the context "
                f"'{wish.context}' needs {need.value} or more; across tokenizers there is only sampled"
            )
        return choose_support(self._recipe, card.teacher, card, need, self._model.card.vocab_size)

    def _candidates(self, wishes: Sequence[Wish], rows: Sequence[Row], k: int) -> np.ndarray:
        """The student's own likeliest ids on every token that the wishes are about, K a token."""
        asked = list(dict.fromkeys(wish.row for wish in wishes))
        numbers = score(
            self._model,
            ScoreRequest(
                contexts=[np.array(rows[row].prompt_ids, dtype=np.int32) for row in asked],
                completions=[np.array(rows[row].completion_ids, dtype=np.int32) for row in asked],
                context_of=np.arange(len(asked), dtype=np.int32),
                support=Support.TOPK,
                k=min(k, self._model.card.vocab_size),
            ),
        )
        assert numbers.ids_TK is not None, "top-k was asked for"
        ids = {row: numbers.ids_TK[numbers.offsets[i] : numbers.offsets[i + 1]] for i, row in enumerate(asked)}
        return np.concatenate([ids[wish.row] for wish in wishes])

    def _question(
        self, role: str, wanted: Wanted, on_failure: OnFailure, wishes: Sequence[Wish], rows: Sequence[Row]
    ) -> _Question:
        reader = self.reader(role)
        readings = {row: reader.read(rows[row].completion_ids) for row in dict.fromkeys(wish.row for wish in wishes)}
        distinct = {ids: index for index, ids in enumerate(dict.fromkeys(wish.ids for wish in wishes))}
        request = ScoreRequest(
            contexts=[np.array(ids, dtype=np.int32) for ids in distinct],
            completions=[np.array(readings[wish.row].ids, dtype=np.int32) for wish in wishes],
            context_of=np.array([distinct[wish.ids] for wish in wishes], dtype=np.int32),
            support=wanted.support,
            k=wanted.k if wanted.support is Support.TOPK else 0,
            candidate_ids=self._candidates(wishes, rows, wanted.k) if wanted.support is Support.IDS else None,
        )
        return _Question(role=role, on_failure=on_failure, wishes=wishes, readings=readings, request=request)

    def _ask(self, question: _Question) -> tuple[Scores, Head | None] | None:
        """What the teacher said, and the head that goes with it; None: nobody did, and it is done without. Called from
        several threads."""
        role, request = question.role, question.request
        try:
            scores = self._scorer.score(role, request, on_failure=question.on_failure)
            _check_whole(question, scores)
            return scores, self._head(question, scores.stamp) if request.support is Support.FULL else None
        except TeacherUnavailable:
            if question.on_failure != "drop":
                raise
            return None

    def _read(
        self, question: _Question, scores: Scores, head: Head | None
    ) -> Iterator[tuple[tuple[str, int, int], Answer]]:
        for index, wish in enumerate(question.wishes):
            begin, end = int(scores.offsets[index]), int(scores.offsets[index + 1])
            context = scores.stamp.context_hashes[int(question.request.context_of[index])]
            reading = question.readings[wish.row]
            yield (
                (wish.context, wish.fan, wish.row),
                Answer(
                    logprob_T=reading.spread(scores.logprob_T[begin:end]),
                    spans=reading.spans,
                    hidden_TD=None if scores.hidden_TD is None else scores.hidden_TD[begin:end],
                    head=head,
                    ids_TK=None if scores.ids_TK is None else scores.ids_TK[begin:end],
                    logprobs_TK=None if scores.logprobs_TK is None else scores.logprobs_TK[begin:end],
                    tail_T=None if scores.tail_T is None else scores.tail_T[begin:end],
                    stamp=scores.stamp.model_copy(
                        update={"context_hashes": (context,), "wording": wording(self._recipe.contexts[wish.context])}
                    ),
                ),
            )

    def _head(self, question: _Question, stamp: Stamp) -> Head:
        """The head that this answer's hidden states belong to; fetched again only when the stamp names another."""
        role, count = question.role, len(question.wishes)
        held = self._heads.get(role)
        if held is None or held[0] != stamp.head_hash:
            head = self._scorer.head(role, stamp.head_hash, on_failure=question.on_failure, completions=count)
            if head.hash != stamp.head_hash:
                raise MissingScore(
                    f"teacher '{stamp.teacher}' (role '{role}') scored with head {stamp.head_hash} "
                    f"but serves {head.hash}.",
                    teacher=stamp.teacher,
                    remedy="Its weights moved between the two calls: resume the run.",
                )
            bias = None if head.bias_V is None else torch.as_tensor(head.bias_V, dtype=self._dtype)
            held = (head.hash, Head(weight_VD=torch.as_tensor(head.weight_VD, dtype=self._dtype), bias_V=bias))
            self._heads[role] = held
        return held[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What one teacher is asked in one request."""

    role: str
    on_failure: OnFailure
    wishes: Sequence[Wish]
    readings: Mapping[int, Reading]
    request: ScoreRequest


def _check_whole(question: _Question, scores: Scores) -> None:
    """Raises MissingScore where the answer does not cover what was asked."""
    teacher, request = scores.stamp.teacher, question.request
    if not np.array_equal(scores.offsets, request.scored_offsets):
        raise MissingScore(
            f"teacher '{teacher}' (role '{question.role}') was asked about {int(request.scored_offsets[-1])} tokens of "
            f"{len(question.wishes)} rollouts and answered for {int(scores.offsets[-1])}.",
            teacher=teacher,
            remedy="Probe it again, and see its log.",
        )
    sent = scores.hidden_TD if request.support is Support.FULL else scores.tail_T
    if request.support is not Support.SAMPLED and sent is None:
        raise MissingScore(
            f"teacher '{teacher}' (role '{question.role}') was asked for the support {request.support} and did not "
            "send it.",
            teacher=teacher,
            remedy=f"Its card must not offer `{request.support}`: probe it again.",
        )
