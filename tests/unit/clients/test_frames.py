"""Requests, answers and heads survive the wire in both forms; what does not belong together is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.errors import Corrupt
from preceptor.frames import (
    decode_head,
    decode_request,
    decode_scores,
    encode_request,
    encode_scores,
    hash_of,
    head_buffers,
    scored_candidates,
)
from preceptor.narrow import from_bf16, to_bf16
from preceptor.tensors import BadFrame, Tensor, pack, unpack
from preceptor.twins import request_from_json, request_to_json, scores_from_json, scores_to_json
from preceptor.wire.score import Extra, HiddenDtype, ScoreRequest, Scores
from preceptor.wire.teachers import Stamp, Support, Values

STAMP = Stamp(
    teacher="t",
    model="m",
    weights_version=3,
    head_hash=None,
    engine="table",
    device="cpu",
    dtype="float32",
    temperature=1.0,
    values=Values.RAW,
    context_hashes=(),
    queued_seconds=0.0,
    computed_seconds=0.1,
)


@st.composite
def requests(draw: st.DrawFn) -> ScoreRequest:
    ids = st.lists(st.integers(0, 40), max_size=5)
    contexts = draw(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), min_size=1, max_size=3))
    completions = draw(st.lists(ids, max_size=4))
    total = sum(map(len, completions))
    support = draw(st.sampled_from(list(Support)))
    candidates = None
    if support is Support.IDS:
        rows = [draw(st.permutations(range(-1, 4))) for _ in range(total)]
        candidates = np.array(rows, dtype=np.int32).reshape(total, 5)
    mask = draw(st.none() | st.lists(st.booleans(), min_size=total, max_size=total))
    return ScoreRequest(
        contexts=[np.array(row, dtype=np.int32) for row in contexts],
        completions=[np.array(row, dtype=np.int32) for row in completions],
        context_of=np.array([draw(st.integers(0, len(contexts) - 1)) for _ in completions], dtype=np.int32),
        support=support,
        k=3 if support is Support.TOPK else 0,
        temperature=draw(st.sampled_from([1.0, 0.5])),
        extras=draw(st.frozensets(st.sampled_from(list(Extra)))),
        dtype=draw(st.sampled_from([HiddenDtype.F32, HiddenDtype.BF16])),
        candidate_ids=candidates,
        position_mask=None if mask is None else np.array(mask, dtype=np.bool_),
        weights_version=draw(st.none() | st.integers(0, 5)),
        deadline_ms=draw(st.none() | st.integers(1, 10_000)),
    )


def answer_to(request: ScoreRequest, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    offsets = request.scored_offsets
    count = int(offsets[-1])

    def floats(*shape: int) -> np.ndarray:
        return -rng.random(shape, dtype=np.float32)

    ids = logprobs = tail = hidden = None
    if request.support is Support.TOPK:
        ids = rng.integers(0, 40, (count, request.k)).astype(np.int32)
    elif request.support is Support.IDS:
        ids = scored_candidates(request)
    elif request.support is Support.FULL:
        hidden = from_bf16(to_bf16(floats(count, 6)))
    if ids is not None:
        logprobs = np.where(ids < 0, -np.inf, floats(*ids.shape)).astype(np.float32)
        tail = np.full(count, -np.inf, dtype=np.float32)
    return Scores(
        offsets=offsets,
        logprob_T=floats(count),
        ids_TK=ids,
        logprobs_TK=logprobs,
        tail_T=tail,
        hidden_TD=hidden,
        entropy_T=floats(count) if Extra.ENTROPY in request.extras else None,
        logsumexp_T=floats(count) if Extra.LOGSUMEXP in request.extras else None,
        rank_T=np.arange(count, dtype=np.int32) if Extra.RANK in request.extras else None,
        stamp=STAMP,
    )


def assert_same(one: ScoreRequest | Scores, two: ScoreRequest | Scores) -> None:
    for name in (field.name for field in fields(one)):
        left, right = getattr(one, name), getattr(two, name)
        if isinstance(left, tuple):
            assert len(left) == len(right)
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(a, b)
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and left.shape == right.shape, name
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, name


@given(requests())
def test_a_request_survives_the_frame(request: ScoreRequest) -> None:
    assert_same(decode_request(encode_request(request)), request)


@given(requests())
def test_a_request_survives_json(request: ScoreRequest) -> None:
    back = request_from_json(request_to_json(request).encode())
    if request.candidate_ids is not None and not len(request.candidate_ids):
        assert back.candidate_ids is not None and back.candidate_ids.shape == (0, 1)
    else:
        assert_same(back, request)


@given(requests())
def test_an_answer_survives_the_frame(request: ScoreRequest) -> None:
    scores = answer_to(request)
    assert_same(decode_scores(encode_scores(scores, request), request), scores)


@given(requests())
def test_an_answer_survives_json(request: ScoreRequest) -> None:
    scores = answer_to(request)
    text = scores_to_json(scores, request)
    assert "Infinity" not in text and "NaN" not in text
    back = scores_from_json(text.encode(), request)
    if scores.hidden_TD is not None and not len(scores.hidden_TD):
        assert back.hidden_TD is not None and not back.hidden_TD.size
    else:
        assert_same(back, scores)


def small(**changes: Any) -> ScoreRequest:
    arguments: dict[str, Any] = {
        "contexts": [np.array([1, 2], dtype=np.int32)],
        "completions": [np.array([3], dtype=np.int32), np.array([4, 5], dtype=np.int32)],
        "context_of": np.array([0, 0], dtype=np.int32),
        "support": Support.SAMPLED,
        **changes,
    }
    return ScoreRequest(**arguments)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"contexts": [np.zeros(0, dtype=np.int32)]}, "contexts"),
        ({"contexts": [np.array([-1], dtype=np.int32)]}, "contexts"),
        ({"context_of": np.array([0], dtype=np.int32)}, "context_of"),
        ({"context_of": np.array([0, 1], dtype=np.int32)}, "context_of"),
        ({"context_of": np.array([0, -1], dtype=np.int32)}, "context_of"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"support": Support.TOPK}, "k"),
        ({"k": 3}, "k"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"support": Support.IDS}, "candidate_ids"),
        ({"candidate_ids": np.zeros((3, 1), dtype=np.int32)}, "candidate_ids"),
        ({"support": Support.IDS, "candidate_ids": np.zeros((2, 1), dtype=np.int32)}, "candidate_ids"),
        ({"support": Support.IDS, "candidate_ids": np.zeros((3, 0), dtype=np.int32)}, "candidate_ids"),
        ({"support": Support.IDS, "candidate_ids": np.full((3, 2), 7, dtype=np.int32)}, "candidate_ids"),
        ({"support": Support.IDS, "candidate_ids": np.full((3, 1), -2, dtype=np.int32)}, "candidate_ids"),
        ({"position_mask": np.ones(2, dtype=np.bool_)}, "position_mask"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused_by_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        small(**changes)


def reframed(change: dict[str, Tensor | None], metadata: dict[str, str] | None = None) -> bytes:
    tensors, header = unpack(encode_request(small()))
    for name, tensor in change.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    return b"".join(pack(tensors, {**header, **(metadata or {})}))


OPTIONS = '{"support": "sampled", "request_id": "r"'


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (reframed({"context_ids": None}), "'context_ids' is missing"),
        (reframed({"extra": Tensor.of(np.zeros(1, dtype=np.int32))}), "do not belong in it: extra"),
        (reframed({"context_of": Tensor.of(np.zeros(2, dtype=np.int64))}), "must be I32"),
        (reframed({"context_of": Tensor.of(np.zeros((2, 1), dtype=np.int32))}), "1 dimension"),
        (reframed({"completion_offsets": Tensor.of(np.array([0, 4, 3]))}), "smaller"),
        (reframed({"completion_offsets": Tensor.of(np.array([0, 2]))}), "end at 3"),
        (reframed({"completion_offsets": Tensor.of(np.array([1, 3]))}), "start at 0"),
        (reframed({"completion_offsets": Tensor.of(np.zeros(0, dtype=np.int64))}), "start at 0"),
        (reframed({"completion_offsets": Tensor.of(np.array([-(2**62), 3]))}), "start at 0"),
        (reframed({"context_of": Tensor.of(np.array([0, 5], dtype=np.int32))}), "context_of: 5"),
        (reframed({}, {"protocol": "2"}), "speaks 1"),
        (reframed({}, {"request": "{"}), "request: Invalid JSON"),
        (reframed({}, {"request": OPTIONS + ', "support": "all"}'}), "request.support"),
        (reframed({}, {"request": OPTIONS + ', "k": 1.5}'}), "request.k"),
        (reframed({}, {"request": OPTIONS + ', "k": true}'}), "request.k"),
        (reframed({}, {"request": OPTIONS + ', "temperature": -1}'}), "request.temperature"),
        (reframed({}, {"request": OPTIONS + ', "temperature": 1e999}'}), "request.temperature"),
        (reframed({}, {"request": OPTIONS + ', "colour": 1}'}), "request.colour"),
        (reframed({}, {"request": '{"support": "sampled", "request_id": "a\\nb"}'}), "request.request_id"),
    ],
)
def test_a_bad_request_frame_is_refused_with_a_sentence(frame: bytes, says: str) -> None:
    with pytest.raises(BadFrame, match=says) as caught:
        decode_request(frame)
    assert caught.value.problem.status == 400 and caught.value.field


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "body"),
        (b'{"context_ids": [[NaN]]}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"request": {"support": "sampled", "request_id": "r"}, "context_ids": [[1]]}', "completion_ids"),
        (json.dumps({**json.loads(request_to_json(small())), "context_ids": [[2**40]]}).encode(), "context_ids.0.0"),
        (json.dumps({**json.loads(request_to_json(small())), "context_ids": [[True]]}).encode(), "context_ids.0.0"),
        (json.dumps({**json.loads(request_to_json(small())), "protocol": "9"}).encode(), "speaks 1"),
        (json.dumps({**json.loads(request_to_json(small())), "context_of": [0]}).encode(), "context_of"),
    ],
)
def test_bad_json_is_refused_with_a_sentence(body: bytes, says: str) -> None:
    with pytest.raises(BadFrame, match=says):
        request_from_json(body)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_request(frame)


def test_an_answer_for_another_request_is_refused() -> None:
    request = small()
    frame = encode_scores(answer_to(request), request)
    with pytest.raises(Corrupt, match=r"F32 \[3\]"):
        decode_scores(frame, small(completions=[np.array([3]), np.array([4])]))
    with pytest.raises(Corrupt, match="missing"):
        decode_scores(frame, small(extras=frozenset({Extra.RANK})))
    with pytest.raises(Corrupt, match="malformed"):
        decode_scores(frame[:-1], request)


def test_f8_hidden_states_lose_a_sixteenth_at_most() -> None:
    request = small(support=Support.FULL, dtype=HiddenDtype.F8)
    scores = answer_to(request)
    back = decode_scores(encode_scores(scores, request), request)
    assert scores.hidden_TD is not None and back.hidden_TD is not None
    np.testing.assert_allclose(back.hidden_TD, scores.hidden_TD, rtol=1 / 15, atol=2e-2)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_head_is_named_by_its_bytes(narrow: bool) -> None:
    weight = from_bf16(to_bf16(np.random.default_rng(0).random((5, 3), dtype=np.float32)))
    tensor = Tensor("BF16", to_bf16(weight)) if narrow else Tensor.of(weight)
    buffers = head_buffers(tensor, Tensor.of(np.arange(5, dtype=np.float32)))
    frame, hash = b"".join(buffers), hash_of(buffers)
    head = decode_head(frame, hash)
    np.testing.assert_array_equal(head.weight_VD, weight)
    assert head.hash == hash and head.bias_V is not None
    with pytest.raises(Corrupt, match="hash"):
        decode_head(frame[:-1] + b"x", hash)


def test_a_head_whose_bias_does_not_fit_is_refused() -> None:
    buffers = head_buffers(Tensor.of(np.ones((5, 3), dtype=np.float32)), Tensor.of(np.ones(4, dtype=np.float32)))
    with pytest.raises(Corrupt, match="bias has 4"):
        decode_head(b"".join(buffers), hash_of(buffers))
