"""Sixty-four clients at once, more than the queue holds: throughput, latency, errors, memory."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from of_teacher.models import TINY
from of_teacher.pairs import Ratios
from of_teacher.servers import KEY, Ours, ours

from preceptor.errors import PreceptorError
from preceptor.pool import TeacherPool
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support

CLIENTS = 64
KEY_ENV = "PRECEPTOR_BENCH_TEACHER_KEY"


def asked(rng: np.random.Generator) -> ScoreRequest:
    """Four completions of a context, of any length and support that a training step asks for."""
    support = Support(rng.choice([Support.SAMPLED, Support.TOPK, Support.FULL]))
    completions = [rng.integers(2, TINY.vocab, rng.integers(8, 65), dtype=np.int32) for _ in range(4)]
    return ScoreRequest(
        contexts=[rng.integers(2, TINY.vocab, rng.integers(16, 257), dtype=np.int32)],
        completions=completions,
        context_of=np.zeros(4, dtype=np.int32),
        support=support,
        k=20 if support is Support.TOPK else 0,
    )


class Round:
    """Every client asks so many times, one after the other, through a pool of its own as a worker does."""

    def __init__(self, server: Ours, cache: Path, requests: int) -> None:
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self.tokens = 0
        self._server, self._cache, self._requests = server, cache, requests
        self._card = server.client.card()
        self._lock = threading.Lock()

    def run(self) -> float:
        """Seconds from the first request to the last answer."""
        began = time.perf_counter()
        clients = [threading.Thread(target=self._client, args=(seed,)) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        return time.perf_counter() - began

    def _client(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        endpoint = TeacherEndpoint(name="crowd", url=self._server.url, key_env=KEY_ENV, card=self._card)
        with TeacherPool({"teacher": endpoint}, self._cache) as pool:
            for _ in range(self._requests):
                request, began = asked(rng), time.perf_counter()
                try:
                    scores = pool.score("teacher", request)
                except PreceptorError as error:
                    with self._lock:
                        self.errors.append(str(error))
                    continue
                with self._lock:
                    self.seconds.append(time.perf_counter() - began)
                    self.tokens += len(scores.logprob_T)


def crowd(ratios: Ratios, folder: Path, threads: int, requests: int) -> None:
    """One round to warm up, two that are measured; memory is compared between their ends."""
    import os

    os.environ[KEY_ENV] = KEY
    with ours(TINY.write(folder), threads, max_queue=32) as server, tempfile.TemporaryDirectory() as cache:
        Round(server, Path(cache), requests).run()
        rounds, resident, seconds = [Round(server, Path(cache), requests) for _ in range(2)], list[int](), 0.0
        for each in rounds:
            seconds += each.run()
            resident.append(server.resident)
    taken = sorted(second for each in rounds for second in each.seconds)
    errors = [error for each in rounds for error in each.errors]
    for error in errors[:3]:
        print(f"    error: {error}")
    sizes = {
        "answers": len(taken),
        "tokens_per_s": round(sum(each.tokens for each in rounds) / seconds),
        "p50_s": round(float(np.percentile(taken, 50)), 4) if taken else None,
        "p95_s": round(float(np.percentile(taken, 95)), 4) if taken else None,
    }
    ratios.add(f"{CLIENTS} clients, queue of 32: errors after retries", len(errors), 0, sizes, at_most=True)
    growth = resident[1] / resident[0]
    megabytes = {"megabytes": resident[1] >> 20}
    ratios.add("resident memory after / before a round of them", growth, 1.05, megabytes, at_most=True)
