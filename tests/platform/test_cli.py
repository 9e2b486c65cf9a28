"""The command line against the real thing, as a user types it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from preceptor.cli.main import main
from tests.platform.stack import MODEL, ROOT, Stack, preceptor, until

RUN = f"""
name = "by-hand"
recipe = "opsd"
student = {json.dumps(str(MODEL))}
[teachers]
self = "tiny"
[data]
kind = "task"
task = "spell_backward"
[training]
steps = 40
batch = 4
evaluate_items = 12
evaluate_every = 2
[overrides.rollout]
max_tokens = 12
"""


def say(stack: Stack, *arguments: str, code: int = 0, key: str | None = None) -> str:
    """What `preceptor ARGUMENTS` prints, run in this process. Fails where the exit code is another one."""
    told, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(complained):
        patch.setenv("PRECEPTOR_URL", stack.url)
        patch.setenv("PRECEPTOR_KEY", key or stack.admin_key)
        patch.setenv("COLUMNS", "140")
        patch.setattr(sys, "argv", ["preceptor", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert int(ended.value.code or 0) == code, f"{arguments}: {told.getvalue()}\n{complained.getvalue()}"
    return told.getvalue() + (complained.getvalue() if code else "")


def shell(stack: Stack, *arguments: str) -> str:
    """The same as a process of its own, as a user has it."""
    environment = stack.environment(URL=stack.url, KEY=stack.admin_key) | {"COLUMNS": "140"}
    done = subprocess.run(preceptor(*arguments), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    assert not done.stderr
    return done.stdout


def say_json(stack: Stack, *arguments: str) -> Any:
    return json.loads(say(stack, *arguments, "--json"))


def test_a_run_from_a_file_to_its_curves(stack: Stack, tmp_path: Path) -> None:
    stack.worker()
    file = tmp_path / "run.toml"
    file.write_text(RUN)
    wish = ("runs", "start", str(file), "--set", "training.steps=4", "--idempotency-key", "one", "--json")
    started = json.loads(shell(stack, *wish))
    again = json.loads(say(stack, *wish))
    assert again["id"] == started["id"]
    assert started["training"]["steps"] == 4 and started["state"] in ("queued", "running")

    *events, run = [json.loads(line) for line in shell(stack, "runs", "watch", started["id"], "--json").splitlines()]
    assert [event["data"]["step"] for event in events if event["kind"] == "step"] == [1, 2, 3, 4]
    assert run["state"] == "succeeded" and run["result"]["n"] == 12

    watched = shell(stack, "runs", "watch", started["id"])
    assert "succeeded: spell_backward" in watched and "4/4" in watched and "held-out accuracy" in watched
    png = tmp_path / "curves.png"
    shown = say(stack, "runs", "show", started["id"], "--png", str(png))
    assert started["id"] in shown and "4 of 4" in shown
    assert png.read_bytes().startswith(b"\x89PNG")
    assert started["id"] in say(stack, "runs", "list", "--state", "succeeded")
    assert started["id"] not in [each["id"] for each in say_json(stack, "runs", "list", "--state", "failed")]

    trained = run["result"]["model"]
    assert trained in [each["id"] for each in say_json(stack, "artifacts", "list", "--kind", "model")]
    say(stack, "artifacts", "pull", trained, str(tmp_path / "trained"))
    assert (tmp_path / "trained" / "config.json").is_file()
    assert say(stack, "artifacts", "push", str(tmp_path / "trained"), "--name", "by-hand").strip() == trained


def test_own_rows_are_pushed_and_learned_from(stack: Stack) -> None:
    stack.worker()
    example = ROOT / "examples" / "own_data" / "own_data.toml"
    shorter = ("training.steps=2", "training.batch=8", "training.evaluate_items=8", "overrides.rollout.max_tokens=12")
    said = say(stack, "runs", "start", str(example), *(f"--set={each}" for each in shorter), "--watch")
    assert "succeeded: words.jsonl" in said


def test_a_cancelled_run_is_no_success(stack: Stack, tmp_path: Path) -> None:
    stack.worker()
    file = tmp_path / "run.toml"
    file.write_text(RUN)
    run = say_json(stack, "runs", "start", str(file), "--set", "training.steps=100000")["id"]
    say(stack, "runs", "cancel", run)
    assert "cancelled" in say(stack, "runs", "watch", run, code=1)
    assert "queued" in say(stack, "runs", "resume", run)
    say(stack, "runs", "cancel", run)


def test_a_run_is_paused_and_goes_on(stack: Stack, tmp_path: Path) -> None:
    stack.worker()
    file = tmp_path / "run.toml"
    file.write_text(RUN)
    run = say_json(stack, "runs", "start", str(file), "--set", "training.steps=100000")["id"]
    with stack.client() as client:
        events = client.runs.events(run)
        until(events, lambda event: event.kind == "step" and event.data["step"] == 2)
        assert "stops within one step" in say(stack, "runs", "pause", run)
        until(events, lambda event: event.kind == "state" and event.data["to"] == "paused")
        held = client.runs.get(run)
        assert held.checkpoint is not None and held.checkpoint.step == held.step >= 2
        assert f"from step {held.step}" in say(stack, "runs", "resume", run)
        until(events, lambda event: event.kind == "step" and event.data["step"] == held.step + 1)
        say(stack, "runs", "cancel", run)
        until(events, lambda event: event.kind == "state" and event.data["to"] == "cancelled")


def test_a_teacher_answers_at_several_urls(stack: Stack) -> None:
    elsewhere = stack.teacher_url.replace("127.0.0.1", "localhost")
    say(stack, "teachers", "add", "several", stack.teacher_url, "--key-env", "PRECEPTOR_TEACHER_KEY")
    told = say(stack, "teachers", "endpoints", "add", "several", elsewhere, "--key-env", "PRECEPTOR_TEACHER_KEY")
    rows = [line for line in told.splitlines() if "http://" in line and "ready" in line and " ms" in line]
    assert len(rows) == 2 and elsewhere in rows[1], "each with its state and latency"
    assert "and 1 more" in say(stack, "teachers", "list")
    drained = say_json(stack, "teachers", "endpoints", "drain", "several", elsewhere)
    assert [each["state"] for each in drained["endpoints"]] == ["ready", "draining"]
    undrained = say_json(stack, "teachers", "endpoints", "drain", "several", elsewhere, "--undo")
    assert [each["state"] for each in undrained["endpoints"]] == ["ready", "ready"]
    said = say(stack, "teachers", "endpoints", "remove", "several", "http://127.0.0.1:9", code=1)
    assert f"It answers at {stack.teacher_url}, {elsewhere}" in said
    say(stack, "teachers", "endpoints", "remove", "several", stack.teacher_url)
    assert say_json(stack, "teachers", "show", "several")["url"] == elsewhere
    assert "only endpoint" in say(stack, "teachers", "endpoints", "remove", "several", elsewhere, code=1)
    say(stack, "teachers", "rm", "several")


def test_teachers_recipes_and_keys(stack: Stack) -> None:
    assert "tiny" in say(stack, "teachers", "list")
    assert "passed" in say(stack, "teachers", "probe", "tiny")
    assert say_json(stack, "teachers", "show", "tiny")["key_env"] == "PRECEPTOR_TEACHER_KEY"
    say(stack, "teachers", "add", "second", stack.teacher_url, "--key-env", "PRECEPTOR_TEACHER_KEY")
    assert say_json(stack, "teachers", "drain", "second")["state"] == "draining"
    assert say_json(stack, "teachers", "drain", "second", "--undo")["state"] == "ready"
    say(stack, "teachers", "rm", "second")
    assert "no teacher" in say(stack, "teachers", "show", "second", code=1).lower()

    assert {"opsd", "opd", "sft"} <= {each["name"] for each in say_json(stack, "recipes", "list")}
    assert "arXiv:2601.18734" in say(stack, "recipes", "show", "opsd")

    made = say_json(stack, "keys", "create", "reader", "--scope", "read")
    assert "reader" in say(stack, "keys", "list", key=None)
    assert "scope" in say(stack, "keys", "list", key=made["secret"], code=4)
    say(stack, "keys", "revoke", made["key"]["id"])
    say(stack, "runs", "list", key=made["secret"], code=4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("runs", "start", "--recipe", "nope", "--student", str(MODEL), "--task", "spell_backward"), 2, "nope"),
        (("runs", "show", "run-nobody"), 1, "run-nobody"),
        (("runs", "start", "--recipe", "opsd", "--student", "/no/such/folder", "--task", "x"), 2, "/no/such/folder"),
        (("artifacts", "push", str(ROOT / "docs"), "--name", "no-model"), 2, "tokenizer.json"),
        (("teachers", "add", "nobody", "http://127.0.0.1:9"), 2, "127.0.0.1:9"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(stack: Stack, arguments: tuple[str, ...], code: int, words: str) -> None:
    assert words in say(stack, *arguments, code=code)
