"""Where a worker works: the same for every run it advances, and for every rank of a run."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from preceptor.client import Client
from preceptor.pool import DEADLINE, WAIT
from preceptor.score_cache import ScoreCache
from preceptor_services.own_recipes import open_own_recipes
from preceptor_services.worker.cache import ArtifactCache
from preceptor_services.worker.settings import BenchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A worker's means."""

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
    peer_host: str = "127.0.0.1"
    """Address that students are published at."""
    peer_port: int = 0
    """Port of that; 0: any."""
    peer_url: str | None = None
    """Where others reach it; None: at that address."""
    teacher_key: SecretStr | None = None
    """What they must show; None: no student can be published here."""
    devices: int = 1
    """Ranks that it starts for a run at most."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process has been told to stop."""


def open_bench(settings: BenchSettings, devices: int = 1) -> Bench:
    """As a worker's settings say; `devices` that the machine has, where they do not say how many it may use."""
    open_own_recipes(settings.recipes)
    client = Client(settings.url, settings.key.get_secret_value())
    folder = settings.cache_dir.expanduser()
    return Bench(
        client=client,
        name=settings.worker_name,
        folder=folder,
        cache=ArtifactCache(client, folder, settings.cache_bytes),
        scores=_scores(settings, folder),
        teacher_deadline=settings.teacher_deadline,
        teacher_wait=settings.teacher_wait,
        peer_host=settings.peer_host,
        peer_port=settings.peer_port,
        peer_url=settings.peer_url,
        teacher_key=settings.teacher_key,
        devices=settings.devices or devices,
    )


def _scores(settings: BenchSettings, folder: Path) -> ScoreCache | None:
    if not settings.score_cache_bytes:
        return None
    return ScoreCache(folder / "scores", settings.score_cache_bytes, by=settings.score_cache_by)
