"""How a model answers in every format: greedy, judged by the task's own verifier, against the true answer.

Shape letters: B examples, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from models.formats import CONTEXTS, MISLEADING, formats, mistaken, prompt
from preceptor_trainer import tasks
from preceptor_trainer.tasks import ProceduralTask, Split
from preceptor_trainer.views import Message, Task


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
    """Which items' greedy answers are right by the task's own verifier, in one format. Wrong content is the library's
    own: the context's `wrong`."""
    part = CONTEXTS[kind]
    if wrong and kind not in MISLEADING and kind != "feedback":
        part = part.model_copy(update={"wrong": True})
    examined = [(task, Random(seed)) for seed, task in enumerate(items)]
    if wrong and kind in ("wrong_answer", "feedback"):
        examined = [(mistaken(task, rng), rng) for task, rng in examined]
    shown = [prompt(source, task, kind, rng, part) for task, rng in examined]
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
