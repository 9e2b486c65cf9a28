"""What a worker would report, in small."""

from __future__ import annotations

from typing import Any

from preceptor.wire.runs import (
    Evaluation,
    Ledger,
    RunResult,
    Sample,
    StepReport,
    StepsReport,
    TeacherLedger,
    TokenScore,
)
from preceptor.wire.teachers import Stamp, Values


def step(number: int, loss: float = 0.5, **metrics: float) -> StepReport:
    ledger = Ledger(
        seconds={"sample": 0.5, "score": 0.25},
        idle={"learn/scores": 0.125},
        tokens={"sampled": 128},
        rollouts=64,
        contexts=64,
        scored_sequences=64,
        stamped_sequences=64,
        teachers={"self": TeacherLedger(requests=2, sequences=64, tokens=128, weights_versions=[0])},
    )
    return StepReport(step=number, metrics={"loss": loss, **metrics}, ledger=ledger)


def steps(fence: int, *numbers: int, **more: Any) -> StepsReport:
    return StepsReport(fence=fence, steps=[step(number, loss=1 / number) for number in numbers], **more)


def sample(number: int, completion: str = "ab") -> Sample:
    stamp = Stamp(
        teacher="spelling",
        model="tiny",
        weights_version=0,
        head_hash=None,
        engine="fake 1",
        device="cpu",
        dtype="float32",
        temperature=1.0,
        values=Values.RAW,
        context_hashes=(),
        queued_seconds=0.0,
        computed_seconds=0.1,
    )
    tokens = [
        TokenScore(token=index, text=text, student=-0.5, teachers={"reference": float("-inf")})
        for index, text in enumerate(completion)
    ]
    return Sample(
        step=number,
        task_id="t" * 32,
        prompt="Spell ba backward.",
        completion=completion,
        reward=1.0,
        tokens=tokens,
        stamps={"reference": stamp},
    )


def evaluation(number: int, correct: int = 3) -> Evaluation:
    return Evaluation(
        step=number,
        n=5,
        correct=correct,
        accuracy=correct / 5,
        ci95=0.1,
        mean_length=3.5,
        seconds=0.2,
        hits=[index < correct for index in range(5)],
    )


def result(model: str | None = None) -> RunResult:
    return RunResult(
        task="spell_backward",
        n=200,
        before=0.4,
        after=0.8,
        gain=0.4,
        ci95=(0.3, 0.5),
        steps=4,
        train_seconds=12.5,
        model=model,
    )
