"""The score protocol, the SDK against the application: every support, both forms, both backends, the position rule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from preceptor.errors import Conflict, Invalid, TooLarge
from preceptor.frames import decode_head
from preceptor.twins import request_to_json, scores_from_json
from preceptor.wire.score import Extra, HiddenDtype, Numbers, ScoreRequest, context_hash
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_services.teacher.backends.table import TableBackend, from_rows
from preceptor_trainer import scoring
from preceptor_trainer.model import load_model
from tests.contract.teaching import Teaching, V, asked, table, teaching
from tests.models import tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=["table", "hf"])
def taught(request: pytest.FixtureRequest, folder: Path) -> Iterator[Teaching]:
    backend = table() if request.param == "table" else HfBackend(folder, forward_tokens=16)
    with teaching(backend, teacher_name="math", teacher_max_batch_tokens=600, teacher_max_k=8) as taught:
        yield taught


def requests() -> list[ScoreRequest]:
    candidates = np.array([[0, 3, -1], [1, 2, 15], [-1, -1, -1]], dtype=np.int32)
    mask = np.array([True, False, True])
    extras = frozenset(Extra)
    return [
        asked(),
        asked(extras=extras, temperature=0.5),
        asked(support=Support.TOPK, extras=extras),
        asked(support=Support.IDS, candidate_ids=candidates),
        asked(support=Support.IDS, candidate_ids=candidates, position_mask=mask, extras=extras),
        asked(support=Support.FULL),
        asked(support=Support.FULL, position_mask=mask),
        asked(completions=()),
        asked(completions=((), ())),
        asked(contexts=((1,), (2, 3)), context_of=np.array([1, 0, 1], dtype=np.int32)),
    ]


def assert_close(one: Numbers, two: Numbers) -> None:
    for name in ("logprob_T", "logprobs_TK", "tail_T", "hidden_TD", "entropy_T", "logsumexp_T", "rank_T", "ids_TK"):
        left, right = getattr(one, name), getattr(two, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_allclose(left, right, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("request_", requests())
def test_both_forms_say_the_same(taught: Teaching, request_: ScoreRequest) -> None:
    binary = taught.client.score(request_)
    answer = taught.http.post(
        "/v1/score", content=request_to_json(request_), headers={"Content-Type": "application/json"}
    )
    assert answer.headers["content-type"] == "application/json"
    assert_close(scores_from_json(answer.content, request_), binary)
    np.testing.assert_array_equal(binary.offsets, request_.scored_offsets)


@pytest.mark.parametrize("request_", requests())
def test_over_http_and_in_the_process_are_the_same_numbers(folder: Path, request_: ScoreRequest) -> None:
    with teaching(HfBackend(folder)) as taught:
        assert_close(taught.client.score(request_), scoring.score(load_model(folder), request_))


def test_entry_t_scores_token_t_given_the_tokens_before_it() -> None:
    low = [0.0] * V
    rows = {(1,): [*low[:4], 9.0, *low[5:]], (1, 4): [*low[:5], 7.0, *low[6:]], (1, 4, 5): [*low[:6], 5.0, *low[7:]]}
    with teaching(TableBackend(from_rows(rows, low), V)) as taught:
        scores = taught.client.score(asked(contexts=((1,),), completions=((4, 5, 6), (5,))))
    lse = [np.log(np.exp(top) + V - 1) for top in (9, 7, 5)]
    np.testing.assert_allclose(scores.logprob_T, [9 - lse[0], 7 - lse[1], 5 - lse[2], -lse[0]], rtol=1e-6)


def test_every_score_is_stamped(taught: Teaching) -> None:
    request = asked(contexts=((1, 2), (3,)), temperature=0.5)
    stamp, card = taught.client.score(request).stamp, taught.client.card()
    assert (stamp.teacher, stamp.model, stamp.weights_version) == ("math", card.model, card.weights_version)
    assert (stamp.engine, stamp.device, stamp.dtype, stamp.values) == (
        card.engine,
        card.device,
        card.dtype,
        card.values,
    )
    assert stamp.context_hashes == (context_hash([1, 2]), context_hash([3]))
    assert stamp.temperature == 0.5 and card.head is not None and stamp.head_hash == card.head.hash
    assert stamp.computed_seconds > 0 <= stamp.queued_seconds


def test_hidden_states_times_head_are_the_scores(taught: Teaching) -> None:
    request = asked(support=Support.FULL)
    scores, head = taught.client.score(request), taught.client.head()
    assert scores.hidden_TD is not None and head.hash == scores.stamp.head_hash
    logits = (scores.hidden_TD @ head.weight_VD.T).astype(np.float64)
    logprob_TV = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    tokens = np.concatenate(request.completions)
    np.testing.assert_allclose(logprob_TV[np.arange(3), tokens], scores.logprob_T, atol=1e-4)


@pytest.mark.parametrize(("dtype", "bound"), [(HiddenDtype.BF16, 1 / 128), (HiddenDtype.F8, 1 / 8)])
def test_hidden_states_travel_narrow_when_asked(taught: Teaching, dtype: HiddenDtype, bound: float) -> None:
    exact = taught.client.score(asked(support=Support.FULL)).hidden_TD
    narrow = taught.client.score(asked(support=Support.FULL, dtype=dtype)).hidden_TD
    assert exact is not None and narrow is not None
    np.testing.assert_allclose(narrow, exact, rtol=bound, atol=0.02)


def test_the_head_is_served_in_ranges(taught: Teaching, tmp_path: Path) -> None:
    whole = taught.http.get("/v1/head")
    hash = whole.headers["etag"].strip('"')
    decode_head(whole.content, hash)
    size = len(whole.content)
    for wanted, first, last in (("bytes=0-9", 0, 10), ("bytes=100-", 100, size), ("bytes=-7", size - 7, size)):
        part = taught.http.get("/v1/head", headers={"Range": wanted})
        assert part.status_code == 206 and part.content == whole.content[first:last]
        assert part.headers["content-range"] == f"bytes {first}-{last - 1}/{size}"
    for wanted in (f"bytes={size}-", "bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5"):
        assert taught.http.get("/v1/head", headers={"Range": wanted}).status_code == 416
    assert taught.http.get("/v1/head", headers={"If-None-Match": f'"{hash}"'}).status_code == 304
    other = taught.http.get("/v1/head", headers={"Range": "bytes=0-9", "If-Range": '"sha256:other"'})
    assert other.status_code == 200
    (tmp_path / "head").write_bytes(whole.content[: size // 2])
    assert taught.client.download_head(tmp_path / "head") == hash
    assert (tmp_path / "head").read_bytes() == whole.content


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"completions": ((1000,),)}, Invalid, "completions"),
        ({"contexts": ((1000,),)}, Invalid, "contexts"),
        ({"contexts": ((1,) * 5000,)}, Invalid, "contexts"),
        ({"support": Support.TOPK, "k": 9}, Invalid, "k"),
        ({"support": Support.IDS, "candidate_ids": np.full((3, 1), 1000, dtype=np.int32)}, Invalid, "candidate_ids"),
        ({"contexts": ((1,) * 300,), "completions": ((2,) * 50,) * 20}, TooLarge, "completions"),
        ({"weights_version": 3}, Conflict, "weights_version"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    taught: Teaching, changes: dict[str, object], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        taught.client.score(asked(**changes))  # pyright: ignore[reportArgumentType]
    assert getattr(caught.value, "problem").field == field  # noqa: B009


def test_an_unknown_support_is_told_which_there_are(taught: Teaching) -> None:
    body = {**json.loads(request_to_json(asked())), "request": {"support": "all", "request_id": "r"}}
    answer = taught.http.post("/v1/score", json=body)
    assert answer.status_code == 422
    assert "sampled, ids, topk, full" in answer.json()["detail"]


def test_json_in_and_binary_out(taught: Teaching) -> None:
    headers = {"Content-Type": "application/json", "Accept": "application/x-safetensors"}
    answer = taught.http.post("/v1/score", content=request_to_json(asked()), headers=headers)
    assert answer.headers["content-type"] == "application/x-safetensors"
