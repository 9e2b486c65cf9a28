"""Curves of a run in the terminal (plotext) and as a picture (matplotlib). Both are in the extra `plots`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from preceptor.cli.output import needs_extra
from preceptor.wire.runs import Evaluation, StepReport

HEIGHT = 14
WIDEST = 100


def plots_installed() -> bool:
    """Whether terminal plots can be drawn."""
    return find_spec("plotext") is not None


def terminal_plot(steps: Sequence[StepReport], evaluations: Sequence[Evaluation], *, colour: bool) -> str:
    """Held-out accuracy and the loss over the steps, one plot under the other."""
    parts: list[str] = []
    if len(evaluations) > 1:
        accuracy = [100 * each.accuracy for each in evaluations]
        parts.append(_curve([e.step for e in evaluations], accuracy, "held-out accuracy, %", colour=colour))
    if len(steps) > 1:
        parts.append(_curve([s.step for s in steps], [s.metrics["loss"] for s in steps], "loss", colour=colour))
    return "\n".join(parts)


def picture(steps: Sequence[StepReport], evaluations: Sequence[Evaluation], title: str, path: Path) -> Path:
    """The same as a PNG, with the accuracy's 95% intervals. Returns the path."""
    pyplot = _plots("matplotlib.pyplot", backend=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.errorbar(
        [e.step for e in evaluations], [100 * e.accuracy for e in evaluations], [100 * e.ci95 for e in evaluations],
        marker="o", capsize=3,
    )  # fmt: skip
    left.set(title="accuracy on held-out tasks", xlabel="step", ylabel="% (95% interval)", ylim=(0, 100))
    right.plot([s.step for s in steps], [s.metrics["loss"] for s in steps])
    right.set(title="loss", xlabel="step", ylabel="nats per token")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def several(curves: Mapping[str, Sequence[tuple[int, float]]], title: str, *, colour: bool) -> str:
    """Some curves over the steps in one plot, each with its name."""
    figure = _plots("plotext").figure
    figure.clear()
    figure.plot_size(min(WIDEST, shutil.get_terminal_size().columns - 1), HEIGHT)
    for name, points in curves.items():
        signal = figure.signal([x for x, _ in points], [y for _, y in points], marker="braille")
        signal.lines()
        if name:
            signal.label(name)
        figure.draw(signal)
    figure.title(title)
    figure.label("step", axis="x")
    text: str = figure.build().string(not colour)
    return text


def _curve(x: Sequence[int], y: Sequence[float], title: str, *, colour: bool) -> str:
    return several({"": list(zip(x, y, strict=True))}, title, colour=colour)


def _plots(module: str, *, backend: bool = False) -> Any:
    try:
        if backend:
            import_module("matplotlib").use("Agg")
        return import_module(module)
    except ImportError:
        needs_extra("A plot", "plots")
