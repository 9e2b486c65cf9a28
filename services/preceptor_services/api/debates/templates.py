"""Templates of debates: those that come with Preceptor, those that are stored, and changes to one for one debate."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from preceptor.debates.protocol import hash_of
from preceptor.debates.templates import BUILT_IN
from preceptor.errors import Invalid, NotFound
from preceptor.wire.debates import DebateTemplate, DebateTemplateCreate, StoredTemplate
from preceptor_services.api.skills.service import check_text
from preceptor_services.db import models
from preceptor_services.db.session import one_at_a_time
from preceptor_services.problems import invalid


def store(session: Session, wish: DebateTemplateCreate, at: datetime) -> StoredTemplate:
    """The next version under a name; the latest one again where it says the same."""
    _check_texts(wish.template, "template.")
    one_at_a_time(session, f"debate-template/{wish.name}")
    latest = _latest(session, wish.name)
    if latest is not None and latest.hash == hash_of(wish.template):
        return latest
    version = 1 if latest is None else latest.version + 1
    made = _built(wish.name, wish.template, version, at)
    session.add(
        models.DebateTemplate(name=made.name, version=version, hash=made.hash, template=made.template, created_at=at)
    )
    return made


def every(session: Session) -> tuple[StoredTemplate, ...]:
    """All versions of all templates, by name."""
    table = models.DebateTemplate
    built = [_built(name, template, 1, None) for name, template in BUILT_IN.items()]
    stored = [_shown(each) for each in session.scalars(select(table))]
    return tuple(sorted((*built, *stored), key=lambda each: (each.name, each.version)))


def find(session: Session, pinned: str) -> StoredTemplate:
    """A version of a template, as `name@version` or `name`. Raises NotFound."""
    name, _, version = pinned.partition("@")
    found = _latest(session, name) if not version else _at(session, name, int(version))
    if found is None:
        known = ", ".join(sorted({f"{each.name}@{each.version}" for each in every(session)}))
        raise NotFound(f"There is no debate template {pinned[:100]!r}.", field="template", remedy=f"There are {known}.")
    return found


def worded(session: Session, pinned: str, overrides: Mapping[str, Any]) -> StoredTemplate:
    """A template with changes to its fields. Raises Invalid, naming the field."""
    try:
        base = find(session, pinned)
    except NotFound as error:
        raise Invalid(error.problem.detail, field="template", remedy=error.problem.remedy) from error
    if not overrides:
        return base
    try:
        changed = DebateTemplate.model_validate({**base.template.model_dump(), **overrides})
    except ValidationError as error:
        raise invalid(error.errors(), prefix="overrides") from error
    _check_texts(changed, "overrides.")
    return base.model_copy(update={"template": changed, "hash": hash_of(changed)})


def _latest(session: Session, name: str) -> StoredTemplate | None:
    table = models.DebateTemplate
    version = session.scalar(select(func.max(table.version)).where(table.name == name))
    return _at(session, name, 1 if version is None else version)


def _at(session: Session, name: str, version: int) -> StoredTemplate | None:
    if version == 1 and name in BUILT_IN:
        return _built(name, BUILT_IN[name], 1, None)
    found = session.get(models.DebateTemplate, (name, version))
    return None if found is None else _shown(found)


def _built(name: str, template: DebateTemplate, version: int, at: datetime | None) -> StoredTemplate:
    return StoredTemplate(name=name, version=version, hash=hash_of(template), template=template, created_at=at)


def _shown(row: models.DebateTemplate) -> StoredTemplate:
    return StoredTemplate(
        name=row.name, version=row.version, hash=row.hash, template=row.template, created_at=row.created_at
    )


def _check_texts(template: DebateTemplate, prefix: str) -> None:
    for name, text in (("ask", template.ask), ("ask_sighted", template.ask_sighted)):
        check_text(text, prefix + name)
    for index, role in enumerate(template.roles):
        check_text(role, f"{prefix}roles.{index}")
