"""A stock SGLang server as a teacher: input log-probabilities from its own `POST /generate`, of ids that we give.

Supports `sampled` and `topk`. Not `ids`: the server takes one list of ids for all positions, never one per position.
Never `full`: its hidden states are those of the tokens that no cache held.

Observed of SGLang 0.5.23: with `logprob_start_len` s, entry 0 is position s without a number (null), and scores begin
at s + 1; entries are [log-probability, id, text or null]; the top list holds exactly k and does not insert the prompt's
own token; the last id of the vocabulary is written as 0, with its own log-probability; `max_new_tokens` may be 0; no
bound on k was met at 1,024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from preceptor.adapters.answers import Answer, Asked, list_of, number_of, object_of, version_of
from preceptor.adapters.stock import UNSTATED, StockClient
from preceptor.endpoint import Count
from preceptor.errors import Corrupt, Invalid, NotFound
from preceptor.wire.teachers import Card, Support

GENERATE = "/generate"
MAX_K = 1024
"""The widest support that was seen to work; the server states no bound of its own."""


class SglangClient(StockClient):
    """An SGLang server's endpoints."""

    engine = "SGLang"
    refuses_unknown_ids = False  # it scores another id in its place (0.5.23); on a GPU it may end

    def healthz(self) -> bool:
        """True; raises where the server does not answer, or its scheduler is dead."""
        self._get("/health")
        return True

    def card(self) -> Card:
        """Version, device, dtype, longest sequence and weights version: found out by asking."""
        info = self._info()
        entry = self._model()
        longest = entry.get("max_model_len")
        if not isinstance(longest, int) or longest < 2:
            raise Corrupt(f"{self.url}/v1/models: states no max_model_len for '{entry['id']}'.")
        vocabulary = self._tokenizer().vocab_size
        answer = self._ask([0, 1], 1, 0)
        list_of(answer.get("input_token_logprobs"), 2, f"{GENERATE}: input_token_logprobs")
        return self._card(
            model=str(entry["id"]),
            version=str(info["version"]),
            max_tokens=longest - 1,  # a sequence as long as the model reads is refused
            max_k=min(vocabulary, MAX_K),
            supports=(Support.SAMPLED, Support.TOPK),
            weights_version=version_of(answer.get("weight_version")),
            device=_stated(info.get("device")),
            dtype=_stated(info.get("dtype")),
        )

    def tokens_of(self, text: str) -> list[int] | None:
        """Through `/tokenize`."""
        try:
            answer = object_of(self._post("/tokenize", {"prompt": text, "add_special_tokens": False}), "/tokenize")
        except NotFound:
            return None
        return [int(each) for each in answer.get("tokens", [])]

    def text_of(self, ids: Sequence[int]) -> str | None:
        """Through `/detokenize`, where the version has it."""
        try:
            answer = object_of(self._post("/detokenize", {"tokens": list(ids)}), "/detokenize")
        except NotFound:
            return None
        text = answer.get("text")
        return text if isinstance(text, str) else None

    def written(self, prompt: Sequence[int]) -> tuple[int, float] | None:
        """One token at temperature 1, without filters."""
        sampling = {"max_new_tokens": 1, "temperature": 1.0, "top_p": 1.0, "top_k": -1}
        body = {"input_ids": list(prompt), "sampling_params": sampling, "return_logprob": True}
        meta = object_of(object_of(self._post(GENERATE, body), GENERATE).get("meta_info"), f"{GENERATE}: meta_info")
        entries: Any = meta.get("output_token_logprobs")
        if not isinstance(entries, list) or not entries:
            return None
        logprob, token = _pair(cast("list[Any]", entries)[0], "the generated token")
        return token, logprob

    def reload_weights(self, folder: str) -> None:
        """Load another version of the same model from a folder that the server can read. Raises Invalid where it
        cannot. The server forgets what its cache holds of the old one."""
        self._post("/update_weights_from_disk", {"model_path": folder})

    def _sequence(self, sequence: Asked, timeout: float | None, count: Count | None) -> Answer:
        start, k = len(sequence.context) - 1, sequence.k
        meta = self._ask(sequence.ids, k, start, timeout, count)
        length, last = len(sequence.completion), self._tokenizer().vocab_size - 1
        # The first entry is the context's last token, of which only the place is stated.
        written = list_of(meta.get("input_token_logprobs"), length + 1, f"{GENERATE}: input_token_logprobs")[1:]
        logprob_T = np.empty(length, dtype=np.float32)
        for position, (entry, token) in enumerate(zip(written, sequence.completion, strict=True)):
            where = f"token {position} of completion {sequence.index}"
            logprob_T[position], found = _pair(entry, where)
            if found != token and (token, found) != (last, 0):
                raise Corrupt(
                    f"{where}: the entry is of token {found} where {token} was written: the answer is shifted, or the "
                    "server tokenised anew."
                )
        version = version_of(meta.get("weight_version"))
        if not k:
            return Answer(logprob_T=logprob_T, weights_version=version)
        rows = list_of(meta.get("input_top_logprobs"), length + 1, f"{GENERATE}: input_top_logprobs")[1:]
        ids_TK, logprobs_TK = _top(rows, k, sequence.index)
        return Answer(logprob_T=logprob_T, ids_TK=ids_TK, logprobs_TK=logprobs_TK, weights_version=version)

    def _ask(
        self, ids: list[int], k: int, start: int, timeout: float | None = None, count: Count | None = None
    ) -> dict[str, Any]:
        """What the server says of one sequence from a position on."""
        body: dict[str, Any] = {
            "input_ids": ids,
            "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": start,
        }
        if k:
            body["top_logprobs_num"] = k
        answer = object_of(self._post(GENERATE, body, timeout, count), GENERATE)
        return object_of(answer.get("meta_info"), f"{GENERATE}: meta_info")

    def _info(self) -> dict[str, Any]:
        """What the server says of itself; newer versions moved it."""
        for path in ("/get_server_info", "/server_info"):
            try:
                info = self._get(path)
            except NotFound:
                continue
            if isinstance(info, dict) and "version" in info:
                return cast("dict[str, Any]", info)
        raise Invalid(
            f"kind: what answers at {self.url} is not an SGLang server: it states no version.",
            field="kind",
            remedy="Check the URL, or name the kind of server that it is.",
        )


def _top(rows: Sequence[Any], k: int, completion: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids and log-probabilities [T, K], likeliest first."""
    ids_TK = np.empty((len(rows), k), dtype=np.int32)
    logprobs_TK = np.empty((len(rows), k), dtype=np.float32)
    for position, row in enumerate(rows):
        where = f"token {position} of completion {completion}"
        entries = [_pair(entry, where) for entry in list_of(row, k, f"{where}: input_top_logprobs")]
        entries.sort(key=lambda entry: -entry[0])
        ids_TK[position] = [id for _, id in entries]
        logprobs_TK[position] = [logprob for logprob, _ in entries]
    return ids_TK, logprobs_TK


def _pair(entry: Any, where: str) -> tuple[float, int]:
    """[log-probability, id, text]: the first two."""
    if not isinstance(entry, list) or len(cast("list[Any]", entry)) < 2:
        raise Corrupt(f"{where}: the entry is missing ({entry!r}).")
    logprob, id = cast("list[Any]", entry)[:2]
    if not isinstance(id, int):
        raise Corrupt(f"{where}: the entry names no id ({id!r}).")
    return number_of(logprob, where), id


def _stated(value: Any) -> str:
    """SGLang says `auto` of a dtype that it takes from the model: that states nothing."""
    return value if isinstance(value, str) and value not in ("", "auto") else UNSTATED
