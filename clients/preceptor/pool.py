"""The teachers of a run, by role: splitting, retries, checks and counting around an `Endpoint`.

Scores always travel over HTTP, whoever the teacher is. What a teacher cannot serve is refused before it is sent; what
it answers is checked before it is believed; everything that is sent or received is counted.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from preceptor.adapters import Endpoint, open_teacher, stock_of
from preceptor.endpoint import TeacherClient
from preceptor.errors import (
    BadScores,
    Corrupt,
    Invalid,
    Overloaded,
    PreceptorError,
    ServerFault,
    TeacherRefused,
    TeacherUnavailable,
    TooLarge,
    Unreachable,
)
from preceptor.fingerprint import fingerprint_of
from preceptor.frames import decode_head
from preceptor.judge import judge
from preceptor.limits import check_lengths, check_support, check_vocabulary
from preceptor.split import join, split
from preceptor.wire.runs import TeacherEndpoint, TeacherLedger
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card
from preceptor.wire.tokenizers import TokenizerFile

Answer = TypeVar("Answer")

DEADLINE = 600.0
"""Seconds in which one call must succeed, retries included."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


@dataclass(slots=True)
class _Asked:
    """A teacher of the run: how to reach it, and what passed between us since the ledger was last taken."""

    endpoint: TeacherEndpoint
    client: Endpoint
    card: Card | None = None
    head_hash: str | None = None
    """The head that the latest scores belong to."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    opening: threading.Lock = field(default_factory=threading.Lock)
    ledger: TeacherLedger = field(default_factory=TeacherLedger)

    def count(self, **more: float) -> None:
        with self.lock:
            counts = {name: getattr(self.ledger, name) + value for name, value in more.items()}
            self.ledger = self.ledger.model_copy(update=counts)

    def saw(self, version: int) -> None:
        with self.lock:
            versions = sorted({*self.ledger.weights_versions, version})
            self.ledger = self.ledger.model_copy(update={"weights_versions": versions})

    def take(self) -> TeacherLedger:
        with self.lock:
            taken, self.ledger = self.ledger, TeacherLedger()
            return taken


class TeacherPool:
    """A run's teachers. Safe to share between threads.

    Raises TeacherUnavailable (no answer within the deadline), TeacherRefused (the request does not suit it) and
    BadScores (numbers that cannot be log-probabilities), each with the teacher's name.
    """

    def __init__(
        self,
        teachers: Mapping[str, TeacherEndpoint],
        cache_dir: Path,
        *,
        transport: httpx.BaseTransport | None = None,
        deadline: float = DEADLINE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`teachers` by role; `cache_dir` is where heads are kept; `transport` is httpx's seam, for all of them.

        Keys are read from the environment variables that the endpoints name (or the file that NAME_FILE names).
        Raises Invalid where one is named and not set.
        """
        self._asked = {role: _Asked(endpoint, _open(endpoint, transport)) for role, endpoint in teachers.items()}
        self._cache_dir = cache_dir
        self._deadline = deadline
        self._sleep = sleep

    def card(self, role: str) -> Card:
        """The teacher's live card, asked for once. Raises TeacherRefused where its tokenizer is not what it was."""
        asked = self._of(role)
        with asked.opening:
            if asked.card is None:
                card = self._persist(asked, lambda _: asked.client.card())
                _check_same_tokenizer(asked.endpoint, card)
                asked.card = card
            return asked.card

    def score(self, role: str, request: ScoreRequest) -> Scores:
        """Scores for every position asked, split over the teacher's limits and joined again."""
        asked, card = self._of(role), self.card(role)
        try:
            check_support(request, card)
            check_vocabulary(request, card.tokenizer.vocab_size)
            check_lengths(request, card.limits.max_tokens)
            parts = split(request, card.limits)
        except (Invalid, TooLarge) as error:
            raise TeacherRefused(error.problem, teacher=asked.endpoint.name) from error
        answers: list[Scores] = []
        for part in parts:
            # Parts of one request are of one version, or the caller would mix two teachers without knowing.
            pinned = part if not answers else replace(part, weights_version=answers[0].stamp.weights_version)
            answers.append(self._score(asked, pinned, card))
        return join(request, answers)

    def head(self, role: str) -> Head:
        """The teacher's output projection; fetched once per hash, kept on disk. Raises TeacherRefused without one."""
        asked, card = self._of(role), self.card(role)
        if card.head is None:
            raise TeacherRefused("The teacher serves no head; its card has none.", teacher=asked.endpoint.name)
        wanted = asked.head_hash or card.head.hash
        kept = self._cache_dir / f"{wanted.removeprefix('sha256:')}.safetensors"
        with asked.opening:
            if kept.exists():
                try:
                    return decode_head(kept.read_bytes(), wanted)
                except Corrupt:
                    kept.unlink(missing_ok=True)  # a damaged file: fetched again
            return self._fetch_head(asked, kept)

    def tokenizer(self, role: str) -> TokenizerFile:
        """The teacher's tokenizer. Raises TeacherRefused where it serves none, or not the one that its card names."""
        asked, card = self._of(role), self.card(role)
        name, client = asked.endpoint.name, asked.client
        if card.tokenizer_file is None or not isinstance(client, TeacherClient):
            raise TeacherRefused(f"Teacher '{name}' serves no tokenizer: no text can be put to it.", teacher=name)
        file, hash = self._persist(asked, lambda _: client.tokenizer())
        if hash != card.tokenizer_file or fingerprint_of(file) != card.tokenizer.fingerprint:
            raise TeacherRefused(f"Teacher '{name}' serves another tokenizer than its card names.", teacher=name)
        return file

    def take_ledger(self) -> dict[str, TeacherLedger]:
        """What passed between us and each teacher since the last call, by role."""
        return {role: asked.take() for role, asked in self._asked.items()}

    def close(self) -> None:
        """Close the connections."""
        for asked in self._asked.values():
            asked.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _of(self, role: str) -> _Asked:
        if role not in self._asked:
            known = ", ".join(sorted(self._asked)) or "none"
            raise Invalid(f"teachers: the run has no teacher for the role '{role}'; it has {known}.", field="teachers")
        return self._asked[role]

    def _score(self, asked: _Asked, request: ScoreRequest, card: Card) -> Scores:
        name = asked.endpoint.name

        def attempt(left: float) -> Scores:
            hurried = replace(request, deadline_ms=max(1, int(left * 1000)))
            began = time.monotonic()
            asked.count(requests=1)
            try:
                return asked.client.exchange(hurried, timeout=left, count=asked.count)
            finally:
                asked.count(seconds=time.monotonic() - began)

        scores = self._persist(asked, attempt)
        judge(scores, request, card, teacher=name)
        asked.count(sequences=len(request.completions), tokens=int(scores.offsets[-1]))
        asked.saw(scores.stamp.weights_version)
        asked.head_hash = scores.stamp.head_hash
        return scores

    def _fetch_head(self, asked: _Asked, kept: Path) -> Head:
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            hash = self._persist(asked, lambda _: asked.client.download_head(part))
            frame = part.read_bytes()
            asked.count(head_bytes=len(frame))
            try:
                head = decode_head(frame, hash)
            except Corrupt as error:
                raise BadScores(error.problem, teacher=asked.endpoint.name) from error
            # The teacher may have moved since its card: what is kept is named by what it is.
            part.replace(kept.with_name(f"{hash.removeprefix('sha256:')}.safetensors"))
            return head
        finally:
            part.unlink(missing_ok=True)

    def _persist(self, asked: _Asked, attempt: Callable[[float], Answer]) -> Answer:
        """Try until it works, is refused, or the deadline has passed. `attempt` is given the seconds left."""
        name, end, tries = asked.endpoint.name, time.monotonic() + self._deadline, 0
        while True:
            tries += 1
            try:
                return attempt(max(0.001, end - time.monotonic()))
            except (Unreachable, Overloaded, ServerFault) as error:
                if isinstance(error, ServerFault) and error.problem.status not in (502, 504):
                    raise TeacherUnavailable(error.problem, teacher=name) from error
                pause = _pause(tries, error.retry_after if isinstance(error, Overloaded) else None)
                if time.monotonic() + pause >= end:
                    raise TeacherUnavailable(
                        f"Teacher '{name}' gave no answer in {self._deadline:g} s and {tries} attempts. Last: {error}",
                        teacher=name,
                        remedy="Check that it runs and is not overloaded, then resume the run.",
                    ) from error
                asked.count(retries=1)
                self._sleep(pause)
            except Corrupt as error:
                raise BadScores(f"Teacher '{name}': {error}", teacher=name) from error
            except PreceptorError as error:
                raise TeacherRefused(
                    f"Teacher '{name}' refused: {error.problem.detail}",
                    teacher=name,
                    field=error.problem.field,
                    remedy=error.problem.remedy,
                ) from error


def _pause(tries: int, asked_for: float | None) -> float:
    """Exponentially longer, with jitter, and no shorter than the teacher asked for."""
    grown = min(FIRST_PAUSE * 2 ** min(tries - 1, 16), LONGEST_PAUSE)
    return max(grown * random.uniform(0.5, 1.0), min(asked_for or 0.0, 60.0) * random.uniform(1.0, 1.2))


def _open(endpoint: TeacherEndpoint, transport: httpx.BaseTransport | None) -> Endpoint:
    known = stock_of(endpoint.name, endpoint.card)
    return open_teacher(endpoint.kind, endpoint.url, _key(endpoint), known, transport=transport)


def _key(endpoint: TeacherEndpoint) -> str | None:
    variable = endpoint.key_env
    if variable is None:
        return None
    if value := os.environ.get(variable):
        return value
    path = os.environ.get(f"{variable}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Invalid(f"{variable}_FILE: {path} cannot be read ({error}).", field="key_env") from error
    raise Invalid(
        f"key_env: the key of teacher '{endpoint.name}' should be in {variable}, which is not set here.",
        field="key_env",
        remedy=f"Set {variable} or {variable}_FILE where the run is worked on.",
    )


def _check_same_tokenizer(endpoint: TeacherEndpoint, card: Card) -> None:
    known, found = endpoint.card.tokenizer, card.tokenizer
    if (known.fingerprint, known.vocab_size) != (found.fingerprint, found.vocab_size):
        raise TeacherRefused(
            f"Teacher '{endpoint.name}' now has the tokenizer {found.fingerprint} ({found.vocab_size} ids); the run "
            f"was submitted against {known.fingerprint} ({known.vocab_size} ids).",
            teacher=endpoint.name,
            remedy="Serve the model it was registered with, or probe the teacher again and start a new run.",
        )
