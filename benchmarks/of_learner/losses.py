"""The composing loss against the materialised one and the peers' losses, on the same tensors: JSD(0.5), float32.

Every side runs in a process of its own, in turn, round after round; the peers in the first round only, since nothing is
claimed against them. All must agree on loss and gradients.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from of_teacher.pairs import Ratios

AGREEMENT = 2e-4
"""Relative: what float32 sums over a vocabulary may differ by."""
PEERS = {"trl_materialised": "trl", "trl_chunked": "trl", "liger": "liger-kernel"}


@dataclass(frozen=True)
class Case:
    """A size, and the bars for it: memory and time of each way of ours to the materialised loss."""

    tokens: int
    hidden: int
    vocab: int
    bars: dict[str, tuple[float, float]]

    @property
    def name(self) -> str:
        return f"{self.tokens}x{self.hidden}x{self.vocab}"


CASES = (
    Case(1024, 576, 49_152, {"composing": (1 / 8, 1.05), "composing_autograd": (1 / 3, 1.3)}),
    Case(512, 1024, 151_936, {"composing": (1 / 4, 1.1), "composing_autograd": (1 / 3, 1.3)}),
)
SMALL = (Case(64, 64, 4096, {"composing": (1.0, 10.0), "composing_autograd": (1.0, 10.0)}),)
"""To see that it runs."""


def losses(ratios: Ratios, threads: int, rounds: int, small: bool) -> None:
    """Peak memory beyond inputs and gradients, and seconds."""
    for case in SMALL if small else CASES:
        found, missing = _measure(case, threads, rounds)
        plain = found["materialised"]
        for side, (memory, seconds) in case.bars.items():
            mine = found[side]
            sizes = {"MB": round(mine.bytes / 1e6), "to_MB": round(plain.bytes / 1e6), "size": case.name}
            ratios.add(f"loss.{side}.memory", mine.bytes / plain.bytes, memory, sizes, at_most=True)
            sizes = {"s": round(mine.seconds, 3), "to_s": round(plain.seconds, 3), "size": case.name}
            ratios.add(f"loss.{side}.time", mine.seconds / plain.seconds, seconds, sizes, at_most=True)
        for side in PEERS:
            if side in missing:
                ratios.skip(f"loss.{side} {case.name}", missing[side])
                continue
            mine, theirs = found["composing"], found[side]
            sizes = {"MB": round(mine.bytes / 1e6), "to_MB": round(theirs.bytes / 1e6), "size": case.name}
            ratios.add(f"loss.to_{side}.memory", mine.bytes / theirs.bytes, None, sizes)
            sizes = {"s": round(mine.seconds, 3), "to_s": round(theirs.seconds, 3), "size": case.name}
            ratios.add(f"loss.to_{side}.time", mine.seconds / theirs.seconds, None, sizes)


@dataclass(frozen=True)
class _Found:
    seconds: float
    bytes: float
    numbers: list[float]


def _measure(case: Case, threads: int, rounds: int) -> tuple[dict[str, _Found], dict[str, str]]:
    sides = ["materialised", *case.bars, *PEERS]
    runs: defaultdict[str, list[_Found]] = defaultdict(list)
    missing: dict[str, str] = {}
    for turn in range(rounds):
        for step in range(len(sides)):
            side = sides[(turn + step) % len(sides)]
            if side in missing or (turn and side in PEERS):
                continue
            try:
                runs[side].append(_run(case, side, threads))
            except LookupError as error:
                missing[side] = str(error)
    found = {
        side: _Found(
            statistics.median(run.seconds for run in each),
            statistics.median(run.bytes for run in each),
            each[0].numbers,
        )
        for side, each in runs.items()
    }
    for side, each in found.items():
        for mine, wanted in zip(each.numbers, found["materialised"].numbers, strict=True):
            if abs(mine - wanted) > AGREEMENT * abs(wanted):
                raise ArithmeticError(f"{side} at {case.name}: {each.numbers}, materialised {found['materialised']}")
    return found, missing


def _run(case: Case, side: str, threads: int) -> _Found:
    """Raises LookupError where the peer is not installed."""
    python = sys.executable
    if side in PEERS:
        python = os.environ.get("PRECEPTOR_PEERS_PYTHON", "")
        if not python:
            raise LookupError(f"PRECEPTOR_PEERS_PYTHON names no Python that has {PEERS[side]}")
    sizes = [f"--tokens={case.tokens}", f"--hidden={case.hidden}", f"--vocab={case.vocab}", f"--threads={threads}"]
    done = subprocess.run(
        [python, "-W", "ignore", str(Path(__file__).with_name("loss_side.py")), f"--side={side}", *sizes],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "TRL_EXPERIMENTAL_SILENCE": "1"},
    )
    if done.returncode and side in PEERS and "ModuleNotFoundError" in done.stderr:
        raise LookupError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(f"{side} at {case.name} ended with {done.returncode}: {done.stderr[-1000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return _Found(said["seconds"], said["bytes"], [said["loss"], *said["norms"]])
