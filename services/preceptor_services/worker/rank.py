"""One rank of a run, as torchrun starts it: `torchrun ... -m preceptor_services.worker.rank RUN_ID`.

On one machine a worker starts torchrun, keeps the lease, and hands its grant on in a folder (`--work`, see `torchrun`).
On several machines people start torchrun on each, with one endpoint to meet at: the first rank takes the lease then,
and is the worker. docs/scale-out.md.

A rank that fails says why, and ends at once: torchrun ends the others of its machine, and ranks elsewhere fail of the
connections that it breaks.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import TypeAdapter

from preceptor.errors import Conflict, NotFound
from preceptor.wire.runs import LeaseGrant
from preceptor_services import tether
from preceptor_services.worker.advance import carry_out
from preceptor_services.worker.bench import Bench, open_bench
from preceptor_services.worker.causes import Meeting, leave
from preceptor_services.worker.failures import cause_of
from preceptor_services.worker.here import train_along, train_here
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.reporter import RunReporter
from preceptor_services.worker.settings import BenchSettings
from preceptor_services.worker.torchrun import ENDED, HOW_IT_ENDED, ORDER, PID
from preceptor_trainer.ranks import Ranks, joined

_log = logging.getLogger(__name__)
_GRANT = TypeAdapter[LeaseGrant | None](LeaseGrant | None)
_SAID = TypeAdapter[LeaseGrant | str](LeaseGrant | str)


def main(arguments: Sequence[str]) -> int:
    """The exit code. A failure ends the process here and now, whatever threads it has."""
    tether.fasten(os.getppid())
    parser = argparse.ArgumentParser(prog="python -m preceptor_services.worker.rank", description=__doc__)
    parser.add_argument("run", help="The run's id.")
    parser.add_argument("--work", type=Path, help="Where a worker has put its order.")
    given = parser.parse_args(arguments)
    rank = int(os.environ.get("RANK", "0"))
    form = f"%(asctime)s %(levelname)s rank {rank} %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    bench = open_bench(BenchSettings())  # pyright: ignore[reportCallIssue]  it reads the environment
    signal.signal(signal.SIGTERM, lambda number, frame: bench.stopping.set())
    try:
        with joined() as ranks:
            if given.work is not None:
                _for_a_worker(given.work, bench, ranks)
                return 0
            return _by_itself(given.run, bench, ranks)
    except BaseException as error:
        _end(error, given.work, rank, bench)


def _for_a_worker(work: Path, bench: Bench, ranks: Ranks) -> None:
    """Train under the lease that a worker of this machine has taken; how it ended is left for it."""
    grant = None
    if ranks.first:
        (work / PID).write_text(str(os.getpid()))
        grant = LeaseGrant.model_validate_json((work / ORDER).read_text())
        (work / ORDER).unlink()
    grant = ranks.told(grant, _GRANT)
    assert grant is not None, "the first rank has read it"
    if not ranks.first:
        train_along(grant, work, bench, ranks)
        return
    with Lease.on_run(bench.client, grant) as lease:
        reporter = RunReporter(bench.client, grant, lease, bench.stopping)
        ended = train_here(grant, lease, reporter, work, bench, ranks)
    (work / ENDED).write_bytes(HOW_IT_ENDED.dump_json(ended))


def _by_itself(run_id: str, bench: Bench, ranks: Ranks) -> int:
    """Take the lease and carry the run out, from its beginning to its end. The exit code."""
    said: LeaseGrant | str = ""
    if ranks.first:
        said = _lease(run_id, bench, ranks.count)
    said = ranks.told(said, _SAID)
    if isinstance(said, str):
        _log.error("run %s: %s", run_id, said)
        return 2
    if ranks.first and not carry_out(said, bench, ranks):
        raise SystemExit(1)  # it has been reported; the other ranks cannot go on
    if not ranks.first:
        train_along(said, bench.folder / "runs", bench, ranks)
    return 0


def _lease(run_id: str, bench: Bench, count: int) -> LeaseGrant | str:
    """The lease, or why there is none."""
    try:
        devices = bench.client.runs.get(run_id).training.devices
        if devices != count:
            return (
                f"it wants {devices} devices (training.devices), and torchrun has started {count} ranks; give --nnodes "
                f"and --nproc-per-node whose product is {devices}"
            )
        return bench.client.runs.lease(run_id, bench.name)
    except (Conflict, NotFound) as error:
        return str(error)


def _end(error: BaseException, work: Path | None, rank: int, bench: Bench) -> NoReturn:
    if isinstance(error, Exception):
        traceback.print_exception(error)
        leave(work or Meeting(), rank, cause_of(error, bench.name))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # connections, collectives and threads that would wait for others end with the process


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
