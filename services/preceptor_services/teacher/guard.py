"""Runs an engine that must not outlive its parent: `python -m preceptor_services.teacher.guard PARENT COMMAND...`.

An engine is several processes, and killing the first leaves the others with all the memory. They are one process group
here, which ends as a whole: when the parent goes (on Linux the kernel says so), when this process is told to stop, and
when the engine's first process ends by itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

_PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 10.0
"""How long the engine may take to stop by itself."""


def command(*arguments: str) -> list[str]:
    """The command line that runs `arguments` guarded, as a child of this process."""
    return [sys.executable, "-m", "preceptor_services.teacher.guard", str(os.getpid()), *arguments]


def main(arguments: list[str]) -> int:
    """Run the command until it ends or this process is told to stop. Returns its exit code."""
    parent, *target = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died between the fork and the line above
        return 1
    engine = subprocess.Popen(target, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        return engine.wait()
    finally:
        _end(engine)


def _end(engine: subprocess.Popen[bytes]) -> None:
    """Ask the first process, then end the group: what is left of it holds the memory."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(ProcessLookupError):
        engine.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    while engine.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
