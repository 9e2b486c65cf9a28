"""A run's peer, as its worker knows it: which versions it has published, how it does, whether it is near enough.

What is known comes from the control plane, which a thread asks now and then; what is learned from comes from the peer
itself. A version is recorded there before it answers, so that an answer of one that is not is an error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from preceptor.client import Client
from preceptor.errors import Interrupted, NeverPublished, PeerLost, PreceptorError
from preceptor.wire.pairs import (
    MOST_PUBLICATIONS,
    Outcomes,
    PairGrant,
    Published,
    step_of,
)
from preceptor.wire.runs import LeaseGrant, RunState
from preceptor_services.worker.lease import Lease
from preceptor_services.worker.live import LiveStudent
from preceptor_services.worker.own_versions import OwnVersions
from preceptor_trainer.standing import Standing, Standings
from preceptor_trainer.trained import Trained

ASKS_SECONDS, WAITS_SECONDS = 1.0, 0.1
"""How often the control plane is asked about the peer: by the way, and while this side waits."""
SEEKS_SECONDS = 5.0
"""How often a peer that is away is looked for where it answered last."""

_log = logging.getLogger(__name__)


class Link:
    """The loop's `Pair`, while it is open."""

    def __init__(
        self,
        client: Client,
        grant: LeaseGrant,
        pair: PairGrant,
        lease: Lease,
        student: LiveStudent,
        url: str,
        *,
        stopping: Callable[[], bool],
        moved: Callable[[str, str | None], object],
        seen: Callable[[str, str | None], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`url`: where others reach `student`. `moved` is told where the peer answers whenever that is elsewhere.
        `seen`: which version of it answers at such a place, None where another does; it raises where nobody does."""
        self._client, self._lease = client, lease
        self._own = OwnVersions(client, grant.run, grant.fence, lease, student, url)
        self._run, self.pair, self._policy = grant.run.id, pair, pair.policy
        self._stopping, self._moved, self._seen, self._clock = stopping, moved, seen, clock
        self._changed = threading.Condition()
        self._standings = Standings(pair.policy.memory, pair.teaches, pair.peer_teaches)
        self._versions: set[int] = set()
        self._newest: int | None = None
        self._state: str = RunState.QUEUED
        self._done = False
        self._peer_at: tuple[str, str | None] | None = None
        self._sign_of_life = self._sought = clock()
        self._alone = False
        self._step = 0
        self._waits = False
        self._wanted = threading.Event()
        self._met: dict[int, Mapping[str, Standing]] = {}
        self._told: dict[int, dict[str, float]] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._ask, name=f"peer of {self._run}", daemon=True)

    def __enter__(self) -> Link:
        """Learn what is known of both sides so far."""
        newest = 0
        while own := self._lease.report(partial(self._published, self._run, newest)).publications:
            for each in own:
                self._standings.own(each.outcomes)
            newest = own[-1].version
        self._lease.report(self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._wanted.set()
        self._own.close()
        self._thread.join(5.0)

    # -- the loop's --------------------------------------------------------------------------------------------------

    def publish(self, step: int, weights: Trained, outcomes: Mapping[str, Outcomes]) -> None:
        """Record a version, then have it answer: see `OwnVersions`."""
        self._own.publish(step, weights, outcomes)
        with self._changed:
            self._standings.own(outcomes)

    def meet(self, step: int) -> Mapping[str, Standing]:
        """Wait for the peer, as the policy says. What is known stays the same for all parts of a step."""
        with self._changed:
            if step not in self._met:
                began, self._step = self._clock(), step - 1
                self._wait(step - 1)
                if step not in self._met:  # else another thread has waited, too: one whose step is thrown away
                    self._wanted.set()  # the version that is about to answer is known when it does
                    self._met = {known: each for known, each in self._met.items() if known >= step - 64}
                    self._met[step] = self._standings.now()
                    self._told[step] = {"peer_waited_seconds": self._clock() - began, "peer_alone": float(self._alone)}
            return self._met[step]

    def metrics(self, step: int) -> dict[str, float]:
        """How long the peer was waited for, and whether the step went on without it."""
        with self._changed:
            return self._told.pop(step, {})

    def linger(self) -> None:
        """All steps are done: say so, and go on answering until the peer's are too, it is lost, or this run is to
        stop."""
        self._own.end()
        with self._changed:
            self._sign_of_life = self._clock()
            while not self._done and not RunState(self._state).ended and not self._stopping():
                if self._clock() - self._sign_of_life > self._policy.patience:
                    return
                self._changed.wait(ASKS_SECONDS)

    # -- of whoever asks the peer ------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The student's own, when what is being scored was asked for."""
        return self._step

    @property
    def alone(self) -> bool:
        """Whether this side goes on without its peer for now."""
        return self._alone

    def check_published(self, version: int | None, teacher: str) -> int:
        """The version, which the peer has published. Raises NeverPublished."""
        with self._changed:
            known = version in self._versions
        if not known:
            self._lease.report(self._look)
        if version is None or version not in self._versions:
            raise NeverPublished(
                f"Peer '{teacher}' answered from weights version {version}, which run {self.pair.peer_run} never "
                "published.",
                teacher=teacher,
                remedy="See that nobody else answers at its address; then resume this run.",
            )
        return version

    def heeds(self, version: int) -> bool:
        """Whether what this version says is heard: it is as near as the policy wants it. Else the request was under way
        when the peer was taken up again at an older checkpoint: this waits as before a step, and it is to be made anew.

        Raises Interrupted where the run is to stop, and PeerLost where the pair stops without its peer.
        """
        with self._changed:
            if self._within(self._step, version):
                return True
            _log.info("run %s: version %d of its peer is too far behind to be heard", self._run, version)
            began = self._clock()
            self._wait(self._step, look=False)
            waited = self._told.get(self._step + 1)
            if waited is not None:
                waited["peer_waited_seconds"] += self._clock() - began
            return False

    def silent(self, error: PreceptorError, teacher: str) -> None:
        """The peer did not answer for as long as it is waited for. Raises PeerLost where the pair stops then."""
        with self._changed:
            self._lose(f"It did not answer: {error.problem.detail}")

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _wait(self, own_step: int, *, look: bool = True) -> None:
        """Until the peer is near enough, is not to be waited for, or is lost; for a moment at least without a `look` at
        that first. Under the lock."""
        began = self._clock()
        try:
            while not (look and self._near(own_step)):
                look = True
                if self._stopping() or self._closing.is_set():
                    raise Interrupted("Waiting for the peer was broken off: the run is to stop.", teacher="peer")
                if self._clock() - max(began, self._sign_of_life) > self._policy.patience:
                    return self._lose(f"Nothing was heard of it for {self._policy.patience:g} s.")
                if not self._waits:
                    self._waits = True
                    self._wanted.set()
                self._changed.wait(WAITS_SECONDS)
        finally:
            self._waits = False

    def _near(self, own_step: int) -> bool:
        return self._alone or self._worth_hearing(own_step)

    def _worth_hearing(self, own_step: int) -> bool:
        if self._newest is None or self._peer_at is None:
            return self._done
        return self._within(own_step, self._newest)

    def _within(self, own_step: int, version: int) -> bool:
        within = own_step - step_of(version) <= self._policy.max_lag
        return within or self._policy.on_lag == "go_on" or self._done

    def _lose(self, why: str) -> None:
        if self._policy.on_loss == "stop" and not self._done:
            raise PeerLost(
                f"The peer (run {self.pair.peer_run}, {self._state}) is lost. {why}",
                teacher="peer",
                remedy="See to its worker, then resume the pair: `preceptor codistill resume`.",
            )
        if not self._alone:
            _log.warning("run %s: goes on without its peer, run %s. %s", self._run, self.pair.peer_run, why)
        self._alone = True

    def _found(self, step: int) -> None:
        self._sign_of_life = self._clock()
        if self._alone:
            _log.info("run %s: its peer is back, at step %d", self._run, step)
        self._alone = False

    # -- the thread --------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        while not self._closing.is_set():
            for learn in (self._look, self._seek):
                try:
                    learn()
                except Exception as error:  # a bug of ours must not leave this side deaf, and unheard
                    known = isinstance(error, PreceptorError)
                    said = "run %s: nothing could be learned of its peer (%s)"
                    _log.warning(said, self._run, error, exc_info=not known)
            self._wanted.wait(WAITS_SECONDS if self._waits else ASKS_SECONDS)
            self._wanted.clear()

    def _seek(self) -> None:
        """While this side is alone: whether its peer answers again, which may publish nothing any more. One that is too
        far behind is heard again when it publishes."""
        with self._changed:
            away = self._alone and not RunState(self._state).ended and self._worth_hearing(self._step)
        if not away or self._peer_at is None or self._clock() - self._sought < SEEKS_SECONDS:
            return
        try:
            version = self._seen(*self._peer_at)
        except PreceptorError:
            version = None  # still away
        with self._changed:
            self._sought = self._clock()
            if version in self._versions:
                self._found(step_of(version))

    def _look(self) -> None:
        """Take note of what the control plane knows of the peer."""
        while self._took(self._published(self.pair.peer_run, self._newest or 0)) == MOST_PUBLICATIONS:
            pass

    def _published(self, run: str, after: int) -> Published:
        return self._client.codistillations.published(run, after=after)

    def _took(self, found: Published) -> int:
        """How many versions there were."""
        with self._changed:
            self._state, self._done = found.state, found.done
            new = [each for each in found.publications if each.version not in self._versions]
            for each in new:
                self._versions.add(each.version)
                self._standings.peer(each.outcomes)
                self._newest = max(self._newest or 0, each.version)
            if new:
                self._found(step_of(new[-1].version))
            if found.url is not None and (found.url, found.key_env) != self._peer_at:
                self._peer_at = (found.url, found.key_env)
                self._moved(*self._peer_at)
            self._changed.notify_all()
        return len(found.publications)
