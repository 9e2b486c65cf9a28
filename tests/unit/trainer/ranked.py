"""A rank of a run in tests: the loop with teachers in the process, started by torchrun or alone.

    python -m tests.unit.trainer.ranked PLAN.json            alone
    torchrun ... -m tests.unit.trainer.ranked PLAN.json      one rank of several

The plan names the recipe, its overrides, the training settings and folders; the first rank writes what it was told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.wire.runs import Evaluation, Sample, StepReport
from preceptor_trainer import recipes
from preceptor_trainer.loop import Signal, train
from preceptor_trainer.model import load_model
from preceptor_trainer.ranks import Ranks, joined
from preceptor_trainer.together import Together
from tests.unit.trainer.doubles import LocalScorer, Remembering, Served, ToyData, toy_run

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Told:
    """What the first rank's reporter was told."""

    steps: list[StepReport]
    samples: list[Sample]
    evaluations: list[Evaluation]
    checkpoints: list[tuple[int, Path]]
    notes: list[dict[str, Any]]
    signal: str
    model: Path | None
    sent: int
    """How often the self-teacher was sent weights."""

    @property
    def losses(self) -> list[float]:
        return [each.metrics["loss"] for each in self.steps]


def go(
    ranks: int,
    folder: Path,
    work: Path,
    recipe: str,
    overrides: Mapping[str, object],
    *,
    resume: Path | None = None,
    stop: int | None = None,
    **training: object,
) -> Told:
    """Do a run on so many ranks, in processes of their own. `stop`: the step after which it is stopped."""
    work.mkdir(parents=True)
    plan = {
        "recipe": recipe,
        "overrides": overrides,
        "training": {"samples_kept": 1, **training},
        "folder": str(folder),
        "work": str(work),
        "resume": None if resume is None else str(resume),
        "stop": stop,
    }
    path = work.with_suffix(".json")
    path.write_text(json.dumps(plan))
    launch = [] if ranks == 1 else ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    command = [sys.executable, "-m", *launch, "tests.unit.trainer.ranked", str(path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    said: dict[str, Any] = json.loads((work / "told.json").read_text())
    return Told(
        steps=[StepReport.model_validate(each) for each in said["steps"]],
        samples=[Sample.model_validate(each) for each in said["samples"]],
        evaluations=[Evaluation.model_validate(each) for each in said["evaluations"]],
        checkpoints=[(step, Path(folder)) for step, folder in said["checkpoints"]],
        notes=said["notes"],
        signal=said["signal"],
        model=None if said["model"] is None else Path(said["model"]),
        sent=said["sent"],
    )


def main(arguments: Sequence[str]) -> None:
    plan: dict[str, Any] = json.loads(Path(arguments[0]).read_text())
    with joined() if "RANK" in os.environ else nullcontext(Ranks()) as ranks:
        _rank(ranks, plan)


def _rank(ranks: Ranks, plan: Mapping[str, Any]) -> None:
    recipe = recipes.load(plan["recipe"]).override(plan["overrides"])
    stop = plan["stop"]
    folder, work = Path(plan["folder"]), Path(plan["work"])
    mine = work if ranks.first else work / f"rank-{ranks.rank}"
    reporter = Remembering(lambda step: Signal.STOP if step == stop else Signal.GO)
    teacher = load_model(folder)
    served = Served(teacher)
    ended = train(
        toy_run(recipe, **plan["training"]),
        folder,
        ToyData(),
        LocalScorer(dict.fromkeys(recipe.roles, teacher)),
        reporter if ranks.mesh is None else Together(ranks, reporter if ranks.first else None),
        mine,
        None if plan["resume"] is None else Path(plan["resume"]),
        served,
        ranks=ranks,
    )
    assert mine == work or not mine.exists(), "only the first rank writes"
    if not ranks.first:
        assert not reporter.steps and not served.sent and ended.result is None
        return
    told = {
        "steps": [each.model_dump(mode="json") for each in reporter.steps],
        "samples": [each.model_dump(mode="json") for each in reporter.samples],
        "evaluations": [each.model_dump(mode="json") for each in reporter.evaluations],
        "checkpoints": [(step, str(folder)) for step, folder in reporter.checkpoints],
        "notes": reporter.notes,
        "signal": ended.signal,
        "model": None if ended.model is None else str(ended.model),
        "sent": len(served.sent),
    }
    (work / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
