"""Who is next, and who comes along: the jobs of a scheduler, without a thread in sight."""

from __future__ import annotations

from collections.abc import Sequence

from preceptor_services.teacher.jobs import Abandoned, Entry, Passes, Steps
from preceptor_services.teacher.shares import Shares

OPEN_BYTES = 1 << 30
"""Memory for answers that are being computed. One that is larger than a quarter of it may be open besides."""


class Turns:
    """Jobs in order of arrival, and whose turn it is. Not thread-safe."""

    def __init__(self, pass_tokens: int) -> None:
        """pass_tokens: what a pass holds."""
        self._pass_tokens = pass_tokens
        self._entries: list[Entry] = []
        self._shares = Shares()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def begun(self) -> bool:
        """Whether something of any job has been computed, and not all of it."""
        return any(entry.begun for entry in self._entries)

    def all(self) -> list[Entry]:
        """Jobs that want turns, by arrival."""
        return list(self._entries)

    def enter(self, entry: Entry) -> None:
        """A job that wants turns."""
        self._entries.append(entry)
        self._shares.enter(entry.job.caller, entry)

    def leave(self, entry: Entry) -> None:
        """It wants no more."""
        self._entries.remove(entry)
        self._shares.leave(entry.job.caller, entry)

    def charge(self, entry: Entry, step_seconds: float, share: float = 1.0) -> None:
        """It took part in a step, of which this much was its own."""
        entry.computed += step_seconds
        entry.cost += step_seconds * share
        self._shares.charge(entry.job.caller, entry, step_seconds * share)

    def abandoned(self) -> list[tuple[Entry, Abandoned]]:
        """Jobs between two steps that nobody waits for any more, and why."""
        found: list[tuple[Entry, Abandoned]] = []
        for entry in self._entries:
            try:
                if not entry.busy:
                    entry.job.check()
            except Abandoned as error:
                found.append((entry, error))
        return found

    def take(self, *, finish_only: bool) -> list[Entry]:
        """Whose step is next: one job, or those that share a pass, the first in turn in front. They are `busy` now.

        finish_only: nothing that has not begun.
        """
        ready = [
            entry
            for entry in self._entries
            if not entry.busy and (entry.begun or not (finish_only or self._must_wait(entry)))
        ]
        ready.sort(key=lambda entry: self._shares.place(entry.job.caller, entry))  # stable: equals by arrival
        taken = ready[:1]
        for entry in taken:
            entry.busy = True
        if taken and isinstance(taken[0].work, Passes):
            self._fill(taken, ready[1:])
        return taken

    def _fill(self, taken: list[Entry], others: Sequence[Entry]) -> None:
        """Add those whose turn is nearest, until the pass is full."""
        tokens = _tokens(taken[0])
        for entry in others:
            if tokens >= self._pass_tokens:
                return
            if isinstance(entry.work, Passes) and (entry.begun or not self._must_wait(entry)):
                entry.busy = True
                taken.append(entry)
                tokens += _tokens(entry)

    def _must_wait(self, entry: Entry) -> bool:
        """Whether what has begun leaves it no memory."""
        begun = [each.work for each in self._entries if each.begun]
        if isinstance(entry.work, Steps):
            return any(isinstance(each, Steps) for each in begun)
        if not isinstance(entry.work, Passes):
            return False
        large = OPEN_BYTES // 4
        sizes = [each.bytes for each in begun if isinstance(each, Passes)]
        if entry.work.bytes > large:
            return any(size > large for size in sizes)
        return entry.work.bytes + sum(size for size in sizes if size <= large) > OPEN_BYTES


def _tokens(entry: Entry) -> int:
    """That it would bring into a pass."""
    assert isinstance(entry.work, Passes)
    return entry.work.tokens if entry.open is None else entry.open.left
