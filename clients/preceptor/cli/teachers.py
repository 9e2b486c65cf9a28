"""`preceptor teachers`: whom runs may ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preceptor.cli import endpoints, output
from preceptor.cli.endpoints import show_teacher
from preceptor.cli.session import DEFAULT_URL, KeyFile, Url, connect
from preceptor.fingerprint import tokenizer_card
from preceptor.samples import token_samples
from preceptor.wire.teachers import Teacher, TeacherCreate, TeacherKind

app = typer.Typer(help="Register teachers and look at them.", no_args_is_help=True)
app.add_typer(endpoints.app, name="endpoints")

Name = Annotated[str, typer.Argument(help="The teacher's name.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What runs will call it.")],
    teacher_url: Annotated[str, typer.Argument(metavar="TEACHER_URL", help="Where it answers.")],
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds its key, on the control plane and on every worker."),
    ] = None,
    kind: Annotated[TeacherKind, typer.Option(help="What answers there.")] = TeacherKind.PRECEPTOR,
    model: Annotated[
        str | None, typer.Option(help="What a stock server calls the model, if it serves several.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of the model that a stock vLLM or SGLang server serves: its tokenizer is read."),
    ] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: output.Json = False,
) -> None:
    """Register a teacher; its claims are held against its behaviour first, and a false one refuses it."""
    create = _create(name, teacher_url, kind, key_env, model, tokenizer)
    with connect(url, key_file) as client:
        show_teacher(client.teachers.add(create), as_json)


@app.command("list")
def list_(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """All registered teachers."""
    with connect(url, key_file) as client:
        teachers = client.teachers.list()
    if as_json:
        return output.show_json(teachers)
    rows = [(t.name, t.state.value, t.card.model if t.card else None, _urls(t), t.updated_at) for t in teachers]
    output.show_table(
        ("name", "state", "model", "url", "changed"), rows, empty="No teachers yet: `preceptor teachers add NAME URL`."
    )


@app.command()
def show(name: Name, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """One teacher: its card, its endpoints, and what its last probe found."""
    with connect(url, key_file) as client:
        show_teacher(client.teachers.get(name), as_json)


@app.command()
def probe(name: Name, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Look again whether a teacher is what it says, at all its endpoints. Exit code 1 when a check failed."""
    with connect(url, key_file) as client:
        teacher = client.teachers.probe(name)
    show_teacher(teacher, as_json)
    if not all(each.probe and each.probe.ok and each.trouble is None for each in teacher.endpoints):
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
        show_teacher(client.teachers.undrain(name) if undo else client.teachers.drain(name), as_json)


@app.command()
def rm(name: Name, url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: output.Json = False) -> None:
    """Forget a teacher."""
    with connect(url, key_file) as client:
        client.teachers.remove(name)
    if as_json:
        return output.show_json({"removed": name})
    output.console.print(f"Forgot the teacher {name}.")


def _create(
    name: str, teacher_url: str, kind: TeacherKind, key_env: str | None, model: str | None, tokenizer: Path | None
) -> TeacherCreate:
    """The wish, with the tokenizer of a model folder where a stock server cannot state its own."""
    card = None
    if tokenizer is not None:
        card = tokenizer_card(tokenizer).model_copy(update={"samples": token_samples(tokenizer)})
    return TeacherCreate(name=name, url=teacher_url, kind=kind, key_env=key_env, model=model, tokenizer=card)


def _urls(teacher: Teacher) -> str:
    more = len(teacher.endpoints) - 1
    return f"{teacher.url} and {more} more" if more > 0 else teacher.url
