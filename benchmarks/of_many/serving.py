"""Services in this process, each on a port of its own: what is measured is what passes between them over HTTP."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from of_teacher.servers import KEY, free_port
from pydantic import SecretStr

from preceptor.endpoint import TeacherClient
from preceptor.wire.runs import TeacherEndpoint
from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.backends import Backend
from preceptor_services.teacher.settings import TeacherSettings

KEY_ENV = "PRECEPTOR_TEACHER_KEY"


@contextmanager
def served(app: FastAPI, name: str) -> Iterator[str]:
    """An application until the block ends; gives its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, name=name, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def teacher(name: str, backend: Backend) -> Iterator[TeacherEndpoint]:
    """A teacher with this backend."""
    os.environ[KEY_ENV] = KEY
    settings = TeacherSettings.model_validate({"teacher_key": SecretStr(KEY), "teacher_name": name})
    with served(create_teacher_app(backend, settings), name) as url, TeacherClient(url, KEY) as client:
        yield TeacherEndpoint(name=name, url=url, key_env=KEY_ENV, card=client.card())
