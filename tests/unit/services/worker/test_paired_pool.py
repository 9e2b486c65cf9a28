"""What a run hears of its peer: counted by version and lag, left out where it is away, an error where it was never
published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from preceptor.errors import NeverPublished, NotFound, PeerLost, PreceptorError, TeacherRefused, TeacherUnavailable
from preceptor.wire.chat import ChatMessage, ChatRequest, Reply
from preceptor.wire.pairs import PeerAnswers, step_of, version_of
from preceptor.wire.runs import OnFailure, TeacherLedger
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor_services.worker.paired_pool import PairedPool

ASKED = ChatRequest(messages=(ChatMessage(role="user", content="What is wrong?"),), max_tokens=8)


@dataclass
class Pool:
    """One that writes, in the version that a test wants."""

    role: str
    version: int | None = version_of(1, 4)
    away: bool = False
    asked: list[tuple[str, OnFailure]] = field(default_factory=list[tuple[str, OnFailure]])
    scored: int = 0

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure) -> Reply:
        self.asked.append((role, on_failure))
        if self.away:
            raise TeacherUnavailable("It does not answer.", teacher=role)
        return Reply(text="All of it.", finished=True, weights_version=self.version)

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure) -> Scores:
        self.asked.append((role, on_failure))
        self.scored += len(request.completions)
        known = self.version
        assert known is not None
        stamp = SimpleNamespace(weights_version=known, teacher=role)
        return cast(Scores, SimpleNamespace(stamp=stamp, offsets=[0, 5]))

    def head(self, role: str, hash: str | None, *, on_failure: OnFailure, completions: int) -> Head:
        self.asked.append((role, on_failure))
        if self.away:
            raise TeacherUnavailable("It does not answer.", teacher=role)
        raise TeacherRefused("It has moved on.", teacher=role) from NotFound("No such head.")

    def take_ledger(self) -> dict[str, TeacherLedger]:
        asked, self.asked, scored, self.scored = self.asked, [], self.scored, 0
        return {self.role: TeacherLedger(requests=len(asked), sequences=scored, tokens=5 * scored)}


@dataclass
class Link:
    """Versions 1,3 and 1,4 are published; the student is after step 6."""

    alone: bool = False
    stops: bool = False
    step: int = 6
    bound: int = 3
    caught_up: Callable[[], object] = lambda: None
    pair: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(role="peer"))
    silences: list[str] = field(default_factory=list[str])

    def check_published(self, version: int | None, teacher: str) -> int:
        if version not in (version_of(1, 3), version_of(1, 4)):
            raise NeverPublished("Nobody published it.", teacher=teacher)
        return version

    def heeds(self, version: int) -> bool:
        self.caught_up()
        return self.step - step_of(version) <= self.bound

    def silent(self, error: PreceptorError, teacher: str) -> None:
        self.silences.append(error.problem.detail)
        if self.stops:
            raise PeerLost("It is lost.", teacher=teacher)


def pooled(link: Link) -> tuple[PairedPool, Pool, Pool]:
    others, peer = Pool("self"), Pool("peer")
    return PairedPool(cast(Any, others), cast(Any, peer), cast(Any, link)), others, peer


def test_texts_are_counted_by_version_and_lag_and_those_of_others_are_not() -> None:
    pool, others, peer = pooled(Link())
    for peer.version in (version_of(1, 3), version_of(1, 4), version_of(1, 4)):
        assert pool.chat("peer", ASKED).text == "All of it."
    pool.chat("self", ASKED, on_failure="wait")
    assert others.asked == [("self", "wait")] and {each for _, each in peer.asked} == {"drop"}, "the pair says how long"
    ledger = pool.take_ledger()
    assert ledger["peer"].answers == [
        PeerAnswers(kind="feedback", version=version_of(1, 3), lag=3, count=1),
        PeerAnswers(kind="feedback", version=version_of(1, 4), lag=2, count=2),
    ]
    assert (ledger["peer"].requests, ledger["self"].answers) == (3, [])
    assert pool.take_ledger()["peer"].answers == [], "they were told once"


@pytest.mark.parametrize("kind", ["score", "feedback"])
def test_what_is_too_far_behind_is_asked_for_again_and_counts_once(kind: Literal["score", "feedback"]) -> None:
    link = Link(bound=2)
    pool, _, peer = pooled(link)
    peer.version, versions = version_of(1, 3), iter([version_of(1, 3), version_of(1, 4)])

    def caught_up() -> None:
        peer.version = next(versions, version_of(1, 4))

    link.caught_up = caught_up
    if kind == "score":
        pool.score("peer", cast(ScoreRequest, SimpleNamespace(completions=[[1]])))
    else:
        pool.chat("peer", ASKED)
    ledger = pool.take_ledger()["peer"]
    assert ledger.answers == [PeerAnswers(kind=kind, version=version_of(1, 4), lag=2, count=1)]
    assert ledger.requests == 3
    assert (ledger.sequences, ledger.tokens) == ((1, 5) if kind == "score" else (0, 0))
    assert pool.take_ledger()["peer"].sequences == 0


def test_once_this_side_goes_on_alone_it_is_done_without() -> None:
    pool, _, _ = pooled(link := Link(bound=1))
    link.caught_up = lambda: setattr(link, "alone", True)
    with pytest.raises(TeacherUnavailable, match="goes on without it"):
        pool.score("peer", cast(ScoreRequest, SimpleNamespace(completions=[[1]])))
    ledger = pool.take_ledger()["peer"]
    assert (ledger.answers, ledger.sequences, ledger.dropped, ledger.requests) == ([], 0, 1, 1)


@pytest.mark.parametrize("version", [version_of(1, 5), None])
def test_a_text_of_weights_that_were_never_published_is_an_error_and_is_not_counted(version: int | None) -> None:
    pool, _, peer = pooled(Link())
    peer.version = version
    with pytest.raises(NeverPublished):
        pool.chat("peer", ASKED)
    assert not pool.take_ledger()["peer"].answers


def test_a_peer_that_is_silent_is_told_to_the_link_and_then_left_in_peace() -> None:
    pool, _, peer = pooled(link := Link())
    peer.away = True
    with pytest.raises(TeacherUnavailable):
        pool.chat("peer", ASKED)
    assert link.silences == ["It does not answer."] and len(peer.asked) == 1
    link.alone = True
    with pytest.raises(TeacherUnavailable, match="goes on without it"):
        pool.chat("peer", ASKED)
    assert len(peer.asked) == 1, "nobody is called while this side is alone"
    link.alone, peer.away = False, False
    assert pool.chat("peer", ASKED).text == "All of it."


def test_scores_are_left_out_whose_head_the_peer_does_not_give_any_more() -> None:
    pool, others, peer = pooled(link := Link())
    with pytest.raises(TeacherUnavailable, match="It has moved on"):
        pool.head("peer", "sha256:1", on_failure="drop", completions=2)
    assert not link.silences and pool.take_ledger()["peer"].dropped == 2
    with pytest.raises(TeacherRefused):
        pool.head("self", "sha256:1", on_failure="drop", completions=2)
    assert others.asked == [("self", "drop")]
    peer.away = True
    with pytest.raises(TeacherUnavailable):
        pool.head("peer", "sha256:1", on_failure="drop", completions=2)
    assert link.silences == ["It does not answer."]
    link.stops = True
    with pytest.raises(PeerLost):
        pool.head("peer", "sha256:1", on_failure="drop", completions=2)


def test_where_the_pair_stops_then_a_silent_peer_ends_the_run() -> None:
    pool, _, peer = pooled(Link(stops=True))
    peer.away = True
    with pytest.raises(PeerLost):
        pool.chat("peer", ASKED)
