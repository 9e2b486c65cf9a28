"""What a teacher computes with, one file each; all of them behind the same seam."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from preceptor.tensorfiles import Source
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import HeadCard, Support, TokenizerCard
from preceptor.wire.write import WriteRequest, Written
from preceptor_services.teacher.openai import ChatMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file that is served under the hash of its content."""

    hash: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a backend says of itself."""

    model: str
    engine: str
    """Name and versions."""
    device: str
    dtype: str
    tokenizer: TokenizerCard
    max_tokens: int
    """Longest context plus completion."""
    supports: tuple[Support, ...]
    head: HeadCard | None
    tokenizer_file: NamedFile | None = None
    """A `preceptor.wire.tokenizers.TokenizerFile` as JSON, for students with another tokenizer."""
    max_k: int | None = None
    """Most ids per position that it can name; None: the whole vocabulary."""
    lanes: int = 1
    """Requests that it is given at once: an engine batches by itself."""
    weights_version: int = 0
    """Counts up whenever the weights change."""
    weights_hash: str | None = None
    """See `preceptor.wire.teachers.Card`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One written token."""

    id: int
    logprob: float
    """Of the untempered distribution."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their log-probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How a text is written."""

    max_tokens: int
    temperature: float = 1.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    seed: int = 0
    top: int = 0
    """How many of the likeliest ids to name with every token."""


class Text(Protocol):
    """The text side of a backend, where it has one."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it is, nothing added."""
        ...

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Ids of a conversation up to where the assistant starts to write. Raises Invalid."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        ...

    def write(self, prompt: Sequence[int], draw: Draw) -> Iterator[Token]:
        """Tokens after a prompt, one by one; the one that ends the text is the last where there was room for it."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end a text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What weights must look like to be loaded."""

    folder: Path
    """Where the weights come from that the teacher was started with."""
    shapes: Mapping[str, tuple[int, ...]]
    """Every tensor, by its name in the folder's files."""
    tied: Mapping[str, str]
    """Further names that a tensor of `shapes` has: they may be left out, and must not differ."""
    head: frozenset[str]
    """What of `shapes` the output projection is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWeights:
    """A version that was found to fit, to be loaded."""

    version: int
    hash: str
    tensors: Mapping[str, Source]
    """All of it, by the names of the layout."""
    changed: frozenset[str]
    """The names whose values may differ from what is live."""
    spool: Path
    """A folder for files that are needed until it is live."""


class Backend(Protocol):
    """A model that scores. Its methods block; the scheduler calls them one at a time."""

    @property
    def about(self) -> About:
        """Of the live weights; a new object whenever they change."""
        ...

    @property
    def text(self) -> Text | None:
        """None: scores only."""
        ...

    def head(self) -> Sequence[bytes | memoryview] | None:
        """The frame of the output projection, in pieces."""
        ...

    def layout(self) -> Layout | None:
        """What weights it can load; None: none. Raises Invalid where it could, but not for this model."""
        ...

    def prepare(self, weights: NewWeights) -> Callable[[], None]:
        """Make everything ready while requests go on, and return what makes it live. Called by one thread at a time.

        What is returned is called between two requests; then `about` and `head` are the new version's. Raises Invalid
        where the weights do not suit it. What fails changes nothing.
        """
        ...

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        """Numbers for every scored position. `between` is called now and then; what it raises ends the work."""
        ...


@runtime_checkable
class Writes(Protocol):
    """What a backend offers besides `score`, to write rollouts."""

    @property
    def writes(self) -> bool:
        """Whether it can, as it was started."""
        ...

    @property
    def untempered(self) -> bool:
        """Whether it states untempered log-probabilities at every temperature."""
        ...

    def write(self, wanted: WriteRequest, between: Callable[[], object]) -> Iterator[Sequence[Written]]:
        """Every completion, those that were finished together; nothing, where it is somebody else's turn. `between` is
        called now and then; what it raises ends the work."""
        ...


def writer_of(backend: Backend) -> Writes | None:
    """The backend as one that writes rollouts; None: it cannot."""
    return backend if isinstance(backend, Writes) and backend.writes else None
