"""The teachers of a run, by role: splitting, routing, checks, failure policy and counting around an `Endpoint`.

Scores always travel over HTTP, whoever the teacher is. What a teacher cannot serve is refused before it is sent; what
it answers is checked before it is believed; everything that is sent or received is counted.

A teacher may have several endpoints. `persist` gets an answer out of them; parts of one request are of one weights
version, whoever answers them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from preceptor.adapters import Endpoint
from preceptor.chatting import ask_for_text
from preceptor.closing import Closing
from preceptor.endpoint import TeacherClient
from preceptor.errors import Invalid, TeacherRefused, TeacherUnavailable
from preceptor.fingerprint import fingerprint_of
from preceptor.heads import Heads
from preceptor.limits import check_lengths, check_support, check_vocabulary
from preceptor.persist import persist
from preceptor.replica import Replica
from preceptor.replicas import Changes, Means, Replicas
from preceptor.roles import Role, Roles
from preceptor.score_cache import ScoreCache
from preceptor.scored import ask_for_scores
from preceptor.weights import Weights, body_of
from preceptor.wire.chat import ChatRequest, Reply
from preceptor.wire.runs import OnFailure, ReplicaAddress, TeacherEndpoint, TeacherLedger
from preceptor.wire.score import Head, ScoreRequest, Scores
from preceptor.wire.teachers import Card
from preceptor.wire.tokenizers import TokenizerFile
from preceptor.wire.weights import WeightsKind
from preceptor.wire.write import WriteRequest, Written
from preceptor.writing import ask_for_rollouts

DEADLINE = 600.0
"""Seconds in which one call must succeed, retries included."""
WAIT = 3600.0
"""Seconds for which a context that waits for its teacher goes on calling."""


class TeacherPool(Closing):
    """A run's teachers. Safe to share between threads.

    Raises TeacherUnavailable (no answer within the deadline), TeacherRefused (the request does not suit it),
    BadScores (numbers that cannot be log-probabilities) and Interrupted (told to stop while nobody answered), each
    with the teacher's name.
    """

    def __init__(
        self,
        teachers: Mapping[str, TeacherEndpoint],
        cache_dir: Path,
        *,
        fallbacks: Mapping[str, TeacherEndpoint] | None = None,
        vacant: Collection[str] = (),
        scores: ScoreCache | None = None,
        transport: httpx.BaseTransport | None = None,
        deadline: float = DEADLINE,
        wait: float = WAIT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`teachers` and `fallbacks` by role, `vacant` those without; `cache_dir` is where heads are kept; `transport`
        is httpx's seam.

        `deadline` bounds a call in seconds, `wait` what a context that waits makes of several. While nobody answers,
        `stopping` is asked whether to go on. Keys are read from the environment variables that the endpoints name (or
        the file that NAME_FILE names). Raises Invalid where one is named and not set, or a fallback has another
        tokenizer than the teacher that it stands in for.
        """
        means = Means(transport=transport, deadline=deadline, clock=clock, sleep=sleep, stopping=stopping)
        self._roles = Roles(teachers, fallbacks or {}, vacant, means)
        self._heads = Heads(cache_dir)
        self._scores = scores
        self._deadline = deadline
        self._wait = max(wait, deadline)

    def card(self, role: str) -> Card:
        """The teacher's live card, asked for once; the registered one while nobody answers, so that a context's own
        policy decides how long that is waited for. Raises TeacherRefused where it is not what it was."""
        role_ = self._roles.of(role)
        try:
            return self._card(role_, role_.replicas, self._deadline, hasty=True)
        except TeacherUnavailable:
            return role_.replicas.endpoint.card

    def score(self, role: str, request: ScoreRequest, *, on_failure: OnFailure = "wait") -> Scores:
        """Scores for every position asked, split over the teacher's limits and joined again.

        Where nobody answers within a call's deadline, `on_failure` decides: go on trying; ask the role's fallback,
        whose stamp the scores then carry; or raise TeacherUnavailable and count the completions as dropped.
        """
        role_ = self._roles.of(role)
        if on_failure == "wait":
            return self._score(role_, role_.replicas, request, self._wait)
        try:
            return self._score(role_, role_.replicas, request, self._deadline, hasty=role_.replicas.down)
        except TeacherUnavailable as error:
            if on_failure == "drop":
                role_.tally.count(dropped=len(request.completions))
                raise
            return self._fall_back(role, role_, request, error)

    def chat(self, role: str, request: ChatRequest, *, on_failure: OnFailure = "wait") -> Reply:
        """The next message of a conversation. Where nobody answers, `on_failure` decides as for scores; what is done
        without is counted by whoever wanted it. Raises TeacherRefused where the teacher writes no text."""
        role_ = self._roles.of(role)
        return ask_for_text(role_.replicas, role_.fallback, request, on_failure, patience=self._wait)

    def head(self, role: str, hash: str | None = None, *, on_failure: OnFailure = "wait", completions: int = 0) -> Head:
        """The output projection of this hash (None: that the latest scores belong to), kept on disk.

        A teacher that has moved on may give another one. Raises TeacherRefused where it has none. Where nobody gives it
        within a call's deadline, `drop` raises TeacherUnavailable, and counts the `completions` that were scored with
        it as dropped: hidden states say nothing without. Anything else goes on trying, for nobody else has it.
        """
        role_ = self._roles.of(role)
        wanted = hash or role_.head_hash
        if wanted is None:
            card = self.card(role)
            if card.head is None:
                raise TeacherRefused("The teacher serves no head; its card has none.", teacher=role_.replicas.name)
            wanted = card.head.hash
        serves = role_.fallback if role_.fallback is not None and wanted in role_.fallback_heads else role_.replicas
        if on_failure != "drop":
            return self._heads.get(wanted, serves, self._wait)
        try:
            return self._heads.get(wanted, serves, self._deadline, hasty=serves.down)
        except TeacherUnavailable:
            role_.tally.count(dropped=completions)
            raise

    def publish(
        self,
        role: str,
        weights: Weights,
        kind: WeightsKind | None = None,
        scale: float | None = None,
        *,
        base: Path | None = None,
    ) -> int:
        """Have the role's teacher answer with these weights, at all of its endpoints; returns their version.

        See `TeacherClient.load_weights` for what weights are, and `Publisher.publish` for `base` and what is raised.
        From then on an answer of a version below is refused.
        """
        return self._roles.of(role).publisher.publish(body_of(weights, kind, scale), base)

    def write(
        self, role: str, request: WriteRequest, *, check: Callable[[], object] = lambda: None
    ) -> Iterator[Written]:
        """Rollouts, each as soon as it is written, over all of the role's endpoints. `check` is called now and then;
        what it raises ends the work.

        Raises VersionsDisagree where no endpoint has the weights that are to write, BadScores where a completion is
        missing or cannot be right, and TeacherRefused where the teacher writes none.
        """
        return ask_for_rollouts(self._roles.of(role).replicas, request, patience=self._wait, check=check)

    def tokenizer(self, role: str) -> TokenizerFile:
        """The teacher's tokenizer. Raises TeacherRefused where it serves none, or not the one that its card names."""
        card, replicas = self.card(role), self._roles.of(role).replicas
        name = replicas.name

        def attempt(replica: Replica, client: Endpoint, left: float) -> tuple[TokenizerFile, str] | None:
            return client.tokenizer() if isinstance(client, TeacherClient) else None

        served = None if card.tokenizer_file is None else persist(replicas, attempt, patience=self._wait)
        if served is None:
            raise TeacherRefused(f"Teacher '{name}' serves no tokenizer: no text can be put to it.", teacher=name)
        file, hash = served
        if hash != card.tokenizer_file or fingerprint_of(file) != card.tokenizer.fingerprint:
            raise TeacherRefused(f"Teacher '{name}' serves another tokenizer than its card names.", teacher=name)
        return file

    def update(self, endpoints: Mapping[str, Sequence[ReplicaAddress]]) -> dict[str, Changes]:
        """From now on ask these endpoints, by role; roles that are not named keep theirs. Returns what changed.

        Requests that are with an endpoint that leaves finish there; where it fails them, they go on elsewhere.
        """
        return self._roles.update(endpoints)

    def refill(self, wanted: Mapping[str, TeacherEndpoint | None], step: int) -> dict[str, Changes]:
        """From `step` on, of which nothing may have been asked yet, ask these teachers, by role; None: nobody. Returns
        what changed of the endpoints of those who are asked already. Raises Invalid where a key is not set here."""
        return self._roles.refill(wanted, step)

    def begin(self, step: int) -> Collection[str]:
        """What is asked from now on is asked for this step. Returns the roles that nobody fills in it."""
        return self._roles.begin(step)

    @property
    def hangs(self) -> bool:
        """Whether somebody waits in vain, as far as one can tell, for a teacher that another is to replace."""
        return self._roles.hang

    def begin_again(self) -> Collection[str]:
        """What has been asked is not wanted: whoever was to take a role over later does so now, and who leaves is
        waited for no more. Returns the roles that change."""
        return self._roles.begin_again()

    def take_ledger(self) -> dict[str, TeacherLedger]:
        """What passed between us and each teacher since the last call, by role."""
        return {role: tally.take() for role, tally in self._roles.tallies()}

    def close(self) -> None:
        """Close the connections, and with them whatever is still asked."""
        self._roles.close()

    def _card(self, role: Role, replicas: Replicas, patience: float, *, hasty: bool = False) -> Card:
        with role.opening:
            if replicas.card is None:
                persist(replicas, lambda replica, client, left: None, patience=patience, hasty=hasty)
            assert replicas.card is not None, "an endpoint is believed by its card"
            return replicas.card

    def _score(
        self, role: Role, replicas: Replicas, request: ScoreRequest, patience: float, *, hasty: bool = False
    ) -> Scores:
        card = self._card(role, replicas, patience, hasty=hasty)
        try:
            check_support(request, card)
            check_vocabulary(request, card.tokenizer.vocab_size)
            check_lengths(request, card.limits.max_tokens)
        except Invalid as error:
            raise TeacherRefused(error.problem, teacher=replicas.name) from error

        sent = role.publisher.version

        def ask(wanted: ScoreRequest) -> Scores:
            return ask_for_scores(replicas, wanted, card, patience, hasty=hasty)

        if self._scores is None:
            scores = ask(request)
        else:
            scores, hits = self._scores.answer(card, request, ask)
            role.tally.count(cache_hits=hits)
        _check_not_left_behind(role, replicas, sent, scores)
        role.head_hash = scores.stamp.head_hash
        if role.head_hash is not None and replicas is role.fallback:
            role.fallback_heads.add(role.head_hash)
        return scores

    def _fall_back(self, name: str, role: Role, request: ScoreRequest, error: TeacherUnavailable) -> Scores:
        other = role.fallback
        if other is None:
            raise TeacherUnavailable(
                f"{error.problem.detail} A context of role '{name}' falls back, and the run names no fallback for it.",
                teacher=error.teacher,
                remedy=error.problem.remedy,
            ) from error
        scores = self._score(role, other, replace(request, weights_version=None), self._deadline, hasty=other.down)
        role.tally.count(fallbacks=1)
        return scores


def _check_not_left_behind(role: Role, replicas: Replicas, sent: int | None, scores: Scores) -> None:
    found = scores.stamp.weights_version
    if sent is not None and found < sent and replicas is role.replicas:
        raise TeacherRefused(
            f"Teacher '{replicas.name}' answered with weights version {found}, and this run has sent it {sent}: it was "
            "started anew, or somebody else moves it.",
            teacher=replicas.name,
            remedy="Resume the run: it sends its weights again.",
        )
