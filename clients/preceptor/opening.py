"""How a run's teachers are reached: the client of their kind, and the key that this machine holds for them."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from preceptor.adapters import Endpoint, open_teacher, stock_of
from preceptor.errors import Invalid
from preceptor.replica import Open
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint


def opener(endpoint: TeacherEndpoint) -> Open:
    """Opens the teacher's endpoints. What it returns raises Invalid where a URL is none, or a key is not set here."""
    known = stock_of(endpoint.name, endpoint.card)

    def open_(address: ReplicaAddress, transport: httpx.BaseTransport | None) -> Endpoint:
        key = key_of(endpoint.name, address.key_env)
        return open_teacher(endpoint.kind, address.url, key, known, transport=transport)

    return open_


def key_of(name: str, variable: str | None) -> str | None:
    """A teacher's key, from this variable or the file that VARIABLE_FILE names. Raises Invalid where it is not set."""
    if variable is None:
        return None
    if value := os.environ.get(variable):
        return value
    path = os.environ.get(f"{variable}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Invalid(f"{variable}_FILE: {path} cannot be read ({error}).", field="key_env") from error
    raise Invalid(
        f"key_env: the key of teacher '{name}' should be in {variable}, which is not set here.",
        field="key_env",
        remedy=f"Set {variable} or {variable}_FILE where the run is worked on.",
    )
