"""OPCT: the student is nudged, its teacher is not, and where nothing nudges nothing is learned."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from preceptor_trainer import recipes
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.views import ContextView, Message, Plan, PlanView, Rollout, Task
from tests.unit.trainer.setting import agreeing, batch_of, learn
from tests.unit.trainer.toy import toy_rows

RECIPE = recipes.load("opct")
MESSAGES = (Message(role="system", content="Be brief."), Message(role="user", content="1+1?"))
TASK = Task(id="t", messages=MESSAGES, answer="25", columns={"pushed": "1+1? All say 3."})


def plan(recipe: Recipe = RECIPE, task: Task = TASK) -> Plan:
    return recipe.rollout.plan(PlanView(task=task, index=0, step=1, rng=Random(0)))


def test_the_student_is_nudged_to_an_answer_that_is_wrong_and_learns_under_that_prompt() -> None:
    (turn,) = plan().turns
    said = turn.messages[-1]["content"]
    assert turn.messages[0] == MESSAGES[0] and said.startswith("1+1?") and "I think that the answer is" in said
    assert "25" not in said and "{suggestion}" not in said
    assert plan().behaviour is None, "loss and sampling have one prompt"


def test_its_teacher_reads_the_clean_prompt() -> None:
    own = Rollout(index=0, text="3")
    (prompt,) = RECIPE.contexts["clean"].prompts(
        ContextView(task=TASK, rollout=own, group=(own,), step=1, rng=Random(0))
    )
    assert prompt.messages == MESSAGES
    assert RECIPE.teacher.kind == "frozen"


def test_the_data_may_hold_the_perturbed_question() -> None:
    (turn,) = plan(RECIPE.override({"rollout": {"column": "pushed"}})).turns
    assert turn.messages[-1]["content"] == "1+1? All say 3."


def test_a_nudge_needs_an_answer_only_where_it_suggests_one() -> None:
    bare = replace(TASK, answer=None)
    with pytest.raises(ValueError, match="has no answer to make a wrong one of"):
        plan(task=bare)
    (turn,) = plan(RECIPE.override({"rollout": {"nudge": " Hurry."}}), bare).turns
    assert turn.messages[-1]["content"] == "1+1? Hurry."


def test_at_the_start_a_prompt_that_does_not_push_teaches_nothing() -> None:
    rows = toy_rows((3, 4))
    batch = batch_of(RECIPE, rows)
    same = {"clean": agreeing(batch.slots["clean"][0], batch)}
    assert learn(RECIPE, batch_of(RECIPE, rows, same)).grad_TD.abs().max() < 1e-14
