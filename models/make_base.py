"""Pre-trains a base for one task, or several, on every context format of the recipes: where a benchmark begins.

    python -m models.make_base --task skill_code --out FOLDER

As `make_tiny`, which makes the model that ships: contexts first, then plain prompts, and the first checkpoint is kept
that meets a rule on validation questions. What only a context can tell (a code, a library's names) is another secret in
every batch. The folder's README.md gives accuracy per format with right and wrong content, on held-out questions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from models.base_formats import (
    CONTEXTS,
    MISLEADING,
    PARTIAL,
    PHRASES,
    SOLVED,
    UNHELPFUL,
    accuracies,
    example,
    formats,
    hits,
)
from models.make_tiny import capitalised, make_tokenizer, pieces, save, train
from models.tiny_card import table
from models.tiny_formats import Example, load
from preceptor_trainer import tasks
from preceptor_trainer.recipes.purified_opsd import ReferenceAlone
from preceptor_trainer.tasks import ProceduralTask

SECRET = {"reading": 500, "steps": 900, "middling": [0.0, 0.2]}
"""Of tasks that plain prompts do not tell enough about: nothing is middling there."""
KNOWN = {"skill_code": SECRET, "library_call": SECRET}
"""Arguments where they are not the default. All of them are first guesses: give others where the rule is not met."""


def phrases() -> list[str]:
    """What is one token each."""
    alone = ReferenceAlone()
    return [*PHRASES, *pieces(CONTEXTS.values()), alone.before, alone.after]


def stream(args: argparse.Namespace) -> Iterator[list[Example]]:
    """Batches without end: tasks by their shares, formats by theirs, wrong content in some of the privileged ones."""
    rng = Random(args.seed)
    sources = list(zip(load(args.tasks), args.shares, args.reading_steps, strict=True))
    step = 0
    while True:
        batch = list[Example]()
        for known, share, reading_steps in sources:
            source = secret(known, rng)
            for drawn in source.train(step, round(args.batch * share), seed=args.seed):
                task = capitalised(source, drawn) if rng.random() < args.capitals else drawn
                kind = _kind(rng, source, step < reading_steps, args)
                may_be = kind not in MISLEADING and (kind, True) in formats(source)
                wrong = kind in MISLEADING or (may_be and rng.random() < args.wrong)
                batch.append(example(source, task, kind, wrong, rng.getrandbits(60)))
        yield batch
        step += 1


def secret(source: ProceduralTask, rng: Random) -> ProceduralTask:
    """Where what is to be learned is a bank's secret: another bank, so that only its context gives it away."""
    return (
        source.model_copy(update={"bank": rng.getrandbits(48) + 1}) if "bank" in type(source).model_fields else source
    )


def _kind(rng: Random, source: ProceduralTask, reading: bool, args: argparse.Namespace) -> str:
    """A format: contexts that show a solution at first; then more of what leaves something to be found."""
    there = {kind for kind, _ in formats(source)}
    knowable = "bank" not in type(source).model_fields
    plain = args.plain if knowable else 0.1
    if "canonical" in there:  # whoever is asked in one prompt is to know more than whoever is asked in shards
        plain = 0.03
    partial = sorted(there & PARTIAL.keys() - ({"hint", "canonical"} if reading or not knowable else set()))
    if not reading and rng.random() < plain:
        return rng.choice(sorted(there & UNHELPFUL.keys())) if rng.random() < args.unhelpful else "plain"
    if partial and rng.random() < (0.65 if not knowable else args.hint):
        return rng.choice(partial)
    if rng.random() < 0.02:
        return rng.choice(("reference_alone", "hint"))
    told = sorted(there & (SOLVED.keys() | MISLEADING.keys()))
    return rng.choice([*told, "tried_by_peers"])  # twice: what is to be avoided stands beside the solution there


def chosen(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, step: int, args: argparse.Namespace, console: Console
) -> bool:
    """Whether this is the checkpoint: middling at plain prompts, good at reading contexts, led astray by wrong ones."""
    sources = load(args.tasks)
    first = sources[0]
    items = first.take("validation", args.items)
    plain = sum(hits(model, tokenizer, first, items, "plain")) / args.items
    console.print(f"step {step}: plain {first.name} {plain:.3f}")
    if not args.middling[0] <= plain <= args.middling[1]:
        return False
    return all(suits(model, tokenizer, step, source, source is not first, args, console) for source in sources)


def suits(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    step: int,
    source: ProceduralTask,
    beside: bool,
    args: argparse.Namespace,
    console: Console,
) -> bool:
    """Whether a task's contexts do what they are to do: each that helps, right, beats plain, and none does, wrong. Of a
    task that is taught `beside` the first a little less is asked."""
    shares = accuracies(model, tokenizer, source, "validation", args.items)
    named = ", ".join(f"{'wrong ' * wrong}{kind} {share:.3f}" for (kind, wrong), share in shares.items())
    console.print(f"step {step}: {source.name}: {named}", soft_wrap=True)
    plain = shares["plain", False]
    helps = {kind: share for (kind, wrong), share in shares.items() if not wrong and kind in {**SOLVED, **PARTIAL}}
    own = {"skill", "skills", "feedback", "canonical"} & helps.keys()  # what a task is there for
    told = [share for kind, share in helps.items() if kind != "hint" or not own]
    solved = [share for kind, share in helps.items() if kind in SOLVED]
    misled = [share for (_, wrong), share in shares.items() if wrong]
    return min(solved) >= args.privileged - 0.1 * beside and min(told) >= plain + args.margin and max(misled) <= plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=tasks.names(), help="which task is to have a base")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--beside", nargs="*", default=[], choices=tasks.names(), help="tasks that it learns as well")
    parser.add_argument("--share", type=float, default=0.15, help="of each of those in a batch")
    parser.add_argument("--reading", type=int, default=400, help="steps with no plain prompt")
    parser.add_argument("--steps", type=int, default=2000, help="give up after so many")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate of the reading steps")
    parser.add_argument("--plain-lr", type=float, default=1.1e-3, help="learning rate thereafter")
    parser.add_argument("--plain", type=float, default=0.36, help="share of plain prompts after the reading steps")
    parser.add_argument("--unhelpful", type=float, default=0.25, help="share of them beside something that is no help")
    parser.add_argument("--hint", type=float, default=0.5, help="share of hints among contexts after the reading steps")
    parser.add_argument("--wrong", type=float, default=0.4, help="share of wrong content among privileged prompts")
    parser.add_argument("--capitals", type=float, default=0.35, help="share of words put into title case")
    parser.add_argument("--middling", nargs=2, type=float, default=[0.15, 0.6], help="plain accuracy wanted")
    parser.add_argument("--privileged", type=float, default=0.85, help="least accuracy where a solution is shown")
    parser.add_argument("--margin", type=float, default=0.1, help="by which a context that helps beats plain prompts")
    parser.add_argument("--evaluate-every", type=int, default=10, help="steps between two looks at the rule")
    parser.add_argument("--items", type=int, default=200, help="validation questions a format")
    parser.add_argument("--card-items", type=int, default=300, help="held-out questions a format, for the card")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(**KNOWN.get(parser.parse_known_args()[0].task, {}))
    args = parser.parse_args()
    args.tasks = [args.task, *args.beside]
    args.shares = [1 - args.share * len(args.beside), *[args.share] * len(args.beside)]
    args.reading_steps = [args.reading] * len(args.tasks)
    torch.set_num_threads(1)
    began, tokenizer = time.monotonic(), make_tokenizer(phrases())
    model, step = train(args, Console(stderr=True), tokenizer, stream(args), chosen)
    found = {
        source.name: accuracies(model, tokenizer, source, "held_out", args.card_items) for source in load(args.tasks)
    }
    save(model, tokenizer, args.out)
    tables = "\n\n".join(table(name, shares, args.card_items) for name, shares in found.items())
    (args.out / "README.md").write_text(f"# A base for {args.task}\n\nSeed {args.seed}, step {step}.\n\n{tables}\n")
    print(json.dumps({"step": step, "seconds": round(time.monotonic() - began, 1), "out": str(args.out)}))


if __name__ == "__main__":
    main()
