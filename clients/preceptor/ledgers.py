"""Ledgers added up: where the time and traffic of many steps went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

from preceptor.wire.pairs import PeerAnswers
from preceptor.wire.runs import Ledger, TeacherLedger


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """Counts and seconds add up; lists are joined; maps add up key by key."""
    sums: dict[str, Any] = {}
    heard: dict[str, list[PeerAnswers]] = {}
    for ledger in ledgers:
        mine = {name: getattr(ledger, name) for name in Ledger.model_fields}
        for role, each in ledger.teachers.items():
            heard.setdefault(role, []).extend(each.answers)  # counted once, at the end: every step has versions anew
        mine["teachers"] = {role: each.model_copy(update={"answers": []}) for role, each in ledger.teachers.items()}
        sums = _sum(sums, mine)
    whole = Ledger.model_validate(sums)
    return whole.model_copy(
        update={
            "teachers": {
                role: each.model_copy(update={"answers": counted(heard[role])}) for role, each in whole.teachers.items()
            }
        }
    )


def added(ledgers: Iterable[Mapping[str, TeacherLedger]]) -> dict[str, TeacherLedger]:
    """The same of teachers alone, by role."""
    return dict(total(Ledger(teachers=dict(ledger)) for ledger in ledgers).teachers)


def _sum(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _plus(first[name], second[name]) if name in first and name in second else {**first, **second}[name]
        for name in {**first, **second}
    }


def _plus(one: Any, other: Any) -> Any:
    if isinstance(one, TeacherLedger):
        return TeacherLedger.model_validate(_plus(_fields(one), _fields(other)))
    if isinstance(one, dict):
        return _sum(cast("dict[str, Any]", one), other)
    if isinstance(one, list):
        return sorted({*cast("list[Any]", one), *other})
    return one + other


def counted(each: Iterable[PeerAnswers]) -> list[PeerAnswers]:
    """What was alike, counted together."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for one in each:
        counts[one.kind, one.version, one.lag] += one.count
    return [PeerAnswers(kind=kind, version=v, lag=lag, count=n) for (kind, v, lag), n in sorted(counts.items())]


def _fields(ledger: TeacherLedger) -> dict[str, Any]:
    return {name: getattr(ledger, name) for name in TeacherLedger.model_fields}
