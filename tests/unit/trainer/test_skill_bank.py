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
from preceptor_trainer.loop import Ended, train
from preceptor_trainer.model import load_model
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.reporting import Signal
from preceptor_trainer.skill_bank import NUMBERS, RunBank, WithSkills
from preceptor_trainer.views import Message, Rollout, Task, Verdict
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer, Remembering, ToyData, toy_run

AT = datetime(2026, 1, 2, tzinfo=UTC)


class Memory:
    """A shelf in memory, with the rules of the control plane's: a step publishes once."""

    def __init__(self, *skills: SkillCreate) -> None:
        self.versions: dict[int, list[Skill]] = {1: [self._skill(n, each, 1) for n, each in enumerate(skills, 1)]}
        self.steps: dict[int, SkillBankVersion] = {}
        self.recorded: dict[int, Sequence[SkillUse]] = {}
        self.harmful: tuple[int, ...] = ()
        """Who leaves whenever something is published; for a test's sake the skills of a version stay."""

    def skills(self, version: int) -> Sequence[Skill]:
        return self.versions[version]

    def published(self) -> Mapping[int, int]:
        return {step: made.version for step, made in self.steps.items()}

    def publish(self, base: int, add: Sequence[SkillCreate], step: int) -> SkillBankVersion:
        if not add and not self.harmful:
            latest = len(self.versions)
            return SkillBankVersion(bank="b", version=latest, skills=len(self.versions[latest]), created_at=AT)
        if step not in self.steps:
            held, version = self.versions[base], len(self.versions) + 1
            new = [self._skill(len(held) + n, each, version) for n, each in enumerate(add, 1)]
            self.versions[version] = [*held, *new]
            added = tuple(each.number for each in new)
            self.steps[step] = SkillBankVersion(
                bank="b", version=version, base=base, skills=len(held) + len(new), added=added, created_at=AT,
                evicted=self.harmful,
            )  # fmt: skip
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

    def attempts(self, tasks: Sequence[Task], prompts: Sequence[Sequence[Message]]) -> list[Rollout | None]:
        assert len(tasks) == len(prompts)
        texts = [prompt[-1]["content"] for prompt in prompts]
        return [
            None if "dddd" in text else judged(REVERSE.skill in text or "reference solution" in text) for text in texts
        ]


def judged(right: bool) -> Rollout:
    return Rollout(index=0, text="x", verdict=Verdict(reward=float(right), correct=right))


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


def starting(tasks: int = 6, guide: str | None = "reference", attempts: int = 2) -> Recipe:
    state = {"kind": "skill_bank", "every": 4, "cold_start": tasks, "attempts": attempts}
    state |= {} if guide is None else {"guide": {"kind": guide}}
    return growing().override({"state": {"skills": state}})


def test_an_empty_bank_begins_with_what_failed_alone_and_succeeded_with_a_guide(folder: Path) -> None:
    asked: list[str] = []

    def says(role: str, request: ChatRequest) -> Reply:
        asked.append(request.messages[0].content)
        if len(asked) == 2:
            return Reply(text="no idea", finished=True)
        said = {"skill": f"Rule {len(asked)}.", "mistake": "", "attempt": 3, "tags": ["rule"]}
        return Reply(text=json.dumps(said), finished=True)

    shelf = Memory()
    bank = RunBank(shelf, 1, NGrams(), starting(), LocalScorer({}, says))
    told = bank.begin(WithSkills(ToyData(), bank), 3, 0, Ranks(), Reader())
    assert told is not None and told["message"] == (
        "The skill bank is at version 2, cold start: of 6 tasks 0 were right alone, 6 with a guide; 1 replies could "
        "not be used: 2 skills are new, 0 were known, 0 had to leave."
    )
    assert [text.count("(failed)") for text in asked] == [text.count("(succeeded)") for text in asked] == [2, 2, 2]
    assert [each.skill for each in shelf.versions[2]] == ["Rule 1.", "Rule 3."] and list(shelf.steps) == [0]
    rollouts = [str(source.rollout) for each in shelf.versions[2] for source in each.sources]
    assert all(each.endswith("/1") for each in rollouts), "attempt 3 is the first that succeeded, with the guide"
    assert [bank.version(step) for step in (1, 2)] == [2, 2]
    assert bank.begin(WithSkills(ToyData(), bank), 3, 0, Ranks(), Reader()) is None, "it is not empty any more"
    assert len(asked) == 3


def test_without_a_success_there_is_nothing_to_contrast(folder: Path) -> None:
    bank = RunBank(shelf := Memory(), 1, NGrams(), starting(guide=None), LocalScorer({}, writes))
    told = bank.begin(WithSkills(ToyData(), bank), 3, 0, Ranks(), Reader())
    assert told is not None and "0 were right alone, 0 with a guide" in str(told["message"])
    assert shelf.steps == {}


def test_a_run_leaves_its_bank_as_it_was_measured(folder: Path, tmp_path: Path) -> None:
    """Its last look is after its last step; a bank that holds a skill has no cold start."""
    which = growing(5).override({"state": {"skills": {"kind": "skill_bank", "every": 5, "cold_start": 3}}})
    quiet = Memory(REVERSE)
    _, reporter = go(folder, tmp_path / "a", quiet, which)
    assert sorted(quiet.steps) == [5] and len(reporter.notes) == 1, "nothing changes at the end, and nothing is told"
    assert [bool(sum(use.shown for use in quiet.recorded[step])) for step in (4, 5, 6)] == [False, True, True]
    shelf = Memory(REVERSE)
    shelf.harmful = (1,)
    _, reporter = go(folder, tmp_path / "b", shelf, which)
    assert sorted(shelf.steps) == [5, 6] and shelf.steps[6].added == ()
    assert "by what it was measured to be worth: 0 skills are new, 0 were known, 1 had" in str(
        reporter.notes[-1]["message"]
    )
