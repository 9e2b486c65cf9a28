"""The servers that are measured, as processes of their own: our teacher, and vLLM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from preceptor.endpoint import TeacherClient
from preceptor.errors import PreceptorError
from preceptor_services.teacher.backends import vllm

KEY = "pk-teacher-of-a-benchmark-0123456789"
QUIET = ["--uvicorn-log-level", "warning"]
ROOT = Path(__file__).resolve().parents[2]


class Ours:
    """`preceptor teacher serve`, and a client of it."""

    def __init__(self, url: str, pid: int, client: TeacherClient) -> None:
        self.url, self.pid, self.client = url, pid, client

    @property
    def resident(self) -> int:
        """Bytes of memory that the process has now."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextmanager
def ours(folder: Path, threads: int, **settings: object) -> Iterator[Ours]:
    """Our service, with this many compute threads, until the block ends."""
    port = free_port()
    environment = {**os.environ, "PRECEPTOR_TEACHER_KEY": KEY, "OMP_NUM_THREADS": str(threads)}
    environment |= {f"PRECEPTOR_TEACHER_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "preceptor.cli.main", "teacher", "serve", "--model", str(folder)]
    command += ["--port", str(port), "--threads", str(threads)]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    url = f"http://127.0.0.1:{port}"
    try:
        with TeacherClient(url, KEY) as client:
            while True:
                if process.poll() is not None:
                    raise SystemExit(f"our teacher ended with exit code {process.returncode}")
                try:
                    client.healthz()
                    break
                except PreceptorError:
                    time.sleep(0.1)
            yield Ours(url, process.pid, client)
    finally:
        process.terminate()
        process.wait(60)


def vllm_python() -> str | None:
    """The interpreter of the environment that scripts/test-engines makes; None where there is none."""
    found = os.environ.get("VLLM_PYTHON") or str(ROOT / ".venv-vllm" / "bin" / "python")
    return found if Path(found).exists() else None


class Vllm:
    """A stock vLLM server, asked in its own words. An answer counts as arrived when its JSON is parsed."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=600.0)
        self._threads = ThreadPoolExecutor(16)

    def healthz(self) -> None:
        """Raises where it does not answer."""
        self._http.get("/health").raise_for_status()

    def completions(self, rows: Sequence[np.ndarray], k: int) -> None:
        """All rows in one request."""
        prompts = [row.tolist() for row in rows]
        self._post("/v1/completions", prompt=prompts, max_tokens=1, prompt_logprobs=k, temperature=0)

    def token_in(self, rows: Sequence[np.ndarray], k: int) -> None:
        """A request a row, all at once, nothing detokenised."""

        def one(row: np.ndarray) -> None:
            sampling = {"max_tokens": 1, "prompt_logprobs": k, "temperature": 0.0, "detokenize": False}
            self._post("/inference/v1/generate", token_ids=row.tolist(), sampling_params=sampling)

        list(self._threads.map(one, rows))

    def _post(self, path: str, **body: Any) -> None:
        answer = self._http.post(path, json={"model": vllm.NAME, **body})
        answer.raise_for_status()
        json.loads(answer.content)


@contextmanager
def stock_vllm(folders: Sequence[Path], python: str) -> Iterator[list[Vllm]]:
    """A vLLM server for each model, in float32, with the flags that its CPU build scores fastest with."""
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # its words would bury the table
    started: list[tuple[Any, Vllm]] = []
    try:
        for folder in folders:
            port = free_port()
            process = vllm.launch(folder, python, port, key="", device="cpu", dtype="float32", max_k=100, options=QUIET)
            started.append((process, Vllm(f"http://127.0.0.1:{port}")))
        for process, server in started:
            _wait(process, server)
        yield [server for _, server in started]
    finally:
        for process, _ in started:
            process.close()


def _wait(process: Any, server: Vllm) -> None:
    deadline = time.monotonic() + 600
    while True:
        process.check()
        try:
            server.healthz()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise SystemExit("vLLM did not start within ten minutes") from None
            time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
