"""Teachers on the wire: what one says of itself, how it is registered, what a probe found, what stamps its scores."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from preceptor.wire.common import Name, Wire

PROTOCOL = "1"
"""The version of the score protocol that this package speaks."""

Hash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A content hash."""


class Support(StrEnum):
    """The set of next tokens that a score covers."""

    SAMPLED = "sampled"
    IDS = "ids"
    TOPK = "topk"
    FULL = "full"


class Values(StrEnum):
    """Which distribution the log-probabilities are of."""

    RAW = "raw"
    """The model's own, untempered and unfiltered."""
    PROCESSED = "processed"
    """After the engine's temperature and filters."""


class TokenizerCard(Wire):
    """Which tokenizer a teacher's ids belong to."""

    fingerprint: Hash | None
    """Hash of all that decides which ids a text becomes: vocabulary, merges, normaliser, pre-tokeniser, specials.
    None: nobody could say; only a text teacher's may be."""
    vocab_size: int = Field(ge=0)
    """Rows of the output projection; ids at or above it are refused. 0: no ids are taken, only text."""
    special: dict[str, int] = Field(default_factory=dict[str, int])
    """Ids of the special tokens by role (`eos`, `pad`, `bos`), where the tokenizer has them."""
    chat_template: Hash | None = None
    """Hash of the chat template; None: there is none."""
    unalignable: str | None = Field(default=None, max_length=300)
    """Why its tokens are not the bytes of a text, so that no other tokenizer can be aligned with it; None: they are."""
    samples: dict[str, int] = Field(default_factory=dict[str, int], max_length=256)
    """Some tokens as text, and their ids: what a server that cannot state its tokenizer is asked about."""


class Limits(Wire):
    """What one request may ask for."""

    max_tokens: int = Field(ge=1)
    """Longest context plus completion, in tokens."""
    max_batch_tokens: int = Field(ge=1)
    """Most tokens, contexts counted once per completion that follows them, in one request."""
    max_k: int = Field(ge=0)
    """Most ids per position for the supports `ids` and `topk`."""
    max_body_bytes: int = Field(ge=1)
    """Largest request body."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest text that it writes, in tokens; None: as long as `max_tokens` leaves, or nobody says."""

    @property
    def longest_reply(self) -> int:
        """Tokens of the longest text that it can write after any prompt, which has one token at least."""
        return min(self.max_tokens - 1, self.max_new_tokens or self.max_tokens)


class HeadCard(Wire):
    """The output projection in short: what turns hidden states into logits."""

    hash: Hash
    """Hash of the body of `GET /v1/head`."""
    hidden_size: int = Field(ge=1)
    bias: bool = False
    """Whether the projection has a bias."""
    softcap: float | None = None
    """Soft cap on the logits; None: there is none."""
    scale: float = 1.0
    """What the logits are multiplied with."""
    frozen: bool = False
    """Declared never to change, although the teacher's other weights may: it refuses weights that would move it."""


class Card(Wire):
    """What a teacher says of itself: `GET /v1/card`."""

    protocol: Literal["1"] = PROTOCOL
    teacher: str = Field(min_length=1)
    """The name the teacher was started under."""
    model: str
    """What the teacher runs, in its operator's words."""
    weights_version: int = Field(ge=0)
    """Counts up whenever the weights change."""
    weights_hash: Hash | None = None
    """Identity of the live weights: equal hashes, equal weights. None: the server cannot say."""
    moves: bool = False
    """Whether it takes `POST /v1/weights`, so that another version may answer the next request."""
    engine: str
    """Engine and version."""
    device: str
    dtype: str
    tokenizer: TokenizerCard
    tokenizer_file: Hash | None = None
    """Hash of the body of `GET /v1/tokenizer`; None: it is not served, and only students that share it are scored."""
    limits: Limits
    supports: tuple[Support, ...]
    """The supports that `POST /v1/score` serves."""
    head: HeadCard | None = None
    """There where the support `full` is."""
    generates: bool = False
    """Whether the completion endpoints are served."""
    writes: bool = False
    """Whether `POST /v1/write` is: rollouts by token ids, with their log-probabilities."""
    values: Values = Values.RAW
    """The convention of every log-probability this teacher gives."""

    @model_validator(mode="after")
    def _scores_ids(self) -> Self:
        if self.supports and (self.tokenizer.fingerprint is None or self.tokenizer.vocab_size < 1):
            raise ValueError("a teacher that scores must state its tokenizer's fingerprint and vocabulary size")
        return self


class Stamp(Wire):
    """Recorded with every score: which teacher, at which version, said it, and how."""

    teacher: str
    model: str
    weights_version: int
    head_hash: Hash | None
    engine: str
    device: str
    dtype: str
    temperature: float
    values: Values
    context_hashes: tuple[Hash, ...]
    """One per context of the request, in order: the hash of its ids as little-endian int32."""
    wording: str | None = None
    """Set by whoever asked: the kind of context, and a hash of the templates it was written with."""
    queued_seconds: float
    computed_seconds: float
    prefix_hits: int = 0
    """Contexts whose keys and values came from the prefix cache."""


class TeacherKind(StrEnum):
    """What answers behind a teacher's URL."""

    PRECEPTOR = "preceptor"
    """The score protocol: every support that its card offers."""
    VLLM = "vllm"
    """A stock vLLM server."""
    SGLANG = "sglang"
    """A stock SGLang server."""
    OPENAI = "openai"
    """An OpenAI-compatible chat endpoint: text only."""


Url = Annotated[
    str, Field(pattern=r"^https?://[^\s/?#]+[^\s?#]*$", max_length=2048, examples=["http://127.0.0.1:8100"])
]
"""Where a teacher answers."""
KeyEnv = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", examples=["PRECEPTOR_TEACHER_KEY"])]
"""The name of an environment variable that holds a key."""


OWN_BASE = "base"
"""What a run calls its student as it began, as a teacher: a LoRA student without its adapters, else a copy of the
weights before the first step. No other may have the name."""


SAMPLER = "sampler"
"""What a run calls the role of whoever writes its rollouts by weights that it sends. No recipe's may be called so."""


class TeacherCreate(Wire):
    """Register a teacher: `POST /v1/teachers`."""

    name: Name
    """What runs call it."""
    url: Url
    """Where it answers."""
    kind: TeacherKind = TeacherKind.PRECEPTOR
    key_env: KeyEnv | None = None
    """Environment variable that holds the endpoint's key, read by whoever calls. The key itself is never stored."""
    model: str | None = Field(default=None, min_length=1, max_length=300)
    """What a stock server calls the model; None: the only one that it serves."""
    tokenizer: TokenizerCard | None = None
    """For a stock vLLM or SGLang server, which cannot state it itself: the tokenizer of the model that it serves."""

    @model_validator(mode="after")
    def _states_what_the_server_cannot(self) -> Self:
        if self.name == OWN_BASE:
            raise ValueError(f"name: '{OWN_BASE}' is what a run calls its LoRA student's own weights; choose another")
        if self.kind in (TeacherKind.VLLM, TeacherKind.SGLANG):
            if self.tokenizer is None or self.tokenizer.fingerprint is None:
                raise ValueError(
                    f"tokenizer: a stock {self.kind} server cannot state it; give the served model's "
                    "(`preceptor teachers add ... --tokenizer FOLDER` reads it)"
                )
        elif self.tokenizer is not None:
            raise ValueError(f"tokenizer: a teacher of kind '{self.kind}' states its own or has none; leave it out")
        if self.kind is TeacherKind.PRECEPTOR and self.model is not None:
            raise ValueError("model: a Preceptor teacher serves one model and says which; leave it out")
        return self


class TeacherState(StrEnum):
    """Whether runs may use a teacher."""

    READY = "ready"
    DEGRADED = "degraded"
    """Answers, but its last probe found something wrong."""
    DRAINING = "draining"
    """Finishes what runs need and takes no more."""
    DOWN = "down"


class Outcome(StrEnum):
    """What came of one check."""

    PASSED = "passed"
    FAILED = "failed"
    UNVERIFIED = "unverified"
    """Could not be checked from outside."""


class ProbeCheck(Wire):
    """One claim of a card, held against the teacher's behaviour."""

    name: str
    outcome: Outcome
    detail: str
    """One sentence with the numbers."""


class Probe(Wire):
    """What was found when a teacher was last looked at."""

    at: datetime
    ok: bool
    """Whether no check failed."""
    latency_ms: float | None = None
    """Of a one-token score; None: it never answered one."""
    tokens_per_second: float | None = None
    checks: tuple[ProbeCheck, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Log-probabilities of the same few tokens for every teacher of this vocabulary: two endpoints with the same
    weights give the same ones. Empty: it gave none."""


class EndpointCreate(Wire):
    """Have a teacher answer at one more URL: `POST /v1/teachers/{name}/endpoints`. The same model must answer there."""

    url: Url
    """Where it answers."""
    key_env: KeyEnv | None = None
    """Environment variable that holds this endpoint's key, read by whoever calls."""


class Replica(Wire):
    """One of the endpoints at which a teacher answers."""

    id: str
    url: str
    key_env: str | None
    state: TeacherState
    trouble: str | None = None
    """What the last look at it found wrong, in one sentence; None: nothing."""
    probe: Probe | None
    created_at: datetime


class Teacher(Wire):
    """A registered teacher."""

    id: str
    name: Name
    url: str
    """The first endpoint's."""
    kind: TeacherKind
    key_env: str | None
    """The first endpoint's."""
    state: TeacherState
    """Ready while one endpoint is, unless it is drained."""
    card: Card | None
    probe: Probe | None
    """The first endpoint's."""
    endpoints: tuple[Replica, ...] = ()
    """Where it answers, the first registered first."""
    created_at: datetime
    updated_at: datetime
