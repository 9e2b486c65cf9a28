"""Which rows go into the next forward pass, where several requests wait: the first one's for certain, others' as fit.

Rows of like length share a pass, longest first. Requests that ask about the same context share one copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from preceptor_trainer.packing import MASK_ELEMENTS, Packed, most_new

SMALL = 128
"""Padding tokens a row that do not matter: a pass costs about as much whatever is in it."""

Chosen = list[tuple[int, Packed]]
"""Rows, and whose they are: the place of the request among those that wait."""


def choose(
    waiting: Sequence[Sequence[Packed]],
    most_tokens: int,
    *,
    cached: Callable[[Packed], bool] = lambda row: False,
) -> Chosen:
    """Rows for one forward pass of at most `most_tokens`, padding included; a longer single row gets its own.

    waiting: by request, longest row first, the one whose turn it is in front. All rows of a pass are `cached`, or none.
    """
    lead = waiting[0][0]
    chosen: Chosen = [(0, lead)]
    longest, kind = len(lead), cached(lead)
    for whose, row in _candidates(waiting, longest):
        area = (len(chosen) + 1) * longest
        if area > most_tokens or area * longest > MASK_ELEMENTS:
            break
        if cached(row) == kind:
            chosen.append((whose, row))
    return chosen


def _candidates(waiting: Sequence[Sequence[Packed]], longest: int) -> Iterator[tuple[int, Packed]]:
    """Rows that may join one of this length: not longer, and not so short that padding is most of what is computed."""
    for whose, rows in enumerate(waiting):
        for row in rows[1:] if whose == 0 else rows:
            if len(row) <= longest and longest - len(row) <= max(len(row), SMALL):
                yield whose, row


def joined(rows: Sequence[Packed], most_tokens: int, hidden_size: int) -> list[Packed]:
    """The same rows with fewer copies of contexts: rows of one context become one where that is less work."""
    made: list[Packed] = []
    by_context: dict[bytes, int] = {}
    longest = max(len(row) for row in rows)
    for index, row in enumerate(rows, 1):
        key = row.context.tobytes()
        if (at := by_context.get(key)) is not None:
            both = Packed(row.context, (*made[at].pieces, *row.pieces))
            wide = max(longest, len(both))
            area = (len(made) + len(rows) - index) * wide
            fits = area <= most_tokens and area * wide <= MASK_ELEMENTS
            if fits and both.new - 1 <= most_new(len(row.context), hidden_size):
                made[at], longest = both, wide
                continue
        by_context[key] = len(made)
        made.append(row)
    return made
