"""What is heard anew counts once in its step's ledger; what it took is all there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest

from preceptor.errors import Interrupted
from preceptor.wire.pairs import PeerAnswers
from preceptor.wire.runs import TeacherLedger
from preceptor_trainer.asking import Heard, Scorer
from preceptor_trainer.batch import Row
from preceptor_trainer.flow import Part
from preceptor_trainer.hearing import Hearing
from preceptor_trainer.opinions import Opinions
from tests.unit.trainer.toy import toy_rows


class Teachers:
    """Opinions and a scorer in one: every call passes the same, and a sampler has written meanwhile."""

    def __init__(self) -> None:
        self.passed: dict[str, TeacherLedger] = {}
        self.forgot: list[Collection[str]] = []
        self.hangs = False

    def ask(self, url: str) -> None:
        answers = [PeerAnswers(kind="score", version=3, lag=1, count=2)]
        now = TeacherLedger(
            requests=1, sequences=2, tokens=9, seconds=0.5, endpoints={url: 1}, weights_versions=[3], answers=answers
        )
        self.passed = {"maths": now, "sampler": TeacherLedger(requests=1, sequences=4, weights_versions=[7])}

    def hear(self, rows: Sequence[Row], step: int) -> Heard:
        if self.hangs:
            self.hangs = False
            self.ask("http://old")
            raise Interrupted("It was broken off.", teacher="first")
        self.ask("http://new" if self.forgot else "http://old")
        return Heard(rows=rows, wishes=(), answers={}, texts={"critic": TeacherLedger(texts=2)})

    def take_ledger(self) -> dict[str, TeacherLedger]:
        taken, self.passed = self.passed, {}
        return taken

    def begin_again(self, replaced: Collection[str] | None = None) -> Collection[str]:
        if replaced is not None:
            self.forgot.append(replaced)
        return {"maths"}


def part(index: int, step: int = 5) -> Part:
    return Part(step=step, index=index, of=2, rows=toy_rows((2,)))


def test_what_is_heard_anew_counts_once_and_what_it_took_is_all_there() -> None:
    teachers = Teachers()
    hearing = Hearing(cast(Opinions, teachers), cast(Scorer, teachers))
    first = hearing(part(0))
    assert first.teachers["maths"].requests == 1 and first.teachers["critic"].texts == 2
    teachers.hangs = True
    with pytest.raises(Interrupted):
        hearing(part(1))
    hearing.again()()
    again, other = hearing(part(0)), hearing(part(1))
    assert teachers.forgot == [{"maths"}], "once, before anything is heard anew"
    told: dict[str, Any] = again.teachers["maths"].model_dump()
    once = {"sequences": 2, "tokens": 9, "weights_versions": [3]}
    assert {name: told[name] for name in once} == once and told["answers"] == [
        {"kind": "score", "version": 3, "lag": 1, "count": 2}
    ]
    assert (told["requests"], told["seconds"]) == (3, 1.5)
    assert told["endpoints"] == {"http://old": 2, "http://new": 1}
    assert again.teachers["critic"].texts == 2
    assert again.teachers["sampler"].sequences == 12, "what it wrote is learned from"
    assert other.teachers["maths"].requests == 1 and other.teachers["maths"].sequences == 2
    teachers.hangs = True
    with pytest.raises(Interrupted):
        hearing(part(0))
    hearing.again()()
    assert hearing(part(0)).teachers["maths"].requests == 5, "also of what was heard a second time"
    assert hearing(part(0, 6)).teachers["maths"].requests == 1
