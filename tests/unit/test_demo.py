"""The demo's verdict: improved beyond the interval or not, in the exit code and in the last line."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from examples.demo import demo
from preceptor.wire.runs import Run, RunResult


@pytest.mark.parametrize(
    ("model", "interval", "code"),
    [
        ("tiny", (0.31, 0.49), 0),
        ("tiny", (0.0, 0.1), 1),
        ("tiny", (-0.02, 0.1), 1),
        ("tiny", (-0.4, -0.2), 1),
        ("smollm2", (0.0, 0.0), 0),
    ],
)
def test_verdict(capsys: pytest.CaptureFixture[str], model: str, interval: tuple[float, float], code: int) -> None:
    gain = sum(interval) / 2
    result = RunResult(
        task="spell_backward",
        n=300,
        before=0.41,
        after=0.41 + gain,
        gain=gain,
        ci95=interval,
        steps=40,
        train_seconds=28.3,
    )
    run = cast(Run, SimpleNamespace(id="run-1"))
    assert demo.verdict(run, result, demo.PLANS[model], 63.94, Console()) == code
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {
        "task": "spell_backward",
        "n": 300,
        "before": 0.41,
        "after": round(0.41 + gain, 4),
        "ci95": list(interval),
        "steps": 40,
        "train_seconds": 28.3,
        "total_seconds": 63.9,
        "run_id": "run-1",
    }


def test_the_default_is_judged_on_enough_tasks() -> None:
    assert demo.PLANS["tiny"].training["evaluate_items"] >= 200
    assert demo.PLANS["tiny"].must_improve
