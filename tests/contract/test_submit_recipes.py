"""Recipes that do not fit: their overrides, their parts, their data. Each is refused by field, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor.wire.data import DatasetSource
from preceptor.wire.teachers import Support
from preceptor_trainer import recipes
from tests.contract.conftest import House
from tests.contract.refusing import ROWS, caught, dataset, refused

EXTRAPOLATED = {"kind": "extrapolated", "lam": 2.0}


@pytest.mark.parametrize(
    ("recipe", "overrides", "field", "said"),
    [
        ("opsd", {"objective.0.bet": 0.3}, "overrides.objective.0.bet", "Did you mean beta?"),
        ("opsd", {"objective.0.beta": "much"}, "overrides.objective.0.beta", "valid number"),
        ("opsd", {"objective.0.beta": 1.5}, "overrides.objective.0.beta", "less than 1 (got 1.5)"),
        ("opsd", {"objective.0.clip": -0.05}, "overrides.objective.0.clip", "greater than 0"),
        ("opsd", {"objective": {"0": {"bet": 0.3}}}, "overrides.objective.0.bet", "Did you mean beta?"),
        ("opsd", {"objective.1.beta": 0.3}, "overrides.objective.1", "no such place; it has 0"),
        ("opsd", {"objective.beta": 0.3}, "overrides.objective.beta", "Write objective.0.beta"),
        ("opsd", {"weights.0.mix": 1}, "overrides.weights.0", "it has none: it is empty"),
        ("opsd", {"objektive.0.beta": 0.3}, "overrides.objektive", "Did you mean objective?"),
        ("opsd", {"trainig.steps": 3}, "overrides.trainig", "Did you mean training, a field of the run?"),
        ("opsd", {"objective.0": {"kind": "reverse_kl", "beta": 1}}, "overrides.objective.0.beta", "There are clip"),
        ("opsd", {"objective.0.coefficient": "x"}, "overrides.objective.0.coefficient", "valid number"),
        ("opsd", {"objective.0.coefficient": {"kind": "lin"}}, "overrides.objective.0.coefficient", "unknown Schedule"),
        (
            "opsd",
            {"objective.0.coefficient": {"kind": "linear", "start": 1, "ende": 0, "steps": 4}},
            "overrides.objective.0.coefficient.end",
            "is missing",
        ),
        ("opsd", {"objective.0.coefficient": 0}, "overrides.objective", "every term's coefficient is 0"),
        (
            "sgsd",
            {"contexts.skills.template": "{question}"},
            "overrides.contexts.skills.template",
            "{skill} or {mistake}",
        ),
        (
            "rcsd",
            {"contexts.rubric.ask_template": "Go."},
            "overrides.contexts.rubric.ask_template",
            "the writer is told nothing",
        ),
        (
            "opcod",
            {"contexts.tutored.ask_template": "Go."},
            "overrides.contexts.tutored.ask_template",
            "must hold {attempt}",
        ),
        ("opsd", {"contexts.peer": {"template": "?"}}, "overrides.contexts.peer", "must say its kind: expected one of"),
        ("opsd", {"sparse.bye": "teacher"}, "overrides.sparse.bye", "Did you mean by?"),
        (
            "opsd",
            {"contexts.reference.teacher": "big", "teacher": {"kind": "ema"}},
            "overrides.teacher",
            "no context asks",
        ),
        ("exopd", {"target": EXTRAPOLATED}, "overrides.target.lam", "2.0 is over the guard, 1.5"),
        ("rlsd", {"weights.0.over": "referense"}, "overrides", "'referense' is not a context of this recipe"),
        (
            "demopsd",
            {"target.coefficients.peer.between": ["peer", "p"]},
            "overrides.target.coefficients.peer",
            "'p', which is not composed",
        ),
        ("grpo", {"rollout.samples": 1}, "overrides.rollout.samples", "weight 'group_advantage' compares the rollouts"),
        ("demopsd", {"rollout.samples": 1}, "overrides.rollout.samples", "Set it to 2 or more"),
        (
            "opsd",
            {"contexts.reference": {"kind": "peer_success"}},
            "overrides.rollout.samples",
            "context 'reference' compares the rollouts of a task with each other, and there is one",
        ),
    ],
)
def test_an_override_that_cannot_be_meant(
    sqlite_house: House, recipe: str, overrides: dict[str, Any], field: str, said: str
):
    error = refused(sqlite_house, recipe=recipe, overrides=overrides)
    assert error.field == field
    assert said in str(error)


def test_a_path_reaches_into_lists(sqlite_house: House):
    overrides = {"objective.0.beta": 0.3, "rollout.samples": 2, "contexts": {"reference": {"wrong": True}}}
    run = sqlite_house.run(overrides=overrides)
    assert run.resolved["objective"][0]["beta"] == 0.3
    assert run.resolved["rollout"]["samples"] == 2
    assert run.resolved["contexts"]["reference"]["wrong"] is True
    assert run.overrides == overrides


ONLY_SAMPLED = (Support.SAMPLED,)


def test_a_teacher_that_cannot_is_told_from_one_that_could(sqlite_house: House):
    house = sqlite_house
    student = house.model()
    house.teacher("thrifty", supports=ONLY_SAMPLED)
    error = refused(house, student=student, teachers={"self": "thrifty"})
    assert error.field == "teachers.self"
    assert "teacher thrifty offers sampled (context 'reference', for objective.0 'jsd')" in str(error)
    remedy = error.problem.remedy or ""
    assert 'overrides {"objective": [{"kind": "sampled_reverse_kl"}]}' in remedy
    house.teacher("whole")
    remedy = refused(house, student=student, teachers={"self": "thrifty"}).problem.remedy or ""
    assert "Registered and fit for it: whole." in remedy
    sampled = {"objective": [{"kind": "sampled_reverse_kl"}]}
    assert house.run(student=student, teachers={"self": "thrifty"}, overrides=sampled).overrides == sampled


def test_each_context_is_held_against_its_own_teacher(sqlite_house: House):
    """One role's teacher may know less than another's, if what it is asked is less."""
    house = sqlite_house
    student = house.model()
    house.teacher("thrifty", supports=ONLY_SAMPLED)
    house.teacher("whole", moves=True)
    roles = {"teacher": "thrifty", "self": "whole"}
    error = refused(house, recipe="dopd", student=student, teachers=roles)
    assert error.field == "teachers.teacher"
    assert "(context 'teacher', for objective.0 'jsd', objective.2 'reverse_kl')" in str(error)
    roles = {"teacher": "thrifty", "self": "thrifty"}
    assert house.run(recipe="exopd", student=student, teachers=roles).teachers == roles
    whole = {"recipe": "egrsd", "student": student, "overrides": {"rollout.max_tokens": 12}}
    error = caught(house, teachers={"self": "thrifty"}, **whole)
    assert "weight 'confidence'" in str(error)
    assert error.problem.remedy is not None and "fit for it: whole" in error.problem.remedy


@pytest.mark.parametrize(
    ("recipe", "drop", "said"),
    [
        ("sft", "reference", "rollout 'dataset' needs the column 'reference'"),
        ("gkd", "reference", "rollout 'mixed' needs the column 'reference'"),
        ("grpo", "answer", "verifier 'exact', whose rewards weight 'group_advantage' reads, needs the column 'answer'"),
        ("opd", "answer", "verifier 'exact' needs the column 'answer'"),
    ],
)
def test_data_without_what_a_recipe_learns_from(sqlite_house: House, recipe: str, drop: str, said: str):
    house = sqlite_house
    student = house.model()
    house.teacher()
    teachers = {role: "spelling" for role in recipes.load(recipe).roles}
    wish = {"recipe": recipe, "student": student, "teachers": teachers}
    none = [{name: value for name, value in row.items() if name != drop} for row in ROWS]
    error = refused(house, data=DatasetSource(artifact=dataset(house, none)), **wish)
    assert error.field == "data.columns"
    assert f"{said}, which the dataset lacks" in str(error)
    some = [*none[:1], *ROWS[1:]]
    error = refused(house, data=DatasetSource(artifact=dataset(house, some)), **wish)
    assert error.field == "data.artifact"
    assert f"{said} in every row, and only 299 of 300 have it" in str(error)
    house.run(data=DatasetSource(artifact=dataset(house, ROWS)), **wish)


def test_a_rollout_that_needs_no_reference_asks_for_none(sqlite_house: House):
    house = sqlite_house
    student = house.model()
    house.teacher()
    rows = [{name: value for name, value in row.items() if name != "reference"} for row in ROWS]
    data = DatasetSource(artifact=dataset(house, rows))
    house.run(
        recipe="gkd", student=student, teachers={"teacher": "spelling"}, data=data, overrides={"rollout.share": 1}
    )
    nudged = {"rollout.column": "nudged"}
    error = caught(house, recipe="opct", student=student, data=data, overrides=nudged)
    assert "rollout 'perturbed' needs the column 'nudged', which the dataset lacks" in str(error)
    house.run(recipe="opct", student=student, data=data)


def test_a_teacher_that_only_writes_is_for_roles_that_only_ask(sqlite_house: House):
    house = sqlite_house
    student = house.model()
    house.teacher("mute", generates=False)
    house.teacher("critic", supports=(), generates=True)
    wish = {"recipe": "step_critique", "student": student, "overrides": {"teacher": {"kind": "frozen"}}}
    error = refused(house, teachers={"critic": "mute", "self": "mute"}, **wish)
    assert error.field == "teachers.critic"
    assert "teacher mute scores and writes no text" in str(error)
    assert "Registered and fit for it: critic." in (error.problem.remedy or "")
    error = refused(house, teachers={"critic": "critic", "self": "critic"}, **wish)
    assert error.field == "teachers.self"
    assert "teacher critic is a text teacher" in str(error)
    assert "Registered and fit for it: mute." in (error.problem.remedy or "")
    run = house.run(teachers={"critic": "critic", "self": "mute"}, **wish)
    assert run.teachers == {"critic": "critic", "self": "mute"}


def test_a_clip_is_watched_where_there_is_one(sqlite_house: House):
    error = refused(sqlite_house, training={"guards": {"clip": {"action": "pause"}}})
    assert error.field == "training.guards.clip"
    assert "no term of the recipe clips the events of a KL" in str(error)
    clipped = {"objective": [{"kind": "forward_kl", "clip": 0.05}]}
    run = sqlite_house.run(overrides=clipped, training={"guards": {"clip": {"action": "pause"}}})
    assert run.training.guards.clip is not None and run.training.guards.clip.action == "pause"
    assert sqlite_house.run().training.guards.clip is not None, "it watches by itself"
