"""Why a run's ranks failed: each that can still speak leaves its cause, and the one that failed first is the run's.

A rank that fails breaks its connections, so that all others fail of that: what they say is no cause. A rank writes down
its own before its connections close, hence before anybody fails of them. One that was killed says nothing, and then
nobody else has a cause of his own.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from pydantic import Field
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  documented so

from preceptor.errors import PROBLEM_TYPES
from preceptor.wire.common import Problem, Wire

ENDED_BY_TORCHRUN = -signal.SIGTERM
"""The exit code of a rank that torchrun has ended because another failed."""


class Cause(Wire):
    """Why one rank failed, in its own words."""

    rank: int
    at: float = Field(default_factory=time.time)
    problem: Problem


class RanksFailed(Exception):
    """The ranks of a run ended before it did."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        """What is said of it."""


class Meeting:
    """Where ranks of several machines have met: what is left there is there for all, while the first machine's torchrun
    is."""

    def __init__(self) -> None:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(address, port, timeout=timedelta(seconds=10))

    def put(self, name: str, text: str) -> None:
        self._store.set(f"preceptor/{name}", text)

    def get(self, name: str) -> str | None:
        key = f"preceptor/{name}"
        return self._store.get(key).decode() if self._store.check([key]) else None


def leave(where: Path | Meeting, rank: int, problem: Problem) -> None:
    """Write down why this rank fails."""
    said = Cause(rank=rank, problem=problem).model_dump_json()
    if isinstance(where, Meeting):
        where.put(f"cause-{rank}", said)
        return
    aside = where / f".cause-{rank}"
    aside.write_text(said)
    os.replace(aside, _file(where, rank))


def first_cause(where: Path | Meeting, ranks: Iterable[int]) -> Cause | None:
    """Of the causes that these ranks have left, the earliest."""
    if isinstance(where, Meeting):
        said = [where.get(f"cause-{rank}") for rank in ranks]
    else:
        said = [path.read_text() if (path := _file(where, rank)).exists() else None for rank in ranks]
    found = [Cause.model_validate_json(each) for each in said if each is not None]
    return min(found, key=lambda cause: cause.at, default=None)


def exit_codes(account: Path) -> dict[int, int]:
    """By rank, as `agent` has written them; none where it was ended itself."""
    with suppress(OSError, ValueError):
        return {int(rank): int(code) for rank, code in json.loads(account.read_text()).items()}
    return {}


def silent(codes: Mapping[int, int], folder: Path) -> int | None:
    """The rank that ended without a word and not by torchrun's hand; None: there is none."""
    mute = [rank for rank, code in codes.items() if code != ENDED_BY_TORCHRUN and not _file(folder, rank).exists()]
    return min(mute, default=None)


def lost(code: int, worker: str) -> Problem:
    """What is said of a rank that ended without a word, with this exit code."""
    how = f"killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
    return Problem(
        type=PROBLEM_TYPES + "rank-lost",
        title="A rank was lost",
        detail=f"Its process on worker {worker} ended without a word, {how}.",
        remedy="A machine that runs out of memory ends processes so: see its kernel's log, and lower "
        "training.microbatch_tokens or train on more devices.",
        status=500,
    )


def broken_off(error: Exception) -> Problem | None:
    """What is said by a rank whose connections broke, where nobody says why; None: that is not what happened."""
    if not isinstance(error, RuntimeError) or not any(name in str(error) for name in ("gloo", "NCCL", "c10d")):
        return None
    what = "Another rank ended without a word, or its machine is out of reach"
    return Problem(
        type=PROBLEM_TYPES + "rank-lost",
        title="A rank was lost",
        detail=f"{what}: {' '.join(str(error).split())}"[:2000],
        remedy="What torchrun says on each machine tells which one, and its exit code.",
        status=500,
    )


def _file(folder: Path, rank: int) -> Path:
    return folder / f"cause-{rank}.json"
