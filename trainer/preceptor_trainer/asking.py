"""What passes between the loop and whoever scores: who is asked, what is wished to be known, what was heard.

Shape letters: T tokens of a rollout, D hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from preceptor.align import Spans
from preceptor.errors import BadScores
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.debate_reports import HeldDebate
from preceptor.wire.runs import OnFailure, TeacherLedger
from preceptor.wire.score import Head as WireHead
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Card, Stamp
from preceptor.wire.tokenizers import TokenizerFile
from preceptor_trainer.batch import Row, Slot
from preceptor_trainer.model import Head
from preceptor_trainer.views import Prompt


class Scorer(Protocol):
    """Whoever scores tokens for a role: the SDK's TeacherPool, over HTTP."""

    def begin(self, step: int) -> Collection[str]:
        """What is asked from now on is asked for this step: between two steps other teachers may take over. Returns the
        roles that nobody fills in it."""
        ...

    def begin_again(self) -> Collection[str]:
        """What has been asked is not wanted: whoever was to take over between two later steps does so now, and who
        leaves is waited for no more. Returns the roles that change."""
        ...

    def card(self, role: str) -> Card: ...

    def tokenizer(self, role: str) -> TokenizerFile: ...

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        """With `drop`, TeacherUnavailable where nobody answers."""
        ...

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        """The next message of a conversation. With `drop`, TeacherUnavailable where nobody answers."""
        ...

    def head(
        self, role: str, hash: str | None = None, *, on_failure: OnFailure = "wait", completions: int = 0
    ) -> WireHead:
        """With `drop`, TeacherUnavailable where nobody gives it; then so many `completions` count as dropped."""
        ...

    def take_ledger(self) -> dict[str, TeacherLedger]: ...


class MissingScore(BadScores):
    """A teacher answered without covering everything it was asked."""

    slug, title = "missing-score", "Missing score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One rollout to be scored after one prompt."""

    context: str
    fan: int
    """Which of the context's prompts."""
    row: int
    role: str
    prompt: Prompt
    ids: tuple[int, ...]
    inside_T: np.ndarray | None = None
    """Which of the rollout's tokens the prompt's spans are written in; None: it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One rollout's scores after one prompt."""

    logprob_T: np.ndarray
    """By the student's tokens, whatever the teacher's are."""
    spans: Spans | None
    """There where the teacher has another tokenizer: then each token's number is its whole span's."""
    hidden_TD: np.ndarray | None
    head: Head | None
    """The one that the hidden states belong to."""
    ids_TK: np.ndarray | None = None
    """With `logprobs_TK` and `tail_T`, where a sparse support was asked for: as in `preceptor.wire.score.Numbers`."""
    logprobs_TK: np.ndarray | None = None
    tail_T: np.ndarray | None = None
    stamp: Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What teachers said of a part of a batch: whole groups."""

    rows: Sequence[Row]
    wishes: Sequence[Wish]
    """What was asked; `row` counts from the part's first."""
    answers: Mapping[tuple[str, int, int], Answer]
    """By context, fan and row."""
    texts: Mapping[str, TeacherLedger] = field(default_factory=dict[str, TeacherLedger])
    """What came of the texts that contexts and their routers wanted, by role."""
    debates: Sequence[HeldDebate] = ()
    """What debaters said, of debates that are to be stored."""
    unrouted: int = 0
    """(rollout, context) pairs that a router gave to nobody, or to a role that nobody fills."""
    told: Mapping[str, float] = field(default_factory=dict[str, float])
    """Rollouts that a peer's feedback is shown on, and sentences of it that say the answer, as a step's metrics call
    them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """All opinions on a batch."""

    slots: Mapping[str, Sequence[Slot]]
    contexts: int
    """(rollout, prompt) pairs that were asked."""
    dropped: int
    """Those that nobody answered for, of contexts that are learned from without them then."""
    scored: int
    """The others."""
    stamped: int
    masked: int | None
    """Tokens without an opinion because another tokenizer could not be aligned there, summed over (rollout, prompt)
    pairs; None: every teacher reads the student's tokens."""
    debates: Sequence[HeldDebate] = ()
    """What debaters said, of debates that are to be stored."""
    unrouted: int = 0
    """(rollout, context) pairs that a router gave to nobody, or to a role that nobody fills."""
