"""Held-out accuracy with its interval: greedy and, where asked for, sampled (avg@k); plain prompt, the data's own
verifier; length and entropy of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import sqrt
from time import monotonic
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter

from preceptor.errors import Invalid
from preceptor.wire.pairs import Outcomes
from preceptor.wire.runs import Evaluation
from preceptor.wire.score import Extra, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer.model import Model, prompt_ids
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.recipe import Verifier
from preceptor_trainer.sampler import Completion, Job, Sampler
from preceptor_trainer.scoring import score
from preceptor_trainer.views import Message, Rollout, Task
from preceptor_trainer.writer import stream

Value = TypeVar("Value")

Z95 = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""
_HITS, _LENGTHS = TypeAdapter(list[bool]), TypeAdapter(list[int])
_SHARES, _SUM = TypeAdapter(list[float]), TypeAdapter(float)


class Evaluator:
    """Asks the student the same held-out tasks again and again."""

    def __init__(
        self,
        model: Model,
        sampler: Sampler,
        tasks: Sequence[Task],
        verifier: Verifier,
        max_tokens: int,
        samples: int = 0,
        temperature: float = 1.0,
        ranks: Ranks | None = None,
    ) -> None:
        """`samples`: answers drawn at `temperature` for each task besides the greedy one. `ranks` share the tasks."""
        self._ranks = ranks = ranks or Ranks()
        self._mine = tasks[ranks.rank :: ranks.count]
        self._model = model
        self._sampler = sampler
        self._tasks = tasks
        self._verifier = verifier
        self._max_tokens = max_tokens
        self._samples = samples
        self._temperature = temperature

    def evaluate(self, step: int) -> Evaluation:
        """The student as it is after `step`."""
        began = monotonic()
        jobs = [self._job(task, 0) for task in self._mine]
        written = self._sampler.sample(jobs, temperature=0.0)
        hits = self._whole([self._right(task, each) for task, each in zip(self._mine, written, strict=True)], _HITS)
        lengths = self._whole([len(each.token_ids) for each in written], _LENGTHS)
        n, correct = len(hits), sum(hits)
        shares = self._whole(self._sampled(), _SHARES) if self._samples else []
        return Evaluation(
            step=step,
            n=n,
            correct=correct,
            accuracy=correct / n,
            ci95=half_width(correct, n),
            mean_length=sum(lengths) / n,
            entropy=sum(self._ranks.every(self._entropy(jobs, written), _SUM)) / sum(lengths),
            samples=self._samples,
            sampled_accuracy=sum(shares) / n if shares else None,
            sampled_ci95=mean_half_width(shares) if shares else None,
            seconds=monotonic() - began,
            hits=hits,
            domains=_by_domain(self._tasks, hits),
        )

    def attempts(self, tasks: Sequence[Task], prompts: Sequence[Sequence[Message]]) -> list[Rollout | None]:
        """The greedy answer to each prompt, judged by its task; None where the prompt does not fit the student. On this
        rank alone."""
        jobs: dict[int, Job] = {}
        for at, prompt in enumerate(prompts):
            with suppress(Invalid):
                ids = tuple(prompt_ids(self._model, prompt, self._max_tokens))
                jobs[at] = Job(prompt_ids=ids, seed=0, max_tokens=self._max_tokens)
        written = dict(zip(jobs, self._sampler.sample(list(jobs.values()), temperature=0.0), strict=True))
        return [self._attempt(task, written[at]) if at in written else None for at, task in enumerate(tasks)]

    def _whole(self, mine: list[Value], kind: TypeAdapter[list[Value]]) -> list[Value]:
        """All ranks' values, in the order of the tasks."""
        count, every = self._ranks.count, self._ranks.every(mine, kind)
        return [every[at % count][at // count] for at in range(len(self._tasks))]

    def _sampled(self) -> list[float]:
        """By task, the share of its sampled answers that was right. The same draws at every evaluation."""
        count = self._samples
        jobs = [self._job(task, stream("evaluate", task.id, index)) for task in self._mine for index in range(count)]
        written = self._sampler.sample(jobs, temperature=self._temperature)
        return [
            sum(self._right(task, each) for each in written[at * count : (at + 1) * count]) / count
            for at, task in enumerate(self._mine)
        ]

    def _job(self, task: Task, seed: int) -> Job:
        ids = tuple(prompt_ids(self._model, task.messages, self._max_tokens))
        return Job(prompt_ids=ids, seed=seed, max_tokens=self._max_tokens)

    def _right(self, task: Task, written: Completion) -> bool:
        verdict = self._attempt(task, written).verdict
        return verdict is not None and verdict.correct

    def _attempt(self, task: Task, written: Completion) -> Rollout:
        text = str(self._model.tokenizer.decode(list(written.token_ids), skip_special_tokens=True))
        return Rollout(index=0, text=text, verdict=self._verifier(task, text))

    def _entropy(self, jobs: Sequence[Job], written: Sequence[Completion]) -> float:
        """Summed over all tokens, in nats."""
        if not jobs:
            return 0.0
        request = ScoreRequest(
            contexts=[np.array(job.prompt_ids, dtype=np.int32) for job in jobs],
            completions=[np.array(each.token_ids, dtype=np.int32) for each in written],
            context_of=np.arange(len(jobs), dtype=np.int32),
            support=Support.SAMPLED,
            extras=frozenset({Extra.ENTROPY}),
        )
        entropy_T = score(self._model, request).entropy_T
        assert entropy_T is not None, "it was asked for"
        return float(entropy_T.sum(dtype=np.float64))


def _by_domain(tasks: Sequence[Task], hits: Sequence[bool]) -> dict[str, Outcomes]:
    found: dict[str, list[bool]] = {}
    for task, hit in zip(tasks, hits, strict=True):
        if (domain := task.columns.get("domain")) is not None:
            found.setdefault(str(domain), []).append(hit)
    return {domain: Outcomes(right=sum(each), wrong=len(each) - sum(each)) for domain, each in sorted(found.items())}


def half_width(correct: int, n: int) -> float:
    """Half-width of the 95% Wilson interval of a share, which stays honest at 0 and 1."""
    share = correct / n
    return Z95 * sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)


def mean_half_width(shares: Sequence[float]) -> float:
    """Half-width of the 95% interval of a mean over tasks; where all tasks came out alike, Wilson's of so many."""
    n, mean = len(shares), sum(shares) / len(shares)
    variance = sum((each - mean) ** 2 for each in shares) / max(n - 1, 1)
    return Z95 * sqrt(variance / n) if variance > 0 else half_width(round(mean * n), n)


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
