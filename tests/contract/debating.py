"""Debaters that a control plane in this process knows."""

from __future__ import annotations

from typing import Any

from preceptor.wire.teachers import TeacherCreate, TeacherKind
from tests.contract.conftest import House
from tests.debaters import card


def register(house: House, name: str, url: str, **changes: Any) -> None:
    """Have the control plane know one."""
    house.faculty.cards[url] = card(name, **changes)
    house.admin.teachers.add(TeacherCreate(name=name, url=url, kind=TeacherKind.OPENAI))
