"""The settings of the optimizer and of the loop around it. One that could have no effect is refused, by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from preceptor.wire.common import Wire

Decay = Annotated[float, Field(ge=0, lt=1)]

Action = Literal["warn", "pause", "rollback"]
"""What a guard does. `warn`: says so and goes on. `pause`: the run stops after this step, with a checkpoint, until
somebody resumes it. `rollback`: the weights become those of the last checkpoint again, and the run goes on from them
with the next step's tasks."""

Tracker = Literal["tensorboard", "wandb", "mlflow"]
"""A program that draws curves."""


class LoRA(Wire):
    """Low-rank adapters: the student's own weights stay as they are."""

    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of every adapter."""
    alpha: float = Field(default=32.0, gt=0, le=1e6, allow_inf_nan=False)
    """An adapter's output is multiplied with `alpha / rank`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped while the gradient is taken. Above 0 the result depends on how a
    batch is cut into microbatches."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the linear layers that get one, as they end (`q_proj`); `all-linear`: all but the output projection."""

    @field_validator("targets")
    @classmethod
    def _can_have_one(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not targets:
            raise ValueError("there is no target: name layers, or leave it at 'all-linear'")
        fixed = {"lm_head", "embed_tokens", "wte", "embed_out"}
        if not isinstance(targets, str) and (taken := sorted(fixed.intersection(targets))):
            raise ValueError(f"{taken[0]} takes no adapter here: embeddings and the output projection stay as they are")
        return targets


class EarlyStop(Wire):
    """Ends a run that no longer gets better."""

    patience: int = Field(default=3, ge=1, le=1000)
    """Evaluations in a row that may pass without a better one."""
    min_gain: float = Field(default=0.0, ge=0, lt=1)
    """Held-out accuracy by which an evaluation has to be better than the best before it."""


class Guard(Wire):
    """A number of every step that must stay on one side of a threshold."""

    action: Action = "warn"
    """What happens when it does not."""
    patience: int = Field(default=1, ge=1, le=1000)
    """Steps in a row that it takes."""


class RepetitionGuard(Guard):
    """Trips above: share of the step's 4-grams that were in the same completion before (RepRate)."""

    threshold: float = Field(default=0.3, gt=0, lt=1)
    """Largest share."""


class LengthGuard(Guard):
    """Trips above: the step's mean completion length, over that of the run's first step."""

    threshold: float = Field(default=3.0, gt=1, le=1e6)
    """Largest ratio."""


class EntropyGuard(Guard):
    """Trips below: the student's mean entropy per token."""

    threshold: float = Field(default=0.05, gt=0, le=20)
    """Smallest entropy, in nats."""


class TailGuard(Guard):
    """Trips above: the probability that a teacher's sparse support leaves out, as a mean over tokens."""

    threshold: float = Field(default=0.2, gt=0, lt=1)
    """Largest probability."""


class ClipGuard(Guard):
    """Trips above: share of tokens on which a per-event clip of a KL has touched something (`clipped_tokens`)."""

    threshold: float = Field(default=0.25, gt=0, lt=1)
    """Largest share."""


class Guards(Wire):
    """What is watched at every step. None: it is not."""

    repetition: RepetitionGuard | None = None
    """The student repeats itself."""
    length: LengthGuard | None = None
    """Its completions grow."""
    entropy: EntropyGuard | None = None
    """It has made up its mind about everything."""
    tail: TailGuard | None = None
    """What is compared misses too much of a teacher's distribution."""
    clip: ClipGuard | None = ClipGuard()
    """A clip of single events does more than shave peaks: on the tokens that it touches a KL may point away from the
    teacher. Watched from the beginning where a recipe has such a clip."""
    nonfinite: Action | None = None
    """A loss or gradient is NaN or infinite. The update is left out, whatever the action; None: the run fails."""
    max_rollbacks: int = Field(default=3, ge=1, le=1000)
    """Rollbacks after which the run fails instead."""

    @field_validator("max_rollbacks")
    @classmethod
    def _something_rolls_back(cls, most: int, info: ValidationInfo) -> int:
        if most != cls.model_fields["max_rollbacks"].default and "rollback" not in _actions(info.data.values()):
            raise ValueError("no guard rolls back; set an action to rollback, or leave it out")
        return most

    @property
    def rolls_back(self) -> bool:
        """Whether one of them may take the run back."""
        return "rollback" in _actions(getattr(self, name) for name in type(self).model_fields)


def _actions(settings: Iterable[object]) -> list[object]:
    return [each.action if isinstance(each, Guard) else each for each in settings]


class Mismatch(Wire):
    """What is made of tokens that whoever wrote them found more or less likely than the learner does."""

    correction: Literal["truncate", "band", "off"] = "truncate"
    """By the ratio of the learner's probability of the token to the writer's. `truncate`: the token counts `min(ratio,
    high)` times (truncated importance sampling). `band`: `ratio` times between `low` and `high`, and not at all beyond.
    `off`: it is measured, and nothing is corrected."""
    low: float = Field(default=0.5, gt=0, le=1)
    """Smallest ratio that counts; of the band alone."""
    high: float = Field(default=2.0, ge=1, le=1e6)
    """Largest ratio that counts, or largest weight."""

    @field_validator("low")
    @classmethod
    def _is_read(cls, low: float, info: ValidationInfo) -> float:
        if info.data.get("correction") != "band" and low != cls.model_fields["low"].default:
            raise ValueError('nothing is cut off below; set correction to "band", or leave it out')
        return low


class Training(Wire):
    """The settings of the optimizer and of the loop around it. Defaults < the recipe's own < the user's."""

    steps: int = Field(default=40, ge=1, le=1_000_000)
    """Optimizer steps."""
    batch: int = Field(default=64, ge=1, le=65_536)
    """Tasks a step; each is answered `recipe.rollout.samples` times."""
    learning_rate: float = Field(default=5e-4, gt=0, le=1.0, allow_inf_nan=False)
    """Peak learning rate of AdamW."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW's decay rates, each in [0, 1)."""
    weight_decay: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    """AdamW's decoupled weight decay."""
    warmup_steps: int = Field(default=10, ge=0, le=1_000_000)
    """Steps over which the learning rate rises linearly to its peak."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on from its peak."""
    final_learning_rate: float | None = Field(default=None, ge=0, le=1.0, allow_inf_nan=False)
    """What a `linear` or `cosine` schedule takes the learning rate to, one step after the last; None: 0."""
    clip_norm: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)
    """Largest norm of the gradient; a longer one is scaled down to it."""
    lora: LoRA | None = None
    """Train low-rank adapters; None: the weights themselves."""
    precision: Literal["f32", "bf16"] = "f32"
    """What the student's layers compute in (bf16: autocast). Weights, the output projection, the loss and the optimizer
    stay float32."""
    gradient_checkpointing: bool = False
    """Compute each layer a second time in the backward pass instead of keeping what it computed."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of everything random in the run."""
    microbatch_tokens: int = Field(default=8192, ge=1, le=2**31 - 1)
    """Most tokens that go through the model at once. Changes memory and speed, never the result."""
    max_lag: int = Field(default=0, ge=0, le=64)
    """Weights versions by which rollouts may be older than the weights that learn from them. 0: strictly on-policy, and
    the same numbers every time; 1 or more: the student writes ahead, from a copy of its weights, while it learns."""
    mismatch: Mismatch | None = None
    """How the gap between who writes the rollouts and who learns from them is corrected; None: truncated at 2 where a
    sampler writes them, and not at all where the worker does."""
    checkpoint_every: int = Field(default=10, ge=1, le=1_000_000)
    """Steps between checkpoints."""
    evaluate_every: int = Field(default=10, ge=1, le=1_000_000)
    """Steps between evaluations. There is always one before the first step and one after the last."""
    evaluate_items: int = Field(default=200, ge=2, le=1_000_000)
    """Held-out tasks an evaluation asks."""
    evaluate_samples: int = Field(default=0, ge=0, le=1024)
    """Answers that are sampled for each of them besides the greedy one, for avg@k; 0: none."""
    evaluate_temperature: float | None = Field(default=None, gt=0, le=10)
    """Temperature of those; None: 1."""
    keep: Literal["last", "best"] = "last"
    """Which student the run's result is: the last, or the one that was best on the held-out tasks (avg@k where it is
    measured, greedy accuracy elsewhere; the first of equals)."""
    early_stop: EarlyStop | None = None
    """End the run before its last step when it no longer gets better; None: never."""
    guards: Guards = Guards()
    """What is watched, and what happens when it goes wrong."""
    leak_check: Literal["fail", "drop", "off"] = "fail"
    """What happens where privileged text is in the student's loss prompt, or a gold answer in a context that does not
    say that it reveals it. `fail`: the run does. `drop`: such a context has no opinion on the rollout, which is counted
    (`leaks`); a loss prompt still fails. `off`: nobody looks."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics go besides the control plane; the worker must have the package."""
    samples_kept: int = Field(default=2, ge=0, le=64)
    """Rollouts recorded with their per-token scores, a step."""
    leak_check: Literal["fail", "drop", "off"] = "fail"
    """What happens where privileged text is in the student's loss prompt, or a gold answer in a context that does not
    say that it reveals it. `fail`: the run does. `drop`: such a context has no opinion on the rollout, which is counted
    (`leaks`); a loss prompt still fails. `off`: nobody looks."""
    threads: int = Field(default=1, ge=1, le=1024)
    """CPU threads of the trainer, by device."""
    devices: int = Field(default=1, ge=1, le=4096)
    """Devices that train together, a process (rank) on each: CUDA devices where the worker has such, else processors.
    More than a worker has are reached with torchrun on several machines; docs/scale-out.md."""

    @field_validator("schedule")
    @classmethod
    def _has_room(cls, schedule: str, info: ValidationInfo) -> str:
        steps, warmup = info.data.get("steps"), info.data.get("warmup_steps")
        if schedule != "constant" and steps is not None and warmup is not None and warmup >= steps:
            raise ValueError(f"a {schedule} schedule has no step left after {warmup} warmup_steps of {steps} steps")
        return schedule

    @field_validator("final_learning_rate")
    @classmethod
    def _is_reached(cls, final: float | None, info: ValidationInfo) -> float | None:
        schedule, peak = info.data.get("schedule"), info.data.get("learning_rate")
        if final is not None and schedule == "constant":
            raise ValueError("a constant schedule stays at its peak; set schedule to linear or cosine, or leave it out")
        if final is not None and peak is not None and final > peak:
            raise ValueError(f"it is above the peak, learning_rate {peak:g}")
        return final

    @field_validator("evaluate_temperature")
    @classmethod
    def _something_is_sampled(cls, temperature: float | None, info: ValidationInfo) -> float | None:
        if temperature is not None and info.data.get("evaluate_samples") == 0:
            raise ValueError("nothing is sampled in an evaluation; set evaluate_samples, or leave it out")
        return temperature

    @field_validator("early_stop")
    @classmethod
    def _can_happen(cls, stop: EarlyStop | None, info: ValidationInfo) -> EarlyStop | None:
        steps, every = info.data.get("steps"), info.data.get("evaluate_every")
        if stop is not None and steps is not None and every is not None and stop.patience * every >= steps:
            raise ValueError(
                f"{stop.patience} evaluations, {every} steps apart, never pass before the last of {steps} steps"
            )
        return stop

    @field_validator("devices")
    @classmethod
    def _each_has_a_task(cls, devices: int, info: ValidationInfo) -> int:
        batch = info.data.get("batch")
        if batch is not None and devices > batch:
            raise ValueError(f"a step has {batch} tasks (batch), and every device needs one")
        return devices

    @field_validator("trackers")
    @classmethod
    def _once(cls, trackers: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        if twice := sorted({each for each in trackers if trackers.count(each) > 1}):
            raise ValueError(f"{twice[0]} is named twice")
        return trackers
