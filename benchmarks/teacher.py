"""The teacher's service: what it costs over the bare model, how it compares with vLLM, what travels, and under a crowd.

Both sides of a ratio are measured in one run, in turn, so that what else the machine does falls on both; a ratio is the
median over pairs. Models have random weights of known shapes. Not measured: GPUs, networks, what scores are worth.
The last line is one JSON object with every ratio, its bar, and whether it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from of_teacher.crowd import crowd
from of_teacher.pairs import Ratios
from of_teacher.serving import against_bare, against_vllm, shared_context
from of_teacher.whole import full_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="compute threads of every side; the client has the rest")
    parser.add_argument("--pairs", type=int, default=11, help="interleaved pairs per ratio")
    parser.add_argument("--slow-pairs", type=int, default=3, help="the same where a side takes 15 s")
    parser.add_argument("--small-rows", type=int, default=4, help="sequences of 512 tokens for the 58 M bare forward")
    parser.add_argument("--requests", type=int, default=10, help="of each of the 64 clients, in a round")
    parser.add_argument("--only", default="bare,vllm,full,shared,crowd", help="parts, comma-separated")
    chosen = parser.parse_args()
    ratios, began = Ratios(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, threads, pairs = Path(folder), chosen.threads, chosen.pairs
        parts: dict[str, Callable[[], None]] = {
            "bare": lambda: against_bare(ratios, path, threads, pairs, chosen.small_rows),
            "vllm": lambda: against_vllm(ratios, path, threads, pairs, chosen.slow_pairs),
            "full": lambda: full_vocabulary(ratios, threads, chosen.slow_pairs),
            "shared": lambda: shared_context(ratios, path, threads, chosen.slow_pairs),
            "crowd": lambda: crowd(ratios, path, threads, chosen.requests),
        }
        for name in chosen.only.split(","):
            if name not in parts:
                parser.error(f"--only: '{name}' is not one of {', '.join(parts)}")
            parts[name]()
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    settings = {"threads": chosen.threads, "pairs": chosen.pairs, "seconds": round(time.perf_counter() - began)}
    found = {"ratios": ratios.found, "skipped": ratios.skipped}
    print(json.dumps({"bench": "teacher", **settings, "machine": machine, **found}))


if __name__ == "__main__":
    main()
