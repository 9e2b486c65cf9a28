"""EDGE-OPD: only tokens that the evidence supports are learned; guided rollouts leave no trace in the loss prompt."""

from __future__ import annotations

from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.views import ContextView, Message, Plan, PlanView, Rollout, Task
from tests.unit.trainer.by_hand import evidence, gradient, written
from tests.unit.trainer.setting import batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows

EDGE = recipes.load("edge_opd")
MASKED = EDGE.override({"objective": [EDGE.objective[0].model_dump()]})
ROWS = toy_rows((4, 2, 6, 3))
SHOWN, HIDDEN = (opinion(ROWS, name, EDGE.contexts[name]) for name in ("reference", "plain"))
TASK = Task(id="t", messages=(Message(role="user", content="who are you?"),), reference="I am Ada.")


def planned(share: float, index: int, task: Task = TASK) -> Plan:
    rollout = EDGE.override({"rollout": {"share": share}}).rollout
    return rollout.plan(PlanView(task=task, index=index, step=1, rng=Random(index)))


@pytest.mark.parametrize("tau", [-0.5, 0.0, 1.0])
def test_a_token_without_enough_evidence_has_no_gradient(tau: float) -> None:
    term = MASKED.objective[0].model_dump()
    recipe = MASKED.override({"objective": [{**term, "weights": [{"kind": "evidence", "tau": tau}]}]})
    supported_T = SHOWN.logprob_T - HIDDEN.logprob_T > tau
    learned = learn(recipe, batch_of(recipe, ROWS))
    assert 0 < int(supported_T.sum()) < len(supported_T)
    assert torch.equal(learned.moved_T, supported_T)
    assert learned.plans[0].denominator == float(supported_T.sum())


def test_the_whole_gradient_is_the_equation_s() -> None:
    batch = batch_of(EDGE, ROWS)
    mask_T = (SHOWN.logprob_T > HIDDEN.logprob_T).double()
    advantage_T, base_TV = mask_T * evidence(batch, SHOWN) / mask_T.sum(), said(HIDDEN)

    def wanted(logprobs_TV: torch.Tensor) -> torch.Tensor:
        anchor = (logprobs_TV.exp() * (logprobs_TV - base_TV)).sum(-1).mean()
        return -(advantage_T * written(batch, logprobs_TV)).sum() + 0.05 * anchor

    torch.testing.assert_close(learn(EDGE, batch).grad_TD, gradient(batch, wanted), atol=1e-12, rtol=1e-9)


def test_a_guided_rollout_reads_what_the_teacher_reads_and_the_loss_prompt_stays_plain() -> None:
    plan = planned(1.0, 0)
    own = Rollout(index=0, text="")
    view = ContextView(task=TASK, rollout=own, group=(own,), step=1, rng=Random(0))
    (prompt,) = EDGE.contexts["reference"].prompts(view)
    assert plan.behaviour == prompt.messages and "I am Ada." in prompt.messages[0]["content"]
    assert all("Ada" not in message["content"] for turn in plan.turns for message in turn.messages)


def test_the_share_of_guided_rollouts() -> None:
    assert all(planned(0.0, index).behaviour is None for index in range(20))
    guided = sum(planned(0.5, index).behaviour is not None for index in range(400))
    assert 160 < guided < 240
    bare = Task(id="t", messages=TASK.messages)
    assert planned(1.0, 0, bare).behaviour is None
