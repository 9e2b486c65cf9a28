"""Two specialists into one student, each heard on its own domain: routed on-policy distillation, and what it costs.

    scripts/example experts                 the shipped model, some five minutes
    scripts/example experts --steps 40      fewer steps of the student and of its baselines

Short supervised runs make the shipped model a specialist: one spells words backward (`letters`), one writes secret
codes (`codes`). Both are served as teachers; `opd`, with a router that reads the data's `domain`, distils them into one
student. Beside it: the same model fine-tuned for as many steps on the specialists' own answers to the same questions,
and the mean of their weights. Exit code 0: in both domains the student is within 5 points of the specialist. The last
line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.common import command, showing
from examples.common.judging import judge_task
from examples.common.runs import finish, model_of
from examples.common.stack import Stack, stack
from examples.experts.baselines import answered, averaged
from preceptor.cli.models import model_artifact, model_folder
from preceptor.client import Client
from preceptor.wire.data import DatasetSource, DataSpec, TaskSource
from preceptor.wire.runs import Run, RunCreate
from preceptor_trainer import tasks
from preceptor_trainer.tasks import ProceduralTask

ROOT = Path(__file__).resolve().parents[2]
BOTH = "letters_and_codes"
ALONE = {"letters": "spell_backward", "codes": "skill_code"}
"""Each domain's own task."""
BATCH = 64
WITHIN = 0.05
"""How far below the specialist the student may be."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, and how fast."""

    specialist: dict[str, dict[str, Any]]
    """Training settings of each specialist's run."""
    steps: int = 160
    """Of the student, and of the one that is fine-tuned on answers."""
    learning_rate: float = 1e-3
    items: int = 500
    """Held-out questions of each domain."""
    seed: int = 0


PLAN = Plan(
    specialist={
        "letters": {"steps": 60, "learning_rate": 1e-3},
        "codes": {"steps": 60, "learning_rate": 2e-3},
    }
)


def main() -> int:
    """Run the example; the exit code says whether the student is as good as its teachers."""
    began, options, console = time.monotonic(), parse(), Console()
    plan = replace(PLAN, seed=options.seed, steps=options.steps or PLAN.steps)
    base = model_folder(options.model)
    with tempfile.TemporaryDirectory(prefix="preceptor-experts-") as work:
        console.print("[bold]1[/] Starting Preceptor: database, broker, control plane, teacher, worker")
        with stack(base, console, "experts") as running, running.client() as client:
            begun = model_artifact(client, str(base))
            models = Example(client, running, base, begun, plan, Path(work), console).models()
        console.print(f"[bold]6[/] Judging {len(models)} models on {plan.items} held-out questions of each domain")
        grid = {name: judged(folder, plan) for name, folder in models.items()}
    return verdict(grid, plan, time.monotonic() - began, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("scripts/example experts", __doc__)
    parser.add_argument("--model", default=str(ROOT / "models" / "tiny"), help="whom all begin as (default: shipped)")
    parser.add_argument("--steps", type=int, help=f"steps of the student and its baseline (default: {PLAN.steps})")
    return parser.parse_args()


@dataclass(frozen=True)
class Example:
    """The runs, one after another."""

    client: Client
    running: Stack
    base: Path
    begun: str
    """Its artifact."""
    plan: Plan
    work: Path
    console: Console

    def models(self) -> dict[str, Path]:
        """The folder of every model that is compared, by what it is called."""
        say = self.console.print
        say("[bold]2[/] Training two specialists on one domain each, by supervised steps")
        experts = {domain: self.specialist(domain) for domain in ALONE}
        for domain, folder in experts.items():
            self.running.serve(self.client, domain, "--model", str(folder), "--threads", "1")
        say("[bold]3[/] Distilling both into one student: each is asked about its own domain (recipe opd, a router)")
        student = self.pulled(self.distilled(), "student")
        say("[bold]4[/] Fine-tuning on the specialists' own answers to the same questions (recipe sft)")
        tuned = self.pulled(self.fine_tuned(experts), "tuned")
        say("[bold]5[/] Averaging the specialists' weights")
        merged = averaged(experts.values(), self.work / "merged")
        named = {f"specialist: {domain}": folder for domain, folder in experts.items()}
        return {
            "start": self.base,
            **named,
            "student": student,
            "fine-tuned on answers": tuned,
            "weights merged": merged,
        }

    def specialist(self, domain: str) -> Path:
        """The base after some supervised steps on one domain."""
        data = TaskSource(task=ALONE[domain])
        return self.pulled(self.run(domain, "sft", data, **self.plan.specialist[domain]), domain)

    def distilled(self) -> Run:
        """The student, every rollout scored by the teacher of its domain."""
        overrides = {
            "contexts.teacher.router": {"kind": "column", "column": "domain", "domains": list(ALONE)},
            "rollout.samples": 1,
            "objective": [{"kind": "forward_kl"}],
        }
        settings = {"steps": self.plan.steps, "learning_rate": self.plan.learning_rate}
        return self.run("student", "opd", TaskSource(task=BOTH), overrides, {each: each for each in ALONE}, **settings)

    def fine_tuned(self, experts: dict[str, Path]) -> Run:
        """The base, trained for as many steps on what the specialists answer to the student's own questions."""
        asked, file = both(), self.work / "answers" / "train.jsonl"
        file.parent.mkdir()
        questions = (task for step in range(self.plan.steps) for task in asked.train(step + 1, BATCH, self.plan.seed))
        count = answered(questions, experts, room(), file)
        self.console.print(f"  {count} questions answered")
        held = self.client.artifacts.push(file.parent, "dataset", "answers")
        settings = {"steps": self.plan.steps, "learning_rate": self.plan.learning_rate}
        return self.run("fine-tuned", "sft", DatasetSource(artifact=held, held_out=0.02), **settings)

    def run(
        self,
        name: str,
        recipe: str,
        data: DataSpec,
        overrides: dict[str, Any] | None = None,
        teachers: dict[str, str] | None = None,
        **training: Any,
    ) -> Run:
        """A run to its end."""
        few = {
            "batch": BATCH,
            "evaluate_items": 64,
            "evaluate_every": max(training["steps"] // 4, 1),
            "warmup_steps": 5,
        }
        create = RunCreate(
            name=f"experts-{name}-seed-{self.plan.seed}",
            recipe=recipe,
            overrides={"rollout.max_tokens": room(), **(overrides or {})},
            student=self.begun,
            teachers=teachers or {},
            data=data,
            training={**few, "seed": self.plan.seed, "schedule": "cosine", **training},
        )
        return finish(self.client, create, self.console)

    def pulled(self, run: Run, name: str) -> Path:
        """The folder of a run's model."""
        return model_of(self.client, run, self.work / name)


def both() -> ProceduralTask:
    """The task of both domains."""
    return tasks.load(BOTH)


def room() -> int:
    """Tokens that an answer may have, its end included."""
    return both().answer_tokens + 1


def judged(folder: Path, plan: Plan) -> dict[str, list[bool]]:
    """Right or wrong in each domain."""
    return {domain: judge_task(folder, tasks.load(task), plan.items, room()) for domain, task in ALONE.items()}


def verdict(grid: showing.Grid, plan: Plan, seconds: float, console: Console) -> int:
    """The table, the plot, the differences, the last line; the exit code."""
    console.print()
    showing.table(console, "Right answers on held-out questions, with 95% intervals", grid)
    showing.plot(console, grid)
    console.print()
    gaps: dict[str, float] = {}
    for domain in ALONE:
        expert, student = grid[f"specialist: {domain}"][domain], grid["student"][domain]
        showing.difference(console, f"{domain}: the student beside its specialist", expert, student)
        gaps[domain] = round(showing.share(expert) - showing.share(student), 4)
        for other in ("fine-tuned on answers", "weights merged"):
            showing.difference(console, f"{domain}: the student beside {other}", grid[other][domain], student)
    within = all(gap <= WITHIN for gap in gaps.values())
    if not within:
        console.print(f"[bold red]The student is more than {100 * WITHIN:.0f} points below a specialist.[/]")
    last = {"example": "experts", "within_5_points": within, "gaps": gaps, "models": showing.numbers(grid)}
    print(json.dumps({**last, "steps": plan.steps, "seed": plan.seed, "seconds": round(seconds, 1)}), flush=True)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
