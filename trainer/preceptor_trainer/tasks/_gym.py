"""Tasks whose questions are reasoning-gym's, behind a lazy import.

reasoning-gym makes item i from the integer seed + i, so that two near seeds are the same questions shifted. Streams
here start at 56-bit hashes of what they are for: overlaps are not to be expected, and would not matter to the split,
which is drawn from the question alone.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from random import Random
from typing import Any, ClassVar

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.tasks._procedural import ProceduralTask, question_id, shown
from preceptor_trainer.verifiers import Procedural
from preceptor_trainer.views import Message, Task

SEEDS = 2**56


class GymTask(ProceduralTask):
    """A stream of reasoning-gym's questions, judged by its own scorer, which reads the `metadata` column."""

    verifier: ClassVar[Verifier] = Procedural()
    columns: ClassVar[frozenset[str]] = ProceduralTask.columns | {"metadata"}

    @abstractmethod
    def reference(self, entry: Mapping[str, Any]) -> str:
        """A worked solution of a reasoning-gym entry, ending in the answer."""

    def begun(self, entry: Mapping[str, Any]) -> str | None:
        """The beginning of that solution, for a hint; None: its first half."""
        return None

    def task(self, entry: Mapping[str, Any]) -> Task:
        """A reasoning-gym entry as a task: its question, word for word, is the plain prompt."""
        reference = self.reference(entry)
        return Task(
            id=question_id(entry["question"]),
            messages=(Message(role="user", content=entry["question"]),),
            answer=entry["answer"],
            reference=reference,
            columns={**shown(reference, entry["answer"], self.begun(entry)), "metadata": entry["metadata"]},
        )

    def draw(self, rng: Random) -> Task:
        return self.task(self._dataset()[rng.randrange(SEEDS)])

    def stream(self, name: str) -> Iterator[Task]:
        """Neighbours from a far start: distinct items without a draw for each."""
        dataset, index = self._dataset(), int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        while True:
            yield self.task(dataset[index])
            index += 1

    def _dataset(self) -> Any:
        return _dataset(self.name, tuple(sorted(self.model_dump().items())))


@lru_cache(maxsize=32)
def _dataset(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    # The import takes 1.5 s (it pulls sympy and matplotlib in), so it waits until questions are wanted.
    import reasoning_gym

    return reasoning_gym.create_dataset(name, seed=0, **dict(options))
