"""The JSON form of requests and answers, for people and for debugging: the frames' names, with ragged arrays nested.

    {"protocol": "1", "request": {"support": "topk", "k": 2, "request_id": "try"},
     "context_ids": [[5, 6, 7]], "completion_ids": [[8, 9], []], "context_of": [0, 0]}

An answer nests by completion: `"logprob": [[-0.4, -2.1], []]`. Minus infinity is the string "-inf".
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from preceptor.errors import Corrupt
from preceptor.frames import EXTRAS, Options, bad_fields, check_protocol, scored_candidates
from preceptor.tensors import BadFrame
from preceptor.wire.common import Wire
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import PROTOCOL, Stamp, Support

Id = Annotated[int, Field(strict=True, ge=-1, le=2**31 - 1)]


class RequestTwin(Wire):
    """A score request in JSON."""

    protocol: str = PROTOCOL
    request: Options
    context_ids: list[list[Id]]
    completion_ids: list[list[Id]]
    context_of: list[Id]
    candidate_ids: list[list[list[Id]]] | None = None
    """Per completion, per position; support `ids` only. Rows may differ in length: the shorter are padded."""
    position_mask: list[list[bool]] | None = None


Number = float | Literal["-inf"]


class ScoresTwin(Wire):
    """An answer in JSON: everything nested by completion."""

    protocol: str = PROTOCOL
    stamp: Stamp
    logprob: list[list[Number]]
    ids: list[list[list[int]]] | None = None
    logprobs: list[list[list[Number]]] | None = None
    tail: list[list[Number]] | None = None
    hidden: list[list[list[float]]] | None = None
    entropy: list[list[Number]] | None = None
    logsumexp: list[list[Number]] | None = None
    rank: list[list[int]] | None = None


def request_to_json(request: ScoreRequest) -> str:
    """A request for people to read."""
    offsets = request.completion_offsets
    candidates, mask = request.candidate_ids, request.position_mask
    twin = RequestTwin(
        request=Options.of(request),
        context_ids=[ids.tolist() for ids in request.contexts],
        completion_ids=[ids.tolist() for ids in request.completions],
        context_of=request.context_of.tolist(),
        candidate_ids=None if candidates is None else _nested(candidates, offsets),
        position_mask=None if mask is None else _nested(mask, offsets),
    )
    return twin.model_dump_json(exclude_none=True)


def request_from_json(body: bytes) -> ScoreRequest:
    """What a person asks. Raises BadFrame with a sentence; nothing else."""
    try:
        twin = RequestTwin.model_validate(_parse(body))
    except ValidationError as error:
        raise bad_fields(error, "body") from error
    check_protocol(twin.protocol)
    candidates, mask = twin.candidate_ids, twin.position_mask
    return twin.request.request(
        contexts=[np.array(ids, dtype=np.int32) for ids in twin.context_ids],
        completions=[np.array(ids, dtype=np.int32) for ids in twin.completion_ids],
        context_of=np.array(twin.context_of, dtype=np.int32),
        candidate_ids=None if candidates is None else _padded([row for rows in candidates for row in rows]),
        position_mask=None if mask is None else np.array([kept for row in mask for kept in row], dtype=np.bool_),
    )


def scores_to_json(scores: Scores, request: ScoreRequest) -> str:
    """An answer for people to read."""
    answer: dict[str, Any] = {"protocol": PROTOCOL, "stamp": scores.stamp.model_dump(mode="json")}
    arrays: dict[str, NDArray[Any] | None] = {
        "logprob": scores.logprob_T,
        "ids": scores.ids_TK if request.support is Support.TOPK else None,
        "logprobs": scores.logprobs_TK,
        "tail": scores.tail_T,
        "hidden": scores.hidden_TD,
        **{extra.value: getattr(scores, EXTRAS[extra][0]) for extra in request.extras},
    }
    for name, array in arrays.items():
        if array is not None:
            answer[name] = _spelt(_nested(array, scores.offsets))
    return json.dumps(answer, allow_nan=False)


def scores_from_json(body: bytes, request: ScoreRequest) -> Scores:
    """The answer to `request`. Raises Corrupt where it is malformed or does not fit the request."""
    try:
        twin = ScoresTwin.model_validate_json(body)
    except ValidationError as error:
        raise Corrupt(f"The answer is malformed: {bad_fields(error, 'body')}") from error
    count = int(request.scored_offsets[-1])
    ids = logprobs = tail = hidden = None
    if request.support is Support.TOPK:
        ids = _array(twin.ids, "ids", np.int32, (count, request.k))
    elif request.candidate_ids is not None:
        ids = scored_candidates(request)
    if ids is not None:
        logprobs = _array(twin.logprobs, "logprobs", np.float32, (count, ids.shape[1]))
        tail = _array(twin.tail, "tail", np.float32, (count,))
    elif request.support is Support.FULL:
        width = next((len(vector) for row in twin.hidden or () for vector in row), 0)
        hidden = _array(twin.hidden, "hidden", np.float32, (count, width))
    extras: dict[str, Any] = {
        EXTRAS[extra][0]: _array(getattr(twin, extra), extra, np.int32 if extra == "rank" else np.float32, (count,))
        for extra in request.extras
    }
    return Scores(
        offsets=request.scored_offsets,
        logprob_T=_array(twin.logprob, "logprob", np.float32, (count,)),
        ids_TK=ids,
        logprobs_TK=logprobs,
        tail_T=tail,
        hidden_TD=hidden,
        stamp=twin.stamp,
        **extras,
    )


def _array(rows: list[Any] | None, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    flat: list[Any] = [item for row in rows or () for item in row]
    try:
        array: NDArray[Any] = np.asarray(flat, dtype=dtype)
    except ValueError as error:
        raise Corrupt(f"The answer's '{name}' has rows of different lengths.") from error
    array = array.reshape(shape) if not array.size and 0 in shape else array
    if array.shape != shape:
        raise Corrupt(f"The answer's '{name}' has the shape {list(array.shape)} where {list(shape)} was wanted.")
    return array


def _nested(array: NDArray[Any], offsets: NDArray[np.int64]) -> list[Any]:
    bounds: list[int] = offsets.tolist()
    return [array[begin:end].tolist() for begin, end in pairwise(bounds)]


def _padded(rows: list[list[int]]) -> NDArray[np.int32]:
    width = max((len(row) for row in rows), default=1)
    padded = np.full((len(rows), max(width, 1)), -1, dtype=np.int32)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _spelt(value: Any) -> Any:
    """Minus infinity as a word. NaN and plus infinity stay, so that json.dumps refuses them."""
    if isinstance(value, list):
        return [_spelt(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return "-inf" if isinstance(value, float) and math.isinf(value) and value < 0 else value


def _parse(body: bytes) -> Any:
    """JSON without NaN, infinities or endless nesting. Raises BadFrame."""

    def refuse(name: str) -> Literal[""]:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"The body is not JSON that can be read: {error}.") from error
