"""Texts that contexts want before their prompts can be written: asked for side by side, read strictly, counted.

A context says what it wants (`Context.asks`), gets what was kept of the replies (`Context.read`), and is asked again
until it wants nothing more. What nobody writes, and what has not the form that was asked for, is counted by role; the
context has no opinion on that rollout then, never one around an empty text. Equal wishes of one step are asked once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic
from typing import TypeVar

from preceptor.errors import Interrupted, TeacherUnavailable
from preceptor.wire.chat import ChatMessage, ChatRequest, Reply
from preceptor.wire.debates import Missing
from preceptor.wire.runs import OnFailure, TeacherLedger
from preceptor_trainer.asking import Scorer
from preceptor_trainer.parts.contexts_tutored import Tutored
from preceptor_trainer.recipe import Context, Router
from preceptor_trainer.standing import domain_of
from preceptor_trainer.views import Ask, ContextView
from preceptor_trainer.writer import stream

SIDE_BY_SIDE = 16
"""Texts, or teachers, that are asked for at once."""
ROUNDS = 32
"""How often a context may want more."""

View = Callable[[Mapping[str, str]], ContextView]
"""What a context looks at, given the replies: anew for every call, so that what it draws is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What came of asking for a text."""

    reply: Reply | None
    """None: nobody wrote."""
    seconds: float
    wrong: tuple[Missing, str] | None
    """Why nothing is kept of it, and that in a sentence."""


@dataclass(slots=True, kw_only=True, eq=False)
class Case:
    """A context on one rollout, or its router, and what it was told so far."""

    name: str
    """The context's, in the recipe."""
    asker: Context | Router
    """Whoever may want texts."""
    on_failure: OnFailure
    """The context's."""
    row: int
    """The rollout's place in its part."""
    view: View
    replies: dict[str, str] = field(default_factory=dict[str, str])
    spoken: dict[str, Spoken] = field(default_factory=dict[str, Spoken])
    """How the replies came, by the same keys."""
    held_in: str | None = None
    """The debate that was held before, and has the replies."""
    silent: bool = False
    """Some text is not to be had: no opinion."""
    role: str = ""
    """Who is asked for scores, unless a prompt says otherwise; known once it was dispatched."""

    def seen(self) -> ContextView:
        return self.view(self.replies)


_Key = tuple[str, ChatRequest, OnFailure]
Wanted = TypeVar("Wanted")
Said = TypeVar("Said")


class Texts:
    """Asks a run's text teachers."""

    def __init__(self, scorer: Scorer, seed: int) -> None:
        self._scorer = scorer
        self._seed = seed
        self._said: dict[int, dict[_Key, tuple[Reply | None, float]]] = {}
        self._counted: set[tuple[int, _Key]] = set()

    def gather(self, cases: Sequence[Case], step: int) -> dict[str, TeacherLedger]:
        """Get every case its replies, or mark it silent; returns what is to be counted, by role.

        Raises the scorer's errors; TeacherUnavailable only where the context does not say `drop`.
        """
        counts = {"texts": Counter[str](), "unwritten": Counter[str](), "unreadable": Counter[str]()}
        self._said = {known: said for known, said in self._said.items() if known >= step}
        self._counted = {each for each in self._counted if each[0] >= step}
        said = self._said.setdefault(step, {})
        wanting = [case for case in cases if case.asker.writers]
        for _ in range(ROUNDS):
            asked = [(case, ask) for case in wanting for ask in self._asks(case)]
            if not asked:
                return _ledgers(counts)
            keys = {(id(case), ask.key): self._key(case, ask, step) for case, ask in asked}
            fresh = [key for key in dict.fromkeys(keys.values()) if key not in said]
            for key, reply in zip(fresh, side_by_side(lambda key: self._ask(*key), fresh), strict=True):
                said[key] = reply
            for key in dict.fromkeys(keys.values()):
                if (step, key) not in self._counted:
                    self._counted.add((step, key))
                    counts["unwritten" if said[key][0] is None else "texts"][key[0]] += 1
            for case, ask in asked:
                reply, seconds = said[keys[id(case), ask.key]]
                wrong = _missing(case, ask, reply)
                case.spoken[ask.key] = Spoken(reply=reply, seconds=seconds, wrong=wrong)
                if wrong is not None:
                    counts["unreadable"][ask.teacher] += reply is not None
                    _do_without(case, ask, wrong[0])
            wanting = list({id(case): case for case, _ in asked if not case.silent}.values())
        raise ValueError(f"contexts.{wanting[0].name}: still wants text after {ROUNDS} rounds")

    def begin_again(self, replaced: Collection[str]) -> None:
        """What comes of the texts of steps that are not learned from yet is counted anew; those of these roles are
        asked for anew."""
        self._counted.clear()
        for said in self._said.values():
            for key in [key for key in said if key[0] in replaced]:
                del said[key]

    def _asks(self, case: Case) -> Sequence[Ask]:
        asks = case.asker.asks(case.seen())
        for ask in asks:
            if ask.key in case.replies:
                raise ValueError(f"contexts.{case.name}: asks for '{ask.key}' again, which it was given")
            if ask.teacher not in case.asker.writers:
                known = ", ".join(case.asker.writers) or "none"
                raise ValueError(
                    f"contexts.{case.name}: wants text from role '{ask.teacher}', and says that its writers are {known}"
                )
        return asks

    def _key(self, case: Case, ask: Ask, step: int) -> _Key:
        seen = case.seen()
        seed = None
        if ask.temperature > 0:
            seed = stream(self._seed, "text", step, case.name, seen.task.id, seen.rollout.index, ask.key) >> 1
        request = ChatRequest(
            messages=tuple(ChatMessage(**message) for message in ask.messages),
            max_tokens=ask.max_tokens,
            temperature=ask.temperature,
            seed=seed,
        )
        return ask.teacher, request, case.on_failure

    def _ask(self, role: str, request: ChatRequest, on_failure: OnFailure) -> tuple[Reply | None, float]:
        """What was written, and after how many seconds."""
        began = monotonic()
        try:
            reply = self._scorer.chat(role, request, on_failure=on_failure)
        except TeacherUnavailable:
            if on_failure != "drop":
                raise
            reply = None
        return reply, monotonic() - began


def side_by_side(ask: Callable[[Wanted], Said], wanted: Sequence[Wanted]) -> list[Said]:
    """What `ask` returns of each, in their order, at most SIDE_BY_SIDE at once; raises what the first of them raised.
    What is still under way then is left to its own deadline, and what it brings is thrown away; where the first was
    broken off it is waited for, since it would be asked for again beside itself."""
    if len(wanted) <= 1:
        return [ask(each) for each in wanted]
    threads = ThreadPoolExecutor(min(SIDE_BY_SIDE, len(wanted)), thread_name_prefix="asks")
    try:
        futures = [threads.submit(ask, each) for each in wanted]
        return [future.result() for future in futures]
    except Interrupted:
        threads.shutdown(cancel_futures=True)
        raise
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def told_of(cases: Sequence[Case]) -> dict[str, float]:
    """Rollouts whose teacher reads a peer's feedback on them, and sentences of feedback that were left out because they
    say the answer, by the tasks' domain, as a step's metrics call them."""
    told: dict[str, float] = {}
    for case in cases:
        if isinstance(case.asker, Tutored) and case.asker.writers:
            seen, spoken = case.seen(), case.spoken.get("feedback")
            reply = None if spoken is None else spoken.reply
            cut = 0 if reply is None or not reply.finished else case.asker.redacted(seen, reply.text)
            for name, count in (("feedback", bool(case.replies.get("feedback"))), ("feedback_cut", cut)):
                key = f"{name}/{domain_of(seen.task.columns)}"
                told[key] = told.get(key, 0.0) + count
    return told


def wording(context: Context) -> str | None:
    """Which words a context puts around what it shows and asks: its kind and a hash of its templates; None: it has
    none. Recorded with every score."""
    held = {name: getattr(context, name) for name in type(context).model_fields if name.endswith("template")}
    return f"{context.kind}@{sha256(repr(sorted(held.items())).encode()).hexdigest()[:12]}" if held else None


def _missing(case: Case, ask: Ask, reply: Reply | None) -> tuple[Missing, str] | None:
    """Why there is nothing to keep of a reply; None: there is, and it is among the case's."""
    if reply is None:
        return "unavailable", "Nobody answered."
    if not reply.finished:
        return "cut_off", f"The reply was cut off at {ask.max_tokens} tokens."
    try:
        case.replies[ask.key] = case.asker.read(case.seen(), ask.key, reply.text)
    except ValueError as error:
        return "unreadable", str(error)
    return None


def _do_without(case: Case, ask: Ask, why: Missing) -> None:
    """What the context keeps in a text's place; where that is nothing, it has no opinion."""
    instead = case.asker.missed(case.seen(), ask.key, why) if isinstance(case.asker, Context) else None
    if instead is None:
        case.silent = True
    else:
        case.replies[ask.key] = instead


def _ledgers(counts: Mapping[str, Counter[str]]) -> dict[str, TeacherLedger]:
    roles = sorted({role for counter in counts.values() for role in counter})
    return {role: TeacherLedger.model_validate({what: found[role] for what, found in counts.items()}) for role in roles}
