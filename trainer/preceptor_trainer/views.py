"""What a part may look at: tasks, rollouts, opinions. Plain data; nothing here imports torch.

Shape letters: T tokens, K support (the whole vocabulary; where it is sparse, the named ids and the tail), B rollouts.
Every log-probability is natural-log, of the untempered distribution unless a run says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

    from preceptor_trainer.standing import Standing


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
    """What `Context.read` kept of the answers to `Context.asks`, by key."""
    standing: Mapping[str, Standing] = field(default_factory=dict[str, "Standing"])
    """How the student and its peer do, by domain; empty where the run has no peer."""
    others: Sequence[Task] = ()
    """All tasks of this step, on whatever device; empty where no context reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Text wanted from a teacher before a context can be written (a critique, a debate turn, a rubric)."""

    key: str
    """What it is called among the replies."""
    teacher: str
    """The role that is asked; one of `Context.writers`."""
    messages: tuple[Message, ...]
    max_tokens: int = 512
    """Longest reply. One that is cut off there is not read."""
    temperature: float = 0.0
    """0: the likeliest text. Above it, what is drawn depends on (run, step, context, task, rollout, key) alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One privileged prompt of one rollout. A context may have none (no opinion here), one, or several."""

    messages: tuple[Message, ...]
    teacher: str | None = None
    """A role that overrides the context's own teacher (debaters, experts)."""
    weight: float = 1.0
    """This prompt's share among its context's prompts (a retrieval weight, a confidence)."""
    made_up: bool = False
    """Whether, where nobody answers for it, the rollout's other prompts get its weight, in proportion to theirs."""
    spans: tuple[tuple[int, int], ...] | None = None
    """Which characters of the rollout's text the opinion is about: elsewhere it is there, with weight 0. None: all."""


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


FLOOR = -1e4
"""Log-probabilities are floored here: exp(FLOOR) is 0 in float32 and float64, and 0 * FLOOR is 0 where 0 * -inf is
NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """How likely each next token is, in one view. Composed targets are opinions too.

    `logprobs_TK` always sums to one over its last axis. On a sparse support its last column is the tail: all tokens
    that no other column names, as one event. What is compared there is a coarser question than the full distribution
    answers, the same on both sides; a divergence is never larger for it.
    """

    logprob_T: Tensor
    """Log-probability of the token that was written."""
    present_T: Tensor
    weight_T: Tensor
    logprobs_TK: Tensor | None = None
    """Over the support, floored at FLOOR; None when only the sampled token was scored."""
    ids_TK: Tensor | None = None
    """The tokens that the columns of `logprobs_TK` but its last are of; -1 pads. None: every token, in order."""

    def distribution(self) -> Tensor:
        """`logprobs_TK`. Raises ValueError where only the sampled token was scored."""
        if self.logprobs_TK is None:
            raise ValueError(
                "this part compares distributions, but only the sampled token was scored; its `needs` must say so"
            )
        return self.logprobs_TK

    def over(self, ids_TK: Tensor) -> Opinion:
        """The same opinion on these ids (-1 pads) and a tail; an id that it does not name itself is left in its tail
        with no mass of its own."""
        known_TK = self.distribution()
        if self.ids_TK is None:
            rest_TK = known_TK.scatter(-1, ids_TK.clamp(min=0), FLOOR)
            # Pads pointed at token 0, which may not be named.
            rest_TK[:, 0] = known_TK[:, 0].masked_fill((ids_TK == 0).any(-1), FLOOR)
            named_TK = known_TK.gather(-1, ids_TK.clamp(min=0)).masked_fill(ids_TK < 0, FLOOR)
        else:
            same_TJK = _same(ids_TK, self.ids_TK)
            named_TK = known_TK.gather(-1, same_TJK.int().argmax(-1)).masked_fill(~same_TJK.any(-1), FLOOR)
            rest_TK = known_TK[:, :-1].masked_fill(same_TJK.any(1), FLOOR)
            rest_TK = _append(rest_TK, known_TK[:, -1])
        return replace(self, logprobs_TK=_append(named_TK, rest_TK.logsumexp(-1).clamp(min=FLOOR)), ids_TK=ids_TK)


def align(opinions: Sequence[Opinion]) -> Sequence[Opinion]:
    """The same opinions on one support, so that they can be composed column by column.

    As they are where all cover the whole vocabulary. Else on the ids that every sparse opinion on the token names
    (where none is there: the likeliest ids of the first one that is), with all other tokens in the tail.
    """
    sparse = [(each, each.ids_TK) for each in opinions if each.ids_TK is not None]
    if not sparse or (len(sparse) == len(opinions) and all(ids_TK is sparse[0][1] for _, ids_TK in sparse)):
        return tuple(opinions)
    width = max(ids_TK.shape[1] for _, ids_TK in sparse)
    shared_TK = sparse[0][1].new_full((len(sparse[0][1]), width), -1)
    begun_T = shared_TK[:, 0] >= 0
    for each, ids_TK in sparse:
        mine_TK = shared_TK.new_full(shared_TK.shape, -1)
        mine_TK[:, : ids_TK.shape[1]] = ids_TK
        here_T = each.present_T > 0
        both_TK = shared_TK.masked_fill(~_same(shared_TK, ids_TK).any(-1), -1)
        shared_TK = both_TK.where((here_T & begun_T)[:, None], mine_TK.where((here_T & ~begun_T)[:, None], shared_TK))
        begun_T = begun_T | here_T
    for each in opinions:
        if each.ids_TK is None:
            likeliest_TK = each.distribution().topk(width, -1).indices
            shared_TK = likeliest_TK.where(((each.present_T > 0) & ~begun_T)[:, None], shared_TK)
            begun_T = begun_T | (each.present_T > 0)
    return tuple(each.over(shared_TK) for each in opinions)


def _same(ids_TJ: Tensor, ids_TK: Tensor) -> Tensor:
    """Which of the first ids is which of the second; a pad is nobody."""
    return (ids_TJ[:, :, None] == ids_TK[:, None, :]) & (ids_TJ >= 0)[:, :, None]


def _append(named_TK: Tensor, last_T: Tensor) -> Tensor:
    """One more column."""
    out_TK = named_TK.new_zeros(named_TK.shape[0], named_TK.shape[1] + 1)
    out_TK[:, :-1] = named_TK
    out_TK[:, -1] = last_T
    return out_TK


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
    lag_B: Tensor
    """How many versions of the weights were between the one that wrote a rollout and the one that learns from it."""
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

    def __getitem__(self, name: str) -> Opinion:
        """The sole opinion of a context, or the student's own."""
        if name == "student":
            return self.student
        (only,) = self.contexts[name]
        return only

    def pair(self, target: Opinion) -> tuple[Tensor, Tensor]:
        """The student's and the target's log-probabilities [T, K], over the target's support. Only the first carries
        gradient. Raises ValueError where the target is of the sampled token only."""
        target_TK = target.distribution()
        if target.ids_TK is None or target.ids_TK is self.student.ids_TK:
            return self.student.distribution(), target_TK
        return self.student.over(target.ids_TK).distribution(), target_TK
