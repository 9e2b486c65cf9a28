"""Runs a command that dies with its parent: `python -m preceptor_services.tether PARENT_PID COMMAND...`.

On Linux the kernel kills the command when its parent goes, however it went (SIGKILL included), so that a supervisor
never leaves orphans. Elsewhere the command runs untethered: a clean shutdown still stops it, a killed parent does not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def command(*arguments: str) -> list[str]:
    """The command line that runs `arguments` tethered to this process."""
    return [sys.executable, "-m", "preceptor_services.tether", str(os.getpid()), *arguments]


def main(arguments: list[str]) -> None:
    """Replace this process by the command. Exits with 1 if the parent is gone already."""
    parent, *target = arguments
    fasten(int(parent))
    os.execvp(target[0], target)


def fasten(parent: int) -> None:
    """Let this process die with the one that has started it, `parent`. Exits with 1 if that is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died between the fork and the line above
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
