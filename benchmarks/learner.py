"""The learner: what its loss costs, in memory and time, against the materialised one and the peers'; what a prompt
that stands once saves; its sampler against transformers' `generate`; how long it waits for a slow teacher; and a whole
step of self-distillation against TRL's.

Both sides of a ratio are measured in one run, in turn, so that what else the machine does falls on both; a ratio is
that of the medians. The last line is one JSON object with every ratio, its bar, and whether it holds. All of it takes
some 25 minutes on two cores. Peers are found in another environment: PRECEPTOR_PEERS_PYTHON names its Python, which has
trl 1.16, liger-kernel 0.8.5 and datasets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable

from of_learner.grouped import grouped
from of_learner.losses import losses
from of_learner.overlap import overlap
from of_learner.sampling import sampling
from of_learner.step import step
from of_teacher.pairs import Ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="compute threads of every side")
    parser.add_argument("--rounds", type=int, default=3, help="of every side, in turn")
    parser.add_argument("--small", action="store_true", help="sizes that show that it runs, and nothing else")
    parser.add_argument("--only", default="loss,grouped,sampling,overlap,step", help="parts, comma-separated")
    chosen = parser.parse_args()
    ratios, began = Ratios(), time.perf_counter()
    parts: dict[str, Callable[[], None]] = {
        "loss": lambda: losses(ratios, chosen.threads, chosen.rounds, chosen.small),
        "grouped": lambda: grouped(ratios, chosen.threads, chosen.rounds, chosen.small),
        "sampling": lambda: sampling(ratios, chosen.threads, chosen.rounds, chosen.small),
        "overlap": lambda: overlap(ratios, chosen.threads, chosen.small),
        "step": lambda: step(ratios, chosen.threads, chosen.rounds, chosen.small),
    }
    for name in chosen.only.split(","):
        if name not in parts:
            parser.error(f"--only: '{name}' is not one of {', '.join(parts)}")
        parts[name]()
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    settings = {"threads": chosen.threads, "rounds": chosen.rounds, "seconds": round(time.perf_counter() - began)}
    print(
        json.dumps(
            {"bench": "learner", **settings, "machine": machine, "ratios": ratios.found, "skipped": ratios.skipped}
        )
    )


if __name__ == "__main__":
    main()
