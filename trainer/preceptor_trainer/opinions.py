"""The context and score stages: every context's prompts are written, teachers are asked, answers become slots.

A request lists each distinct privileged prompt once; rollouts point at it. What comes back is checked to cover every
(rollout, prompt) pair: a score that is missing is an error, never a zero. Each teacher is asked in its own tokens.

Shape letters: T tokens of the whole batch, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from preceptor.wire.runs import Alignment
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Stamp, Support
from preceptor_trainer.asking import Answer, Asked, Heard, MissingScore, Scorer, Wish
from preceptor_trainer.batch import Row, Slot
from preceptor_trainer.model import Head, Model
from preceptor_trainer.readers import OtherTokens, Reader, SameTokens
from preceptor_trainer.recipe import Context, Recipe
from preceptor_trainer.views import ContextView, Rollout
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
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._scorer = scorer
        self._seed = seed
        self._dtype = dtype
        self._alignment = alignment
        self._heads: dict[str, tuple[str, Head]] = {}
        self._readers: dict[str, Reader] = {}

    def ask(self, rows: Sequence[Row], step: int) -> Asked:
        """Score every row after every prompt of every context. Raises the scorer's errors and MissingScore."""
        return self.gather([self.hear(rows, step)])

    def hear(self, rows: Sequence[Row], step: int) -> Heard:
        """The same for a part of a batch: whole groups, since a context may show a rollout's siblings."""
        wishes = [
            wish
            for name, context in self._recipe.contexts.items()
            for index in range(len(rows))
            for wish in self._wishes(name, context, rows, index, step)
        ]
        by_role: defaultdict[str, list[Wish]] = defaultdict(list)
        for wish in wishes:
            by_role[wish.role].append(wish)
        answers: dict[tuple[str, int, int], Answer] = {}
        for role, wanted in by_role.items():
            answers.update(self._score(role, wanted, rows))
        return Heard(rows=rows, wishes=wishes, answers=answers)

    def gather(self, parts: Sequence[Heard]) -> Asked:
        """The parts of a batch as one; its rows are theirs, in their order."""
        rows, wishes = list[Row](), list[Wish]()
        answers: dict[tuple[str, int, int], Answer] = {}
        for part in parts:
            first = len(rows)
            wishes += [replace(wish, row=first + wish.row) for wish in part.wishes]
            answers |= {(name, fan, first + row): answer for (name, fan, row), answer in part.answers.items()}
            rows += part.rows
        slots = {name: self._slots(name, wishes, answers, rows) for name in self._recipe.contexts}
        stamped = sum(1 for answer in answers.values() if answer.stamp.context_hashes)
        masks = [answer.spans.masked for answer in answers.values() if answer.spans is not None]
        aligned = any(isinstance(reader, OtherTokens) for reader in self._readers.values())
        masked = sum(masks) if aligned else None
        return Asked(slots=slots, contexts=len(wishes), scored=len(answers), stamped=stamped, masked=masked)

    def _reader(self, role: str) -> Reader:
        """How this role's teacher reads. Only a run that is aligned by bytes may have one with another tokenizer."""
        if role not in self._readers:
            self._readers[role] = SameTokens(self._model)
            if self._alignment == "bytes":
                card = self._scorer.card(role)
                if card.tokenizer.fingerprint != self._model.card.fingerprint:
                    if self._recipe.support is not Support.SAMPLED:
                        raise ValueError(
                            f"alignment: teacher '{card.teacher}' (role '{role}') has another tokenizer, and the "
                            f"recipe needs {self._recipe.support.value}; across tokenizers there is only sampled"
                        )
                    self._readers[role] = OtherTokens(self._model, self._scorer.tokenizer(role), card.teacher)
        return self._readers[role]

    def _wishes(self, name: str, context: Context, rows: Sequence[Row], index: int, step: int) -> list[Wish]:
        row = rows[index]
        if not row.completion_ids:
            return []
        view = ContextView(
            task=row.task,
            rollout=_as_seen(row),
            group=tuple(_as_seen(other) for other in rows if other.task.id == row.task.id),
            step=step,
            rng=Random(stream(self._seed, "context", step, name, row.task.id, row.index)),
        )
        if asks := context.asks(view):
            raise ValueError(
                f"contexts.{name}: wants text from teacher '{asks[0].teacher}', and this run has no text teachers"
            )
        return [
            Wish(
                context=name,
                fan=fan,
                row=index,
                role=prompt.teacher or context.teacher,
                prompt=prompt,
                ids=tuple(self._reader(prompt.teacher or context.teacher).prompt_ids(prompt.messages)),
            )
            for fan, prompt in enumerate(context.prompts(view))
        ]

    def _score(self, role: str, wishes: Sequence[Wish], rows: Sequence[Row]) -> dict[tuple[str, int, int], Answer]:
        reader = self._reader(role)
        readings = {row: reader.read(rows[row].completion_ids) for row in dict.fromkeys(wish.row for wish in wishes)}
        distinct = {ids: index for index, ids in enumerate(dict.fromkeys(wish.ids for wish in wishes))}
        request = ScoreRequest(
            contexts=[np.array(ids, dtype=np.int32) for ids in distinct],
            completions=[np.array(readings[wish.row].ids, dtype=np.int32) for wish in wishes],
            context_of=np.array([distinct[wish.ids] for wish in wishes], dtype=np.int32),
            support=self._recipe.support,
        )
        scores = self._scorer.score(role, request)
        teacher = scores.stamp.teacher
        if not np.array_equal(scores.offsets, request.scored_offsets):
            raise MissingScore(
                f"teacher '{teacher}' (role '{role}') was asked about {int(request.scored_offsets[-1])} tokens of "
                f"{len(wishes)} rollouts and answered for {int(scores.offsets[-1])}.",
                teacher=teacher,
                remedy="Probe it again, and see its log.",
            )
        if request.support is Support.FULL and scores.hidden_TD is None:
            raise MissingScore(
                f"teacher '{teacher}' (role '{role}') was asked for hidden states and sent none.",
                teacher=teacher,
                remedy="Its card must not offer `full`: probe it again.",
            )
        head = self._head(role, scores.stamp)
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
                stamp=scores.stamp.model_copy(update={"context_hashes": (context,)}),
            )
        return answers

    def _slots(
        self, name: str, wishes: Sequence[Wish], answers: Mapping[tuple[str, int, int], Answer], rows: Sequence[Row]
    ) -> list[Slot]:
        mine = [wish for wish in wishes if wish.context == name]
        fans = 1 + max((wish.fan for wish in mine), default=0)
        return [self._slot(name, fan, [wish for wish in mine if wish.fan == fan], answers, rows) for fan in range(fans)]

    def _slot(
        self,
        name: str,
        fan: int,
        wishes: Sequence[Wish],
        answers: Mapping[tuple[str, int, int], Answer],
        rows: Sequence[Row],
    ) -> Slot:
        roles = sorted({wish.role for wish in wishes})
        if len(roles) > 1:
            raise ValueError(
                f"contexts.{name}: prompt {fan} asks {' and '.join(roles)}; one prompt of a context asks one teacher"
            )
        offsets = np.cumsum([0, *(len(row.completion_ids) for row in rows)])
        total = int(offsets[-1])
        logprob_T, present_T, weight_T = (torch.zeros(total, dtype=self._dtype) for _ in range(3))
        hidden_TD: Tensor | None = None
        span_T: Tensor | None = None
        stamps: dict[int, Stamp] = {}
        head = answers[name, fan, wishes[0].row].head if wishes else None
        for wish in wishes:
            answer = answers[name, fan, wish.row]
            tokens = slice(int(offsets[wish.row]), int(offsets[wish.row + 1]))
            logprob_T[tokens] = torch.as_tensor(answer.logprob_T, dtype=self._dtype)
            present_T[tokens] = 1.0
            weight_T[tokens] = wish.prompt.weight
            if answer.spans is not None:
                if span_T is None:
                    span_T = torch.full((total,), -2, dtype=torch.int64)
                own_T = torch.as_tensor(answer.spans.student_T)
                present_T[tokens] = (own_T >= 0).to(self._dtype)
                # No more spans than tokens: numbers that begin at the row's offset are its own.
                span_T[tokens] = torch.where(own_T >= 0, own_T + int(offsets[wish.row]), own_T)
            stamps[wish.row] = answer.stamp
            if answer.hidden_TD is not None:
                if hidden_TD is None:
                    hidden_TD = torch.zeros(total, answer.hidden_TD.shape[1], dtype=self._dtype)
                hidden_TD[tokens] = torch.as_tensor(answer.hidden_TD, dtype=self._dtype)
        return Slot(
            context=name,
            role=roles[0] if roles else self._recipe.contexts[name].teacher,
            logprob_T=logprob_T,
            present_T=present_T,
            weight_T=weight_T,
            span_T=span_T,
            hidden_TD=hidden_TD,
            head=head,
            stamps=stamps,
        )

    def _head(self, role: str, stamp: Stamp) -> Head | None:
        """The head that this answer's hidden states belong to; fetched again only when the stamp names another."""
        if self._recipe.support is not Support.FULL:
            return None
        held = self._heads.get(role)
        if held is None or held[0] != stamp.head_hash:
            head = self._scorer.head(role)
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
