"""Whether a teacher writes replies as long as a recipe asks for.

How long what it reads turns out shows when it is asked; what is too long for any prompt shows here.
"""

from __future__ import annotations

from collections.abc import Iterator

from preceptor.errors import Invalid
from preceptor.wire.teachers import Card
from preceptor_trainer.part import Part
from preceptor_trainer.recipe import Recipe


def check_writes(field: str, name: str, card: Card, recipe: Recipe, role: str) -> None:
    """Raises Invalid where a reply that this role may be asked for is longer than any that the teacher writes."""
    wanted, where = max(_wanted(recipe, role), default=(0, ""))
    if wanted > card.limits.longest_reply:
        raise too_long(field, f"teacher {name}, role {role},", card, wanted, f"overrides.{where}")


def writes(card: Card, recipe: Recipe, role: str) -> bool:
    """Whether a teacher writes text, and as much as this role is asked for."""
    return card.generates and all(wanted <= card.limits.longest_reply for wanted, _ in _wanted(recipe, role))


def too_long(field: str, who: str, card: Card, wanted: int, where: str) -> Invalid:
    """The error for a teacher that is to write more than it does; `where`: the setting that says how much."""
    most = card.limits.longest_reply
    return Invalid(
        f"{field}: {who} writes replies of {most} tokens at most, and {where} is {wanted}.",
        field=field,
        remedy=f"Lower {where} to {most} or less, or name a teacher that writes more." if most else None,
    )


def _wanted(recipe: Recipe, role: str) -> Iterator[tuple[int, str]]:
    """The longest reply that each part of the recipe wants of a role, in tokens, and the setting that says so."""
    parts: dict[str, Part] = {
        **{f"contexts.{name}": each for name, each in recipe.contexts.items() if role in each.writers},
        **{f"contexts.{name}.router": each for name, each in recipe.routers.items() if role in each.writers},
        **{f"state.{name}": each for name, each in recipe.state.items() if role in each.writers},
    }
    for path, part in parts.items():
        if (tokens := getattr(part, "max_tokens", None)) is not None:  # a recipe's own part may not know beforehand
            yield int(tokens), f"{path}.max_tokens"
