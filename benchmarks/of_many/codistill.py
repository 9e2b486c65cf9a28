"""What teaching each other costs against two runs that are alone: publishing, waiting by lag, and the record of it.

Two workers at once, as `preceptor up` starts them, on this machine. Alone, each run asks the teacher service, which
serves the shipped model; as a pair each asks the other's live student, of the same size. So both sides of the ratio pay
for the same scores of the same distributions, and what is left is what the pair itself costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from of_teacher.pairs import Ratios
from rich.console import Console

from examples.common.runs import finish_all
from examples.common.stack import register, stack
from preceptor.cli.models import model_artifact
from preceptor.client import Client
from preceptor.wire.codistillations import CodistillationCreate, SideCreate
from preceptor.wire.data import TaskSource
from preceptor.wire.pairs import PairPolicy
from preceptor.wire.runs import RunCreate, RunState

STUDENT = Path(__file__).resolve().parents[2] / "models" / "tiny"
STEPS, WARM_UP, ROUNDS = 40, 5, 3
MOST = 1.15
"""How many times as long as alone a step of a pair may take."""


def codistill(ratios: Ratios, small: bool) -> None:
    """Steps of two runs alone and of a pair, by turns; the first steps of each are left out."""
    steps, rounds = (8, 1) if small else (STEPS, ROUNDS)
    console = Console(stderr=True, quiet=True)
    alone, together = list[float](), list[float]()
    with stack(STUDENT, console, "benchmark", workers=2) as running, running.client() as client:
        register(client, "tiny", running.teacher_url)
        student = model_artifact(client, str(STUDENT))
        for number in range(rounds):
            seeds = (2 * number, 2 * number + 1)
            lone = finish_all(client, [_run(student, seed, steps, {"teacher": "tiny"}) for seed in seeds], console)
            alone.append(_step_seconds(client, [run.id for run in lone]))
            together.append(_step_seconds(client, _paired(client, student, seeds, steps)))
    sizes = {"alone_s": round(fmean(alone), 3), "pair_s": round(fmean(together), 3), "steps": steps, "rounds": rounds}
    ratios.add("codistill.step_against_alone", fmean(together) / fmean(alone), MOST, sizes, at_most=True)


def _run(student: str, seed: int, steps: int, teachers: dict[str, str]) -> RunCreate:
    asks = {} if teachers else {"contexts": {"teacher": {"teacher": "peer"}}}
    return RunCreate(
        name=f"seed-{seed}",
        recipe="opd",
        overrides={"rollout": {"max_tokens": 16, "samples": 1}, "objective": [{"kind": "forward_kl"}], **asks},
        student=student,
        teachers=teachers,
        data=TaskSource(task="spell_backward"),
        training={"steps": steps, "batch": 64, "seed": seed, "evaluate_every": steps, "evaluate_items": 8},
    )


def _paired(client: Client, student: str, seeds: Sequence[int], steps: int) -> list[str]:
    a, b = (SideCreate(run=_run(student, seed, steps, {})) for seed in seeds)
    asked = CodistillationCreate(name=f"pair-{seeds[0]}", a=a, b=b, policy=PairPolicy(max_lag=2))
    pair = client.codistillations.start(asked)
    runs = [pair.a.run, pair.b.run]
    for run in runs:
        for _ in client.runs.events(run):
            pass  # until its last event
        if (ended := client.runs.get(run)).state is not RunState.SUCCEEDED:
            raise SystemExit(f"the run {run} {ended.state.value}: {ended.error}")
    return runs


def _step_seconds(client: Client, runs: Sequence[str]) -> float:
    """The mean over both runs' steps but the first."""
    return fmean(step.metrics["seconds"] for run in runs for step in list(client.runs.metrics(run))[WARM_UP:])
