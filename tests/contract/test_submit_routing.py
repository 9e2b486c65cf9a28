"""Routed runs at submit: every domain of the data has a teacher, every router its column, all teachers one support."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.wire.artifacts import DatasetFacts
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.teachers import Support
from tests.contract.conftest import House
from tests.contract.refusing import dataset, refused

TWO = TaskSource(task="two_domains")
TRAINING = {"steps": 4, "batch": 8, "evaluate_items": 8}


def faculty(house: House, *roles: str) -> dict[str, str]:
    """A registered teacher for each role, called so."""
    for role in roles:
        house.teacher(role)
    return {role: role for role in roles}


def by(*domains: str, **more: Any) -> dict[str, Any]:
    return {"contexts.teacher.router": {"kind": "column", "domains": list(domains), **more}}


def rows(*domains: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"Spell word{n}.", "answer": f"{n}", "domain": domains[n % len(domains)]} for n in range(120)]


def test_a_routed_run_names_any_number_of_teachers(sqlite_house: House):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters", "maths")
    run = house.run(recipe="opd", student=student, teachers=teachers, data=TWO, overrides=by("letters", "maths"))
    assert run.teachers == teachers
    assert run.resolved["contexts"]["teacher"]["router"]["domains"] == ["letters", "maths"]


@pytest.mark.parametrize("kind", ["task", "rows"])
def test_a_domain_without_a_teacher_is_refused_by_name(sqlite_house: House, kind: str):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters")
    data = TWO
    if kind == "rows":
        data = DatasetSource(artifact=dataset(house, rows("letters", "maths", None)))
    wish = {"recipe": "opd", "student": student, "teachers": teachers, "data": data, "training": TRAINING}
    error = refused(house, **wish, overrides=by("letters"))
    assert error.field == "overrides.contexts.teacher.router"
    assert "the data's column 'domain' says 'maths', and there is no teacher for it; there are letters" in str(error)
    assert '{"silent": ["maths"]}' in (error.problem.remedy or "")
    assert house.run(**wish, overrides=by("letters", silent=["maths"])).teachers == teachers
    assert house.run(**wish, overrides=by("letters", otherwise="letters")).teachers == teachers


def test_a_column_may_be_called_otherwise(sqlite_house: House):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters")
    held = dataset(house, [{**row, "topic": row["domain"], "domain": "x"} for row in rows("letters", "maths")])
    data = DatasetSource(artifact=held, columns={"domain": "topic"})
    wish = {"recipe": "opd", "student": student, "teachers": teachers, "data": data, "training": TRAINING}
    assert "says 'maths'" in str(refused(house, **wish, overrides=by("letters")))


def test_a_router_has_its_column_and_every_role_its_teacher(sqlite_house: House):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters")
    wish = {"recipe": "opd", "student": student, "overrides": by("letters", otherwise="rest")}
    error = refused(house, **wish, teachers={**teachers, "rest": "letters"})
    assert error.field == "data.task" and "the router of context 'teacher' needs the column 'domain'" in str(error)
    assert refused(house, **wish, teachers=teachers, data=TWO).field == "teachers.rest"


def test_values_that_are_many_or_long_are_not_told(sqlite_house: House):
    house = sqlite_house
    held = [
        {**row, "few": n % 3, "many": n, "long": "x" * (90 + n % 20), "list": ["a"]} for n, row in enumerate(rows("a"))
    ]
    facts = house.admin.artifacts.get(dataset(house, held)).facts
    assert isinstance(facts, DatasetFacts)
    told = {name: column.values for name, column in facts.columns.items()}
    assert told["few"] == ("0", "1", "2") and told["domain"] == ("a",)
    assert told["many"] is None and told["long"] is None and told["list"] is None and told["prompt"] is None


def test_who_classifies_writes(sqlite_house: House):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters", "maths")
    house.teacher("writer", generates=True)
    overrides = {"contexts.teacher.router": {"kind": "classifier", "domains": ["letters", "maths"]}}
    wish = {"recipe": "opd", "student": student, "data": TWO, "overrides": overrides}
    assert refused(house, **wish, teachers=teachers).field == "teachers.classifier"
    error = refused(house, **wish, teachers={**teachers, "classifier": "maths"})
    assert error.field == "teachers.classifier" and "scores and writes no text" in str(error)
    assert house.run(**wish, teachers={**teachers, "classifier": "writer"}).teachers["classifier"] == "writer"


def test_teachers_of_one_context_answer_alike(sqlite_house: House):
    house = sqlite_house
    student, teachers = house.model(), faculty(house, "letters")
    house.teacher("thrifty", supports=(Support.SAMPLED, Support.TOPK))
    wish = {"recipe": "gkd", "student": student, "teachers": {**teachers, "maths": "thrifty"}, "data": TWO}
    error = refused(house, **wish, overrides=by("letters", "maths"))
    assert error.field == "teachers.maths"
    assert "thrifty would be asked for topk and letters for full, and context 'teacher' routes between them" in str(
        error
    )
    assert house.run(**wish, overrides={**by("letters", "maths"), "sparse.always": True})


@pytest.mark.parametrize(
    ("router", "field", "said"),
    [
        ({"kind": "colum"}, "overrides.contexts.teacher.router", "expected one of classifier, column, rules"),
        (
            {"kind": "column", "domains": ["a"], "domain": "b"},
            "overrides.contexts.teacher.router.domain",
            "Did you mean domains?",
        ),
        (
            {"kind": "rules", "rules": [{"teacher": "a"}]},
            "overrides.contexts.teacher.router.rules.0",
            "either what it `equals` or what it is `like`",
        ),
    ],
)
def test_a_router_that_cannot_be_meant(sqlite_house: House, router: dict[str, Any], field: str, said: str):
    error = refused(sqlite_house, recipe="opd", overrides={"contexts.teacher.router": router})
    assert error.field == field and said in str(error) + (error.problem.remedy or "")
