"""Debates that runs hold for themselves: recorded under the run's lease, once for each place in the run.

A run that is taken up again computes steps anew, and with them debates. The first record stays, as of steps and turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.debates import protocol
from preceptor.debates.protocol import Round
from preceptor.errors import Conflict, Invalid
from preceptor.wire.common import Problem
from preceptor.wire.debate_reports import HeldDebate, HeldReport, KnownDebate, KnownWish, RunWish
from preceptor.wire.debates import (
    MOST_TEXT,
    DebateResult,
    DebateState,
    DebateTemplate,
    DebateTurn,
    StoredTemplate,
    Voice,
)
from preceptor.wire.runs import LeaseStatus
from preceptor_services.api.debates import checks, service
from preceptor_services.api.keys.secrets import new_id
from preceptor_services.api.once import hash_of
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history, leases
from preceptor_services.api.runs.roles import Roles, roles_of
from preceptor_services.api.teachers import service as teachers
from preceptor_services.db import models
from preceptor_services.db.session import Unit

RECIPE = "recipe"
"""What the wording of a run's debates is called: it stands in the run's recipe."""
_Place = tuple[int, str, str, int]


def record(plane: Plane, unit: Unit, run_id: str, report: HeldReport, key_id: str) -> LeaseStatus:
    """Record debates of steps that are recorded. One that is recorded already stays as it is."""
    session, at = unit.session, plane.clock()
    run = leases.held(session, run_id, report.fence)
    teachers_now = _Known(session, run_id)
    there = _places(session, run_id, {each.step for each in report.debates})
    for index, each in enumerate(report.debates):
        if each.step > run.step:
            raise Conflict(
                f"debates.{index}.step: step {each.step} is not recorded; {run.step} is the last one.",
                field=f"debates.{index}.step",
                remedy="Report the step first.",
            )
        place = (each.step, each.context, each.task, each.rollout)
        if place not in there:
            there.add(place)
            _add(session, run, teachers_now, each, f"debates.{index}", key_id, at)
    status = leases.beat(plane, session, run, at)
    session.flush()
    return status


def known(session: Session, run_id: str, report: KnownWish) -> tuple[KnownDebate | None, ...]:
    """For each debate that a run would hold the one that went as it would, on request or in a run; None: there is
    none, or those are not the teachers any more that it would be held with."""
    history.get(session, run_id)
    teachers_now = _Known(session, run_id)
    return tuple(_held_before(session, teachers_now, each) for each in report.wishes)


def _held_before(session: Session, teachers_now: _Known, wanted: RunWish) -> KnownDebate | None:
    words = worded(wanted.template)
    key = _key(teachers_now, wanted, words)
    found = None if key is None else service.held_before(session, key, wanted.wish, words)
    if found is None or found.result is None or found.result.ended == "token_budget":
        return None  # a run has no budget that could end it
    return KnownDebate(debate=found.id, turns=service.turns_of(session, found))


def _places(session: Session, run_id: str, steps: set[int]) -> set[_Place]:
    table = models.RunDebate
    query = select(table).where(table.run_id == run_id, table.step.in_(steps))
    return {(each.step, each.context, each.task, each.rollout) for each in session.scalars(query)}


def _add(
    session: Session,
    run: models.Run,
    teachers_now: _Known,
    held: HeldDebate,
    field: str,
    key_id: str,
    at: datetime,
) -> None:
    words, result, error = worded(held.template), _taken(session, held, field), None
    if result is None:
        result, error = _outcome(held, field)
    lasts = held.cached_from is None and error is None and checks.lasting(result, held.turns, held.voices)
    debate = models.Debate(
        id=new_id("debate"),
        wish=held.wish,
        template=words,
        cache_key=_key(teachers_now, held, words) if lasts else None,
        cached_from=held.cached_from,
        state=DebateState.SUCCEEDED.value if error is None else DebateState.FAILED.value,
        created_at=at,
        updated_at=at,
        started_at=at,
        finished_at=at,
        error=error,
        result=result,
        cancel_requested=False,
        worker=run.worker,
        fence=run.fence,
        attempt=1,
        created_by=key_id,
        request_hash=hash_of(held.wish),
    )
    session.add(debate)
    session.flush()
    place = {"step": held.step, "context": held.context, "task": held.task, "rollout": held.rollout}
    session.add(models.RunDebate(debate_id=debate.id, run_id=run.id, voices=held.voices, **place))
    for turn in held.turns:
        said = {"round": turn.round, "debater": turn.debater, "turn": turn}
        session.add(models.DebateTurn(debate_id=debate.id, at=at, fence=run.fence, **said))


def _taken(session: Session, held: HeldDebate, field: str) -> DebateResult | None:
    """What came of the debate that was taken in its stead; None: it was held. Raises Invalid where that is none."""
    if held.cached_from is None:
        return None
    known = session.get(models.Debate, held.cached_from)
    if known is None or known.result is None or known.wish.question != held.wish.question or held.turns:
        raise Invalid(
            f"{field}.cached_from: {held.cached_from} is no debate of this question that has an outcome, or turns came "
            "along that are its own.",
            field=f"{field}.cached_from",
        )
    return known.result


def _outcome(held: HeldDebate, field: str) -> tuple[DebateResult, Problem | None]:
    """What came of a debate, and why it failed. Raises Invalid where it is none, or has not ended."""
    _check(held, field)
    rules = protocol.rules_of(held.wish, held.template)
    end = protocol.following(rules, held.turns)
    if isinstance(end, Round):
        raise Invalid(
            f"{field}.turns: in round {end.number} nothing is said of {', '.join(end.debaters)}; a debate is recorded "
            "when it has ended.",
            field=f"{field}.turns",
        )
    result = protocol.outcome(rules, held.turns, end, _seconds(held.turns))
    return result, protocol.too_few(rules, result) if end.why == "too_few" else None


def _check(held: HeldDebate, field: str) -> None:
    """Raises Invalid where somebody speaks who does not take part, or twice."""
    if set(held.voices) != set(held.wish.teachers):
        raise Invalid(f"{field}.voices: they are not those of the debaters.", field=f"{field}.voices")
    seen = set[tuple[int, str]]()
    for index, turn in enumerate(held.turns):
        where = f"{field}.turns.{index}"
        if turn.debater not in held.wish.teachers or turn.round > held.template.rounds:
            raise Invalid(f"{where}: {turn.debater} does not speak in round {turn.round}.", field=where)
        if (turn.round, turn.debater) in seen:
            raise Invalid(f"{where}: {turn.debater} speaks twice in round {turn.round}.", field=where)
        seen.add((turn.round, turn.debater))


def worded(template: DebateTemplate) -> StoredTemplate:
    """A recipe's words. They are stored with the debate, and under no version."""
    return StoredTemplate(name=RECIPE, version=0, hash=protocol.hash_of(template), template=template)


def _key(teachers_now: _Known, wanted: RunWish, words: StoredTemplate) -> str | None:
    """None: no other debate goes as this one. What is drawn depends on the run's own seeds, which nobody else has, and
    of a text that was cut nobody knows the rest."""
    wish = wanted.wish
    cut = max(len(wish.question), len(wish.attempt or "")) >= MOST_TEXT
    if wish.temperature > 0 or cut or not teachers_now.are(wanted.voices):
        return None
    return checks.cache_key(wish, words, wanted.voices)


class _Known:
    """The teachers that fill a run's roles, as they are known here."""

    def __init__(self, session: Session, run_id: str) -> None:
        self._session = session
        self._registered = roles_of(session, [run_id]).get(run_id, Roles()).registered
        self._voices: dict[str | None, Voice | None] = {}

    def are(self, voices: Mapping[str, Voice]) -> bool:
        """Whether it is they who speak."""
        return all(self._voice(each.role) == each for each in voices.values())

    def _voice(self, role: str | None) -> Voice | None:
        if role not in self._voices:
            teacher = teachers.find(self._session, self._registered.get(role or "", ""))
            card = None if teacher is None else teacher.card
            self._voices[role] = None if card is None else Voice.of(card, role)
        return self._voices[role]


def _seconds(turns: Sequence[DebateTurn]) -> float:
    """Debaters of one round speak side by side."""
    rounds = {turn.round for turn in turns}
    return sum(max(turn.seconds for turn in turns if turn.round == number) for number in rounds)
