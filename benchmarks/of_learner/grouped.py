"""Prompts once in training: forward and backward of a group behind one copy of its prompt, against rows padded one by
one (all of one length here: nothing is padded, and attention needs no mask). The same weights, tokens and gradient.
"""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from of_teacher.pairs import Ratios, interleaved, median, ratio

from preceptor_trainer.batch import Row
from preceptor_trainer.grouping import Cut, Group, cuts, hidden_states
from preceptor_trainer.model import load_model
from preceptor_trainer.resolve import resolve_model
from preceptor_trainer.views import Message, Task

PROMPT, GROUP, LENGTH = 512, 8, 64
SHARE = 0.75
"""Of the ideal that is to be reached."""


def grouped(ratios: Ratios, threads: int, pairs: int, small: bool) -> None:
    """Seconds of the padded rows to those of the packed ones."""
    torch.set_num_threads(threads)
    module: Any = load_model(resolve_model("smollm2")).module
    if small:
        module.model.layers = module.model.layers[:2]
        module.config.num_hidden_layers = 2
    rows = _rows(PROMPT // 8 if small else PROMPT, LENGTH // 8 if small else LENGTH)
    (packed,) = cuts(rows, module, 10**6)
    padded = Cut(packed.rows, tuple((Group(row.prompt_ids, (row.completion_ids,)),) for row in rows))
    ideal = padded.tokens / packed.tokens
    seconds = interleaved(pairs, lambda: _learn(module, packed), lambda: _learn(module, padded))
    sizes = {"ideal": round(ideal, 2), "s": median(seconds, 0), "to_s": median(seconds, 1)}
    sizes |= {"tokens": packed.tokens, "to_tokens": padded.tokens}
    ratios.add("prompts_once.forward_and_backward", ratio(seconds), round(SHARE * ideal, 2), sizes)


def _learn(module: Any, cut: Cut) -> None:
    module.zero_grad()
    hidden_TD = hidden_states(module, cut)
    hidden_TD.backward(torch.ones_like(hidden_TD))


def _rows(prompt: int, length: int) -> list[Row]:
    rng = Random(0)
    ids = tuple(rng.randrange(100, 40_000) for _ in range(prompt))
    task = Task(id="task", messages=(Message(role="user", content="?"),))
    written = [tuple(rng.randrange(100, 40_000) for _ in range(length)) for _ in range(GROUP)]
    return [
        Row(task=task, index=index, prompt_ids=ids, completion_ids=each, logprobs=(0.0,) * length, text="")
        for index, each in enumerate(written)
    ]
