"""A Preceptor on several hosts: the control plane (API and broker) on one, a worker on each of the others.

They share what machines far apart share, the control plane and keys, and no disk. Each worker is told what a worker on
another machine has to be told (docs/codistillation.md), and nothing more.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from examples.common.hosts import Host, Hosts, connected
from examples.common.stack import environment
from preceptor.client import Client
from preceptor.errors import PreceptorError
from preceptor_services import ports
from preceptor_services.supervisor import Happening, Process, StartFailed, Supervisor
from preceptor_services.up import answers, broker

CONTROL = "control"
"""The control plane's host."""
STOP_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Apart:
    """A running Preceptor and its hosts."""

    url: str
    key: str
    hosts: Hosts

    def client(self) -> Client:
        """A client with the admin key, on the control plane's host."""
        return Client(self.url, self.key)


@contextmanager
def apart(console: Console, name: str, *workers: str) -> Iterator[Apart]:
    """Hosts of these names with a worker each, beside the control plane's. This thread, and threads that it starts, are
    on that one meanwhile. After a failure the logs stay. Raises NoHosts where there can be none.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"preceptor-{name}-"))
    try:
        with connected(folder, (CONTROL, *workers)) as hosts, hosts[CONTROL].inside():
            running = Apart(url=f"http://{hosts[CONTROL].address}:{ports.free()}", key=_new_key(), hosts=hosts)
            with _kept_alive(folder / "logs", console, _processes(folder, running)):
                console.print(f"  up at {running.url}, logs in {folder}/logs", highlight=False)
                yield running
    except StartFailed as error:
        raise PreceptorError(str(error), remedy=f"The logs are in {folder}/logs.") from None
    finally:
        console.print("Everything is stopped.")
    shutil.rmtree(folder)


def _processes(folder: Path, running: Apart) -> list[list[Process]]:
    """What is started, one list after the other."""
    control, *others = running.hosts.by_name.values()
    where, password, worker_key = (control.address, ports.free()), _new_key(), _new_key()
    shared = {"BROKER_URL": f"redis://:{password}@{where[0]}:{where[1]}/0", "TEACHER_KEY": _new_key()}
    api = {
        "DATABASE_URL": f"sqlite:///{control.disk / 'preceptor.db'}",
        "HOME_DIR": str(control.disk / "home"),
        "HOST": control.address,
        "PORT": running.url.rpartition(":")[2],
        "ADMIN_KEY": running.key,
        "WORKER_KEY": worker_key,
    }
    workers = {
        host: {
            "URL": running.url,
            "KEY": worker_key,
            "CACHE_DIR": str(host.disk / f"cache-{host.name}"),
            "WORKER_NAME": f"host-{host.name}",
            "PEER_HOST": host.address,
        }
        for host in others
    }
    return [
        [_on(control, broker(folder / "valkey.conf", control.disk, where, password, environment({})))],
        [replace(_preceptor(control, "api", "api", {**api, **shared}), ready=answers(f"{running.url}/readyz"))],
        [_preceptor(host, f"worker-{host.name}", "worker", {**own, **shared}) for host, own in workers.items()],
    ]


def _preceptor(host: Host, name: str, command: str, told: Mapping[str, str]) -> Process:
    env = environment({f"PRECEPTOR_{each}": value for each, value in told.items()})
    # Torch threads that spin while they wait slow the other processes of a small machine down several times.
    env = {"OMP_WAIT_POLICY": "PASSIVE", **env, "PYTHONUNBUFFERED": "1"}
    line = [sys.executable, "-m", "preceptor.cli.main", command]
    return _on(host, Process(name=name, command=line, env=env, stop_seconds=STOP_SECONDS))


def _on(host: Host, process: Process) -> Process:
    return replace(process, command=host.command(*process.command), env={**process.env, **host.settings})


def _new_key() -> str:
    return secrets.token_urlsafe(32)


@contextmanager
def _kept_alive(logs: Path, console: Console, batches: Sequence[Sequence[Process]]) -> Iterator[None]:
    """Processes that are started again when they die, until the end, by a thread of their own: a child lives no longer
    than the thread that has started it. Raises StartFailed."""

    def tell(happening: Happening) -> None:
        console.print(f"  {happening.process} {happening.kind}; logs in {logs}", highlight=False)

    supervisor = Supervisor(logs, tell)
    with ThreadPoolExecutor(1) as keeper:
        try:
            for batch in batches:
                keeper.submit(supervisor.start, batch).result()
            keeper.submit(supervisor.run)
            yield
        finally:
            supervisor.request_stop()
            keeper.submit(supervisor.stop).result()
