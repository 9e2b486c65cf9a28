"""The backends in front of an engine: our protocol outside, a recorded engine inside."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file

from preceptor.adapters.sglang import SglangClient
from preceptor.adapters.vllm import VllmClient
from preceptor.errors import Invalid, NotFound, ServerFault
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor.wire.weights import WeightsKind
from preceptor_services.teacher.backends.sglang import SglangBackend
from preceptor_services.teacher.backends.vllm import VllmBackend
from tests.contract.stock_doubles import PROMPT, STOCK, Sglang, Vllm, replies
from tests.contract.teaching import teaching
from tests.models import tiny_model_folder

URL = "http://127.0.0.1:1"


class Reloading(Vllm):
    """A vLLM server that takes weights where it is told to."""

    takes, breaks = True, False

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[dict[str, np.ndarray]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.takes and request.url.path in ("/collective_rpc", "/reset_prefix_cache"):
            if self.breaks:
                return httpx.Response(500, json={"error": {"message": "out of memory"}})
            said = json.loads(request.content)
            self.asked.append((request.url.path, said))
            if "kwargs" in said:
                given = Path(said["kwargs"]["weights_path"])
                assert {"config.json", "tokenizer.json"} <= {path.name for path in given.iterdir()}
                self.loaded.append(load_file(given / "model.safetensors"))
            return replies(self.records["reload"])
        return super().__call__(request)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a head of its own."""
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "mine", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "other", seed=1, tie_word_embeddings=False)


@pytest.fixture
def server() -> Reloading:
    return Reloading()


@pytest.fixture
def backend(server: Reloading, folder: Path) -> Iterator[VllmBackend]:
    client = VllmClient(URL, None, STOCK, transport=httpx.MockTransport(server))
    with VllmBackend(client, folder, device="cpu", dtype="float32") as opened:
        yield opened


def asked() -> ScoreRequest:
    return ScoreRequest(
        contexts=[np.array(PROMPT[:3], dtype=np.int32)],
        completions=[np.array(PROMPT[3:], dtype=np.int32)],
        context_of=np.array([0], dtype=np.int32),
        support=Support.TOPK,
        k=2,
    )


def test_an_engine_is_given_several_requests_at_once(folder: Path) -> None:
    together = threading.Barrier(3)

    class Batching(Reloading):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/inference/v1/generate" and self.gather:
                together.wait(20)
            return super().__call__(request)

        gather = False

    server = Batching()
    client = VllmClient(URL, None, STOCK, transport=httpx.MockTransport(server))
    with VllmBackend(client, folder, device="cpu", dtype="float32") as backend, teaching(backend) as taught:
        server.gather = True
        with ThreadPoolExecutor(3) as threads:
            answers = list(threads.map(lambda _: taught.client.score(asked()), range(3)))
    assert all(np.array_equal(each.logprob_T, answers[0].logprob_T) for each in answers)


def test_our_protocol_is_outside(backend: VllmBackend) -> None:
    with teaching(backend, teacher_name="fronted") as taught:
        card, scores = taught.client.card(), taught.client.score(asked())
    assert (card.teacher, card.engine, card.device, card.dtype) == ("fronted", "vllm 0.32.0", "cpu", "float32")
    assert (card.supports, card.limits.max_k, card.generates) == ((Support.SAMPLED, Support.TOPK), 20, False)
    assert card.tokenizer_file is not None and card.head is None
    assert scores.stamp.teacher == "fronted"
    assert scores.ids_TK is not None and scores.ids_TK.tolist() == [[352, 639], [841, 447], [609, 822]]


def test_weights_are_written_where_the_engine_reads_them(
    backend: VllmBackend, server: Reloading, other: Path, tmp_path: Path
) -> None:
    with teaching(backend, teacher_takes_weights=True, teacher_weights_dir=tmp_path / "spool") as taught:
        before = taught.client.card().weights_hash
        assert taught.client.card().moves
        loaded = taught.client.load_weights(other, version=7)
        assert (loaded.weights_version, loaded.head_hash) == (7, None)
        assert taught.client.score(asked()).stamp.weights_version == 7
        assert taught.client.card().weights_hash == loaded.weights_hash != before
    paths = [path for path, _ in server.asked]
    assert "/collective_rpc" in paths and paths[paths.index("/collective_rpc") + 1] == "/reset_prefix_cache"
    (given,) = server.loaded
    assert given.keys() == load_file(other / "model.safetensors").keys()
    assert all(np.array_equal(given[name], value) for name, value in load_file(other / "model.safetensors").items())
    assert not list((tmp_path / "spool").iterdir()), "nothing is left"


def test_an_adapter_is_merged_before_the_engine_reads_it(
    backend: VllmBackend, server: Reloading, folder: Path, tmp_path: Path
) -> None:
    name = "model.layers.0.self_attn.q_proj"
    base = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    out, in_ = base[f"{name}.weight"].shape
    down, up = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, in_), (out, 2)))
    adapter = {
        f"base_model.model.{name}.lora_A.weight": down,
        f"base_model.model.{name}.lora_B.weight": up,
    }
    with teaching(backend, teacher_takes_weights=True) as taught:
        taught.client.load_weights(adapter, kind=WeightsKind.LORA, scale=0.5)
    (given,) = server.loaded
    np.testing.assert_allclose(given[f"{name}.weight"], base[f"{name}.weight"] + 0.5 * up @ down, atol=1e-6)
    assert all(np.array_equal(given[other], base[other]) for other in base if other != f"{name}.weight")


def test_weights_that_the_engine_cannot_load_change_nothing(
    backend: VllmBackend, server: Reloading, other: Path
) -> None:
    server.takes = False
    with teaching(backend, teacher_takes_weights=True) as taught:
        before = taught.client.card()
        with pytest.raises(Invalid, match="VLLM_SERVER_DEV_MODE"):
            taught.client.load_weights(other)
        assert taught.client.card() == before
        server.takes = True
        assert taught.client.load_weights(other).weights_version == 1


def test_an_engine_that_breaks_off_gives_no_scores_until_it_has_loaded_a_version(
    backend: VllmBackend, server: Reloading, other: Path
) -> None:
    with teaching(backend, teacher_takes_weights=True) as taught:
        server.breaks = True
        with pytest.raises(ServerFault, match="could not load"):
            taught.client.load_weights(other)
        with pytest.raises(ServerFault, match="which ones it has is not known"):
            taught.client.score(asked())
        server.breaks = False
        taught.client.load_weights(other)
        assert taught.client.score(asked()).stamp.weights_version == 1


def test_a_tied_head_is_refused_when_a_teacher_starts_on_a_cpu(server: Reloading, tmp_path: Path) -> None:
    tied = tiny_model_folder(tmp_path / "tied")
    client = VllmClient(URL, None, STOCK, transport=httpx.MockTransport(server))
    with VllmBackend(client, tied, device="cpu", dtype="float32") as backend:
        with (
            pytest.raises(Invalid, match="tied to its embedding"),
            teaching(backend, teacher_takes_weights=True),
        ):
            pass
        with teaching(backend) as taught:
            assert not taught.client.card().moves
            with pytest.raises(NotFound, match="takes no weights"):
                taught.client.load_weights(tied)


def test_an_engine_that_is_gone_is_a_fault_with_its_name(backend: VllmBackend, server: Reloading) -> None:
    server.down = True
    with pytest.raises(ServerFault, match="The vLLM engine behind this teacher does not answer"):
        backend.score(asked(), lambda: None)


def test_sglang_reloads_through_its_own_call(folder: Path, other: Path) -> None:
    server = Sglang()
    client = SglangClient(URL, None, STOCK, transport=httpx.MockTransport(server))
    with SglangBackend(client, folder, device="cuda", dtype="bfloat16") as backend:
        assert (backend.about.device, backend.about.dtype) == ("cpu", "float32"), "what the engine says goes first"
        with teaching(backend, teacher_takes_weights=True) as taught:
            assert taught.client.load_weights(other).weights_version == 1
    path, said = server.asked[-1]
    assert path == "/update_weights_from_disk" and Path(said["model_path"]).name.startswith("version-")
