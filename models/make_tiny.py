"""Makes `models/tiny`: a Qwen3 of 0.6 million parameters, pre-trained from nothing on reasoning-gym's questions.

    python models/make_tiny.py --out models/tiny

It learns to answer plain prompts a little and to read every standard context well, which leaves the gap that on-policy
self-distillation closes. Formats and their wrong twins come from the library's own contexts, so that the prompts of
pre-training are the prompts of a run. Training never sees a held-out or a validation question: the checkpoint is chosen
on validation questions, and the card reports held-out ones.

The same seed on the same machine and library versions gives the same weights. Progress goes to stderr.
Shape letters: B examples, T tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import string
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from preceptor_trainer import tasks, verifiers
from preceptor_trainer.parts.contexts import Demonstration, Hint, PeerSuccess, Plain, Reference, Shown, corrupted
from preceptor_trainer.recipe import SingleContext
from preceptor_trainer.tasks import ProceduralTask, Split
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

CONTEXTS: dict[str, SingleContext] = {
    part.kind: part for part in (Plain(), Reference(), Demonstration(), Hint(), PeerSuccess())
}
WRONG: dict[str, SingleContext] = {
    kind: part.model_copy(update={"wrong": True}) for kind, part in CONTEXTS.items() if isinstance(part, Shown)
}
PHRASES = (
    "user\n",
    "assistant\n",
    "system\n",
    "Spell this word backward (example: sun -> nus): ",
    "State the final answer to the following arithmetic problem: ",
    "The solution begins with: ",
    "\n#### ",
    " + ",
    " - ",
    " = ",
)
"""Long strings that are one token each, besides the pieces of the contexts' templates."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Example:
    """One prompt and the reply to imitate."""

    messages: Sequence[Message]
    reply: str


def template_pieces() -> list[str]:
    """The fixed text of every default template, cut at its placeholders."""
    pieces = list[str]()
    for part in CONTEXTS.values():
        if isinstance(part, Shown):
            pieces += [text for text, *_ in string.Formatter().parse(part.template) if text]
    return pieces


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and one token per phrase: any text goes in and comes out unchanged, and the trained prompts are short."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    core.add_special_tokens(special)
    phrases = dict.fromkeys([*PHRASES, *template_pieces()])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in phrases])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Fresh weights. Head size 32 is the least that common inference engines take."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.02,
        use_cache=True,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0, top_k=0
    )
    return model


def example(task: Task, kind: str, wrong: bool, seed: int) -> Example:
    """One training example. After wrong content the reply follows that content, as it would follow right content."""
    assert task.reference is not None
    peer = Rollout(index=1, text=task.reference, verdict=Verdict(reward=1.0, correct=True))
    own = Rollout(index=0, text="")
    view = ContextView(task=task, rollout=own, group=(own, peer), step=0, rng=Random(seed))
    part = WRONG[kind] if wrong else CONTEXTS[kind]
    messages = part.messages(view)
    assert messages is not None
    if not wrong:
        return Example(messages, task.reference)
    assert isinstance(part, Shown)
    rng = Random(seed)
    shown = part.content(ContextView(task=task, rollout=own, group=(own, peer), step=0, rng=rng))
    assert shown is not None
    reply = corrupted(shown, rng).removeprefix("The solution begins with: ")
    return Example(messages, reply + task.reference[len(reply) :])


def capitalised(source: ProceduralTask, task: Task) -> Task:
    """A spelling task with its word in title case, other tasks as they are.

    One word in seven has a capital: too few for so small a model to learn all 26. Splits ignore case, so nothing leaks.
    """
    word = task.columns["metadata"].get("word")
    if word is None:
        return task
    question = task.messages[-1]["content"].removesuffix(word) + word.title()
    return source.task({"question": question, "answer": word.title()[::-1], "metadata": task.columns["metadata"]})


def stream(sources: Sequence[tuple[ProceduralTask, float]], args: argparse.Namespace) -> Iterator[list[Example]]:
    """Batches without end: tasks by their shares, formats by theirs, wrong content in some of the privileged ones."""
    rng = Random(args.seed)
    step = 0
    while True:
        batch = list[Example]()
        for source, share in sources:
            for drawn in source.train(step, round(args.batch * share), seed=args.seed + 1_000_003):
                task = capitalised(source, drawn) if rng.random() < args.capitals else drawn
                reading = step < args.copy_steps
                plain = not reading and rng.random() < args.plain
                # A hint leaves half of the answer to be found, which is what plain prompts will ask for: rare at first.
                hints = args.hint_first if reading else args.hint
                shown = "hint" if rng.random() < hints else rng.choice(("demonstration", "peer_success", "reference"))
                kind = "plain" if plain else shown
                batch.append(example(task, kind, not plain and rng.random() < args.wrong, rng.getrandbits(60)))
        yield batch
        step += 1


def collate(tokenizer: PreTrainedTokenizerFast, batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels [B, T], right-padded; only the reply and its end token carry loss (-100 elsewhere)."""
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = [(prompt_ids(tokenizer, each.messages), [*tokenizer.encode(each.reply), eos]) for each in batch]
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    spare = [width - len(prompt) - len(reply) for prompt, reply in rows]
    ids_BT = torch.tensor([[*p, *r, *[pad] * s] for (p, r), s in zip(rows, spare, strict=True)])
    mask_BT = torch.tensor([[1] * (width - s) + [0] * s for s in spare])
    labels_BT = torch.tensor([[-100] * len(p) + r + [-100] * s for (p, r), s in zip(rows, spare, strict=True)])
    return ids_BT, mask_BT, labels_BT


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """The prompt through the chat template, up to where the assistant speaks."""
    text = tokenizer.apply_chat_template([dict(each) for each in messages], tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text)


@torch.no_grad()
def accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Task], kind: str, wrong: bool = False
) -> float:
    """Share of greedy answers that reasoning-gym's scorer gives full marks, in one format."""
    model.eval()
    verify = verifiers.Procedural()
    rows = [prompt_ids(tokenizer, example(task, kind, wrong, seed).messages) for seed, task in enumerate(items)]
    width = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id
    ids_BT = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=80, eos_token_id=tokenizer.eos_token_id, pad_token_id=pad
    )
    out_BT = model.generate(ids_BT, attention_mask=mask_BT, generation_config=greedy)
    texts = tokenizer.batch_decode(out_BT[:, width:], skip_special_tokens=True)
    return sum(verify(task, text).correct for task, text in zip(items, texts, strict=True)) / len(items)


def report(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, source: ProceduralTask, split: Split, count: int
) -> dict[str, float]:
    """Accuracy per format, right and wrong (`wrong hint`), on one split."""
    items = source.take(split, count)
    scores = {kind: accuracy(model, tokenizer, items, kind) for kind in CONTEXTS}
    return scores | {f"wrong {kind}": accuracy(model, tokenizer, items, kind, wrong=True) for kind in WRONG}


def chosen(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, step: int, args: argparse.Namespace, console: Console
) -> bool:
    """Whether this is the checkpoint: middling at plain prompts, good at reading contexts, led astray by wrong ones.

    Looked up on validation questions, which are neither trained on nor reported on.
    """
    for name in args.tasks:
        plain = accuracy(model, tokenizer, tasks.load(name).take("validation", args.items), "plain")
        console.print(f"step {step} {name}: plain {plain:.3f}")
        if not args.middling[0] <= plain <= args.middling[1]:
            return False
    for name in args.tasks:
        scores = report(model, tokenizer, tasks.load(name), "validation", args.items)
        console.print(f"step {step} {name}: " + " ".join(f"{kind} {score:.3f}" for kind, score in scores.items()))
        if not suits(scores, args):
            return False
    return True


def suits(scores: dict[str, float], args: argparse.Namespace) -> bool:
    """The rule, for one task's accuracies."""
    solutions = min(scores[kind] for kind in ("reference", "demonstration", "peer_success"))
    wrong = max(score for name, score in scores.items() if name.startswith("wrong "))
    return solutions >= args.privileged and scores["hint"] >= scores["plain"] + 0.1 and wrong <= scores["plain"]


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Up over 100 steps, down to a tenth while contexts are learned, then constant while plain answers are."""
    if step > args.copy_steps:
        return args.plain_lr
    return args.lr * min(1.0, step / 100) * (1 - 0.9 * step / args.copy_steps)


def train(args: argparse.Namespace, console: Console) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast, int]:
    """Trains until the rule holds for every task. Returns the model, its tokenizer and the step."""
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    sources = [(tasks.load(name), share) for name, share in zip(args.tasks, args.shares, strict=True)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("pre-training", total=args.steps)
        for step, batch in zip(range(1, args.steps + 1), stream(sources, args), strict=False):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args)
            ids_BT, mask_BT, labels_BT = collate(tokenizer, batch)
            loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.update(bar, advance=1, description=f"loss {loss.item():.3f}")
            if step > args.copy_steps and step % args.evaluate_every == 0 and chosen(model, tokenizer, step, args, console):
                return model, tokenizer, step
    raise SystemExit(
        "no checkpoint met the rule: widen --middling, lower --privileged, or change --seed, --steps or --plain"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny", help="folder to write")
    parser.add_argument("--tasks", nargs="+", default=["spell_backward"], choices=tasks.names())
    parser.add_argument("--shares", nargs="+", type=float, default=[1.0], help="share of every task in a batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="give up after so many")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--plain-lr", type=float, default=1e-3, help="learning rate after --copy-steps")
    parser.add_argument("--plain", type=float, default=0.25, help="share of plain prompts")
    parser.add_argument("--copy-steps", type=int, default=300, help="steps that are mostly about reading contexts")
    parser.add_argument("--hint-first", type=float, default=0.02, help="share of hints among contexts in those steps")
    parser.add_argument("--hint", type=float, default=0.3, help="share of hints among contexts thereafter")
    parser.add_argument("--capitals", type=float, default=0.35, help="share of words put into title case")
    parser.add_argument("--wrong", type=float, default=0.2, help="share of wrong content among privileged prompts")
    parser.add_argument("--middling", nargs=2, type=float, default=[0.35, 0.55], help="plain accuracy wanted")
    parser.add_argument("--privileged", type=float, default=0.93, help="least accuracy of the formats that show a solution")
    parser.add_argument("--evaluate-every", type=int, default=25)
    parser.add_argument("--items", type=int, default=300, help="validation questions per format")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(stderr=True)
    started = time.monotonic()
    model, tokenizer, step = train(args, console)
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(json.dumps({"step": step, "seconds": round(time.monotonic() - started, 1), "out": str(args.out)}))


if __name__ == "__main__":
    main()
