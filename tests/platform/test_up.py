"""`preceptor up`: a first start, a second start, a crash of a child, a clean end, no orphans, no secrets on disk."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from preceptor.client import Client
from preceptor_services import tether
from tests.platform.stack import MODEL, Stack, alive, preceptor

CHILDREN = {"broker", "api", "teacher", "worker", "debates"}


@contextmanager
def up(home: Path, *options: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    arguments = (
        "up",
        "--home",
        str(home),
        "--port",
        "0",
        "--teacher-port",
        "0",
        "--teacher-model",
        str(MODEL),
        "--json",
    )
    command = tether.command(*preceptor(*arguments, *options))
    environment = Stack(home, "").environment(**settings)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None and process.stderr is not None
    text = process.stdout.readline()
    assert text, process.stderr.read()
    return json.loads(text)


def gone(pids: dict[str, int]) -> None:
    """Wait until none of these processes is there."""
    for name, pid in pids.items():
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([descriptor], [], [], 20)
        os.close(descriptor)
        assert ended, f"{name} (pid {pid}) is still there"


def test_first_start_crash_and_end_then_second_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home, "--register-teacher", "tiny") as process:
        ready = line(process)
        assert ready["first_start"] and set(ready["pids"]) == {"up", *CHILDREN}
        key = ready["admin_key"]
        assert line(process) == {"event": "registered", "teacher": "tiny", "state": "ready"}
        with Client(ready["url"], key) as client:
            teacher = client.teachers.get("tiny")
            assert (teacher.url, teacher.key_env) == (ready["teacher_url"], "PRECEPTOR_TEACHER_KEY")
        assert httpx.get(f"{ready['teacher_url']}/v1/card").status_code in (401, 403), "the teacher wants its key too"

        with up(home) as second:
            assert second.wait(30) == 1
            assert second.stderr is not None and "Another `preceptor up` already runs" in second.stderr.read()

        os.kill(ready["pids"]["worker"], signal.SIGKILL)
        died, started = line(process), line(process)
        assert (died["event"], died["process"], died["exit_code"]) == ("died", "worker", -signal.SIGKILL)
        assert (started["event"], started["process"]) == ("started", "worker")

        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        gone({**ready["pids"], "worker again": started["pid"]})
    written = [path for path in home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert not written, f"the admin key stands in {written}"

    with up(home) as process:
        again = line(process)
        assert not again["first_start"] and again["admin_key"] is None
        assert (again["url"], again["teacher_url"]) == (ready["url"], ready["teacher_url"]), "registrations stay true"
        with Client(again["url"], key) as client:
            assert client.teachers.probe("tiny").state == "ready"
        process.kill()  # not even this leaves an orphan
        process.wait()
        gone(again["pids"])


def test_a_start_that_cannot_succeed_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    with up(tmp_path / "home", "--teacher-model", str(tmp_path / "broken")) as process:
        assert process.wait(90) == 1
        assert process.stderr is not None
        said = process.stderr.read()
    assert "teacher ended while starting" in said and "logs" in said
    assert "Traceback" not in said.partition("Its last words")[0]


@pytest.mark.parametrize("option", ["--port", "--teacher-port"])
def test_a_taken_port_is_named(tmp_path: Path, option: str) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with up(tmp_path / "home", option, str(taken.getsockname()[1])) as process:
            assert process.wait(60) == 1
            assert process.stderr is not None and option in process.stderr.read()
    assert not alive(process.pid)
