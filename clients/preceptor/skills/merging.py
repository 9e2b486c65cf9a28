"""Near-duplicates: which new skill says what is there already. A function of the vectors and their order alone.

Shape letters: M new, N held, D size.
"""

from __future__ import annotations

import numpy as np

from preceptor.skills.embedding import similarities


def folded(new_MD: np.ndarray, held_ND: np.ndarray, above: float | None) -> list[int]:
    """For each new one, what it is folded into: a place among the held; N + m for the new one m, itself or an earlier.

    It goes to the most similar (the earlier of equals) of those at a cosine of `above` or more; None folds nothing.
    """
    held, new = len(held_ND), len(new_MD)
    if above is None:
        return [held + place for place in range(new)]
    to_held_MN, among_MM = similarities(new_MD, held_ND), similarities(new_MD, new_MD)
    into: list[int] = []
    for place in range(new):
        kept = [other for other in range(place) if into[other] == held + other]
        candidates = np.concatenate((to_held_MN[place], among_MM[place, kept]))
        best = int(candidates.argmax()) if len(candidates) else -1
        if best < 0 or candidates[best] < above:
            into.append(held + place)
        else:
            into.append(best if best < held else held + kept[best - held])
    return into
