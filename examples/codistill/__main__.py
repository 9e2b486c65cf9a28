"""Two specialists that teach each other: each gains where the other is better, and keeps what it was good at.

    scripts/example codistill                 the shipped model, some minutes
    scripts/example codistill --steps 60      fewer steps of the pair
    scripts/example codistill --link slow     every link takes 200 ms there and back, and 20 Mbit/s
    scripts/example codistill --cut 30        nothing passes between the two for 30 s in mid-run

There are three hosts, each with a network, an address, a file system and a disk of its own, made by this program:
`control` has the control plane and the broker, `a` and `b` a worker each. They share no disk; models and checkpoints
travel over HTTP. Where a machine makes no hosts (they take Linux, and root or its namespaces), both workers run on it
as it is, which is said at the start, at the end, and in the JSON (`"hosts": 1`).

Short supervised runs make two specialists of the shipped model: A spells words backward (`letters`), B writes secret
codes (`codes`). Then both practise both, on questions of their own and on two hosts. Nobody shows them an answer:
verified outcomes say only who is the better one. Each learns from the other (`peer_opd`) where that one is reliably
better, and stays near what it began as where it was better itself. Exit code 0: each gained 40 points or more where it
was weak, and lost no more than 3 where it was strong. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from examples.codistill.places import Place, place
from examples.common import command, hosts, showing
from examples.common.judging import judge_task
from examples.common.runs import artifact_of, finish_all, finish_pair, models_of_pair
from preceptor.cli.models import model_artifact, model_folder
from preceptor.wire.codistillations import Codistillation, CodistillationCreate, SideCreate
from preceptor.wire.data import TaskSource
from preceptor.wire.pairs import PairPolicy
from preceptor.wire.runs import Run, RunCreate
from preceptor_trainer import tasks

ROOT = Path(__file__).resolve().parents[2]
CODES = {"min_word_len": 5, "max_word_len": 6}
"""So that a tenth of all questions, which is held out, is more than a thousand."""
DOMAINS = {"letters": ("spell_backward", {}), "codes": ("skill_code", CODES)}
"""Each domain's own task, and its options."""
SIDES = {"A": "letters", "B": "codes"}
"""What each is made good at before they meet."""
MAX_TOKENS = 16
GAIN, LOSS = 0.40, 0.03
"""What each side is to gain at least where it is weak, and may lose where it is strong."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, and how fast."""

    special_steps: int = 80
    """Of each specialist's own training."""
    steps: int = 120
    """That the two teach each other."""
    items: int = 1000
    """Held-out questions of each domain."""
    seed: int = 0


def main() -> int:
    """Run the example; the exit code says whether both got better and neither worse."""
    began, options, console = time.monotonic(), parse(), Console()
    plan = Plan(steps=options.steps, seed=options.seed)
    base = model_folder(options.model)
    if options.hosts != 1:
        hosts.be_root("examples.codistill", *sys.argv[1:], "--model", str(base))
    with tempfile.TemporaryDirectory(prefix="preceptor-codistill-") as work:
        console.print("[bold]1[/] Starting Preceptor, with two workers")
        with place(base, console, options.hosts, options.link, options.cut) as where:
            folders, pair = taught(where, model_artifact(where.client, str(base)), plan, Path(work), console)
            placed = where.told(pair)
        console.print(f"[bold]4[/] Judging on {plan.items} held-out questions of each domain")
        grid = {name: judged(folder, plan) for name, folder in folders.items()}
    return verdict(grid, plan, {"pair": pair.id, **placed}, time.monotonic() - began, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = command.parser("scripts/example codistill", __doc__)
    parser.add_argument("--model", default=str(ROOT / "models" / "tiny"), help="whom both begin as (default: shipped)")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="steps that they teach each other")
    how = "2: on hosts of their own, or not at all; 1: both on this machine (default: 2 where this machine makes hosts)"
    parser.add_argument("--hosts", type=int, choices=(1, 2), help=how)
    parser.add_argument("--link", choices=("fast", "slow"), default="fast", help="slow: 200 ms and 20 Mbit/s")
    parser.add_argument("--cut", type=float, default=0.0, metavar="SECONDS", help="cut their link in mid-run")
    options = parser.parse_args()
    if options.link == "slow" or options.cut:
        if options.hosts == 1:
            parser.error("--link and --cut need two hosts: leave out --hosts 1")
        options.hosts = 2
    return options


def taught(where: Place, base: str, plan: Plan, work: Path, console: Console) -> tuple[dict[str, Path], Codistillation]:
    """The models before and after, by name, and the pair."""
    client = where.client
    console.print("[bold]2[/] Making two specialists: A of letters, B of codes")
    made = finish_all(client, [_specialist(base, domain, plan) for domain in SIDES.values()], console)
    specialists = dict(zip(SIDES, made, strict=True))
    console.print("[bold]3[/] They teach each other")
    pair = client.codistillations.start(_pair(specialists, plan))
    with where.disturbed(pair.a.run, plan.steps // 3):
        pair = finish_pair(client, pair)
    return models_of_pair(client, specialists, pair, work), pair


def judged(folder: Path, plan: Plan) -> dict[str, list[bool]]:
    """Right or wrong, by domain."""
    return {
        domain: judge_task(folder, tasks.load(task, options), plan.items, MAX_TOKENS)
        for domain, (task, options) in DOMAINS.items()
    }


def _specialist(base: str, domain: str, plan: Plan) -> RunCreate:
    task, options = DOMAINS[domain]
    return RunCreate(
        name=f"of-{domain}",
        recipe="sft",
        overrides={"rollout": {"max_tokens": MAX_TOKENS}},
        student=base,
        data=TaskSource(task=task, options=options),
        training={
            "steps": plan.special_steps,
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "seed": plan.seed,
            "evaluate_every": plan.special_steps,
            "evaluate_items": 100,
            "checkpoint_every": plan.special_steps,
        },
    )


def _pair(specialists: Mapping[str, Run], plan: Plan) -> CodistillationCreate:
    def side(number: int, name: str) -> SideCreate:
        return SideCreate(
            run=RunCreate(
                name=f"side-{name}",
                recipe="peer_opd",
                overrides={"rollout": {"max_tokens": MAX_TOKENS}},
                student=artifact_of(specialists[name]),
                teachers={"start": "base"},
                data=TaskSource(task="letters_and_codes", options={"codes": CODES}),
                training={
                    "steps": plan.steps,
                    "learning_rate": 1.5e-3,
                    "schedule": "cosine",
                    "seed": plan.seed * 2 + number,  # each draws questions of its own
                    "evaluate_every": max(plan.steps // 4, 1),
                    "checkpoint_every": max(plan.steps // 2, 1),
                },
            )
        )

    return CodistillationCreate(name="letters-and-codes", a=side(0, "A"), b=side(1, "B"), policy=PairPolicy(max_lag=2))


def verdict(grid: showing.Grid, plan: Plan, placed: dict[str, object], seconds: float, console: Console) -> int:
    """Show all of it; 0 where both sides are as they should be. `placed`: which pair it was, and where."""
    console.print()
    showing.table(console, "Right answers to held-out questions, with 95% intervals", grid)
    showing.plot(console, grid)
    console.print()
    points: dict[str, dict[str, object]] = {}
    good = True
    for side, strong in SIDES.items():
        for domain in DOMAINS:
            before, after = grid[f"{side} before"][domain], grid[f"{side} after"][domain]
            what = "strong" if domain == strong else "weak"
            low, high = showing.difference(console, f"{side}, {domain} (where it was {what})", before, after)
            gain = round(showing.share(after) - showing.share(before), 4)  # 3 points are 0.03, not a bit more
            points[f"{side}, {what}"] = {"gain": gain, "ci95": [round(low, 4), round(high, 4)]}
            good = good and gain >= (-LOSS if domain == strong else GAIN)
    console.print(f"\n{seconds:.0f} s in all.", highlight=False)
    told = {"example": "codistill", "good": good, "seconds": round(seconds, 1), "steps": plan.steps}
    print(json.dumps({**told, **placed, "points": points, "shares": showing.numbers(grid)}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(command.exit_code(main))
