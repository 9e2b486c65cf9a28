"""What recipes should do to the student of `toy_student`, by autograd on the equation alone.

Shape letters: T tokens, D hidden size, V vocabulary, B rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from preceptor_trainer.batch import Batch, Slot
from tests.unit.trainer.setting import own_logprobs
from tests.unit.trainer.toy import toy_student


def gradient(batch: Batch, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """[T, D] of a loss of the student's log-probabilities [T, V]."""
    hidden_TD, head = toy_student(batch.tokens)
    hidden_TD.requires_grad_()
    loss((hidden_TD @ head.weight_VD.detach().T).log_softmax(-1)).backward()
    assert hidden_TD.grad is not None
    return hidden_TD.grad


def written(batch: Batch, logprobs_TV: Tensor) -> Tensor:
    """[T] of the tokens that were written."""
    return logprobs_TV.gather(-1, batch.token_T[:, None]).squeeze(-1)


def pushed(batch: Batch, advantage_T: Tensor) -> Tensor:
    """[T, D] of -mean A log S."""
    return gradient(batch, lambda logprobs_TV: -(advantage_T * written(batch, logprobs_TV)).mean())


def answering(slot: Slot, logprob_T: Tensor) -> Slot:
    """The same slot of a teacher that says this of the written tokens, and nothing of others."""
    return replace(slot, logprob_T=logprob_T, hidden_TD=None, head=None)


def evidence(batch: Batch, slot: Slot) -> Tensor:
    """log T - log S of the written tokens."""
    return slot.logprob_T - written(batch, own_logprobs(batch)).detach()


def group_advantages(batch: Batch) -> Tensor:
    """[T] by a loop over groups."""
    out_B = torch.zeros_like(batch.reward_B)
    for group in batch.group_B.unique():
        mine_B = batch.group_B == group
        rewards = batch.reward_B[mine_B]
        out_B[mine_B] = (rewards - rewards.mean()) / (rewards.std(unbiased=False) + 1e-6)
    return out_B[batch.rollout_T]
