"""Training a cell: the loop that workers run, with teachers in the process. What came out is a JSON file.

A file that is there and of the same settings is not made again: a benchmark that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from of_learner.runs import a_run
from of_recipes.plans import Cell, experts, recipe_of, training, with_domains
from of_recipes.teachers import InProcess

from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.runs import Evaluation, Sample, StepReport
from preceptor_services.teacher.scripts import reply
from preceptor_trainer import tasks
from preceptor_trainer.loop import train
from preceptor_trainer.model import load_model
from preceptor_trainer.recipe import Verifier
from preceptor_trainer.reporting import Signal
from preceptor_trainer.tasks import ProceduralTask, Split
from preceptor_trainer.views import Task


@dataclass(frozen=True)
class Questions:
    """A task's questions, as a run's data; judged on one of its splits."""

    source: ProceduralTask
    split: Split
    domain: str = ""
    """Trained on questions of this one only; none: of all."""

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def verifier(self) -> Verifier:
        return self.source.verifier

    @property
    def columns(self) -> frozenset[str]:
        return self.source.columns

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        if not self.domain:
            return self.source.train(step, batch, seed)
        drawn = self.source.train(step, 4 * batch, seed)
        return [task for task in drawn if task.columns["domain"] == self.domain][:batch]

    def held_out(self, count: int) -> list[Task]:
        return self.source.take(self.split, count)


class Watch:
    """Counts tokens and seconds, keeps the curve, and ends the run where its budget is spent."""

    def __init__(self, tokens: int, every: int) -> None:
        self.curve: list[dict[str, Any]] = []
        self._most, self._every = tokens, every
        self._tokens, self._seconds, self._began = 0, 0.0, 0.0

    def step(self, report: StepReport, samples: Sequence[Sample]) -> Signal:
        self._tokens += report.ledger.tokens["completion"]
        self._seconds += time.monotonic() - self._began
        self._began = time.monotonic()
        return Signal.CANCEL if self._tokens >= self._most and report.step % self._every == 0 else Signal.GO

    def signal(self) -> Signal:
        return Signal.GO

    def evaluation(self, evaluation: Evaluation) -> None:
        self.curve.append(
            {
                "step": evaluation.step,
                "tokens": self._tokens,
                "seconds": round(self._seconds, 2),
                "correct": evaluation.correct,
                "n": evaluation.n,
                "length": round(evaluation.mean_length, 2),
            }
        )
        self._began = time.monotonic()  # an evaluation's time is nobody's

    def checkpoint(self, folder: Path, step: int) -> None:
        pass

    def note(self, data: object, step: int) -> None:
        pass

    def debates(self, held: object) -> None:
        pass


def file_of(folder: Path, cell: Cell) -> Path:
    """Where what came of a cell is kept."""
    return folder / cell.task / f"{cell.name}.json"


def kept(folder: Path, cell: Cell, base: Path) -> dict[str, Any] | None:
    """What came of it before, where it was the same cell from the same base; one that failed is tried again."""
    file = file_of(folder, cell)
    if not file.is_file():
        return None
    found = cast("dict[str, Any]", json.loads(file.read_text()))
    same = found["settings"] == json.loads(json.dumps(cell.settings())) and found["base"] == digest(base)
    return found if same and found["error"] is None else None


def run_cell(folder: Path, cell: Cell, base: Path, better: Mapping[str, Path]) -> dict[str, Any]:
    """Train it, and keep what came out; what it died of, too. `better`: models that know more, by domain."""
    watch, error = Watch(cell.budget.tokens, cell.budget.every), None
    began = time.monotonic()
    try:
        _train(cell, base, better, watch)
    except Exception as died:  # one recipe's failure is a result of the benchmark, not its end
        error = f"{type(died).__name__}: {died}"[:500]
    out = {"settings": cell.settings(), "base": digest(base), "curve": watch.curve, "error": error}
    out["total_seconds"] = round(time.monotonic() - began, 1)
    file = file_of(folder, cell)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(out))
    aside.replace(file)
    return out


def writes(role: str, request: ChatRequest) -> Reply:
    """What the scripted text teacher says, whatever its role."""
    return Reply(text=reply(request.messages[-1].content), finished=True)


def _train(cell: Cell, base: Path, better: Mapping[str, Path], watch: Watch) -> None:
    recipe = recipe_of(cell)
    wanted = experts(with_domains(cell.recipe, cell.task))  # of all arms alike
    if lacking := sorted(wanted.keys() - {role for role, domain in wanted.items() if domain in better}):
        raise ValueError(f"{cell.recipe}: the role {', '.join(lacking)} wants a better model, and there is none")
    models = {role: load_model(better[wanted[role]] if role in wanted else base) for role in recipe.scorers}
    teachers = InProcess(models, writes)
    data = Questions(tasks.load(cell.task, cell.options), cast(Split, cell.split))
    run = a_run(cell.recipe, recipe, **training(cell))
    with tempfile.TemporaryDirectory() as work:
        train(run, base, data, teachers, watch, Path(work), publisher=teachers)


@lru_cache(maxsize=8)
def digest(base: Path) -> str:
    """Which weights."""
    return hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
