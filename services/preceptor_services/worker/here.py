"""A run in this process: its artifacts, teachers and trackers, then the trainer's loop. Alone, or as one of its ranks.

Every rank asks teachers about what it has written. The first has the lease, reports, and sends weights; what it hears
of teachers' endpoints it tells the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from preceptor.errors import Interrupted, Invalid, Overloaded, Unreachable
from preceptor.pool import TeacherPool
from preceptor.wire.data import DatasetSource
from preceptor.wire.runs import LeaseGrant, Run
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.debate_book import DebateBook
from preceptor_services.worker.following import NEWS, Following, News, hear_along
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.pairing import paired, peer_role
from preceptor_services.worker.publisher import WeightsPublisher
from preceptor_services.worker.reporter import RunReporter
from preceptor_services.worker.sampler import PoolSampler
from preceptor_services.worker.skill_bank import open_bank
from preceptor_trainer import parts, recipes, verifiers
from preceptor_trainer.data import Data, open_data
from preceptor_trainer.loop import Ended, train
from preceptor_trainer.ranks import Ranks, own_device
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.reporting import Signal
from preceptor_trainer.together import Together
from preceptor_trainer.trackers import Tracked, open_trackers

AGAIN_SECONDS = 1.0
"""Before an artifact is asked for again that could not be had."""
_log = logging.getLogger(__name__)


def train_here(
    grant: LeaseGrant, lease: Lease, reporter: RunReporter, work: Path, bench: Bench, ranks: Ranks | None = None
) -> Ended:
    """Do a run in this process: alone, or as the first of its ranks. Raises what went wrong."""

    def stopping() -> bool:
        return bench.stopping.is_set() or lease.cancel or lease.pause or lease.lost.is_set()

    ranks = ranks or Ranks(device=own_device())
    run, (student, data, resume) = grant.run, _given(grant.run, ranks, _patient(bench, lease, stopping))
    reporter.begin()
    trackers = open_trackers(run, bench.folder / "trackers")
    with (
        _pool(grant, bench, stopping) as pool,
        reporter.following((following := Following(grant, lease, reporter, pool)).update),
        Tracked(reporter, trackers, grant.recorded_step) as told,
    ):
        publisher = WeightsPublisher(pool, student)
        sampler = None if run.sampler is None else PoolSampler(pool, publisher)
        together = Together(
            ranks, told, following.news, following.hear, NEWS, hangs=lambda: pool.hangs, again=reporter.asked_anew
        )
        bank, book = open_bank(run, bench.client, pool), DebateBook(bench.client, run.id)
        with paired(grant, lease, bench, student, pool, stopping) as (scorer, pair):
            ended = train(
                run, student, data, scorer, together, work, resume, publisher, ranks, sampler, bank, pair, book
            )
            if pair is not None and ended.signal is Signal.GO:
                pair.linger()
            return ended


def train_along(grant: LeaseGrant, work: Path, bench: Bench, ranks: Ranks) -> Ended:
    """Do a run as any other of its ranks. Raises what went wrong on this one."""
    run, (student, data, resume) = grant.run, _given(grant.run, ranks, bench.cache.folder_of)
    with _pool(grant, bench, lambda: False) as pool:
        hear = partial(hear_along, pool)
        told = Together[News](
            ranks, None, hear=hear, kind=NEWS, stopping=bench.stopping.is_set, hangs=lambda: pool.hangs
        )
        publisher, bank = WeightsPublisher(pool, student), open_bank(run, bench.client, pool)
        book = DebateBook(bench.client, run.id)
        return train(run, student, data, pool, told, work, resume, publisher, ranks, bank=bank, book=book)


def _patient(bench: Bench, lease: Lease, stopping: Callable[[], bool]) -> Callable[[str], Path]:
    """Fetches artifacts, and tries again while nobody answers and the lease holds: what has arrived is kept."""

    def folder_of(artifact: str) -> Path:
        while True:
            try:
                return bench.cache.folder_of(artifact)
            except (Unreachable, Overloaded) as error:
                lease.check()
                if stopping():
                    raise Interrupted(
                        f"Waiting for {artifact} was broken off: {error}", teacher="control plane"
                    ) from error
                _log.warning("%s has not arrived (%s); going on with it", artifact, error)
                lease.lost.wait(AGAIN_SECONDS)

    return folder_of


def _given(run: Run, ranks: Ranks, folder_of: Callable[[str], Path]) -> tuple[Path, Data, Path | None]:
    """The student's folder, the data, and the checkpoint to go on from; fetched once a machine."""
    know_parts(run)
    for fetches in (True, False):
        if (ranks.local == 0) is fetches:
            student = folder_of(run.student)
            rows = folder_of(run.data.artifact) if isinstance(run.data, DatasetSource) else None
            resume = folder_of(run.checkpoint.artifact) if run.checkpoint else None
        ranks.wait()
    return student, open_data(run.data, rows), resume  # pyright: ignore[reportPossiblyUnboundVariable]


def _pool(grant: LeaseGrant, bench: Bench, stopping: Callable[[], bool]) -> TeacherPool:
    return TeacherPool(
        {role: each for role, each in grant.teachers.items() if role != peer_role(grant)},
        bench.folder / "heads",
        fallbacks=grant.fallbacks,
        vacant=Recipe.model_validate(grant.run.resolved).roles - grant.run.teachers.keys(),
        scores=bench.scores,
        deadline=bench.teacher_deadline,
        wait=bench.teacher_wait,
        stopping=stopping,
    )


def know_parts(run: Run) -> None:
    """Import whatever a resolved recipe may name: a part is known by its kind once its module is imported. Raises
    Invalid where the recipe's own file is not the one that the run was accepted with."""
    for package in (parts, verifiers):
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    try:
        found = recipes.fingerprint(run.recipe)  # and with it the parts that this recipe alone uses
    except recipes.UnknownRecipe as error:
        raise Invalid(
            f"recipe: this worker has no recipe '{run.recipe}', which the control plane knows.",
            field="recipe",
            remedy="Give the worker the control plane's folder (PRECEPTOR_RECIPES) and packages, then resume the run.",
        ) from error
    if run.recipe_sha256 is not None and found != run.recipe_sha256:
        raise Invalid(
            f"recipe: this worker's file of '{run.recipe}' has the SHA-256 {str(found)[:12]}, and the run was accepted "
            f"with {str(run.recipe_sha256)[:12]}.",
            field="recipe",
            remedy="Give the worker the file as the control plane has it. Resume the run to go on with a changed one.",
        )
