"""How a teacher reads what the student wrote: in the same tokens, or in its own, aligned by bytes.

With the student's tokenizer a teacher is asked about the student's exact ids. With another, the text is written anew in
the teacher's tokens, and what the teacher says is held against the student's tokens where both end at the same byte.
What cannot be held against anything is masked and counted:

- a stretch whose boundaries only one side has;
- something that the teacher cannot be shown, and all that follows it: a special token that it does not have, the
  student's unknown token, bytes that are no UTF-8, a place where the teacher's normaliser changed the text;
- a stretch that the teacher could only read as its unknown token;
- the first stretch, where one tokenizer puts a space before the first word by convention and the other does not.

Special tokens are events, not bytes: one that both have under the same name is the same event, and so is the end of the
completion, the student's end token against the teacher's.
Shape letters: T the student's tokens of one completion, M the teacher's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
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
        ours, theirs = self._student.special, self._teacher.special
        self._twins = {ours[name]: theirs[name] for name in ours.keys() & theirs.keys()}
        self._name = teacher

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Through the teacher's own chat template. Raises Invalid where it has none or refuses the messages."""
        return chat_ids(self._chat, messages, f"teacher '{self._name}'")

    def read(self, completion_ids: Sequence[int]) -> Reading:
        """The same text in the teacher's tokens, and where the two meet."""
        ended = bool(completion_ids) and completion_ids[-1] in self._ends
        both = _Both()
        shown = self._show(completion_ids[:-1] if ended else completion_ids, both)
        if ended and shown and self._end is not None:
            both.event(self._end)
        # What was not shown ends where no limit reaches.
        hidden = [both.size + 1] * (len(completion_ids) - len(both.student_ends))
        spans = align([*both.student_ends, *hidden], both.teacher_ends, limit=both.limit)
        wrong_S = np.zeros(len(spans.ends_S) + 1, dtype=np.bool_)  # the last is for -1
        wrong_S[spans.teacher_M[np.array(both.unknown, dtype=np.bool_)]] = True
        if self._student.leading_space != self._teacher.leading_space:
            wrong_S[np.searchsorted(spans.ends_S, both.starts, side="right")] = True
        return Reading(ids=tuple(both.ids), spans=spans.without(wrong_S[:-1]))

    def _show(self, ids: Sequence[int], both: _Both) -> bool:
        """Put the student's tokens to the teacher, up to the first that it cannot be shown. Whether that was all."""
        pieces: list[bytes] = []
        for token in ids:
            piece = self._student.of(token)
            if piece is not None:
                pieces.append(piece)
                continue
            if not self._show_text(pieces, both) or token not in self._twins:
                return False
            both.event(self._twins[token])
            pieces = []
        return self._show_text(pieces, both)

    def _show_text(self, pieces: list[bytes], both: _Both) -> bool:
        written = b"".join(pieces)
        text = _valid(written)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        read, unknown = self._pieces(encoding, text)
        agreed = agreement(written, b"".join(read))
        both.text(pieces, read, encoding.ids, unknown, agreed)
        return agreed == len(written) == sum(map(len, read))

    def _pieces(self, encoding: Encoding, text: str) -> tuple[list[bytes], list[bool]]:
        """The bytes of the teacher's tokens; and which it could read only as unknown: the text's own bytes then."""
        pieces = [self._teacher.of(token) for token in encoding.ids]
        read = [
            text[begin:end].encode() if piece is None else piece
            for piece, (begin, end) in zip(pieces, encoding.offsets, strict=True)
        ]
        return read, [piece is None for piece in pieces]


@dataclass(slots=True)
class _Both:
    """One completion as both sides have it, built from stretches of text and events. An event is one byte long."""

    student_ends: list[int] = field(default_factory=list[int])
    teacher_ends: list[int] = field(default_factory=list[int])
    ids: list[int] = field(default_factory=list[int])
    unknown: list[bool] = field(default_factory=list[bool])
    starts: list[int] = field(default_factory=list[int])
    """Where stretches of text begin."""
    size: int = 0
    limit: int = 0
    """Up to here both have the same."""

    def text(self, pieces: list[bytes], read: list[bytes], ids: list[int], unknown: list[bool], agreed: int) -> None:
        """A stretch of text: the student's tokens of it, the teacher's, and how far they agree."""
        if pieces:
            self.starts.append(self.size)
        self.student_ends += (self.size + ends_of(pieces)).tolist()
        self.teacher_ends += (self.size + ends_of(read)).tolist()
        self.ids += ids
        self.unknown += unknown
        self.limit = self.size + agreed
        self.size += sum(map(len, pieces))

    def event(self, teacher_id: int) -> None:
        """One token on either side that stands for no text."""
        self.size += 1
        self.limit = self.size
        self.student_ends.append(self.size)
        self.teacher_ends.append(self.size)
        self.ids.append(teacher_id)
        self.unknown.append(False)


def _valid(written: bytes) -> str:
    """The text up to the first byte that is no UTF-8: a character cut off at the horizon, or what never was one."""
    try:
        return written.decode("utf-8")
    except UnicodeDecodeError as error:
        return written[: error.start].decode("utf-8")
