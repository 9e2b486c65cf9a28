"""The control plane as a process: it starts, is watched, and stops at once with a watcher on the line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preceptor.client import Client
from preceptor.errors import Unreachable
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Event, RunCreate, RunState
from tests.contract.doubles import write_model

KEY = "pk_admin_for_tests_0123456789"


def serve(home: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the control plane; it answers when this returns."""
    env = {
        **os.environ,
        "PRECEPTOR_HOME_DIR": str(home),
        "PRECEPTOR_PORT": str(port),
        "PRECEPTOR_BROKER_URL": "redis://127.0.0.1:1/0",  # nobody listens there
        "PRECEPTOR_ADMIN_KEY": KEY,
    }
    return subprocess.Popen([sys.executable, "-m", "preceptor.cli.main", "api"], env=env, stdout=subprocess.DEVNULL)


@contextmanager
def ready(port: int) -> Iterator[Client]:
    """A client, once somebody answers: connections that are refused are tried again."""
    with Client(f"http://127.0.0.1:{port}", KEY) as client:
        for _ in range(15):
            with suppress(Unreachable):
                client.healthy()
                break
        yield client


def test_a_watcher_does_not_keep_the_process_and_outlives_it(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = serve(tmp_path / "home", port)
    try:
        with ready(port) as client:
            student = client.artifacts.push(write_model(tmp_path / "model"), "model", "tiny")
            run = client.runs.start(RunCreate(recipe="sft", student=student, data=TaskSource(task="spell_backward")))
        assert run.state is RunState.QUEUED, "the broker is down, and the run is kept"
        seen: list[Event] = []
        first = threading.Event()

        def watch() -> None:
            with ready(port) as client:
                for event in client.runs.events(run.id):
                    seen.append(event)
                    first.set()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        assert first.wait(30)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process = serve(tmp_path / "home", port)
        with ready(port) as client:
            client.runs.cancel(run.id)
        watcher.join(60)
        assert [event.data["to"] for event in seen] == ["queued", "cancelled"]
    finally:
        process.terminate()
        process.wait(20)


def test_a_port_that_is_taken_is_an_end_with_a_reason(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = serve(tmp_path / "home", taken.getsockname()[1])
        assert process.wait(60) not in (0, -signal.SIGTERM)
