"""Two requests that meet where it matters, on PostgreSQL, where transactions run side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from tests.contract.conftest import House

SECONDS = 20

Answer = TypeVar("Answer")


def crossing(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    places: Sequence[tuple[Any, str]],
    first: Callable[[], Answer],
    second: Callable[[], Answer],
) -> list[Answer | Exception]:
    """Do both at once: neither goes on from one of these functions (of a module) before the other has come to one, too,
    or has ended, or the database has one wait for the other. Returns what became of each.
    """
    there, both = list[object](), threading.Event()

    def met(real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        there.append(None)
        if len(there) >= 2:
            both.set()
        while not both.wait(0.01) and not _held_up(house):
            pass
        return real(*args, **more)

    def become(do: Callable[[], Answer]) -> Answer | Exception:
        try:
            return do()
        except Exception as error:
            return error
        finally:
            both.set()

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as threads:
        for where, name in places:
            patched.setattr(where, name, partial(met, getattr(where, name)))
        asked = [threads.submit(become, each) for each in (first, second)]
        return [each.result(SECONDS) for each in asked]


def _held_up(house: House) -> bool:
    """Whether a transaction waits for a lock that another holds."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with house.plane.database.unit(writes=False) as unit:
        return bool(unit.session.scalar(text(waiting)))
