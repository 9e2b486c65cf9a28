"""Skill banks."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from preceptor.connection import Connection
from preceptor.errors import Invalid
from preceptor.skills import bankfile
from preceptor.skills.differing import Difference, difference
from preceptor.wire.skills import (
    Skill,
    SkillBank,
    SkillBankCreate,
    SkillBankVersion,
    SkillCreate,
    SkillHit,
    SkillsAdd,
    SkillsPublish,
    SkillUses,
    UsesRecorded,
)

AT_ONCE = 500
BYTES_AT_ONCE = 1_000_000
"""Skills, and about how much text, that an import sends in one request."""
Progress = Callable[[int, int | None], None]
"""Called with how many skills have gone over, and how many there are; None: that is not known before the last."""


def _nobody(done: int, of: int | None) -> None:
    """Who asks for no progress."""


class Skills:
    """Skill banks of the control plane."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        name: str,
        description: str = "",
        *,
        task: str | None = None,
        embedder: str = "ngrams-1",
        duplicate_above: float | None = 0.95,
        cap: int | None = None,
    ) -> SkillBank:
        """Make an empty bank; what the settings say is in `SkillBankCreate`. Raises Conflict where there is one of this
        name."""
        wish = SkillBankCreate(
            name=name, description=description, task=task, embedder=embedder, duplicate_above=duplicate_above, cap=cap
        )
        return self._connection.post(SkillBank, "/v1/skills", wish)

    def list(self) -> tuple[SkillBank, ...]:
        """All banks, by name."""
        return self._connection.get(tuple[SkillBank, ...], "/v1/skills")

    def get(self, bank: str) -> SkillBank:
        """One bank. Raises NotFound."""
        return self._connection.get(SkillBank, f"/v1/skills/{bank}")

    def add(self, bank: str, skills: Sequence[SkillCreate]) -> SkillBank:
        """Add skills as they are: one new version of the bank."""
        return self._connection.post(SkillBank, f"/v1/skills/{bank}/skills", SkillsAdd(skills=tuple(skills)))

    def publish(
        self,
        bank: str,
        base: int,
        add: Sequence[SkillCreate] = (),
        remove: Sequence[int] = (),
        *,
        on_conflict: Literal["merge", "refuse"] = "merge",
        run: str | None = None,
        step: int | None = None,
    ) -> SkillBankVersion:
        """Make the next version from one that was read; near-duplicates are folded into what is there.

        Where the bank has moved on since, `merge` makes the changes to its latest version; `refuse` raises Conflict.
        With `run` and `step` it may be sent again: the second time it gets the first one's answer.
        """
        wish = SkillsPublish(
            base=base, add=tuple(add), remove=tuple(remove), on_conflict=on_conflict, run=run, step=step
        )
        path = f"/v1/skills/{bank}/versions"
        return self._connection.post(SkillBankVersion, path, wish, twice_is_once=run is not None)

    def versions(self, bank: str) -> Iterator[SkillBankVersion]:
        """The versions of a bank, newest first, and how each came to be."""
        return self._connection.pages(SkillBankVersion, f"/v1/skills/{bank}/versions")

    def skills(self, bank: str, *, version: int | None = None) -> Iterator[Skill]:
        """The skills of a version (None: the latest), oldest first."""
        return self._connection.pages(Skill, f"/v1/skills/{bank}/skills", {"version": version, "limit": 500})

    def search(self, bank: str, query: str, *, limit: int = 10, version: int | None = None) -> tuple[SkillHit, ...]:
        """The skills that share words with the query or are like it, best first; the rest is left out."""
        params = {"q": query, "limit": limit, "version": version}
        return self._connection.get(tuple[SkillHit, ...], f"/v1/skills/{bank}/search", params=params)

    def record_uses(self, bank: str, uses: SkillUses) -> UsesRecorded:
        """Count what came of skills in one step of a run. It may be sent again: nothing is counted twice."""
        return self._connection.post(UsesRecorded, f"/v1/skills/{bank}/uses", uses, twice_is_once=True)

    def diff(self, first: str, second: str) -> Difference:
        """What `bank@1` holds and `bank@2` does not, and the other way round; the banks may be two."""
        return difference(*(self.skills(bank, version=version) for bank, version in map(pinned, (first, second))))

    def export(self, bank: str, *, version: int | None = None, progress: Progress = _nobody) -> Iterator[str]:
        """A version as the lines of a file (`preceptor.skills.bankfile`)."""
        held = self.get(bank)
        upto = held.version if version is None else version
        skills: builtins.list[Skill] = []
        for each in self.skills(bank, version=upto):
            skills.append(each)
            progress(len(skills), held.skills if upto == held.version else None)
        return bankfile.written(held, upto, skills)

    def import_(self, lines: Iterable[str], *, name: str | None = None, progress: Progress = _nobody) -> SkillBank:
        """What `export` wrote, under its name or another. All hashes are checked before anything is sent.

        Where there is no such bank it is made, with the file's settings, and holds the file's skills as they are. Where
        there is one, they are published to it, and near-duplicates folded in. Raises Invalid, naming the line, and for
        a bank of another task.
        """
        head, skills = bankfile.read(lines)
        name = name or head.name
        held = next((each for each in self.list() if each.name == name), None)
        if held is not None and held.task not in (None, head.task):
            raise Invalid(
                f"Skill bank {name} is of the task {held.task}, and the file's of {head.task or 'any'}.",
                field="task",
                remedy="Import it under another name.",
            )
        if held is None:
            self._connection.post(SkillBank, "/v1/skills", head.create(name))
        done = 0
        for part in _parts(skills):
            progress(done, len(skills))
            if held is None:
                self.add(name, part)
            else:
                self.publish(name, held.version, part)
            done += len(part)
        progress(done, len(skills))
        return self.get(name)


def pinned(bank: str) -> tuple[str, int | None]:
    """`bank@3` as name and version; `bank` has none. Raises Invalid."""
    name, at, version = bank.partition("@")
    if at and not (version.isascii() and version.isdigit()):
        raise Invalid(f"{bank!r} names no version of a bank.", field="bank", remedy="Write bank@3, or bank alone.")
    return name, int(version) if at else None


def _parts(skills: Iterable[SkillCreate]) -> Iterator[builtins.list[SkillCreate]]:
    """In order, as many at once as one request holds."""
    part: builtins.list[SkillCreate] = []
    size = 0
    for each in skills:
        length = len(each.model_dump_json())
        if part and (len(part) == AT_ONCE or size + length > BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(each)
        size += length
    if part:
        yield part
