"""Runs on the wire: what a user asks for, what a worker takes and reports, what everybody reads.

A run is `queued -> running -> succeeded | failed | cancelled`; `running -> queued` when its lease ends;
`running -> paused`; `queued | paused -> cancelled`; `paused | failed | cancelled -> queued` on resume.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from preceptor.wire.common import STEP_LIMIT, ArtifactId, Count, Name, Problem, Step, Wire
from preceptor.wire.data import DataSpec
from preceptor.wire.fillings import Refilled
from preceptor.wire.pairs import Outcomes, PairGrant, PeerAnswers
from preceptor.wire.skills import PinnedBank
from preceptor.wire.teachers import Card, Stamp, TeacherKind
from preceptor.wire.training import Training
from preceptor.wire.waiting import Waiting


class RunState(StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing more happens to it by itself."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


Alignment = Literal["ids", "bytes"]
"""How a teacher's scores meet the student's tokens. `ids`: every teacher has the student's tokenizer. `bytes`: one with
another tokenizer is heard where both end a token at the same byte; the rest is masked and counted."""


class RunCreate(Wire):
    """A wish for a run."""

    name: Name | None = None
    """What to call it; None: a name is made up."""
    recipe: str = Field(max_length=200)
    """The recipe's name."""
    overrides: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Changes to the recipe, merged into it in their order: `{"rollout": {"max_tokens": 64}}`, or by path, into lists
    too: `{"objective.0.beta": 0.3}`."""
    student: ArtifactId
    """The model to train: an artifact of kind `model`."""
    teachers: dict[str, str] = Field(default_factory=dict[str, str])
    """Which registered teacher fills each of the recipe's roles; `base`: the student as it began."""
    fallbacks: dict[str, str] = Field(default_factory=dict[str, str])
    """Which registered teacher is asked in a role's stead where its own gives no answer; roles without are absent."""
    vacant: tuple[str, ...] = ()
    """Roles of routers that nobody fills yet: what they would be asked about is unrouted, and counted."""
    data: DataSpec
    """Where the tasks come from."""
    training: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Changes to the training settings: `{"steps": 100}`."""
    alignment: Alignment = "ids"
    """Whether teachers may have another tokenizer than the student (`bytes`), or not (`ids`)."""
    sampler: str | None = None
    """Which registered teacher writes the rollouts, by weights that the run sends it; None: the worker itself."""
    skills: PinnedBank | None = None
    """The skill bank that contexts show from, as `bank@version`; without a version, the latest when it is submitted."""


OnFailure = Literal["wait", "fallback", "drop"]
"""What a context does when its teacher gives no answer within a call's deadline. `wait`: goes on trying, up to a bound.
`fallback`: asks the teacher that the run names for this. `drop`: has no opinion on what was asked, which is counted."""


class CheckpointRef(Wire):
    """A checkpoint of a run."""

    step: Step
    """The step after which it was taken."""
    artifact: ArtifactId
    """Where it is held."""


class RunResult(Wire):
    """What came of a run."""

    task: str
    """What the held-out tasks were."""
    n: Count
    """How many held-out tasks were asked."""
    before: float
    """Accuracy before the first step, in [0, 1]."""
    after: float
    """Accuracy of the student that was kept."""
    gain: float
    """`after - before`."""
    ci95: tuple[float, float]
    """95% confidence interval of the gain, paired by task."""
    steps: Step
    """Optimizer steps done."""
    kept_step: Step | None = None
    """The step after which the student was as it was kept; None: told by a version that kept the last."""
    stopped_early: bool = False
    """Whether it ended before its last step because it no longer got better."""
    train_seconds: float = Field(ge=0)
    """Seconds spent in steps, evaluation excluded."""
    model: ArtifactId | None = None
    """The trained student."""


class Run(Wire):
    """A run."""

    id: str
    """Its id."""
    name: str
    """What people call it."""
    recipe: str
    """The recipe's name."""
    overrides: dict[str, Any]
    """The user's changes to the recipe."""
    resolved: dict[str, Any]
    """The recipe with the changes merged in: what the worker runs."""
    recipe_sha256: str | None = None
    """Hash of the file that brings the recipe, where it is no shipped one: the worker's must be the same."""
    student: ArtifactId
    """The model that is trained."""
    teachers: dict[str, str]
    """Teacher names, by role."""
    fallbacks: dict[str, str] = Field(default_factory=dict[str, str])
    """Names of the teachers that are asked instead, by role."""
    refilled: tuple[Refilled, ...] = ()
    """Teachers that others have replaced since it was submitted, in this order."""
    data: DataSpec
    """Where the tasks come from."""
    training: Training
    """The resolved training settings."""
    sampler: str | None = None
    """Which registered teacher writes the rollouts; None: the worker itself."""
    skills: PinnedBank | None = None
    """The version of a skill bank that contexts show from, as `bank@version`."""
    alignment: Alignment = "ids"
    """Whether teachers may have another tokenizer than the student."""
    state: RunState
    """Where it is in its life."""
    step: Step
    """Steps recorded so far."""
    created_at: datetime
    """When it was submitted."""
    updated_at: datetime
    """When anything about it last changed."""
    started_at: datetime | None = None
    """When a worker first took it."""
    finished_at: datetime | None = None
    """When it ended."""
    error: Problem | None = None
    """Why it failed."""
    result: RunResult | None = None
    """What came of it."""
    worker: str | None = None
    """Who holds the lease, or held the last one."""
    fence: Count = 0
    """The fencing number of the last lease: reports with a smaller one are refused."""
    attempt: Count = 0
    """How often a worker has taken it up."""
    checkpoint: CheckpointRef | None = None
    """Where it would go on from."""
    cancel_requested: bool = False
    """Somebody asked for it to be cancelled; the worker has not yet."""
    pause_requested: bool = False
    """Somebody asked for it to be paused; the worker has not yet."""
    waits: Waiting | None = None
    """Where one run is asked for and it is queued: what it waits for."""


class TeacherLedger(Wire):
    """What went to one teacher and came back, in one step."""

    requests: Count = 0
    """Requests over HTTP, for scores, texts and rollouts, retries included."""
    sequences: Count = 0
    """Completions scored; of a sampler: written."""
    tokens: Count = 0
    """Completion tokens scored; of a sampler: written."""
    bytes_sent: Count = 0
    """Bytes of request bodies."""
    bytes_received: Count = 0
    """Bytes of answers."""
    head_bytes: Count = 0
    """Bytes of output projections fetched."""
    weights_bytes: Count = 0
    """Bytes of weights sent to it, to all of its endpoints."""
    seconds: float = 0.0
    """Seconds that requests took, added up."""
    retries: Count = 0
    """Requests that had to be sent again."""
    failovers: Count = 0
    """Requests that went on at another endpoint than the one that failed them."""
    hedges: Count = 0
    """Requests that were sent to a second endpoint because the first took unusually long."""
    hedges_won: Count = 0
    """Those that the second endpoint answered first."""
    refused: Count = 0
    """Endpoints that were not believed: what answers there is not what the run was submitted against."""
    fallbacks: Count = 0
    """Requests that the role's fallback teacher answered."""
    dropped: Count = 0
    """(rollout, prompt) pairs that nobody answered for: they were learned from without this opinion."""
    texts: Count = 0
    """Texts that it wrote for contexts (critiques, rubrics, arguments); equal wishes of a step are asked once."""
    unwritten: Count = 0
    """Texts that nobody wrote: what they were wanted for is done without."""
    unreadable: Count = 0
    """Texts without the form that was asked for, cut off, or off the question, counted for every rollout: what they
    were wanted for is done without."""
    cache_hits: Count = 0
    """Completions whose scores came from the score cache."""
    waited_seconds: float = 0.0
    """Seconds in which there was nobody to ask: pauses before an attempt."""
    endpoints: dict[str, int] = Field(default_factory=dict[str, int])
    """Requests, by the URL they went to."""
    weights_versions: list[int] = Field(default_factory=list[int])
    """Weights versions that answered."""
    joined: list[str] = Field(default_factory=list[str])
    """Endpoints that were asked from somewhere in this step on, by URL."""
    left: list[str] = Field(default_factory=list[str])
    """Endpoints that were no longer asked from somewhere in this step on."""
    teachers_joined: list[str] = Field(default_factory=list[str])
    """Who fills this role from the beginning of this step on, where that is another teacher than before."""
    teachers_left: list[str] = Field(default_factory=list[str])
    """Who filled it up to then."""
    answers: list[PeerAnswers] = Field(default_factory=list[PeerAnswers])
    """Of a peer: what each of its versions gave, and how far that one was behind."""


class Ledger(Wire):
    """Where one step's time and traffic went."""

    seconds: dict[str, float] = Field(default_factory=dict[str, float])
    """Seconds that stages worked, by stage. Stages overlap: they may add up to more than the step took."""
    idle: dict[str, float] = Field(default_factory=dict[str, float])
    """Seconds that a stage waited, by stage and what for: `sample/weights`, `score/rollouts`, `learn/rollouts`,
    `learn/scores`."""
    tokens: dict[str, int] = Field(default_factory=dict[str, int])
    """Tokens, by what was done with them."""
    rollouts: Count = 0
    """Rollouts that were learned from."""
    contexts: Count = 0
    """Privileged prompts that were shown, summed over rollouts."""
    scored_sequences: Count = 0
    """Scores that arrived: rollouts x contexts where nothing went round the teachers."""
    stamped_sequences: Count = 0
    """Those that carried a stamp."""
    unrouted: Count = 0
    """(rollout, context) pairs that a router gave to no teacher: there is no opinion on them."""
    teachers: dict[str, TeacherLedger] = Field(default_factory=dict[str, TeacherLedger])
    """Traffic, by role."""


class StepReport(Wire):
    """One optimizer step."""

    step: int = Field(ge=1, le=STEP_LIMIT)
    """Which one; the first is 1."""
    metrics: dict[str, float]
    """Numbers of this step, by name; `loss` is always among them."""
    ledger: Ledger = Ledger()
    """Where its time and traffic went."""


class TokenScore(Wire):
    """One token of a rollout and what everyone thought of it."""

    token: int = Field(ge=0, le=2**31 - 1)
    """Its id."""
    text: str
    """Its text."""
    student: float
    """The student's log-probability (natural log) when it wrote the token."""
    teachers: dict[str, float]
    """Each context's log-probability of it; a context without an opinion is absent. From a teacher with another
    tokenizer: its span's, less the student's of the span's other tokens, so that the difference is the span's."""


class Sample(Wire):
    """A rollout that was kept to be looked at."""

    step: int = Field(ge=1, le=STEP_LIMIT)
    """The step it was learned from in."""
    task_id: str
    """The task's id."""
    prompt: str
    """What the student read."""
    completion: str
    """What it wrote."""
    reward: float
    """What the verifier gave."""
    tokens: list[TokenScore]
    """The completion, token by token."""
    stamps: dict[str, Stamp]
    """Who scored it, by context."""


class Evaluation(Wire):
    """The student on held-out tasks."""

    step: Step
    """After which step; 0: before the first."""
    n: Count
    """Tasks asked."""
    correct: Count
    """Tasks answered right."""
    accuracy: float
    """`correct / n`."""
    ci95: float
    """Half-width of the 95% confidence interval of the accuracy."""
    mean_length: float
    """Mean completion length, in tokens."""
    entropy: float | None = None
    """The student's mean entropy per token of these completions, in nats."""
    samples: Count = 0
    """Answers sampled per task besides the greedy one."""
    sampled_accuracy: float | None = None
    """avg@k: the share of those that was right, as a mean over tasks."""
    sampled_ci95: float | None = None
    """Half-width of its 95% confidence interval; tasks are what is drawn, not answers."""
    seconds: float
    """Seconds it took."""
    hits: list[bool]
    """Right or wrong, in the order of the tasks: the same tasks at every evaluation of a run."""
    domains: dict[str, Outcomes] = Field(default_factory=dict[str, Outcomes])
    """The same by the tasks' `domain`; empty where the data names none."""

    @property
    def score(self) -> float:
        """What evaluations of a run are ranked by: avg@k where it was measured, greedy accuracy elsewhere."""
        return self.accuracy if self.sampled_accuracy is None else self.sampled_accuracy


class LeaseRequest(Wire):
    """A worker asks for the right to advance a run."""

    worker: str = Field(min_length=1, max_length=200)
    """Who asks: host and process, say."""


class ReplicaAddress(Wire):
    """Where one endpoint of a teacher answers."""

    url: str
    """Where it answers."""
    key_env: str | None = None
    """Environment variable that holds its key; the worker reads its own."""


class TeacherEndpoint(Wire):
    """How a worker reaches a teacher of its run."""

    name: str
    """The teacher's registered name."""
    url: str
    """Where it answers."""
    kind: TeacherKind = TeacherKind.PRECEPTOR
    """What answers there."""
    key_env: str | None = None
    """Environment variable that holds the endpoint's key; the worker reads its own."""
    replicas: tuple[ReplicaAddress, ...] = ()
    """Further endpoints where the same teacher answers."""
    card: Card
    """What the teacher said of itself when it was last probed."""


class LeaseGrant(Wire):
    """The right to advance a run, until it expires."""

    run: Run
    """The run, as it is now."""
    fence: Count
    """The fencing number: every report carries it."""
    until: datetime
    """When the lease ends unless a heartbeat comes."""
    ttl_seconds: float
    """How long a heartbeat makes it last. Beat three times in this time, at least."""
    teachers: dict[str, TeacherEndpoint]
    """Whom to ask, by role."""
    fallbacks: dict[str, TeacherEndpoint] = Field(default_factory=dict[str, TeacherEndpoint])
    """Whom to ask where a role's teacher gives no answer, by role."""
    recorded_step: Step
    """Steps up to this one are recorded already; reporting them again is a replay."""
    pair: PairGrant | None = None
    """The pair that the run is a side of; None: it is alone."""


class LeaseStatus(Wire):
    """What a worker is told at every heartbeat and report."""

    until: datetime
    """When the lease now ends."""
    cancel: bool = False
    """Stop within this step, checkpoint, and finish as cancelled."""
    pause: bool = False
    """Stop within this step, checkpoint, and wait."""
    teachers: dict[str, tuple[ReplicaAddress, ...]] | None = None
    """The endpoints that are now in use, by role, best first; None: nothing is said of them."""
    refilled: dict[str, TeacherEndpoint | None] = Field(default_factory=dict[str, TeacherEndpoint | None])
    """Whom to ask, in roles that were refilled since the lease was taken; None: nobody. `teachers` leaves them out."""


class Heartbeat(Wire):
    """The worker is alive."""

    fence: Count
    """The lease's fencing number."""


class StepsReport(Wire):
    """What a worker has done since it last reported."""

    fence: Count
    """The lease's fencing number."""
    steps: list[StepReport] = Field(default_factory=list[StepReport], max_length=1000)
    """Steps, in order. One that is recorded already is a replay: it is compared, not stored again."""
    samples: list[Sample] = Field(default_factory=list[Sample], max_length=1000)
    """Rollouts to keep."""
    evaluations: list[Evaluation] = Field(default_factory=list[Evaluation], max_length=100)
    """Evaluations."""


class CheckpointReport(Wire):
    """A checkpoint was uploaded."""

    fence: Count
    """The lease's fencing number."""
    step: Step
    """The step after which it was taken."""
    artifact: ArtifactId
    """The artifact: kind `checkpoint`, ready."""


class Note(Wire):
    """Something worth telling whoever watches the run."""

    fence: Count
    """The lease's fencing number."""
    kind: Literal["note", "resumed", "error"] = "note"
    """What kind of event it becomes."""
    data: dict[str, Any]
    """What there is to say."""


class Finish(Wire):
    """The worker is done with the run."""

    fence: Count
    """The lease's fencing number."""
    state: Literal[RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED]
    """How it ended."""
    error: Problem | None = None
    """Why it failed; needed when it did."""
    result: RunResult | None = None
    """What came of it; needed when it succeeded."""


EventKind = Literal["state", "step", "evaluation", "checkpoint", "resumed", "error", "note"]


class Event(Wire):
    """Something that happened to a run."""

    id: Count
    """Grows with time: what `Last-Event-ID` names."""
    run_id: str
    """The run."""
    at: datetime
    """When."""
    kind: EventKind
    """What sort of thing."""
    data: dict[str, Any]
    """What happened: for `step` a StepReport, for `evaluation` an Evaluation without hits, for `checkpoint` a
    CheckpointRef, for `state` the states it went `from` and `to` and the `reason`."""
