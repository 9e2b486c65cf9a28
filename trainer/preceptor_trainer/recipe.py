"""A recipe is a frozen composition of parts. This file, with `views.py`, is all that a method author has to read.

    rollout       who writes the tokens, from which prompt
    contexts      what each teacher is shown, by name
    verifier      was it right, what feedback
    weights       which tokens learn, how much (detached; may be signed)
    target        how opinions become one distribution
    objective     terms: how far the student is from the target
    teacher       how a self-teacher moves
    curriculum    which task comes next
    constraint    which weights may move
    intervention  what is changed inside a forward pass
    state         what lives across steps outside the weights

A part is a frozen pydantic model: its settings are its fields, its behaviour is one method, its `kind` is its name on
the wire. Parts call tensor methods (`x.exp()`), never `torch.`, so that a recipe is validated where torch is not
installed. A recipe's name is its module's name. Shape letters: T tokens, K support, B rollouts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from preceptor.wire.runs import OnFailure
from preceptor.wire.teachers import SAMPLER, Support
from preceptor_trainer.overrides import Reduces, merged
from preceptor_trainer.part import Part as Part
from preceptor_trainer.router import Router as Router
from preceptor_trainer.support import Sparse, largest
from preceptor_trainer.views import (
    Ask,
    BlockView,
    ContextView,
    Message,
    Opinion,
    Plan,
    PlanView,
    Prompt,
    Rollout,
    Scalars,
    Task,
    TokenView,
    Verdict,
)

if TYPE_CHECKING:
    from torch import Tensor

GROUP, REWARD, OTHERS = "group", "reward", "others"
"""What a part may read that is no context: other rollouts of the task, the verifier's word, the step's other tasks."""
READABLE = frozenset({"student", "behaviour", GROUP, REWARD})
RESERVED = READABLE | {"base"}
NAMES_A_CONTEXT = "names a context"
ContextName = Annotated[str, Field(min_length=1), NAMES_A_CONTEXT]
"""A part's setting that names a context of the recipe."""


def named(part: Part) -> frozenset[str]:
    """The contexts that a part's settings name."""
    fields = type(part).model_fields.items()
    values = [getattr(part, name) for name, field in fields if NAMES_A_CONTEXT in field.metadata]
    return frozenset(name for value in values for name in ((value,) if isinstance(value, str) else value))


class Schedule(Part):
    """A coefficient that moves with the step."""

    @abstractmethod
    def at(self, step: int) -> float: ...


Coefficient = float | SerializeAsAny[Schedule]


def at(coefficient: Coefficient, step: int) -> float:
    """The value of a coefficient at a step."""
    return coefficient.at(step) if isinstance(coefficient, Schedule) else coefficient


class RolloutPolicy(Part):
    """Who writes the completions that are learned from."""

    samples: int = Field(default=1, ge=1, le=1024)
    """Rollouts per task."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Sampling temperature of the student. Scores stay untempered."""
    max_tokens: int = Field(default=128, ge=1, le=1_000_000)
    """Longest completion, the end token included."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Task fields without which no rollout can be written; the data is checked for them at submit."""
        return ()

    @abstractmethod
    def plan(self, view: PlanView) -> Plan:
        """How one rollout of one task is written."""


class Context(Part):
    """Which teacher sees what. Returns privileged prompts; the student's own tokens are scored after each."""

    teacher: str = "self"
    """The role to ask. A run maps roles to registered teachers; `self` is the student's own weights under
    `Recipe.teacher`."""
    router: SerializeAsAny[Router] | None = None
    """Which of several roles is asked about which rollout, in place of `teacher`; None: there is one teacher."""
    on_failure: OnFailure = "wait"
    """When the teacher gives no answer within a call's deadline: `wait` for it, ask the run's `fallback` for this role,
    or `drop` the opinion (counted in the ledger). Nothing is ever taken for 0."""
    reveals: ClassVar[frozenset[str]] = frozenset()
    """Which privileged task fields enter the prompt (`answer`, `reference`): the leak check holds a context to it."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Task fields without which this context has nothing to show; the data is checked for them at submit."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """What besides task and rollout it looks at: `group`, the task's other rollouts; `reward`, the verifier's word;
    `others`, the step's other tasks."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """The roles that its prompts ask for scores."""
        return (self.teacher,) if self.router is None else self.router.experts

    @property
    def writers(self) -> tuple[str, ...]:
        """The roles that `asks` wants text of."""
        return ()

    @model_validator(mode="after")
    def _routes(self) -> Self:
        if self.router is not None and type(self).scorers is not Context.scorers:
            raise ValueError(f"router: '{self.kind}' has several teachers already, and asks all of them")
        return self

    def asks(self, view: ContextView) -> Sequence[Ask]:
        """Text wanted before the prompts can be written. Called again with the replies until it returns nothing."""
        return ()

    def read(self, view: ContextView, key: str, reply: str) -> str:
        """What is kept of a reply. Raises ValueError where it has not the form that was asked for: that is counted, and
        the context has no opinion on this rollout."""
        if not reply.strip():
            raise ValueError("the reply is empty")
        return reply.strip()

    def missed(self, view: ContextView, key: str, why: str) -> str | None:
        """What is kept in place of a text that is `unavailable`, `cut_off` or `unreadable`; None: no opinion then."""
        return None

    @abstractmethod
    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        """None: this teacher has no opinion on this rollout. Several: one opinion each."""


class SingleContext(Context):
    """A context with at most one prompt."""

    @abstractmethod
    def messages(self, view: ContextView) -> Sequence[Message] | None:
        """The chat messages the teacher reads before the rollout, or None."""

    def prompts(self, view: ContextView) -> Sequence[Prompt]:
        messages = self.messages(view)
        return () if messages is None else (Prompt(messages=tuple(messages)),)


class Verifier(Part):
    """Was the attempt right, and what can be said about it."""

    columns: ClassVar[tuple[str, ...]] = ()
    """Task fields without which it cannot judge; the data is checked for them."""

    @abstractmethod
    def __call__(self, task: Task, text: str) -> Verdict: ...


class Weight(Part):
    """How much each token learns from one opinion. Detached; weights multiply; negative pushes away."""

    needs: ClassVar[Support] = Support.SAMPLED
    """The least support of the opinions it weighs: `full` where it reads their entropy."""
    gate: ClassVar[bool] = False
    """True: a 0/1 mask. A token it closes leaves the denominator too; any other weight scales the numerator only."""
    corrects: ClassVar[bool] = False
    """True: it is the ratio of the student to whoever wrote the token, which is then not multiplied with once more."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """What besides the opinion that is weighed it looks at: names of contexts; `group`, the task's other rollouts;
    `reward`, the verifier's word. A recipe or run that lacks it is refused."""

    @property
    def reading(self) -> frozenset[str]:
        """`reads`, the contexts that its settings name (a field of type ContextName), and what the weights that it is
        made of read."""
        inner = (value for name in type(self).model_fields if isinstance(value := getattr(self, name), Weight))
        return self.reads.union(named(self), *(each.reading for each in inner))

    @abstractmethod
    def __call__(self, view: TokenView, opinion: Scalars) -> Tensor:
        """[T], computed over the whole global batch. `opinion` is the target opinion that is being weighed."""

    def stale(self, view: TokenView, opinion: Scalars) -> bool:
        """Whether what is already written ahead of the learner (`training.max_lag`) is too far from the student by now:
        it is thrown away then, and written anew by the weights as they are after this step."""
        return False


class Target(Part):
    """How opinions become the distribution the student is drawn to."""

    @property
    @abstractmethod
    def uses(self) -> tuple[str, ...]:
        """Names of the contexts it reads."""

    @property
    def needs(self) -> Support:
        """The least support of the opinions it composes; what a term needs may be more."""
        return Support.SAMPLED

    @abstractmethod
    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        """Normalised opinions; a term is summed over them, each with its own `weight_T`. Never carries gradient."""

    def outline(self, view: TokenView) -> Sequence[tuple[Tensor, Tensor]]:
        """Presence and weight [T] of each opinion `__call__` gives, in its order, before any distribution is at hand.

        The default suits a target that composes the sole opinions of its contexts into one: there where all of them
        are. A target that gives several overrides it.
        """
        present_T, weight_T = view[self.uses[0]].present_T, view[self.uses[0]].weight_T
        for name in self.uses[1:]:
            present_T = present_T * view[name].present_T
            weight_T = weight_T * view[name].weight_T
        return ((present_T, weight_T),)


class Term(Part):
    """One term of the objective."""

    needs: ClassVar[Support] = Support.FULL
    """The least support it can be computed from: `sampled`; `topk` (or `ids`: any that names some tokens and holds the
    others together as a tail); `full`."""
    coefficient: Coefficient = 1.0
    """What the term is multiplied with."""
    target: SerializeAsAny[Target] | None = None
    """The distribution this term looks at; None: the recipe's."""
    weights: tuple[SerializeAsAny[Weight], ...] = ()
    """Weights of this term alone, on top of the recipe's."""
    targeted: ClassVar[bool] = True
    """False: the term looks at no teacher (NLL, plain policy gradient)."""

    @property
    def corrects(self) -> bool:
        """Whether it multiplies with the ratio of the student to whoever wrote the token."""
        return False

    @abstractmethod
    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        """Loss per token [T], with gradient to `block.student`. An untargeted term is given the student's own opinion.

        A term that needs `sampled` reads `logprob_T` and no distribution; one that needs more reads the student and the
        target through `block.pair(target)`, or the student's whole `logprobs_TK`.

        `target.weight_T` is what the token's loss will be multiplied with, sign included: a clipped surrogate bounds
        the ratio from above where it is positive, from below where it is negative.
        """

    def observe(self, block: BlockView, target: Opinion) -> Mapping[str, Tensor]:
        """Numbers [T] that tell how the term does its work (which tokens a clip touched), by name. No gradient."""
        return {}


class Divergence(Term):
    """A term that compares two distributions event by event, on whatever support both are."""

    needs: ClassVar[Support] = Support.TOPK

    @abstractmethod
    def compare(self, student_TK: Tensor, target_TK: Tensor) -> Tensor:
        """Divergence per token [T] of two sets of log-probabilities [T, K], each summing to one."""

    def gradient(self, student_TK: Tensor, target_TK: Tensor) -> tuple[Tensor, Tensor] | None:
        """The same [T], and its hand-derived gradient [T, K] with respect to the student's logits. None: there is none
        at these settings, and autograd is asked."""
        return None

    def __call__(self, block: BlockView, target: Opinion) -> Tensor:
        return self.compare(*block.pair(target))


class TeacherUpdate(Part):
    """How the self-teacher follows the student. After a step with a decay d its weights become
    `d * teacher + (1 - d) * (a * start + (1 - a) * student)`, where a is the anchor."""

    @abstractmethod
    def decay_after(self, step: int) -> float | None:
        """EMA decay to apply after this step; None leaves the teacher alone, 0.0 copies the student."""

    @property
    def anchor(self) -> float:
        """Share, in what the teacher moves to, of the weights that the run began with."""
        return 0.0


class Frozen(TeacherUpdate, kind="frozen"):
    """The teacher stays what it was when the run began."""

    def decay_after(self, step: int) -> float | None:
        return None


class Curriculum(Part):
    """Which task comes next."""

    @abstractmethod
    def weight(self, solve_rate: float | None) -> float:
        """Relative chance of drawing a task, given its running solve rate (None: never tried)."""


class Uniform(Curriculum, kind="uniform"):
    """Every task alike."""

    def weight(self, solve_rate: float | None) -> float:
        return 1.0


class Constraint(Part):
    """Which weights may move. Applied to the update, not to the gradient."""

    @abstractmethod
    def trains(self, parameter: str) -> bool:
        """Whether the parameter of this name may move."""

    def mask(self, parameter: str, weight: Tensor) -> Tensor | None:
        """Which of its elements may move (True), of the weight's shape; None: all. Asked once, of the weights that the
        run begins with."""
        return None


class AllWeights(Constraint, kind="all"):
    """Full fine-tuning."""

    def trains(self, parameter: str) -> bool:
        return True


class Intervention(Part):
    """What is changed inside a forward pass, of the sampler's or of a teacher's."""

    on: Literal["sampler", "teacher"] = "teacher"
    """Whose forward pass."""

    @abstractmethod
    def hooks(self) -> Mapping[str, Any]:
        """Settings by module name, for whoever runs the forward pass."""


class State(Part):
    """What lives across steps outside the weights (a skill bank, a replay buffer). Its content lives in the run."""

    @property
    def writers(self) -> tuple[str, ...]:
        """The roles that `asks` wants text of."""
        return ()

    def asks(self, step: int, rollouts: Sequence[tuple[Task, Rollout]]) -> Sequence[Ask]:
        """Text wanted before the content can be updated after this step; nothing: it stays as it is."""
        return ()

    @abstractmethod
    def update(self, content: object, rollouts: Sequence[tuple[Task, Rollout]], replies: Mapping[str, str]) -> object:
        """The content after a step, given the replies to `asks`, by key. A pure function, so that a resumed run
        continues the same numbers. Raises ValueError where a reply has not the form that was asked for."""


class Recipe(BaseModel):
    """A distillation method. Defaults are identities, so a recipe names only what it changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    paper: str
    """Where the method comes from."""
    rollout: SerializeAsAny[RolloutPolicy]
    contexts: dict[str, SerializeAsAny[Context]] = {}
    verifier: SerializeAsAny[Verifier] | None = None
    """None: the verifier that the run's data names."""
    weights: tuple[SerializeAsAny[Weight], ...] = ()
    target: SerializeAsAny[Target] | None = None
    objective: tuple[SerializeAsAny[Term], ...]
    teacher: SerializeAsAny[TeacherUpdate] = Frozen()
    curriculum: SerializeAsAny[Curriculum] = Uniform()
    constraint: SerializeAsAny[Constraint] = AllWeights()
    interventions: tuple[SerializeAsAny[Intervention], ...] = ()
    state: dict[str, SerializeAsAny[State]] = {}
    reduction: Literal["token", "sequence"] = "token"
    """`token`: every token of the global batch counts alike. `sequence`: every rollout does."""
    sparse: Sparse = Sparse()
    """How ids are chosen where distributions are compared on some tokens only."""
    training: dict[str, Any] = {}
    """The method's vetted training settings (learning rate, steps ...); a run's own settings win."""
    reduces: tuple[Reduces, ...] = ()

    @model_validator(mode="after")
    def _composes(self) -> Self:
        if not self.objective:
            raise ValueError("objective: a recipe needs at least one term")
        if all(term.coefficient == 0 for term in self.objective):
            raise ValueError("objective: every term's coefficient is 0, and nothing would be learned")
        if taken := sorted(RESERVED & self.contexts.keys()):
            raise ValueError(f"contexts: {', '.join(taken)} is a reserved name; call the context something else")
        for index, term in enumerate(self.objective):
            target = term.target or self.target
            if not term.targeted:
                continue
            if target is None:
                raise ValueError(f"objective[{index}]: {term.kind} needs a target; set Recipe.target or the term's own")
            for name in target.uses:
                if name not in self.contexts:
                    known = ", ".join(sorted(self.contexts)) or "none"
                    raise ValueError(f"target: '{name}' is not a context of this recipe; it has {known}")
        for part in self.weighing:
            if unknown := sorted(part.reading - self.contexts.keys() - READABLE):
                known = ", ".join(sorted(self.contexts)) or "none"
                raise ValueError(
                    f"weight '{part.kind}': '{unknown[0]}' is not a context of this recipe; it has {known}"
                )
        if SAMPLER in self.roles:
            raise ValueError(f"contexts: '{SAMPLER}' is the role of who writes the rollouts; call this one otherwise")
        if self.teacher.kind != "frozen" and "self" not in self.scorers:
            raise ValueError(
                f"teacher: '{self.teacher.kind}' moves the student's own weights, but no context asks teacher 'self'. "
                "Use Frozen(), or set teacher='self' on a context."
            )
        return self

    @property
    def roles(self) -> frozenset[str]:
        """The teacher roles that a run must fill."""
        return self.scorers | self.writers

    @property
    def scorers(self) -> frozenset[str]:
        """The roles that are asked for scores."""
        return frozenset(role for context in self.contexts.values() for role in context.scorers)

    @property
    def writers(self) -> frozenset[str]:
        """The roles that are asked for text: a teacher without any support can fill one that does not score."""
        parts = (*self.contexts.values(), *self.state.values(), *self.routers.values())
        return frozenset(role for part in parts for role in part.writers)

    @property
    def routers(self) -> dict[str, Router]:
        """By the name of the context."""
        return {name: each.router for name, each in self.contexts.items() if each.router is not None}

    @property
    def weighing(self) -> tuple[Weight, ...]:
        """All weights, the terms' own among them."""
        return (*self.weights, *(weight for term in self.objective for weight in term.weights))

    def readers(self, what: str) -> tuple[str, ...]:
        """Which parts read `group` or `reward`: "weight 'frontier'", "context 'peer'"."""
        weights = [f"weight '{part.kind}'" for part in self.weighing if what in part.reading]
        contexts = [f"context '{name}'" for name, context in self.contexts.items() if what in context.reads]
        return tuple(dict.fromkeys(weights + contexts))

    @property
    def support(self) -> Support:
        """The least support that scores must have for every term to be computable."""
        return largest([self.needs(name) for name in self.contexts])

    def needs(self, context: str) -> Support:
        """The least support that the opinions of this context must have. Of a context that no target uses, weights
        read the sampled tokens only."""
        wants = [Support.SAMPLED]
        for term in self.objective:
            target = term.target or self.target
            if term.targeted and target is not None and context in target.uses:
                wants += [target.needs, term.needs, *(weight.needs for weight in (*self.weights, *term.weights))]
        return largest(wants)

    def needs_of(self, role: str) -> Support:
        """The same of whoever fills a role: the largest of its contexts'. Of a role that only prompts name, all's."""
        mine = [self.needs(name) for name, context in self.contexts.items() if role in context.scorers]
        return largest(mine) if mine else self.support

    def override(self, changes: Mapping[str, Any]) -> Self:
        """A validated copy: `recipe.override({"objective.0.beta": 0.3, "rollout": {"samples": 8}})`.

        What a change may look like is said by `preceptor_trainer.overrides.merged`. Raises BadOverride for a path that
        leads nowhere and pydantic's ValidationError, naming the field.
        """
        return type(self).model_validate(merged(self.model_dump(), changes))
