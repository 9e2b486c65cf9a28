"""A skill bank from nothing to a student that has no need of it any more.

    scripts/example skills

Five secret codes, which no question gives away: the shipped model is right about none. A cold start lets it try, alone
and then with demonstrations; a text teacher (rules) contrasts what failed with what succeeded and fills an empty bank.
A student then learns under the bank's skills, next to one that is shown the same skills made wrong. Exit code 0: the
student answers plain questions above 75%, from below 10%. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from examples.common import command
from examples.common.judging import judge
from examples.common.runs import finish, finish_all, model_of
from examples.common.showing import Hits, difference, interval, numbers, plot, share, table
from examples.common.stack import KEY_ENV, Stack, register, stack
from preceptor.client import Client
from preceptor.skills.embedding import open_embedder
from preceptor.skills.pairing import Pairs
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import RunCreate
from preceptor_trainer.parts.contexts import Skill, Skills
from preceptor_trainer.tasks.skill_code import TASK as CODES
from preceptor_trainer.views import ContextView, Rollout, Task

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny"
BANK, TASK_NAME = "codes", "skill_code"
MAX_TOKENS = CODES.answer_tokens + 1
BEFORE, AFTER = 0.10, 0.75
BASE, SHOWN = "the shipped model", "the shipped model, shown the bank's skill"
STUDENT, WRONG = "its student, not shown it", "a student of wrong skills"
LEARNING = {"batch": 64, "learning_rate": 1e-3, "evaluate_items": 100, "guards": {"nonfinite": "warn"}}
CONTEXT = {"template": Skill().template, "pairs": 1}
"""The best skill alone: the shipped model has never read a mistake in these words."""
METHOD = {
    "rollout": {"samples": 1, "temperature": 1.0, "max_tokens": MAX_TOKENS},
    "weights": [],
    "objective": [{"kind": "jsd", "beta": 0.5}],
}
"""`sgsd` without its gate, which follows or avoids a skill by the answer's outcome: nobody is right at first."""


def main() -> int:
    """Run the example; the exit code says whether the student learned the codes."""
    began, console, options = time.monotonic(), Console(), parse()
    with tempfile.TemporaryDirectory(prefix="preceptor-skills-") as folder:
        console.print("[bold]1[/] Starting Preceptor, and a text teacher of rules")
        with stack(MODEL, console, "skills", workers=2) as running, running.client() as client:
            hits = learn(client, running, options, Path(folder), console)
    return verdict(hits, time.monotonic() - began, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("scripts/example skills", __doc__)
    parser.add_argument("--steps", type=int, default=80, help="steps of each student (default: 80)")
    parser.add_argument("--items", type=int, default=300, help="held-out questions (default: 300)")
    return parser.parse_args()


def learn(
    client: Client, running: Stack, options: argparse.Namespace, folder: Path, console: Console
) -> dict[str, Hits]:
    """Fill the bank, train both students, judge everybody on the same held-out questions."""
    register(client, "tiny", running.teacher_url, KEY_ENV)
    running.serve(client, "rules", "--backend", "scripted")
    student = client.artifacts.push(MODEL, "model", "tiny")
    client.skills.create(BANK, task=TASK_NAME, description="What the five codes write for each letter.", cap=10)

    console.print("[bold]2[/] Cold start: 64 tasks, alone and with demonstrations; the bank is empty")
    starting = {
        "kind": "skill_bank",
        "cold_start": 64,
        "attempts": 64,
        "guide": {"kind": "demonstration"},
        "trials": 64,
    }
    finish(client, wish(student, "cold-start", options, 1, f"{BANK}@0", starting), console)
    filled = client.skills.get(BANK)
    show_bank(client, console)

    console.print(f"[bold]3[/] A student under {BANK}@{filled.version}, and one under the same skills made wrong")
    pinned = f"{BANK}@{filled.version}"
    wishes = [wish(student, arm, options, options.steps, pinned, wrong=arm == "wrong") for arm in ("right", "wrong")]
    runs = finish_all(client, wishes, console)

    console.print(f"[bold]4[/] Judging all on {options.items} held-out questions")
    task = CODES.model_validate({})
    plain = task.held_out(options.items)
    shown = with_skills(client, plain)
    right, wrong = (model_of(client, run, folder / run.name) for run in runs)
    return {
        name: judge(model, questions, task.verifier, MAX_TOKENS)
        for name, model, questions in (
            (BASE, MODEL, plain),
            (SHOWN, MODEL, shown),
            (STUDENT, right, plain),
            (WRONG, wrong, plain),
        )
    }


def wish(
    student: str,
    name: str,
    options: argparse.Namespace,
    steps: int,
    bank: str,
    state: dict[str, Any] | None = None,
    wrong: bool = False,
) -> RunCreate:
    """A run under a version of the bank; one with a `state` may publish the next."""
    roles = {"self": "tiny"} if state is None else {"self": "tiny", "extractor": "rules"}
    overrides = {**METHOD, "contexts": {"skills": {**CONTEXT, "wrong": wrong}}}
    overrides |= {} if state is None else {"state": {"skills": state}}
    training = {**LEARNING, "steps": steps, "evaluate_every": steps, "checkpoint_every": steps, "seed": options.seed}
    return RunCreate(
        name=name,
        recipe="sgsd",
        overrides=overrides,
        student=student,
        teachers=roles,
        skills=bank,
        data=TaskSource(kind="task", task=TASK_NAME),
        training=training,
    )


def with_skills(client: Client, questions: Sequence[Task]) -> list[Task]:
    """The same questions, each beside the skill that the bank finds for it."""
    pairs = Pairs(list(client.skills.skills(BANK)), open_embedder(client.skills.get(BANK).embedder))
    context = Skills.model_validate(CONTEXT)
    found = list[Task]()
    for task in questions:
        skill = [pair.skill.skill for pair in pairs.of(task.messages[-1]["content"], 1)]
        own = Rollout(index=0, text="")
        told = replace(task, columns={**task.columns, "skill": skill})
        (prompt,) = context.prompts(ContextView(task=told, rollout=own, group=(own,), step=0, rng=Random(0)))
        found.append(replace(task, messages=prompt.messages))
    return found


def show_bank(client: Client, console: Console) -> None:
    """The skills, and what they were measured to be worth."""
    for each in client.skills.skills(BANK):
        worth = each.usefulness.outcome
        lift = "not measured" if worth is None else f"{100 * worth.mean:+.0f} ({100 * worth.low:.0f} to "
        lift += "" if worth is None else f"{100 * worth.high:.0f}) points, n {worth.n}"
        said = each.skill.replace("\n", ", ")
        console.print(f"  {each.id} {' '.join(each.tags)}: {said}; outcome {lift}", highlight=False, soft_wrap=True)


def verdict(hits: Mapping[str, Hits], seconds: float, console: Console) -> int:
    """Show everybody; the last line is for programs."""
    grid = {name: {TASK_NAME: each} for name, each in hits.items()}
    console.print()
    table(console, f"{TASK_NAME}, held out, greedy", grid)
    plot(console, grid)
    console.print()
    low, _ = difference(console, "Learned under the bank", hits[BASE], hits[STUDENT])
    learned = share(hits[BASE]) < BEFORE and interval(hits[STUDENT])[0] > AFTER and low > 0
    says = "learned" if learned else "did NOT learn"
    console.print(
        f"The student {says} the codes (from below {BEFORE:.0%} to above {AFTER:.0%}). {seconds:.0f} s in all."
    )
    print(json.dumps({"example": "skills", "learned": learned, "seconds": round(seconds, 1), **numbers(grid)}))
    return 0 if learned else 1


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
