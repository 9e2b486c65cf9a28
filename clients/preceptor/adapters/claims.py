"""What can be found out about a stock server's claims, beyond what the probe asks of every teacher.

Its tokenizer was stated by an operator, so it is asked to spell and to read some of that tokenizer's tokens. Its
log-probabilities of a prompt are compared with the one that it states for a token of its own writing. What cannot be
asked is `unverified`, never passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from preceptor.adapters.stock import StockClient
from preceptor.wire.teachers import Card, Outcome

Finding = tuple[Outcome, str]
ScoreOne = Callable[[Sequence[int], int], float]
"""From a prompt and the token after it to that token's log-probability, as this server scores prompts."""

TEXTS = ("The quick brown fox jumps over 13 lazy dogs.", "def f(x):\n    return x + 1\n")
"""What is tokenised and read back."""


def check_tokenizer(teacher: StockClient, card: Card) -> Finding:
    """Whether the server spells the stated tokenizer's tokens, and reads back what it wrote as ids."""
    vocabulary, samples = card.tokenizer.vocab_size, card.tokenizer.samples
    for text in TEXTS:
        ids = teacher.tokens_of(text)
        if ids is None:
            return Outcome.UNVERIFIED, "The server does not tokenise; the tokenizer is its operator's word."
        if ids and max(ids) >= vocabulary:
            return Outcome.FAILED, f"It tokenises to the id {max(ids)}, beyond the stated vocabulary of {vocabulary}."
        back = teacher.text_of(ids)
        if back is None:
            return _spelled(teacher, samples)
        if _bare(back) != _bare(text):
            return Outcome.UNVERIFIED, f"It reads {text[:20]!r} back as {back[:40]!r}: its tokenizer loses text."
    if not samples:
        return Outcome.UNVERIFIED, "It tokenises and reads back; no tokens of the stated tokenizer came to compare."
    for text, id in samples.items():
        if text.isalnum():
            read = teacher.text_of([id])
            if read is None or _bare(read) != text:
                return Outcome.FAILED, f"It reads the id {id} as {read!r}; in the stated tokenizer that is {text!r}."
        elif (ids := teacher.tokens_of(text)) != [id]:  # decoders leave special tokens out
            return Outcome.FAILED, f"It writes {text!r} as {ids}; in the stated tokenizer that is {id}."
    return Outcome.PASSED, f"It has {len(samples)} tokens of the stated tokenizer at their ids, and reads texts back."


def _spelled(teacher: StockClient, samples: Mapping[str, int]) -> Finding:
    """A server that tokenises and reads nothing back: special tokens are one id each in every text."""
    special = {text: id for text, id in samples.items() if not text.isalnum()}
    for text, id in special.items():
        if (ids := teacher.tokens_of(text)) != [id]:
            return Outcome.FAILED, f"It writes {text!r} as {ids}; in the stated tokenizer that is {id}."
    if not special:
        return Outcome.UNVERIFIED, "The server does not read ids back; the tokenizer is its operator's word."
    return Outcome.PASSED, f"It has {len(special)} special tokens of the stated tokenizer at their ids."


def check_values(teacher: StockClient, prompt: NDArray[np.int32], score: ScoreOne, slack: float) -> Finding:
    """Whether a token that it writes at temperature 1 has the log-probability that it gives it in a prompt."""
    ids: list[int] = prompt.tolist()
    wrote = teacher.written(ids)
    if wrote is None:
        return Outcome.UNVERIFIED, "Untempered by its engine's word: it names no token of its own writing by id."
    token, stated = wrote
    scored = score(ids, token)
    differ = abs(scored - stated)
    outcome = Outcome.PASSED if differ <= slack else Outcome.FAILED
    return outcome, (
        f"It wrote token {token} with log-probability {stated:.4f} and scores it {scored:.4f} in a prompt "
        f"(bound {slack:g})."
    )


def _bare(text: str) -> str:
    """Without spaces: decoders differ in whether a token keeps the one before it."""
    return "".join(text.split())
