"""Recipes that do not fit: their overrides, their parts, their data. Each is refused by field, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import House
from tests.contract.refusing import refused

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
        ("opsd", {"objective.0": {"kind": "reverse_kl", "beta": 1}}, "overrides.objective.0.beta", "There are clip"),
        ("opsd", {"objective.0.coefficient": "x"}, "overrides.objective.0.coefficient", "valid number"),
        ("opsd", {"objective.0.coefficient": {"kind": "lin"}}, "overrides.objective.0.coefficient", "unknown Schedule"),
        (
            "opsd",
            {"objective.0.coefficient": {"kind": "linear", "start": 1, "ende": 0, "steps": 4}},
            "overrides.objective.0.coefficient.end",
            "is missing",
        ),
        ("opsd", {"contexts.peer": {"template": "?"}}, "overrides.contexts.peer", "must say its kind: expected one of"),
        ("opsd", {"sparse.bye": "teacher"}, "overrides.sparse.bye", "Did you mean by?"),
        ("opsd", {"contexts.reference.teacher": "big", "teacher": {"kind": "ema"}}, "overrides", "no context asks"),
        ("exopd", {"target": EXTRAPOLATED}, "overrides.target", "2.0 is over the guard, 1.5"),
        ("rlsd", {"weights.0.over": "referense"}, "overrides", "'referense' is not a context of this recipe"),
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
