"""The context and score stages: every context's prompts are written, teachers are asked, answers become slots.

A request lists each distinct privileged prompt once; rollouts point at it. What comes back is checked to cover every
(rollout, prompt) pair: a score that is missing is an error, never a zero. Only a context that says so is done without
where nobody answers: its opinion is absent then, and counted. Each teacher is asked in its own tokens.

Shape letters: T tokens of the whole batch, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch

from preceptor.ledgers import added
from preceptor.wire.runs import Alignment
from preceptor_trainer.asking import Answer, Asked, Heard, MissingScore, Scorer, Wish
from preceptor_trainer.batch import Row
from preceptor_trainer.dispatch import dispatch
from preceptor_trainer.laying import slots_of
from preceptor_trainer.leaks import LeakCheck
from preceptor_trainer.marking import Marker
from preceptor_trainer.minutes import Book, minutes, recall
from preceptor_trainer.model import Model
from preceptor_trainer.questions import Questions
from preceptor_trainer.recipe import OTHERS, Recipe
from preceptor_trainer.standing import Standing
from preceptor_trainer.texts import Case, Texts, View, told_of
from preceptor_trainer.views import ContextView, Prompt, Rollout, Task
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
        meet: Callable[[int], Mapping[str, Standing]] = lambda step: {},
        tasks: Callable[[int], Sequence[Task]] = lambda step: (),
        book: Book | None = None,
    ) -> None:
        """`meet` waits for the run's peer before a step is scored, and says how the two do. `tasks`: all of a step.
        `book`: where debates are that were held before."""
        self._recipe = recipe
        self._model = model
        self._seed = seed
        self._dtype = dtype
        self._leaks = leaks or LeakCheck(recipe)
        self._scorer, self._book = scorer, book
        self._texts = Texts(scorer, seed)
        self._meet = meet
        self._tasks = tasks if recipe.readers(OTHERS) else lambda step: ()
        self._marker = Marker(model.folder)
        self._questions = Questions(recipe, model, scorer, dtype, alignment)

    def ask(self, rows: Sequence[Row], step: int) -> Asked:
        """Score every row after every prompt of every context. Raises the scorer's errors and MissingScore; where a
        teacher of contexts that are to be dropped gives no answer, their pairs are."""
        return self.gather([self.hear(rows, step)])

    def hear(self, rows: Sequence[Row], step: int) -> Heard:
        """The same for a part of a batch: whole groups, since a context may show a rollout's siblings."""
        vacant = self._questions.begin(step)
        standing, others = self._meet(step), self._tasks(step)
        cases = [
            Case(
                name=name,
                asker=context,
                on_failure=context.on_failure,
                row=at,
                view=self._view(name, rows, at, step, standing, others),
            )
            for name, context in self._recipe.contexts.items()
            for at, row in enumerate(rows)
            if row.completion_ids
        ]
        sent, routing = dispatch(cases, self._recipe.contexts, self._texts, step, vacant)
        if self._book is not None:
            recall(sent, self._scorer, self._book)
        texts = added([routing, self._texts.gather(sent, step)])
        wishes = [wish for case in sent if not case.silent for wish in self._wishes(case, rows[case.row])]
        answers = self._questions.ask(wishes, rows)
        unrouted = len(cases) - len(sent)
        debates = minutes(sent, step, self._scorer)
        heard = Heard(rows=rows, wishes=wishes, answers=answers, texts=texts, unrouted=unrouted, debates=debates)
        return replace(heard, told=told_of(sent))

    def begin_again(self, replaced: Collection[str]) -> None:
        """What was heard of steps that are not learned from yet is heard anew; others fill these roles."""
        self._questions.begin_again()
        self._texts.begin_again(replaced)
        self._leaks.begin_again()

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
        masked = sum(masks) if self._questions.aligned else None
        dropped = self._dropped(wishes, answers)
        return Asked(
            slots=slots,
            contexts=len(wishes),
            dropped=dropped,
            scored=len(answers),
            stamped=stamped,
            masked=masked,
            debates=[each for part in parts for each in part.debates],
            unrouted=sum(part.unrouted for part in parts),
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

    def _view(
        self,
        name: str,
        rows: Sequence[Row],
        index: int,
        step: int,
        standing: Mapping[str, Standing],
        others: Sequence[Task],
    ) -> View:
        """What a context looks at, with the same random numbers whenever it does."""
        row = rows[index]
        group = tuple(_as_seen(other) for other in rows if other.task.id == row.task.id)
        seed = stream(self._seed, "context", step, name, row.task.id, row.index)
        return lambda replies: ContextView(
            task=row.task,
            rollout=_as_seen(row),
            group=group,
            step=step,
            rng=Random(seed),
            replies=replies,
            standing=standing,
            others=others,
        )

    def _wishes(self, case: Case, row: Row) -> list[Wish]:
        context, seen = self._recipe.contexts[case.name], case.seen()
        return [
            Wish(
                context=case.name,
                fan=fan,
                row=case.row,
                role=prompt.teacher or case.role,
                prompt=prompt,
                ids=tuple(self._questions.reader(prompt.teacher or case.role).prompt_ids(prompt.messages)),
                inside_T=self._inside(row, prompt),
            )
            for fan, prompt in enumerate(self._leaks.kept(case.name, seen, context.prompts(seen)))
        ]

    def _inside(self, row: Row, prompt: Prompt) -> np.ndarray | None:
        return None if prompt.spans is None else self._marker.inside(row.completion_ids, row.text, prompt.spans)


def _as_seen(row: Row) -> Rollout:
    return Rollout(index=row.index, text=row.text, verdict=row.verdict)
