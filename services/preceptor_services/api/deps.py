"""What endpoints ask for: the plane, a unit of work, a caller with enough scope, strict JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Generator
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.routing import APIRoute

from preceptor.errors import Invalid
from preceptor.wire.common import Problem, Scope
from preceptor.wire.runs import LeaseRequest
from preceptor_services.api.gate import Caller
from preceptor_services.api.plane import Plane
from preceptor_services.db.session import Unit
from preceptor_services.problems import MEDIA_TYPE, Refused, not_authorised

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
LIMIT = 50
MOST = 500


def plane_of(request: Request) -> Plane:
    """The application's plane."""
    return request.app.state.plane


def _unit(request: Request) -> Generator[Unit]:
    """The request's unit of work: one commit, before the answer is sent. GET changes nothing."""
    plane = plane_of(request)
    writes = request.method not in ("GET", "HEAD")
    with plane.database.unit(writes=writes) as unit:
        if writes:
            unit.after_commit(plane.bell.ring)
        yield unit


def needs(scope: Scope) -> Callable[[Request], Caller]:
    """A dependency that lets only callers of this scope, or a larger one, through."""

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if not caller.scope.covers(scope):
            raise not_authorised(
                f"This needs a key of scope {scope.value}; yours has {caller.scope.value}.",
                "Use another key.",
                status=403,
            )
        return caller

    return check


PlaneDep = Annotated[Plane, Depends(plane_of)]
UnitDep = Annotated[Unit, Depends(_unit, scope="function")]
Reader = Annotated[Caller, Depends(needs(Scope.READ))]
Runner = Annotated[Caller, Depends(needs(Scope.RUN))]
Admin = Annotated[Caller, Depends(needs(Scope.ADMIN))]
Limit = Annotated[int, Query(ge=1, le=MOST, description="How many items at most.")]
Cursor = Annotated[str | None, Query(max_length=300, description="`next_cursor` of the page before.")]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$", description="The same key never makes two."),
]
Taker = Annotated[LeaseRequest, Body(openapi_examples={"worker": {"value": {"worker": "gpu-1-4242"}}})]
Fence = Annotated[int, Query(ge=0, le=2**53 - 1)]


class StrictRequest(Request):
    """A request whose JSON is JSON: no NaN, no infinity, no halves of surrogate pairs, no key twice."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = strict_json(await self.body())
            except Invalid as error:
                raise Refused(error, status=400) from error
        return self._json


def strict_json(body: bytes) -> Any:
    """Parse JSON. Raises Invalid where it is none, also where Python is laxer than the standard."""
    try:
        value = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_no_twins)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise Invalid("The body is not text in UTF-8.", remedy="Encode it as UTF-8.") from error
    except RecursionError as error:
        raise Invalid("The body is nested too deeply.", remedy="Send less nested JSON.") from error
    except json.JSONDecodeError as error:
        raise Invalid(f"The body is not JSON: {error.msg} (character {error.pos}).") from error
    except ValueError as error:  # an integer of thousands of digits
        raise Invalid(f"The body is not JSON that can be read: {str(error)[:200]}.") from error
    return value


def _no_constant(name: str) -> NoReturn:
    raise Invalid(f"The body holds {name}, which JSON does not have.", remedy=f'Where it is meant, write "{name}".')


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"The body gives {twin[:100]!r} twice.", field=twin[:100], remedy="Give it once.")
    return found


def check_words(request: Request) -> None:
    """Raises Invalid where a path or a query holds what is no text: one database would refuse it without a name, and
    another look for it."""
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if (found := _CONTROLS.search(str(value))) is not None:
            raise Invalid(
                f"{name[:100]}: it holds the control character U+{ord(found[0]):04X}.",
                field=name[:100],
                remedy="Leave that out.",
            )


class StrictRoute(APIRoute):
    """A route that reads its body as a StrictRequest, and whose path and query are text."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            check_words(request)
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


_SAYS = {
    400: "The body cannot be read",
    401: "The key is missing, unknown or revoked",
    403: "The key's scope is too small",
    404: "There is no such thing",
    409: "The thing is not in a state for this",
    413: "The body is too large",
    422: "A field is at fault; the detail names it",
}
_EXAMPLE = Problem(
    type="/problems/invalid",
    title="Invalid request",
    detail="training.learning_rate: Input should be greater than 0 (got -1).",
    field="training.learning_rate",
    status=422,
)


def router(tag: str) -> APIRouter:
    """A router of strict routes whose errors are documented."""
    example = _EXAMPLE.model_dump(mode="json", exclude_none=True)
    responses: dict[int | str, dict[str, Any]] = {
        status: {
            "model": Problem,
            "description": text,
            "content": {MEDIA_TYPE: {"example": example | {"status": status}}},
        }
        for status, text in _SAYS.items()
    }
    return APIRouter(prefix="/v1", tags=[tag], route_class=StrictRoute, responses=responses)
