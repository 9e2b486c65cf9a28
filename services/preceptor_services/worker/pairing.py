"""A run's side of its pair, opened on this machine: its student published, its peer connected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from preceptor.errors import Invalid
from preceptor.opening import key_of
from preceptor.pool import TeacherPool
from preceptor.vital import vital_signs
from preceptor.wire.pairs import PairGrant
from preceptor.wire.runs import LeaseGrant, ReplicaAddress
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.live import LiveStudent
from preceptor_services.worker.pair import Link
from preceptor_services.worker.paired_pool import PairedPool
from preceptor_trainer.asking import Scorer


def peer_role(grant: LeaseGrant) -> str | None:
    """The role that a run's peer fills; None: it has none."""
    return None if grant.pair is None else grant.pair.role


def version_at(name: str, url: str, key_env: str | None) -> int | None:
    """The version of the student of this name that answers there; None: another teacher does. Raises what
    `vital_signs` raises where nobody does."""
    card = vital_signs(url, key_of(name, key_env))
    return card.weights_version if card is not None and card.teacher == name else None


@contextmanager
def paired(
    grant: LeaseGrant, lease: Lease, bench: Bench, student: Path, others: TeacherPool, stopping: Callable[[], bool]
) -> Iterator[tuple[Scorer, Link | None]]:
    """The run's teachers, and the link with its peer; of a run that is alone, the teachers as they are."""
    if grant.pair is None:
        yield others, None
        return
    pair = grant.pair
    live = _live(pair, bench, student)
    try:
        with (
            _peer_pool(grant, pair, bench, stopping) as peer,
            Link(
                bench.client,
                grant,
                pair,
                lease,
                live,
                bench.peer_url or "http://{}:{}".format(*live.address),
                stopping=stopping,
                moved=lambda url, key: peer.update({pair.role: (ReplicaAddress(url=url, key_env=key),)}),
                seen=partial(version_at, grant.teachers[pair.role].name),
            ) as link,
        ):
            yield PairedPool(others, peer, link), link
    finally:
        live.close()


def _live(pair: PairGrant, bench: Bench, student: Path) -> LiveStudent:
    if bench.teacher_key is None:
        raise Invalid(
            "This worker cannot publish its student: nobody told it what callers must show.",
            field="PRECEPTOR_TEACHER_KEY",
            remedy="Set PRECEPTOR_TEACHER_KEY for both workers and the control plane, then resume the run.",
        )
    return LiveStudent(student, pair.teacher, bench.teacher_key, (bench.peer_host, bench.peer_port))


def _peer_pool(grant: LeaseGrant, pair: PairGrant, bench: Bench, stopping: Callable[[], bool]) -> TeacherPool:
    patience = pair.policy.patience
    teachers = {pair.role: grant.teachers[pair.role]}
    return TeacherPool(teachers, bench.folder / "heads", deadline=patience, wait=patience, stopping=stopping)
