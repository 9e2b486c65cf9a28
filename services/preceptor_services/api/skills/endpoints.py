"""Skill banks over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Query

from preceptor.wire.common import Page
from preceptor.wire.skills import Skill, SkillBank, SkillBankCreate, SkillHit, SkillsAdd
from preceptor_services.api.deps import LIMIT, Cursor, Limit, PlaneDep, Reader, Runner, UnitDep, router
from preceptor_services.api.skills import service

ROUTER = router("skills")
Version = Annotated[int | None, Query(ge=0, le=2**31 - 1, description="A version of the bank; left out: the latest.")]
_BANK = Body(
    openapi_examples={"bank": {"value": {"name": "algebra", "description": "What goes wrong in linear equations"}}}
)
_SKILLS = Body(
    openapi_examples={
        "skill": {
            "value": {
                "skills": [
                    {
                        "skill": "Change the sign of a term when it moves to the other side.",
                        "mistake": "Moved -3x over and kept the minus.",
                        "tags": ["signs"],
                    }
                ]
            }
        }
    }
)


@ROUTER.post("/skills", status_code=201)
def create_skill_bank(
    wish: Annotated[SkillBankCreate, _BANK], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> SkillBank:
    """Make an empty bank."""
    return service.create(unit.session, wish, plane.clock())


@ROUTER.get("/skills")
def list_skill_banks(caller: Reader, unit: UnitDep) -> tuple[SkillBank, ...]:
    """All banks, by name."""
    return service.every(unit.session)


@ROUTER.get("/skills/{bank}")
def show_skill_bank(bank: str, caller: Reader, unit: UnitDep) -> SkillBank:
    """One bank."""
    return service.shown(service.get(unit.session, bank))


@ROUTER.post("/skills/{bank}/skills", status_code=201)
def add_skills(
    bank: str, wish: Annotated[SkillsAdd, _SKILLS], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> SkillBank:
    """Add skills: one new version of the bank. Older versions stay readable."""
    return service.add(unit.session, bank, wish, plane.clock())


@ROUTER.get("/skills/{bank}/skills")
def list_skills(
    bank: str, caller: Reader, unit: UnitDep, version: Version = None, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[Skill]:
    """The skills of a version, oldest first."""
    return service.page(unit.session, bank, version, limit, cursor)


@ROUTER.get("/skills/{bank}/search")
def search_skills(
    bank: str,
    caller: Reader,
    unit: UnitDep,
    q: Annotated[str, Query(min_length=1, max_length=2000, description="Words to look for.")],
    version: Version = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> tuple[SkillHit, ...]:
    """The skills whose words match best, best first; those without a common word are left out."""
    return service.search(unit.session, bank, q, version, limit)
