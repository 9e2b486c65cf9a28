"""Other weights for teachers that are processes of their own, as people load them: `preceptor teacher load-weights`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from preceptor.endpoint import TeacherClient
from preceptor.errors import Conflict, Invalid, TooLarge
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.hf import HfBackend
from tests.models import tiny_model_folder
from tests.platform.stack import free_port, preceptor
from tests.platform.test_teacher_process import KEY, wait_ready

ENVIRONMENT = {**os.environ, "PRECEPTOR_TEACHER_KEY": KEY, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a few megabytes, so that a body is more than one piece."""
    root = tmp_path_factory.mktemp("models")
    return [tiny_model_folder(root / str(seed), hidden=256, layers=2, seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def urls(folders: list[Path]) -> Iterator[list[str]]:
    """Two endpoints of one teacher."""
    started = list[tuple[subprocess.Popen[bytes], str]]()
    try:
        for _ in range(2):
            port = free_port()
            command = preceptor("teacher", "serve", "--model", str(folders[0]), "--name", "own", "--takes-weights")
            process = subprocess.Popen([*command, "--threads", "1", "--port", str(port)], env=ENVIRONMENT)
            started.append((process, f"http://127.0.0.1:{port}"))
        for process, url in started:
            wait_ready(process, url)
        yield [url for _, url in started]
    finally:
        for process, _ in started:
            process.kill()
            process.wait(10)


def asked() -> ScoreRequest:
    return ScoreRequest(
        contexts=[np.array([5, 6, 7], dtype=np.int32)],
        completions=[np.array([8, 9, 10], dtype=np.int32)],
        context_of=np.array([0]),
        support=Support.SAMPLED,
    )


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = preceptor("teacher", "load-weights", *arguments, "--json")
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def test_a_folder_is_loaded_into_all_endpoints(urls: list[str], folders: list[Path]) -> None:
    done = load(str(folders[1]), *urls)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["teacher"] == "own" and said["bytes"] > 2 * (folders[1] / "model.safetensors").stat().st_size * 0.9
    wanted = HfBackend(folders[1]).score(asked(), lambda: None)
    for url in urls:
        with TeacherClient(url, KEY) as client:
            scores = client.score(asked())
            np.testing.assert_allclose(scores.logprob_T, wanted.logprob_T, atol=1e-4)
            assert scores.stamp.weights_version == said["weights_version"] == client.card().weights_version


def test_a_refusal_reaches_whoever_is_still_sending(urls: list[str], folders: list[Path]) -> None:
    with TeacherClient(urls[0], KEY) as client:
        client.load_weights(folders[0])
        live = client.card()
        with pytest.raises(Conflict, match="is not above"):
            client.load_weights(folders[1], version=1)
        with pytest.raises(TooLarge, match="bytes that this endpoint takes"):
            client.load_weights({"x": np.zeros(40 << 20, np.float32)})
        weights = load_file(folders[1] / "model.safetensors")
        weights["model.norm.weight"][0] = np.nan
        with pytest.raises(Invalid, match=r"'model\.norm\.weight' holds NaN"):
            client.load_weights(weights)
        assert client.card() == live


def test_a_folder_of_another_model_is_not_sent(urls: list[str], tmp_path: Path) -> None:
    other = tiny_model_folder(tmp_path / "other", vocab=40)
    done = load(str(other), urls[0])
    assert done.returncode == 2 and "another tokenizer than the teacher own" in done.stderr
    done = load(str(tmp_path / "nowhere"), urls[0])
    assert done.returncode == 2 and "there is no" in done.stderr
