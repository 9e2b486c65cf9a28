"""The adapters of stock servers, against answers that real ones gave: read strictly, refused by name, never guessed."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor.adapters import Stock, open_teacher
from preceptor.adapters.openai import OpenAIClient
from preceptor.adapters.sglang import SglangClient
from preceptor.adapters.vllm import COMPLETIONS, TOKEN_IN, VllmClient
from preceptor.errors import BadScores, Corrupt, Invalid, NotAuthorised, TeacherUnavailable
from preceptor.pool import TeacherPool
from preceptor.probe import probe_teacher
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Outcome, Support, TeacherCreate, TeacherKind, Values
from tests.contract.stock_doubles import PROMPT, STOCK, Asked, Sglang, Vllm

URL = "http://gpu7:8000"
RECORDED = [-8.798623085021973, -6.498326301574707, -7.851691246032715]
"""What both engines said of 40, 50 and 60 after 10, 20 and 30."""


def request_of(support: Support = Support.SAMPLED, k: int = 0, **more: Any) -> ScoreRequest:
    return ScoreRequest(
        contexts=[np.array(PROMPT[:3], dtype=np.int32)],
        completions=[np.array(PROMPT[3:], dtype=np.int32), np.array([], dtype=np.int32)],
        context_of=np.array([0, 0], dtype=np.int32),
        support=support,
        k=k,
        **more,
    )


def vllm(server: Vllm | Callable[[httpx.Request], httpx.Response], stock: Stock = STOCK) -> VllmClient:
    return VllmClient(URL, None, stock, transport=httpx.MockTransport(server))


def sglang(server: Sglang, stock: Stock = STOCK) -> SglangClient:
    return SglangClient(URL, None, stock, transport=httpx.MockTransport(server))


# --- vLLM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token_in", "path"), [(True, TOKEN_IN), (False, COMPLETIONS)])
def test_vllm_is_asked_token_in_where_it_can_be(token_in: bool, path: str) -> None:
    server = Vllm(token_in=token_in)
    with vllm(server) as teacher:
        scores = teacher.score(request_of())
    assert scores.logprob_T.tolist() == pytest.approx(RECORDED)
    assert scores.offsets.tolist() == [0, 3, 3], "an empty completion is legal and gives nothing"
    assert server.asked[-1][0] == path
    stamp = scores.stamp
    assert (stamp.teacher, stamp.model, stamp.engine) == ("stock", "teacher", "vllm 0.32.0")
    assert (stamp.head_hash, stamp.weights_version, len(stamp.context_hashes)) == (None, 0, 1)


def test_vllm_card_says_what_was_found_out() -> None:
    with vllm(Vllm(widest=20)) as teacher:
        card = teacher.card()
    assert card.supports == (Support.SAMPLED, Support.TOPK)
    assert (card.limits.max_k, card.limits.max_tokens, card.values) == (20, 2047, Values.RAW)
    with vllm(Vllm(widest=5000)) as teacher:
        assert teacher.card().limits.max_k == 1024, "no more than there are"
    with vllm(Vllm(widest=0)) as teacher:
        assert teacher.card().supports == (Support.SAMPLED,)


def test_a_refusal_that_names_no_bound_is_felt_for() -> None:
    server = Vllm(widest=5)

    def silent(request: httpx.Request) -> httpx.Response:
        answer = server(request)
        return httpx.Response(400, json={"error": {"message": "no"}}) if answer.status_code == 400 else answer

    with vllm(silent) as teacher:
        assert teacher.card().limits.max_k == 5


def test_vllm_topk_is_by_rank_and_leaves_a_tail() -> None:
    with vllm(Vllm()) as teacher:
        scores = teacher.score(request_of(Support.TOPK, 2))
    assert scores.ids_TK is not None and scores.logprobs_TK is not None and scores.tail_T is not None
    assert scores.ids_TK.tolist() == [[352, 639], [841, 447], [609, 822]]
    assert scores.logprobs_TK[0].tolist() == pytest.approx([-5.271968364715576, -5.481565952301025])
    whole = np.exp(scores.logprobs_TK).sum(axis=1) + np.exp(scores.tail_T)
    assert whole.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)


def test_a_mask_keeps_positions() -> None:
    with vllm(Vllm()) as teacher:
        mask = np.array([True, False, True])
        scores = teacher.score(request_of(Support.TOPK, 2, position_mask=mask))
    assert scores.logprob_T.tolist() == pytest.approx([RECORDED[0], RECORDED[2]])
    assert scores.ids_TK is not None and scores.ids_TK.tolist() == [[352, 639], [609, 822]]
    assert scores.offsets.tolist() == [0, 2, 2]


def test_ids_of_the_students_choice_need_the_gpu_builds_runner() -> None:
    """Refused by the recorded CPU server; where it is served, the answer is as vLLM's source writes it."""
    candidates = np.array([[5, 6], [7, -1], [8, 9]], dtype=np.int32)
    with vllm(Vllm()) as teacher, pytest.raises(Invalid, match="'ids' is not offered"):
        teacher.score(request_of(Support.IDS, candidate_ids=candidates))
    server = Vllm()
    seen: list[Asked] = []

    def gpu(request: httpx.Request) -> httpx.Response:
        body = _json(request)
        wanted = body.get("sampling_params", {}).pop("prompt_logprob_token_ids", None)
        if wanted is None:
            return server(request)
        seen.append((request.url.path, {**body, "wanted": wanted}))
        answer = server(httpx.Request("POST", request.url, json=body)).json()
        values = np.where(np.array(wanted) < 0, -np.inf, -0.5 * np.array(wanted)).astype(np.float32)
        return httpx.Response(200, json={**answer, "prompt_token_id_logprobs": _npy(values)})

    with vllm(gpu) as teacher:
        assert teacher.card().supports == (Support.SAMPLED, Support.IDS, Support.TOPK)
        scores = teacher.score(request_of(Support.IDS, candidate_ids=candidates))
    assert seen[-1][1]["wanted"] == candidates.tolist()
    assert seen[-1][1]["sampling_params"]["prompt_logprob_start"] == 2, "row i scores token start + i + 1"
    assert scores.logprobs_TK is not None and scores.ids_TK is not None
    assert scores.logprobs_TK.tolist() == [[-2.5, -3.0], [-3.5, -np.inf], [-4.0, -4.5]]
    assert scores.logprob_T.tolist() == pytest.approx(RECORDED) and scores.ids_TK.tolist() == candidates.tolist()


def _json(request: httpx.Request) -> dict[str, Any]:
    return json.loads(request.content) if request.content else {}


def _npy(array: np.ndarray) -> str:
    held = io.BytesIO()
    np.save(held, array)
    return base64.b64encode(held.getvalue()).decode()


def spoilt(what: Callable[[list[Any]], None]) -> Callable[[Any], Any]:
    def edit(answer: Any) -> Any:
        if len(answer["prompt_logprobs"]) == len(PROMPT):
            what(answer["prompt_logprobs"])
        return answer

    return edit


def _drop(entries: list[Any]) -> None:
    entries[4] = None


def _shift(entries: list[Any]) -> None:
    entries[3:] = [*entries[4:], entries[3]]


def _shorten(entries: list[Any]) -> None:
    entries.pop()


def _null(entries: list[Any]) -> None:
    entries[3]["40"]["logprob"] = None


def _unrank(entries: list[Any]) -> None:
    entries[5].pop("822")


def _double(entries: list[Any]) -> None:
    for found in entries[3].values():
        found["logprob"] = -0.1


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (_drop, "token 1 of completion 0: the entry is missing"),
        (_shift, "the answer is shifted"),
        (_shorten, "covers 5 positions where 6 were asked for"),
        (_null, "token 0 of completion 0: the log-probability is null"),
        (_unrank, r"names ranks \[1\] where 1 to 2 were asked for"),
        (_double, "add up to 1.81"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error_and_never_a_zero(
    what: Callable[[list[Any]], None], words: str
) -> None:
    with vllm(Vllm(edit=spoilt(what))) as teacher, pytest.raises(Corrupt, match=words):
        teacher.score(request_of(Support.TOPK, 2))


def test_the_engines_floor_is_minus_infinity(tmp_path: Path) -> None:
    """-9999.0 on a written token is a token that the teacher thinks impossible: the pool names it."""

    def floor(entries: list[Any]) -> None:
        entries[4]["50"]["logprob"] = -9999.0

    server = Vllm(edit=spoilt(floor))
    with vllm(server) as teacher:
        assert teacher.score(request_of()).logprob_T[1] == -np.inf
        card = teacher.card()
    endpoint = TeacherEndpoint(name="stock", url=URL, kind=TeacherKind.VLLM, card=card)
    with (
        TeacherPool({"t": endpoint}, tmp_path, transport=httpx.MockTransport(server)) as pool,
        pytest.raises(BadScores, match=r"'stock'.*logprob is -inf at token 1 of completion 0"),
    ):
        pool.score("t", request_of())


def test_the_pool_asks_it_like_any_teacher_and_counts_the_bytes(tmp_path: Path) -> None:
    server = Vllm()
    with vllm(server) as teacher:
        endpoint = TeacherEndpoint(name="stock", url=URL, kind=TeacherKind.VLLM, card=teacher.card())
    with TeacherPool({"t": endpoint}, tmp_path, transport=httpx.MockTransport(server), deadline=0.3, wait=0) as pool:
        scores = pool.score("t", request_of(Support.TOPK, 2))
        ledger = pool.take_ledger()["t"]
        server.down = True
        with pytest.raises(TeacherUnavailable, match="Teacher 'stock' gave no answer"):
            pool.score("t", request_of())
    assert scores.stamp.teacher == "stock"
    assert (ledger.requests, ledger.sequences, ledger.tokens, ledger.head_bytes) == (1, 2, 3, 0)
    assert ledger.bytes_sent > 100 and ledger.bytes_received > 1000


def test_what_is_not_vllm_is_said_so() -> None:
    def other(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, text="no")

    with vllm(other) as teacher, pytest.raises(Invalid, match="is not a vLLM server"):
        teacher.card()

    def locked(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"error": "Unauthorized"})

    with vllm(locked) as teacher, pytest.raises(NotAuthorised, match="Unauthorized"):
        teacher.card()
    several = Vllm()
    several.records["models"]["data"].append({"id": "second", "max_model_len": 8})
    with vllm(several) as teacher, pytest.raises(Invalid, match="serves 2 models"):
        teacher.card()
    with vllm(several, replace(STOCK, model="third")) as teacher, pytest.raises(Invalid, match="serves no 'third'"):
        teacher.card()


def test_an_adapter_has_from_its_base_what_its_own_entry_leaves_out():
    server = Vllm()
    (base,) = server.records["models"]["data"]
    adapter = {"id": "trained", "root": "/adapter", "parent": base["id"], "max_model_len": None}
    server.records["models"]["data"].append(adapter)
    with vllm(server, replace(STOCK, model="trained")) as teacher:
        card = teacher.card()
    assert (card.model, card.limits.max_tokens) == ("trained", base["max_model_len"] - 1)


def test_a_server_without_prompt_log_probabilities_is_sent_elsewhere() -> None:
    def bare(answer: Any) -> Any:
        answer["choices"][0]["prompt_logprobs"] = None
        return answer

    with vllm(Vllm(token_in=False, edit=bare)) as teacher, pytest.raises(Invalid, match="kind 'openai'"):
        teacher.card()


# --- SGLang ---------------------------------------------------------------------------------------------------------


def four_and_two(support: Support = Support.SAMPLED, k: int = 0) -> ScoreRequest:
    """As it was recorded: scores from the fourth token on."""
    return ScoreRequest(
        contexts=[np.array(PROMPT[:4], dtype=np.int32)],
        completions=[np.array(PROMPT[4:], dtype=np.int32)],
        context_of=np.array([0], dtype=np.int32),
        support=support,
        k=k,
    )


def test_sglang_is_asked_from_the_contexts_last_token_on() -> None:
    server = Sglang()
    with sglang(server) as teacher:
        card, scores = teacher.card(), teacher.score(four_and_two(Support.TOPK, 1))
    assert scores.logprob_T.tolist() == pytest.approx(RECORDED[1:])
    assert scores.ids_TK is not None and scores.ids_TK.tolist() == [[841], [609]]
    assert (card.engine, card.device, card.dtype) == ("sglang 0.5.23", "cpu", "float32")
    assert card.supports == (Support.SAMPLED, Support.TOPK) and card.limits.max_tokens == 4095
    path, body = server.asked[-1]
    assert path == "/generate" and body["sampling_params"]["max_new_tokens"] == 0 and body["top_logprobs_num"] == 1


def test_sglang_reloads_weights_and_refuses_what_it_does_not_have() -> None:
    server = Sglang()
    with sglang(server) as teacher:
        teacher.reload_weights("/models/tiny2")
        assert server.asked[-1] == ("/update_weights_from_disk", server.records["reload"]["body"])
        assert teacher.tokens_of("def foo") == server.records["tokenize"]["answer"]["tokens"]
        assert teacher.text_of([1]) is None, "this version has no /detokenize"
        with pytest.raises(Invalid, match="'ids' is not offered by this SGLang server"):
            candidates = np.zeros((2, 1), dtype=np.int32)
            teacher.score(replace(four_and_two(), support=Support.IDS, candidate_ids=candidates))


def _other_token(meta: dict[str, Any]) -> None:
    meta["input_token_logprobs"][1][1] = 51


def _no_list(meta: dict[str, Any]) -> None:
    del meta["input_token_logprobs"]


def _no_number(meta: dict[str, Any]) -> None:
    meta["input_token_logprobs"][2][0] = None


def _narrow(meta: dict[str, Any]) -> None:
    meta["input_top_logprobs"][2] = []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (_other_token, "token 0 of completion 0: the entry is of token 51 where 50 was written"),
        (_no_list, "input_token_logprobs: is missing"),
        (_no_number, "token 1 of completion 0: the log-probability is null"),
        (_narrow, "covers 0 positions where 1 were asked for"),
    ],
)
def test_sglang_answers_are_read_as_strictly(what: Callable[[dict[str, Any]], None], words: str) -> None:
    def edit(answer: Any) -> Any:
        what(answer["meta_info"])
        return answer

    with sglang(Sglang(edit=edit)) as teacher, pytest.raises(Corrupt, match=words):
        teacher.score(four_and_two(Support.TOPK, 1))


# --- text -----------------------------------------------------------------------------------------------------------


def test_an_openai_endpoint_is_a_text_teacher() -> None:
    seen: list[str] = []

    def chat(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "writer"}]})
        if "max_tokens" in _json(request):
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return httpx.Response(400, json={"error": {"message": words}})
        return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": "Hello."}}]})

    transport = httpx.MockTransport(chat)
    card, probe = probe_teacher(f"{URL}/v1", None, TeacherKind.OPENAI, Stock(name="critic"), transport=transport)
    assert (card.supports, card.generates, card.model, card.tokenizer.fingerprint) == ((), True, "writer", None)
    assert probe.ok and [check.outcome for check in probe.checks] == [Outcome.PASSED]
    assert set(seen) == {"/v1/models", "/v1/chat/completions"}
    with (
        OpenAIClient(URL, None, Stock(name="critic"), transport=transport) as teacher,
        pytest.raises(Invalid, match="a text teacher"),
    ):
        teacher.score(request_of())


# --- registration ---------------------------------------------------------------------------------------------------


def test_a_stock_server_is_registered_with_its_tokenizer() -> None:
    with pytest.raises(ValueError, match="--tokenizer FOLDER"):
        TeacherCreate(name="stock", url=URL, kind=TeacherKind.VLLM)
    with pytest.raises(ValueError, match="leave it out"):
        TeacherCreate(name="stock", url=URL, tokenizer=STOCK.tokenizer)
    assert TeacherCreate(name="stock", url=URL, kind=TeacherKind.SGLANG, tokenizer=STOCK.tokenizer).key_env is None
    with pytest.raises(Invalid, match="needs its name"):
        open_teacher(TeacherKind.VLLM, URL)
