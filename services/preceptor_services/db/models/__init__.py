"""The tables, one file a noun. Importing this package names them all, which is what a migration compares with."""

from __future__ import annotations

from preceptor_services.db.columns import Base
from preceptor_services.db.models.artifacts import Artifact, Blob
from preceptor_services.db.models.codistillations import Codistillation, CodistillationSide, Publication
from preceptor_services.db.models.debates import Debate, DebateTemplate, DebateTurn, RunDebate
from preceptor_services.db.models.jobs import Job, Wished
from preceptor_services.db.models.keys import Key
from preceptor_services.db.models.runs import Evaluation, Event, Refill, Run, RunTeacher, Sample, Step, Transition
from preceptor_services.db.models.skills import (
    Skill,
    SkillBank,
    SkillBankVersion,
    SkillEmbedding,
    SkillSource,
    SkillUse,
)
from preceptor_services.db.models.teachers import Endpoint, Teacher

__all__ = [
    "Artifact",
    "Base",
    "Blob",
    "Codistillation",
    "CodistillationSide",
    "Debate",
    "DebateTemplate",
    "DebateTurn",
    "Endpoint",
    "Evaluation",
    "Event",
    "Job",
    "Key",
    "Publication",
    "Refill",
    "Run",
    "RunDebate",
    "RunTeacher",
    "Sample",
    "Skill",
    "SkillBank",
    "SkillBankVersion",
    "SkillEmbedding",
    "SkillSource",
    "SkillUse",
    "Step",
    "Teacher",
    "Transition",
    "Wished",
]
