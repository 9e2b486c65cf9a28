"""A run on several devices of this machine: torchrun starts a rank for each, and the worker waits for them.

The worker keeps the lease and has the last word on how the run ended; the first rank has the lease too, and reports
while the run goes on. What passes between them lies in the run's working folder:

    order.json     the lease's grant, for the first rank; readable for this user alone, and gone once it is read
    pid            the first rank's: SIGTERM tells it to stop after the step in hand
    ended.json     how the loop ended
    cause-R.json   why rank R failed
    account.json   how each rank's process ended, by torchrun
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter

from preceptor.errors import PROBLEM_TYPES, Interrupted
from preceptor.wire.runs import LeaseGrant, Run
from preceptor_services import tether
from preceptor_services.worker.bench import Bench
from preceptor_services.worker.causes import RanksFailed, exit_codes, first_cause, lost, silent
from preceptor_services.worker.failures import in_step
from preceptor_services.worker.lease import Lease
from preceptor_trainer.loop import Ended

ORDER, PID, ENDED, ACCOUNT = "order.json", "pid", "ended.json", "account.json"
LOOK_SECONDS = 0.5
"""How often the worker looks whether the ranks are wanted to stop."""
HOW_IT_ENDED = TypeAdapter(Ended)


def train_on_ranks(grant: LeaseGrant, lease: Lease, work: Path, bench: Bench) -> Ended:
    """Do a run on as many ranks as its `training.devices` says.

    Raises RanksFailed, with the rank that failed first and why; LeaseLost, and Interrupted where the run is only wanted
    to stop. No rank is left when it returns or raises.
    """
    run = grant.run
    _write_order(work / ORDER, grant)
    agent = subprocess.Popen(_command(run, work), env=_environment(run, bench))
    try:
        told = False
        while agent.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                agent.wait(LOOK_SECONDS)
            lease.check()
            if bench.stopping.is_set() and not told:
                told = _tell_to_stop(work / PID)
    finally:
        agent.kill()  # its ranks are tethered to it
        agent.wait()
    if agent.returncode == 0:
        return HOW_IT_ENDED.validate_json((work / ENDED).read_bytes())
    lease.check()
    raise _failure(run, agent.returncode, work, bench)


def _command(run: Run, work: Path) -> list[str]:
    return tether.command(
        *(sys.executable, "-m", "preceptor_services.worker.agent", str(work / ACCOUNT)),
        *("--standalone", "--nproc-per-node", str(run.training.devices)),
        *("-m", "preceptor_services.worker.rank", run.id, "--work", str(work)),
    )


def _environment(run: Run, bench: Bench) -> dict[str, str]:
    """The worker's own, with what its ranks have in common."""
    mine = {"PRECEPTOR_WORKER_NAME": bench.name, "OMP_NUM_THREADS": str(run.training.threads)}
    if sys.platform == "linux":  # they meet on this machine: nobody else is to hear them
        mine |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return {**os.environ, **mine}


def _write_order(path: Path, grant: LeaseGrant) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as order:
        order.write(grant.model_dump_json())


def _tell_to_stop(path: Path) -> bool:
    """Whether the first rank could be told."""
    try:
        os.kill(int(path.read_text()), signal.SIGTERM)
    except (OSError, ValueError):  # it has not begun yet, or has just ended
        return False
    return True


def _failure(run: Run, code: int, work: Path, bench: Bench) -> Exception:
    codes = exit_codes(work / ACCOUNT) or {0: code}
    cause = first_cause(work, range(run.training.devices))
    mute = silent(codes, work)
    if mute is not None:
        rank, problem = mute, lost(codes[mute], bench.name)
    else:
        assert cause is not None, "a rank that is not mute has said why"
        rank, problem = cause.rank, cause.problem
    if problem.type == PROBLEM_TYPES + Interrupted.slug:
        return Interrupted(problem, teacher="")
    now, whose = bench.client.runs.get(run.id), f"rank {rank} of {run.training.devices}: "
    checkpoint_step = None if now.checkpoint is None else now.checkpoint.step
    return RanksFailed(in_step(problem, now.step + 1, checkpoint_step, whose))
