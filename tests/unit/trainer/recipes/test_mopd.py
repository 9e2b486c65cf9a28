"""MOPD: the teacher of the task's domain, a band on the ratio to the sampler, the verifier's advantage added."""

from __future__ import annotations

from random import Random

import torch

from preceptor.wire.teachers import Support
from preceptor_trainer import recipes
from preceptor_trainer.views import ContextView, Message, Rollout, Task
from tests.unit.trainer.by_hand import answering, evidence, gradient, group_advantages, written
from tests.unit.trainer.setting import batch_of, learn, own_logprobs
from tests.unit.trainer.toy import toy_rows, toy_slot

MOPD = recipes.load("mopd")
ROWS = toy_rows((4, 2, 6, 3), group=2)
SLOT = toy_slot(ROWS, "teacher", seed=1)
"""What the teacher of each rollout's domain says."""


def test_the_gradient_is_the_paper_s_with_the_advantages_summed_and_the_band() -> None:
    batch = batch_of(MOPD, ROWS, {"teacher": SLOT}, on_policy=False)
    heard_T = evidence(batch, SLOT)
    own_T = written(batch, own_logprobs(batch))
    ratio_T = (own_T - batch.behaviour.logprob_T).exp()
    inside_T = (ratio_T >= 0.5) & (ratio_T <= 2)
    assert 0 < int(inside_T.sum()) < len(inside_T)
    advantage_T = ratio_T * inside_T * (heard_T + group_advantages(batch))
    per_row_T = 1 / batch.length_B[batch.rollout_T].double() / len(ROWS)
    wanted_TD = gradient(batch, lambda logprobs: -(per_row_T * advantage_T * written(batch, logprobs)).sum())
    learned = learn(MOPD, batch)
    torch.testing.assert_close(learned.grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)
    assert not bool(learned.moved_T[~inside_T].any())


def test_a_teacher_that_is_the_student_leaves_the_group_s_advantage() -> None:
    batch = batch_of(MOPD, ROWS, {"teacher": SLOT})
    own_T = written(batch, own_logprobs(batch))
    same = {"teacher": answering(toy_slot(ROWS, "teacher"), own_T)}
    per_row_T = 1 / batch.length_B[batch.rollout_T].double() / len(ROWS)
    advantage_T = group_advantages(batch)
    wanted_TD = gradient(batch, lambda logprobs: -(per_row_T * advantage_T * written(batch, logprobs)).sum())
    torch.testing.assert_close(learn(MOPD, batch_of(MOPD, ROWS, same)).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_each_specialist_is_asked_about_its_domain_only() -> None:
    router = MOPD.contexts["teacher"].router
    assert router is not None
    own = Rollout(index=0, text="")
    for domain, asked in (("maths", "maths"), ("code", "code"), (None, None)):
        columns = {} if domain is None else {"domain": domain}
        task = Task(id="t", messages=(Message(role="user", content="?"),), columns=columns)
        view = ContextView(task=task, rollout=own, group=(own,), step=1, rng=Random(0))
        assert router.choose(view) == asked
    assert MOPD.roles == {"maths", "code"} and MOPD.support is Support.SAMPLED
