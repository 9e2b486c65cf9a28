"""Requests, answers and heads as safetensors frames (for programs); `preceptor.twins` has their JSON form (for people).

The tensors and their names are `docs/protocol.md`, version 1. Ragged arrays are a flat array and offsets. Everything
that is read is checked: names, dtypes, shapes, offsets against lengths, answers against their request. BadFrame says
what is wrong with a request; Corrupt, with an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictInt, StringConstraints, ValidationError

from preceptor.errors import Corrupt
from preceptor.narrow import from_bf16, from_f8, to_bf16, to_f8
from preceptor.tensors import BadFrame, Tensor, pack, unpack
from preceptor.wire.common import Wire
from preceptor.wire.score import Extra, Head, HiddenDtype, ScoreRequest, Scores, offsets_of
from preceptor.wire.teachers import PROTOCOL, Stamp, Support

EXTRAS: dict[Extra, tuple[str, str]] = {
    Extra.ENTROPY: ("entropy_T", "F32"),
    Extra.LOGSUMEXP: ("logsumexp_T", "F32"),
    Extra.RANK: ("rank_T", "I32"),
}
"""Where `Scores` keeps each extra, and its dtype on the wire."""


class Options(Wire):
    """What a request says besides its arrays: the header's `request`."""

    support: Support
    k: StrictInt = Field(0, ge=0, le=2**31 - 1)
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    extras: tuple[Extra, ...] = ()
    dtype: HiddenDtype = HiddenDtype.F32
    weights_version: StrictInt | None = Field(None, ge=0)
    deadline_ms: StrictInt | None = Field(None, ge=1, le=2**53)
    request_id: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")]

    @classmethod
    def of(cls, request: ScoreRequest) -> Options:
        """The options of a request."""
        return cls(
            support=request.support,
            k=request.k,
            temperature=request.temperature,
            extras=tuple(sorted(request.extras)),
            dtype=request.dtype,
            weights_version=request.weights_version,
            deadline_ms=request.deadline_ms,
            request_id=request.request_id,
        )

    def request(self, **arrays: Any) -> ScoreRequest:
        """The request that these options and arrays make. Raises BadFrame where they do not belong together."""
        try:
            return ScoreRequest(
                support=self.support,
                k=self.k,
                temperature=self.temperature,
                extras=frozenset(self.extras),
                dtype=self.dtype,
                weights_version=self.weights_version,
                deadline_ms=self.deadline_ms,
                request_id=self.request_id,
                **arrays,
            )
        except (ValueError, OverflowError) as error:
            field, _, why = str(error).partition(": ")
            raise BadFrame(f"{field}: {why}.", field=field) from error


def read_options(text: str | None) -> Options:
    """The header's `request`. Raises BadFrame."""
    if text is None:
        raise BadFrame("The header's __metadata__ has no 'request'.", field="request")
    try:
        return Options.model_validate_json(text)
    except ValidationError as error:
        raise bad_fields(error, "request") from error


def bad_fields(error: ValidationError, prefix: str) -> BadFrame:
    """The first thing that pydantic found wrong, as one sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join([prefix, *(str(part) for part in first["loc"])])
    given = repr(first["input"])
    given = given if len(given) <= 60 else given[:57] + "..."
    return BadFrame(f"{field}: {first['msg']}; it was {given}.", field=field)


def check_protocol(version: object) -> None:
    """Raises BadFrame unless the frame is of the version of the protocol that is spoken here."""
    if version != PROTOCOL:
        known = f"this side speaks {PROTOCOL}"
        raise BadFrame(f"protocol: the frame is of version {str(version)[:20]!r}; {known}.", field="protocol")


def encode_request(request: ScoreRequest) -> bytes:
    """The body of `POST /v1/score`."""
    tensors = {
        "context_ids": Tensor("I32", _flat(request.contexts)),
        "context_offsets": Tensor("I64", offsets_of([len(ids) for ids in request.contexts])),
        "completion_ids": Tensor("I32", _flat(request.completions)),
        "completion_offsets": Tensor("I64", request.completion_offsets),
        "context_of": Tensor("I32", request.context_of),
    }
    if request.candidate_ids is not None:
        tensors["candidate_ids"] = Tensor("I32", request.candidate_ids)
    if request.position_mask is not None:
        tensors["position_mask"] = Tensor("BOOL", request.position_mask)
    metadata = {"protocol": PROTOCOL, "request": Options.of(request).model_dump_json()}
    return b"".join(pack(tensors, metadata))


def decode_request(frame: bytes) -> ScoreRequest:
    """What a caller asks. Raises BadFrame with a sentence; nothing else."""
    tensors, metadata = unpack(frame)
    check_protocol(metadata.get("protocol"))
    options = read_options(metadata.get("request"))
    take = _Taker(tensors)
    request = options.request(
        contexts=_ragged(take, "context_ids", "context_offsets"),
        completions=_ragged(take, "completion_ids", "completion_offsets"),
        context_of=take("context_of", "I32", 1),
        candidate_ids=take("candidate_ids", "I32", 2) if "candidate_ids" in tensors else None,
        position_mask=take("position_mask", "BOOL", 1) if "position_mask" in tensors else None,
    )
    take.finish()
    return request


def encode_scores(scores: Scores, request: ScoreRequest) -> bytes:
    """The answer to a request."""
    tensors = {"logprob": Tensor("F32", scores.logprob_T)}
    if scores.logprobs_TK is not None and scores.tail_T is not None:
        tensors["logprobs"] = Tensor("F32", scores.logprobs_TK)
        tensors["tail"] = Tensor("F32", scores.tail_T)
        if scores.ids_TK is not None and request.support is Support.TOPK:
            tensors["ids"] = Tensor("I32", scores.ids_TK)
    if scores.hidden_TD is not None:
        tensors |= _narrowed(scores.hidden_TD, request.dtype)
    for extra in request.extras:
        name, dtype = EXTRAS[extra]
        tensors[extra.value] = Tensor(dtype, getattr(scores, name))
    return b"".join(pack(tensors, {"protocol": PROTOCOL, "stamp": scores.stamp.model_dump_json()}))


def decode_scores(frame: bytes, request: ScoreRequest) -> Scores:
    """The answer to `request`. Raises Corrupt where it is malformed or does not fit; values are not judged."""
    try:
        tensors, metadata = unpack(frame)
        check_protocol(metadata.get("protocol"))
        stamp = Stamp.model_validate_json(metadata.get("stamp", ""))
        take = _Taker(tensors)
        scores = _read_scores(take, request, stamp)
        take.finish()
    except BadFrame as error:
        raise Corrupt(f"The answer is malformed: {error}") from error
    except ValidationError as error:
        raise Corrupt(f"The answer's stamp is malformed: {bad_fields(error, 'stamp')}") from error
    return scores


def _read_scores(take: _Taker, request: ScoreRequest, stamp: Stamp) -> Scores:
    offsets = request.scored_offsets
    count = int(offsets[-1])
    ids = logprobs = tail = hidden = None
    if request.support is Support.TOPK:
        ids = take("ids", "I32", 2, (count, request.k))
    elif request.candidate_ids is not None:
        ids = scored_candidates(request)
    if ids is not None:
        logprobs = take("logprobs", "F32", 2, ids.shape)
        tail = take("tail", "F32", 1, (count,))
    elif request.support is Support.FULL:
        hidden = _widened(take, request.dtype, count)
    extras: dict[str, Any] = {}
    for extra, (field, dtype) in EXTRAS.items():
        extras[field] = take(extra.value, dtype, 1, (count,)) if extra in request.extras else None
    return Scores(
        offsets=offsets,
        logprob_T=take("logprob", "F32", 1, (count,)),
        ids_TK=ids,
        logprobs_TK=logprobs,
        tail_T=tail,
        hidden_TD=hidden,
        stamp=stamp,
        **extras,
    )


def scored_candidates(request: ScoreRequest) -> NDArray[np.int32]:
    """[T, K] the request's candidates at the positions that are scored."""
    candidates = request.candidate_ids
    assert candidates is not None, "only a request with support 'ids' has candidates"
    return candidates if request.position_mask is None else candidates[request.position_mask]


def head_buffers(weight: Tensor, bias: Tensor | None = None) -> list[bytes | memoryview]:
    """The body of `GET /v1/head`, to be written piece by piece: `weight` [V, D] and `bias` [V], F32 or BF16."""
    tensors = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return pack(tensors, {"protocol": PROTOCOL})


def hash_of(pieces: Sequence[bytes | memoryview]) -> str:
    """Content hash of a frame."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return "sha256:" + digest.hexdigest()


def decode_head(frame: bytes, expected: str) -> Head:
    """The head of this hash. Raises Corrupt where the bytes are others, or not a head."""
    found = hash_of([frame])
    if found != expected:
        raise Corrupt(
            f"The head has the hash {found}, not {expected}.", remedy="It was cut off or changed; fetch it again."
        )
    try:
        tensors, metadata = unpack(frame)
        check_protocol(metadata.get("protocol"))
        take = _Taker(tensors)
        weight = take.floats("weight", 2)
        bias = take.floats("bias", 1) if "bias" in tensors else None
        take.finish()
    except BadFrame as error:
        raise Corrupt(f"The head is malformed: {error}") from error
    if bias is not None and len(bias) != len(weight):
        raise Corrupt(f"The head's bias has {len(bias)} entries for {len(weight)} rows of weight.")
    return Head(hash=found, weight_VD=weight, bias_V=bias)


class _Taker:
    """Takes tensors out of a frame by name, and complains about what is missing, wrong or left over."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.left = dict(tensors)

    def __call__(self, name: str, dtype: str, rank: int, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        tensor = self.left.pop(name, None)
        if tensor is None:
            raise BadFrame(f"Tensor '{name}' is missing.", field=name)
        if tensor.dtype != dtype or tensor.array.ndim != rank or shape not in (None, tensor.array.shape):
            wanted = f"{dtype} {list(shape)}" if shape is not None else f"{dtype} of {rank} dimension(s)"
            given = f"{tensor.dtype} {list(tensor.array.shape)}"
            raise BadFrame(f"Tensor '{name}' is {given}; it must be {wanted}.", field=name)
        return tensor.array

    def floats(self, name: str, rank: int) -> NDArray[np.float32]:
        narrow = name in self.left and self.left[name].dtype == "BF16"
        return from_bf16(self(name, "BF16", rank)) if narrow else self(name, "F32", rank)

    def finish(self) -> None:
        if self.left:
            names = ", ".join(sorted(self.left))[:60].encode("ascii", "backslashreplace").decode()
            raise BadFrame(f"The frame has tensors that do not belong in it: {names}.", field=names)


def _ragged(take: _Taker, ids_name: str, offsets_name: str) -> list[NDArray[np.int32]]:
    ids, offsets = take(ids_name, "I32", 1), take(offsets_name, "I64", 1)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(ids):
        raise BadFrame(f"{offsets_name}: must start at 0 and end at {len(ids)}, the number of ids.", field=offsets_name)
    if (offsets[1:] < offsets[:-1]).any():
        row = int(np.flatnonzero(offsets[1:] < offsets[:-1])[0])
        raise BadFrame(f"{offsets_name}: entry {row + 1} is smaller than the one before it.", field=offsets_name)
    bounds: list[int] = offsets.tolist()
    return [ids[begin:end] for begin, end in pairwise(bounds)]


def _flat(rows: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)


def _narrowed(hidden_TD: NDArray[np.float32], dtype: HiddenDtype) -> dict[str, Tensor]:
    if dtype is HiddenDtype.BF16:
        return {"hidden": Tensor("BF16", to_bf16(hidden_TD))}
    if dtype is HiddenDtype.F8:
        codes, scale = to_f8(hidden_TD)
        return {"hidden": Tensor("F8_E4M3", codes), "scale": Tensor("F32", scale)}
    return {"hidden": Tensor("F32", hidden_TD)}


def _widened(take: _Taker, dtype: HiddenDtype, count: int) -> NDArray[np.float32]:
    if dtype is HiddenDtype.BF16:
        hidden = from_bf16(take("hidden", "BF16", 2))
    elif dtype is HiddenDtype.F8:
        hidden = from_f8(take("hidden", "F8_E4M3", 2), take("scale", "F32", 1, (count,)))
    else:
        hidden = take("hidden", "F32", 2)
    if len(hidden) != count:
        raise BadFrame(f"Tensor 'hidden' has {len(hidden)} rows for {count} scored positions.", field="hidden")
    return hidden
