"""Held-out accuracy with its interval: greedy, plain prompt, the data's own verifier."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from time import monotonic

from preceptor.wire.runs import Evaluation
from preceptor_trainer.model import Model, prompt_ids
from preceptor_trainer.recipe import Verifier
from preceptor_trainer.sampler import Job, Sampler
from preceptor_trainer.views import Task

Z95 = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""


class Evaluator:
    """Asks the student the same held-out tasks again and again."""

    def __init__(
        self, model: Model, sampler: Sampler, tasks: Sequence[Task], verifier: Verifier, max_tokens: int
    ) -> None:
        self._model = model
        self._sampler = sampler
        self._tasks = tasks
        self._verifier = verifier
        self._max_tokens = max_tokens

    def evaluate(self, step: int) -> Evaluation:
        """The student as it is after `step`."""
        began = monotonic()
        jobs = [
            Job(prompt_ids=tuple(prompt_ids(self._model, task.messages)), seed=0, max_tokens=self._max_tokens)
            for task in self._tasks
        ]
        written = self._sampler.sample(jobs, temperature=0.0)
        texts = [str(self._model.tokenizer.decode(list(each.token_ids), skip_special_tokens=True)) for each in written]
        hits = [self._verifier(task, text).correct for task, text in zip(self._tasks, texts, strict=True)]
        n, correct = len(hits), sum(hits)
        return Evaluation(
            step=step,
            n=n,
            correct=correct,
            accuracy=correct / n,
            ci95=half_width(correct, n),
            mean_length=sum(len(each.token_ids) for each in written) / n,
            seconds=monotonic() - began,
            hits=hits,
        )


def half_width(correct: int, n: int) -> float:
    """Half-width of the 95% Wilson interval of a share, which stays honest at 0 and 1."""
    share = correct / n
    return Z95 * sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)


def gain_interval(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """95% interval of the gain in accuracy, paired by task (normal approximation of the mean difference).

    Raises ValueError when the two are not of the same tasks.
    """
    n = len(before)
    if n != len(after) or n == 0:
        raise ValueError(f"a paired gain needs the same tasks before and after, not {n} and {len(after)}")
    differences = [int(late) - int(early) for early, late in zip(before, after, strict=True)]
    mean = sum(differences) / n
    variance = sum((each - mean) ** 2 for each in differences) / max(n - 1, 1)
    reach = Z95 * sqrt(variance / n)
    return mean - reach, mean + reach
