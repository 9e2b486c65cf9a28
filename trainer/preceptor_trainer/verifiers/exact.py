"""Right when the final answer is the gold answer, letter by letter."""

from __future__ import annotations

from typing import ClassVar

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.views import Task, Verdict


class Exact(Verifier, kind="exact"):
    """Compares the final answer with `Task.answer`, spacing aside."""

    columns: ClassVar[tuple[str, ...]] = ("answer",)

    ignore_case: bool = False
    """Whether `Paris` and `paris` are the same."""

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 1 or 0. Raises ValueError for a task without an answer."""
        if task.answer is None:
            raise ValueError(f"verifier 'exact': task {task.id} has no answer to compare with")
        given, gold = (" ".join(part.split()) for part in (final_answer(text), task.answer))
        correct = given.casefold() == gold.casefold() if self.ignore_case else given == gold
        return Verdict(reward=float(correct), correct=correct, feedback=None if correct else "The answer is wrong.")
