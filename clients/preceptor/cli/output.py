"""How results and errors are shown: tables and sentences for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn
from rich.table import Table

from preceptor.errors import Invalid, NotAuthorised, Overloaded, PreceptorError, Unreachable

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
"""The option that every command has."""

console = Console()
complaints = Console(stderr=True)

_STYLES = {
    "green": ("succeeded", "ready", "passed"),
    "cyan": ("running",),
    "yellow": ("queued", "paused", "draining", "unverified", "uploading"),
    "red": ("degraded", "failed", "down"),
    "magenta": ("cancelled",),
}
_STATE_STYLES = {state: style for style, states in _STYLES.items() for state in states}
_WHOLE = 24
"""Characters of an id or a state up to which it is not broken, whatever that leaves for the rest: people copy them."""
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""Characters that a terminal obeys."""


def show_json(value: BaseModel | Sequence[BaseModel] | Mapping[str, Any]) -> None:
    """One JSON document on one line of standard output."""
    if isinstance(value, BaseModel):
        text = value.model_dump_json()
    elif isinstance(value, Mapping):
        text = json.dumps(value, default=str)
    else:
        text = "[" + ",".join(each.model_dump_json() for each in value) + "]"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table, or a sentence where there is nothing to list."""
    if not rows:
        console.print(empty, style="dim")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        whole = column in ("id", "run", "state") and all(len(str(row[place])) <= _WHOLE for row in rows)
        table.add_column(column, overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(cell(each) for each in row))
    console.print(table)


def show_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one a line; what is None is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, cell(value))
    console.print(table)


def cell(value: object) -> str:
    """A value as people read it, with markup for states."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return ago(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    text = plain(str(value))
    style = _STATE_STYLES.get(text)
    return f"[{style}]{text}[/]" if style else text


def plain(text: str) -> str:
    """Somebody's text as it may be printed: its markup is text, and what a terminal would obey is not passed on. Models
    write what is shown here, and what they read may have told them to."""
    return escape(text.translate(_CONTROLS))


def ago(moment: datetime) -> str:
    """How long ago, roughly."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage."""
    return "-" if share is None else f"{100 * share:.1f}%"


def complain(error: PreceptorError, *, as_json: bool) -> None:
    """One error on standard error: what, why, what to do."""
    if as_json:
        sys.stderr.write(json.dumps({"error": error.problem.model_dump(mode="json")}) + "\n")
        return
    problem = error.problem
    where = f" ({problem.field})" if problem.field else ""
    complaints.print(f"[bold red]{plain(problem.title)}[/]{plain(where)}: {plain(problem.detail)}", soft_wrap=True)
    if problem.remedy:
        complaints.print(f"[bold]What to do:[/] {plain(problem.remedy)}", soft_wrap=True)


def exit_code(error: PreceptorError) -> int:
    """See `preceptor.cli.main`."""
    if isinstance(error, Invalid):
        return 2
    if isinstance(error, Unreachable | Overloaded):
        return 3
    return 4 if isinstance(error, NotAuthorised) else 1


def needs_extra(what: str, extra: str) -> NoReturn:
    """Say which extra to install, and exit."""
    raise Invalid(
        f"{what} needs packages that are not installed.", remedy=f"Install them: pip install 'preceptor[{extra}]'"
    )


def bars(as_json: bool, *columns: ProgressColumn) -> Progress:
    """Progress of long work, for people: beside what is printed, and gone when it is done."""
    return Progress(*columns, console=complaints, transient=True, disable=as_json)
