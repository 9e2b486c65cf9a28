"""Who fills each role of a run, and who will from which step on.

A role is refilled between two steps: what is asked for one step goes to one teacher, whoever is told of a change when.
Where a step waits in vain for whoever is to leave, all of it is asked anew.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from preceptor.errors import Invalid
from preceptor.opening import opener
from preceptor.publishing import Publisher
from preceptor.replicas import Changes, Means, Replicas
from preceptor.same import check_stands_in
from preceptor.tally import Tally
from preceptor.wire.runs import ReplicaAddress, TeacherEndpoint


@dataclass(slots=True)
class Role:
    """A teacher of the run, and who is asked in its stead."""

    replicas: Replicas
    fallback: Replicas | None
    tally: Tally
    publisher: Publisher
    """Of the teacher's weights, where the run moves it."""
    opening: threading.Lock = field(default_factory=threading.Lock)
    head_hash: str | None = None
    """The head that the latest scores belong to."""
    fallback_heads: set[str] = field(default_factory=set[str])
    """Those that the fallback's scores belonged to."""


class Roles:
    """Safe to share between threads."""

    def __init__(
        self,
        teachers: Mapping[str, TeacherEndpoint],
        fallbacks: Mapping[str, TeacherEndpoint],
        vacant: Collection[str],
        means: Means,
    ) -> None:
        """Raises Invalid where a key is not set here, or a fallback has another tokenizer than whom it stands in for.
        `vacant`: roles that nobody fills."""
        self._means, self._fallbacks = means, dict(fallbacks)
        self._tallies = {role: Tally() for role in (*teachers, *vacant)}
        self._standing_in = {
            role: Replicas(each, opener(each), self._tallies[role], means)
            for role, each in fallbacks.items()
            if role in self._tallies
        }
        self._now: dict[str, Role | None] = dict.fromkeys(vacant)
        self._now |= {role: self._opened(role, teacher) for role, teacher in teachers.items()}
        self._next: dict[str, list[tuple[int, Role | None]]] = {role: [] for role in self._now}
        self._lock = threading.Lock()

    def of(self, role: str) -> Role:
        """Who is asked now. Raises Invalid where nobody is."""
        found = self._now.get(role)
        if found is None:
            known = ", ".join(sorted(name for name, each in self._now.items() if each is not None)) or "none"
            raise Invalid(f"teachers: the run has no teacher for the role '{role}'; it has {known}.", field="teachers")
        return found

    def refill(self, wanted: Mapping[str, TeacherEndpoint | None], step: int) -> dict[str, Changes]:
        """Have these teachers fill these roles from `step` on (None: nobody), of which nothing has been asked yet.
        Whoever fills one already, or will, is asked at the endpoints that are named. Returns what changed of those.

        Raises Invalid where a key is not set here: nothing has changed then.
        """
        with self._lock:
            new = {role: each for role, each in wanted.items() if _named(each) != _name(self._latest(role))}
            opened = {role: None if each is None else self._opened(role, each) for role, each in new.items()}
            for role, each in opened.items():
                self._plan(role, step, each)
            changed: dict[str, Changes] = {}
            for role in wanted.keys() - new.keys():
                teacher, latest = wanted[role], self._latest(role)
                if teacher is not None and latest is not None:
                    changed[role] = latest.replicas.update(addresses_of(teacher))
            return {role: changes for role, changes in changed.items() if changes}

    def begin(self, step: int) -> Collection[str]:
        """What is asked from now on is asked for this step. Returns the roles that nobody fills in it."""
        with self._lock:
            for role, planned in self._next.items():
                while planned and planned[0][0] <= step:
                    self._hand_over(role, planned.pop(0)[1])
            return frozenset(role for role, each in self._now.items() if each is None)

    @property
    def hang(self) -> bool:
        """Whether somebody waits in vain, as far as one can tell, for whoever is to leave a role."""
        with self._lock:
            leaving = [self._now[role] for role, planned in self._next.items() if planned]
        return any(each is not None and each.replicas.hangs for each in leaving)

    def begin_again(self) -> Collection[str]:
        """Whatever was planned for a later step happens now, and what is still asked of whoever leaves is broken off.
        Returns the roles that change."""
        with self._lock:
            changed = {role: planned for role, planned in self._next.items() if planned}
            for role, planned in changed.items():
                *passed, (_, coming) = planned
                leaving = [self._now[role], *(each for _, each in passed)]
                self._next[role] = []
                self._hand_over(role, coming)
                for each in leaving:
                    if each is not None:
                        each.replicas.close()
            return changed.keys()

    def update(self, endpoints: Mapping[str, Sequence[ReplicaAddress]]) -> dict[str, Changes]:
        """From now on ask these endpoints, by role, of whoever fills it now."""
        with self._lock:  # or one who leaves between the question and the answer would be missed as a fault
            vacant = {role for role, each in self._now.items() if each is None}
            filled = {role: addresses for role, addresses in endpoints.items() if role not in vacant}
            changed = {role: self.of(role).replicas.update(addresses) for role, addresses in filled.items()}
        return {role: changes for role, changes in changed.items() if changes}

    def tallies(self) -> Iterator[tuple[str, Tally]]:
        """By role, whoever fills it."""
        yield from self._tallies.items()

    def close(self) -> None:
        """Close the connections, and with them whatever is still asked."""
        with self._lock:
            coming = [each for planned in self._next.values() for _, each in planned]
            for each in (*self._now.values(), *coming):
                if each is not None:
                    each.replicas.close()
            for replicas in self._standing_in.values():
                replicas.close()

    def _opened(self, role: str, teacher: TeacherEndpoint) -> Role:
        check_stands_in(role, teacher, self._fallbacks.get(role))
        tally = self._tallies[role]
        replicas = Replicas(teacher, opener(teacher), tally, self._means)
        return Role(replicas, self._standing_in.get(role), tally, Publisher(replicas))

    def _latest(self, role: str) -> Role | None:
        if role not in self._now:
            raise Invalid(f"teachers.{role}: the run has no such role.", field=f"teachers.{role}")
        return self._next[role][-1][1] if self._next[role] else self._now[role]

    def _plan(self, role: str, step: int, coming: Role | None) -> None:
        """What was planned for this step or later comes to nothing: it was never asked."""
        for at, each in self._next[role]:
            if at >= step and each is not None:
                each.replicas.close()
        self._next[role] = [*(each for each in self._next[role] if each[0] < step), (step, coming)]

    def _hand_over(self, role: str, to: Role | None) -> None:
        before, self._now[role] = self._now[role], to
        joined = set[str]() if to is None else {each.url for each in to.replicas}
        left = set[str]() if before is None else {each.url for each in before.replicas}
        if before is not None:
            for each in before.replicas:
                each.leave()
        self._tallies[role].changed(sorted(joined - left), sorted(left - joined))


def addresses_of(teacher: TeacherEndpoint) -> tuple[ReplicaAddress, ...]:
    """All endpoints of a teacher."""
    return (ReplicaAddress(url=teacher.url, key_env=teacher.key_env), *teacher.replicas)


def _named(teacher: TeacherEndpoint | None) -> str | None:
    return None if teacher is None else teacher.name


def _name(role: Role | None) -> str | None:
    return None if role is None else role.replicas.name
