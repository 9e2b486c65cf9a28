"""Hosts on one machine: each with a network, an address and a disk of its own, and links that can be shaped and cut.

A host is a process that keeps two Linux namespaces. In its mount namespace everything is read-only but one folder, its
disk, which is a tmpfs that no other host sees. Hosts reach one another through `examples.common.wire` alone. Examples
and tests run on them what is meant for several machines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from examples.common.wire import inside
from preceptor.errors import PreceptorError
from preceptor_services import tether

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "10.213.7"
SLOW_SECONDS, SLOW_BITS = 0.1, 20e6
"""One way of a slow link: there and back 200 ms, and 20 Mbit/s."""
TOOLS = ("unshare", "nsenter", "ip", "mount")
ROOTLESS = ("unshare", "--user", "--map-root-user", "--net")
"""Who is root in here alone may come back from a host's network only into one of its own, too."""
UNSHARE = ("unshare", "--net", "--mount", "--propagation=private")
TRIAL = "mount -t tmpfs none /dev/shm && ip tuntap add mode tun name trial"
"""What every host needs of the kernel, in namespaces of its own."""
KEEP = """
ip link set lo up
echo 4096 65536 524288 > /proc/sys/net/ipv4/tcp_wmem
mounts=$(cut -d ' ' -f 5 /proc/self/mountinfo)
mount --bind "$1" "$1"
for each in $mounts "$1"; do mount -o remount,bind,ro "$(printf %b "$each")" 2>/dev/null || true; done
mount -t tmpfs -o mode=700 none "$1/disk"
mount -t tmpfs none /dev/shm
echo ready
exec sleep infinity
"""
"""What a host is: run in new namespaces, with the folder that its maker writes to. Its connections buffer no more than
a slow link has under way: a kernel that holds megabytes goes on sending what its process has given up. Some mounts may
not let themselves be made read-only; `Host.disks` finds those."""
DISKS = r"""
import json, os, re
points = [re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split()[4]) for line in open("/proc/self/mountinfo")]
plain = [point for point in points if os.path.isdir(point) or os.path.isfile(point)]
writable = [point for point in plain if not os.statvfs(point).f_flag & os.ST_RDONLY]
print(json.dumps({os.stat(point).st_dev: point for point in writable}))
"""


class NoHosts(PreceptorError):
    """This machine makes no hosts, or none that are apart."""

    slug, title = "no-hosts", "No hosts of their own"


@dataclass(frozen=True)
class Host:
    """One of several machines."""

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

    def disks(self) -> dict[str, str]:
        """Every file system that it can write to, by the kernel's number for it, and where it is mounted."""
        said = self.run(sys.executable, "-c", DISKS)
        if said.returncode != 0:
            raise NoHosts(f"The host {self.name} does not say what it can write to: {said.stderr.strip()}")
        return json.loads(said.stdout)

    @property
    def settings(self) -> dict[str, str]:
        """What programs have to be told where they can write nowhere else."""
        disk = str(self.disk)
        return {"TMPDIR": disk, "MPLCONFIGDIR": disk, "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass
class Hosts:
    """Several hosts and their links."""

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

    def traffic(self) -> dict[str, int]:
        """Bytes that have passed on every link so far, by its ends: `a-b`."""
        return {f"{one}-{other}": self.carried(one, other) for one, other in combinations(self.by_name, 2)}

    def shared_disks(self) -> list[str]:
        """Where more than one host can write to the same file system: nowhere, once they are connected."""
        disks = [host.disks() for host in self.by_name.values()]
        return sorted({ours[each] for ours, theirs in combinations(disks, 2) for each in ours.keys() & theirs.keys()})

    def connect(self) -> None:
        """Lay the links. Raises NoHosts where two hosts could write to one disk."""
        if shared := self.shared_disks():
            raise NoHosts(f"The hosts would not be apart: more than one of them can write to {', '.join(shared)}.")
        ends = [f"{host.name}={host.keeper.pid}={host.address}" for host in self.by_name.values()]
        self._wire = _started(sys.executable, "-m", "examples.common.wire", *ends)

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
    """Hosts of these names, joined by links that do not hold anything up. Raises NoHosts where `why_impossible`."""
    if reason := why_impossible():
        raise NoHosts(f"This machine makes no hosts of their own: {reason}.")
    hosts, disk = Hosts(), folder / "disk"
    disk.mkdir()
    try:
        for number, name in enumerate(names, start=1):
            keeper = _started(*UNSHARE, "sh", "-efuc", KEEP, "-", str(folder))
            hosts.by_name[name] = Host(name, f"{NETWORK}.{number}", disk, keeper)
        hosts.connect()
        yield hosts
    finally:
        hosts.close()


def be_root(module: str, *arguments: str) -> None:
    """Where hosts can be made by that alone, start this program anew, as `python -m module`, as the root of a user
    namespace of its own, without a network: whoever starts it need not be root then. Else nothing happens.
    """
    if os.name != "posix" or os.geteuid() == 0 or why_impossible() is None or shutil.which(ROOTLESS[0]) is None:
        return
    if subprocess.run([*ROOTLESS, *UNSHARE, "sh", "-c", TRIAL], capture_output=True).returncode == 0:
        os.execvp(ROOTLESS[0], [*ROOTLESS, sys.executable, "-m", module, *arguments])


def why_impossible() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"it has no {', '.join(missing)} (hosts are made on Linux, by util-linux and iproute2)"
    trial = subprocess.run([*UNSHARE, "sh", "-c", TRIAL], capture_output=True, text=True)
    if trial.returncode != 0:
        return f"{trial.stderr.strip() or 'its kernel refuses'} (that takes root, or its namespaces, and /dev/net/tun)"
    return None


def _started(*command: str) -> subprocess.Popen[str]:
    """A tethered process that has said that it is ready. A terminal's Ctrl-C does not reach it: its maker closes it."""
    pipe = subprocess.PIPE
    popen = subprocess.Popen(
        tether.command(*command), stdin=pipe, stdout=pipe, text=True, cwd=ROOT, start_new_session=True
    )
    assert popen.stdout is not None
    said = popen.stdout.readline().strip()
    if said != "ready":
        popen.kill()
        popen.communicate()
        raise NoHosts(f"A part of the hosts ({command[0]}) did not get ready. Its own words are above.")
    return popen
