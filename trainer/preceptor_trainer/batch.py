"""One optimizer step's rollouts as tensors: rows of tokens, and every opinion on them.

Shape letters: B rollouts, L positions of a padded row, T completion tokens of the whole batch in row order, D hidden
size, V vocabulary, K ids of a sparse support.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from preceptor.wire.teachers import Stamp
from preceptor_trainer.model import Head
from preceptor_trainer.views import Scalars, Task, TokenView, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A rollout as the learner sees it: exact token ids."""

    task: Task
    index: int
    """Position in its group."""
    prompt_ids: tuple[int, ...]
    """The loss prompt: never holds privileged text."""
    completion_ids: tuple[int, ...]
    """What was written, the end token included where there is one."""
    logprobs: tuple[float, ...] | None
    """The sampler's own, one per completion token; None for a completion that nobody sampled (a dataset's)."""
    text: str
    """The completion as text, special tokens left out."""
    finished: bool = True
    """False: cut off at the horizon."""
    weights_version: int = 0
    """The student's version that wrote it."""
    verdict: Verdict | None = None


MASKED, NOT_ASKED, OWN_TOKENS = -1, -2, -3
"""Where a token belongs to no span of a teacher with another tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One opinion per token of the batch: the k-th prompt of one context."""

    context: str
    role: str
    logprob_T: Tensor
    """As the teacher answered it; 0 where absent, and never read there."""
    span_T: Tensor | None = None
    """From a teacher with another tokenizer: the span that each token belongs to, numbered over the batch; -1 where it
    is masked, -2 where the rollout was not asked about, -3 where another teacher was, that reads the student's tokens.
    Then `logprob_T` holds the whole span's on each of its tokens, until `share_spans` has been there."""
    present_T: Tensor
    weight_T: Tensor
    entropy_T: Tensor | None = None
    hidden_TD: Tensor | None = None
    """For the support `full`; zeros where absent."""
    head: Head | None = None
    ids_TK: Tensor | None = None
    """For a sparse support: the ids that the teacher's numbers are of, K per token; -1 pads."""
    logprobs_TK: Tensor | None = None
    """Of those ids, floored."""
    tail_T: Tensor | None = None
    """Log of the probability that they leave out, floored; 0 where absent."""
    stamps: Mapping[int, Stamp] = field(default_factory=dict[int, Stamp])
    """By row."""

    def scalars(self) -> Scalars:
        return Scalars(
            logprob_T=self.logprob_T, present_T=self.present_T, weight_T=self.weight_T, entropy_T=self.entropy_T
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The global batch of one step."""

    rows: Sequence[Row]
    step: int
    offsets: tuple[int, ...]
    """[B+1] where each row's completion begins among the T tokens."""
    token_T: Tensor
    rollout_T: Tensor
    position_T: Tensor
    length_B: Tensor
    lag_B: Tensor
    """How many steps ago the weights were new that wrote a rollout; 0: those that learn from it."""
    group_B: Tensor
    reward_B: Tensor
    """NaN where nothing verified the rollout: a weight that needs a reward then fails loudly instead of learning
    from 0."""
    behaviour: Scalars
    slots: Mapping[str, Sequence[Slot]]

    @property
    def tokens(self) -> int:
        """T."""
        return self.offsets[-1]

    @property
    def spanned(self) -> bool:
        """Whether some teacher's numbers are still of spans, not of tokens."""
        return any(slot.span_T is not None for slots in self.slots.values() for slot in slots)

    def to(self, device: torch.device) -> Batch:
        """The same batch where the student's weights are; itself where it is there already."""
        if self.token_T.device == device:
            return self
        heads: dict[int, Head] = {}

        def head(of: Head | None) -> Head | None:
            if of is not None and id(of) not in heads:  # slots of one teacher share theirs
                heads[id(of)] = Head(of.weight_VD.to(device), None if of.bias_V is None else of.bias_V.to(device))
            return None if of is None else heads[id(of)]

        def slot(of: Slot) -> Slot:
            return replace(moved(of, device), head=head(of.head))

        slots = {name: [slot(each) for each in slots] for name, slots in self.slots.items()}
        return replace(moved(self, device), behaviour=moved(self.behaviour, device), slots=slots)

    def view(self, student: Scalars) -> TokenView:
        """What weights may look at, given the student's own scalars."""
        return TokenView(
            student=student,
            behaviour=self.behaviour,
            contexts={name: tuple(slot.scalars() for slot in slots) for name, slots in self.slots.items()},
            rollout_T=self.rollout_T,
            group_B=self.group_B,
            reward_B=self.reward_B,
            position_T=self.position_T,
            length_B=self.length_B,
            lag_B=self.lag_B,
            token_T=self.token_T,
            step=self.step,
        )


Held = TypeVar("Held", Batch, Slot, Scalars, TokenView)


def moved(of: Held, device: torch.device) -> Held:
    """With its own tensors on this device."""
    mine = {each.name: getattr(of, each.name) for each in fields(of)}
    return replace(of, **{name: value.to(device) for name, value in mine.items() if isinstance(value, Tensor)})


def build_batch(rows: Sequence[Row], slots: Mapping[str, Sequence[Slot]], step: int, dtype: torch.dtype) -> Batch:
    """A batch of these rows, in this order. `slots` hold T tokens in the same order."""
    lengths = [len(row.completion_ids) for row in rows]
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    groups = {task_id: index for index, task_id in enumerate(dict.fromkeys(row.task.id for row in rows))}
    length_B = torch.tensor(lengths, dtype=torch.int64)
    written = [row.logprobs is not None for row in rows]
    logprobs = [value for row in rows for value in row.logprobs or (0.0,) * len(row.completion_ids)]
    present_T = torch.tensor(written, dtype=dtype).repeat_interleave(length_B)
    rewards = [row.verdict.reward if row.verdict else float("nan") for row in rows]
    return Batch(
        rows=rows,
        step=step,
        offsets=tuple(offsets),
        token_T=torch.tensor([token for row in rows for token in row.completion_ids], dtype=torch.int64),
        rollout_T=torch.arange(len(rows)).repeat_interleave(length_B),
        position_T=torch.cat([torch.arange(length) for length in lengths] or [torch.arange(0)]),
        length_B=length_B,
        lag_B=torch.tensor([step - 1 - row.weights_version for row in rows], dtype=torch.int64),
        group_B=torch.tensor([groups[row.task.id] for row in rows], dtype=torch.int64),
        reward_B=torch.tensor(rewards, dtype=dtype),
        behaviour=Scalars(
            logprob_T=torch.tensor(logprobs, dtype=dtype),
            present_T=present_T,
            weight_T=torch.ones(offsets[-1], dtype=dtype),
        ),
        slots=slots,
    )


def share_spans(
    batch: Batch, logprob_T: Tensor, *, fill: bool = True, total: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Batch:
    """The same batch with an opinion per token where a teacher gave one per span; `logprob_T` is the student's [T].

    Each token of a span gets the span's log-probability less what the student gave the span's other tokens. Its
    log-ratio to the student is then the whole span's: what a policy gradient multiplies the token's own gradient with,
    since the span was written as a whole. A span of one token keeps the teacher's number to the bit.

    With `fill`, a masked token gets the mean log-ratio of the tokens that were heard: in expectation it teaches nothing
    then, where a gap would count as 0, better than what a student usually hears, and draw it to what is masked. `total`
    adds up sums over all that the mean is of, where that is more than this batch.
    """
    shared = {name: [_by_token(slot, logprob_T) for slot in slots] for name, slots in batch.slots.items()}
    if fill and (every := [slot for slots in shared.values() for slot in slots]):
        sums_S2 = total(torch.stack([_log_ratios(slot, logprob_T) for slot in every]))
        means = iter(sums_S2[:, 0] / sums_S2[:, 1].clamp(min=1e-9))
        heard = iter((sums_S2[:, 1] > 0).tolist())
        shared = {
            name: [_filled(each, logprob_T, next(means), next(heard)) for each in shared[name]] for name in shared
        }
    return replace(batch, slots={name: [replace(each, span_T=None) for each in shared[name]] for name in shared})


def _by_token(slot: Slot, logprob_T: Tensor) -> Slot:
    if slot.span_T is None:
        return slot
    heard_T, span_T = slot.span_T >= 0, slot.span_T.clamp(min=0)
    own_T = torch.where(heard_T, logprob_T, torch.zeros_like(logprob_T))
    plain_T = torch.where(slot.span_T == OWN_TOKENS, slot.logprob_T, torch.zeros_like(own_T))
    total_S = own_T.new_zeros(int(span_T.max()) + 1 if len(span_T) else 0)
    others_T = total_S.index_add(0, span_T, own_T)[span_T] - own_T
    return replace(slot, logprob_T=torch.where(heard_T, slot.logprob_T - others_T, plain_T))


def _log_ratios(slot: Slot, logprob_T: Tensor) -> Tensor:
    """Sum of the heard tokens' weighted log-ratios, and of the weights [2]; 0 where the teacher reads our tokens."""
    if slot.span_T is None:
        return logprob_T.new_zeros(2)
    heard_T = slot.span_T >= 0
    weight_T = slot.weight_T.abs() * heard_T
    ratio_T = torch.where(heard_T, slot.logprob_T - logprob_T, torch.zeros_like(logprob_T))
    return torch.stack([(ratio_T * weight_T).sum(), weight_T.sum()])


def _filled(slot: Slot, logprob_T: Tensor, mean: Tensor, heard: bool) -> Slot:
    if slot.span_T is None or not heard:
        return slot
    masked_T = slot.span_T == MASKED
    return replace(
        slot,
        logprob_T=torch.where(masked_T, logprob_T + mean, slot.logprob_T),
        present_T=torch.where(masked_T, torch.ones_like(slot.present_T), slot.present_T),
    )


def narrow_view(view: TokenView, start: int, stop: int) -> TokenView:
    """The same view of tokens start .. stop-1; batch-level fields stay whole."""
    token_fields = ("rollout_T", "position_T", "token_T")
    return replace(
        view,
        student=_narrow(view.student, start, stop),
        behaviour=_narrow(view.behaviour, start, stop),
        contexts={name: tuple(_narrow(each, start, stop) for each in slots) for name, slots in view.contexts.items()},
        **{name: getattr(view, name)[start:stop] for name in token_fields},
    )


def _narrow(scalars: Scalars, start: int, stop: int) -> Scalars:
    return Scalars(
        logprob_T=scalars.logprob_T[start:stop],
        present_T=scalars.present_T[start:stop],
        weight_T=scalars.weight_T[start:stop],
        entropy_T=None if scalars.entropy_T is None else scalars.entropy_T[start:stop],
    )
