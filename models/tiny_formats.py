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

from preceptor_trainer import tasks, verifiers
from preceptor_trainer.parts.contexts import Demonstration, Hint, PeerSuccess, Plain, Reference, Shown, corrupted
from preceptor_trainer.recipe import SingleContext
from preceptor_trainer.tasks import ProceduralTask, Split
from preceptor_trainer.views import ContextView, Message, Rollout, Task, Verdict

SHOWN: tuple[Shown, ...] = (Reference(), Demonstration(), Hint(), PeerSuccess())
CONTEXTS: Mapping[str, SingleContext] = {"plain": Plain()} | {part.kind: part for part in SHOWN}
WRONG: Mapping[str, Shown] = {part.kind: part.model_copy(update={"wrong": True}) for part in SHOWN}
FORMATS = [(kind, False) for kind in CONTEXTS] + [(kind, True) for kind in WRONG]
"""Every format, as its context and whether the content is wrong."""
ANSWER_TOKENS = {"spell_backward": 16, "chain_sum": 80}
"""Longest answer that an examination waits for."""


@dataclass(frozen=True)
class Example:
    """One prompt and the reply to imitate."""

    messages: Sequence[Message]
    reply: str


def example(task: Task, kind: str, wrong: bool, seed: int) -> Example:
    """One training example. After wrong content the reply follows that content, as it would follow right content."""
    reference = str(task.reference)
    own = Rollout(index=0, text="")
    peer = Rollout(index=1, text=reference, verdict=Verdict(reward=1.0, correct=True))

    def view() -> ContextView:
        return ContextView(task=task, rollout=own, group=(own, peer), step=0, rng=Random(seed))

    messages = (WRONG[kind] if wrong else CONTEXTS[kind]).messages(view())
    assert messages is not None, "these tasks have content for every context"
    if not wrong:
        return Example(messages, reference)
    again = view()
    shown = corrupted(str(WRONG[kind].content(again)), again.rng)
    begun = shown.removeprefix("The solution begins with: ")
    return Example(messages, begun + reference[len(begun) :])


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """The prompt through the chat template, up to where the assistant speaks."""
    conversation = [{"role": each["role"], "content": each["content"]} for each in messages]
    return tokenizer.encode(
        str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
    )


@torch.no_grad()
def hits(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Task], kind: str, wrong: bool = False
) -> list[bool]:
    """Which items' greedy answers reasoning-gym's scorer gives full marks, in one format."""
    model.eval()
    verify = verifiers.Procedural()
    prompts = [prompt_ids(tokenizer, example(task, kind, wrong, seed).messages) for seed, task in enumerate(items)]
    width = max(map(len, prompts))
    pad = cast(int, tokenizer.pad_token_id)
    ids_BT = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=ANSWER_TOKENS[items[0].columns["metadata"]["source_dataset"]],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
    model.generation_config = greedy
    written_BT = cast(Any, model).generate(ids_BT, attention_mask=mask_BT, generation_config=greedy)[:, width:]
    texts = tokenizer.batch_decode(written_BT, skip_special_tokens=True)
    return [verify(task, text).correct for task, text in zip(items, texts, strict=True)]


def accuracies(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, source: ProceduralTask, split: Split, count: int
) -> dict[tuple[str, bool], float]:
    """Share of right answers per format, on the first `count` questions of a split."""
    items = source.take(split, count)
    return {each: sum(hits(model, tokenizer, items, *each)) / count for each in FORMATS}


def load(names: Sequence[str]) -> list[ProceduralTask]:
    """The tasks of these names, at their default options."""
    return [tasks.load(name) for name in names]
