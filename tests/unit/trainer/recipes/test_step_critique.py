"""Step-aligned critique: forward KL to the view that read the critique; where that changes nothing, nothing is
learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from preceptor_trainer import recipes, tasks
from preceptor_trainer.parts.contexts import Reference, corrupted
from preceptor_trainer.views import ContextView, Message, Rollout
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.reference import kl
from tests.unit.trainer.setting import agreeing, batch_of, learn, said
from tests.unit.trainer.toy import toy_rows, toy_slot

RECIPE = recipes.load("step_critique")
ROWS = toy_rows((4, 2, 6, 3))
SLOT = toy_slot(ROWS, "critique", seed=3, absent=(2,))
TINY = Path(__file__).parents[4] / "models" / "tiny"


def test_the_gradient_is_that_of_the_forward_kl_where_there_was_a_critique() -> None:
    batch = batch_of(RECIPE, ROWS, {"critique": SLOT})
    wanted_TD = gradient(
        batch, lambda s_TV: (kl(said(SLOT).exp(), s_TV.exp()) * SLOT.present_T).sum() / SLOT.present_T.sum()
    )
    learned = learn(RECIPE, batch)
    torch.testing.assert_close(learned.grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)
    assert torch.equal(learned.moved_T, SLOT.present_T > 0)


def test_a_critique_that_changes_nothing_teaches_nothing() -> None:
    batch = batch_of(RECIPE, ROWS)
    same = agreeing(toy_slot(ROWS, "critique"), batch)
    assert float(learn(RECIPE, batch_of(RECIPE, ROWS, {"critique": same})).grad_TD.abs().max()) < 1e-12


def test_the_teacher_is_the_student_of_the_step_before() -> None:
    assert [RECIPE.teacher.decay_after(step) for step in (1, 2, 3)] == [0.0] * 3
    assert RECIPE.writers == {"critic"} and RECIPE.scorers == {"self"}


def test_the_signal_gathers_from_the_first_wrong_step_on() -> None:
    """A_t = log pi(y_t | x, c) - log pi(y_t | x), of the model that ships; a step is a letter here. The words around
    the critique are those around a reference, which any model that ships has to know."""
    model: Any = AutoModelForCausalLM.from_pretrained(TINY)
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)

    def logprobs(messages: Sequence[Message], text: str) -> torch.Tensor:
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = tokenizer.encode(text)
        with torch.no_grad():
            logits_TV = model(torch.tensor([asked + ids])).logits[0, len(asked) - 1 : -1]
        return logits_TV.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)

    words = Reference().template.replace("{reference}", "{critique}")
    context = RECIPE.override({"contexts": {"critique": {"template": words}}}).contexts["critique"]
    rng, before, after = Random(0), list[float](), list[float]()
    for task in tasks.load("spell_backward").held_out(60):
        right = str(task.reference)
        place = rng.randrange(1, len(right))
        text = right[:place] + corrupted(right[place:], rng)
        own = Rollout(index=0, text=text)
        view = ContextView(task=task, rollout=own, group=(own,), step=1, rng=rng, replies={"critique": right})
        (prompt,) = context.prompts(view)
        signal = (logprobs(prompt.messages, text) - logprobs(task.messages, text)).abs().tolist()
        assert len(signal) == len(right)
        before += signal[:place]
        after += signal[place:]
    assert sum(after) / len(after) > 2 * sum(before) / len(before)
