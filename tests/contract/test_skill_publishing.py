"""The next version of a bank: from a version that was read, by several at once, without losing a skill."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire.skills import Moments, SkillCreate, SkillSource, SkillUse, SkillUses
from tests.contract.conftest import ADMIN, House

SIGNS = SkillCreate(skill="Change the sign of a moved term.", mistake="Kept the minus.")
CARRY = SkillCreate(skill="Carry the ten when a column is over nine.")
CHECK = SkillCreate(skill="Check the result by putting it back into the equation.")
UNITS = SkillCreate(mistake="Added metres to seconds.")


def texts(house: House, bank: str, version: int | None = None) -> list[str]:
    return [each.skill or each.mistake for each in house.admin.skills.skills(bank, version=version)]


def source(run: str, step: int) -> SkillSource:
    return SkillSource(run=run, step=step, rollout=f"{run}/{step}/0", task="chain_sum")


def test_a_version_never_changes(house: House):
    skills = house.admin.skills
    skills.create("b")
    learned = CARRY.model_copy(update={"sources": (source("run-1", 3),)})
    first = skills.publish("b", 0, [SIGNS, learned, CHECK])
    assert (first.version, first.skills, first.added) == (1, 3, (1, 2, 3))
    before = list(skills.skills("b", version=1))
    assert before[1].sources == learned.sources

    again = SkillCreate(skill=CARRY.skill + "!", sources=(source("run-2", 5),))
    second = skills.publish("b", 1, [UNITS, again], [1], run="run-2", step=5)
    assert (second.version, second.skills, second.added, second.removed) == (2, 3, (4,), (1,))
    assert [(each.index, each.into) for each in second.folded] == [(1, 2)]
    assert texts(house, "b") == [CARRY.skill, CHECK.skill, UNITS.mistake]
    carry = next(iter(skills.skills("b")))
    assert [each.run for each in carry.sources] == ["run-1", "run-2"]

    after = list(skills.skills("b", version=1))
    assert [(each.skill, each.sources) for each in after] == [(each.skill, each.sources) for each in before]
    assert [each.gone for each in after] == [2, None, None]
    assert [hit.skill.number for hit in skills.search("b", "moved term", version=1)] == [1]
    assert skills.search("b", "moved term") == ()
    assert [each.version for each in skills.versions("b")] == [2, 1]
    assert next(iter(skills.versions("b"))) == second


def test_an_author_who_read_an_old_version_loses_nobodys_skill(house: House):
    skills = house.admin.skills
    skills.create("b")
    skills.publish("b", 0, [SIGNS, CARRY])
    other = skills.publish("b", 1, [CHECK, SkillCreate(skill=SIGNS.skill, mistake=SIGNS.mistake + "!")])
    assert other.version == 2
    with pytest.raises(Conflict, match="moved on from version 1 to 2") as caught:
        skills.publish("b", 1, [UNITS], on_conflict="refuse")
    assert caught.value.problem.field == "base"
    mine = skills.publish("b", 1, [UNITS, CHECK], [1, 2])
    assert (mine.version, mine.base, mine.removed, mine.kept) == (3, 1, (2,), (1,)), "somebody folded into 1 since"
    assert [each.into for each in mine.folded] == [3], "what the other has published is found"
    assert texts(house, "b") == [SIGNS.skill, CHECK.skill, UNITS.mistake]


@pytest.mark.parametrize("on_conflict", ["merge", "refuse"])
def test_two_that_publish_at_once_lose_no_skill(house: House, on_conflict: Literal["merge", "refuse"]):
    """Two writers, each with a client and connections of its own, start from the same version again and again."""
    house.admin.skills.create("rush", duplicate_above=1.0)
    gate, rounds, refused = threading.Barrier(2), 5, [0, 0]
    words = ("ab", "cd", "ef", "gh", "ij")
    seed = {who: [SkillCreate(skill=f"{who} {word}") for word in words] for who in ("one", "two")}

    def write(who: str) -> list[int]:
        client, versions = house.client(ADMIN).skills, list[int]()
        for each in seed[who]:
            gate.wait()
            base = client.get("rush").version
            gate.wait()
            while True:
                try:
                    made = client.publish("rush", base, [each], on_conflict=on_conflict)
                    break
                except Conflict:  # somebody was faster: read again, and apply the same change to what is there now
                    refused[who == "two"] += 1
                    base = client.get("rush").version
            versions.append(made.version)
        return versions

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(write, seed)
    assert sorted(first + second) == list(range(1, 2 * rounds + 1))
    assert sorted(texts(house, "rush")) == sorted(each.skill for skills in seed.values() for each in skills)
    if on_conflict == "refuse":
        assert sum(refused) == rounds, "of two that start from one version, one is refused"
    held = [len(texts(house, "rush", version)) for version in range(2 * rounds + 1)]
    assert held == list(range(2 * rounds + 1))


def test_two_that_fold_the_same_skill_at_once_make_one(house: House):
    house.admin.skills.create("same")
    gate = threading.Barrier(2)

    def write(run: str):
        client = house.client(ADMIN).skills
        gate.wait()
        return client.publish("same", 0, [SIGNS.model_copy(update={"sources": (source(run, 1),)})])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("run-1", "run-2")))
    (only,) = house.admin.skills.skills("same")
    assert sorted(each.run or "" for each in only.sources) == ["run-1", "run-2"]


def test_a_run_publishes_a_step_once(house: House):
    skills = house.admin.skills
    skills.create("b", duplicate_above=None)
    first = skills.publish("b", 0, [SIGNS], run="run-1", step=25)
    assert skills.publish("b", 0, [SIGNS], run="run-1", step=25) == first
    assert skills.publish("b", 1, [SIGNS], run="run-1", step=50).version == 2
    assert len(texts(house, "b")) == 2


def test_nothing_new_makes_no_version(house: House):
    skills = house.admin.skills
    skills.create("b")
    skills.publish("b", 0, [SIGNS, SIGNS])
    answer = skills.publish("b", 1, [SIGNS])
    assert (answer.version, answer.skills, [each.into for each in answer.folded]) == (1, 1, [1])
    assert skills.get("b").version == 1
    assert skills.publish("b", 1).version == 1


def test_publishing_what_cannot_be(house: House):
    skills = house.admin.skills
    skills.create("b")
    skills.publish("b", 0, [SIGNS])
    with pytest.raises(Invalid, match="has no version 7; its latest is 1") as caught:
        skills.publish("b", 7, [CARRY])
    assert caught.value.problem.field == "base"
    with pytest.raises(Invalid, match="version 1 of skill bank b holds no skill 2") as caught:
        skills.publish("b", 1, remove=[1, 2])
    assert caught.value.problem.field == "remove.1"
    bad = SkillCreate(skill="s", sources=(SkillSource(run="\x00"),))
    with pytest.raises(Invalid, match=r"add\.1\.sources\.0\.run: it holds a NUL"):
        skills.publish("b", 1, [CARRY, bad])
    with pytest.raises(NotFound, match="no skill bank 'x'"):
        skills.publish("x", 0, [CARRY])
    with pytest.raises(Invalid, match="no embedder 'bert'; there is ngrams-1") as caught:
        skills.create("c", embedder="bert")
    assert caught.value.problem.field == "embedder"
    http = house.http()
    answer = http.post("/v1/skills/b/versions", json={"base": 1, "add": [{"skill": " ", "mistake": ""}]})
    assert (answer.status_code, answer.json()["field"]) == (422, "add.0")
    answer = http.post("/v1/skills/b/versions", json={"base": 1, "run": "run-1"})
    assert answer.status_code == 422 and "together" in answer.json()["detail"]
    assert skills.get("b").version == 1 and texts(house, "b") == [SIGNS.skill]


def test_uses_become_usefulness_and_are_counted_once(house: House):
    skills = house.admin.skills
    skills.create("b")
    skills.publish("b", 0, [SIGNS, CARRY])
    right, wrong = Moments(n=4, total=2.0, squares=1.1), Moments(n=4, total=-2.0, squares=1.1)
    good = SkillUse(number=1, used=8, shown=40, shown_right=36, plain=40, plain_right=8)
    supported = SkillUse(number=2, used=8, support_right=right, support_wrong=wrong)
    report = SkillUses(run="run-1", step=1, uses=(good, supported))
    assert skills.record_uses("b", report).recorded == 2
    assert skills.record_uses("b", report).recorded == 0, "a resumed worker reports its steps again"
    assert skills.record_uses("b", SkillUses(run="run-1", step=2, uses=(supported,))).recorded == 1
    first, second = skills.skills("b")
    assert first.usefulness.used == 8 and first.usefulness.support is None
    assert first.usefulness.outcome is not None and first.usefulness.outcome.mean == pytest.approx(0.7)
    assert 0.5 < first.usefulness.outcome.low < 0.7 < first.usefulness.outcome.high < 0.85
    assert second.usefulness.used == 16 and second.usefulness.outcome is None
    assert second.usefulness.support is not None and second.usefulness.support.n == 16
    assert second.usefulness.support.mean == pytest.approx(1.0)

    with pytest.raises(Invalid, match="never had a skill 3") as caught:
        skills.record_uses("b", SkillUses(run="r", step=1, uses=(good, SkillUse(number=3))))
    assert caught.value.problem.field == "uses.1.number"
    with pytest.raises(Invalid, match="named twice"):
        skills.record_uses("b", SkillUses(run="r", step=1, uses=(good, good)))
    answer = house.http().post(
        "/v1/skills/b/uses", json={"run": "r", "step": 1, "uses": [{"number": 1, "shown": 1, "shown_right": 2}]}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "uses.0")


def test_the_least_useful_leave_a_full_bank_and_the_harmful_any(house: House):
    skills = house.admin.skills
    skills.create("b", cap=3)
    skills.publish("b", 0, [SIGNS, CARRY, CHECK])
    uses = (
        SkillUse(number=1, shown=50, shown_right=45, plain=50, plain_right=5),
        SkillUse(number=2, shown=50, shown_right=26, plain=50, plain_right=25),
        SkillUse(number=3, shown=50, shown_right=40, plain=50, plain_right=25),
    )
    skills.record_uses("b", SkillUses(run="run-1", step=1, uses=uses))
    second = skills.publish("b", 1, [UNITS])
    assert (second.evicted, second.skills) == ((2,), 3)
    assert texts(house, "b") == [SIGNS.skill, CHECK.skill, UNITS.mistake]
    assert len(texts(house, "b", 1)) == 3, "the version before still holds it"
    harm = SkillUse(number=1, shown=500, shown_right=50, plain=500, plain_right=450)
    skills.record_uses("b", SkillUses(run="run-1", step=2, uses=(harm,)))
    assert skills.publish("b", 2).evicted == (1,)
    assert skills.get("b").skills == 2


def test_a_bank_travels_as_a_file(house: House):
    skills = house.admin.skills
    skills.create("b", "what goes wrong", task="chain_sum", cap=10)
    skills.publish("b", 0, [SIGNS, CARRY.model_copy(update={"sources": (source("run-1", 3),)})])
    lines = list(skills.export("b"))
    copy = skills.import_(lines, name="copy")
    assert (copy.version, copy.skills, copy.description, copy.task, copy.cap) == (
        1,
        2,
        "what goes wrong",
        "chain_sum",
        10,
    )
    assert list(skills.export("copy"))[1:] == lines[1:]
    assert skills.diff("b", "copy").same == 2 and skills.diff("b", "copy").added == ()

    skills.publish("b", 1, [CHECK], [1])
    found = skills.diff("b@1", "b@2")
    assert ([each.skill for each in found.removed], [each.skill for each in found.added]) == (
        [SIGNS.skill],
        [CHECK.skill],
    )
    again = skills.import_(skills.export("b"), name="copy")
    assert (again.version, again.skills) == (2, 3), "what is there already is folded"

    with pytest.raises(Invalid, match=r"Line 2: the skill has the hash") as caught:
        skills.import_([lines[0], lines[1].replace("sign", "sine"), lines[2]], name="bad")
    assert caught.value.problem.field == "line 2"
    with pytest.raises(Invalid, match="2 skills are announced, and 1 follow"):
        skills.import_(lines[:2], name="bad")
    with pytest.raises(NotFound):
        skills.get("bad")
    skills.create("other", task="spelling")
    with pytest.raises(Invalid, match="is of the task spelling"):
        skills.import_(lines, name="other")
