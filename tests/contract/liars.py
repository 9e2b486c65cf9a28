"""Servers that answer over real HTTP and are not what they say: what registration has to find out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import Support, TokenizerCard
from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.backends import Backend
from preceptor_services.teacher.backends.table import TableBackend, hashed
from preceptor_services.teacher.settings import TeacherSettings
from tests.contract.teaching import KEY, V, spoil

LETTERS = "\n" + "".join(map(chr, range(32, 127)))
SPECIALS = ("<|end|>", "<|start|>")
TOKENS = (*SPECIALS, *LETTERS)
"""The tokens of the stock server below, by id."""


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """An application behind a port of its own; gives its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def teacher_app(backend: Backend, **settings: Any) -> Any:
    """A teacher's real application in front of a backend."""
    return create_teacher_app(backend, TeacherSettings(teacher_key=SecretStr(KEY), **settings))


class Liar(TableBackend):
    """A table whose numbers are changed on the way out."""

    def __init__(self, change: Callable[[Numbers, ScoreRequest], Numbers]) -> None:
        super().__init__(hashed(V), V)
        self._change = change

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        return self._change(super().score(request, between), request)


def shifted(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """Every completion's entries one place too early: what a next-token index that is off by one gives."""
    rows = np.split(numbers.logprob_T, numbers.offsets[1:-1])
    return spoil(numbers, logprob_T=np.concatenate([np.roll(row, -1) for row in rows]))


def unnormalised(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """The support's own sum taken for the whole: a softmax over what is shown, with a tail beside it."""
    if numbers.logprobs_TK is None:
        return numbers
    total = np.log(np.exp(numbers.logprobs_TK).sum(axis=1, keepdims=True))
    return spoil(numbers, logprobs_TK=numbers.logprobs_TK - total)


def crowded(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """Numbers that depend on how many share the batch, as with padding that is attended to."""
    return spoil(numbers, logprob_T=numbers.logprob_T - np.float32(0.01 * len(request.completions)))


def not_a_number(numbers: Numbers, request: ScoreRequest) -> Numbers:
    """One NaN among good numbers, as from an overflow."""
    logprob_T = numbers.logprob_T.copy()
    logprob_T[len(logprob_T) // 2] = np.nan
    return spoil(numbers, logprob_T=logprob_T)


class Tempered(TableBackend):
    """Scores at a temperature that nobody asked for; hidden states and head are the model's own."""

    def __init__(self, temperature: float) -> None:
        super().__init__(hashed(V), V)
        self._by = temperature

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        return super().score(replace(request, temperature=request.temperature * self._by), between)


class StockVllm:
    """A server that speaks vLLM's token-in endpoints over a table, with a character tokenizer.

    `temperature`: applied to what it says of prompts, not of what it writes. `reads`: its tokenizer, tokens by id.
    """

    def __init__(self, *, temperature: float = 1.0, reads: tuple[str, ...] = TOKENS, tokenises: bool = True) -> None:
        self._temperature, self._reads, self._tokenises = temperature, reads, tokenises
        self._logits = hashed(len(TOKENS), seed=3)
        posts = {"/tokenize": self._tokenize, "/detokenize": self._detokenize, "/inference/v1/generate": self._generate}
        self.app = Starlette(
            routes=[
                Route("/version", lambda request: JSONResponse({"version": "0.32.0"})),
                Route("/health", lambda request: Response()),
                Route("/v1/models", self._models),
                *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
            ]
        )

    def stated(self) -> TokenizerCard:
        """What its operator states: the tokens as they should be."""
        samples = {token: index for index, token in enumerate(TOKENS) if token.isalnum() or token in SPECIALS}
        return TokenizerCard(fingerprint="sha256:" + "c" * 64, vocab_size=len(TOKENS), samples=samples)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "chars", "max_model_len": 256, "root": "chars", "parent": None}]})

    async def _tokenize(self, request: Request) -> Response:
        if not self._tokenises:
            return Response(status_code=404)
        text, ids = (await request.json())["prompt"], list[int]()
        while text:
            token = next(each for each in self._reads if text.startswith(each))
            ids.append(self._reads.index(token))
            text = text[len(token) :]
        return JSONResponse({"tokens": ids, "count": len(ids)})

    async def _detokenize(self, request: Request) -> Response:
        if not self._tokenises:
            return Response(status_code=404)
        ids = (await request.json())["tokens"]
        return JSONResponse({"prompt": "".join(self._reads[each] for each in ids if self._reads[each] not in SPECIALS)})

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        ids, wanted = body["token_ids"], body["sampling_params"]
        if "prompt_logprob_token_ids" in wanted:
            return _refused("prompt_logprob_token_ids requires the V2 model runner")
        if max(ids) >= len(TOKENS):
            return _refused(f"Token id {max(ids)} is out of vocabulary")
        if (k := wanted.get("prompt_logprobs") or 0) > 20:
            return _refused(f"Requested prompt logprobs of {k}, which is greater than max allowed: 20")
        entries = [None, *(self._entry(ids[:place], ids[place], k) for place in range(1, len(ids)))]
        logprob_V = self._logprobs(ids, 1.0)
        wrote = int(np.argmax(logprob_V))
        said = {"content": [{"token": f"token_id:{wrote}", "token_id": wrote, "logprob": float(logprob_V[wrote])}]}
        return JSONResponse({"choices": [{"index": 0, "logprobs": said}], "prompt_logprobs": entries})

    def _entry(self, prefix: list[int], token: int, k: int) -> dict[str, Any]:
        logprob_V = self._logprobs(prefix, self._temperature)
        order = np.argsort(-logprob_V, kind="stable").tolist()
        named = dict.fromkeys([token, *order[:k]])
        return {str(id): {"logprob": float(logprob_V[id]), "rank": order.index(id) + 1} for id in named}

    def _logprobs(self, prefix: list[int], temperature: float) -> np.ndarray:
        logits_V = np.array(self._logits(tuple(prefix))) / temperature
        return logits_V - np.log(np.exp(logits_V).sum())


def _refused(why: str) -> Response:
    return JSONResponse({"error": {"message": why, "type": "BadRequestError", "code": 400}}, 400)


def only_sampled(backend: TableBackend) -> TableBackend:
    """A table that offers neither hidden states nor several ids."""
    backend.about = replace(backend.about, supports=(Support.SAMPLED,), head=None)
    return backend
