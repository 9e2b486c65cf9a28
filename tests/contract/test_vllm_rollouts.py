"""Rollouts from a vLLM behind our service, against answers that a real one gave."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from preceptor.adapters.vllm import VllmClient
from preceptor.errors import Invalid, NotFound, PreceptorError, ServerFault
from preceptor.replica import may_pass
from preceptor.wire.write import WriteRequest
from preceptor_services.teacher.backends.vllm import VllmBackend
from tests.contract.stock_doubles import STOCK, Vllm
from tests.contract.teaching import Teaching, teaching
from tests.models import tiny_model_folder

URL = "http://127.0.0.1:1"
END = 258
Choice = dict[str, Any]


class Writing(Vllm):
    """A vLLM server that writes what it wrote when it was recorded."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.spoil: Callable[[Choice], object] = lambda choice: None
        self.reset = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        if request.url.path == "/collective_rpc":
            return httpx.Response(200, json=self.records["reload"]["answer"])
        if request.url.path == "/reset_prefix_cache":
            return httpx.Response(200, json={"success": self.reset})
        if "stop_token_ids" not in body.get("sampling_params", {}):
            return super().__call__(request)
        self.asked.append((request.url.path, body))
        entry = self.records["rollout" if body["sampling_params"]["max_tokens"] > 4 else "rollout_cut"]
        answer = json.loads(json.dumps(entry["answer"]))
        self.spoil(answer["choices"][0])
        return httpx.Response(200, json=answer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "mine", tie_word_embeddings=False)


@pytest.fixture
def server() -> Writing:
    return Writing()


def served(server: Writing, folder: Path) -> VllmBackend:
    client = VllmClient(URL, None, STOCK, transport=httpx.MockTransport(server))
    return VllmBackend(client, folder, device="cpu", dtype="float32")


@pytest.fixture
def taught(server: Writing, folder: Path) -> Iterator[Teaching]:
    with served(server, folder) as backend, teaching(backend, teacher_takes_weights=True) as taught:
        yield taught


def wanted(**changes: Any) -> WriteRequest:
    jobs = [{"prompt": 0, "seed": 2**63 - 1, "max_tokens": 8}, {"prompt": 0, "seed": 5, "max_tokens": 2}]
    fields = {"prompts": [[10, 20, 30, 40]], "jobs": jobs, "ends": [END]}
    return WriteRequest.model_validate({**fields, **changes})


def test_its_tokens_and_what_it_says_of_them(taught: Teaching, server: Writing) -> None:
    assert taught.client.card().writes
    first, second = sorted(taught.client.write(wanted()), key=lambda written: written.job)
    assert (first.token_ids, first.finished) == ((70, 40, 77, 40, END), True)
    assert (second.token_ids, second.finished, second.weights_version) == ((70, 40), False, 0)
    assert second.logprobs == (-1.360485553741455, -0.3487437963485718)
    asked = [body for path, body in server.asked if "stop_token_ids" in body.get("sampling_params", {})]
    recorded = [server.records[name]["body"] for name in ("rollout", "rollout_cut")]
    seeds = {8: 2**63 - 1, 2: 5}
    for body in asked:
        limit = body["sampling_params"]["max_tokens"]
        (like,) = [each for each in recorded if each["sampling_params"]["max_tokens"] == limit]
        assert body == {**like, "sampling_params": {**like["sampling_params"], "seed": seeds[limit]}}


def entries(choice: Choice) -> list[Any]:
    return choice["logprobs"]["content"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda choice: choice.update(logprobs=None), "logprobs: is not a JSON object but null"),
        (lambda choice: entries(choice).pop(), "logprobs: covers 4 positions where 5 were asked for"),
        (lambda choice: entries(choice)[1].update(token_id=41), "log-probability is of 41, and 40 was written"),
        (
            lambda choice: entries(choice)[0].update(logprob=None),
            "token 0 of completion 0: the log-probability is null",
        ),
        (lambda choice: entries(choice)[0].update(logprob=-9999.0), "is stated to be impossible"),
        (lambda choice: entries(choice)[0].update(logprob=math.log(7)), "has the log-probability 1.9459"),
        (lambda choice: choice.update(token_ids=[]), "no token was written"),
        (lambda choice: choice.update(finish_reason="abort"), "does not end where an end token says"),
    ],
)
def test_an_answer_that_is_not_whole_is_no_answer(
    taught: Teaching, server: Writing, spoil: Callable[[Choice], object], why: str
) -> None:
    server.spoil = spoil
    one = wanted(jobs=[{"prompt": 0, "seed": 1, "max_tokens": 8}])
    with pytest.raises(PreceptorError, match=why) as caught:
        list(taught.client.write(one))
    assert not may_pass(caught.value), "asked again, it would say the same"


def test_it_writes_at_temperatures_at_which_its_numbers_are_those_it_draws_with(taught: Teaching) -> None:
    with pytest.raises(Invalid, match=r"untempered log-probabilities, which are not those .* at 0.7"):
        list(taught.client.write(wanted(temperature=0.7)))
    assert len(list(taught.client.write(wanted(temperature=0.0)))) == 2


def test_a_server_without_its_token_in_way_writes_nothing(folder: Path) -> None:
    with served(Writing(token_in=False), folder) as backend, teaching(backend) as taught:
        assert not taught.client.card().writes
        with pytest.raises(NotFound, match="writes no rollouts"):
            list(taught.client.write(wanted()))


def test_a_prefix_cache_that_outlives_its_weights_is_a_fault(taught: Teaching, server: Writing, folder: Path) -> None:
    server.reset = False
    with pytest.raises(ServerFault, match="keeps what it read with the weights before"):
        taught.client.load_weights(folder)
    with pytest.raises(ServerFault, match="which ones it has is not known"):
        list(taught.client.write(wanted()))
    server.reset = True
    version = taught.client.load_weights(folder).weights_version
    assert {each.weights_version for each in taught.client.write(wanted(weights_version=version))} == {version}
