"""A stock vLLM server as a teacher: prompt log-probabilities of sequences that we give as ids.

The way in is `POST /inference/v1/generate` without detokenisation, where the server was started with
`--enable-scale-out`; else `POST /v1/completions`, which spells every id out and takes several times as long. Supports
`sampled` and `topk` (as wide as `--max-logprobs`); `ids` where the server scores ids per position (its V2 model runner:
GPU builds). Never `full`: a stock server gives no hidden states.

Observed of vLLM 0.32.0: a prompt's first entry is null; entry t is an object keyed by ids as decimal strings, the
prompt's own token first and then the k likeliest, whose ranks are 1 to k; minus infinity is written -9999.0; prompt
log-probabilities ignore temperature and filters.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from preceptor.adapters.answers import Answer, Asked, list_of, number_of, object_of, rows_of, version_of
from preceptor.adapters.stock import StockClient
from preceptor.endpoint import Count
from preceptor.errors import Corrupt, Invalid, NotAuthorised, NotFound, ServerFault
from preceptor.wire.teachers import Card, Support

TOKEN_IN = "/inference/v1/generate"
COMPLETIONS = "/v1/completions"
CLAMP = -9999.0
"""What vLLM writes for minus infinity."""
_ALLOWED = re.compile(r"greater than max allowed: (\d+)")
_LOOK = [0, 1]
"""A prompt of two ids that every vocabulary has."""
_NOBODYS = 2**31 - 1
"""A width that no server allows."""
_USUAL = (20, 5, 1)
"""Widths to try where the server's refusal does not name its own: 20 is vLLM's default."""


class VllmClient(StockClient):
    """A vLLM server's endpoints."""

    engine = "vLLM"
    _path: str | None = None

    def healthz(self) -> bool:
        """True; raises where the server does not answer, or its engine is dead."""
        self._get("/health")
        return True

    def card(self) -> Card:
        """Version, longest sequence, widest support, and which way in it has: found out by asking."""
        version = self._engine_version()
        entry = self._model()
        longest = entry.get("max_model_len")
        if not isinstance(longest, int) or longest < 2:
            raise Corrupt(f"{self.url}/v1/models: states no max_model_len for '{entry['id']}'.")
        self._name = str(entry["id"])
        vocabulary = self._tokenizer().vocab_size
        self._path, weights = self._way_in()
        max_k = min(self._widest(), vocabulary)
        supports = [Support.SAMPLED]
        if max_k and self._scores_ids():
            supports.append(Support.IDS)
        if max_k:
            supports.append(Support.TOPK)
        return self._card(
            model=self._name,
            version=version,
            max_tokens=longest - 1,  # a request must leave room for the one token that it has to ask for
            max_k=max_k,
            supports=tuple(supports),
            weights_version=weights,
        )

    def tokens_of(self, text: str) -> list[int] | None:
        """Through `/tokenize`."""
        body = {"model": self._name_of(), "prompt": text, "add_special_tokens": False}
        try:
            answer = object_of(self._post("/tokenize", body), "/tokenize")
        except NotFound:
            return None
        return [int(each) for each in answer.get("tokens", [])]

    def text_of(self, ids: Sequence[int]) -> str | None:
        """Through `/detokenize`."""
        try:
            answer = object_of(
                self._post("/detokenize", {"model": self._name_of(), "tokens": list(ids)}), "/detokenize"
            )
        except NotFound:
            return None
        text = answer.get("prompt")
        return text if isinstance(text, str) else None

    def written(self, prompt: Sequence[int]) -> tuple[int, float] | None:
        """Only by the token-in way: the other one spells tokens out, and two of them may look the same."""
        if not self.token_in:
            return None
        body = self._body(list(prompt), {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0, "logprobs": 0})
        choice = rows_of(self._post(TOKEN_IN, body), "choices")
        said = object_of(choice[0].get("logprobs") if choice else None, "choices[0].logprobs")
        content = rows_of(said, "content")
        if not content:
            return None
        return int(content[0]["token_id"]), number_of(content[0].get("logprob"), "the generated token")

    def reload_weights(self, folder: str) -> None:
        """Load another version of the model from a folder that the server can read. Raises NotFound where it was not
        started with VLLM_SERVER_DEV_MODE=1, and ServerFault where it cannot load it."""
        self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
        # Keys and values of the version before would go on being used. It says no while a request holds some.
        said = self._post("/reset_prefix_cache?reset_running_requests=true", {})
        if isinstance(said, dict) and cast("dict[str, Any]", said).get("success") is False:
            raise ServerFault(f"The vLLM server at {self.url} keeps what it read with the weights before.")

    @property
    def token_in(self) -> bool:
        """Whether it was started with `--enable-scale-out`."""
        return self._way() == TOKEN_IN

    def generate(self, ids: Sequence[int], sampling: dict[str, Any]) -> Any:
        """One completion by the token-in way, as vLLM answers it."""
        return self._post(TOKEN_IN, self._body(list(ids), sampling))

    # --- one sequence ---------------------------------------------------------------------------------------------

    def _sequence(self, sequence: Asked, timeout: float | None, count: Count | None) -> Answer:
        path = self._way()
        wanted: dict[str, Any] = {"prompt_logprobs": sequence.k, "temperature": 0.0}
        if sequence.candidates_TK is not None:
            wanted["prompt_logprob_token_ids"] = sequence.candidates_TK.tolist()
            # Row i scores prompt token start + i + 1: the first is the completion's first.
            wanted["prompt_logprob_start"] = len(sequence.context) - 1
        body = self._post(path, self._body(sequence.ids, wanted), timeout, count)
        answer = object_of(body, path)
        version = 0
        holder = answer
        choices = rows_of(answer, "choices")
        if path == COMPLETIONS:
            if len(choices) != 1:
                raise Corrupt(f"{path}: answered with {len(choices)} choices where one was asked for.")
            holder = choices[0]
        elif choices:
            version = _weights(choices[0])
        entries = list_of(holder.get("prompt_logprobs"), len(sequence.ids), f"{path}: prompt_logprobs")
        read = _read(entries[len(sequence.context) :], sequence, version)
        if sequence.candidates_TK is None:
            return read
        scores_TK = _scores(answer.get("prompt_token_id_logprobs"), sequence.candidates_TK)
        return Answer(logprob_T=read.logprob_T, logprobs_TK=scores_TK, weights_version=version)

    def _body(self, ids: list[int], wanted: dict[str, Any]) -> dict[str, Any]:
        # One token must be asked for: vLLM refuses none.
        if self._way() == TOKEN_IN:
            sampling = {"max_tokens": 1, "detokenize": False, **wanted}
            return {"model": self._name_of(), "token_ids": ids, "sampling_params": sampling}
        return {"model": self._name_of(), "prompt": ids, "max_tokens": 1, **wanted}

    # --- what the server is ---------------------------------------------------------------------------------------

    def _engine_version(self) -> str:
        try:
            body = self._get("/version")
        except NotFound:
            body = None
        version = cast("dict[str, Any]", body).get("version") if isinstance(body, dict) else None
        if not isinstance(version, str):
            raise Invalid(
                f"kind: what answers at {self.url} is not a vLLM server: it states no version.",
                field="kind",
                remedy="Check the URL, or name the kind of server that it is.",
            )
        return version

    def _way_in(self) -> tuple[str, int]:
        """The path that scores are asked on, and the version of the weights. Raises Invalid where neither gives any."""
        self._path = TOKEN_IN
        # 403: started without --enable-scale-out; 404 and 405: a version, or a proxy, that does not have it.
        with suppress(NotFound, NotAuthorised):
            body = self._post(TOKEN_IN, self._body(_LOOK, {"prompt_logprobs": 0, "temperature": 0.0}))
            list_of(object_of(body, TOKEN_IN).get("prompt_logprobs"), len(_LOOK), f"{TOKEN_IN}: prompt_logprobs")
            choices = rows_of(body, "choices")
            return TOKEN_IN, _weights(choices[0]) if choices else 0
        self._path = COMPLETIONS
        body = self._post(COMPLETIONS, self._body(_LOOK, {"prompt_logprobs": 0, "temperature": 0.0}))
        choices = rows_of(body, "choices")
        if not choices or choices[0].get("prompt_logprobs") is None:
            raise Invalid(
                f"kind: the server at {self.url} gives no prompt log-probabilities.",
                field="kind",
                remedy="Register it as kind 'openai': a text teacher.",
            )
        return COMPLETIONS, 0

    def _widest(self) -> int:
        """The server's --max-logprobs: its refusal of what nobody allows names it.

        Never asked with a number that it might take: more than its vocabulary, within its bound, ends the engine.
        """
        try:
            self._post(self._way(), self._body(_LOOK, {"prompt_logprobs": _NOBODYS, "temperature": 0.0}))
        except Invalid as error:
            if found := _ALLOWED.search(error.problem.detail):
                return int(found[1])
        for width in (each for each in _USUAL if each <= self._tokenizer().vocab_size):
            with suppress(Invalid):
                self._post(self._way(), self._body(_LOOK, {"prompt_logprobs": width, "temperature": 0.0}))
                return width
        return 0

    def _scores_ids(self) -> bool:
        """Whether it scores ids of our choice at every position. A model runner without that says so with a 400."""
        if not self.token_in:
            return False
        scored = {"prompt_logprob_token_ids": [[0]], "prompt_logprob_start": 0}
        wanted = {"prompt_logprobs": 0, "temperature": 0.0, **scored}
        try:
            body = self._post(TOKEN_IN, self._body(_LOOK, wanted))
        except Invalid:
            return False
        return isinstance(object_of(body, TOKEN_IN).get("prompt_token_id_logprobs"), str)

    def _way(self) -> str:
        if self._path is None:
            self.card()
        assert self._path is not None, "found out by card()"
        return self._path

    _name: str | None = None

    def _name_of(self) -> str:
        return self._name or self.stock.model or str(self._model()["id"])


def _read(entries: Sequence[Any], sequence: Asked, version: int) -> Answer:
    """One entry per completion token: its own log-probability first, then the k likeliest."""
    k = sequence.k
    logprob_T = np.empty(len(entries), dtype=np.float32)
    ids_TK = np.empty((len(entries), k), dtype=np.int32)
    logprobs_TK = np.empty((len(entries), k), dtype=np.float32)
    for position, (entry, token) in enumerate(zip(entries, sequence.completion, strict=True)):
        where = f"token {position} of completion {sequence.index}"
        if not isinstance(entry, dict) or not entry:
            raise Corrupt(f"{where}: the entry is missing ({entry!r}).")
        named = cast("dict[str, Any]", entry)
        first = next(iter(named))
        if first != str(token):
            raise Corrupt(
                f"{where}: the entry is of token {first[:20]} where {token} was written: the answer is shifted, or "
                "the server tokenised anew."
            )
        logprob_T[position] = _unclamped(named[first], where)
        if not k:
            continue
        ranked = sorted((_rank(found), int(name), _unclamped(found, where)) for name, found in named.items())
        top = [each for each in ranked if each[0] <= k]
        if [rank for rank, _, _ in top] != list(range(1, k + 1)):
            raise Corrupt(f"{where}: names ranks {[rank for rank, _, _ in top][:8]} where 1 to {k} were asked for.")
        ids_TK[position] = [name for _, name, _ in top]
        logprobs_TK[position] = [logprob for _, _, logprob in top]
    if not k:
        return Answer(logprob_T=logprob_T, weights_version=version)
    return Answer(logprob_T=logprob_T, ids_TK=ids_TK, logprobs_TK=logprobs_TK, weights_version=version)


def _rank(found: Any) -> int:
    rank: Any = cast("dict[str, Any]", found).get("rank") if isinstance(found, dict) else None
    return rank if isinstance(rank, int) else 0  # 0 is no rank, and is refused with the ranks


def _unclamped(found: Any, where: str) -> float:
    value = number_of(object_of(found, where).get("logprob"), where)
    return -np.inf if value <= CLAMP else value


def _scores(encoded: Any, candidates_TK: NDArray[np.int32]) -> NDArray[np.float32]:
    """[T, K] from base64 of a .npy file of floats; minus infinity where the candidates pad."""
    if not isinstance(encoded, str):
        raise Corrupt("prompt_token_id_logprobs: is missing.")
    try:
        array: NDArray[Any] = np.load(io.BytesIO(base64.b64decode(encoded, validate=True)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Corrupt(f"prompt_token_id_logprobs: is no array that can be read ({error}).") from error
    if array.shape != candidates_TK.shape or array.dtype.kind != "f":
        raise Corrupt(f"prompt_token_id_logprobs: has shape {array.shape} where {candidates_TK.shape} was asked for.")
    return np.where(candidates_TK < 0, -np.inf, array).astype(np.float32)


def _weights(choice: dict[str, Any]) -> int:
    """The version that the server names; several in one answer are an error of its own."""
    spans = rows_of(choice, "weight_versions")
    versions = {version_of(span.get("version")) for span in spans}
    if len(versions) > 1:
        raise Corrupt("weight_versions: names several; the weights moved while this was answered.")
    return versions.pop() if versions else 0
