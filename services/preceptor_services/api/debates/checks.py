"""Whether a wish for a debate can be carried out, before anything is asked or stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from preceptor.errors import Invalid
from preceptor.wire.debates import (
    DebateBudget,
    DebateCreate,
    DebateResult,
    DebateTurn,
    Ended,
    StoredTemplate,
    Voice,
)
from preceptor.wire.teachers import Card
from preceptor_services.api.runs.teacher_checks import registered
from preceptor_services.api.runs.writer_checks import too_long
from preceptor_services.api.skills.service import check_text
from preceptor_services.db import models

FEWEST, MOST = 2, 8
UNCACHED = ("unavailable", "late")
"""What may go better another time: a debate that lacks somebody for such a reason is not given out again."""


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
        if wish.max_tokens > card.limits.longest_reply:
            raise too_long(field, f"teacher {name}", card, wish.max_tokens, "max_tokens")
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


def cache_key(wish: DebateCreate, wording: StoredTemplate, voices: Mapping[str, Voice]) -> str:
    """The same for debates that would go the same way, as far as no budget cuts them: of the question, the teachers'
    versions, the wording, the rules."""
    drawn = {"seed"} if wish.temperature == 0 else set[str]()
    rules = wish.model_dump(mode="json", exclude={"template", "overrides", "fresh", "budget", *drawn})
    spoken = {debater: each.model_dump(mode="json", exclude={"role"}) for debater, each in voices.items()}
    held = {"rules": rules, "wording": wording.hash, "voices": spoken}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def affords(wish: DebateCreate, wording: StoredTemplate, budget: DebateBudget, ended: Ended) -> bool:
    """Whether a debate that was held with this budget, and ended so, would have gone the same way with the wish's."""
    most = wording.template.rounds * len(wish.teachers) * wish.max_tokens
    now, then = min(wish.budget.tokens, most), min(budget.tokens, most)
    return now == then or (now > then and ended != "token_budget")


def lasting(result: DebateResult, turns: Sequence[DebateTurn], voices: Mapping[str, Voice]) -> bool:
    """Whether nobody failed who might not another time, time did not cut it, and all spoke with the weights that they
    began with."""
    moved = any(turn.weights_version not in (None, voices[turn.debater].weights_version) for turn in turns)
    missed = any(turn.missing in UNCACHED for turn in turns)
    return not moved and not missed and result.ended != "time_budget"


def _places(teacher: models.Teacher, card: Card) -> list[str]:
    return [f"{each.url.rstrip('/')} {card.model}" for each in teacher.endpoints]


def _same(field: str, what: str) -> Invalid:
    return Invalid(
        f"{field}: {what}; whoever debates with itself agrees.", field=field, remedy="Name different teachers."
    )
