"""The one place that commits.

A request, or one round of the sweeper, is one unit of work: `Database.unit()` opens a session, commits once when the
block ends, and only then sends the messages that were enqueued in it. When the block raises, everything is rolled back
and the messages are dropped. Nothing else calls `commit`.

SQLite allows one writer at a time, and a transaction that began by reading may be refused when it comes to write. A
unit that may write therefore asks for the write lock when it begins (`BEGIN IMMEDIATE`), and waits its turn there.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from preceptor_services.errors import BadSetting

log = logging.getLogger(__name__)

BUSY_SECONDS = 30
"""How long a writer waits for its turn on SQLite."""
_WRITES = "preceptor_writes"


class Unit:
    """A session and what is to be done once it is committed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._after: list[Callable[[], None]] = []

    def after_commit(self, do: Callable[[], None]) -> None:
        """Have something done once the work is committed; dropped when it is rolled back."""
        self._after.append(do)

    def run_after(self) -> None:
        """Do what was to be done. The work is committed: a failure here is logged, and must not look like one of it."""
        for do in self._after:
            try:
                do()
            except Exception:
                log.exception("What was to follow a commit failed")


class Database:
    """A pool of connections to the one database. Opens nothing until it is used."""

    def __init__(self, url: str) -> None:
        """`url` as in PRECEPTOR_DATABASE_URL: `sqlite:///path` or `postgresql://user:password@host/name`."""
        self.url = database_url(url)
        self.engine = _engine(self.url)
        self._sessions = {
            writes: sessionmaker(self.engine.execution_options(**{_WRITES: writes}), expire_on_commit=False)
            for writes in (True, False)
        }

    @contextmanager
    def unit(self, *, writes: bool) -> Generator[Unit]:
        """One unit of work. `writes=False` promises that nothing is changed: it is not held up by a writer."""
        with self._sessions[writes]() as session:
            unit = Unit(session)
            with session.begin():  # the database's own transaction begins with the first query
                yield unit
        unit.run_after()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def one_at_a_time(session: Session, name: str) -> None:
    """Hold up others with this name until the unit of work ends. On SQLite there is only ever one writer."""
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def database_url(url: str) -> URL:
    """The URL with the driver that we ship. Raises BadSetting where it is not one of ours."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadSetting(f"PRECEPTOR_DATABASE_URL is not a database URL ({error}).") from error
    drivers = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    backend = parsed.drivername.partition("+")[0]
    if backend not in drivers:
        raise BadSetting(
            f"PRECEPTOR_DATABASE_URL names {backend!r}. Use sqlite:///path/to/preceptor.db or postgresql://user@host/name."
        )
    return parsed.set(drivername=drivers[backend])


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_size=10, max_overflow=20, pool_pre_ping=True)
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(url, pool_size=10, max_overflow=20, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # or the driver begins and commits where it sees fit
        _write_ahead(connection)
        for pragma in ("foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(connection: Any) -> None:
    """Keep a write-ahead log. While another connection makes the same switch, SQLite refuses this one at once instead
    of letting it wait its turn like any other statement; so the waiting is done here.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
