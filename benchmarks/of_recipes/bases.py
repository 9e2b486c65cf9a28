"""The models a benchmark begins with: a task's base, and somebody better at the task, for recipes that want one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from of_learner.runs import Told, a_run
from of_recipes.cells import Questions, digest
from of_recipes.plans import Budget, experts, with_domains
from of_recipes.teachers import InProcess

from preceptor_trainer import recipes, tasks
from preceptor_trainer.loop import train

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "tiny"
MADE_OF = {"letters_and_codes": ("spell_backward", "skill_code")}
"""Tasks that are several."""
EXPERT_TIMES = 8
"""How many times a run's budget a better model is trained on, were its answers as long as they may be."""
EXPERT_RATE = 1e-3
EXPERT_SEED = 999


def base_of(task: str, out: Path) -> Path:
    """The shipped model where its card knows the task, or all that it is made of; else one that is pre-trained for it,
    minutes, once."""
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    if all(f"| {each} | content |" in card for each in MADE_OF.get(task, (task,))):
        return SHIPPED
    folder = out / "bases" / task
    if not (folder / "model.safetensors").is_file():
        command = [sys.executable, "-m", "models.make_tiny", "--tasks", task, "--shares", "1", "--steps", "1300"]
        command += ["--anyway", "--out", str(folder)]
        print(f"Making a base for {task}: {' '.join(command[1:])}", file=sys.stderr, flush=True)
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


def experts_of(
    names: Sequence[str], task: str, options: Mapping[str, Any], base: Path, out: Path, budget: Budget
) -> dict[str, Path]:
    """For every domain of which some recipe wants to hear somebody better (none: of all): the base after some
    supervised steps on its questions."""
    wanted = sorted({domain for name in names for domain in experts(with_domains(name, task)).values()})
    return {each: _expert(each, task, options, base, out, budget) for each in wanted}


def _expert(domain: str, task: str, options: Mapping[str, Any], base: Path, out: Path, budget: Budget) -> Path:
    what = hashlib.sha256(json.dumps([digest(base), options, asdict(budget)], sort_keys=True).encode()).hexdigest()
    folder = out / "bases" / f"{task}-expert-{domain or 'all'}-{what[:12]}"
    if not (folder / "model.safetensors").is_file():
        source = tasks.load(task, options)
        recipe = recipes.load("sft").override({"rollout": {"max_tokens": source.answer_tokens + 1}})
        steps = max(2, EXPERT_TIMES * budget.tokens // (budget.rollouts * source.answer_tokens))
        run = a_run("sft", recipe, steps=steps, batch=budget.rollouts, learning_rate=EXPERT_RATE, seed=EXPERT_SEED)
        with tempfile.TemporaryDirectory() as work:
            data = Questions(source, "validation", domain)
            ended = train(run, base, data, InProcess({}), Told(), Path(work))
            assert ended.model is not None
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(ended.model, folder.with_suffix(".part"), dirs_exist_ok=True)
            folder.with_suffix(".part").replace(folder)
    return folder
