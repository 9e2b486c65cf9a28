"""How teachers' opinions become the distribution the student is drawn to.

What composes several opinions works column by column on one support (`views.align`): over the whole vocabulary where
all of them are, else on the ids that all sparse ones name, with the rest as one event. Composing there is not the same
as composing whole distributions and looking at those ids afterwards; it is what can be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SerializeAsAny, model_validator

from preceptor.wire.teachers import Support
from preceptor_trainer.parts.coefficients import PerToken
from preceptor_trainer.recipe import Coefficient, Target, at, named
from preceptor_trainer.views import FLOOR, BlockView, Opinion, Scalars, TokenView, align

if TYPE_CHECKING:
    from torch import Tensor


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
        raise ValueError(f"'{twice}' is named twice, where each counts once")
    return names


Contexts = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_once)]
"""Names of contexts in the recipe, each once."""


class Single(Target, kind="single"):
    """One context's opinion, as it is."""

    context: str = Field(min_length=1)
    """The context's name in the recipe."""

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.context,)

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        return (block[self.context],)


class Each(Target, kind="each"):
    """Every opinion of the named contexts on its own: the objective is summed over them, each with its prompt's weight.

    This is a weighted sum of divergences, not a divergence from a mixture.
    """

    contexts: Contexts
    """The contexts' names in the recipe."""

    @property
    def uses(self) -> tuple[str, ...]:
        return self.contexts

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        return tuple(opinion for name in self.contexts for opinion in block.contexts[name])

    def outline(self, view: TokenView) -> Sequence[tuple[Tensor, Tensor]]:
        return tuple((each.present_T, each.weight_T) for name in self.contexts for each in view.contexts[name])


class LogLinear(Target, kind="log_linear"):
    """log q = log b + g(sum_i a_i log p_i) - log Z: one operation, many published targets.

    Geometric mixture (a = w, 1 - w), extrapolation beyond a teacher (ExOPD: a = lambda, 1 - lambda with lambda > 1),
    contrast of two views on a base (Purified OPSD, arXiv:2607.02234: base P0, a = 1/beta on the informed view, -1/beta
    on the uninformed one, centred, clipped), a trust region around the student's own view. Coefficients need not sum to
    one; each may move with the step, or differ from token to token. g is the identity, or centring and a soft clip.
    """

    coefficients: dict[str, Coefficient | SerializeAsAny[PerToken]] = Field(min_length=1)
    """a_i by context; `student` is the student's own view, detached."""
    base: str | None = None
    """Context whose log-probabilities are added untouched (`student`: its own); None: there is none."""
    centre: bool = False
    """Take the mean over the columns off the sum before it is clipped: its zero is arbitrary otherwise."""
    clip: float | None = Field(default=None, gt=0)
    """c of c * tanh(x / c) on the sum; None: no clip. Wise wherever a coefficient is negative: what both views find
    impossible may otherwise win."""

    @model_validator(mode="after")
    def _hears_somebody(self) -> Self:
        if not self.uses or (self.base is None and not any(self.coefficients.values())):
            raise ValueError("coefficients: neither the student alone nor zeros are a target; name a context, too")
        for name, a in self.coefficients.items():
            if isinstance(a, PerToken) and (lost := sorted(named(a) - set(self._names))):
                raise ValueError(
                    f"coefficients.{name}: '{a.kind}' reads '{lost[0]}', which is not composed; there is "
                    f"{', '.join(self._names)}"
                )
        return self

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(name for name in self._names if name != "student")

    @property
    def needs(self) -> Support:
        return Support.TOPK

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.coefficients, *([] if self.base is None else [self.base])]))

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        names = self._names
        each = dict(zip(names, align([block[name] for name in names]), strict=True))
        first = each[names[0]]
        pads_TK = None if first.ids_TK is None else _pads(first)
        a_T = {name: self._at(name, each, block) for name in self.coefficients}
        sum_TK = _total([a_T[name][:, None] * each[name].distribution() for name in a_T])
        sum_T = _total([a_T[name] * each[name].logprob_T for name in a_T])
        if self.centre:
            mean_T1 = _mean(sum_TK, pads_TK)
            sum_TK, sum_T = sum_TK - mean_T1, sum_T - mean_T1.squeeze(-1)
        if self.clip is not None:
            sum_TK, sum_T = (self.clip * (sums / self.clip).tanh() for sums in (sum_TK, sum_T))
        if self.base is not None:
            sum_TK, sum_T = sum_TK + each[self.base].distribution(), sum_T + each[self.base].logprob_T
        if pads_TK is not None:
            sum_TK = sum_TK.masked_fill(pads_TK, 2 * FLOOR)
        return (
            Opinion(
                # The written token may be in the tail: its own number, under the same normaliser.
                logprob_T=(sum_T - sum_TK.logsumexp(-1)).clamp(min=FLOOR, max=0.0),
                present_T=_product([one.present_T for one in each.values()]),
                weight_T=_product([one.weight_T for one in each.values()]),
                logprobs_TK=sum_TK.log_softmax(-1).clamp(min=FLOOR),
                ids_TK=first.ids_TK,
            ),
        )

    def _at(self, name: str, opinions: Mapping[str, Opinion], block: BlockView) -> Tensor:
        """Its coefficient on every token [T]."""
        a, one_T = self.coefficients[name], opinions[name].logprob_T.new_ones(len(opinions[name].logprob_T))
        return a(opinions, block.tokens) * one_T if isinstance(a, PerToken) else at(a, block.tokens.step) * one_T


class Mixture(Target, kind="mixture"):
    """q = sum_i w_i p_i over the opinions of the named contexts that are there, summing to one on every token. w_i is
    the prompt's weight, times the context's share, times how sure the opinion is where that counts."""

    contexts: Contexts
    """The contexts' names in the recipe; of a context with several prompts every opinion takes part."""
    shares: dict[str, Coefficient] = Field(default_factory=dict[str, Coefficient])
    """By context, what its prompts' weights are multiplied with; a context that is not named: 1."""
    tau: float | None = Field(default=None, gt=0)
    """Temperature of exp(-H / tau), H an opinion's entropy in nats; None: how sure they are does not count."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if lost := sorted(self.shares.keys() - set(self.contexts)):
            raise ValueError(f"shares.{lost[0]}: that is none of the contexts, {', '.join(self.contexts)}")
        if self.shares.keys() == set(self.contexts) and not any(self.shares.values()):
            raise ValueError("shares: all are 0, and nobody would be heard")
        if wrong := [name for name, share in self.shares.items() if isinstance(share, float) and share < 0]:
            raise ValueError(f"shares.{wrong[0]}: a share is not below 0; a contrast is said with 'log_linear'")
        return self

    @property
    def uses(self) -> tuple[str, ...]:
        return self.contexts

    @property
    def needs(self) -> Support:
        return Support.SAMPLED if self.tau is None else Support.TOPK

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        opinions = [each for name in self.contexts for each in block.contexts[name]]
        if all(each.logprobs_TK is not None for each in opinions):
            opinions = align(opinions)
        shares = self._weights(block.contexts, opinions, block.tokens.step)
        if self.tau is not None:
            shares = [share_T * sure_T for share_T, sure_T in zip(shares, _sure(opinions, self.tau), strict=True)]
        total_T = _total(shares)
        logs = [(share_T / (total_T + (total_T == 0))).log().clamp(min=2 * FLOOR) for share_T in shares]
        mixed = [each.logprob_T + log_T for each, log_T in zip(opinions, logs, strict=True)]
        mixed_TK = None
        if all(each.logprobs_TK is not None for each in opinions):
            parts = [each.distribution() + log_T[:, None] for each, log_T in zip(opinions, logs, strict=True)]
            mixed_TK = reduce(lambda a, b: a.logaddexp(b), parts).clamp(min=FLOOR)
        present_T = (total_T > 0).to(total_T.dtype)
        return (
            Opinion(
                logprob_T=reduce(lambda a, b: a.logaddexp(b), mixed).clamp(min=FLOOR),
                present_T=present_T,
                weight_T=present_T,
                logprobs_TK=mixed_TK,
                ids_TK=None if mixed_TK is None else opinions[0].ids_TK,
            ),
        )

    def outline(self, view: TokenView) -> Sequence[tuple[Tensor, Tensor]]:
        each = [one for name in self.contexts for one in view.contexts[name]]
        total_T = _total(self._weights(view.contexts, each, view.step))
        present_T = (total_T > 0).to(total_T.dtype)
        return ((present_T, present_T),)

    def _weights(self, of: Mapping[str, Sequence[Any]], each: Sequence[Opinion | Scalars], step: int) -> list[Tensor]:
        """[T] for each opinion, those of a context after another; 0 where it is absent."""
        shares = [at(self.shares.get(name, 1.0), step) for name in self.contexts for _ in of[name]]
        return [(a * one.present_T * one.weight_T).clamp(min=0) for a, one in zip(shares, each, strict=True)]


class Route(Target, kind="route"):
    """On every token one of several contexts' opinions, whole. The prompts' own weights do not enter: the rule decides.

    `order` is a router by domain (MOPD): contexts that have no opinion on a rollout are passed over.
    """

    contexts: Contexts
    """The contexts' names in the recipe, the preferred first."""
    by: Literal["order", "likeliest", "surest"] = "order"
    """Whose: the first one's that is there; that of whoever finds the written token likeliest; that of the lowest
    entropy. Equals: the first one's."""

    @property
    def uses(self) -> tuple[str, ...]:
        return self.contexts

    @property
    def needs(self) -> Support:
        return Support.TOPK if self.by == "surest" else Support.SAMPLED

    def __call__(self, block: BlockView) -> Sequence[Opinion]:
        opinions = [block[name] for name in self.contexts]
        if all(each.logprobs_TK is not None for each in opinions):
            opinions = align(opinions)
        chosen = opinions[0]
        for each in opinions[1:]:
            better_T = chosen.present_T == 0
            if self.by == "likeliest":
                better_T = better_T | (each.logprob_T > chosen.logprob_T)
            if self.by == "surest":
                better_T = better_T | (_entropy(each) < _entropy(chosen))
            chosen = _where(better_T & (each.present_T > 0), each, chosen)
        return (replace(chosen, weight_T=chosen.present_T),)

    def outline(self, view: TokenView) -> Sequence[tuple[Tensor, Tensor]]:
        present_T = reduce(lambda a, b: a.maximum(b), [view[name].present_T for name in self.contexts])
        return ((present_T, present_T),)


def _total(each: Sequence[Tensor]) -> Tensor:
    return reduce(lambda a, b: a + b, each)


def _product(each: Sequence[Tensor]) -> Tensor:
    return reduce(lambda a, b: a * b, each)


def _pads(opinion: Opinion) -> Tensor:
    """Which columns stand for nothing."""
    assert opinion.ids_TK is not None
    pads_TK = opinion.distribution() > 0  # none: the tail always stands for something
    pads_TK[:, :-1] = opinion.ids_TK < 0
    return pads_TK


def _mean(values_TK: Tensor, pads_TK: Tensor | None) -> Tensor:
    """[T, 1] over the columns that stand for something."""
    if pads_TK is None:
        return values_TK.mean(-1, keepdim=True)
    return values_TK.masked_fill(pads_TK, 0.0).sum(-1, keepdim=True) / (~pads_TK).sum(-1, keepdim=True)


def _sure(opinions: Sequence[Opinion], tau: float) -> list[Tensor]:
    """exp(-(H - lowest H) / tau), [T] each: the surest that is there has 1, so that nothing is lost in rounding."""
    each = [_entropy(one).masked_fill(one.present_T == 0, -FLOOR) for one in opinions]
    lowest_T = reduce(lambda a, b: a.minimum(b), each)
    return [((lowest_T - entropy_T) / tau).exp() for entropy_T in each]


def _entropy(opinion: Opinion) -> Tensor:
    logprobs_TK = opinion.distribution()
    return -(logprobs_TK.exp() * logprobs_TK).sum(-1)


def _where(chosen_T: Tensor, one: Opinion, other: Opinion) -> Opinion:
    """Token by token; both on one support."""
    logprobs_TK = None
    if one.logprobs_TK is not None and other.logprobs_TK is not None:
        logprobs_TK = one.logprobs_TK.where(chosen_T[:, None], other.logprobs_TK)
    return replace(
        other,
        logprob_T=one.logprob_T.where(chosen_T, other.logprob_T),
        present_T=one.present_T.where(chosen_T, other.present_T),
        logprobs_TK=logprobs_TK,
    )
