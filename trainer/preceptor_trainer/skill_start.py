"""How a bank without a skill begins: the student tries tasks, alone and then with a guide, and a text teacher contrasts
its failures with its successes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol, cast

from preceptor.errors import TeacherUnavailable
from preceptor.wire.skills import SkillCreate
from preceptor_trainer.data import Data
from preceptor_trainer.parts.skill_banks import SkillBank, Tried
from preceptor_trainer.views import Ask, ContextView, Message, Rollout, Task

FRUITLESS = 50
"""Steps' worth of tasks that may bring none that is new before the data is taken to have no more."""


class Answering(Protocol):
    """The student as it is now: `Evaluator`."""

    def attempts(self, tasks: Sequence[Task], prompts: Sequence[Sequence[Message]]) -> list[Rollout | None]:
        """Its greedy answer to each prompt, judged by its task; None where the prompt does not fit."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """What came of it."""

    skills: tuple[SkillCreate, ...]
    tried: int
    """Tasks."""
    right: int
    """Those that the student could do alone."""
    guided: int
    """Those that it could do with the guide only."""
    unread: int
    """Replies that were not what was asked for, or did not come."""

    @property
    def told(self) -> str:
        """A sentence."""
        alone = f"of {self.tried} tasks {self.right} were right alone, {self.guided} with a guide"
        return f"cold start: {alone}; {self.unread} replies could not be used"


def cold_start(
    bank: SkillBank, data: Data, batch: int, seed: int, student: Answering, reply: Callable[[Ask], str]
) -> Start:
    """The first skills of a bank. `reply` asks for a text, and raises TeacherUnavailable or ValueError."""
    tasks = list(_tasks(data, batch, seed, bank.cold_start))
    alone = student.attempts(tasks, [task.messages for task in tasks])
    judged = [(task, each) for task, each in zip(tasks, alone, strict=True) if each is not None]
    failed = [(task, each) for task, each in judged if not _right(each)]
    right = [(task, each) for task, each in judged if _right(each)]
    guided = _guided(bank, failed, student)
    skills, unread = list[SkillCreate](), 0
    for shown in _contrasts(failed, [*right, *guided], bank.attempts):
        try:
            ask = bank.ask(shown)
            skills += cast("tuple[SkillCreate, ...]", bank.update((), shown, {ask.key: reply(ask)}))
        except (TeacherUnavailable, ValueError):
            unread += 1
    return Start(tuple(skills), len(judged), len(right), len(guided), unread)


def _tasks(data: Data, batch: int, seed: int, count: int) -> Iterator[Task]:
    """Distinct training tasks; fewer where the data has no more."""
    known, step, fruitless = set[str](), 0, 0
    while len(known) < count and fruitless < FRUITLESS:
        step += 1
        new = [task for task in data.train(step, batch, seed) if task.id not in known][: count - len(known)]
        fruitless = 0 if new else fruitless + 1
        known |= {task.id for task in new}
        yield from new


def _guided(bank: SkillBank, failed: Tried, student: Answering) -> list[tuple[Task, Rollout]]:
    """What the student gets right with the guide in sight, of what it failed."""
    asked: list[tuple[Task, Sequence[Message]]] = []
    for task, each in failed if bank.guide is not None else ():
        assert bank.guide is not None
        view = ContextView(task=task, rollout=each, group=(each,), step=0, rng=Random(f"guide/{task.id}"))
        asked += [(task, prompt.messages) for prompt in bank.guide.prompts(view)[:1]]
    again = student.attempts([task for task, _ in asked], [messages for _, messages in asked])
    found = zip(asked, again, strict=True)
    return [(task, replace(each, index=1)) for (task, _), each in found if each is not None and _right(each)]


def _contrasts(failed: Tried, right: Tried, most: int) -> Iterator[Tried]:
    """Some of each at a time, until either has been shown whole; nothing where there is nothing to contrast."""
    for begin in range(0, min(len(failed), len(right)), most):
        yield [*failed[begin : begin + most], *right[begin : begin + most]]


def _right(rollout: Rollout) -> bool:
    return rollout.verdict is not None and rollout.verdict.correct
