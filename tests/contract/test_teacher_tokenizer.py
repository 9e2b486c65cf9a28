"""`GET /v1/tokenizer`: what the card names is what is served, and what is served is what the ids belong to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.errors import Corrupt, NotFound, TeacherRefused
from preceptor.fingerprint import fingerprint_of
from preceptor.pool import TeacherPool
from preceptor.wire.runs import TeacherEndpoint
from preceptor.wire.teachers import Card
from preceptor_services.teacher.backends.hf import HfBackend
from tests.contract.teaching import KEY, URL, Teaching, table, teaching
from tests.models import tiny_model_folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teaching]:
    with teaching(HfBackend(tiny_model_folder(tmp_path_factory.mktemp("model")))) as taught:
        yield taught


def pool(taught: Teaching, cache: Path, card: Card | None = None) -> TeacherPool:
    endpoint = TeacherEndpoint(name="math", url=URL, key_env="MATH_KEY", card=card or taught.client.card())
    return TeacherPool({"expert": endpoint}, cache, transport=taught.bridge)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATH_KEY", KEY)


def test_the_card_names_what_is_served(taught: Teaching, tmp_path: Path) -> None:
    card = taught.client.card()
    answer = taught.http.get("/v1/tokenizer")
    assert answer.headers["ETag"] == f'"{card.tokenizer_file}"'
    assert answer.headers["Content-Type"] == "application/json"
    file = pool(taught, tmp_path).tokenizer("expert")
    assert fingerprint_of(file) == card.tokenizer.fingerprint
    assert file.special["eos_token"] == "<|im_end|>" and file.chat_template


def test_what_is_known_is_not_sent_again(taught: Teaching) -> None:
    known = {"If-None-Match": f'"{taught.client.card().tokenizer_file}"'}
    assert taught.http.get("/v1/tokenizer", headers=known).status_code == 304


def test_it_takes_the_key(taught: Teaching) -> None:
    assert taught.http.get("/v1/tokenizer", headers={"Authorization": "Bearer no"}).status_code == 401


def test_a_teacher_without_one_says_so(tmp_path: Path) -> None:
    with teaching(table()) as taught:
        assert taught.client.card().tokenizer_file is None
        with pytest.raises(NotFound, match="no tokenizer to give"):
            taught.client.tokenizer()
        with pytest.raises(TeacherRefused, match="Teacher 'math' serves no tokenizer"):
            pool(taught, tmp_path).tokenizer("expert")


def test_another_tokenizer_than_the_card_s_is_refused(
    taught: Teaching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, hash = taught.client.tokenizer()
    asking = pool(taught, tmp_path)
    monkeypatch.setattr("preceptor.endpoint.TeacherClient.tokenizer", lambda self: (file, "sha256:" + "0" * 64))
    with pytest.raises(TeacherRefused, match="serves another tokenizer than its card names"):
        asking.tokenizer("expert")
    assert hash == taught.client.card().tokenizer_file


def test_something_else_is_no_tokenizer(taught: Teaching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taught.client, "_get", lambda path, limit: b'{"tokenizer": 3}')
    with pytest.raises(Corrupt, match="is not a tokenizer"):
        taught.client.tokenizer()
