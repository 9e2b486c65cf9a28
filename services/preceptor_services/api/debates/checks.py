"""Whether a wish for a debate can be carried out, before anything is asked or stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.debates import DebateCreate, StoredTemplate
from preceptor.wire.teachers import Card
from preceptor_services.api.runs.teacher_checks import registered
from preceptor_services.api.skills.service import check_text
from preceptor_services.db import models

FEWEST, MOST = 2, 8


def debaters(session: Session, wish: DebateCreate) -> dict[str, Card]:
    """The cards of those who are to debate, by name. Raises Invalid, naming the field."""
    if not FEWEST <= len(wish.teachers) <= MOST:
        raise Invalid(
            f"teachers: {len(wish.teachers)} are named; a debate has {FEWEST} to {MOST}.",
            field="teachers",
            remedy="Name others that write." if len(wish.teachers) < FEWEST else "Name fewer.",
        )
    cards, places = dict[str, Card](), dict[str, str]()
    for index, name in enumerate(wish.teachers):
        field = f"teachers.{index}"
        if name in cards:
            raise _same(field, f"teacher {name} is named twice")
        teacher = registered(session, field, name)
        card = teacher.card
        assert card is not None, "it is ready"
        if not card.generates:
            raise Invalid(
                f"{field}: teacher {name} scores and writes no text; a debater has to.",
                field=field,
                remedy="Name a teacher that writes: any chat endpoint (`teachers add --kind openai`), or one of ours.",
            )
        for place in _places(teacher, card):
            if place in places:
                raise _same(
                    field, f"teacher {name} is {places[place]} under another name, at {teacher.endpoints[0].url}"
                )
            places[place] = name
        cards[name] = card
    return cards


def check(wish: DebateCreate, wording: StoredTemplate) -> None:
    """Raises Invalid where texts, bounds or budget make no debate."""
    check_text(wish.question, "question")
    check_text(wish.attempt or "", "attempt")
    if not wish.question.strip():
        raise Invalid("question: it is blank.", field="question", remedy="Say what is to be debated.")
    if wish.quorum > len(wish.teachers):
        raise Invalid(
            f"quorum: {wish.quorum} are never left of {len(wish.teachers)} debaters.",
            field="quorum",
            remedy=f"Lower it to {len(wish.teachers)} or less.",
        )
    if len(set(wish.stop)) < len(wish.stop):
        raise Invalid(f"stop: {wish.stop[0]} is named twice.", field="stop", remedy="Name it once.")
    if (least := wish.max_tokens * len(wish.teachers)) > wish.budget.tokens:
        raise Invalid(
            f"budget.tokens: {wish.budget.tokens} do not cover one round: {len(wish.teachers)} debaters may write "
            f"{wish.max_tokens} each, {least} together.",
            field="budget.tokens",
            remedy="Raise it, or lower max_tokens.",
        )


def cache_key(wish: DebateCreate, wording: StoredTemplate, versions: Mapping[str, object]) -> str:
    """The same for debates that would go the same way: of the question, the teachers' versions, the wording, the
    rules."""
    rules = wish.model_dump(mode="json", exclude={"template", "overrides", "fresh"})
    held = {"rules": rules, "wording": wording.hash, "teachers": versions}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def versions_of(cards: Mapping[str, Card]) -> dict[str, object]:
    """What a teacher's text depends on, as far as its card says."""
    return {name: [card.model, card.engine, card.weights_version, card.weights_hash] for name, card in cards.items()}


def _places(teacher: models.Teacher, card: Card) -> list[str]:
    return [f"{each.url.rstrip('/')} {card.model}" for each in teacher.endpoints]


def _same(field: str, what: str) -> Invalid:
    return Invalid(
        f"{field}: {what}; whoever debates with itself agrees.", field=field, remedy="Name different teachers."
    )
