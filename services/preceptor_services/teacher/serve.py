"""A teacher's process: load a model folder, listen, drain when told to stop."""

from __future__ import annotations

import logging
from pathlib import Path

import uvicorn

from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.settings import TeacherSettings

log = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8421


def serve(
    model: str | Path,
    settings: TeacherSettings,
    *,
    host: str = HOST,
    port: int = PORT,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
) -> None:
    """Serve a model folder until SIGINT or SIGTERM; requests that were taken are finished.

    threads: torch's compute threads; None leaves torch's choice. Raises UnreadableModel or Invalid before listening.
    """
    # Only here: importing this file must not import torch.
    from preceptor_services.teacher.backends.hf import HfBackend, set_threads

    if threads is not None:
        set_threads(threads)
    backend = HfBackend(Path(model), device=device, dtype=dtype, forward_tokens=settings.teacher_forward_tokens)
    log.info("teacher %s serves %s on http://%s:%d", settings.teacher_name, backend.about.model, host, port)
    uvicorn.run(create_teacher_app(backend, settings), host=host, port=port, log_level="warning", server_header=False)
