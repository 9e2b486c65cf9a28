"""The hosts that other tests rely on are what they say: apart, and joined by links as slow as asked for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from examples.common.hosts import SLOW_BITS, SLOW_SECONDS, Hosts
from tests.platform.apart import connected_or_skipped

PIECE = b"x" * 500_000


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with connected_or_skipped(tmp_path_factory.mktemp("hosts"), ("here", "there")) as made:
        yield made


@pytest.fixture
def line(hosts: Hosts) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection from here to there."""
    hosts.fast()
    with hosts["there"].inside():
        listening = socket.create_server((hosts["there"].address, 0))
    with hosts["here"].inside():
        calling = socket.create_connection(listening.getsockname(), timeout=20)
    called, _ = listening.accept()
    called.settimeout(20)
    yield calling, called
    for each in (calling, called, listening):
        each.close()


def test_neither_reads_what_the_other_writes(hosts: Hosts) -> None:
    here, there = hosts["here"], hosts["there"]
    assert here.run("sh", "-c", f"echo secret > {here.disk}/own && cat {here.disk}/own").stdout == "secret\n"
    assert there.run("cat", f"{here.disk}/own").returncode != 0
    assert not (here.disk / "own").exists(), "nor does the machine that they are on"


def test_no_disk_is_writable_for_both(hosts: Hosts) -> None:
    for host in (hosts["here"], hosts["there"]):
        assert set(host.disks().values()) == {str(host.disk), "/dev/shm"}
    assert hosts.shared_disks() == []


@pytest.mark.parametrize("folder", ["disk/..", "/", "/tmp", "/var/tmp", "/root"])
def test_nothing_can_be_written_where_the_other_could_read_it(hosts: Hosts, folder: str) -> None:
    path = hosts["here"].disk.parent / folder / "left-behind"
    said = hosts["here"].run("touch", str(path))
    assert said.returncode != 0 and "Read-only" in said.stderr


def test_they_reach_one_another_and_nothing_else(hosts: Hosts) -> None:
    here, there = hosts["here"], hosts["there"]
    addresses = here.run("ip", "-o", "-4", "address", "show").stdout
    assert here.address in addresses and there.address not in addresses
    routes = here.run("ip", "route").stdout.splitlines()
    assert len(routes) == 1 and here.address in routes[0], "no way out"


def test_a_slow_link_takes_its_time(hosts: Hosts, line: tuple[socket.socket, socket.socket]) -> None:
    calling, called = line
    hosts.slow()
    began = time.monotonic()
    calling.sendall(b"?")
    called.sendall(called.recv(1))
    calling.recv(1)
    assert time.monotonic() - began >= 2 * SLOW_SECONDS
    before = hosts.carried("here", "there")
    sending = threading.Thread(target=calling.sendall, args=(PIECE,))
    sending.start()
    came = 0
    began = time.monotonic()
    while came < len(PIECE):
        came += len(called.recv(1 << 16))
    sending.join()
    assert time.monotonic() - began >= 8 * len(PIECE) / SLOW_BITS
    assert hosts.carried("here", "there") - before >= len(PIECE)


def test_what_is_sent_into_a_cut_link_comes_when_it_is_mended(
    hosts: Hosts, line: tuple[socket.socket, socket.socket]
) -> None:
    calling, called = line
    hosts.cut("here", "there")
    calling.sendall(b"still there?")
    called.settimeout(0.5)
    with pytest.raises(TimeoutError):
        called.recv(100)
    hosts.mend("here")
    called.settimeout(20)
    assert called.recv(100) == b"still there?"
