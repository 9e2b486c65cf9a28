"""What teaching each other costs against two runs that are alone: publishing, waiting by lag, and the record of it.

Two workers at once, as `preceptor up` starts them, on this machine; two students of one shape, with random weights of
their own, so that both move and every version has another head. Alone, each run asks a teacher service of its own that
serves the other student as it began; as a pair each asks the other's live student. So both sides of the ratio pay for
the same scores of whole distributions, and what is left is what the pair itself costs. A second ratio leaves out, on
both sides, the seconds in which scores were asked for; waiting for the peer is none of these.

Once with students of the shipped model's shape, whose steps are mostly Python, HTTP and small products: the hardest
case. Once with students of 5 million parameters.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from of_teacher.pairs import Ratios
from rich.console import Console

from examples.common.runs import finish_all
from examples.common.stack import Stack, register, stack
from preceptor.cli.models import model_artifact
from preceptor.client import Client
from preceptor.wire.codistillations import CodistillationCreate, SideCreate
from preceptor.wire.data import TaskSource
from preceptor.wire.pairs import PairPolicy
from preceptor.wire.runs import RunCreate, RunState, StepReport

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "tiny"
LARGER = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8}
SHAPES: Mapping[str, tuple[Mapping[str, int], int, int]] = {"tiny": ({}, 40, 3), "5m": (LARGER, 12, 2)}
"""What of the shipped model's shape is otherwise, steps of a run, and rounds."""
WARM_UP = 4
MOST = 1.15
"""How many times as long as alone a step of a pair may take, beside the peer's scoring."""


def codistill(ratios: Ratios, small: bool) -> None:
    """Steps of two runs alone and of a pair, by turns; the first steps of each are left out."""
    console = Console(stderr=True, quiet=True)
    for name, (changes, steps, rounds) in list(SHAPES.items())[: 1 if small else None]:
        steps, rounds = (8, 1) if small else (steps, rounds)
        with tempfile.TemporaryDirectory() as work:
            folders = [_student(Path(work) / side, changes, seed) for seed, side in enumerate(("a", "b"))]
            with stack(folders[1], console, "benchmark", workers=2) as running, running.client() as client:
                alone, together = _sides(running, client, folders, steps, rounds)
        for what, of, bar in (("step", _whole, None), ("step_beside_scoring", _beside_scoring, MOST)):
            one, pair = (fmean(of(step) for step in each) for each in (alone, together))
            sizes = {"alone_s": round(one, 3), "pair_s": round(pair, 3), "steps": steps, "rounds": rounds}
            ratios.add(f"codistill.{name}.{what}_against_alone", pair / one, bar, sizes, at_most=True)


def _student(folder: Path, changes: Mapping[str, int], seed: int) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config
    from transformers.utils import logging

    logging.disable_progress_bar()
    shutil.copytree(SHIPPED, folder)
    torch.manual_seed(seed)
    told = json.loads((SHIPPED / "config.json").read_text()) | changes
    told.pop("layer_types")
    AutoModelForCausalLM.from_config(Qwen3Config(**told)).save_pretrained(folder)
    return folder


def _sides(
    running: Stack, client: Client, folders: Sequence[Path], steps: int, rounds: int
) -> tuple[list[StepReport], list[StepReport]]:
    """The steps of runs alone, and those of pairs."""
    register(client, "began-b", running.teacher_url)
    running.serve(client, "began-a", "--model", str(folders[0]))
    students = [model_artifact(client, str(folder)) for folder in folders]
    alone, together = list[StepReport](), list[StepReport]()
    for number in range(rounds):
        asked = [
            _run(student, 2 * number + side, steps, {"teacher": teacher})
            for side, (student, teacher) in enumerate(zip(students, ("began-b", "began-a"), strict=True))
        ]
        alone += _steps(client, [run.id for run in finish_all(client, asked, console=Console(stderr=True, quiet=True))])
        sides = [_run(student, 2 * number + side, steps, {}) for side, student in enumerate(students)]
        together += _steps(client, _paired(client, sides, number))
    return alone, together


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


def _paired(client: Client, sides: Sequence[RunCreate], number: int) -> list[str]:
    a, b = (SideCreate(run=side) for side in sides)
    asked = CodistillationCreate(name=f"pair-{number}", a=a, b=b, policy=PairPolicy(max_lag=2))
    pair = client.codistillations.start(asked)
    runs = [pair.a.run, pair.b.run]
    for run in runs:
        for _ in client.runs.events(run):
            pass  # until its last event
        if (ended := client.runs.get(run)).state is not RunState.SUCCEEDED:
            raise SystemExit(f"the run {run} {ended.state.value}: {ended.error}")
    return runs


def _steps(client: Client, runs: Sequence[str]) -> list[StepReport]:
    """Of all runs, but for each one's first."""
    return [step for run in runs for step in list(client.runs.metrics(run))[WARM_UP:]]


def _whole(step: StepReport) -> float:
    """Seconds."""
    return step.metrics["seconds"]


def _beside_scoring(step: StepReport) -> float:
    """Seconds without those in which scores were asked for."""
    return _whole(step) - step.ledger.seconds["score"] + step.metrics.get("peer_waited_seconds", 0.0)
