"""What a teacher is shown for a question."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from preceptor.skills.embedding import NGrams
from preceptor.skills.pairing import Pairs
from preceptor.wire.skills import Skill

AT = datetime(2026, 1, 2, tzinfo=UTC)


def skill(number: int, text: str = "", mistake: str = "") -> Skill:
    return Skill(id=f"b/{number}", bank="b", number=number, version=1, skill=text, mistake=mistake, created_at=AT)


def test_pairs_that_came_together_stay_together():
    held = [
        skill(1, "Carry the ten.", "Forgot the carry."),
        skill(2, "Reverse the letters.", "Kept the letters' order."),
    ]
    found = Pairs(held, NGrams()).of("Say the letters of this word backward", 8)
    assert [(each.skill.number, each.mistake and each.mistake.number, each.numbers) for each in found] == [
        (2, 2, (2,)),
        (1, 1, (1,)),
    ]
    assert found[0].score > found[1].score


def test_two_lists_are_paired_by_rank():
    held = [
        skill(1, "Carry the ten in a sum."),
        skill(2, mistake="Kept the letters in order."),
        skill(3, "Reverse the letters of the word."),
        skill(4, mistake="Added the column of tens twice."),
        skill(5, "Count the words."),
    ]
    pairs = Pairs(held, NGrams())
    found = pairs.of("Reverse the letters of the word: house", 8)
    assert found[0].numbers == (3, 2), "the best skill with the best mistake"
    assert sorted(len(each.numbers) for each in found) == [1, 2, 2], "there are fewer mistakes than skills"
    assert found[-1].mistake is None
    assert found == pairs.of("Reverse the letters of the word: house", 8)
    assert len(pairs.of("anything at all", 2)) == 2
    told, avoided = found[0].skill, found[0].mistake
    assert avoided is not None and -1 <= found[0].score <= 1 and told.skill and avoided.mistake
    alone = Pairs([held[2]], NGrams()).of("Reverse the letters of the word: house", 8)[0].score
    other = Pairs([skill(1, avoided.mistake)], NGrams()).of("Reverse the letters of the word: house", 8)[0].score
    assert found[0].score == pytest.approx((alone + other) / 2)


def test_a_bank_without_skills_shows_nothing():
    assert Pairs([], NGrams()).of("x", 8) == []
    assert Pairs([skill(1, mistake="Only a mistake.")], NGrams()).of("x", 8) == []
