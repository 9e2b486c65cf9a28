"""One run, top to bottom.

    sample -> verify -> context, score -> compose, learn -> publish -> report -> evaluate -> checkpoint

What comes before the learner runs beside it (`pipeline`): a part of a batch is verified and scored while the rest is
being written, and the next batches while this one is learned from, as far as `max_lag` lets them. With `max_lag` 0
everything that a step does is a function of (the weights before it, the run's seed, the step's number), whoever was
faster, so a run that is taken up again from a checkpoint continues the same numbers. The loop knows no queue, no
database and no HTTP: teachers come as a `Scorer`, whoever watches as a `Reporter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import torch

from preceptor.wire.runs import Evaluation, Run, RunResult, Sample, StepReport
from preceptor_trainer.asking import Scorer
from preceptor_trainer.batch import Batch, build_batch
from preceptor_trainer.data import Data
from preceptor_trainer.evaluate import Evaluator
from preceptor_trainer.flow import Part, Taken
from preceptor_trainer.guards import Trip, survives
from preceptor_trainer.hearing import Hearing
from preceptor_trainer.keeping import Keeper
from preceptor_trainer.leaks import LeakCheck
from preceptor_trainer.learner import Learner
from preceptor_trainer.ledgers import SHARE, counted, ledger_of, share_of
from preceptor_trainer.minutes import Book
from preceptor_trainer.mismatch import as_written
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.own_base import with_own_base
from preceptor_trainer.paired import Pair, Paired
from preceptor_trainer.pipeline import Pipeline
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.recipe import Recipe, Verifier
from preceptor_trainer.reporting import Reporter, Signal
from preceptor_trainer.sampler import LocalSampler
from preceptor_trainer.samplers import Remote, open_sampler
from preceptor_trainer.self_teacher import Publisher, open_self_teacher
from preceptor_trainer.sharing import Sharing
from preceptor_trainer.skill_bank import RunBank, WithSkills
from preceptor_trainer.snapshot import own_tokenizer
from preceptor_trainer.student import open_learning, open_student
from preceptor_trainer.telling import describe, samples_of
from preceptor_trainer.views import Task
from preceptor_trainer.writer import Writer, stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the loop ended. `signal` is GO when all steps were done; only then is there a result."""

    signal: Signal
    step: int
    result: RunResult | None = None
    model: Path | None = None
    """The trained student, a plain Hugging Face folder."""


def train(
    run: Run,
    student: Path,
    data: Data,
    scorer: Scorer,
    reporter: Reporter,
    work: Path,
    resume: Path | None = None,
    publisher: Publisher | None = None,
    ranks: Ranks | None = None,
    sampler: Remote | None = None,
    bank: RunBank | None = None,
    pair: Pair | None = None,
    book: Book | None = None,
) -> Ended:
    """Do a run, from its beginning or from the checkpoint folder `resume`.

    `student` is a model folder; checkpoints and the final model are written below `work`; `publisher` sends a moving
    self-teacher's weights; of several `ranks` each does its share, and the first alone ends with a result; `sampler`
    writes for a run that names one; `bank` has the skills of one that pins them; `pair` connects one that has a peer
    with it; `book` knows debates that were held. Raises what a stage raises: the last checkpoint is intact then.
    """
    loop = Loop(
        run, student, data, scorer, reporter, work, resume, publisher, ranks or Ranks(), sampler, bank, pair, book
    )
    return loop.go()


class Loop:
    """The stages of one run, wired."""

    def __init__(
        self,
        run: Run,
        student: Path,
        data: Data,
        scorer: Scorer,
        reporter: Reporter,
        work: Path,
        resume: Path | None,
        publisher: Publisher | None,
        ranks: Ranks,
        sampler: Remote | None,
        bank: RunBank | None,
        pair: Pair | None,
        book: Book | None,
    ) -> None:
        torch.set_num_threads(run.training.threads)
        self._run, self._ranks, self._reporter = run, ranks, reporter
        self._bank, self._data = bank, data if bank is None else WithSkills(data, bank)
        recipe = Recipe.model_validate(run.resolved)
        self._verifier: Verifier = recipe.verifier or data.verifier
        opened = open_student(student, run.training, resume, ranks.device)
        self._model = opened.model
        learning = open_learning(opened.model, student, run.training, recipe.constraint, resume, ranks)
        scorer = with_own_base(scorer, run, opened, student)
        self._paired = paired = Paired(pair, opened.model, run, recipe)
        self._learner = Learner(as_written(recipe, run), self._model, run.training, learning)
        self._sampling = open_sampler(opened.model, student, run, resume, sampler, ranks)
        writing = own_tokenizer(self._sampling.model)
        asking, seed = own_tokenizer(writing), run.training.seed
        self._leaks = leaks = LeakCheck(recipe, run.training.leak_check)
        self._writer = Writer(recipe.rollout, writing, self._sampling.sampler, seed, leaks)
        dtype = self._learner.dtype
        self._sharing = sharing = Sharing(lambda step: self._data.train(step, run.training.batch, seed), ranks)
        self._opinions = Opinions(
            recipe, asking, scorer, seed, dtype, run.alignment, leaks, paired.meet, sharing.all, book
        )
        self._hearing = Hearing(self._opinions, scorer)
        self._evaluator = Evaluator(
            self._model,
            LocalSampler(self._model),
            data.held_out(run.training.evaluate_items),
            self._verifier,
            recipe.rollout.max_tokens,
            run.training.evaluate_samples,
            run.training.evaluate_temperature or 1.0,
            ranks,
        )
        self._teacher = open_self_teacher(recipe, self._model, run, publisher) if ranks.first else None
        self._keeper = Keeper(run, learning, self._learner.optimizer, self._teacher, work, resume)
        self._learner.version = self._keeper.state.step

    def go(self) -> Ended:
        """All steps that are left."""
        training, state = self._run.training, self._keeper.state
        if self._teacher is not None:
            self._teacher.publish()
        self._paired.publish(state.step)
        self._ranks.wait()
        if self._bank is not None and state.step == 0:
            self._tell(self._bank.begin(self._data, training.batch, training.seed, self._ranks, self._evaluator), 0)
        if state.baseline is None:
            self._evaluate(0)
        last = None
        with self._pipeline() as pipeline:
            while state.step < training.steps and not state.stopped:
                began, step = monotonic(), state.step + 1
                taken = pipeline.take(step, lambda: self._goes_on(pipeline), self._ranks.all)
                if taken is None:
                    return self._leave()
                report, samples, trips = self._step(step, taken, began)
                state.step = step
                state.train_seconds += monotonic() - began
                if self._learner.stale or any(trip.action == "rollback" for trip in trips):
                    pipeline.begin_again(step + 1)
                pipeline.publish(step)
                signal = self._heed(trips, self._reporter.step(report, samples))
                last = self._evaluate(step) if step % training.evaluate_every == 0 or step == training.steps else None
                ends = step == training.steps or state.stopped
                if step % training.checkpoint_every == 0 or ends or signal is not Signal.GO:
                    self._reporter.checkpoint(self._keeper.checkpoint(), step)
                if signal is not Signal.GO:
                    return Ended(signal=signal, step=step)
        return self._finish(last or self._evaluate(state.step))

    def _pipeline(self) -> Pipeline:
        """Everything before the learner, as it flows."""
        training = self._run.training
        return Pipeline(
            range(self._keeper.state.step + 1, training.steps + 1),
            training.max_lag,
            tasks=self._sharing.mine,
            write=self._write,
            stages={"verify": self._verify, "score": self._hearing},
        )

    def _write(self, tasks: Sequence[Task], step: int, check: Callable[[], None]) -> Iterator[Part]:
        return self._writer.parts(tasks, step, self._sampling.refresh(self._learner, step), check)

    def _verify(self, part: Part) -> Part:
        rows = [replace(row, verdict=self._verifier(row.task, row.text)) for row in part.rows]
        return replace(part, rows=rows)

    def _step(self, step: int, taken: Taken, began: float) -> tuple[StepReport, list[Sample], list[Trip]]:
        """Compose and learn; the self-teacher follows."""
        learning = monotonic()
        asked = self._opinions.gather([part.heard for part in taken.parts if part.heard is not None])
        rows = [row for part in taken.parts for row in part.rows]
        batch = build_batch(rows, asked.slots, step, self._learner.dtype)
        metrics = self._learn(batch)
        taken.times.seconds["learn"] += monotonic() - learning
        told, counts = self._sharing.written(step, rows), self._leaks.metrics(step)
        shares = self._ranks.every(share_of(told, asked, taken, self._learner.positions, counts), SHARE)
        written = self._sharing.done(step, [row for share in shares for row in share.rows])
        if self._bank is not None:
            last = step == self._run.training.steps
            self._tell(self._bank.learned(batch, written, step, self._ranks, self._evaluator, last), step)
        metrics |= describe(written, monotonic() - began) | counted(shares)
        metrics["lag"] = float(step - 1 - min(row.weights_version for row in written))
        trips = self._keeper.watch(metrics, step)
        if self._teacher is not None and not any(trip.action == "rollback" for trip in trips):
            with taken.times.of("publish"):
                self._teacher.follow(step)
        with taken.times.of("publish"):
            self._paired.publish(step, written)
        metrics |= self._paired.metrics(step)
        if held := [each for share in shares for each in share.debates]:
            self._reporter.debates(held)
        report = StepReport(step=step, metrics=metrics, ledger=ledger_of(written, shares, taken.times))
        return report, samples_of(batch, self._run.training.samples_kept, self._text), trips

    def _tell(self, told: Mapping[str, object] | None, step: int) -> None:
        if told is not None:
            self._reporter.note(told, step)

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self._model.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _goes_on(self, pipeline: Pipeline) -> bool:
        signal = self._reporter.signal()
        if signal is Signal.AGAIN:
            pipeline.redo(self._hearing.again)
        return signal in (Signal.GO, Signal.AGAIN)

    def _leave(self) -> Ended:
        """Somebody wants the run to stop while it waits for a batch: after the last step that was done."""
        step, signal = self._keeper.state.step, self._reporter.signal()
        self._reporter.checkpoint(self._keeper.checkpoint(), step)
        # A wish that was taken back meanwhile: the run is given back, and whoever takes it goes on.
        return Ended(signal=Signal.STOP if signal in (Signal.GO, Signal.AGAIN) else signal, step=step)

    def _learn(self, batch: Batch) -> dict[str, float]:
        training = self._run.training
        own = [self._ranks.rank] if self._ranks.rank else []
        torch.manual_seed(stream(training.seed, "learn", batch.step, *own))  # adapters may drop some of their inputs
        return survives(training.guards, lambda: self._learner.learn(batch), self._learner.optimizer.zero_grad)

    def _heed(self, trips: Sequence[Trip], signal: Signal) -> Signal:
        """Tell what guards found; a pause that one of them asks for is less than what the watcher asks for."""
        for trip in trips:
            self._reporter.note(trip.note(self._keeper.state.step), self._keeper.state.step)
        pauses = signal is Signal.GO and any(trip.action == "pause" for trip in trips)
        return Signal.PAUSE if pauses else signal

    def _evaluate(self, step: int) -> Evaluation:
        evaluation = self._evaluator.evaluate(step)
        self._reporter.evaluation(evaluation)
        self._keeper.evaluated(evaluation)
        return evaluation

    def _finish(self, last: Evaluation) -> Ended:
        if not self._ranks.first:
            return Ended(signal=Signal.GO, step=self._keeper.state.step)
        kept = self._keeper.outcome(last)
        result = self._keeper.result(kept, self._data.name)
        return Ended(signal=Signal.GO, step=self._keeper.state.step, result=result, model=kept.model)
