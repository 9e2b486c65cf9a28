"""The backends in front of an engine: our protocol outside, a recorded engine inside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from preceptor.adapters.sglang import SglangClient
from preceptor.adapters.vllm import VllmClient
from preceptor.errors import Invalid, ServerFault
from preceptor.fingerprint import tokenizer_card
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor_services.teacher.backends.sglang import SglangBackend
from preceptor_services.teacher.backends.vllm import VllmBackend
from tests.contract.stock_doubles import PROMPT, STOCK, Sglang, Vllm, replies
from tests.contract.teaching import teaching
from tests.models import tiny_model_folder

URL = "http://127.0.0.1:1"


class Reloading(Vllm):
    """A vLLM server that takes weights where it is told to."""

    takes = True

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.takes and request.url.path in ("/collective_rpc", "/reset_prefix_cache"):
            self.asked.append((request.url.path, json.loads(request.content)))
            return replies(self.records["reload"])
        return super().__call__(request)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a head of its own."""
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "mine", tie_word_embeddings=False)


@pytest.fixture
def server() -> Reloading:
    return Reloading()


@pytest.fixture
def backend(server: Reloading, folder: Path) -> Iterator[VllmBackend]:
    client = VllmClient(URL, None, STOCK, transport=httpx.MockTransport(server))
    with VllmBackend(client, folder, device="cpu", dtype="float32") as opened:
        # What a folder's tokenizer is held against, for a server whose recorded ids are another's.
        opened._card = opened._card.model_copy(update={"tokenizer": tokenizer_card(folder)})
        yield opened


def asked() -> ScoreRequest:
    return ScoreRequest(
        contexts=[np.array(PROMPT[:3], dtype=np.int32)],
        completions=[np.array(PROMPT[3:], dtype=np.int32)],
        context_of=np.array([0], dtype=np.int32),
        support=Support.TOPK,
        k=2,
    )


def test_our_protocol_is_outside(backend: VllmBackend) -> None:
    with teaching(backend, teacher_name="fronted") as taught:
        card, scores = taught.client.card(), taught.client.score(asked())
    assert (card.teacher, card.engine, card.device, card.dtype) == ("fronted", "vllm 0.32.0", "cpu", "float32")
    assert (card.supports, card.limits.max_k, card.generates) == ((Support.SAMPLED, Support.TOPK), 20, False)
    assert card.tokenizer_file is not None and card.head is None
    assert scores.stamp.teacher == "fronted"
    assert scores.ids_TK is not None and scores.ids_TK.tolist() == [[352, 639], [841, 447], [609, 822]]


def test_weights_are_counted_and_asked_for(backend: VllmBackend, server: Reloading, folder: Path) -> None:
    assert backend.reload(folder) == backend.about.weights_version == 1
    paths = [path for path, _ in server.asked[-2:]]
    assert paths == ["/collective_rpc", "/reset_prefix_cache"]
    assert server.asked[-2][1] == {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}


def test_weights_that_cannot_be_loaded_change_nothing(
    backend: VllmBackend, server: Reloading, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match="another tokenizer"):
        backend.reload(tiny_model_folder(tmp_path / "other", vocab=40))
    tied = shutil.copytree(folder, tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(Invalid, match="tied to its embedding"):
        backend.reload(tied)
    lora = shutil.copytree(folder, tmp_path / "lora")
    (lora / "adapter_config.json").write_text("{}")
    with pytest.raises(Invalid, match=r"LoRA adapter.*Merge it"):
        backend.reload(lora)
    server.takes = False
    with pytest.raises(Invalid, match="VLLM_SERVER_DEV_MODE"):
        backend.reload(folder)
    assert backend.about.weights_version == 0


def test_an_engine_that_is_gone_is_a_fault_with_its_name(backend: VllmBackend, server: Reloading) -> None:
    server.down = True
    with pytest.raises(ServerFault, match="The vLLM engine behind this teacher does not answer"):
        backend.score(asked(), lambda: None)


def test_sglang_reloads_through_its_own_call(folder: Path) -> None:
    server = Sglang()
    client = SglangClient(URL, None, STOCK, transport=httpx.MockTransport(server))
    with SglangBackend(client, folder, device="cuda", dtype="bfloat16") as backend:
        assert (backend.about.device, backend.about.dtype) == ("cpu", "float32"), "what the engine says goes first"
        backend._card = backend._card.model_copy(update={"tokenizer": tokenizer_card(folder)})
        assert backend.reload(folder) == 1
    assert server.asked[-1] == ("/update_weights_from_disk", {"model_path": str(folder.resolve())})
