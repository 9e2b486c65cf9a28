"""MAD-OPD: a sum of JSDs, weighed by detached shares that sum to one; bounded in its gradient."""

from __future__ import annotations

from dataclasses import replace
from math import log

import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch
from preceptor_trainer.parts.divergences import JSD
from tests.unit.trainer.by_hand import gradient
from tests.unit.trainer.reference import jsd
from tests.unit.trainer.setting import batch_of, learn, said
from tests.unit.trainer.toy import V, toy_rows, toy_slot

MAD = recipes.load("mad_opd")
ROWS = toy_rows((4, 2, 6, 3))


def debate(shares: tuple[float, ...]) -> Batch:
    slots = [toy_slot(ROWS, "debate", seed=7 + k, weight=share) for k, share in enumerate(shares)]
    return replace(batch_of(MAD, ROWS), slots={"debate": slots})


def test_the_gradient_is_the_weighed_sum_of_the_debaters() -> None:
    shares = (0.6, 0.4)
    batch = debate(shares)
    teachers = [said(slot).exp() for slot in batch.slots["debate"]]
    wanted_TD = gradient(
        batch,
        lambda s_TV: sum(
            (share * jsd(s_TV.exp(), teacher, 0.5).mean() for share, teacher in zip(shares, teachers, strict=True)),
            start=s_TV.new_zeros(()),
        ),
    )
    torch.testing.assert_close(learn(MAD, batch).grad_TD, wanted_TD, atol=1e-12, rtol=1e-9)


def test_debaters_who_are_equally_sure_count_alike() -> None:
    both, (one, other) = debate((0.5, 0.5)), debate((1.0, 1.0)).slots["debate"]
    alone = [learn(MAD, replace(both, slots={"debate": [slot]})).grad_TD for slot in (one, other)]
    torch.testing.assert_close(learn(MAD, both).grad_TD, (alone[0] + alone[1]) / 2)


def test_no_disagreement_pushes_a_logit_further_than_half_of_ln_2() -> None:
    generator = torch.Generator().manual_seed(0)
    s_TV, t_TV = (
        (torch.randn(500, V, generator=generator, dtype=torch.float64) * 20).log_softmax(-1) for _ in range(2)
    )
    found = JSD(beta=0.5).gradient(s_TV, t_TV)
    assert found is not None
    assert float(found[1].abs().max()) <= log(2) / 2
