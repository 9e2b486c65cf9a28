"""Where the control plane is and which key to show it: options that every command which asks has."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from preceptor.client import Client
from preceptor.connection import DEFAULT_URL as DEFAULT_URL
from preceptor.errors import Invalid, NotAuthorised

Url = Annotated[str, typer.Option("--url", envvar="PRECEPTOR_URL", help="The control plane.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", envvar="PRECEPTOR_KEY_FILE", help="File that holds the key; else PRECEPTOR_KEY is read."
    ),
]
"""A key is never an argument: command lines are visible to every user of a machine."""


@contextmanager
def connect(url: str, key_file: Path | None) -> Generator[Client]:
    """A client for one command. Raises NotAuthorised when there is no key, Invalid when its file is unreadable."""
    with Client(url, read_key(key_file)) as client:
        yield client


def read_key(key_file: Path | None) -> str:
    """The key, from its file or from PRECEPTOR_KEY."""
    if key_file is not None:
        try:
            key = key_file.read_text().strip()
        except OSError as error:
            raise Invalid(
                f"The key file {key_file} cannot be read: {error.strerror}.",
                field="--key-file",
                remedy="Correct the path.",
            ) from error
    else:
        key = os.environ.get("PRECEPTOR_KEY", "").strip()
    if not key:
        raise NotAuthorised(
            "There is no key to show.",
            remedy="Set PRECEPTOR_KEY, or name a file with --key-file. The first `preceptor up` prints an admin key.",
        )
    return key
