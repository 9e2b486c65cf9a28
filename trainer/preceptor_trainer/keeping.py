"""What a run keeps: its checkpoints, the best student so far, and whether it is time to stop or to go back."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from preceptor.wire.runs import Evaluation, Run, RunResult
from preceptor.wire.training import EarlyStop
from preceptor_trainer import checkpoint
from preceptor_trainer.checkpoint import CheckpointState, saved_student
from preceptor_trainer.evaluate import gain_interval
from preceptor_trainer.guards import TooManyRollbacks, Trip, watch
from preceptor_trainer.optim import Optimizer
from preceptor_trainer.self_teacher import SelfTeacher
from preceptor_trainer.sharding import Learning
from preceptor_trainer.student import put_weights


@dataclass(frozen=True, slots=True)
class Kept:
    """The run's outcome."""

    model: Path
    """A plain Hugging Face folder."""
    evaluation: Evaluation


class Keeper:
    """Writes and reads checkpoints of one run, and remembers what they hold of its history."""

    def __init__(
        self,
        run: Run,
        learning: Learning,
        optimizer: Optimizer,
        teacher: SelfTeacher | None,
        work: Path,
        resume: Path | None,
    ) -> None:
        """Takes up `resume`. The first of several ranks writes folders below `work`. Raises CheckpointError."""
        self._run, self._learning, self._optimizer, self._teacher = run, learning, optimizer, teacher
        self._model, self._first = learning.model, learning.ranks.first
        self._work, self._latest = work, resume
        self._best: Path | None = None
        self.state = CheckpointState(step=0, seed=run.training.seed, train_seconds=0.0)
        """What the run has accumulated."""
        if resume is None:
            if run.training.guards.rolls_back:
                self._save()  # what a first rollback would go back to
            return
        self.state = checkpoint.load_state(resume)
        self._load(resume)
        if (resume / checkpoint.BEST).is_dir():
            self._best = resume / checkpoint.BEST

    def checkpoint(self) -> Path:
        """Write one of the run as it is now. The one before goes."""
        return self._save()

    def evaluated(self, evaluation: Evaluation) -> None:
        """Remember an evaluation, and the student where it is the best so far; decide whether the run stops early."""
        state, training = self.state, self._run.training
        if state.baseline is None:
            state.baseline = evaluation
        if state.best is None or evaluation.score > state.best.score:
            state.best = evaluation
            if training.keep == "best":
                self._keep_best(evaluation.step)
        if training.early_stop is not None:
            self._judge(evaluation, training.early_stop)

    def watch(self, metrics: dict[str, float], step: int) -> list[Trip]:
        """The guards that trip at this step; a rollback is done. Raises TooManyRollbacks."""
        state, guards = self.state, self._run.training.guards
        if state.first_length is None:
            state.first_length = metrics["completion_length"]
        trips = watch(guards, metrics, state.streaks, state.first_length)
        if any(trip.action == "rollback" for trip in trips):
            if state.rollbacks == guards.max_rollbacks:
                raise TooManyRollbacks(
                    f"{trips[0].note(step)['message']} It is one rollback more than the {guards.max_rollbacks} "
                    "that training.guards.max_rollbacks allows"
                )
            self._roll_back()
        return trips

    def outcome(self, last: Evaluation) -> Kept:
        """The student that the run was to end with, as a model folder."""
        best, folder = self.state.best, self._work / "outcome"
        assert self._latest is not None, "the last step writes a checkpoint"
        chosen, source = last, saved_student(self._latest)
        if self._run.training.keep == "best" and best is not None and self._best is not None:
            chosen, source = best, saved_student(self._best)
        if source.name == checkpoint.MODEL:
            return Kept(source, chosen)
        put_weights(self._model, self._run.training, source)
        with checkpoint.writing("the trained student", folder, self._work / ".outcome.part"):
            checkpoint.save_model(self._model, self._work / ".outcome.part")
        return Kept(folder, chosen)

    def result(self, kept: Kept, task: str) -> RunResult:
        """What came of the run, on held-out items of this task."""
        state, first, after = self.state, self.state.baseline, kept.evaluation
        assert first is not None, "every run is evaluated before its first step"
        return RunResult(
            task=task,
            n=first.n,
            before=first.accuracy,
            after=after.accuracy,
            gain=after.accuracy - first.accuracy,
            ci95=gain_interval(first.hits, after.hits),
            steps=state.step,
            kept_step=after.step,
            stopped_early=state.stopped,
            train_seconds=state.train_seconds,
        )

    def _save(self) -> Path:
        folder = self._work / f"checkpoint-{self.state.step:08d}"
        teacher: Mapping[str, Tensor] | None = None if self._teacher is None else self._teacher.state()
        moments = self._optimizer.state()  # of every rank: each has a part of it
        if not self._first:
            self._latest = folder
            return folder
        checkpoint.save(
            folder,
            self._model,
            moments,
            self.state,
            student=self._run.student,
            teacher=teacher,
            best=self._best,
        )
        if self._latest is not None and self._latest.parent == self._work and self._latest != folder:
            shutil.rmtree(self._latest)
        self._latest = folder
        return folder

    def _load(self, folder: Path) -> None:
        checkpoint.load_optimizer(folder, self._optimizer, self._learning.ranks)
        if self._teacher is not None:
            self._teacher.load(checkpoint.load_teacher(folder))

    def _roll_back(self) -> None:
        """The weights of the last checkpoint, with this step's number: what comes next is other tasks, not the same."""
        assert self._latest is not None, "a run that may roll back writes one before its first step"
        if self._first:
            put_weights(self._model, self._run.training, saved_student(self._latest))
        self._learning.spread()
        self._load(self._latest)
        if self._teacher is not None:
            self._teacher.publish()
        self.state.rollbacks += 1
        self.state.streaks.clear()

    def _keep_best(self, step: int) -> None:
        if not self._first:
            return
        folder = self._work / f"best-{step:08d}"
        aside = self._work / f".{folder.name}.part"
        with checkpoint.writing(f"the best student, of step {step},", folder, aside):
            checkpoint.save_student(self._model, aside, self._run.student)
        if self._best is not None and self._best.parent == self._work:
            shutil.rmtree(self._best)
        self._best = folder

    def _judge(self, evaluation: Evaluation, stop: EarlyStop) -> None:
        state = self.state
        if state.bar is None or evaluation.score > state.bar + stop.min_gain:
            state.bar, state.stale = evaluation.score, 0
            return
        state.stale += 1
        state.stopped = state.stale >= stop.patience
