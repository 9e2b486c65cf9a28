"""Several requests in one forward pass: each gets the numbers that it gets alone, whatever it shares the pass with."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.wire.score import Extra, Numbers, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer import packing
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.packing import Packed, Piece, most_new
from preceptor_trainer.passes import SMALL, choose, joined
from preceptor_trainer.prefixes import PrefixCache
from preceptor_trainer.scoring import Scorer, score
from tests.models import tiny_model_folder

V = 64
IDS = st.integers(0, V - 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model"), vocab=V))


@st.composite
def mixtures(draw: st.DrawFn) -> list[ScoreRequest]:
    """Requests of several callers, some of them about the same contexts."""
    pool = draw(st.lists(st.lists(IDS, min_size=1, max_size=25), min_size=1, max_size=3))
    return [draw(requests(pool)) for _ in range(draw(st.integers(2, 4)))]


@st.composite
def requests(draw: st.DrawFn, pool: list[list[int]]) -> ScoreRequest:
    own = draw(st.lists(st.lists(IDS, min_size=1, max_size=25), max_size=1))
    contexts = [*pool, *own]
    completions = draw(st.lists(st.lists(IDS, max_size=9), max_size=4))
    total = sum(map(len, completions))
    support = draw(st.sampled_from(list(Support)))
    candidates = None
    if support is Support.IDS:
        rows = [draw(st.lists(IDS, min_size=3, max_size=3, unique=True)) for _ in range(total)]
        candidates = np.array(rows, dtype=np.int32).reshape(total, 3)
    mask = draw(st.none() | st.lists(st.booleans(), min_size=total, max_size=total))
    return ScoreRequest(
        contexts=[np.array(ids, dtype=np.int32) for ids in contexts],
        completions=[np.array(ids, dtype=np.int32) for ids in completions],
        context_of=np.array([draw(st.integers(0, len(contexts) - 1)) for _ in completions], dtype=np.int32),
        support=support,
        k=draw(st.sampled_from([1, 5, V])) if support is Support.TOPK else 0,
        temperature=draw(st.sampled_from([1.0, 0.7])),
        extras=frozenset(draw(st.lists(st.sampled_from([Extra.ENTROPY, Extra.LOGSUMEXP]), unique=True))),
        candidate_ids=candidates,
        position_mask=None if mask is None else np.array(mask, dtype=np.bool_),
    )


def same(one: Numbers, other: Numbers) -> None:
    for name in ("offsets", "logprob_T", "logprobs_TK", "tail_T", "hidden_TD", "entropy_T", "logsumexp_T"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_allclose(left, right, atol=1e-4, rtol=1e-4, err_msg=name)


@settings(max_examples=60)
@given(
    mixture=mixtures(), budget=st.sampled_from([1, 40, 200, 8192]), held=st.booleans(), first=st.sampled_from([1, 128])
)
def test_a_request_has_the_numbers_that_it_has_alone(
    model: Model, mixture: list[ScoreRequest], budget: int, held: bool, first: int
) -> None:
    with patch.object(packing, "READ_FIRST", first):
        check_mixture(model, mixture, budget, held)


def check_mixture(model: Model, mixture: list[ScoreRequest], budget: int, held: bool) -> None:
    scorer = Scorer(model, batch_tokens=budget, prefixes=PrefixCache(1 << 24, shortest=1) if held else None)
    scorings = [scorer.open(request) for request in mixture]
    while waiting := [each for each in scorings if each.left]:
        tokens = scorer.advance(waiting)
        assert tokens[0] > 0, "the first one's turn is the first one's"
    for request, scoring in zip(mixture, scorings, strict=True):
        same(scoring.numbers(), score(model, request))


def asked(length: int, context: int = 3, seed: int = 0) -> ScoreRequest:
    rng = np.random.default_rng(seed)
    return ScoreRequest(
        contexts=[np.arange(5, 5 + context, dtype=np.int32)],
        completions=[rng.integers(0, V, length, dtype=np.int32)],
        context_of=np.zeros(1, dtype=np.int32),
        support=Support.SAMPLED,
    )


def watched(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    forward = model.module.base_model.forward

    def watching(**kwargs: torch.Tensor) -> object:
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(**kwargs)

    monkeypatch.setattr(model.module.base_model, "forward", watching)
    return shapes


def test_small_requests_share_one_pass(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = watched(model, monkeypatch)
    scorer = Scorer(model)
    scorings = [scorer.open(asked(8, seed=seed)) for seed in range(16)]
    scorer.advance(scorings)
    assert len(shapes) == 1 and not any(each.left for each in scorings)


def test_callers_that_ask_about_one_context_share_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = watched(model, monkeypatch)
    scorer = Scorer(model)
    scorings = [scorer.open(asked(5, context=50, seed=seed)) for seed in range(4)]
    scorer.advance(scorings)
    assert shapes == [(1, 50 + 4 * 4)]
    for seed, scoring in enumerate(scorings):
        same(scoring.numbers(), score(model, asked(5, context=50, seed=seed)))


def test_a_long_context_that_is_shared_is_read_first(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [score(model, asked(5, context=50, seed=seed)) for seed in range(3)]
    monkeypatch.setattr(packing, "READ_FIRST", 40)
    shapes = watched(model, monkeypatch)
    scorer = Scorer(model, prefixes=PrefixCache(1 << 24, shortest=1))
    for _ in range(2):
        scorings = [scorer.open(asked(5, context=50, seed=seed)) for seed in range(3)]
        scorer.advance(scorings)
        for scoring, expected in zip(scorings, alone, strict=True):
            same(scoring.numbers(), expected)
    assert shapes == [(1, 49), (1, 1 + 3 * 4), (1, 1 + 3 * 4)], "the second time it is held"


def test_a_pass_that_fails_leaves_every_request_as_it_was(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(model)
    scorings = [scorer.open(asked(8, seed=seed)) for seed in range(2)]

    def fail(**kwargs: torch.Tensor) -> object:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(model.module.base_model, "forward", fail)
        with pytest.raises(MemoryError):
            scorer.advance(scorings)
    for scoring in scorings:
        scorer.advance([scoring])
    for seed, scoring in enumerate(scorings):
        same(scoring.numbers(), score(model, asked(8, seed=seed)))


def row(length: int, context: int = 1, seed: int = 0) -> Packed:
    ids = np.zeros(length - context, dtype=np.int32)
    return Packed(np.full(context, seed, dtype=np.int32), (Piece(ids, np.arange(len(ids)), np.arange(len(ids))),))


def test_rows_of_like_length_share_a_pass_within_the_budget() -> None:
    long, short = [row(1000) for _ in range(5)], [row(100) for _ in range(5)]
    assert choose([long, short], 3000) == [(0, long[0]), (0, long[1]), (0, long[2])]
    assert {owner for owner, _ in choose([long[:1], short], 30_000)} == {0}, "padding would be nine tenths of a row"
    near = [row(1000 - SMALL // 2), row(600)]
    assert choose([long[:1], near], 30_000) == [(0, long[0]), (1, near[0]), (1, near[1])]
    assert choose([[row(5000)]], 100)[0][0] == 0, "a row beyond the budget gets its own pass"


def test_the_one_whose_turn_it_is_decides_the_length() -> None:
    long, short = [row(1000)], [row(100), row(90)]
    assert choose([short, long], 30_000) == [(0, short[0]), (0, short[1])]


def test_rows_with_keys_and_values_at_hand_go_together() -> None:
    rows = [row(200, context=100), row(190, context=90), row(180, context=80)]
    assert choose([rows], 30_000, cached=lambda each: each is not rows[1]) == [(0, rows[0]), (0, rows[2])]


def test_contexts_are_joined_where_that_is_less_work() -> None:
    assert most_new(1000, 64) > 1000 > most_new(100, 64) > most_new(1, 64) == 19
    shared = [row(1010, context=1000) for _ in range(4)]
    assert [len(each) for each in joined(shared, 8192, 64)] == [1040]
    assert len(joined([row(60) for _ in range(4)], 8192, 64)) == 4, "a context of one token saves nothing"
    others = [row(110, context=100, seed=seed) for seed in range(4)]
    assert joined(others, 8192, 64) == others
    assert joined(shared, 1020, 64) == shared
