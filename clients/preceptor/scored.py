"""One score request through a teacher's endpoints: cut to its limits, sent, judged, counted and joined again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from preceptor.adapters import Endpoint
from preceptor.errors import Conflict, TeacherRefused, TooLarge
from preceptor.judge import judge
from preceptor.persist import persist
from preceptor.replica import Replica
from preceptor.replicas import Moved, Replicas
from preceptor.routing import Want
from preceptor.split import join, split
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Card

MOVES = 5
"""How often a request is begun again because the teacher's weights moved while it was under way."""


def ask_for_scores(replicas: Replicas, request: ScoreRequest, card: Card, patience: float, *, hasty: bool) -> Scores:
    """Scores for every position asked, of one weights version, whichever endpoints answer.

    Parts go to several endpoints at once. Raises what `persist` and `judge` raise, and TeacherRefused where one
    completion alone is beyond the limits.
    """
    pinned = request.weights_version is not None
    try:
        parts = split(request, card.limits)
    except TooLarge as error:
        raise TeacherRefused(error.problem, teacher=replicas.name) from error

    def one(part: ScoreRequest) -> Scores:
        want = Want.of(part, pinned=pinned, alone=len(replicas) == 1)
        return _scored(replicas, part, want, card, patience, hasty=hasty)

    for _ in range(MOVES):
        version = request.weights_version
        if version is None and len(replicas) > 1:
            version = replicas.newest
        try:
            if len(parts) == 1 or len(replicas) == 1:
                return join(request, _in_turn(parts, version, one))
            return join(request, _at_once(parts, version, one, len(replicas)))
        except Moved:
            continue
    raise TeacherRefused(
        f"The weights of teacher '{replicas.name}' moved {MOVES} times while it answered one request.",
        teacher=replicas.name,
        remedy="Load new weights less often than a request takes.",
    )


def _in_turn(parts: Sequence[ScoreRequest], version: int | None, ask: Callable[[ScoreRequest], Scores]) -> list[Scores]:
    """Parts of one request are of one version, or the caller would mix two teachers without knowing."""
    answers: list[Scores] = []
    for part in parts:
        answers.append(ask(replace(part, weights_version=version)))
        version = answers[0].stamp.weights_version if version is None else version
    return answers


def _at_once(
    parts: Sequence[ScoreRequest], version: int | None, ask: Callable[[ScoreRequest], Scores], width: int
) -> list[Scores]:
    with ThreadPoolExecutor(min(width, len(parts)), thread_name_prefix="teacher-part") as threads:
        futures = [threads.submit(ask, replace(part, weights_version=version)) for part in parts]
        try:
            return [future.result() for future in futures]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _scored(
    replicas: Replicas, request: ScoreRequest, want: Want, card: Card, patience: float, *, hasty: bool
) -> Scores:
    """One request that fits, from whichever endpoint; judged and counted."""
    tally, wanted = replicas.tally, request.weights_version

    def attempt(replica: Replica, client: Endpoint, left: float) -> Scores:
        hurried = replace(request, deadline_ms=max(1, int(left * 1000)))
        began = time.monotonic()
        tally.sent_to(replica.url)
        try:
            scores = client.exchange(hurried, timeout=left, count=tally.count)
        finally:
            tally.count(seconds=time.monotonic() - began)
        if wanted is not None and not want.pinned and scores.stamp.weights_version != wanted:
            raise Conflict(f"{replica.url} answered with weights version {scores.stamp.weights_version}.")
        return scores

    scores = persist(replicas, attempt, patience=patience, want=want, hasty=hasty)
    judge(scores, request, card, teacher=replicas.name)
    tally.count(sequences=len(request.completions), tokens=int(scores.offsets[-1]))
    tally.saw(scores.stamp.weights_version)
    replicas.moved_to(scores.stamp.weights_version)
    return scores
