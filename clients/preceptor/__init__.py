"""Preceptor's SDK: the control plane from Python, the wire types, and what can go wrong.

Teachers are asked through `preceptor.endpoint` and `preceptor.pool`; the wire types live in `preceptor.wire`.
"""

from __future__ import annotations

from preceptor.client import Client
from preceptor.errors import (
    BadScores,
    Conflict,
    Corrupt,
    Interrupted,
    Invalid,
    LeaseLost,
    NeverPublished,
    NotAuthorised,
    NotFound,
    Overloaded,
    PeerLost,
    PreceptorError,
    ServerFault,
    TeacherError,
    TeacherRefused,
    TeacherUnavailable,
    TooLarge,
    Unreachable,
    VersionsDisagree,
)
from preceptor.wire.artifacts import Artifact, ArtifactKind
from preceptor.wire.common import Page, Problem, Scope
from preceptor.wire.data import DatasetSource, TaskSource
from preceptor.wire.runs import Event, Run, RunCreate, RunState, Training
from preceptor.wire.teachers import Card, Support, Teacher, TeacherCreate

__all__ = [
    "Artifact",
    "ArtifactKind",
    "BadScores",
    "Card",
    "Client",
    "Conflict",
    "Corrupt",
    "DatasetSource",
    "Event",
    "Interrupted",
    "Invalid",
    "LeaseLost",
    "NeverPublished",
    "NotAuthorised",
    "NotFound",
    "Overloaded",
    "Page",
    "PeerLost",
    "PreceptorError",
    "Problem",
    "Run",
    "RunCreate",
    "RunState",
    "Scope",
    "ServerFault",
    "Support",
    "TaskSource",
    "Teacher",
    "TeacherCreate",
    "TeacherError",
    "TeacherRefused",
    "TeacherUnavailable",
    "TooLarge",
    "Training",
    "Unreachable",
    "VersionsDisagree",
]
