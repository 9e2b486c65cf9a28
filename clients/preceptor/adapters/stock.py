"""What the adapters of stock servers share: JSON over HTTP, one request per sequence, refusals by name.

A subclass knows one engine: how to ask about one sequence (`_sequence`) and what the server is (`card`). What cannot be
served is refused before anything is sent.
"""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NoReturn

import httpx

from preceptor.adapters import Stock
from preceptor.adapters.answers import Answer, Asked, bases_of, joined, refuse, rows_of, sequences_of, words_of
from preceptor.closing import Closing
from preceptor.connection import error_of, retry_after
from preceptor.endpoint import Count, Received
from preceptor.errors import Corrupt, Invalid, NotFound, PreceptorError, Unreachable, error_for
from preceptor.http import http_client
from preceptor.wire.common import Problem
from preceptor.wire.score import Head, Numbers, ScoreRequest, Scores, context_hash
from preceptor.wire.teachers import Card, Limits, Stamp, Support, TokenizerCard, Values

IN_FLIGHT = 16
"""Sequences asked about at once: the engine batches them."""
MAX_BATCH_TOKENS = 32_768
"""Tokens in one request of ours: the answers of so many are held as JSON before they become arrays."""
MAX_BODY_BYTES = 64 << 20
UNSTATED = "unstated"
"""The device and dtype of a server that does not say."""


class StockClient(Closing):
    """A stock server's own endpoints, behind the interface of `TeacherClient`. Safe to share between threads."""

    engine: str
    """What the server is called, in sentences."""
    refuses_unknown_ids = True
    """Whether it says so when an id is beyond its vocabulary."""

    def __init__(
        self,
        url: str,
        key: str | None,
        stock: Stock,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: httpx.Timeout | float = 600.0,
    ) -> None:
        """Raises Invalid where `url` is none."""
        self.url = url.rstrip("/")
        self.stock = stock
        self._http = http_client(self.url, key, transport=transport, timeout=timeout)
        self._found: Card | None = None

    @abstractmethod
    def card(self) -> Card:
        """What was found out about the server, asked anew."""

    @abstractmethod
    def _sequence(self, sequence: Asked, timeout: float | None, count: Count | None) -> Answer:
        """Ask about one sequence. Raises Corrupt where the answer does not cover its completion."""

    @abstractmethod
    def healthz(self) -> bool:
        """True; raises where the server does not answer."""

    def score(self, request: ScoreRequest) -> Scores:
        """Scores for every position asked. Values are not judged here."""
        return self.exchange(request)

    def exchange(self, request: ScoreRequest, *, timeout: float | None = None, count: Count | None = None) -> Scores:
        """The same within `timeout` seconds; `count` is told the bytes that passed."""
        card = self._found or self.card()
        began = time.monotonic()
        numbers, version = self.numbers(request, timeout=timeout, count=count)
        stamp = Stamp(
            teacher=card.teacher,
            model=card.model,
            weights_version=version,
            head_hash=None,
            engine=card.engine,
            device=card.device,
            dtype=card.dtype,
            temperature=request.temperature,
            values=card.values,
            context_hashes=tuple(context_hash(ids) for ids in request.contexts),
            queued_seconds=0.0,  # the server does not say how long it let us wait
            computed_seconds=time.monotonic() - began,
        )
        return Scores.stamped(numbers, stamp)

    def numbers(
        self,
        request: ScoreRequest,
        *,
        timeout: float | None = None,
        count: Count | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> tuple[Numbers, int]:
        """Numbers for every scored position, and the weights version they are of. `between` is called after every
        sequence; what it raises ends the asking."""
        refuse(request, self._found or self.card(), self.engine)
        end = None if timeout is None else time.monotonic() + timeout
        sequences = sequences_of(request)

        def ask(sequence: Asked) -> Answer:
            left = None if end is None else max(0.001, end - time.monotonic())
            return self._sequence(sequence, left, count)

        with ThreadPoolExecutor(max_workers=IN_FLIGHT, thread_name_prefix="teacher") as threads:
            asked = {threads.submit(ask, sequence): sequence.index for sequence in sequences}
            try:
                for done in as_completed(asked):
                    done.result()
                    between()
            except BaseException:
                for future in asked:
                    future.cancel()
                raise
        answers = {index: future.result() for future, index in asked.items()}
        return joined(request, answers), self._version(answers)

    def head(self) -> Head:
        """Raises NotFound: a stock server gives no output projection."""
        self._no_head()

    def download_head(
        self, path: Path, *, hash: str | None = None, since: Path | None = None, count: Received = lambda size: None
    ) -> str:
        """Raises NotFound: a stock server gives no output projection."""
        self._no_head()

    def complete(
        self, wish: Mapping[str, Any], path: str, *, timeout: float | None = None, count: Count | None = None
    ) -> Any:
        """Post a wish to one of OpenAI's paths; the answer as it is."""
        return self._post(self._place(path), dict(wish), timeout, count)

    def tokens_of(self, text: str) -> list[int] | None:
        """The server's ids of a text, nothing added; None: it cannot be asked."""
        return None

    def text_of(self, ids: Sequence[int]) -> str | None:
        """The server's text of ids; None: it cannot be asked."""
        return None

    def written(self, prompt: Sequence[int]) -> tuple[int, float] | None:
        """A token that the server writes after a prompt at temperature 1, and its log-probability as it states it
        there; None: it cannot be asked."""
        return None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- for the subclasses ---------------------------------------------------------------------------------------

    def _get(self, path: str) -> Any:
        return self._call("GET", path, None, None, None)

    def _post(self, path: str, body: dict[str, Any], timeout: float | None = None, count: Count | None = None) -> Any:
        return self._call("POST", path, body, timeout, count)

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: float | None, count: Count | None
    ) -> Any:
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        limit = httpx.USE_CLIENT_DEFAULT if timeout is None else httpx.Timeout(timeout, connect=min(timeout, 5.0))
        if count is not None and content is not None:
            count(bytes_sent=len(content))
        try:
            answer = self._http.request(method, path, content=content, headers=headers, timeout=limit)
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise Unreachable(
                f"No answer from the {self.engine} server at {self.url} ({why}).",
                remedy="Check that it runs and that the URL is its.",
            ) from error
        if count is not None:
            count(bytes_received=len(answer.content))
        if not answer.is_success:
            raise self._error(answer)
        if not answer.content:
            return None
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            raise Corrupt(f"{self.url}{path} answered with something that is not JSON ({error}).") from error

    def _error(self, answer: httpx.Response) -> PreceptorError:
        """The server's own words, out of whichever envelope it uses."""
        error = error_of(answer)
        said = words_of(answer)
        if said is None:
            return error
        detail = f"The {self.engine} server at {self.url} answered {answer.status_code}: {said[:500]}"
        problem = Problem(title=error.problem.title, detail=detail, status=error.problem.status)
        return error_for(problem, retry_after=retry_after(answer))

    def _model(self) -> dict[str, Any]:
        """The server's entry for our model. Raises Invalid where there are several and none was named."""
        listed = rows_of(self._get(self._place("/v1/models")), "data")
        entries = [entry for entry in listed if isinstance(entry.get("id"), str)]
        wanted = self.stock.model
        found = [entry for entry in entries if entry["id"] == wanted] if wanted else bases_of(entries)
        if len(found) == 1:
            # An adapter's entry names its parent and leaves out what it has from that.
            own = {name: value for name, value in found[0].items() if value is not None}
            return next((entry | own for entry in entries if entry["id"] == own.get("parent")), own)
        names = ", ".join(entry["id"] for entry in entries[:20]) or "none"
        if wanted:
            raise Invalid(f"model: {self.url} serves no '{wanted}'; it serves {names}.", field="model")
        raise Invalid(
            f"model: {self.url} serves {len(found)} models ({names}).", field="model", remedy="Name one with --model."
        )

    def _place(self, path: str) -> str:
        """Where one of OpenAI's paths is, below our URL."""
        return path

    def _tokenizer(self) -> TokenizerCard:
        tokenizer = self.stock.tokenizer
        if tokenizer is None or tokenizer.fingerprint is None:
            raise Invalid(
                f"tokenizer: a stock {self.engine} server cannot state it.",
                field="tokenizer",
                remedy="Give the folder of the model that it serves: --tokenizer FOLDER.",
            )
        return tokenizer

    def _card(
        self,
        *,
        model: str,
        version: str,
        max_tokens: int,
        max_k: int,
        supports: tuple[Support, ...],
        weights_version: int = 0,
        device: str = UNSTATED,
        dtype: str = UNSTATED,
    ) -> Card:
        self._found = Card(
            teacher=self.stock.name,
            model=model,
            weights_version=weights_version,
            engine=f"{self.engine.lower()} {version}",
            device=device,
            dtype=dtype,
            tokenizer=self._tokenizer(),
            limits=Limits(
                max_tokens=max_tokens,
                max_batch_tokens=max(max_tokens, MAX_BATCH_TOKENS),
                max_k=max_k,
                max_body_bytes=MAX_BODY_BYTES,
            ),
            supports=supports,
            generates=True,
            values=Values.RAW,
        )
        return self._found

    def _no_head(self) -> NoReturn:
        raise NotFound(f"A stock {self.engine} server gives no head.", remedy="Ask for a support other than 'full'.")

    def _version(self, answers: Mapping[int, Answer]) -> int:
        seen = sorted({answer.weights_version for answer in answers.values()})
        if len(seen) > 1:
            raise Corrupt(
                f"The {self.engine} server at {self.url} answered one request with weights versions "
                f"{', '.join(map(str, seen))}: its weights moved meanwhile."
            )
        if seen:
            return seen[0]
        return self._found.weights_version if self._found else 0
