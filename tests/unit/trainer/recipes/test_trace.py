"""TRACE: three routed losses whose masks part the tokens; after the schedules it is GRPO and asks nobody."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Slot
from preceptor_trainer.recipe import at
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict
from tests.unit.trainer.by_hand import gradient, group_advantages, written
from tests.unit.trainer.reference import plogpq
from tests.unit.trainer.setting import batch_of, learn, said
from tests.unit.trainer.toy import toy_rows, toy_slot

TRACE = recipes.load("trace")
LENGTHS = (4, 2, 6, 3)
ROWS = toy_rows(LENGTHS, group=2)
KEY_T = torch.tensor([0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
ERROR_T = torch.tensor([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0], dtype=torch.float64)
"""The right rollouts are the first and the third."""


def spans() -> dict[str, Slot]:
    """Opinions on whole rollouts, about their spans."""
    key = replace(toy_slot(ROWS, "key", seed=2, absent=(1, 3)), weight_T=KEY_T)
    return {"key": key, "error": replace(toy_slot(ROWS, "error", seed=3, absent=(0, 2)), weight_T=ERROR_T)}


@pytest.mark.parametrize(("step", "lam"), [(1, 0.5), (10, 0.5), (25, 0.25), (39, 1 / 60), (40, 0.0), (900, 0.0)])
@pytest.mark.parametrize("mu", [(0.0, 1.0), (1.0, 0.0)])
def test_the_gradient_is_that_of_the_equation(step: int, lam: float, mu: tuple[float, float]) -> None:
    on_error, on_key = mu
    recipe = TRACE.override({"objective.1.coefficient": on_key * lam, "objective.2.coefficient": on_error * lam})
    recipe = TRACE if mu == (0.0, 1.0) else recipe
    assert at(TRACE.objective[1].coefficient, step) == pytest.approx(lam)
    batch = batch_of(recipe, ROWS, spans(), step=step)
    share_T = (1.0 / batch.length_B.double())[batch.rollout_T] / len(ROWS)
    advantage_T, rho = group_advantages(batch), 1 - lam / 0.5
    key, error = said(spans()["key"]).exp(), said(spans()["error"]).exp()

    def loss(s_TV: torch.Tensor) -> torch.Tensor:
        grpo_T = -advantage_T * written(batch, s_TV) * (1 - (1 - rho) * (KEY_T + ERROR_T))
        forward_T = plogpq(key, s_TV.exp()).clamp(max=0.05).sum(-1) * KEY_T
        reverse_T = plogpq(s_TV.exp(), error).clamp(max=0.05).sum(-1) * ERROR_T
        return ((grpo_T + lam * (on_key * forward_T + on_error * reverse_T)) * share_T).sum()

    torch.testing.assert_close(learn(recipe, batch).grad_TD, gradient(batch, loss), atol=1e-12, rtol=1e-9)


def test_once_the_teacher_is_closed_nobody_is_asked() -> None:
    own = Rollout(index=0, text="so it is 4", verdict=Verdict(reward=1.0, correct=True))
    task = Task(id="t", messages=(Message(role="user", content="2+2?"),))
    for step, asked in ((39, True), (40, False)):
        view = ContextView(task=task, rollout=own, group=(own,), step=step, rng=Random(0))
        assert bool(TRACE.contexts["key"].asks(view)) == asked and not TRACE.contexts["error"].asks(view)
        assert TRACE.contexts["key"].prompts(view) == ()


def test_the_teacher_s_exposure_is_finite() -> None:
    total = [sum(at(TRACE.objective[1].coefficient, step) ** 2 for step in range(1, last)) for last in (41, 4000)]
    assert total[0] == pytest.approx(total[1]) and total[0] == pytest.approx(
        10 * 0.25 + sum((k / 60) ** 2 for k in range(30))
    )
