"""Right when a program gives the answer: it is run, with limits, elsewhere, and what went wrong is the feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from preceptor_trainer.recipe import Verifier
from preceptor_trainer.verifiers.sandbox import SANDBOX
from preceptor_trainer.views import Task, Verdict


class Program(Verifier, kind="program"):
    """Runs the completion, one expression, against the functions of the column `library`: name -> `is` (an expression
    of `x`) and `does` (a word). The feedback is Python's own error, or that the value is wrong; then, for each word in
    the column `asks`, which function does it."""

    columns: ClassVar[tuple[str, ...]] = ("answer", "library")

    def __call__(self, task: Task, text: str) -> Verdict:
        """Reward 1 or 0. Raises ValueError for a task without an answer or a library."""
        functions = _functions(task.columns.get("library"))
        if task.answer is None or functions is None:
            raise ValueError(f"verifier 'program': task {task.id} has no answer, or no `library` to run against")
        outcome = SANDBOX.run(text, {name: each["is"] for name, each in functions.items()})
        if outcome.value == task.answer:
            return Verdict(reward=1.0, correct=True)
        said = outcome.error or "The program runs, and its value is wrong."
        return Verdict(reward=0.0, correct=False, feedback="\n".join([said, *_remarks(task.columns, functions)]))


def _functions(library: Any) -> Mapping[str, Mapping[str, str]] | None:
    """The column, where it is one."""
    if not isinstance(library, Mapping):
        return None
    each_is = [isinstance(each, Mapping) and isinstance(each.get("is"), str) for each in library.values()]
    return cast("Mapping[str, Mapping[str, str]]", library) if all(each_is) else None


def _remarks(columns: Mapping[str, Any], library: Mapping[str, Mapping[str, str]]) -> list[str]:
    wanted = cast("Sequence[str]", columns.get("asks", ()))
    called = {each.get("does"): name for name, each in library.items()}
    return [f"to {does}: {called[does]}" for does in dict.fromkeys(wanted) if does in called]
