"""What is watched at every step, and what happens when it goes wrong.

A guard reads one metric of the step. It trips when that has been on the wrong side of its threshold for `patience`
steps in a row; every step on the wrong side is told in the metrics, a trip in a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from preceptor.wire.training import Action, Guards
from preceptor_trainer.batch import Row

GRAM = 4
"""Tokens of an n-gram that counts as repeated."""
REPETITION, LENGTH, ENTROPY = "repetition", "completion_length", "student_entropy"
TAIL, CLIP = "tail", "clipped_tokens"
"""The metrics that are watched."""


class TooManyRollbacks(FloatingPointError):
    """A run was taken back to its last checkpoint again and again, and went wrong again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A guard that has tripped."""

    guard: str
    value: float
    threshold: float | None
    """None: NaN and infinity have none."""
    action: Action

    def note(self, step: int) -> dict[str, object]:
        """What is told of it."""
        side = "below" if self.guard == "entropy" else "above"
        why = "a loss or gradient is not finite" if self.threshold is None else f"{side} {self.threshold:g}"
        done = {
            "warn": "the run goes on",
            "pause": "the run pauses; resume it to go on",
            "rollback": "the weights are those of the last checkpoint again",
        }[self.action]
        return {
            "message": f"Guard {self.guard} at step {step}: {self.value:.4g}, {why}; {done}.",
            "guard": self.guard,
            "step": step,
            "value": self.value if isfinite(self.value) else str(self.value),
            "threshold": self.threshold,
            "action": self.action,
        }


def repetition(rows: Sequence[Row]) -> float:
    """RepRate: of all 4-grams of the rollouts, the share that was in the same rollout before. 0 where there is none."""
    total = distinct = 0
    for row in rows:
        ids = row.completion_ids
        grams = [ids[begin : begin + GRAM] for begin in range(len(ids) - GRAM + 1)]
        total += len(grams)
        distinct += len(set(grams))
    return 1 - distinct / total if total else 0.0


def survives(guards: Guards, learn: Callable[[], dict[str, float]], forget: Callable[[], object]) -> dict[str, float]:
    """The metrics of a step. One whose loss or gradient is not finite has moved nothing: it ends the run by its error,
    unless a guard watches for it; then `forget` drops what there is of the gradient."""
    try:
        return learn()
    except FloatingPointError:
        if guards.nonfinite is None:
            raise
        forget()
        nan = float("nan")
        return {"loss": nan, "grad_norm": nan, "learning_rate": 0.0, "empty": 0.0, "nonfinite": 1.0}


def watch(guards: Guards, metrics: dict[str, float], streaks: dict[str, int], first_length: float) -> list[Trip]:
    """The guards that trip at this step, the most drastic action first.

    `streaks`: steps in a row that each guard has been wrong for, this one added. `metrics` are given `guard/NAME`, 1
    where it was wrong. `first_length`: mean completion length of the run's first step.
    """
    trips: list[Trip] = []
    for name, value, threshold, wrong in _readings(guards, metrics, first_length):
        metrics[f"guard/{name}"] = float(wrong)
        streaks[name] = streaks.get(name, 0) + 1 if wrong else 0
        guard = getattr(guards, name)
        action: Action = guard if threshold is None else guard.action
        patience = 1 if threshold is None else guard.patience
        # A guard that only warns says so once, when it begins; the others act as long as it lasts.
        acts = streaks[name] == patience if action == "warn" else streaks[name] >= patience
        if wrong and acts:
            trips.append(Trip(guard=name, value=value, threshold=threshold, action=action))
    order: Mapping[Action, int] = {"rollback": 0, "pause": 1, "warn": 2}
    return sorted(trips, key=lambda trip: order[trip.action])


def _readings(
    guards: Guards, metrics: Mapping[str, float], first_length: float
) -> list[tuple[str, float, float | None, bool]]:
    """(guard, value, threshold, whether it is wrong) of every guard that is set and has something to read."""
    readings: list[tuple[str, float, float | None, bool]] = []
    if guards.nonfinite is not None:
        found = metrics.get("nonfinite", 0.0)
        readings.append(("nonfinite", metrics["loss"], None, found > 0))
    if guards.repetition is not None:
        value = metrics[REPETITION]
        readings.append(("repetition", value, guards.repetition.threshold, value > guards.repetition.threshold))
    if guards.length is not None:
        value = metrics[LENGTH] / max(first_length, 1.0)
        readings.append(("length", value, guards.length.threshold, value > guards.length.threshold))
    if guards.entropy is not None and ENTROPY in metrics:
        value = metrics[ENTROPY]
        readings.append(("entropy", value, guards.entropy.threshold, value < guards.entropy.threshold))
    for guard, what, of in (("tail", TAIL, guards.tail), ("clip", CLIP, guards.clip)):
        found_in = [value for name, value in metrics.items() if name.endswith(f"/{what}")]
        if of is not None and found_in:
            readings.append((guard, max(found_in), of.threshold, max(found_in) > of.threshold))
    return readings
