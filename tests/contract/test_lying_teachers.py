"""Servers that are not what they say, registered over real HTTP: each is refused with a sentence of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preceptor.errors import Invalid
from preceptor.fingerprint import fingerprint_of, tokenizer_card, tokenizer_file
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import EndpointCreate, Outcome, Support, Teacher, TeacherCreate, TeacherKind, TeacherState
from preceptor.wire.tokenizers import TokenizerFile, body_hash
from preceptor_services.teacher.backends import Backend, NamedFile
from preceptor_services.teacher.backends.hf import HfBackend
from preceptor_services.teacher.backends.table import TableBackend, hashed
from tests.contract import liars
from tests.contract.conftest import House
from tests.contract.liars import Liar, StockVllm, Tempered, serving, teacher_app
from tests.contract.teaching import KEY, V, table
from tests.models import pairs_tokenizer, tiny_model_folder


@pytest.fixture
def real(database: str, make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> House:
    """A control plane that looks at teachers as it does in earnest."""
    monkeypatch.setenv("LIAR_KEY", KEY)
    return make_house(database, real_teachers=True)


@pytest.fixture
def sqlite_real(tmp_path: Path, make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> House:
    """The same on SQLite, for what the database has no part in."""
    monkeypatch.setenv("LIAR_KEY", KEY)
    return make_house(f"sqlite:///{tmp_path / 'preceptor.db'}", real_teachers=True)


def add(house: House, url: str, name: str = "t") -> Teacher:
    return house.admin.teachers.add(TeacherCreate(name=name, url=url, key_env="LIAR_KEY"))


def refusal(house: House, backend: Backend) -> Invalid:
    """How a server is refused; nothing of it is kept."""
    with serving(teacher_app(backend)) as url, pytest.raises(Invalid) as caught:
        add(house, url)
    assert house.admin.teachers.list() == ()
    assert caught.value.problem.status == 422 and caught.value.field == "url" and caught.value.problem.remedy
    return caught.value


LIES: list[tuple[Callable[[], TableBackend], str, str]] = [
    (lambda: Liar(liars.shifted), "its scores are shifted", "Have entry t score completion token t"),
    (lambda: Tempered(2.0), "at temperature 2: they are tempered", "without temperature and filters"),
    (lambda: Tempered(0.7), "at temperature 0.7: they are tempered", "without temperature and filters"),
    (lambda: Liar(liars.unnormalised), "its probabilities do not sum to one", "log-probabilities over the whole"),
    (lambda: Liar(liars.crowded), "depend on what else is in the request", "padding"),
    (lambda: Liar(liars.not_a_number), "numbers that are no log-probabilities", "dtype"),
]


def test_an_honest_server_is_registered(real: House) -> None:
    with serving(teacher_app(table())) as url:
        teacher = add(real, url)
    assert teacher.state is TeacherState.READY and teacher.probe is not None
    assert {check.outcome for check in teacher.probe.checks} == {Outcome.PASSED, Outcome.UNVERIFIED}
    assert len(teacher.probe.logprobs) == 24


@pytest.mark.parametrize(("lie", "why", "what_to_do"), LIES, ids=[why for _, why, _ in LIES])
def test_a_liar_is_refused_with_its_own_sentence(
    sqlite_real: House, lie: Callable[[], TableBackend], why: str, what_to_do: str
) -> None:
    said = refusal(sqlite_real, lie())
    assert said.problem.detail.startswith("url: this server is refused: ")
    assert why in said.problem.detail, said.problem.detail
    assert what_to_do in (said.problem.remedy or "")


def test_no_two_lies_share_a_sentence() -> None:
    assert len({why for _, why, _ in LIES}) == len(LIES)


def test_a_liar_is_refused_on_every_database(real: House) -> None:
    assert "shifted" in str(refusal(real, Liar(liars.shifted)))


def test_where_tempering_cannot_be_known_it_is_said_to_be_unverified(sqlite_real: House) -> None:
    with serving(teacher_app(liars.only_sampled(Tempered(2.0)))) as url:
        teacher = add(sqlite_real, url)
    assert teacher.probe is not None
    (values,) = [check for check in teacher.probe.checks if check.name == "values"]
    assert values.outcome is Outcome.UNVERIFIED and "by its word" in values.detail


class Narrow(HfBackend):
    """A real model that shows no hidden states, and scores at a temperature; what it writes is stated untempered."""

    temperature = 1.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.about = replace(self.about, supports=(Support.SAMPLED, Support.TOPK), head=None)

    def begin(self, request: ScoreRequest) -> Any:
        return super().begin(replace(request, temperature=request.temperature * self.temperature))


def test_without_hidden_states_what_it_writes_tells_that_it_is_tempered(sqlite_real: House, folder: Path) -> None:
    honest, liar = Narrow(folder), Narrow(folder)
    liar.temperature = 2.0
    said = refusal(sqlite_real, liar)
    assert "not the model's own, untempered ones. It writes the likeliest token with log-probability" in str(said)
    with serving(teacher_app(honest)) as url:
        teacher = add(sqlite_real, url)
    assert teacher.probe is not None
    (values,) = [check for check in teacher.probe.checks if check.name == "values"]
    assert values.outcome is Outcome.PASSED and "writes the likeliest token" in values.detail


def test_a_server_that_scores_nothing_is_not_registered(sqlite_real: House) -> None:
    class Mute(TableBackend):
        def score(self, request: Any, between: Any) -> Any:
            raise RuntimeError("the engine has died")

    assert "refused" in str(refusal(sqlite_real, Mute(hashed(V), V)))


# --- tokenizers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with another tokenizer of fewer ids than the model has."""
    path = tiny_model_folder(tmp_path_factory.mktemp("other"), vocab=512)
    pairs_tokenizer().save_pretrained(path)
    return path


def file_of(folder: Path) -> NamedFile:
    body = tokenizer_file(folder).model_dump_json().encode()
    return NamedFile(hash=body_hash(body), content=body)


def test_an_honest_tokenizer_passes(sqlite_real: House, folder: Path) -> None:
    with serving(teacher_app(HfBackend(folder))) as url:
        teacher = add(sqlite_real, url)
    assert teacher.probe is not None
    (tokenizer,) = [check for check in teacher.probe.checks if check.name == "tokenizer"]
    assert tokenizer.outcome is Outcome.PASSED and "reads 4 special tokens as such" in tokenizer.detail


def test_another_tokenizer_than_is_stated_is_refused(sqlite_real: House, folder: Path, other: Path) -> None:
    backend = HfBackend(folder)
    stated = tokenizer_card(other).model_copy(update={"vocab_size": backend.about.tokenizer.vocab_size})
    backend.about = replace(backend.about, tokenizer=stated)
    said = refusal(sqlite_real, backend)
    assert "it does not have the tokenizer that is stated for it" in said.problem.detail
    assert f"It states the tokenizer {str(stated.fingerprint)[:19]}" in said.problem.detail


def test_another_tokenizer_than_is_served_is_refused(sqlite_real: House, other: Path) -> None:
    """Card and file agree, and the server's own text side reads in another way."""
    backend = HfBackend(other)
    content = tokenizer_file(other).model_dump()
    for number, token in enumerate(content["tokenizer"]["added_tokens"]):
        token["content"] = f"<|not-{number}-here|>"
    file = TokenizerFile.model_validate(content)
    body = file.model_dump_json().encode()
    stated = backend.about.tokenizer.model_copy(update={"fingerprint": fingerprint_of(file)})
    backend.about = replace(
        backend.about, tokenizer=stated, tokenizer_file=NamedFile(hash=body_hash(body), content=body)
    )
    said = refusal(sqlite_real, backend)
    assert "its own text side reads" in said.problem.detail


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(sqlite_real: House, folder: Path, other: Path) -> None:
    backend = HfBackend(folder)
    stated = tokenizer_card(other).model_copy(update={"vocab_size": backend.about.tokenizer.vocab_size})
    backend.about = replace(backend.about, tokenizer=stated, tokenizer_file=file_of(other))
    assert "beyond its vocabulary of 64" in refusal(sqlite_real, backend).problem.detail


# --- stock servers --------------------------------------------------------------------------------------------------


def add_stock(house: House, stock: StockVllm, url: str) -> Teacher:
    return house.admin.teachers.add(
        TeacherCreate(name="stock", url=url, kind=TeacherKind.VLLM, tokenizer=stock.stated())
    )


def test_an_honest_stock_server_is_registered(sqlite_real: House) -> None:
    stock = StockVllm()
    with serving(stock.app) as url:
        teacher = add_stock(sqlite_real, stock, url)
    assert teacher.probe is not None
    outcomes = {check.name: check.outcome for check in teacher.probe.checks}
    assert outcomes["tokenizer"] is outcomes["values"] is outcomes["positions"] is Outcome.PASSED


@pytest.mark.parametrize(
    ("stock", "why"),
    [
        (StockVllm(temperature=4.0), "its log-probabilities are not the model's own, untempered ones. It wrote token"),
        (
            StockVllm(reads=(*liars.SPECIALS, *liars.LETTERS[1:], liars.LETTERS[0])),
            "it does not have the tokenizer that is stated for it. It reads the id",
        ),
        (
            StockVllm(reads=(*reversed(liars.SPECIALS), *liars.LETTERS)),
            "it does not have the tokenizer that is stated for it. It writes '<|end|>' as [1]",
        ),
    ],
    ids=["tempered", "other-letters", "other-specials"],
)
def test_a_lying_stock_server_is_refused(sqlite_real: House, stock: StockVllm, why: str) -> None:
    with serving(stock.app) as url, pytest.raises(Invalid) as caught:
        add_stock(sqlite_real, stock, url)
    assert why in caught.value.problem.detail
    assert sqlite_real.admin.teachers.list() == ()


def test_a_stock_server_that_cannot_be_asked_for_its_tokenizer_is_unverified(sqlite_real: House) -> None:
    stock = StockVllm(tokenises=False)
    with serving(stock.app) as url:
        teacher = add_stock(sqlite_real, stock, url)
    assert teacher.probe is not None
    (tokenizer,) = [check for check in teacher.probe.checks if check.name == "tokenizer"]
    assert tokenizer.outcome is Outcome.UNVERIFIED and "its operator's word" in tokenizer.detail


# --- endpoints ------------------------------------------------------------------------------------------------------


def test_an_endpoint_with_other_weights_is_not_another_endpoint_of_a_teacher(sqlite_real: House) -> None:
    with (
        serving(teacher_app(table())) as first,
        serving(teacher_app(table())) as second,
        serving(teacher_app(table(seed=1))) as imposter,
        serving(teacher_app(Liar(liars.shifted))) as liar,
    ):
        add(sqlite_real, first)
        grown = sqlite_real.admin.teachers.add_endpoint("t", EndpointCreate(url=second, key_env="LIAR_KEY"))
        assert [each.url for each in grown.endpoints] == [first, second]
        with pytest.raises(Invalid, match="it gives the same tokens other log-probabilities: they differ by"):
            sqlite_real.admin.teachers.add_endpoint("t", EndpointCreate(url=imposter, key_env="LIAR_KEY"))
        with pytest.raises(Invalid, match="its scores are shifted"):
            sqlite_real.admin.teachers.add_endpoint("t", EndpointCreate(url=liar, key_env="LIAR_KEY"))
        assert sqlite_real.admin.teachers.get("t").endpoints == grown.endpoints
