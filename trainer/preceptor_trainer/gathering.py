"""A step's global batch, of which every rank holds a share: its tokens' scalars are known to all, the rest stays.

Weights and denominators are computed by every rank over all tokens, from the same numbers, so that they agree; each
then folds its own tokens. Ranks' shares lie one after another, in the ranks' order.

Shape letters: T tokens, B rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch
from pydantic import TypeAdapter
from torch import Tensor

from preceptor_trainer.batch import Batch, Slot, moved
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.views import Scalars, TokenView
from preceptor_trainer.weighing import TermWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """How large a rank's share is."""

    tokens: int
    passes: int
    """Through the model."""
    spanned: bool
    slots: Mapping[str, int]
    """By context."""


_OUTLINE = TypeAdapter(Outline)
_COUNTS = TypeAdapter(list[int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Global:
    """What a rank has to know of the others' shares."""

    ranks: Ranks
    outlines: Sequence[Outline]

    @property
    def passes(self) -> int:
        """Most that any rank has."""
        return max(each.passes for each in self.outlines)

    @property
    def spanned(self) -> bool:
        """Whether some teacher's numbers are still of spans, on any rank."""
        return any(each.spanned for each in self.outlines)

    @property
    def mine(self) -> slice:
        """This rank's tokens among all."""
        ends = list(accumulate(each.tokens for each in self.outlines))
        return slice(ends[self.ranks.rank] - self.outlines[self.ranks.rank].tokens, ends[self.ranks.rank])

    def slots(self, name: str) -> int:
        """Most that any rank has of a context."""
        return max(each.slots.get(name, 0) for each in self.outlines)

    def even(self, batch: Batch) -> Batch:
        """The same batch with as many opinions of every context as any rank has: what it lacks is absent."""
        slots = {name: [*slots, *_absent(slots, self.slots(name))] for name, slots in batch.slots.items()}
        return replace(batch, slots=slots)

    def total(self, sums: Tensor) -> Tensor:
        """Added up over ranks."""
        if self.ranks.mesh is None:
            return sums
        return torch.stack([each["sums"] for each in self.ranks.every_tensor({"sums": sums})]).sum(0).to(sums.device)

    def view(self, view: TokenView) -> TokenView:
        """Of all ranks' tokens."""
        if self.ranks.mesh is None:
            return view
        found = self.ranks.every_tensor(_parts(view))
        return _joined([_view(each, view) for each in found], view.token_T.device)

    def scalars(self, opinions: Sequence[Sequence[Scalars]] | None) -> Sequence[Sequence[Scalars]] | None:
        """Of all ranks' tokens, by term and opinion."""
        if self.ranks.mesh is None or opinions is None:
            return opinions
        device = next((each.logprob_T.device for term in opinions for each in term), torch.device("cpu"))
        named = {f"{term}/{k}": each for term, heard in enumerate(opinions) for k, each in enumerate(heard)}
        found = self.ranks.every_tensor(_named(named))
        counts = self.ranks.every([len(term) for term in opinions], _COUNTS)
        # A rank without a token has walked no block: it says nothing of how many opinions there are.
        heard = [at for at, outline in enumerate(self.outlines) if outline.tokens]
        return [
            [moved(_cat([_scalars(found[at], f"{term}/{k}") for at in heard]), device) for k in range(count)]
            for term, count in enumerate(counts[heard[0]] if heard else ())
        ]

    def plan(self, plan: TermWeights) -> TermWeights:
        """This rank's part of it."""
        return replace(plan, weight_T=tuple(each_T[self.mine] for each_T in plan.weight_T))


def outline(ranks: Ranks, batch: Batch, passes: int) -> Global:
    """Of the share that is `batch` and every other."""
    slots = {name: len(slots) for name, slots in batch.slots.items()}
    mine = Outline(tokens=batch.tokens, passes=passes, spanned=batch.spanned, slots=slots)
    return Global(ranks=ranks, outlines=ranks.every(mine, _OUTLINE))


def _absent(slots: Sequence[Slot], count: int) -> Iterator[Slot]:
    for _ in range(count - len(slots)):
        gone_T = torch.zeros_like(slots[0].present_T)
        yield replace(slots[0], logprob_T=gone_T, present_T=gone_T, weight_T=gone_T, span_T=None, stamps={})


def _named(scalars: Mapping[str, Scalars]) -> dict[str, Tensor]:
    """Every tensor of them, by its owner's name and its own."""
    return {f"{name}/{field}": value for name, each in scalars.items() for field, value in _tensors(each).items()}


def _tensors(of: Scalars | TokenView) -> dict[str, Tensor]:
    """Those that are its own fields."""
    held = {each.name: getattr(of, each.name) for each in fields(of)}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def _scalars(found: Mapping[str, Tensor], name: str) -> Scalars:
    """Back from `_named`."""
    mine = {each.name: found.get(f"{name}/{each.name}") for each in fields(Scalars)}
    return Scalars(**{field: value for field, value in mine.items() if value is not None})


def _parts(view: TokenView) -> dict[str, Tensor]:
    """Every tensor of it, by name."""
    opinions = {f"{name}/{k}": each for name, slots in view.contexts.items() for k, each in enumerate(slots)}
    return _tensors(view) | _named({"student": view.student, "behaviour": view.behaviour}) | _named(opinions)


def _view(found: Mapping[str, Tensor], like: TokenView) -> TokenView:
    """Back from `_parts`; it has the contexts that `like` has."""
    return replace(
        like,
        student=_scalars(found, "student"),
        behaviour=_scalars(found, "behaviour"),
        contexts={
            name: tuple(_scalars(found, f"{name}/{k}") for k in range(len(slots)))
            for name, slots in like.contexts.items()
        },
        **{name: found[name] for name in _tensors(like)},
    )


def _joined(views: Sequence[TokenView], device: torch.device) -> TokenView:
    """Views of disjoint rollouts as one; rollouts and groups are numbered on."""
    rollouts = [0, *accumulate(len(each.length_B) for each in views)]
    groups = [0, *accumulate(int(each.group_B.max()) + 1 if len(each.group_B) else 0 for each in views)]

    def cat(of: Callable[[TokenView], Tensor], first: Sequence[int] | None = None) -> Tensor:
        return torch.cat([of(each) + (first[index] if first else 0) for index, each in enumerate(views)])

    joined = TokenView(
        student=_cat([each.student for each in views]),
        behaviour=_cat([each.behaviour for each in views]),
        contexts={
            name: tuple(_cat(same) for same in zip(*(each.contexts[name] for each in views), strict=True))
            for name in views[0].contexts
        },
        rollout_T=cat(lambda each: each.rollout_T, rollouts),
        group_B=cat(lambda each: each.group_B, groups),
        reward_B=cat(lambda each: each.reward_B),
        position_T=cat(lambda each: each.position_T),
        length_B=cat(lambda each: each.length_B),
        lag_B=cat(lambda each: each.lag_B),
        token_T=cat(lambda each: each.token_T),
        step=views[0].step,
    )
    return _on(joined, device)


def _cat(parts: Sequence[Scalars]) -> Scalars:
    heard = [each for each in parts if len(each.logprob_T)]
    known = [each.entropy_T for each in heard if each.entropy_T is not None]
    return Scalars(
        logprob_T=torch.cat([each.logprob_T for each in parts]),
        present_T=torch.cat([each.present_T for each in parts]),
        weight_T=torch.cat([each.weight_T for each in parts]),
        entropy_T=torch.cat(known) if len(known) == len(heard) and known else None,
    )


def _on(view: TokenView, device: torch.device) -> TokenView:
    contexts = {name: tuple(moved(each, device) for each in slots) for name, slots in view.contexts.items()}
    student, behaviour = moved(view.student, device), moved(view.behaviour, device)
    return replace(moved(view, device), student=student, behaviour=behaviour, contexts=contexts)
