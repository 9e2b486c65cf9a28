"""What the scripted teacher draws from attempts at tasks of one kind, some failed and some not: how a secret code
writes its letters, read off the attempts that succeeded.

Attempts come as a skill bank's recipe puts them (`Attempt 3 (failed)`, the task, the answer); what is learned goes out
as it wants it, one JSON object a line.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field

UNKNOWN = "I am a set of rules: I know how to read a secret code off attempts that succeeded, nothing else."
_ATTEMPT = re.compile(r"^Attempt (\d+) \((succeeded|failed)\)\nTask: (.*)\nAnswer: (.*)$", re.MULTILINE)
_CODED = re.compile(r"Write this word in code (\w+): ([a-z]+)")
_MOST = re.compile(r"Write at most (\d+) lines")


@dataclass(slots=True)
class _Code:
    letters: dict[str, str] = field(default_factory=dict[str, str])
    shown: int = 0
    """The last attempt that succeeded."""
    failed: bool = False
    """Whether one did not."""
    contradicted: bool = False


def lessons(prompt: str) -> str | None:
    """A line for each code of which the attempts tell every letter that they ask about; None where the prompt shows no
    attempts."""
    if not (attempts := _ATTEMPT.findall(prompt)):
        return None
    codes, asked = defaultdict[str, _Code](_Code), set[str]()
    for number, came, task, answer in attempts:
        if coded := _CODED.fullmatch(task):
            asked |= {*coded[2]}
            _read(codes[coded[1]], int(number), came == "succeeded", coded[2], answer.strip())
    most = _MOST.search(prompt)
    whole = ((name, code) for name, code in sorted(codes.items()) if asked <= code.letters.keys())
    lines = [_said(name, code) for name, code in whole if not code.contradicted]
    return "\n".join(lines[: int(most[1]) if most else None]) or UNKNOWN


def _read(code: _Code, number: int, succeeded: bool, word: str, answer: str) -> None:
    if not succeeded:
        code.failed = True
        return
    code.shown = number
    for letter, other in zip(word, answer, strict=False):
        code.contradicted |= code.letters.setdefault(letter, other) != other


def _said(name: str, code: _Code) -> str:
    skill = "\n".join(f"{letter}: {other}" for letter, other in sorted(code.letters.items()))
    mistake = f"Guessing the letters of code {name}." if code.failed else ""
    return json.dumps({"skill": skill, "mistake": mistake, "attempt": code.shown, "tags": ["code", name]})
