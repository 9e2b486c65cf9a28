"""What pydantic found wrong, as an error that names the field and says it in a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from preceptor.errors import Invalid

SHOWN = 100
"""Characters of a wrong value that an error repeats."""
_NAMED = re.compile(r"([a-z_]+(?:\.\w+)*): (.+)", re.DOTALL)
"""How a validator of several fields says which one it is about."""
_TUPLE = re.compile(r"tuple\b", re.IGNORECASE)
"""What pydantic calls a list that does not change; JSON and TOML have only the one."""


def invalid(errors: Sequence[Any], *, prefix: str = "", skip: int = 0, whole: str = "the body") -> Invalid:
    """The error for what pydantic found: the first complaint, as a sentence.

    `prefix` goes before the field's path, of which the first `skip` parts are left out. `whole`: what is spoken of
    where no field is.
    """
    first = errors[0]
    path = ".".join(str(part) for part in first["loc"][skip:])
    message = _TUPLE.sub("list", first["msg"].removeprefix("Value error, ").rstrip("."))
    own = first["type"] == "value_error"
    named = _NAMED.fullmatch(message) if own and isinstance(first.get("input"), dict) else None
    message = message if named is None else named[2]
    field = ".".join(part for part in (prefix, path, "" if named is None else named[1]) if part) or None
    if first["type"] == "json_invalid":
        where = f" (character {first['loc'][-1]})" if first["loc"] else ""
        return Invalid(f"{_begins(whole)} is not JSON: {first['ctx']['error']}{where}.")
    if first["type"] == "missing":
        detail = f"{field} is missing." if field else f"{_begins(whole)} is missing."
    elif first["type"] == "extra_forbidden":
        detail = f"{field}: there is no such field."
    else:
        detail = f"{field or whole}: {message}{_given(first)}."
    rest = len(errors) - 1
    remedy = f"Correct it; {rest} more problem{'s' * (rest > 1)} would follow." if rest else None
    return Invalid(detail, field=field, remedy=remedy)


def _begins(words: str) -> str:
    return words[:1].upper() + words[1:]


def _given(error: Any) -> str:
    """The wrong value, where it is short; of a table or a list that its own rule refuses, the rule says enough."""
    given = error.get("input")
    if isinstance(given, str | int | float | bool) or given is None:
        return f" (got {repr(given)[:SHOWN]})"
    return "" if error["type"] == "value_error" else f" (got {type(given).__name__})"
