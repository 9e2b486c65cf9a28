"""An engine's backend, opened: connected to where it runs, or started beside us and waited for."""

from __future__ import annotations

import secrets
import sys
from enum import StrEnum
from pathlib import Path

from preceptor.adapters import Stock, open_teacher
from preceptor.errors import PreceptorError
from preceptor.wire.teachers import TeacherKind
from preceptor_services import ports
from preceptor_services.teacher.backends import sglang, vllm
from preceptor_services.teacher.backends.engine import EngineBackend
from preceptor_services.teacher.settings import TeacherSettings


class BackendKind(StrEnum):
    """What a teacher computes with."""

    HF = "hf"
    VLLM = "vllm"
    SGLANG = "sglang"
    SCRIPTED = "scripted"


def open_engine(
    kind: BackendKind,
    folder: Path,
    settings: TeacherSettings,
    *,
    device: str,
    dtype: str,
    url: str | None = None,
    python: str | None = None,
) -> EngineBackend:
    """A backend in front of vLLM or SGLang. `url`: where it runs already; else it is started, by `python`.

    Raises what the engine says where it does not start, and Invalid where it serves something else than `folder`.
    """
    module = vllm if kind is BackendKind.VLLM else sglang
    if url is not None:
        secret = settings.teacher_engine_key
        key = None if secret is None else secret.get_secret_value()
        return module.connect(folder, url, key, device=device, dtype=dtype)
    port, key = ports.free(), secrets.token_urlsafe(32)
    interpreter = python or sys.executable
    if kind is BackendKind.VLLM:
        process = vllm.launch(
            folder, interpreter, port, key=key, device=device, dtype=dtype, max_k=settings.teacher_max_k
        )
    else:
        process = sglang.launch(folder, interpreter, port, key=key, device=device, dtype=dtype)
    where = f"http://127.0.0.1:{port}"
    try:
        with open_teacher(TeacherKind(kind.value), where, key, Stock(name=folder.name), timeout=10.0) as looker:
            process.wait_until(looker.healthz)
        return module.connect(folder, where, key, process, device=device, dtype=dtype)
    except PreceptorError:
        process.close()
        raise
