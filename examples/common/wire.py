"""The links between hosts: `python -m examples.common.wire NAME=PID=ADDRESS ...`, told what to do on its input.

Every host (the network namespace of a process) gets a TUN device with its address, and every two hosts a link of their
own. Packets are carried between the devices by this process, which can therefore delay them, bound their rate, and lose
all of them, whatever protocol they belong to. The kernel's own way, `tc netem`, is missing from many kernels; this one
asks for /dev/net/tun alone, and whatever it made goes when it ends.

A line on standard input is a command, and is answered with a line:
    shape DELAY RATE   every packet from now on takes DELAY seconds, and a link carries RATE bits a second each way
    cut A B            nothing passes between these two: no error, no reset, as when a cable is pulled
    cut-after A B N    the same, once N more bytes have come from A to B
    mend A B           it passes again
    count A B          bytes that have passed between them so far
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
PREFIX = 24
BACKLOG_SECONDS = 0.25
"""A link's buffer: what would wait longer for its turn is lost, and the sender slows down."""


@dataclass
class Way:
    """One direction of a link."""

    cut: bool = False
    free_at: float = 0.0
    """When the last packet that was taken will have been sent."""
    carried: int = 0
    cut_at: float = float("inf")
    """Of what it has carried: the link is cut then."""


@dataclass
class Wire:
    """All links. Devices are file descriptors, of which every read and write is one IP packet."""

    devices: dict[str, int]
    names: dict[bytes, str]
    delay: float = 0.0
    rate: float = float("inf")
    ways: dict[tuple[str, str], Way] = field(default_factory=dict[tuple[str, str], Way])

    def __post_init__(self) -> None:
        self.ways = {(one, other): Way() for one in self.devices for other in self.devices if one != other}

    def take(self, source: str) -> None:
        """Send whatever waits at a host on its way."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                packet = os.read(self.devices[source], 1 << 16)
            except BlockingIOError:
                return
            target = self.names.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            if target is None or target == source:
                continue
            way, now = self.ways[source, target], loop.time()
            begins = max(now, way.free_at)
            if way.cut or begins - now > BACKLOG_SECONDS:
                continue
            way.free_at = begins + 8 * len(packet) / self.rate
            loop.call_at(way.free_at + self.delay, self._give, source, target, packet)

    def _give(self, source: str, target: str, packet: bytes) -> None:
        way = self.ways[source, target]
        if way.cut:  # it was under way when the link was cut
            return
        try:
            os.write(self.devices[target], packet)
        except OSError:  # the host's own buffer is full, or it is going: a packet is lost
            return
        way.carried += len(packet)
        if way.carried >= way.cut_at:
            way.cut_at = float("inf")
            self.obey("cut", source, target)

    def obey(self, command: str, *given: str) -> str:
        """Carry out a command; its answer."""
        if command == "shape":
            self.delay, self.rate = float(given[0]), float(given[1])
            return "ok"
        if command == "cut-after":
            way = self.ways[given[0], given[1]]
            way.cut_at = way.carried + int(given[2])
            return "ok"
        ways = [self.ways[given[0], given[1]], self.ways[given[1], given[0]]]
        if command == "count":
            return str(sum(way.carried for way in ways))
        for way in ways:
            way.cut = {"cut": True, "mend": False}[command]
        return "ok"


@contextmanager
def inside(pid: int) -> Iterator[None]:
    """This thread in another process's network: the sockets and processes that it makes meanwhile are of there."""
    libc = ctypes.CDLL(None, use_errno=True)
    home, there = (os.open(f"/proc/{each}/ns/net", os.O_RDONLY | os.O_CLOEXEC) for each in ("thread-self", pid))
    try:
        _enter(libc, there)
        try:
            yield
        finally:
            _enter(libc, home)
    finally:
        os.close(home)
        os.close(there)


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "this network namespace cannot be entered")


def open_device(name: str, address: str) -> int:
    """A TUN device in this thread's network, with an address and up."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        ["ip", "address", "add", f"{address}/{PREFIX}", "dev", name],
        ["ip", "link", "set", name, "up"],
    ):
        subprocess.run(command, check=True)
    return device


async def serve(wire: Wire) -> None:
    """Carry packets and obey commands until there are no more."""
    loop = asyncio.get_running_loop()
    for name, device in wire.devices.items():
        loop.add_reader(device, wire.take, name)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while line := (await reader.readline()).decode():
        print(wire.obey(*line.split()), flush=True)


def main(arguments: list[str]) -> None:
    """Open a device in every network, then carry."""
    devices, names = dict[str, int](), dict[bytes, str]()
    for name, pid, address in (each.split("=") for each in arguments):
        with inside(int(pid)):
            devices[name] = open_device("wire", address)
        names[IPv4Address(address).packed] = name
    asyncio.run(serve(Wire(devices, names)))


if __name__ == "__main__":
    main(sys.argv[1:])
