"""A bank as a file: JSON lines, the first about the bank, one for each skill, each with a hash of what it says.

The hash of a skill is the SHA-256 of its canonical JSON (sorted names, no spaces, UTF-8); the bank's is that of its
skills' hashes, one after the other. The same skills in the same order give the same hash, whatever their bank is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from preceptor.errors import Invalid
from preceptor.wire.common import Sha256
from preceptor.wire.skills import BankVersion, Skill, SkillBank, SkillBankCreate, SkillCreate

FORMAT = "preceptor-skill-bank-1"


class BankLine(SkillBankCreate):
    """The first line of a bank's file."""

    format: Literal["preceptor-skill-bank-1"]
    """Says what the file is."""
    version: BankVersion
    """The version that was written."""
    skills: int = Field(ge=0)
    """How many skills follow."""
    sha256: Sha256
    """The hash of all of them."""

    def create(self, name: str | None = None) -> SkillBankCreate:
        """The wish for a bank like this one, under its name or another."""
        fields = {each: getattr(self, each) for each in SkillBankCreate.model_fields}
        return SkillBankCreate.model_validate({**fields, "name": name or self.name})


class SkillLine(SkillCreate):
    """Every other line of a bank's file."""

    sha256: Sha256
    """The hash of what it says."""

    def create(self) -> SkillCreate:
        """The wish for this skill."""
        return SkillCreate(**{name: getattr(self, name) for name in SkillCreate.model_fields})


Line = TypeVar("Line", BankLine, SkillLine)


def content_of(skill: Skill | SkillCreate) -> SkillCreate:
    """What a skill says and where it was learned, without what its bank knows of it."""
    return SkillCreate(**{name: getattr(skill, name) for name in SkillCreate.model_fields})


def hash_of(skill: Skill | SkillCreate, *, sources: bool = True) -> str:
    """The hash of what a skill says; without its sources, two that say the same have the same."""
    content = content_of(skill).model_dump(mode="json", exclude=None if sources else {"sources"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def written(bank: SkillBank, version: int, skills: Sequence[Skill]) -> Iterator[str]:
    """The lines of a bank's file, without their ends."""
    hashes = [hash_of(each) for each in skills]
    about = {name: getattr(bank, name) for name in SkillBankCreate.model_fields}
    total = sha256("".join(hashes).encode()).hexdigest()
    line = BankLine(**about, format=FORMAT, version=version, skills=len(skills), sha256=total)
    yield json.dumps(line.model_dump(mode="json"), ensure_ascii=False)
    for each, hashed in zip(skills, hashes, strict=True):
        yield json.dumps({**content_of(each).model_dump(mode="json"), "sha256": hashed}, ensure_ascii=False)


def read(lines: Iterable[str]) -> tuple[BankLine, list[SkillCreate]]:
    """A bank's file. Raises Invalid, naming the line, where it is none, or where a hash or the count differs."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise Invalid("The file is empty.", field="file", remedy="Give what `preceptor skills export` has written.")
    head = _parsed(BankLine, *first)
    found: list[SkillCreate] = []
    hashes: list[str] = []
    for number, line in numbered:
        skill = _parsed(SkillLine, number, line)
        if (hashed := hash_of(skill)) != skill.sha256:
            raise _bad(number, f"the skill has the hash {hashed[:12]}..., not the stated {skill.sha256[:12]}...")
        found.append(skill.create())
        hashes.append(hashed)
    if len(found) != head.skills:
        raise _bad(1, f"{head.skills} skills are announced, and {len(found)} follow")
    if sha256("".join(hashes).encode()).hexdigest() != head.sha256:
        raise _bad(1, "the skills are not those of the bank's hash, or in another order")
    return head, found


def _parsed(kind: type[Line], number: int, line: str) -> Line:
    try:
        value: Any = json.loads(line)
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _bad(number, f"{where}: {first['msg']}" if where else first["msg"]) from None
    except ValueError as error:
        raise _bad(number, f"not JSON ({error})") from None


def _bad(number: int, what: str) -> Invalid:
    return Invalid(
        f"Line {number}: {what}.",
        field=f"line {number}",
        remedy="The file was changed or cut off since it was written; export it again.",
    )
