"""The context and score stages: every context's prompts are written, teachers are asked, answers become slots.

A request lists each distinct privileged prompt once; rollouts point at it. What comes back is checked to cover every
(rollout, prompt) pair: a score that is missing is an error, never a zero. Only a context that says so is done without
where nobody answers: its opinion is absent then, and counted. Each teacher is asked in its own tokens.

Shape letters: T tokens of the whole batch, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch

from preceptor.errors import TeacherUnavailable
from preceptor.wire.runs import Alignment, OnFailure
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Stamp, Support
from preceptor_trainer.asking import Answer, Asked, Heard, MissingScore, Scorer, Wish
from preceptor_trainer.batch import Row
from preceptor_trainer.laying import slots_of
from preceptor_trainer.leaks import LeakCheck
from preceptor_trainer.marking import Marker
from preceptor_trainer.model import Head, Model
from preceptor_trainer.readers import OtherTokens, Reader, SameTokens
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.scoring import score
from preceptor_trainer.support import Wanted, choose_support
from preceptor_trainer.texts import Case, Texts, View, wording
from preceptor_trainer.views import ContextView, Prompt, Rollout
from preceptor_trainer.writer import stream


class Opinions:
    """Asks teachers what a recipe wants to know of a batch."""

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        scorer: Scorer,
        seed: int,
        dtype: torch.dtype,
        alignment: Alignment = "ids",
        leaks: LeakCheck | None = None,
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._scorer = scorer
        self._seed = seed
        self._dtype = dtype
        self._alignment = alignment
        self._leaks = leaks or LeakCheck(recipe)
        self._texts = Texts(scorer, seed)
        self._marker = Marker(model.folder)
        self._heads: dict[str, tuple[str, Head]] = {}
        self._readers: dict[str, Reader] = {}

    def ask(self, rows: Sequence[Row], step: int) -> Asked:
        """Score every row after every prompt of every context. Raises the scorer's errors and MissingScore; where a
        teacher of contexts that are to be dropped gives no answer, their pairs are."""
        return self.gather([self.hear(rows, step)])

    def hear(self, rows: Sequence[Row], step: int) -> Heard:
        """The same for a part of a batch: whole groups, since a context may show a rollout's siblings."""
        cases = [
            Case(name=name, context=context, row=index, view=self._view(name, rows, index, step))
            for name, context in self._recipe.contexts.items()
            for index, row in enumerate(rows)
            if row.completion_ids
        ]
        texts = self._texts.gather(cases, step)
        wishes = [wish for case in cases if not case.silent for wish in self._wishes(case, rows[case.row])]
        alike: defaultdict[tuple[str, Wanted, OnFailure], list[Wish]] = defaultdict(list)
        for wish in wishes:
            alike[wish.role, self._wanted(wish), self._recipe.contexts[wish.context].on_failure].append(wish)
        answers: dict[tuple[str, int, int], Answer] = {}
        for (role, wanted, on_failure), mine in alike.items():
            try:
                answers.update(self._score(role, wanted, mine, rows, on_failure))
            except TeacherUnavailable:
                if on_failure != "drop":
                    raise
        return Heard(rows=rows, wishes=wishes, answers=answers, texts=texts)

    def gather(self, parts: Sequence[Heard]) -> Asked:
        """The parts of a batch as one; its rows are theirs, in their order."""
        rows, wishes = list[Row](), list[Wish]()
        answers: dict[tuple[str, int, int], Answer] = {}
        for part in parts:
            first = len(rows)
            wishes += [replace(wish, row=first + wish.row) for wish in part.wishes]
            answers |= {(name, fan, first + row): answer for (name, fan, row), answer in part.answers.items()}
            rows += part.rows
        vocabulary = self._model.card.vocab_size
        slots = {
            name: slots_of(
                name, context.teacher, wishes, answers, rows, self._dtype, vocabulary, self._recipe.needs(name)
            )
            for name, context in self._recipe.contexts.items()
        }
        stamped = sum(1 for answer in answers.values() if answer.stamp.context_hashes)
        masks = [answer.spans.masked for answer in answers.values() if answer.spans is not None]
        aligned = any(isinstance(reader, OtherTokens) for reader in self._readers.values())
        masked = sum(masks) if aligned else None
        dropped = self._dropped(wishes, answers)
        return Asked(
            slots=slots, contexts=len(wishes), dropped=dropped, scored=len(answers), stamped=stamped, masked=masked
        )

    def _dropped(self, wishes: Sequence[Wish], answers: Mapping[tuple[str, int, int], Answer]) -> int:
        """How many wishes were done without. Raises MissingScore where one is missing that may not be."""
        missing = [wish for wish in wishes if (wish.context, wish.fan, wish.row) not in answers]
        for wish in missing:
            if self._recipe.contexts[wish.context].on_failure != "drop":
                raise MissingScore(
                    f"contexts.{wish.context}: nobody scored rollout {wish.row} after its prompt {wish.fan}.",
                    teacher=wish.role,
                )
        return len(missing)

    def _reader(self, role: str) -> Reader:
        """How this role's teacher reads. Only a run that is aligned by bytes may have one with another tokenizer."""
        if role not in self._readers:
            self._readers[role] = SameTokens(self._model)
            if self._alignment == "bytes":
                card = self._scorer.card(role)
                if card.tokenizer.fingerprint != self._model.card.fingerprint:
                    self._readers[role] = OtherTokens(self._model, self._scorer.tokenizer(role), card.teacher)
        return self._readers[role]

    def _view(self, name: str, rows: Sequence[Row], index: int, step: int) -> View:
        """What a context looks at, with the same random numbers whenever it does."""
        row = rows[index]
        group = tuple(_as_seen(other) for other in rows if other.task.id == row.task.id)
        seed = stream(self._seed, "context", step, name, row.task.id, row.index)
        return lambda replies: ContextView(
            task=row.task, rollout=_as_seen(row), group=group, step=step, rng=Random(seed), replies=replies
        )

    def _wishes(self, case: Case, row: Row) -> list[Wish]:
        teacher, seen = case.context.teacher, case.seen()
        return [
            Wish(
                context=case.name,
                fan=fan,
                row=case.row,
                role=prompt.teacher or teacher,
                prompt=prompt,
                ids=tuple(self._reader(prompt.teacher or teacher).prompt_ids(prompt.messages)),
                inside_T=self._inside(row, prompt),
            )
            for fan, prompt in enumerate(self._leaks.kept(case.name, seen, case.context.prompts(seen)))
        ]

    def _inside(self, row: Row, prompt: Prompt) -> np.ndarray | None:
        return None if prompt.spans is None else self._marker.inside(row.completion_ids, row.text, prompt.spans)

    def _wanted(self, wish: Wish) -> Wanted:
        """What to ask the teacher for. Raises NoSupport."""
        need = self._recipe.needs(wish.context)
        if need is Support.SAMPLED:
            return Wanted(need)
        card = self._scorer.card(wish.role)
        if isinstance(self._reader(wish.role), OtherTokens):
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

    def _score(
        self, role: str, wanted: Wanted, wishes: Sequence[Wish], rows: Sequence[Row], on_failure: OnFailure
    ) -> dict[tuple[str, int, int], Answer]:
        reader = self._reader(role)
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
        scores = self._scorer.score(role, request, on_failure=on_failure)
        teacher = scores.stamp.teacher
        if not np.array_equal(scores.offsets, request.scored_offsets):
            raise MissingScore(
                f"teacher '{teacher}' (role '{role}') was asked about {int(request.scored_offsets[-1])} tokens of "
                f"{len(wishes)} rollouts and answered for {int(scores.offsets[-1])}.",
                teacher=teacher,
                remedy="Probe it again, and see its log.",
            )
        sent = scores.hidden_TD if request.support is Support.FULL else scores.tail_T
        if request.support is not Support.SAMPLED and sent is None:
            raise MissingScore(
                f"teacher '{teacher}' (role '{role}') was asked for the support {request.support} and did not send it.",
                teacher=teacher,
                remedy=f"Its card must not offer `{request.support}`: probe it again.",
            )
        head = self._head(role, scores.stamp) if request.support is Support.FULL else None
        answers: dict[tuple[str, int, int], Answer] = {}
        for index, wish in enumerate(wishes):
            begin, end = int(scores.offsets[index]), int(scores.offsets[index + 1])
            context = scores.stamp.context_hashes[int(request.context_of[index])]
            reading = readings[wish.row]
            answers[wish.context, wish.fan, wish.row] = Answer(
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
            )
        return answers

    def _head(self, role: str, stamp: Stamp) -> Head:
        """The head that this answer's hidden states belong to; fetched again only when the stamp names another."""
        held = self._heads.get(role)
        if held is None or held[0] != stamp.head_hash:
            head = self._scorer.head(role, stamp.head_hash)
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


def _as_seen(row: Row) -> Rollout:
    return Rollout(index=row.index, text=row.text, verdict=row.verdict)
