"""Requests that two teachers are asked alike, and how far their answers may differ."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import Support
from preceptor.wire.weights import WeightsKind
from preceptor_services.teacher.backends.engine import EngineBackend
from preceptor_services.teacher.backends.hf import HfBackend
from tests.contract.teaching import teaching

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


def moves_as_the_hf_backend_does(backend: EngineBackend, untied: Path, other: Path) -> None:
    """Full weights, an adapter on them, and back, over our protocol: scores are the hf backend's of every version."""
    request = ragged(Support.TOPK, 4)
    rng = np.random.default_rng(9)
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    out, in_ = load_file(other / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].shape
    adapter = {
        f"{stem}.lora_A.weight": rng.standard_normal((4, in_)).astype(np.float32),
        f"{stem}.lora_B.weight": rng.standard_normal((out, 4)).astype(np.float32) / 10,
    }
    with (
        teaching(backend, teacher_takes_weights=True) as fronted,
        teaching(HfBackend(untied), teacher_takes_weights=True) as hf,
    ):
        seen = list[np.ndarray]()
        try:
            for version, (kind, weights, scale) in enumerate(
                [("full", other, None), ("lora", adapter, 0.5), ("full", untied, None)], start=1
            ):
                for teacher in (fronted, hf):
                    teacher.client.load_weights(weights, kind=WeightsKind(kind), scale=scale)
                found, wanted = fronted.client.score(request), hf.client.score(request)
                agree(found, wanted)
                assert found.stamp.weights_version == wanted.stamp.weights_version == version
                assert fronted.client.card().weights_hash == hf.client.card().weights_hash
                seen.append(found.logprob_T)
        finally:
            fronted.client.load_weights(untied)
    assert all(np.abs(one - other).max() > 0.05 for one, other in pairwise(seen))
