"""The recipe interface: parts on the wire, what does not compose, overrides."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from preceptor.wire.teachers import Support
from preceptor_trainer import recipes
from preceptor_trainer.parts.contexts import Plain, Reference
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.objectives import NLL, SampledReverseKL
from preceptor_trainer.parts.rollouts import Dataset, Student
from preceptor_trainer.parts.schedules import Linear
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, TeacherUpdate, Term, at


class _Moving(TeacherUpdate, kind="test_moving"):
    """An update that needs a self-teacher."""

    def decay_after(self, step: int) -> float | None:
        return 0.5


def fields(**changes: Any) -> dict[str, Any]:
    base = {"paper": "test", "rollout": Student(), "contexts": {"t": Plain()}, "target": Single(context="t")}
    return {**base, "objective": (JSD(),), **changes}


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_survives_the_wire(name: str) -> None:
    recipe = recipes.load(name)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipes.summary(name)


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(recipes.UnknownRecipe, match="no recipe is called 'opdd'; did you mean opd"):
        recipes.load("opdd")


def test_an_override_merges_and_a_new_kind_replaces() -> None:
    recipe = recipes.load("opsd")
    changed = recipe.override({"rollout": {"samples": 8}, "objective": [{"kind": "reverse_kl"}]})
    assert changed.rollout == Student(samples=8)
    assert [term.kind for term in changed.objective] == ["reverse_kl"]
    assert changed.contexts == recipe.contexts
    replaced = recipe.override({"contexts": {"reference": {"kind": "plain", "teacher": "other"}}})
    assert replaced.contexts["reference"] == Plain(teacher="other")
    assert recipe == recipes.load("opsd")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rollout": {"sampels": 8}}, "rollout.sampels\n  Extra inputs"),
        ({"objective": [{"kind": "jds"}]}, "unknown Term kind 'jds': expected one of"),
        ({"objective": [{"kind": "jsd", "beta": 1.0}]}, "less than 1"),
        ({"beta": 0.5}, "beta\n  Extra inputs"),
        (
            {"target": {"kind": "single", "context": "rubric"}},
            "'rubric' is not a context of this recipe; it has reference",
        ),
        ({"target": {"kind": "single", "context": "base"}}, "'base' is not a context of this recipe; it has reference"),
        ({"contexts": {"student": {"kind": "plain"}}}, "student is a reserved name"),
        ({"objective": []}, "needs at least one term"),
    ],
)
def test_what_does_not_compose_says_why(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        recipes.load("opsd").override(changes)
    assert says in str(error.value)


def test_a_part_of_another_role_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown Target kind 'jsd'"):
        Recipe.model_validate(fields(target={"kind": "jsd"}))


def test_a_targeted_term_needs_a_target() -> None:
    with pytest.raises(ValidationError, match=r"objective\[0\]: jsd needs a target"):
        Recipe.model_validate(fields(target=None))


def test_a_moving_teacher_needs_somebody_to_move() -> None:
    with pytest.raises(ValidationError, match="no context asks teacher 'self'"):
        Recipe.model_validate(fields(contexts={"t": Plain(teacher="other")}, teacher=_Moving()))


def test_a_kind_is_taken_once() -> None:
    with pytest.raises(TypeError, match="kind 'jsd' is taken by JSD"):
        type("Other", (Term,), {"__doc__": "x"}, kind="jsd")


def test_roles_and_support_follow_from_the_parts() -> None:
    assert recipes.load("opsd").roles == {"self"}
    assert recipes.load("opsd").support is Support.TOPK
    assert recipes.load("opd").roles == {"teacher"}
    assert recipes.load("opd").support is Support.SAMPLED
    assert recipes.load("sft").roles == frozenset()
    assert Recipe.model_validate(fields(objective=(SampledReverseKL(), JSD()))).support is Support.TOPK


def test_supervised_learning_composes_without_teachers() -> None:
    assert Recipe(paper="test", rollout=Dataset(), objective=(NLL(),)).contexts == {}


def test_a_coefficient_may_be_a_number_or_a_schedule() -> None:
    ramp = JSD(coefficient=Linear(start=1.0, end=0.0, steps=4))
    assert [at(ramp.coefficient, step) for step in (1, 2, 5, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert JSD.model_validate_json(ramp.model_dump_json()) == ramp
    assert at(JSD(coefficient=0.3).coefficient, 7) == 0.3


def test_reference_asks_the_student_s_own_weights() -> None:
    assert Reference().teacher == "self"
