"""Memory that was freed goes back to the system when it is asked for, gaps included."""

from __future__ import annotations

from pathlib import Path

import pytest

from preceptor_trainer import heap

SIZE, COUNT = 100_000, 1000
"""Pieces small enough to lie on the heap: 100 MB of them."""


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


@pytest.mark.skipif(heap._trim() is None, reason="this C library gives nothing back on request")
def test_gaps_below_what_is_still_held_are_given_back() -> None:
    pieces = [bytearray(SIZE) for _ in range(COUNT)]
    last = pieces[-1]
    pieces.clear()
    before = resident()
    heap.give_back()
    assert before - resident() > SIZE * COUNT / 2
    assert len(last) == SIZE


def test_where_it_cannot_be_asked_for_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_trim", lambda: None)
    heap.give_back()
