"""Published methods, one short file each. A recipe's name is its module's name; there is no registry to edit.

Others are found beside them: in packages that are installed (the entry points `preceptor.recipes`, each a name and a
module) and in the operator's own folder (`look_in`). Code comes from there and never over the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from preceptor_trainer import parts
from preceptor_trainer.recipe import Recipe
from preceptor_trainer.recipes._folder import BrokenRecipe, Folder

__all__ = ["BrokenRecipe", "UnknownRecipe", "described", "fingerprint", "load", "look_in", "names", "origin", "summary"]

PACKAGES = "preceptor.recipes"
"""Entry points of packages that bring recipes: `name = "package.module"`."""
_own = Folder(None)


class UnknownRecipe(LookupError):
    """No recipe has this name."""


def look_in(folder: Path | None) -> None:
    """Take this folder's files for recipes, too; None: no longer. For the whole process.

    Raises BrokenRecipe where there is no such folder, or a file has the name of another recipe.
    """
    global _own
    opened = Folder(folder)
    if taken := sorted(opened.names & {*_shipped(), *_packaged()}):
        raise BrokenRecipe(f"{folder}: there is a recipe '{taken[0]}' already; give {taken[0]}.py another name")
    _own.forget()
    _own = opened


def names() -> tuple[str, ...]:
    """Every recipe's name, sorted."""
    return tuple(sorted({*_shipped(), *_packaged(), *_own.names}))


def origin(name: str) -> str:
    """Where a recipe comes from: `preceptor`, the package that brings it, or the operator's file."""
    if name in _shipped():
        return "preceptor"
    return _packaged().get(name) or str(_own.path(name))


def load(name: str) -> Recipe:
    """The recipe of this name. Raises UnknownRecipe with the nearest names, and BrokenRecipe."""
    recipe: object = getattr(_module(name), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise BrokenRecipe(f"{origin(name)}: RECIPE is {type(recipe).__name__}, not a Recipe")
    return recipe


def fingerprint(name: str) -> str | None:
    """SHA-256 of the file that brings a recipe, as it was loaded; None: it is shipped. Raises as `load`."""
    module = _module(name)
    if name in _shipped():
        return None
    content = _own.content(name) if name not in _packaged() else Path(str(module.__file__)).read_bytes()
    return sha256(content).hexdigest()


def described(name: str) -> str:
    """All that a recipe's docstring says. Raises as `load`."""
    return (_module(name).__doc__ or "").strip()


def summary(name: str) -> str:
    """The first paragraph of it."""
    return described(name).split("\n\n")[0]


def _module(name: str) -> ModuleType:
    if name not in names():
        near = get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
        raise UnknownRecipe(f"no recipe is called '{name}'; {hint}")
    _know_parts()
    if name in _shipped():
        return import_module(f"{__name__}.{name}")
    packaged = _packaged()
    if name not in packaged:
        return _own.module(name)
    try:
        return import_module(packaged[name])
    except Exception as error:  # the boundary: whatever somebody else's package does wrong
        raise BrokenRecipe(f"{packaged[name]}: {type(error).__name__}: {str(error)[:400]}") from error


@cache
def _know_parts() -> None:
    """An override may name a part that the recipe's own file does not use."""
    for module in iter_modules(parts.__path__):
        import_module(f"{parts.__name__}.{module.name}")


@cache
def _shipped() -> frozenset[str]:
    return frozenset(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


@cache  # what is installed does not change under a process, and looking takes 10 ms
def _packaged() -> Mapping[str, str]:
    """Modules by name. A shipped recipe keeps its name."""
    return {each.name: each.value for each in entry_points(group=PACKAGES) if each.name not in _shipped()}
