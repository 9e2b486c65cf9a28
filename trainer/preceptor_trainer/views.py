"""What a part may look at: tasks, rollouts, opinions. Plain data; nothing here imports torch.

Shape letters: T tokens, K support (the whole vocabulary when the support is `full`), B rollouts.
Every log-probability is natural-log, of the untempered distribution unless a run says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class Message(TypedDict):
    """One chat message, in the shape every chat template reads."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question and what is known about it. `messages` is the plain prompt, all the student sees at test time."""

    id: str
    """Content hash of the question: the identity that the held-out split is drawn from."""
    messages: tuple[Message, ...]
    answer: str | None = None
    """The gold final answer, for verifiers."""
    reference: str | None = None
    """A gold worked solution, for privileged contexts and supervised baselines."""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Everything else the data row holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verifier said of one rollout."""

    reward: float
    correct: bool
    feedback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion as context authors see it: text, not tokens."""

    index: int
    """Position in its group: 0 .. samples-1."""
    text: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """What a rollout policy may look at."""

    task: Task
    index: int
    step: int
    rng: Random
    """Seeded by (run, step, task, index): the same on resume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One user turn of a multi-turn rollout; the student answers it before the next is shown."""

    messages: tuple[Message, ...]
    learn: bool = True
    """False: the reply is history, its tokens carry no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who writes one rollout, and from what."""

    source: str = "student"
    """`student`, `dataset` (then `completion` is the text), or the role of a teacher that writes."""
    turns: tuple[Turn, ...]
    """What the student is asked under the loss. A single turn for ordinary prompts."""
    behaviour: tuple[Message, ...] | None = None
    """The prompt that the writer reads, where it differs from the loss prompt. It never enters the loss."""
    completion: str | None = None
    max_tokens: int | None = None
    """A horizon below the policy's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextView:
    """What a context may look at: the task, the rollout to be scored, its siblings, and what text teachers replied."""

    task: Task
    rollout: Rollout
    group: Sequence[Rollout]
    """All rollouts of this task in this step, `rollout` among them."""
    step: int
    rng: Random
    replies: Mapping[str, str] = field(default_factory=dict[str, str])
    """Answers to `Context.asks`, by key."""
    state: Mapping[str, object] = field(default_factory=dict[str, object])
    """The run's persistent state parts, by name (a skill bank, a replay buffer)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Text wanted from a teacher before a context can be written (a critique, a debate turn, a rubric)."""

    key: str
    teacher: str
    messages: tuple[Message, ...]
    max_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One privileged prompt of one rollout. A context may have none (no opinion here), one, or several."""

    messages: tuple[Message, ...]
    teacher: str | None = None
    """A role that overrides the context's own teacher (debaters, experts)."""
    weight: float = 1.0
    """This prompt's share among its context's prompts (a retrieval weight, a confidence)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalars:
    """Per-token scalars of one opinion over a whole batch. All detached."""

    logprob_T: Tensor
    """Log-probability of the token that was written."""
    present_T: Tensor
    """1.0 where this opinion exists, 0.0 elsewhere."""
    weight_T: Tensor
    """The prompt's own weight, repeated over its tokens."""
    entropy_T: Tensor | None = None
    """Nats. There only where the support is `full`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """How likely each next token is, in one view. Composed targets are opinions too."""

    logprob_T: Tensor
    """Log-probability of the token that was written."""
    present_T: Tensor
    weight_T: Tensor
    logprobs_TK: Tensor | None = None
    """Over the support; None when only the sampled token was scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """What a weight may look at: scalars for every token of the global batch. All detached."""

    student: Scalars
    behaviour: Scalars
    """What the sampler said when it wrote the token."""
    contexts: Mapping[str, Sequence[Scalars]]
    rollout_T: Tensor
    """Which rollout each token belongs to, 0 .. B-1."""
    group_B: Tensor
    """Which task each rollout answers."""
    reward_B: Tensor
    position_T: Tensor
    """0 at a rollout's first completion token."""
    length_B: Tensor
    token_T: Tensor
    """The ids that were written."""
    step: int

    def __getitem__(self, name: str) -> Scalars:
        """The sole opinion of a context, or `student` / `behaviour`."""
        if name == "student":
            return self.student
        if name == "behaviour":
            return self.behaviour
        (only,) = self.contexts[name]
        return only


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockView:
    """What a target or a term may look at: one block of tokens, with distributions. Only `student` carries gradient."""

    student: Opinion
    contexts: Mapping[str, Sequence[Opinion]]
    tokens: TokenView
    """The same tokens' scalars; batch-level fields (`*_B`) cover the whole batch."""
    token_TK: Tensor | None = None
    """Support ids per position; None when the support is the whole vocabulary."""

    def __getitem__(self, name: str) -> Opinion:
        """The sole opinion of a context, or the student's own."""
        if name == "student":
            return self.student
        (only,) = self.contexts[name]
        return only
