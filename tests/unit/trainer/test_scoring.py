"""Scores equal a float64 forward of each completion alone, whatever shares its batch; every support, any raggedness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.wire.score import Extra, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer import numbers, scoring
from preceptor_trainer.model import Model, head_of, load_model
from tests.models import tiny_model_folder

V = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model_folder(tmp_path_factory.mktemp("model"), vocab=V))


@pytest.fixture(scope="module")
def exact(model: Model) -> torch.nn.Module:
    """The same weights in float64."""
    return load_model(model.folder).module.double()


def reference(exact: torch.nn.Module, request: ScoreRequest) -> torch.Tensor:
    """[T, V] float64 log-probabilities before every completion token, one completion at a time, nothing padded."""
    found = [torch.zeros(0, V, dtype=torch.float64)]
    for completion, context_of in zip(request.completions, request.context_of, strict=True):
        context = request.contexts[context_of]
        ids = torch.tensor(np.concatenate([context, completion])[None], dtype=torch.int64)
        with torch.no_grad():
            logits = exact(ids).logits[0].double() / request.temperature
        found.append(logits.log_softmax(-1)[len(context) - 1 : len(context) + len(completion) - 1])
    logprobs = torch.cat(found)
    return logprobs if request.position_mask is None else logprobs[torch.from_numpy(request.position_mask)]


def close(ours: np.ndarray | None, theirs: torch.Tensor) -> None:
    assert ours is not None
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-4)


ids = st.integers(0, V - 1)


@st.composite
def requests(draw: st.DrawFn, support: Support) -> ScoreRequest:
    contexts = draw(st.lists(st.lists(ids, min_size=1, max_size=12), min_size=1, max_size=3))
    completions = draw(st.lists(st.lists(ids, max_size=9), max_size=5))
    total = sum(map(len, completions))
    candidates = None
    if support is Support.IDS:
        rows = [draw(st.lists(ids, min_size=4, max_size=4, unique=True)) for _ in range(total)]
        candidates = np.array(rows, dtype=np.int32).reshape(total, 4)
        pads = draw(st.lists(st.integers(0, 4), min_size=total, max_size=total))
        for row, pad in zip(candidates, pads, strict=True):
            row[4 - pad :] = -1
    mask = draw(st.none() | st.lists(st.booleans(), min_size=total, max_size=total))
    return ScoreRequest(
        contexts=[np.array(row, dtype=np.int32) for row in contexts],
        completions=[np.array(row, dtype=np.int32) for row in completions],
        context_of=np.array([draw(st.integers(0, len(contexts) - 1)) for _ in completions], dtype=np.int32),
        support=support,
        k=draw(st.sampled_from([1, 5, V])) if support is Support.TOPK else 0,
        temperature=draw(st.sampled_from([1.0, 0.7])),
        extras=frozenset(Extra),
        candidate_ids=candidates,
        position_mask=None if mask is None else np.array(mask, dtype=np.bool_),
    )


@pytest.mark.parametrize("support", list(Support))
@settings(max_examples=40)
@given(data=st.data())
def test_scores_equal_each_completion_alone_in_float64(
    model: Model, exact: torch.nn.Module, support: Support, data: st.DataObject
) -> None:
    request = data.draw(requests(support))
    found = scoring.score(model, request, batch_tokens=data.draw(st.sampled_from([1, 24, 8192])))
    logprob_TV = reference(exact, request)
    tokens = np.concatenate([*request.completions, np.zeros(0, dtype=np.int32)]).astype(np.int64)
    tokens = tokens if request.position_mask is None else tokens[request.position_mask]
    written_T1 = logprob_TV.gather(1, torch.from_numpy(tokens)[:, None])
    np.testing.assert_array_equal(found.offsets, request.scored_offsets)
    close(found.logprob_T, written_T1[:, 0])
    close(found.entropy_T, -(logprob_TV.exp() * logprob_TV).sum(-1))
    assert found.rank_T is not None
    ranks = (logprob_TV > written_T1 + 1e-5).sum(-1).numpy(), (logprob_TV > written_T1 - 1e-5).sum(-1).numpy()
    assert ((ranks[0] <= found.rank_T) & (found.rank_T <= ranks[1])).all()
    if support is Support.FULL:
        assert found.hidden_TD is not None
        weight, _ = head_of(model.module)
        logits = torch.from_numpy(found.hidden_TD) @ weight.detach().T / request.temperature
        close(logits.log_softmax(-1).numpy(), logprob_TV)
    if support is Support.TOPK:
        assert found.ids_TK is not None
        close(found.logprobs_TK, logprob_TV.topk(request.k, dim=1).values)
        close(found.logprobs_TK, logprob_TV.gather(1, torch.from_numpy(found.ids_TK.astype(np.int64))))
        close(found.tail_T, left_out(logprob_TV, found.ids_TK))
    if support is Support.IDS:
        assert found.ids_TK is not None
        ids_TK = torch.from_numpy(found.ids_TK.astype(np.int64))
        close(found.logprobs_TK, logprob_TV.gather(1, ids_TK.clamp(min=0)).masked_fill(ids_TK < 0, -torch.inf))
        close(found.tail_T, left_out(logprob_TV, found.ids_TK))


def left_out(logprob_TV: torch.Tensor, ids_TK: np.ndarray) -> torch.Tensor:
    left = logprob_TV.clone()
    for row, ids_K in zip(left, ids_TK, strict=True):
        row[torch.from_numpy(ids_K[ids_K >= 0].astype(np.int64))] = -torch.inf
    return left.logsumexp(-1)


def request_of(contexts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> ScoreRequest:
    return ScoreRequest(
        contexts=[np.array(row, dtype=np.int32) for row in contexts],
        completions=[np.array(row, dtype=np.int32) for row in completions],
        context_of=np.zeros(len(completions), dtype=np.int32),
        support=Support.FULL,
    )


def test_an_empty_batch_gives_empty_arrays(model: Model) -> None:
    found = scoring.score(model, request_of([[1]], []))
    assert found.logprob_T.shape == (0,) and found.hidden_TD is not None and found.hidden_TD.shape == (0, 32)


def test_nothing_about_the_context_is_returned(model: Model) -> None:
    long, short = request_of([[5] * 50], [[7, 8]]), request_of([[5] * 2], [[7, 8]])
    assert scoring.score(model, long).logprob_T.shape == scoring.score(model, short).logprob_T.shape == (2,)


def test_a_tiny_tail_keeps_its_digits() -> None:
    logprobs = torch.tensor([[0.0, -60.0, -60.0, -90.0]]).log_softmax(1)
    found = numbers.tail(logprobs, torch.tensor([[0]]), logprobs[:, :1])
    assert found.item() == pytest.approx(-60 + np.log(2), abs=1e-4)


def test_logits_are_made_in_blocks(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of([[1, 2]], [list(range(20)), list(range(20, 40))])
    whole = scoring.score(model, request)
    monkeypatch.setattr(numbers, "BLOCK_LOGITS", 3 * V)
    rows: list[int] = []
    linear = torch.nn.functional.linear

    def watched(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if weight.shape[0] == V and hidden.dim() == 2:
            rows.append(len(hidden))
        return linear(hidden, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    blocks = scoring.score(model, request)
    assert max(rows) == 3 and sum(rows) == 40
    np.testing.assert_allclose(blocks.logprob_T, whole.logprob_T, atol=1e-5)


def test_the_caller_can_end_the_work_between_batches(model: Model) -> None:
    calls: list[int] = []

    def between() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        scoring.score(model, request_of([[1]], [[2, 3]] * 5), batch_tokens=1, between=between)
    assert len(calls) == 2


def test_bfloat16_is_close(model: Model, tmp_path: Path) -> None:
    request = request_of([[1, 2, 3]], [[9, 10, 11, 12]])
    narrow = scoring.score(load_model(model.folder, dtype="bfloat16"), request)
    np.testing.assert_allclose(narrow.logprob_T, scoring.score(model, request).logprob_T, atol=0.15)
