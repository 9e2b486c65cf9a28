"""What the scripted teacher learns from attempts: what a code writes for each letter, by those that succeeded."""

from __future__ import annotations

import json

from preceptor.skills.embedding import NGrams
from preceptor.skills.pairing import Pairs
from preceptor.wire.skills import Skill
from preceptor_services.teacher import scripts
from preceptor_services.teacher.lessons import UNKNOWN
from preceptor_trainer.parts.contexts import question
from preceptor_trainer.parts.skill_banks import SkillBank
from preceptor_trainer.tasks.skill_code import CODES, SkillCode
from preceptor_trainer.views import Rollout, Task, Verdict

HELD = {"id": "codes/1", "bank": "codes", "version": 1, "created_at": "2026-01-01T00:00:00Z"}
SOURCE = SkillCode.model_validate({"bank": 7})


def tried(tasks: list[Task]) -> list[tuple[Task, Rollout]]:
    """Every task failed once, and then succeeded."""
    wrong, right = Verdict(reward=0.0, correct=False), Verdict(reward=1.0, correct=True)
    failed = [(task, Rollout(index=0, text="zzzzz", verdict=wrong)) for task in tasks]
    return [*failed, *((task, Rollout(index=1, text=str(task.answer), verdict=right)) for task in tasks)]


def test_what_is_learned_is_what_the_task_keeps_secret() -> None:
    bank, shown = SkillBank(attempts=64), tried(SOURCE.held_out(60))
    ask = bank.ask(shown)
    found = bank.update((), shown, {ask.key: scripts.reply(ask.messages[0]["content"])})
    assert [each.tags for each in found] == [("code", code) for code in sorted(CODES)]
    secret = {task.messages[0]["content"].split()[5].rstrip(":"): task.columns["skill"] for task, _ in shown}
    assert {each.tags[1]: each.skill for each in found} == secret
    assert all(each.mistake == f"Guessing the letters of code {each.tags[1]}." for each in found)
    held = [Skill(**HELD, number=number, **each.model_dump(exclude={"task"})) for number, each in enumerate(found, 1)]
    pairs = Pairs(held, NGrams())
    for task, _ in shown:
        (pair,) = pairs.of(question(task), 1)
        assert pair.skill.skill == task.columns["skill"], "the bank finds the code that a question is of"
    assert all(str(source.rollout).endswith("/1") for each in found for source in each.sources)


def test_a_code_is_said_whole_or_not_at_all() -> None:
    tasks = SOURCE.held_out(100)
    words = {task.id: task.messages[0]["content"].split() for task in tasks}
    whole = next(task for task in tasks if {*"abcd"} <= {*words[task.id][-1]})
    part = next(task for task in tasks if words[task.id][5] != words[whole.id][5] and "d" not in words[task.id][-1])
    text = scripts.reply(SkillBank().ask(tried([whole, part])).messages[0]["content"])
    assert [json.loads(line)["tags"][1] for line in text.splitlines()] == [words[whole.id][5].rstrip(":")]
    assert scripts.reply(SkillBank().ask(tried([whole])[:1]).messages[0]["content"]) == UNKNOWN, "nothing succeeded"


def test_attempts_that_contradict_each_other_teach_nothing_of_their_code() -> None:
    tasks = SOURCE.held_out(60)
    shown = tried(tasks)
    code = tasks[0].messages[0]["content"].split()[5].rstrip(":")
    odd = shown[60][1]
    shown[60] = (shown[60][0], Rollout(index=1, text="qqqqq", verdict=odd.verdict))
    text = scripts.reply(SkillBank(attempts=64).ask(shown).messages[0]["content"])
    assert code not in {json.loads(line)["tags"][1] for line in text.splitlines()}


def test_no_more_is_said_than_was_asked_for() -> None:
    shown = tried(SOURCE.held_out(60))
    assert len(scripts.reply(SkillBank(attempts=64, most=2).ask(shown).messages[0]["content"]).splitlines()) == 2
