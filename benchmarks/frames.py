"""How scores travel: bytes per scored position and seconds per answer, safetensors frames against their JSON form; and
what narrow hidden states cost in exactness.

Measured: encoding on the teacher's side and decoding, with every check, on the caller's; the divergence of the
distributions that narrow hidden states give from those of float32, on a real model's answers; what the change of a head
takes of the whole one, for normal weights, V = 32,000 and D = 576. Not measured: the network
and the forward pass. Each time is the best of `--repeat` tries: what else the machine does can only slow one down.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from of_teacher.answers import HASH, stamp

from preceptor.frames import decode_scores, encode_scores, head_buffers
from preceptor.head_delta import encode_delta
from preceptor.narrow import to_bf16
from preceptor.tensors import Tensor
from preceptor.twins import scores_from_json, scores_to_json
from preceptor.wire.score import HiddenDtype, ScoreRequest, Scores
from preceptor.wire.teachers import Support
from preceptor_trainer.model import head_of, load_model
from preceptor_trainer.resolve import resolve_model
from preceptor_trainer.scoring import score

HIDDEN = 1024
"""Hidden size of the smallest models that people distil."""
K = 64


def case(support: Support, dtype: HiddenDtype, positions: int) -> tuple[ScoreRequest, Scores]:
    """A request of 16 completions over one context, and an answer of the right shapes."""
    rng = np.random.default_rng(0)
    completions = np.split(rng.integers(0, 30_000, positions, dtype=np.int32), 16)
    request = ScoreRequest(
        contexts=[np.arange(1, 65, dtype=np.int32)],
        completions=completions,
        context_of=np.zeros(16, dtype=np.int32),
        support=support,
        k=K if support is Support.TOPK else 0,
        dtype=dtype,
    )
    logprob = -rng.exponential(size=positions).astype(np.float32)
    arrays: dict[str, Any] = {}
    if support is Support.TOPK:
        arrays["ids_TK"] = np.argsort(rng.random((positions, 4 * K)), axis=1)[:, :K].astype(np.int32)
        arrays["logprobs_TK"] = -rng.exponential(size=(positions, K)).astype(np.float32)
        arrays["tail_T"] = -rng.exponential(size=positions).astype(np.float32)
    if support is Support.FULL:
        arrays["hidden_TD"] = rng.standard_normal((positions, HIDDEN), dtype=np.float32)
    return request, Scores(offsets=request.scored_offsets, logprob_T=logprob, stamp=stamp(), **arrays)


def best(repeat: int, action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest try, and what it returned."""
    seconds, result = float("inf"), None
    for _ in range(repeat):
        start = time.perf_counter()
        result = action()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds, result


def measure(name: str, support: Support, dtype: HiddenDtype, positions: int, repeat: int) -> dict[str, Any]:
    request, scores = case(support, dtype, positions)
    encode_frame, frame = best(repeat, lambda: encode_scores(scores, request))
    decode_frame, _ = best(repeat, lambda: decode_scores(frame, request))
    encode_json, text = best(1, lambda: scores_to_json(scores, request).encode())
    decode_json, _ = best(1, lambda: scores_from_json(text, request))
    row = {
        "support": name,
        "frame_bytes_per_position": round(len(frame) / positions, 1),
        "json_bytes_per_position": round(len(text) / positions, 1),
        "frame_ms": round(1000 * (encode_frame + decode_frame), 3),
        "json_ms": round(1000 * (encode_json + decode_json), 1),
    }
    print(
        f"{name:>10}: frame {row['frame_bytes_per_position']:>7} B/position {row['frame_ms']:>8} ms"
        f"   JSON {row['json_bytes_per_position']:>8} B/position {row['json_ms']:>8} ms"
    )
    return row


def divergence(ref: str, texts: int) -> list[dict[str, Any]]:
    """Nats between what float32 hidden states say of a model's own answers and what narrower ones do."""
    model = load_model(resolve_model(ref))
    module: Any = model.module
    weight_VD, bias_V = head_of(model.module)
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        prompt_BS = torch.randint(3, model.card.vocab_size, (texts, 8), generator=random)
        torch.manual_seed(0)
        written_BS = module.generate(prompt_BS, do_sample=True, max_new_tokens=48, top_k=0, pad_token_id=0)
    request = ScoreRequest(
        contexts=list(prompt_BS.numpy().astype(np.int32)),
        completions=list(written_BS[:, 8:].numpy().astype(np.int32)),
        context_of=np.arange(texts, dtype=np.int32),
        support=Support.FULL,
    )
    scores = Scores.stamped(score(model, request), stamp())

    def logprobs(dtype: HiddenDtype) -> torch.Tensor:
        asked = replace(request, dtype=dtype)
        hidden_TD = decode_scores(encode_scores(scores, asked), asked).hidden_TD
        bias = None if bias_V is None else bias_V.detach().double()
        logits_TV = torch.nn.functional.linear(torch.tensor(hidden_TD).double(), weight_VD.detach().double(), bias)
        return logits_TV.log_softmax(-1)

    exact_TV, rows = logprobs(HiddenDtype.F32), list[dict[str, Any]]()
    for dtype in (HiddenDtype.BF16, HiddenDtype.F8):
        apart_T = (exact_TV.exp() * (exact_TV - logprobs(dtype))).sum(-1)
        mean, largest = float(apart_T.mean()), float(apart_T.max())
        rows.append({"model": Path(ref).name, "dtype": dtype.value, "mean_kl": mean, "largest_kl": largest})
        print(f"{Path(ref).name:>10} {dtype.value:>8}: KL from f32, mean {mean:.2e} nats, largest {largest:.2e}")
    return rows


def head_change(vocabulary: int, hidden: int) -> list[dict[str, Any]]:
    """Bytes of the change of a head whose every number has moved by a share of itself, over those of the whole head."""
    random = np.random.default_rng(0)
    weight_VD = random.standard_normal((vocabulary, hidden), dtype=np.float32)
    rows: list[dict[str, Any]] = []
    for share in (1e-4, 1e-3, 1e-2):
        moved_VD = weight_VD * (1 + share * random.standard_normal(weight_VD.shape, dtype=np.float32))
        row: dict[str, Any] = {"moved_by": share}
        for name, narrowed in (("f32", Tensor.of), ("bf16", lambda array: Tensor("BF16", to_bf16(array)))):
            old, new = head_buffers(narrowed(weight_VD)), head_buffers(narrowed(moved_VD))
            start = time.perf_counter()
            change = encode_delta(old, HASH, new, HASH)
            assert change is not None, "two heads of one shape"
            row[f"{name}_seconds"] = round(time.perf_counter() - start, 2)
            row[name] = round(sum(map(len, change)) / sum(map(len, new)), 3)
        print(f"head moved by {share:.0e}: change / whole {row['f32']:.3f} in f32, {row['bf16']:.3f} in bf16")
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=2048, help="scored positions per answer; a multiple of 16")
    parser.add_argument("--repeat", type=int, default=20, help="tries per figure of the frames; JSON is tried once")
    parser.add_argument("--models", default="models/tiny,smollm2", help="whose hidden states are narrowed")
    parser.add_argument("--texts", type=int, default=16, help="answers of 48 tokens of each model")
    arguments = parser.parse_args()
    cases = [
        ("sampled", Support.SAMPLED, HiddenDtype.F32),
        (f"topk {K}", Support.TOPK, HiddenDtype.F32),
        ("full f32", Support.FULL, HiddenDtype.F32),
        ("full bf16", Support.FULL, HiddenDtype.BF16),
        ("full f8", Support.FULL, HiddenDtype.F8),
    ]
    rows = [measure(*each, arguments.positions, arguments.repeat) for each in cases]
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    settings = {"positions": arguments.positions, "hidden": HIDDEN, "k": K}
    narrow = [row for ref in arguments.models.split(",") for row in divergence(ref, arguments.texts)]
    found = {"rows": rows, "narrow": narrow, "head_change": head_change(32_000, 576)}
    print(json.dumps({"bench": "frames", **settings, "machine": machine, **found}))


if __name__ == "__main__":
    main()
