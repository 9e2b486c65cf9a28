"""Where a run's tasks come from: a procedural task, or a user's own rows (JSONL or Parquet).

Either way `train` is a pure function of its arguments, so that a resumed run sees the same tasks, and no question of
the held-out split is ever trained on: the split is drawn by a hash of the question, case and spacing aside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

from preceptor.errors import Invalid
from preceptor.wire.data import PARTS, DatasetSource, DataSpec, TaskSource
from preceptor_trainer import tasks, verifiers
from preceptor_trainer.recipe import Verifier
from preceptor_trainer.tasks import ProceduralTask, TooFewQuestions, question_id
from preceptor_trainer.views import Message, Task

Row = dict[str, Any]
FORMATS = (".jsonl", ".parquet")


class DataError(Invalid):
    """The data cannot serve this run."""

    slug, title = "data", "Unsuitable data"


class Data(Protocol):
    """What the loop wants of data."""

    @property
    def name(self) -> str:
        """What to call it in a result."""
        ...

    @property
    def verifier(self) -> Verifier:
        """How its answers are judged."""
        ...

    @property
    def columns(self) -> frozenset[str]:
        """What its tasks carry besides their messages."""
        ...

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        """`batch` training tasks for a step. Raises DataError when there are too few."""
        ...

    def held_out(self, count: int) -> list[Task]:
        """`count` held-out tasks, always the same. Raises DataError when there are too few."""
        ...


def open_data(spec: DataSpec, folder: Path | None = None) -> Data:
    """The data of a run. `folder` holds the files of a dataset artifact. Raises DataError."""
    if isinstance(spec, TaskSource):
        return TaskData(spec)
    if folder is None:
        raise DataError(
            f"dataset {spec.artifact}: its files are wanted, but no folder was given.", field="data.artifact"
        )
    return DatasetData(spec, folder)


class TaskData:
    """A procedural task, judged as it says."""

    def __init__(self, spec: TaskSource) -> None:
        self.name = spec.task
        try:
            self._task: ProceduralTask = tasks.load(spec.task, spec.options)
        except ValueError as error:
            raise DataError(f"{error}.", field="data.task") from error

    @property
    def verifier(self) -> Verifier:
        return self._task.verifier

    @property
    def columns(self) -> frozenset[str]:
        return self._task.columns

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        return self._drawn(lambda: self._task.train(step, batch, seed))

    def held_out(self, count: int) -> list[Task]:
        return self._drawn(lambda: self._task.held_out(count))

    def _drawn(self, draw: Callable[[], list[Task]]) -> list[Task]:
        try:
            return draw()
        except TooFewQuestions as error:
            raise DataError(
                str(error), field="data.options", remedy="Widen the task's options, or ask for fewer."
            ) from error


class DatasetData:
    """A user's rows. Held in memory; opened once a run."""

    def __init__(self, spec: DatasetSource, folder: Path) -> None:
        try:
            self.verifier = verifiers.load(spec.verifier)
        except ValueError as error:
            raise DataError(f"{error}.", field="data.verifier") from error
        files = dataset_files(folder)
        self.name = ", ".join(file.name for file in files)
        rows = [(f"{file.name} row {number}", row) for file in files for number, row in enumerate(read_rows(file), 1)]
        if not rows:
            raise DataError(f"{self.name} is empty: it has no rows.", field="data.artifact", remedy="Push rows.")
        has = frozenset(column for _, row in rows for column in row)
        _check_mapping(spec, has, self.name)
        asked = {spec.column("prompt"), spec.column("messages"), "prompt", "messages"}
        self.columns: frozenset[str] = (has | spec.columns.keys()) - asked
        for column in self.verifier.columns:
            if column not in self.columns:
                raise _lacks(column, f"verifier '{spec.verifier}'", has, self.name)
        every = [_task(spec, row, where) for where, row in rows]
        for (where, _), task in zip(rows, every, strict=True):
            if "answer" in self.verifier.columns and task.answer is None:
                raise DataError(
                    f"{where}: it has no answer, which verifier '{spec.verifier}' needs.",
                    field="data.artifact",
                    remedy="Push the dataset without such rows.",
                )
        border = int(spec.held_out * 16**12)
        self._train = [task for task in every if int(task.id[:12], 16) >= border]
        # In hash order, so that fewer items are a prefix of more, however the file is sorted.
        self._held_out = sorted((task for task in every if int(task.id[:12], 16) < border), key=lambda task: task.id)

    def train(self, step: int, batch: int, seed: int) -> list[Task]:
        """Every epoch is a new order; what is left over at its end is skipped, so that no batch holds a row twice."""
        if batch > len(self._train):
            raise DataError(
                f"{self.name} has {len(self._train)} rows to train on, and a step wants {batch}.",
                field="training.batch",
                remedy="Lower training.batch, or push more rows.",
            )
        epoch, place = divmod(step, len(self._train) // batch)
        order = list(range(len(self._train)))
        Random(f"{seed}/{epoch}").shuffle(order)
        return [self._train[index] for index in order[place * batch : (place + 1) * batch]]

    def held_out(self, count: int) -> list[Task]:
        if count > len(self._held_out):
            raise DataError(
                f"{self.name} has {len(self._held_out)} held-out rows, and the evaluation wants {count}.",
                field="data.held_out",
                remedy="Raise data.held_out, lower training.evaluate_items, or push more rows.",
            )
        return self._held_out[:count]


def dataset_files(folder: Path) -> list[Path]:
    """The JSONL and Parquet files of a folder, by name. Raises DataError when there are none."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in FORMATS)
    if not files:
        raise DataError(
            f"{folder.name} holds no {' or '.join(FORMATS)} file.",
            field="data.artifact",
            remedy="Push JSONL (one JSON object a line) or Parquet.",
        )
    return files


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of one file, in order. Raises DataError for what cannot be read."""
    return _read_jsonl(file) if file.suffix == ".jsonl" else _read_parquet(file)


def _read_jsonl(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{file.name} line {number}: a row is a JSON object, not a {type(row).__name__}.")
                yield cast(Row, row)
        except json.JSONDecodeError as error:
            raise DataError(f"{file.name} line {number} is not JSON: {error.msg} at column {error.colno}.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name} is not UTF-8 after line {number}: {error.reason}.") from error


def _read_parquet(file: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{file.name}: Parquet needs the package pyarrow.", remedy="pip install pyarrow, or give JSONL."
        ) from error
    try:
        with ParquetFile(file) as opened:
            for batch in opened.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file.name} cannot be read as Parquet: {error}.") from error


def _check_mapping(spec: DatasetSource, has: frozenset[str], name: str) -> None:
    for part, column in spec.columns.items():
        if column not in has:
            raise DataError(
                f"'{part}' is mapped to the column '{column}', which {name} lacks; it has {_listed(has)}.",
                field=f"data.columns.{part}",
                remedy="Name one that it has.",
            )
    if not {spec.column("prompt"), spec.column("messages")} & has:
        raise DataError(
            f"{name} has neither a column 'prompt' nor 'messages'; it has {_listed(has)}.",
            field="data.columns",
            remedy='Map one: {"prompt": "YOUR COLUMN"}.',
        )


def _lacks(column: str, who: str, has: frozenset[str], name: str) -> DataError:
    return DataError(
        f"{who} needs the column '{column}', which {name} lacks; it has {_listed(has)}.",
        field="data.columns",
        remedy=f'Map one: {{"{column}": "YOUR COLUMN"}}.',
    )


def _listed(columns: frozenset[str]) -> str:
    return ", ".join(sorted(columns)) or "none"


def _task(spec: DatasetSource, row: Row, where: str) -> Task:
    messages = _messages(spec, row, where)
    used = {spec.column(part) for part in PARTS}
    kept = {column: value for column, value in row.items() if column not in used}
    mapped = {part: row.get(column) for part, column in spec.columns.items() if part not in PARTS}
    text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    return Task(
        id=question_id(text),
        messages=messages,
        answer=_text(row.get(spec.column("answer"))),
        reference=_text(row.get(spec.column("reference"))),
        columns={**kept, **mapped},
    )


def _messages(spec: DatasetSource, row: Row, where: str) -> tuple[Message, ...]:
    given = row.get(spec.column("messages"))
    if given is None:
        prompt = row.get(spec.column("prompt"))
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{where}: its prompt is not a text with something in it.", field="data.artifact")
        return (Message(role="user", content=prompt),)
    messages = [_message(each, where) for each in cast(list[Any], given)] if isinstance(given, list) else []
    if not any(message["role"] == "user" for message in messages):
        raise DataError(f"{where}: `messages` must be a list of messages, one of them with role 'user'.")
    return tuple(messages)


def _message(given: Any, where: str) -> Message:
    if isinstance(given, Mapping):
        role, content = cast(Row, given).get("role"), cast(Row, given).get("content")
        if isinstance(role, str) and isinstance(content, str):
            return Message(role=role, content=content)
    raise DataError(f"{where}: a message is an object with the texts `role` and `content`.")


def _text(value: Any) -> str | None:
    """Answers are often numbers in a file; a verifier compares text."""
    return None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
