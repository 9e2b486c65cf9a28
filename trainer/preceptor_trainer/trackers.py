"""Metrics sent to programs that draw curves: TensorBoard, Weights & Biases, MLflow. Each is imported only where a run
asks for it, and is told numbers, never rollouts.

Their own environment variables say where they write (WANDB_MODE=offline, MLFLOW_TRACKING_URI); else a folder does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from preceptor.closing import Closing
from preceptor.errors import Invalid
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import Evaluation, Run, Sample, StepReport
from preceptor.wire.training import Tracker as Name
from preceptor_trainer.reporting import Reporter, Signal

PROJECT = "preceptor"
"""The project or experiment that runs are found under."""

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One such program, for one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Tracked(Closing):
    """A loop's `Reporter` that tells trackers too. One that fails is told no more, and a note says so."""

    def __init__(self, reporter: Reporter, trackers: Mapping[Name, Tracker], after: int) -> None:
        """`after`: steps up to this one were told before, by an earlier attempt."""
        self._reporter, self._trackers, self._after = reporter, dict(trackers), after

    def step(self, report: StepReport, samples: Sequence[Sample]) -> Signal:
        if report.step > self._after:
            seconds = {f"seconds/{stage}": value for stage, value in report.ledger.seconds.items()}
            self._tell(report.step, {**report.metrics, **seconds})
        return self._reporter.step(report, samples)

    def signal(self) -> Signal:
        return self._reporter.signal()

    def evaluation(self, evaluation: Evaluation) -> None:
        if evaluation.step > self._after or evaluation.step == 0 == self._after:
            numbers = evaluation.model_dump(exclude={"hits", "step", "domains"}, exclude_none=True)
            numbers |= {domain: each.right / (each.right + each.wrong) for domain, each in evaluation.domains.items()}
            self._tell(evaluation.step, {f"evaluation/{name}": float(value) for name, value in numbers.items()})
        self._reporter.evaluation(evaluation)

    def checkpoint(self, folder: Path, step: int) -> None:
        self._reporter.checkpoint(folder, step)

    def note(self, data: Mapping[str, object], step: int) -> None:
        self._reporter.note(data, step)

    def debates(self, held: Sequence[HeldDebate]) -> None:
        self._reporter.debates(held)

    def close(self) -> None:
        """Have every tracker write what it holds."""
        for name, tracker in self._trackers.items():
            try:
                tracker.close()
            except Exception:  # whatever a foreign program raises: the run is over, and its result stands
                _log.exception("tracker %s could not be closed", name)

    def _tell(self, step: int, values: Mapping[str, float]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(step, values)
            except Exception as error:  # a foreign program's failure is not the run's
                _log.exception("tracker %s failed", name)
                del self._trackers[name]
                message = f"Tracker {name} failed at step {step} and is told no more: {str(error)[:300]}"
                self._reporter.note({"message": message, "tracker": name, "step": step}, step)


def open_trackers(run: Run, folder: Path) -> dict[Name, Tracker]:
    """The trackers that a run asks for, writing below `folder` where they are not told otherwise.

    Raises Invalid, naming the tracker, where its package is not installed here or it cannot be opened.
    """
    opened: dict[Name, Tracker] = {}
    for name in run.training.trackers:
        try:
            opened[name] = _OPEN[name](run, folder / name)
        except ModuleNotFoundError as error:
            raise Invalid(
                f"training.trackers: '{name}' needs the package {error.name}, which this worker does not have.",
                field="training.trackers",
                remedy=f"pip install {name} where the worker runs, or leave it out.",
            ) from error
        except Exception as error:  # a foreign program says no in its own ways
            raise Invalid(
                f"training.trackers: '{name}' cannot be opened ({type(error).__name__}: {str(error)[:300]}).",
                field="training.trackers",
                remedy="See its settings in the worker's environment, or leave it out.",
            ) from error
    return opened


class TensorBoard:
    """Event files."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / run.id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run under our run's id; a resumed one goes on in it."""

    def __init__(self, run: Run, folder: Path) -> None:
        wandb: Any = import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        config = {"recipe": run.resolved, "training": run.training.model_dump(), "student": run.student}
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            resume="allow",
            config=config,
            dir=str(folder),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MlFlow:
    """An MLflow run; a resumed one goes on in the one that carries our run's id."""

    def __init__(self, run: Run, folder: Path) -> None:
        mlflow: Any = import_module("mlflow")
        self._entities: Any = import_module("mlflow.entities")
        folder.mkdir(parents=True, exist_ok=True)
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db"
        self._client: Any = mlflow.MlflowClient(tracking_uri=address)
        found: Any = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        mine = self._client.search_runs([experiment], f"tags.preceptor_run = '{run.id}'", max_results=1)
        tags = {"preceptor_run": run.id, "recipe": run.recipe}
        held: Any = mine[0] if mine else self._client.create_run(experiment, tags=tags, run_name=run.name)
        self._id: str = held.info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        metrics = [self._entities.Metric(name, value, 0, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


_OPEN: Mapping[Name, Callable[[Run, Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MlFlow,
}
