"""Changes to a recipe, merged into it: tables, places in a list, dotted paths. Knows no recipe and no part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict


class Reduces(BaseModel):
    """A claim that this recipe becomes another when some of its fields change; one parametrised test checks them
    all."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    to: str
    """The other recipe's name."""
    when: dict[str, Any]
    """Overrides of this recipe under which the claim holds."""
    given: dict[str, Any] = {}
    """Overrides of the other recipe."""
    up_to: Literal["equal", "scale", "gradient", "expectation"] = "equal"


class BadOverride(ValueError):
    """A change that leads nowhere. `path` says where it stops, `remedy` what would lead on."""

    def __init__(self, path: str, why: str, remedy: str) -> None:
        super().__init__(f"{path}: {why}. {remedy}")
        self.path, self.why, self.remedy = path, why, remedy


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with changes over it.

    `{"rollout": {"samples": 8}}` keeps the rest of the policy; a mapping that names a different `kind` takes the part's
    place. `{"objective": {"0": {"beta": 0.3}}}` reaches into a list, a list takes its place. A name with dots is a
    path: `{"objective.0.beta": 0.3}`. Raises BadOverride.
    """
    result = dict(base)
    for name, change in changes.items():
        head, *rest = name.split(".")
        for part in reversed(rest):
            change = {part: change}
        result[head] = _over(result.get(head), change, head)
    return result


def _over(held: Any, change: Any, path: str) -> Any:
    """What a change makes of what is held at a path."""
    if not isinstance(change, Mapping):
        return change
    wanted = cast("Mapping[str, Any]", change)
    if isinstance(held, Mapping):
        return _over_table(cast("Mapping[str, Any]", held), wanted, path)
    if isinstance(held, Sequence) and not isinstance(held, str):
        return _over_list(cast("Sequence[Any]", held), wanted, path)
    return {name: _over(None, inner, f"{path}.{name}") for name, inner in wanted.items()}


def _over_table(held: Mapping[str, Any], wanted: Mapping[str, Any], path: str) -> dict[str, Any]:
    if "kind" in wanted and wanted["kind"] != held.get("kind"):
        held = {}
    return {**held, **{name: _over(held.get(name), change, f"{path}.{name}") for name, change in wanted.items()}}


def _over_list(held: Sequence[Any], wanted: Mapping[str, Any], path: str) -> list[Any]:
    result = list(held)
    places = ", ".join(str(place) for place in range(len(result))) or "none: it is empty"
    for name, change in wanted.items():
        if not (name.isascii() and name.isdigit()):
            raise BadOverride(
                f"{path}.{name}",
                f"{path} is a list, and '{name}' is no place in it",
                f"Write {path}.0.{name} for its first element." if result else "Give the whole list.",
            )
        if int(name) >= len(result):
            raise BadOverride(
                f"{path}.{name}",
                f"the list has no such place; it has {places}",
                f"Give the whole list to make it longer: {path}=[...].",
            )
        result[int(name)] = _over(result[int(name)], change, f"{path}.{name}")
    return result
