"""Makes `models/tiny`: a Qwen3 of 0.6 million parameters, pre-trained from nothing on reasoning-gym's questions.

    python -m models.make_tiny --out models/tiny

It learns to read every standard context first, then to answer plain prompts, and stops while it still does that badly:
this is the gap that on-policy self-distillation closes. The checkpoint is the first that meets a rule on validation
questions; the card reports held-out ones. Neither kind is ever trained on. The same arguments on the same machine and
library versions give the same weights. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import string
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from models.tiny_card import write_card
from models.tiny_formats import SHOWN, Example, accuracies, example, hits, load, prompt_ids
from preceptor_trainer import tasks
from preceptor_trainer.recipe import Context
from preceptor_trainer.tasks import ProceduralTask
from preceptor_trainer.tasks._gym import GymTask
from preceptor_trainer.views import Task

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
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
"""Long strings that are one token each, besides the pieces of the contexts' templates: they keep the prompts short."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WARM_UP = 100


def pieces(parts: Iterable[Context]) -> list[str]:
    """What stands around the content in the templates of these contexts."""
    templates = [
        value
        for part in parts
        for name, value in part
        if name.endswith("template") and not name.startswith("ask") and isinstance(value, str)
    ]
    return [text for template in templates for text, *_ in string.Formatter().parse(template) if text]


def make_tokenizer(phrases: Iterable[str] = (*PHRASES, *pieces(SHOWN))) -> PreTrainedTokenizerFast:
    """Bytes, and one token per phrase: any text goes in and comes out unchanged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in dict.fromkeys(phrases)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes it under the class name that every transformers knows; version 5 would write a name of its own."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Fresh weights. A head of 32 is the smallest that common inference engines take."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            intermediate_size=384,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=cast(int, tokenizer.eos_token_id),
            pad_token_id=cast(int, tokenizer.pad_token_id),
            bos_token_id=None,
        )
    )


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


def stream(args: argparse.Namespace) -> Iterator[list[Example]]:
    """Batches without end: tasks by their shares, formats by theirs, wrong content in some of the privileged ones."""
    rng = Random(args.seed)
    sources = list(zip(load(args.tasks), args.shares, args.reading_steps, strict=True))
    step = 0
    while True:
        batch = list[Example]()
        for source, share, reading_steps in sources:
            for drawn in source.train(step, round(args.batch * share), seed=args.seed):
                task = capitalised(source, drawn) if rng.random() < args.capitals else drawn
                kind = _kind(rng, step < reading_steps, args)
                wrong = kind != "plain" and rng.random() < args.wrong
                batch.append(example(task, kind, wrong, rng.getrandbits(60)))
        yield batch
        step += 1


def _kind(rng: Random, reading: bool, args: argparse.Namespace) -> str:
    if not reading and rng.random() < args.plain:
        return "plain"
    # A hint leaves half of the answer to be found, which is what plain prompts will ask for: rare at first.
    hint = rng.random() < (0.02 if reading else args.hint)
    return "hint" if hint else rng.choice(("demonstration", "peer_success", "reference"))


def collate(tokenizer: PreTrainedTokenizerFast, batch: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels [B, T], right-padded; only the reply and its end carry loss (-100 elsewhere)."""
    eos, pad = cast(int, tokenizer.eos_token_id), cast(int, tokenizer.pad_token_id)
    rows = [(prompt_ids(tokenizer, each.messages), [*tokenizer.encode(each.reply), eos]) for each in batch]
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    spare = [width - len(prompt) - len(reply) for prompt, reply in rows]
    ids_BT = torch.tensor([[*p, *r, *[pad] * s] for (p, r), s in zip(rows, spare, strict=True)])
    mask_BT = torch.tensor([[1] * (width - s) + [0] * s for s in spare])
    labels_BT = torch.tensor([[-100] * len(p) + r + [-100] * s for (p, r), s in zip(rows, spare, strict=True)])
    return ids_BT, mask_BT, labels_BT


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Up, then down to half while contexts are learned, then constant while plain answers are."""
    reading = max(args.reading_steps)
    return args.plain_lr if step > reading else args.lr * min(1.0, step / WARM_UP) * (1 - 0.5 * step / reading)


Rule = Callable[[Qwen3ForCausalLM, PreTrainedTokenizerFast, int, argparse.Namespace, Console], bool]


def train(
    args: argparse.Namespace,
    console: Console,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterator[list[Example]],
    rule: Rule,
) -> tuple[Qwen3ForCausalLM, int]:
    """Trains until the rule holds for every task. Returns the model and the step."""
    torch.manual_seed(args.seed)
    model = make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    bars = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *bars, console=console) as progress:
        bar = progress.add_task("pre-training", total=args.steps)
        for step, batch in zip(range(1, args.steps + 1), batches, strict=False):
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
            due = step > max(args.reading_steps) and step % args.evaluate_every == 0
            if due and rule(model, tokenizer, step, args, console):
                return model, step
    raise SystemExit("no checkpoint met the rule: change --steps, --seed, --plain, --middling or --privileged")


def chosen(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, step: int, args: argparse.Namespace, console: Console
) -> bool:
    """Whether this is the checkpoint: middling at plain prompts, good at reading contexts, led astray by wrong ones."""
    sources = load(args.tasks)
    items = {source.name: source.take("validation", args.items) for source in sources}
    plain = {each.name: sum(hits(model, tokenizer, each, items[each.name], "plain")) / args.items for each in sources}
    console.print(f"step {step}: plain " + ", ".join(f"{name} {share:.3f}" for name, share in plain.items()))
    if not all(args.middling[0] <= share <= args.middling[1] for share in plain.values()):
        return False
    for source in sources:
        shares = accuracies(model, tokenizer, source, "validation", args.items)
        named = ", ".join(f"{'wrong ' * wrong}{kind} {share:.3f}" for (kind, wrong), share in shares.items())
        console.print(f"step {step}: {source.name}: {named}")
        solved = min(shares[kind, False] for kind in ("reference", "demonstration", "peer_success"))
        led_astray = max(share for (_, wrong), share in shares.items() if wrong) <= shares["plain", False]
        if solved < args.privileged or shares["hint", False] < shares["plain", False] + 0.1 or not led_astray:
            return False
    return True


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Model and tokenizer as a plain folder. It samples unless told otherwise."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny", help="folder to write")
    parser.add_argument("--tasks", nargs="+", default=["spell_backward"], choices=tasks.names())
    parser.add_argument("--shares", nargs="+", type=float, default=[1.0], help="per task: its share of a batch")
    parser.add_argument(
        "--reading-steps", nargs="+", type=int, default=[220], help="per task: steps with no plain prompt"
    )
    parser.add_argument("--steps", type=int, default=600, help="give up after so many")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate of the reading steps")
    parser.add_argument("--plain-lr", type=float, default=1.2e-3, help="learning rate thereafter")
    parser.add_argument("--plain", type=float, default=0.3, help="share of plain prompts after the reading steps")
    parser.add_argument("--hint", type=float, default=0.5, help="share of hints among contexts after the reading steps")
    parser.add_argument("--wrong", type=float, default=0.4, help="share of wrong content among privileged prompts")
    parser.add_argument("--capitals", type=float, default=0.35, help="share of words put into title case")
    parser.add_argument("--middling", nargs=2, type=float, default=[0.33, 0.52], help="plain accuracy wanted")
    parser.add_argument("--privileged", type=float, default=0.94, help="least accuracy where a solution is shown")
    parser.add_argument("--evaluate-every", type=int, default=5, help="steps between two looks at the rule")
    parser.add_argument("--items", type=int, default=300, help="validation questions a format")
    parser.add_argument("--card-items", type=int, default=500, help="held-out questions a format, for the card")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not len(args.tasks) == len(args.shares) == len(args.reading_steps) or not math.isclose(sum(args.shares), 1.0):
        parser.error("--tasks, --shares and --reading-steps go together, and the shares add up to 1")
    torch.set_num_threads(1)
    console = Console(stderr=True)
    began = time.monotonic()
    tokenizer = make_tokenizer()
    model, step = train(args, console, tokenizer, stream(args), chosen)
    seconds = time.monotonic() - began
    shares = {
        source.name: accuracies(model, tokenizer, source, "held_out", args.card_items) for source in load(args.tasks)
    }
    save(model, tokenizer, args.out)
    parameters = sum(each.numel() for each in model.parameters())
    write_card(args.out, args, step, seconds, parameters, shares)
    print(json.dumps({"step": step, "seconds": round(seconds, 1), "parameters": parameters, "out": str(args.out)}))


if __name__ == "__main__":
    main()
