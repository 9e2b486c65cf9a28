"""What workers tell of the students that they publish: where one answers, and which versions of it there are.

A version is recorded before it answers anybody, so that whoever hears it finds it here; and it is recorded once.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire import runs as wire
from preceptor.wire.pairs import INCARNATION, MOST_PUBLICATIONS, PeerServing, PublicationReport, Published
from preceptor.wire.teachers import TeacherState
from preceptor_services.api.codistillations.service import KEY_ENV
from preceptor_services.api.plane import Plane
from preceptor_services.api.runs import history, leases, pairs
from preceptor_services.api.teachers import alike, news
from preceptor_services.api.teachers import service as teachers
from preceptor_services.api.teachers.urls import check_url
from preceptor_services.db import models
from preceptor_services.db.session import Unit


def serve(plane: Plane, unit: Unit, run_id: str, serving: PeerServing) -> wire.LeaseStatus:
    """Have a student be asked at this URL from now on. Raises Invalid where it may not be, or another model answers.

    Two sides often begin at once, and each tells the other's run: both runs are locked in one order, after the student,
    which whoever looks at its endpoints locks first.
    """
    session, at = unit.session, plane.clock()
    history.get(session, run_id)
    side = _side(session, run_id)
    teacher = teachers.get(session, side.teacher, lock=True)
    for each in sorted(each.run_id for each in pairs.sides(session, side.codistillation_id).values()):
        history.get(session, each, lock=True)
    run = leases.held(session, run_id, serving.fence)
    check_url(serving.url, plane.settings.refused_networks)
    if teacher.card is not None and (said := alike.other_tokenizer(teacher.card, serving.card)) is not None:
        raise Invalid(
            f"card: this is not the student that was submitted: {said}.",
            field="card",
            remedy="Serve the run's own student.",
        )
    endpoint = teacher.endpoints[0]
    teacher.card, side.url = serving.card, serving.url
    moved = endpoint.url != serving.url
    endpoint.url, endpoint.probe = serving.url, None
    if not news.put(session, teacher, endpoint, TeacherState.READY, None, at) and moved:
        news.tell_users(session, teacher, endpoint, "is where it answers now.", TeacherState.READY, at)
    status = leases.beat(plane, session, run, at)
    session.flush()
    return status


def publish(plane: Plane, unit: Unit, run_id: str, report: PublicationReport) -> wire.LeaseStatus:
    """Record a version. The same again changes nothing. Raises Conflict where the number was given to other weights,
    Invalid where it is not this lease's to give."""
    session, at, told = unit.session, plane.clock(), report.publication
    run = leases.held(session, run_id, report.fence)
    side = _side(session, run_id)
    if told.version != report.fence * INCARNATION + told.step:
        raise Invalid(
            f"publication.version: under the lease {report.fence} the weights after step {told.step} are version "
            f"{report.fence * INCARNATION + told.step}, not {told.version}.",
            field="publication.version",
        )
    held = session.get(models.Publication, (run_id, told.version))
    if held is not None and held.publication.weights_hash != told.weights_hash:
        raise Conflict(
            f"publication.version: {told.version} was published as {held.publication.weights_hash}.",
            field="publication.version",
            remedy="Give the weights a number of their own.",
        )
    if held is None:
        session.add(
            models.Publication(
                run_id=run_id, version=told.version, step=told.step, fence=report.fence, at=at, publication=told
            )
        )
    if report.done:
        side.done_fence = report.fence
    status = leases.beat(plane, session, run, at)
    session.flush()
    return status


def published(session: Session, run_id: str, after: int) -> Published:
    """What is known of a run's student as a peer; its versions above `after`. Raises NotFound."""
    run, side = history.get(session, run_id), _side(session, run_id)
    table = models.Publication
    query = (
        select(table)
        .where(table.run_id == run_id, table.version > after)
        .order_by(table.version)
        .limit(MOST_PUBLICATIONS)
    )
    found = tuple(each.publication for each in session.scalars(query))
    done = run.state == wire.RunState.SUCCEEDED.value or 0 < side.done_fence == run.fence
    return Published(state=run.state, url=side.url, key_env=KEY_ENV, done=done, publications=found)


def _side(session: Session, run_id: str) -> models.CodistillationSide:
    table = models.CodistillationSide
    side = session.scalar(select(table).where(table.run_id == run_id))
    if side is None:
        raise NotFound(f"Run {run_id[:100]!r} is no side of a pair.", remedy="POST /v1/codistillations starts a pair.")
    return side
