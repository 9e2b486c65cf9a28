"""The README's Python example, run as it stands but for the port, the names and the length."""

from __future__ import annotations

import re
import subprocess
import sys

from preceptor.client import Client
from tests.platform.stack import OVERRIDES, ROOT, TRAINING, Stack

CHANGES = {
    "http://127.0.0.1:8421": "{teacher}",
    'TeacherCreate(name="tiny"': 'TeacherCreate(name="readme"',
    'teachers={"self": "tiny"}': f'teachers={{"self": "readme"}}, training={TRAINING}, overrides={OVERRIDES}',
}


def test_the_example_does_what_the_readme_says(stack: Stack, client: Client) -> None:
    (example,) = re.findall(r"```python\n(from preceptor .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for old, new in CHANGES.items():
        assert old in example, f"the README no longer says {old}"
        example = example.replace(old, new.replace("{teacher}", stack.teacher_url))
    stack.worker()
    told = subprocess.run(
        [sys.executable, "-c", example],
        cwd=ROOT,
        env=stack.environment(URL=stack.url, KEY=stack.admin_key),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert told.returncode == 0, told.stderr
    assert "evaluation" in told.stdout and "checkpoint" in told.stdout
    assert "task='spell_backward'" in told.stdout.splitlines()[-1]
    assert any(run.teachers == {"self": "readme"} for run in client.runs.list())
