"""Rollouts that somebody else writes: `POST /v1/write`. Token ids in; token ids and their log-probabilities out.

The answer is a line of JSON for every job, in the order in which they are finished: a `Written`, or, where the rest is
not to come, a `BrokenOff`.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from preceptor.wire.common import Count, Problem, Wire

MOST_JOBS = 4096
"""Completions in one request."""
SLACK = 1e-4
"""How far above 0 a sampler's log-probability may round."""

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class WriteJob(Wire):
    """One completion to be written."""

    prompt: Count
    """Which of the request's prompts it goes on from."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """What its draws depend on: the same seed at the same engine writes the same, up to how the engine batches."""
    max_tokens: int = Field(ge=1, le=1_000_000)
    """Longest completion, the end token included."""


class WriteRequest(Wire):
    """Completions wanted. A prompt is listed once, however many completions it gets."""

    prompts: tuple[Annotated[tuple[TokenId, ...], Field(min_length=1)], ...] = Field(min_length=1)
    """Token ids."""
    jobs: tuple[WriteJob, ...] = Field(min_length=1, max_length=MOST_JOBS)
    """What is to be written."""
    temperature: float = Field(default=1.0, ge=0, le=10, allow_inf_nan=False)
    """0: always the likeliest token. An engine whose log-probabilities are untempered writes at 0 and 1 only."""
    ends: tuple[TokenId, ...] = Field(default=(), max_length=64)
    """Ids that end a completion, and belong to it. None of the engine's own end one."""
    weights_version: Count | None = None
    """The version that must write all of it; None: the live one."""

    @model_validator(mode="after")
    def _points(self) -> WriteRequest:
        if beyond := [job.prompt for job in self.jobs if job.prompt >= len(self.prompts)]:
            raise ValueError(f"jobs: prompt {beyond[0]} is not among the {len(self.prompts)} prompts")
        return self


class Written(Wire):
    """One finished completion."""

    job: Count
    """Which of the request's jobs it is."""
    token_ids: tuple[TokenId, ...] = Field(min_length=1)
    """What was written, the end token included where there is one."""
    logprobs: tuple[float, ...]
    """Natural log of the probability that each token was drawn with, under the writer's own numbers."""
    finished: bool
    """False: cut off at `max_tokens`."""
    weights_version: Count
    """Of the weights that wrote it."""

    def why_not(self, request: WriteRequest) -> str | None:
        """What is wrong with it as an answer to this request; None: nothing."""
        if self.job >= len(request.jobs):
            return f"it is of job {self.job}, and {len(request.jobs)} were sent"
        where, limit = f"completion {self.job}", request.jobs[self.job].max_tokens
        if len(self.logprobs) != len(self.token_ids):
            return f"{where} has {len(self.token_ids)} tokens and {len(self.logprobs)} log-probabilities"
        for position, logprob in enumerate(self.logprobs):
            if not math.isfinite(logprob) or logprob > SLACK:
                return f"token {position} of {where} has the log-probability {logprob}"
        ended = self.token_ids[-1] in request.ends
        if ended != self.finished or any(token in request.ends for token in self.token_ids[:-1]):
            return f"{where} does not end where an end token says"
        if len(self.token_ids) > limit or (not ended and len(self.token_ids) < limit):
            return f"{where} has {len(self.token_ids)} tokens and no end, where {limit} were asked for"
        if request.weights_version not in (None, self.weights_version):
            return f"{where} was written by weights version {self.weights_version}, not {request.weights_version}"
        return None


class BrokenOff(Wire):
    """The last line where something went wrong after the first had been sent."""

    error: Problem
    """What."""
