"""A run's skill bank: what its tasks are shown, what came of it, how the bank begins, grows and is left.

A run begins at the version it has pinned. Every version that it publishes itself is used from the next step on, so that
what a step shows is a function of the pinned version and of the steps before: a resumed run finds what it published by
its steps, and is shown the same.

Shape letter: T tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from random import Random
from typing import Protocol

from pydantic import TypeAdapter

from preceptor.errors import TeacherUnavailable
from preceptor.skills.bankfile import content_of
from preceptor.skills.embedding import Embedder
from preceptor.skills.pairing import Pairs
from preceptor.wire.chat import ChatMessage, ChatRequest
from preceptor.wire.skills import Moments, Skill, SkillBankVersion, SkillCreate, SkillUse
from preceptor_trainer.asking import Scorer
from preceptor_trainer.batch import Batch, Row, Slot
from preceptor_trainer.data import Data
from preceptor_trainer.parts.contexts import Skills, question
from preceptor_trainer.parts.skill_banks import SkillBank
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.recipe import Recipe, Verifier
from preceptor_trainer.skill_start import Answering, cold_start
from preceptor_trainer.views import Ask, ContextView, Message, Rollout, Task, Verdict

FILLED = frozenset({"skill", "mistake", "skill_score"})
"""Task fields that a bank fills in, before what the data has."""
NUMBERS = "skill_numbers"
"""The field with which skills each pair shows."""
CLIP = 3.0
"""Bound of a token's log-ratio in a teacher's support, as in SGSD (arXiv:2605.28791)."""
Told = dict[str, object]
_PUBLISHED = TypeAdapter(dict[int, int])
_USES = TypeAdapter(list[SkillUse])


class Shelf(Protocol):
    """Where the run's bank is kept: the control plane's, by way of the worker."""

    def skills(self, version: int) -> Sequence[Skill]:
        """What a version holds."""
        ...

    def published(self) -> Mapping[int, int]:
        """The versions that this run has published, by step."""
        ...

    def publish(self, base: int, add: Sequence[SkillCreate], step: int) -> SkillBankVersion:
        """Publish the next version; for a step that was published already, what that one became."""
        ...

    def record(self, uses: Sequence[SkillUse], step: int) -> None:
        """Count what came of skills in a step."""
        ...


@dataclass(frozen=True, slots=True)
class _Open:
    skills: Sequence[Skill]
    pairs: Pairs


class RunBank:
    """The bank of one run."""

    def __init__(self, shelf: Shelf, version: int, embedder: Embedder, recipe: Recipe, scorer: Scorer) -> None:
        """`version`: the one that is pinned. Raises the shelf's errors."""
        self._shelf, self._pinned, self._embedder, self._scorer = shelf, version, embedder, scorer
        self._growing = next((each for each in recipe.state.values() if isinstance(each, SkillBank)), None)
        reading = {name: each for name, each in recipe.contexts.items() if FILLED & set(each.columns)}
        self._reading = reading
        lists = [each.pairs for each in reading.values() if isinstance(each, Skills)]
        self._most = max(lists, default=1)
        self._published = dict(shelf.published())
        self._open: dict[int, _Open] = {}

    def version(self, step: int) -> int:
        """The version that a step is shown."""
        before = [own for own in self._published if own < step]
        return self._published[max(before)] if before else self._pinned

    def filled(self, task: Task, step: int) -> Task:
        """The task with the skills that fit it best."""
        pairs = self._at(step).pairs.of(question(task), self._most)
        columns = {
            "skill": [each.skill.skill for each in pairs],
            "mistake": ["" if each.mistake is None else each.mistake.mistake for each in pairs],
            "skill_score": [each.score for each in pairs],
            NUMBERS: [each.numbers for each in pairs],
        }
        return replace(task, columns={**task.columns, **columns})

    def begin(self, data: Data, batch: int, seed: int, ranks: Ranks, student: Answering) -> Told | None:
        """Before the first step: give a bank without a skill its first ones, where the recipe wants that. Published as
        of step 0, once. Returns what is to be told of it."""
        told, growing = None, self._growing
        if ranks.first and growing is not None and growing.cold_start and not self._at(1).skills:
            start = cold_start(growing, data, batch, seed, student, self._reply)
            told = self._publish(start.skills, 0, f", {start.told}")
        self._published = ranks.told(self._published, _PUBLISHED)
        return told

    def learned(
        self, batch: Batch, rows: Sequence[Row], step: int, ranks: Ranks, student: Answering, last: bool = False
    ) -> Told | None:
        """After a step: count what came of the skills; grow the bank where it is time to. `rows`: all ranks'.

        After the `last` step of a run that lets it grow the bank is left as it was measured: who does harm leaves. Not
        where success is high by then: to a student that has learned a skill, seeing it is of no use, and may do harm.
        Returns what is to be told of it.
        """
        used = [each for mine in ranks.every(uses_of(batch, self._reading), _USES) for each in mine]
        told = None
        if ranks.first:
            growing, tried = self._growing, [(row.task, _seen(row)) for row in rows]
            leaves = last and growing is not None and growing.low(tried)
            looks = leaves or (growing is not None and step % growing.every == 0)
            if uses := summed([*used, *(self._tried(rows, step, student) if looks else ())]):
                self._shelf.record(uses, step)
            told = self._grow(tried, step)
            if told is None and leaves:
                left = self._publish((), step, ", by what it was measured to be worth")
                told = left if left["evicted"] else None
        self._published = ranks.told(self._published, _PUBLISHED)
        return told

    def _tried(self, rows: Sequence[Row], step: int, student: Answering) -> list[SkillUse]:
        """The same tasks answered with a skill in sight and without, by the same weights."""
        if self._growing is None or not self._reading:
            return []
        tasks = list({row.task.id: row.task for row in rows}.values())[: self._growing.trials]
        context = next(iter(self._reading.values()))
        trials: list[tuple[Task, Sequence[Message], tuple[int, ...]]] = []
        for place, task in enumerate(tasks):
            own = Rollout(index=0, text="")
            view = ContextView(task=task, rollout=own, group=(own,), step=step, rng=Random(0))
            if prompts := context.prompts(view):
                pair = place % len(prompts)
                trials.append((task, prompts[pair].messages, task.columns[NUMBERS][pair]))
        asked = [task for task, _, _ in trials]
        prompts = [*(told for _, told, _ in trials), *(task.messages for task in asked)]
        verdicts = [each and each.verdict for each in student.attempts([*asked, *asked], prompts)]
        return [
            SkillUse(number=number, shown=1, shown_right=int(with_.correct), plain=1, plain_right=int(without.correct))
            for (_, _, numbers), with_, without in zip(trials, verdicts, verdicts[len(trials) :], strict=False)
            if with_ is not None and without is not None
            for number in numbers
        ]

    def _grow(self, rollouts: Sequence[tuple[Task, Rollout]], step: int) -> Told | None:
        if self._growing is None or not (asks := self._growing.asks(step, rollouts)):
            return None
        held, base = self._at(step).skills, self.version(step)
        try:
            replies = {ask.key: self._reply(ask) for ask in asks}
            content = tuple(content_of(each) for each in held)
            grown = self._growing.update(content, rollouts, replies)
        except TeacherUnavailable as error:
            return {"message": f"The skill bank stays at version {base}: {error}"}
        except ValueError as error:
            return {
                "message": f"The skill bank stays at version {base}: the reply was not what was asked for: {error}."
            }
        assert isinstance(grown, tuple)
        return self._publish(grown[len(held) :], step)

    def _publish(self, new: Sequence[SkillCreate], step: int, why: str = "") -> Told:
        made = self._shelf.publish(self.version(step), new, step)
        self._published = dict(self._shelf.published())
        said = f"{len(made.added)} skills are new, {len(made.folded)} were known, {len(made.evicted)} had to leave"
        message = f"The skill bank is at version {self.version(step + 1)}{why}: {said}."
        return {"message": message, **made.model_dump(mode="json", exclude={"created_at"})}

    def _reply(self, ask: Ask) -> str:
        messages = tuple(ChatMessage(**message) for message in ask.messages)
        reply = self._scorer.chat(
            ask.teacher, ChatRequest(messages=messages, max_tokens=ask.max_tokens), on_failure="drop"
        )
        if not reply.finished:
            raise ValueError(f"it was cut off at {ask.max_tokens} tokens")
        return reply.text

    def _at(self, step: int) -> _Open:
        version = self.version(step)
        if version not in self._open:
            skills = tuple(self._shelf.skills(version))
            self._open = {version: _Open(skills, Pairs(skills, self._embedder))}
        return self._open[version]


class WithSkills:
    """Data whose training tasks come with the bank's skills; held-out ones are asked as they are."""

    def __init__(self, data: Data, bank: RunBank) -> None:
        self._data, self._bank = data, bank

    @property
    def name(self) -> str:
        return self._data.name

    @property
    def verifier(self) -> Verifier:
        return self._data.verifier

    @property
    def columns(self) -> frozenset[str]:
        return self._data.columns | FILLED

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        return [self._bank.filled(task, step) for task in self._data.train(step, batch, seed)]

    def held_out(self, count: int) -> list[Task]:
        return self._data.held_out(count)


def uses_of(batch: Batch, contexts: Iterable[str]) -> list[SkillUse]:
    """What came of the skills that these contexts showed: how often a teacher scored with one in sight, and its
    support, the mean clipped log-ratio of its probabilities to the sampler's, of right and of wrong rollouts.

    A teacher with another tokenizer has no support: its numbers are of spans.
    """
    opinions = [(fan, slot) for name in contexts for fan, slot in enumerate(batch.slots.get(name, ()))]
    used: list[SkillUse] = []
    for place, row in enumerate(batch.rows):
        begin, end = batch.offsets[place : place + 2]
        shown = row.task.columns.get(NUMBERS, ())
        for fan, slot in opinions:
            if fan < len(shown) and bool(slot.present_T[begin:end].any()):
                support = _support(batch, slot, begin, end) if row.logprobs is not None else None
                used += [_use(number, row.verdict, support) for number in shown[fan]]
    return summed(used)


def _support(batch: Batch, slot: Slot, begin: int, end: int) -> float | None:
    if slot.span_T is not None:
        return None
    ratio_T = slot.logprob_T[begin:end] - batch.behaviour.logprob_T[begin:end]
    support = float(ratio_T.clamp(-CLIP, CLIP).mean())
    return support if isfinite(support) else None


def _use(number: int, verdict: Verdict | None, support: float | None) -> SkillUse:
    if verdict is None or support is None:
        return SkillUse(number=number, used=1)
    moments = Moments(n=1, total=support, squares=support**2)
    if verdict.correct:
        return SkillUse(number=number, used=1, support_right=moments)
    return SkillUse(number=number, used=1, support_wrong=moments)


def summed(uses: Iterable[SkillUse]) -> list[SkillUse]:
    """One use a skill, by number."""
    found: defaultdict[int, list[SkillUse]] = defaultdict(list)
    for each in uses:
        found[each.number].append(each)
    return [_sum(number, found[number]) for number in sorted(found)]


def _sum(number: int, uses: Sequence[SkillUse]) -> SkillUse:
    return SkillUse(
        number=number,
        used=sum(each.used for each in uses),
        shown=sum(each.shown for each in uses),
        shown_right=sum(each.shown_right for each in uses),
        plain=sum(each.plain for each in uses),
        plain_right=sum(each.plain_right for each in uses),
        support_right=_moments([each.support_right for each in uses]),
        support_wrong=_moments([each.support_wrong for each in uses]),
    )


def _moments(parts: Sequence[Moments]) -> Moments:
    return Moments(
        n=sum(each.n for each in parts),
        total=sum(each.total for each in parts),
        squares=sum(each.squares for each in parts),
    )


def _seen(row: Row) -> Rollout:
    return Rollout(index=row.index, text=row.text, verdict=row.verdict)
