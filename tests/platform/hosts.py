"""Hosts for a test: each with a network, an address and a disk of its own, and links between them that a test shapes.

A host is a process that keeps two Linux namespaces. In its mount namespace everything is read-only but one folder, its
disk, which is a tmpfs that no other host sees. Hosts reach one another through `tests.platform.wire` alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from preceptor_services import tether
from tests.platform.stack import ROOT
from tests.platform.wire import inside

NETWORK = "10.213.7"
SLOW_SECONDS, SLOW_BITS = 0.1, 20e6
"""One way of a slow link: there and back 200 ms, and 20 Mbit/s."""
KEEP = """
ip link set lo up
echo 4096 65536 524288 > /proc/sys/net/ipv4/tcp_wmem
mount -o remount,bind,ro /
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"
mount -t tmpfs -o mode=700 none "$1/disk"
mount -t tmpfs none /dev/shm
echo ready
exec sleep infinity
"""
"""What a host is: run in new namespaces, with the folder that the test writes to. Its connections buffer no more than a
slow link has under way: a kernel that holds megabytes goes on sending what its process has given up."""


@dataclass(frozen=True)
class Host:
    """One machine of a test."""

    name: str
    address: str
    disk: Path
    """The only folder that it can write to. The path is the same on every host, what lies there is not."""
    keeper: subprocess.Popen[str]

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command there. It becomes that command: a signal reaches it."""
        return ["nsenter", f"--target={self.keeper.pid}", "--net", "--mount", f"--wdns={self.disk}", "--", *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""
        return subprocess.run(self.command(*command), capture_output=True, text=True, timeout=60)

    def inside(self) -> AbstractContextManager[None]:
        """This thread in the host's network."""
        return inside(self.keeper.pid)

    @property
    def settings(self) -> dict[str, str]:
        """What programs have to be told where they can write nowhere else."""
        return {"TMPDIR": str(self.disk), "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass
class Hosts:
    """All hosts of a test and their links."""

    by_name: dict[str, Host] = field(default_factory=dict[str, Host])
    _wire: subprocess.Popen[str] | None = None

    def __getitem__(self, name: str) -> Host:
        return self.by_name[name]

    def slow(self) -> None:
        """Every link from now on: 200 ms there and back, 20 Mbit/s."""
        self._tell(f"shape {SLOW_SECONDS} {SLOW_BITS}")

    def fast(self) -> None:
        """Every link from now on: what this machine can do."""
        self._tell("shape 0 inf")

    def cut(self, one: str, *others: str) -> None:
        """Let nothing pass between a host and these others; without any, between it and all."""
        for other in others or self._others(one):
            self._tell(f"cut {one} {other}")

    def cut_after(self, one: str, other: str, size: int) -> None:
        """Let nothing pass between two hosts once so many more bytes have come from the one to the other."""
        self._tell(f"cut-after {one} {other} {size}")

    def mend(self, one: str, *others: str) -> None:
        """Undo `cut`."""
        for other in others or self._others(one):
            self._tell(f"mend {one} {other}")

    def carried(self, one: str, other: str) -> int:
        """Bytes that have passed between two hosts."""
        return int(self._tell(f"count {one} {other}"))

    def connect(self) -> None:
        """Lay the links."""
        ends = [f"{host.name}={host.keeper.pid}={host.address}" for host in self.by_name.values()]
        self._wire = _started(sys.executable, "-m", "tests.platform.wire", *ends)

    def close(self) -> None:
        """Everything goes: the links with their process, a host with its keeper and whoever lives there."""
        for popen in [self._wire, *(host.keeper for host in self.by_name.values())]:
            if popen is not None:
                popen.kill()
                popen.communicate()

    def _others(self, one: str) -> list[str]:
        return [name for name in self.by_name if name != one]

    def _tell(self, command: str) -> str:
        assert self._wire is not None and self._wire.stdin is not None and self._wire.stdout is not None
        self._wire.stdin.write(f"{command}\n")
        self._wire.stdin.flush()
        answer = self._wire.stdout.readline().strip()
        assert answer, f"the wire has ended, told to {command}"
        return answer


@contextmanager
def connected(folder: Path, names: Sequence[str]) -> Iterator[Hosts]:
    """Hosts of these names, joined by links that do not hold anything up. Skips the test where the kernel refuses."""
    _skip_where_impossible()
    hosts, disk = Hosts(), folder / "disk"
    disk.mkdir()
    try:
        for number, name in enumerate(names, start=1):
            keeper = _started(
                "unshare", "--net", "--mount", "--propagation=private", "sh", "-euc", KEEP, "-", str(folder)
            )
            hosts.by_name[name] = Host(name, f"{NETWORK}.{number}", disk, keeper)
        hosts.connect()
        yield hosts
    finally:
        hosts.close()


def _started(*command: str) -> subprocess.Popen[str]:
    """A tethered process that has said that it is ready."""
    pipe = subprocess.PIPE
    popen = subprocess.Popen(tether.command(*command), stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    assert popen.stdout is not None
    said = popen.stdout.readline().strip()
    if said != "ready":
        popen.kill()
        popen.communicate()
        raise AssertionError(f"{command[0]} did not get ready")
    return popen


def _skip_where_impossible() -> None:
    if missing := [tool for tool in ("unshare", "nsenter", "ip", "mount") if shutil.which(tool) is None]:
        pytest.skip(f"hosts of their own need {', '.join(missing)}")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("hosts of their own need /dev/net/tun")
    trial = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True)
    if trial.returncode != 0:
        pytest.skip(f"this kernel makes no hosts of their own: {trial.stderr.strip()}")
