"""What every part of a recipe is: frozen settings with a name on the wire. Its roles are in `recipe.py`."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class Part(BaseModel, ABC):
    """A named, serialisable piece of a recipe.

    A class declared without `kind=` is a role and opens its own namespace of kinds; one declared with it is a part.
    On the wire a part is its fields plus `kind`, and a role's field accepts any of its kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Part]]] = {}

    def __init_subclass__(cls, *, kind: str | None = None, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        if kind is not None:
            if kind in cls.kinds:
                raise TypeError(f"{cls.__name__}: kind '{kind}' is taken by {cls.kinds[kind].__name__}")
            cls.kind, cls.kinds[kind] = kind, cls
        elif Part in cls.__bases__:
            cls.kinds = {}

    @model_validator(mode="wrap")
    @classmethod
    def _by_kind(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        fields: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
        own = getattr(cls, "kind", None)
        kind = fields.pop("kind", own)
        if own is not None and kind == own:
            return handler(fields)
        part = cls.kinds.get(kind) if isinstance(kind, str) else None
        if part is None or not issubclass(part, cls):
            known = ", ".join(sorted(name for name, each in cls.kinds.items() if issubclass(each, cls)))
            what = f"a {cls.__name__} must say its kind" if kind is None else f"unknown {cls.__name__} kind {kind!r}"
            raise ValueError(f"{what}: expected one of {known}")
        return part.model_validate(fields)

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}


def forget(module: str) -> None:
    """Free the kinds of a module's parts, so that it can be imported anew."""
    for role in Part.__subclasses__():
        for kind in [kind for kind, part in role.kinds.items() if part.__module__ == module]:
            del role.kinds[kind]
