"""A hundred thousand frames that nobody should send: each is a request, or refused in a sentence; memory stays bounded.

`tests/mangling.py` makes them, from a seed: what fails here names its frame.
"""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import Any

import numpy as np
import pytest

from preceptor.errors import Corrupt, Invalid, PreceptorError, TooLarge
from preceptor.frames import decode_request, decode_scores, encode_request, encode_scores
from preceptor.limits import check_fits
from preceptor.tensors import MAX_HEADER_BYTES
from preceptor.wire.score import Extra, HiddenDtype, ScoreRequest
from preceptor.wire.teachers import Card, HeadCard, Limits, Support, TokenizerCard
from tests.mangling import mangled, whole
from tests.unit.clients.test_frames import answer_to, small

CHUNKS, REQUESTS_EACH, ANSWERS_EACH = 25, 4_000, 800
MASK = np.array([True, False, True])
CANDIDATES = np.array([[1, 2, -1], [3, 4, 5], [0, -1, -1]], dtype=np.int32)
REQUESTS = [
    small(**changes)
    for changes in (
        {},
        {"support": Support.TOPK, "k": 3, "extras": frozenset(Extra)},
        {"support": Support.IDS, "candidate_ids": CANDIDATES, "position_mask": MASK},
        {"support": Support.FULL, "dtype": HiddenDtype.BF16, "weights_version": 0, "deadline_ms": 1000},
        {"support": Support.FULL, "dtype": HiddenDtype.F8, "position_mask": MASK, "temperature": 0.5},
    )
]
CARD = Card(
    teacher="t",
    model="m",
    weights_version=0,
    engine="e",
    device="cpu",
    dtype="float32",
    tokenizer=TokenizerCard(fingerprint="sha256:" + "0" * 64, vocab_size=16),
    limits=Limits(max_tokens=16, max_batch_tokens=64, max_k=8, max_body_bytes=1 << 20),
    supports=tuple(Support),
    head=HeadCard(hash="sha256:" + "0" * 64, hidden_size=6),
)
BODY_TIMES, HEADER_TIMES, SLACK = 8, 64, 256 * 1024
"""Memory that one frame may take at most: a body is copied into arrays and those are checked, a header's JSON becomes
objects (an empty list is two bytes of text and 64 of memory)."""


def assert_sentence(error: PreceptorError, frame: bytes) -> None:
    problem = error.problem
    assert 400 <= problem.status < 500 or isinstance(error, Corrupt), problem
    assert problem.detail.endswith((".", "?")) and 10 < len(problem.detail) < 600, (problem, frame)
    assert problem.model_dump_json(), "it can be sent"


def decoded(frame: bytes) -> ScoreRequest | None:
    """The request, or None where it was refused as it should be."""
    try:
        request = decode_request(frame)
    except Invalid as error:
        assert error.problem.status == 400
        assert_sentence(error, frame)
        return None
    try:
        check_fits(request, CARD)
    except (Invalid, TooLarge) as error:
        assert_sentence(error, frame)
        return None
    return request


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_frame_is_a_request_or_refused_in_a_sentence(chunk: int) -> None:
    rng, frames = Random(chunk), [encode_request(request) for request in REQUESTS]
    taken = 0
    for _ in range(REQUESTS_EACH):
        request = decoded(mangled(rng, frames))
        if request is not None:
            taken += 1
            assert_serveable(request)
    assert REQUESTS_EACH // 100 < taken < REQUESTS_EACH // 2, "most are bad, and some come close"


def assert_serveable(request: ScoreRequest) -> None:
    """What a backend relies on without looking again."""
    total = int(request.completion_offsets[-1])
    assert request.support in Support and len(request.context_of) == len(request.completions)
    for ids in (*request.contexts, *request.completions):
        assert (ids.dtype == np.int32 and not ids.size) or 0 <= int(ids.min()) <= int(ids.max()) < 16
    assert all(0 <= index < len(request.contexts) for index in request.context_of.tolist())
    assert all(len(ids) for ids in request.contexts)
    assert (request.support is Support.IDS) == (request.candidate_ids is not None)
    for rows in (request.candidate_ids, request.position_mask):
        assert rows is None or len(rows) == total


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_an_answer_is_an_answer_or_corrupt(chunk: int) -> None:
    rng = Random(1000 + chunk)
    pairs = [(request, encode_scores(answer_to(request), request)) for request in REQUESTS]
    frames = [frame for _, frame in pairs]
    taken = 0
    for _ in range(ANSWERS_EACH):
        request = rng.choice(REQUESTS)
        frame = mangled(rng, frames if rng.random() < 0.2 else [frames[REQUESTS.index(request)]])
        try:
            scores = decode_scores(frame, request)
        except Corrupt as error:
            assert_sentence(error, frame)
            continue
        taken += 1
        count = int(request.scored_offsets[-1])
        assert len(scores.logprob_T) == count
        for array in (scores.ids_TK, scores.logprobs_TK, scores.tail_T, scores.hidden_TD, scores.rank_T):
            assert array is None or len(array) == count
    assert ANSWERS_EACH // 100 < taken < ANSWERS_EACH // 2


def peak_of(frame: bytes) -> int:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    decoded(frame)
    return tracemalloc.get_traced_memory()[1] - before


@pytest.fixture
def traced() -> Any:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_no_frame_takes_more_memory_than_its_size_explains(traced: None) -> None:
    rng, frames = Random(0), [encode_request(request) for request in REQUESTS]
    for _ in range(1500):
        frame = mangled(rng, frames)
        assert peak_of(frame) < HEADER_TIMES * len(frame) + SLACK


BIG = MAX_HEADER_BYTES - 64


@pytest.mark.parametrize(
    "header",
    [
        b"[" * BIG,
        b'{"a":[' + b"[]," * (BIG // 3) + b"0]}",
        b'{"a":[' + b"{}," * (BIG // 3) + b"0]}",
        b'{"a":"' + b"x" * BIG + b'"}',
        b"{" + b",".join(b'"%d":0' % index for index in range(BIG // 10)) + b"}",
        b'{"a":{"dtype":"F32","shape":[' + b"1," * (BIG // 2) + b'1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"protocol":"1","request":"' + b"[" * BIG + b'"}}',
        b'{"__metadata__":{"protocol":"1","request":"' + b"[]," * (BIG // 3) + b'"}}',
    ],
    ids=["nested", "lists", "objects", "text", "names", "shape", "request-nested", "request-lists"],
)
def test_the_largest_header_takes_bounded_memory(traced: None, header: bytes) -> None:
    frame = whole(header, b"\0" * 8)
    assert peak_of(frame) < HEADER_TIMES * len(frame) + SLACK


def test_a_large_body_is_copied_a_few_times_at_most(traced: None) -> None:
    """Two million ids, in a request that is refused only when it has been read."""
    request = small(completions=[np.full(1 << 20, 3, dtype=np.int32), np.full(1 << 20, 4, dtype=np.int32)])
    frame = encode_request(request)
    assert peak_of(frame) < BODY_TIMES * len(frame)


def test_a_length_that_is_only_claimed_takes_no_memory(traced: None) -> None:
    for claimed in (2**20, 2**31, 2**63, 2**64 - 1):
        assert peak_of(claimed.to_bytes(8, "little") + b"{}") < SLACK
