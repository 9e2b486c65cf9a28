"""Whether two endpoints are one teacher: the same model, behind whichever URL a request goes to."""

from __future__ import annotations

import numpy as np

from preceptor.wire.teachers import Card, Limits, Probe

SLACK = 1e-3
"""How far the same log-probability may differ between two machines in single precision."""
NARROW_SLACK = 0.25
"""The same in bfloat16 and float16, which round at the third digit, or where nobody says."""
_PROMISED = tuple(name for name in Limits.model_fields if name != "max_new_tokens")
"""What every card states; of how much is written at once some say nothing, and a promise is what was said."""


def other_tokenizer(known: Card, found: Card) -> str | None:
    """What to say where the ids mean something else now; None: they do not."""
    mine, its = known.tokenizer, found.tokenizer
    if (mine.fingerprint, mine.vocab_size) == (its.fingerprint, its.vocab_size):
        return None
    return (
        f"its tokenizer is {_short(its.fingerprint)} ({its.vocab_size} ids), the teacher's "
        f"{_short(mine.fingerprint)} ({mine.vocab_size} ids)"
    )


def other_teacher(known: Card, found: Card, *, at_once: bool = False) -> str | None:
    """What to say where an endpoint's card is another teacher's; None: it is not.

    Of a teacher that moves, versions and weights are compared only where both cards were asked for `at_once`: they are
    another with every step.
    """
    if (said := other_tokenizer(known, found)) is not None:
        return said
    pairs: list[tuple[str, object, object]] = [
        ("values", known.values, found.values),
        ("model", known.model, found.model),
    ]
    if known.moves != found.moves:
        return "one of the two takes new weights and the other does not"
    if not known.moves or at_once:
        pairs.append(("weights version", known.weights_version, found.weights_version))
        if known.weights_hash and found.weights_hash:
            pairs.append(("weights", known.weights_hash, found.weights_hash))
        if known.head and found.head:
            pairs.append(("head", known.head.hash, found.head.hash))
    for what, mine, its in pairs:
        if mine != its:
            return f"its {what} is {_short(its)}, the teacher's {_short(mine)}"
    if lacking := [each.value for each in known.supports if each not in found.supports]:
        return f"it lacks the support {', '.join(lacking)}, which the teacher offers"
    for name in _PROMISED if known.limits.max_new_tokens is None else (*_PROMISED, "longest_reply"):
        if (least := getattr(known.limits, name)) > (its := getattr(found.limits, name)):
            return f"its {name} is {its}, and runs were promised {least}"
    return None


def other_scores(known: Card, found: Card, before: Probe | None, now: Probe) -> str | None:
    """What to say where the same tokens got other scores than at the teacher's first endpoint; None: they did not, or
    nobody can tell."""
    mine, its = () if before is None else before.logprobs, now.logprobs
    if known.moves or not mine or len(mine) != len(its):
        return None
    precise = all(card.dtype in ("float32", "float64") for card in (known, found))
    slack = SLACK if precise else NARROW_SLACK
    worst = float(np.abs(np.subtract(mine, its)).max())
    if worst <= slack:
        return None
    return f"it gives the same tokens other log-probabilities: they differ by {worst:.3g} (bound {slack:g})"


def _short(value: object) -> str:
    """Hashes cut to what tells them apart."""
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text
