"""Server-sent events: the part of the format that we send ourselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One event of a stream."""

    event: str
    data: str
    id: str | None


def frames(lines: Iterable[str]) -> Iterator[Frame]:
    """Parse the lines of a `text/event-stream`. A frame cut off at the end is dropped, as the standard has it."""
    event, data = "message", list[str]()
    last_id: str | None = None  # stays until another one comes, as the standard has it
    for line in lines:
        if not line:
            if data:
                yield Frame(event=event, data="\n".join(data), id=last_id)
            event, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last_id = value
