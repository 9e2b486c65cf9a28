"""A worker's settings: where the control plane and the broker are, and what it may use of its machine.

A rank that people start with torchrun needs all but the broker's.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from preceptor.pool import DEADLINE, WAIT
from preceptor_services.queue import VISIBILITY_SECONDS
from preceptor_services.settings import ServiceSettings


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class BenchSettings(ServiceSettings):
    """What whoever trains is told from outside."""

    url: str = Field(pattern=r"^https?://\S+$")
    """The control plane."""
    key: SecretStr
    """A key of scope `run`."""
    cache_dir: Path = Path("~/.cache/preceptor")
    """Where artifacts, teachers' heads and scores, and working folders lie."""
    cache_bytes: int = Field(20_000_000_000, ge=0)
    """How much of the disk artifacts may take before the least recently used go."""
    score_cache_bytes: int = Field(2**30, ge=0)
    """How much of the disk the scores of frozen teachers may take before the least recently used go; 0 keeps none."""
    score_cache_by: Literal["request", "completion"] = "request"
    """What is one entry: `request` gives the same bits as the teacher, `completion` more hits; docs/teachers.md."""
    recipes: Path | None = None
    """A folder of recipes of your own, the same as the control plane's; docs/your-own-method.md."""
    teacher_deadline: float = Field(DEADLINE, gt=0)
    """Seconds in which a teacher must answer a call, retries included. After that a context falls back or drops, where
    it says so."""
    teacher_wait: float = Field(WAIT, gt=0)
    """Seconds for which a context that waits goes on calling a teacher that does not answer; then the run fails."""
    devices: int | None = Field(None, ge=1)
    """Ranks that it starts for one run at most; a run of more devices is left to others. None: as many as the machine
    has CUDA devices, else processors."""
    peer_host: str = "127.0.0.1"
    """Address that a student is published at while its run is one side of a pair; docs/codistillation.md."""
    peer_port: int = Field(0, ge=0, le=65_535)
    """Port of that; 0: any that is free."""
    peer_url: str | None = Field(None, pattern=r"^https?://\S+$")
    """Where the other side's worker reaches it; None: http://PEER_HOST:PORT."""
    teacher_key: SecretStr | None = None
    """What whoever asks a published student must show: the same for all workers and the control plane."""
    worker_name: str = Field(default_factory=_own_name, min_length=1, max_length=100)
    """What runs show as their worker."""


class WorkerSettings(BenchSettings):
    """What a worker is told besides."""

    broker_url: SecretStr
    """The broker, by any Redis-protocol URL; `rediss://` for TLS."""
    debates_at_once: int = Field(4, ge=1, le=64)
    """Debates that a worker which takes nothing else (`--takes debates`) holds at a time."""
    visibility_timeout: float = Field(VISIBILITY_SECONDS, gt=0)
    """Seconds after which the broker hands an unacknowledged message to another worker."""
