"""Scores of frozen teachers, kept on disk: what was asked before is not asked again.

An entry is an answer's frame under the hash of everything that it depends on: who answered (the card, with the hash of
the weights) and what was asked, byte for byte. Kept `by="request"`, a whole request is one entry, so that an answer
from the cache has the very bits that the teacher gave. Kept `by="completion"`, each completion behind its context is
one, and only those that are not there are asked for: more hits, but a teacher's last bits depend on what it scored
together, so that they then depend on what was asked before.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from preceptor.errors import Corrupt
from preceptor.frames import decode_scores, encode_request, encode_scores
from preceptor.shelf import Shelf
from preceptor.split import join, part_of, scores_of
from preceptor.wire.score import HiddenDtype, ScoreRequest, Scores
from preceptor.wire.teachers import Card, Stamp

FORMAT = 1
"""Counts up when entries written by older versions must not be read any more."""

_log = logging.getLogger(__name__)


class ScoreCache:
    """Scores by what they depend on. Safe to share between threads; several processes may share the folder."""

    def __init__(self, folder: Path, max_bytes: int, *, by: Literal["request", "completion"] = "request") -> None:
        """`max_bytes` bounds what lies in `folder`; what was used longest ago goes first."""
        self._shelf = Shelf(folder, max_bytes)
        self._by = by
        self._complained = False

    def answer(self, card: Card, request: ScoreRequest, ask: Callable[[ScoreRequest], Scores]) -> tuple[Scores, int]:
        """The scores, and how many completions had them in the cache. `ask` is called with what is missing, if any.

        A score keeps the stamp that it came with; parts from both sides are joined under the first one's. Raises what
        `ask` raises. A teacher that may move, that does not name its weights by a hash, or that is asked for another
        version than its card's is asked every time.
        """
        pinned = request.weights_version
        if not keeps(card) or pinned not in (None, card.weights_version) or not request.completions:
            return ask(request), 0
        units = [request] if self._by == "request" else [part_of(request, [n]) for n in range(len(request.completions))]
        keys = [_key(card, unit, self._by) for unit in units]
        found = [self._get(key, unit) for key, unit in zip(keys, units, strict=True)]
        missing = [index for index, scores in enumerate(found) if scores is None]
        if not missing:
            return join(request, [scores for scores in found if scores is not None]), len(request.completions)
        wanted = request if len(missing) == len(units) else part_of(request, missing)
        asked = ask(wanted)
        if not _from(card, asked.stamp):
            # Someone else answered (a fallback, a teacher that was restarted with other weights): nothing of it is
            # kept, and nothing of what was kept goes with it.
            return (asked if wanted is request else ask(request)), 0
        for place, index in enumerate(missing):
            found[index] = scores = asked if self._by == "request" else scores_of(asked, wanted, place)
            self._put(keys[index], units[index], scores)
        if wanted is request:
            return asked, 0
        return join(request, [scores for scores in found if scores is not None]), len(units) - len(missing)

    def _get(self, key: str, unit: ScoreRequest) -> Scores | None:
        frame = self._shelf.get(key)
        if frame is None:
            return None
        try:
            return decode_scores(frame, _as_kept(unit))
        except Corrupt:
            return None

    def _put(self, key: str, unit: ScoreRequest, scores: Scores) -> None:
        try:
            self._shelf.put(key, [encode_scores(scores, _as_kept(unit))])
        except OSError as error:
            if not self._complained:
                _log.warning("scores cannot be kept for later (%s); they are asked for every time", error)
                self._complained = True


def keeps(card: Card) -> bool:
    """Whether this teacher's scores may be kept: it never moves, and says by a hash which weights it has."""
    return not card.moves and card.weights_hash is not None


def _key(card: Card, unit: ScoreRequest, by: str) -> str:
    who = {
        "format": FORMAT,
        "by": by,
        "teacher": card.teacher,
        "model": card.model,
        "weights": card.weights_hash,
        "version": card.weights_version,
        "tokenizer": card.tokenizer.fingerprint,
        "head": None if card.head is None else card.head.hash,
        "engine": card.engine,
        "device": card.device,
        "dtype": card.dtype,
        "values": card.values,
    }
    digest = hashlib.sha256(json.dumps(who, sort_keys=True).encode())
    digest.update(encode_request(replace(unit, request_id="any", weights_version=None, deadline_ms=None)))
    return digest.hexdigest()


def _from(card: Card, stamp: Stamp) -> bool:
    """Whether the teacher of this card said it."""
    head = None if card.head is None else card.head.hash
    said = (stamp.teacher, stamp.model, stamp.weights_version, stamp.head_hash, stamp.engine, stamp.device, stamp.dtype)
    return said == (card.teacher, card.model, card.weights_version, head, card.engine, card.device, card.dtype)


def _as_kept(unit: ScoreRequest) -> ScoreRequest:
    """What an entry's frame is written and read for: float8 would lose bits a second time."""
    return replace(unit, dtype=HiddenDtype.F32) if unit.dtype is HiddenDtype.F8 else unit
