"""Running what a model wrote: in another process, isolated, with limits, and never by this one.

One server process a trainer is started at the first call and kept (`runner`: it forks for every program); it ends when
its standard input does, so it never outlives the trainer.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

RUNNER = Path(__file__).with_name("runner.py")


@dataclass(frozen=True)
class Outcome:
    """What a program gave: a value, or an error as Python says it."""

    value: str | None = None
    error: str | None = None


class Sandbox:
    """A server process, started when it is first needed and again when it died."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(self, program: str, library: Mapping[str, str]) -> Outcome:
        """One program, whose functions are `library`'s: expressions of `x`, by name. Raises RuntimeError where no
        answer comes."""
        request = json.dumps({"program": program, "library": dict(library)})
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            raise RuntimeError(f"the process that runs programs ended with code {process.wait()}; it is started again")
        return Outcome(**json.loads(line))

    def close(self) -> None:
        """End the server, where one runs; another call would start it again."""
        if self._process is not None:
            self._process.communicate()  # without input it ends by itself
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            atexit.register(self.close)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(RUNNER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={"PYTHONIOENCODING": "utf-8"},
            )
        return self._process


SANDBOX = Sandbox()
