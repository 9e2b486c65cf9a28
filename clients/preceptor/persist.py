"""The patience to get an answer out of a teacher: again elsewhere at once, again at the same endpoint after a pause.

Pauses grow, with jitter. What cannot get better by itself (a refusal, a fault of the teacher's own) is raised.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from preceptor.adapters import Endpoint
from preceptor.errors import (
    BadScores,
    Conflict,
    Corrupt,
    Interrupted,
    NotAuthorised,
    NotFound,
    Overloaded,
    PreceptorError,
    ServerFault,
    TeacherRefused,
    TeacherUnavailable,
    VersionsDisagree,
)
from preceptor.hedge import race
from preceptor.replica import Dialled, Replica, may_pass
from preceptor.replicas import Replicas, Unbelieved, Waiting
from preceptor.routing import Want

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

Answer = TypeVar("Answer")
Attempt = Callable[[Replica, Endpoint, float], Answer]
"""Asks an endpoint through a client of ours, within so many seconds."""


@dataclass(slots=True)
class _Call:
    """What became of one call so far."""

    want: Want
    waiting: Waiting
    end: float
    patience: float
    hasty: bool
    tries: int = 0
    rounds: int = 0
    failure: PreceptorError | None = None
    failed_at: Replica | None = None
    avoid: set[Replica] = field(default_factory=set[Replica])
    """Have failed since the last pause."""
    spent: dict[Replica, PreceptorError] = field(default_factory=dict[Replica, PreceptorError])
    """Would fail again."""
    conflicts: set[Replica] = field(default_factory=set[Replica])
    """Have said that they have not the weights version that is wanted."""


def persist(
    replicas: Replicas,
    attempt: Attempt[Answer],
    *,
    patience: float,
    want: Want | None = None,
    hasty: bool = False,
) -> Answer:
    """Try until it works, is refused, or `patience` seconds have passed. `hasty`: whoever is free is asked, once.

    Raises TeacherUnavailable, TeacherRefused, BadScores, Interrupted (told to stop while nobody answered, or closed),
    and Moved where the teacher has newer weights than are wanted.
    """
    with replicas.call() as waiting:
        call = _Call(want or Want(), waiting, replicas.means.clock() + patience, patience, hasty)
        return _persist(replicas, attempt, call)


def _persist(replicas: Replicas, attempt: Attempt[Answer], call: _Call) -> Answer:
    while True:
        if replicas.closed:
            raise Interrupted(
                f"Teacher '{replicas.name}' is no longer to be asked: the job has ended, or another teacher fills its "
                "role.",
                teacher=replicas.name,
            )
        replica = replicas.enter(call.want, call.spent, call.avoid)
        if replica is None:
            _pause(replicas, call)
            continue
        if call.failed_at is not None:
            replicas.tally.count(retries=1, failovers=int(replica is not call.failed_at))
            call.failed_at = None
        try:
            answer = _send(replicas, replica, attempt, call)
        except Unbelieved:
            continue
        except PreceptorError as error:
            _consider(replicas, replica, error, call)
        else:
            replicas.down = False
            return answer


def _send(replicas: Replicas, replica: Replica, attempt: Attempt[Answer], call: _Call) -> Answer:
    """Once; to a second endpoint as well where the first takes unusually long."""

    def sending(to: Replica) -> _Sending[Answer]:
        call.tries += 1
        left = min(replicas.means.deadline, call.end - replicas.means.clock())
        return _Sending(replicas, to, attempt, call.want, max(0.001, left))

    def second() -> _Sending[Answer] | None:
        other = replicas.enter(call.want, call.spent, {*call.avoid, replica})
        if other is None:
            return None
        replicas.tally.count(hedges=1)
        return sending(other)

    scores = call.want.request is not None
    after = replicas.latencies.unusual_after(call.want.tokens) if scores and len(replicas) > 1 else None
    if after is None:
        return sending(replica).run()
    answer, hedged = race(sending(replica), second, after)
    replicas.tally.count(hedges_won=int(hedged))
    return answer


class _Sending(Generic[Answer]):
    """One attempt at one endpoint, which may be broken off."""

    def __init__(self, replicas: Replicas, replica: Replica, attempt: Attempt[Answer], want: Want, left: float) -> None:
        self._replicas, self._replica, self._attempt, self._want, self._left = replicas, replica, attempt, want, left
        self._lock = threading.Lock()
        self._dialled: Dialled | None = None
        self._unwanted = False

    def run(self) -> Answer:
        replica, want = self._replica, self._want
        learned = False
        try:
            dialled = replica.borrow()
            try:
                with self._lock:
                    self._dialled = dialled
                    if self._unwanted:
                        dialled.break_off()
                self._replicas.believe(replica, dialled.client, want)
                began = time.monotonic()
                answer = self._attempt(replica, dialled.client, self._left)
                if want.request is not None:
                    self._replicas.latencies.add(want.tokens, time.monotonic() - began)
                replica.answered(want.contexts)
                learned = True
                return answer
            finally:
                with self._lock:
                    self._dialled = None
                replica.give_back(dialled)
        except PreceptorError as error:
            if not self._unwanted:
                replica.failed(error)
                learned = True
            raise
        finally:
            if not learned:
                replica.breaker.gave_up()
            self._replicas.leave(replica, want)

    def break_off(self) -> None:
        with self._lock:
            self._unwanted = True
            if self._dialled is not None:
                self._dialled.break_off()


def _consider(replicas: Replicas, replica: Replica, error: PreceptorError, call: _Call) -> None:
    """Take note of a failure. Raises what ends the call."""
    name = replicas.name
    call.failure, call.failed_at, call.waiting.failed = error, replica, True
    if may_pass(error):
        call.avoid.add(replica)
    elif isinstance(error, ServerFault):
        call.spent[replica] = error
        if not replicas.possible(call.want, call.spent):
            raise TeacherUnavailable(error.problem, teacher=name) from error
    elif isinstance(error, Corrupt):
        raise BadScores(f"Teacher '{name}': {error}", teacher=name) from error
    elif isinstance(error, Conflict) and call.want.version is not None:
        # Its card is read anew before it is asked again. Who says no a second time is not asked a third.
        if replica in call.conflicts:
            call.spent[replica] = error
        call.conflicts.add(replica)
    elif isinstance(error, NotFound) and call.want.request is None and len(replicas) > 1:
        call.spent[replica] = error  # another may still have what this one has not
        if not replicas.possible(call.want, call.spent):
            raise _refusal(f"Teacher '{name}' refused", error, name) from error
    elif isinstance(error, NotAuthorised | NotFound) and len(replicas) > 1:
        replica.doubt(_refusal(f"Teacher '{name}' at {replica.url} refused", error, name))
        replicas.tally.count(refused=1)
    else:
        raise _refusal(f"Teacher '{name}' refused", error, name) from error


def _pause(replicas: Replicas, call: _Call) -> None:
    """Wait until somebody may be asked. Raises where that is too late, or never."""
    means, possible = replicas.means, replicas.possible(call.want, call.spent)
    if not possible:
        raise _nobody(replicas, call)
    if call.hasty:
        raise _unavailable(replicas, call)
    call.rounds += 1
    grown = min(FIRST_PAUSE * 2 ** min(call.rounds - 1, 16), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
    soonest = min(each.free_in for each in possible)  # infinite: another thread is just trying it
    pause = max(grown, soonest * random.uniform(1.01, 1.2)) if soonest < float("inf") else grown
    if means.clock() + pause >= call.end:
        raise _unavailable(replicas, call)
    busy = isinstance(call.failure, Overloaded) and call.failure.problem.status == 429
    if not busy and means.stopping():
        raise Interrupted(
            f"Waiting for teacher '{replicas.name}' was broken off: the job is to stop. {_last(call)}",
            teacher=replicas.name,
        ) from call.failure
    replicas.tally.count(waited_seconds=pause)
    replicas.pause(pause)
    call.avoid.clear()


def _unavailable(replicas: Replicas, call: _Call) -> TeacherUnavailable:
    """Nobody answered in time."""
    replicas.down = replicas.down or not call.hasty
    error = TeacherUnavailable(
        f"Teacher '{replicas.name}' gave no answer in {call.patience:g} s and {call.tries} attempts. {_last(call)}"
        if call.tries or not call.hasty
        else f"Teacher '{replicas.name}' gave no answer to the calls before, and is left alone for a moment.",
        teacher=replicas.name,
        remedy="Check that it runs and is not overloaded, then resume the run.",
    )
    error.__cause__ = call.failure
    return error


def _nobody(replicas: Replicas, call: _Call) -> PreceptorError:
    """None of the endpoints could answer this, however long one waited."""
    name, wanted = replicas.name, call.want.version
    for error in call.spent.values():
        if isinstance(error, ServerFault):
            return TeacherUnavailable(error.problem, teacher=name)
    known = list(replicas)
    if wanted is not None and any(each.version not in (None, wanted) or each in call.spent for each in known):
        found = "; ".join(f"{each.url} {_state(each)}" for each in known)
        return VersionsDisagree(
            f"No endpoint of teacher '{name}' serves weights version {wanted}: {found}.",
            teacher=name,
            remedy="Load the same weights at all of its endpoints, then resume the run.",
        )
    refusals = [each.why_not for each in known if each.why_not is not None]
    if len(known) == 1 and refusals:
        return TeacherRefused(refusals[0].problem, teacher=name)
    if refusals:
        sentences = " ".join(refusal.problem.detail for refusal in refusals)
        return TeacherRefused(
            f"No endpoint of teacher '{name}' can be used. {sentences}", teacher=name, remedy=refusals[0].problem.remedy
        )
    return TeacherRefused(
        f"No endpoint of teacher '{name}' takes a request of {call.want.tokens} tokens.",
        teacher=name,
        remedy="Start all of its endpoints with the same limits.",
    )


def _state(replica: Replica) -> str:
    return f"is at {replica.version}" if replica.version is not None else "is not believed"


def _last(call: _Call) -> str:
    return "" if call.failure is None else f"Last: {call.failure}"


def _refusal(what: str, error: PreceptorError, teacher: str) -> TeacherRefused:
    problem = error.problem
    return TeacherRefused(f"{what}: {problem.detail}", teacher=teacher, field=problem.field, remedy=problem.remedy)
