"""`preceptor debates`: have teachers discuss a question, and see what each said."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.rule import Rule

from preceptor.cli import output
from preceptor.cli.files import read_text
from preceptor.cli.runfile import assignments, merged
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.errors import Invalid
from preceptor.wire.debates import Debate, DebateCreate, DebateState, DebateTemplate, DebateTurn, RunDebate

app = typer.Typer(help="Have teachers debate a question.", no_args_is_help=True)

DebateId = Annotated[str, typer.Argument(metavar="DEBATE", help="The debate's id.")]
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "white", "bright_black")
_SHOWN = 60


@app.command()
def start(
    question: Annotated[str, typer.Argument(help="What is debated; `-` reads standard input.")],
    teacher: Annotated[list[str], typer.Option(metavar="NAME", help="Who debates: repeat, 2 to 8 times.")],
    attempt: Annotated[
        str | None, typer.Option(help="The student's answer, which they then see; without it the debate is blind.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(metavar="NAME[@VERSION]", help="The wording; else `discussion`.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="How often each speaks at most; else the template says.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens that may be written in all.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds that it may take.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any other field: tau=0.2, stop=[], overrides.roles=[...]."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Hold it even where the same was held before.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it has ended, and show it.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same debate.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Start a debate. The same question to the same teachers in the same words is answered from the last one.

    With --wait, exit code 1 when it did not succeed.
    """
    asked = typer.get_text_stream("stdin").read() if question == "-" else question
    own = {"attempt": attempt, "template": template, "fresh": fresh or None}
    tables = {"budget": {"tokens": tokens, "seconds": seconds}, "overrides": {"rounds": rounds}}
    changes = _stated(own) | {name: table for name, each in tables.items() if (table := _stated(each))}
    wish = merged(assignments(set_ or [], fields=DebateCreate.model_fields.keys() - {"question", "teachers"}), changes)
    create = DebateCreate.model_validate({**wish, "question": asked, "teachers": tuple(teacher)})
    with connect(url, key_file) as client:
        debate = client.debates.start(create, idempotency_key=idempotency_key)
        if wait and not debate.state.ended:
            with output.complaints.status(f"Debate {debate.id}: {', '.join(teacher)}"):
                debate = client.debates.wait(debate.id, seconds=2 * create.budget.seconds + 60)
    if wait:
        _show(debate, as_json)
        raise typer.Exit(0 if debate.state is DebateState.SUCCEEDED else 1)
    if as_json:
        return output.show_json(debate)
    said = f", as it was held in {debate.cached_from}" if debate.cached_from else ""
    output.console.print(f"Debate {debate.id} is {output.cell(debate.state.value)}{said}.")
    output.console.print(f"See it: preceptor debates show {debate.id}", highlight=False)


@app.command("list")
def list_(
    state: Annotated[DebateState | None, typer.Option(help="Only those in this state.")] = None,
    run: Annotated[str | None, typer.Option(help="Those that this run held for itself.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Of a run: only those of this step.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Debates, newest first: those that were asked for, or with --run those that a run held for itself."""
    if step is not None and run is None:
        raise Invalid("--step: only the debates of a run have steps.", field="--step", remedy="Name the run by --run.")
    with connect(url, key_file) as client:
        debates = list(islice(client.debates.list(state=state, run=run, step=step), limit))
    if as_json:
        return output.show_json(debates)
    rows = [
        (
            each.id,
            " ".join(each.wish.question.split())[:_SHOWN],
            ", ".join(each.wish.teachers),
            each.state.value,
            each.result.ended if each.result else None,
            each.result.tokens if each.result else None,
            each.created_at if each.run is None else f"step {each.run.step}, rollout {each.run.rollout}",
        )
        for each in debates
    ]
    columns = ("id", "question", "teachers", "state", "ended by", "tokens", "made" if run is None else "in")
    empty = "No debates yet: `preceptor debates start`." if run is None else "This run has held none so far."
    output.show_table(columns, rows, empty=empty)


@app.command()
def show(debate_id: DebateId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """One debate: what was said, round by round, and what each debater counts."""
    with connect(url, key_file) as client:
        debate = client.debates.get(debate_id)
    _show(debate, as_json)


@app.command()
def cancel(debate_id: DebateId, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Cancel a debate: at once while it is queued, within a heartbeat while it is running."""
    with connect(url, key_file) as client:
        debate = client.debates.cancel(debate_id)
    if as_json:
        return output.show_json(debate)
    what = "is being cancelled" if debate.cancel_requested else f"is {output.cell(debate.state.value)}"
    output.console.print(f"Debate {debate.id} {what}.")


@app.command()
def templates(
    name: Annotated[str | None, typer.Argument(metavar="[NAME[@VERSION]]", help="Only this one, in full.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store this JSON file as NAME's next version.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """How debates are worded: all templates, one of them, or a new version of one."""
    if store is not None and name is None:
        raise Invalid("A template that is stored needs a name.", field="name", remedy="Give one before --store.")
    with connect(url, key_file) as client:
        if name is None:
            found = client.debates.templates()
        elif store is None:
            found = (client.debates.template(name),)
        else:
            words = DebateTemplate.model_validate_json(read_text(store))
            found = (client.debates.store_template(name, words),)
    if as_json:
        return output.show_json(found if name is None else found[0])
    if name is not None and store is None:
        (one,) = found
        output.show_facts({"template": f"{one.name}@{one.version}", "hash": one.hash, "rounds": one.template.rounds})
        for title, text in (("blind", one.template.ask), ("sighted", one.template.ask_sighted)):
            output.console.print(Panel(output.plain(text), title=title, title_align="left"))
        return output.show_table(
            ("role", "text"), list(enumerate(one.template.roles, 1)), empty="Everybody has the same part."
        )
    rows = [
        (f"{each.name}@{each.version}", each.hash[:12], each.template.rounds, len(each.template.roles), each.created_at)
        for each in found
    ]
    output.show_table(("template", "hash", "rounds", "roles", "stored"), rows, empty="There are none.")


def _stated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _show(debate: Debate, as_json: bool) -> None:
    if as_json:
        return output.show_json(debate)
    console, result, wish = output.console, debate.result, debate.wish
    colours = dict(zip(wish.teachers, _COLOURS, strict=False))
    console.print(Panel(output.plain(wish.question), title="question", title_align="left"))
    if wish.attempt is not None:
        console.print(Panel(output.plain(wish.attempt), title="the student's answer", title_align="left"))
    for number, turns in groupby(debate.turns, key=lambda turn: turn.round):
        console.print(Rule(f"round {number}", style="dim"))
        for turn in turns:
            console.print(_panel(turn, colours[turn.debater]))
    if debate.error is not None:
        console.print(
            f"[bold red]{output.plain(debate.error.title)}[/]: {output.plain(debate.error.detail)}", soft_wrap=True
        )
    if result is not None:
        failed = {each.debater: f"{each.missing} in round {each.round}" for each in result.excluded}
        rows = [(name, result.weights.get(name), failed.get(name, "heard")) for name in wish.teachers]
        console.print(Rule("what came of it", style="dim"))
        output.show_table(("debater", "weight", ""), rows, empty="")
    own = debate.run is not None
    wording = "the run's recipe" if own else f"{debate.template.name}@{debate.template.version}"
    patience = "" if own else f" of {wish.budget.seconds:g}"
    output.show_facts(
        {
            "debate": debate.id,
            **_place(debate.run),
            "state": debate.state.value,
            "held in": debate.cached_from,
            "worded by": f"{wording} ({debate.template.hash[:12]})",
            "ended by": result.ended if result else None,
            "agreed": None if result is None else ("yes" if result.agreed else "no"),
            "answer": result.answer if result else None,
            "tokens": f"{result.tokens} of {wish.budget.tokens}" if result else None,
            "seconds": f"{result.seconds:.1f}{patience}" if result else None,
            "calls": result.calls if result else None,
        }
    )


def _place(run: RunDebate | None) -> dict[str, str]:
    """Where a run held it, and who spoke."""
    if run is None:
        return {}
    voices = (f"{name}: {each.teacher} (version {each.weights_version})" for name, each in run.voices.items())
    return {
        "run": f"{run.run}, step {run.step}, context {run.context}",
        "about": f"task {run.task}, rollout {run.rollout}",
        "spoken by": ", ".join(voices),
    }


def _panel(turn: DebateTurn, colour: str) -> Panel:
    if turn.missing is not None:
        text = f"[dim]{output.plain(turn.detail or '')}[/]"
        return Panel(text, title=f"{turn.debater}: {turn.missing}, excluded", title_align="left", border_style="dim")
    text = output.plain(turn.argument or "")
    if turn.answer is not None:
        text += f"\n[bold]Answer:[/] {output.plain(turn.answer)}"
    about = f"{turn.tokens} tokens, {turn.seconds:.1f} s"
    title = f"{turn.debater} ({turn.confidence}% sure)"
    return Panel(text, title=title, title_align="left", subtitle=about, subtitle_align="right", border_style=colour)
