"""How the control plane looks at a teacher, and what it makes of what it found."""

from __future__ import annotations

from preceptor.adapters import Stock, stock_of
from preceptor.errors import Invalid, PreceptorError
from preceptor.wire.teachers import (
    Card,
    Outcome,
    Probe,
    ProbeCheck,
    TeacherKind,
    TeacherState,
    TokenizerCard,
)
from preceptor_services.api.plane import Plane
from preceptor_services.api.teachers.urls import check_url
from preceptor_services.settings import PREFIX, read_secret

OWN_SECRETS = frozenset(PREFIX + name for name in ("ADMIN_KEY", "BROKER_URL", "DATABASE_URL", "KEY", "WORKER_KEY"))
"""What must never be sent to a teacher as its key."""

Found = tuple[Card | None, Probe]
"""A card, unless nothing answered, and what the probe found."""

REFUSALS = {
    "numbers": ("it answers with numbers that are no log-probabilities", "Serve the model in a dtype that holds it."),
    "positions": (
        "its scores are shifted, or are of other tokens than the ones that it was given",
        "Have entry t score completion token t, given the context and the tokens before it.",
    ),
    "batching": (
        "its scores of a sequence depend on what else is in the request",
        "Look at its padding, its attention mask and its position ids, or at a kernel that is not batch-invariant.",
    ),
    "normalised": (
        "its probabilities do not sum to one",
        "Have it give log-probabilities over the whole vocabulary, not logits, and the tail of what it leaves out.",
    ),
    "values": (
        "its log-probabilities are not the model's own, untempered ones",
        "Start it so that it scores without temperature and filters (vLLM: --logprobs-mode raw_logprobs).",
    ),
    "head": ("its hidden states and its head do not give its scores", "Serve the head of the model that it runs."),
    "vocabulary": ("its vocabulary does not end where it says", "State as many ids as its output projection has rows."),
    "tokenizer": (
        "it does not have the tokenizer that is stated for it",
        "Serve the tokenizer of the model that it runs; for a stock server, name that model's folder (--tokenizer).",
    ),
    "supports": ("it does not serve what its card offers", "Offer only the supports that it has."),
    "latency": ("it scores nothing", "Look at its log; it must answer POST /v1/score."),
    "text": ("it writes nothing", "Look at its log; it must answer POST /v1/chat/completions."),
}
"""What a failed check means, and what to do, the most telling first: a shifted server fails others as well."""


def look(
    plane: Plane,
    url: str,
    key_env: str | None,
    kind: TeacherKind,
    name: str,
    model: str | None,
    tokenizer: TokenizerCard | None,
) -> tuple[Card, Probe]:
    """Probe what answers at a URL. Raises PreceptorError where nothing does; Invalid where it may not be called."""
    check_url(url, plane.settings.refused_networks)
    return plane.probe(url, key_of(key_env), *how(kind, name, model, tokenizer))


def look_again(plane: Plane, url: str, key_env: str | None, kind: TeacherKind, name: str, card: Card | None) -> Found:
    """Probe a registered endpoint. What does not answer is found too: it is down."""
    known = stock_of(name, card)
    model, tokenizer = (None, None) if known is None else (known.model, known.tokenizer)
    try:
        return look(plane, url, key_env, kind, name, model, tokenizer)
    except PreceptorError as error:
        silent = ProbeCheck(name="reachable", outcome=Outcome.FAILED, detail=str(error)[:1000])
        return None, Probe(at=plane.clock(), ok=False, checks=(silent,))


def how(
    kind: TeacherKind, name: str, model: str | None, tokenizer: TokenizerCard | None
) -> tuple[TeacherKind, Stock] | tuple[()]:
    """How a stock server is looked at: with what it cannot say itself. A Preceptor teacher says everything."""
    if kind is TeacherKind.PRECEPTOR:
        return ()
    return kind, Stock(name=name, model=model, tokenizer=tokenizer)


def refuse_liars(card: Card, probe: Probe) -> None:
    """Raises Invalid, with a sentence of its own for each, where a server is not what it says."""
    failed = {check.name: check for check in probe.checks if check.outcome is Outcome.FAILED}
    for name in (*REFUSALS, *sorted(failed.keys() - REFUSALS.keys())):
        if name in failed:
            why, remedy = REFUSALS.get(name, (f"it failed the check '{name}'", "Look at its log."))
            raise Invalid(f"url: this server is refused: {why}. {failed[name].detail}", field="url", remedy=remedy)
    if card.supports and probe.latency_ms is None:
        why, remedy = REFUSALS["latency"]
        said = next((check.detail for check in probe.checks), "It has a card.")
        raise Invalid(f"url: this server is refused: {why}. {said}", field="url", remedy=remedy)


def state_found(probe: Probe) -> TeacherState:
    """An endpoint's state after a probe."""
    if probe.ok:
        return TeacherState.READY
    silent = any(check.name == "reachable" and check.outcome is Outcome.FAILED for check in probe.checks)
    return TeacherState.DOWN if silent else TeacherState.DEGRADED


def trouble_found(probe: Probe) -> str | None:
    """What a probe found wrong, in one sentence."""
    failed = [check for check in probe.checks if check.outcome is Outcome.FAILED]
    return f"{failed[0].name}: {failed[0].detail}"[:1000] if failed else None


def key_of(variable: str | None) -> str | None:
    """The key that a variable, or the file that it names, holds. Raises Invalid where there is none to be had."""
    if variable is None:
        return None
    if variable in OWN_SECRETS:
        raise Invalid(
            f"key_env: {variable} is one of the control plane's own secrets, which no teacher may see.",
            field="key_env",
            remedy="Give the teacher a key of its own, in a variable of its own.",
        )
    key = read_secret(variable)
    if not key:
        raise Invalid(
            f"key_env: the control plane has no environment variable {variable}, nor {variable}_FILE.",
            field="key_env",
            remedy="Set it where the control plane and the workers run, and start them again.",
        )
    return key
