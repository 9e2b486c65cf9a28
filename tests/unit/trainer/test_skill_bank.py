"""A run whose tasks are shown a bank's skills: which version when, what is counted, how it grows, and on resume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from preceptor.errors import TeacherUnavailable
from preceptor.skills.embedding import NGrams
from preceptor.skills.usefulness import outcome_lift
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.skills import Skill, SkillBankVersion, SkillCreate, SkillUse
from preceptor_trainer import recipes
from preceptor_trainer.batch import Row, build_batch
from preceptor_trainer.loop import Ended, Signal, train
from preceptor_trainer.model import load_model
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.skill_bank import NUMBERS, RunBank, WithSkills
from preceptor_trainer.views import Message, Task, Verdict
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run

AT = datetime(2026, 1, 2, tzinfo=UTC)


class Memory:
    """A shelf in memory, with the rules of the control plane's: a step publishes once."""

    def __init__(self, *skills: SkillCreate) -> None:
        self.versions: dict[int, list[Skill]] = {1: [self._skill(n, each, 1) for n, each in enumerate(skills, 1)]}
        self.steps: dict[int, SkillBankVersion] = {}
        self.recorded: dict[int, Sequence[SkillUse]] = {}

    def skills(self, version: int) -> Sequence[Skill]:
        return self.versions[version]

    def published(self) -> Mapping[int, int]:
        return {step: made.version for step, made in self.steps.items()}

    def publish(self, base: int, add: Sequence[SkillCreate], step: int) -> SkillBankVersion:
        if step not in self.steps:
            held, version = self.versions[base], len(self.versions) + 1
            new = [self._skill(len(held) + n, each, version) for n, each in enumerate(add, 1)]
            self.versions[version] = [*held, *new]
            added = tuple(each.number for each in new)
            self.steps[step] = SkillBankVersion(
                bank="b", version=version, base=base, skills=len(held) + len(new), added=added, created_at=AT
            )
        return self.steps[step]

    def record(self, uses: Sequence[SkillUse], step: int) -> None:
        self.recorded.setdefault(step, uses)

    def _skill(self, number: int, each: SkillCreate, version: int) -> Skill:
        held = {"bank": "b", "id": f"b/{number}", "number": number, "version": version, "created_at": AT}
        return Skill(**held, skill=each.skill, mistake=each.mistake, sources=each.sources)


REVERSE = SkillCreate(skill="Say the letters backward.", mistake="Kept the order.")
FIRST = SkillCreate(skill="Begin with the last letter.")


def writes(role: str, request: ChatRequest) -> Reply:
    assert role == "extractor" and "(failed)" in request.messages[0].content
    said = {"skill": f"Look at {len(request.messages[0].content)} letters.", "mistake": "", "attempt": 1}
    return Reply(text=json.dumps(said), finished=True)


def growing(every: int = 2) -> Recipe:
    state = {"skills": {"kind": "skill_bank", "every": every, "below": 1.0}}
    return recipes.load("sgsd").override({"rollout": {"max_tokens": 8}, "state": state})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


def go(
    folder: Path, work: Path, shelf: Memory, which: Recipe, resume: Path | None = None, says=writes, stop: int = 99
) -> tuple[Ended, Remembering]:
    work.mkdir(exist_ok=True)
    reporter = Remembering(lambda step: Signal.STOP if step == stop else Signal.GO)
    scorer = LocalScorer({"self": load_model(folder)}, says)
    bank = RunBank(shelf, 1, NGrams(), which, scorer)
    run = toy_run(which, steps=6)
    return train(run, folder, ToyData(), scorer, reporter, work, resume, bank=bank), reporter


def test_a_run_is_shown_the_pinned_version_and_then_its_own(folder: Path, tmp_path: Path):
    shelf = Memory(REVERSE, FIRST)
    ended, reporter = go(folder, tmp_path / "w", shelf, growing())
    assert ended.result is not None
    assert sorted(shelf.steps) == [2, 4, 6] and [len(shelf.versions[version]) for version in (1, 2, 3, 4)] == [
        2,
        3,
        4,
        5,
    ]
    shown = {step: {use.number for use in uses} for step, uses in shelf.recorded.items()}
    assert shown == {1: {1, 2}, 2: {1, 2}, 3: {1, 2, 3}, 4: {1, 2, 3}, 5: {1, 2, 3, 4}, 6: {1, 2, 3, 4}}
    assert "The skill bank is at version 2: 1 skills are new" in str(reporter.notes[0]["message"])
    assert shelf.versions[2][2].sources[0].task is not None
    tried = {step: sum(use.shown for use in uses) for step, uses in shelf.recorded.items()}
    assert tried == {1: 0, 2: 3, 3: 0, 4: 3, 5: 0, 6: 3}, "each task of a step that looks, with one pair in sight"
    for uses in shelf.recorded.values():
        for use in uses:
            assert use.used == 3, "every rollout of the batch was scored after every pair"
            assert use.support_right.n + use.support_wrong.n == 3 and use.shown == use.plain
            assert abs(use.support_wrong.total) <= 3.0 * use.support_wrong.n


def test_a_resumed_run_is_shown_the_same(folder: Path, tmp_path: Path):
    whole, reporter = go(folder, tmp_path / "whole", Memory(REVERSE), growing())
    shelf = Memory(REVERSE)
    _, before = go(folder, tmp_path / "first", shelf, growing(), stop=3)
    checkpoint = before.checkpoints[-1][1]
    ended, after = go(folder, tmp_path / "second", shelf, growing(), checkpoint)
    assert whole.result is not None and ended.result is not None
    assert before.losses + after.losses == reporter.losses
    assert sorted(shelf.steps) == [2, 4, 6]


def test_what_a_step_is_shown_does_not_depend_on_what_came_later(folder: Path):
    shelf = Memory(REVERSE)
    shelf.publish(1, [FIRST], 2)
    bank = RunBank(shelf, 1, NGrams(), growing(), LocalScorer({}))
    assert [bank.version(step) for step in (1, 2, 3, 9)] == [1, 1, 2, 2]
    data = WithSkills(ToyData(), bank)
    plain = ToyData().train(2, 3, 0)
    early, late = data.train(2, 3, 0), data.train(3, 3, 0)
    assert [each.messages for each in early] == [each.messages for each in plain]
    assert early[0].columns["skill"] == [REVERSE.skill] and early[0].columns[NUMBERS] == [(1,)]
    assert early[0].columns["mistake"] == [REVERSE.mistake] and len(late[0].columns["skill"]) == 2
    assert data.train(2, 3, 0) == early
    assert not set(data.held_out(1)[0].columns) & {"skill", NUMBERS}
    assert {"skill", "answer"} <= data.columns


class Reader:
    """A student that is right where the prompt holds a skill, and whose positions end before a long word's."""

    def right(self, tasks: Sequence[Task], prompts: Sequence[Sequence[Message]]) -> list[bool | None]:
        assert len(tasks) == len(prompts)
        texts = [prompt[-1]["content"] for prompt in prompts]
        return [None if "dddd" in text else REVERSE.skill in text for text in texts]


def test_what_a_skill_is_worth_is_tried_on_the_same_tasks(folder: Path):
    which = growing(1)
    shelf = Memory(REVERSE)
    bank = RunBank(shelf, 1, NGrams(), which, LocalScorer({}, writes))
    tasks = WithSkills(ToyData(), bank).train(1, 3, 0)
    long = replace(tasks[0], id="long", messages=(Message(role="user", content="dddd?"),))
    rows = [
        Row(
            task=task,
            index=0,
            prompt_ids=(1,),
            completion_ids=(2,),
            logprobs=(-1.0,),
            text="x",
            verdict=Verdict(reward=0.0, correct=False),
        )
        for task in (*tasks, long, tasks[0])
    ]
    batch = build_batch(rows, {}, 1, torch.float32)
    bank.learned(batch, rows, 1, Ranks(), Reader())
    (use,) = shelf.recorded[1]
    assert (use.shown, use.shown_right, use.plain, use.plain_right) == (3, 3, 3, 0)
    lift = outcome_lift(use.shown, use.shown_right, use.plain, use.plain_right)
    assert lift is not None and lift.mean == 1.0 and lift.low < 1.0


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(text="I cannot say.", finished=True), "line 1 is not JSON"),
        (Reply(text="{", finished=False), "was cut off at 1024 tokens"),
        (None, "the extractor is away"),
    ],
)
def test_a_reply_that_cannot_be_used_changes_nothing_and_is_told(
    folder: Path, tmp_path: Path, reply: Reply | None, words: str
):
    def says(role: str, request: ChatRequest) -> Reply:
        if reply is None:
            raise TeacherUnavailable("the extractor is away.", teacher="extractor")
        return reply

    shelf = Memory(REVERSE)
    ended, reporter = go(folder, tmp_path / "w", shelf, growing(4), says=says)
    assert ended.result is not None and shelf.steps == {}
    assert len(reporter.notes) == 1
    assert "stays at version 1" in str(reporter.notes[0]["message"]) and words in str(reporter.notes[0]["message"])


def test_a_run_may_begin_with_an_empty_bank(folder: Path, tmp_path: Path):
    shelf = Memory()
    ended, _ = go(folder, tmp_path / "w", shelf, growing(3))
    assert ended.result is not None and sorted(shelf.recorded) == [4, 5, 6]
