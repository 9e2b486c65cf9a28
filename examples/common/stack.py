"""A Preceptor of its own for an example: started, told where everything is, and stopped whatever happens."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

from rich.console import Console

from preceptor.client import Client
from preceptor.errors import NotFound, PreceptorError
from preceptor.wire.teachers import Teacher, TeacherCreate
from preceptor_services import ports, tether

KEY_ENV = "PRECEPTOR_TEACHER_KEY"
"""The variable with the key of the teacher that comes with it."""
MORE_KEY_ENV = "PRECEPTOR_EXAMPLE_KEY"
"""The variable with the key of every further one."""
READY_SECONDS = 120
STOP_SECONDS = 90


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A running Preceptor."""

    url: str
    teacher_url: str
    key: str
    logs: Path | None = None
    """Where its processes write; None: it is not ours."""
    more_key: str = ""
    """The key of teachers that are started besides."""
    children: ExitStack = field(default_factory=ExitStack)
    """What else was started, stopped with it."""

    def client(self) -> Client:
        """A client with the admin key."""
        return Client(self.url, self.key)

    def serve(self, client: Client, name: str, *options: str) -> Teacher:
        """Start one more teacher (`options` of `preceptor teacher serve`: `--model FOLDER`, say) and register it."""
        if self.logs is None:
            raise PreceptorError("Teachers are started only beside a Preceptor of the example's own.")
        port = ports.free()
        url = f"http://127.0.0.1:{port}"
        arguments = ("teacher", "serve", "--name", name, "--port", str(port), *options)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                tether.command(sys.executable, "-m", "preceptor.cli.main", *arguments),
                stdout=log,
                stderr=log,
                env=environment({"PRECEPTOR_TEACHER_KEY": self.more_key}),
            )
        self.children.callback(_stop, process)
        _until_ready(url, process, self.logs / f"{name}.log")
        return register(client, name, url, MORE_KEY_ENV)


@contextmanager
def stack(model: Path, console: Console, name: str = "example", *, workers: int = 1) -> Iterator[Stack]:
    """`preceptor up` in a temporary home, its teacher serving `model`, with so many workers. After a failure the home
    stays, for its logs."""
    home, more_key = Path(tempfile.mkdtemp(prefix=f"preceptor-{name}-")), secrets.token_urlsafe(32)
    arguments = ("up", "--home", str(home), "--port", "0", "--teacher-port", "0", "--teacher-model", str(model))
    arguments += ("--workers", str(workers))
    up = subprocess.Popen(
        tether.command(sys.executable, "-m", "preceptor.cli.main", *arguments, "--json"),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment({MORE_KEY_ENV: more_key}),
    )
    try:
        assert up.stdout is not None
        line = up.stdout.readline()
        if not line:
            raise PreceptorError(
                "Preceptor did not start.", remedy=f"Its own words are above, its logs in {home}/logs."
            )
        ready = json.loads(line)
        console.print(f"  up at {ready['url']}, logs in {home}/logs", highlight=False)
        where = {"url": ready["url"], "teacher_url": ready["teacher_url"], "key": ready["admin_key"]}
        with ExitStack() as children:
            yield Stack(**where, logs=home / "logs", more_key=more_key, children=children)
    finally:
        _stop(up)
        console.print("Everything is stopped.")
    shutil.rmtree(home)


def register(client: Client, name: str, url: str, key_env: str = KEY_ENV) -> Teacher:
    """The teacher by its name: registered now, or registered before and probed again."""
    try:
        known = client.teachers.get(name)
    except NotFound:
        return client.teachers.add(TeacherCreate(name=name, url=url, key_env=key_env))
    if known.url != url:
        raise PreceptorError(
            f"The teacher {name} is registered at {known.url}, not at {url}.", remedy=f"preceptor teachers rm {name}"
        )
    return client.teachers.probe(name)


def environment(told: Mapping[str, str]) -> dict[str, str]:
    """What a process is told; nothing of the user's own settings."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PRECEPTOR_")}, **told}


def _stop(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise PreceptorError(f"The teacher at {url} did not start.", remedy=f"Its own words are in {log}.")
