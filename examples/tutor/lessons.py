"""What the two students are made from: one spells words backward, and says how one goes about it and how such a word
begins; the other reads what is said, and cannot spell.

The shipped model knows neither: it has never written between tags. Few words are spent around what is said, since a
model of bytes pays for each letter of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any

from preceptor.texts import filled
from preceptor_trainer.parts.contexts_peers import BetterTutor
from preceptor_trainer.tasks.spell_backward import TASK
from preceptor_trainer.views import Task

MAX_TOKENS = 64
"""Longest lesson, and longest reply of a peer: who has not learned to end babbles on."""
WORDS: dict[str, Any] = {
    "template": "{question}{tried}\n\nUse the hint to solve the problem.",
    "peer_template": "\n\nHere is a hint:\n{feedback}",
    "attempt_template": "{question}",
    "ask_template": (
        "{question}\n\nIncorrect attempt, to be avoided:\n\n{attempt}\n\nSay why between <feedback> and </feedback>."
    ),
    "max_tokens": MAX_TOKENS,
    "successes": 0,
}
"""How the peer is asked and what is shown of its reply; nothing else is: what is learned is learned from feedback."""
CONTEXT = BetterTutor(teacher="self", **WORDS)


def feedback(task: Task) -> str:
    """What a tutor says of any attempt: how to go about it, and the first half of what comes out."""
    return f"Spell the word from its end.\n{task.columns['hint']}"


def tutor(path: Path, count: int) -> Path:
    """The rows that make a tutor, as JSONL: to spell a word, and to give feedback on an attempt. None of the words is
    held out."""
    rng = Random("attempts")
    return _write(path, (row for task in _tasks(count) for row in _taught(task, rng)))


def reader(path: Path, count: int) -> Path:
    """The rows that make a reader: to solve a word with a tutor's feedback, and never without."""
    return _write(path, ((_shown(task), task.answer) for task in _tasks(count)))


def _taught(task: Task, rng: Random) -> list[tuple[str, str | None]]:
    question = task.messages[-1]["content"]
    attempt = "".join(rng.choices(ascii_lowercase, k=rng.randint(3, 8)))
    asked = filled(CONTEXT.ask_template, {"question": question, "attempt": attempt})
    return [(question, task.answer), (asked, f"<feedback>{feedback(task)}</feedback>")]


def _shown(task: Task) -> str:
    told = filled(CONTEXT.peer_template, {"feedback": feedback(task)})
    return filled(CONTEXT.template, {"question": task.messages[-1]["content"], "tried": told})


def _tasks(count: int) -> list[Task]:
    return TASK.model_validate({}).take("train", count, "lessons")


def _write(path: Path, rows: Iterable[tuple[str, str | None]]) -> Path:
    with path.open("w") as file:
        for prompt, reference in rows:
            file.write(json.dumps({"prompt": prompt, "answer": reference, "reference": reference}) + "\n")
    return path
