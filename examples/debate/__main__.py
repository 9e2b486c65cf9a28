"""Two teachers, each wrong on what the other knows: does a student of their debates beat a student of either?

    scripts/example debate

Two copies of the shipped model are fine-tuned on lessons in which each is right about one half of the words and wrong
about the other. Then the shipped model learns from the first alone, from the second alone (recipe `opd`), and from both
as they debate (recipe `mad_opd`), with the same questions, rollouts, loss and steps. Exit code 0: the debate's student
beats both others beyond the 95% interval. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.common import command
from examples.common.judging import judge
from examples.common.runs import finish_all, model_of
from examples.common.showing import Hits, difference, interval, numbers, plot, share, table
from examples.common.stack import Stack, stack
from examples.debate import debaters, lessons
from preceptor.client import Client
from preceptor.errors import PreceptorError
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.debates import DebateCreate
from preceptor.wire.runs import Run, RunCreate
from preceptor.wire.teachers import TeacherCreate, TeacherKind
from preceptor_trainer.tasks.spell_backward import TASK

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny"
TASK_NAME = "spell_backward"
MAX_TOKENS = 16
DEBATE = "by their debates"
ALONE = {"objective": [{"kind": "jsd", "beta": 0.5}]}
"""`opd` with this loss is what `mad_opd` is with one debater and no debate."""
LESSONS = {"batch": 48, "learning_rate": 2e-3, "warmup_steps": 5, "schedule": "linear", "evaluate_items": 40}
LEARNING = {"batch": 48, "learning_rate": 1e-3, "evaluate_items": 40}


def main() -> int:
    """Run the example; the exit code says whether the debate's student won."""
    began, console = time.monotonic(), Console()
    options = parse()
    with tempfile.TemporaryDirectory(prefix="preceptor-debate-") as folder:
        console.print("[bold]1[/] Starting Preceptor")
        with (
            stack(MODEL, console, "debate", workers=2) as running,
            running.client() as client,
            ExitStack() as speaking,
        ):
            hits = compare(client, running, speaking, options, Path(folder), console)
    return verdict(hits, time.monotonic() - began, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("scripts/example debate", __doc__)
    parser.add_argument("--lesson-steps", type=int, default=130, help="steps that make each teacher (default: 130)")
    parser.add_argument("--steps", type=int, default=40, help="steps of each student (default: 40)")
    parser.add_argument("--items", type=int, default=500, help="held-out questions (default: 500)")
    return parser.parse_args()


def compare(
    client: Client,
    running: Stack,
    speaking: ExitStack,
    options: argparse.Namespace,
    folder: Path,
    console: Console,
) -> dict[str, dict[str, Hits]]:
    """Make the teachers, train the students, judge all of them on the same held-out questions."""
    student = client.artifacts.push(MODEL, "model", "tiny")
    console.print("[bold]2[/] Making two teachers, each wrong about one half of the words")
    models = {"the shipped model": MODEL}
    lessons_of = [teacher(client, student, name, options, folder) for name in debaters.HALVES]
    for name, run in zip(debaters.HALVES, finish_all(client, lessons_of, console), strict=True):
        made = models[f"teacher {name}"] = model_of(client, run, folder / f"teacher-{name}")
        running.serve(client, name, "--model", str(made))
        url = speaking.enter_context(debaters.serving(name))
        client.teachers.add(TeacherCreate(name=f"{name}-speaker", url=url, kind=TeacherKind.OPENAI))
    show_debate(client, console)
    console.print("[bold]3[/] Three students of the same questions: of either teacher, and of their debates")
    creates = {
        f"by {name} alone": student_run(student, "opd", ALONE, {"teacher": name}, f"{name}-alone", options)
        for name in debaters.HALVES
    }
    roles = {name: name for name in debaters.HALVES} | {
        f"{name}_speaker": f"{name}-speaker" for name in debaters.HALVES
    }
    debated = {"contexts": {"debate": lessons.CONTEXT.model_dump(mode="json")}}
    creates[DEBATE] = student_run(student, "mad_opd", debated, roles, "debate", options)
    runs = dict(zip(creates, finish_all(client, list(creates.values()), console), strict=True))
    ledger(client, runs[DEBATE], console)
    models |= {name: model_of(client, run, folder / run.name) for name, run in runs.items()}
    console.print(f"[bold]4[/] Judging all on {options.items} held-out questions")
    return {name: judged(model, options.items) for name, model in models.items()}


def teacher(client: Client, student: str, name: str, options: argparse.Namespace, folder: Path) -> RunCreate:
    """The run that makes a model right about one half of the words, by fine-tuning on lessons that are."""
    rows = lessons.write(name, folder / f"lessons-{name}.jsonl", 3000)
    columns = {"prompt": "prompt", "answer": "answer", "reference": "reference"}
    artifact = client.artifacts.push(rows, "dataset", rows.stem)
    return RunCreate(
        name=f"make-{name}",
        recipe="sft",
        overrides={"rollout": {"max_tokens": MAX_TOKENS}},
        student=student,
        data=DatasetSource(kind="dataset", artifact=artifact, columns=columns, verifier="exact", held_out=0.02),
        training={**LESSONS, **only_at_the_end(options.lesson_steps), "seed": options.seed},
    )


def student_run(
    student: str,
    recipe: str,
    overrides: dict[str, Any],
    teachers: dict[str, str],
    name: str,
    options: argparse.Namespace,
) -> RunCreate:
    """A student's run: the same but for the method and its teachers."""
    rollout = {"samples": 1, "temperature": 1.0, "max_tokens": MAX_TOKENS}
    return RunCreate(
        name=name,
        recipe=recipe,
        overrides={**overrides, "rollout": rollout},
        student=student,
        teachers=teachers,
        data=TaskSource(kind="task", task=TASK_NAME),
        training={**LEARNING, **only_at_the_end(options.steps), "seed": options.seed},
    )


def only_at_the_end(steps: int) -> dict[str, int]:
    """So many steps, evaluated and kept once: all models are judged together afterwards."""
    return {"steps": steps, "evaluate_every": steps, "checkpoint_every": steps}


def show_debate(client: Client, console: Console) -> None:
    """One debate as the service holds it."""
    (task,) = TASK.model_validate({}).held_out(1)
    speakers = tuple(f"{name}-speaker" for name in debaters.HALVES)
    wording = lessons.CONTEXT.worded.model_dump(mode="json")
    wish = DebateCreate(
        question=task.messages[-1]["content"],
        teachers=speakers,
        overrides=wording,
        max_tokens=128,
        tau=lessons.CONTEXT.tau,
    )
    debate = client.debates.wait(client.debates.start(wish).id)
    if debate.result is None:
        raise PreceptorError(f"The debate {debate.id} {debate.state.value}.", remedy="See why: preceptor debates show.")
    console.print(f"  A debate of theirs: {wish.question}", highlight=False, soft_wrap=True)
    for line in debate.result.transcript.splitlines():
        console.print(f"    {line}", highlight=False)
    shares = ", ".join(f"{name} {weight:.2f}" for name, weight in debate.result.weights.items())
    console.print(f"    ended by {debate.result.ended}; weights: {shares}", highlight=False)


def ledger(client: Client, run: Run, console: Console) -> None:
    """What the debates of a run came to."""
    roles = [role for step in client.runs.metrics(run.id) for role in step.ledger.teachers.items()]
    texts, lost = sum(each.texts for _, each in roles), sum(each.unreadable + each.unwritten for _, each in roles)
    console.print(f"  {texts:,} arguments were written, {lost} of them excluded", highlight=False)


def judged(model: Path, items: int) -> dict[str, Hits]:
    """Right or wrong on held-out questions: on all, and on the words of each half."""
    task = TASK.model_validate({})
    questions = task.held_out(items)
    hits = judge(model, questions, task.verifier, MAX_TOKENS)
    words = [each.columns["metadata"]["word"] for each in questions]
    halves = {
        f"{letters[0]} to {letters[-1]}": [
            hit for hit, word in zip(hits, words, strict=True) if debaters.knows(name, word)
        ]
        for name, letters in debaters.HALVES.items()
    }
    return {"all words": hits, **halves}


def verdict(hits: dict[str, dict[str, Hits]], seconds: float, console: Console) -> int:
    """The table, the plot, the last line, and the exit code."""
    console.print()
    table(console, "Held-out words spelt backward", hits)
    plot(console, {name: {"all words": row["all words"]} for name, row in hits.items()})
    console.print()
    won, gains = True, dict[str, list[float]]()
    for name in debaters.HALVES:
        single = f"by {name} alone"
        low, high = difference(
            console, f"Taught by debates, against {single}", hits[single]["all words"], hits[DEBATE]["all words"]
        )
        gains[name], won = [round(low, 4), round(high, 4)], won and low > 0
    if not won:
        console.print("[bold red]The debate's student does not beat both others beyond the 95% interval.[/]")
    last = {
        "debate": round(share(hits[DEBATE]["all words"]), 4),
        "ci95": [round(end, 4) for end in interval(hits[DEBATE]["all words"])],
        "over_single_teacher_ci95": gains,
        "students": numbers(hits),
        "total_seconds": round(seconds, 1),
    }
    print(json.dumps(last), flush=True)
    return 0 if won else 1


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
