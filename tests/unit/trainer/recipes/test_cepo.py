"""CEPO: A' = A [(1 - lam) + lam clip((P_T+ / P_T-)^sign(A), 1 - eps, 1 + eps)]."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.views import ContextView, Message, Prompt, Rollout, Task, Verdict
from tests.unit.trainer.by_hand import answering, group_advantages, pushed
from tests.unit.trainer.setting import batch_of, learn, opinion
from tests.unit.trainer.toy import toy_rows, toy_slot

CEPO = recipes.load("cepo")
ROWS = toy_rows((4, 2, 6, 3), group=2)
RIGHT, WRONG = (opinion(ROWS, name, CEPO.contexts[name]) for name in ("right", "wrong"))


def rollout(index: int, text: str, reward: float) -> Rollout:
    return Rollout(index=index, text=text, verdict=Verdict(reward=reward, correct=reward == 1.0))


def shown(context: str, group: Sequence[Rollout]) -> Sequence[Prompt]:
    task = Task(id="t", messages=(Message(role="user", content="6*7?"),), answer="42")
    return CEPO.contexts[context].prompts(ContextView(task=task, rollout=group[0], group=group, step=1, rng=Random(0)))


@pytest.mark.parametrize(("step", "lam"), [(1, 0.5), (6, 0.4), (26, 0.0)])
def test_the_gradient_is_that_of_the_paper_s_advantage(step: int, lam: float) -> None:
    batch = batch_of(CEPO, ROWS, step=step)
    advantage_T = group_advantages(batch)
    ratio_T = (advantage_T.sign() * (RIGHT.logprob_T - WRONG.logprob_T)).exp().clamp(0.5, 1.5)
    wanted_TD = pushed(batch, advantage_T * ((1 - lam) + lam * ratio_T))
    torch.testing.assert_close(learn(CEPO, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_credit_falls_as_the_wrong_answer_explains_the_token() -> None:
    batch = batch_of(CEPO, ROWS)
    advantage_T, weight_T = group_advantages(batch), learn(CEPO, batch).plans[0].weight_T[0]
    likelier = answering(WRONG, WRONG.logprob_T + 0.3)
    change_T = learn(CEPO, batch_of(CEPO, ROWS, {"wrong": likelier})).plans[0].weight_T[0].abs() - weight_T.abs()
    assert bool((change_T[advantage_T > 0] <= 0).all()) and bool((change_T[advantage_T < 0] >= 0).all())
    assert change_T.abs().max() > 0
    assert torch.equal(weight_T.sign(), advantage_T.sign())


def test_a_group_without_a_wrong_rollout_has_the_student_below_the_line() -> None:
    slots = {"right": RIGHT, "wrong": toy_slot(ROWS, "wrong", seed=4, absent=(0, 1))}
    bare = CEPO.override({"weights": [{**CEPO.weights[0].model_dump(), "under": "student"}]})
    ours, theirs = (learn(each, batch_of(each, ROWS, slots)).plans[0].weight_T[0] for each in (CEPO, bare))
    assert torch.equal(ours[:6], theirs[:6]) and not torch.allclose(ours[6:], theirs[6:])


def test_the_wrong_answer_is_the_final_one_of_the_worst_rollout() -> None:
    group = (rollout(0, "so #### 41", 0.2), rollout(1, "hm <answer>13</answer>", 0.0), rollout(2, "#### 42", 1.0))
    (prompt,) = shown("wrong", group)
    assert "The answer is: 13\n" in prompt.messages[0]["content"] and "6*7?" in prompt.messages[0]["content"]
    assert "hm" not in prompt.messages[0]["content"]
    assert shown("wrong", group[2:]) == ()


def test_right_and_wrong_are_shown_in_the_same_words() -> None:
    group = (rollout(0, "#### 13", 0.0), rollout(1, "#### 42", 1.0))
    (right,), (wrong,) = shown("right", group), shown("wrong", group)
    assert right.messages[0]["content"].replace("42", "13") == wrong.messages[0]["content"]
