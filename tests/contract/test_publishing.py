"""A run's weights at every endpoint of its teacher: one version everywhere, nobody else's, and what of a head moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file

from preceptor.errors import TeacherRefused, TeacherUnavailable
from preceptor.pool import TeacherPool
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint
from preceptor.wire.teachers import Support
from preceptor.wire.weights import WeightsKind
from preceptor_services.teacher.backends.hf import HfBackend
from tests.clock import Clock
from tests.contract.teaching import KEY, Teaching, asked, table, teaching
from tests.models import tiny_model_folder

FULL = Support.FULL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELF_KEY", KEY)


class Town(httpx.BaseTransport):
    """Several teachers by host; one that is away refuses connections, and one answer may be lost."""

    def __init__(self) -> None:
        self.teachers: dict[str, Teaching] = {}
        self.away = set[str]()
        self.lose_answers = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if host in self.away:
            raise httpx.ConnectError("Connection refused", request=request)
        answer = self.teachers[host].bridge.handle_request(request)
        if request.url.path == "/v1/weights" and self.lose_answers:
            self.lose_answers -= 1
            answer.read()
            raise httpx.ReadError("the line went dead", request=request)
        return answer


@contextmanager
def town(folder: Path, *hosts: str, **settings: Any) -> Iterator[tuple[Town, TeacherEndpoint]]:
    found = Town()
    with ExitStack() as stack:
        for host in hosts:
            backend = HfBackend(folder)
            found.teachers[host] = stack.enter_context(teaching(backend, teacher_takes_weights=True, **settings))
        first, *others = (ReplicaAddress(url=f"http://{host}", key_env="SELF_KEY") for host in hosts)
        yield (
            found,
            TeacherEndpoint(
                name="own",
                url=first.url,
                key_env=first.key_env,
                card=found.teachers[hosts[0]].client.card(),
                replicas=tuple(others),
            ),
        )


def pool_of(found: Town, endpoint: TeacherEndpoint, cache: Path, **more: Any) -> TeacherPool:
    clock = Clock()
    return TeacherPool({"self": endpoint}, cache, transport=found, clock=clock, sleep=clock.sleep, **more)


def moved(folder: Path, by: float, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = load_file(folder / "model.safetensors")
    return {
        name: (value * (1 + by * rng.standard_normal(value.shape))).astype(np.float32)
        for name, value in weights.items()
    }


def logprobs_of(found: Town, host: str) -> np.ndarray:
    return found.teachers[host].client.score(asked()).logprob_T


def test_every_endpoint_has_the_version_before_it_returns(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test", "b.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        pool.score("self", asked())
        sizes = sum(value.nbytes for value in moved(folder, 0.1).values())
        for version in (1, 2):
            assert pool.publish("self", moved(folder, 0.1, seed=version)) == version
            assert {each.client.card().weights_version for each in found.teachers.values()} == {version}
            assert len({each.client.card().weights_hash for each in found.teachers.values()}) == 1
            assert pool.score("self", asked()).stamp.weights_version == version
        ledger = pool.take_ledger()["self"]
        assert ledger.weights_versions == [0, 1, 2] and ledger.weights_bytes > 4 * sizes


def test_arrays_of_another_library_are_taken_as_they_are(folder: Path, tmp_path: Path) -> None:
    import torch

    weights = {name: torch.from_numpy(value) for name, value in moved(folder, 0.1).items()}
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        pool.publish("self", weights)
        head = pool.head("self")
        np.testing.assert_array_equal(head.weight_VD, weights["model.embed_tokens.weight"].numpy())


def test_of_a_head_that_moves_the_change_is_fetched(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        scores = pool.score("self", asked(support=FULL))
        whole = pool.take_ledger()
        head = pool.head("self")
        whole = pool.take_ledger()["self"].head_bytes
        assert whole > head.weight_VD.nbytes and pool.head("self").hash == scores.stamp.head_hash
        assert pool.take_ledger()["self"].head_bytes == 0, "kept on disk"
        # One row of the head moves, then all of it a little.
        weights = load_file(folder / "model.safetensors")
        row = weights["model.embed_tokens.weight"].copy()
        row[7] *= 1.5
        pool.publish("self", {**weights, "model.embed_tokens.weight": row})
        assert pool.score("self", asked(support=FULL)).stamp.head_hash != head.hash
        np.testing.assert_array_equal(pool.head("self").weight_VD, row)
        assert 0 < pool.take_ledger()["self"].head_bytes < whole / 10
        all_ = moved(folder, 1e-4)
        pool.publish("self", all_)
        scores = pool.score("self", asked(support=FULL))
        head = pool.head("self")
        np.testing.assert_array_equal(head.weight_VD, all_["model.embed_tokens.weight"])
        assert 0 < pool.take_ledger()["self"].head_bytes < 0.7 * whole
        # What the scores say is what the hidden states and that head say.
        assert scores.hidden_TD is not None
        logits = scores.hidden_TD.astype(np.float64) @ head.weight_VD.T
        logprob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(logprob[np.arange(3), [4, 5, 6]], scores.logprob_T, atol=1e-4)


def test_the_change_starts_from_a_head_that_another_run_left_on_disk(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    row = weights["model.embed_tokens.weight"].copy()
    row[7] *= 1.5
    with town(folder, "a.test") as (found, endpoint):
        with pool_of(found, endpoint, tmp_path) as before:
            head = before.head("self")
        with pool_of(found, endpoint, tmp_path) as pool:
            assert pool.head("self").hash == head.hash and pool.take_ledger()["self"].head_bytes == 0
            pool.publish("self", {**weights, "model.embed_tokens.weight": row})
            pool.score("self", asked(support=FULL))
            np.testing.assert_array_equal(pool.head("self").weight_VD, row)
            assert 0 < pool.take_ledger()["self"].head_bytes < head.weight_VD.nbytes / 10


def test_a_head_can_be_fetched_while_the_teacher_has_moved_on_and_no_longer(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        stamp = pool.score("self", asked(support=FULL)).stamp
        client = found.teachers["a.test"].client
        client.load_weights(moved(folder, 0.1, seed=1))
        assert pool.head("self", stamp.head_hash).hash == stamp.head_hash, "it keeps those before"
        stamp = pool.score("self", asked(support=FULL)).stamp
        for seed in (2, 3, 4):
            client.load_weights(moved(folder, 0.1, seed=seed))
        with pytest.raises(TeacherRefused, match="is gone, or never was this teacher's"):
            pool.head("self", stamp.head_hash)


def test_only_a_few_heads_are_left_on_disk(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        for seed in range(6):
            pool.publish("self", moved(folder, 0.1, seed=seed))
            pool.score("self", asked(support=FULL))
            pool.head("self")
        assert len(list(tmp_path.iterdir())) == 3


def test_who_cannot_be_reached_is_left_behind_and_not_asked(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test", "b.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        pool.publish("self", moved(folder, 0.1))
        found.away.add("b.test")
        pool.publish("self", moved(folder, 0.2))
        found.away.clear()
        for _ in range(6):
            assert pool.score("self", asked()).stamp.weights_version == 2
        assert found.teachers["b.test"].client.card().weights_version == 1


def test_a_teacher_that_is_away_is_waited_for_and_then_given_up(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path, deadline=30) as pool:
        found.away.add("a.test")
        with pytest.raises(TeacherUnavailable, match=r"took no weights in 30 s.*Connection refused"):
            pool.publish("self", moved(folder, 0.1))
        assert pool.take_ledger()["self"].waited_seconds > 20
        found.away.clear()
        assert pool.publish("self", moved(folder, 0.1)) == 1


def test_a_lost_answer_is_not_taken_for_somebody_else(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        found.lose_answers = 1
        assert pool.publish("self", moved(folder, 0.1)) == 1
        found.lose_answers = 1
        assert pool.publish("self", moved(folder, 0.2)) == 2


def test_two_runs_do_not_move_one_teacher(folder: Path, tmp_path: Path) -> None:
    with (
        town(folder, "a.test") as (found, endpoint),
        pool_of(found, endpoint, tmp_path) as mine,
        pool_of(found, endpoint, tmp_path) as theirs,
    ):
        mine.publish("self", moved(folder, 0.1))
        theirs.publish("self", moved(folder, 0.2))
        with pytest.raises(TeacherRefused, match=r"at weights version 2 where .* about to send 2: somebody else"):
            mine.publish("self", moved(folder, 0.3))


def test_a_teacher_that_was_started_anew_is_noticed(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        pool.publish("self", moved(folder, 0.1))
        pool.publish("self", moved(folder, 0.2))
        with teaching(HfBackend(folder), teacher_takes_weights=True) as anew:
            found.teachers["a.test"] = anew
            with pytest.raises(TeacherRefused, match="answered with weights version 0, and this run has sent it 2"):
                pool.score("self", asked())
            assert pool.publish("self", moved(folder, 0.3)) == 3
            assert pool.score("self", asked()).stamp.weights_version == 3


def test_an_adapter_never_meets_another_base(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    adapter = {
        f"{stem}.lora_A.weight": rng.standard_normal((2, 32)).astype(np.float32),
        f"{stem}.lora_B.weight": rng.standard_normal((32, 2)).astype(np.float32),
    }
    with town(folder, "a.test", "b.test") as (found, endpoint):
        with pool_of(found, endpoint, tmp_path) as pool:
            version = pool.publish("self", adapter, WeightsKind.LORA, 0.5, base=folder)
            assert version == 2 and pool.score("self", asked()).stamp.weights_version == 2
        wanted = logprobs_of(found, "a.test")
        # Another run leaves its own weights behind at one of them.
        found.teachers["a.test"].client.load_weights(moved(folder, 0.5))
        assert np.abs(logprobs_of(found, "a.test") - wanted).max() > 1e-3
        with pool_of(found, endpoint, tmp_path) as pool:
            pool.publish("self", adapter, WeightsKind.LORA, 0.5, base=folder)
        for host in ("a.test", "b.test"):
            np.testing.assert_allclose(logprobs_of(found, host), wanted, atol=1e-5)


def test_what_a_teacher_says_of_weights_that_do_not_suit_it_is_passed_on(folder: Path, tmp_path: Path) -> None:
    with town(folder, "a.test") as (found, endpoint), pool_of(found, endpoint, tmp_path) as pool:
        with pytest.raises(TeacherRefused, match=r"'own' refused this run's weights: weights: the body has no 'model"):
            pool.publish("self", {"x": np.zeros(3, np.float32)})
        assert pool.score("self", asked()).stamp.weights_version == 0
    with teaching(table()) as taught:
        found = Town()
        found.teachers["t.test"] = taught
        endpoint = TeacherEndpoint(name="own", url="http://t.test", key_env="SELF_KEY", card=taught.client.card())
        with pool_of(found, endpoint, tmp_path) as pool, pytest.raises(TeacherRefused, match="takes no weights"):
            pool.publish("self", {"x": np.zeros(3, np.float32)})
