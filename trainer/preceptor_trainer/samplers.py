"""Who writes a run's rollouts: the student itself, a copy of it that writes ahead, or a server that gets its weights.

A server writes by the weights that it was last sent, and says which: what another version wrote is not taken. Its
log-probabilities are its own; how far they are from the learner's is measured at every step (`diagnostics`), and
corrected (`mismatch`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from preceptor.errors import Invalid, VersionsDisagree
from preceptor.wire.runs import Run, Training
from preceptor.wire.write import WriteJob, WriteRequest, Written
from preceptor_trainer.learner import Learner
from preceptor_trainer.model import Model, eos_ids
from preceptor_trainer.ranks import Ranks
from preceptor_trainer.sampler import Check, Completion, Job, LocalSampler, Sampler
from preceptor_trainer.snapshot import Snapshot
from preceptor_trainer.student import open_student
from preceptor_trainer.trained import Trained, copied

SENT_AGAIN = 3
"""How often in one batch a server that has lost its weights is sent them again."""

_log = logging.getLogger(__name__)


class Remote(Protocol):
    """A server that writes by weights that it is sent."""

    def publish(self, weights: Trained) -> int:
        """Returns their version once they are live. Raises the SDK's errors."""
        ...

    def write(self, request: WriteRequest, check: Check) -> Iterator[Written]:
        """Each completion as soon as it is written. Raises the SDK's errors; VersionsDisagree where the weights that
        are to write are not there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Who writes, and by which weights."""

    sampler: Sampler
    model: Model
    """What its prompts are tokenised for."""
    refresh: Callable[[Learner, int], int]
    """Called before the batch of a step is written: it takes over the student's weights, and returns their version."""


class RemoteSampler:
    """A `Sampler` that has a server write."""

    def __init__(self, remote: Remote, model: Model, training: Training) -> None:
        self._remote, self._model = remote, model
        self._ends = tuple(sorted(eos_ids(model)))
        self._lora = training.lora
        self._sent: Trained | None = None
        self._version: int | None = None

    def refresh(self, learner: Learner) -> int:
        """Send the student's weights as they are now; returns their version once the server writes by them. Waits while
        they are being moved."""
        with learner.moving:
            version = learner.version
            self._sent = copied(self._model, self._lora)
        self._publish()
        return version

    def sample(self, jobs: Sequence[Job], temperature: float) -> list[Completion]:
        """One completion a job, in the jobs' order."""
        written = dict(self.stream(jobs, temperature))
        return [written[index] for index in range(len(jobs))]

    def stream(
        self, jobs: Sequence[Job], temperature: float, check: Check | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """The same with each job's number, each as soon as it is written.

        Where the server has other weights than it was sent (it was started anew), it is sent them again, and asked for
        what is missing.
        """
        left = list(range(len(jobs)))
        for attempt in range(SENT_AGAIN + 1):
            if not left:
                return
            try:
                yield from self._written(jobs, left, temperature, check or (lambda: None))
                return
            except VersionsDisagree as error:
                if attempt == SENT_AGAIN:
                    raise
                _log.warning("%s It is sent the student's weights again.", error.problem.detail)
                self._publish()

    def _written(
        self, jobs: Sequence[Job], left: list[int], temperature: float, check: Check
    ) -> Iterator[tuple[int, Completion]]:
        """The jobs that are `left`; each goes from there as it is finished."""
        names = list(left)
        for written in self._remote.write(self._request([jobs[name] for name in names], temperature), check):
            number = names[written.job]
            left.remove(number)
            yield (
                number,
                Completion(token_ids=written.token_ids, logprobs=written.logprobs, finished=written.finished),
            )

    def _request(self, jobs: Sequence[Job], temperature: float) -> WriteRequest:
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(job.prompt_ids for job in jobs))}
        return WriteRequest(
            prompts=tuple(places),
            jobs=tuple(
                WriteJob(prompt=places[job.prompt_ids], seed=job.seed % 2**63, max_tokens=job.max_tokens)
                for job in jobs
            ),
            temperature=temperature,
            ends=self._ends,
            weights_version=self._version,
        )

    def _publish(self) -> None:
        assert self._sent is not None, "the first batch is written after a refresh"
        self._version = self._remote.publish(self._sent)


def open_sampler(
    model: Model, student: Path, run: Run, resume: Path | None, remote: Remote | None, ranks: Ranks
) -> Sampling:
    """Who writes for this run; `remote` asks the server that it names. Raises Invalid where it names one that this
    process was not given, or that several ranks would send their weights."""
    training = run.training
    if run.sampler is not None:
        if ranks.count > 1:
            raise Invalid(
                f"sampler: the run names '{run.sampler}' and has {ranks.count} ranks, each of which would send it "
                "weights.",
                field="sampler",
                remedy="Train on one device, or leave the sampler out: every rank then writes its own share.",
            )
        if remote is None:
            raise Invalid(
                f"sampler: the run names '{run.sampler}', and this process asks no sampler.",
                field="sampler",
                remedy="Run it on a worker.",
            )
        server, lagging = RemoteSampler(remote, model, training), training.max_lag > 0

        def refresh(learner: Learner, step: int) -> int:
            version = server.refresh(learner)
            return version if lagging else step - 1

        return Sampling(sampler=server, model=model, refresh=refresh)
    if training.max_lag == 0:
        return Sampling(sampler=LocalSampler(model), model=model, refresh=lambda learner, step: step - 1)
    # Whoever writes ahead while the student learns does so from a copy of its weights.
    plain = training.model_copy(update={"gradient_checkpointing": False})
    copy = Snapshot(model, open_student(student, plain, resume, model.device).model)
    return Sampling(
        sampler=LocalSampler(copy.model), model=copy.model, refresh=lambda learner, step: copy.refresh(learner)
    )
