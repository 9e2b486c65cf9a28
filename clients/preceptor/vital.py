"""Whether a registered teacher still answers, and as itself: cheap enough to be asked every few seconds.

A Preceptor teacher is asked whether it takes requests and what it is; a stock server whether it is well. What takes a
score to find out is the probe's.
"""

from __future__ import annotations

import httpx

from preceptor.adapters import Stock, open_teacher
from preceptor.endpoint import TeacherClient
from preceptor.wire.teachers import Card, TeacherKind

TIMEOUT = 10.0
"""Seconds for an answer: a teacher that computes on all cores is slow to say anything else."""


def vital_signs(
    url: str,
    key: str | None,
    kind: TeacherKind = TeacherKind.PRECEPTOR,
    stock: Stock | None = None,
    *,
    transport: httpx.BaseTransport | None = None,
) -> Card | None:
    """What the teacher says of itself now; None: it is well, and cannot say.

    Raises PreceptorError where it does not answer, is draining, or takes the key no more.
    """
    timeout = httpx.Timeout(TIMEOUT, connect=5.0)
    with open_teacher(kind, url, key, stock, transport=transport, timeout=timeout) as teacher:
        if isinstance(teacher, TeacherClient):
            teacher.readyz()
            return teacher.card()
        teacher.healthz()
        return None
