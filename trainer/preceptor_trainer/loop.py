"""One run, top to bottom.

    sample -> verify -> context, score -> compose, learn -> report -> evaluate -> checkpoint

Everything a step does is a function of (the weights before it, the run's seed, the step's number), so a run that is
taken up again from a checkpoint continues the same numbers. The loop knows no queue, no database and no HTTP: teachers
come as a `Scorer`, whoever watches as a `Reporter`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Protocol, TypeVar

import torch

from preceptor.wire.runs import Evaluation, Ledger, Run, RunResult, Sample, StepReport, TokenScore
from preceptor_trainer import checkpoint
from preceptor_trainer.asking import Asked, Scorer
from preceptor_trainer.batch import Batch, Row, build_batch, share_spans
from preceptor_trainer.checkpoint import CheckpointState
from preceptor_trainer.data import Data
from preceptor_trainer.evaluate import Evaluator, gain_interval
from preceptor_trainer.learner import Learner
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.recipe import Recipe, Verifier
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.writer import Writer

Result = TypeVar("Result")


class Signal(StrEnum):
    """What the watcher wants of the loop after a step."""

    GO = "go"
    CANCEL = "cancel"
    PAUSE = "pause"
    STOP = "stop"
    """The worker is shutting down: somebody else will go on."""


class Reporter(Protocol):
    """Who is told. Any method may raise to end the loop (a lost lease); nothing more is reported then."""

    def step(self, report: StepReport, samples: Sequence[Sample]) -> Signal: ...

    def evaluation(self, evaluation: Evaluation) -> None: ...

    def checkpoint(self, folder: Path, step: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the loop ended. `signal` is GO when all steps were done; only then is there a result."""

    signal: Signal
    step: int
    result: RunResult | None = None
    model: Path | None = None
    """The trained student, a plain Hugging Face folder."""


@dataclass(slots=True)
class Clock:
    """Seconds by stage, of one step."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def time(self, stage: str, work: Callable[[], Result]) -> Result:
        began = monotonic()
        result = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + monotonic() - began
        return result


def train(
    run: Run, student: Path, data: Data, scorer: Scorer, reporter: Reporter, work: Path, resume: Path | None = None
) -> Ended:
    """Do a run, from its beginning or from the checkpoint folder `resume`.

    `student` is a model folder; checkpoints and the final model are written below `work`. Raises what a stage raises:
    the last checkpoint is intact then.
    """
    loop = Loop(run, student, data, scorer, reporter, work, resume)
    return loop.go()


class Loop:
    """The stages of one run, wired."""

    def __init__(
        self, run: Run, student: Path, data: Data, scorer: Scorer, reporter: Reporter, work: Path, resume: Path | None
    ) -> None:
        torch.set_num_threads(run.training.threads)
        self._run = run
        self._data = data
        self._scorer = scorer
        self._reporter = reporter
        self._work = work
        recipe = Recipe.model_validate(run.resolved)
        self._verifier: Verifier = recipe.verifier or data.verifier
        self._model = _open(student, resume)
        sampler = LocalSampler(self._model)
        seed = run.training.seed
        self._writer = Writer(recipe.rollout, self._model, sampler, seed)
        self._learner = Learner(recipe, self._model, run.training)
        self._opinions = Opinions(recipe, self._model, scorer, seed, self._learner.dtype, run.alignment)
        self._evaluator = Evaluator(
            self._model,
            sampler,
            data.held_out(run.training.evaluate_items),
            self._verifier,
            recipe.rollout.max_tokens,
        )
        self._state = CheckpointState(step=0, seed=seed, train_seconds=0.0)
        self._latest = resume
        if resume is not None:
            self._state = checkpoint.load_state(resume)
            checkpoint.load_optimizer(resume, self._learner.optimizer)

    def go(self) -> Ended:
        """All steps that are left."""
        training = self._run.training
        if self._state.baseline is None:
            self._state.baseline = self._evaluate(0)
        last = None
        for step in range(self._state.step + 1, training.steps + 1):
            began = monotonic()
            report, samples = self._step(step)
            self._state.step = step
            self._state.train_seconds += monotonic() - began
            signal = self._reporter.step(report, samples)
            last = self._evaluate(step) if step % training.evaluate_every == 0 or step == training.steps else None
            if step % training.checkpoint_every == 0 or step == training.steps or signal is not Signal.GO:
                self._checkpoint()
            if signal is not Signal.GO:
                return Ended(signal=signal, step=step)
        return self._finish(last or self._evaluate(training.steps))

    def _step(self, step: int) -> tuple[StepReport, list[Sample]]:
        training, clock, began = self._run.training, Clock(), monotonic()
        tasks = clock.time("data", lambda: self._data.train(step, training.batch, training.seed))
        written = clock.time("sample", lambda: self._writer.write(tasks, step))
        rows = by_length(clock.time("verify", lambda: [self._verify(row) for row in written]))
        asked = clock.time("score", lambda: self._opinions.ask(rows, step))
        batch = build_batch(rows, asked.slots, step, self._learner.dtype)
        metrics = clock.time("learn", lambda: self._learner.learn(batch))
        seconds = monotonic() - began
        metrics |= describe(rows, seconds)
        report = StepReport(step=step, metrics=metrics, ledger=self._ledger(batch, asked, clock))
        return report, samples_of(batch, training.samples_kept, self._writer.text)

    def _verify(self, row: Row) -> Row:
        return replace(row, verdict=self._verifier(row.task, row.text))

    def _ledger(self, batch: Batch, asked: Asked, clock: Clock) -> Ledger:
        prompts = sum(len(row.prompt_ids) for row in batch.rows)
        masked = {} if asked.masked is None else {"masked": asked.masked}
        return Ledger(
            seconds=clock.seconds,
            tokens={"prompt": prompts, "completion": batch.tokens, **masked},
            rollouts=len(batch.rows),
            contexts=asked.contexts,
            scored_sequences=asked.scored,
            stamped_sequences=asked.stamped,
            teachers=self._scorer.take_ledger(),
        )

    def _evaluate(self, step: int) -> Evaluation:
        evaluation = self._evaluator.evaluate(step)
        self._reporter.evaluation(evaluation)
        return evaluation

    def _checkpoint(self) -> None:
        folder = self._work / f"checkpoint-{self._state.step:08d}"
        checkpoint.save(folder, self._model, self._learner.optimizer, self._state)
        self._reporter.checkpoint(folder, self._state.step)
        if self._latest is not None and self._latest.parent == self._work and self._latest != folder:
            shutil.rmtree(self._latest)
        self._latest = folder

    def _finish(self, last: Evaluation) -> Ended:
        first = self._state.baseline
        assert first is not None, "every run is evaluated before its first step"
        result = RunResult(
            task=self._data.name,
            n=first.n,
            before=first.accuracy,
            after=last.accuracy,
            gain=last.accuracy - first.accuracy,
            ci95=gain_interval(first.hits, last.hits),
            steps=self._state.step,
            train_seconds=self._state.train_seconds,
        )
        assert self._latest is not None, "the last step writes a checkpoint"
        return Ended(signal=Signal.GO, step=self._state.step, result=result, model=self._latest / "model")


def _open(student: Path, resume: Path | None) -> Model:
    model = load_model(student if resume is None else resume / "model")
    model.module.train(False)
    return model


def by_length(rows: Sequence[Row]) -> list[Row]:
    """Short rows first, so that microbatches pad little; ties keep their order."""
    return sorted(rows, key=lambda row: len(row.prompt_ids) + len(row.completion_ids))


def describe(rows: Sequence[Row], seconds: float) -> dict[str, float]:
    """What the step's rollouts were like."""
    tokens = sum(len(row.completion_ids) for row in rows)
    verdicts = [row.verdict for row in rows if row.verdict is not None]
    count = max(len(rows), 1)
    metrics = {
        "completion_length": tokens / count,
        "truncated": sum(not row.finished for row in rows) / count,
        "seconds": seconds,
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }
    if verdicts:
        metrics["reward"] = sum(verdict.reward for verdict in verdicts) / len(verdicts)
        metrics["train_accuracy"] = sum(verdict.correct for verdict in verdicts) / len(verdicts)
    return metrics


def samples_of(batch: Batch, count: int, text: Callable[[Sequence[int]], str]) -> list[Sample]:
    """The batch's first rollouts, with what everyone thought of every token."""
    batch = share_spans(batch, batch.behaviour.logprob_T, fill=False)
    return [_sample(batch, index, text) for index in range(min(count, len(batch.rows)))]


def _sample(batch: Batch, index: int, text: Callable[[Sequence[int]], str]) -> Sample:
    row, begin = batch.rows[index], batch.offsets[index]
    opinions = {
        f"{name}/{k}" if len(slots) > 1 else name: slot
        for name, slots in batch.slots.items()
        for k, slot in enumerate(slots)
        if index in slot.stamps
    }
    logprobs = row.logprobs or (float("nan"),) * len(row.completion_ids)
    return Sample(
        step=batch.step,
        task_id=row.task.id,
        prompt=row.task.messages[-1]["content"],
        completion=row.text,
        reward=row.verdict.reward if row.verdict else float("nan"),
        tokens=[
            TokenScore(
                token=token,
                text=text([token]),
                student=logprobs[t],
                teachers={
                    name: float(slot.logprob_T[begin + t])
                    for name, slot in opinions.items()
                    if slot.present_T[begin + t] > 0
                },
            )
            for t, token in enumerate(row.completion_ids)
        ],
        stamps={name: slot.stamps[index] for name, slot in opinions.items()},
    )
