"""Tokens are bytes: every byte of every text comes back out of the tokens, or the tokenizer is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as tokenizer_models

from preceptor.fingerprint import fingerprint_of, tokenizer_card, tokenizer_file
from preceptor.token_bytes import Unalignable, continuing, token_bytes, unalignable
from tests.models import tiny_tokenizer

FALLBACK = {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}


def byte_level() -> dict[str, Any]:
    """As GPT-2, Llama 3 and Qwen: some merges, a special token, an added word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: index for index, char in enumerate(alphabet)}
    merges = [("h", "e"), ("Ġ", "he"), ("Ã", "©")]
    vocab |= {a + b: len(vocab) + n for n, (a, b) in enumerate(merges)}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens(["<think>"])
    return json.loads(tokenizer.to_str())


def sentencepiece(legacy: bool = False) -> dict[str, Any]:
    """As Llama 2 and Mistral: a space is U+2581, what is not in the vocabulary falls back to bytes."""
    words = ["\u2581", "h", "e", "l", "o", "he", "\u2581he"]
    vocab = {"<unk>": 0, **FALLBACK} | {word: 257 + n for n, word in enumerate(words)}
    merges = [("h", "e"), ("\u2581", "he")]
    model = tokenizer_models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return json.loads(tokenizer.to_str())


def bytes_of(parsed: dict[str, Any], text: str) -> bytes:
    tokenizer = Tokenizer.from_str(json.dumps(continuing(parsed)))
    tokenizer.encode_special_tokens = True
    table = token_bytes(parsed)
    pieces = [table.of(token) for token in tokenizer.encode(text, add_special_tokens=False).ids]
    assert None not in pieces
    return b"".join(piece for piece in pieces if piece is not None)


ordinary = st.text(st.characters(codec="utf-8", exclude_characters="\u2581"), max_size=20)


@given(ordinary)
def test_byte_level_tokens_are_the_bytes_of_the_text(text: str) -> None:
    import unicodedata

    assert bytes_of(byte_level(), text) == unicodedata.normalize("NFC", text).encode()


@given(ordinary, st.booleans())
def test_metaspace_tokens_are_the_bytes_of_the_text_with_no_space_before_it(text: str, legacy: bool) -> None:
    assert bytes_of(sentencepiece(legacy), text) == text.encode()


def test_a_character_that_is_split_over_tokens_keeps_its_bytes() -> None:
    table = token_bytes(byte_level())
    tokens = Tokenizer.from_str(json.dumps(byte_level())).encode("ü").ids
    assert [table.of(token) for token in tokens] == [b"\xc3", b"\xbc"]


def test_special_and_unknown_tokens_have_no_bytes_and_added_words_have() -> None:
    parsed = byte_level()
    table = token_bytes(parsed)
    ids = {token["content"]: token["id"] for token in parsed["added_tokens"]}
    assert table.of(ids["<end>"]) is None
    assert table.of(ids["<think>"]) == b"<think>"
    assert table.of(len(table.pieces)) is None and table.of(-1) is None
    assert token_bytes(sentencepiece()).of(0) is None
    tiny = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    assert token_bytes(tiny).of(3) is None, "<unk>"


def test_special_tokens_that_somebody_spells_out_are_text() -> None:
    assert bytes_of(byte_level(), "a<end>b") == b"a<end>b"


def test_unigram_vocabularies_are_lists() -> None:
    tokenizer = Tokenizer(tokenizer_models.Unigram([("<unk>", 0.0), ("\u2581a", -1.0), ("b", -1.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    table = token_bytes(json.loads(tokenizer.to_str()))
    assert table.pieces == (None, b" a", b"b") and table.leading_space


def test_who_puts_a_space_before_the_first_word() -> None:
    assert token_bytes(sentencepiece()).leading_space and token_bytes(sentencepiece(legacy=True)).leading_space
    assert not token_bytes(byte_level()).leading_space
    assert not token_bytes(continuing(sentencepiece())).leading_space
    assert not token_bytes(continuing(sentencepiece(legacy=True))).leading_space


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}}, "NFKC"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}}, "Replace 'a'"),
        ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "WhitespaceSplit"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed"}}, "Split"),
        ({"decoder": {"type": "WordPiece"}}, "WordPiece"),
        ({"decoder": None}, "no decoder"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "WordPiece"),
        (
            {"model": {"type": "BPE", "vocab": {"a</w>": 0}, "merges": [], "end_of_word_suffix": "</w>"}},
            "ends of words",
        ),
    ],
)
def test_what_loses_or_changes_bytes_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    parsed = {**byte_level(), **change}
    assert named in (unalignable(parsed) or "")
    with pytest.raises(Unalignable, match=named):
        token_bytes(parsed)


def test_a_card_says_whether_its_tokens_are_bytes(tmp_path: Any) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 80}')
    assert tokenizer_card(tmp_path).unalignable is None
    file = tokenizer_file(tmp_path)
    assert fingerprint_of(file) == tokenizer_card(tmp_path).fingerprint
    assert file.special["eos_token"] == "<|im_end|>"
    assert file.chat_template is not None and "<|im_start|>" in file.chat_template
    parsed = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**parsed, "normalizer": {"type": "Lowercase"}}))
    assert "Lowercase" in (tokenizer_card(tmp_path).unalignable or "")
