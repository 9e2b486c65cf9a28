"""A run that names a skill bank: which version it reads, and what is refused before anything is changed."""

from __future__ import annotations

import pytest

from preceptor.errors import Invalid
from preceptor.wire.data import TaskSource
from preceptor.wire.skills import SkillCreate
from tests.contract.conftest import House

REVERSE = SkillCreate(skill="Say the letters from the last to the first.", mistake="Said them in order.")


@pytest.fixture
def bank(house: House) -> House:
    house.admin.skills.create("words", task="spell_backward")
    house.admin.skills.publish("words", 0, [REVERSE])
    return house


def test_a_run_reads_the_version_that_was_the_latest_when_it_was_submitted(bank: House):
    latest = bank.run(recipe="sgsd", skills="words")
    bank.admin.skills.publish("words", 1, [SkillCreate(skill="Count the letters.")])
    assert latest.skills == bank.admin.runs.get(latest.id).skills == "words@1"
    assert bank.run(recipe="sgsd", skills="words").skills == "words@2"
    assert bank.run(recipe="sgsd", skills="words@1").skills == "words@1"
    assert bank.run(recipe="opsd").skills is None


def test_without_a_bank_the_data_must_have_the_skills(bank: House):
    with pytest.raises(Invalid, match="context 'skills' needs the column 'skill', which task spell_backward lacks"):
        bank.run(recipe="sgsd")
    own = TaskSource(task="skill_code")
    assert bank.run(recipe="sgsd", data=own).skills is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"skills": "algebra@1"}, "there is no skill bank 'algebra'"),
        ({"skills": "words@7"}, "skill bank words has no version 7; its latest is 1"),
        ({"skills": "words@0"}, "words@0 holds no skill"),
        ({"skills": "words", "recipe": "opsd"}, "no context of recipe opsd shows skills"),
        ({"skills": "words", "data": TaskSource(task="chain_sum")}, "of the task spell_backward, and this run learns"),
    ],
)
def test_banks_that_cannot_serve_a_run(bank: House, changes: dict[str, object], words: str):
    with pytest.raises(Invalid, match=words) as caught:
        bank.run(**{"recipe": "sgsd", **changes})
    assert caught.value.problem.field == "skills"
    assert not list(bank.admin.runs.list())


def test_a_recipe_that_grows_a_bank_needs_one_which_may_be_empty(bank: House):
    bank.model()
    bank.teacher("writer", generates=True)
    growing = {"overrides": {"state": {"skills": {"kind": "skill_bank"}}}}
    growing |= {"recipe": "sgsd", "teachers": {"self": "spelling", "extractor": "writer"}}
    bank.teacher()
    with pytest.raises(Invalid, match=r"lets a skill bank grow .* and the run names none") as caught:
        bank.run(**growing)
    assert caught.value.problem.field == "skills"
    assert bank.run(**growing, skills="words@0").skills == "words@0"
    with pytest.raises(Invalid, match="extractor") as caught:
        bank.run(**{**growing, "teachers": {"self": "spelling"}}, skills="words")
    assert caught.value.problem.field == "teachers.extractor"
    with pytest.raises(Invalid, match="would never be asked") as caught:
        bank.run(**growing, skills="words", fallbacks={"extractor": "spelling"})
    assert caught.value.problem.field == "fallbacks.extractor"


def test_what_a_cold_start_shows_must_be_in_the_data(bank: House):
    bank.model()
    bank.teacher("writer", generates=True)
    bank.teacher()
    state = {"kind": "skill_bank", "cold_start": 8, "guide": {"kind": "canonical"}}
    growing = {"overrides": {"state": {"skills": state}}, "skills": "words@0"}
    growing |= {"recipe": "sgsd", "teachers": {"self": "spelling", "extractor": "writer"}}
    with pytest.raises(Invalid, match=r"'state\.skills\.guide' needs the column 'canonical', which task"):
        bank.run(**growing)
    state["guide"] = {"kind": "demonstration"}
    assert bank.run(**growing).skills == "words@0"


def test_a_name_that_is_no_banks_is_a_422(bank: House):
    body = bank.wish(recipe="sgsd").model_dump(mode="json") | {"skills": "words@latest"}
    answer = bank.http().post("/v1/runs", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "skills")
