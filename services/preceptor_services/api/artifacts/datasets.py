"""Parses a dataset, as data only, and says what a submit needs to know of it: rows, columns, lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preceptor.errors import Invalid
from preceptor.wire.artifacts import ColumnFacts, DatasetFacts

Row = dict[str, Any]
FORMATS = (".jsonl", ".parquet")
COLUMNS = 1000
"""Columns that a dataset may have at most."""
VALUES = 64
"""Different values of a column up to which they are all told."""
SHORT = 100
"""Characters of the longest of them."""
LINE = 64 * 2**20
"""Bytes that a line of JSONL may have at most."""


def open_dataset(files: Mapping[str, Path]) -> DatasetFacts:
    """What a dataset holds. `files`: where each lies, by its name in the folder. Raises Invalid, naming the file."""
    named = sorted(name for name in files if name.endswith(FORMATS))
    if not named:
        raise Invalid(
            f"The dataset holds no {' or '.join(FORMATS)} file; it has {', '.join(sorted(files)[:10])}.",
            field="files",
            remedy="Push JSONL (one JSON object a line) or Parquet.",
        )
    filled: dict[str, int] = {}
    longest: dict[str, int] = {}
    values: dict[str, set[str] | None] = {}
    rows = 0
    for name in named:
        for row in _read(name, files[name]):
            rows += 1
            for column, value in row.items():
                filled[column] = filled.get(column, 0) + (value not in (None, "", []))
                longest[column] = max(longest.get(column, 0), _length(value))
                values[column] = _more(values.get(column, set()), value)
            if len(filled) > COLUMNS:
                raise Invalid(f"{name}: it has more than {COLUMNS} columns.", field="files")
    if not rows:
        raise Invalid(f"The dataset is empty: {', '.join(named)} hold no rows.", field="files", remedy="Push rows.")
    told = {column: None if found is None else tuple(sorted(found)) for column, found in values.items()}
    columns = {
        column: ColumnFacts(filled=filled[column], longest=longest[column], values=told[column]) for column in filled
    }
    return DatasetFacts(rows=rows, columns=columns)


def _more(found: set[str] | None, value: Any) -> set[str] | None:
    """The values of a column with one more; None once they are too many or too long to be told."""
    if found is None or value is None or value == "":
        return found
    if not isinstance(value, str | int) or len(str(value)) > SHORT:
        return None
    found.add(str(value))
    return found if len(found) <= VALUES else None


def _length(value: Any) -> int:
    """Non-blank characters, where all are ASCII: neither normalisation nor pre-tokenisation can make those fewer."""
    if isinstance(value, str):
        return sum(map(len, value.split())) if value.isascii() else 0
    if isinstance(value, list):  # chat messages
        return sum(_length(each.get("content")) for each in value if isinstance(each, dict))
    return 0


def _read(name: str, path: Path) -> Iterator[Row]:
    return _read_jsonl(name, path) if name.endswith(".jsonl") else _read_parquet(name, path)


def _read_jsonl(name: str, path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                raise Invalid(f"{name} line {number} is longer than {LINE} bytes.", field=name)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Invalid(
                    f"{name} line {number} is not JSON ({str(error)[:200]}).",
                    field=name,
                    remedy="Write one JSON object a line.",
                ) from error
            if not isinstance(row, dict):
                raise Invalid(f"{name} line {number} is a {type(row).__name__}, not an object.", field=name)
            yield row


def _read_parquet(name: str, path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as opened:
            for batch in opened.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise Invalid(f"{name} cannot be read as Parquet ({str(error)[:200]}).", field=name) from error
