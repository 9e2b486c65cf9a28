"""One step of self-distillation on SmolLM2-135M, sampled, scored and learned from, against TRL's `SDFTTrainer`.

Made equal: the model folder and float32; the same tasks in the same order, new ones in every step, with prompts that
are equal to the token, the teacher's around a worked solution of some 400 tokens; 4 prompts x 4 rollouts x exactly 64
tokens, sampled at temperature 1 from the whole vocabulary, where no token ends a completion on either side; a frozen
copy of the first weights as teacher; JSD(0.5) over the whole vocabulary, a mean over tokens, no importance weights;
all weights trained with AdamW and clipped gradients, same settings; no gradient checkpointing (TRL's default is to
have it, which takes it longer in less memory); compute threads. TRL's loss and gradient norm of its first step are
computed again by our stages on TRL's own rollouts, and must agree.

Not equal: TRL's teacher is a module in its process. Ours is what a user has: a service of its own, asked over loopback
HTTP; its CPU time and its peak memory are added to the trainer's. TRL reads a prompt once for every rollout; we read it
once for all of them, as any run does. Each process is fresh, its first step does not count, and memory is the most that
it held from its start to its last step's end.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from of_teacher import servers
from of_teacher.pairs import Ratios

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.resolve import resolve_model

PROMPTS, GROUP, TOKENS, TIMED = 4, 4, 64, 2
MOST_ROUNDS = 2
"""TRL's side of one takes three minutes."""
FASTER, SMALLER = 1.5, 0.6
AGREEMENT = 1e-3
"""Relative: what float32 may make of the same loss and gradient in another order."""
TRAINING = {"learning_rate": 1e-5, "betas": (0.9, 0.95), "weight_decay": 0.0, "clip_norm": 1.0, "warmup_steps": 0}


def step(ratios: Ratios, threads: int, rounds: int, small: bool) -> None:
    """Seconds of TRL's step to ours, and our peak memory to TRL's."""
    python = os.environ.get("PRECEPTOR_PEERS_PYTHON", "")
    with tempfile.TemporaryDirectory() as temporary:
        sides = _Sides(Path(temporary), python, threads, small)
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
        agreed: dict[str, Any] = {}
        for turn in range(min(rounds, MOST_ROUNDS)):
            for side in ("trl", "ours") if turn % 2 == 0 else ("ours", "trl"):
                if side == "ours" or python:
                    found[side].append(sides.run(side))
            if turn == 0 and python:
                agreed = sides.run("check")
    mine, theirs = _median(found["ours"]), _median(found["trl"]) if python else {}
    stages = found["ours"][0]["stages"]
    spent = {f"{name}_s": round(statistics.median(seconds), 2) for name, seconds in stages.items()}
    sizes = {"s": mine["seconds"], "cpu_s": mine["cpu_seconds"], "MB": mine["MB"], **spent}
    if not python:
        ratios.skip(f"step.faster_than_trl {sizes}", "PRECEPTOR_PEERS_PYTHON names no Python that has trl")
        return
    for name in ("loss", "norm"):
        own, other = agreed[name]
        if abs(own - other) > AGREEMENT * abs(other):
            raise ArithmeticError(f"step: the {name} of TRL's first step is {other}, and ours of the same is {own}")
    print(__doc__, flush=True)
    sizes |= {"to_s": theirs["seconds"], "to_cpu_s": theirs["cpu_seconds"], "to_MB": theirs["MB"]}
    sizes |= {"teacher_prompt": agreed["shown"], "loss": agreed["loss"], "norm": agreed["norm"]}
    ratios.add("step.faster_than_trl", theirs["seconds"] / mine["seconds"], FASTER, sizes)
    sizes = {"MB": mine["MB"], "teacher_MB": round(found["ours"][0]["bytes"][1] / 1e6), "to_MB": theirs["MB"]}
    ratios.add("step.memory_of_trl", mine["MB"] / theirs["MB"], SMALLER, sizes, at_most=True)


def _median(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Of all timed steps, and of the runs' peaks."""
    steps = {name: statistics.median(each for run in runs for each in run[name]) for name in ("seconds", "cpu_seconds")}
    megabytes = round(statistics.median(sum(run["bytes"]) for run in runs) / 1e6)
    return {**{name: round(value, 2) for name, value in steps.items()}, "MB": megabytes}


class _Sides:
    """Both sides' processes, and what they are given."""

    def __init__(self, folder: Path, python: str, threads: int, small: bool) -> None:
        self._work, self._first, self._python, self._threads = folder / "work", folder / "first", python, threads
        self._student = _endless(resolve_model("smollm2"), folder / "student")
        rng, steps = Random(0), 2 if small else 1 + TIMED
        work = {
            "student": str(self._student),
            "steps": [[_sum(rng, 3 if small else 20) for _ in range(PROMPTS)] for _ in range(steps)],
            "group": GROUP,
            "tokens": 4 if small else TOKENS,
            "template": Reference()
            .template.replace("{question}", "{prompt}")
            .replace("{reference}", "{privileged_context}"),
            "training": TRAINING,
            "threads": threads,
        }
        self._work.write_text(json.dumps(work))

    def run(self, side: str) -> dict[str, Any]:
        if side == "trl":
            return self._start(self._python, side)
        with servers.ours(self._student, self._threads) as teacher:
            return self._start(sys.executable, side, f"--teacher={teacher.url}", f"--pid={teacher.pid}")

    def _start(self, python: str, side: str, *more: str) -> dict[str, Any]:
        script = [str(Path(__file__).with_name("step_side.py")), f"--side={side}"]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self._threads),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        environment |= {"PRECEPTOR_TEACHER_KEY": servers.KEY, "TRL_EXPERIMENTAL_SILENCE": "1"}
        done = subprocess.run(
            [python, "-W", "ignore", *script, f"--work={self._work}", f"--first={self._first}", *more],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            raise RuntimeError(f"step: side {side} ended with {done.returncode}: {done.stderr[-2000:]}")
        print(".", end="", file=sys.stderr, flush=True)
        return json.loads(done.stdout.splitlines()[-1])


def _endless(source: Path, target: Path) -> Path:
    """A copy of the model folder in which no token ends a completion."""
    shutil.copytree(source, target)
    for name, field in {"generation_config.json": "eos_token_id", "tokenizer_config.json": "eos_token"}.items():
        settings = json.loads((target / name).read_text())
        del settings[field]
        (target / name).write_text(json.dumps(settings))
    return target


def _sum(rng: Random, lines: int) -> dict[str, str]:
    """A short question with a long worked solution, of some 20 tokens a line."""
    first, count = rng.randint(100, 999), lines + 1
    numbers = range(first, first + count)
    worked, total = list[str](), first
    for number in numbers[1:]:
        worked.append(f"{total} + {number} = {total + number}.")
        total += number
    question = f"What is the sum of all whole numbers from {first} to {numbers[-1]}?"
    return {"question": question, "reference": "\n".join(worked), "answer": str(total)}
