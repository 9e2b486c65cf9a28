"""A run from its submission to its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from preceptor.cli.watch import Watch, describe_result
from preceptor.client import Client
from preceptor.errors import PreceptorError
from preceptor.wire.runs import Run, RunCreate, RunState


def finish(client: Client, create: RunCreate, console: Console) -> Run:
    """Start a run and show it live to its end. Raises PreceptorError where it did not succeed."""
    return _watched(client, client.runs.start(create), console)


def finish_all(client: Client, creates: Sequence[RunCreate], console: Console) -> list[Run]:
    """The same with several runs at once, for which as many workers are needed; they are shown one after another."""
    runs = [client.runs.start(create) for create in creates]
    return [_watched(client, run, console) for run in runs]


def _watched(client: Client, run: Run, console: Console) -> Run:
    with Watch(run, console) as board:
        for event in client.runs.events(run.id):
            board.show(event)
    run = client.runs.get(run.id)
    console.print(f"  {describe_result(run)}", soft_wrap=True)
    if run.state is not RunState.SUCCEEDED:
        raise PreceptorError(
            f"The run {run.id} {run.state.value}.", remedy="The reason is above, the logs where it says."
        )
    return run


def model_of(client: Client, run: Run, folder: Path) -> Path:
    """The model that a run ended with, fetched into this folder."""
    assert run.result is not None and run.result.model is not None, "a run that succeeded has a model"
    return client.artifacts.pull(run.result.model, folder)
