"""The pair that a run may be a side of, as a worker and the pair's own pages want it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.wire.codistillations import PEER
from preceptor.wire.pairs import PairGrant, Side
from preceptor.wire.teachers import TeacherState
from preceptor_services.db import models

SIDES: tuple[Side, Side] = ("a", "b")
BOTH: tuple[tuple[Side, Side], ...] = (("a", "b"), ("b", "a"))
"""Each side, and the other."""


def sides(session: Session, pair_id: str) -> dict[Side, models.CodistillationSide]:
    """Its two sides."""
    table = models.CodistillationSide
    found = {each.side: each for each in session.scalars(select(table).where(table.codistillation_id == pair_id))}
    return {side: found[side] for side in SIDES}


def grant_of(session: Session, run_id: str) -> PairGrant | None:
    """What a worker has to know of the pair that a run is a side of; None: it is alone."""
    table = models.CodistillationSide
    mine = session.scalar(select(table).where(table.run_id == run_id))
    if mine is None:
        return None
    side: Side = "a" if mine.side == "a" else "b"
    other = sides(session, mine.codistillation_id)["b" if side == "a" else "a"]
    pair = session.get_one(models.Codistillation, mine.codistillation_id)
    return PairGrant(
        id=pair.id,
        side=side,
        role=PEER,
        teacher=mine.teacher,
        peer_run=other.run_id,
        teaches=tuple(mine.teaches),
        peer_teaches=tuple(other.teaches),
        policy=pair.policy,
    )


def leave(session: Session, run: models.Run, at: datetime) -> None:
    """A run that goes on no more has no student that answers: no other run is sent there until it is taken up again.

    The other side is told nothing: it has the run's state, and a note in it would want its lock under this run's.
    """
    table = models.CodistillationSide
    query = select(models.Teacher).join(table, table.teacher == models.Teacher.name).where(table.run_id == run.id)
    if (student := session.scalar(query)) is None:
        return
    student.updated_at = at
    for each in student.endpoints:
        each.state, each.trouble = TeacherState.DOWN.value, f"Run {run.id}, which trained this student, is {run.state}."
