"""What routed distillation is held against: the specialists' answers as data, and the mean of their weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file

from preceptor_trainer.model import Model, load_model, prompt_ids
from preceptor_trainer.sampler import Job, LocalSampler
from preceptor_trainer.views import Task

WEIGHTS = "model.safetensors"


def answered(questions: Iterable[Task], specialists: Mapping[str, Path], max_tokens: int, file: Path) -> int:
    """Write a line of JSON for each distinct question, its `reference` the likeliest answer of its domain's specialist,
    its `answer` the gold one. Returns how many."""
    distinct = {task.id: task for task in questions}
    with file.open("w", encoding="utf-8") as out:
        for domain, folder in specialists.items():
            mine = [task for task in distinct.values() if task.columns["domain"] == domain]
            for task, said in zip(mine, _written(load_model(folder), mine, max_tokens), strict=True):
                row = {"messages": list(task.messages), "answer": task.answer, "reference": said, "domain": domain}
                out.write(json.dumps(row) + "\n")
    return len(distinct)


def averaged(folders: Iterable[Path], folder: Path) -> Path:
    """A model whose weights are the mean of these models'."""
    first, *others = folders
    shutil.copytree(first, folder)
    mean = {name: weight.double() for name, weight in load_file(first / WEIGHTS).items()}
    for other in others:
        theirs = load_file(other / WEIGHTS)
        mean = {name: weight + theirs[name].double() for name, weight in mean.items()}
    count = 1 + len(others)
    save_file({name: (weight / count).float() for name, weight in mean.items()}, folder / WEIGHTS, {"format": "pt"})
    return folder


def _written(model: Model, questions: list[Task], max_tokens: int) -> list[str]:
    """Greedy answers, as text."""
    jobs = [
        Job(prompt_ids=tuple(prompt_ids(model, task.messages, max_tokens)), seed=0, max_tokens=max_tokens)
        for task in questions
    ]
    written = LocalSampler(model).sample(jobs, temperature=0.0)
    return [str(model.tokenizer.decode(list(each.token_ids), skip_special_tokens=True)) for each in written]
