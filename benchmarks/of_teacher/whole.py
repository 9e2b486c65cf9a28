"""Exact full vocabulary: final hidden states, and the head once, against all logits in bfloat16."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from of_teacher.answers import HASH, stamp
from of_teacher.pairs import Ratios, interleaved, median, ratio

from preceptor.frames import decode_scores, encode_scores
from preceptor.narrow import from_bf16, to_bf16
from preceptor.tensors import Tensor, pack, unpack
from preceptor.wire.score import HiddenDtype, ScoreRequest, Scores
from preceptor.wire.teachers import PROTOCOL, Support

VOCAB, HIDDEN = 151_936, 2_048
"""Of Qwen's models with 1.7 B parameters."""
TOKENS = 1_024
LOGITS_TOKENS = 128
"""Of the other side, whose frame for all would have 311 MB; its size does not depend on how many there are."""


def case(tokens: int) -> tuple[ScoreRequest, Scores]:
    """A request for full support, and its answer."""
    rng = np.random.default_rng(0)
    request = ScoreRequest(
        contexts=[np.arange(1, 65, dtype=np.int32)],
        completions=[rng.integers(0, VOCAB, tokens, dtype=np.int32)],
        context_of=np.zeros(1, dtype=np.int32),
        support=Support.FULL,
        dtype=HiddenDtype.BF16,
    )
    hidden_TD = rng.standard_normal((tokens, HIDDEN), dtype=np.float32)
    logprob_T = -rng.exponential(size=tokens).astype(np.float32)
    return request, Scores(
        offsets=request.scored_offsets,
        logprob_T=logprob_T,
        hidden_TD=hidden_TD,
        stamp=stamp(head_hash=HASH, dtype="bfloat16"),
    )


def logits_frame(logits_TV: torch.Tensor) -> bytes:
    """What a teacher would send that sent them all."""
    array = logits_TV.to(torch.bfloat16).view(torch.uint16).numpy()
    return b"".join(pack({"logits": Tensor("BF16", array)}, {"protocol": PROTOCOL, "stamp": stamp().model_dump_json()}))


def sent(pieces: Sequence[bytes]) -> bytes:
    """Through a TCP connection of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with socket.create_connection(listener.getsockname()) as connection:
            for piece in pieces:
                connection.sendall(piece)

    sender = threading.Thread(target=send)
    sender.start()
    connection, _ = listener.accept()
    with connection, listener:
        received = bytearray()
        while piece := connection.recv(1 << 20):
            received += piece
    sender.join()
    return bytes(received)


def sides(tokens: int) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """From a teacher's hidden states to the learner's [T, V] log-probabilities: by hidden states, by logits."""
    request, scores = case(tokens)
    assert scores.hidden_TD is not None
    head_VD = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).float()
    hidden_TD = torch.from_numpy(from_bf16(to_bf16(scores.hidden_TD)))

    def by_hidden() -> torch.Tensor:
        received = decode_scores(sent([encode_scores(scores, request)]), request).hidden_TD
        assert received is not None
        return (torch.from_numpy(received) @ head_VD.T).log_softmax(dim=-1)

    def by_logits() -> torch.Tensor:
        tensors, _ = unpack(sent([logits_frame(hidden_TD @ head_VD.T)]))
        return torch.from_numpy(from_bf16(tensors["logits"].array)).log_softmax(dim=-1)

    return by_hidden, by_logits


def full_vocabulary(ratios: Ratios, threads: int, pairs: int) -> None:
    """Bytes per token of both, from real frames; seconds from the teacher's states to the learner's numbers."""
    torch.set_num_threads(threads)
    request, scores = case(TOKENS)
    ours = len(encode_scores(scores, request)) / TOKENS
    logits = len(logits_frame(torch.zeros(LOGITS_TOKENS, VOCAB))) / LOGITS_TOKENS
    sizes = {"ours_bytes": round(ours, 1), "logits_bytes": round(logits, 1)}
    ratios.add(f"bytes, hidden / bf16 logits, V={VOCAB} D={HIDDEN}", ours / logits, 1 / 70, sizes, at_most=True)
    by_hidden, by_logits = sides(LOGITS_TOKENS)
    times = interleaved(pairs, by_hidden, by_logits)
    sizes = {"hidden_s": median(times, 0), "logits_s": median(times, 1), "tokens": LOGITS_TOKENS}
    ratios.add("seconds, logits / hidden states, over loopback", ratio(times), None, sizes)
