"""The next version of a bank.

Whoever makes one holds the bank's row, so that versions come one after the other. An author states the version that was
read: where the bank has moved on since, the same changes are made to the latest version, or refused, as the author
said. Neither way is a skill lost that somebody else has published meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from preceptor.errors import Conflict, Invalid
from preceptor.skills.embedding import open_embedder, vectors
from preceptor.skills.merging import folded
from preceptor.skills.usefulness import evicted
from preceptor.wire import skills as wire
from preceptor_services.api.skills.retrieval import text_of, vectors_of
from preceptor_services.api.skills.service import check_text, live, locked, shown_version
from preceptor_services.api.skills.uses import usefulness_of
from preceptor_services.db import models


@dataclass(frozen=True, slots=True)
class _Fold:
    index: int
    """Which of the given skills."""
    skill: wire.SkillCreate
    into: int
    """The number of the one that says it already."""
    words: dict[str, str]
    """Its own words, where they are others."""

    @property
    def tells(self) -> bool:
        """Whether there is anything to be kept of it."""
        return bool(self.words or self.skill.sources)


@dataclass(slots=True)
class _Changes:
    """What becomes of the latest version."""

    new: list[tuple[wire.SkillCreate, np.ndarray]] = field(default_factory=list)
    """Skills that come, with their vectors."""
    folds: list[_Fold] = field(default_factory=list)
    """Those that say what is there already."""
    removed: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


def publish(session: Session, name: str, wish: wire.SkillsPublish, at: datetime) -> wire.SkillBankVersion:
    """Make the next version, or find that nothing changes: then the latest is the answer.

    Raises Invalid for a base or a number that was never there, Conflict where the base is not the latest version and
    the author does not want it merged.
    """
    _check_texts(wish.add, "add")
    bank = locked(session, name)
    if wish.run is not None and (earlier := _published(session, name, wish)) is not None:
        return earlier
    if wish.base > bank.version:
        raise Invalid(
            f"base: skill bank {name} has no version {wish.base}; its latest is {bank.version}.",
            field="base",
            remedy="Give the version that you have read.",
        )
    if wish.base < bank.version and wish.on_conflict == "refuse":
        raise Conflict(
            f"base: skill bank {name} has moved on from version {wish.base} to {bank.version}.",
            field="base",
            remedy='Read the latest version and publish from it, or set on_conflict to "merge".',
        )
    changes = _Changes()
    _remove(session, bank, wish, changes)
    _add(session, bank, wish.add, bank.duplicate_above, changes)
    return _write(session, bank, changes, wish, at)


def add(session: Session, name: str, wish: wire.SkillsAdd, at: datetime) -> None:
    """Add skills to whatever is the latest version, as they are."""
    _check_texts(wish.skills, "skills")
    bank, changes = locked(session, name), _Changes()
    _add(session, bank, wish.skills, None, changes)
    _write(session, bank, changes, None, at)


def _published(session: Session, name: str, wish: wire.SkillsPublish) -> wire.SkillBankVersion | None:
    """What this step of this run has published already: a resumed worker does it again."""
    table = models.SkillBankVersion
    query = select(table).where(table.bank == name, table.run_id == wish.run, table.step == wish.step)
    found = session.scalar(query)
    return None if found is None else shown_version(session, found)


def _remove(session: Session, bank: models.SkillBank, wish: wire.SkillsPublish, changes: _Changes) -> None:
    table, sources = models.Skill, models.SkillSource
    based = set(session.scalars(select(table.number).where(live(bank.name, wish.base))))
    here = set(session.scalars(select(table.number).where(live(bank.name, bank.version))))
    since = select(sources.number).where(sources.bank == bank.name, sources.version > wish.base)
    grown = set(session.scalars(since))
    for index, number in enumerate(wish.remove):
        if number not in based:
            raise Invalid(
                f"remove.{index}: version {wish.base} of skill bank {bank.name} holds no skill {number}.",
                field=f"remove.{index}",
            )
        if number in here and number not in (*changes.removed, *changes.kept):
            (changes.kept if number in grown else changes.removed).append(number)


def _add(
    session: Session,
    bank: models.SkillBank,
    given: Sequence[wire.SkillCreate],
    duplicate_above: float | None,
    changes: _Changes,
) -> None:
    if not given:
        return
    new_MD = vectors(open_embedder(bank.embedder), [text_of(each) for each in given])
    numbers, held_ND = vectors_of(session, bank, bank.version) if duplicate_above is not None else ([], new_MD[:0])
    stays = np.array([number not in changes.removed for number in numbers], dtype=bool)
    numbers, held_ND = [number for number in numbers if number not in changes.removed], held_ND[stays]
    places: dict[int, int] = {}
    for index, into in enumerate(folded(new_MD, held_ND, duplicate_above)):
        each, place = given[index], into - len(numbers)
        if place == index:
            places[index] = bank.last_number + len(changes.new) + 1
            changes.new.append((each, new_MD[index]))
            continue
        target = given[place] if place >= 0 else session.get_one(models.Skill, (bank.name, numbers[into]))
        same = (each.skill, each.mistake) == (target.skill, target.mistake)
        words = {} if same else {"skill": each.skill, "mistake": each.mistake}
        changes.folds.append(_Fold(index, each, places[place] if place >= 0 else numbers[into], words))


def _write(
    session: Session, bank: models.SkillBank, changes: _Changes, wish: wire.SkillsPublish | None, at: datetime
) -> wire.SkillBankVersion:
    name, version, first = bank.name, bank.version + 1, bank.last_number + 1
    added = list(range(first, first + len(changes.new)))
    evicted_ = _evicted(session, bank, added, changes.removed)
    record = wire.SkillBankVersion(
        bank=name,
        version=version,
        base=None if wish is None else wish.base,
        skills=bank.skills + len(added) - len(changes.removed) - len(evicted_),
        added=tuple(added),
        folded=tuple(wire.FoldedSkill(index=each.index, into=each.into) for each in changes.folds),
        removed=tuple(changes.removed),
        evicted=tuple(evicted_),
        kept=tuple(changes.kept),
        run=None if wish is None else wish.run,
        step=None if wish is None else wish.step,
        created_at=at,
    )
    if not (added or changes.removed or evicted_ or any(each.tells for each in changes.folds)):
        return record.model_copy(update={"version": bank.version, "created_at": bank.updated_at})
    session.add(
        models.SkillBankVersion(
            bank=name,
            version=version,
            skills=record.skills,
            run_id=record.run,
            step=record.step,
            record=record,
            created_at=at,
        )
    )
    session.flush()
    _write_skills(session, bank, changes, version, at)
    table = models.Skill
    gone = update(table).where(table.bank == name, table.number.in_([*changes.removed, *evicted_]))
    session.execute(gone.values(gone=version), execution_options={"synchronize_session": False})
    bank.version, bank.skills, bank.updated_at = version, record.skills, at
    bank.last_number += len(added)
    return record


def _evicted(session: Session, bank: models.SkillBank, added: Sequence[int], removed: Sequence[int]) -> list[int]:
    numbers = list(session.scalars(select(models.Skill.number).where(live(bank.name, bank.version))))
    numbers = [each for each in numbers if each not in set(removed)]
    worth = usefulness_of(session, bank.name, numbers)
    unmeasured = wire.Usefulness()
    return evicted([(each, worth.get(each, unmeasured)) for each in (*numbers, *added)], bank.cap)


def _write_skills(session: Session, bank: models.SkillBank, changes: _Changes, version: int, at: datetime) -> None:
    name = bank.name
    for number, (each, _) in enumerate(changes.new, bank.last_number + 1):
        texts = {"skill": each.skill, "mistake": each.mistake, "task": each.task, "tags": list(each.tags)}
        session.add(models.Skill(bank=name, number=number, version=version, **texts, created_at=at))
    session.flush()
    for number, (each, vector_D) in enumerate(changes.new, bank.last_number + 1):
        kept = {"bank": name, "number": number, "embedder": bank.embedder}
        session.add(models.SkillEmbedding(**kept, vector=vector_D.tobytes()))
        session.add_all(_sources(name, number, version, 1, each, {}))
    session.flush()
    table, tell = models.SkillSource, [each for each in changes.folds if each.tells]
    counted = select(table.number, func.max(table.ordinal)).where(table.bank == name)
    counted = counted.where(table.number.in_({each.into for each in tell})).group_by(table.number)
    last: dict[int, int] = {number: ordinal for number, ordinal in session.execute(counted)}
    for each in tell:
        rows = _sources(name, each.into, version, last.get(each.into, 0) + 1, each.skill, each.words)
        last[each.into] = last.get(each.into, 0) + len(rows)
        session.add_all(rows)


def _sources(
    bank: str, number: int, version: int, first: int, skill: wire.SkillCreate, words: dict[str, str]
) -> list[models.SkillSource]:
    """One row a source; one that was folded in without a source still leaves its words."""
    learned = skill.sources or ((wire.SkillSource(),) if words else ())
    key = {"bank": bank, "number": number, "version": version}
    return [
        models.SkillSource(
            **key, ordinal=ordinal, run_id=each.run, step=each.step, rollout=each.rollout, task=each.task, **words
        )
        for ordinal, each in enumerate(learned, first)
    ]


def _check_texts(skills: Sequence[wire.SkillCreate], field: str) -> None:
    for index, each in enumerate(skills):
        for name in ("skill", "mistake", "task"):
            check_text(getattr(each, name) or "", f"{field}.{index}.{name}")
        for place, source in enumerate(each.sources):
            for name in ("run", "rollout", "task"):
                check_text(getattr(source, name) or "", f"{field}.{index}.sources.{place}.{name}")
