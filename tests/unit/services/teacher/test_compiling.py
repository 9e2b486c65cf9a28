"""Compiled layers give the model's own numbers, or are refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import SecretStr

from preceptor.errors import Invalid
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor.wire.weights import WeightsKind
from preceptor_services.teacher.backends.compiling import compiled
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_services.teacher.engines import BackendKind
from preceptor_services.teacher.loader import Loader
from preceptor_services.teacher.serve import serve
from preceptor_services.teacher.settings import TeacherSettings
from preceptor_trainer.model import Model, load_model
from preceptor_trainer.scoring import score
from tests.models import tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"), layers=1)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


def asked(lengths: tuple[int, ...], context: int, shared: bool) -> ScoreRequest:
    rng = np.random.default_rng(sum(lengths))
    contexts = [rng.integers(0, 64, context, dtype=np.int32) for _ in lengths[: 1 if shared else None]]
    return ScoreRequest(
        contexts=contexts,
        completions=[rng.integers(0, 64, length, dtype=np.int32) for length in lengths],
        context_of=np.array([0 if shared else index for index in range(len(lengths))], dtype=np.int32),
        support=Support.FULL,
    )


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_a_compiled_model_gives_the_same_numbers_also_of_other_weights(
    folder: Path, model: Model, tmp_path: Path
) -> None:
    backend = HfBackend(folder, compile=True, prefix_bytes=1 << 24)
    for request in (
        asked((7, 3, 12), 5, shared=False),
        asked((9, 4), 40, shared=True),
        asked((5, 6), 200, shared=True),
    ):
        expected = score(model, request)
        for _ in range(2):  # the second time a long context is held
            found = backend.score(request, lambda: None)
            np.testing.assert_allclose(found.logprob_T, expected.logprob_T, atol=1e-4)
            assert found.hidden_TD is not None and expected.hidden_TD is not None
            np.testing.assert_allclose(found.hidden_TD, expected.hidden_TD, atol=1e-4)
    other = tiny_model_folder(tmp_path / "other", layers=1, seed=1)
    loader = Loader(backend, backend.layout(), frozen_head=False, spool=tmp_path)
    backend.prepare(loader.read(other / "model.safetensors", WeightsKind.FULL, 1, None).weights)()
    request = asked((9, 4), 40, shared=True)
    expected = score(load_model(other), request)
    np.testing.assert_allclose(backend.score(request, lambda: None).logprob_T, expected.logprob_T, atol=1e-4)


def test_a_model_that_torch_cannot_compile_is_refused_by_name(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, dynamic: bool) -> Callable[..., Any]:
        def forward(**inputs: object) -> object:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        Invalid, match=r"compile this model here \(InvalidCxxCompiler: No working C\+\+ compiler found\)"
    ):
        compiled(model)


def test_other_numbers_are_refused_by_name(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: Any, dynamic: bool) -> Callable[..., Any]:
        def forward(**inputs: object) -> object:
            out = module(**inputs)
            out.last_hidden_state = out.last_hidden_state * 1.01
            return out

        return forward

    monkeypatch.setattr(torch, "compile", wrong)
    with pytest.raises(Invalid, match="away from the model itself"):
        compiled(model)


def test_an_engine_is_not_compiled_by_us(tmp_path: Path) -> None:
    told: dict[str, Any] = {"teacher_key": SecretStr("k" * 20), "teacher_compile": True}
    with pytest.raises(Invalid, match="only the hf backend is compiled"):
        serve(tmp_path, TeacherSettings(**told), backend=BackendKind.VLLM)
