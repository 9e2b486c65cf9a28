"""Keys: made once, kept as hashes, scoped, revoked; and the first one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from preceptor.errors import Conflict, NotAuthorised, NotFound
from preceptor.wire.common import Scope
from preceptor_services.api.sweeper import write_key_uses
from preceptor_services.errors import BadSetting
from tests.contract.conftest import ADMIN, House


def test_a_key_is_shown_once_and_works_until_it_is_revoked(house: House):
    created = house.admin.keys.create("gpu-1", Scope.RUN)
    assert created.key.scope is Scope.RUN
    worker = house.client(created.secret)
    assert list(worker.runs.list()) == []
    listed = house.http().get("/v1/keys").text
    assert created.key.id in listed
    assert created.secret not in listed
    revoked = house.admin.keys.revoke(created.key.id)
    assert revoked.revoked_at is not None
    with pytest.raises(NotAuthorised, match="The key is unknown or revoked") as caught:
        list(worker.runs.list())
    assert caught.value.problem.status == 401
    assert house.admin.keys.revoke(created.key.id) == revoked


def test_no_secret_is_in_the_database(house: House):
    secret = house.admin.keys.create("gpu-1", Scope.RUN).secret
    with house.plane.database.unit(writes=False) as unit:
        rows = unit.session.execute(text("SELECT * FROM keys")).all()
    assert len(rows) == 2
    assert secret not in repr(rows)
    assert ADMIN not in repr(rows)


def test_scopes_include_the_ones_before_them(house: House):
    reader, runner = house.scoped(Scope.READ), house.scoped(Scope.RUN)
    assert list(reader.runs.list()) == []
    with pytest.raises(NotAuthorised, match="needs a key of scope run; yours has read") as caught:
        reader.skills.create("b")
    assert caught.value.problem.status == 403
    assert runner.skills.create("b").version == 0
    with pytest.raises(NotAuthorised, match="needs a key of scope admin; yours has run"):
        runner.keys.list()


def test_the_last_admin_key_stays(house: House):
    first = house.admin.keys.list()[0]
    with pytest.raises(Conflict, match="is the last key of scope admin"):
        house.admin.keys.revoke(first.id)
    house.admin.keys.create("second", Scope.ADMIN)
    house.admin.keys.revoke(first.id)


def test_an_unknown_key_is_not_found(house: House):
    with pytest.raises(NotFound):
        house.admin.keys.revoke("key-0")


def test_when_a_key_was_last_seen_is_written_now_and_then(house: House):
    house.admin.keys.create("never-used")
    write_key_uses(house.plane)
    used, unused = house.admin.keys.list()
    assert used.last_used_at is not None
    assert unused.last_used_at is None


def test_the_first_start_makes_an_admin_key_and_shows_it_once(database: str, make_house: Callable[..., House]):
    house = make_house(database, admin_key=None)
    (line,) = house.announced
    secret = line.rpartition(" ")[2]
    assert [each.scope for each in house.client(secret).keys.list()] == [Scope.ADMIN]
    again = make_house(database, admin_key=None)
    assert again.announced == []
    assert len(again.client(secret).keys.list()) == 1


def test_a_preset_key_replaces_the_one_of_the_last_start(database: str, make_house: Callable[..., House]):
    old, new = "pk_worker_of_the_first_start", "pk_worker_of_the_second_start"
    first = make_house(database, worker_key=old)
    assert first.announced == []
    assert list(first.client(old).runs.list()) == []
    second = make_house(database, worker_key=new)
    assert list(second.client(new).runs.list()) == []
    with pytest.raises(NotAuthorised):
        list(second.client(old).runs.list())
    keys = {each.name: each.scope for each in second.admin.keys.list()}
    assert keys == {"admin": Scope.ADMIN, "worker": Scope.RUN}


def test_one_secret_cannot_be_two_keys(tmp_path: Path, make_house: Callable[..., House]):
    with pytest.raises(BadSetting, match="PRECEPTOR_WORKER_KEY is a key that exists already"):
        make_house(f"sqlite:///{tmp_path / 'p.db'}", worker_key=ADMIN)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {ADMIN}",
        ADMIN,
        "Bearer wrong",
        f"Bearer {ADMIN}x",
        "Bearer \xff",
        "Bearer a b",
    ],
)
def test_what_is_not_a_key(sqlite_house: House, authorization: str | None):
    headers: dict[str, Any] = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    answer = sqlite_house.http(None).get("/v1/runs", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["remedy"]
