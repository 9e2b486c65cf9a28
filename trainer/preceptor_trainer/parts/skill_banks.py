"""How a run's skill bank begins and grows: a text teacher contrasts what failed with what succeeded, and says what to
do and what to avoid, before the first step, then now and then while success is low (SGSD, arXiv:2605.28791; theirs
begins with 256 rollouts, and grows every 25 steps, below 80%, by 5 at most).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from preceptor.texts import filled, without_thinking
from preceptor.wire.skills import SkillCreate, SkillSource
from preceptor_trainer.parts.contexts import question
from preceptor_trainer.recipe import Context, State
from preceptor_trainer.views import Ask, Message, Rollout, Task

_KEY = "skills"
Tried = Sequence[tuple[Task, Rollout]]


class SkillBank(State, kind="skill_bank"):
    """The bank that the run names grows by what a text teacher makes of a step's rollouts.

    The teacher answers with one JSON object a line: `skill`, `mistake` (one of them may be empty), `attempt`, the
    number of the attempt that taught it, and perhaps `tags`, words to find it by. A reply with anything else in it is
    not read, and nothing is published.
    """

    writer: str = "extractor"
    """The role that is asked."""
    every: int = Field(default=25, ge=1)
    """Steps from one look to the next."""
    below: float = Field(default=0.8, gt=0, le=1)
    """Only where a smaller share of the step's rollouts was right."""
    most: int = Field(default=5, ge=1, le=100)
    """New skills at once, at most."""
    attempts: int = Field(default=4, ge=1, le=64)
    """Attempts that are shown of those that failed, and as many of those that succeeded; the first ones."""
    trials: int = Field(default=16, ge=0, le=1024)
    """Tasks of the step that the student answers at each look with a skill in sight and without, to measure what the
    skill is worth; the first ones, the pairs in turn. 0: none."""
    cold_start: int = Field(default=0, ge=0, le=65_536)
    """Tasks that the student answers before the first step, where the version that the run has pinned is empty, for the
    bank to begin with. 0: none."""
    guide: SerializeAsAny[Context] | None = None
    """What the student is shown at the cold start for a second attempt at the tasks that it failed (`demonstration`,
    say), so that there are successes to learn from. None: nothing, and there is no second attempt."""
    max_tokens: int = Field(default=1024, ge=1, le=100_000)
    """Longest reply. One that is longer is cut off, and not read."""
    template: str = (
        "These are attempts at tasks of one kind. Some failed, some succeeded.\n\n{attempts}\n\n"
        "What should be known to succeed at tasks like these, and which mistakes should be avoided? Say it so that it "
        "helps with other tasks of the kind; give no answer to any of these.\n"
        'Write at most {most} lines, each one JSON object: {"skill": "what to do", "mistake": "what to avoid", '
        '"attempt": the number of the attempt that shows it, "tags": ["a word to find it by"]}. Write nothing else.'
    )
    """What the teacher reads; it holds `{attempts}` once, and may hold `{most}`."""

    @model_validator(mode="after")
    def _has_attempts(self) -> Self:
        if self.template.count("{attempts}") != 1:
            raise ValueError("template: it must hold {attempts} exactly once")
        return self

    @property
    def writers(self) -> tuple[str, ...]:
        return (self.writer,)

    def asks(self, step: int, rollouts: Tried) -> Sequence[Ask]:
        return () if step % self.every or not self.low(rollouts) else (self.ask(rollouts),)

    def low(self, rollouts: Tried) -> bool:
        """Whether a smaller share of these rollouts than `below` was right."""
        verdicts = [each.verdict for _, each in rollouts if each.verdict is not None]
        right = sum(verdict.correct for verdict in verdicts)
        return right < len(verdicts) and right < self.below * len(verdicts)

    def ask(self, rollouts: Tried) -> Ask:
        """The question about the first of these rollouts, whatever the step; its reply goes into `update`."""
        said = "\n\n".join(self._said(number, *each) for number, each in enumerate(self._shown(rollouts), 1))
        content = filled(self.template, {"attempts": said, "most": str(self.most)})
        message = Message(role="user", content=content)
        return Ask(key=_KEY, teacher=self.writer, messages=(message,), max_tokens=self.max_tokens)

    def update(self, content: object, rollouts: Tried, replies: Mapping[str, str]) -> tuple[SkillCreate, ...]:
        """The bank's skills and, after them, the new ones. Raises ValueError where the reply has not the form."""
        held = cast("tuple[SkillCreate, ...]", content)
        lines = [line for line in replies.get(_KEY, "").splitlines() if line.strip()]
        if len(lines) > self.most:
            raise ValueError(f"{len(lines)} skills, where {self.most} were wanted at most")
        shown = self._shown(rollouts)
        return (*held, *(_read(number, line, shown) for number, line in enumerate(lines, 1)))

    def _shown(self, rollouts: Tried) -> Tried:
        """The first failures, then the first successes."""
        judged = [(task, each) for task, each in rollouts if each.verdict is not None]
        failed = [(task, each) for task, each in judged if each.verdict and not each.verdict.correct]
        right = [(task, each) for task, each in judged if each.verdict and each.verdict.correct]
        return [*failed[: self.attempts], *right[: self.attempts]]

    def _said(self, number: int, task: Task, rollout: Rollout) -> str:
        assert rollout.verdict is not None, "only judged attempts are shown"
        came = "succeeded" if rollout.verdict.correct else "failed"
        why = f"\nWhat was said of it: {rollout.verdict.feedback}" if rollout.verdict.feedback else ""
        return f"Attempt {number} ({came})\nTask: {question(task)}\nAnswer: {without_thinking(rollout.text)}{why}"


def _read(number: int, line: str, shown: Tried) -> SkillCreate:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON") from error
    if not isinstance(value, dict) or value.keys() - {"tags"} != {"skill", "mistake", "attempt"}:
        raise ValueError(f"line {number} is not an object of skill, mistake and attempt")
    said = cast("dict[str, Any]", value)
    attempt = said["attempt"]
    if type(attempt) is not int or not 1 <= attempt <= len(shown):
        raise ValueError(f"line {number} names attempt {attempt!r:.20} of {len(shown)}")
    if not isinstance(said["skill"], str) or not isinstance(said["mistake"], str):
        raise ValueError(f"line {number}: skill and mistake must be text")
    task, rollout = shown[attempt - 1]
    source = SkillSource(rollout=f"{task.id}/{rollout.index}", task=task.id)
    made = {"skill": said["skill"].strip(), "mistake": said["mistake"].strip(), "tags": said.get("tags", [])}
    try:
        return SkillCreate.model_validate({**made, "sources": (source,)})
    except ValidationError as error:
        raise ValueError(f"line {number}: {error.errors()[0]['msg']}") from error
