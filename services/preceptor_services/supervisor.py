"""Child processes kept alive: started together, restarted with back-off, logged in one place, stopped in order.

Covered: a child that dies, a child that never becomes ready, a supervisor that is told to stop (SIGINT, SIGTERM), one
that is killed (the children are tethered). Not covered: a child that hangs while it still answers its readiness check.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path

from preceptor_services import tether

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that lived this long starts again with the first back-off."""
LISTENS_SECONDS = 2.0
"""How long an ended child's last words are waited for: what it has started may hold its output open for ever."""
MERGED_LOG = "preceptor.log"


class StartFailed(RuntimeError):
    """A child ended, or was not ready in time, while the whole was starting. The message holds its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process to keep alive."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The child's whole environment."""
    ready: Callable[[], bool] | None = None
    """Asked until it says yes; None: ready once started."""
    ready_seconds: float = 120.0
    stop_seconds: float = 20.0
    """Between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """What the supervisor tells its owner."""

    kind: str
    """`died` or `started`."""
    process: str
    pid: int
    exit_code: int | None = None
    """As `subprocess` has it: negative for a signal."""
    retry_seconds: float | None = None


class Child:
    """A running process and the thread that reads what it says."""

    def __init__(self, process: Process, logs: Path, merged: logging.Logger) -> None:
        self.process = process
        self.popen: subprocess.Popen[bytes] | None = None
        self.backoff_seconds = FIRST_BACKOFF_SECONDS
        self.restart_at: float | None = None
        self.last_words: deque[str] = deque(maxlen=30)
        self._started_at = 0.0
        self._own = _file_logger(f"preceptor.up.{id(self)}.{process.name}", logs / f"{process.name}.log")
        self._merged = merged
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def start(self) -> None:
        """Start it. Must be called from the main thread: the tether is tied to the thread that starts a child."""
        self.restart_at, self._started_at = None, time.monotonic()
        self.popen = subprocess.Popen(
            tether.command(*self.process.command),
            env=dict(self.process.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone, which then stops all in order
        )
        self._reader = threading.Thread(target=self._read, args=(self.popen,), daemon=True)
        self._reader.start()

    def died(self) -> int | None:
        """The exit code, once, when it has ended; plans the next start."""
        if self.popen is None or self.restart_at is not None:
            return None
        code = self.popen.poll()
        if code is None:
            return None
        if time.monotonic() - self._started_at > STEADY_SECONDS:
            self.backoff_seconds = FIRST_BACKOFF_SECONDS
        self.restart_at = time.monotonic() + self.backoff_seconds
        self.backoff_seconds = min(self.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)
        return code

    def stop(self, at_once: threading.Event) -> None:
        """SIGTERM, wait (unless `at_once` is or gets set), then SIGKILL for it and whatever it started."""
        if self.popen is None:
            return
        if self.popen.poll() is None and not at_once.is_set():
            self.popen.terminate()
            deadline = time.monotonic() + self.process.stop_seconds
            while self.popen.poll() is None and time.monotonic() < deadline and not at_once.wait(0.02):
                pass
            if self.popen.poll() is None:
                self._merged.info("%-8s did not stop by itself: killed", self.process.name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.hear_out()
        for handler in self._own.handlers:
            handler.close()

    def hear_out(self) -> None:
        """Where it has ended, wait until all that it said is read: a process is gone before its words are."""
        if self._reader is not None and self.popen is not None and self.popen.poll() is not None:
            self._reader.join(LISTENS_SECONDS)

    def _read(self, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdout is not None
        with popen.stdout as lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()
                self.last_words.append(line)
                self._own.info("%s", line)
                self._merged.info("%-8s %s", self.process.name, line)


class Supervisor:
    """Keeps a list of processes alive until it is told to stop."""

    def __init__(self, logs: Path, tell: Callable[[Happening], None] = lambda _: None) -> None:
        """`logs`: one file a process and a merged one. `tell` hears of deaths and restarts, on the main thread."""
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        self._tell = tell
        self._merged = _file_logger(f"preceptor.up.{id(self)}", logs / MERGED_LOG)
        self._children: list[Child] = []
        self._stopping = threading.Event()
        self._at_once = threading.Event()

    def start(self, processes: Sequence[Process]) -> None:
        """Start them together and return when all are ready. Raises StartFailed; what had started goes on."""
        begun = [Child(process, self.logs, self._merged) for process in processes]
        for child in begun:
            child.start()
            self._children.append(child)
        deadline = {child.process.name: time.monotonic() + child.process.ready_seconds for child in begun}
        waiting = list(begun)
        while waiting and not self._stopping.is_set():
            for child in list(waiting):
                if child.process.ready is None or child.process.ready():
                    waiting.remove(child)
                elif child.popen is not None and (code := child.popen.poll()) is not None:
                    raise StartFailed(self._obituary(child, f"ended while starting (exit code {code})"))
                elif time.monotonic() > deadline[child.process.name]:
                    raise StartFailed(self._obituary(child, f"was not ready after {child.process.ready_seconds:.0f} s"))
            if waiting:
                self._tend([child for child in self._children if child not in waiting])
                self._stopping.wait(0.05)

    def run(self) -> None:
        """Watch and restart until `request_stop`."""
        while not self._stopping.wait(0.2):
            self._tend(self._children)

    def request_stop(self) -> None:
        """Ask `run` to return; asked twice, `stop` no longer waits for anybody. Safe in a signal handler."""
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Stop all, last started first."""
        for child in reversed(self._children):
            child.stop(self._at_once)
        for handler in self._merged.handlers:
            handler.close()

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {child.process.name: child.pid for child in self._children}

    def _tend(self, children: Sequence[Child]) -> None:
        """Notice those that died, and start again those whose time has come."""
        for child in children:
            if (code := child.died()) is not None:
                wait = (child.restart_at or 0) - time.monotonic()
                name = child.process.name
                self._tell(Happening(kind="died", process=name, pid=child.pid, exit_code=code, retry_seconds=wait))
            elif child.restart_at is not None and time.monotonic() >= child.restart_at:
                child.start()
                self._tell(Happening(kind="started", process=child.process.name, pid=child.pid))

    def _obituary(self, child: Child, what: str) -> str:
        child.hear_out()
        words = "\n".join(f"  {line}" for line in list(child.last_words)[-12:]) or "  (it said nothing)"
        return f"{child.process.name} {what}. Its last words, from {self.logs / child.process.name}.log:\n{words}"


def _file_logger(name: str, path: Path) -> logging.Logger:
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = RotatingFileHandler(path, maxBytes=10_000_000, backupCount=2, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    return logger
