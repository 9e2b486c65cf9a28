"""The local sampler against transformers' own `generate`: the same weights, threads, prompts, rows at once and lengths.

End tokens are switched off on both sides, so that lengths are those asked for; both sample at temperature 1 from the
whole vocabulary. `generate` writes until the longest row of its batch is done; only tokens that were asked for count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from of_teacher.pairs import Ratios, interleaved, median, ratio

from preceptor_trainer.model import Model, load_model
from preceptor_trainer.resolve import resolve_model
from preceptor_trainer.sampler import Job, LocalSampler

GROUP = 8
PROMPT, LENGTH = 64, 64
SHORTEST, LONGEST = 8, 128


def sampling(ratios: Ratios, threads: int, pairs: int, small: bool) -> None:
    """Useful tokens a second, ours to theirs."""
    torch.set_num_threads(threads)
    model = endless(load_model(resolve_model("smollm2")))
    prompt, length = (16, 4) if small else (PROMPT, LENGTH)
    equal = [Job(prompt_ids=_prompt(0, prompt), seed=seed, max_tokens=length) for seed in range(GROUP)]
    _compare(ratios, "sampler.equal_lengths", model, equal, pairs, 1.0)
    rng, groups = Random(1), 2 if small else 6
    shortest, longest = (2, 8) if small else (SHORTEST, LONGEST)
    uneven = [
        Job(prompt_ids=_prompt(group, prompt), seed=100 * group + seed, max_tokens=rng.randint(shortest, longest))
        for group in range(groups)
        for seed in range(GROUP)
    ]
    _compare(ratios, "sampler.uneven_lengths_refilled", model, uneven, pairs, 1.3)


def endless(model: Model) -> Model:
    """The model without any token that ends a completion."""
    generation: Any = model.module.generation_config
    generation.eos_token_id = None
    return replace(model, tokenizer=SimpleNamespace(eos_token_id=None))


def _prompt(seed: int, length: int) -> tuple[int, ...]:
    rng = Random(seed)
    return tuple(rng.randrange(100, 40_000) for _ in range(length))


def _compare(ratios: Ratios, name: str, model: Model, jobs: Sequence[Job], pairs: int, bar: float) -> None:
    sampler = LocalSampler(model, max_rows=GROUP)
    rows = interleaved(pairs, lambda: sampler.sample(jobs, 1.0), lambda: _generate(model, jobs))
    tokens = sum(job.max_tokens for job in jobs)
    sizes = {"tokens": tokens, "s": median(rows, 0), "to_s": median(rows, 1), "rollouts": len(jobs)}
    ratios.add(name, ratio(rows), bar, sizes)


def _generate(model: Model, jobs: Sequence[Job]) -> None:
    """Groups of one prompt, one after another."""
    module: Any = model.module
    for begin in range(0, len(jobs), GROUP):
        batch = jobs[begin : begin + GROUP]
        ids_BL = torch.tensor([job.prompt_ids for job in batch])
        longest = max(job.max_tokens for job in batch)
        with torch.inference_mode():
            module.generate(
                input_ids=ids_BL,
                attention_mask=torch.ones_like(ids_BL),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                max_new_tokens=longest,
                pad_token_id=0,
            )
