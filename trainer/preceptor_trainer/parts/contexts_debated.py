"""A context around a debate: several teachers discuss a question, and each scores with all of it before its eyes.

How a debate goes is in `preceptor.debates.protocol`, the same for a run and for `POST /v1/debates`. Whoever gives
nothing that counts is excluded and counted (`unwritten`, `unreadable` in the step's ledger), and its share goes to the
others in proportion to theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from preceptor.debates import protocol
from preceptor.debates.protocol import NOTHING, End, Round, Rules, Subject
from preceptor.debates.templates import BLIND, SIGHTED, ask
from preceptor.wire.common import Name
from preceptor.wire.debates import (
    MOST_ROUNDS,
    MOST_TEXT,
    DebateBudget,
    DebateCreate,
    DebateTemplate,
    DebateTurn,
    StopRule,
)
from preceptor_trainer.parts.contexts import asked, corrupted, question
from preceptor_trainer.recipe import Context
from preceptor_trainer.views import Ask, ContextView, Message, Prompt


class Debate(Context, kind="debate"):
    """What several teachers said in turn, shown to each of them; one opinion each, weighed by how sure it said it was
    in the last round: softmax(c / tau), c in [0, 1] (MAD-OPD, arXiv:2605.01347).

    Where the data brings a `debate`, nobody writes, and all weigh alike.
    """

    reveals: ClassVar[frozenset[str]] = frozenset({"answer"})
    debaters: tuple[Name, ...] = Field(default=("first", "second"), min_length=1, max_length=8)
    """The roles that score, each with its own share."""
    speakers: tuple[str, ...] = ()
    """The roles that write in their stead, one for each; none: every debater writes and scores."""
    sighted: bool = True
    """Whether they see the student's answer. A blind debate is held once for all rollouts of a question."""
    rounds: int = Field(default=2, ge=1, le=MOST_ROUNDS)
    """How often each speaks at most; within a round nobody hears the others."""
    stop: tuple[StopRule, ...] = ()
    """When it ends before: at `agreement`, or at `no_change`."""
    quorum: int = Field(default=1, ge=1, le=8)
    """With fewer debaters left there is no opinion."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the confidences; a small one hears the surest alone."""
    max_tokens: int = Field(default=512, ge=1, le=100_000)
    """Longest reply. One that is longer is cut off, and its debater excluded."""
    temperature: float = Field(default=0.0, ge=0, le=10)
    """Of the debaters' writing; 0: the likeliest text."""
    from_data: bool = True
    """Whether a row's own `debate` stands in place of one."""
    template: str = "{question}\n\nA debate about this problem:\n{debate}\n\nNow solve the problem."
    """The text that replaces the last user message; it holds `{question}` and `{debate}` once each."""
    ask_template: str = ask(SIGHTED, sighted=True, answer=False)
    """What a sighted debater reads; it holds `{question}`, `{attempt}` and `{debate}`, and perhaps `{role}` and
    `{debater}`."""
    blind_template: str = ask(BLIND, sighted=False, answer=False)
    """What a blind debater reads; the same without `{attempt}`."""
    roles: tuple[str, ...] = Field(default=(), max_length=8)
    """What `{role}` stands for, debater by debater, over again where there are more debaters."""
    wrong: bool = False
    """The control arm: show a corrupted transcript."""
    fresh: bool = False
    """Hold a debate even where the same was held already: of the same question and attempt, by the same teachers at the
    same versions, in the same words, without draws."""
    record_every: int = Field(default=1, ge=0)
    """The debates of every how many-th step are stored, for `preceptor debates list --run`; 0: none are."""

    @model_validator(mode="after")
    def _suits(self) -> Self:
        for name in ("question", "debate"):
            if self.template.count(f"{{{name}}}") != 1:
                raise ValueError(f"template: it must hold {{{name}}} exactly once")
        if len(set(self.debaters)) != len(self.debaters):
            raise ValueError("debaters: one is named twice")
        if self.speakers and len(set(self.speakers)) != len(self.debaters):
            raise ValueError(f"speakers: there is one for each of the {len(self.debaters)} debaters, or none")
        if self.quorum > len(self.debaters):
            raise ValueError(f"quorum: {self.quorum} are never left of {len(self.debaters)} debaters")
        try:
            self._rules()
        except ValidationError as error:
            said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            where = {"ask": "blind_template", "ask_sighted": "ask_template"}
            name, _, rest = said.partition(": ")
            raise ValueError(f"{where.get(name, name)}: {rest}") from None
        return self

    @property
    def scorers(self) -> tuple[str, ...]:
        return self.debaters

    @property
    def writers(self) -> tuple[str, ...]:
        return self.speakers or self.debaters

    def asks(self, view: ContextView) -> Sequence[Ask]:
        if self.given(view) is not None:
            return ()
        rules, turns = self._rules(), self.turns(view)
        step = protocol.following(rules, turns)
        if isinstance(step, End):
            return ()
        subject = Subject(question=question(view.task), attempt=view.rollout.text if self.sighted else None)
        speaker = dict(zip(self.debaters, self.writers, strict=True))
        return [
            Ask(
                key=self.key(step.number, each),
                teacher=speaker[each],
                messages=(Message(role="user", content=protocol.prompt(rules, subject, each, step.number, turns)),),
                max_tokens=self.max_tokens,
                temperature=self.temperature,
            )
            for each in step.debaters
        ]

    @staticmethod
    def key(number: int, debater: str) -> str:
        """What a turn is asked for by."""
        return f"{number}/{debater}"

    def read(self, view: ContextView, key: str, reply: str) -> str:
        number, _, debater = key.partition("/")
        argument, confidence, answer = protocol.read(self.worded, self.sighted, reply)
        return DebateTurn(
            round=int(number), debater=debater, argument=argument, confidence=confidence, answer=answer
        ).model_dump_json()

    def missed(self, view: ContextView, key: str, why: str) -> str:
        number, _, debater = key.partition("/")
        return DebateTurn.model_validate({"round": number, "debater": debater, "missing": why}).model_dump_json()

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        given = self.given(view)
        if given is not None:
            return self._shown(view, given, {each: 1 / len(self.debaters) for each in self.debaters})
        rules, turns = self._rules(), self.turns(view)
        step = protocol.following(rules, turns)
        if isinstance(step, Round) or step.why == "too_few":
            return ()
        text = protocol.transcript(turns, step.rounds, self.debaters)
        return self._shown(view, text, protocol.weights(rules, turns, step))

    def _shown(self, view: ContextView, text: str, shares: dict[str, float]) -> Sequence[Prompt]:
        text = corrupted(text, view.rng) if self.wrong else text
        messages = asked(view.task, self.template, {"debate": text})
        return [Prompt(messages=messages, teacher=each, weight=share, made_up=True) for each, share in shares.items()]

    def wish(self, view: ContextView) -> DebateCreate:
        """What is debated about a rollout, as the service takes it; a text that is too long for that is cut. Its budget
        is what it may come to at most."""
        most = self.rounds * len(self.debaters) * self.max_tokens
        return DebateCreate(
            question=question(view.task)[:MOST_TEXT] or NOTHING,
            attempt=view.rollout.text[:MOST_TEXT] if self.sighted else None,
            teachers=self.debaters,
            budget=DebateBudget(tokens=most, seconds=86_400),
            stop=self.stop,
            quorum=self.quorum,
            tau=self.tau,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        )

    def given(self, view: ContextView) -> str | None:
        """The debate that a row brings."""
        text = view.task.columns.get("debate") if self.from_data else None
        return None if text is None else str(text)

    def turns(self, view: ContextView) -> list[DebateTurn]:
        """What was said so far."""
        return [DebateTurn.model_validate_json(kept) for kept in view.replies.values()]

    @property
    def worded(self) -> DebateTemplate:
        """The wording, as the service takes it."""
        return DebateTemplate(
            ask=self.blind_template, ask_sighted=self.ask_template, roles=self.roles, rounds=self.rounds
        )

    def _rules(self) -> Rules:
        return Rules(
            debaters=self.debaters,
            template=self.worded,
            stop=self.stop,
            quorum=self.quorum,
            tau=self.tau,
            max_tokens=self.max_tokens,
        )
