"""A run as it happens: a bar, the last step's numbers, and a line for everything that is not a step."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from preceptor.cli.output import cell, percent, plain
from preceptor.wire.runs import Evaluation, Event, Run, RunState, StepReport


class Watch:
    """Draws a run's events. A context: the bar is there while it is open."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run = run
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self._bar = self._progress.add_task(run.name, total=run.training.steps, numbers="waiting for a worker")
        self._accuracy: float | None = None
        self._last: StepReport | None = None

    def __enter__(self) -> Watch:
        self._progress.start()
        if self._run.waits is not None:
            self._progress.console.print(plain(self._run.waits.detail))
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Draw one event."""
        if event.kind == "step":
            self._step(StepReport.model_validate(event.data))
        elif event.kind == "evaluation":
            self._evaluation(event.data)
        else:
            self._progress.console.print(describe(event))

    def _step(self, report: StepReport) -> None:
        self._last = report
        self._draw()

    def _evaluation(self, data: dict[str, Any]) -> None:
        evaluation = Evaluation.model_validate({"hits": [], **data})
        self._accuracy = evaluation.accuracy
        self._draw()
        sampled, reach = evaluation.sampled_accuracy, evaluation.sampled_ci95
        average = "" if sampled is None else f", avg@{evaluation.samples} {percent(sampled)} ± {100 * (reach or 0):.1f}"
        self._progress.console.print(
            f"step {evaluation.step:>4}  held-out accuracy [bold]{percent(evaluation.accuracy)}[/] "
            f"± {100 * evaluation.ci95:.1f} ({evaluation.correct} of {evaluation.n}){average}"
        )

    def _draw(self) -> None:
        numbers = list[str]()
        if self._last is not None:
            numbers.append(f"loss {self._last.metrics['loss']:.4f}")
        if self._accuracy is not None:
            numbers.append(f"held-out {percent(self._accuracy)}")
        if self._last is not None and (speed := self._last.metrics.get("tokens_per_second")) is not None:
            numbers.append(f"{speed:,.0f} tokens/s")
        done = 0 if self._last is None else self._last.step
        self._progress.update(self._bar, completed=done, numbers=" · ".join(numbers))


def describe(event: Event) -> str:
    """An event that is neither a step nor an evaluation, in one line."""
    data = event.data
    if event.kind == "state":
        reason = f" ({plain(str(data['reason']))})" if data.get("reason") else ""
        return f"{cell(data['to'])}{reason}"
    if event.kind == "checkpoint":
        return f"step {data['step']:>4}  checkpoint {data['artifact'][:19]}"
    if event.kind == "resumed":
        again = data["recorded_step"] - data["from_step"]
        same = f"; {again} recomputed steps differ by {data['largest_difference']:.3g} at most" if again > 0 else ""
        return f"resumed after step {data['from_step']}, recorded up to step {data['recorded_step']}{same}"
    text = data.get("detail") or data.get("message") or ", ".join(f"{name}: {value}" for name, value in data.items())
    return f"{event.kind}: {plain(str(text))}"


def describe_result(run: Run) -> str:
    """What came of a run, in one line."""
    result = run.result
    if run.state is not RunState.SUCCEEDED or result is None:
        detail = f": {run.error.detail} {run.error.remedy or ''}" if run.error else ""
        return f"{cell(run.state.value)} after step {run.step}{plain(detail)}"
    gain, low, high = (100 * share for share in (result.gain, *result.ci95))
    kept = "" if result.kept_step in (None, result.steps) else f", kept as after step {result.kept_step}"
    early = ", ended early" if result.stopped_early else ""
    return (
        f"{cell('succeeded')}: {plain(result.task)} {percent(result.before)} -> [bold]{percent(result.after)}[/] on "
        f"{result.n} held-out tasks (gain {gain:+.1f} points, 95% interval {low:+.1f} to {high:+.1f}), "
        f"{result.steps} steps in {result.train_seconds:.0f} s{kept}{early}"
    )
