"""Requests that two teachers are asked alike, and how far their answers may differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.hf import HfBackend

BOUND = 1e-3
"""Largest difference of two log-probabilities in float32."""


def ragged(support: Support, k: int = 0, *, seed: int = 0, vocab: int = 277, masked: bool = False) -> ScoreRequest:
    """Contexts of several lengths, completions that share them, one of them empty."""
    rng = np.random.default_rng(seed)
    lengths, counts = (1, 7, 40), (3, 9, 1, 0, 25, 64)
    total = sum(counts)
    return ScoreRequest(
        contexts=[rng.integers(0, vocab, length, dtype=np.int32) for length in lengths],
        completions=[rng.integers(0, vocab, count, dtype=np.int32) for count in counts],
        context_of=np.array([0, 1, 1, 2, 2, 0]),
        support=support,
        k=k,
        position_mask=rng.random(total) < 0.6 if masked else None,
    )


def reference(folder: Path, request: ScoreRequest) -> Numbers:
    """What the hf backend says."""
    return HfBackend(folder, device="cpu", dtype="float32").score(request, lambda: None)


def agree(found: Numbers, wanted: Numbers) -> None:
    """Log-probabilities within the bound, ids equal."""
    np.testing.assert_array_equal(found.offsets, wanted.offsets)
    np.testing.assert_allclose(found.logprob_T, wanted.logprob_T, atol=BOUND, rtol=0)
    if wanted.ids_TK is None:
        assert found.ids_TK is None
        return
    assert found.ids_TK is not None and found.logprobs_TK is not None and found.tail_T is not None
    assert wanted.logprobs_TK is not None and wanted.tail_T is not None
    np.testing.assert_array_equal(found.ids_TK, wanted.ids_TK)
    np.testing.assert_allclose(found.logprobs_TK, wanted.logprobs_TK, atol=BOUND, rtol=0)
    # A stock server states no tail: it is what its float32 numbers leave, so it is compared as a probability.
    np.testing.assert_allclose(np.exp(found.tail_T), np.exp(wanted.tail_T), atol=BOUND, rtol=0)
