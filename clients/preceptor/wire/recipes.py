"""Recipes on the wire."""

from __future__ import annotations

from typing import Any

from preceptor.wire.common import Wire
from preceptor.wire.teachers import Support


class RecipeSummary(Wire):
    """One line of the list of recipes."""

    name: str
    """Its name: the one a run gives."""
    summary: str
    """What it does, in a sentence."""
    paper: str
    """Where the method comes from."""
    roles: tuple[str, ...]
    """The teacher roles that a run must fill."""
    support: Support
    """The least support that its teachers must offer."""


class RecipeDetail(RecipeSummary):
    """A recipe spelled out."""

    description: str
    """The whole of what its author says about it."""
    resolved: dict[str, Any]
    """Every part with every setting: what a run's overrides are merged into."""
