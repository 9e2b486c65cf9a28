"""Children are restarted, logged, stopped in order, and never outlive their supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from preceptor_services.supervisor import Child, Happening, Process, StartFailed, Supervisor

SLEEP = "import signal; print('up', flush=True); signal.pause()"
DEAF = (
    "import signal, pathlib\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "pathlib.Path({up!r}).touch()\n"
    "while True: signal.pause()\n"
)
"""Ignores SIGTERM."""


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def process(name: str, program: str, ready: Callable[[], bool] | None = None, **kw: float) -> Process:
    return Process(name=name, command=python(program), env=dict(os.environ), ready=ready, **kw)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_is_killed_comes_back(tmp_path: Path) -> None:
    told: list[Happening] = []

    def tell(happening: Happening) -> None:
        told.append(happening)
        if happening.kind == "started":
            supervisor.request_stop()

    supervisor = Supervisor(tmp_path, tell)
    supervisor.start([process("one", SLEEP, lambda: (tmp_path / "one.log").exists())])
    first = supervisor.pids()["one"]
    os.kill(first, signal.SIGKILL)
    supervisor.run()
    second = supervisor.pids()["one"]
    supervisor.stop()

    assert [each.kind for each in told] == ["died", "started"]
    assert (told[0].pid, told[0].exit_code) == (first, -signal.SIGKILL)
    assert told[0].retry_seconds is not None and 0 < told[0].retry_seconds <= 0.5
    assert second != first
    assert not alive(first) and not alive(second)


def test_all_are_stopped_last_started_first(tmp_path: Path) -> None:
    program = (
        "import signal, sys, pathlib, os\n"
        "def stop(*_):\n"
        "    with open({out!r}, 'a') as out: out.write({name!r} + '\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "pathlib.Path({out!r} + {name!r}).touch()\n"
        "while True: signal.pause()\n"
    )
    out = str(tmp_path / "order")
    supervisor = Supervisor(tmp_path / "logs")
    for name in "abc":
        ready = Path(out + name).exists
        supervisor.start([process(name, program.format(out=out, name=name), ready)])
    supervisor.stop()
    assert Path(out).read_text().split() == ["c", "b", "a"]


def test_a_child_that_ends_while_starting_is_quoted(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    try:
        with pytest.raises(StartFailed, match=r"(?s)broken ended while starting \(exit code 3\).*no such model"):
            supervisor.start([process("broken", "print('no such model'); raise SystemExit(3)", lambda: False)])
    finally:
        supervisor.stop()


def test_last_words_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that a process has ended before the thread that reads what it said has a turn."""
    asked, read, obituary = threading.Event(), Child._read, Supervisor._obituary

    def read_late(child: Child, popen: subprocess.Popen[bytes]) -> None:
        asked.wait(10)
        read(child, popen)

    def ask(supervisor: Supervisor, child: Child, what: str) -> str:
        asked.set()
        return obituary(supervisor, child, what)

    monkeypatch.setattr(Child, "_read", read_late)
    monkeypatch.setattr(Supervisor, "_obituary", ask)
    test_a_child_that_ends_while_starting_is_quoted(tmp_path)


def test_a_child_that_is_never_ready_is_named(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    try:
        with pytest.raises(StartFailed, match="slow was not ready"):
            supervisor.start([process("slow", SLEEP, lambda: False, ready_seconds=0.3)])
    finally:
        supervisor.stop()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    program = DEAF.format(up=str(tmp_path / "up"))
    supervisor = Supervisor(tmp_path)
    stubborn = process("stubborn", program, (tmp_path / "up").exists, stop_seconds=0.3)
    supervisor.start([stubborn])
    pid = supervisor.pids()["stubborn"]
    supervisor.stop()
    assert not alive(pid)


def test_two_requests_to_stop_wait_for_nobody(tmp_path: Path) -> None:
    program = DEAF.format(up=str(tmp_path / "up"))
    supervisor = Supervisor(tmp_path)
    supervisor.start([process("stubborn", program, (tmp_path / "up").exists)])
    supervisor.request_stop()
    threading.Timer(0.2, supervisor.request_stop).start()
    supervisor.stop()  # else this takes the 20 s of `stop_seconds`
    assert not alive(supervisor.pids()["stubborn"])


def test_what_children_say_is_in_one_place(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.start(
        [
            process(name, f"print('{name} says hello', flush=True); {SLEEP}", (tmp_path / f"{name}.log").exists)
            for name in "ab"
        ]
    )
    supervisor.stop()
    merged = (tmp_path / "preceptor.log").read_text()
    assert "a says hello" in merged and "b says hello" in merged
    assert "b says hello" not in (tmp_path / "a.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from preceptor_services.supervisor import Process, Supervisor\n"
        f"logs = pathlib.Path({str(tmp_path)!r})\n"
        "supervisor = Supervisor(logs)\n"
        f"child = Process(name='child', command=[sys.executable, '-c', {SLEEP!r}], env=dict(os.environ), "
        "ready=(logs / 'child.log').exists)\n"
        "supervisor.start([child])\n"
        "print(supervisor.pids()['child'], flush=True)\n"
        "supervisor.run()\n"
    )
    with subprocess.Popen(python(program), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        descriptor = os.pidfd_open(child)
        parent.kill()
    # A pidfd becomes readable when its process ends: an event, not a poll.
    import select

    assert select.select([descriptor], [], [], 10)[0], "the child outlived its supervisor"
    os.close(descriptor)
