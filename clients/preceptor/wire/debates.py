"""Debates on the wire: what is discussed and by whom, what was said, what came of it.

A debate is `queued -> running -> succeeded | failed | cancelled`; `running -> queued` when its lease ends;
`queued -> cancelled`. What was said is recorded turn by turn; a turn is recorded once.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from preceptor.wire.common import Count, Name, Problem, Sha256, Step, Wire
from preceptor.wire.teachers import Card

MOST_ROUNDS = 8
MOST_TEXT = 100_000
"""Characters of a question or an attempt."""
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Template = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[0-9]{1,9})?$")]
"""`discussion@2`, or `discussion` for its latest version."""
StopRule = Literal["agreement", "no_change"]
"""When a debate ends before its last round. `agreement`: all who are still heard hold the same position. `no_change`:
everybody holds the position of the round before. A position is the `<answer>`, where the template asks for one, else
the argument; letter case and spacing aside."""
Missing = Literal["unavailable", "unreadable", "cut_off", "late"]
"""Why a debater said nothing that counts: nobody answered; the reply had not the form that was asked for; it was cut
off at the longest reply's length; the time was up."""
Ended = Literal["rounds", "agreement", "no_change", "token_budget", "time_budget", "too_few"]
"""Why a debate ended: all rounds were held, a stop rule, a budget, or fewer debaters left than the quorum."""


class DebateTemplate(Wire):
    """How a debate is worded: what debaters read, which part each takes, how often they speak."""

    ask: str = Field(min_length=1, max_length=20_000)
    """What a debater reads who does not see the student's answer. It holds `{question}`, and may hold `{role}`,
    `{debater}` and `{debate}`, what was said in the rounds before."""
    ask_sighted: str = Field(min_length=1, max_length=20_000)
    """The same for a debater who sees it, as `{attempt}`."""
    roles: tuple[Annotated[str, Field(max_length=2000)], ...] = Field(default=(), max_length=8)
    """What `{role}` stands for, debater by debater, over again where there are more debaters; none: empty."""
    rounds: int = Field(default=2, ge=1, le=MOST_ROUNDS)
    """How often each debater speaks at most. Within a round nobody hears the others."""

    @model_validator(mode="after")
    def _holds(self) -> Self:
        for name, text in (("ask", self.ask), ("ask_sighted", self.ask_sighted)):
            needs = ["question", "attempt"] if name == "ask_sighted" else ["question"]
            needs += ["debate"] if self.rounds > 1 else []
            if absent := [each for each in needs if f"{{{each}}}" not in text]:
                raise ValueError(f"{name}: it must hold {{{absent[0]}}}")
            if unasked := [each for each in ("argument", "confidence") if f"<{each}>" not in text]:
                raise ValueError(f"{name}: it must ask for a reply between <{unasked[0]}> and </{unasked[0]}>")
        if "{attempt}" in self.ask:
            raise ValueError("ask: it holds {attempt}, which a blind debater does not see; that is for ask_sighted")
        return self


class DebateTemplateCreate(Wire):
    """Store a template: the next version under its name."""

    name: Name
    """Its name."""
    template: DebateTemplate
    """The template."""


class StoredTemplate(Wire):
    """A version of a template. A version never changes."""

    name: str
    """Its name."""
    version: Count
    """Its version: 1, 2 ..."""
    hash: Sha256
    """Of what it says: the same words have the same hash, whatever they are called."""
    template: DebateTemplate
    """The template."""
    created_at: datetime | None = None
    """When it was stored; None: it comes with Preceptor."""


class DebateBudget(Wire):
    """What a debate may cost."""

    tokens: int = Field(default=16_384, ge=1, le=10_000_000)
    """Tokens that debaters may write, all together. A round begins only where this covers it at its longest."""
    seconds: float = Field(default=600.0, gt=0, le=86_400, allow_inf_nan=False)
    """Seconds from when a worker first takes it. The round in which it runs out does not count, unless it is the
    first: then those count who have spoken."""


class DebateCreate(Wire):
    """A wish for a debate."""

    question: Text = Field(min_length=1)
    """What is debated."""
    attempt: Text | None = None
    """The student's answer, which the debaters see; None: a blind debate."""
    teachers: tuple[Name, ...]
    """Who debates: 2 to 8 registered teachers that write."""
    template: Template = "discussion"
    """The wording, by name and version."""
    overrides: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Changes to the template: `{"rounds": 3}`."""
    budget: DebateBudget = DebateBudget()
    """What it may cost."""
    stop: tuple[StopRule, ...] = Field(default=("agreement", "no_change"), max_length=2)
    """When it ends before its last round; none: never."""
    quorum: int = Field(default=1, ge=1, le=8)
    """With fewer debaters left it fails."""
    tau: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    """Temperature of the confidences: a debater's weight is softmax(c / tau), c in [0, 1]."""
    max_tokens: int = Field(default=512, ge=1, le=100_000)
    """Longest reply. One that is longer is cut off, and its debater excluded."""
    temperature: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    """Of the debaters' writing; 0: the likeliest text."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """What draws depend on."""
    fresh: bool = False
    """Hold it even where the same debate was held already."""


class DebateTurn(Wire):
    """What one debater said in one round, or why there is nothing."""

    round: int = Field(ge=1, le=MOST_ROUNDS)
    """Which round; the first is 1."""
    debater: str = Field(min_length=1, max_length=100)
    """Who."""
    argument: str | None = None
    """What it said."""
    answer: str | None = None
    """What it takes to be the answer; None: the template asks for none."""
    confidence: int | None = Field(default=None, ge=0, le=100)
    """How sure it said it was."""
    missing: Missing | None = None
    """Why nothing was said that counts: from then on its author is excluded."""
    detail: str | None = Field(default=None, max_length=1000)
    """What was wrong, in a sentence."""
    tokens: Count = 0
    """Tokens written."""
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Seconds until the reply was there."""
    weights_version: Count | None = None
    """The debater's weights version when it was asked; None: not known."""

    @model_validator(mode="after")
    def _said_or_not(self) -> Self:
        if (self.missing is None) == (self.argument is None or self.confidence is None):
            raise ValueError("a turn has an argument and a confidence, or says why it is missing")
        return self


class Excluded(Wire):
    """A debater that is not heard any more."""

    debater: str
    """Who."""
    round: Count
    """In which round it failed."""
    missing: Missing
    """How."""
    detail: str | None = None
    """What was wrong."""


class DebateResult(Wire):
    """What came of a debate."""

    ended: Ended
    """Why it ended."""
    rounds: Count
    """Rounds that count."""
    transcript: str
    """What was said in them, as it is shown to whoever scores."""
    weights: dict[str, float]
    """What each debater's opinion counts; together 1. Who is excluded has none: its share went to the others, in
    proportion to theirs."""
    answer: str | None
    """The position of the most weight; None: the template asks for no answer."""
    agreed: bool
    """Whether all who were heard held one position in the last round."""
    excluded: tuple[Excluded, ...]
    """Who is not heard, and why."""
    calls: Count
    """Texts that were asked for and recorded: of a call whose answer was lost with its worker nothing is known."""
    tokens: Count
    """Tokens that debaters wrote."""
    seconds: float
    """Seconds from its first lease to its end."""


class Voice(Wire):
    """Whose words a debater's are, as that teacher's card says."""

    role: str | None = None
    """The role of a run that it fills; None: it was named."""
    teacher: str
    """What it calls itself."""
    model: str
    """The model."""
    engine: str
    """What computes it."""
    weights_version: Count
    """Its weights version."""
    weights_hash: str | None = None
    """Of its weights; None: it does not say."""

    @classmethod
    def of(cls, card: Card, role: str | None = None) -> Voice:
        """What a teacher's text depends on, as far as its card says."""
        return cls(
            role=role,
            teacher=card.teacher,
            model=card.model,
            engine=card.engine,
            weights_version=card.weights_version,
            weights_hash=card.weights_hash,
        )


class RunDebate(Wire):
    """Where a run held a debate."""

    run: str
    """The run."""
    step: Step
    """The step."""
    context: str
    """The context, by its name in the recipe."""
    task: str
    """The task's id."""
    rollout: Count
    """Which of the task's rollouts; where several share a debate, the first."""
    voices: dict[str, Voice]
    """Who spoke, by debater."""


class DebateState(StrEnum):
    """Where a debate is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing more happens to it."""
        return self in (DebateState.SUCCEEDED, DebateState.FAILED, DebateState.CANCELLED)


class Debate(Wire):
    """A debate."""

    id: str
    """Its id."""
    wish: DebateCreate
    """What was asked for."""
    template: StoredTemplate
    """The wording with the overrides merged in; its hash is of the whole."""
    state: DebateState
    """Where it is in its life."""
    created_at: datetime
    """When it was submitted."""
    updated_at: datetime
    """When anything about it last changed."""
    started_at: datetime | None = None
    """When a worker first took it."""
    finished_at: datetime | None = None
    """When it ended."""
    error: Problem | None = None
    """Why it failed."""
    result: DebateResult | None = None
    """What came of it."""
    turns: tuple[DebateTurn, ...] = ()
    """What was said so far, by round and debater; left out of lists."""
    cached_from: str | None = None
    """The debate that was held in its stead, word for word the same."""
    run: RunDebate | None = None
    """The run that held it, for itself; None: it was asked for."""
    worker: str | None = None
    """Who holds the lease, or held the last one."""
    fence: Count = 0
    """The fencing number of the last lease: reports with a smaller one are refused."""
    attempt: Count = 0
    """How often a worker has taken it up."""
    cancel_requested: bool = False
    """Somebody asked for it to be cancelled; the worker has not yet."""
