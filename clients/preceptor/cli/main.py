"""The `preceptor` command: what people type, on top of the SDK.

Exit codes: 0 done; 1 it failed (a run that ended failed included); 2 the command line or the request is at fault;
3 nobody answers; 4 the key is missing, wrong or too weak; 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer
from pydantic import ValidationError

from preceptor.cli import artifacts, codistill, debates, exports, keys, output, recipes, runs, skills, teachers
from preceptor.errors import PreceptorError
from preceptor.validation import invalid

COMMANDS_GROUP = "preceptor.commands"
"""Entry points that add commands: `register(app)`. Loading one imports nothing heavy."""


def create_app() -> typer.Typer:
    """The whole command, with what installed packages contribute."""
    app = typer.Typer(
        name="preceptor",
        help="On-policy distillation, self-hosted: students learn on what they write, teachers say how likely it was.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.add_typer(teachers.app, name="teachers")
    app.add_typer(runs.app, name="runs")
    app.add_typer(recipes.app, name="recipes")
    app.add_typer(artifacts.app, name="artifacts")
    app.add_typer(exports.app, name="models")
    app.add_typer(skills.app, name="skills")
    app.add_typer(debates.app, name="debates")
    app.add_typer(codistill.app, name="codistill")
    app.add_typer(keys.app, name="keys")
    contributed = entry_points(group=COMMANDS_GROUP)
    for each in contributed:
        each.load()(app)
    if not contributed:
        _add_missing(app)
    return app


def main() -> None:
    """Entry point of the `preceptor` script. Never shows a traceback for an error that Preceptor raised on purpose."""
    try:
        create_app()()
    except PreceptorError as error:
        raise _ended(error) from None
    except ValidationError as error:
        raise _ended(invalid(error.errors(include_url=False), whole="what was given")) from None
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise _ended(PreceptorError(f"{what}.", remedy="Check the path, its rights and its disk.")) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _ended(error: PreceptorError) -> SystemExit:
    output.complain(error, as_json="--json" in sys.argv)
    return SystemExit(output.exit_code(error))


def _add_missing(app: typer.Typer) -> None:
    """Where no package contributes the commands that start a process, say which one would."""
    for name in ("up", "api", "worker", "teacher"):

        @app.command(
            name,
            help="Starts a process: needs the extra `services`, which is not installed.",
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )
        def missing(name: str = name) -> None:  # pyright: ignore[reportUnusedFunction]
            output.needs_extra(f"`preceptor {name}`", "services,trainer")


if __name__ == "__main__":
    main()
