"""The student's base answers for its own roles, and everybody else for theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preceptor.frames import hash_of, head_buffers
from preceptor.tensors import Tensor
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Support
from preceptor.wire.training import LoRA, Training
from preceptor_trainer.model import load_model
from preceptor_trainer.own_base import WithOwnBase
from preceptor_trainer.student import open_student
from tests.models import tiny_model_folder
from tests.unit.trainer.doubles import LocalScorer

REQUEST = ScoreRequest(
    contexts=[np.array([5, 6, 7], dtype=np.int32)],
    completions=[np.array([8, 9], dtype=np.int32), np.array([10], dtype=np.int32)],
    context_of=np.array([0, 0], dtype=np.int32),
    support=Support.FULL,
)


@pytest.fixture
def scorers(tmp_path: Path) -> tuple[WithOwnBase, LocalScorer]:
    folder = tiny_model_folder(tmp_path / "student")
    others = LocalScorer({"self": load_model(folder), "math": load_model(folder)})
    base = open_student(folder, Training(lora=LoRA(rank=2))).base
    assert base is not None
    return WithOwnBase(others, {"self"}, base, "sha256:" + "1" * 64, "float32", 8192), others


def test_its_card_head_and_stamp_agree_and_name_it(scorers: tuple[WithOwnBase, LocalScorer]) -> None:
    own, _ = scorers
    card, head, scores = own.card("self"), own.head("self"), own.score("self", REQUEST)
    assert (card.teacher, card.model, card.moves) == ("base", "sha256:" + "1" * 64, False)
    assert card.head is not None and card.head.hash == head.hash == scores.stamp.head_hash
    assert head.hash == hash_of(head_buffers(Tensor.of(head.weight_VD))), "what a served head would be called"
    assert len(scores.stamp.context_hashes) == 1
    assert own.tokenizer("self") == own.tokenizer("math")


def test_its_numbers_are_those_of_a_served_copy_to_the_bit(scorers: tuple[WithOwnBase, LocalScorer]) -> None:
    own, others = scorers
    mine, theirs = own.score("self", REQUEST), others.score("self", REQUEST)
    assert np.array_equal(mine.logprob_T, theirs.logprob_T)
    assert mine.hidden_TD is not None and theirs.hidden_TD is not None
    assert np.array_equal(mine.hidden_TD, theirs.hidden_TD)


def test_other_roles_are_handed_on_and_counted_apart(scorers: tuple[WithOwnBase, LocalScorer]) -> None:
    own, others = scorers
    own.score("self", REQUEST)
    assert others.asked == []
    assert own.score("math", REQUEST).stamp.teacher == "math" and own.card("math").teacher == "math"
    assert [role for role, _ in others.asked] == ["math"]
    (role, ledger), *rest = own.take_ledger().items()
    assert (role, rest) == ("self", [])
    assert (ledger.requests, ledger.sequences, ledger.tokens, ledger.weights_versions) == (0, 2, 3, [0])
    assert ledger.seconds > 0
    assert own.take_ledger()["self"].sequences == 0, "taken is taken"
