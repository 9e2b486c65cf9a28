"""CRISP: reverse KL to oneself told to be brief, a mean per rollout, a copy every M steps."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch
from pydantic import ValidationError

from preceptor_trainer import recipes
from preceptor_trainer.parts.contexts import Instruction
from preceptor_trainer.views import ContextView, Message, Rollout, Task
from tests.unit.trainer import reference as ref
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.setting import agreeing, batch_of, learn, opinion, said
from tests.unit.trainer.toy import toy_rows

CRISP = recipes.load("crisp")
ROWS = toy_rows((4, 2, 6, 3))
SLOT = opinion(ROWS, "briefly", CRISP.contexts["briefly"])


def messages(task: Task) -> tuple[Message, ...]:
    own = Rollout(index=0, text="")
    (prompt,) = CRISP.contexts["briefly"].prompts(
        ContextView(task=task, rollout=own, group=(own,), step=1, rng=Random(0))
    )
    return prompt.messages


def test_the_gradient_is_that_of_a_mean_over_each_rollout() -> None:
    batch = batch_of(CRISP, ROWS)
    per_row_T = 1 / batch.length_B[batch.rollout_T].double() / len(ROWS)
    t_TV = said(SLOT).exp()
    wanted_TD = gradient(batch, lambda logprobs_TV: (per_row_T * ref.kl(logprobs_TV.exp(), t_TV)).sum())
    torch.testing.assert_close(learn(CRISP, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_a_student_that_is_brief_already_learns_nothing() -> None:
    same = {"briefly": agreeing(SLOT, batch_of(CRISP, ROWS))}
    assert float(learn(CRISP, batch_of(CRISP, ROWS, same)).grad_TD.abs().max()) < 1e-12


def test_neither_answers_nor_rewards_matter() -> None:
    blind = [replace(row, verdict=None, task=replace(row.task, answer=None, reference=None)) for row in ROWS]
    one, two = (learn(CRISP, batch_of(CRISP, rows)).grad_TD for rows in (ROWS, blind))
    assert torch.equal(one, two)


def test_the_copy_is_made_on_every_fiftieth_step_and_on_no_other() -> None:
    assert [step for step in range(1, 151) if CRISP.teacher.decay_after(step) is not None] == [50, 100, 150]
    assert CRISP.teacher.decay_after(50) == 0.0


def test_the_teacher_reads_the_question_and_the_instruction_and_no_answer() -> None:
    system = Message(role="system", content="{question}")
    task = Task(id="t", messages=(system, Message(role="user", content="{x}?")), answer="SECRET", reference="SECRET")
    first, asked = messages(task)
    assert first == system and asked["content"].startswith("{x}?") and "concisely" in asked["content"]
    assert "SECRET" not in asked["content"]
    with pytest.raises(ValidationError, match="exactly once"):
        Instruction(template="be brief")
