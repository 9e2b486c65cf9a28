"""`preceptor runs show --ledger`: where a run's time and traffic went."""

from __future__ import annotations

from collections.abc import Sequence

from preceptor.cli import output
from preceptor.ledgers import total
from preceptor.wire.runs import Ledger, StepReport, TeacherLedger
from preceptor.wire.teachers import SAMPLER

_ALWAYS = ("requests", "sequences", "tokens", "seconds", "bytes_sent", "bytes_received", "head_bytes")


def show_ledger(steps: Sequence[StepReport]) -> None:
    """Tables for people: stages, what was waited for, teachers."""
    if not steps:
        output.console.print("\nNo step is recorded yet: there is no ledger.", style="dim")
        return
    ledger, wall = total(step.ledger for step in steps), sum(step.metrics.get("seconds", 0.0) for step in steps)
    output.console.print(f"\n{len(steps)} steps in {_seconds(wall)}; stages overlap.")
    if nothing := taught_nothing(steps):
        output.console.print(nothing, style="yellow")
    output.show_table(
        ("stage", "worked", "of the time", "tokens", "tokens/s"), _stages(ledger, wall), empty="No stage was timed."
    )
    if ledger.idle:
        waits = sorted(ledger.idle.items(), key=lambda each: -each[1])
        rows = [(*_halves(name), _seconds(seconds), _share(seconds, wall)) for name, seconds in waits]
        output.console.print()
        output.show_table(("idle", "waited for", "waited", "of the time"), rows, empty="")
    if ledger.teachers:
        output.console.print()
        _show_teachers(ledger.teachers)
    if ledger.unrouted:
        output.console.print(
            f"\nRouters gave {ledger.unrouted:,} of the rollouts' contexts to no teacher: they have no opinion there.",
            soft_wrap=True,
        )
    if SAMPLER in ledger.teachers:
        output.console.print(f"\nIts sampler against its learner: {mismatch(steps)}.", soft_wrap=True)


def mismatch(steps: Sequence[StepReport]) -> str:
    """How far who wrote these steps' rollouts was from who learned from them; means over steps."""
    count, (gap, kl, beyond, most) = (
        max(len(steps), 1),
        [
            [step.metrics.get(name, 0.0) for step in steps]
            for name in ("sampler_gap", "sampler_kl", "sampler_beyond", "sampler_gap/largest")
        ],
    )
    return (
        f"mean gap {sum(gap) / count:.2g} nats, at most {max(most, default=0.0):.2g}, KL {sum(kl) / count:.2g}, "
        f"{output.percent(sum(beyond) / count)} of the tokens beyond a factor of 2"
    )


def taught_nothing(steps: Sequence[StepReport]) -> str | None:
    """How many steps had no token that counts; None where there is none such."""
    empty = [step.step for step in steps if step.metrics.get("empty", 0.0) > 0]
    if not empty:
        return None
    return (
        f"{len(empty)} of {len(steps)} steps had no token that counts and moved nothing (the first: step {empty[0]})."
    )


def _stages(ledger: Ledger, wall: float) -> list[tuple[object, ...]]:
    tokens = {
        "sample": ledger.tokens.get("prompt_read", 0) + ledger.tokens.get("completion", 0),
        "score": sum(each.tokens for role, each in ledger.teachers.items() if role != SAMPLER),
        "learn": ledger.tokens.get("learned", 0),
    }
    return [
        (
            stage,
            _seconds(seconds),
            _share(seconds, wall),
            f"{tokens[stage]:,}" if tokens.get(stage) else None,
            f"{tokens[stage] / seconds:,.0f}" if tokens.get(stage) and seconds > 0 else None,
        )
        for stage, seconds in ledger.seconds.items()
    ]


def _show_teachers(teachers: dict[str, TeacherLedger]) -> None:
    """A row a number, a column a role; what is 0 everywhere is left out, but for the most telling."""
    rows: list[tuple[object, ...]] = []
    for name in TeacherLedger.model_fields:
        values: list[object] = [getattr(each, name) for each in teachers.values()]
        if name in _ALWAYS or any(values):
            rows.append((name.replace("_", " "), *(_told(name, value) for value in values)))
    output.show_table(("teacher", *teachers), rows, empty="")


def _told(name: str, value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {count}" for key, count in value.items())  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    if "bytes" in name and isinstance(value, int):
        return _bytes(value)
    return _seconds(value) if isinstance(value, float) else f"{value:,}"


def _halves(name: str) -> tuple[str, str]:
    stage, _, what = name.partition("/")
    return stage, what


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s"


def _share(seconds: float, wall: float) -> str:
    return output.percent(seconds / wall if wall > 0 else None)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
