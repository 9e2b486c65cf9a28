"""Text in OpenAI's shapes, in process: what is written, where it stops, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preceptor_services.teacher.backends.hf import HfBackend
from tests.contract.teaching import Slow, Teaching, asked, table, teaching
from tests.models import tiny_model_folder

CHAT: dict[str, Any] = {"model": "teacher", "messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 12}
PLAIN: dict[str, Any] = {"model": "teacher", "prompt": "abc", "max_tokens": 12, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def taught(folder: Path) -> Iterator[Teaching]:
    with teaching(HfBackend(folder), teacher_max_new_tokens=64) as taught:
        yield taught


def test_the_card_says_how_much_it_writes(taught: Teaching) -> None:
    assert taught.client.card().limits.max_new_tokens == taught.client.card().limits.longest_reply == 64


def chat(taught: Teaching, **changes: Any) -> dict[str, Any]:
    answer = taught.http.post("/v1/chat/completions", json={**CHAT, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def plain(taught: Teaching, **changes: Any) -> dict[str, Any]:
    answer = taught.http.post("/v1/completions", json={**PLAIN, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(taught: Teaching, path: str, wish: dict[str, Any]) -> list[dict[str, Any]]:
    with taught.http.stream("POST", path, json={**wish, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_same_seed_writes_the_same_text(taught: Teaching) -> None:
    texts = [plain(taught, seed=seed)["choices"][0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_temperature_zero_is_greedy_whatever_the_seed(taught: Teaching) -> None:
    assert len({plain(taught, temperature=0, seed=seed)["choices"][0]["text"] for seed in range(3)}) == 1


def test_a_narrow_nucleus_is_greedy(taught: Teaching) -> None:
    greedy = plain(taught, temperature=0)["choices"][0]["text"]
    assert plain(taught, top_p=1e-6)["choices"][0]["text"] == greedy


def test_usage_and_reason(taught: Teaching) -> None:
    answer = plain(taught)
    choice, usage = answer["choices"][0], answer["usage"]
    assert usage["prompt_tokens"] == 3 and usage["total_tokens"] == 3 + usage["completion_tokens"]
    assert choice["finish_reason"] == ("length" if usage["completion_tokens"] == 12 else "stop")


def test_text_and_ids_are_the_same_prompt(taught: Teaching, folder: Path) -> None:
    ids = HfBackend(folder).text.encode("abc")
    texts = {plain(taught, prompt=prompt)["choices"][0]["text"] for prompt in ("abc", ids, ["abc"], [ids])}
    assert len(texts) == 1


def test_several_prompts_and_choices(taught: Teaching) -> None:
    choices = plain(taught, prompt=["abc", "x"], n=2)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in choices}) > 1


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(taught: Teaching) -> None:
    whole = plain(taught, max_tokens=40)["choices"][0]["text"]
    stop = whole[5:8]
    choice = plain(taught, max_tokens=40, stop=stop)["choices"][0]
    assert choice["text"] == whole[: whole.find(stop)] and choice["finish_reason"] == "stop"
    streamed = events(taught, "/v1/completions", {**PLAIN, "max_tokens": 40, "stop": ["never", stop]})
    assert "".join(event["choices"][0]["text"] for event in streamed) == choice["text"]


def test_a_stream_is_the_same_text(taught: Teaching) -> None:
    whole = chat(taught, seed=3)
    streamed = events(taught, "/v1/chat/completions", {**CHAT, "seed": 3, "stream_options": {"include_usage": True}})
    parts = [event["choices"][0] for event in streamed if event["choices"]]
    assert "".join(part["delta"]["content"] for part in parts) == whole["choices"][0]["message"]["content"]
    assert [part["finish_reason"] for part in parts][-1] == whole["choices"][0]["finish_reason"]
    assert streamed[-1]["usage"] == whole["usage"] and streamed[-1]["choices"] == []


def test_logprobs_are_those_of_the_scores(taught: Teaching, folder: Path) -> None:
    prompt = HfBackend(folder).text.encode("abc")
    said = plain(taught, prompt=prompt, logprobs=2, temperature=0.5)["choices"][0]["logprobs"]
    written = HfBackend(folder).text.encode("".join(said["tokens"]))
    scores = taught.client.score(asked(contexts=(prompt,), completions=(written,)))
    assert said["token_logprobs"][: len(written)] == pytest.approx(scores.logprob_T.tolist(), abs=1e-3)
    assert all(len(top) <= 2 for top in said["top_logprobs"])


def test_chat_logprobs(taught: Teaching) -> None:
    content = chat(taught, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert all(len(token["top_logprobs"]) == 3 for token in content)
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in content)


def test_without_a_limit_a_chat_may_use_what_there_is(taught: Teaching) -> None:
    answer = taught.http.post("/v1/chat/completions", json={"model": "teacher", "messages": CHAT["messages"]})
    assert 1 <= answer.json()["usage"]["completion_tokens"] <= 64


def test_content_may_come_in_parts(taught: Teaching) -> None:
    parts = [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}]
    message = {"role": "user", "content": parts}
    assert chat(taught, messages=[message], seed=3)["choices"] == chat(taught, seed=3)["choices"]


@pytest.mark.parametrize(
    ("path", "wish", "changes", "status", "says"),
    [
        ("/v1/completions", PLAIN, {"model": "gpt-5"}, 404, "this teacher is 'teacher'"),
        ("/v1/completions", PLAIN, {"prompt": ""}, 422, "prompt"),
        ("/v1/completions", PLAIN, {"prompt": []}, 422, "prompt"),
        ("/v1/completions", PLAIN, {"prompt": [1000]}, 422, "vocabulary"),
        ("/v1/completions", PLAIN, {"prompt": [-1]}, 422, "prompt"),
        ("/v1/completions", PLAIN, {"prompt": [1, "a"]}, 422, "prompt"),
        ("/v1/completions", PLAIN, {"prompt": "a" * 600}, 422, "512"),
        ("/v1/completions", PLAIN, {"max_tokens": 65}, 422, "max_tokens"),
        ("/v1/completions", PLAIN, {"max_tokens": 0}, 422, "max_tokens"),
        ("/v1/completions", PLAIN, {"echo": True}, 422, "echo"),
        ("/v1/completions", PLAIN, {"temperature": -1}, 422, "temperature"),
        ("/v1/completions", PLAIN, {"suffix": "x"}, 422, "suffix: there is no such field"),
        ("/v1/completions", PLAIN, {"stop": [""]}, 422, "stop"),
        ("/v1/completions", PLAIN, {"frequency_penalty": 1}, 422, "frequency_penalty"),
        ("/v1/chat/completions", CHAT, {"tools": []}, 422, "tools: there is no such field"),
        ("/v1/chat/completions", CHAT, {"messages": []}, 422, "messages"),
        ("/v1/chat/completions", CHAT, {"messages": [{"role": "king", "content": "?"}]}, 422, "messages.0.role"),
        ("/v1/chat/completions", CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 422, "me"),
        ("/v1/chat/completions", CHAT, {"top_logprobs": 2}, 422, "top_logprobs"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    taught: Teaching, path: str, wish: dict[str, Any], changes: dict[str, Any], status: int, says: str
) -> None:
    for stream in (False, True):
        answer = taught.http.post(path, json={**wish, **changes, "stream": stream})
        assert answer.status_code == status, answer.text
        assert says in answer.json()["detail"]


def test_a_teacher_that_only_scores_says_so() -> None:
    with teaching(table()) as taught:
        answer = taught.http.post("/v1/completions", json=PLAIN)
        assert answer.status_code == 422 and "scores and does not write" in answer.json()["detail"]
        assert not taught.client.card().generates


def test_the_model_is_listed(taught: Teaching) -> None:
    assert [model["id"] for model in taught.http.get("/v1/models").json()["data"]] == ["teacher"]


class SlowText(Slow):
    """Scores slowly; writes as a real one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.text = HfBackend(folder).text


def test_a_stream_is_refused_before_it_starts_when_the_queue_is_full(folder: Path) -> None:
    slow = SlowText(folder)
    with teaching(slow, teacher_max_queue=1) as taught, ThreadPoolExecutor() as threads:
        scoring = threads.submit(taught.client.score, asked())
        assert slow.started.wait(10)
        answer = taught.http.post("/v1/completions", json={**PLAIN, "prompt": [1], "stream": True})
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        slow.go_on.set()
        scoring.result(10)


def test_closing_a_stream_ends_the_writing(taught: Teaching) -> None:
    with taught.http.stream("POST", "/v1/completions", json={**PLAIN, "max_tokens": 64, "stream": True}) as answer:
        next(answer.iter_lines())
    scheduler = taught.app.state.service.scheduler
    plain(taught, max_tokens=1)  # takes its turn after the stream's
    assert scheduler.depth == 0
