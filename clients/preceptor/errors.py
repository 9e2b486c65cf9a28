"""What can go wrong between Preceptor's processes, by the boundary that the failure crossed.

    PreceptorError                    everything below; carries a Problem: what, why, what to do
     ├─ Unreachable                   no answer: refused, timed out, cut off
     ├─ NotAuthorised                 401, 403: no key, an unknown or revoked one, or too small a scope
     ├─ NotFound                      404: no such thing
     ├─ Invalid                       400, 422: the request is at fault; `field` says where
     ├─ Conflict                      409: the thing is not in a state for this
     │   └─ LeaseLost                 409: another worker holds the run, or the lease has ended
     ├─ TooLarge                      413: beyond a limit, which the detail states
     ├─ Overloaded                    429, 503: try again after `retry_after` seconds
     ├─ ServerFault                   500 and everything unexpected: a bug or a broken disk on the other side
     ├─ Corrupt                       what arrived is not what was promised: a hash or a length differs
     └─ TeacherError                  a teacher did not do what a run needs; `teacher` names it
         ├─ TeacherUnavailable        it did not answer within the deadline, retries included
         │   └─ VersionsDisagree      none of its endpoints has the weights version that is wanted
         ├─ PeerLost                  a run's peer gave no sign of life, and the pair is to stop then
         ├─ NeverPublished            a peer answered from weights that it never published
         ├─ Interrupted               waiting for it was broken off, because the job is to stop
         ├─ TeacherRefused            it answered with a 4xx: the request does not suit it
         └─ BadScores                 it answered with numbers that cannot be log-probabilities

Every error is raised with a sentence and can be shown to a user as it is. `str(error)` is the detail and the remedy.
"""

from __future__ import annotations

from typing import Any

from preceptor.wire.common import Problem

PROBLEM_TYPES = "/problems/"
"""Where the names of our kinds of problem begin."""


class PreceptorError(Exception):
    """The base of every error that this package raises on purpose."""

    slug: str = "error"
    """Last part of the problem's `type`, where the error makes its own."""
    title: str = "Something went wrong"
    """Title of the problem, where the error makes its own."""
    status: int = 500
    """HTTP status of the problem, where the error makes its own."""

    def __init__(self, problem: Problem | str, *, field: str | None = None, remedy: str | None = None) -> None:
        """From a problem that was received, or from a sentence (then `field` and `remedy` complete it)."""
        if isinstance(problem, str):
            problem = Problem(
                type=PROBLEM_TYPES + self.slug,
                title=self.title,
                detail=problem,
                remedy=remedy,
                field=field,
                status=self.status,
            )
        self.problem = problem
        """What went wrong, as it travels."""
        super().__init__(problem.detail if problem.remedy is None else f"{problem.detail} {problem.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (type(self), self.problem, self.__dict__))


def _rebuilt(kind: type[PreceptorError], problem: Problem, state: dict[str, Any]) -> PreceptorError:
    error = kind.__new__(kind)
    PreceptorError.__init__(error, problem)
    error.__dict__.update(state)
    return error


class Unreachable(PreceptorError):
    """No answer came."""

    slug, title, status = "unreachable", "No answer", 503


class NotAuthorised(PreceptorError):
    """The key is missing, unknown or revoked (401), or its scope is too small (403)."""

    slug, title, status = "not-authorised", "Not authorised", 401


class NotFound(PreceptorError):
    """There is no such thing."""

    slug, title, status = "not-found", "Not found", 404


class Invalid(PreceptorError):
    """The request is at fault."""

    slug, title, status = "invalid", "Invalid request", 422

    @property
    def field(self) -> str | None:
        """The field at fault, as a dotted path."""
        return self.problem.field


class Conflict(PreceptorError):
    """The thing is not in a state for this."""

    slug, title, status = "conflict", "Conflict", 409


class LeaseLost(Conflict):
    """Another worker holds the run, or the lease has ended: stop, and report nothing more."""

    slug, title = "lease-lost", "Lease lost"


class TooLarge(PreceptorError):
    """Beyond a limit."""

    slug, title, status = "too-large", "Too large", 413


class Overloaded(PreceptorError):
    """The other side has too much to do, or is about to stop."""

    slug, title, status = "overloaded", "Overloaded", 503

    def __init__(
        self,
        problem: Problem | str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(problem, field=field, remedy=remedy)
        self.retry_after = retry_after
        """Seconds to wait, where the other side said so."""


class ServerFault(PreceptorError):
    """Something broke on the other side."""

    slug, title, status = "server-fault", "Server fault", 500


class Corrupt(PreceptorError):
    """What arrived is not what was promised."""

    slug, title, status = "corrupt", "Corrupt content", 502


class TeacherError(PreceptorError):
    """A teacher did not do what a run needs."""

    slug, title, status = "teacher", "Teacher failed", 502

    def __init__(
        self, problem: Problem | str, *, teacher: str, field: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(problem, field=field, remedy=remedy)
        self.teacher = teacher
        """The teacher's name, or its URL where it has none."""


class TeacherUnavailable(TeacherError):
    """It did not answer within the deadline, retries included."""

    slug, title, status = "teacher-unavailable", "Teacher unavailable", 503


class VersionsDisagree(TeacherUnavailable):
    """None of its endpoints has the weights version that is wanted."""

    slug, title = "versions-disagree", "Weights versions disagree"


class PeerLost(TeacherError):
    """A run's peer has given no sign of life for as long as the pair waits, and the run is not to go on alone."""

    slug, title, status = "peer-lost", "Peer lost", 503


class NeverPublished(TeacherError):
    """A peer answered from weights that it never published: nobody could say what was learned from."""

    slug, title = "never-published", "Never published"


class Interrupted(TeacherError):
    """Waiting for it was broken off, because the job is to stop."""

    slug, title, status = "interrupted", "Waiting interrupted", 503


class TeacherRefused(TeacherError):
    """It answered that the request does not suit it."""

    slug, title = "teacher-refused", "Teacher refused"


class BadScores(TeacherError):
    """It answered with numbers that cannot be log-probabilities."""

    slug, title = "bad-scores", "Bad scores"


_BY_STATUS: dict[int, type[PreceptorError]] = {
    400: Invalid,
    401: NotAuthorised,
    403: NotAuthorised,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    411: Invalid,
    413: TooLarge,
    415: Invalid,
    416: Invalid,
    422: Invalid,
    429: Overloaded,
    503: Overloaded,
}


def error_for(problem: Problem, *, retry_after: float | None = None) -> PreceptorError:
    """The error that a problem from the other side is raised as."""
    if problem.type == PROBLEM_TYPES + LeaseLost.slug:
        return LeaseLost(problem)
    kind = _BY_STATUS.get(problem.status, Invalid if 400 <= problem.status < 500 else ServerFault)
    if issubclass(kind, Overloaded):
        return Overloaded(problem, retry_after=retry_after)
    return kind(problem)
