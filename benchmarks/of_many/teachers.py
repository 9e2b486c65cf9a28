"""What a step costs with 1, 2, 4 and 8 teachers that are all asked about every rollout: seconds, and bytes each way.

The loop that workers run, with the shipped model as the student, over HTTP to teachers in this process. They answer
from a table, 200 ms late, so that what is measured is waiting and traffic, not their computing. Asked one after another
eight would take eight times as long as one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from of_learner.runs import Told, a_run
from of_many.serving import teacher
from of_teacher.pairs import Ratios

from preceptor.fingerprint import tokenizer_card
from preceptor.pool import TeacherPool
from preceptor.wire.data import TaskSource
from preceptor.wire.runs import StepReport
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import TokenizerCard
from preceptor_services.teacher.backends.table import TableBackend
from preceptor_trainer import recipes
from preceptor_trainer.data import TaskData
from preceptor_trainer.loop import train
from preceptor_trainer.recipe import Recipe

STUDENT = Path(__file__).resolve().parents[2] / "models" / "tiny"
COUNTS = (1, 2, 4, 8)
DELAY_SECONDS = 0.2
MOST = 1.3
"""How many times as long as with one teacher a step may take with eight that each sleep `DELAY_SECONDS`."""


def teachers(ratios: Ratios, small: bool) -> None:
    """Medians over the steps but the first, on which connections are made and cards and heads fetched."""
    for support, objective in (("sampled", "sampled_reverse_kl"), ("full", "jsd")):
        alone = 0.0
        for count in COUNTS[:2] if small else COUNTS:
            steps = _steps(count, objective, 3 if small else 9)
            took = statistics.median(step.metrics["seconds"] for step in steps)
            alone = alone or took
            bar = MOST if count == COUNTS[-1] and support == "sampled" else None
            sizes = {"step_s": round(took, 3), **_traffic(steps)}
            ratios.add(f"teachers.{support}.{count}_against_1", took / alone, bar, sizes, at_most=True)


def _traffic(steps: list[StepReport]) -> dict[str, int | float]:
    """Of a step, all teachers together."""
    each = [step.ledger.teachers.values() for step in steps]
    sums = {
        "sent_bytes": [sum(one.bytes_sent for one in step) for step in each],
        "received_bytes": [sum(one.bytes_received for one in step) for step in each],
        "requests": [sum(one.requests for one in step) for step in each],
    }
    score = {"score_s": round(statistics.median(step.ledger.seconds["score"] for step in steps), 3)}
    return score | {name: round(statistics.median(values)) for name, values in sums.items()}


def _steps(count: int, objective: str, steps: int) -> list[StepReport]:
    """A run's steps, the first left out."""
    recipe, told = _recipe(count, objective), Told()
    run = a_run("opd", recipe, steps=steps, batch=8, warmup_steps=0)
    with tempfile.TemporaryDirectory() as work, ExitStack() as opened:
        endpoints = {
            f"teacher{index}": opened.enter_context(teacher(f"teacher{index}", _Late(tokenizer_card(STUDENT))))
            for index in range(count)
        }
        pool = opened.enter_context(TeacherPool(endpoints, Path(work) / "heads"))
        train(run, STUDENT, TaskData(TaskSource(task="spell_backward")), pool, told, Path(work))
    return told.steps[1:]


def _recipe(count: int, objective: str) -> Recipe:
    """Every teacher is asked about every rollout; the objective is the sum over them."""
    names = [f"teacher{index}" for index in range(count)]
    contexts = {name: {"kind": "plain", "teacher": name} for name in names}
    changes = {"target": {"kind": "each", "contexts": names}, "objective": [{"kind": objective}]}
    whole = recipes.load("opd").model_dump() | {"contexts": contexts, **changes, "reduces": ()}
    return Recipe.model_validate(whole).override({"rollout": {"max_tokens": 16, "samples": 1}})


class _Late(TableBackend):
    """Every token is as likely as any other, and it takes its time to say so."""

    def __init__(self, tokenizer: TokenizerCard) -> None:
        even = [0.0] * tokenizer.vocab_size
        super().__init__(lambda prefix: even, tokenizer.vocab_size)
        self.about = replace(self.about, tokenizer=tokenizer)

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        time.sleep(DELAY_SECONDS)
        return super().score(request, between)
