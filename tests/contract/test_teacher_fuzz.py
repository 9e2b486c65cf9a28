"""Mangled bodies against the real application: a score, or a 4xx problem with a sentence; never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor.frames import encode_request
from preceptor.twins import request_to_json
from preceptor.wire.common import Problem
from preceptor.wire.score import Extra, HiddenDtype, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.hf import HfBackend
from tests.contract.teaching import Teaching, asked, table, teaching
from tests.mangling import WILD_VALUES, mangled
from tests.models import tiny_model_folder

CHUNKS, FRAMES_EACH, BODIES_EACH = 8, 400, 150
FRAME, JSON = {"Content-Type": "application/x-safetensors"}, {"Content-Type": "application/json"}
CANDIDATES = np.array([[1, 2, -1], [3, 4, 5], [0, -1, -1]], dtype=np.int32)
REQUESTS: list[ScoreRequest] = [
    asked(),
    asked(support=Support.TOPK, extras=frozenset(Extra)),
    asked(support=Support.IDS, candidate_ids=CANDIDATES, position_mask=np.array([True, False, True])),
    asked(support=Support.FULL, dtype=HiddenDtype.F8, weights_version=0),
]


@pytest.fixture(scope="module")
def taught() -> Iterator[Teaching]:
    with teaching(table(max_tokens=64), teacher_max_batch_tokens=256, teacher_max_body_bytes=20_000) as taught:
        yield taught


def assert_answered(answer: httpx.Response, body: bytes) -> bool:
    """Whether it was taken. What was not is a problem that a person can read."""
    if answer.status_code == 200:
        return True
    # A body may ask for its answer within a millisecond; that this was too little is no fault of the service.
    late = answer.status_code == 503 and "deadline has passed" in answer.text
    assert late or 400 <= answer.status_code < 500, (answer.status_code, answer.text, body)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert problem.status == answer.status_code and problem.detail.endswith((".", "?")), (problem, body)
    return False


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_frame_breaks_the_service(taught: Teaching, chunk: int) -> None:
    rng, frames = Random(2000 + chunk), [encode_request(request) for request in REQUESTS]
    bodies = [mangled(rng, frames) for _ in range(FRAMES_EACH)]
    taken = sum(assert_answered(taught.http.post("/v1/score", content=body, headers=FRAME), body) for body in bodies)
    assert taken < FRAMES_EACH // 2
    assert np.isfinite(taught.client.score(asked()).logprob_T).all(), "and the next one is served"


def test_no_frame_breaks_a_real_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is taken is computed: shapes that nobody would send must not upset the packing either."""
    rng, frames = Random(4000), [encode_request(request) for request in REQUESTS]
    backend = HfBackend(tiny_model_folder(tmp_path_factory.mktemp("model"), vocab=16))
    with teaching(backend, teacher_max_batch_tokens=256) as taught:
        for _ in range(600):
            body = mangled(rng, frames)
            assert_answered(taught.http.post("/v1/score", content=body, headers=FRAME), body)
        assert np.isfinite(taught.client.score(asked()).logprob_T).all()


def test_no_weights_break_a_real_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A body that is refused changes nothing: the version, and what it says, stay."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model_folder(folder, vocab=16, hidden=8, layers=1)
    whole_model = (folder / "model.safetensors").read_bytes()
    backend, rng = HfBackend(folder), Random(5000)
    with teaching(backend, teacher_takes_weights=True) as taught:
        for _ in range(400):
            body, before = mangled(rng, [whole_model]), backend.about
            answer = taught.http.post(f"/v1/weights?kind={rng.choice(('full', 'lora'))}", content=body, headers=FRAME)
            if not assert_answered(answer, body):
                assert backend.about is before
        assert taught.http.post("/v1/weights?kind=full", content=whole_model, headers=FRAME).status_code == 200
        with teaching(HfBackend(folder)) as fresh:
            np.testing.assert_array_equal(taught.client.score(asked()).logprob_T, fresh.client.score(asked()).logprob_T)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value that something else could stand in: its container, and where."""
    if isinstance(value, dict | list):
        for place in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, place
            yield from places(value[place])


def mangled_json(rng: Random, texts: list[str]) -> bytes:
    value = copy.deepcopy(json.loads(rng.choice(texts)))
    for _ in range(rng.choice((1, 1, 2))):
        container, place = rng.choice(list(places(value)))
        way = rng.randrange(4)
        if way == 0:
            del container[place]
        elif way == 1 and isinstance(container, list):
            container.append(rng.choice(WILD_VALUES))
        else:
            container[place] = rng.choice(WILD_VALUES)
    text = json.dumps(value).encode()
    return text[: rng.randrange(len(text))] if rng.random() < 0.1 else text


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_json_breaks_the_service(taught: Teaching, chunk: int) -> None:
    rng, texts = Random(3000 + chunk), [request_to_json(request) for request in REQUESTS]
    bodies = [mangled_json(rng, texts) for _ in range(BODIES_EACH)]
    taken = sum(assert_answered(taught.http.post("/v1/score", content=body, headers=JSON), body) for body in bodies)
    assert taken < BODIES_EACH // 2


@pytest.mark.parametrize("support", ["everything", "", "SAMPLED", "logits", None, 3])
@pytest.mark.parametrize("form", ["frame", "json"])
def test_an_unknown_support_is_refused_with_those_that_are_offered(taught: Teaching, support: Any, form: str) -> None:
    known = '"support":"sampled"'
    if form == "frame":
        frame = encode_request(asked())
        length = int.from_bytes(frame[:8], "little")
        header = json.loads(frame[8 : 8 + length])
        assert known in header["__metadata__"]["request"]
        said = json.loads(header["__metadata__"]["request"]) | {"support": support}
        header["__metadata__"]["request"] = json.dumps(said)
        text = json.dumps(header).encode()
        body = len(text).to_bytes(8, "little") + text + frame[8 + length :]
    else:
        value = json.loads(request_to_json(asked()))
        value["request"]["support"] = support
        body = json.dumps(value).encode()
    answer = taught.http.post("/v1/score", content=body, headers=FRAME if form == "frame" else JSON)
    assert answer.status_code == 422, answer.text
    assert "sampled, ids, topk, full" in answer.json()["detail"]


@pytest.mark.parametrize("support", [Support.IDS, Support.TOPK, Support.FULL])
def test_a_support_that_the_card_does_not_offer_is_refused_with_what_it_offers(support: Support) -> None:
    backend = table()
    backend.about = replace(backend.about, supports=(Support.SAMPLED,), head=None)
    candidates = CANDIDATES if support is Support.IDS else None
    with teaching(backend) as taught:
        body = encode_request(asked(support=support, candidate_ids=candidates))
        answer = taught.http.post("/v1/score", content=body, headers=FRAME)
    assert answer.status_code == 422 and answer.json()["field"] == "support"
    assert f"'{support}' is not offered by this teacher; it offers sampled" in answer.json()["detail"]


@pytest.mark.parametrize(
    "changes",
    [
        {"contexts": ((1, 16),)},
        {"contexts": ((2**31 - 1,),)},
        {"completions": ((4, 5), (), (1000,))},
        {"support": Support.IDS, "candidate_ids": np.array([[1], [16], [2]], dtype=np.int32)},
    ],
)
def test_ids_out_of_vocabulary_are_refused_by_name(taught: Teaching, changes: dict[str, Any]) -> None:
    answer = taught.http.post("/v1/score", content=encode_request(asked(**changes)), headers=FRAME)
    assert answer.status_code == 422
    assert "vocabulary ends at 15" in answer.json()["detail"] and answer.json()["field"]
