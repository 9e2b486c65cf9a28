"""Forks workers that have their imports behind them: `python -m tests.platform.nursery FOLDER`.

To start a worker is mostly to import torch, and a test that kills twenty cannot pay that twenty times. What is forked
is `preceptor worker` all the same, with its broker, its lease and its heartbeats, in a process group of its own; it is
forked before torch has computed anything or any thread has been started. For every line on standard input one is
forked and its process id printed.

A worker that is born here notes in FOLDER/marks-N which stages are at work; nothing else in it knows of that.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft.tuners.lora  # noqa: F401 - what a worker imports when it first needs it
import transformers.models.llama.modeling_llama  # noqa: F401

from preceptor.resources.artifacts import Artifacts
from preceptor.wire.runs import Sample, StepReport
from preceptor_services import tether
from preceptor_services.commands import TEXT_LINES
from preceptor_services.worker.app import run_worker
from preceptor_services.worker.publisher import WeightsPublisher
from preceptor_services.worker.reporter import RunReporter
from preceptor_services.worker.settings import WorkerSettings
from preceptor_trainer import checkpoint
from preceptor_trainer.evaluate import Evaluator
from preceptor_trainer.learner import Learner
from preceptor_trainer.loop import Loop
from preceptor_trainer.opinions import Opinions
from preceptor_trainer.reporting import Signal
from preceptor_trainer.writer import Writer

STAGES: dict[str, tuple[Any, str]] = {
    "taking up": (Loop, "__init__"),
    "sampling": (Writer, "parts"),
    "scoring": (Opinions, "hear"),
    "learning": (Learner, "learn"),
    "publishing": (WeightsPublisher, "publish"),
    "reporting": (RunReporter, "step"),
    "evaluating": (Evaluator, "evaluate"),
    "writing": (checkpoint, "save"),
    "uploading": (Artifacts, "push"),
}
"""What is noted: a checkpoint is written, then uploaded."""


class Marks:
    """Which stages are at work in a worker: memory that outlives it."""

    def __init__(self, path: Path) -> None:
        """Made, all zero, where there is none."""
        new = not path.exists()
        self._numbers = np.memmap(path, dtype=np.float64, mode="w+" if new else "r+", shape=(len(STAGES) + 1, 3))
        self._lock = threading.Lock()

    @property
    def step(self) -> int:
        """The last step that it has reported, or begun to."""
        return int(self._numbers[-1, 0])

    @step.setter
    def step(self, step: int) -> None:
        self._numbers[-1, 0] = step

    @property
    def at_work(self) -> list[str]:
        return [name for name, (begun, ended, _) in zip(STAGES, self._numbers, strict=False) if begun > ended]

    @property
    def seconds(self) -> dict[str, float]:
        """How long a stage takes, on average, where it was seen."""
        return {name: row[2] / row[1] for name, row in zip(STAGES, self._numbers, strict=False) if row[1]}

    def watch(self) -> None:
        """Note from now on, in this process."""
        for row, (holder, name) in enumerate(STAGES.values()):
            setattr(holder, name, self._noted(row, getattr(holder, name)))
        reported = RunReporter.step

        def step(self_: RunReporter, report: StepReport, samples: Sequence[Sample]) -> Signal:
            self.step = report.step
            return reported(self_, report, samples)

        setattr(RunReporter, "step", step)  # noqa: B010 - it is not the method that pyright knows

    def _noted(self, row: int, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def noted(*arguments: Any, **named: Any) -> Any:
            done = self._timed(row, lambda: work(*arguments, **named))
            return self._each(row, done) if isinstance(done, Iterator) else done

        return noted

    def _each(self, row: int, made: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while (each := self._timed(row, lambda: next(made, end))) is not end:
            yield each

    def _timed(self, row: int, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        self._add(row, (1, 0, 0))
        try:
            return work()
        finally:
            self._add(row, (0, 1, time.monotonic() - began))

    def _add(self, row: int, numbers: tuple[float, float, float]) -> None:
        with self._lock:
            self._numbers[row] += numbers


def main(folder: Path) -> None:
    """Fork for every line, until there is no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    nursery = os.getpid()
    for number, _ in enumerate(sys.stdin):
        assert threading.active_count() == 1, "whoever forks has one thread"
        child = os.fork()
        if child == 0:
            tether.fasten(nursery)
            os._exit(_work(folder, number))
        print(child, flush=True)


def _work(folder: Path, number: int) -> int:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(folder / f"worker-{number}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    Marks(folder / f"marks-{number}").watch()
    return run_worker(WorkerSettings(), log_format=logging.Formatter(TEXT_LINES))  # pyright: ignore[reportCallIssue]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
