"""How two versions differ, of one bank or of two: by what skills say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from preceptor.skills.bankfile import hash_of
from preceptor.wire.common import Wire
from preceptor.wire.skills import Skill


class Difference(Wire):
    """What one version holds and the other does not."""

    removed: tuple[Skill, ...]
    """Only in the first."""
    added: tuple[Skill, ...]
    """Only in the second."""
    same: int
    """How many both hold."""
    learned_again: tuple[Skill, ...]
    """Those of the second that both hold, and that have sources there that they have not in the first."""


def difference(first: Iterable[Skill], second: Iterable[Skill]) -> Difference:
    """What is only in the first, only in the second, and in both; a skill that is held twice counts twice."""
    before, after = list(first), list(second)
    left, came = _beyond(before, after), _beyond(after, before)
    known = {hash_of(each, sources=False): set(each.sources) for each in before}
    shared = [each for each in after if hash_of(each, sources=False) in known]
    again = [each for each in shared if set(each.sources) - known[hash_of(each, sources=False)]]
    return Difference(removed=tuple(left), added=tuple(came), same=len(after) - len(came), learned_again=tuple(again))


def _beyond(these: Sequence[Skill], those: Sequence[Skill]) -> list[Skill]:
    """These, without as many of each as those hold."""
    left = Counter(hash_of(each, sources=False) for each in those)
    found: list[Skill] = []
    for each in these:
        hashed = hash_of(each, sources=False)
        if left[hashed]:
            left[hashed] -= 1
        else:
            found.append(each)
    return found
