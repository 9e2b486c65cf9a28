"""What a step shows of itself, against tables."""

from __future__ import annotations

import pytest
import torch

from preceptor_trainer.diagnostics import TOP, Sums, top_ids
from preceptor_trainer.loss import blank_scalars, fold
from preceptor_trainer.parts.divergences import JSD, ForwardKL
from preceptor_trainer.parts.objectives import PolicyGradient, SampledReverseKL
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Term
from preceptor_trainer.weighing import weigh
from tests.unit.trainer import reference as ref
from tests.unit.trainer.test_loss_reference import Case, Signed, at, case, here, recipe


def shown(on: Case, term: Term, block: int = 5) -> dict[str, float]:
    given = recipe(term, contexts=["a"], target=Single(context="a"))
    view = on.batch.view(blank_scalars(on.batch, on.hidden_TD.dtype))
    opinions = [[view.contexts["a"][0]]] if term.targeted else [[view.student]]
    plans = weigh(given, view, opinions)
    return fold(given, on.batch, view, plans, on.head, on.hidden_TD, 0, block)[1].per_token()


def entropy(p_TV: torch.Tensor) -> torch.Tensor:
    return -torch.special.xlogy(p_TV, p_TV).sum(-1)


@pytest.mark.parametrize("support", ["full", "topk"])
def test_entropies_overlap_and_tails_are_those_of_the_tables(support: str) -> None:
    on = case({"a": [support]})
    said, there_T = shown(on, JSD(beta=0.5)), here(on, "a") > 0
    s_TV, t_TV, ids_TK = (on.hidden_TD @ on.head.weight_VD.detach().T).softmax(-1), on.p_TV["a"][0], on.ids_TK["a"][0]
    assert said["student_entropy"] == pytest.approx(float(entropy(s_TV).mean()))
    assert said["a/log_ratio"] == pytest.approx(float((at(t_TV, on) - at(s_TV, on))[there_T].mean()))
    theirs = t_TV.topk(TOP).indices if ids_TK is None else ids_TK
    pairs = list(zip(s_TV.topk(TOP).indices.tolist(), theirs.tolist(), there_T.tolist(), strict=True))
    overlap = [len(set(own) & set(other)) / len(other) for own, other, there in pairs if there]
    assert said["a/top8_overlap"] == pytest.approx(sum(overlap) / len(overlap))
    agree = [own[0] == other[0] for own, other, there in pairs if there]
    assert said["a/top1_agreement"] == pytest.approx(sum(agree) / len(agree))
    if ids_TK is None:
        assert said["a/entropy"] == pytest.approx(float(entropy(t_TV)[there_T].mean()))
        assert "a/tail" not in said
    else:
        assert said["a/tail"] == pytest.approx(float(ref.events(t_TV, ids_TK)[there_T, -1].mean()))
        assert said["a/student_tail"] == pytest.approx(float(ref.events(s_TV, ids_TK)[there_T, -1].mean()))
        assert "a/entropy" not in said, "of a distribution that is known in part"
    per_T = ref.jsd(ref.events(s_TV, ids_TK), ref.events(t_TV, ids_TK), 0.5)[there_T]
    assert said["jsd"] == pytest.approx(float(per_T.sum()) / on.batch.tokens)
    assert said["jsd/largest"] == pytest.approx(float(per_T.max()))


def test_the_clipped_fraction_of_a_clipped_divergence() -> None:
    on, there_T = case({"a": ["full"]}), here(case({"a": ["full"]}), "a") > 0
    s_TV, t_TV = (on.hidden_TD @ on.head.weight_VD.detach().T).softmax(-1), on.p_TV["a"][0]
    clipped_TV = (ref.plogpq(t_TV, s_TV) > 0.05)[there_T]
    assert 0 < int(clipped_TV.sum()) < clipped_TV.numel()
    said = shown(on, ForwardKL(clip=0.05))
    assert said["forward_kl/clipped"] == pytest.approx(float(clipped_TV.double().mean()))
    assert said["forward_kl/clipped_tokens"] == pytest.approx(float(clipped_TV.any(-1).double().mean()))
    below_T = ref.plogpq(t_TV, s_TV).clamp(max=0.05).sum(-1)[there_T] < 0
    assert said["forward_kl/negative"] == pytest.approx(float(below_T.double().mean())) and bool(below_T.any())
    assert "forward_kl/clipped" not in shown(on, ForwardKL())
    bounded, sum_T = shown(on, ForwardKL(clip=0.5, clip_by="token")), ref.plogpq(t_TV, s_TV).sum(-1)[there_T]
    assert bounded["forward_kl/clipped"] == pytest.approx(float((sum_T > 0.5).double().mean()))
    assert "jsd/clipped" in (told := shown(on, JSD(clip=0.02))) and "jsd/clipped_tokens" not in told


def test_the_clipped_fraction_of_a_policy_gradient_counts_the_side_that_it_bounds() -> None:
    on = case({"a": ["sampled"]})
    weight_T = (on.batch.token_T % 4 - 1).double()
    s_TV = (on.hidden_TD @ on.head.weight_VD.detach().T).softmax(-1)
    ratio_T = (at(s_TV, on) - on.batch.behaviour.logprob_T).exp()
    clipped_T = torch.where(weight_T > 0, ratio_T > 1.2, ratio_T < 0.8)[weight_T != 0]
    assert 0 < int(clipped_T.sum()) < len(clipped_T)
    said = shown(on, PolicyGradient(weights=(Signed(),)))
    assert said["policy_gradient/clipped"] == pytest.approx(float(clipped_T.double().mean()))


def test_how_far_the_learner_is_from_the_sampler() -> None:
    on = case({"a": ["sampled"]})
    s_TV = (on.hidden_TD @ on.head.weight_VD.detach().T).softmax(-1)
    gap_T = at(s_TV, on) - on.batch.behaviour.logprob_T
    said = shown(on, SampledReverseKL())
    assert said["sampler_gap"] == pytest.approx(float(gap_T.abs().mean()))
    assert said["sampler_gap/largest"] == pytest.approx(float(gap_T.abs().max()))
    assert said["sampler_kl"] == pytest.approx(float((gap_T.exp() - 1 - gap_T).mean()))
    beyond_T = (gap_T.exp() > 2) | (gap_T.exp() < 0.5)
    assert 0 < int(beyond_T.sum()) < len(beyond_T)
    assert said["sampler_beyond"] == pytest.approx(float(beyond_T.double().mean()))


@pytest.mark.parametrize("vocabulary", [5, 8, 64 * 17, 64 * 40 + 13])
def test_the_likeliest_ids_are_found_without_sorting(vocabulary: int) -> None:
    values_TV = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(0))
    found_TK = top_ids(values_TV, 8)
    assert torch.equal(found_TK, values_TV.topk(min(8, vocabulary)).indices)


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    whole, parts = Sums(), [Sums(), Sums()]
    for sums, values, where in ((parts[0], [1.0, 2.0], [1.0, 0.0]), (parts[1], [3.0, 5.0], [1.0, 1.0])):
        sums.tokens = 2
        sums.add("all", torch.tensor(values))
        sums.add("some", torch.tensor(values), torch.tensor(where))
        sums.term("jsd", torch.tensor(values), torch.ones(2), {})
        whole.merge(sums)
    assert whole.per_token() == {"all": 11 / 4, "some": 9 / 3, "jsd": 11 / 4, "jsd/largest": 5.0}
