"""Published methods, one short file each. A recipe's name is its module's name; there is no registry to edit."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

from preceptor_trainer import parts
from preceptor_trainer.recipe import Recipe


class UnknownRecipe(LookupError):
    """No recipe has this name."""


def names() -> tuple[str, ...]:
    """Every recipe's name, sorted."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def load(name: str) -> Recipe:
    """The recipe of this name. Raises UnknownRecipe with the nearest names."""
    if name not in names():
        near = get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
        raise UnknownRecipe(f"no recipe is called '{name}'; {hint}")
    for module in iter_modules(parts.__path__):  # an override may name a part that the recipe's own file does not use
        import_module(f"{parts.__name__}.{module.name}")
    recipe: object = import_module(f"{__name__}.{name}").RECIPE
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipes/{name}.py: RECIPE is {type(recipe).__name__}, not a Recipe")
    return recipe


def summary(name: str) -> str:
    """The first paragraph of the recipe's docstring."""
    load(name)
    return (import_module(f"{__name__}.{name}").__doc__ or "").strip().split("\n\n")[0]
