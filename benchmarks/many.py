"""Many teachers: what a step costs with one, two, four, eight of them; debates, co-distillation, skills in a bank.

A module of `of_many` a topic, each with a function of that name: `(ratios, small) -> None`. Skills are measured by
`scripts/bench skills`, whose figures are taken as they are. The last line is one JSON object with every figure, its
bar, and whether it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from of_teacher.pairs import Ratios

TOPICS = ("teachers", "debate", "codistill", "skills")
P95_MS, RECALL = 50.0, 0.95
"""What a search in a bank of 100,000 skills may take, and how often it has to find what an exact one finds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TOPICS), help="topics, comma-separated (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="sizes that show that it runs, and nothing else")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := sorted(set(names) - set(TOPICS)):
        parser.error(f"--only: '{unknown[0]}' is not one of {', '.join(TOPICS)}")
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # examples/ knows how to start a Preceptor
    ratios, began = Ratios(), time.perf_counter()
    for name in names:
        if name == "skills":
            skills(ratios, chosen.small)
        else:
            getattr(import_module(f"of_many.{name}"), name)(ratios, chosen.small)
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    settings = {"small": chosen.small, "seconds": round(time.perf_counter() - began)}
    found = {"ratios": ratios.found, "skipped": ratios.skipped}
    print(json.dumps({"bench": "many", **settings, "machine": machine, **found}))


def skills(ratios: Ratios, small: bool) -> None:
    """Search in a bank, by its own benchmark."""
    command = [sys.executable, str(Path(__file__).with_name("skills.py"))]
    command += ["--skills", "2000", "--queries", "50"] if small else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    sizes = {"skills": found["skills"]}
    ratios.add("skills.p95_ms", found["p95_ms"], P95_MS, sizes, at_most=True)
    ratios.add("skills.recall_at_8", found["recall"], RECALL, sizes)


if __name__ == "__main__":
    main()
