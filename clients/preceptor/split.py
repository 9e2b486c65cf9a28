"""Cut a score request to a teacher's limits, and join the answers, so that nobody sees that it was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from preceptor.errors import TooLarge
from preceptor.wire.score import Numbers, ScoreRequest, Scores, context_hash
from preceptor.wire.teachers import Limits

_HEADER_BYTES = 8192
"""Room for a frame's header: it holds names, shapes and one small object."""
_BY_POSITION = [each.name for each in fields(Numbers) if each.name not in ("offsets", "prefix_hits")]
"""The arrays of an answer that have a row for every scored position."""


def split(request: ScoreRequest, limits: Limits) -> list[ScoreRequest]:
    """Requests that each fit, in order; `[request]` where it fits. Raises TooLarge where one completion does not."""
    width = 0 if request.candidate_ids is None else request.candidate_ids.shape[1]
    parts: list[list[int]] = [[]]
    tokens, size = 0, _HEADER_BYTES
    held: set[int] = set()
    context_of: list[int] = request.context_of.tolist()
    for index, (completion, context) in enumerate(zip(request.completions, context_of, strict=True)):
        reads = len(request.contexts[context]) + len(completion)
        own = len(completion) * (4 + 4 * width + 1) + 12
        shared = 4 * len(request.contexts[context]) + 8
        if reads > limits.max_batch_tokens or _HEADER_BYTES + own + shared > limits.max_body_bytes:
            raise TooLarge(
                f"completions: entry {index} alone makes {reads} tokens and {own + shared} bytes; this teacher takes "
                f"{limits.max_batch_tokens} tokens and {limits.max_body_bytes} bytes at once.",
                field="completions",
            )
        more = own + (0 if context in held else shared)
        if parts[-1] and (tokens + reads > limits.max_batch_tokens or size + more > limits.max_body_bytes):
            parts.append([])
            tokens, size = 0, _HEADER_BYTES
            held.clear()
            more = own + shared
        parts[-1].append(index)
        held.add(context)
        tokens, size = tokens + reads, size + more
    return [request] if len(parts) == 1 else [part_of(request, part) for part in parts]


def part_of(request: ScoreRequest, indices: Sequence[int]) -> ScoreRequest:
    """The same request for some of its completions, in the order of `indices`."""
    used, context_of = np.unique(request.context_of[list(indices)], return_inverse=True)
    bounds: list[int] = request.completion_offsets.tolist()
    rows = np.concatenate([np.arange(bounds[index], bounds[index + 1]) for index in indices])
    return replace(
        request,
        contexts=[request.contexts[index] for index in used.tolist()],
        completions=[request.completions[index] for index in indices],
        context_of=context_of.astype(np.int32),
        candidate_ids=None if request.candidate_ids is None else request.candidate_ids[rows],
        position_mask=None if request.position_mask is None else request.position_mask[rows],
    )


def join(request: ScoreRequest, answers: Sequence[Scores]) -> Scores:
    """The answer to the whole request."""
    if len(answers) == 1 and len(answers[0].stamp.context_hashes) == len(request.contexts):
        return answers[0]
    arrays = {name: [getattr(answer, name) for answer in answers] for name in _BY_POSITION}
    first = answers[0]
    stamp = first.stamp.model_copy(
        update={
            "context_hashes": tuple(context_hash(ids) for ids in request.contexts),
            "queued_seconds": sum(answer.stamp.queued_seconds for answer in answers),
            "computed_seconds": sum(answer.stamp.computed_seconds for answer in answers),
            "prefix_hits": sum(answer.stamp.prefix_hits for answer in answers),
        }
    )
    return replace(
        first,
        offsets=request.scored_offsets,
        stamp=stamp,
        **{name: None if parts[0] is None else np.concatenate(parts) for name, parts in arrays.items()},
    )


def scores_of(scores: Scores, request: ScoreRequest, index: int) -> Scores:
    """What an answer to `request` says of one completion alone."""
    rows = slice(int(scores.offsets[index]), int(scores.offsets[index + 1]))
    arrays = {name: getattr(scores, name) for name in _BY_POSITION}
    context = scores.stamp.context_hashes[int(request.context_of[index])]
    return replace(
        scores,
        offsets=scores.offsets[index : index + 2] - scores.offsets[index],
        stamp=scores.stamp.model_copy(update={"context_hashes": (context,)}),
        **{name: None if array is None else array[rows] for name, array in arrays.items()},
    )
