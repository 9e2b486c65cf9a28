"""What the shipped model is taught and examined in: the library's own contexts, right and wrong, over its own tasks.

Shape letters: B examples, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from preceptor_trainer import tasks
from preceptor_trainer.parts.contexts import Demonstration, Hint, PeerSuccess, Plain, Reference, Shown, corrupted
from preceptor_trainer.recipe import SingleContext
from preceptor_trainer.tasks import ProceduralTask, Split
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

SHOWN: tuple[Shown, ...] = (Reference(), Demonstration(), Hint(), PeerSuccess())
CONTEXTS: Mapping[str, SingleContext] = {"plain": Plain()} | {part.kind: part for part in SHOWN}
WRONG: Mapping[str, Shown] = {part.kind: part.model_copy(update={"wrong": True}) for part in SHOWN}
PARTIAL = ("hint", "skill")
"""Contexts that show less than the answer: something is left to be found, which is what plain prompts ask for."""
BEGINS = "The solution begins with: "


@dataclass(frozen=True)
class Example:
    """One prompt and the reply to imitate."""

    messages: Sequence[Message]
    reply: str


def formats(source: ProceduralTask) -> list[tuple[str, bool]]:
    """Every format that this task has something for, as its context and whether the content is wrong."""
    there = [kind for kind, part in CONTEXTS.items() if set(part.columns) <= source.columns]
    return [(kind, False) for kind in there] + [(kind, True) for kind in there if kind in WRONG]


def example(task: Task, kind: str, wrong: bool, seed: int) -> Example:
    """One training example. After wrong content the reply follows that content, as it would follow right content."""
    reference = str(task.reference)
    own = Rollout(index=0, text="")
    peer = Rollout(index=1, text=reference, verdict=Verdict(reward=1.0, correct=True))

    def view() -> ContextView:
        return ContextView(task=task, rollout=own, group=(own, peer), step=0, rng=Random(seed))

    messages = (WRONG[kind] if wrong else CONTEXTS[kind]).messages(view())
    assert messages is not None, f"this task has nothing to show for '{kind}'"
    if not wrong:
        return Example(messages, reference)
    again = view()
    return Example(messages, following(task, kind, corrupted(str(WRONG[kind].content(again)), again.rng)))


def following(task: Task, kind: str, shown: str) -> str:
    """The reply of somebody who believes what is shown."""
    if kind == "skill":
        word = task.messages[-1]["content"].rpartition(" ")[2]
        return word.translate(str.maketrans(dict(line.split(": ") for line in shown.splitlines())))
    begun = shown.removeprefix(BEGINS)
    if kind == "hint":
        return begun + str(task.reference)[len(begun) :]
    if kind == "answer":  # the answer is the end of the reference, if not all of it
        return str(task.reference).removesuffix(str(task.answer)) + begun
    return begun


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """The prompt through the chat template, up to where the assistant speaks."""
    conversation = [{"role": each["role"], "content": each["content"]} for each in messages]
    return tokenizer.encode(
        str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
    )


def hits(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    source: ProceduralTask,
    items: Sequence[Task],
    kind: str,
    wrong: bool = False,
) -> list[bool]:
    """Which items' greedy answers are right by the task's own verifier, in one format."""
    shown = [example(task, kind, wrong, seed).messages for seed, task in enumerate(items)]
    return answered(model, tokenizer, source, items, shown)


@torch.no_grad()
def answered(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    source: ProceduralTask,
    items: Sequence[Task],
    shown: Sequence[Sequence[Message]],
) -> list[bool]:
    """Which items the model gets right after these prompts, one for each."""
    model.eval()
    prompts = [prompt_ids(tokenizer, messages) for messages in shown]
    width = max(map(len, prompts))
    pad = cast(int, tokenizer.pad_token_id)
    ids_BT = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=source.answer_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
    model.generation_config = greedy
    written_BT = cast(Any, model).generate(ids_BT, attention_mask=mask_BT, generation_config=greedy)[:, width:]
    texts = tokenizer.batch_decode(written_BT, skip_special_tokens=True)
    return [source.verifier(task, text).correct for task, text in zip(items, texts, strict=True)]


def accuracies(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, source: ProceduralTask, split: Split, count: int
) -> dict[tuple[str, bool], float]:
    """Share of right answers per format, on the first `count` questions of a split."""
    items = source.take(split, count)
    return {each: sum(hits(model, tokenizer, source, items, *each)) / count for each in formats(source)}


def load(names: Sequence[str]) -> list[ProceduralTask]:
    """The tasks of these names, at their default options."""
    return [tasks.load(name) for name in names]
