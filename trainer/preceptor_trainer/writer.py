"""The sample stage: a recipe's rollout policy plans, the student writes, exact token ids come out."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from random import Random

from preceptor_trainer.batch import Row
from preceptor_trainer.model import Model, eos_ids, prompt_ids
from preceptor_trainer.recipe import RolloutPolicy
from preceptor_trainer.sampler import Job, Sampler
from preceptor_trainer.views import Plan, PlanView, Task


class CannotWrite(ValueError):
    """A plan that this trainer cannot carry out."""


def stream(*parts: object) -> int:
    """A 64-bit seed that depends on all its parts and on nothing else, so that a resumed run draws the same numbers."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


class Writer:
    """Turns tasks into rows."""

    def __init__(self, policy: RolloutPolicy, model: Model, sampler: Sampler, seed: int) -> None:
        self._policy = policy
        self._model = model
        self._sampler = sampler
        self._seed = seed

    def write(self, tasks: Sequence[Task], step: int) -> list[Row]:
        """`samples` rows a task, in the tasks' order. Raises CannotWrite, naming what is missing."""
        planned = [
            (task, index, self._plan(task, index, step)) for task in tasks for index in range(self._policy.samples)
        ]
        sampled = [(task, index, plan) for task, index, plan in planned if plan.source == "student"]
        jobs = [self._job(task, index, plan, step) for task, index, plan in sampled]
        completions = iter(self._sampler.sample(jobs, self._policy.temperature) if jobs else ())
        rows: list[Row] = []
        for task, index, plan in planned:
            prompt = tuple(prompt_ids(self._model, plan.turns[-1].messages))
            if plan.source == "dataset":
                rows.append(self._given(task, index, plan, prompt, step))
                continue
            written = next(completions)
            rows.append(
                Row(
                    task=task,
                    index=index,
                    prompt_ids=prompt,
                    completion_ids=written.token_ids,
                    logprobs=written.logprobs,
                    text=self.text(written.token_ids),
                    finished=written.finished,
                    weights_version=step - 1,
                )
            )
        return rows

    def text(self, token_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
        return str(self._model.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _plan(self, task: Task, index: int, step: int) -> Plan:
        rng = Random(stream(self._seed, "plan", step, task.id, index))
        plan = self._policy.plan(PlanView(task=task, index=index, step=step, rng=rng))
        if plan.source not in ("student", "dataset"):
            raise CannotWrite(
                f"rollout: teacher '{plan.source}' cannot write rollouts here; only the student and the data can"
            )
        if len(plan.turns) != 1:
            raise CannotWrite(
                f"rollout: this plan has {len(plan.turns)} turns; this trainer writes single-turn rollouts"
            )
        return plan

    def _job(self, task: Task, index: int, plan: Plan, step: int) -> Job:
        messages = plan.behaviour or plan.turns[-1].messages
        horizon = min(plan.max_tokens or self._policy.max_tokens, self._policy.max_tokens)
        seed = stream(self._seed, "sample", step, task.id, index)
        return Job(prompt_ids=tuple(prompt_ids(self._model, messages)), seed=seed, max_tokens=horizon)

    def _given(self, task: Task, index: int, plan: Plan, prompt: tuple[int, ...], step: int) -> Row:
        if plan.completion is None:
            raise CannotWrite(f"rollout: the plan takes task {task.id}'s completion from the data but names none")
        ends = sorted(eos_ids(self._model))[:1]
        ids = [*self._model.tokenizer.encode(plan.completion, add_special_tokens=False), *ends]
        kept = ids[: self._policy.max_tokens]
        return Row(
            task=task,
            index=index,
            prompt_ids=prompt,
            completion_ids=tuple(kept),
            logprobs=None,
            text=plan.completion,
            finished=len(kept) == len(ids),
            weights_version=step - 1,
        )
