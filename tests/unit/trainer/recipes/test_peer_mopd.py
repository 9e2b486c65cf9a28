"""Multi-rollout OPD: reverse KL to the self-teacher that saw two successes and a failure, none of them the rollout."""

from __future__ import annotations

from random import Random

import torch

from preceptor_trainer import recipes
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.reference import kl
from tests.unit.trainer.setting import batch_of, learn, said
from tests.unit.trainer.toy import toy_rows, toy_slot

RECIPE = recipes.load("peer_mopd")
ROWS = toy_rows((4, 2, 6, 3), group=2)


def shown(verdicts: str, own: int) -> str | None:
    group = [
        Rollout(index=i, text=f"try {i}", verdict=Verdict(reward=float(v == "r"), correct=v == "r", feedback="told"))
        for i, v in enumerate(verdicts)
    ]
    task = Task(id="t", messages=(Message(role="user", content="6*7?"),))
    view = ContextView(task=task, rollout=group[own], group=group, step=1, rng=Random(0))
    prompts = RECIPE.contexts["tried"].prompts(view)
    return prompts[0].messages[0]["content"] if prompts else None


def test_the_gradient_is_that_of_the_reverse_kl() -> None:
    slot = toy_slot(ROWS, "tried", seed=2, absent=(3,))
    batch = batch_of(RECIPE, ROWS, {"tried": slot})
    wanted_TD = gradient(
        batch, lambda s_TV: (kl(s_TV.exp(), said(slot).exp()) * slot.present_T).sum() / slot.present_T.sum()
    )
    torch.testing.assert_close(learn(RECIPE, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_two_successes_then_a_failure_and_never_its_own() -> None:
    text = str(shown("rrrww", own=0))
    assert text.count("Correct solution:") == 2 and text.count("Incorrect attempt") == 1
    assert text.index("Incorrect") > text.rindex("Correct solution:")
    assert "try 0" not in text and "told" not in text
    assert "try 3" not in str(shown("rrrw", own=3))
    assert shown("rwww", own=0) is None and shown("wwww", own=1) is None
