"""One run, from its lease to its end, on this machine."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from pathlib import Path

import torch

from preceptor.errors import Conflict, Interrupted, LeaseLost, NotFound, PreceptorError
from preceptor.wire.artifacts import ArtifactKind
from preceptor.wire.common import Problem
from preceptor.wire.runs import Finish, LeaseGrant, RunState
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.causes import Meeting, RanksFailed, broken_off, first_cause
from preceptor_services.worker.failures import in_step, problem_of
from preceptor_services.worker.here import train_here
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.reporter import RunReporter
from preceptor_services.worker.torchrun import train_on_ranks
from preceptor_trainer.loop import Ended
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.reporting import Signal

_log = logging.getLogger(__name__)


def devices_here() -> int:
    """How many ranks this machine has devices for: CUDA devices, else processors."""
    return torch.cuda.device_count() or os.cpu_count() or 1


def advance(run_id: str, bench: Bench) -> None:
    """Advance a run until it ends, is cancelled, or this process is told to stop.

    A message that finds the run taken, ended or gone is redundant, and one of more devices than this worker has is left
    to others. Raises PreceptorError when the control plane cannot be reached at all, before a lease was taken; after
    that, every failure is the run's and is reported.
    """
    try:
        devices = bench.client.runs.get(run_id).training.devices
        if devices > bench.devices:
            _log.warning(
                "run %s: left to others; it wants %d devices, this worker has %d", run_id, devices, bench.devices
            )
            return
        grant = bench.client.runs.lease(run_id, bench.name)
    except (Conflict, NotFound) as error:
        _log.info("run %s: nothing to do (%s)", run_id, error)
        return
    carry_out(grant, bench)


def carry_out(grant: LeaseGrant, bench: Bench, ranks: Ranks | None = None) -> bool:
    """The same with a lease that has been taken; whether it came to an end that is no failure. `ranks`: this process is
    the first of those that train the run."""
    run_id, ended = grant.run.id, False
    _log.info("run %s: lease taken, fence %d, attempt %d", run_id, grant.fence, grant.run.attempt)
    with Lease.on_run(bench.client, grant) as lease:
        try:
            ended = _advance(grant, lease, bench, ranks)
        except LeaseLost as error:
            _log.warning("run %s: stopped (%s)", run_id, error)
        except PreceptorError as error:
            _log.error("run %s: its end could not be reported (%s); the lease runs out by itself", run_id, error)
    gc.collect()
    return ended


def _advance(grant: LeaseGrant, lease: Lease, bench: Bench, ranks: Ranks | None) -> bool:
    run, runs = grant.run, bench.client.runs
    reporter = RunReporter(bench.client, grant, lease, bench.stopping)
    work = _work_folder(bench.folder / "runs", run.id, grant.fence)
    try:
        ended = _train(grant, lease, reporter, work, bench, ranks)
        if ended.signal in (Signal.STOP, Signal.PAUSE):
            if ended.signal is Signal.PAUSE:
                reporter.pause()
            _log.info("run %s: given back after step %d", run.id, ended.step)
            lease.report(lambda: runs.release(run.id, lease.fence))
            return True
        finish = _finish(ended, grant, lease, bench)
    except LeaseLost:
        raise
    except Interrupted as error:  # while it waited for a teacher: the step in hand is lost, and nothing else
        lease.check()
        if not lease.cancel:
            _log.info("run %s: given back while it waited (%s)", run.id, error)
            lease.report(lambda: runs.release(run.id, lease.fence))
            return False
        finish = Finish(fence=lease.fence, state=RunState.CANCELLED)
    except Exception as error:  # the boundary: whatever went wrong in there is this run's failure
        lease.check()
        _log.exception("run %s: failed", run.id)
        finish = Finish(fence=lease.fence, state=RunState.FAILED, error=_failure(error, reporter, bench, ranks))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    lease.report(lambda: runs.finish(run.id, finish))
    _log.info("run %s: %s", run.id, finish.state.value)
    return finish.state is not RunState.FAILED


def _train(
    grant: LeaseGrant, lease: Lease, reporter: RunReporter, work: Path, bench: Bench, ranks: Ranks | None
) -> Ended:
    if ranks is None and grant.run.training.devices > 1:
        return train_on_ranks(grant, lease, work, bench)
    return train_here(grant, lease, reporter, work, bench, ranks)


def _work_folder(folder: Path, run_id: str, fence: int) -> Path:
    """An empty folder for this attempt. What killed attempts on this machine left behind goes."""
    for left in folder.glob(f"{run_id}-*"):
        shutil.rmtree(left, ignore_errors=True)
    work = folder / f"{run_id}-{fence}"
    work.mkdir(parents=True)
    return work


def _finish(ended: Ended, grant: LeaseGrant, lease: Lease, bench: Bench) -> Finish:
    """How the run ended; the trained student becomes an artifact."""
    if ended.signal is Signal.CANCEL:
        return Finish(fence=lease.fence, state=RunState.CANCELLED)
    assert ended.result is not None and ended.model is not None, "it did all its steps"
    folder, push = ended.model, bench.client.artifacts.push
    model = lease.report(lambda: push(folder, ArtifactKind.MODEL, grant.run.name))
    return Finish(fence=lease.fence, state=RunState.SUCCEEDED, result=ended.result.model_copy(update={"model": model}))


def _failure(error: Exception, reporter: RunReporter, bench: Bench, ranks: Ranks | None) -> Problem:
    if isinstance(error, RanksFailed):
        return error.problem
    step, checkpoint_step = reporter.step_done + 1, reporter.checkpoint_step
    others = None if ranks is None else first_cause(Meeting(), range(1, ranks.count))
    if ranks is not None and others is not None:
        return in_step(others.problem, step, checkpoint_step, f"rank {others.rank} of {ranks.count}: ")
    if ranks is not None and (lost := broken_off(error)) is not None:
        return in_step(lost, step, checkpoint_step)
    return problem_of(error, step=step, checkpoint_step=checkpoint_step, worker=bench.name)
