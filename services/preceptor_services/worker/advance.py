"""One run, from its lease to its end, on this machine."""

from __future__ import annotations

import gc
import logging
import shutil
import threading
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from preceptor.client import Client
from preceptor.errors import Conflict, Interrupted, LeaseLost, NotFound, PreceptorError
from preceptor.pool import DEADLINE, WAIT, TeacherPool
from preceptor.score_cache import ScoreCache
from preceptor.wire.artifacts import ArtifactKind
from preceptor.wire.common import Problem
from preceptor.wire.data import DatasetSource
from preceptor.wire.runs import Finish, LeaseGrant, RunState
from preceptor_services.worker.cache import ArtifactCache
from preceptor_services.worker.failures import problem_of
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.publisher import WeightsPublisher
from preceptor_services.worker.reporter import RunReporter
from preceptor_services.worker.sampler import PoolSampler
from preceptor_trainer import parts, recipes, verifiers
from preceptor_trainer.data import open_data
from preceptor_trainer.loop import Ended, Signal, train
from preceptor_trainer.trackers import Tracked, open_trackers

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a worker works: the same for every run it advances."""

    client: Client
    name: str
    """The worker's name, as runs show it."""
    folder: Path
    """Artifacts, teachers' heads and scores, and the runs' working folders."""
    cache: ArtifactCache
    scores: ScoreCache | None = None
    """Where scores of frozen teachers are kept; None: nowhere."""
    teacher_deadline: float = DEADLINE
    """Seconds in which a teacher must answer one call."""
    teacher_wait: float = WAIT
    """Seconds for which a context that waits goes on calling."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process has been told to stop."""


def advance(run_id: str, bench: Bench) -> None:
    """Advance a run until it ends, is cancelled, or this process is told to stop.

    A message that finds the run taken, ended or gone is redundant. Raises PreceptorError when the control plane
    cannot be reached at all, before a lease was taken; after that, every failure is the run's and is reported.
    """
    try:
        grant = bench.client.runs.lease(run_id, bench.name)
    except (Conflict, NotFound) as error:
        _log.info("run %s: nothing to do (%s)", run_id, error)
        return
    _log.info("run %s: lease taken, fence %d, attempt %d", run_id, grant.fence, grant.run.attempt)
    with Lease(bench.client, grant) as lease:
        try:
            _advance(grant, lease, bench)
        except LeaseLost as error:
            _log.warning("run %s: stopped (%s)", run_id, error)
        except PreceptorError as error:
            _log.error("run %s: its end could not be reported (%s); the lease runs out by itself", run_id, error)
    gc.collect()


def _advance(grant: LeaseGrant, lease: Lease, bench: Bench) -> None:
    run, runs = grant.run, bench.client.runs
    reporter = RunReporter(bench.client, grant, lease, bench.stopping)
    work = _work_folder(bench.folder / "runs", run.id, grant.fence)
    try:
        ended = _train(grant, lease, reporter, work, bench)
        if ended.signal in (Signal.STOP, Signal.PAUSE):
            if ended.signal is Signal.PAUSE:
                reporter.pause()
            _log.info("run %s: given back after step %d", run.id, ended.step)
            lease.report(lambda: runs.release(run.id, lease.fence))
            return
        finish = _finish(ended, grant, lease, bench)
    except LeaseLost:
        raise
    except Interrupted as error:  # while it waited for a teacher: the step in hand is lost, and nothing else
        lease.check()
        if not lease.cancel:
            _log.info("run %s: given back while it waited (%s)", run.id, error)
            lease.report(lambda: runs.release(run.id, lease.fence))
            return
        finish = Finish(fence=lease.fence, state=RunState.CANCELLED)
    except Exception as error:  # the boundary: whatever went wrong in there is this run's failure
        lease.check()
        _log.exception("run %s: failed", run.id)
        finish = Finish(fence=lease.fence, state=RunState.FAILED, error=_failure(error, reporter, bench))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    lease.report(lambda: runs.finish(run.id, finish))
    _log.info("run %s: %s", run.id, finish.state.value)


def _train(grant: LeaseGrant, lease: Lease, reporter: RunReporter, work: Path, bench: Bench) -> Ended:
    run = grant.run
    _know_parts(run.recipe)
    student = bench.cache.folder_of(run.student)
    rows = bench.cache.folder_of(run.data.artifact) if isinstance(run.data, DatasetSource) else None
    resume = bench.cache.folder_of(run.checkpoint.artifact) if run.checkpoint else None
    reporter.begin()
    trackers = open_trackers(run, bench.folder / "trackers")
    with (
        _pool(grant, lease, bench) as pool,
        reporter.following(pool.update),
        Tracked(reporter, trackers, grant.recorded_step) as told,
    ):
        publisher = WeightsPublisher(pool, student)
        sampler = None if run.sampler is None else PoolSampler(pool, publisher)
        return train(run, student, open_data(run.data, rows), pool, told, work, resume, publisher, sampler=sampler)


def _pool(grant: LeaseGrant, lease: Lease, bench: Bench) -> TeacherPool:
    def stopping() -> bool:
        return bench.stopping.is_set() or lease.cancel or lease.pause or lease.lost.is_set()

    return TeacherPool(
        grant.teachers,
        bench.folder / "heads",
        fallbacks=grant.fallbacks,
        scores=bench.scores,
        deadline=bench.teacher_deadline,
        wait=bench.teacher_wait,
        stopping=stopping,
    )


def _work_folder(folder: Path, run_id: str, fence: int) -> Path:
    """An empty folder for this attempt. What killed attempts on this machine left behind goes."""
    for left in folder.glob(f"{run_id}-*"):
        shutil.rmtree(left, ignore_errors=True)
    work = folder / f"{run_id}-{fence}"
    work.mkdir(parents=True)
    return work


def _know_parts(recipe: str) -> None:
    """Import whatever a resolved recipe may name: a part is known by its kind once its module is imported."""
    for package in (parts, verifiers):
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    recipes.load(recipe)  # and the parts that this recipe alone uses


def _finish(ended: Ended, grant: LeaseGrant, lease: Lease, bench: Bench) -> Finish:
    """How the run ended; the trained student becomes an artifact."""
    if ended.signal is Signal.CANCEL:
        return Finish(fence=lease.fence, state=RunState.CANCELLED)
    assert ended.result is not None and ended.model is not None, "it did all its steps"
    folder, push = ended.model, bench.client.artifacts.push
    model = lease.report(lambda: push(folder, ArtifactKind.MODEL, grant.run.name))
    return Finish(fence=lease.fence, state=RunState.SUCCEEDED, result=ended.result.model_copy(update={"model": model}))


def _failure(error: Exception, reporter: RunReporter, bench: Bench) -> Problem:
    return problem_of(error, step=reporter.step_done + 1, checkpoint_step=reporter.checkpoint_step, worker=bench.name)
