"""One teacher behind one URL: its card, its head, its scores. One attempt per call; `preceptor.pool` tries again.

teacher = TeacherClient("http://127.0.0.1:8421", key)
scores = teacher.score(ScoreRequest(contexts=[prompt], completions=[answer], context_of=[0], support="sampled"))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import httpx
from pydantic import ValidationError

from preceptor.closing import Closing
from preceptor.completing import Completing, Count
from preceptor.connection import error_of
from preceptor.errors import Corrupt, Overloaded, TooLarge, Unreachable, error_for
from preceptor.frames import decode_head, decode_scores, encode_request, hash_of
from preceptor.head_delta import apply_delta
from preceptor.http import http_client
from preceptor.tensors import CONTENT_TYPE
from preceptor.weights import Body, Weights, body_of
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card
from preceptor.wire.tokenizers import TokenizerFile, body_hash
from preceptor.wire.weights import WeightsArrived, WeightsKind, WeightsLoaded
from preceptor.wire.write import BrokenOff, WriteRequest, Written

TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""Seconds: a long score on a busy CPU takes minutes, a connection does not."""
MAX_CARD_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 33
MAX_TOKENIZER_BYTES = 1 << 28
_Told = TypeVar("_Told", WeightsArrived, WeightsLoaded)

Received = Callable[[int], object]
"""Told how many bytes have arrived."""


class TeacherClient(Completing, Closing):
    """A teacher's endpoints. Safe to share between threads. Failures are the errors of `preceptor.errors`."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: httpx.Timeout | float = TIMEOUT,
    ) -> None:
        """Raises Invalid where `url` is none."""
        self.url = url.rstrip("/")
        self._http = http_client(self.url, key, transport=transport, timeout=timeout)

    def healthz(self) -> bool:
        """True; raises where the teacher does not answer."""
        self._get("/healthz", MAX_CARD_BYTES)
        return True

    def readyz(self) -> bool:
        """True; raises where the teacher does not answer, or takes no requests."""
        self._get("/readyz", MAX_CARD_BYTES)
        return True

    def card(self) -> Card:
        """What the teacher says of itself. Raises Corrupt where what answers is not a teacher of this protocol."""
        body = self._get("/v1/card", MAX_CARD_BYTES)
        try:
            return Card.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise Corrupt(
                f"{self.url}/v1/card is not a teacher's card: {where}: {first['msg']}.",
                remedy="Check that the URL is a Preceptor teacher's, of a version that speaks protocol 1.",
            ) from error

    def score(self, request: ScoreRequest) -> Scores:
        """Scores for every position asked. Values are not judged here; the pool does."""
        return self.exchange(request)

    def exchange(self, request: ScoreRequest, *, timeout: float | None = None, count: Count | None = None) -> Scores:
        """The same within `timeout` seconds; `count` is told the bytes that passed."""
        frame = encode_request(request)
        if count is not None:
            count(bytes_sent=len(frame))
        answer = self.post_score(frame, timeout=timeout)
        if count is not None:
            count(bytes_received=len(answer))
        return decode_scores(answer, request)

    def post_score(self, frame: bytes, *, timeout: float | None = None) -> bytes:
        """A request's frame for an answer's. `timeout`: seconds to wait for it."""
        return self.post("/v1/score", frame, timeout=timeout)

    def post(self, path: str, content: bytes, *, kind: str = CONTENT_TYPE, timeout: float | None = None) -> bytes:
        """A body of this content type for an answer's. `timeout`: seconds to wait for it."""
        headers = {"Content-Type": kind, "Accept": kind}
        limit = TIMEOUT if timeout is None else httpx.Timeout(timeout, connect=min(timeout, 5.0))
        with self._stream("POST", path, content=content, headers=headers, timeout=limit) as answer:
            return _read(answer, MAX_ANSWER_BYTES)

    def head(self) -> Head:
        """The output projection. Kept nowhere: the pool keeps it on disk."""
        with self._stream("GET", "/v1/head") as answer:
            return decode_head(_read(answer, MAX_ANSWER_BYTES), _etag(answer))

    def tokenizer(self) -> tuple[TokenizerFile, str]:
        """The tokenizer that the teacher's ids belong to, and the hash that its card names it by.

        Raises NotFound where the teacher serves none, Corrupt where what arrived is no tokenizer.
        """
        body = self._get("/v1/tokenizer", MAX_TOKENIZER_BYTES)
        try:
            return TokenizerFile.model_validate_json(body), body_hash(body)
        except ValidationError as error:
            raise Corrupt(f"{self.url}/v1/tokenizer is not a tokenizer: {error.errors()[0]['msg']}.") from error

    def download_head(
        self, path: Path, *, hash: str | None = None, since: Path | None = None, count: Received = lambda size: None
    ) -> str:
        """Write the head's frame to `path`, going on where an earlier attempt broke off; returns its hash.

        hash: the one wanted, which a teacher that moves keeps for a while; None: the live one. since: the file of a
        head that is here already: then what has changed since is fetched, where that is less, and nobody has taken the
        file away. `count` is told the bytes received. What is in the file is only what was sent: `decode_head` checks
        it against the hash. Raises NotFound where that head is gone, Corrupt where the change does not lead to it.
        """
        query = {} if hash is None else {"hash": hash}
        known = None
        if since is not None and not path.exists():
            with suppress(FileNotFoundError):
                known = since.read_bytes()
                query["since"] = hash_of([known])
        have = path.stat().st_size if path.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._stream("GET", f"/v1/head?{urlencode(query)}", headers=headers) as answer:
            if known is not None and not answer.headers.get("ETag"):  # a change has no name of its own
                frame = _read(answer, MAX_ANSWER_BYTES)
                count(len(frame))
                return self._changed(known, frame, path)
            with path.open("ab") as file:
                if answer.status_code != 206:
                    file.truncate(0)
                for piece in answer.iter_bytes():
                    file.write(piece)
                    count(len(piece))
            return _etag(answer)

    def load_weights(
        self,
        weights: Weights,
        *,
        kind: WeightsKind | None = None,
        version: int | None = None,
        scale: float | None = None,
        timeout: float | None = None,
    ) -> WeightsLoaded:
        """Have the teacher answer with other weights: a folder's, an adapter's, a file's, or arrays by name.

        version: the number of the new version, above the live one; None: one more. Requests that have begun are
        finished by the version before; what breaks off goes on where it was when it is sent again. Raises Conflict for
        a number that is not above, NotFound where the teacher takes none, Invalid with what does not fit; then nothing
        has changed.
        """
        return self.send_weights(body_of(weights, kind, scale), version, goes_on=True, timeout=timeout)

    def send_weights(
        self, body: Body, version: int | None = None, *, goes_on: bool = False, timeout: float | None = None
    ) -> WeightsLoaded:
        """The same for a body that is at hand. `goes_on`: some of it may have arrived before; that is asked first."""
        sha256 = body.sha256()
        offset = self._arrived(sha256) if goes_on else 0
        sizes = {"Content-Length": str(body.size - offset), "Upload-Offset": str(offset)}
        headers = {"Content-Type": CONTENT_TYPE, **sizes}
        limit = TIMEOUT if timeout is None else httpx.Timeout(timeout, connect=min(timeout, 5.0))
        path = f"/v1/weights?{body.query(version, sha256)}"
        with self._stream("POST", path, content=body.pieces_from(offset), headers=headers, timeout=limit) as answer:
            return _about_weights(WeightsLoaded, _read(answer, MAX_CARD_BYTES), self.url)

    def _arrived(self, sha256: str) -> int:
        """Where sending a body goes on. Raises Overloaded while another is: it would be sent for nothing."""
        told = _about_weights(WeightsArrived, self._get(f"/v1/weights?sha256={sha256}", MAX_CARD_BYTES), self.url)
        if told.busy:
            raise Overloaded(f"{self.url} is loading other weights.", remedy="Try again later.", retry_after=1.0)
        return told.offset

    def write(
        self, request: WriteRequest, *, timeout: float | None = None, count: Count | None = None
    ) -> Generator[Written, None, None]:
        """`POST /v1/write`: every completion as soon as it is finished, each checked against what was asked.

        `timeout`: seconds to wait for the next one. Raises Invalid or NotFound where the teacher writes none, Conflict
        where it has other weights than those that are to write, and Corrupt where a completion is missing, comes twice
        or cannot be right.
        """
        content = request.model_dump_json(exclude_none=True).encode()
        limit = TIMEOUT if timeout is None else httpx.Timeout(timeout, connect=min(timeout, 5.0))
        if count is not None:
            count(bytes_sent=len(content))
        came = set[int]()
        headers = {"Content-Type": "application/json"}
        with self._stream("POST", "/v1/write", content=content, headers=headers, timeout=limit) as answer:
            for line in answer.iter_lines():
                if count is not None:
                    count(bytes_received=len(line) + 1)
                written = _written(line, self.url)
                why = f"completion {written.job} came twice" if written.job in came else written.why_not(request)
                if why is not None:
                    raise Corrupt(f"{self.url}/v1/write: {why}.")
                came.add(written.job)
                yield written
        if len(came) < len(request.jobs):
            raise Corrupt(f"{self.url}/v1/write: wrote {len(came)} of {len(request.jobs)} completions.")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @staticmethod
    def _changed(known: bytes, frame: bytes, path: Path) -> str:
        """Write the head that a change leads to; returns its hash."""
        pieces = apply_delta(known, frame)
        with path.open("wb") as file:
            file.writelines(pieces)
        return hash_of(pieces)

    def _get(self, path: str, limit: int) -> bytes:
        with self._stream("GET", path) as answer:
            return _read(answer, limit)

    @contextmanager
    def _stream(
        self,
        method: str,
        path: str,
        *,
        content: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> Generator[httpx.Response]:
        limit = httpx.USE_CLIENT_DEFAULT if timeout is None else timeout
        try:
            with self._http.stream(method, path, content=content, headers=headers, timeout=limit) as answer:
                if not answer.is_success:
                    answer.read()
                    raise error_of(answer)
                yield answer
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise Unreachable(
                f"No answer from the teacher at {self.url} ({why}).",
                remedy="Check that it runs and that the URL is its.",
            ) from error


def _written(line: str, url: str) -> Written:
    """One line of an answer. Raises the error that it may be instead."""
    try:
        if line.startswith('{"error"'):
            raise error_for(BrokenOff.model_validate_json(line).error)
        return Written.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "a line"
        raise Corrupt(f"{url}/v1/write: {where}: {first['msg']}.") from error


def _about_weights(kind: type[_Told], body: bytes, url: str) -> _Told:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Corrupt(f"{url}/v1/weights answered something else: {error.errors()[0]['msg']}.") from error


def _etag(answer: httpx.Response) -> str:
    return answer.headers.get("ETag", "").strip('"')


def _read(answer: httpx.Response, limit: int) -> bytes:
    pieces = bytearray()
    for piece in answer.iter_bytes():
        pieces += piece
        if len(pieces) > limit:
            raise TooLarge(f"The answer of {answer.request.url} is larger than {limit} bytes.")
    return bytes(pieces)
