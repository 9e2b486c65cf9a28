"""A real vLLM server for a session of tests: installed and asked for by scripts/test-engines, skipped otherwise."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from preceptor.adapters import Stock
from preceptor.adapters.vllm import VllmClient
from preceptor.fingerprint import tokenizer_card
from preceptor.samples import token_samples
from preceptor_services.teacher.backends import vllm

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny"
VLLM_PYTHON = os.environ.get("VLLM_PYTHON", "")
"""The interpreter of the environment that vLLM is installed in; scripts/test-engines sets it."""
RUNNING = os.environ.get("VLLM_URL", "")
"""A server that runs already, started with the flags of `vllm.launch`: for whoever works on these tests."""


SGLANG_PYTHON = os.environ.get("SGLANG_PYTHON", "")
SGLANG_URL = os.environ.get("SGLANG_URL", "")
"""The same of SGLang, by its unofficial recipe for CPUs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not VLLM_PYTHON:
        for item in items:
            if item.get_closest_marker("engines"):
                item.add_marker(pytest.mark.skip(reason="no engine: scripts/test-engines installs and names it"))


@pytest.fixture(scope="session")
def stock() -> Stock:
    tokenizer = tokenizer_card(MODEL).model_copy(update={"samples": token_samples(MODEL)})
    return Stock(name="stock", tokenizer=tokenizer)


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with a head of its own, equal to the embedding: the same numbers, and vLLM's CPU build can
    reload it (of a tied one it keeps an old packed copy)."""
    folder = tmp_path_factory.mktemp("untied") / "tiny"
    shutil.copytree(MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def vllm_url(stock: Stock, untied: Path) -> Iterator[str]:
    """A stock vLLM server of that model, in float32."""
    if RUNNING:
        yield RUNNING
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # A key that nobody is told: the paths of stock servers are open here, as they are behind a firewall.
    process = vllm.launch(
        untied, VLLM_PYTHON, port, key="", device="cpu", dtype="float32", max_k=-1, options=["--max-model-len", "1024"]
    )
    try:
        with VllmClient(url, None, stock, timeout=10.0) as looker:
            process.wait_until(looker.healthz, 600)
        yield url
    finally:
        process.close()


@pytest.fixture
def teacher(vllm_url: str, stock: Stock) -> Iterator[VllmClient]:
    with VllmClient(vllm_url, None, stock) as client:
        yield client


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory, untied: Path) -> Path:
    """The same with other weights, all of them."""
    folder = tmp_path_factory.mktemp("other") / "tiny-other"
    shutil.copytree(untied, folder)
    rng = np.random.default_rng(5)
    weights = load_file(folder / "model.safetensors")
    moved = {
        name: (weight + 0.02 * rng.standard_normal(weight.shape)).astype(weight.dtype)
        for name, weight in weights.items()
    }
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
