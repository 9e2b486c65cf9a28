"""Teachers in the process of the run: each role a model, scored as a run's own base is, and moved at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch

from preceptor.ledgers import added
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.runs import TeacherLedger
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card
from preceptor.wire.tokenizers import TokenizerFile
from preceptor.wire.weights import WeightsKind
from preceptor_trainer.asking import Scorer
from preceptor_trainer.model import Model
from preceptor_trainer.own_base import WithOwnBase
from preceptor_trainer.trained import Trained

BATCH_TOKENS = 8192


class InProcess:
    """A `Scorer` and a `Publisher` whose teachers are models at hand."""

    def __init__(self, models: Mapping[str, Model], writes: Callable[[str, ChatRequest], Reply] | None = None) -> None:
        """`models`: by role, none shared between a role that moves and another. `writes`: what a role writes."""
        self._models = models
        self._writes = writes
        self._served = {role: _served(role, model) for role, model in models.items()}

    def begin(self, step: int) -> Collection[str]:
        return ()

    def begin_again(self) -> Collection[str]:
        return ()

    def card(self, role: str) -> Card:
        return self._served[role].card(role)

    def tokenizer(self, role: str) -> TokenizerFile:
        return self._served[role].tokenizer(role)

    def head(self, role: str, hash: str | None = None, **settings: Any) -> Head:
        return self._served[role].head(role, hash, **settings)

    def score(self, role: str, request: ScoreRequest, **settings: Any) -> Scores:
        return self._served[role].score(role, request, **settings)

    def chat(self, role: str, request: ChatRequest, **settings: Any) -> Reply:
        if self._writes is None:
            raise ValueError(f"role '{role}' is asked for a text, and nobody here writes any")
        return self._writes(role, request)

    def take_ledger(self) -> dict[str, TeacherLedger]:
        return added([each.take_ledger() for each in self._served.values()])

    def publish(self, role: str, weights: Trained) -> None:
        assert weights.kind is WeightsKind.FULL, "these students have no adapters"
        with torch.no_grad():
            for name, each in self._models[role].module.named_parameters():
                each.copy_(weights.tensors[name])
        self._served[role] = _served(role, self._models[role])  # its head has moved, too


class _Nobody:
    """Who answers when the roles at hand do not: there are no others."""

    def take_ledger(self) -> dict[str, TeacherLedger]:
        return {}


def _served(role: str, model: Model) -> WithOwnBase:
    return WithOwnBase(cast(Scorer, _Nobody()), {role}, model, role, "float32", BATCH_TOKENS)
