"""What a part looks at is what it says that it reads: submit refuses a run that lacks it, and believes the part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, cast

import pytest
from pydantic import ValidationError

from preceptor_trainer import recipes
from preceptor_trainer.loss import first_pass
from preceptor_trainer.recipe import GROUP, REWARD, Context, Recipe, Term, Weight
from preceptor_trainer.views import ContextView, Message, Rollout, Scalars, Task, TokenView, Verdict
from tests.unit.trainer.setting import batch_of
from tests.unit.trainer.toy import toy_rows, toy_student

KNOWN = frozenset({"student", "behaviour"})


class Watched:
    """A view that notes what is looked at: attributes by `names`, contexts by their own name."""

    def __init__(self, view: TokenView) -> None:
        self._view, self.seen = view, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.seen |= {"group_B": {GROUP}, "reward_B": {REWARD}}.get(name, set[str]())
        return getattr(self._view, name)

    def __getitem__(self, name: str) -> Scalars:
        self.seen.add(name)
        return self._view[name]


class Group(Sequence[Rollout]):
    """Rollouts of a task that note whether anybody looks beyond the first, which is the one to be scored."""

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        self._rollouts, self.looked = rollouts, False

    def __getitem__(self, place: Any) -> Any:
        self.looked = True
        return self._rollouts[place]

    def __iter__(self) -> Iterator[Rollout]:
        self.looked = True
        return iter(self._rollouts)

    def __len__(self) -> int:
        self.looked = True
        return len(self._rollouts)


def weights() -> list[Any]:
    return [
        pytest.param(recipe, term, part, id=f"{name}-{index}-{part.kind}")
        for name in recipes.names()
        for recipe in [recipes.load(name)]
        for index, term in enumerate(recipe.objective)
        for part in (*recipe.weights, *term.weights)
    ]


@pytest.mark.parametrize(("recipe", "term", "part"), weights())
def test_a_weight_looks_at_what_it_says(recipe: Recipe, term: Term, part: Weight) -> None:
    batch = batch_of(recipe, toy_rows((4, 2, 6, 3), group=2))
    hidden_TD, head = toy_student(batch.tokens)
    student, opinions = first_pass(recipe, batch, head, hidden_TD)
    watched = Watched(batch.view(student))
    for opinion in opinions[recipe.objective.index(term)]:
        part(cast("TokenView", watched), opinion)
    assert watched.seen - KNOWN == part.reading - KNOWN, f"{part.kind}: `reads` must name what it looks at"


def contexts() -> list[Any]:
    return [
        pytest.param(context, id=f"{name}-{key}")
        for name in recipes.names()
        for key, context in recipes.load(name).contexts.items()
    ]


@pytest.mark.parametrize("context", contexts())
def test_a_context_looks_at_what_it_says(context: Context) -> None:
    """Only that nothing is looked at in secret: what is read may depend on what was written."""
    columns = {name: f"the {name}" for name in context.columns}
    task = Task(id="t", messages=(Message(role="user", content="1+1?"),), answer="2", reference="two", columns=columns)
    own = Rollout(index=0, text="3", verdict=Verdict(reward=0.0, correct=False))
    group = Group([own, replace(own, index=1, text="2", verdict=Verdict(reward=1.0, correct=True))])
    view = ContextView(task=task, rollout=own, group=group, step=1, rng=Random(0))
    if not context.asks(view):
        context.prompts(view)
    assert not group.looked or GROUP in context.reads, f"{context.kind}: `reads` must name the group"


def test_a_weight_of_a_context_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="weight 'anchored_ratio': 'hint' is not a context of this recipe"):
        recipes.load("rlsd").override({"weights.0.over": "hint"})
    with pytest.raises(ValidationError, match="weight 'reward_to_go': 'critic' is not a context"):
        recipes.load("minillm").override({"objective.0.weights.0.context": "critic"})
    edge = recipes.load("edge_opd").model_dump()
    with pytest.raises(ValidationError, match="weight 'evidence': 'plain' is not a context of this recipe; it has ref"):
        Recipe.model_validate(
            {**edge, "contexts": {"reference": edge["contexts"]["reference"]}, "objective": edge["objective"][:1]}
        )


def test_who_reads_rewards_and_groups() -> None:
    assert recipes.load("grpo").readers(GROUP) == ("weight 'group_advantage'",)
    assert recipes.load("rlsd").readers(REWARD) == ("weight 'anchored_ratio'",)
    assert recipes.load("demopsd").readers(GROUP)[0].startswith("context '")
    assert recipes.load("opsd").readers(GROUP) == recipes.load("opsd").readers(REWARD) == ()
