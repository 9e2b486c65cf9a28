"""What is drawn of a run's evaluations and of its outcome."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from preceptor.cli.watch import Watch, describe_result
from preceptor.wire.runs import Event, Run, RunResult, RunState


def run(**result: Any) -> Run:
    came = {"task": "toy", "n": 8, "before": 0.25, "after": 0.5, "gain": 0.25, "ci95": (0.0, 0.5), "steps": 6}
    return Run.model_validate(
        {
            "id": "run-1",
            "name": "toy",
            "recipe": "opsd",
            "overrides": {},
            "resolved": {},
            "student": "sha256:" + "0" * 64,
            "teachers": {},
            "data": {"kind": "task", "task": "toy"},
            "training": {"steps": 40},
            "state": RunState.SUCCEEDED,
            "step": 6,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "result": RunResult.model_validate({**came, "train_seconds": 3.0, **result}),
        }
    )


def test_a_result_says_which_student_was_kept_and_whether_it_ended_early() -> None:
    assert describe_result(run(kept_step=4, stopped_early=True)).endswith("kept as after step 4, ended early")
    assert describe_result(run(kept_step=6)).endswith("6 steps in 3 s")
    assert describe_result(run()).endswith("6 steps in 3 s")


def test_an_evaluation_shows_avg_at_k_where_it_was_measured() -> None:
    page = io.StringIO()
    evaluation: dict[str, Any] = {
        "step": 2,
        "n": 8,
        "correct": 4,
        "accuracy": 0.5,
        "ci95": 0.3,
        "mean_length": 3.0,
        "seconds": 0.1,
    }
    sampled = {**evaluation, "step": 4, "samples": 4, "sampled_accuracy": 0.375, "sampled_ci95": 0.125}
    with Watch(run(), Console(file=page, width=120)) as watch:
        for data in (evaluation, sampled):
            watch.show(
                Event.model_validate(
                    {"id": 1, "run_id": "run-1", "at": "2026-01-01T00:00:00Z", "kind": "evaluation", "data": data}
                )
            )
    lines = [line.strip() for line in page.getvalue().splitlines() if "held-out accuracy" in line]
    assert lines == [
        "step    2  held-out accuracy 50.0% ± 30.0 (4 of 8)",
        "step    4  held-out accuracy 50.0% ± 30.0 (4 of 8), avg@4 37.5% ± 12.5",
    ]
