"""The compose and learn stages: one global batch becomes one optimizer step."""

from __future__ import annotations

import logging
import threading

import torch
from torch import Tensor

from preceptor.wire.runs import Training
from preceptor_trainer.batch import Batch, share_spans
from preceptor_trainer.grouping import cuts, hidden_states, why_padded
from preceptor_trainer.loss import Sums, blank_scalars, blocks, first_pass, fold, log_softmax
from preceptor_trainer.model import Head, Model, head_of
from preceptor_trainer.optim import Optimizer
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.weighing import weigh

_log = logging.getLogger(__name__)


class Learner:
    """Holds the student's weights and moves them."""

    def __init__(self, recipe: Recipe, model: Model, training: Training) -> None:
        self._recipe = recipe
        self._model = model
        self._training = training
        self.optimizer = Optimizer(model.module, training, recipe.constraint)
        if (why := why_padded(model.module)) is not None:
            _log.info("prompts are read once for every rollout of theirs, not once for all: %s", why)
        self.moving = threading.Lock()
        """Held while the weights move."""
        self.version = 0
        """Of the weights: the last step that is in them."""
        self.positions = 0
        """That went through the model for the last batch, padding included."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the student's weights."""
        return next(self._model.module.parameters()).dtype

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step on this batch; returns its metrics. Raises NonFiniteLoss and NonFiniteGradient.

        A batch without a single token that counts gives a zero loss, moves nothing, and says so (`empty` is 1).
        """
        gradient = self.gradient(batch)
        if gradient is None:
            self.optimizer.zero_grad()
            return {"loss": 0.0, "grad_norm": 0.0, "learning_rate": 0.0, "empty": 1.0}
        with self.moving:
            norm = self.optimizer.step(batch.step)
            self.version = batch.step
        rate = self.optimizer.learning_rate(batch.step)
        return {"loss": gradient.loss, "grad_norm": norm, "learning_rate": rate, "empty": 0.0, **gradient.per_token()}

    def gradient(self, batch: Batch) -> Sums | None:
        """Accumulate the batch's gradient on the parameters; None when no token of it counts."""
        head = head_of(self._model.module)
        batch = batch.to(self._model.device)
        passes = cuts(batch.rows, self._model.module, self._training.microbatch_tokens)
        self.positions = sum(cut.tokens for cut in passes)
        weighs = bool(self._recipe.weights) or any(term.weights for term in self._recipe.objective)
        student, opinions = blank_scalars(batch, self.dtype), None
        if weighs or batch.spanned:
            with torch.no_grad():
                hidden_TD = torch.cat([hidden_states(self._model.module, cut) for cut in passes])
            batch = share_spans(batch, _written(head, hidden_TD, batch.token_T)) if batch.spanned else batch
            if weighs:
                student, opinions = first_pass(self._recipe, batch, head, hidden_TD)
        view = batch.view(student)
        plans = weigh(self._recipe, view, opinions)
        if all(plan.denominator == 0 for plan in plans):
            return None
        total = Sums()
        for cut in passes:
            hidden_TD = hidden_states(self._model.module, cut)
            grad_TD, sums = fold(self._recipe, batch, view, plans, head, hidden_TD, batch.offsets[cut.rows.start])
            if hidden_TD.requires_grad:
                hidden_TD.backward(grad_TD)
            total.merge(sums)
        return total


@torch.no_grad()
def _written(head: Head, hidden_TD: Tensor, token_T: Tensor, block_tokens: int = 512) -> Tensor:
    """The student's log-probability of every token that was written [T]."""
    parts = [
        log_softmax(hidden_TD[begin:end], head).gather(-1, token_T[begin:end, None]).squeeze(-1)
        for begin, end in blocks(0, len(token_T), block_tokens)
    ]
    return torch.cat(parts) if parts else hidden_TD.new_zeros(0)
