"""`preceptor runs`: start a training, watch it, stop it, take it up again."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from preceptor.cli import output
from preceptor.cli.ledger import mismatch, show_ledger, taught_nothing
from preceptor.cli.plots import picture, plots_installed, terminal_plot
from preceptor.cli.roles import roles_now, roles_then
from preceptor.cli.runfile import assignments, load_run_file, merged, parse_run, to_create
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.cli.watch import Watch, describe_result
from preceptor.client import Client
from preceptor.errors import Invalid
from preceptor.ledgers import total
from preceptor.wire.runs import Run, RunState

app = typer.Typer(help="Start, watch and stop trainings.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@app.command()
def start(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|RECIPE]", help="A run written as TOML, or a recipe; options override it."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="The method.")] = None,
    student: Annotated[str | None, typer.Option(help="A model folder, artifact, `hub:...` or known name.")] = None,
    teacher: Annotated[list[str] | None, typer.Option(metavar="ROLE=NAME", help="Who fills a role; repeat.")] = None,
    fallback: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=NAME", help="Who is asked where a role's teacher does not answer.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A procedural task, instead of the file's data.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the run.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Any field, of the run or its recipe: training.steps=9, rollout.samples=4.",
        ),
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same run, however often.")] = None,
    watch_: Annotated[bool, typer.Option("--watch", help="Stay and watch it.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Start a run. A student's folder and a data file are pushed as artifacts first."""
    file = None if what is None or _is_recipe(what) else Path(what)
    if what is not None and file is None:
        if recipe not in (None, what):
            raise Invalid(f"Two recipes are named, {what} and {recipe}.", field="recipe", remedy="Name one.")
        recipe = what
    plain = {"recipe": recipe, "student": student, "name": name}
    changes: dict[str, Any] = {option: value for option, value in plain.items() if value is not None}
    changes = merged(changes, assignments(teacher or [], under="teachers"))
    changes = merged(changes, assignments(fallback or [], under="fallbacks"))
    changes = merged(changes, assignments(set_ or []))
    if file is not None:
        wish = load_run_file(file, changes, task=task)
    else:
        wish = parse_run(changes, task=task, where="the command line")
    with connect(url, key_file) as client:
        create = to_create(wish, client, base=file.parent if file else Path())
        run = client.runs.start(create, idempotency_key=idempotency_key)
        if watch_:
            return _watch(client, run, as_json)
    if as_json:
        return output.show_json(run)
    output.console.print(f"Run {run.id} ({run.name}) is {output.cell(run.state.value)}.")
    output.console.print(f"Watch it: preceptor runs watch {run.id}", highlight=False)


def _is_recipe(what: str) -> bool:
    """Whether it is a recipe's name: no file of that name is there, and none is meant."""
    return what.isidentifier() and not Path(what).exists()


@app.command("list")
def list_(
    state: Annotated[RunState | None, typer.Option(help="Only those in this state.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Only those of this recipe.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Runs, newest first."""
    with connect(url, key_file) as client:
        runs = list(islice(client.runs.list(state=state, recipe=recipe), limit))
    if as_json:
        return output.show_json(runs)
    rows = [
        (run.id, run.name, run.recipe, run.state.value, f"{run.step}/{run.training.steps}", _gain(run), run.created_at)
        for run in runs
    ]
    empty = "No runs yet: `preceptor runs start run.toml`."
    output.show_table(("id", "name", "recipe", "state", "step", "held-out", "made"), rows, empty=empty)


@app.command()
def show(
    run_id: RunId,
    plot: Annotated[bool, typer.Option(help="Draw its curves in the terminal (extra `plots`).")] = True,
    png: Annotated[Path | None, typer.Option(help="Draw its curves into this file.")] = None,
    ledger: Annotated[bool, typer.Option("--ledger", help="Print where its time and traffic went instead.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """One run: what it is, how far it is, what came of it."""
    with connect(url, key_file) as client:
        run = client.runs.get(run_id)
        if ledger:
            steps = list(client.runs.metrics(run_id))
            return output.show_json(total(step.ledger for step in steps)) if as_json else show_ledger(steps)
        if as_json:
            return output.show_json(run)
        output.show_facts(
            {
                "id": run.id,
                "name": run.name,
                "state": run.state.value,
                "recipe": run.recipe,
                "recipe file": run.recipe_sha256 and f"sha256 {run.recipe_sha256}",
                "student": run.student,
                "teachers": ", ".join(f"{role}: {name}" for role, name in run.teachers.items()) or None,
                "fallbacks": ", ".join(f"{role}: {name}" for role, name in run.fallbacks.items()) or None,
                "sampler": run.sampler,
                "skills": run.skills,
                "mismatch": run.sampler and mismatch(list(client.runs.metrics(run_id, after=max(run.step - 1, 0)))),
                "data": getattr(run.data, "task", None) or getattr(run.data, "artifact", None),
                "step": f"{run.step} of {run.training.steps}",
                "worker": run.worker and f"{run.worker} (attempt {run.attempt}, fence {run.fence})",
                "checkpoint": run.checkpoint and f"step {run.checkpoint.step}, {run.checkpoint.artifact}",
                "made": run.created_at,
                "ended": run.finished_at,
                "model": run.result and run.result.model,
            }
        )
        if run.waits is not None:
            output.console.print(output.plain(run.waits.detail), soft_wrap=True)
        if run.state.ended:
            output.console.print(describe_result(run), soft_wrap=True)
        _tell_steps(client, run, png, plot=plot)


@app.command()
def watch(run_id: RunId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Watch a run until it ends, across disconnects. With --json: one event a line, the run last.

    Exit code 1 when the run failed or was cancelled.
    """
    with connect(url, key_file) as client:
        _watch(client, client.runs.get(run_id), as_json)


@app.command()
def cancel(run_id: RunId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Cancel a run: at once while it is queued, within one step (with a checkpoint) while it is running."""
    with connect(url, key_file) as client:
        run = client.runs.cancel(run_id)
    if as_json:
        return output.show_json(run)
    soon = "" if run.state.ended else "; it stops within one step and leaves a checkpoint"
    output.console.print(f"Run {run.id} is {output.cell(run.state.value)}{soon}.")


@app.command()
def pause(run_id: RunId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Pause a running run within one step; it leaves a checkpoint, and its worker is free for another run."""
    with connect(url, key_file) as client:
        run = client.runs.pause(run_id)
    if as_json:
        return output.show_json(run)
    soon = "; it stops within one step and leaves a checkpoint" if run.pause_requested else ""
    output.console.print(f"Run {run.id} is {output.cell(run.state.value)}{soon}.")
    output.console.print(f"Let it go on: preceptor runs resume {run.id}", highlight=False)


@app.command()
def resume(
    run_id: RunId,
    step: Annotated[
        int | None, typer.Option(min=1, help="Go on from this step's checkpoint; the newest are kept.")
    ] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Queue a paused, failed or cancelled run again; it goes on from its last checkpoint."""
    with connect(url, key_file) as client:
        run = client.runs.resume(run_id, step=step)
    if as_json:
        return output.show_json(run)
    start_ = f"from step {run.checkpoint.step}" if run.checkpoint else "from the beginning"
    output.console.print(f"Run {run.id} is {output.cell(run.state.value)}; it goes on {start_}.")


@app.command()
def teachers(
    run_id: RunId,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="ROLE=NAME", help="Who fills a role from now on; repeat.")
    ] = None,
    empty: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="A router's role that nobody fills from now on; repeat.")
    ] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Who fills a run's roles, and since which step; or have others fill them from then on."""
    wish: dict[str, str | None] = {**dict(map(_filling, set_ or [])), **dict.fromkeys(empty or [])}
    with connect(url, key_file) as client:
        run = client.runs.refill(run_id, wish) if wish else client.runs.get(run_id)
    if as_json:
        return output.show_json(run)
    output.show_table(("role", "teacher", "fallback"), roles_now(run), empty="The run asks no teacher.")
    if run.refilled:
        output.console.print()
        output.show_table(("role", "left", "joined", "asked for", "from step"), roles_then(run), empty="")


def _filling(pair: str) -> tuple[str, str]:
    role, equals, name = pair.partition("=")
    if not equals or not role or not name:
        raise Invalid(f"{pair!r} names no teacher.", field="teachers", remedy="Write ROLE=NAME, or --empty ROLE.")
    return role, name


def _watch(client: Client, run: Run, as_json: bool) -> None:
    if as_json:
        for event in client.runs.events(run.id):
            output.show_json(event)
        run = client.runs.get(run.id)
        output.show_json(run)
    else:
        with Watch(run, output.console) as board:
            for event in client.runs.events(run.id):
                board.show(event)
        run = client.runs.get(run.id)
        output.console.print(describe_result(run), soft_wrap=True)
        _tell_steps(client, run, None, plot=run.state is RunState.SUCCEEDED)
    if run.state is not RunState.SUCCEEDED:
        raise typer.Exit(1)


def _tell_steps(client: Client, run: Run, png: Path | None, *, plot: bool) -> None:
    """Steps that came to nothing, and curves where they are wanted."""
    steps = list(client.runs.metrics(run.id))
    if nothing := taught_nothing(steps):
        output.console.print(nothing, style="yellow", soft_wrap=True)
    if not plot and png is None:
        return
    evaluations = client.runs.evaluations(run.id)
    if plot and not plots_installed():
        output.console.print("For curves here: pip install 'preceptor[plots]'", style="dim")
    elif plot and (text := terminal_plot(steps, evaluations, colour=output.console.is_terminal)):
        output.console.out(f"\n{text}", highlight=False)
    if png is not None:
        output.console.print(f"Curves: {escape(str(picture(steps, evaluations, run.name, png)))}", soft_wrap=True)


def _gain(run: Run) -> str | None:
    if run.result is None:
        return None
    return f"{output.percent(run.result.before)} -> {output.percent(run.result.after)}"
