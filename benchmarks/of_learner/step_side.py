"""One side of the step comparison in a process of its own: seconds of a step, and its peak memory. Prints one JSON
object.

Started by `step.py`, which says what was made equal; TRL's side runs under the Python that has TRL.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Work = dict[str, Any]
"""What both sides are given: model folder, tasks of every step, sizes, the optimizer's settings."""


class Clock:
    """Of the steps' ends: the first is the warm-up's."""

    def __init__(self, also: int | None = None) -> None:
        """`also`: another process whose work and memory count."""
        self._processes = [os.getpid(), *([also] if also else [])]
        self._ends: list[tuple[float, float]] = []
        self._peaks = list[int]()

    def tick(self) -> None:
        self._ends.append((time.perf_counter(), sum(map(_cpu_seconds, self._processes))))
        self._peaks = [_peak_bytes(pid) for pid in self._processes]

    def found(self) -> dict[str, Any]:
        pairs = list(zip(self._ends, self._ends[1:], strict=False))
        wall, cpu = ([after[at] - before[at] for before, after in pairs] for at in (0, 1))
        return {"seconds": wall, "cpu_seconds": cpu, "bytes": self._peaks}


def _cpu_seconds(pid: int) -> float:
    if pid == os.getpid():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def ours(work: Work, teacher: str, pid: int) -> dict[str, Any]:
    """The loop that workers run, its teacher a service of its own, whose work and memory count."""
    from of_learner.runs import Told, a_run

    from preceptor_trainer.loop import train

    recipe, clock, data = _recipe(work), Clock(pid), _Tasks(work)
    settings = {"steps": len(work["steps"]), "batch": len(work["steps"][0]), "threads": work["threads"]}
    run = a_run("opsd", recipe, **settings, **work["training"])
    told = Told(clock.tick)
    with tempfile.TemporaryDirectory() as folder, _pool(teacher, Path(folder)) as pool:
        train(run, Path(work["student"]), data, pool, told, Path(folder))
    assert all(step.metrics["completion_length"] == work["tokens"] for step in told.steps), (
        "a completion has another length"
    )
    stages = [step.ledger.seconds for step in told.steps[1:] if step.ledger is not None]
    return {**clock.found(), "stages": {name: [each[name] for each in stages] for name in stages[0]}}


def check(work: Work, teacher: str, theirs: Path) -> dict[str, Any]:
    """Our loss and gradient on the rollouts of TRL's first step, by the stages that a run has, beside TRL's own."""
    from of_learner.runs import a_run

    from preceptor_trainer.batch import Row, build_batch
    from preceptor_trainer.learner import Learner
    from preceptor_trainer.model import load_model, prompt_ids
    from preceptor_trainer.opinions import Opinions

    said, recipe = json.loads(theirs.read_text()), _recipe(work)
    tasks = _Tasks(work).train(1, 0, 0)
    model = load_model(work["student"])
    rows = [
        Row(
            task=tasks[index // work["group"]],
            index=index % work["group"],
            prompt_ids=tuple(prompt_ids(model, tasks[index // work["group"]].messages)),
            completion_ids=tuple(ids),
            logprobs=None,
            text="",
        )
        for index, ids in enumerate(said["completions"])
    ]
    assert [list(row.prompt_ids) for row in rows] == said["prompts"], "the two sides' prompts differ"
    with tempfile.TemporaryDirectory() as folder, _pool(teacher, Path(folder)) as pool:
        opinions = Opinions(recipe, model, pool, 0, torch.float32)
        heard = opinions.hear(rows, 1)
        shown = [list(wish.ids) for wish in heard.wishes]
        assert shown == said["teacher_prompts"], "the two sides' teachers' prompts differ"
        batch = build_batch(rows, opinions.gather([heard]).slots, 1, torch.float32)
        sums = Learner(recipe, model, a_run("opsd", recipe, **work["training"]).training).gradient(batch)
    assert sums is not None
    grads = [each.grad for each in model.module.parameters() if each.grad is not None]
    norm = float(torch.stack([grad.norm() for grad in grads]).norm())
    return {"loss": [sums.loss, said["loss"]], "norm": [norm, said["norm"]], "shown": len(shown[0])}


def _recipe(work: Work) -> Any:
    from preceptor_trainer import recipes

    return recipes.load("opsd").override({"rollout": {"samples": work["group"], "max_tokens": work["tokens"]}})


def _pool(url: str, folder: Path) -> Any:
    from preceptor.endpoint import TeacherClient
    from preceptor.pool import TeacherPool
    from preceptor.wire.runs import TeacherEndpoint

    key = "PRECEPTOR_TEACHER_KEY"
    with TeacherClient(url, os.environ[key]) as client:
        endpoint = TeacherEndpoint(name="self", url=url, key_env=key, card=client.card())
    return TeacherPool({"self": endpoint}, folder / "heads")


class _Tasks:
    """The given tasks, step by step."""

    name = "given"
    columns = frozenset({"answer", "reference"})

    def __init__(self, work: Work) -> None:
        from preceptor_trainer.verifiers import Exact

        self._steps = work["steps"]
        self.verifier = Exact()

    def train(self, step: int, batch: int, seed: int) -> list[Any]:
        return [_task(each) for each in self._steps[step - 1]]

    def held_out(self, count: int) -> list[Any]:
        return [_task(each) for each in self._steps[0][:count]]


def _task(each: dict[str, str]) -> Any:
    from preceptor_trainer.views import Message, Task

    question = Message(role="user", content=each["question"])
    return Task(id=each["question"], messages=(question,), answer=each["answer"], reference=each["reference"])


def trl(work: Work, out: Path) -> dict[str, Any]:
    """TRL's trainer; what it saw and found in its first step is left in `out`."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer, TrainerCallback
    from trl.experimental.sdft import SDFTTrainer  # pyright: ignore[reportMissingImports]

    clock, first = Clock(), dict[str, Any]()

    class Watcher(TrainerCallback):
        def on_self_distillation_batch_prepared(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            if first:
                return
            tokens = seen["completion_ids"].shape[1]
            assert tokens == work["tokens"], "a completion has another length"
            shown = seen["teacher_input_ids"][:, :-tokens].tolist()
            mask = seen["teacher_attention_mask"][:, :-tokens].tolist()
            first["teacher_prompts"] = [_kept(*row) for row in zip(shown, mask, strict=True)]
            first["completions"] = seen["completion_ids"].tolist()
            first["prompts"] = seen["prompt_ids"].tolist()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **seen: Any) -> None:
            if "grad_norm" in logs:
                first.setdefault("norm", logs["grad_norm"])

        def on_step_end(self, args: Any, state: Any, control: Any, **seen: Any) -> None:
            clock.tick()

    class Watched(SDFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            loss = super().compute_loss(model, inputs, *more, **named)
            if "loss" not in first:
                first["loss"] = float(loss.detach())
                # Without the padding that levels the prompts of a batch.
                rows = zip(first["prompts"], inputs["prompt_mask"].tolist(), strict=True)
                first["prompts"] = [_kept(*row) for row in rows]
            return loss

    tokenizer = AutoTokenizer.from_pretrained(work["student"])
    tokenizer.eos_token = tokenizer.pad_token  # it asks for one; nothing ends with it, see below
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {"prompt": [{"role": "user", "content": task["question"]}], "privileged_context": task["reference"]}
            for step in work["steps"]
            for task in step
        ]
        trainer = Watched(
            model=work["student"],
            args=_config(work, folder),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Watcher()],
        )
        trainer.eos_token_ids, trainer.generation_config.eos_token_id = [-1], None
        trainer.train()
    out.write_text(json.dumps(first))
    return clock.found()


def _config(work: Work, folder: str) -> Any:
    """TRL's settings for the work that ours does."""
    from trl.experimental.sdft import SDFTConfig  # pyright: ignore[reportMissingImports]

    training = work["training"]
    return SDFTConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        per_device_train_batch_size=len(work["steps"][0]) * work["group"],
        num_generations=work["group"],
        max_steps=len(work["steps"]),
        shuffle_dataset=False,
        max_completion_length=work["tokens"],
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        teacher_model_kind="base",
        teacher_prompt_template=work["template"],
        distillation_mode="full_logits",
        distillation_alpha=0.5,
        distillation_is_clip=None,
        learning_rate=training["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=training["betas"][0],
        adam_beta2=training["betas"][1],
        weight_decay=training["weight_decay"],
        max_grad_norm=training["clip_norm"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _kept(ids: list[int], mask: list[int]) -> list[int]:
    return [token for token, real in zip(ids, mask, strict=True) if real]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["ours", "trl", "check"], required=True)
    parser.add_argument("--work", type=Path, required=True, help="a file that holds the work, as JSON")
    parser.add_argument("--first", type=Path, required=True, help="a file for TRL's first step")
    parser.add_argument("--teacher", default="", help="where ours is served")
    parser.add_argument("--pid", type=int, default=0, help="of the process that serves it")
    given = parser.parse_args()
    work = json.loads(given.work.read_text())
    torch.set_num_threads(work["threads"])
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: ours(work, given.teacher, given.pid),
        "trl": lambda: trl(work, given.first),
        "check": lambda: check(work, given.teacher, given.first),
    }
    print(json.dumps(sides[given.side]()))


if __name__ == "__main__":
    main()
