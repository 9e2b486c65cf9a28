"""Runs small programs that a model wrote, each in a process of its own with limits. Started by `sandbox`, as a script.

A line of standard input is a request, a line of standard output its answer, both JSON. A program is one expression of
calls, names, numbers, texts and arithmetic: no attribute, no subscript, no loop, no power, no builtin. It is evaluated
in a forked child that may compute for a second, hold 256 MiB, and write or open nothing.
"""

import ast
import contextlib
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Callable

ALLOWED = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.UnaryOp, ast.USub, ast.UAdd,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod,
)  # fmt: skip
LONGEST = 10_000
"""Characters of a program, and of what it gives."""
SECONDS = 1
BYTES = 256 * 2**20


def tree(text: str) -> ast.Expression:
    """The expression. Raises SyntaxError, also for what is Python and not allowed here."""
    if len(text) > LONGEST:
        raise SyntaxError(f"it has {len(text)} characters; {LONGEST} are allowed")
    parsed = ast.parse(text.strip(), "program", mode="eval")
    for node in ast.walk(parsed):
        if not isinstance(node, ALLOWED) or (isinstance(node, ast.Call) and node.keywords):
            raise SyntaxError(f"{type(node).__name__} is not allowed; a program is calls, names, numbers, arithmetic")
    return parsed


def function(name: str, body: types.CodeType) -> "Callable[[object], object]":
    """One of a library's, of one argument."""

    def call(x: object, /) -> object:
        return eval(body, {"__builtins__": {}, "x": x})

    call.__qualname__ = name
    return call


def value_of(program: str, library: "dict[str, str]") -> object:
    """What the program gives; the library's functions are expressions of `x`."""
    names: dict[str, object] = {"__builtins__": {}}
    for name, text in library.items():
        names[name] = function(name, compile(tree(text), name, "eval"))
    return eval(compile(tree(program), "program", "eval"), names)


def told(program: str, library: "dict[str, str]") -> "dict[str, str]":
    """`value`, or the `error` as Python says it."""
    try:
        return {"value": repr(value_of(program, library))[:LONGEST]}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"[:LONGEST]}


def answer(request: "dict[str, object]") -> "dict[str, str]":
    """The same, from a child with limits. One that is killed has an error, too."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            os.write(writing, json.dumps(told(**request)).encode())  # type: ignore[arg-type]
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else {"error": f"TimeoutError: it did not end within {SECONDS} s"}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
