"""The teachers of a run that has a peer: the peer under the pair's rules, all others as ever.

What the peer answers is counted by version and by how far that one was behind; an answer from weights that were never
published is an error, and one of a version further behind than the pair's bound is thrown away and asked for again.
Where it does not answer, the pair's policy has decided: its opinions are left out and counted, or the run stops.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal, TypeVar

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
Said = TypeVar("Said", Scores, Reply)


class PairedPool:
    """The loop's `Scorer`."""

    def __init__(self, others: TeacherPool, peer: TeacherPool, link: Link) -> None:
        """`peer`: a pool of the peer alone, whose calls end when the pair's patience does."""
        self._others, self._peer, self._link, self._role = others, peer, link, link.pair.role
        self._counting = threading.Lock()
        self._answers: Counter[tuple[Kind, int, int]] = Counter()
        self._dropped = 0
        self._unheard = Counter[str]()
        """What the peer's pool has counted of scores that were thrown away."""

    def begin(self, step: int) -> Collection[str]:
        return self._others.begin(step)

    def begin_again(self) -> Collection[str]:
        return self._others.begin_again()

    def card(self, role: str) -> Card:
        return self._of(role).card(role)

    def tokenizer(self, role: str) -> TokenizerFile:
        return self._of(role).tokenizer(role)

    def head(self, role: str, hash: str | None = None, *, on_failure: OnFailure = "wait", completions: int = 0) -> Head:
        """Raises TeacherUnavailable where the peer does not answer, or has moved on so far that it no longer has this
        one: then what it said is left out, for a later head would make something else of it. Raises PeerLost."""
        if role != self._role:
            return self._others.head(role, hash, on_failure=on_failure, completions=completions)
        try:
            return self._peer.head(role, hash, on_failure="drop", completions=completions)
        except TeacherUnavailable as error:
            self._link.silent(error, error.teacher)
            raise
        except TeacherRefused as error:
            if not isinstance(error.__cause__, NotFound):
                raise
            self._drop(completions)
            raise TeacherUnavailable(error.problem, teacher=error.teacher) from error

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        """Raises NeverPublished and PeerLost, and TeacherUnavailable where the peer's opinions are left out."""
        if role != self._role:
            return self._others.score(role, request, on_failure=on_failure)
        count = len(request.completions)
        scores, version = self._heard(
            lambda: self._peer.score(role, request, on_failure="drop"),
            lambda scores: scores.stamp.weights_version,
            lambda scores: {"sequences": count, "tokens": int(scores.offsets[-1])},
            count,
        )
        self._count("score", version, count)
        return scores

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        """The same of a text."""
        if role != self._role:
            return self._others.chat(role, request, on_failure=on_failure)
        ask = partial(self._peer.chat, role, request, on_failure="drop")
        reply, version = self._heard(ask, lambda reply: reply.weights_version, lambda reply: {}, 0)
        self._count("feedback", version, 1)
        return reply

    def take_ledger(self) -> dict[str, TeacherLedger]:
        """Of all teachers, by role."""
        ledgers = self._others.take_ledger() | self._peer.take_ledger()
        with self._counting:
            answers, self._answers = self._answers, Counter()
            dropped, self._dropped = self._dropped, 0
            unheard, self._unheard = self._unheard, Counter()
        mine = ledgers[self._role]
        mine = mine.model_copy(update={name: getattr(mine, name) - count for name, count in unheard.items()})
        told = [PeerAnswers(kind=k, version=v, lag=lag, count=n) for (k, v, lag), n in sorted(answers.items())]
        ledgers[self._role] = mine.model_copy(update={"answers": told, "dropped": mine.dropped + dropped})
        return ledgers

    def _heard(
        self,
        ask: Callable[[], Said],
        version_of: Callable[[Said], int | None],
        counted: Callable[[Said], Mapping[str, int]],
        completions: int,
    ) -> tuple[Said, int]:
        """What the peer says, and which version of it: asked until one answers that is near enough. `counted`: what the
        pool has counted of an answer."""
        while True:
            self._check_there(completions)
            try:
                said = ask()
            except TeacherUnavailable as error:
                self._link.silent(error, error.teacher)
                raise
            version = self._link.check_published(version_of(said), self._role)
            if self._link.heeds(version):
                return said, version
            with self._counting:
                self._unheard.update(counted(said))

    def _of(self, role: str) -> TeacherPool:
        return self._peer if role == self._role else self._others

    def _check_there(self, completions: int) -> None:
        """Raises TeacherUnavailable while this side is alone: nobody is called then."""
        if self._link.alone:
            self._drop(completions)
            raise TeacherUnavailable("The peer is away, and this side goes on without it.", teacher=self._role)

    def _drop(self, completions: int) -> None:
        with self._counting:
            self._dropped += completions

    def _count(self, kind: Kind, version: int, count: int) -> None:
        with self._counting:
            self._answers[kind, version, self._link.step - step_of(version)] += count
