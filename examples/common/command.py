"""The command that an example is: what every one can be told, and how it ends where nothing came of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from preceptor.cli import output
from preceptor.errors import PreceptorError


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for the script of this name, described by the first line of its module's docstring."""
    made = argparse.ArgumentParser(prog=name, description=(doc or "").partition("\n")[0])
    made.add_argument("--seed", type=int, default=0, help="seed of all runs (default: 0)")
    return made


def exit_code(main: Callable[[], int]) -> int:
    """That of `main`; 1 after an error, which is shown as `preceptor` shows it; 130 where it was interrupted."""
    try:
        return main()
    except PreceptorError as error:
        output.complain(error, as_json=False)
        return 1
    except KeyboardInterrupt:
        return 130
