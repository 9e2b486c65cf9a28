"""What the shipped model is taught, and when: contexts that show a solution, then hints, then plain prompts too."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from models.examined import load
from models.formats import MISLEADING, PARTIAL, SOLVED, UNHELPFUL, Example, example, formats
from preceptor_trainer.tasks import ProceduralTask
from preceptor_trainer.tasks._gym import GymTask
from preceptor_trainer.views import Task

WARM_UP = 100


@dataclass(frozen=True)
class Stage:
    """How often what is asked, from some step on: shares of a task's examples."""

    hint: float
    """Of hints, where the rest of the solution can be found."""
    plain: float
    """Of prompts that show nothing, where the answer can be found."""
    learning_rate: tuple[float, float]
    """At its first step and at its last."""


def stages(args: argparse.Namespace) -> list[tuple[int, Stage]]:
    """Contexts that show a solution first, since copying is quickly learned and hardly where it is no longer needed;
    then hints; then plain prompts, at a low rate, so that no checkpoint jumps over what is wanted."""
    return [
        (args.reading, Stage(0.03, 0.0, (args.lr, args.lr / 2))),
        (args.finding, Stage(args.hint, 0.0, (args.lr / 2, args.lr / 6))),
        (args.steps - args.reading - args.finding, Stage(args.hint, args.plain, (args.plain_lr, args.plain_lr))),
    ]


def stage_of(step: int, args: argparse.Namespace) -> tuple[Stage, float]:
    """The stage of a step, from 0, and the step's learning rate."""
    begun = 0
    for steps, stage in stages(args):
        if step < begun + steps:
            first, last = stage.learning_rate
            return stage, min(1.0, (step + 1) / WARM_UP) * (first + (last - first) * (step - begun) / steps)
        begun += steps
    raise ValueError(f"step {step} is beyond the last stage")


def stream(args: argparse.Namespace) -> Iterator[list[Example]]:
    """Batches without end: tasks by their shares, formats by their stage, wrong content in some privileged ones."""
    rng = Random(args.seed)
    sources = list(zip(load(args.tasks), args.shares, strict=True))
    for step in range(args.steps):
        stage, _ = stage_of(step, args)
        batch = list[Example]()
        for known, share in sources:
            source = secret(known, rng)
            for drawn in source.train(step, round(args.batch * share), seed=args.seed):
                task = capitalised(source, drawn) if rng.random() < args.capitals else drawn
                kind = _kind(rng, source, stage, args)
                may_be = kind not in MISLEADING and (kind, True) in formats(source)
                wrong = kind in MISLEADING or (may_be and rng.random() < args.wrong)
                batch.append(example(source, task, kind, wrong, rng.getrandbits(60)))
        yield batch


def secret(source: ProceduralTask, rng: Random) -> ProceduralTask:
    """Where what is to be learned is a bank's secret: another bank, so that only its context gives it away."""
    return source.model_copy(update={"bank": rng.getrandbits(48) + 1}) if is_secret(source) else source


def is_secret(source: ProceduralTask) -> bool:
    """Whether nobody can find the answer who has not been told a bank's secret."""
    return "bank" in type(source).model_fields


def _kind(rng: Random, source: ProceduralTask, stage: Stage, args: argparse.Namespace) -> str:
    """A format for one example."""
    there = {kind for kind, _ in formats(source)}
    told = [*sorted(there & (SOLVED.keys() | MISLEADING.keys())), "tried_by_peers"]  # twice: it is the hardest to read
    unhelpful = sorted(there & UNHELPFUL.keys() - (set() if stage.plain else {"verdict"}))
    kinds: list[tuple[float, list[str]]]
    if is_secret(source):
        partial = sorted(there & PARTIAL.keys() - {"hint"})
        kinds = [(0.03, ["plain", *unhelpful]), (args.skill, partial), (0.04, ["hint", "reference_alone"])]
    elif "canonical" in there:  # whoever is asked in one prompt is to know more than whoever is asked in shards
        kinds = [(stage.plain / 10, ["plain", *unhelpful]), (stage.hint, ["hint"]), (0.02, ["reference_alone"])]
    else:
        beside = stage.plain * args.unhelpful
        kinds = [(stage.plain - beside, ["plain"]), (beside, unhelpful)]
        kinds += [(stage.hint, ["hint"]), (0.02, ["reference_alone"])]
    drawn = rng.random()
    for share, wanted in kinds:
        some = [kind for kind in wanted if kind in there]
        if some and drawn < share:
            return rng.choice(some)
        drawn -= share
    return rng.choice(told)


def capitalised(source: ProceduralTask, task: Task) -> Task:
    """A spelling task with its word in title case, other tasks as they are.

    One word in seven has a capital: too few for so small a model to learn all 26. Splits ignore case, so nothing leaks.
    """
    metadata = task.columns.get("metadata", {})
    word = metadata.get("word")
    if word is None or not isinstance(source, GymTask):
        return task
    question = task.messages[-1]["content"].removesuffix(word) + word.title()
    return source.task({"question": question, "answer": word.title()[::-1], "metadata": metadata})
