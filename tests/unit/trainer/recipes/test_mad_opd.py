"""MAD-OPD: a sum of JSDs, weighed by detached shares that sum to one; bounded in its gradient."""

from __future__ import annotations

from dataclasses import replace
from math import log
from random import Random

import torch

from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.views import ContextView, Rollout
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


def shares(one: int, other: int) -> tuple[float, ...]:
    """What two debaters count who are so sure of what they say, as the recipe's own context works it out."""
    context, replies = MAD.contexts["debate"], dict[str, str]()
    own = Rollout(index=0, text="?")

    def view() -> ContextView:
        return ContextView(task=ROWS[0].task, rollout=own, group=(own,), step=1, rng=Random(0), replies=dict(replies))

    while asks := context.asks(view()):
        sure = dict(zip(context.writers, (one, other), strict=True))
        said = {ask.key: f"<argument>-</argument><confidence>{sure[ask.teacher]}</confidence>" for ask in asks}
        replies |= {key: context.read(view(), key, reply) for key, reply in said.items()}
    return tuple(prompt.weight for prompt in context.prompts(view()))


def test_debaters_who_are_equally_sure_are_multi_teacher_distillation() -> None:
    """Up to the number of teachers: shares sum to one, and OPD with several sums over them."""
    several = {"kind": "each", "contexts": ["first", "second"]}
    plain = {name: {"kind": "plain", "teacher": name} for name in ("first", "second")}
    opd = recipes.load("opd").model_dump() | {"contexts": plain, "target": several, "objective": [{"kind": "jsd"}]}
    multi = Recipe.model_validate(opd)
    both = debate(shares(70, 70))
    one, other = both.slots["debate"]
    assert float((one.weight_T + other.weight_T).max()) == float((one.weight_T + other.weight_T).min()) == 1.0
    alone = {
        "first": [replace(one, context="first", weight_T=torch.ones_like(one.weight_T))],
        "second": [replace(other, context="second", weight_T=torch.ones_like(other.weight_T))],
    }
    torch.testing.assert_close(2 * learn(MAD, both).grad_TD, learn(multi, replace(both, slots=alone)).grad_TD)
    unequal = learn(MAD, debate(shares(90, 10))).grad_TD
    assert not torch.allclose(2 * unequal, learn(multi, replace(both, slots=alone)).grad_TD)


def test_no_disagreement_pushes_a_logit_further_than_half_of_ln_2() -> None:
    generator = torch.Generator().manual_seed(0)
    s_TV, t_TV = (
        (torch.randn(500, V, generator=generator, dtype=torch.float64) * 20).log_softmax(-1) for _ in range(2)
    )
    found = JSD(beta=0.5).gradient(s_TV, t_TV)
    assert found is not None
    assert float(found[1].abs().max()) <= log(2) / 2
