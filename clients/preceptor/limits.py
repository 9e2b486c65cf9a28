"""Whether a teacher can serve a request, by its card: asked by the pool before it sends, by the teacher before work.

One definition, so that nothing is sent that would be refused, and nothing is refused that would have been sent.
"""

from __future__ import annotations

import numpy as np

from preceptor.errors import Invalid, TooLarge
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import Card, Support


def check_fits(request: ScoreRequest, card: Card) -> None:
    """Raises Invalid (a support, an id, a length, a k) or TooLarge (too many tokens), with the card's numbers."""
    check_support(request, card)
    check_vocabulary(request, card.tokenizer.vocab_size)
    check_lengths(request, card.limits.max_tokens)
    if request.tokens > card.limits.max_batch_tokens:
        raise TooLarge(
            f"completions: the request makes {request.tokens} tokens, contexts counted with every completion; "
            f"this teacher takes {card.limits.max_batch_tokens} at once.",
            field="completions",
            remedy="Send fewer completions at once.",
        )


def check_support(request: ScoreRequest, card: Card) -> None:
    """Raises Invalid where the card does not offer what is asked, with what it offers."""
    if request.support not in card.supports:
        offered = ", ".join(card.supports) or "none"
        raise Invalid(
            f"support: '{request.support}' is not offered by this teacher; it offers {offered}.", field="support"
        )
    width = request.k if request.candidate_ids is None else request.candidate_ids.shape[1]
    if request.support in (Support.TOPK, Support.IDS) and width > card.limits.max_k:
        field = "k" if request.support is Support.TOPK else "candidate_ids"
        raise Invalid(
            f"{field}: {width} ids per position are more than this teacher's {card.limits.max_k}.", field=field
        )


def check_vocabulary(request: ScoreRequest, vocab_size: int) -> None:
    """Raises Invalid where an id is beyond the vocabulary."""
    for field, rows in (("contexts", request.contexts), ("completions", request.completions)):
        for index, ids in enumerate(rows):
            if ids.size and int(ids.max()) >= vocab_size:
                raise Invalid(
                    f"{field}: entry {index} holds the id {int(ids.max())}; this vocabulary ends at {vocab_size - 1}.",
                    field=field,
                    remedy="Send ids of the teacher's own tokenizer; its fingerprint is on its card.",
                )
    candidates = request.candidate_ids
    if candidates is not None and candidates.size and int(candidates.max()) >= vocab_size:
        highest = int(candidates.max())
        raise Invalid(
            f"candidate_ids: holds the id {highest}; this vocabulary ends at {vocab_size - 1}.", field="candidate_ids"
        )


def check_lengths(request: ScoreRequest, max_tokens: int) -> None:
    """Raises Invalid where a context with its completion is longer than the teacher can read."""
    lengths = np.array([len(ids) for ids in request.contexts], dtype=np.int64)
    context_of: list[int] = request.context_of.tolist()
    for index, (completion, context) in enumerate(zip(request.completions, context_of, strict=True)):
        length = int(lengths[context]) + len(completion)
        if length > max_tokens:
            raise Invalid(
                f"contexts: entry {context} has {lengths[context]} tokens, with completion {index} {length}; "
                f"this teacher reads {max_tokens}.",
                field="contexts",
                remedy="Shorten the context or the completion.",
            )
    too_long = np.flatnonzero(lengths > max_tokens)
    if too_long.size:
        index = int(too_long[0])
        raise Invalid(
            f"contexts: entry {index} has {lengths[index]} tokens; this teacher reads {max_tokens}.", field="contexts"
        )
