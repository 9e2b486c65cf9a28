"""Makes `models/tiny`: a Qwen3 of 0.6 million parameters, pre-trained from nothing on procedural questions.

    python -m models.make_tiny --out models/tiny
    python -m models.make_tiny --tasks my_task --shares 1 --out FOLDER

It learns to read every context of the recipes first, then to answer plain prompts, and stops while it still does that
badly: this is the gap that on-policy self-distillation closes. What only a context can tell (a code, a library's names)
is another secret in every batch. The checkpoint is the first that meets a rule on validation questions; the card
reports held-out ones. Neither kind is ever trained on. The same arguments on the same machine and library versions give
the same weights. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from models.curriculum import is_secret, stage_of, stream
from models.examined import accuracies, hits, load, prompt_ids
from models.folder import make_model, make_tokenizer, save
from models.formats import PARTIAL, SOLVED, UNHELPFUL, Example
from models.tiny_card import write_card
from preceptor_trainer import tasks
from preceptor_trainer.tasks import ProceduralTask

PASSES = 4
"""Parts of a batch that go through the model one after another."""

Row = tuple[list[int], list[int]]
"""A prompt's ids, and its reply's."""


def rows_of(tokenizer: PreTrainedTokenizerFast, batch: Sequence[Example]) -> list[Row]:
    """A batch's examples as ids, the shortest first. A reply ends with the token that ends it."""
    eos = cast(int, tokenizer.eos_token_id)
    rows = [(prompt_ids(tokenizer, each.messages), [*tokenizer.encode(each.reply), eos]) for each in batch]
    return sorted(rows, key=lambda row: len(row[0]) + len(row[1]))


def collate(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels [B, T], right-padded; only the reply and its end carry loss (-100 elsewhere)."""
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    spare = [width - len(prompt) - len(reply) for prompt, reply in rows]
    ids_BT = torch.tensor([[*p, *r, *[pad] * s] for (p, r), s in zip(rows, spare, strict=True)])
    mask_BT = torch.tensor([[1] * (width - s) + [0] * s for s in spare])
    labels_BT = torch.tensor([[-100] * len(p) + r + [-100] * s for (p, r), s in zip(rows, spare, strict=True)])
    return ids_BT, mask_BT, labels_BT


def backward(model: Qwen3ForCausalLM, rows: Sequence[Row], pad: int) -> float:
    """Adds the gradients of the mean loss per reply token; returns it. Rows of about one length go through together:
    padding all to the longest would cost half as much again."""
    tokens, total = sum(len(reply) for _, reply in rows), 0.0
    size = math.ceil(len(rows) / PASSES)
    for begin in range(0, len(rows), size):
        some = rows[begin : begin + size]
        ids_BT, mask_BT, labels_BT = collate(some, pad)
        share = sum(len(reply) for _, reply in some) / tokens
        loss = share * model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
        loss.backward()
        total += loss.item()
    return total


def train(
    args: argparse.Namespace,
    console: Console,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[Qwen3ForCausalLM, int]:
    """Trains until the rule holds for every task. Returns the model and the step."""
    torch.manual_seed(args.seed)
    model = make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    bars = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *bars, console=console) as progress:
        bar = progress.add_task("pre-training", total=args.steps)
        for step, batch in enumerate(stream(args)):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = stage_of(step, args)[1]
            optimizer.zero_grad(set_to_none=True)
            loss = backward(model, rows_of(tokenizer, batch), cast(int, tokenizer.pad_token_id))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.update(bar, advance=1, description=f"loss {loss:.3f}")
            done = step + 1
            due = done > args.reading + args.finding and done % args.evaluate_every == 0
            if due and chosen(model, tokenizer, done, args, console):
                return model, done
    if args.anyway:
        console.print("No checkpoint met the rule; the last one is kept, as --anyway says.")
        return model, args.steps
    raise SystemExit(
        "no checkpoint met the rule: change --steps, --seed, --plain, --middling or --privileged, or --anyway"
    )


def chosen(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, step: int, args: argparse.Namespace, console: Console
) -> bool:
    """Whether this is the checkpoint: middling at plain prompts, good at reading contexts, led astray by wrong ones."""
    sources = load(args.tasks)
    for source in sources:
        if is_secret(source):
            continue
        plain = sum(hits(model, tokenizer, source, source.take("validation", args.items), "plain")) / args.items
        console.print(f"step {step}: plain {source.name} {plain:.3f}")
        if source is sources[0] and not args.middling[0] <= plain <= args.middling[1]:
            return False
    return all(suits(model, tokenizer, step, source, args, console) for source in sources)


def suits(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    step: int,
    source: ProceduralTask,
    args: argparse.Namespace,
    console: Console,
) -> bool:
    """Whether a task's contexts do what they are to do: each that helps, right, beats plain, and none does, wrong."""
    shares = accuracies(model, tokenizer, source, "validation", args.items)
    named = ", ".join(f"{'wrong ' * wrong}{kind} {share:.3f}" for (kind, wrong), share in shares.items())
    console.print(f"step {step}: {source.name}: {named}", soft_wrap=True)
    plain = shares["plain", False]
    right = {kind: share for (kind, wrong), share in shares.items() if not wrong}
    helps = {kind: share for kind, share in right.items() if kind in {**SOLVED, **PARTIAL}}
    if is_secret(source):
        del helps["hint"]  # the rest of it is the secret
    solved = min(share for kind, share in right.items() if kind in SOLVED)
    misled = max(share for (_, wrong), share in shares.items() if wrong)
    beside = max(abs(share - plain) for kind, share in right.items() if kind in UNHELPFUL)
    return (
        solved >= args.privileged
        and min(helps.values()) >= plain + args.margin
        and misled <= plain
        and beside <= 1.5 * args.margin
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny", help="folder to write")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["spell_backward", "spell_in_turns", "skill_code", "library_call"],
        choices=tasks.names(),
    )
    parser.add_argument("--shares", nargs="+", type=float, default=[0.4, 0.15, 0.25, 0.2], help="per task, of a batch")
    parser.add_argument("--reading", type=int, default=600, help="steps with hardly a hint")
    parser.add_argument("--finding", type=int, default=300, help="steps with hints, and no plain prompt")
    parser.add_argument("--steps", type=int, default=2000, help="give up after so many, all stages together")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--plain-lr", type=float, default=2e-4, help="learning rate while plain prompts are learned")
    parser.add_argument("--plain", type=float, default=0.5, help="share of plain prompts in the end")
    parser.add_argument("--unhelpful", type=float, default=0.77, help="share of them beside something that is no help")
    parser.add_argument("--hint", type=float, default=0.35, help="share of hints after the reading steps")
    parser.add_argument("--skill", type=float, default=0.55, help="share of skills and feedback where they decide")
    parser.add_argument("--wrong", type=float, default=0.4, help="share of wrong content among privileged prompts")
    parser.add_argument("--capitals", type=float, default=0.35, help="share of words put into title case")
    parser.add_argument("--middling", nargs=2, type=float, default=[0.3, 0.5], help="plain accuracy wanted")
    parser.add_argument("--privileged", type=float, default=0.88, help="least accuracy where a solution is shown")
    parser.add_argument("--margin", type=float, default=0.1, help="by which a context that helps beats plain prompts")
    parser.add_argument("--evaluate-every", type=int, default=5, help="steps between two looks at the rule")
    parser.add_argument("--items", type=int, default=300, help="validation questions a format")
    parser.add_argument("--card-items", type=int, default=500, help="held-out questions a format, for the card")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anyway", action="store_true", help="keep the last checkpoint where none meets the rule")
    args = parser.parse_args()
    if len(args.tasks) != len(args.shares) or not math.isclose(sum(args.shares), 1.0):
        parser.error("--tasks and --shares go together, and the shares add up to 1")
    torch.set_num_threads(1)
    console = Console(stderr=True)
    began = time.monotonic()
    tokenizer = make_tokenizer()
    model, step = train(args, console, tokenizer)
    seconds = time.monotonic() - began
    found = {
        source.name: accuracies(model, tokenizer, source, "held_out", args.card_items) for source in load(args.tasks)
    }
    save(model, tokenizer, args.out)
    parameters = sum(each.numel() for each in model.parameters())
    write_card(args.out, args, step, seconds, parameters, found)
    print(json.dumps({"step": step, "seconds": round(seconds, 1), "parameters": parameters, "out": str(args.out)}))


if __name__ == "__main__":
    main()
