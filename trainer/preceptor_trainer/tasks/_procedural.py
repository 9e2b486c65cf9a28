"""What every procedural task shares: the split, the streams, and reasoning-gym behind a lazy import.

reasoning-gym makes item i from the integer seed + i, so that two near seeds are the same questions shifted. Streams
here start at 56-bit hashes of what they are for: overlaps are not to be expected, and would not matter to the split,
which is drawn from the question alone.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from preceptor_trainer.views import Message, Task

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


class TooFewQuestions(ValueError):
    """A task's options allow fewer distinct questions than were asked for."""


class ProceduralTask(BaseModel, ABC):
    """A stream of questions from reasoning-gym. Its fields are its options.

    Every task names in `columns`, besides its answer and reference, a `hint` (the beginning of a solution) and a
    `demonstration` (a good reply), for the contexts that show them, and reasoning-gym's own `metadata`, for its scorer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    dataset: ClassVar[str]
    """reasoning-gym's name."""
    columns: ClassVar[frozenset[str]] = frozenset({"answer", "reference", "hint", "demonstration", "metadata"})
    """What its tasks carry besides their messages."""

    @abstractmethod
    def reference(self, entry: Mapping[str, Any]) -> str:
        """A worked solution of a reasoning-gym entry, ending in the answer."""

    @abstractmethod
    def hint(self, entry: Mapping[str, Any]) -> str:
        """The beginning of that solution, said as a hint."""

    def task(self, entry: Mapping[str, Any]) -> Task:
        """A reasoning-gym entry as a task: its question, word for word, is the plain prompt."""
        reference = self.reference(entry)
        return Task(
            id=question_id(entry["question"]),
            messages=(Message(role="user", content=entry["question"]),),
            answer=entry["answer"],
            reference=reference,
            columns={"hint": self.hint(entry), "demonstration": reference, "metadata": entry["metadata"]},
        )

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        """`batch` distinct training tasks: a pure function of its arguments, so that a resumed run sees the same."""
        return self.take("train", batch, f"{seed}/{step}")

    def held_out(self, count: int) -> list[Task]:
        """The first `count` held-out tasks; a smaller count gives a prefix of a larger one."""
        return self.take("held_out", count)

    def take(self, split: Split, count: int, stream: str = "") -> list[Task]:
        """The first `count` distinct questions of one split in one stream. Raises TooFewQuestions."""
        found: dict[str, Task] = {}
        for drawn, entry in enumerate(self._entries(f"{self.dataset}/{split}/{stream}")):
            if len(found) == count:
                break
            if drawn > PATIENCE * (count + BUCKETS):
                raise TooFewQuestions(
                    f"{self.dataset}: {count} distinct {split} questions wanted, {len(found)} found in {drawn} draws."
                )
            task_id = question_id(entry["question"])
            if task_id not in found and split_of(task_id) == split:
                found[task_id] = self.task(entry)
        return list(found.values())

    def _entries(self, stream: str) -> Iterator[dict[str, Any]]:
        dataset = _dataset(self.dataset, tuple(sorted(self.model_dump().items())))
        index = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:7], "big")
        while True:
            yield dataset[index]
            index += 1


@lru_cache(maxsize=32)
def _dataset(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    # The import takes 1.5 s (it pulls sympy and matplotlib in), so it waits until questions are wanted.
    import reasoning_gym

    return reasoning_gym.create_dataset(name, seed=0, **dict(options))
