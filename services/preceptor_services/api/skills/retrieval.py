"""Search in a version of a bank. Versions never change, so that what was built for one is kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from preceptor.skills.embedding import open_embedder, vectors
from preceptor.skills.index import Index
from preceptor.wire import skills as wire
from preceptor_services.api.skills import service
from preceptor_services.db import models

LEAST_SIMILARITY = 0.3
"""A skill without a common word is found from this cosine on: what two unrelated texts have stays below it."""
KEPT = 250_000
"""Skills of which indexes are kept in memory; the index that was not asked for longest goes first. One skill takes
about 2 KB."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A version's skills, searchable."""

    numbers: Sequence[int]
    index: Index


class Indexes:
    """The indexes of versions that were searched lately. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Indexed] = OrderedDict()

    def of(self, session: Session, bank: models.SkillBank, version: int) -> Indexed:
        """A version's index. It is built by one request at a time: others of the same version wait for it."""
        with self._lock:
            key = bank.name, version
            found = self._kept[key] if key in self._kept else _built(session, bank, version)
            self._kept[key] = found
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(len(each.numbers) for each in self._kept.values()) > KEPT:
                self._kept.popitem(last=False)
            return found


def search(
    session: Session, indexes: Indexes, name: str, query: str, version: int | None, limit: int
) -> tuple[wire.SkillHit, ...]:
    """The skills that match best, best first: by common words, or by likeness."""
    bank = service.get(session, name)
    upto = service.version_of(bank, version)
    indexed = indexes.of(session, bank, upto)
    hits = indexed.index.search(query, limit, least_similarity=LEAST_SIMILARITY)
    numbers = [indexed.numbers[hit.place] for hit in hits]
    table = models.Skill
    rows = list(session.scalars(select(table).where(table.bank == name, table.number.in_(numbers))))
    found = {each.number: each for each in service.shown_skills(session, name, rows, upto)}
    return tuple(
        wire.SkillHit(skill=found[number], score=hit.score, lexical=hit.lexical, similarity=hit.similarity)
        for number, hit in zip(numbers, hits, strict=True)
    )


def vectors_of(session: Session, bank: models.SkillBank, version: int) -> tuple[list[int], np.ndarray]:
    """The numbers and vectors of a version's skills, int8 [N, D], oldest first; one that has none yet is given one."""
    table, kept = models.Skill, models.SkillEmbedding
    joined = and_(kept.bank == table.bank, kept.number == table.number, kept.embedder == bank.embedder)
    query = select(table.number, kept.vector).outerjoin(kept, joined).where(service.live(bank.name, version))
    found = {row.number: row.vector for row in session.execute(query.order_by(table.number))}
    if lacking := [number for number, vector in found.items() if vector is None]:
        texts = {number: text for number, text in _texts(session, bank, version) if number in set(lacking)}
        made_ND = vectors(open_embedder(bank.embedder), [texts[number] for number in lacking])
        found |= {number: vector.tobytes() for number, vector in zip(lacking, made_ND, strict=True)}
    if not found:
        return [], np.zeros((0, 0), dtype=np.int8)
    flat = np.frombuffer(b"".join(found.values()), dtype=np.int8)
    return list(found), flat.reshape(len(found), -1)


def text_of(skill: models.Skill | wire.SkillCreate) -> str:
    """All that a skill can be found by."""
    return " ".join(each for each in (skill.skill, skill.mistake, skill.task or "", *skill.tags) if each)


def _built(session: Session, bank: models.SkillBank, version: int) -> Indexed:
    numbers, kept_ND = vectors_of(session, bank, version)
    texts = [text for _, text in _texts(session, bank, version)]
    return Indexed(numbers, Index(texts, open_embedder(bank.embedder), kept_ND))


def _texts(session: Session, bank: models.SkillBank, version: int) -> list[tuple[int, str]]:
    query = select(models.Skill).where(service.live(bank.name, version)).order_by(models.Skill.number)
    return [(each.number, text_of(each)) for each in session.scalars(query)]
