"""A database of an earlier version, with rows in it, is brought up to date and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text

from preceptor.wire.skills import SkillCreate, SkillsPublish
from preceptor.wire.teachers import Card, Probe
from preceptor_services.api.runs.roles import Roles, roles_of
from preceptor_services.api.skills import service
from preceptor_services.api.skills.publishing import publish
from preceptor_services.api.skills.retrieval import Indexes, search
from preceptor_services.api.teachers.states import shown
from preceptor_services.db import models
from preceptor_services.db.columns import Base
from preceptor_services.db.migrations import upgrade
from preceptor_services.db.session import Database
from tests.contract.doubles import card_for, write_model

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
TEACHERS = {
    "ready": ("http://here", "MATH_KEY", "ready"),
    "drained": ("http://there", None, "draining"),
    "gone": ("http://nowhere", None, "down"),
}


@pytest.fixture
def first(database: str) -> Iterator[Database]:
    """A database as the first version left it."""
    opened = Database(database)
    upgrade(opened.engine, "0001")
    yield opened
    opened.close()


def insert(connection: Connection, table: str, **values: Any) -> None:
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)


def moment(connection: Connection) -> Any:
    """A moment as the column keeps it."""
    return AT.replace(tzinfo=None).isoformat(" ") if connection.dialect.name == "sqlite" else AT


def fill(opened: Database, card: Card, probe: Probe) -> None:
    """Rows of every table that is changed, and of those that refer to them."""
    with opened.engine.begin() as connection:
        at = moment(connection)
        insert(connection, "keys", id="key-1", name="k", scope="run", hash="h", created_at=at)
        insert(connection, "artifacts", id=DIGEST, kind="model", manifest="[]", size=1, state="ready", created_at=at)
        for name, (url, key_env, state) in TEACHERS.items():
            insert(
                connection,
                "teachers",
                id=f"teacher-{name}",
                name=name,
                url=url,
                kind="preceptor",
                key_env=key_env,
                state=state,
                card=card.model_dump_json(),
                probe=probe.model_dump_json() if state == "ready" else None,
                created_at=at,
                updated_at=at,
            )
        insert(
            connection,
            "runs",
            id="run-1",
            name="mine",
            recipe="opsd",
            overrides="{}",
            resolved="{}",
            student=DIGEST,
            data=json.dumps({"kind": "task", "task": "spell_backward"}),
            training=json.dumps({"steps": 4}),
            alignment="ids",
            state="running",
            step=1,
            created_at=at,
            updated_at=at,
            cancel_requested=False,
            fence=1,
            attempt=1,
            last_event=1,
            created_by="key-1",
            request_hash="h",
        )
        insert(connection, "run_teachers", run_id="run-1", role="self", teacher="ready")
        report = json.dumps({"step": 1, "metrics": {"loss": 0.5}})
        insert(connection, "steps", run_id="run-1", step=1, at=at, fence=1, report=report)
        insert(connection, "events", run_id="run-1", number=1, at=at, kind="step", data="{}")


def test_a_database_of_the_first_version_keeps_all_it_has(first: Database, tmp_path: Path):
    card = card_for(write_model(tmp_path / "tiny"))
    fill(first, card, probe := Probe(at=AT, ok=True, latency_ms=3.0))
    upgrade(first.engine)
    with first.unit(writes=True) as unit:
        found = {each.name: each for each in unit.session.scalars(select(models.Teacher))}
        assert {name: [each.url for each in teacher.endpoints] for name, teacher in found.items()} == {
            name: [url] for name, (url, _, _) in TEACHERS.items()
        }
        assert {name: shown(each).state.value for name, each in found.items()} == {
            name: state for name, (_, _, state) in TEACHERS.items()
        }
        ready = shown(found["ready"])
        assert (ready.card, ready.probe, ready.key_env, ready.created_at) == (card, probe, "MATH_KEY", AT)
        assert ready.endpoints[0].created_at == AT
        run = unit.session.get_one(models.Run, "run-1")
        assert (run.state, run.step, run.pause_requested, run.training.steps) == ("running", 1, False, 4)
        assert roles_of(unit.session, ["run-1"]) == {"run-1": Roles({"self": "ready"}, {})}
        assert unit.session.scalar(select(models.Step.step)) == 1
        assert unit.session.scalar(select(models.Event.number)) == 1
        unit.session.delete(found["gone"])  # what refers to it goes with it


def test_it_ends_as_an_empty_one_would(first: Database, tmp_path: Path):
    fill(first, card_for(write_model(tmp_path / "tiny")), Probe(at=AT, ok=True))
    upgrade(first.engine)
    with first.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    gone = {"url", "key_env", "state", "probe"}
    assert not gone & {each["name"] for each in inspect(first.engine).get_columns("teachers")}


def test_a_skill_bank_of_the_first_version_goes_on(first: Database):
    with first.engine.begin() as connection:
        at = moment(connection)
        insert(connection, "skill_banks", name="b", description="", version=2, skills=3, created_at=at, updated_at=at)
        for version, skills in ((1, 2), (2, 3)):
            insert(connection, "skill_bank_versions", bank="b", version=version, skills=skills, created_at=at)
        for number, version in ((1, 1), (2, 1), (3, 2)):
            texts = {"skill": f"skill {number}", "mistake": "", "tags": "[]", "usefulness": '{"shown": 0}'}
            insert(connection, "skills", bank="b", number=number, version=version, **texts, created_at=at)
    upgrade(first.engine)
    with first.unit(writes=True) as unit:
        old = service.page(unit.session, "b", 1, 10, None).items
        assert [(each.number, each.skill, each.gone) for each in old] == [(1, "skill 1", None), (2, "skill 2", None)]
        assert [each.added for each in service.versions(unit.session, "b", 10, None).items] == [(3,), (1, 2)]
        assert search(unit.session, Indexes(), "b", "skill 3", None, 1)[0].skill.number == 3
        wish = SkillsPublish(base=2, add=(SkillCreate(skill="skill 1"),), remove=(1,))
        made = publish(unit.session, "b", wish, AT)
    assert (made.version, made.skills, made.added, made.removed) == (3, 3, (4,), (1,)), "numbers go on, none is folded"
