"""The debates that were held before, kept by the control plane."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from preceptor.client import Client
from preceptor.wire.debate_reports import KnownDebate, RunWish
from preceptor_services.worker.lease import PASSING

_log = logging.getLogger(__name__)


class DebateBook:
    """The trainer's `Book`, over the SDK."""

    def __init__(self, client: Client, run: str) -> None:
        self._debates, self._run = client.debates, run

    def known(self, wishes: Sequence[RunWish]) -> Sequence[KnownDebate | None]:
        try:
            return self._debates.known(self._run, wishes)
        except PASSING as error:  # what is not known is held again: that costs its calls, and no run
            _log.warning("run %s: it is not known which debates were held before (%s)", self._run, error)
            return [None] * len(wishes)
