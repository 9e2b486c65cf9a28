"""A student that teaches another in words: does that one learn to do it without?

    scripts/example tutor                     some minutes
    scripts/example tutor --wrong             the control: what was said is made wrong before it is read

Short supervised runs make two students of the shipped model. The tutor spells words backward, and says of an attempt
how one goes about it and how the word begins. The pupil can read such feedback, and spells no word without it. Then
both practise, a pair on two workers (`opcod`, its gate `better_tutor`): verified outcomes say who is the better one,
its feedback is asked for, and the pupil's own first weights, reading that, score its attempts. Nobody shows an answer.
Exit code 0: the pupil got better beyond the 95% interval (with `--wrong`: it did not). The last line of standard output
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.common import command, showing
from examples.common.judging import judge_task
from examples.common.runs import artifact_of, finish_all, finish_pair, models_of_pair
from examples.common.stack import stack
from examples.tutor import lessons
from preceptor.client import Client
from preceptor.wire.codistillations import CodistillationCreate, Record, SideCreate
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.pairs import PairPolicy
from preceptor.wire.runs import Run, RunCreate
from preceptor_trainer import tasks

MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny"
TASK = "spell_backward"
MAX_TOKENS = 16
MADE: dict[str, tuple[Callable[[Path, int], Path], int]] = {
    "tutor": (lessons.tutor, 140),
    "pupil": (lessons.reader, 50),
}
"""From which lessons each is made, and in how many steps."""


def main() -> int:
    """Run the example; the exit code says whether the pupil learned."""
    began, options, console = time.monotonic(), parse(), Console()
    with tempfile.TemporaryDirectory(prefix="preceptor-tutor-") as work:
        console.print("[bold]1[/] Starting Preceptor, with two workers")
        with stack(MODEL, console, "tutor", workers=2) as running, running.client() as client:
            folders, record = taught(client, options, Path(work), console)
        console.print(f"[bold]4[/] Judging on {options.items} held-out words, without feedback")
        task = tasks.load(TASK, {})
        grid = {name: {TASK: judge_task(each, task, options.items, MAX_TOKENS)} for name, each in folders.items()}
    return verdict(grid, record, options, time.monotonic() - began, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("scripts/example tutor", __doc__)
    parser.add_argument("--steps", type=int, default=60, help="steps of the pair (default: 60)")
    parser.add_argument("--items", type=int, default=500, help="held-out words (default: 500)")
    parser.add_argument("--wrong", action="store_true", help="have the pupil read feedback that was made wrong")
    return parser.parse_args()


def taught(client: Client, options: argparse.Namespace, work: Path, console: Console) -> tuple[dict[str, Path], Record]:
    """The models before and after, by name, and the pair's record."""
    base = client.artifacts.push(MODEL, "model", "tiny")
    console.print("[bold]2[/] Making a tutor, who can explain, and a pupil, who can listen")
    made = finish_all(client, [_student(client, base, name, options, work) for name in MADE], console)
    before = dict(zip(MADE, made, strict=True))
    console.print("[bold]3[/] They practise")
    wish = CodistillationCreate(
        name="in-words",
        a=_side(before["tutor"], "tutor", 0, options),
        b=_side(before["pupil"], "pupil", 1, options),
        policy=PairPolicy(max_lag=2),
    )
    pair = finish_pair(client, client.codistillations.start(wish))
    return models_of_pair(client, before, pair, work), client.codistillations.record(pair.id)


def verdict(grid: showing.Grid, record: Record, options: argparse.Namespace, seconds: float, console: Console) -> int:
    """Show all of it; 0 where it is as it should be."""
    console.print()
    showing.table(console, "Held-out words spelt backward, with 95% intervals", grid)
    console.print()
    before, after = grid["pupil before"][TASK], grid["pupil after"][TASK]
    low, high = showing.difference(console, "The pupil", before, after)
    given = sum(each.rollouts for each in record.b.feedback)
    console.print(f"It read feedback on {given:,} attempts; {record.b.unreadable:,} times there was none to read.")
    good = (low <= 0) if options.wrong else (low > 0)
    last: dict[str, Any] = {
        "example": "tutor",
        "good": good,
        "wrong": options.wrong,
        "gain_ci95": [round(low, 4), round(high, 4)],
        "feedback": given,
        "unreadable": record.b.unreadable,
        "shares": showing.numbers(grid),
        "seed": options.seed,
        "steps": options.steps,
        "seconds": round(seconds, 1),
    }
    print(json.dumps(last), flush=True)
    return 0 if good else 1


def _student(client: Client, base: str, name: str, options: argparse.Namespace, work: Path) -> RunCreate:
    write, steps = MADE[name]
    rows = client.artifacts.push(write(work / f"{name}.jsonl", 3000), "dataset", name)
    columns = {each: each for each in ("prompt", "answer", "reference")}
    return RunCreate(
        name=f"make-{name}",
        recipe="sft",
        overrides={"rollout": {"max_tokens": lessons.MAX_TOKENS}},
        student=base,
        data=DatasetSource(kind="dataset", artifact=rows, columns=columns, verifier="exact", held_out=0.02),
        training={
            "steps": steps,
            "batch": 32,
            "learning_rate": 2e-3 if name == "tutor" else 1e-3,
            "warmup_steps": 5,
            "schedule": "linear",
            "seed": options.seed,
            "evaluate_every": steps,
            "evaluate_items": 40,
            "checkpoint_every": steps,
        },
    )


def _side(made: Run, name: str, number: int, options: argparse.Namespace) -> SideCreate:
    words = {**lessons.WORDS, "kind": "better_tutor", "wrong": options.wrong and name == "pupil"}
    return SideCreate(
        run=RunCreate(
            name=f"side-{name}",
            recipe="opcod",
            overrides={
                "contexts": {"tutored": words},
                "teacher": {"kind": "frozen"},
                "rollout": {"samples": 2, "max_tokens": MAX_TOKENS},
            },
            student=artifact_of(made),
            teachers={"self": "base"},
            data=TaskSource(task=TASK),
            training={
                "steps": options.steps,
                "batch": 12,
                "learning_rate": 1.5e-3,
                "schedule": "cosine",
                "seed": options.seed * 2 + number,  # each draws words of its own
                "evaluate_every": max(options.steps // 4, 1),
                "checkpoint_every": options.steps,
            },
        )
    )


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
