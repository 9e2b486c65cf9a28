"""Right when the answer is mathematically equal to the gold answer: the `math-verify` package."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers.answer import final_answer
from preceptor_trainer.verifiers.apart import in_main_thread
from preceptor_trainer.views import Task, Verdict

START_SECONDS = 60
"""What a child process may take to start and to import sympy on a busy machine."""


class Math(Verifier, kind="math"):
    """`0.5`, `1/2` and `\\frac{1}{2}` are one answer. Reads LaTeX and plain expressions, a boxed one first."""

    columns: ClassVar[tuple[str, ...]] = ("answer",)
    seconds: int = Field(default=5, ge=1, le=600)
    """How long one expression may take to read or to compare; past that it is wrong."""

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 1 or 0. Raises ValueError for a task whose answer is missing or is no mathematics."""
        if task.answer is None:
            raise ValueError(f"verifier 'math': task {task.id} has no answer to compare with")
        given = final_answer(text) if "####" in text else text
        try:
            # Reading twice at most, comparing once, and the start of a process where there is none yet.
            correct = in_main_thread(4 * self.seconds + START_SECONDS, equal, task.answer, given, self.seconds)
        except TimeoutError:
            return Verdict(reward=0.0, correct=False, feedback="The answer takes too long to compare.")
        if correct is None:
            raise ValueError(f"verifier 'math': answer {task.answer!r} of task {task.id} cannot be read as mathematics")
        return Verdict(reward=float(correct), correct=correct, feedback=None if correct else "The answer is wrong.")


def equal(answer: str, given: str, seconds: int) -> bool | None:
    """Whether two texts state the same value; None where `answer` states none. Needs a main thread: see `apart`."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise RuntimeError("verifier 'math' needs the package math-verify: pip install math-verify") from error

    gold = parse(answer, parsing_timeout=seconds) or parse(f"${answer}$", parsing_timeout=seconds)
    if not gold:
        return None
    return bool(verify(gold, parse(given, parsing_timeout=seconds), timeout_seconds=seconds))
