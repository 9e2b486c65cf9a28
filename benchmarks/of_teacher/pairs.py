"""Two sides measured in turn: what else the machine does falls on both."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ratios:
    """What is claimed, what was found, whether it holds; and what was left out, by name."""

    found: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        bar: float | None,
        sizes: Mapping[str, object] | None = None,
        *,
        at_most: bool = False,
    ) -> None:
        """A ratio and its bar: at least, unless said otherwise; None: it is told, and nothing is claimed."""
        holds = None if bar is None else value <= bar if at_most else value >= bar
        row = {"name": name, "value": round(value, 6), "bar": bar, "at_most": at_most, "holds": holds, **(sizes or {})}
        self.found.append(row)
        claim = "" if bar is None else f"{'<=' if at_most else '>='} {bar:<9.6g} {'holds' if holds else 'FAILS'}"
        rest = "  ".join(f"{key} {number}" for key, number in (sizes or {}).items())
        print(f"{name:<58} {value:>12.4f} {claim:<18}   {rest}", flush=True)

    def skip(self, name: str, why: str) -> None:
        """What cannot be measured here."""
        self.skipped.append({"name": name, "why": why})
        print(f"{name:<58} skipped: {why}", flush=True)


def seconds(action: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def interleaved(
    pairs: int, *sides: Callable[[], Any], warm: Sequence[Callable[[], Any]] | None = None
) -> list[list[float]]:
    """Seconds of every side, `pairs` times; who begins changes each time. Before, what does not count: a call of each
    side, or what is given as `warm`."""
    for each in sides if warm is None else warm:
        each()
    rows: list[list[float]] = []
    for index in range(pairs):
        row = [0.0] * len(sides)
        for step in range(len(sides)):
            place = (index + step) % len(sides)
            row[place] = seconds(sides[place])
        rows.append(row)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def ratio(rows: list[list[float]], of: int = 1, to: int = 0) -> float:
    """Median over the pairs of side `of`'s seconds to side `to`'s: how many times as fast `to` is."""
    return statistics.median(row[of] / row[to] for row in rows)


def median(rows: list[list[float]], side: int) -> float:
    """Seconds of a side."""
    return round(statistics.median(row[side] for row in rows), 4)
