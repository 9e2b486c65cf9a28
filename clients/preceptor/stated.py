"""What a Preceptor teacher states of its tokenizer and of its values, held against what it serves and what it writes.

What stock servers can be asked instead is in `preceptor.adapters.claims`.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from preceptor.endpoint import TeacherClient
from preceptor.errors import Invalid, NotFound
from preceptor.fingerprint import fingerprint_of
from preceptor.wire.score import Head, ScoreRequest
from preceptor.wire.teachers import Card, HeadCard, Outcome, Support
from preceptor.wire.tokenizers import TokenizerFile

Finding = tuple[Outcome, str]

SPECIALS = 4
"""Special tokens that the text side is asked to read: every tokenizer that has them reads each as one id."""


def check_tokenizer(teacher: TeacherClient, card: Card) -> Finding:
    """Whether the tokenizer that it serves is the one that its card states, fits its vocabulary, and is its own."""
    stated = card.tokenizer
    if card.tokenizer_file is None:
        return Outcome.UNVERIFIED, "It serves no tokenizer; ids travel, and its fingerprint is its own word."
    file, served = teacher.tokenizer()
    if served != card.tokenizer_file:
        return (
            Outcome.FAILED,
            f"Its card names the tokenizer file {_short(card.tokenizer_file)}, it serves {_short(served)}.",
        )
    found = fingerprint_of(file)
    if found != stated.fingerprint:
        return Outcome.FAILED, f"It states the tokenizer {_short(stated.fingerprint)} and serves {_short(found)}."
    largest = _largest_id(file)
    if largest >= stated.vocab_size:
        return Outcome.FAILED, f"Its tokenizer has the id {largest}, beyond its vocabulary of {stated.vocab_size}."
    specials = _specials(file)
    count = _count(teacher, card, "".join(specials)) if specials and card.generates else None
    if count is None:
        return Outcome.PASSED, f"It serves the tokenizer that it states, {_short(found)}."
    if not len(specials) <= count <= len(specials) + 1:  # one more: a first token that it puts before every text
        return Outcome.FAILED, (
            f"It states the tokenizer {_short(found)}, which reads {''.join(specials)[:60]!r} as {len(specials)} ids, "
            f"and its own text side reads {count}."
        )
    return Outcome.PASSED, (
        f"It serves the tokenizer that it states, {_short(found)}, and reads {len(specials)} special tokens as such."
    )


def logits_of(hidden_TD: NDArray[np.float32], head: Head, card: HeadCard) -> NDArray[np.float32]:
    """Logits [T, V] of hidden states, as the card says that they are made."""
    logits_TV = hidden_TD @ head.weight_VD.T + (0 if head.bias_V is None else head.bias_V)
    if card.scale != 1.0:
        logits_TV = logits_TV * np.float32(card.scale)
    if card.softcap is not None:
        logits_TV = np.float32(card.softcap) * np.tanh(logits_TV / np.float32(card.softcap))
    return logits_TV


def gap(
    logits_TV: NDArray[np.float32], token_T: NDArray[np.int32], logprob_T: NDArray[np.float32], temperature: float = 1.0
) -> float:
    """How far log-probabilities [T] are, at most, from those of these logits at a temperature."""
    scaled_TV = logits_TV / temperature
    top_T1 = scaled_TV.max(axis=1, keepdims=True)
    lse_T = top_T1[:, 0] + np.log(np.exp(scaled_TV - top_T1).sum(axis=1))
    return float(np.abs(scaled_TV[np.arange(len(token_T)), token_T] - lse_T - logprob_T).max())


def temperature_of(
    logits_TV: NDArray[np.float32], token_T: NDArray[np.int32], logprob_T: NDArray[np.float32], slack: float
) -> float | None:
    """The temperature at which these logits give these log-probabilities within `slack`; None: there is none."""
    few = slice(0, 6)  # enough to tell, and no more than a few rows of a large vocabulary

    def off(log_temperature: float) -> float:
        return gap(logits_TV[few], token_T[few], logprob_T[few], math.exp(log_temperature))

    least, most, count = math.log(0.05), math.log(20.0), 120
    grid = [least + (most - least) * index / count for index in range(count + 1)]
    best = min(range(len(grid)), key=lambda index: off(grid[index]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, count)]
    for _ in range(60):
        third = (high - low) / 3
        if off(low + third) < off(high - third):
            high -= third
        else:
            low += third
    found = math.exp((low + high) / 2)
    return found if gap(logits_TV, token_T, logprob_T, found) <= slack else None


def check_written(teacher: TeacherClient, card: Card, prompt: NDArray[np.int32], slack: float) -> Finding:
    """Whether the likeliest next token has the log-probability that it states when it writes it: for a teacher
    without hidden states, the one way to see from outside that its scores are not tempered.
    """
    if not card.generates or Support.TOPK not in card.supports:
        return Outcome.UNVERIFIED, "Untempered by its word; without hidden states and a written token nobody can tell."
    wish: dict[str, Any] = {"model": card.teacher, "prompt": prompt.tolist(), "max_tokens": 1}
    try:
        answer = teacher.complete({**wish, "temperature": 0, "logprobs": 0})
    except (Invalid, NotFound):
        return Outcome.UNVERIFIED, "Untempered by its word; it writes no token that its score could be compared with."
    stated = _first_logprob(answer)
    if stated is None:
        return Outcome.UNVERIFIED, "Untempered by its word; it states no log-probability of what it writes."
    request = ScoreRequest(
        contexts=[prompt],
        completions=[np.zeros(1, dtype=np.int32)],
        context_of=np.zeros(1, dtype=np.int32),
        support=Support.TOPK,
        k=1,
    )
    likeliest_TK = teacher.score(request).logprobs_TK
    assert likeliest_TK is not None, "it was asked for"
    scored = float(likeliest_TK[0, 0])
    outcome = Outcome.PASSED if abs(scored - stated) <= slack else Outcome.FAILED
    return outcome, (
        f"It writes the likeliest token with log-probability {stated:.4f} and scores it {scored:.4f} (bound {slack:g})."
    )


def _first_logprob(answer: dict[str, Any]) -> float | None:
    value: Any = answer
    for step in ("choices", 0, "logprobs", "token_logprobs", 0):
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return float(value) if isinstance(value, int | float) else None


def _count(teacher: TeacherClient, card: Card, text: str) -> int | None:
    """How many tokens its own text side reads in a text; None: it does not say."""
    try:
        answer = teacher.complete({"model": card.teacher, "prompt": text, "max_tokens": 1, "temperature": 0})
    except (Invalid, NotFound):
        return None
    usage: Any = answer.get("usage")
    count: Any = cast("dict[str, Any]", usage).get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _specials(file: TokenizerFile) -> list[str]:
    """Special tokens that stand for themselves wherever they are in a text."""
    added: Any = file.tokenizer.get("added_tokens") or []
    tokens = cast("list[dict[str, Any]]", [each for each in added if isinstance(each, dict)])
    plain = [
        str(token["content"])
        for token in tokens
        if token.get("special") and token.get("content") and not any(token.get(flag) for flag in ("lstrip", "rstrip"))
    ]
    return plain[:SPECIALS]


def _largest_id(file: TokenizerFile) -> int:
    model: Any = file.tokenizer.get("model")
    vocab: Any = cast("dict[str, Any]", model).get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        return max((id for id in cast("dict[str, Any]", vocab).values() if isinstance(id, int)), default=-1)
    return len(cast("list[Any]", vocab)) - 1 if isinstance(vocab, list) else -1


def _short(value: str | None) -> str:
    return "unknown" if value is None else value[:19]
