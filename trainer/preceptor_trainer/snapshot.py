"""A copy of the student's weights that writes while the student itself learns."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from preceptor_trainer.learner import Learner
from preceptor_trainer.model import Model


class Snapshot:
    """A second student, opened like the first. What the run does not train is held once, by both."""

    def __init__(self, student: Model, copy: Model) -> None:
        self.model = copy
        """Its weights change in `refresh` and nowhere else."""
        copies = dict(copy.module.named_parameters())
        pairs = [(copies[name], each) for name, each in student.module.named_parameters()]
        for mine, theirs in pairs:
            mine.requires_grad_(False)
            if not theirs.requires_grad:
                mine.data = theirs.data
        self._pairs = [(mine, theirs) for mine, theirs in pairs if theirs.requires_grad]

    @torch.no_grad()
    def refresh(self, learner: Learner) -> int:
        """Take over the student's weights as they are now; returns their version. Waits while they are being moved."""
        with learner.moving:
            for mine, theirs in self._pairs:
                mine.copy_(theirs)
            return learner.version


def own_tokenizer(model: Model) -> Model:
    """The same model with a tokenizer for one thread: a fast tokenizer must not be used by two at once."""
    return replace(model, tokenizer=deepcopy(model.tokenizer))
