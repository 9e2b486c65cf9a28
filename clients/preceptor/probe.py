"""A look at a teacher: is its card true? Claims are held against behaviour; what cannot be checked is said to be so.

Covered: it answers; it serves the supports it offers, and they agree; its numbers are log-probabilities; distributions
sum to one; the log-probability of a token is the one of that position, after that context (a shifted or re-tokenised
answer moves under perturbation); a sequence's scores do not depend on what shares its batch; hidden states times head
are the scores, or what it writes is scored as it states it, which shows that they are untempered; the vocabulary ends
where the card says; the tokenizer is the one that is stated. Not covered, and marked unverified where it matters: which
tokenizer turned the model's training text into those ids, and what a server that cannot be asked says of itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import httpx
import numpy as np
from numpy.typing import NDArray

from preceptor.adapters import Endpoint, Stock, TextTeacher, claims, open_teacher
from preceptor.adapters.stock import StockClient
from preceptor.chatting import chat
from preceptor.endpoint import TeacherClient
from preceptor.errors import BadScores, Invalid, NotAuthorised, Overloaded, PreceptorError, Unreachable
from preceptor.judge import judge
from preceptor.stated import check_tokenizer, check_written, gap, logits_of, temperature_of
from preceptor.wire.chat import ChatMessage, ChatRequest
from preceptor.wire.score import ScoreRequest, Scores
from preceptor.wire.teachers import Card, Outcome, Probe, ProbeCheck, Support, TeacherKind, Values

TIMEOUT = 60.0
"""Seconds for each request of a probe."""
LENGTH = 24
MAX_HEAD = 64 << 20
"""Entries of the largest head that a probe fetches."""
GREETING = ChatRequest(messages=(ChatMessage(role="user", content="Say hello."),), max_tokens=64)
MAX_WHOLE = 300_000
"""Largest vocabulary that a probe adds up."""

Finding = tuple[Outcome, str]


def probe_teacher(
    url: str,
    key: str | None,
    kind: TeacherKind = TeacherKind.PRECEPTOR,
    stock: Stock | None = None,
    *,
    transport: httpx.BaseTransport | None = None,
) -> tuple[Card, Probe]:
    """Look at the teacher behind a URL. `stock`: what a stock server cannot say itself.

    Raises PreceptorError where there is no card to hold it to: no answer, a refused key, something else at that URL.
    """
    timeout = httpx.Timeout(TIMEOUT, connect=5.0)
    with open_teacher(kind, url, key, stock, transport=transport, timeout=timeout) as teacher:
        card = teacher.card()
        look = _Look(teacher, card)
        checks = tuple(_check(name, find) for name, find in look.claims())
        return card, Probe(
            at=datetime.now(UTC),
            ok=all(check.outcome is not Outcome.FAILED for check in checks),
            latency_ms=look.latency_ms,
            tokens_per_second=look.tokens_per_second,
            checks=checks,
            logprobs=look.logprobs,
        )


def _check(name: str, find: Callable[[], Finding]) -> ProbeCheck:
    try:
        outcome, detail = find()
    except (Unreachable, Overloaded) as error:
        outcome, detail = Outcome.UNVERIFIED, f"It gave no answer to this: {error}"
    except PreceptorError as error:
        outcome, detail = Outcome.FAILED, str(error)
    return ProbeCheck(name=name, outcome=outcome, detail=detail[:500])


class _Look:
    """One teacher, and the same few sequences put to it in several ways."""

    def __init__(self, teacher: Endpoint, card: Card) -> None:
        self.teacher, self.card = teacher, card
        self.latency_ms: float | None = None
        self.tokens_per_second: float | None = None
        self.logprobs: tuple[float, ...] = ()
        rng = np.random.default_rng(0)
        length = max(2, min(LENGTH, card.limits.max_tokens // 2 - 1))
        self._context = self._ids(rng, max(1, length // 2))
        self._completions = [self._ids(rng, length - index) for index in range(min(4, length - 1))]
        # Two batches of one sequence differ by rounding alone; narrow floats round at the third digit.
        self._slack = 1e-3 if card.dtype in ("float32", "float64") else 0.25

    def claims(self) -> list[tuple[str, Callable[[], Finding]]]:
        """Names of the checks, in the order in which they are made."""
        if not self.card.supports:
            return [("text", self._text)]
        return [
            ("latency", self._speed),
            ("numbers", self._numbers),
            ("supports", self._supports),
            ("positions", self._positions),
            ("batching", self._batching),
            ("normalised", self._normalised),
            ("head", self._head),
            ("values", self._values),
            ("vocabulary", self._vocabulary),
            ("tokenizer", self._tokenizer),
        ]

    def _ids(self, rng: np.random.Generator, count: int) -> NDArray[np.int32]:
        return rng.integers(0, max(1, self.card.tokenizer.vocab_size), count).astype(np.int32)

    def _ask(
        self,
        completions: list[NDArray[np.int32]],
        support: Support = Support.SAMPLED,
        width: int = 4,
        context: NDArray[np.int32] | None = None,
    ) -> Scores:
        total = sum(map(len, completions))
        width = min(width, self.card.limits.max_k, self.card.tokenizer.vocab_size)
        candidates = np.tile(np.arange(width, dtype=np.int32), (total, 1))
        request = ScoreRequest(
            contexts=[self._context if context is None else context],
            completions=completions,
            context_of=np.zeros(len(completions), dtype=np.int32),
            support=support,
            k=width if support is Support.TOPK else 0,
            candidate_ids=candidates if support is Support.IDS else None,
        )
        scores = self.teacher.score(request)
        judge(scores, request, self.card, teacher=self.card.teacher)
        return scores

    def _text(self) -> Finding:
        if not (isinstance(self.teacher, TextTeacher) and self.card.generates):
            return Outcome.UNVERIFIED, "It offers no support, and writes no text that could be asked for."
        began = time.perf_counter()
        said = chat(self.teacher, GREETING, self.card.model).text
        self.latency_ms = 1000 * (time.perf_counter() - began)
        return Outcome.PASSED, f"It writes: {said[:60]!r}. It gives no scores: a text teacher."

    def _speed(self) -> Finding:
        self._ask(
            [self._completions[0][:1]]
        )  # the first request of a connection, and perhaps of a model, is no measure
        began = time.perf_counter()
        self._ask([self._completions[0][:1]])
        self.latency_ms = 1000 * (time.perf_counter() - began)
        began = time.perf_counter()
        self._ask(self._completions)
        tokens = sum(len(self._context) + len(ids) for ids in self._completions)
        self.tokens_per_second = tokens / (time.perf_counter() - began)
        return Outcome.PASSED, f"One token took {self.latency_ms:.1f} ms; {self.tokens_per_second:.0f} tokens/s."

    def _numbers(self) -> Finding:
        """Whatever it serves, it must be numbers that can be right. What it refuses is for the next check."""
        for support in self.card.supports:
            try:
                scores = self._ask(self._completions[:1], support)
            except BadScores as error:
                return Outcome.FAILED, error.problem.detail
            except PreceptorError:
                continue
            self.logprobs = self.logprobs or tuple(scores.logprob_T.tolist())
        if not self.logprobs:
            return Outcome.UNVERIFIED, "It gave no numbers."
        return Outcome.PASSED, "All numbers are finite, and none is above a log-probability's 0."

    def _supports(self) -> Finding:
        first: NDArray[np.float32] | None = None
        for support in self.card.supports:
            logprob_T = self._ask(self._completions[:1], support).logprob_T
            first = logprob_T if first is None else first
            if (worst := float(np.abs(logprob_T - first).max())) > self._slack:
                return Outcome.FAILED, f"Its supports disagree on the same tokens: {support.value} by {worst:.3g}."
        return Outcome.PASSED, f"It serves {', '.join(self.card.supports)}."

    def _positions(self) -> Finding:
        """Another last token must move the last entry and no other; another first one, or context, the first."""
        ids = self._completions[0]
        before = self._ask([ids]).logprob_T
        for place, name in ((len(ids) - 1, "last"), (0, "first")):
            changed = ids.copy()
            changed[place] = (changed[place] + 1) % self.card.tokenizer.vocab_size
            moved = np.abs(self._ask([changed]).logprob_T - before)
            if place and moved[:place].max() > self._slack:
                entry = int(np.argmax(moved[:place]))
                return Outcome.FAILED, f"Another {name} token moved entry {entry} by {moved[entry]:.3g}: it is shifted."
            if moved[place] == 0:
                return Outcome.FAILED, f"Another {name} token did not move its own entry: the answer is shifted."
        other = (self._context + 1) % self.card.tokenizer.vocab_size
        if np.abs(self._ask([ids], context=other).logprob_T - before).max() == 0:
            return Outcome.FAILED, "Another context moved no entry: it is not read."
        return Outcome.PASSED, "Every entry is of its own token, and of none after it."

    def _batching(self) -> Finding:
        alone = np.concatenate([self._ask([ids]).logprob_T for ids in self._completions])
        worst = float(np.abs(self._ask(self._completions).logprob_T - alone).max())
        outcome = Outcome.PASSED if worst <= self._slack else Outcome.FAILED
        return outcome, f"Alone and in a batch, scores differ by {worst:.2g} at most (bound {self._slack:g})."

    def _normalised(self) -> Finding:
        support = next((each for each in (Support.TOPK, Support.IDS) if each in self.card.supports), None)
        if support is None or self.card.limits.max_k < 1:
            return Outcome.UNVERIFIED, "It offers no support whose mass can be added up."
        if isinstance(self.teacher, StockClient):
            return self._whole()
        scores = self._ask(self._completions, support)
        assert scores.logprobs_TK is not None and scores.tail_T is not None, "judged to be there"
        sums = np.exp(scores.logprobs_TK.astype(np.float64)).sum(axis=1) + np.exp(scores.tail_T.astype(np.float64))
        worst = float(np.abs(sums - 1).max())
        outcome = Outcome.PASSED if worst <= max(self._slack, 1e-3) else Outcome.FAILED
        return outcome, f"Support and tail sum to one within {worst:.2g}."

    def _whole(self) -> Finding:
        """A stock server states no tail: only all of its vocabulary can be added up."""
        size = self.card.tokenizer.vocab_size
        if self.card.limits.max_k < size or size > MAX_WHOLE:
            return Outcome.UNVERIFIED, f"It names {self.card.limits.max_k} of {size} ids at most, and no tail."
        # First whether there are so many: an engine that is asked for more ids than it has may end.
        self._ask([np.array([size - 1], dtype=np.int32)])
        scores = self._ask([self._completions[0][:2]], Support.TOPK, size)
        assert scores.logprobs_TK is not None, "judged to be there"
        worst = float(np.abs(np.exp(scores.logprobs_TK.astype(np.float64)).sum(axis=1) - 1).max())
        outcome = Outcome.PASSED if worst <= 1e-3 else Outcome.FAILED
        return outcome, f"All {size} probabilities sum to one within {worst:.2g}."

    def _head(self) -> Finding:
        card = self.card
        if card.head is None or Support.FULL not in card.supports:
            return Outcome.UNVERIFIED, "It offers no hidden states."
        if card.tokenizer.vocab_size * card.head.hidden_size > MAX_HEAD:
            return Outcome.UNVERIFIED, "Its head is too large to be fetched for a look."
        scores, head = self._ask(self._completions, Support.FULL), self.teacher.head()
        if head.hash != scores.stamp.head_hash:
            return Outcome.FAILED, f"Its scores are stamped with head {scores.stamp.head_hash}, it serves {head.hash}."
        assert scores.hidden_TD is not None, "judged to be there"
        logits, tokens = logits_of(scores.hidden_TD, head, card.head), np.concatenate(self._completions)
        worst = gap(logits, tokens, scores.logprob_T)
        if worst <= self._slack:
            return Outcome.PASSED, f"Hidden states times head give its log-probabilities within {worst:.2g}."
        if (temperature := temperature_of(logits, tokens, scores.logprob_T, self._slack)) is not None:
            return Outcome.FAILED, (
                f"Its log-probabilities are those of its own hidden states and head at temperature {temperature:.3g}: "
                "they are tempered."
            )
        return Outcome.FAILED, f"Hidden states times head give its log-probabilities only within {worst:.2g}."

    def _values(self) -> Finding:
        if self.card.values is not Values.RAW:
            return Outcome.UNVERIFIED, f"It says that its values are '{self.card.values}'."
        if isinstance(self.teacher, StockClient):
            return claims.check_values(self.teacher, self._context, self._score_one, self._slack)
        outcome, detail = self._head()
        if outcome is Outcome.PASSED:
            return outcome, "Its log-probabilities are those of its own hidden states and head, untempered."
        if outcome is Outcome.FAILED or not isinstance(self.teacher, TeacherClient):
            return outcome, detail
        return check_written(self.teacher, self.card, self._context, self._slack)

    def _vocabulary(self) -> Finding:
        size = self.card.tokenizer.vocab_size
        self._ask([np.array([size - 1], dtype=np.int32)])
        if isinstance(self.teacher, StockClient) and not self.teacher.refuses_unknown_ids:
            return (
                Outcome.UNVERIFIED,
                f"It takes the id {size - 1}; {self.teacher.engine} refuses none beyond its last.",
            )
        try:
            self._ask([np.array([size], dtype=np.int32)])
        except (Overloaded, Unreachable, NotAuthorised):
            raise
        except Invalid:
            return Outcome.PASSED, f"It takes the id {size - 1} and refuses {size}."
        return Outcome.FAILED, f"It scored the id {size}, which is beyond its vocabulary of {size}."

    def _score_one(self, prompt: Sequence[int], token: int) -> float:
        request = ScoreRequest(
            contexts=[np.array(prompt, dtype=np.int32)],
            completions=[np.array([token], dtype=np.int32)],
            context_of=np.zeros(1, dtype=np.int32),
            support=Support.SAMPLED,
        )
        return float(self.teacher.score(request).logprob_T[0])

    def _tokenizer(self) -> Finding:
        if isinstance(self.teacher, StockClient):
            return claims.check_tokenizer(self.teacher, self.card)
        if isinstance(self.teacher, TeacherClient):
            return check_tokenizer(self.teacher, self.card)
        return Outcome.UNVERIFIED, "Ids travel, not text; its fingerprint is compared with the student's at submit."
