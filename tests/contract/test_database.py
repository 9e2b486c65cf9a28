"""The database: what the migration makes is what the models say, and a unit of work is all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import IntegrityError, StatementError

from preceptor.wire.common import Scope
from preceptor_services.db import models
from preceptor_services.db.columns import Base
from preceptor_services.db.migrations import upgrade
from preceptor_services.db.session import Database, Unit, database_url
from preceptor_services.errors import BadSetting

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def opened(database: str) -> Iterator[Database]:
    opened = Database(database)
    upgrade(opened.engine)
    yield opened
    opened.close()


def key(name: str, **changes: object) -> models.Key:
    fields = {"id": name, "name": name, "scope": Scope.READ.value, "hash": name, "created_at": AT, **changes}
    return models.Key(**fields)


def names(opened: Database) -> list[str]:
    with opened.unit(writes=False) as unit:
        return list(unit.session.scalars(select(models.Key.name).order_by(models.Key.name)))


def test_models_and_migrations_agree(opened: Database):
    with opened.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_again_changes_nothing(opened: Database):
    with opened.unit(writes=True) as unit:
        unit.session.add(key("a"))
    upgrade(opened.engine)
    assert names(opened) == ["a"]


def test_two_that_upgrade_at_once_do_not_collide(database: str):
    both = [Database(database), Database(database)]
    gate = threading.Barrier(2)
    failures: list[Exception] = []

    def run(each: Database) -> None:
        gate.wait()
        try:
            upgrade(each.engine)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(both[0]) == []
    for each in both:
        each.close()


def test_what_is_to_follow_a_commit_follows_it(opened: Database):
    seen: list[list[str]] = []
    with opened.unit(writes=True) as unit:
        unit.session.add(key("a"))
        unit.after_commit(lambda: seen.append(names(opened)))
        assert seen == []
    assert seen == [["a"]]


def test_what_is_to_follow_is_dropped_when_the_work_is(opened: Database):
    seen: list[str] = []
    with pytest.raises(RuntimeError, match="no"), opened.unit(writes=True) as unit:
        unit.session.add(key("a"))
        unit.session.flush()
        unit.after_commit(lambda: seen.append("sent"))
        raise RuntimeError("no")
    assert (seen, names(opened)) == ([], [])


def test_a_failure_to_commit_drops_it_too(opened: Database):
    seen: list[str] = []
    with opened.unit(writes=True) as unit:
        unit.session.add(key("a"))
    with pytest.raises(IntegrityError), opened.unit(writes=True) as unit:
        unit.session.add(key("b", hash="a"))
        unit.after_commit(lambda: seen.append("sent"))
    assert (seen, names(opened)) == ([], ["a"])


def test_what_follows_a_commit_may_fail_without_undoing_it(opened: Database, caplog: pytest.LogCaptureFixture):
    seen: list[str] = []

    def fail() -> None:
        raise RuntimeError("the broker is down")

    with opened.unit(writes=True) as unit:
        unit.session.add(key("a"))
        unit.after_commit(fail)
        unit.after_commit(lambda: seen.append("the next one"))
    assert (seen, names(opened)) == (["the next one"], ["a"])
    assert "the broker is down" in caplog.text


def test_writers_wait_for_each_other_and_lose_nothing(opened: Database):
    with opened.unit(writes=True) as unit:
        unit.session.add(models.SkillBank(name="b", description="", version=0, skills=0, created_at=AT, updated_at=AT))

    def read_then_write() -> None:
        with opened.unit(writes=True) as unit:
            bank = unit.session.get_one(models.SkillBank, "b", with_for_update=True)
            unit.session.execute(update(models.SkillBank).values(version=bank.version + 1))

    threads = [threading.Thread(target=read_then_write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened.unit(writes=False) as unit:
        assert unit.session.scalar(select(models.SkillBank.version)) == 8


def test_a_reader_is_not_held_up_by_a_writer(opened: Database):
    with opened.unit(writes=True) as unit:
        unit.session.add(key("a"))
        unit.session.flush()
        assert names(opened) == []
    assert names(opened) == ["a"]


def test_references_hold(opened: Database):
    orphan = models.RunTeacher(run_id="run-0", role="self", teacher="t")
    with pytest.raises(IntegrityError), opened.unit(writes=True) as unit:
        unit.session.add(orphan)


def test_moments_keep_their_microseconds_and_come_back_in_utc(opened: Database):
    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    with opened.unit(writes=True) as unit:
        unit.session.add(key("a", created_at=elsewhere))
    with opened.unit(writes=False) as unit:
        found = unit.session.scalar(select(models.Key.created_at))
        assert found == AT
        assert found is not None
        assert found.tzinfo is UTC or found.utcoffset() == timedelta(0)
        earlier = select(models.Key.id).where(models.Key.created_at < AT)
        assert unit.session.scalar(earlier) is None


def test_a_moment_without_a_zone_is_refused(opened: Database):
    with pytest.raises(StatementError, match="no time zone"), opened.unit(writes=True) as unit:
        unit.session.add(key("a", created_at=AT.replace(tzinfo=None)))


def test_sqlite_is_set_up_for_several_at_once(opened: Database):
    if opened.engine.dialect.name != "sqlite":
        pytest.skip("a setting of SQLite")
    with opened.unit(writes=False) as unit:
        found = [unit.session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")]
        assert found == ["wal", 1]


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///x.db", "sqlite+pysqlite"),
        ("postgresql://u@h/d", "postgresql+psycopg"),
        ("postgres://u@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg2://u@h/d", "postgresql+psycopg"),
    ],
)
def test_the_driver_is_ours(url: str, driver: str):
    assert database_url(url).drivername == driver


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "not a url", ""])
def test_a_database_that_we_do_not_speak_to(url: str):
    with pytest.raises(BadSetting, match="PRECEPTOR_DATABASE_URL") as caught:
        database_url(url)
    assert "hunter2" not in str(caught.value)


def test_a_unit_is_what_the_session_hands_out(opened: Database):
    with opened.unit(writes=True) as unit:
        assert isinstance(unit, Unit)
        unit.session.execute(delete(models.Key))
