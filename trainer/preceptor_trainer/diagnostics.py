"""What a step shows of itself, from the distributions that the loss has at hand anyway.

Shape letters: T tokens of a chunk, V vocabulary, K support.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pydantic import TypeAdapter
from torch import Tensor

from preceptor_trainer.views import BlockView, Opinion

TOP = 8
"""How many of the likeliest tokens of student and teacher are compared."""
BEYOND = math.log(2.0)
"""A gap in nats from which on a token counts as beyond: it is half or twice as likely to the learner."""
GROUP = 64
"""Neighbours of which only the largest is looked at first when the likeliest tokens are sought."""


@dataclass(slots=True)
class Sums:
    """Sums over the tokens that were walked; `per_token` makes means of them."""

    tokens: int = 0
    loss: float = 0.0
    """Of all terms, each over its own global denominator."""
    values: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Over how many tokens each value is summed; none: over all."""
    most: dict[str, float] = field(default_factory=dict[str, float])
    """Largest value on any token."""

    def add(self, name: str, values_T: Tensor, where_T: Tensor | None = None) -> None:
        """Sum of a number per token; with `where_T` (1.0 or 0.0), over those tokens only."""
        if where_T is None:
            self.values[name] += float(values_T.sum())
            return
        self.values[name] += float(torch.where(where_T != 0, values_T, torch.zeros_like(values_T)).sum())
        self.counts[name] += float((where_T != 0).sum())

    def term(self, label: str, loss_T: Tensor, weight_T: Tensor, observed: Mapping[str, Tensor]) -> None:
        """A term's loss per token, and what it observed where it counts."""
        self.add(label, weight_T * loss_T)
        if len(loss_T):
            name, most = f"{label}/largest", float(loss_T.amax())
            self.most[name] = max(self.most.get(name, most), most)
        for name, values_T in observed.items():
            self.add(f"{label}/{name}", values_T, weight_T)

    def merge(self, other: Sums) -> None:
        """Take in the sums over further tokens."""
        self.tokens += other.tokens
        self.loss += other.loss
        for name, value in other.values.items():
            self.values[name] += value
        for name, count in other.counts.items():
            self.counts[name] += count
        for name, value in other.most.items():
            self.most[name] = max(self.most.get(name, value), value)

    def per_token(self) -> dict[str, float]:
        """Means by name, and largest values."""
        means = {name: value / max(self.counts.get(name, self.tokens), 1) for name, value in self.values.items()}
        return means | self.most


SUMS = TypeAdapter(Sums)


def diagnose(block: BlockView, sums: Sums) -> None:
    """Entropies, agreement and distances of one chunk; of a context with several opinions, the first's."""
    student, written = block.student, block.tokens.behaviour
    own_TV = student.distribution()
    sums.tokens += len(own_TV)
    sums.add("student_entropy", _entropy(own_TV))
    _mismatch(student.logprob_T - written.logprob_T, written.present_T, sums)
    first = [(name, opinions[0]) for name, opinions in block.contexts.items() if opinions]
    own_TK = top_ids(own_TV, TOP) if any(each.logprobs_TK is not None for _, each in first) else None
    for name, opinion in first:
        _compare(name, student, opinion, own_TK, sums)


def _mismatch(gap_T: Tensor, sampled_T: Tensor, sums: Sums) -> None:
    """How far the learner is from whoever wrote the tokens: 0 where both compute the same numbers from the same
    weights."""
    sums.add("sampler_gap", gap_T.abs(), sampled_T)
    gap_T = gap_T.clamp(max=20.0)
    # k3 (Schulman, 2020): in expectation over what the sampler wrote, KL(sampler || learner); never negative.
    sums.add("sampler_kl", gap_T.expm1() - gap_T, sampled_T)
    sums.add("sampler_beyond", (gap_T.abs() > BEYOND).to(gap_T.dtype), sampled_T)
    if len(gap_T):
        most = float(torch.where(sampled_T != 0, gap_T.abs(), torch.zeros_like(gap_T)).amax())
        sums.most["sampler_gap/largest"] = max(sums.most.get("sampler_gap/largest", most), most)


def _compare(name: str, student: Opinion, opinion: Opinion, own_TK: Tensor | None, sums: Sums) -> None:
    here_T = opinion.present_T
    sums.add(f"{name}/log_ratio", opinion.logprob_T - student.logprob_T, here_T)
    if opinion.logprobs_TK is None or own_TK is None:
        return
    if opinion.ids_TK is None:
        their_TK = top_ids(opinion.logprobs_TK, TOP)
        sums.add(f"{name}/entropy", _entropy(opinion.logprobs_TK), here_T)
    else:
        named_TK = opinion.logprobs_TK[:, :-1]
        likeliest_TK = named_TK.topk(min(TOP, named_TK.shape[1]), -1).indices
        their_TK = opinion.ids_TK.gather(-1, likeliest_TK)
        sums.add(f"{name}/tail", opinion.logprobs_TK[:, -1].exp(), here_T)
        sums.add(f"{name}/student_tail", student.over(opinion.ids_TK).distribution()[:, -1].exp(), here_T)
    shared_T = (own_TK[:, :, None] == their_TK[:, None, :]).any(1).to(here_T.dtype).mean(-1)
    sums.add(f"{name}/top{TOP}_overlap", shared_T, here_T)
    sums.add(f"{name}/top1_agreement", (own_TK[:, 0] == their_TK[:, 0]).to(here_T.dtype), here_T)


def _entropy(logprobs_TV: Tensor) -> Tensor:
    return -logprobs_TV.exp().mul_(logprobs_TV).sum(-1)


def top_ids(values_TV: Tensor, k: int) -> Tensor:
    """[T, K] ids of the largest values, the largest first. Exact, and several times faster than sorting V numbers:
    the largest k lie in the k groups with the largest maxima."""
    vocabulary = values_TV.shape[1]
    groups = vocabulary // GROUP
    if groups <= 2 * k:
        return values_TV.topk(min(k, vocabulary), -1).indices
    whole_TGN = values_TV[:, : groups * GROUP].unflatten(-1, (groups, GROUP))
    best_TK = whole_TGN.amax(-1).topk(k, -1).indices
    inside_N = torch.arange(GROUP, device=values_TV.device)
    rest_M = torch.arange(groups * GROUP, vocabulary, device=values_TV.device)
    ids_TM = torch.cat(
        ((best_TK[:, :, None] * GROUP + inside_N).flatten(1), rest_M.expand(len(values_TV), -1)),
        dim=-1,
    )
    return ids_TM.gather(-1, values_TV.gather(-1, ids_TM).topk(k, -1).indices)
