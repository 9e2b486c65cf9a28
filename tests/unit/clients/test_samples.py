"""Tokens to ask a server about: such as every decoder writes alike, at the ids that the folder gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from preceptor.cli.teachers import _create
from preceptor.errors import Invalid
from preceptor.fingerprint import tokenizer_fingerprint
from preceptor.samples import ORDINARY, SPECIAL, token_samples
from preceptor.wire.teachers import TeacherKind

TINY = Path(__file__).resolve().parents[3] / "models" / "tiny"


def test_the_shipped_models_tokens_are_at_their_ids() -> None:
    samples = token_samples(TINY)
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    ordinary = {text: id for text, id in samples.items() if text not in special}
    assert {text: samples[text] for text in special} == special
    assert len(ordinary) == ORDINARY and all(text.isascii() and text.isalnum() for text in ordinary)
    assert all(tokenizer["model"]["vocab"][text] == id for text, id in ordinary.items())


def test_they_are_spread_over_a_large_vocabulary_whatever_its_model(tmp_path: Path) -> None:
    words = [f"w{index}" for index in range(5000)]
    added = [{"id": 5000 + index, "content": f"<{index}>", "special": True} for index in range(100)]
    for vocab in ({word: index for index, word in enumerate(words)}, [[word, -1.0] for word in words]):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": added}))
        samples = token_samples(tmp_path)
        assert len(samples) == ORDINARY + SPECIAL
        assert (samples["w0"], samples["w4999"], samples["<0>"], samples["<99>"]) == (0, 4999, 5000, 5099)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"tokenizer\.json"):
        token_samples(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(Invalid, match="no 'model' object"):
        token_samples(tmp_path)


def test_the_command_reads_the_tokenizer_that_a_stock_server_cannot_state() -> None:
    create = _create("stock", "http://gpu7:8000", TeacherKind.VLLM, None, None, TINY)
    assert create.tokenizer is not None and create.tokenizer.fingerprint == tokenizer_fingerprint(TINY)
    assert create.tokenizer.samples == token_samples(TINY)
    with pytest.raises(ValidationError, match="tokenizer: a stock vllm server cannot state it"):
        _create("stock", "http://gpu7:8000", TeacherKind.VLLM, None, None, None)
    with pytest.raises(ValidationError) as refused:
        _create("stock", "ftp://gpu7", TeacherKind.OPENAI, None, None, None)
    assert [each["loc"] for each in refused.value.errors()] == [("url",)], "`main` names it"
