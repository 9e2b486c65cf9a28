"""An engine is several processes: they end together, however that comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from preceptor.errors import ServerFault, Unreachable
from preceptor_services.teacher import guard
from preceptor_services.teacher.backends.engine import EngineProcess

ENGINE = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".part", "w").write(str(worker.pid))
import os; os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(float(sys.argv[2]))
"""
"""A server that starts a worker and leaves it behind when it ends."""


def wait_for(what: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def start(path: Path, seconds: float) -> tuple[subprocess.Popen[bytes], int]:
    popen = subprocess.Popen(guard.command(sys.executable, "-c", ENGINE, str(path), str(seconds)))
    wait_for(path.exists)
    return popen, int(path.read_text())


def test_told_to_stop_it_stops_all_of_them(tmp_path: Path) -> None:
    popen, worker = start(tmp_path / "pid", 600)
    popen.terminate()
    assert popen.wait(30) == 128 + signal.SIGTERM
    wait_for(lambda: gone(worker))


def test_when_the_first_ends_the_others_end(tmp_path: Path) -> None:
    popen, worker = start(tmp_path / "pid", 0)
    assert popen.wait(30) == 0
    wait_for(lambda: gone(worker))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent went")
def test_when_the_parent_is_killed_they_end(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    program = (
        "import subprocess, sys, time; from preceptor_services.teacher import guard; "
        "subprocess.Popen(guard.command(*sys.argv[1:])); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, sys.executable, "-c", ENGINE, str(path), "600"])
    wait_for(path.exists)
    worker = int(path.read_text())
    assert not gone(worker)
    parent.kill()
    parent.wait()
    wait_for(lambda: gone(worker))


def test_an_engine_that_ends_before_it_answers_is_named() -> None:
    process = EngineProcess("vLLM", [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))

    def silent() -> None:
        raise Unreachable("no answer")

    with pytest.raises(ServerFault, match="vLLM has ended with exit code 3"):
        process.wait_until(silent, 30)
    process.close()


def test_an_engine_that_never_answers_is_given_up() -> None:
    process = EngineProcess("vLLM", [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))

    def silent() -> None:
        raise Unreachable("no answer")

    with pytest.raises(ServerFault, match=r"vLLM did not answer within 0\.3 s"):
        process.wait_until(silent, 0.3)
    process.close()
