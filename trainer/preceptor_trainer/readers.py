"""How a teacher reads what the student wrote: in the same tokens, or in its own, aligned by bytes.

With the student's tokenizer a teacher is asked about the student's exact ids. With another, the text is written anew in
the teacher's tokens, and what the teacher says is held against the student's tokens where both end at the same byte.
What cannot be held against anything is masked and counted:

- a stretch whose boundaries only one side has;
- what follows something that the teacher never saw: a special token inside the completion, an unknown token, bytes
  that are no UTF-8, a place where the teacher's normaliser changed the text;
- a stretch that the teacher could only read as its unknown token;
- the first stretch, where one tokenizer puts a space before the first word by convention and the other does not.

The end of the completion is one event for both: the student's end token against the teacher's.
Shape letters: T the student's tokens of one completion, M the teacher's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from preceptor.align import Spans, agreement, align, ends_of
from preceptor.errors import TeacherRefused
from preceptor.token_bytes import Unalignable, continuing, token_bytes
from preceptor.wire.tokenizers import TokenizerFile
from preceptor_trainer.model import Model, chat_ids, eos_ids, prompt_ids
from preceptor_trainer.views import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One completion as a teacher reads it."""

    ids: tuple[int, ...]
    """In the teacher's tokens [M]."""
    spans: Spans | None
    """None: token for token."""

    def spread(self, logprob_M: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the teacher said, by the student's tokens [T]: of its token, or of the span that it belongs to."""
        return logprob_M if self.spans is None else self.spans.spread(logprob_M)


class Reader(Protocol):
    """Prompts and completions in one teacher's tokens."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]: ...

    def read(self, completion_ids: Sequence[int]) -> Reading: ...


class SameTokens:
    """A teacher that has the student's tokenizer."""

    def __init__(self, student: Model) -> None:
        self._student = student

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Through the chat template that both have."""
        return prompt_ids(self._student, messages)

    def read(self, completion_ids: Sequence[int]) -> Reading:
        """The very ids that were written."""
        return Reading(ids=tuple(completion_ids), spans=None)


class OtherTokens:
    """A teacher with another tokenizer."""

    def __init__(self, student: Model, file: TokenizerFile, teacher: str) -> None:
        """`file` is the teacher's. Raises TeacherRefused where bytes cannot be aligned, naming what is at fault."""
        try:
            self._student = token_bytes(json.loads((student.folder / "tokenizer.json").read_text(encoding="utf-8")))
            self._teacher = token_bytes(file.tokenizer)
        except Unalignable as error:
            raise TeacherRefused(
                f"Teacher '{teacher}' and the student cannot be aligned by bytes: {error.problem.detail}",
                teacher=teacher,
            ) from error
        self._ends = eos_ids(student)
        self._tokenizer = Tokenizer.from_str(json.dumps(continuing(file.tokenizer)))
        self._tokenizer.encode_special_tokens = True  # what the student spells out is text, whatever it looks like
        self._chat: Any = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(file.tokenizer)),
            chat_template=file.chat_template,
            **file.special,
        )
        self._end: int | None = self._tokenizer.token_to_id(file.special.get("eos_token", ""))
        self._name = teacher

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Through the teacher's own chat template. Raises Invalid where it has none or refuses the messages."""
        return chat_ids(self._chat, messages, f"teacher '{self._name}'")

    def read(self, completion_ids: Sequence[int]) -> Reading:
        """The same text in the teacher's tokens, and where the two meet."""
        ended = bool(completion_ids) and completion_ids[-1] in self._ends
        body = completion_ids[:-1] if ended else completion_ids
        pieces = self._legible(body)
        written = b"".join(pieces)
        text = _valid(written)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        read, unknown_M = self._pieces(encoding, text)
        limit = agreement(written, b"".join(read))
        # What has no bytes, or comes after that, ends where no limit reaches.
        student_ends = np.append(ends_of(pieces), np.full(len(completion_ids) - len(pieces), len(written) + 1))
        teacher_ends, ids = ends_of(read), list(encoding.ids)
        saw_all = len(pieces) == len(body) and limit == len(written) == sum(map(len, read))
        if ended and saw_all and self._end is not None:
            teacher_ends, limit = np.append(teacher_ends, len(written) + 1), len(written) + 1
            ids, unknown_M = [*ids, self._end], np.append(unknown_M, False)
        spans = align(student_ends, teacher_ends, limit=limit)
        wrong_S = np.zeros(len(spans.ends_S), dtype=np.bool_)
        wrong_S[spans.teacher_M[unknown_M & (spans.teacher_M >= 0)]] = True
        if written and len(wrong_S) and self._student.leading_space != self._teacher.leading_space:
            wrong_S[0] = True
        return Reading(ids=tuple(ids), spans=spans.without(wrong_S))

    def _legible(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of the student's tokens, up to the first that has none."""
        pieces: list[bytes] = []
        for token in ids:
            piece = self._student.of(token)
            if piece is None:
                break
            pieces.append(piece)
        return pieces

    def _pieces(self, encoding: Encoding, text: str) -> tuple[list[bytes], NDArray[np.bool_]]:
        """The bytes of the teacher's tokens; and which it could read only as unknown: the text's own bytes then."""
        pieces = [self._teacher.of(token) for token in encoding.ids]
        unknown_M = np.array([piece is None for piece in pieces], dtype=np.bool_)
        read = [
            text[begin:end].encode() if piece is None else piece
            for piece, (begin, end) in zip(pieces, encoding.offsets, strict=True)
        ]
        return read, unknown_M


def _valid(written: bytes) -> str:
    """The text up to the first byte that is no UTF-8: a character cut off at the horizon, or what never was one."""
    try:
        return written.decode("utf-8")
    except UnicodeDecodeError as error:
        return written[: error.start].decode("utf-8")
