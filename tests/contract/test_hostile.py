"""Every endpoint, found through its OpenAPI: without a key, with too small a scope, with bodies that make no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.wire.common import Problem, Scope
from tests.contract.conftest import House

OPEN = {"/healthz", "/readyz"}
ADMIN_ONLY = {
    ("get", "/v1/keys"),
    ("post", "/v1/keys"),
    ("delete", "/v1/keys/{key_id}"),
    ("post", "/v1/teachers"),
    ("post", "/v1/teachers/{name}/drain"),
    ("delete", "/v1/teachers/{name}/drain"),
    ("post", "/v1/teachers/{name}/endpoints"),
    ("post", "/v1/teachers/{name}/endpoints/{endpoint_id}/drain"),
    ("delete", "/v1/teachers/{name}/endpoints/{endpoint_id}/drain"),
    ("delete", "/v1/teachers/{name}/endpoints/{endpoint_id}"),
    ("delete", "/v1/teachers/{name}"),
}


def endpoints(house: House) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path with its placeholders, and description of every endpoint."""
    schema = house.http().get("/openapi.json").json()
    return [(method, path, spec) for path, specs in schema["paths"].items() for method, spec in specs.items()]


def filled(path: str) -> str:
    names = ("{run_id}", "{name}", "{bank}", "{key_id}", "{endpoint_id}")
    for name in names:
        path = path.replace(name, "x")
    return path.replace("{artifact_id}", "sha256:" + "0" * 64).replace("{sha256}", "0" * 64)


def is_problem(answer: Any) -> Problem:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = Problem.model_validate(answer.json())
    assert problem.status == answer.status_code
    assert "Traceback" not in answer.text
    return problem


def test_every_endpoint_but_health_needs_a_key(sqlite_house: House):
    nobody = sqlite_house.http(None)
    found = endpoints(sqlite_house)
    assert len(found) > 35
    for method, path, spec in found:
        answer = nobody.request(method, filled(path))
        if path in OPEN:
            assert answer.status_code == 200
            assert spec["security"] == []
        else:
            assert answer.status_code == 401, (method, path)
            assert is_problem(answer).remedy
            assert spec["security"] == [{"key": []}]
    for path in ("/openapi.json", "/docs", "/", "/nowhere", "/v1/runs/", "//healthz"):
        assert nobody.get(path).status_code == 401, path


def test_every_endpoint_has_the_scope_it_should_have(sqlite_house: House):
    keys = {scope: sqlite_house.admin.keys.create(scope.value, scope).secret for scope in Scope}
    for method, path, _ in endpoints(sqlite_house):
        if path in OPEN:
            continue
        needed = Scope.ADMIN if (method, path) in ADMIN_ONLY else Scope.READ if method == "get" else Scope.RUN
        for scope, secret in keys.items():
            answer = sqlite_house.http(secret).request(method, filled(path))
            refused = answer.status_code == 403
            assert refused == (not scope.covers(needed)), (method, path, scope, answer.text)


def test_every_endpoint_says_what_it_is(sqlite_house: House):
    for method, path, spec in endpoints(sqlite_house):
        assert spec.get("description") or spec.get("summary"), (method, path)
        body = spec.get("requestBody", {}).get("content", {}).get("application/json")
        if body is not None and method == "post" and "notes" not in path and "checkpoints" not in path:
            assert body.get("examples"), f"{method} {path} has no example"


def test_every_example_is_valid(sqlite_house: House):
    """An example may name things that are not there, but no field of it may be wrong."""
    for method, path, spec in endpoints(sqlite_house):
        body = spec.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in body.get("examples", {}).values():
            answer = sqlite_house.http().request(method, filled(path), json=example["value"])
            if answer.status_code == 422:
                assert "there is no" in answer.json()["detail"] or "key_env" in answer.text, (path, answer.text)


BODIES: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"1",
    b'"x"',
    b"{}",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a": "\\ud800"}',
    b"\xff\xfe{}",
    b'{"a": 1, "a": 2}',
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b'{"fence": ' + b"9" * 5000 + b"}",
    b'{"fence": 1e400}',
    b'{"__proto__": {}}',
    b"a=1&b=2",
    b"\x00" * 100,
]


def test_every_endpoint_refuses_bodies_that_make_no_sense(sqlite_house: House):
    http = sqlite_house.http()
    for method, path, spec in endpoints(sqlite_house):
        if "application/json" not in spec.get("requestBody", {}).get("content", {}):
            continue
        for body in BODIES:
            for kind in ("application/json", "text/plain"):
                answer = http.request(method, filled(path), content=body, headers={"Content-Type": kind})
                assert 400 <= answer.status_code < 500, (method, path, body[:30], answer.text)
                detail = is_problem(answer).detail
                assert detail.endswith("."), detail
                assert len(answer.content) < 4000


def test_a_body_beyond_the_limit_is_refused_whether_or_not_its_length_is_stated(sqlite_house: House):
    limit = sqlite_house.settings.max_body_bytes
    http = sqlite_house.http()
    stated = http.post("/v1/runs", content=b" " * (limit + 1), headers={"Content-Type": "application/json"})
    assert is_problem(stated).status == 413

    def chunks() -> Any:
        for _ in range(limit // 2**20 + 1):
            yield b" " * 2**20

    chunked = http.post("/v1/runs", content=chunks(), headers={"Content-Type": "application/json"})
    assert is_problem(chunked).status == 413
    lied = http.post(
        "/v1/runs", content=b"{}", headers={"Content-Type": "application/json", "Content-Length": "9" * 40}
    )
    assert is_problem(lied).status == 413


def test_a_piece_may_be_larger_than_a_body_but_not_larger_than_its_own_limit(sqlite_house: House):
    limit = sqlite_house.settings.max_piece_bytes
    headers = {"Upload-Length": "1", "Content-Length": str(limit + 1)}
    answer = sqlite_house.http().put("/v1/blobs/" + "0" * 64, content=b"x", headers=headers)
    assert is_problem(answer).status == 413


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=501",
        "limit=x",
        "limit=1e3",
        "state=done",
        "cursor=" + "x" * 301,
        "name=" + "x" * 101,
    ],
)
def test_queries_that_make_no_sense(sqlite_house: House, query: str):
    answer = sqlite_house.http().get(f"/v1/runs?{query}")
    assert answer.status_code == 422
    assert is_problem(answer).field == query.partition("=")[0]


@pytest.mark.parametrize("key", ["", "x" * 201, "with space", "naïve".encode("latin-1")])
def test_idempotency_keys_that_make_no_sense(sqlite_house: House, key: Any):
    wish = sqlite_house.wish().model_dump_json()
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    answer = sqlite_house.http().post("/v1/runs", content=wish, headers=headers)
    assert answer.status_code == 422
    assert is_problem(answer).field == "idempotency-key"


def test_ids_that_make_no_sense_are_not_found(house: House):
    odd = ["%00", "..%2f..", "a" * 5000, "%F0%9F%A7%91", "' OR 1=1 --", "%0d%0aX: y", "x%00y"]
    for each in odd:
        for path in (f"/v1/runs/{each}", f"/v1/teachers/{each}", f"/v1/skills/{each}", f"/v1/recipes/{each}"):
            answer = house.http().get(path)
            assert answer.status_code in (404, 422), (path, answer.text)
            is_problem(answer)
        assert house.http().post(f"/v1/runs/{each}/lease", json={"worker": "w"}).status_code in (404, 422)


def test_words_that_are_no_text_are_refused_by_name(house: House):
    house.admin.skills.create("b")
    filters = (
        *(("runs", name) for name in ("name", "recipe", "state", "cursor")),
        *(("debates", name) for name in ("run", "state", "cursor")),
        *(("artifacts", name) for name in ("kind", "cursor")),
        ("skills/b/search", "q"),
        ("skills/b/skills", "cursor"),
    )
    for path, name in filters:
        for bad in ("\x00", "x\x00y", "\x1b[2J", "\x7f", "\x85"):
            answer = house.http().get(f"/v1/{path}", params={name: bad})
            assert answer.status_code == 422 and is_problem(answer).field == name, (path, name, answer.text)
            assert "control character U+00" in is_problem(answer).detail
    for path in ("runs/{}", "debates/{}", "codistillations/{}", "skills/{}", "teachers/{}"):
        answer = house.http().get(f"/v1/{path}".format("a%00b"))
        assert answer.status_code == 422 and "U+0000" in is_problem(answer).detail
    assert house.http().get("/v1/skills/b/search", params={"q": "one line\n\tand another"}).status_code == 200


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9" * 30, "1; drop"])
def test_event_ids_that_make_no_sense(sqlite_house: House, last: str):
    run = sqlite_house.run()
    answer = sqlite_house.http().get(f"/v1/runs/{run.id}/events", headers={"Last-Event-ID": last})
    assert answer.status_code == 422
    assert is_problem(answer).field == "last-event-id"


def test_methods_and_paths_that_do_not_exist(sqlite_house: House):
    http = sqlite_house.http()
    assert "is not what" in is_problem(http.put("/v1/runs")).detail
    assert "There is nothing at" in is_problem(http.get("/v2/runs")).detail
    assert http.get("/v1/runs/").status_code == 404, "no redirect, which would lose the key"


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    scalars | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["name", "recipe", "overrides", "student", "teachers", "data", "training"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.dictionaries(st.sampled_from(FIELDS), json_values, min_size=1, max_size=3))
def test_no_wish_for_a_run_is_a_fault(sqlite_house: House, changes: dict[str, Any]):
    _no_fault(sqlite_house, {**_wish(sqlite_house), **changes})


ROLES = st.sampled_from(
    ["rollout", "contexts", "objective", "target", "weights", "teacher", "training", "state", "reduces"]
)
SETTINGS = st.dictionaries(
    st.sampled_from(["kind", "samples", "reference", "teacher", "self"]), json_values, max_size=3
)
OVERRIDES = st.dictionaries(ROLES, json_values | SETTINGS, min_size=1, max_size=3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(overrides=OVERRIDES, training=st.dictionaries(st.sampled_from(["steps", "betas", "seed", "x"]), json_values))
def test_no_override_is_a_fault(sqlite_house: House, overrides: dict[str, Any], training: dict[str, Any]):
    _no_fault(sqlite_house, {**_wish(sqlite_house), "overrides": overrides, "training": training})


def _wish(house: House) -> dict[str, Any]:
    return json.loads(house.wish().model_dump_json())


def _no_fault(house: House, wish: dict[str, Any]) -> None:
    content = json.dumps(wish, ensure_ascii=True)
    answer = house.http().post("/v1/runs", content=content, headers={"Content-Type": "application/json"})
    if answer.status_code != 201:
        assert 400 <= answer.status_code < 500, answer.text
        assert is_problem(answer).detail.endswith(".")
