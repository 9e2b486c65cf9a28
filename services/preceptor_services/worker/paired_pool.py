"""The teachers of a run that has a peer: the peer under the pair's rules, all others as ever.

What the peer answers is counted by version and by how far that one was behind; an answer from weights that were never
published is an error. Where it does not answer, the pair's policy has decided: its opinions are left out and counted,
or the run stops.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from typing import Literal

from preceptor.errors import NotFound, TeacherRefused, TeacherUnavailable
from preceptor.pool import TeacherPool
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.pairs import PeerAnswers, step_of
from preceptor.wire.runs import OnFailure, TeacherLedger
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card
from preceptor.wire.tokenizers import TokenizerFile
from preceptor_services.worker.pair import Link

Kind = Literal["score", "feedback"]


class PairedPool:
    """The loop's `Scorer`."""

    def __init__(self, others: TeacherPool, peer: TeacherPool, link: Link) -> None:
        """`peer`: a pool of the peer alone, whose calls end when the pair's patience does."""
        self._others, self._peer, self._link, self._role = others, peer, link, link.pair.role
        self._counting = threading.Lock()
        self._answers: Counter[tuple[Kind, int, int]] = Counter()
        self._dropped = 0

    def begin(self, step: int) -> Collection[str]:
        return self._others.begin(step)

    def begin_again(self) -> Collection[str]:
        return self._others.begin_again()

    def card(self, role: str) -> Card:
        return self._of(role).card(role)

    def tokenizer(self, role: str) -> TokenizerFile:
        return self._of(role).tokenizer(role)

    def head(self, role: str, hash: str | None = None) -> Head:
        """Raises TeacherUnavailable where the peer has moved on so far that it no longer has this one: then what it
        said is left out, for a later head would make something else of it."""
        try:
            return self._of(role).head(role, hash)
        except TeacherRefused as error:
            if role != self._role or not isinstance(error.__cause__, NotFound):
                raise
            raise TeacherUnavailable(error.problem, teacher=error.teacher) from error

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        """Raises NeverPublished and PeerLost, and TeacherUnavailable where the peer's opinions are left out."""
        if role != self._role:
            return self._others.score(role, request, on_failure=on_failure)
        self._check_there(len(request.completions))
        try:
            scores = self._peer.score(role, request, on_failure="drop")
        except TeacherUnavailable as error:
            self._link.silent(error, error.teacher)
            raise
        self._count("score", scores.stamp.weights_version, scores.stamp.teacher, len(request.completions))
        return scores

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        """The same of a text."""
        if role != self._role:
            return self._others.chat(role, request, on_failure=on_failure)
        self._check_there(0)
        try:
            reply = self._peer.chat(role, request, on_failure="drop")
        except TeacherUnavailable as error:
            self._link.silent(error, error.teacher)
            raise
        self._count("feedback", reply.weights_version, self._link.pair.role, 1)
        return reply

    def take_ledger(self) -> dict[str, TeacherLedger]:
        """Of all teachers, by role."""
        ledgers = self._others.take_ledger() | self._peer.take_ledger()
        with self._counting:
            answers, self._answers = self._answers, Counter()
            dropped, self._dropped = self._dropped, 0
        mine = ledgers[self._role]
        told = [PeerAnswers(kind=k, version=v, lag=lag, count=n) for (k, v, lag), n in sorted(answers.items())]
        ledgers[self._role] = mine.model_copy(update={"answers": told, "dropped": mine.dropped + dropped})
        return ledgers

    def _of(self, role: str) -> TeacherPool:
        return self._peer if role == self._role else self._others

    def _check_there(self, completions: int) -> None:
        """Raises TeacherUnavailable while this side is alone: nobody is called then."""
        if self._link.alone:
            with self._counting:
                self._dropped += completions
            raise TeacherUnavailable("The peer is away, and this side goes on without it.", teacher=self._role)

    def _count(self, kind: Kind, version: int | None, teacher: str, count: int) -> None:
        known = self._link.check_published(version, teacher)
        with self._counting:
            self._answers[kind, known, self._link.step - step_of(known)] += count
