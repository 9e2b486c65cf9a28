"""How likely every token of a completion was, given its context: the numbers behind every teacher, served or not.

Rows of context and completion are batched by length under a token budget and right-padded, so that a row's numbers do
not depend on its neighbours; rows of several requests may share a forward pass. Only the hidden states that predict a
wanted completion token are kept; logits are made from them in blocks of rows, so that [T, V] never exists. Products are
computed in the weights' dtype, everything after in float32.

Shape letters: B rows, S positions, N wanted positions of one forward pass, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from preceptor.wire.score import Numbers, ScoreRequest
from preceptor_trainer.model import Model, head_of
from preceptor_trainer.numbers import Tally
from preceptor_trainer.numbers import answer_bytes as answer_bytes
from preceptor_trainer.packing import Input, Packed, Piece, as_taken, lay_out, most_new, pack, prefix_ids, reads_first
from preceptor_trainer.packing import packable as packable
from preceptor_trainer.passes import choose, joined
from preceptor_trainer.prefixes import Prefix, PrefixCache, stack
from preceptor_trainer.products import faster


def score(
    model: Model,
    request: ScoreRequest,
    *,
    batch_tokens: int = 8192,
    between: Callable[[], object] | None = None,
    prefixes: PrefixCache | None = None,
    version: int = 0,
) -> Numbers:
    """Score a request. A context is read once for all its completions, and not at all where `prefixes` holds it.

    batch_tokens: most tokens, padding included, in one forward pass; a longer single row still gets its own.
    between: called before every forward pass; what it raises ends the work (a caller that went away, a deadline).
    version: of the weights, which is part of a prefix's name.
    Ids must be below the vocabulary's size and rows within the model's positions; `preceptor.limits` checks both.
    """
    scorer = Scorer(model, batch_tokens=batch_tokens, prefixes=prefixes)
    scoring = scorer.open(request, version)
    while scoring.left:
        if between is not None:
            between()
        scorer.advance([scoring])
    return scoring.numbers()


class Scoring:
    """One request that is being scored: the rows that are left, and the numbers so far."""

    def __init__(self, tally: Tally, rows: Sequence[Packed], version: int) -> None:
        self.tally, self.version = tally, version
        self.rows = sorted(rows, key=len, reverse=True)
        """Longest first: what does not fit into memory fails at once."""

    @property
    def left(self) -> int:
        """Tokens that are still to be computed."""
        return sum(len(row) for row in self.rows)

    def numbers(self) -> Numbers:
        """The answer, once nothing is left."""
        return self.tally.done()


class Scorer:
    """A model's forward passes, for requests that come and go. Not thread-safe: it computes one thing at a time."""

    def __init__(
        self,
        model: Model,
        *,
        batch_tokens: int = 8192,
        prefixes: PrefixCache | None = None,
        forward: Callable[..., Any] | None = None,
    ) -> None:
        """See `score`. forward: of the layers, as `module.base_model`, for passes in which no keys and values are held;
        None: the module's own."""
        self._model, self._batch_tokens, self._prefixes, self._forward = model, batch_tokens, prefixes, forward

    def open(self, request: ScoreRequest, version: int = 0) -> Scoring:
        """Begin a request: its rows, packed behind their contexts where the model allows it. Computes nothing."""
        module = self._model.module
        tally = Tally(request, head_of(module), self._model.device)
        mask, offsets, scored = request.position_mask, request.completion_offsets, request.scored_offsets
        pieces: defaultdict[int, list[Piece]] = defaultdict(list)
        for index, completion in enumerate(request.completions):
            kept = np.arange(len(completion))
            if mask is not None:
                kept = np.flatnonzero(mask[offsets[index] : offsets[index + 1]])
            if kept.size:
                at = np.arange(scored[index], scored[index + 1])
                pieces[int(request.context_of[index])].append(Piece(completion[: kept[-1]], kept, at, tally))
        most = self._batch_tokens if packable(module) else 0
        rows: list[Packed] = []
        for context, mine in pieces.items():
            ids = request.contexts[context]
            rows += pack(ids, mine, most, most_new(len(ids), self._hidden_size))
        return Scoring(tally, rows, version)

    @torch.inference_mode()
    def advance(self, scorings: Sequence[Scoring]) -> list[int]:
        """One forward pass for requests of one weights version that have something left: for the first for certain,
        for the others as far as their rows fit in. Returns the tokens that were computed for each.

        Where it raises, every request is as it was before.
        """
        version = scorings[0].version
        chosen = choose(
            [each.rows for each in scorings],
            self._batch_tokens,
            cached=lambda row: self._held(row, version) is not None,
        )
        rows = [row for _, row in chosen]
        if packable(self._model.module) and len(scorings) > 1:
            rows = joined(rows, self._batch_tokens, self._hidden_size)
        hits = [prefix for row in rows if (prefix := self._held(row, version)) is not None]
        self._compute(rows, hits, version)
        tokens = [0] * len(scorings)
        for whose, row in chosen:
            tokens[whose] += len(row)
            scorings[whose].tally.prefix_hits += bool(hits)
        for whose in {whose for whose, _ in chosen}:
            done = {id(row) for index, row in chosen if index == whose}
            scorings[whose].rows = [row for row in scorings[whose].rows if id(row) not in done]
        return tokens

    def _compute(self, rows: Sequence[Packed], hits: Sequence[Prefix], version: int) -> None:
        """The hidden states that predict every wanted token of these rows, put where they belong."""
        module = self._model.module
        keep = self._prefixes is not None and not hits and packable(module) and self._prefixes.wants(rows)
        first = not hits and packable(module) and reads_first(rows)
        cache = stack(hits, module) if hits else DynamicCache(config=module.config) if keep or first else None
        if first:
            ids_BQ = prefix_ids(rows, self._model.device)
            with faster(module, ids_BQ.numel()):
                module.base_model(input_ids=ids_BQ, past_key_values=cache, use_cache=True)
        laid = lay_out(rows, cached=bool(hits) or first, device=self._model.device)
        forward = module.base_model if self._forward is None or cache is not None else self._forward
        # What was compiled has its own products, and would have to be compiled again for these.
        with faster(module, laid.ids_BS.numel()) if self._forward is None else nullcontext():
            hidden_BSD = forward(
                input_ids=laid.ids_BS, past_key_values=cache, use_cache=cache is not None, **_view(module, laid)
            ).last_hidden_state
        if keep and self._prefixes is not None and cache is not None:
            self._prefixes.put(version, rows, cache)
        laid.deliver(hidden_BSD[laid.row_N, laid.state_N])

    def _held(self, row: Packed, version: int) -> Prefix | None:
        return None if self._prefixes is None else self._prefixes.get(version, row.context)

    @property
    def _hidden_size(self) -> int:
        return int(self._model.module.config.get_text_config().hidden_size)


def final_hidden(
    module: PreTrainedModel, input_ids_BS: Tensor, attention_mask_BS: Tensor, position_ids_BS: Tensor
) -> Tensor:
    """[B, S, D] final normalised hidden states: times the head they are the logits. Carries gradient where it is on."""
    out = module.base_model(
        input_ids=input_ids_BS, attention_mask=attention_mask_BS, position_ids=position_ids_BS, use_cache=False
    )
    return out.last_hidden_state


def _view(module: PreTrainedModel, laid: Input) -> dict[str, Tensor | None]:
    """What each position may look at, and where it is."""
    if not packable(module):
        # Which positions are real; every row is one text. What a layer makes of that is the model's business.
        return {"attention_mask": laid.real_BS, "position_ids": laid.position_BS}
    if laid.causal:
        # No mask: attention then skips the half that nobody may see, and nobody looks at padding on the right.
        return {"attention_mask": None, "position_ids": None}
    return {"attention_mask": as_taken(laid.mask_B1SK, module), "position_ids": laid.position_BS}
