"""Trackers are told what a run reports, once; theirs are no failures of the run. The real ones where they are installed
(pip install 'preceptor[trackers]')."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from preceptor.errors import Invalid
from preceptor.wire.runs import Evaluation, Ledger, Run, StepReport
from preceptor_trainer import recipes
from preceptor_trainer.reporting import Signal
from preceptor_trainer.trackers import Tracked, Tracker, open_trackers
from tests.unit.trainer.doubles import Remembering, toy_run


class Fake:
    """A tracker that remembers, and fails when it is told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.closed = False
        self._fails_at = fails_at

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == self._fails_at:
            raise ConnectionError("nobody answers")
        self.told.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


def run_with(*trackers: str) -> Run:
    return toy_run(recipes.load("sft"), trackers=trackers)


def report(step: int) -> StepReport:
    return StepReport(step=step, metrics={"loss": 1 / step}, ledger=Ledger(seconds={"learn": 0.5}))


def evaluation(step: int) -> Evaluation:
    return Evaluation(
        step=step, n=2, correct=1, accuracy=0.5, ci95=0.4, mean_length=3.0, entropy=0.7, seconds=0.1, hits=[True, False]
    )


def play(trackers: Mapping[Any, Tracker], after: int = 0) -> Remembering:
    inner = Remembering(lambda step: Signal.PAUSE if step == 3 else Signal.GO)
    with Tracked(inner, trackers, after) as told:
        told.evaluation(evaluation(0))
        signals = [told.step(report(step), []) for step in (1, 2, 3)]
        told.evaluation(evaluation(3))
    assert signals == [Signal.GO, Signal.GO, Signal.PAUSE]
    assert [each.step for each in inner.steps] == [1, 2, 3] and [each.step for each in inner.evaluations] == [0, 3]
    return inner


def test_metrics_times_and_evaluations_are_told_under_their_step() -> None:
    fake = Fake()
    play({"tensorboard": fake})
    assert [step for step, _ in fake.told] == [0, 1, 2, 3, 3]
    assert fake.told[1][1] == {"loss": 1.0, "seconds/learn": 0.5}
    assert fake.told[-1][1]["evaluation/accuracy"] == 0.5 and fake.told[-1][1]["evaluation/entropy"] == 0.7
    assert "evaluation/hits" not in fake.told[-1][1]
    assert fake.closed


def test_what_an_earlier_attempt_has_told_is_not_told_again() -> None:
    fake = Fake()
    play({"tensorboard": fake}, after=2)
    assert [step for step, _ in fake.told] == [3, 3]


def test_a_tracker_that_fails_is_told_no_more_and_the_run_goes_on() -> None:
    bad, good = Fake(fails_at=2), Fake()
    inner = play({"wandb": bad, "tensorboard": good})
    assert [step for step, _ in bad.told] == [0, 1] and [step for step, _ in good.told] == [0, 1, 2, 3, 3]
    assert [note["tracker"] for note in inner.notes] == ["wandb"]
    assert "failed at step 2 and is told no more: nobody answers" in str(inner.notes[0]["message"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_absent_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for module in [each for each in sys.modules if each.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(Invalid, match=f"training.trackers: '{name}' needs the package") as caught:
        open_trackers(run_with(name), tmp_path)
    assert caught.value.problem.remedy is not None and f"pip install {name}" in caught.value.problem.remedy


def test_nothing_is_imported_for_a_run_that_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert open_trackers(run_with(), tmp_path) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")  # theirs
def test_tensorboard_holds_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    play(open_trackers(run_with("tensorboard"), tmp_path))
    events: Any = EventAccumulator(str(tmp_path / "tensorboard" / "run-1"))
    events.Reload()
    losses = events.Scalars("loss")
    assert [each.step for each in losses] == [1, 2, 3]
    assert [each.value for each in losses] == pytest.approx([1.0, 0.5, 1 / 3])
    assert [each.step for each in events.Scalars("evaluation/accuracy")] == [0, 3]


@pytest.mark.filterwarnings("ignore")  # theirs
def test_weights_and_biases_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    play(open_trackers(run_with("wandb"), tmp_path))
    (written,) = tmp_path.glob("wandb/wandb/offline-run-*-run-1/*.wandb")
    until = monotonic() + 60  # wandb's own process writes it: `finish` returns before that has (seen with 0.31)
    while b"evaluation/accuracy" not in written.read_bytes():
        assert monotonic() < until, written.read_bytes()[:200]
        sleep(0.05)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_mlflow_goes_on_in_the_run_of_an_earlier_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = run_with("mlflow")
    with Tracked(Remembering(), open_trackers(run, tmp_path), 0) as first:
        first.step(report(1), [])
    with Tracked(Remembering(), open_trackers(run, tmp_path), 1) as second:
        second.step(report(1), [])
        second.step(report(2), [])
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("preceptor")
    (held,) = client.search_runs([experiment.experiment_id])
    assert [(each.step, each.value) for each in client.get_metric_history(held.info.run_id, "loss")] == [
        (1, 1.0),
        (2, 0.5),
    ]
