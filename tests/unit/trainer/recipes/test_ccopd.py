"""CCOPD: reverse KL to the start that reads the one prompt; a conversation that is the one prompt teaches nothing."""

from __future__ import annotations

from random import Random

import torch

from preceptor_trainer import recipes
from preceptor_trainer.views import ContextView, Message, PlanView, Rollout, Task
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.reference import kl
from tests.unit.trainer.setting import agreeing, batch_of, learn, said
from tests.unit.trainer.toy import toy_rows, toy_slot

CCOPD = recipes.load("ccopd")
ROWS = toy_rows((4, 2, 6, 3))
SHARDS = tuple(Message(role=role, content=text) for role, text in (("user", "a"), ("assistant", "b"), ("user", "c")))
TASK = Task(id="t", messages=SHARDS, columns={"canonical": "a and c"})


def test_the_gradient_is_that_of_the_reverse_kl() -> None:
    slot = toy_slot(ROWS, "canonical", seed=2)
    batch = batch_of(CCOPD, ROWS, {"canonical": slot})
    wanted_TD = gradient(batch, lambda s_TV: kl(s_TV.exp(), said(slot).exp()).mean())
    torch.testing.assert_close(learn(CCOPD, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_shards_are_turns_of_which_the_last_is_learned() -> None:
    task = Task(id="t", messages=SHARDS, columns={"shards": ["a", "b", "c"], "canonical": "a b c"})
    plan = CCOPD.rollout.plan(PlanView(task=task, index=0, step=1, rng=Random(0)))
    assert [(turn.messages[0]["content"], turn.learn) for turn in plan.turns] == [
        ("a", False),
        ("b", False),
        ("c", True),
    ]


def test_without_shards_the_student_reads_the_conversation_and_the_teacher_the_one_prompt() -> None:
    plan = CCOPD.rollout.plan(PlanView(task=TASK, index=0, step=1, rng=Random(0)))
    assert [turn.messages for turn in plan.turns] == [SHARDS], "replies in between are prompt: they carry no loss"
    own = Rollout(index=0, text="")
    view = ContextView(task=TASK, rollout=own, group=(own,), step=1, rng=Random(0))
    (prompt,) = CCOPD.contexts["canonical"].prompts(view)
    assert prompt.messages == (Message(role="user", content="a and c"),)


def test_one_shard_and_the_same_weights_teach_nothing() -> None:
    one = Task(id="t", messages=SHARDS[:1], columns={"canonical": "a"})
    own = Rollout(index=0, text="")
    (prompt,) = CCOPD.contexts["canonical"].prompts(
        ContextView(task=one, rollout=own, group=(own,), step=1, rng=Random(0))
    )
    assert prompt.messages == one.messages, "then both read the same"
    batch = batch_of(CCOPD, ROWS)
    same = agreeing(toy_slot(ROWS, "canonical"), batch)
    assert float(learn(CCOPD, batch_of(CCOPD, ROWS, {"canonical": same})).grad_TD.abs().max()) < 1e-12
