"""The demo's verdict: improved beyond the interval or not, in the exit code and in the last line."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from preceptor.wire.runs import RunResult

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_under_test", DEMO)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
def test_verdict(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], model: str, interval: tuple[float, float], code: int
) -> None:
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
    run = SimpleNamespace(id="run-1")
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


def test_the_default_is_judged_on_enough_tasks(demo: ModuleType) -> None:
    assert demo.PLANS["tiny"].training["evaluate_items"] >= 200
    assert demo.PLANS["tiny"].must_improve
