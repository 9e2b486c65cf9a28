"""The commands that start a process: what this package adds to `preceptor`. Loading this file imports nothing heavy."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape

from preceptor.cli import output
from preceptor.cli.models import model_folder
from preceptor.cli.weights import load_weights
from preceptor.errors import Invalid, PreceptorError

if TYPE_CHECKING:
    from preceptor.wire.teachers import Teacher, TeacherState
    from preceptor_services.settings import ServiceSettings
    from preceptor_services.supervisor import Happening
    from preceptor_services.up import Ready

TEXT_LINES = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SettingsKind = TypeVar("SettingsKind", bound="ServiceSettings")
Home = Annotated[Path, typer.Option(help="Where everything lies that is kept: database, artifacts, logs.")]

teacher = typer.Typer(help="The teacher service.", no_args_is_help=True)
teacher.command("load-weights")(load_weights)


def register(app: typer.Typer) -> None:
    """Add `up`, `api`, `worker`, `teacher serve` and `teacher load-weights` to the command."""
    app.command()(up)
    app.command()(api)
    app.command()(worker)
    app.add_typer(teacher, name="teacher")


def up(
    home: Home = Path("~/.preceptor"),
    host: Annotated[str, typer.Option(help="Address of the control plane.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the control plane; 0: any.")] = 8420,
    teacher_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the teacher; 0: any.")] = 8421,
    teacher_model: Annotated[str | None, typer.Option(help="A folder or a name; else the shipped model.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Trainers: each advances one run at a time.")] = 1,
    register_teacher: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register the teacher; needs PRECEPTOR_KEY after the first start."),
    ] = None,
    new_admin_key: Annotated[
        bool, typer.Option("--new-admin-key", help="Make a new admin key in place of a lost one.")
    ] = False,
    as_json: output.Json = False,
) -> None:
    """Run all of Preceptor on this machine until Ctrl-C: control plane, worker, teacher, broker, database."""
    with _extra("up", "services,trainer"):
        from preceptor_services.supervisor import StartFailed
        from preceptor_services.up import TEACHER_KEY_ENV, UpSettings, run_up, shipped_model

    def on_ready(ready: Ready) -> None:
        announce(ready, as_json=as_json)  # first: the admin key is shown this once, whatever becomes of the rest
        if register_teacher is not None:
            known = _register(ready, register_teacher, TEACHER_KEY_ENV)
            announce_teacher(known.name, known.state, as_json=as_json)

    home = home.expanduser()
    try:
        settings = UpSettings(
            home=home,
            host=host,
            port=port,
            teacher_port=teacher_port,
            teacher_model=model_folder(teacher_model) if teacher_model else shipped_model(),
            workers=workers,
            new_admin_key=new_admin_key,
        )
        run_up(settings, on_ready=on_ready, tell=lambda happening: _tell(happening, as_json))
    except StartFailed as error:
        raise PreceptorError(str(error), remedy=f"The logs are in {home / 'logs'}.") from None


def api(as_json: output.Json = False) -> None:
    """Run the control plane. Its settings are PRECEPTOR_* variables; see docs/operations.md."""
    with _extra("api", "services"):
        from preceptor_services.api.main import serve
        from preceptor_services.settings import Settings
    settings = _settings(Settings)
    _starting("control plane", f"http://{settings.host}:{settings.port}", as_json)
    serve(settings)


def worker(
    takes: Annotated[str, typer.Option(help="What it takes: runs, debates (needs no torch), or all.")] = "all",
    as_json: output.Json = False,
) -> None:
    """Run a worker: takes runs and debates from the broker, a run at a time. Needs PRECEPTOR_URL, _KEY, _BROKER_URL."""
    with _extra("worker", "services" if takes == "debates" else "services,trainer"):
        from preceptor_services.worker.app import Takes, run_worker
        from preceptor_services.worker.settings import WorkerSettings

        if takes not in list(Takes):
            raise Invalid(f"--takes: '{takes}' is not one of {', '.join(Takes)}.", field="--takes")
        log_format = JsonLines() if as_json else logging.Formatter(TEXT_LINES)
        raise typer.Exit(run_worker(_settings(WorkerSettings), log_format=log_format, takes=Takes(takes)))


@teacher.callback()
def _teacher() -> None:
    """The teacher service."""


@teacher.command("serve")
def teacher_serve(
    model: Annotated[
        str | None, typer.Option(help="A model folder, `hub:org/name@revision`, or a known name; none for scripted.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What its card says; else PRECEPTOR_TEACHER_NAME.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8421,
    device: Annotated[str, typer.Option(help="Where it computes: cpu, cuda, cuda:1 ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="What it computes in: float32, bfloat16 ...")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads; else torch's own choice.")] = None,
    backend: Annotated[
        str, typer.Option(help="What computes: hf (transformers), vllm, sglang; scripted: rules, no model.")
    ] = "hf",
    engine_url: Annotated[str | None, typer.Option(help="Where the engine runs already; else it is started.")] = None,
    engine_python: Annotated[
        str | None, typer.Option(help="The interpreter of the environment that the engine is installed in.")
    ] = None,
    takes_weights: Annotated[
        bool, typer.Option("--takes-weights", help="Let other versions of its weights be loaded while it runs.")
    ] = False,
    frozen_head: Annotated[
        bool, typer.Option("--frozen-head", help="Declare that its head never changes, whatever else does.")
    ] = False,
    compile_layers: Annotated[
        bool, typer.Option("--compile", help="Compile its layers with torch: minutes at the start, faster passes.")
    ] = False,
    as_json: output.Json = False,
) -> None:
    """Serve a model as a teacher, its key from PRECEPTOR_TEACHER_KEY. Other settings: docs/operations.md."""
    with _extra("teacher serve", "services,trainer"):
        from preceptor_services.teacher.engines import BackendKind
        from preceptor_services.teacher.serve import serve
        from preceptor_services.teacher.settings import TeacherSettings
    settings = _settings(TeacherSettings)
    told = {"teacher_name": name, "teacher_takes_weights": takes_weights, "teacher_frozen_head": frozen_head}
    told["teacher_compile"] = compile_layers
    settings = settings.model_copy(update={field: value for field, value in told.items() if value})
    if backend not in list(BackendKind):
        known = ", ".join(BackendKind)
        raise Invalid(f"--backend: '{backend}' is not one of {known}.", field="--backend")
    if (model is None) != (backend == BackendKind.SCRIPTED):
        what = "is missing: name what is to be served" if model is None else "a scripted teacher has none; leave it out"
        raise Invalid(f"--model: {what}.", field="--model")
    _starting(f"teacher {settings.teacher_name}, {model or backend}", f"http://{host}:{port}", as_json)
    serve(
        model_folder(model) if model is not None else BackendKind.SCRIPTED,
        settings,
        host=host,
        port=port,
        device=device,
        dtype=dtype,
        threads=threads,
        backend=BackendKind(backend),
        engine_url=engine_url,
        engine_python=engine_python,
    )


class JsonLines(logging.Formatter):
    """Log lines as JSON objects: `at`, `level`, `logger`, `message`, and `error` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"at": self.formatTime(record), "level": record.levelname, "logger": record.name}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _starting(what: str, url: str, as_json: bool) -> None:
    if as_json:
        return output.show_json({"event": "starting", "what": what, "url": url})
    output.console.print(f"Starting the {escape(what)} at {url}", highlight=False, soft_wrap=True)


def announce(ready: Ready, *, as_json: bool) -> None:
    """Say where everything is; the admin key, where there is a new one, is shown here and nowhere else."""
    if as_json:
        return output.show_json(
            {
                "event": "ready",
                "url": ready.url,
                "teacher_url": ready.teacher_url,
                "admin_key": ready.admin_key,
                "home": str(ready.home),
                "first_start": ready.first_start,
                "pids": ready.pids,
            }
        )
    show = output.console
    show.print(f"[bold green]Preceptor is up:[/] {ready.url}", highlight=False)
    show.print(
        f"teacher  {ready.teacher_url} (register it with --key-env PRECEPTOR_TEACHER_KEY)",
        highlight=False,
        soft_wrap=True,
    )
    show.print(f"logs     {escape(str(ready.home / 'logs' / 'preceptor.log'))}", highlight=False, soft_wrap=True)
    if ready.admin_key is not None:
        show.print("\nThe admin key, shown this once and kept only as a hash:\n")
        show.print(f"  export PRECEPTOR_KEY={ready.admin_key}\n", highlight=False, soft_wrap=True)
    show.print("Ctrl-C stops everything.")


def _tell(happening: Happening, as_json: bool) -> None:
    if as_json:
        return output.show_json(
            {
                "event": happening.kind,
                "process": happening.process,
                "pid": happening.pid,
                "exit_code": happening.exit_code,
                "retry_seconds": happening.retry_seconds,
            }
        )
    if happening.kind == "died":
        output.console.print(
            f"[red]{happening.process}[/] (pid {happening.pid}) ended with {happening.exit_code}; "
            f"starting again in {happening.retry_seconds:.1f} s"
        )
    else:
        output.console.print(f"{happening.process} started again (pid {happening.pid})")


def announce_teacher(name: str, state: TeacherState, *, as_json: bool) -> None:
    """Say that the embedded teacher is registered."""
    if as_json:
        return output.show_json({"event": "registered", "teacher": name, "state": state.value})
    output.console.print(f"The teacher is registered as {name}: {output.cell(state.value)}.")


def _register(ready: Ready, name: str, key_env: str) -> Teacher:
    """Register the embedded teacher, or look at it again when it is registered already."""
    from preceptor.cli.session import read_key
    from preceptor.client import Client
    from preceptor.errors import NotFound
    from preceptor.wire.teachers import TeacherCreate

    with Client(ready.url, ready.admin_key or read_key(None)) as client:
        try:
            known = client.teachers.get(name)
        except NotFound:
            return client.teachers.add(TeacherCreate(name=name, url=ready.teacher_url, key_env=key_env))
        if known.url != ready.teacher_url:
            raise Invalid(
                f"The teacher {name} is registered at {known.url}, not at {ready.teacher_url}.",
                field="--register-teacher",
                remedy="Choose another name, or start with the --teacher-port it had.",
            )
        return client.teachers.probe(name)


def _settings(kind: type[SettingsKind]) -> SettingsKind:
    """Settings from the environment. Raises Invalid, naming the variable."""
    from pydantic import ValidationError

    from preceptor_services.errors import BadSetting

    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = "PRECEPTOR_" + str(first["loc"][0]).upper()
        raise Invalid(
            f"{variable}: {first['msg']}.", field=variable, remedy="Set this environment variable; docs/operations.md."
        ) from None
    except BadSetting as error:
        raise Invalid(str(error)) from None


@contextmanager
def _extra(command: str, extra: str) -> Iterator[None]:
    """Around a command's imports: a package that is missing becomes a sentence that says which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].startswith("preceptor"):
            raise
        output.needs_extra(f"`preceptor {command}` ({error.name} is missing)", extra)
