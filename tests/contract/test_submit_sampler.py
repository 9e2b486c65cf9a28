"""Runs whose rollouts another process writes: which are taken, and which are refused, by what sentence."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.errors import Conflict
from preceptor.wire.runs import RunState
from preceptor.wire.teachers import Limits, TeacherCreate, TeacherKind
from tests.contract.conftest import House
from tests.contract.doubles import card_for
from tests.contract.refusing import caught, refused

GUIDED = {"rollout": {"kind": "guided"}}


def pen(house: House, name: str = "pen", **changes: Any) -> str:
    """A teacher that writes rollouts by weights that it is sent."""
    return house.teacher(name, **{"moves": True, "writes": True, **changes}).name


def test_a_run_names_who_writes_its_rollouts(house: House) -> None:
    student = house.model()
    run = house.run(student=student, sampler=pen(house))
    assert (run.sampler, run.teachers) == ("pen", {"self": "spelling"})
    assert house.admin.runs.get(run.id).sampler == "pen"
    grant = house.admin.runs.lease(run.id, "w")
    assert grant.teachers.keys() == {"self", "sampler"} and grant.teachers["sampler"].name == "pen"
    assert grant.run.sampler == "pen" and grant.run.teachers == {"self": "spelling"}
    beat = house.admin.runs.heartbeat(run.id, grant.fence)
    assert beat.teachers is not None and beat.teachers.keys() == {"self", "sampler"}


@pytest.mark.parametrize(
    ("card", "wish", "field", "said"),
    [
        ({"writes": False}, {}, "sampler", "writes no rollouts"),
        ({"moves": False}, {}, "sampler", "takes no new weights: from the second step on"),
        (
            {"limits": Limits(max_tokens=64, max_batch_tokens=64, max_k=1, max_body_bytes=2**20)},
            {},
            "overrides.rollout.max_tokens",
            "do not fit sampler pen, which reads 64",
        ),
        ({}, {"sampler": "pem"}, "sampler", "there is no teacher 'pem'"),
        ({}, {"overrides": {"rollout": {"temperature": 0.7}}}, "overrides.rollout.temperature", "untempered"),
        ({}, {"recipe": "sft", "teachers": {}}, "sampler", "nothing is written"),
        ({}, {"training": {"devices": 2, "steps": 4}}, "sampler", "2 devices train this run"),
        ({}, {"overrides": GUIDED}, "training.mismatch", "guided rollouts are written under another prompt"),
        ({}, {"sampler": "spelling"}, "sampler", "writes no rollouts"),
        ({}, {"teachers": {"self": "pen"}}, "sampler", "teacher pen is teachers.self too"),
        ({}, {"sampler": None, "training": {"mismatch": {}}}, "training.mismatch", "no sampler is named"),
        (
            {},
            {"recipe": "opd", "teachers": {"teacher": "spelling"}, "training": {"mismatch": {"correction": "band"}}},
            "training.mismatch",
            "is not corrected twice",
        ),
        ({}, {"training": {"mismatch": {"low": 0.9}}}, "training.mismatch.low", 'set correction to "band"'),
        ({}, {"training": {"mismatch": {"hi": 2}}}, "training.mismatch.hi", "Did you mean high?"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sqlite_house: House, card: dict[str, Any], wish: dict[str, Any], field: str, said: str
) -> None:
    student = sqlite_house.model()
    sqlite_house.teacher()
    pen(sqlite_house, **card)
    error = refused(sqlite_house, **{"student": student, "sampler": "pen", **wish})
    assert error.field == field
    assert said in str(error)


def test_a_stock_server_is_refused_with_what_works_in_its_place(sqlite_house: House) -> None:
    student = sqlite_house.model()
    url = "http://127.0.0.1:1/stock"
    card = card_for(sqlite_house.tmp / "tiny", "stock")
    sqlite_house.faculty.cards[url] = card
    wish = TeacherCreate(name="stock", url=url, kind=TeacherKind.VLLM, tokenizer=card.tokenizer)
    sqlite_house.admin.teachers.add(wish)
    error = refused(sqlite_house, student=student, sampler="stock")
    assert "is a stock server (kind vllm), which takes no weights from a run" in str(error)
    assert "--engine-url URL --takes-weights" in str(error)


def test_settings_of_the_mismatch_that_have_an_effect_are_taken(sqlite_house: House) -> None:
    student = sqlite_house.model()
    name = pen(sqlite_house)
    band = {"steps": 4, "mismatch": {"correction": "band", "low": 0.8, "high": 1.25}}
    run = sqlite_house.run(student=student, sampler=name, training=band)
    assert run.training.mismatch is not None and run.training.mismatch.low == 0.8
    old = sqlite_house.run(student=student, training={"steps": 4, "max_lag": 2, "mismatch": {}})
    assert old.training.mismatch is not None and old.sampler is None
    sqlite_house.admin.runs.cancel(run.id)
    off = {"steps": 4, "mismatch": {"correction": "off"}}
    assert sqlite_house.run(student=student, sampler=name, training=off, overrides=GUIDED).state is RunState.QUEUED


def test_a_sampler_serves_one_run_alone(house: House) -> None:
    student = house.model()
    name = pen(house)
    first = house.run(student=student, sampler=name)
    error = caught(house, student=student, sampler=name)
    assert error.field == "sampler" and f"is used by run {first.id}, and that run sends it new weights" in str(error)
    error = caught(house, student=student, teachers={"self": name})
    assert error.field == "teachers.self"
    house.admin.runs.cancel(first.id)
    second = house.run(student=student, sampler=name)
    with pytest.raises(Conflict, match=f"Teacher pen is used by run {second.id}"):
        house.admin.runs.resume(first.id)
