"""What every procedural task shares: the split, the streams, the columns.

A task of your own is one file: a class with a `name` and `draw` (`verifier` and `columns` where they are not the
defaults), its fields being its options, and `TASK = ThatClass` at the end. `docs/tasks.md` has one that runs.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from random import Random
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers import Exact
from preceptor_trainer.views import Task

Split = Literal["train", "validation", "held_out"]
"""`held_out` is what gains are reported on. `validation` is for choosing among models. Neither is ever trained on."""

BUCKETS = 10
"""Of ten questions, one is held out, one is for validation, eight are for training."""
PATIENCE = 400
"""How many items may be drawn per question wanted before the options are judged to have too few questions."""


def question_id(question: str) -> str:
    """Identity of a question: a hash that ignores case and spacing, so that no near-identical one crosses a split."""
    return hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:32]


def split_of(task_id: str) -> Split:
    """Where a question belongs, from its `question_id` alone."""
    bucket = int(task_id[:12], 16) % BUCKETS
    return "held_out" if bucket == 0 else "validation" if bucket == 1 else "train"


def shown(reference: str, answer: str, begun: str | None = None) -> dict[str, str]:
    """What a rule can write of a solution: a `hint` (`begun`, its beginning; None: its first half), a `demonstration`,
    a `rubric`, and a `debate` of two who agree."""
    begun = reference[: (len(reference) + 1) // 2] if begun is None else begun
    return {
        "hint": f"The solution begins with: {begun}",
        "demonstration": reference,
        "rubric": f"It begins with: {begun}\nIts answer is: {answer}",
        "debate": f"first: {answer}\nsecond: {answer}",
    }


class TooFewQuestions(ValueError):
    """A task's options allow fewer distinct questions than were asked for."""


class ProceduralTask(BaseModel, ABC):
    """A stream of questions without end. Its fields are its options.

    Every task names in `columns`, besides its answer and reference, what `shown` writes for the contexts that show it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    name: ClassVar[str]
    """What its streams are drawn by: its module's name."""
    verifier: ClassVar[Verifier] = Exact()
    """How its answers are judged."""
    columns: ClassVar[frozenset[str]] = frozenset({"answer", "reference", "hint", "demonstration", "rubric", "debate"})
    """What its tasks carry besides their messages."""
    values: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """All that a column may say, by its name, where that is one of a few words: the domains that routers go by."""
    answer_tokens: ClassVar[int] = 32
    """Room that an answer needs, in tokens of a byte each: the horizon where somebody has to choose one."""

    @abstractmethod
    def draw(self, rng: Random) -> Task:
        """One question. Its `id` is the `question_id` of all that makes it another question than the next."""

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        """`batch` distinct training tasks: a pure function of its arguments, so that a resumed run sees the same."""
        return self.take("train", batch, f"{seed}/{step}")

    def held_out(self, count: int) -> list[Task]:
        """The first `count` held-out tasks; a smaller count gives a prefix of a larger one."""
        return self.take("held_out", count)

    def take(self, split: Split, count: int, stream: str = "") -> list[Task]:
        """The first `count` distinct questions of one split in one stream. Raises TooFewQuestions."""
        found: dict[str, Task] = {}
        for drawn, task in enumerate(self.stream(f"{self.name}/{split}/{stream}")):
            if len(found) == count:
                break
            if drawn > PATIENCE * (count + BUCKETS):
                raise TooFewQuestions(
                    f"{self.name}: {count} distinct {split} questions wanted, {len(found)} found in {drawn} draws."
                )
            if split_of(task.id) == split:
                found.setdefault(task.id, task)
        return list(found.values())

    def stream(self, name: str) -> Iterator[Task]:
        """Questions without end, of every split, drawn by the stream's name."""
        rng = Random(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
        while True:
            yield self.draw(rng)
