"""A teacher with another tokenizer: what it reads is what was written, and what cannot be held against it is masked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as tokenizer_models

from preceptor.errors import Invalid, TeacherRefused
from preceptor.wire.tokenizers import TokenizerFile
from preceptor_trainer.model import Model
from preceptor_trainer.readers import OtherTokens, Reading
from preceptor_trainer.views import Message

END = "<end>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}>"


def byte_level(*words: str) -> Tokenizer:
    """Every byte is a token, and so are these words: BPE with the merges that build each of them from the left."""
    vocab = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges: list[tuple[str, str]] = []
    for word in words:
        ((text, _),) = pre.pre_tokenize_str(word)
        for size in range(2, len(text) + 1):
            if text[:size] not in vocab:
                vocab[text[:size]] = len(vocab)
                merges.append((text[: size - 1], text[size - 1]))
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def byte_without_end() -> Tokenizer:
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def characters(letters: str) -> Tokenizer:
    """One token a character; others are unknown."""
    vocab = {"<unk>": 0} | {letter: 1 + index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True), AddedToken(END, special=True)])
    return tokenizer


def sentencepiece() -> Tokenizer:
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    vocab |= {word: 257 + n for n, word in enumerate(["\u2581", "h", "e", "he", "\u2581he"])}
    merges = [("h", "e"), ("\u2581", "he")]
    model = tokenizer_models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([END])
    return tokenizer


def student_of(tokenizer: Tokenizer, folder: Path) -> Model:
    """As much of a model as a reader looks at: the folder's tokenizer and the ids that end a text."""
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    end = id_of(tokenizer, END)
    module = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[end]))
    return cast("Model", SimpleNamespace(folder=folder, module=module, tokenizer=None))


def file_of(tokenizer: Tokenizer, **more: Any) -> TokenizerFile:
    fields: dict[str, Any] = {"chat_template": TEMPLATE, "special": {"eos_token": END}, **more}
    return TokenizerFile(tokenizer=json.loads(tokenizer.to_str()), **fields)


def reader(student: Tokenizer, teacher: Tokenizer, folder: Path, **more: Any) -> OtherTokens:
    return OtherTokens(student_of(student, folder), file_of(teacher, **more), "math")


def id_of(tokenizer: Tokenizer, text: str) -> int:
    found = tokenizer.token_to_id(text)
    assert found is not None
    return found


def ids(tokenizer: Tokenizer, text: str, end: bool = True) -> list[int]:
    found = tokenizer.encode(text, add_special_tokens=False).ids
    return [*found, id_of(tokenizer, END)] if end else found


def spans(reading: Reading) -> list[int]:
    assert reading.spans is not None
    return reading.spans.student_T.tolist()


def test_words_against_letters(tmp_path: Path) -> None:
    student, teacher = byte_level("the", " cat"), byte_level("th", " ca")
    reading = reader(student, teacher, tmp_path).read(ids(student, "the cats"))
    assert reading.ids == tuple(ids(teacher, "the cats")), "the teacher's own tokens, its own end"
    assert spans(reading) == [0, 1, 2, 3], "the, cat, s and the end"
    logprob_M = np.array([-1, -2, -4, -8, -16, -32], dtype=np.float32)  # th e _ca t s end
    assert reading.spread(logprob_M).tolist() == [-3.0, -12.0, -16.0, -32.0]


def test_tokens_that_cross_are_one_span(tmp_path: Path) -> None:
    student, teacher = byte_level("ab", "cd"), byte_level("bc")
    reading = reader(student, teacher, tmp_path).read(ids(student, "abcd"))
    assert spans(reading) == [0, 0, 1], "ab|cd against a|bc|d"
    assert reading.spread(np.array([-1, -2, -4, -8], dtype=np.float32)).tolist() == [-7.0, -7.0, -8.0]


@given(text=st.text(max_size=12), end=st.booleans())
def test_equal_tokenizers_give_the_plain_result(tmp_path_factory: pytest.TempPathFactory, text: str, end: bool) -> None:
    tokenizer = byte_level("th", " a")
    written = ids(tokenizer, text, end)
    reading = reader(tokenizer, tokenizer, tmp_path_factory.getbasetemp()).read(written)
    assert reading.ids == tuple(written)
    assert spans(reading) == list(range(len(written)))
    logprob_M = np.random.default_rng(0).normal(-2, 1, len(written)).astype(np.float32)
    assert reading.spread(logprob_M).tobytes() == logprob_M.tobytes()


@given(text=st.text(max_size=12), words=st.lists(st.text(min_size=2, max_size=4), max_size=3), end=st.booleans())
def test_whatever_was_written_is_heard_in_full_or_masked_never_made_up(
    tmp_path_factory: pytest.TempPathFactory, text: str, words: list[str], end: bool
) -> None:
    student, teacher = byte_level(*words), byte_level("th", " a", "é")
    written = ids(student, text, end)
    reading = reader(student, teacher, tmp_path_factory.getbasetemp()).read(written)
    assert reading.ids == tuple(ids(teacher, text, end))
    assert -1 not in spans(reading), "both read all of it"
    logprob_M = np.random.default_rng(0).normal(-2, 1, len(reading.ids)).astype(np.float32)
    assert reading.spans is not None
    assert float(reading.spans.sums(logprob_M).sum()) == pytest.approx(float(logprob_M.astype(np.float64).sum()))


def test_a_character_split_over_tokens_meets_at_its_end(tmp_path: Path) -> None:
    student, teacher = byte_level(), characters("aü")
    reading = reader(student, teacher, tmp_path).read(ids(student, "üa"))
    assert spans(reading) == [0, 0, 1, 2], "two bytes against one character"


def test_a_character_cut_off_at_the_horizon_is_masked(tmp_path: Path) -> None:
    student, teacher = byte_level(), characters("aü")
    reading = reader(student, teacher, tmp_path).read(ids(student, "aü", end=False)[:-1])
    assert spans(reading) == [0, -1] and len(reading.ids) == 1


def test_bytes_that_are_no_text_mask_what_follows_and_the_end(tmp_path: Path) -> None:
    student, teacher = byte_level(), characters("ab")
    lone = id_of(student, "ÿ")
    a, b, end = (id_of(student, text) for text in ("a", "b", END))
    reading = reader(student, teacher, tmp_path).read([a, lone, b, end])
    assert spans(reading) == [0, -1, -1, -1]
    assert reading.spans is not None and reading.spans.masked == 3


def test_a_special_token_inside_masks_what_follows(tmp_path: Path) -> None:
    student, teacher = byte_level(), characters("ab")
    student.add_special_tokens(["<turn>"])
    a, turn, b, end = (id_of(student, text) for text in ("a", "<turn>", "b", END))
    reading = reader(student, teacher, tmp_path).read([a, turn, b, end])
    assert spans(reading) == [0, -1, -1, -1]
    assert spans(reader(student, teacher, tmp_path).read([turn])) == [-1]


def test_special_tokens_of_the_same_name_are_the_same_event(tmp_path: Path) -> None:
    student, teacher = byte_level("ab"), characters("ab")
    student.add_special_tokens(["<turn>"])
    teacher.add_special_tokens(["<other>", "<turn>"])
    a, ab, turn, end = (id_of(student, text) for text in ("a", "ab", "<turn>", END))
    reading = reader(student, teacher, tmp_path).read([ab, turn, turn, a, end])
    assert reading.ids == tuple(id_of(teacher, text) for text in ("a", "b", "<turn>", "<turn>", "a", END))
    assert spans(reading) == [0, 1, 2, 3, 4]
    assert reading.spans is not None and reading.spans.teacher_M.tolist() == [0, 0, 1, 2, 3, 4]


def test_an_end_token_inside_is_not_the_end(tmp_path: Path) -> None:
    student, teacher = byte_level(), characters("ab")
    a, end = id_of(student, "a"), id_of(student, END)
    assert spans(reader(student, teacher, tmp_path).read([a, end, a, end])) == [0, 1, 2, 3], "but a token of that name"
    assert spans(reader(student, byte_without_end(), tmp_path).read([a, end, a])) == [0, -1, -1]


def test_what_the_teacher_reads_as_unknown_is_masked_alone(tmp_path: Path) -> None:
    student, teacher = byte_level(), characters("ab")
    reading = reader(student, teacher, tmp_path).read(ids(student, "aüb"))
    assert spans(reading) == [0, -1, -1, 2, 3], "a, the two bytes of ü, b, the end"
    assert reading.ids[1] == id_of(teacher, "<unk>")


def test_the_students_unknown_token_masks_what_follows(tmp_path: Path) -> None:
    student, teacher = characters("ab"), byte_level()
    written = ids(student, "aüb")
    assert spans(reader(student, teacher, tmp_path).read(written)) == [0, -1, -1, -1]


def test_a_teacher_without_an_end_token_says_nothing_of_the_end(tmp_path: Path) -> None:
    student, teacher = byte_level(), byte_level("ab")
    reading = reader(student, teacher, tmp_path, special={}).read(ids(student, "ab"))
    assert spans(reading) == [0, 0, -1] and reading.ids == tuple(ids(teacher, "ab", end=False))


def test_an_empty_completion_that_ends_is_one_event(tmp_path: Path) -> None:
    student, teacher = byte_level(), characters("ab")
    assert spans(reader(student, teacher, tmp_path).read(ids(student, ""))) == [0]
    assert spans(reader(student, teacher, tmp_path).read([])) == []


def test_special_tokens_that_are_spelled_out_are_text(tmp_path: Path) -> None:
    student, teacher = characters("ab<end>"), byte_level("ab")
    letters = [id_of(student, letter) for letter in f"a{END}"]
    reading = reader(student, teacher, tmp_path).read(letters)
    assert id_of(teacher, END) not in reading.ids
    assert spans(reading) == list(range(6))


def test_what_a_normaliser_changes_ends_the_alignment_there(tmp_path: Path) -> None:
    student, teacher = byte_level(), byte_level("ab")
    teacher.normalizer = normalizers.NFC()
    reading = reader(student, teacher, tmp_path).read(ids(student, "abe\u0301b"))  # e and a combining accent
    assert spans(reading) == [0, 0, -1, -1, -1, -1, -1]


def test_a_space_by_convention_on_one_side_masks_the_first_word(tmp_path: Path) -> None:
    student, teacher = byte_level("he"), sentencepiece()
    reading = reader(student, teacher, tmp_path).read(ids(student, "he he"))
    assert reading.ids == (260, 261, id_of(teacher, END)), "no space is put before what goes on from a prompt"
    assert spans(reading) == [-1, 1, 1, 2]
    both = reader(sentencepiece(), sentencepiece(), tmp_path).read([261, 261])
    assert spans(both) == [0, 1], "where both have the convention, the space is a byte like any other"


def test_a_tokenizer_that_changes_bytes_is_refused_by_name(tmp_path: Path) -> None:
    teacher = byte_level()
    teacher.normalizer = normalizers.Lowercase()
    with pytest.raises(TeacherRefused, match=r"'math' and the student cannot be aligned.*Lowercase"):
        reader(byte_level(), teacher, tmp_path)


def test_prompts_go_through_the_teachers_own_template(tmp_path: Path) -> None:
    teacher = byte_level("wh")
    messages: Sequence[Message] = [Message(role="user", content="why")]
    assert reader(byte_level(), teacher, tmp_path).prompt_ids(messages) == ids(teacher, "why>", end=False)
    with pytest.raises(Invalid, match="teacher 'math' has no chat template"):
        reader(byte_level(), teacher, tmp_path, chat_template=None).prompt_ids(messages)
