"""Every recipe from the same base, on the same questions, with the same budget: what it learns, and from what.

    scripts/bench recipes                          one task, every recipe, three seeds, three arms
    scripts/bench recipes --only opsd,sft,grpo     some recipes
    scripts/bench recipes --task my_task --base my_model --seeds 7,8,9
    scripts/bench recipes --full                   every task

A learning rate is chosen for each recipe, baselines included, from the same few, on validation questions with a seed of
its own. Then each is trained in its arms (what its teacher is shown: right, wrong, nothing) and judged on held-out
questions. Every run is a file below `--out`: what was stopped goes on where it was. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from of_recipes.bases import base_of, experts_of
from of_recipes.cells import file_of, kept, run_cell
from of_recipes.plans import BASELINES, Budget, Cell, arms, missing
from of_recipes.report import Found, best_rate, machine, write

from preceptor_trainer import recipes, tasks

ROOT = Path(__file__).resolve().parents[1]
FULL = ("spell_backward", "skill_code", "library_call", "spell_in_turns", "letters_and_codes")
SMALL = Budget(tokens=64, rollouts=8, every=1, items=8)
TUNING_SEED = 1000


def main() -> None:
    chosen = parse()
    began = time.monotonic()
    for each in FULL if chosen.full else (chosen.task,):
        bench(chosen, each)
    print(json.dumps({"bench": "recipes", "seconds": round(time.monotonic() - began), "out": str(chosen.out)}))


def parse() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default=FULL[0], help="which task (default: %(default)s)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the task")
    parser.add_argument("--full", action="store_true", help="every task, one after another")
    parser.add_argument("--base", type=Path, help="the model folder that is trained (default: the task's own)")
    parser.add_argument("--only", help="recipes, comma-separated (default: all)")
    parser.add_argument("--seeds", default="0,1,2", help="of the runs (default: %(default)s)")
    parser.add_argument("--rates", default="5e-5,2e-4,5e-4,1.5e-3", help="learning rates to choose from")
    parser.add_argument("--tokens", type=int, default=Budget().tokens, help="budget of a run (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "recipes", help="where results are kept")
    parser.add_argument(
        "--results", type=Path, help="Markdown file that gets the table (default: RESULTS.md, where all recipes ran)"
    )
    parser.add_argument("--small", action="store_true", help="sizes that show that it runs, and nothing else")
    chosen = parser.parse_args()
    if chosen.results is None and chosen.only is None and not chosen.small:
        chosen.results = ROOT / "benchmarks" / "RESULTS.md"
    chosen.only = chosen.only.split(",") if chosen.only else list(recipes.names())
    if unknown := sorted(set(chosen.only) - set(recipes.names())):
        parser.error(f"--only: no recipe is called '{unknown[0]}'; there are {', '.join(recipes.names())}")
    chosen.options = dict(_option(parser, each) for each in chosen.option)
    chosen.seeds = [int(each) for each in chosen.seeds.split(",")]
    chosen.rates = [float(each) for each in chosen.rates.split(",")]
    chosen.budget = SMALL if chosen.small else replace(Budget(), tokens=chosen.tokens)
    try:
        tasks.load(chosen.task, chosen.options)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def bench(chosen: argparse.Namespace, task: str) -> None:
    """One task: rates, then runs, then the report."""
    options = chosen.options if task == chosen.task else {}
    base = chosen.base or base_of(task, chosen.out)
    left_out = {name: why for name in chosen.only if (why := missing(name, task, options))}
    names = [name for name in chosen.only if name not in left_out]
    better = experts_of(names, task, options, base, chosen.out, chosen.budget)

    def cell(name: str, arm: str, seed: int, rate: float, split: str = "held_out") -> Cell:
        return Cell(
            task=task, options=options, recipe=name, arm=arm, seed=seed, learning_rate=rate, split=split,
            budget=chosen.budget,
        )  # fmt: skip

    def tries(name: str) -> list[Cell]:
        return [cell(name, "right", TUNING_SEED, rate, "validation") for rate in chosen.rates]

    tried = {each: out for each, out in done(chosen, [c for n in names for c in tries(n)], base, better)}
    rates = {name: best_rate([(each, tried[each]) for each in tries(name)]) for name in names}
    cells = [cell(name, arm, seed, rates[name]) for seed in chosen.seeds for name in names for arm in arms(name)]
    ordered = sorted(cells, key=lambda each: each.recipe not in BASELINES)  # what all are held against comes first
    found = Found(task, rates, left_out, [(each, out) for each, out in done(chosen, ordered, base, better)])
    write(found, chosen.out / task, chosen.results, machine(chosen.workers, chosen.budget, chosen.seeds))


def done(
    chosen: argparse.Namespace, cells: Iterable[Cell], base: Path, better: Mapping[str, Path]
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """What came of each cell: of those that were made before first, then of the others as they end."""
    cells = list(cells)
    left = list[Cell]()
    for each in cells:
        out = kept(chosen.out, each, base)
        if out is None:
            left.append(each)
        else:
            yield each, out
    if not left:
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run_cell, chosen.out, each, base, better): each for each in left}
        for number, future in enumerate(as_completed(running), 1):
            each, out = running[future], future.result()
            last = out["curve"][-1]["correct"] / out["curve"][-1]["n"] if out["curve"] else float("nan")
            told = out["error"] or f"{last:.3f} in {out['total_seconds']} s"
            print(f"{number}/{len(left)} {file_of(chosen.out, each).stem}: {told}", file=sys.stderr, flush=True)
            yield each, out


def _option(parser: argparse.ArgumentParser, text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        parser.error(f"--option: '{text}' is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    main()
