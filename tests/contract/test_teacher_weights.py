"""Other weights for a teacher that runs: what fits is live between two requests, what does not changes nothing."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from preceptor.endpoint import TeacherClient
from preceptor.errors import Conflict, Invalid, NotFound, Overloaded, PreceptorError, TooLarge
from preceptor.tensors import Tensor
from preceptor.weights import body_of
from preceptor.wire.score import Numbers, ScoreRequest, Scores
from preceptor.wire.teachers import Support
from preceptor.wire.weights import WeightsKind
from preceptor_services.teacher.app import create_teacher_app
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_services.teacher.settings import TeacherSettings
from tests.contract.teaching import KEY, URL, Slow, Teaching, asked, table, teaching
from tests.models import tiny_model_folder

FRAME = {"Content-Type": "application/x-safetensors"}
Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


def head_hash(backend: HfBackend) -> str:
    assert backend.about.head is not None
    return backend.about.head.hash


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same model with four sets of weights; head and embedding are two tensors."""
    root = tmp_path_factory.mktemp("models")
    return [tiny_model_folder(root / f"v{seed}", seed=seed, tie_word_embeddings=False) for seed in range(4)]


@pytest.fixture
def taught(folders: list[Path]) -> Iterator[Teaching]:
    with teaching(HfBackend(folders[0], prefix_bytes=1 << 24), teacher_takes_weights=True) as taught:
        yield taught


def long_request(**more: Any) -> ScoreRequest:
    """Behind a context that is long enough to be held."""
    rng = np.random.default_rng(3)
    return asked(
        contexts=[rng.integers(4, 60, 200).tolist()],
        completions=[rng.integers(4, 60, length).tolist() for length in (9, 0, 30)],
        **more,
    )


def reference(folder: Path, request: ScoreRequest) -> Numbers:
    return HfBackend(folder).score(request, lambda: None)


def same(found: Numbers, wanted: Numbers, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(found.logprob_T, wanted.logprob_T, atol=atol, rtol=0)


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_a_version_is_live_with_its_number_hash_head_and_none_of_the_old_prefixes(
    taught: Teaching, folders: list[Path]
) -> None:
    client, request = taught.client, long_request(support=Support.FULL)
    card = client.card()
    assert (card.moves, card.weights_version) == (True, 0)
    client.score(request)
    assert client.score(request).stamp.prefix_hits > 0
    loaded = client.load_weights(folders[1], version=5)
    scores, card = client.score(request), client.card()
    assert scores.stamp.prefix_hits == 0, "a prefix of another version"
    same(scores, reference(folders[1], request))
    assert loaded.weights_version == card.weights_version == scores.stamp.weights_version == 5
    assert card.head is not None and loaded.head_hash == card.head.hash == scores.stamp.head_hash
    head = client.head()
    assert head.hash == loaded.head_hash
    np.testing.assert_array_equal(head.weight_VD, weights_of(folders[1])["lm_head.weight"])
    assert loaded.weights_hash == card.weights_hash == HfBackend(folders[1]).about.weights_hash
    assert client.load_weights(weights_of(folders[0])).weights_version == 6
    assert client.card().weights_hash == HfBackend(folders[0]).about.weights_hash, "however it came to them"
    same(client.score(request), reference(folders[0], request))


def test_a_sharded_folder_is_one_body(taught: Teaching, folders: list[Path], tmp_path: Path) -> None:
    weights = weights_of(folders[2])
    for path in folders[2].iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, mine in parts.items():
        (tmp_path / file).write_bytes(save({name: weights[name] for name in mine}))
    index = {"weight_map": {name: file for file, mine in parts.items() for name in mine}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = taught.client.load_weights(tmp_path)
    assert loaded.weights_hash == HfBackend(folders[2]).about.weights_hash
    same(taught.client.score(asked()), reference(folders[2], asked()))


def test_bfloat16_is_widened(taught: Teaching, folders: list[Path]) -> None:
    from preceptor.narrow import from_bf16, to_bf16

    bits = {name: to_bf16(value) for name, value in weights_of(folders[1]).items()}
    taught.client.load_weights({name: Tensor("BF16", value) for name, value in bits.items()})
    head = taught.client.head()
    np.testing.assert_array_equal(head.weight_VD, from_bf16(bits["lm_head.weight"]))


def test_a_narrow_teacher_rounds_what_it_is_sent(folders: list[Path]) -> None:
    """As if it had been started with the folder."""
    with teaching(HfBackend(folders[0], dtype="bfloat16"), teacher_takes_weights=True) as taught:
        taught.client.load_weights(folders[1])
        other = HfBackend(folders[1], dtype="bfloat16")
        assert taught.client.head().hash == head_hash(other)
        wanted = other.score(long_request(), lambda: None)
        np.testing.assert_array_equal(taught.client.score(long_request()).logprob_T, wanted.logprob_T)


class Halting(HfBackend):
    """Stops in the middle of a score that asks for it, until it may go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def advance(self, parts: Any) -> Any:
        self.begun.set()
        assert self.go_on.wait(30)
        return super().advance(parts)


def test_a_request_in_flight_is_finished_by_the_version_it_began_with(folders: list[Path]) -> None:
    backend = Halting(folders[0])
    with teaching(backend, teacher_takes_weights=True) as taught, ThreadPoolExecutor() as threads:
        client = taught.client
        first = threads.submit(client.score, long_request(support=Support.FULL))
        assert backend.begun.wait(10)
        loading = threads.submit(client.load_weights, folders[1])
        pinned = threads.submit(client.score, asked(weights_version=0))
        scheduler = taught.app.state.service.scheduler
        while not (scheduler._swaps and scheduler.depth == 2):
            threading.Event().wait(0.005)
        assert client.card().weights_version == 0 and not loading.done(), "not under a request"
        backend.go_on.set()
        loaded, scores = loading.result(30), first.result(30)
        assert scores.stamp.weights_version == 0 and loaded.weights_version == 1
        assert scores.stamp.head_hash == head_hash(HfBackend(folders[0]))
        same(scores, reference(folders[0], long_request()))
        with pytest.raises(Conflict, match="0 is gone; this teacher is at 1"):
            pinned.result(30)
        assert client.score(asked(weights_version=1)).stamp.weights_version == 1


def test_scores_before_during_and_after_swaps_are_those_of_the_version_in_their_stamps(folders: list[Path]) -> None:
    requests = [asked(), long_request(), asked(contexts=((9, 8, 7, 6),), completions=((5, 4, 3),))]
    wanted = {
        (v, r): reference(folder, request) for v, folder in enumerate(folders) for r, request in enumerate(requests)
    }
    stop = threading.Event()
    found: list[tuple[int, Scores]] = []

    def learner(taught: Teaching, index: int) -> None:
        with TeacherClient(URL, KEY, transport=taught.bridge) as client:
            while not stop.is_set():
                found.append((index, client.score(requests[index])))

    with teaching(HfBackend(folders[0]), teacher_takes_weights=True) as taught, ThreadPoolExecutor() as threads:
        learners = [threads.submit(learner, taught, index) for index in range(len(requests))]
        try:
            for version in (1, 2, 3, 4, 5, 6, 7):
                seen = len(found)
                while len(found) < seen + len(requests):  # some between two swaps, whatever else runs here
                    assert not any(each.done() for each in learners)
                    threading.Event().wait(0.001)
                taught.client.load_weights(folders[version % 4], version=version)
        finally:
            stop.set()
        for each in learners:
            each.result(30)
    assert len({scores.stamp.weights_version for _, scores in found}) >= 4
    heads = {head_hash(HfBackend(folder)): v for v, folder in enumerate(folders)}
    for index, scores in found:
        version = scores.stamp.weights_version % 4
        same(scores, wanted[version, index])
        assert scores.stamp.head_hash is not None and heads[scores.stamp.head_hash] == version


def adapter_of(folder: Path, to: Path, modules: list[str], seed: int, **config: Any) -> Path:
    """What peft writes, with a B that is not zero; and beside it, in `merged`, what peft makes of both."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in a way that is about to go
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(folder)
        wish: Any = LoraConfig(r=3, lora_alpha=7, target_modules=modules, task_type="CAUSAL_LM", **config)
        model = get_peft_model(base, wish)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.3)
        model.save_pretrained(to, save_embedding_layers=False)
        merged: Any = model.merge_and_unload()
    merged.save_pretrained(to / "merged")
    for path in folder.iterdir():
        if path.name.startswith("tokenizer") or path.name == "chat_template.jinja":
            (to / "merged" / path.name).write_bytes(path.read_bytes())
    return to


def test_an_adapter_is_what_peft_merges_and_the_next_one_starts_from_the_base(
    taught: Teaching, folders: list[Path], tmp_path: Path
) -> None:
    client, request = taught.client, long_request(support=Support.FULL)
    first = adapter_of(folders[0], tmp_path / "first", ["q_proj", "down_proj"], seed=1)
    second = adapter_of(folders[0], tmp_path / "second", ["v_proj", "q_proj"], seed=2, use_rslora=True)
    base = client.card()
    loaded = client.load_weights(first)
    assert loaded.changed == 4 and loaded.head_hash == base.head.hash if base.head else None, "the head did not move"
    same(client.score(request), reference(first / "merged", request), atol=1e-5)
    assert client.load_weights(second).changed == 6, "what the first one moved goes back"
    same(client.score(request), reference(second / "merged", request), atol=1e-5)
    again = client.load_weights(first)
    assert again.weights_hash == loaded.weights_hash != base.weights_hash
    client.load_weights(folders[1])
    third = adapter_of(folders[1], tmp_path / "third", ["o_proj"], seed=3)
    client.load_weights(third)
    same(client.score(request), reference(third / "merged", request), atol=1e-5)


def test_an_adapter_is_not_added_to_a_base_that_is_another_or_was_changed(tmp_path: Path) -> None:
    served = tiny_model_folder(tmp_path / "served", tie_word_embeddings=False)
    adapter = adapter_of(served, tmp_path / "adapter", ["q_proj"], seed=1)
    with teaching(HfBackend(served), teacher_takes_weights=True) as taught:
        body = replace(body_of(adapter), base="sha256:" + "0" * 64)
        with pytest.raises(Conflict, match="the last full weights are") as caught:
            taught.client.send_weights(body)
        assert caught.value.problem.field == "base"
        taught.client.send_weights(replace(body, base=taught.client.card().weights_hash))
        tiny_model_folder(served, seed=2, tie_word_embeddings=False)
        with pytest.raises(Conflict, match=r"model\.safetensors was changed since the teacher was started"):
            taught.client.load_weights(adapter)
        assert taught.client.load_weights(served).weights_version == 2
        taught.client.load_weights(adapter)


def test_an_adapter_for_the_head_moves_it(taught: Teaching, folders: list[Path], tmp_path: Path) -> None:
    adapter = adapter_of(folders[0], tmp_path, ["lm_head"], seed=4)
    before = taught.client.card()
    loaded = taught.client.load_weights(adapter)
    assert before.head is not None and loaded.head_hash != before.head.hash
    merged = weights_of(tmp_path / "merged")["lm_head.weight"]
    np.testing.assert_allclose(taught.client.head().weight_VD, merged, atol=1e-6)


def without(weights: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in weights.items() if name not in names}


def poisoned(weights: dict[str, np.ndarray], value: float) -> dict[str, np.ndarray]:
    wrong = weights["model.norm.weight"].copy()
    wrong[3] = value
    return {**weights, "model.norm.weight": wrong}


def lora(down: tuple[int, ...], up: tuple[int, ...], name: str = Q) -> dict[str, np.ndarray]:
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    return {
        f"{stem}.lora_A.weight": np.ones(down, np.float32),
        f"{stem}.lora_B.weight": np.ones(up, np.float32),
    }


BAD: list[tuple[str, Callable[[dict[str, np.ndarray]], bytes], int, str]] = [
    ("", lambda w: b"", 400, "0 bytes"),
    ("", lambda w: b"\xff" * 64, 400, "header claims"),
    ("", lambda w: save(w)[:-1], 400, "offsets outside|end at byte"),
    ("", lambda w: save(w) + b"\0", 400, "end at byte"),
    ("", lambda w: save(without(w, Q)), 422, f"has no '{Q}'"),
    ("", lambda w: save({**w, "more": w[Q]}), 422, "this model has not, 'more'"),
    ("", lambda w: save({**w, DOWN: w[DOWN].T.copy()}), 422, "this model's is"),
    ("", lambda w: save({**w, Q: w[Q].astype(np.int32)}), 422, "is I32; weights are"),
    ("", lambda w: save({**w, Q: w[Q].astype(np.float64)}), 422, "is F64; weights are"),
    ("", lambda w: save(poisoned(w, np.nan)), 422, "'model.norm.weight' holds NaN"),
    ("", lambda w: save(poisoned(w, np.inf)), 422, "'model.norm.weight' holds NaN or an infinity"),
    ("", lambda w: save({"other": w[Q]}), 422, "and 20 more|has no"),
    ("scale=2", save, 422, "scale"),
    ("kind=half", save, 422, "kind"),
    ("version=0", save, 422, "version"),
    ("kind=lora", lambda w: save(lora((2, 32), (32, 2))), 422, "scale: an adapter needs"),
    ("kind=lora&scale=nan", lambda w: save(lora((2, 32), (32, 2))), 422, "scale"),
    ("kind=lora&scale=1", save, 422, "no matrix of a LoRA adapter"),
    ("kind=lora&scale=1", lambda w: save({}), 422, "no matrices"),
    ("kind=lora&scale=1", lambda w: save(lora((2, 31), (32, 2))), 422, "takes \\[rank, 32\\]"),
    ("kind=lora&scale=1", lambda w: save(lora((2, 32), (32, 3))), 422, "takes \\[rank, 32\\]"),
    ("kind=lora&scale=1", lambda w: save(lora((2, 32), (32, 2), "x.weight")), 422, "'x.weight', which this model"),
    ("kind=lora&scale=1", lambda w: save(lora((2, 32), (32, 2), "model.norm.weight")), 422, "which this model has not"),
    ("kind=lora&scale=1", lambda w: save(dict([lora((2, 32), (32, 2)).popitem()])), 422, "has no lora_A"),
]


@pytest.mark.parametrize(("query", "body", "status", "sentence"), BAD)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    taught: Teaching,
    folders: list[Path],
    query: str,
    body: Callable[[dict[str, np.ndarray]], bytes],
    status: int,
    sentence: str,
) -> None:
    import re

    before, was = taught.client.card(), taught.client.score(asked())
    answer = taught.http.post(f"/v1/weights?{query}", content=body(weights_of(folders[1])), headers=FRAME)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert re.search(sentence, answer.json()["detail"]), answer.json()
    assert taught.client.card() == before
    np.testing.assert_array_equal(taught.client.score(asked()).logprob_T, was.logprob_T)
    assert not list(taught.app.state.service.loader.folder.iterdir()), "the body is not kept"


def test_a_number_that_is_not_above_the_live_one_is_stale(taught: Teaching, folders: list[Path]) -> None:
    taught.client.load_weights(folders[1], version=3)
    for stale in (1, 3):
        with pytest.raises(Conflict, match=f"{stale} is not above 3"):
            taught.client.load_weights(folders[2], version=stale)
    same(taught.client.score(asked()), reference(folders[1], asked()))


def test_a_body_is_bounded_by_the_model_and_its_length_need_not_be_told(taught: Teaching) -> None:
    most = taught.app.state.service.loader.max_bytes
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 2 * most:
            sent += 1 << 20
            yield bytes(1 << 20)

    answer = taught.http.post("/v1/weights", content=chunks(), headers=FRAME)
    assert answer.status_code == 413 and str(most) in answer.json()["detail"]
    assert not list(taught.app.state.service.loader.folder.iterdir())
    told = taught.http.post("/v1/weights", content=b"", headers={**FRAME, "Content-Length": str(most + 1)})
    assert told.status_code == 413
    with pytest.raises(TooLarge):
        taught.client.load_weights({"x": np.zeros(most // 4 + 8, np.float32)})


def test_only_one_version_is_loaded_at_a_time(folders: list[Path]) -> None:
    backend = Halting(folders[0])
    with teaching(backend, teacher_takes_weights=True) as taught, ThreadPoolExecutor() as threads:
        scoring = threads.submit(taught.client.score, asked())
        assert backend.begun.wait(10)
        loading = threads.submit(taught.client.load_weights, folders[1])
        while not taught.app.state.service.scheduler._swaps:
            threading.Event().wait(0.005)
        with pytest.raises(Overloaded, match="is loading other weights"):
            taught.client.load_weights(folders[2])
        backend.go_on.set()
        assert loading.result(30).weights_version == 1 and scoring.result(30).stamp.weights_version == 0


def test_a_full_queue_does_not_keep_weights_out(folders: list[Path]) -> None:
    backend = Halting(folders[0])
    with (
        teaching(backend, teacher_takes_weights=True, teacher_max_queue=1) as taught,
        ThreadPoolExecutor() as threads,
    ):
        scoring = threads.submit(taught.client.score, asked())
        assert backend.begun.wait(10)
        loading = threads.submit(taught.client.load_weights, folders[1])
        while not taught.app.state.service.scheduler._swaps:
            threading.Event().wait(0.005)
        backend.go_on.set()
        assert loading.result(30).weights_version == 1 and scoring.result(30).stamp.weights_version == 0


def test_another_form_of_body_is_refused(taught: Teaching) -> None:
    answer = taught.http.post("/v1/weights", content=b"{}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 415


def test_who_takes_no_weights_says_so(folders: list[Path]) -> None:
    with teaching(HfBackend(folders[0])) as taught:
        assert not taught.client.card().moves
        with pytest.raises(NotFound, match=r"takes no weights.*--takes-weights"):
            taught.client.load_weights(folders[1])
    with pytest.raises(Invalid, match="table 1 cannot load other weights"):
        create_teacher_app(table(), TeacherSettings.model_validate({"teacher_key": KEY, "teacher_takes_weights": True}))


def test_weights_need_the_key(taught: Teaching) -> None:
    answer = httpx.Client(base_url=URL, transport=taught.bridge).post("/v1/weights", content=b"x", headers=FRAME)
    assert answer.status_code == 401


def test_a_frozen_head_is_declared_and_kept(folders: list[Path], tmp_path: Path) -> None:
    settings = {"teacher_takes_weights": True, "teacher_frozen_head": True}
    with teaching(HfBackend(folders[0]), **settings) as taught:
        card = taught.client.card()
        assert card.moves and card.head is not None and card.head.frozen
        with pytest.raises(Invalid, match=r"'lm_head.weight' belongs to the head, which this teacher declares frozen"):
            taught.client.load_weights(folders[1])
        with pytest.raises(Invalid, match="declares frozen"):
            taught.client.load_weights(adapter_of(folders[0], tmp_path, ["lm_head"], seed=4))
        moved = {**weights_of(folders[1]), "lm_head.weight": weights_of(folders[0])["lm_head.weight"]}
        loaded = taught.client.load_weights(moved)
        assert (loaded.weights_version, loaded.head_hash) == (1, card.head.hash)


def test_a_tied_head_may_be_left_out_or_said_twice(tmp_path: Path) -> None:
    one, two = (tiny_model_folder(tmp_path / str(seed), seed=seed) for seed in range(2))
    weights = weights_of(two)
    assert "lm_head.weight" not in weights
    embedding = weights["model.embed_tokens.weight"]
    with teaching(HfBackend(one), teacher_takes_weights=True) as taught:
        first = taught.client.load_weights(two)
        same(taught.client.score(asked()), reference(two, asked()))
        taught.client.load_weights(one)
        assert taught.client.load_weights({**weights, "lm_head.weight": embedding}).weights_hash == first.weights_hash
        same(taught.client.score(asked()), reference(two, asked()))
        with pytest.raises(Invalid, match="are one tensor in this model, and differ here"):
            taught.client.load_weights({**weights, "lm_head.weight": embedding + 1})
        np.testing.assert_array_equal(taught.client.head().weight_VD, embedding)


def test_a_caller_that_goes_away_leaves_nothing(taught: Teaching, folders: list[Path]) -> None:
    class Gone(Exception):
        pass

    def chunks() -> Iterator[bytes]:
        yield bytes(1000)
        raise Gone

    with pytest.raises((Gone, PreceptorError, httpx.TransportError)):
        taught.http.post("/v1/weights", content=chunks(), headers=FRAME)
    assert taught.client.load_weights(folders[1]).weights_version == 1, "nobody's turn is held"


def test_nothing_is_left_when_the_teacher_ends(folders: list[Path], tmp_path: Path) -> None:
    with teaching(HfBackend(folders[0]), teacher_takes_weights=True, teacher_weights_dir=tmp_path / "spool") as taught:
        for version in range(1, 4):
            taught.client.load_weights(folders[version])
            (mine,) = (tmp_path / "spool").iterdir()
            assert f"preceptor_teacher_loaded_weights_total {version}.0" in taught.http.get("/metrics").text
            assert [path.name for path in mine.iterdir()] == [f"body-{version}.safetensors"], "the base, and no other"
    assert not list((tmp_path / "spool").iterdir())


def test_an_adapter_that_is_not_plain_is_not_sent(taught: Teaching, folders: list[Path], tmp_path: Path) -> None:
    adapter = adapter_of(folders[0], tmp_path, ["q_proj"], seed=1)
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    for change, why in (
        ({"use_dora": True}, "DoRA"),
        ({"alpha_pattern": {"q": 2}}, "scales differ"),
        ({"r": 0}, "no config"),
    ):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(Invalid, match=why):
            taught.client.load_weights(adapter)
    with pytest.raises(Invalid, match="holds lora weights, not full"):
        taught.client.load_weights(adapter, kind=WeightsKind.FULL)
    with pytest.raises(Invalid, match="there is no"):
        taught.client.load_weights(tmp_path / "nowhere")


def test_a_table_does_not_move() -> None:
    with teaching(Slow()) as taught, pytest.raises(NotFound):
        taught.client.load_weights({"x": np.zeros(3, np.float32)})
