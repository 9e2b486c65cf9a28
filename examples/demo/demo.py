"""From nothing to a measurably better student, through the real thing: REST, queue, trainer, HTTP teacher, database.

    scripts/demo                       the shipped model, about two minutes
    scripts/demo --model smollm2       a short run on SmolLM2-135M-Instruct
    python -m examples.demo.demo --url http://127.0.0.1:8420 --teacher-url http://127.0.0.1:8421      against what runs

It registers the teacher, starts an on-policy self-distillation run over REST, shows it live, compares held-out accuracy
before and after, and stops what it started. Exit code 0: the student improved beyond the 95% interval (for a model that
is too slow to improve here: the run succeeded). The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from examples.common import command
from examples.common.runs import finish
from examples.common.stack import Stack, register, stack
from preceptor.cli import output
from preceptor.cli.models import model_artifact, model_folder
from preceptor.cli.plots import picture, terminal_plot
from preceptor.cli.session import read_key
from preceptor.client import Client
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Run, RunCreate, RunResult

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one model is trained on, and how it is judged."""

    model: str
    task: str
    training: dict[str, Any]
    overrides: dict[str, Any]
    must_improve: bool


PLANS = {
    "tiny": Plan(
        model=str(ROOT / "models" / "tiny"),
        task="spell_backward",
        training={"steps": 40, "batch": 64, "evaluate_items": 300, "evaluate_every": 10},
        overrides={"rollout": {"max_tokens": 32}},
        must_improve=True,
    ),
    "smollm2": Plan(
        model="smollm2",
        task="chain_sum",
        training={
            "steps": 2,
            "batch": 4,
            "evaluate_items": 8,
            "evaluate_every": 2,
            "warmup_steps": 1,
            "learning_rate": 1e-5,
        },
        overrides={"rollout": {"max_tokens": 32}},
        must_improve=False,
    ),
}


def main() -> int:
    """Run the demo; the exit code says whether the student improved."""
    began = time.monotonic()
    options = parse()
    plan = PLANS[options.model]
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is stopped on the way out
    with opened(options, plan, console) as running, running.client() as client:
        run = distil(client, running, plan, options, console)
    assert run.result is not None, "a run that succeeded has a result"
    return verdict(run, run.result, plan, time.monotonic() - began, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("scripts/demo", __doc__)
    parser.add_argument(
        "--model", choices=sorted(PLANS), default="tiny", help="who learns (default: the shipped model)"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of the plan's")
    parser.add_argument("--url", help="use the control plane there instead of starting one")
    parser.add_argument("--key-file", type=Path, help="file that holds its admin key (else PRECEPTOR_KEY)")
    parser.add_argument("--teacher-url", default="http://127.0.0.1:8421", help="with --url: where the teacher answers")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the picture (default: demo-out)")
    return parser.parse_args()


@contextmanager
def opened(options: argparse.Namespace, plan: Plan, console: Console) -> Iterator[Stack]:
    """The Preceptor that was named, or an embedded one that lives as long as the demo."""
    if options.url:
        yield Stack(url=options.url, teacher_url=options.teacher_url, key=read_key(options.key_file))
        return
    console.print("[bold]1[/] Starting Preceptor: database, broker, control plane, teacher, worker")
    with stack(model_folder(plan.model), console, "demo") as running:
        yield running


def distil(client: Client, running: Stack, plan: Plan, options: argparse.Namespace, console: Console) -> Run:
    """Register the teacher, start the run, watch it to its end."""
    console.print("[bold]2[/] Registering the teacher, its claims held against its behaviour")
    teacher = register(client, f"demo-{options.model}", running.teacher_url)
    assert teacher.card is not None and teacher.probe is not None
    checks = ", ".join(f"{check.name} {output.cell(check.outcome.value)}" for check in teacher.probe.checks)
    about = f"{escape(teacher.card.model)} on {escape(teacher.card.engine)}"
    console.print(f"  {about}: {checks}", highlight=False, soft_wrap=True)

    console.print("[bold]3[/] Starting an on-policy self-distillation run (recipe opsd)")
    training = {**plan.training, "seed": options.seed, **({"steps": options.steps} if options.steps else {})}
    create = RunCreate(
        name=f"demo-{options.model}-seed-{options.seed}",
        recipe="opsd",
        overrides=plan.overrides,
        student=model_artifact(client, plan.model),
        teachers={"self": teacher.name},
        data=TaskSource(kind="task", task=plan.task),
        training=training,
    )
    run = finish(client, create, console)
    draw(client, run, options.out, console)
    prove(client, run, console)
    return run


def draw(client: Client, run: Run, out: Path, console: Console) -> None:
    """The curves, in the terminal and as a picture."""
    steps, evaluations = list(client.runs.metrics(run.id)), client.runs.evaluations(run.id)
    console.out(f"\n{terminal_plot(steps, evaluations, colour=console.is_terminal)}\n", highlight=False)
    path = picture(steps, evaluations, f"{run.name}: {run.recipe}", out / f"{run.name}.png")
    console.print(f"Curves: {path.resolve()}", highlight=False, soft_wrap=True)


def prove(client: Client, run: Run, console: Console) -> None:
    """What the ledger says: every rollout was scored over HTTP in every context, and every score is stamped."""
    ledgers = [step.ledger for step in client.runs.metrics(run.id)]
    rollouts, scored = sum(each.rollouts for each in ledgers), sum(each.scored_sequences for each in ledgers)
    stamped = sum(each.stamped_sequences for each in ledgers)
    traffic = [teacher for ledger in ledgers for teacher in ledger.teachers.values()]
    requests = sum(each.requests for each in traffic)
    received = sum(each.bytes_received + each.head_bytes for each in traffic) / 1e6
    console.print(
        f"Ledger: {rollouts:,} rollouts, {scored:,} scores over {requests:,} HTTP requests ({received:.1f} MB), "
        f"{stamped:,} of them stamped",
        highlight=False,
        soft_wrap=True,
    )


def verdict(run: Run, result: RunResult, plan: Plan, total_seconds: float, console: Console) -> int:
    """The last line, and the exit code."""
    improved = result.ci95[0] > 0
    if plan.must_improve and not improved:
        console.print("[bold red]No improvement beyond the 95% interval.[/]")
    last = {
        "task": result.task,
        "n": result.n,
        "before": round(result.before, 4),
        "after": round(result.after, 4),
        "ci95": [round(bound, 4) for bound in result.ci95],
        "steps": result.steps,
        "train_seconds": round(result.train_seconds, 1),
        "total_seconds": round(total_seconds, 1),
        "run_id": run.id,
    }
    print(json.dumps(last), flush=True)
    return 0 if improved or not plan.must_improve else 1


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
