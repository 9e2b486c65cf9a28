"""A teacher that looks its answers up: reference, test double, and the protocol's documentation in one.

Every number that `POST /v1/score` can return is written out here for one position, in float64 and without a single
optimisation. The head of a table is the identity: its hidden states are its logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from preceptor.errors import Invalid
from preceptor.frames import hash_of, head_buffers, scored_candidates
from preceptor.tensors import Tensor
from preceptor.wire.score import Extra, Numbers, ScoreRequest
from preceptor.wire.teachers import HeadCard, Support, TokenizerCard
from preceptor_services.teacher.backends import About, NewWeights, Text

Logits = Callable[[tuple[int, ...]], Sequence[float]]
"""From all ids before a position, context first, to the logits of what comes next."""


def from_rows(rows: Mapping[tuple[int, ...], Sequence[float]], default: Sequence[float]) -> Logits:
    """A table written by hand: logits by prefix, and what holds for every other prefix."""
    return lambda prefix: rows.get(prefix, default)


def hashed(vocab_size: int, seed: int = 0) -> Logits:
    """A table too large to write: standard normal logits drawn anew for every prefix, always the same ones."""

    def logits(prefix: tuple[int, ...]) -> Sequence[float]:
        digest = hashlib.sha256(np.array([seed, *prefix], dtype="<i8").tobytes()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(vocab_size).tolist()

    return logits


class TableBackend:
    """Scores from a table."""

    text: Text | None = None

    def __init__(self, logits: Logits, vocab_size: int, max_tokens: int = 4096) -> None:
        self._logits, self._vocab_size = logits, vocab_size
        self._head = head_buffers(Tensor.of(np.eye(vocab_size, dtype=np.float32)))
        self.about = About(
            model="table",
            engine="table 1",
            device="cpu",
            dtype="float64",
            tokenizer=TokenizerCard(fingerprint=f"sha256:{vocab_size:064x}", vocab_size=vocab_size),
            max_tokens=max_tokens,
            supports=tuple(Support),
            head=HeadCard(hash=hash_of(self._head), hidden_size=vocab_size),
        )

    def head(self) -> Sequence[bytes | memoryview]:
        """The identity."""
        return self._head

    def layout(self) -> None:
        """None: a table has no weights."""
        return None

    def prepare(self, weights: NewWeights) -> Callable[[], None]:
        """Never called, since there is no layout."""
        raise Invalid("weights: a table has none.", field="weights")

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        """Position by position, in request order."""
        logits_TV, token_T = self._positions(request, between)
        scaled_TV = logits_TV / request.temperature
        top_T1 = scaled_TV.max(axis=1, keepdims=True, initial=-np.inf)
        lse_T = np.log(np.exp(scaled_TV - top_T1).sum(axis=1)) + top_T1[:, 0]
        logprob_TV = scaled_TV - lse_T[:, None]
        row_T = np.arange(len(token_T))
        logprob_T = logprob_TV[row_T, token_T]
        ids_TK = self._ids(request, logprob_TV)
        logprobs_TK = tail_T = None
        if ids_TK is not None:
            picked_TK = logprob_TV[row_T[:, None], np.maximum(ids_TK, 0)]
            logprobs_TK = np.where(ids_TK < 0, -np.inf, picked_TK).astype(np.float32)
            tail_T = np.array([_tail(*row) for row in zip(logprob_TV, ids_TK, strict=True)], dtype=np.float32)
        full = request.support is Support.FULL
        extras = request.extras
        entropy_T = -(np.exp(logprob_TV) * logprob_TV).sum(axis=1)
        rank_T = (logprob_TV > logprob_T[:, None]).sum(axis=1)
        return Numbers(
            offsets=request.scored_offsets,
            logprob_T=logprob_T.astype(np.float32),
            ids_TK=ids_TK,
            logprobs_TK=logprobs_TK,
            tail_T=tail_T,
            hidden_TD=logits_TV.astype(np.float32) if full else None,
            entropy_T=entropy_T.astype(np.float32) if Extra.ENTROPY in extras else None,
            logsumexp_T=lse_T.astype(np.float32) if Extra.LOGSUMEXP in extras else None,
            rank_T=rank_T.astype(np.int32) if Extra.RANK in extras else None,
        )

    def _positions(
        self, request: ScoreRequest, between: Callable[[], object]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Logits [T, V] before every scored token, and the tokens [T]: the position rule, and all of it."""
        rows: list[Sequence[float]] = []
        tokens: list[int] = []
        position = 0
        for completion, context_of in zip(request.completions, request.context_of.tolist(), strict=True):
            between()
            context = request.contexts[context_of].tolist()
            written = completion.tolist()
            for index, token in enumerate(written):
                if request.position_mask is None or request.position_mask[position]:
                    rows.append(self._logits((*context, *written[:index])))
                    tokens.append(token)
                position += 1
        logits_TV = np.array(rows, dtype=np.float64).reshape(len(rows), self._vocab_size)
        return logits_TV, np.array(tokens, dtype=np.int64)

    def _ids(self, request: ScoreRequest, logprob_TV: NDArray[np.float64]) -> NDArray[np.int32] | None:
        if request.support is Support.TOPK:
            return np.argsort(-logprob_TV, axis=1, kind="stable")[:, : request.k].astype(np.int32)
        return None if request.candidate_ids is None else scored_candidates(request)


def _tail(logprob_V: NDArray[np.float64], ids_K: NDArray[np.int32]) -> float:
    """Log of the probability outside the ids; -1 pads."""
    left = np.delete(logprob_V, ids_K[ids_K >= 0])
    return float(np.logaddexp.reduce(left)) if left.size else -np.inf
