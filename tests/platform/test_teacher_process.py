"""A teacher as a process of its own, started as users start it: the `openai` client, health under load, a clean end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from openai import APIStatusError, AuthenticationError, OpenAI, UnprocessableEntityError
from openai.types.chat import ChatCompletionMessageParam

from preceptor.endpoint import TeacherClient
from preceptor.errors import Unreachable
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from tests.models import tiny_model_folder
from tests.platform.stack import free_port, preceptor

KEY = "pk-teacher-process-0123456789"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "1 + 1?"}]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    # Large enough for a score that takes a while, small enough to be made in a second.
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), hidden=128, layers=4, max_position_embeddings=4096)
    port = free_port()
    command = preceptor("teacher", "serve", "--model", str(folder), "--name", "math", "--threads", "1")
    environment = {**os.environ, "PRECEPTOR_TEACHER_KEY": KEY, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--port", str(port)], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_ready(process, url)
        yield process, url
    finally:
        process.kill()
        process.wait(10)


def wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + 120
    with TeacherClient(url) as client:
        while time.monotonic() < end:
            assert process.poll() is None, "the teacher ended before it was ready"
            try:
                client.healthz()
                return
            except Unreachable:
                threading.Event().wait(0.1)
    raise AssertionError("the teacher was not ready in two minutes")


@pytest.fixture(scope="module")
def openai(process: tuple[subprocess.Popen[bytes], str]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{process[1]}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_the_openai_client_chats(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="math",
        messages=MESSAGES,
        max_tokens=8,
        seed=1,
        logprobs=True,
        top_logprobs=2,
    )
    choice = answer.choices[0]
    assert isinstance(choice.message.content, str) and choice.message.role == "assistant"
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert answer.usage is not None and answer.usage.completion_tokens == len(choice.logprobs.content)


def test_the_openai_client_streams_the_same_chat(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(model="math", messages=MESSAGES, max_tokens=8, seed=1)
    stream = openai.chat.completions.create(
        model="math",
        messages=MESSAGES,
        max_tokens=8,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    events = list(stream)
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    assert events[-1].usage == whole.usage


def test_the_openai_client_completes(openai: OpenAI) -> None:
    answer = openai.completions.create(model="math", prompt="1 + 1 =", max_tokens=4, logprobs=3, n=2, seed=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.token_logprobs is not None
    assert all(value <= 0 for value in answer.choices[0].logprobs.token_logprobs)
    streamed = openai.completions.create(model="math", prompt="1 + 1 =", max_tokens=4, seed=0, stream=True)
    assert "".join(event.choices[0].text for event in streamed) == answer.choices[0].text


def test_the_openai_client_lists_models(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == ["math"]


def test_the_openai_client_sees_errors_as_its_own(openai: OpenAI, process: tuple[object, str]) -> None:
    with pytest.raises(UnprocessableEntityError, match="max_tokens"):
        openai.completions.create(model="math", prompt="1", max_tokens=100_000)
    with pytest.raises(APIStatusError, match="this teacher is 'math'"):
        openai.completions.create(model="gpt-5", prompt="1")
    with (
        OpenAI(base_url=f"{process[1]}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(AuthenticationError),
    ):
        other.models.list()


def long_request(completions: int) -> ScoreRequest:
    rng = np.random.default_rng(0)
    return ScoreRequest(
        contexts=[rng.integers(4, 60, 1024).astype(np.int32)],
        completions=[rng.integers(4, 60, 64).astype(np.int32) for _ in range(completions)],
        context_of=np.zeros(completions, dtype=np.int32),
        support=Support.FULL,
    )


def test_health_answers_while_a_long_score_runs(process: tuple[object, str]) -> None:
    """Answers that came after the score had begun and before it was done: work in hand blocks nobody."""
    with TeacherClient(process[1], KEY) as client, ThreadPoolExecutor() as threads:
        scoring = threads.submit(client.score, long_request(96))
        while b"preceptor_teacher_queue 1.0" not in metrics(process[1]):
            assert not scoring.done(), "too short a score to prove anything"
        meanwhile = 0
        while not scoring.done():
            assert httpx.get(f"{process[1]}/healthz").text == "ok"
            meanwhile += not scoring.done()
        scoring.result()
        assert meanwhile >= 5


def test_a_stop_finishes_what_was_taken_and_ends_cleanly(process: tuple[subprocess.Popen[bytes], str]) -> None:
    with TeacherClient(process[1], KEY) as client, ThreadPoolExecutor() as threads:
        scoring = threads.submit(client.score, long_request(16))
        while b"preceptor_teacher_queue 1.0" not in metrics(process[1]):
            assert not scoring.done()
        process[0].send_signal(signal.SIGTERM)
        assert scoring.result(60).logprob_T.shape == (16 * 64,)
        assert process[0].wait(30) in (0, -signal.SIGTERM)


def metrics(url: str) -> bytes:
    return httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).content
