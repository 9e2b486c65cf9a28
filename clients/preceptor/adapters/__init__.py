"""Who answers behind a teacher's URL: our own protocol, or a stock server's own endpoints. One seam for both.

`open_teacher` is the only place that chooses; the pool and the probe see `Endpoint` and never ask which one it is.
Importing this file imports no adapter: each is imported when a teacher of its kind is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import httpx

from preceptor.endpoint import TIMEOUT, Count, Received, TeacherClient
from preceptor.errors import Invalid
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card, TeacherKind, TokenizerCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What is known of a stock server that it cannot say itself."""

    name: str
    """The teacher's registered name: what its card and its stamps say."""
    model: str | None = None
    """What the server calls the model; None: the only one that it serves."""
    tokenizer: TokenizerCard | None = None
    """Of the model that it serves, as its operator stated it; a text teacher has none."""


class Endpoint(Protocol):
    """A teacher behind a URL. One attempt per call; failures are the errors of `preceptor.errors`."""

    @property
    def url(self) -> str: ...

    def healthz(self) -> bool:
        """True; raises where the teacher does not answer."""
        ...

    def card(self) -> Card:
        """What the teacher says of itself, or what was found out about it. Asked anew every time."""
        ...

    def score(self, request: ScoreRequest) -> Scores:
        """Scores for every position asked. Values are not judged here."""
        ...

    def exchange(self, request: ScoreRequest, *, timeout: float | None = None, count: Count | None = None) -> Scores:
        """The same within `timeout` seconds; `count` is told the bytes that passed."""
        ...

    def head(self) -> Head:
        """The output projection. Raises Invalid or NotFound where the teacher has none to give."""
        ...

    def download_head(
        self, path: Path, *, hash: str | None = None, since: Path | None = None, count: Received = lambda size: None
    ) -> str:
        """Write the head's frame to `path`; returns its hash. See `TeacherClient.download_head`."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class TextTeacher(Protocol):
    """Whoever writes text when asked, in OpenAI's shapes."""

    def complete(
        self, wish: Mapping[str, Any], path: str, *, timeout: float | None = None, count: Count | None = None
    ) -> Any:
        """Post a wish to one of OpenAI's paths; the answer as it is."""
        ...


def open_teacher(
    kind: TeacherKind,
    url: str,
    key: str | None = None,
    stock: Stock | None = None,
    *,
    transport: httpx.BaseTransport | None = None,
    timeout: httpx.Timeout | float = TIMEOUT,
) -> Endpoint:
    """The client that speaks what answers there. Raises Invalid where the URL is none, or `stock` is needed."""
    if kind is TeacherKind.PRECEPTOR:
        return TeacherClient(url, key, transport=transport, timeout=timeout)
    if stock is None:
        raise Invalid(f"kind: a teacher of kind '{kind}' needs its name, and its tokenizer where it scores.")
    if kind is TeacherKind.VLLM:
        from preceptor.adapters.vllm import VllmClient

        return VllmClient(url, key, stock, transport=transport, timeout=timeout)
    if kind is TeacherKind.SGLANG:
        from preceptor.adapters.sglang import SglangClient

        return SglangClient(url, key, stock, transport=transport, timeout=timeout)
    from preceptor.adapters.openai import OpenAIClient

    return OpenAIClient(url, key, stock, transport=transport, timeout=timeout)


def stock_of(name: str, card: Card | None) -> Stock | None:
    """What a registered teacher's card keeps of what its operator stated."""
    return None if card is None else Stock(name=name, model=card.model, tokenizer=card.tokenizer)
