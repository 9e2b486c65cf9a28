"""Skill banks: made and read, at any version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.skills.embedding import open_embedder
from preceptor.wire import skills as wire
from preceptor.wire.common import Page
from preceptor_services.api import cursors
from preceptor_services.api.skills.uses import usefulness_of
from preceptor_services.db import models


def shown(bank: models.SkillBank) -> wire.SkillBank:
    """A bank as it travels."""
    return wire.SkillBank(**{name: getattr(bank, name) for name in wire.SkillBank.model_fields})


def shown_skills(session: Session, bank: str, skills: Sequence[models.Skill], upto: int) -> tuple[wire.Skill, ...]:
    """Skills as they travel, with their sources as of a version and what they were measured to be worth."""
    numbers = [each.number for each in skills]
    table = models.SkillSource
    sources: defaultdict[int, list[wire.SkillSource]] = defaultdict(list)
    query = select(table).where(table.bank == bank, table.number.in_(numbers), table.version <= upto)
    for each in session.scalars(query.order_by(table.number, table.ordinal)):
        learned = wire.SkillSource(run=each.run_id, step=each.step, rollout=each.rollout, task=each.task)
        if learned != wire.SkillSource():
            sources[each.number].append(learned)
    worth = usefulness_of(session, bank, numbers)
    return tuple(
        wire.Skill(
            id=f"{bank}/{each.number}",
            bank=bank,
            number=each.number,
            version=each.version,
            gone=each.gone,
            skill=each.skill,
            mistake=each.mistake,
            task=each.task,
            tags=tuple(each.tags),
            sources=tuple(sources[each.number]),
            usefulness=worth.get(each.number, wire.Usefulness()),
            created_at=each.created_at,
        )
        for each in skills
    )


def create(session: Session, wish: wire.SkillBankCreate, at: datetime) -> wire.SkillBank:
    """Make an empty bank. Raises Conflict where there is one of this name, Invalid for an embedder that is not here."""
    check_text(wish.description, "description")
    open_embedder(wish.embedder)
    if session.get(models.SkillBank, wish.name) is not None:
        raise Conflict(f"There is a skill bank {wish.name} already.", field="name", remedy="Choose another name.")
    bank = models.SkillBank(**wish.model_dump(), version=0, skills=0, last_number=0, created_at=at, updated_at=at)
    session.add(bank)
    return shown(bank)


def every(session: Session) -> tuple[wire.SkillBank, ...]:
    """All banks, by name."""
    return tuple(shown(bank) for bank in session.scalars(select(models.SkillBank).order_by(models.SkillBank.name)))


def get(session: Session, name: str) -> models.SkillBank:
    """One bank. Raises NotFound."""
    return _found(session.get(models.SkillBank, name), name)


def locked(session: Session, name: str) -> models.SkillBank:
    """One bank, as it is now, held against all other writers until the unit ends. Raises NotFound."""
    return _found(session.get(models.SkillBank, name, populate_existing=True, with_for_update=True), name)


def live(bank: str, version: int) -> ColumnElement[bool]:
    """The skills that a version holds."""
    table = models.Skill
    return and_(table.bank == bank, table.version <= version, or_(table.gone.is_(None), table.gone > version))


def page(session: Session, name: str, version: int | None, limit: int, cursor: str | None) -> Page[wire.Skill]:
    """The skills of a version, oldest first."""
    upto = version_of(get(session, name), version)
    table = models.Skill
    after = 0 if cursor is None else cursors.number(cursor)
    query = select(table).where(live(name, upto), table.number > after)
    found = list(session.scalars(query.order_by(table.number).limit(limit + 1)))
    more = str(found[limit - 1].number) if len(found) > limit else None
    return Page(items=shown_skills(session, name, found[:limit], upto), next_cursor=more)


def versions(session: Session, name: str, limit: int, cursor: str | None) -> Page[wire.SkillBankVersion]:
    """The versions of a bank, newest first."""
    get(session, name)
    table = models.SkillBankVersion
    query = select(table).where(table.bank == name)
    if cursor is not None:
        query = query.where(table.version < cursors.number(cursor))
    found = list(session.scalars(query.order_by(table.version.desc()).limit(limit + 1)))
    more = str(found[limit - 1].version) if len(found) > limit else None
    return Page(items=tuple(shown_version(session, each) for each in found[:limit]), next_cursor=more)


def shown_version(session: Session, version: models.SkillBankVersion) -> wire.SkillBankVersion:
    """How a version came to be. Of one from before that was kept, what it brought is all there is to say."""
    if version.record is not None:
        return version.record
    table = models.Skill
    brought = select(table.number).where(table.bank == version.bank, table.version == version.version)
    return wire.SkillBankVersion(
        bank=version.bank,
        version=version.version,
        skills=version.skills,
        added=tuple(session.scalars(brought.order_by(table.number))),
        created_at=version.created_at,
    )


def version_of(bank: models.SkillBank, version: int | None, field: str = "version") -> int:
    """The version that is meant; None: the latest. Raises NotFound."""
    if version is None:
        return bank.version
    if version > bank.version:
        raise NotFound(
            f"Skill bank {bank.name} has no version {version}; its latest is {bank.version}.",
            field=field,
            remedy="Leave the version out for the latest.",
        )
    return version


def check_text(text: str, field: str) -> None:
    """NUL is the one character that PostgreSQL's text does not hold."""
    if "\x00" in text:
        raise Invalid(f"{field}: it holds a NUL character.", field=field, remedy="Take it out.")


def _found(bank: models.SkillBank | None, name: str) -> models.SkillBank:
    if bank is None:
        raise NotFound(f"There is no skill bank {name[:100]!r}.", remedy="GET /v1/skills lists them.")
    return bank
