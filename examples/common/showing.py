"""What examples end in: shares of right answers with their 95% intervals, as a table, as a plot, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor

from rich.console import Console
from rich.table import Table

from preceptor.skills.usefulness import wilson
from preceptor_trainer.evaluate import gain_interval

Hits = Sequence[bool]
"""Right or wrong, question by question."""
Grid = Mapping[str, Mapping[str, Hits]]
"""By row (who was asked), then by column (what about)."""
WIDTH = 50


def share(hits: Hits) -> float:
    """The share that was right."""
    return sum(hits) / len(hits)


def interval(hits: Hits) -> tuple[float, float]:
    """Its 95% interval (Wilson)."""
    return wilson(sum(hits), len(hits))


def table(console: Console, title: str, grid: Grid) -> None:
    """Shares in percent, each with its interval."""
    columns = list(next(iter(grid.values())))
    shown = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    shown.add_column("")
    for column in columns:
        shown.add_column(f"{column}, %", justify="right")
    for name, row in grid.items():
        shown.add_row(name, *(_cell(row[column]) for column in columns))
    console.print(shown)


def plot(console: Console, grid: Grid) -> None:
    """A line for every share: where it lies between 0 and 100%, and how far its interval reaches."""
    names = max(len(name) for name in grid)
    for column in next(iter(grid.values())):
        console.print(f"\n[bold]{column}[/], % right", highlight=False)
        for name, row in grid.items():
            console.print(f"  {name:<{names}} {whisker(row[column])} {100 * share(row[column]):5.1f}", highlight=False)
        console.print(f"  {'':<{names}} 0{'50':^{WIDTH - 2}}100", highlight=False)


def whisker(hits: Hits) -> str:
    """`├──●──┤` on a scale from 0 to 1."""
    low, middle, high = (
        min(WIDTH - 1, floor(each * WIDTH)) for each in (interval(hits)[0], share(hits), interval(hits)[1])
    )
    drawn = ["·"] * WIDTH
    drawn[low : high + 1] = "─" * (high + 1 - low)
    drawn[low], drawn[high], drawn[middle] = "├", "┤", "●"
    return "".join(drawn)


def numbers(grid: Grid) -> dict[str, dict[str, dict[str, float | int | list[float]]]]:
    """The same for programs."""
    return {name: {column: _number(hits) for column, hits in row.items()} for name, row in grid.items()}


def difference(console: Console, what: str, before: Hits, after: Hits) -> tuple[float, float]:
    """Print how many points the second is above the first on the same questions; returns the paired 95% interval."""
    low, high = gain_interval(before, after)
    gain = 100 * (share(after) - share(before))
    console.print(
        f"{what}: {gain:+.1f} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}, paired on {len(after)}",
        highlight=False,
        soft_wrap=True,
    )
    return low, high


def _cell(hits: Hits) -> str:
    low, high = interval(hits)
    return f"{100 * share(hits):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _number(hits: Hits) -> dict[str, float | int | list[float]]:
    return {"share": round(share(hits), 4), "ci95": [round(end, 4) for end in interval(hits)], "n": len(hits)}
