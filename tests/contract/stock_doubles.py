"""Stock servers that answer as they were recorded: transports for the adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from preceptor.adapters import Stock
from preceptor.wire.teachers import TokenizerCard

RECORDED = Path(__file__).parent / "recorded"
PROMPT = (10, 20, 30, 40, 50, 60)
"""What every recorded answer is about."""
VOCABULARY = 1024
STOCK = Stock(name="stock", tokenizer=TokenizerCard(fingerprint="sha256:" + "a" * 64, vocab_size=VOCABULARY))
Edit = Callable[[Any], Any]
Asked = tuple[str, dict[str, Any]]


def recorded(name: str) -> dict[str, Any]:
    """What was recorded of an engine."""
    return json.loads((RECORDED / f"{name}.json").read_text())


def replies(entry: dict[str, Any]) -> httpx.Response:
    """A recorded exchange's answer."""
    return httpx.Response(entry["status"], json=entry["answer"])


class Vllm:
    """A vLLM server with `--max-logprobs WIDEST`, started with `--enable-scale-out` or without."""

    def __init__(self, *, token_in: bool = True, widest: int = 20, edit: Edit = lambda answer: answer) -> None:
        self.records, self.token_in, self.widest, self.edit = recorded("vllm"), token_in, widest, edit
        self.asked: list[Asked] = []
        self.down = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("Connection refused")
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.asked.append((path, body))
        if path == "/version":
            return httpx.Response(200, json=self.records["version"])
        if path == "/v1/models":
            return httpx.Response(200, json=self.records["models"])
        if path in ("/tokenize", "/detokenize"):
            return replies(self.records[path[1:]])
        if path == "/inference/v1/generate":
            return self._generate(body) if self.token_in else replies(self.records["generate_off"])
        if path == "/v1/completions":
            return self._complete(body)
        return httpx.Response(404, json={"detail": "Not Found"})

    def _generate(self, body: dict[str, Any]) -> httpx.Response:
        sampling = body["sampling_params"]
        assert sampling["detokenize"] is False and sampling["max_tokens"] == 1
        if "prompt_logprob_token_ids" in sampling:
            return replies(self.records["generate_ids"])
        if sampling["prompt_logprobs"] > self.widest:
            return self._too_wide(sampling["prompt_logprobs"])
        answer = json.loads(json.dumps(self.records["generate"]["answer"]))
        answer["prompt_logprobs"] = self._cut(answer["prompt_logprobs"], body["token_ids"], sampling["prompt_logprobs"])
        return httpx.Response(200, json=self.edit(answer))

    def _complete(self, body: dict[str, Any]) -> httpx.Response:
        if body["prompt_logprobs"] > self.widest:
            return self._too_wide(body["prompt_logprobs"])
        answer = json.loads(json.dumps(self.records["completions"]["answer"]))
        choice = answer["choices"][0]
        choice["prompt_logprobs"] = self._cut(choice["prompt_logprobs"], body["prompt"], body["prompt_logprobs"])
        return httpx.Response(200, json=self.edit(answer))

    def _cut(self, entries: list[Any], ids: list[int], k: int) -> list[Any]:
        """The recorded entries of a shorter prompt, or of fewer likely ids."""
        if tuple(ids) != PROMPT[: len(ids)]:  # the two ids that a look asks about
            return [None, {str(ids[1]): {"logprob": -1.0, "rank": 1, "decoded_token": None}}]
        return [entry and dict(list(entry.items())[: k + 1]) for entry in entries[: len(ids)]]

    def _too_wide(self, k: int) -> httpx.Response:
        refusal = json.loads(json.dumps(self.records["too_wide"]["answer"]))
        words = refusal["error"]["message"]
        refusal["error"]["message"] = words.replace("1024", str(k)).replace("allowed: 20", f"allowed: {self.widest}")
        return httpx.Response(400, json=refusal)


class Sglang:
    """An SGLang server. What it says of itself is written after its source; its scores were recorded."""

    def __init__(self, *, edit: Edit = lambda answer: answer) -> None:
        self.records, self.edit = recorded("sglang"), edit
        self.asked: list[Asked] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        self.asked.append((path, body))
        if path == "/get_server_info":
            return httpx.Response(200, json={"version": "0.5.23", "device": "cpu", "dtype": "float32"})
        if path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "teacher", "max_model_len": 4096}]})
        if path == "/tokenize":
            return replies(self.records["tokenize"])
        if path == "/update_weights_from_disk":
            return replies(self.records["reload"])
        if path == "/generate":
            if body["input_ids"] == [0, 1]:
                return httpx.Response(200, json=_look())
            assert tuple(body["input_ids"]) == PROMPT and body["logprob_start_len"] == 3
            return httpx.Response(200, json=self.edit(json.loads(json.dumps(self.records["generate"]["answer"]))))
        return httpx.Response(404, json={"detail": "Not Found"})


def _look() -> dict[str, Any]:
    entries = [[None, 0, None], [-1.0, 1, None]]
    return {"text": "", "output_ids": [], "meta_info": {"weight_version": "default", "input_token_logprobs": entries}}
