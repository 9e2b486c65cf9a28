"""Contexts once: packed and cached scoring against every completion alone, by one plain forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.wire.score import Extra, Numbers, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer import packing
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.packing import MASK_ELEMENTS, Piece, pack, packable
from preceptor_trainer.prefixes import PrefixCache
from preceptor_trainer.scoring import score
from tests.models import tiny_model_folder

IDS = st.integers(0, 63)
CONTEXTS = st.lists(st.lists(IDS, min_size=1, max_size=30), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model")))


_LOADED: dict[str, Model] = {}


def shared(tmp: Path = Path("/tmp")) -> Model:
    """One model for hypothesis, which cannot take a fixture per example."""
    return _LOADED["model"]


@pytest.fixture(autouse=True)
def _loaded(model: Model) -> None:
    _LOADED["model"] = model


def alone(model: Model, context: list[int], completion: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """[T, V] log-probabilities and [T, D] hidden states that predict a completion, by one plain forward."""
    ids = torch.tensor([[*context, *completion]])
    with torch.no_grad():
        out = model.module(ids, output_hidden_states=True)
        hidden = model.module.base_model(ids).last_hidden_state
    at = slice(len(context) - 1, len(context) + len(completion) - 1)
    return out.logits[0, at].log_softmax(-1).numpy(), hidden[0, at].numpy()


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[int]]:
    contexts = draw(CONTEXTS)
    completions = draw(st.lists(st.lists(IDS, max_size=12), min_size=1, max_size=7))
    context_of = [draw(st.integers(0, len(contexts) - 1)) for _ in completions]
    return contexts, completions, context_of


def request(
    parts: tuple[list[list[int]], list[list[int]], list[int]], support: Support = Support.FULL, k: int = 0
) -> ScoreRequest:
    contexts, completions, context_of = parts
    return ScoreRequest(
        contexts=[np.array(ids, dtype=np.int32) for ids in contexts],
        completions=[np.array(ids, dtype=np.int32) for ids in completions],
        context_of=np.array(context_of, dtype=np.int32),
        support=support,
        k=k,
        extras=frozenset({Extra.ENTROPY}),
    )


def check(model: Model, parts: tuple[list[list[int]], list[list[int]], list[int]], numbers: Numbers) -> None:
    contexts, completions, context_of = parts
    for index, completion in enumerate(completions):
        at = slice(int(numbers.offsets[index]), int(numbers.offsets[index + 1]))
        if not completion:
            assert at.start == at.stop
            continue
        logprobs_TV, hidden_TD = alone(model, contexts[context_of[index]], completion)
        written_T = logprobs_TV[np.arange(len(completion)), completion]
        np.testing.assert_allclose(numbers.logprob_T[at], written_T, atol=1e-4)
        assert numbers.entropy_T is not None
        np.testing.assert_allclose(numbers.entropy_T[at], -(np.exp(logprobs_TV) * logprobs_TV).sum(-1), atol=1e-4)
        if numbers.hidden_TD is not None:
            np.testing.assert_allclose(numbers.hidden_TD[at], hidden_TD, atol=1e-4)
        if numbers.logprobs_TK is not None and numbers.ids_TK is not None:
            expected_TK = np.take_along_axis(logprobs_TV, numbers.ids_TK[at].astype(np.int64), axis=1)
            np.testing.assert_allclose(numbers.logprobs_TK[at], expected_TK, atol=1e-4)


@settings(max_examples=40)
@given(
    parts=requests(), budget=st.integers(1, 200), support=st.sampled_from([Support.SAMPLED, Support.TOPK, Support.FULL])
)
def test_packed_completions_have_the_numbers_they_have_alone(
    parts: tuple[list[list[int]], list[list[int]], list[int]], budget: int, support: Support
) -> None:
    k = 5 if support is Support.TOPK else 0
    check(shared(), parts, score(shared(), request(parts, support, k), batch_tokens=budget))


@settings(max_examples=40)
@given(parts=requests(), budget=st.integers(1, 200))
def test_a_cached_context_gives_the_same_numbers(
    parts: tuple[list[list[int]], list[list[int]], list[int]], budget: int
) -> None:
    cache = PrefixCache(1 << 24, shortest=1)
    first = score(shared(), request(parts), batch_tokens=budget, prefixes=cache, version=1)
    again = score(shared(), request(parts), batch_tokens=budget, prefixes=cache, version=1)
    check(shared(), parts, first)
    check(shared(), parts, again)


LONG = ([[*range(4, 60)], [*range(10, 50)]], [[5, 6, 7], [8], [9, 9]], [0, 0, 1])


def test_hits_are_counted_and_belong_to_one_weights_version(model: Model) -> None:
    cache = PrefixCache(1 << 24, shortest=1)
    assert score(model, request(LONG), prefixes=cache, version=1).prefix_hits == 0
    assert score(model, request(LONG), prefixes=cache, version=1).prefix_hits == 2
    assert score(model, request(LONG), prefixes=cache, version=2).prefix_hits == 0
    cache.forget(1)
    assert score(model, request(LONG), prefixes=cache, version=1).prefix_hits == 0
    assert score(model, request(LONG), prefixes=cache, version=2).prefix_hits == 2


def test_a_short_context_is_read_again(model: Model) -> None:
    cache = PrefixCache(1 << 24, shortest=50)
    score(model, request(LONG), prefixes=cache)
    assert score(model, request(LONG), prefixes=cache).prefix_hits == 1, "one prefix has 55 tokens, the other 39"


def test_the_cache_keeps_to_its_bound(model: Model) -> None:
    cache = PrefixCache(1 << 24, shortest=1)
    score(model, request(LONG), prefixes=cache)
    both = cache.bytes
    small = PrefixCache(both - 1, shortest=1)
    score(model, request(LONG), prefixes=small)
    assert 0 < small.bytes < both
    none = PrefixCache(0, shortest=1)
    score(model, request(LONG), prefixes=none)
    assert none.bytes == 0 and score(model, request(LONG), prefixes=none).prefix_hits == 0


def test_a_context_is_read_once_for_its_completions(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = model.module.base_model.forward

    def counting(**kwargs: torch.Tensor) -> object:
        read.append(kwargs["input_ids"].numel())
        return forward(**kwargs)

    monkeypatch.setattr(model.module.base_model, "forward", counting)
    eight = ([[*range(4, 60)]], [[5, 6, 7, 8]] * 8, [0] * 8)
    score(model, request(eight))
    assert read == [56 + 8 * 3], "the last token of a completion predicts nothing that is wanted"


def test_a_model_whose_layers_look_through_a_window_is_scored_one_by_one(tmp_path: Path) -> None:
    windowed = load_model(
        tiny_model_folder(tmp_path / "w", use_sliding_window=True, sliding_window=8, max_window_layers=0)
    )
    assert not packable(windowed.module)
    check(windowed, LONG, score(windowed, request(LONG), prefixes=PrefixCache(1 << 24, shortest=1)))


def test_rows_keep_to_the_budget_and_to_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def piece(length: int) -> Piece:
        ids = np.arange(length, dtype=np.int32)
        return Piece(ids, np.arange(length), np.arange(length))

    context = np.arange(10, dtype=np.int32)
    rows = list(pack(context, [piece(5) for _ in range(9)], 30))
    assert [len(row.pieces) for row in rows] == [4, 4, 1]
    assert all(len(row) <= 30 for row in rows)
    assert len(list(pack(context, [piece(50)], 30))) == 1, "a piece too long for the budget stands alone"
    monkeypatch.setattr(packing, "MASK_ELEMENTS", 600)
    assert all(row.new * len(row) <= 600 or len(row.pieces) == 1 for row in pack(context, [piece(5)] * 9, 10**6))
    assert MASK_ELEMENTS > 600


def test_an_attention_that_adds_its_mask_is_given_one_to_add(tmp_path: Path) -> None:
    model = load_model(tiny_model_folder(tmp_path / "model"))
    model.module.set_attn_implementation("eager")
    assert packable(model.module)
    check(model, LONG, score(model, request(LONG)))
