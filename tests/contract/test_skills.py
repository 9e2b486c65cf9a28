"""Skill banks and recipes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire.skills import SkillCreate
from preceptor.wire.teachers import Support
from tests.contract.conftest import House

SIGNS = SkillCreate(skill="Change the sign of a moved term.", mistake="Kept the minus.", tags=("signs",))
CARRY = SkillCreate(skill="Carry the ten when a column is over nine.", task="chain_sum")
CHECK = SkillCreate(skill="Check the result by putting it back into the equation.")


def test_adding_skills_makes_versions_that_stay_readable(house: House):
    assert house.admin.skills.create("algebra", "equations").version == 0
    first = house.admin.skills.add("algebra", [SIGNS, CARRY])
    second = house.admin.skills.add("algebra", [CHECK])
    assert (first.version, first.skills, second.version, second.skills) == (1, 2, 2, 3)
    assert [each.skill for each in house.admin.skills.skills("algebra")] == [SIGNS.skill, CARRY.skill, CHECK.skill]
    assert [each.skill for each in house.admin.skills.skills("algebra", version=1)] == [SIGNS.skill, CARRY.skill]
    assert list(house.admin.skills.skills("algebra", version=0)) == []
    with pytest.raises(NotFound, match="has no version 3; its latest is 2"):
        list(house.admin.skills.skills("algebra", version=3))
    assert house.admin.skills.get("algebra") == second
    assert [each.name for each in house.admin.skills.list()] == ["algebra"]


def test_search_finds_words_in_all_of_a_skill(house: House):
    house.admin.skills.create("algebra")
    house.admin.skills.add("algebra", [SIGNS, CARRY])
    house.admin.skills.add("algebra", [CHECK])
    assert [hit.skill.skill for hit in house.admin.skills.search("algebra", "MINUS sign")] == [SIGNS.skill]
    assert [hit.skill.skill for hit in house.admin.skills.search("algebra", "chain_sum")] == [CARRY.skill]
    assert house.admin.skills.search("algebra", "zebra") == ()
    assert house.admin.skills.search("algebra", "equation", version=1) == ()
    hits = house.admin.skills.search("algebra", "the", limit=2)
    assert len(hits) == 2
    assert hits[0].score >= hits[1].score > 0


def test_skills_that_are_added_at_once_all_get_in(house: House):
    house.admin.skills.create("rush")
    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(lambda n: house.admin.skills.add("rush", [SIGNS, CARRY]).version, range(6)))
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    assert len(list(house.admin.skills.skills("rush"))) == 12


def test_many_skills_come_in_pages(house: House):
    house.admin.skills.create("many")
    house.admin.skills.add("many", [SIGNS] * 130)
    ids = [each.id for each in house.admin.skills.skills("many")]
    assert len(ids) == len(set(ids)) == 130


def test_banks_that_are_wrong(house: House):
    house.admin.skills.create("b")
    with pytest.raises(Conflict, match="There is a skill bank b already"):
        house.admin.skills.create("b")
    with pytest.raises(NotFound, match="no skill bank 'x'"):
        house.admin.skills.add("x", [SIGNS])
    with pytest.raises(Invalid, match=r"skills\.1\.mistake: it holds a NUL") as caught:
        house.admin.skills.add("b", [SIGNS, SkillCreate(skill="s", mistake="\x00")])
    assert caught.value.field == "skills.1.mistake"
    assert house.admin.skills.get("b").version == 0


def test_recipes_are_listed_and_spelled_out(house: House):
    listed = {each.name: each for each in house.admin.recipes.list()}
    assert {"opsd", "opd", "sft"} <= listed.keys()
    assert listed["opsd"].roles == ("self",)
    assert listed["opsd"].support is Support.TOPK
    assert listed["sft"].roles == ()
    detail = house.admin.recipes.get("opsd")
    assert detail.summary == listed["opsd"].summary
    assert detail.resolved["objective"][0]["kind"] == "jsd"
    with pytest.raises(NotFound, match="did you mean"):
        house.admin.recipes.get("opsdd")
