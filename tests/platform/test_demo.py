"""The demo against a running stack; scripts/demo does the same with one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.platform.stack import ROOT, Stack

KEYS = ["task", "n", "before", "after", "ci95", "steps", "train_seconds", "total_seconds", "run_id"]


def test_the_last_line_and_the_exit_code_say_whether_the_student_improved(stack: Stack, tmp_path: Path) -> None:
    stack.worker()
    key = tmp_path / "admin.key"
    key.write_text(stack.admin_key)
    where = ("--url", stack.url, "--teacher-url", stack.teacher_url, "--key-file", str(key), "--out", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo.demo", *where, "--steps", "12", "--seed", "5"],
        env=stack.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert list(last) == KEYS
    assert (last["task"], last["steps"]) == ("spell_backward", 12) and last["n"] >= 200
    assert last["after"] > last["before"] and last["ci95"][0] > 0, done.stdout
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo-tiny-seed-5.png").read_bytes().startswith(b"\x89PNG")
    assert "Ledger: 768 rollouts, 768 scores" in done.stdout
