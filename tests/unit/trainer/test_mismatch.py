"""What is made of the gap between who wrote a token and who learns from it, against the formula, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.wire.training import Mismatch
from preceptor_trainer import recipes
from preceptor_trainer.batch import Batch
from preceptor_trainer.mismatch import as_written, corrected, uncorrected
from preceptor_trainer.parts.objectives import NLL, PolicyGradient, SampledReverseKL
from preceptor_trainer.parts.weights import ImportanceBand, ImportanceTruncate
from preceptor_trainer.recipe import Recipe
from tests.unit.trainer.doubles import toy_run
from tests.unit.trainer.setting import batch_of, learn
from tests.unit.trainer.toy import toy_rows

OPSD = recipes.load("opsd")
ROWS = toy_rows([4, 1, 3], seed=3)


def gapped(recipe: Recipe, gap_T: torch.Tensor) -> Batch:
    """A batch of which the learner finds every token `exp(gap)` times as likely as the sampler did."""
    batch = batch_of(recipe, ROWS)
    behaviour = replace(batch.behaviour, logprob_T=batch.behaviour.logprob_T - gap_T)
    return replace(batch, behaviour=behaviour)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=8, max_size=8), st.floats(0.1, 1), st.floats(1, 5))
def test_every_token_counts_as_often_as_the_formula_says(gaps: list[float], low: float, high: float) -> None:
    gap_T = torch.tensor(gaps, dtype=torch.float64)
    batch, ratio_T = gapped(OPSD, gap_T), gap_T.exp()
    plain = learn(OPSD, batch)
    cut = learn(corrected(OPSD, Mismatch(high=high)), batch)
    torch.testing.assert_close(cut.grad_TD, ratio_T.clamp(max=high)[:, None] * plain.grad_TD, rtol=1e-9, atol=1e-12)
    band = learn(corrected(OPSD, Mismatch(correction="band", low=low, high=high)), batch)
    inside_T = ratio_T * ((ratio_T >= low) & (ratio_T <= high))
    clear = ((ratio_T - low).abs() > 1e-9) & ((ratio_T - high).abs() > 1e-9)  # on a border, rounding decides
    torch.testing.assert_close(band.grad_TD[clear], (inside_T[:, None] * plain.grad_TD)[clear], rtol=1e-9, atol=1e-12)
    assert [plan.denominator for plan in band.plans] == [plan.denominator for plan in plain.plans] == [8.0]


@pytest.mark.parametrize("mismatch", [Mismatch(), Mismatch(correction="band"), Mismatch(correction="off")])
def test_at_ratio_one_nothing_changes(mismatch: Mismatch) -> None:
    batch = gapped(OPSD, torch.zeros(8, dtype=torch.float64))
    plain, same = learn(OPSD, batch), learn(corrected(OPSD, mismatch), batch)
    torch.testing.assert_close(same.grad_TD, plain.grad_TD, rtol=1e-12, atol=1e-15)
    assert same.loss == pytest.approx(plain.loss, rel=1e-12)


def test_a_token_that_nobody_sampled_is_not_corrected() -> None:
    batch = gapped(OPSD, torch.full((8,), 3.0, dtype=torch.float64))
    behaviour = replace(batch.behaviour, present_T=torch.zeros(8, dtype=torch.float64))
    batch = replace(batch, behaviour=behaviour)
    torch.testing.assert_close(learn(corrected(OPSD, Mismatch()), batch).grad_TD, learn(OPSD, batch).grad_TD)


def test_no_term_is_multiplied_with_the_ratio_twice() -> None:
    mixed = OPSD.model_copy(
        update={
            "objective": (
                *OPSD.objective,
                SampledReverseKL(),
                SampledReverseKL(importance=False),
                PolicyGradient(),
                NLL(weights=(ImportanceBand(),)),
                NLL(),
            )
        }
    )
    assert uncorrected(mixed) == [0, 2, 5]
    found = corrected(mixed, Mismatch(high=3.0))
    assert [len(term.weights) for term in found.objective] == [1, 0, 1, 0, 1, 1]
    assert found.objective[2].weights == (ImportanceTruncate(most=3.0),)
    whole = mixed.model_copy(update={"weights": (ImportanceTruncate(),)})
    assert uncorrected(whole) == [] and corrected(whole, Mismatch()) is whole
    assert uncorrected(recipes.load("opd")) == [] and uncorrected(recipes.load("grpo")) == []


def test_a_policy_gradient_gives_its_own_ratio_up_to_have_it_cut() -> None:
    """What the decision page tells whoever wants `opd`'s ratio truncated."""
    whole = recipes.load("opd")
    cut = corrected(whole.override({"objective": [{"kind": "sampled_reverse_kl", "importance": False}]}), Mismatch())
    gap_T = torch.tensor([-1.0, 0.0, 0.3, 0.6, 0.8, 1.5, 3.0, -0.2], dtype=torch.float64)
    batch = gapped(whole, gap_T)
    share_T = gap_T.exp().clamp(max=2.0) / gap_T.exp()
    torch.testing.assert_close(learn(cut, batch).grad_TD, share_T[:, None] * learn(whole, batch).grad_TD)


def test_without_a_sampler_the_recipe_stays_as_it_is() -> None:
    run = toy_run(OPSD)
    assert as_written(OPSD, run) is OPSD
    remote = run.model_copy(update={"sampler": "pen"})
    assert as_written(OPSD, remote).objective[0].weights == (ImportanceTruncate(most=2.0),)
    off = remote.model_copy(
        update={"training": run.training.model_copy(update={"mismatch": Mismatch(correction="off")})}
    )
    assert as_written(OPSD, off) is OPSD


def test_what_a_correction_does_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match='set correction to "band"'):
        Mismatch(low=0.8)
    for taken in (Mismatch(correction="band", low=0.8), Mismatch(high=3.0)):
        assert Mismatch.model_validate(taken.model_dump()) == taken
