"""Which support a teacher is asked for: exact where it can be, sparse where it must, refused with what would do."""

from __future__ import annotations

import pytest
from torch import Tensor

from preceptor.wire.teachers import Card, Limits, Support, TokenizerCard
from preceptor_trainer import recipes
from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.objectives import NLL, SampledReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import LogLinear, Route, Single
from preceptor_trainer.recipe import Recipe, Term, Weight
from preceptor_trainer.support import NoSupport, Wanted, check_serves, choose_support
from preceptor_trainer.views import BlockView, Opinion, Scalars, TokenView

V = 100
SAMPLED, TOPK, IDS, FULL = Support.SAMPLED, Support.TOPK, Support.IDS, Support.FULL


def card(*supports: Support, vocab: int = V, max_k: int = 64) -> Card:
    return Card(
        teacher="t",
        model="m",
        weights_version=0,
        engine="e",
        device="cpu",
        dtype="float32",
        tokenizer=TokenizerCard(fingerprint="sha256:" + "0" * 64, vocab_size=vocab),
        limits=Limits(max_tokens=64, max_batch_tokens=64, max_k=max_k, max_body_bytes=1024),
        supports=supports,
    )


def recipe(**sparse: object) -> Recipe:
    return recipes.load("opsd").override({"sparse": sparse})


def chosen(given: Recipe, *supports: Support, need: Support = TOPK, vocab: int = V, max_k: int = 64) -> Wanted:
    return choose_support(given, "t", card(*supports, vocab=vocab, max_k=max_k), need, V)


def test_the_cheapest_support_that_gives_what_is_needed() -> None:
    every = (SAMPLED, IDS, TOPK, FULL)
    assert chosen(recipe(), *every, need=SAMPLED) == Wanted(SAMPLED)
    assert chosen(recipe(), *every) == Wanted(FULL), "exact where the teacher can"
    assert chosen(recipe(always=True), *every) == Wanted(TOPK, 64)
    assert chosen(recipe(always=True, by="student", k=20), *every) == Wanted(IDS, 20)
    assert chosen(recipe(), SAMPLED, TOPK) == Wanted(TOPK, 64), "a stock server"
    assert chosen(recipe(), SAMPLED, TOPK, max_k=20) == Wanted(TOPK, 20)
    assert chosen(recipe(k=7), SAMPLED, IDS) == Wanted(IDS, 7)
    assert chosen(recipe(), *every, vocab=V + 8) == Wanted(TOPK, 64), "hidden states of another head are of no use"
    assert chosen(recipe(always=True), *every, need=FULL) == Wanted(FULL)


@pytest.mark.parametrize(
    ("given", "supports", "need", "vocab", "said"),
    [
        (recipe(), (SAMPLED,), TOPK, V, "needs the support full, topk or ids, and teacher t offers sampled. Choose"),
        (recipe(by="student"), (SAMPLED, TOPK), TOPK, V, "needs the support full or ids, and teacher t offers sampled"),
        (recipe(always=True), (SAMPLED, FULL), TOPK, V, "needs the support topk or ids, and teacher t offers sampled"),
        (recipe(), (TOPK,), SAMPLED, V, "needs the support sampled, and teacher t offers topk"),
        (recipe(), (SAMPLED, TOPK), FULL, V, "needs the support full, and teacher t offers sampled, topk. Choose"),
        (
            recipe(),
            (SAMPLED, FULL),
            TOPK,
            V + 8,
            "teacher t has 108 outputs and the student 100. Choose a",
        ),
        (recipe(k=65), (SAMPLED, TOPK), TOPK, V, 'asks for 65 ids per token, and teacher t gives 64. .*{"k": 64}'),
    ],
)
def test_a_refusal_says_why_and_what_would_do(
    given: Recipe, supports: tuple[Support, ...], need: Support, vocab: int, said: str
) -> None:
    with pytest.raises(NoSupport, match=said):
        chosen(given, *supports, need=need, vocab=vocab)


def test_a_fallback_is_held_to_what_its_teacher_would_be_asked() -> None:
    check_serves(Wanted(TOPK, 64), "b", card(SAMPLED, TOPK), V)
    with pytest.raises(NoSupport, match="needs the support topk, and teacher b offers sampled, full"):
        check_serves(Wanted(TOPK, 64), "b", card(SAMPLED, FULL), V)
    with pytest.raises(NoSupport, match="teacher b has 108 outputs"):
        check_serves(Wanted(FULL), "b", card(SAMPLED, FULL, vocab=108), V)
    with pytest.raises(NoSupport, match="asks for 64 ids per token, and teacher b gives 20"):
        check_serves(Wanted(TOPK, 64), "b", card(TOPK, max_k=20), V)


class _Entropy(Weight, kind="test_support_entropy"):
    """Reads the entropy of what it weighs."""

    needs = FULL

    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        assert opinion.entropy_T is not None
        return opinion.entropy_T


class _Exact(Term, kind="test_support_exact"):
    """A term that says nothing of its needs is given whole distributions."""

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return target.logprob_T


def composed(*terms: Term, **fields: object) -> Recipe:
    contexts = {"a": Plain(), "b": Plain(teacher="other")}
    return Recipe.model_validate(
        {"paper": "test", "rollout": Student(), "contexts": contexts, "objective": terms, **fields}
    )


def test_what_a_context_needs_follows_from_who_reads_it() -> None:
    on_a = composed(JSD(), target=Single(context="a"))
    assert (on_a.needs("a"), on_a.needs("b"), on_a.support) == (TOPK, SAMPLED, TOPK)
    both = composed(JSD(), SampledReverseKL(target=Single(context="b")), target=Single(context="a"))
    assert (both.needs("a"), both.needs("b")) == (TOPK, SAMPLED)
    assert (both.needs_of("self"), both.needs_of("other"), both.needs_of("a debater")) == (TOPK, SAMPLED, TOPK)
    assert composed(_Exact(), target=Single(context="a")).needs("a") is FULL
    assert composed(JSD(weights=(_Entropy(),)), target=Single(context="a")).needs("a") is FULL
    assert composed(NLL(weights=(_Entropy(),)), target=Single(context="a")).needs("a") is SAMPLED
    composes = composed(SampledReverseKL(), target=LogLinear(coefficients={"a": 0.5, "b": 0.5}))
    assert (composes.needs("a"), composes.needs("b")) == (TOPK, TOPK), "it is normalised over distributions"
    assert composed(SampledReverseKL(), target=Route(contexts=("a", "b"))).needs("b") is SAMPLED
    assert composed(SampledReverseKL(), target=Route(contexts=("a", "b"), by="surest")).needs("b") is TOPK
