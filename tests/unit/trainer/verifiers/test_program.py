"""Programs are run, with limits; what goes wrong is said."""

from __future__ import annotations

import pytest

from preceptor_trainer.verifiers import Program
from preceptor_trainer.verifiers.sandbox import SANDBOX
from preceptor_trainer.views import Message, Task

LIBRARY = {"dub": "2 * x", "sq": "x * x"}


@pytest.mark.parametrize(
    ("program", "value"),
    [("dub(sq(3))", "18"), (" sq( dub(2) ) + 1\n", "17"), ("-7 // 2", "-4"), ("'a' + 'b'", "'ab'"), ("3", "3")],
)
def test_a_program_gives_a_value(program: str, value: str) -> None:
    assert SANDBOX.run(program, LIBRARY).value == value


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("dub(", "SyntaxError: '(' was never closed"),
        ("", "SyntaxError"),
        ("tri(3)", "NameError: name 'tri' is not defined"),
        ("dub()", "TypeError: dub() missing 1 required positional argument"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("open('/etc/passwd')", "NameError: name 'open' is not defined"),
        ("__import__('os')", "NameError"),
        ("dub.__class__", "SyntaxError: Attribute is not allowed"),
        ("(lambda: 1)()", "SyntaxError: Lambda is not allowed"),
        ("dub(x=1)", "SyntaxError: Call is not allowed"),
        ("9 ** 9 ** 9", "SyntaxError: Pow is not allowed"),
        ("[1 for _ in 'ab']", "SyntaxError: ListComp is not allowed"),
        ("1" * 20_000, "SyntaxError: it has 20000 characters"),
        ("sq(" * 40 + "99999999" + ")" * 40, "TimeoutError: it did not end within 1 s"),
        ("'a' * 999999999", "MemoryError"),
        ("-" * 9000 + "1", "MemoryError"),
        ("\udc80", "UnicodeEncodeError"),
    ],
)
def test_what_goes_wrong_is_an_error_and_no_harm(program: str, says: str) -> None:
    outcome = SANDBOX.run(program, LIBRARY)
    assert outcome.value is None and outcome.error is not None
    assert says in outcome.error
    assert SANDBOX.run("dub(2)", LIBRARY).value == "4"


def test_a_server_that_died_is_an_error_once_and_no_verdict() -> None:
    assert SANDBOX.run("1", {}).value == "1"
    process = SANDBOX._process
    assert process is not None
    process.kill()
    process.wait()
    assert SANDBOX.run("1", {}).value == "1"


def task(**columns: object) -> Task:
    return Task(id="t", messages=(Message(role="user", content="?"),), answer="6", columns=columns)


def test_the_verdict_says_what_happened_and_what_the_library_has() -> None:
    library = {"dub": {"is": "2 * x", "does": "double"}, "inc": {"is": "x + 1", "does": "increase"}}
    asked = task(library=library, asks=["double"])
    assert Program()(asked, "dub(3)").correct
    assert Program()(asked, "inc(3)").feedback == "The program runs, and its value is wrong.\nto double: dub"
    assert Program()(asked, "tri(3)").feedback == "NameError: name 'tri' is not defined\nto double: dub"


@pytest.mark.parametrize("columns", [{}, {"library": "dub"}, {"library": {"dub": "2 * x"}}, {"library": {"dub": {}}}])
def test_data_without_a_library_is_no_wrong_answer(columns: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="task t has no answer, or no `library`"):
        Program()(task(**columns), "1")
