"""Whether what answers at an endpoint is the teacher that a run was submitted against."""

from __future__ import annotations

from preceptor.errors import Invalid, TeacherRefused
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.teachers import Card

REMEDY = "Serve the model it was registered with, or probe the teacher again and start a new run."


def check_same(endpoint: TeacherEndpoint, card: Card, url: str) -> None:
    """Raises TeacherRefused, naming both, where tokenizer, model or a frozen teacher's weights differ."""
    known, name = endpoint.card, endpoint.name
    where = f"Teacher '{name}' at {url}" if endpoint.replicas else f"Teacher '{name}'"
    if (known.tokenizer.fingerprint, known.tokenizer.vocab_size) != (
        card.tokenizer.fingerprint,
        card.tokenizer.vocab_size,
    ):
        raise TeacherRefused(
            f"{where} now has the tokenizer {card.tokenizer.fingerprint} ({card.tokenizer.vocab_size} ids); the run "
            f"was submitted against {known.tokenizer.fingerprint} ({known.tokenizer.vocab_size} ids).",
            teacher=name,
            remedy=REMEDY,
        )
    if known.model != card.model:
        raise TeacherRefused(
            f"{where} now runs the model '{card.model}'; the run was submitted against '{known.model}'.",
            teacher=name,
            remedy=REMEDY,
        )
    hashes = {known.weights_hash, card.weights_hash} - {None}
    if not card.moves and len(hashes) == 2 and known.weights_version == card.weights_version:
        raise TeacherRefused(
            f"{where} now has the weights {card.weights_hash} as version {card.weights_version}; the run was submitted "
            f"against {known.weights_hash}.",
            teacher=name,
            remedy=REMEDY,
        )


def check_stands_in(role: str, teacher: TeacherEndpoint, fallback: TeacherEndpoint | None) -> None:
    """Raises Invalid where a role's fallback reads other tokens than its teacher, whose tokens it would be asked
    about."""
    if fallback is None or not teacher.card.supports:  # who scores nothing is asked in words
        return
    ours, its = teacher.card.tokenizer, fallback.card.tokenizer
    if (ours.fingerprint, ours.vocab_size) != (its.fingerprint, its.vocab_size):
        raise Invalid(
            f"fallbacks.{role}: teacher '{fallback.name}' has another tokenizer than '{teacher.name}', whose tokens it "
            "would be asked about.",
            field=f"fallbacks.{role}",
            remedy="Name a fallback with the same tokenizer.",
        )
