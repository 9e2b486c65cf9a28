"""Right when the answer is mathematically equal to the gold answer: the `math-verify` package."""

from __future__ import annotations

import threading
from typing import ClassVar

from pydantic import Field

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.views import Task, Verdict


class Math(Verifier, kind="math"):
    """`0.5`, `1/2` and `\\frac{1}{2}` are one answer. Reads LaTeX and plain expressions, a boxed one first."""

    columns: ClassVar[tuple[str, ...]] = ("answer",)
    seconds: int = Field(default=5, ge=1, le=600)
    """How long one expression may take to read or to compare; past that it is wrong. Binds in a main thread only."""

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 1 or 0. Raises ValueError for a task whose answer is missing or is no mathematics."""
        try:
            from math_verify import parse, verify
        except ImportError as error:
            raise RuntimeError("verifier 'math' needs the package math-verify: pip install math-verify") from error

        if task.answer is None:
            raise ValueError(f"verifier 'math': task {task.id} has no answer to compare with")
        # Its time-outs are signals, which only a main thread may set. 0 is none.
        seconds = self.seconds if threading.current_thread() is threading.main_thread() else 0
        gold = parse(task.answer, parsing_timeout=seconds) or parse(f"${task.answer}$", parsing_timeout=seconds)
        if not gold:
            raise ValueError(f"verifier 'math': answer {task.answer!r} of task {task.id} cannot be read as mathematics")
        given = parse(final_answer(text) if "####" in text else text, parsing_timeout=seconds)
        correct = verify(gold, given, timeout_seconds=seconds)
        return Verdict(reward=float(correct), correct=correct, feedback=None if correct else "The answer is wrong.")
