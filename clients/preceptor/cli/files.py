"""Files that are named on a command line."""

from __future__ import annotations

from pathlib import Path

from preceptor.errors import Invalid


def read_text(path: Path) -> str:
    """What a file says, its lines ended by a newline each. Raises Invalid where it cannot be read or is no text."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.", field="file", remedy="Correct the path.") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not text in UTF-8.", field="file", remedy="Give another file.") from error
