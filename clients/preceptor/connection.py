"""One way to the control plane: the key, deadlines, bounded retries, and errors with names.

Retried, with jitter: connections that were refused (nothing was sent), 429 and 503 (nothing was done), and, for
requests that may be made twice, answers that never came. Everything else is raised at once.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from uuid import uuid4

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from preceptor.errors import Invalid, PreceptorError, ServerFault, Unreachable, error_for
from preceptor.http import http_client
from preceptor.wire.common import Page, Problem

Answer = TypeVar("Answer")
Item = TypeVar("Item", bound=BaseModel)
Params = Mapping[str, str | int | float | bool | None]

DEFAULT_URL = "http://127.0.0.1:8420"
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
"""Seconds to wait for each read and write, and for a connection."""
ATTEMPTS = 4
"""How often a request is made before its failure is raised."""
FIRST_PAUSE = 0.2
"""Seconds before the second attempt, doubled for each further one."""
LONGEST_PAUSE = 5.0

_LEADS_ELSEWHERE = re.compile(r"[?#%\\]|(^|/)\.\.?(/|$)")
_TWICE_IS_ONCE = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class Connection:
    """The control plane behind a URL. Safe to share between threads."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: httpx.Timeout | float = TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`url` and `key` default to PRECEPTOR_URL and PRECEPTOR_KEY. Raises Invalid where the URL is none."""
        self.url = (url or os.environ.get("PRECEPTOR_URL") or DEFAULT_URL).rstrip("/")
        """Where the control plane answers."""
        secret, remedy = key or os.environ.get("PRECEPTOR_KEY"), "Set PRECEPTOR_URL to http://host:port."
        self._http = http_client(self.url, secret, transport=transport, timeout=timeout, remedy=remedy)
        self._http.headers["Accept"] = "application/json"
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: BaseModel | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        twice_is_once: bool | None = None,
    ) -> httpx.Response:
        """Make a request until it is answered with a 2xx, at most ATTEMPTS times.

        `twice_is_once` says that the request may be made again although the first may have been carried out; by
        default that holds for GET, PUT and DELETE. Raises the PreceptorError that names the failure.
        """
        _check_path(path)
        sent = dict(headers or {})
        if body is not None:
            content = body.model_dump_json().encode()
            sent["Content-Type"] = "application/json"
        repeatable = method in _TWICE_IS_ONCE if twice_is_once is None else twice_is_once
        given = {name: value for name, value in (params or {}).items() if value is not None}
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                answer = self._http.request(method, path, params=given, content=content, headers=sent)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                if last:
                    raise self.unreachable(error) from error
                wait = None
            except httpx.TransportError as error:
                if last or not repeatable:
                    raise self.unreachable(error) from error
                wait = None
            else:
                if answer.is_success:
                    return answer
                if last or answer.status_code not in (429, 503):
                    raise error_of(answer)
                wait = retry_after(answer)
            self.pause(attempt, wait)
        raise AssertionError("the last attempt returns or raises")

    def get(self, kind: type[Answer], path: str, *, params: Params | None = None) -> Answer:
        """GET, parsed as `kind`."""
        return self.parse(kind, self.send("GET", path, params=params))

    def post(
        self,
        kind: type[Answer],
        path: str,
        body: BaseModel | None = None,
        *,
        params: Params | None = None,
        twice_is_once: bool = False,
    ) -> Answer:
        """POST, the answer parsed as `kind`."""
        return self.parse(kind, self.send("POST", path, params=params, body=body, twice_is_once=twice_is_once))

    def start(self, kind: type[Answer], path: str, wish: BaseModel, idempotency_key: str | None) -> Answer:
        """POST of a wish, which becomes one `kind` under its key however often it is sent; None: a key of its own."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        return self.parse(kind, self.send("POST", path, body=wish, headers=headers, twice_is_once=True))

    def pages(self, kind: type[Item], path: str, params: Params | None = None) -> Iterator[Item]:
        """GET all of a list, page by page."""
        asked = dict(params or {})
        while True:
            page = self.get(Page[kind], path, params=asked)
            yield from page.items
            if page.next_cursor is None:
                return
            asked["cursor"] = page.next_cursor

    @contextmanager
    def stream(
        self, path: str, *, params: Params | None = None, headers: Mapping[str, str] | None = None
    ) -> Generator[httpx.Response]:
        """GET with the body still to be read. One attempt: whoever reads knows where to go on."""
        _check_path(path)
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            with self._http.stream("GET", path, params=given, headers=dict(headers or {})) as answer:
                if not answer.is_success:
                    answer.read()
                    raise error_of(answer)
                yield answer
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    def pause(self, attempt: int, at_least: float | None = None) -> None:
        """Wait before the next attempt: exponentially longer, with jitter, no less than the other side asked for."""
        wait = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        self._sleep(max(wait, min(at_least or 0.0, 60.0)))

    def parse(self, kind: type[Answer], answer: httpx.Response) -> Answer:
        """The body as `kind`. Raises ServerFault where it is something else."""
        try:
            return TypeAdapter(kind).validate_json(answer.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise ServerFault(
                f"{self.url} answered {answer.request.method} {answer.request.url.path} with something that is not "
                f"{getattr(kind, '__name__', kind)}: {where}: {first['msg']}.",
                remedy="Check that the URL is a Preceptor's, and that client and server have the same version.",
            ) from error

    def unreachable(self, error: Exception) -> Unreachable:
        """The error to raise where no answer came."""
        why = str(error) or type(error).__name__
        return Unreachable(
            f"No answer from {self.url} ({why}).",
            remedy="Start it with `preceptor up`, or set PRECEPTOR_URL to where it runs.",
        )


def _check_path(path: str) -> None:
    """Raises Invalid where a name or an id that somebody gave would lead elsewhere: to `keys`, say, for `../keys`."""
    if _LEADS_ELSEWHERE.search(path):
        name = path.split("/", 3)[-1]
        raise Invalid(f"{name!r} is no name and no id: none holds '..', '?', '#', '%' or a backslash.")


def error_of(answer: httpx.Response) -> PreceptorError:
    """The error that an answer other than a 2xx stands for. Its body must have been read."""
    wait = retry_after(answer)
    try:
        body: Any = answer.json()
        if isinstance(body, dict):  # RFC 9457: members that one does not know are passed over
            body = {name: value for name, value in cast("dict[str, Any]", body).items() if name in Problem.model_fields}
        problem = Problem.model_validate(body)
    except ValueError:
        text = " ".join(answer.text[:200].split())
        problem = Problem(
            title=answer.reason_phrase or "HTTP error",
            detail=f"{answer.request.url.host} answered {answer.status_code}" + (f": {text}" if text else "."),
            status=answer.status_code if 400 <= answer.status_code < 600 else 502,
        )
    return error_for(problem, retry_after=wait)


def retry_after(answer: httpx.Response) -> float | None:
    """Seconds that `Retry-After` asks to wait; None where it says nothing that is a number."""
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
