"""SGSD: l(delta) = log 2 - softplus(-delta^2 / 2 tau), followed or avoided by outcome and support."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch, Row, Slot
from preceptor_trainer.parts.objectives import Redescending
from preceptor_trainer.views import ContextView, Message, Rollout, Task
from tests.unit.trainer.by_hand import answering, evidence, gradient, written
from tests.unit.trainer.setting import batch_of, learn, own_logprobs, said
from tests.unit.trainer.toy import V, toy_rows, toy_slot

SGSD = recipes.load("sgsd")
ROWS = toy_rows((4, 2, 6, 3))
SHARES = (0.7, 0.3)


def fan(rows: list[Row] = ROWS) -> Batch:
    batch = batch_of(SGSD, rows)
    slots = [toy_slot(rows, "skills", seed=5 + k, weight=share) for k, share in enumerate(SHARES)]
    return replace(batch, slots={"skills": slots})


def polarity(batch: Batch, k: int) -> torch.Tensor:
    """[T] by a loop over rollouts."""
    delta_T = evidence(batch, batch.slots["skills"][k]).clamp(-3, 3)
    out_T = torch.zeros_like(delta_T)
    for index in range(len(ROWS)):
        mine = slice(batch.offsets[index], batch.offsets[index + 1])
        support = float(delta_T[mine].mean())
        outcome = 1 if float(batch.reward_B[index]) > 0.5 else -1
        out_T[mine] = outcome * (0 if abs(support) <= 0.05 else 1 if support > 0 else -1)
    return out_T


def test_the_gradient_is_that_of_the_equation() -> None:
    batch = fan()
    share_T = (1.0 / batch.length_B.double())[batch.rollout_T] / len(ROWS)

    def loss(s_TV: torch.Tensor) -> torch.Tensor:
        total = s_TV.new_zeros(())
        for k, share in enumerate(SHARES):
            delta_T = batch.slots["skills"][k].logprob_T - written(batch, s_TV)
            gated_T = log(2) - torch.nn.functional.softplus(-delta_T.square() / 2)
            total = total + share * (polarity(batch, k) * gated_T * share_T).sum()
        return total

    torch.testing.assert_close(learn(SGSD, batch).grad_TD, gradient(batch, loss), atol=1e-12, rtol=1e-9)


def test_flipping_the_outcome_flips_the_gradient() -> None:
    batch = fan()
    flipped = replace(batch, reward_B=1 - batch.reward_B)
    torch.testing.assert_close(learn(SGSD, flipped).grad_TD, -learn(SGSD, batch).grad_TD)
    assert bool(learn(SGSD, batch).moved_T.any())


def test_support_within_the_band_is_neutral() -> None:
    own_T = written(fan(), own_logprobs(fan()))
    for nats, moves in ((0.04, False), (0.06, True)):
        near = answering(toy_slot(ROWS, "skills"), own_T + nats)
        assert bool(learn(SGSD, replace(fan(), slots={"skills": [near]})).moved_T.any()) == moves


def test_the_pull_is_strongest_at_1_2_nats_and_fades() -> None:
    delta = torch.linspace(0, 6, 6001, dtype=torch.float64, requires_grad=True)
    block: Any = SimpleNamespace(student=SimpleNamespace(logprob_T=-delta))
    target: Any = SimpleNamespace(logprob_T=torch.zeros_like(delta))
    loss = Redescending()(block, target)
    (slope,) = torch.autograd.grad(loss.sum(), delta)
    delta, loss = delta.detach(), loss.detach()
    torch.testing.assert_close(slope, delta * (-delta.square() / 2).sigmoid())
    assert float(delta[slope.argmax()]) == pytest.approx(1.216, abs=2e-3)
    assert float(loss[0]) == pytest.approx(0) and float(loss[-1]) == pytest.approx(log(2), abs=1e-7)


def narrowed(batch: Batch, k: int) -> Batch:
    """The same opinions, of the k likeliest ids."""
    slots = list[Slot]()
    for slot in batch.slots["skills"]:
        ids_TK = said(slot).topk(k).indices
        rest_T = said(slot).scatter(-1, ids_TK, -1e4).logsumexp(-1)
        heard = {"ids_TK": ids_TK, "logprobs_TK": said(slot).gather(-1, ids_TK), "tail_T": rest_T}
        slots.append(replace(slot, hidden_TD=None, head=None, **heard))
    return replace(batch, slots={"skills": slots})


@pytest.mark.parametrize("k", [None, 1, 3])
def test_local_support_has_the_forward_kl_of_the_likeliest_ids_and_the_written_one_for_delta(k: int | None) -> None:
    recipe, batch = SGSD.override({"objective": [{"kind": "local_support"}]}), fan()
    share_T = (1.0 / batch.length_B.double())[batch.rollout_T] / len(ROWS)

    def loss(s_TV: torch.Tensor) -> torch.Tensor:
        total = s_TV.new_zeros(())
        for fan_in, share in enumerate(SHARES):
            t_TV = said(batch.slots["skills"][fan_in])
            kls: list[torch.Tensor] = []
            for t in range(batch.tokens):
                ids = set(t_TV[t].topk(k or V).indices.tolist()) | {int(batch.token_T[t])}
                events = [[token] for token in ids] + [[token for token in range(V) if token not in ids]] * (k != V)
                pairs = [(t_TV[t, each].logsumexp(-1), s_TV[t, each].logsumexp(-1)) for each in events if each]
                kls.append(torch.stack([p.exp() * (p - q) for p, q in pairs]).sum())
            gated_T = log(2) - torch.nn.functional.softplus(-torch.stack(kls).square() / 2)
            total = total + share * (polarity(batch, fan_in) * gated_T * share_T).sum()
        return total

    heard = batch if k is None else narrowed(batch, k)
    torch.testing.assert_close(learn(recipe, heard).grad_TD, gradient(batch, loss), atol=1e-9, rtol=1e-6)


def test_silent_tokens_neither_tell_nor_learn() -> None:
    batch = fan()
    token = int(batch.token_T[1])
    recipe = SGSD.override({"weights": [{"kind": "polarity", "silent": [token]}]})
    assert not bool(learn(recipe, batch).moved_T[batch.token_T == token].any())


def test_every_pair_of_a_skill_and_a_mistake_is_a_prompt_with_the_softmax_of_its_score() -> None:
    columns = {"skill": ["add", "carry", "check"], "mistake": ["rush"], "skill_score": [1.0, 0.0, 0.5]}
    task = Task(id="t", messages=(Message(role="user", content="6+7?"),), columns=columns)
    own = Rollout(index=0, text="")
    view = ContextView(task=task, rollout=own, group=(own,), step=1, rng=Random(0))
    prompts = SGSD.contexts["skills"].prompts(view)
    total = exp(1) + exp(0) + exp(0.5)
    assert [each.weight for each in prompts] == pytest.approx([exp(1) / total, 1 / total, exp(0.5) / total])
    assert "add" in prompts[0].messages[0]["content"] and "rush" in prompts[0].messages[0]["content"]
    assert "(none)" in prompts[1].messages[0]["content"]
    alone = Task(id="t", messages=task.messages, columns={"skill": "add", "mistake": "rush"})
    (prompt,) = SGSD.contexts["skills"].prompts(replace(view, task=alone))
    assert prompt.weight == 1.0
