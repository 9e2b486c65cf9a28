"""How a debate goes: who is asked next and what, when it ends, what each debater counts then.

Pure: it knows what was said and says what follows; whoever holds the debate asks the teachers. A worker does for
`POST /v1/debates`, the trainer for the `debate` context.

    while isinstance(step := following(rules, turns), Round):
        turns += [whatever came of asking each of step.debaters prompt(rules, subject, each, step.number, turns)]
    outcome(rules, turns, step, seconds)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

from preceptor.errors import PROBLEM_TYPES
from preceptor.texts import filled, tagged
from preceptor.wire.chat import Reply
from preceptor.wire.common import Problem
from preceptor.wire.debates import (
    DebateCreate,
    DebateResult,
    DebateTemplate,
    DebateTurn,
    Ended,
    Excluded,
    StopRule,
)

NOTHING = "(nothing)"
"""What stands where nothing was said yet, or the attempt has no words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a debate is held by."""

    debaters: tuple[str, ...]
    template: DebateTemplate
    stop: tuple[StopRule, ...] = ()
    quorum: int = 1
    tau: float = 1.0
    max_tokens: int = 512
    """Longest reply."""
    tokens: int | None = None
    """That may be written in all; None: no bound but rounds and replies have."""
    seconds: float | None = None
    """That it may take; None: no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is debated."""

    question: str
    attempt: str | None = None
    """The student's answer; None: the debate is blind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Somebody is to speak."""

    number: int
    debaters: tuple[str, ...]
    """Who has not spoken in it yet: side by side, nobody hears the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Nobody is."""

    why: Ended
    rounds: int
    """Rounds that count."""
    heard: tuple[str, ...]
    """Who is heard."""


def rules_of(wish: DebateCreate, template: DebateTemplate) -> Rules:
    """What a debate is held by that somebody asked for."""
    return Rules(
        debaters=wish.teachers,
        template=template,
        stop=wish.stop,
        quorum=wish.quorum,
        tau=wish.tau,
        max_tokens=wish.max_tokens,
        tokens=wish.budget.tokens,
        seconds=wish.budget.seconds,
    )


def following(rules: Rules, turns: Sequence[DebateTurn], elapsed: float = 0.0) -> Round | End:
    """What is to happen next. `elapsed`: seconds since it began.

    A debater that gave nothing that counts is excluded from that round on. A later round in which somebody was late
    does not count, and excludes nobody: the debate ends as it stood before.
    """
    heard = rules.debaters
    for number in range(1, rules.template.rounds + 1):
        said = {turn.debater: turn for turn in turns if turn.round == number}
        if not said and number > 1 and (why := _out_of_budget(rules, turns, heard, elapsed)) is not None:
            return End(why=why, rounds=number - 1, heard=heard)
        if left := tuple(each for each in heard if each not in said):
            return Round(number=number, debaters=left)
        late = any(said[each].missing == "late" for each in heard)
        if late and number > 1:
            return End(why="time_budget", rounds=number - 1, heard=heard)
        heard = tuple(each for each in heard if said[each].missing is None)
        if len(heard) < rules.quorum:
            return End(why="too_few", rounds=number, heard=heard)
        if late:
            return End(why="time_budget", rounds=number, heard=heard)
        if number < rules.template.rounds and (rule := _stops(rules, turns, number, heard)) is not None:
            return End(why=rule, rounds=number, heard=heard)
    return End(why="rounds", rounds=rules.template.rounds, heard=heard)


def prompt(rules: Rules, subject: Subject, debater: str, number: int, turns: Sequence[DebateTurn]) -> str:
    """What a debater reads in a round."""
    roles = rules.template.roles
    role = roles[rules.debaters.index(debater) % len(roles)] if roles else ""
    before = transcript(turns, number - 1, rules.debaters) or NOTHING
    pieces = {"question": subject.question, "debate": before, "role": role, "debater": debater}
    if subject.attempt is None:
        return filled(rules.template.ask, pieces)
    return filled(rules.template.ask_sighted, {**pieces, "attempt": subject.attempt.strip() or NOTHING})


def read(template: DebateTemplate, sighted: bool, reply: str) -> tuple[str, int, str | None]:
    """Argument, confidence (0 to 100) and answer of a reply. Raises ValueError where one that was asked for is missing,
    twice there, or no whole number."""
    sure = tagged(reply, "confidence")
    if not re.fullmatch(r"[0-9]{1,3}", sure) or int(sure) > 100:
        raise ValueError(f"<confidence> holds {sure[:40]!r}, no whole number from 0 to 100")
    asked = template.ask_sighted if sighted else template.ask
    return tagged(reply, "argument"), int(sure), tagged(reply, "answer") if "<answer>" in asked else None


def written(reply: Reply, most: int) -> int:
    """Tokens to charge for a reply: what the server counts, else as many as its bytes, which are never fewer."""
    return min(most, len(reply.text.encode())) if reply.tokens is None else reply.tokens


def transcript(turns: Sequence[DebateTurn], rounds: int, debaters: Sequence[str]) -> str:
    """What was said up to a round, one turn after another, in the debaters' order."""
    said = [turn for turn in _in_order(turns, debaters) if turn.round <= rounds and turn.missing is None]
    return "\n".join(f"{turn.debater}: {_told(turn)}" for turn in said)


def outcome(rules: Rules, turns: Sequence[DebateTurn], end: End, seconds: float) -> DebateResult:
    """What came of a debate that has taken so many seconds."""
    shares = weights(rules, turns, end)
    return DebateResult(
        ended=end.why,
        rounds=end.rounds,
        transcript=transcript(turns, end.rounds, rules.debaters),
        weights=shares,
        answer=favoured(turns, end, shares),
        agreed=agreed(turns, end),
        excluded=excluded(_in_order(turns, rules.debaters), end),
        calls=len(turns),
        tokens=sum(turn.tokens for turn in turns),
        seconds=seconds,
    )


def too_few(rules: Rules, result: DebateResult) -> Problem:
    """What is said of a debate that fell below its quorum."""
    failed = "; ".join(f"{each.debater} in round {each.round}: {each.missing}" for each in result.excluded)
    return Problem(
        type=PROBLEM_TYPES + "too-few-debaters",
        title="Too few debaters",
        detail=f"{len(result.weights)} of {len(rules.debaters)} debaters are left, and the quorum is {rules.quorum} "
        f"({failed}).",
        remedy="See what each said with `preceptor debates show`; ask others, or raise max_tokens where replies were "
        "cut off.",
        field="teachers",
        status=502,
    )


def weights(rules: Rules, turns: Sequence[DebateTurn], end: End) -> dict[str, float]:
    """What each who is heard counts: softmax over the confidences of the last round that counts. They sum to 1."""
    sure = {turn.debater: turn.confidence or 0 for turn in turns if turn.round == end.rounds}
    if not end.heard:
        return {}
    top = max(sure[each] for each in end.heard)
    score = {each: exp((sure[each] - top) / 100 / rules.tau) for each in end.heard}
    return {each: value / sum(score.values()) for each, value in score.items()}


def excluded(turns: Sequence[DebateTurn], end: End) -> tuple[Excluded, ...]:
    """Who is not heard, and why."""
    return tuple(
        Excluded(debater=turn.debater, round=turn.round, missing=turn.missing, detail=turn.detail)
        for turn in turns
        if turn.missing is not None and turn.debater not in end.heard
    )


def positions(turns: Sequence[DebateTurn], number: int, heard: Sequence[str]) -> dict[str, str]:
    """What each holds in a round: the answer, where one is asked for, else the argument; case and spacing aside."""
    return {
        turn.debater: " ".join((turn.answer or turn.argument or "").casefold().split())
        for turn in turns
        if turn.round == number and turn.debater in heard
    }


def favoured(turns: Sequence[DebateTurn], end: End, shares: Mapping[str, float]) -> str | None:
    """The answer of the most weight, in the words of the surest who gives it; None: nobody was asked for one."""
    last = [turn for turn in turns if turn.round == end.rounds and turn.debater in end.heard]
    if not last or any(turn.answer is None for turn in last):
        return None
    held = positions(turns, end.rounds, end.heard)
    weight = {turn.debater: sum(shares[each] for each in held if held[each] == held[turn.debater]) for turn in last}
    return max(last, key=lambda turn: (weight[turn.debater], shares[turn.debater])).answer


def agreed(turns: Sequence[DebateTurn], end: End) -> bool:
    """Whether all who are heard hold one position in the last round that counts."""
    return len(set(positions(turns, end.rounds, end.heard).values())) == 1


def hash_of(template: DebateTemplate) -> str:
    """SHA-256 of what a template says."""
    canonical = json.dumps(template.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _in_order(turns: Sequence[DebateTurn], debaters: Sequence[str]) -> list[DebateTurn]:
    """By round and debater, whoever's reply was there first."""
    order = {debater: place for place, debater in enumerate(debaters)}
    return sorted(turns, key=lambda turn: (turn.round, order[turn.debater]))


def _told(turn: DebateTurn) -> str:
    return (turn.argument or "") + ("" if turn.answer is None else f" (answer: {turn.answer})")


def _out_of_budget(rules: Rules, turns: Sequence[DebateTurn], heard: Sequence[str], elapsed: float) -> Ended | None:
    if rules.seconds is not None and elapsed >= rules.seconds:
        return "time_budget"
    spent = sum(turn.tokens for turn in turns)
    if rules.tokens is not None and spent + len(heard) * rules.max_tokens > rules.tokens:
        return "token_budget"
    return None


def _stops(rules: Rules, turns: Sequence[DebateTurn], number: int, heard: Sequence[str]) -> StopRule | None:
    now = positions(turns, number, heard)
    if "agreement" in rules.stop and len(set(now.values())) == 1:
        return "agreement"
    if "no_change" in rules.stop and number > 1 and now == positions(turns, number - 1, heard):
        return "no_change"
    return None
