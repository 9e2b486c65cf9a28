"""Stock servers at the control plane: looked at with what they cannot say, every time, and handed to workers so."""

from __future__ import annotations

import pytest

from preceptor.adapters import Stock
from preceptor.errors import Invalid
from preceptor.wire.teachers import Card, Support, TeacherCreate, TeacherKind, TokenizerCard
from tests.contract.conftest import House
from tests.contract.stock_doubles import STOCK

URL = "http://127.0.0.1:8000"


def test_it_is_looked_at_with_its_name_and_its_tokenizer(house: House) -> None:
    tokenizer = STOCK.tokenizer
    assert tokenizer is not None
    house.faculty.cards[URL] = stock_card(tokenizer, (Support.SAMPLED,))
    create = TeacherCreate(name="stock", url=URL, kind=TeacherKind.VLLM, tokenizer=tokenizer)
    teacher = house.admin.teachers.add(create)
    assert teacher.kind is TeacherKind.VLLM
    assert house.faculty.how[URL] == (TeacherKind.VLLM, Stock(name="stock", tokenizer=tokenizer))
    house.admin.teachers.probe("stock")
    again = Stock(name="stock", model="served", tokenizer=tokenizer)
    assert house.faculty.how[URL] == (TeacherKind.VLLM, again), "what its card keeps is what the next look is told"


def test_without_its_tokenizer_it_is_refused_with_what_to_do(house: House) -> None:
    body = {"name": "stock", "url": URL, "kind": "sglang"}
    answer = house.http().post("/v1/teachers", json=body)
    assert answer.status_code == 422 and "--tokenizer FOLDER" in answer.json()["detail"]
    assert not house.admin.teachers.list()


def test_a_text_teacher_has_a_card_without_a_tokenizer(house: House) -> None:
    nobody = TokenizerCard(fingerprint=None, vocab_size=0)
    house.faculty.cards[URL] = stock_card(nobody, ())
    teacher = house.admin.teachers.add(TeacherCreate(name="critic", url=URL, kind=TeacherKind.OPENAI, model="gpt"))
    assert teacher.card is not None and teacher.card.tokenizer == nobody
    assert house.faculty.how[URL] == (TeacherKind.OPENAI, Stock(name="critic", model="gpt"))
    with pytest.raises(ValueError, match="must state its tokenizer"):
        stock_card(nobody, (Support.SAMPLED,))
    with pytest.raises(Invalid, match="no teacher answered"):
        house.admin.teachers.add(TeacherCreate(name="gone", url="http://127.0.0.1:9", kind=TeacherKind.OPENAI))


def stock_card(tokenizer: TokenizerCard, supports: tuple[Support, ...]) -> Card:
    return Card.model_validate(
        {
            "teacher": "stock",
            "model": "served",
            "weights_version": 0,
            "engine": "vllm 0.32.0",
            "device": "unstated",
            "dtype": "unstated",
            "tokenizer": tokenizer.model_dump(),
            "limits": {"max_tokens": 64, "max_batch_tokens": 64, "max_k": 0, "max_body_bytes": 1},
            "supports": supports,
        }
    )
