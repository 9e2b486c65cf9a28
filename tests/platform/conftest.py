"""One stack for all tests of a session that share one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from preceptor.client import Client
from tests.platform.stack import Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Broker, control plane on SQLite, teacher."""
    with running(tmp_path_factory.mktemp("stack")) as started:
        yield started


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as opened:
        yield opened
