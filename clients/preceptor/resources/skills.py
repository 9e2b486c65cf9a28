"""Skill banks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from preceptor.connection import Connection
from preceptor.wire.common import Page
from preceptor.wire.skills import Skill, SkillBank, SkillBankCreate, SkillCreate, SkillHit, SkillsAdd


class Skills:
    """Skill banks of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, name: str, description: str = "") -> SkillBank:
        """Make an empty bank. Raises Conflict where there is one of this name."""
        return self._connection.post(SkillBank, "/v1/skills", SkillBankCreate(name=name, description=description))

    def list(self) -> tuple[SkillBank, ...]:
        """All banks, by name."""
        return self._connection.get(tuple[SkillBank, ...], "/v1/skills")

    def get(self, bank: str) -> SkillBank:
        """One bank. Raises NotFound."""
        return self._connection.get(SkillBank, f"/v1/skills/{bank}")

    def add(self, bank: str, skills: Sequence[SkillCreate]) -> SkillBank:
        """Add skills: one new version of the bank."""
        return self._connection.post(SkillBank, f"/v1/skills/{bank}/skills", SkillsAdd(skills=tuple(skills)))

    def skills(self, bank: str, *, version: int | None = None) -> Iterator[Skill]:
        """The skills of a version (None: the latest), oldest first."""
        cursor: str | None = None
        while True:
            params = {"version": version, "cursor": cursor}
            page = self._connection.get(Page[Skill], f"/v1/skills/{bank}/skills", params=params)
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

    def search(self, bank: str, query: str, *, limit: int = 10, version: int | None = None) -> tuple[SkillHit, ...]:
        """The skills whose words match best, best first; those without a common word are left out."""
        params = {"q": query, "limit": limit, "version": version}
        return self._connection.get(tuple[SkillHit, ...], f"/v1/skills/{bank}/search", params=params)
