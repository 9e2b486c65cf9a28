"""Where tasks come from: files as users write them, and what is said of those that cannot serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preceptor.wire.data import DatasetSource, TaskSource
from preceptor_trainer.data import DataError, DatasetData, open_data, read_rows

ARTIFACT = "sha256:" + "0" * 64
ROWS = [
    {"prompt": f"What is {a} + {b}?", "answer": a + b, "reference": f"#### {a + b}"}
    for a in range(20)
    for b in range(10)
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def opened(folder: Path, **spec: Any) -> DatasetData:
    data = open_data(DatasetSource(artifact=ARTIFACT, **spec), folder)
    assert isinstance(data, DatasetData)
    return data


def error(folder: Path, **spec: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(folder, **spec)
    return caught.value


def test_rows_become_tasks(tmp_path: Path) -> None:
    data = opened(write(tmp_path, [{**ROWS[0], "level": 3}]), held_out=0.0)
    (task,) = data.train(0, 1, seed=0)
    assert task.messages == ({"role": "user", "content": "What is 0 + 0?"},)
    assert (task.answer, task.reference, task.columns) == ("0", "#### 0", {"level": 3})
    assert data.columns == {"answer", "reference", "level"}
    assert data.name == "rows.jsonl"
    assert data.verifier(task, "#### 0").correct


def test_columns_are_mapped(tmp_path: Path) -> None:
    rows = [{"question": "2 + 2?", "solution": "4", "nudge": "even", "other": 1}]
    data = opened(
        write(tmp_path, rows), columns={"prompt": "question", "answer": "solution", "hint": "nudge"}, held_out=0.0
    )
    (task,) = data.train(0, 1, seed=0)
    assert task.messages[0]["content"] == "2 + 2?"
    assert task.answer == "4"
    assert task.columns["hint"] == "even"
    assert {"answer", "hint", "other"} <= data.columns


def test_conversations_are_kept(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    (task,) = opened(write(tmp_path, [{"messages": messages, "answer": "4"}]), held_out=0.0).train(0, 1, seed=0)
    assert list(task.messages) == messages


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "p").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "p" / "rows.parquet")
    jsonl, binary = opened(write(tmp_path / "j", ROWS)), opened(tmp_path / "p")
    assert jsonl.train(1, 16, seed=3) == binary.train(1, 16, seed=3)
    assert jsonl.held_out(10) == binary.held_out(10)


def test_several_files_are_one_dataset(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:100], "b.jsonl")
    write(tmp_path, ROWS[100:], "a.jsonl")
    assert len(opened(tmp_path, held_out=0.0).train(0, 200, seed=0)) == 200


def test_the_split_is_drawn_by_the_question_not_by_its_place(tmp_path: Path) -> None:
    one, other = opened(write(tmp_path / "a", ROWS)), opened(write(tmp_path / "b", ROWS[::-1]))
    assert one.held_out(10) == other.held_out(10)
    assert one.held_out(5) == one.held_out(10)[:5]


def test_no_held_out_row_is_trained_on_not_even_in_another_case(tmp_path: Path) -> None:
    shouted = [{**row, "prompt": row["prompt"].upper()} for row in ROWS]
    data = opened(write(tmp_path, ROWS + shouted), held_out=0.3)
    held_out = {task.messages[0]["content"].casefold() for task in data.held_out(90)}
    for step in range(20):
        assert not held_out & {task.messages[0]["content"].casefold() for task in data.train(step, 64, seed=0)}


def test_train_is_a_pure_function_and_an_epoch_sees_every_row_once(tmp_path: Path) -> None:
    data, again = opened(write(tmp_path, ROWS), held_out=0.0), opened(tmp_path, held_out=0.0)
    assert data.train(7, 32, seed=1) == again.train(7, 32, seed=1)
    epochs = [[task.id for step in range(4 * n, 4 * n + 4) for task in data.train(step, 50, seed=1)] for n in range(2)]
    assert len(set(epochs[0])) == len(set(epochs[1])) == 200
    assert epochs[0] != epochs[1]
    assert data.train(0, 50, seed=2) != data.train(0, 50, seed=1)


def test_a_missing_column_says_which_there_are(tmp_path: Path) -> None:
    folder = write(tmp_path, [{"question": "?", "solution": "4"}])
    assert "rows.jsonl has neither a column 'prompt' nor 'messages'; it has question, solution." in str(error(folder))
    found = error(folder, columns={"prompt": "question"})
    assert found.field == "data.columns"
    assert "verifier 'exact' needs the column 'answer', which rows.jsonl lacks; it has question, solution." in str(
        found
    )
    found = error(folder, columns={"prompt": "text"})
    assert found.field == "data.columns.prompt"
    assert "'prompt' is mapped to the column 'text', which rows.jsonl lacks; it has question, solution." in str(found)


def test_an_empty_dataset_is_an_error(tmp_path: Path) -> None:
    assert "rows.jsonl is empty" in str(error(write(tmp_path, [])))
    (tmp_path / "rows.jsonl").unlink()
    assert "holds no .jsonl or .parquet file" in str(error(tmp_path))


def test_too_few_rows_say_how_many_there_are(tmp_path: Path) -> None:
    data = opened(write(tmp_path, ROWS))
    with pytest.raises(DataError, match=r"rows\.jsonl has \d+ held-out rows, and the evaluation wants 200") as caught:
        data.held_out(200)
    assert caught.value.field == "data.held_out"
    with pytest.raises(DataError, match=r"rows to train on, and a step wants 999\. Lower training\.batch"):
        data.train(0, 999, seed=0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "rows.jsonl line 2 is not JSON"),
        ("[1]", "rows.jsonl line 2: a row is a JSON object, not a list"),
        ('{"prompt": "x"}', "rows.jsonl row 2: it has no answer, which verifier 'exact' needs"),
        ('{"prompt": "x", "answer": null}', "rows.jsonl row 2: it has no answer"),
        ('{"prompt": " ", "answer": "1"}', "rows.jsonl row 2: its prompt is not a text"),
        ('{"prompt": 3, "answer": "1"}', "rows.jsonl row 2: its prompt is not a text"),
        ('{"messages": "x", "answer": "1"}', "rows.jsonl row 2: `messages` must be a list"),
        ('{"messages": [], "answer": "1"}', "rows.jsonl row 2: `messages` must be a list"),
        ('{"messages": [{"role": "user"}], "answer": "1"}', "rows.jsonl row 2: a message is an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line + "\n", encoding="utf-8")
    assert says in str(error(tmp_path))


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no")
    assert "rows.parquet cannot be read as Parquet" in str(error(tmp_path))
    (tmp_path / "rows.parquet").rename(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n')
    assert "rows.jsonl is not UTF-8" in str(error(tmp_path))


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\n\n")
    assert list(read_rows(tmp_path / "rows.jsonl")) == [ROWS[0]]


def test_an_unknown_verifier_lists_those_there_are(tmp_path: Path) -> None:
    found = error(write(tmp_path, ROWS), verifier="judge")
    assert found.field == "data.verifier"
    assert "choose one of disclosure, exact, math, procedural, program" in str(found)


def test_rows_that_reasoning_gym_exported_are_scored_by_it(tmp_path: Path) -> None:
    metadata = {"source_dataset": "spell_backward"}
    data = opened(
        write(tmp_path, [{"prompt": "sun", "answer": "nus", "metadata": metadata}]), verifier="procedural", held_out=0.0
    )
    (task,) = data.train(0, 1, seed=0)
    assert data.verifier(task, "NUS").correct


def test_a_procedural_task_is_data(tmp_path: Path) -> None:
    data = open_data(TaskSource(task="spell_backward", options={"max_word_len": 5}))
    assert data.name == "spell_backward"
    assert {"reference", "hint", "demonstration"} <= data.columns
    for task in data.train(0, 8, seed=0) + data.held_out(8):
        assert task.answer is not None and len(task.answer) <= 5
        assert data.verifier(task, task.answer).correct


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (TaskSource(task="poetry"), "there is no task 'poetry'"),
        (TaskSource(task="chain_sum", options={"words": 2}), "it has no option 'words'"),
        (TaskSource(task="chain_sum", options={"max_terms": "many"}), "option 'max_terms'"),
    ],
)
def test_a_bad_task_is_a_data_error(source: TaskSource, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_data(source)


def test_a_task_with_too_few_questions_says_so() -> None:
    data = open_data(TaskSource(task="chain_sum", options={"min_terms": 2, "max_terms": 2}))
    with pytest.raises(DataError, match="Widen the task's options") as caught:
        data.held_out(100)
    assert caught.value.field == "data.options"


def test_a_dataset_needs_its_folder() -> None:
    with pytest.raises(DataError, match="no folder"):
        open_data(DatasetSource(artifact=ARTIFACT))
