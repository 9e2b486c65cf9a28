"""Signs of life of a teacher: what a control plane asks every few seconds, of a real teacher and of a stock server."""

from __future__ import annotations

import httpx
import pytest

from preceptor.adapters import Stock
from preceptor.errors import NotAuthorised, Overloaded, Unreachable
from preceptor.vital import vital_signs
from preceptor.wire.teachers import TeacherKind
from tests.contract.stock_doubles import STOCK
from tests.contract.teaching import KEY, URL, table, teaching


def test_a_teacher_says_who_it_is_until_it_drains() -> None:
    with teaching(table()) as taught:
        assert vital_signs(URL, KEY, transport=taught.bridge) == taught.client.card()
        with pytest.raises(NotAuthorised):
            vital_signs(URL, "another-key", transport=taught.bridge)
        taught.app.state.service.scheduler.close()
        with pytest.raises(Overloaded, match="draining"):
            vital_signs(URL, KEY, transport=taught.bridge)


def test_nobody_there_is_said() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unreachable, match="No answer from the teacher"):
        vital_signs(URL, KEY, transport=httpx.MockTransport(refuse))


@pytest.mark.parametrize("kind", [TeacherKind.VLLM, TeacherKind.SGLANG, TeacherKind.OPENAI])
def test_a_stock_server_is_well_and_says_no_more(kind: TeacherKind) -> None:
    asked: list[str] = []

    def well(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"data": [{"id": "served"}]})

    known = STOCK if kind is not TeacherKind.OPENAI else Stock(name="critic", model="served")
    assert vital_signs(URL, KEY, kind, known, transport=httpx.MockTransport(well)) is None
    assert len(asked) == 1, "one cheap question"
