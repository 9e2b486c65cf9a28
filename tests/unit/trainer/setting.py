"""Recipes on random opinions, through the real loss in float64: what two recipes make of the same rollouts.

An opinion belongs to what its teacher is shown, not to what the recipe calls it: two recipes that ask the same role
after the same context hear the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import torch
from torch import Tensor

from preceptor_trainer.batch import Batch, Row, Slot, build_batch
from preceptor_trainer.loss import blank_scalars, first_pass, fold
from preceptor_trainer.model import Head
from preceptor_trainer.recipe import Context, Recipe
from preceptor_trainer.weighing import TermWeights, weigh
from tests.unit.trainer.toy import toy_slot, toy_student


@dataclass(frozen=True)
class Learned:
    """What a batch did to the student."""

    loss: float
    grad_TD: Tensor
    grad_VD: Tensor
    plans: Sequence[TermWeights]

    @property
    def moved_T(self) -> Tensor:
        """Which tokens have a gradient."""
        return self.grad_TD.abs().amax(-1) > 0


def opinion(rows: Sequence[Row], name: str, context: Context) -> Slot:
    """A random opinion that is the same wherever the same context of the same role is asked."""
    return toy_slot(rows, name, seed=crc32(context.model_dump_json().encode()) % 10_000)


def batch_of(
    recipe: Recipe, rows: Sequence[Row], slots: Mapping[str, Slot] | None = None, step: int = 1, on_policy: bool = True
) -> Batch:
    """These rollouts, with `slots` by context and random opinions on the rest.

    On-policy, the sampler and the student of `toy_student` agree on every token; else the rows' own log-probabilities
    stand.
    """
    given = {name: opinion(rows, name, context) for name, context in recipe.contexts.items()} | dict(slots or {})
    batch = build_batch(rows, {name: [slot] for name, slot in given.items()}, step, torch.float64)
    if on_policy:
        logprob_T = own_logprobs(batch).gather(-1, batch.token_T[:, None]).squeeze(-1)
        batch = replace(batch, behaviour=replace(batch.behaviour, logprob_T=logprob_T))
    return batch


def own_logprobs(batch: Batch) -> Tensor:
    """The student's, [T, V]."""
    hidden_TD, head = toy_student(batch.tokens)
    return (hidden_TD @ head.weight_VD.detach().T).log_softmax(-1)


def said(slot: Slot) -> Tensor:
    """A teacher's log-probabilities, [T, V]."""
    assert slot.hidden_TD is not None and slot.head is not None
    return (slot.hidden_TD @ slot.head.weight_VD.T).log_softmax(-1)


def agreeing(slot: Slot, batch: Batch) -> Slot:
    """The same slot of a teacher that thinks just what the student does."""
    hidden_TD, head = toy_student(batch.tokens)
    logprob_T = own_logprobs(batch).gather(-1, batch.token_T[:, None]).squeeze(-1)
    return replace(slot, hidden_TD=hidden_TD, head=Head(weight_VD=head.weight_VD.detach()), logprob_T=logprob_T)


def learn(recipe: Recipe, batch: Batch, student: tuple[Tensor, Head] | None = None) -> Learned:
    """Loss and gradients, as the learner takes them; of the student of `toy_student` where none is given."""
    hidden_TD, head = student or toy_student(batch.tokens)
    head.weight_VD.grad = None
    view, opinions = batch.view(blank_scalars(batch, torch.float64)), None
    if recipe.weights or any(term.weights for term in recipe.objective):
        scalars, opinions = first_pass(recipe, batch, head, hidden_TD)
        view = batch.view(scalars)
    plans = weigh(recipe, view, opinions)
    grad_TD, sums = fold(recipe, batch, view, plans, head, hidden_TD, 0)
    grad_VD = head.weight_VD.grad
    return Learned(sums.loss, grad_TD, torch.zeros_like(head.weight_VD) if grad_VD is None else grad_VD, plans)
