"""The compose and learn stages: one global batch becomes one optimizer step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch
from pydantic import TypeAdapter
from torch import Tensor

from preceptor.wire.runs import Training
from preceptor_trainer.batch import Batch, narrow_view, share_spans
from preceptor_trainer.diagnostics import SUMS
from preceptor_trainer.gathering import outline
from preceptor_trainer.grouping import Cut, cuts, why_padded
from preceptor_trainer.heap import give_back
from preceptor_trainer.loss import NonFiniteLoss, Sums, blank_scalars, blocks, first_pass, fold, log_softmax
from preceptor_trainer.model import Head, Model
from preceptor_trainer.optim import Optimizer
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.sharding import Learning
from preceptor_trainer.views import TokenView
from preceptor_trainer.weighing import TermWeights, weigh

_log = logging.getLogger(__name__)

KEPT_BYTES = 1 << 28
"""What a pass on a CPU may keep for its way back, about: a few hundred tokens are computed as fast as thousands."""
FEWEST = 128
"""Tokens that make a pass worth its while, whatever they keep."""
_WHY = TypeAdapter[str | None](str | None)


class Learner:
    """Holds the student's weights and moves them."""

    def __init__(self, recipe: Recipe, model: Model, training: Training, learning: Learning | None = None) -> None:
        """`learning`: the student as it learns; None: as it is, on this one device."""
        self._recipe = recipe
        self._model = model
        self._training = training
        self._learning = learning or Learning(model)
        self.optimizer = Optimizer(self._learning.module, training, recipe.constraint)
        if (why := why_padded(model.module)) is not None:
            _log.info("prompts are read once for every rollout of theirs, not once for all: %s", why)
        self.moving = threading.Lock()
        """Held while the weights move."""
        self.version = 0
        """Of the weights: the last step that is in them."""
        self.positions = 0
        """That went through the model for the last batch, padding included."""
        self.stale = False
        """Whether a weight of the recipe found, at the last batch, that what is written ahead is too old."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the student's weights."""
        return next(self._model.module.parameters()).dtype

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step on this batch, or on this rank's share of one; returns the whole's metrics. Raises NonFiniteLoss and
        NonFiniteGradient, on every rank.

        A batch without a single token that counts gives a zero loss, moves nothing, and says so (`empty` is 1).
        """
        gradient = self.gradient(batch)
        if gradient is None:
            self.optimizer.zero_grad()
            return {"loss": 0.0, "grad_norm": 0.0, "learning_rate": 0.0, "empty": 1.0}
        with self.moving:
            norm = self.optimizer.step(batch.step)
            self._learning.collect()
            self.version = batch.step
        rate = self.optimizer.learning_rate(batch.step)
        metrics = {"loss": gradient.loss, "grad_norm": norm, "learning_rate": rate, "empty": 0.0}
        return metrics | gradient.per_token() | ({"stale": 1.0} if self.stale else {})

    def gradient(self, batch: Batch) -> Sums | None:
        """Accumulate the batch's gradient on the parameters; None when no token of it counts."""
        learning, head = self._learning, self._learning.head()
        batch = batch.to(self._model.device)
        passes = cuts(batch.rows, self._model.module, pass_tokens(self._model, self._training))
        self.positions, self.stale = sum(cut.tokens for cut in passes), False
        all_of_it = outline(learning.ranks, batch, len(passes))
        if not all_of_it.passes:
            return None
        batch = all_of_it.even(batch)
        weighs = bool(self._recipe.weights) or any(term.weights for term in self._recipe.objective)
        student, opinions = blank_scalars(batch, self.dtype), None
        if weighs or all_of_it.spanned:
            hidden_TD = self._read(passes, all_of_it.passes)
            if all_of_it.spanned:
                batch = share_spans(batch, _written(head, hidden_TD, batch.token_T), total=all_of_it.total)
            if weighs:
                student, opinions = first_pass(self._recipe, batch, head, hidden_TD)
        view = all_of_it.view(batch.view(student))
        plans = weigh(self._recipe, view, all_of_it.scalars(opinions))
        self.stale = any(plan.stale for plan in plans)
        if all(plan.denominator == 0 for plan in plans):
            return None
        mine = all_of_it.mine
        sums = self._fold(
            batch,
            narrow_view(view, mine.start, mine.stop),
            [all_of_it.plan(plan) for plan in plans],
            head,
            list(learning.passes(passes, all_of_it.passes)),
        )
        total = Sums()
        for each in learning.ranks.every(sums, SUMS):
            total.merge(each)
        return total

    @torch.no_grad()
    def _read(self, passes: Sequence[Cut], most: int) -> Tensor:
        """The hidden states of the whole batch, without gradient [T, D]."""
        found = [self._learning.hidden_states(cut) for cut in self._learning.passes(passes, most)]
        return torch.cat([found[-1][:0], *found[: len(passes)]])

    def _fold(
        self, batch: Batch, view: TokenView, plans: Sequence[TermWeights], head: Head, passes: Sequence[Cut]
    ) -> Sums:
        """Pass after pass, the loss and its gradient. A rank whose loss is not finite goes on with the others to the
        last pass, where all hear of it: a layer is gathered by all ranks or by none."""
        learning, total = self._learning, Sums()
        failed: FloatingPointError | None = None
        for cut in passes:
            hidden_TD = learning.hidden_states(cut)
            give_back()
            grad_TD = torch.zeros_like(hidden_TD, requires_grad=False)
            if cut.rows and failed is None:
                start = batch.offsets[cut.rows.start]
                try:
                    grad_TD, sums = fold(self._recipe, batch, view, plans, head, hidden_TD, start)
                    total.merge(sums)
                except FloatingPointError as error:
                    failed = error
            learning.backward(hidden_TD, grad_TD)
            give_back()
        learning.close(head)
        for why in learning.ranks.every(None if failed is None else str(failed), _WHY):
            if why is not None:
                raise failed or NonFiniteLoss(why)
        return total


def pass_tokens(model: Model, training: Training) -> int:
    """Most tokens that go through this student at once."""
    if model.device.type != "cpu" or training.gradient_checkpointing:
        return training.microbatch_tokens
    config = model.module.config.get_text_config()
    # A Llama's layer keeps about twenty vectors of hidden size a token, in float32.
    kept = 80 * config.hidden_size * config.num_hidden_layers
    return min(training.microbatch_tokens, max(FEWEST, KEPT_BYTES // kept))


@torch.no_grad()
def _written(head: Head, hidden_TD: Tensor, token_T: Tensor, block_tokens: int = 512) -> Tensor:
    """The student's log-probability of every token that was written [T]."""
    parts = [
        log_softmax(hidden_TD[begin:end], head).gather(-1, token_T[begin:end, None]).squeeze(-1)
        for begin, end in blocks(0, len(token_T), block_tokens)
    ]
    return torch.cat(parts) if parts else hidden_TD.new_zeros(0)
