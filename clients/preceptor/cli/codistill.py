"""`preceptor codistill`: two students that teach each other, started, watched, stopped, taken up again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from preceptor.cli import output
from preceptor.cli.pairfile import load_pair
from preceptor.cli.plots import plots_installed, several
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.cli.watch import describe_result
from preceptor.client import Client
from preceptor.skills.usefulness import wilson
from preceptor.wire.codistillations import (
    Codistillation,
    CodistillationSide,
    CodistillationState,
    DomainPoint,
    Record,
    SideRecord,
)
from preceptor.wire.pairs import step_of
from preceptor.wire.waiting import Waiting

app = typer.Typer(help="Have two students teach each other.", no_args_is_help=True)

PairId = Annotated[str, typer.Argument(metavar="PAIR", help="The pair's id.")]
LOOKS_SECONDS = 2.0
"""How often a pair that is watched is looked at."""


@app.command()
def start(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pair written as TOML: docs/codistillation.md.")],
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key gives the same pair, however often.")
    ] = None,
    watch_: Annotated[bool, typer.Option("--watch", help="Stay and watch it.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Start a pair: two runs, for two workers. Folders and data files are pushed as artifacts first."""
    with connect(url, key_file) as client:
        pair = client.codistillations.start(load_pair(file, client), idempotency_key=idempotency_key)
        if watch_:
            return _watch(client, pair, as_json)
    if as_json:
        return output.show_json(pair)
    output.console.print(f"Pair {pair.id} ({pair.name}) is {output.cell(pair.state.value)}.")
    _waits(pair)
    output.console.print(f"Watch it: preceptor codistill watch {pair.id}", highlight=False)


@app.command("list")
def list_(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """All pairs, newest first."""
    with connect(url, key_file) as client:
        pairs = client.codistillations.list()
    if as_json:
        return output.show_json(pairs)
    rows = [(p.id, p.name, p.state.value, *map(_steps, (p.a, p.b)), p.created_at) for p in pairs]
    empty = "No pairs yet: `preceptor codistill start pair.toml`."
    output.show_table(("id", "name", "state", "a", "b", "made"), rows, empty=empty)


@app.command()
def show(
    pair_id: PairId,
    plot: Annotated[bool, typer.Option(help="Draw both sides' curves in the terminal (extra `plots`).")] = True,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """One pair, one record: both sides' accuracy by domain, the gates, what each gave the other."""
    with connect(url, key_file) as client:
        pair, record = client.codistillations.get(pair_id), client.codistillations.record(pair_id)
    if as_json:
        return output.show_json({"pair": pair.model_dump(mode="json"), "record": record.model_dump(mode="json")})
    _tell(pair, record, plot=plot)


@app.command()
def watch(pair_id: PairId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Watch a pair until neither side goes on. With --json: the pair, a line, whenever it has moved.

    Exit code 1 when a side did not do all its steps.
    """
    with connect(url, key_file) as client:
        _watch(client, client.codistillations.get(pair_id), as_json)


@app.command()
def stop(pair_id: PairId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Stop both sides within one step each, with checkpoints."""
    with connect(url, key_file) as client:
        pair = client.codistillations.stop(pair_id)
    _say(pair, "both sides stop within one step and leave checkpoints", as_json)


@app.command()
def resume(pair_id: PairId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Have what has stopped of a pair go on from its last checkpoints."""
    with connect(url, key_file) as client:
        pair = client.codistillations.resume(pair_id)
    _say(pair, "what had stopped of it goes on from its last checkpoint", as_json)


def _say(pair: Codistillation, what: str, as_json: bool) -> None:
    if as_json:
        return output.show_json(pair)
    output.console.print(f"Pair {pair.id} is {output.cell(pair.state.value)}; {what}.")


def watch_pair(client: Client, pair: Codistillation, *, as_json: bool = False) -> Codistillation:
    """Show a pair live until neither side goes on, and then its record."""
    seen, waited = "", list[Waiting | None]()
    going = (CodistillationState.QUEUED, CodistillationState.RUNNING)
    while True:
        now = pair.model_dump_json()
        if now != seen and as_json:
            output.show_json(pair)
        elif now != seen:
            output.console.print(f"{_brief('a', pair.a)}   {_brief('b', pair.b)}", soft_wrap=True)
            if (waits := [each.waits for each in (pair.a, pair.b)]) != waited:
                _waits(pair)
            waited = waits
        seen = now
        if pair.state not in going:
            break
        time.sleep(LOOKS_SECONDS)
        pair = client.codistillations.get(pair.id)
    if not as_json:
        for side in (pair.a, pair.b):
            output.console.print(describe_result(client.runs.get(side.run)), soft_wrap=True)
        _tell(pair, client.codistillations.record(pair.id), plot=True)
    return pair


def _watch(client: Client, pair: Codistillation, as_json: bool) -> None:
    pair = watch_pair(client, pair, as_json=as_json)
    if pair.state is not CodistillationState.SUCCEEDED:
        raise typer.Exit(1)


def _steps(side: CodistillationSide) -> str:
    return f"{side.step}/{side.steps}"


def _brief(name: str, side: CodistillationSide) -> str:
    published = "-" if side.version is None else str(step_of(side.version))
    return f"[bold]{name}[/] {output.cell(side.state.value)} step {_steps(side)}, published {published}"


def _waits(pair: Codistillation) -> None:
    """Which sides no worker has taken, and why not."""
    for name, side in (("a", pair.a), ("b", pair.b)):
        if side.waits is not None:
            output.console.print(f"[bold]{name}[/]: {output.plain(side.waits.detail)}", soft_wrap=True)


def _tell(pair: Codistillation, record: Record, *, plot: bool) -> None:
    both = (("a", pair.a, record.a), ("b", pair.b, record.b))
    output.show_facts({"id": pair.id, "name": pair.name, "state": pair.state.value, "made": pair.created_at})
    rows = [(n, s.run, s.state.value, _steps(s), s.worker, s.url, s.published) for n, s, _ in both]
    output.show_table(("side", "run", "state", "step", "worker", "student at", "versions"), rows, empty="")
    _waits(pair)
    output.console.print()
    rows = [row for name, _, each in both for row in _accuracy(name, each)]
    output.show_table(("side", "domain", "before", "now", "of", "step"), rows, empty="No side was evaluated yet.")
    output.console.print()
    rows = [_heard(name, each) for name, _, each in both]
    columns = ("side", "scores", "texts", "versions", "largest lag", "waited s", "alone", "unpublished")
    output.show_table(columns, rows, empty="")
    if rows := [row for name, _, each in both for row in _feedback(name, each)]:
        output.console.print()
        output.show_table(("side", "domain", "attempts with feedback", "sentences cut"), rows, empty="")
    rows = [(n, g.step, g.domain, "opens" if g.open else "closes", g.own, g.peer) for n, _, r in both for g in r.gates]
    output.console.print()
    columns = ("side", "step", "domain", "gate", "own rate", "peer's rate")
    output.show_table(columns, rows, empty="No gate has opened: neither was ever reliably better.")
    if plot and not plots_installed():
        output.console.print("For curves here: pip install 'preceptor[plots]'", style="dim")
    elif plot and (text := _plot(both)):
        output.console.out(f"\n{text}", highlight=False)


def _accuracy(name: str, record: SideRecord) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for domain in sorted({each.domain for each in record.accuracy}):
        mine = [each for each in record.accuracy if each.domain == domain]
        rows.append((name, domain, _share(mine[0]), _share(mine[-1]), mine[-1].n, mine[-1].step))
    return rows


def _share(point: DomainPoint) -> str:
    """In percent, with its 95% interval."""
    low, high = wilson(point.correct, point.n)
    return f"{100 * point.correct / point.n:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _feedback(name: str, record: SideRecord) -> list[tuple[object, ...]]:
    """What the peer's texts came to: by domain, then what could not be used, wherever it was wanted."""
    lost = {"(unreadable)": record.unreadable, "(unwritten)": record.unwritten} if record.feedback else {}
    shown = [(name, each.domain, each.rollouts, each.sentences_cut) for each in record.feedback]
    return [*shown, *((name, where, count, None) for where, count in lost.items() if count)]


def _heard(name: str, record: SideRecord) -> tuple[object, ...]:
    counts = {kind: sum(each.count for each in record.heard if each.kind == kind) for kind in ("score", "feedback")}
    alone = f"{len(record.alone)} steps" if record.alone else "never"
    unpublished = len(record.unpublished) or "none"
    versions = len({each.version for each in record.heard})
    return (name, *counts.values(), versions, record.largest_lag, round(record.waited_seconds, 1), alone, unpublished)


def _plot(both: tuple[tuple[str, CodistillationSide, SideRecord], ...]) -> str:
    curves = {
        f"{name} {domain}": [(p.step, 100 * p.correct / p.n) for p in record.accuracy if p.domain == domain]
        for name, _, record in both
        for domain in sorted({each.domain for each in record.accuracy})
    }
    drawn = {name: points for name, points in curves.items() if len(points) > 1}
    return several(drawn, "held-out accuracy, %", colour=output.console.is_terminal) if drawn else ""
