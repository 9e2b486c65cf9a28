"""The models a benchmark begins with: a task's base, and somebody better at the task, for recipes that want one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from of_learner.runs import Told, a_run
from of_recipes.cells import Questions, digest
from of_recipes.plans import Budget, experts
from of_recipes.teachers import InProcess

from preceptor_trainer import recipes, tasks
from preceptor_trainer.loop import train

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "tiny"
EXPERT_STEPS = 60
EXPERT_RATE = 1e-3


def base_of(task: str, out: Path) -> Path:
    """The shipped model where its card knows the task; else one that is pre-trained for it, minutes, once."""
    if f"| {task} | content |" in (SHIPPED / "README.md").read_text(encoding="utf-8"):
        return SHIPPED
    folder = out / "bases" / task
    if not (folder / "model.safetensors").is_file():
        command = [sys.executable, "-m", "models.make_tiny", "--for", task, "--out", str(folder)]
        print(f"Making a base for {task}: {' '.join(command[1:])}", file=sys.stderr, flush=True)
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


def expert_of(
    names: Sequence[str], task: str, options: Mapping[str, Any], base: Path, out: Path, budget: Budget
) -> Path | None:
    """The base after some supervised steps; None where no recipe wants anybody better."""
    if not any(experts(recipes.load(name)) for name in names):
        return None
    folder = out / "bases" / f"{task}-expert-{digest(base)[:12]}"
    if not (folder / "model.safetensors").is_file():
        source = tasks.load(task, options)
        recipe = recipes.load("sft").override({"rollout": {"max_tokens": source.answer_tokens + 1}})
        steps = EXPERT_STEPS if budget.rollouts > 8 else 2
        run = a_run("sft", recipe, steps=steps, batch=budget.rollouts, learning_rate=EXPERT_RATE, seed=999)
        with tempfile.TemporaryDirectory() as work:
            ended = train(run, base, Questions(source, "validation"), InProcess({}), Told(), Path(work))
            assert ended.model is not None
            folder.parent.mkdir(parents=True, exist_ok=True)
            ended.model.replace(folder)
    return folder
