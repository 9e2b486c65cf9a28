"""The composing loss on a GPU gives the CPU's numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from preceptor_trainer.model import Head
from preceptor_trainer.parts.targets import Single
from tests.unit.trainer.test_loss_reference import DIVERGENCES, SAMPLED, Signed, case, composed, recipe

TERMS = {**DIVERGENCES, **SAMPLED}


@pytest.mark.gpu
@pytest.mark.parametrize("support", ["full", "topk"])
@pytest.mark.parametrize("name", sorted(TERMS))
def test_a_gpu_gives_the_cpu_s_numbers(name: str, support: str) -> None:
    term = TERMS[name].model_copy(update={"weights": (Signed(),)})
    given, on = recipe(term, contexts=["a"], target=Single(context="a")), case({"a": [support]}, torch.float32)
    device = torch.device("cuda", torch.cuda.current_device())
    there = replace(
        on,
        batch=on.batch.to(device),
        hidden_TD=on.hidden_TD.to(device),
        head=Head(on.head.weight_VD.detach().to(device).requires_grad_()),
    )
    mine, theirs = composed(given, there), composed(given, on)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-4, abs=1e-6)
    for one, other in zip(mine[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-6)
