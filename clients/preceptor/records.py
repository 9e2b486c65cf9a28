"""A pair's record, put together from its pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from preceptor.ledgers import counted
from preceptor.wire.codistillations import FeedbackGiven, Record, SideRecord


def joined(pages: Iterable[Record]) -> Record:
    """Pages in their order as one record; there is one at least."""
    each = list(pages)
    return Record(id=each[0].id, a=_side([page.a for page in each]), b=_side([page.b for page in each]))


def _side(parts: Sequence[SideRecord]) -> SideRecord:
    shown, cut = Counter[str](), Counter[str]()
    for told in (told for part in parts for told in part.feedback):
        shown[told.domain] += told.rollouts
        cut[told.domain] += told.sentences_cut
    return SideRecord(
        run=parts[0].run,
        name=parts[0].name,
        accuracy=tuple(point for part in parts for point in part.accuracy),
        gates=tuple(gate for part in parts for gate in part.gates),
        heard=tuple(counted(one for part in parts for one in part.heard)),
        feedback=tuple(FeedbackGiven(domain=d, rollouts=shown[d], sentences_cut=cut[d]) for d in sorted(shown)),
        unreadable=sum(part.unreadable for part in parts),
        unwritten=sum(part.unwritten for part in parts),
        largest_lag=max((part.largest_lag for part in parts if part.largest_lag is not None), default=None),
        alone=tuple(step for part in parts for step in part.alone),
        waited_seconds=sum(part.waited_seconds for part in parts),
        unpublished=tuple(sorted({version for part in parts for version in part.unpublished})),
    )
