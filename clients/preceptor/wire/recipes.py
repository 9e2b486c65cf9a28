"""Recipes on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import Field

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
    family: str = ""
    """What kind of method it is, by who teaches whom."""
    roles: tuple[str, ...]
    """The teacher roles that a run must fill."""
    support: Support
    """The least support that its teachers must offer."""
    origin: str = "preceptor"
    """Where its code is: `preceptor`, an installed package's module, or a file of the operator's folder."""
    trouble: str | None = None
    """Why it cannot be used, where its file is broken; then nothing above but the name says anything. None: it can."""


class SettingShown(Wire):
    """One setting of a part."""

    name: str
    """What an override calls it, below the part's path."""
    value: Any
    """What the recipe has."""
    default: Any = None
    """What the part has by itself; absent where it must be given."""
    required: bool = False
    """Whether it must be given."""
    says: str
    """What it means."""


class PartShown(Wire):
    """One part of a recipe, or a table of its own settings."""

    path: str
    """Where it is: `objective.0`; the path of an override begins so. Empty: the recipe itself."""
    role: str
    """What it does in the recipe: `rollout`, `context`, `objective` ..."""
    kind: str
    """Its name on the wire."""
    says: str
    """What it does, in a sentence or two."""
    settings: tuple[SettingShown, ...]
    """All of them, but parts that are listed themselves."""


class ReductionShown(Wire):
    """A claim that a recipe becomes another; the test suite holds it to it."""

    to: str
    """The other recipe."""
    when: dict[str, Any]
    """Overrides of this recipe under which it holds."""
    given: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Overrides of the other one."""
    up_to: str
    """`equal` in loss and gradient; up to a `scale`; in the `gradient` only; in `expectation`."""


class RecipeDetail(RecipeSummary):
    """A recipe spelled out."""

    description: str
    """The whole of what its author says about it."""
    evidence: str = ""
    """What was read of the method's sources, what was chosen and where it deviates: a part of the description."""
    helps: str = ""
    """When it helps, and when not, as far as that is known; likewise."""
    needs: dict[str, Support] = Field(default_factory=dict[str, Support])
    """The least support of each context's opinions."""
    columns: tuple[str, ...] = ()
    """What the data must bring besides prompts."""
    parts: tuple[PartShown, ...] = ()
    """Every part with every setting."""
    reduces: tuple[ReductionShown, ...] = ()
    """What it becomes when some of its settings change."""
    resolved: dict[str, Any]
    """Every part with every setting: what a run's overrides are merged into."""
