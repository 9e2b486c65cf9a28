"""Right when the answer is mathematically equal to the gold answer: the `math-verify` package."""

from __future__ import annotations

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.views import Task, Verdict


class Math(Verifier, kind="math"):
    """`0.5`, `1/2` and `\\frac{1}{2}` are one answer. Reads LaTeX and plain expressions, a boxed one first."""

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 1 or 0. Raises ValueError for a task whose answer is missing or is no mathematics."""
        try:
            from math_verify import parse, verify
        except ImportError as error:
            raise RuntimeError("verifier 'math' needs the package math-verify: pip install math-verify") from error

        if task.answer is None:
            raise ValueError(f"verifier 'math': task {task.id} has no answer to compare with")
        # Its time-outs are signals, which only a main thread may set; a worker's loop need not run in one.
        gold = parse(task.answer, parsing_timeout=None) or parse(f"${task.answer}$", parsing_timeout=None)
        if not gold:
            raise ValueError(f"verifier 'math': the answer {task.answer!r} of task {task.id} cannot be read as mathematics")
        correct = verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None)
        return Verdict(reward=float(correct), correct=correct, feedback=None if correct else "The answer is wrong.")
