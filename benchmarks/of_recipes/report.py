"""What came out, as a table with intervals and as a picture."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import hypot, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from of_recipes.plans import ARMS, BASELINES, Budget, Cell

Outcome = Mapping[str, Any]
Z95 = 1.959963984540054
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5% quantiles of Student's t, by degrees of freedom from 1."""
BEGIN = "## recipes · what each learns from the same base with the same budget"


@dataclass(frozen=True)
class Found:
    """All that is known of one task."""

    task: str
    rates: Mapping[str, float]
    left_out: Mapping[str, str]
    runs: Sequence[tuple[Cell, Outcome]]

    def of(self, recipe: str, arm: str) -> list[Outcome]:
        """What came of the runs of an arm that did not fail."""
        return [out for cell, out in self.runs if (cell.recipe, cell.arm) == (recipe, arm) and out["error"] is None]

    def failed(self, recipe: str) -> list[str]:
        return sorted({out["error"] for cell, out in self.runs if cell.recipe == recipe and out["error"]})


def accuracy(out: Outcome, place: int = -1) -> float:
    """At an evaluation; the last unless told."""
    return out["curve"][place]["correct"] / out["curve"][place]["n"]


def best_rate(tried: Sequence[tuple[Cell, Outcome]]) -> float:
    """The learning rate whose run ended best; of equals the smallest. Where all failed, the first."""
    ended = [(accuracy(out), -cell.learning_rate) for cell, out in tried if out["error"] is None]
    return -max(ended)[1] if ended else tried[0][0].learning_rate


def interval(shares: Sequence[float], items: int) -> tuple[float, float]:
    """Mean and half-width at 95%, of the mean over all seeds and all questions: Student's t over the seeds, and the
    sampling of the questions, which all seeds share."""
    mean = fmean(shares)
    reach = Z95 * sqrt(mean * (1 - mean) / items)
    if len(shares) > 1:
        t = T95[min(len(shares) - 1, len(T95)) - 1]
        reach = hypot(reach, t * stdev(shares) / sqrt(len(shares)))
    return mean, reach


def machine(workers: int, budget: Budget, seeds: Sequence[int]) -> str:
    """On what, when, and how much."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} shared {platform.machine()} cores, {workers} runs at once of "
        f"one thread each, Python {platform.python_version()}. {budget.tokens:,} completion tokens a run, "
        f"{budget.rollouts} rollouts a step, {budget.items} held-out questions, seeds {', '.join(map(str, seeds))}."
    )


def write(found: Found, folder: Path, results: Path | None, setting: str) -> None:
    """Table and picture into a folder, and into the section of a Markdown file where one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"### {found.task}\n\n{setting}\n\n{table(found)}\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    plot(found, folder / "curves.png")
    print(text)
    if results is not None:
        image = results.with_name(f"recipes-{found.task}.png")
        image.write_bytes((folder / "curves.png").read_bytes())
        put(results, found.task, f"{text}\n![accuracy against tokens and seconds]({image.name})\n")


def put(results: Path, task: str, text: str) -> None:
    """Writes a task's part of the section; the parts of other tasks stay."""
    whole = results.read_text(encoding="utf-8")
    if BEGIN not in whole:
        head, sign, rest = whole.partition("\n## ")
        whole = f"{head}\n{BEGIN}\n{sign}{rest}"
    before, after = whole.split(BEGIN, 1)
    section, sign, rest = after.partition("\n## ")
    part = re.compile(rf"\n### {re.escape(task)}\n.*?(?=\n### |\Z)", re.DOTALL)
    section = part.sub("", section).rstrip() + f"\n\n{text}"
    results.write_text(f"{before}{BEGIN}{section}{sign}{rest}", encoding="utf-8")


def table(found: Found) -> str:
    """A row a recipe, the best first, the base and the baselines among them."""
    rows = [
        "| recipe | accuracy | wrong content | no content | rate | tokens | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [row for _, row in sorted((_row(found, name) for name in found.rates), reverse=True)]
    first = next((out for _, out in found.runs if out["curve"]), None)
    if first is not None:
        mean, reach = interval([accuracy(first, 0)], first["curve"][0]["n"])
        rows.append(f"| the base, untrained | {mean:.3f} ± {reach:.3f} | | | | 0 | 0 |")
    notes = [f"- `{name}`: {why}" for name, why in sorted(found.left_out.items())]
    notes += [f"- `{name}` failed: {why}" for name in found.rates for why in found.failed(name)]
    left = "\n\nNot run here, or not to the end:\n\n" + "\n".join(notes) if notes else ""
    return "\n".join(rows) + left


def _row(found: Found, name: str) -> tuple[float, str]:
    cells, order = list[str](), -1.0
    for arm in ARMS:
        outs = found.of(name, arm)
        if not outs:
            cells.append("-")
            continue
        mean, reach = interval([accuracy(out) for out in outs], outs[0]["curve"][-1]["n"])
        order = mean if arm == "right" else order
        cells.append(f"{mean:.3f} ± {reach:.3f}")
    spent = [out["curve"][-1] for out in found.of(name, "right")]
    tokens = f"{fmean(each['tokens'] for each in spent):,.0f}" if spent else "-"
    seconds = f"{fmean(each['seconds'] for each in spent):.0f}" if spent else "-"
    called = f"**{name}**" if name in BASELINES else name
    return order, f"| {called} | {' | '.join(cells)} | {found.rates[name]:g} | {tokens} | {seconds} |"


def plot(found: Found, file: Path) -> None:
    """Accuracy against tokens and against seconds: the mean of the seeds, and from the worst of them to the best."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 6), sharey=True)
    ranked = sorted(found.rates, key=lambda name: -_row(found, name)[0])
    colours = pyplot.get_cmap("turbo")
    for place, name in enumerate(ranked):
        outs = found.of(name, "right")
        if not outs:
            continue
        length = min(len(out["curve"]) for out in outs)
        shares = [[accuracy(out, at) for out in outs] for at in range(length)]
        means = [fmean(each) for each in shares]
        style: dict[str, Any] = {"color": colours(place / max(len(ranked) - 1, 1)), "lw": 1.2}
        if name in BASELINES:
            style |= {"color": "black", "lw": 2.5, "ls": "-" if name == "sft" else "--"}
        for axis, what in ((left, "tokens"), (right, "seconds")):
            spent = [fmean(out["curve"][at][what] for out in outs) for at in range(length)]
            axis.plot(spent, means, label=name, **style)
            axis.fill_between(spent, list(map(min, shares)), list(map(max, shares)), alpha=0.08, color=style["color"])
    left.set_xlabel("completion tokens")
    right.set_xlabel("seconds of training")
    left.set_ylabel(f"held-out accuracy, {found.task}")
    right.legend(fontsize=7, ncol=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    pyplot.close(figure)
