"""The rules of the scripted teacher: what a critic, a judge or a debater would write, worked out from the prompt.

It is no model. It understands two kinds of question, spelling a word backward and adding up a chain of numbers, and
prompts that put their material between tags: `<question>`, and where there is one `<attempt>`. What it writes is
decided by the tag that the rest of the prompt names for the reply. Where it is shown attempts of which some failed, it
says what can be learned of them (`lessons`). Of anything else it says that it does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from preceptor_services.teacher.lessons import lessons

UNKNOWN = "I am a set of rules: I know how to spell a word backward and how to add up a chain of numbers, nothing else."
MATERIAL = ("question", "attempt", "reference", "debate", "verdict")
_WORD = re.compile(r"backward.*:\s*([A-Za-z]+)\s*$", re.DOTALL)
_CHAIN = re.compile(r"(-?\d+(?: [+-] \d+)+)\s*=\s*$")
_STEP = re.compile(r"(-?\d+) ([+-]) (\d+) = (-?\d+)")


class Case:
    """What a prompt tells: the question solved, and the attempt at it."""

    def __init__(self, question: str, attempt: str, lines: Sequence[str]) -> None:
        self.question, self.attempt, self.lines = question, attempt, lines
        self.final = lines[-1].removeprefix("#### ")

    @property
    def spells(self) -> bool:
        """Whether a word is to be spelt."""
        return len(self.lines) == 1

    @property
    def wrong_at(self) -> int | None:
        """The attempt's first wrong line; None: it is right."""
        tried = self.attempt.split("\n")
        for index, line in enumerate(tried):
            if self.spells:
                holds = line.strip().casefold() == self.final.casefold()
            else:
                step = _STEP.fullmatch(line.strip())
                holds = _holds(*step.groups()) if step else line.strip() == self.lines[-1]
            if not holds:
                return index
        return None if tried[-1].strip().casefold() == self.lines[-1].casefold() else len(tried)


def reply(prompt: str) -> str:
    """What is written after a prompt."""
    if (learned := lessons(prompt)) is not None:
        return learned
    told = {tag: _between(prompt, tag) for tag in MATERIAL}
    rest = prompt
    for tag in MATERIAL:
        rest = re.sub(rf"<{tag}>.*?</{tag}>", "", rest, flags=re.DOTALL)
    wanted = next((tag for tag in RULES if f"<{tag}>" in rest), None)
    lines = solved(told["question"] or "")
    if wanted is None or lines is None:
        return UNKNOWN
    return RULES[wanted](Case(told["question"] or "", told["attempt"] or "", lines))


def solved(question: str) -> list[str] | None:
    """A worked solution, a line a step; None where the question is of no kind that is known."""
    if word := _WORD.search(question):
        return [word[1][::-1]]
    chain = _CHAIN.search(question)
    if chain is None:
        return None
    first, *others = chain[1].split()
    total, lines = int(first), list[str]()
    for sign, number in zip(others[::2], others[1::2], strict=True):
        following = total + int(number) if sign == "+" else total - int(number)
        lines.append(f"{total} {sign} {number} = {following}")
        total = following
    return [*lines, f"#### {total}"]


def _critique(case: Case) -> str:
    """The attempt up to its first wrong line, and the solution from there."""
    at = case.wrong_at
    tried = case.attempt.split("\n")
    same = 0
    while at is not None and same < min(at, len(case.lines) - 1) and tried[same].strip() == case.lines[same]:
        same += 1
    text = case.attempt if at is None else "\n".join([*tried[:same], *case.lines[same:]])
    return _tagged("critique", text)


def _rubric(case: Case) -> str:
    if case.spells:
        points = ["Writes the letters from the last to the first.", f"Writes {len(case.final)} letters, and no others."]
    else:
        points = ["Goes from left to right.", "Writes every running total.", "Ends with #### and the last total."]
    return _tagged("rubric", "\n".join(points))


def _feedback(case: Case) -> str:
    """Where it went wrong, without the answer."""
    at = case.wrong_at
    if at is None:
        return _tagged("feedback", "Everything is right.")
    if case.spells:
        place = _first_difference(case.attempt.strip(), case.final)
        return _tagged("feedback", f"Spell the word backward: letter {place + 1} is wrong.")
    return _tagged("feedback", f"Check this arithmetic problem again: line {at + 1} is wrong.")


def _argument(case: Case) -> str:
    right = case.wrong_at is None
    said = "The attempt is right." if right else "The attempt is wrong. Correct is:\n" + "\n".join(case.lines)
    return _tagged("argument", said) + "\n" + _tagged("confidence", "80" if right else "95")


def _spans(case: Case) -> str:
    """The first wrong line or letters of an attempt that is wrong; of one that is right, what it begins with."""
    at, tried = case.wrong_at, case.attempt.split("\n")
    line = tried[min(at or 0, len(tried) - 1)]
    if at is None:
        text, label = line[: max(1, len(line) // 4)] if case.spells else line, "how it begins"
    elif case.spells:
        place = min(_first_difference(line, case.final), max(len(line) - 1, 0))
        text, label = line[place : place + 2], "a wrong letter"
    else:
        text, label = line, "a wrong sum"
    return _tagged("spans", json.dumps([{"text": text, "label": label}] if text else []))


def _skill(case: Case) -> str:
    if case.spells:
        skill, mistake = "Write the letters from the last to the first.", "Keeping the order of the letters."
    else:
        skill, mistake = "Keep a running total, one number at a time.", "Taking a number for its neighbour."
    return _tagged("skill", skill) + "\n" + _tagged("mistake", mistake)


RULES: dict[str, Callable[[Case], str]] = {
    "critique": _critique,
    "rubric": _rubric,
    "argument": _argument,
    "spans": _spans,
    "feedback": _feedback,
    "judgement": lambda case: _tagged("judgement", "right" if case.wrong_at is None else "wrong"),
    "rewrite": lambda case: _tagged("rewrite", "\n".join(case.lines)),
    "solution": lambda case: _tagged("solution", "\n".join(case.lines)),
    "skill": _skill,
}
"""What is written, by the tag that the reply is to stand in."""


def _tagged(tag: str, text: str) -> str:
    return f"<{tag}>\n{text}\n</{tag}>"


def _first_difference(tried: str, right: str) -> int:
    """The first letter that differs, case aside; the end of the shorter one where none does."""
    pairs = zip(tried.casefold(), right.casefold(), strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(tried), len(right)))


def _between(prompt: str, tag: str) -> str | None:
    found = re.search(rf"<{tag}>\n?(.*?)\n?</{tag}>", prompt, re.DOTALL)
    return None if found is None else found[1]


def _holds(one: str, sign: str, other: str, total: str) -> bool:
    return int(total) == (int(one) + int(other) if sign == "+" else int(one) - int(other))
