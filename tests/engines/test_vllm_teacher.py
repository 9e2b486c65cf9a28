"""`preceptor teacher serve --backend vllm`: our protocol in front of a vLLM that it starts, and what if that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from preceptor.endpoint import TeacherClient
from preceptor.errors import Invalid, TeacherUnavailable
from preceptor.pool import TeacherPool
from preceptor.probe import probe_teacher
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.teachers import Outcome, Support
from preceptor_services.teacher.engines import BackendKind, open_engine
from preceptor_services.teacher.settings import TeacherSettings
from tests.engines.agreement import agree, moves_as_the_hf_backend_does, ragged, reference
from tests.engines.conftest import MODEL, VLLM_PYTHON, free_port

pytestmark = pytest.mark.engines
KEY = "pk-teacher-of-the-engine-tests"


@dataclass(frozen=True)
class Served:
    """A teacher's process, with the engine under it."""

    url: str
    popen: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "preceptor.cli.main", "teacher", "serve", "--model", str(MODEL), "--name", "fronted",
        "--port", str(port), "--backend", "vllm", "--engine-python", VLLM_PYTHON,
    ]  # fmt: skip
    popen = subprocess.Popen(command, env={**os.environ, "PRECEPTOR_TEACHER_KEY": KEY})
    try:
        deadline = time.monotonic() + 600
        while not ready(url):
            assert popen.poll() is None and time.monotonic() < deadline, "the teacher did not become ready"
            time.sleep(0.25)
        yield Served(url, popen)
    finally:
        popen.terminate()
        popen.wait(60)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("support", "k"), [(Support.SAMPLED, 0), (Support.TOPK, 20)])
def test_it_serves_our_protocol(served: Served, support: Support, k: int) -> None:
    request = ragged(support, k, masked=True)
    with TeacherClient(served.url, KEY) as teacher:
        card, scores = teacher.card(), teacher.score(request)
    agree(scores, reference(MODEL, request))
    assert (card.teacher, card.supports, card.limits.max_k) == ("fronted", (Support.SAMPLED, Support.TOPK), 277)
    assert scores.stamp.teacher == "fronted" and scores.stamp.engine.startswith("vllm ")
    assert len(scores.stamp.context_hashes) == 3


def test_the_probe_finds_nothing_wrong_with_it(served: Served) -> None:
    _, probe = probe_teacher(served.url, KEY)
    assert probe.ok, [check for check in probe.checks if check.outcome is Outcome.FAILED]


def test_what_the_engine_does_not_have_is_refused(served: Served) -> None:
    with TeacherClient(served.url, KEY) as teacher:
        with pytest.raises(Invalid, match="offers sampled, topk"):
            teacher.score(ragged(Support.FULL))
        with pytest.raises(Invalid, match="temperature 1 only"):
            teacher.score(replace(ragged(Support.SAMPLED), temperature=2.0))


def test_weights_are_loaded_through_our_protocol(vllm_url: str, untied: Path, other_weights: Path) -> None:
    settings = TeacherSettings.model_validate({"teacher_key": KEY})
    with open_engine(BackendKind.VLLM, untied, settings, device="cpu", dtype="float32", url=vllm_url) as backend:
        moves_as_the_hf_backend_does(backend, untied, other_weights)
    with (
        open_engine(BackendKind.VLLM, MODEL, settings, device="cpu", dtype="float32", url=vllm_url) as backend,
        pytest.raises(Invalid, match="tied to its embedding"),
    ):
        backend.layout()


def test_an_engine_that_dies_is_named(served: Served, tmp_path: Path) -> None:
    """The last test of the module: nothing answers after it."""
    with TeacherClient(served.url, KEY) as teacher:
        endpoint = TeacherEndpoint(name="fronted", url=served.url, key_env="FRONTED_KEY", card=teacher.card())
    os.environ["FRONTED_KEY"] = KEY
    try:
        with TeacherPool({"teacher": endpoint}, tmp_path, deadline=20, wait=0) as pool:
            pool.score("teacher", ragged(Support.SAMPLED))
            for pid in engine_processes(served.popen.pid):
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(TeacherUnavailable, match="vLLM") as caught:
                pool.score("teacher", ragged(Support.SAMPLED))
    finally:
        del os.environ["FRONTED_KEY"]
    assert caught.value.teacher == "fronted"
    assert httpx.get(f"{served.url}/healthz", timeout=5).status_code == 200, "our service outlives its engine"


def engine_processes(parent: int) -> list[int]:
    """Everything under the teacher's process but the guard: vLLM's server, its core, its worker."""
    children = dict[int, list[int]]()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    (guard,) = children[parent]
    found, queue = [], list(children.get(guard, []))
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found
