"""One debate, from its lease to its end: who is asked what follows from `preceptor.debates.protocol`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from preceptor.debates import protocol
from preceptor.debates.protocol import Round, Rules, Subject
from preceptor.errors import (
    Conflict,
    Interrupted,
    LeaseLost,
    NotFound,
    PreceptorError,
    TeacherRefused,
    TeacherUnavailable,
)
from preceptor.pool import TeacherPool
from preceptor.wire.chat import ChatMessage, ChatRequest, Reply
from preceptor.wire.debate_reports import DebateFinish, DebateGrant
from preceptor.wire.debates import DebateState, DebateTurn
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.faults import fault, told
from preceptor_services.worker.lease import Lease

LOOK_SECONDS = 0.25
"""How often, while debaters write, it is looked whether the debate is still wanted."""

WROTE = 300
"""Characters that are kept of a reply that does not count."""

_log = logging.getLogger(__name__)


def hold(debate_id: str, bench: Bench) -> None:
    """Hold a debate until it ends, is cancelled, or this process is told to stop.

    A message that finds it taken, ended or gone is redundant. Raises PreceptorError when the control plane cannot be
    reached at all, before a lease was taken.
    """
    try:
        grant = bench.client.debates.lease(debate_id, bench.name)
    except (Conflict, NotFound) as error:
        _log.info("debate %s: nothing to do (%s)", debate_id, error)
        return
    _log.info("debate %s: lease taken, fence %d, attempt %d", debate_id, grant.fence, grant.debate.attempt)
    began, debates, fence = time.monotonic() - grant.elapsed_seconds, bench.client.debates, grant.fence
    with Lease(f"debate {debate_id}", fence, grant.ttl_seconds, lambda: debates.heartbeat(debate_id, fence)) as lease:
        try:
            finish = _hold(grant, lease, bench, began)
            if finish is None:
                lease.report(lambda: debates.release(debate_id, fence))
            else:
                lease.report(lambda: debates.finish(debate_id, finish))
            _log.info("debate %s: %s", debate_id, "given back" if finish is None else finish.state.value)
        except LeaseLost as error:
            _log.warning("debate %s: stopped (%s)", debate_id, error)
        except PreceptorError as error:
            _log.error("debate %s: its end could not be reported (%s); the lease runs out by itself", debate_id, error)


def _hold(grant: DebateGrant, lease: Lease, bench: Bench, began: float) -> DebateFinish | None:
    """How it ended; None: it is to be given back."""
    try:
        return _Chair(grant, lease, bench, began).hold()
    except LeaseLost:
        raise
    except _Stopped:
        lease.check()
        return DebateFinish(fence=grant.fence, state=DebateState.CANCELLED) if lease.cancel else None
    except Exception as error:  # the boundary: whatever went wrong in there is this debate's failure
        lease.check()
        _log.exception("debate %s: failed", grant.debate.id)
        cause = told(error, bench.name) or fault(error, bench.name, of="worker", what="debate")
        return DebateFinish(fence=grant.fence, state=DebateState.FAILED, error=cause)


class _Stopped(Exception):
    """The debate is not wanted any more, or not from this worker."""


@dataclass(slots=True)
class _Chair:
    """Asks the debaters, round by round, and records what they say."""

    grant: DebateGrant
    lease: Lease
    bench: Bench
    began: float
    """When a worker first took the debate, on this process's clock."""
    turns: list[DebateTurn] = field(default_factory=list[DebateTurn])

    def hold(self) -> DebateFinish:
        debate = self.grant.debate
        self.turns = list(debate.turns)
        rules = protocol.rules_of(debate.wish, debate.template.template)
        with TeacherPool(
            self.grant.teachers,
            self.bench.folder / "heads",
            deadline=min(self.bench.teacher_deadline, debate.wish.budget.seconds),
            stopping=lambda: self._unwanted() or self._late(),
        ) as pool:
            while isinstance(step := protocol.following(rules, self.turns, self._elapsed()), Round):
                self._round(rules, pool, step)
        result = protocol.outcome(rules, self.turns, step, self._elapsed())
        if step.why != "too_few":
            return DebateFinish(fence=self.grant.fence, state=DebateState.SUCCEEDED, result=result)
        return DebateFinish(
            fence=self.grant.fence, state=DebateState.FAILED, error=protocol.too_few(rules, result), result=result
        )

    def _round(self, rules: Rules, pool: TeacherPool, step: Round) -> None:
        """Have everybody speak, side by side. What is said is recorded as it comes; who is late has not spoken."""
        if self._unwanted():
            raise _Stopped
        before = list(self.turns)
        threads = ThreadPoolExecutor(len(step.debaters), thread_name_prefix="debater")
        try:
            asked: dict[Future[DebateTurn], str] = {
                threads.submit(self._ask, rules, pool, each, step.number, before): each for each in step.debaters
            }
            while asked and not self._late():
                done, _ = wait(asked, timeout=min(LOOK_SECONDS, max(self._left(), 0.01)), return_when=FIRST_COMPLETED)
                self._record([each.result() for each in done if asked.pop(each)])
                if self._unwanted():
                    raise _Stopped
            self._record([self._too_late(each, step.number) for each in asked.values()])
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # what is still asked ends with the pool

    def _ask(
        self, rules: Rules, pool: TeacherPool, debater: str, number: int, before: Sequence[DebateTurn]
    ) -> DebateTurn:
        wish, began = self.grant.debate.wish, time.monotonic()
        if debater not in self.grant.teachers:
            return DebateTurn(
                round=number, debater=debater, missing="unavailable", detail="It is not registered any more."
            )
        subject = Subject(question=wish.question, attempt=wish.attempt)
        message = ChatMessage(role="user", content=protocol.prompt(rules, subject, debater, number, before))
        seed = wish.seed if wish.temperature > 0 else None
        request = ChatRequest(messages=(message,), max_tokens=wish.max_tokens, temperature=wish.temperature, seed=seed)
        try:
            version = pool.card(debater).weights_version
            reply = pool.chat(debater, request, on_failure="drop")
        except Interrupted:
            return self._too_late(debater, number)
        except (TeacherUnavailable, TeacherRefused) as error:
            return self._turn(debater, number, began, missing="unavailable", detail=str(error)[:1000])
        said: dict[str, object] = {"tokens": protocol.written(reply, wish.max_tokens), "weights_version": version}
        if not reply.finished:
            detail = f"The reply was cut off at {wish.max_tokens} tokens. {_wrote(reply)}"
            return self._turn(debater, number, began, missing="cut_off", detail=detail, **said)
        try:
            argument, confidence, answer = protocol.read(rules.template, wish.attempt is not None, reply.text)
        except ValueError as error:
            return self._turn(debater, number, began, missing="unreadable", detail=f"{error}. {_wrote(reply)}", **said)
        return self._turn(debater, number, began, argument=argument, confidence=confidence, answer=answer, **said)

    def _turn(self, debater: str, number: int, began: float, **said: object) -> DebateTurn:
        seconds = time.monotonic() - began
        return DebateTurn.model_validate({"round": number, "debater": debater, "seconds": seconds, **said})

    def _too_late(self, debater: str, number: int) -> DebateTurn:
        detail = f"The time budget of {self.grant.debate.wish.budget.seconds:g} s was up."
        return DebateTurn(round=number, debater=debater, missing="late", detail=detail)

    def _record(self, turns: Sequence[DebateTurn]) -> None:
        if not turns:
            return
        debates, debate_id, fence = self.bench.client.debates, self.grant.debate.id, self.grant.fence
        self.lease.heard(self.lease.report(lambda: debates.record(debate_id, fence, turns)))
        self.turns += turns

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    def _left(self) -> float:
        return self.grant.debate.wish.budget.seconds - self._elapsed()

    def _late(self) -> bool:
        return self._left() <= 0

    def _unwanted(self) -> bool:
        return self.bench.stopping.is_set() or self.lease.cancel or self.lease.lost.is_set()


def _wrote(reply: Reply) -> str:
    """How a reply that does not count begins, for people to see what is wrong with it."""
    text = reply.text.strip()
    return f"It wrote: {repr(text[:WROTE])[: 2 * WROTE]}{' ...' if len(text) > WROTE else ''}"
