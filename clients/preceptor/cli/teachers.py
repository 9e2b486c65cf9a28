"""`preceptor teachers`: whom runs may ask."""

from __future__ import annotations

from typing import Annotated

import typer

from preceptor.cli import output
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.wire.teachers import Teacher, TeacherCreate

app = typer.Typer(help="Register teachers and look at them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The teacher's name.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What runs will call it.")],
    teacher_url: Annotated[str, typer.Argument(metavar="TEACHER_URL", help="Where it answers.")],
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds its key, on the control plane and on every worker."),
    ] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Register a teacher; its claims are held against its behaviour first."""
    with connect(url, key_file) as client:
        _show(client.teachers.add(TeacherCreate(name=name, url=teacher_url, key_env=key_env)), as_json)


@app.command("list")
def list_(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """All registered teachers."""
    with connect(url, key_file) as client:
        teachers = client.teachers.list()
    if as_json:
        return output.show_json(teachers)
    rows = [(t.name, t.state.value, t.card.model if t.card else None, t.url, t.updated_at) for t in teachers]
    output.show_table(
        ("name", "state", "model", "url", "changed"), rows, empty="No teachers yet: `preceptor teachers add NAME URL`."
    )


@app.command()
def show(name: Name, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """One teacher: its card and what its last probe found."""
    with connect(url, key_file) as client:
        _show(client.teachers.get(name), as_json)


@app.command()
def probe(name: Name, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Look again whether a teacher is what it says. Exit code 1 when a check failed."""
    with connect(url, key_file) as client:
        teacher = client.teachers.probe(name)
    _show(teacher, as_json)
    if teacher.probe is None or not teacher.probe.ok:
        raise typer.Exit(1)


@app.command()
def drain(
    name: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Let it have runs again.")] = False,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Let a teacher finish what runs need of it, and give it no new ones."""
    with connect(url, key_file) as client:
        _show(client.teachers.undrain(name) if undo else client.teachers.drain(name), as_json)


@app.command()
def rm(name: Name, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Forget a teacher."""
    with connect(url, key_file) as client:
        client.teachers.remove(name)
    if as_json:
        return output.show_json({"removed": name})
    output.console.print(f"Forgot the teacher {name}.")


def _show(teacher: Teacher, as_json: bool) -> None:
    if as_json:
        return output.show_json(teacher)
    card, probe_ = teacher.card, teacher.probe
    output.show_facts(
        {
            "name": teacher.name,
            "state": teacher.state.value,
            "url": teacher.url,
            "key from": teacher.key_env,
            "model": card and f"{card.model} (weights version {card.weights_version})",
            "engine": card and f"{card.engine}, {card.device}, {card.dtype}",
            "tokenizer": card and f"{card.tokenizer.fingerprint[:19]}, {card.tokenizer.vocab_size} ids",
            "supports": card and ", ".join(card.supports),
            "longest": card and f"{card.limits.max_tokens} tokens",
            "latency": probe_ and probe_.latency_ms and f"{probe_.latency_ms:.1f} ms",
            "throughput": probe_ and probe_.tokens_per_second and f"{probe_.tokens_per_second:,.0f} tokens/s",
        }
    )
    if probe_ is not None:
        output.console.print()
        rows = [(check.name, check.outcome.value, check.detail) for check in probe_.checks]
        output.show_table(("check", "outcome", "detail"), rows, empty="The probe made no checks.")
