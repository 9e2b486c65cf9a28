"""Skill banks: made, added to, read at any version, searched."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid, NotFound
from preceptor.wire import skills as wire
from preceptor.wire.common import Page
from preceptor_services.api import cursors
from preceptor_services.api.skills.search import rank
from preceptor_services.db import models


def shown(bank: models.SkillBank) -> wire.SkillBank:
    """A bank as it travels."""
    return wire.SkillBank(
        name=bank.name,
        description=bank.description,
        version=bank.version,
        skills=bank.skills,
        created_at=bank.created_at,
        updated_at=bank.updated_at,
    )


def _skill(skill: models.Skill) -> wire.Skill:
    return wire.Skill(
        id=f"{skill.bank}/{skill.number}",
        bank=skill.bank,
        version=skill.version,
        skill=skill.skill,
        mistake=skill.mistake,
        task=skill.task,
        tags=tuple(skill.tags),
        usefulness=skill.usefulness,
        created_at=skill.created_at,
    )


def create(session: Session, wish: wire.SkillBankCreate, at: datetime) -> wire.SkillBank:
    """Make an empty bank. Raises Conflict where there is one of this name."""
    _check_text(wish.description, "description")
    if session.get(models.SkillBank, wish.name) is not None:
        raise Conflict(f"There is a skill bank {wish.name} already.", field="name", remedy="Choose another name.")
    bank = models.SkillBank(
        name=wish.name, description=wish.description, version=0, skills=0, created_at=at, updated_at=at
    )
    session.add(bank)
    return shown(bank)


def every(session: Session) -> tuple[wire.SkillBank, ...]:
    """All banks, by name."""
    return tuple(shown(bank) for bank in session.scalars(select(models.SkillBank).order_by(models.SkillBank.name)))


def get(session: Session, name: str) -> models.SkillBank:
    """One bank. Raises NotFound."""
    bank = session.get(models.SkillBank, name)
    if bank is None:
        raise NotFound(f"There is no skill bank {name[:100]!r}.", remedy="GET /v1/skills lists them.")
    return bank


def add(session: Session, name: str, wish: wire.SkillsAdd, at: datetime) -> wire.SkillBank:
    """Add skills: one new version. Two at once make two versions, one after the other."""
    for index, each in enumerate(wish.skills):
        for field in ("skill", "mistake", "task"):
            _check_text(getattr(each, field) or "", f"skills.{index}.{field}")
    get(session, name)
    table = models.SkillBank
    grown = {"version": table.version + 1, "skills": table.skills + len(wish.skills), "updated_at": at}
    session.execute(
        update(table).where(table.name == name).values(grown), execution_options={"synchronize_session": False}
    )
    bank = session.get_one(table, name, populate_existing=True)
    session.add(models.SkillBankVersion(bank=name, version=bank.version, skills=bank.skills, created_at=at))
    session.flush()
    first = bank.skills - len(wish.skills) + 1
    for number, each in enumerate(wish.skills, first):
        session.add(
            models.Skill(
                bank=name,
                number=number,
                version=bank.version,
                skill=each.skill,
                mistake=each.mistake,
                task=each.task,
                tags=list(each.tags),
                usefulness=wire.Usefulness(),
                created_at=at,
            )
        )
    return shown(bank)


def page(session: Session, name: str, version: int | None, limit: int, cursor: str | None) -> Page[wire.Skill]:
    """The skills of a version, oldest first."""
    upto = _version(get(session, name), version)
    table = models.Skill
    after = 0 if cursor is None else cursors.number(cursor)
    query = select(table).where(table.bank == name, table.version <= upto, table.number > after)
    found = list(session.scalars(query.order_by(table.number).limit(limit + 1)))
    more = str(found[limit - 1].number) if len(found) > limit else None
    return Page(items=tuple(_skill(each) for each in found[:limit]), next_cursor=more)


def search(session: Session, name: str, query: str, version: int | None, limit: int) -> tuple[wire.SkillHit, ...]:
    """The skills whose words match best, best first."""
    upto = _version(get(session, name), version)
    table = models.Skill
    held = list(session.scalars(select(table).where(table.bank == name, table.version <= upto).order_by(table.number)))
    texts = [" ".join((each.skill, each.mistake, each.task or "", *each.tags)) for each in held]
    return tuple(wire.SkillHit(skill=_skill(held[index]), score=score) for index, score in rank(query, texts, limit))


def _version(bank: models.SkillBank, version: int | None) -> int:
    if version is None:
        return bank.version
    if version > bank.version:
        raise NotFound(
            f"Skill bank {bank.name} has no version {version}; its latest is {bank.version}.",
            field="version",
            remedy="Leave the version out for the latest.",
        )
    return version


def _check_text(text: str, field: str) -> None:
    """NUL is the one character that PostgreSQL's text does not hold."""
    if "\x00" in text:
        raise Invalid(f"{field}: it holds a NUL character.", field=field, remedy="Take it out.")
