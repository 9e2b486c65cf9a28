"""A run from its submission to its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from preceptor.cli.codistill import watch_pair
from preceptor.cli.watch import Watch, describe_result
from preceptor.client import Client
from preceptor.errors import PreceptorError
from preceptor.wire.codistillations import Codistillation, CodistillationState
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


def finish_pair(client: Client, pair: Codistillation) -> Codistillation:
    """Show a pair live to its end. Raises PreceptorError where it did not succeed."""
    pair = watch_pair(client, pair)
    if pair.state is not CodistillationState.SUCCEEDED:
        raise PreceptorError(f"The pair {pair.id} has {pair.state}.", remedy="The reason is above.")
    return pair


def artifact_of(run: Run) -> str:
    """The model that a run ended with."""
    assert run.result is not None and run.result.model is not None, "a run that succeeded has a model"
    return run.result.model


def model_of(client: Client, run: Run, folder: Path) -> Path:
    """The same, fetched into this folder."""
    return client.artifacts.pull(artifact_of(run), folder)


def models_of_pair(client: Client, before: Mapping[str, Run], pair: Codistillation, folder: Path) -> dict[str, Path]:
    """The models of both sides, fetched, as `NAME before` and `NAME after`. `before`: the runs that made them, a's
    first."""
    after = dict(zip(before, (client.runs.get(side.run) for side in (pair.a, pair.b)), strict=True))
    return {
        f"{name} {when}": model_of(client, runs[name], folder / f"{name}-{when}")
        for name in before
        for when, runs in (("before", before), ("after", after))
    }
