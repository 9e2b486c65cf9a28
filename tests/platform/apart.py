"""A Preceptor whose processes live on hosts of their own: the control plane on one, workers and teachers on others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from examples.common.apart import CONTROL
from examples.common.hosts import Host, Hosts, connected, why_impossible
from tests.platform.stack import Child, Stack, free_port


@dataclass
class Apart(Stack):
    """A stack of which a process lives on the host that its name ends in (`worker-a` on `a`), else with the control
    plane. Its logs lie where the test can read them, everything else on its host's own disk.
    """

    hosts: Hosts = field(default_factory=Hosts)

    @property
    def disk(self) -> Path:
        return self.hosts[CONTROL].disk

    def host_of(self, name: str) -> Host:
        """Where a process of this name lives."""
        return self.hosts.by_name.get(name.rpartition("-")[2], self.hosts[CONTROL])

    def spawn(self, name: str, *command: str, **settings: str) -> Child:
        return super().spawn(name, *self.host_of(name).command(*command), **settings)

    def environment(self, **settings: str) -> dict[str, str]:
        return {**super().environment(**settings), **self.hosts[CONTROL].settings}

    def start_teacher_on(self, host: str, name: str, *options: str) -> tuple[Child, str]:
        """The shipped model, served by this host under this name; its URL."""
        address = self.hosts[host].address
        with self.hosts[host].inside():
            url = f"http://{address}:{free_port()}"
        return self.start_teacher(url, name, "--host", address, *options, log=f"{name}-{host}"), url


@contextmanager
def running_apart(folder: Path, *hosts: str, lease_seconds: float) -> Iterator[Apart]:
    """Broker and control plane on a host of their own, these others beside it, and this thread where the control plane
    is. Skips the test where the kernel makes no hosts.
    """
    with connected_or_skipped(folder, (CONTROL, *hosts)) as made, made[CONTROL].inside():
        control = made[CONTROL]
        stack = Apart(folder, f"sqlite:///{control.disk / 'preceptor.db'}", lease_seconds, control.address, hosts=made)
        try:
            stack.start_broker()
            stack.start_api()
            yield stack
        finally:
            stack.close()


@contextmanager
def connected_or_skipped(folder: Path, names: Sequence[str]) -> Iterator[Hosts]:
    """Hosts of these names. Skips the test where the kernel makes none."""
    if reason := why_impossible():
        pytest.skip(f"no hosts of their own: {reason}")
    with connected(folder, names) as made:
        yield made
