"""The sample stage: a recipe's rollout policy plans, the student writes, exact token ids come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random

from preceptor_trainer.batch import Row
from preceptor_trainer.flow import Part
from preceptor_trainer.leaks import LeakCheck
from preceptor_trainer.model import Model, eos_ids, prompt_ids
from preceptor_trainer.recipe import RolloutPolicy
from preceptor_trainer.sampler import Job, Sampler
from preceptor_trainer.views import Message, Plan, PlanView, Task

PART_ROLLOUTS = 16
"""Rollouts that are verified and scored together, while others are still being written."""


class CannotWrite(ValueError):
    """A plan that this trainer cannot carry out."""


def stream(*parts: object) -> int:
    """A 64-bit seed that depends on all its parts and on nothing else, so that a resumed run draws the same numbers."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A rollout before it is written."""

    place: int
    """Among the step's rollouts, in the tasks' order."""
    task: Task
    index: int
    plan: Plan
    prompt_ids: tuple[int, ...]


class Writer:
    """Turns tasks into rows."""

    def __init__(
        self, policy: RolloutPolicy, model: Model, sampler: Sampler, seed: int, leaks: LeakCheck | None = None
    ) -> None:
        self._policy = policy
        self._model = model
        self._sampler = sampler
        self._seed = seed
        self._leaks = leaks

    def write(self, tasks: Sequence[Task], step: int) -> list[Row]:
        """`samples` rows a task, in the tasks' order. Raises CannotWrite, naming what is missing."""
        drafts = self._drafts(tasks, step)
        rows = self._rows(drafts, step, step - 1, None)
        return [row for _, row in sorted(rows, key=lambda each: each[0])]

    def parts(
        self, tasks: Sequence[Task], step: int, version: int, check: Callable[[], None] | None = None
    ) -> Iterator[Part]:
        """The same rows as the parts of a batch, each part as soon as all of it is written; they do not come in order.

        Groups with long prompts come first, then like with like, so that what is computed together is of like length;
        a part has PART_ROLLOUTS rows, or more where a group has; without a task there is one part, and it is empty.
        `version` of the weights is recorded with the rows. `check` is called before every token.
        """
        cuts = _cut(sorted(self._drafts(tasks, step), key=_order()))
        part_of = {draft.place: number for number, cut in enumerate(cuts) for draft in cut}
        if not cuts:
            yield Part(step=step, index=0, of=1, rows=[])
        rows = [dict[int, Row]() for _ in cuts]
        for place, row in self._rows([draft for cut in cuts for draft in cut], step, version, check):
            index = part_of[place]
            rows[index][place] = row
            if len(rows[index]) == len(cuts[index]):
                finished = [rows[index][draft.place] for draft in cuts[index]]
                yield Part(step=step, index=index, of=len(cuts), rows=finished)

    def _rows(
        self, drafts: Sequence[_Draft], step: int, version: int, check: Callable[[], None] | None
    ) -> Iterator[tuple[int, Row]]:
        """Each draft's place and row, in the order in which they are finished."""
        yield from ((draft.place, self._given(draft, version)) for draft in drafts if draft.plan.source == "dataset")
        sampled = self._at_last_turns([draft for draft in drafts if draft.plan.source == "student"], step, check)
        jobs = [self._job(draft, step) for draft in sampled]
        for number, written in self._sampler.stream(jobs, self._policy.temperature, check):
            draft = sampled[number]
            row = Row(
                task=draft.task,
                index=draft.index,
                prompt_ids=draft.prompt_ids,
                completion_ids=written.token_ids,
                logprobs=written.logprobs,
                text=self.text(written.token_ids),
                finished=written.finished,
                weights_version=version,
            )
            yield draft.place, row

    def _at_last_turns(self, drafts: Sequence[_Draft], step: int, check: Callable[[], None] | None) -> list[_Draft]:
        """The drafts with nothing left to answer but their last turn: the student's replies to the turns before become
        a part of the prompt, the loss prompt too."""
        done = list(drafts)
        while places := [place for place, draft in enumerate(done) if len(draft.plan.turns) > 1]:
            jobs = [self._job(done[place], step) for place in places]
            for number, written in self._sampler.stream(jobs, self._policy.temperature, check):
                draft = done[places[number]]
                first, second, *others = draft.plan.turns
                said = Message(role="assistant", content=self.text(written.token_ids))
                messages = (*first.messages, said, *second.messages)
                turns = (replace(second, messages=messages), *others)
                ids = tuple(prompt_ids(self._model, messages, self._policy.max_tokens))
                done[places[number]] = replace(draft, plan=replace(draft.plan, turns=turns), prompt_ids=ids)
        return done

    def text(self, token_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
        return str(self._model.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _plan(self, task: Task, index: int, step: int) -> Plan:
        rng = Random(stream(self._seed, "plan", step, task.id, index))
        plan = self._policy.plan(PlanView(task=task, index=index, step=step, rng=rng))
        if plan.source not in ("student", "dataset"):
            raise CannotWrite(
                f"rollout: teacher '{plan.source}' cannot write rollouts here; only the student and the data can"
            )
        if self._leaks is not None:
            self._leaks.loss_prompt(task, plan)
        learned = [turn.learn for turn in plan.turns]
        if not learned or any(learned[:-1]) or not learned[-1]:
            raise CannotWrite(
                "rollout: of a plan's turns the last is learned, and no other: here there are other wishes"
            )
        if len(learned) > 1 and (plan.source != "student" or plan.behaviour is not None):
            raise CannotWrite("rollout: several turns are answered by the student, and read as the loss reads them")
        return plan

    def _drafts(self, tasks: Sequence[Task], step: int) -> list[_Draft]:
        planned = [
            (task, index, self._plan(task, index, step)) for task in tasks for index in range(self._policy.samples)
        ]
        return [
            _Draft(
                place=place,
                task=task,
                index=index,
                plan=plan,
                prompt_ids=tuple(prompt_ids(self._model, plan.turns[0].messages, self._policy.max_tokens)),
            )
            for place, (task, index, plan) in enumerate(planned)
        ]

    def _job(self, draft: _Draft, step: int) -> Job:
        prompt = draft.prompt_ids
        if draft.plan.behaviour is not None:
            prompt = tuple(prompt_ids(self._model, draft.plan.behaviour, self._policy.max_tokens))
        horizon = min(draft.plan.max_tokens or self._policy.max_tokens, self._policy.max_tokens)
        left = [len(draft.plan.turns)] if len(draft.plan.turns) > 1 else []
        seed = stream(self._seed, "sample", step, draft.task.id, draft.index, *left)
        return Job(prompt_ids=prompt, seed=seed, max_tokens=horizon)

    def _given(self, draft: _Draft, version: int) -> Row:
        text = draft.plan.completion
        if text is None:
            raise CannotWrite(f"rollout: the plan takes task {draft.task.id}'s completion from the data but names none")
        ends = sorted(eos_ids(self._model))[:1]
        ids = [*self._model.tokenizer.encode(text, add_special_tokens=False), *ends]
        kept = ids[: self._policy.max_tokens]
        return Row(
            task=draft.task,
            index=draft.index,
            prompt_ids=draft.prompt_ids,
            completion_ids=tuple(kept),
            logprobs=None,
            text=text,
            finished=len(kept) == len(ids),
            weights_version=version,
        )


def _order() -> Callable[[_Draft], tuple[int, int, int]]:
    """Long prompts first; the rollouts of one question stay together, however often the step asks it."""
    first: dict[str, int] = {}
    return lambda draft: (-len(draft.prompt_ids), first.setdefault(draft.task.id, draft.place), draft.place)


def _cut(drafts: Sequence[_Draft]) -> list[list[_Draft]]:
    """Parts of at least PART_ROLLOUTS drafts, the last perhaps fewer. A group is never cut: contexts see siblings."""
    cuts = list[list[_Draft]]()
    for draft in drafts:
        same = bool(cuts) and cuts[-1][-1].task.id == draft.task.id
        if not cuts or (len(cuts[-1]) >= PART_ROLLOUTS and not same):
            cuts.append([])
        cuts[-1].append(draft)
    return cuts
