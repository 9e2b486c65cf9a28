"""Skill banks over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Query

from preceptor.wire.common import Page
from preceptor.wire.skills import (
    Skill,
    SkillBank,
    SkillBankCreate,
    SkillBankVersion,
    SkillHit,
    SkillsAdd,
    SkillsPublish,
    SkillUses,
    UsesRecorded,
)
from preceptor_services.api.deps import LIMIT, Cursor, Limit, PlaneDep, Reader, Runner, UnitDep, router
from preceptor_services.api.skills import publishing, retrieval, service, uses

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
_PUBLISH = Body(
    openapi_examples={
        "next": {
            "value": {
                "base": 3,
                "add": [
                    {
                        "skill": "Carry the ten when a column is over nine.",
                        "mistake": "Wrote 13 under one column.",
                        "sources": [{"run": "run-1", "step": 25, "task": "a1b2c3", "rollout": "a1b2c3/0"}],
                    }
                ],
                "remove": [2],
            }
        }
    }
)
_USES = Body(
    openapi_examples={
        "uses": {
            "value": {
                "run": "run-1",
                "step": 25,
                "uses": [
                    {"number": 1, "used": 8, "shown": 8, "shown_right": 6, "plain": 8, "plain_right": 3},
                    {"number": 2, "used": 4, "support_right": {"n": 3, "total": 0.6, "squares": 0.14}},
                ],
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
    """Add skills as they are: one new version of the bank. Older versions stay readable."""
    publishing.add(unit.session, bank, wish, plane.clock())
    return service.shown(service.get(unit.session, bank))


@ROUTER.get("/skills/{bank}/skills")
def list_skills(
    bank: str, caller: Reader, unit: UnitDep, version: Version = None, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[Skill]:
    """The skills of a version, oldest first."""
    return service.page(unit.session, bank, version, limit, cursor)


@ROUTER.post("/skills/{bank}/versions", status_code=201)
def publish_skill_bank(
    bank: str, wish: Annotated[SkillsPublish, _PUBLISH], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> SkillBankVersion:
    """Make the next version from one that was read. Near-duplicates are folded into what is there; where nothing
    changes, the latest version is the answer."""
    return publishing.publish(unit.session, bank, wish, plane.clock())


@ROUTER.get("/skills/{bank}/versions")
def list_skill_bank_versions(
    bank: str, caller: Reader, unit: UnitDep, limit: Limit = LIMIT, cursor: Cursor = None
) -> Page[SkillBankVersion]:
    """The versions of a bank, newest first, and how each came to be."""
    return service.versions(unit.session, bank, limit, cursor)


@ROUTER.get("/skills/{bank}/search")
def search_skills(
    bank: str,
    caller: Reader,
    plane: PlaneDep,
    unit: UnitDep,
    q: Annotated[str, Query(min_length=1, max_length=2000, description="Words to look for.")],
    version: Version = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> tuple[SkillHit, ...]:
    """The skills that share words with the query or are like it, best first. The rest is left out."""
    return retrieval.search(unit.session, plane.indexes, bank, q, version, limit)


@ROUTER.post("/skills/{bank}/uses", status_code=201)
def record_skill_uses(
    bank: str, wish: Annotated[SkillUses, _USES], caller: Runner, plane: PlaneDep, unit: UnitDep
) -> UsesRecorded:
    """Count what came of skills in one step of a run. Sent again, it is not counted again."""
    return uses.record(unit.session, service.locked(unit.session, bank), wish, plane.clock())
