"""Artifacts: pushed whole or in pieces, opened, found, pulled; and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preceptor.errors import Corrupt, Invalid, NotFound, TooLarge, Unreachable
from preceptor.resources import artifacts as sdk
from preceptor.resources.artifacts import manifest_of
from preceptor.wire.artifacts import ArtifactFile, ArtifactKind, ArtifactState, DatasetFacts, Manifest, ModelFacts
from tests.contract.conftest import ADMIN, House
from tests.contract.doubles import write_model, write_rows
from tests.contract.test_events import Cut


def checkpoint(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_model_is_pushed_opened_and_pulled(house: House):
    folder = write_model(house.tmp / "tiny")
    told: list[tuple[str, int, int]] = []
    artifact_id = house.admin.artifacts.push(folder, "model", "tiny", progress=lambda *each: told.append(each))
    artifact = house.admin.artifacts.get(artifact_id)
    assert artifact.state is ArtifactState.READY
    assert isinstance(artifact.facts, ModelFacts)
    assert artifact.facts.architecture == "Qwen3ForCausalLM"
    assert (artifact.facts.parameters, artifact.facts.vocab_size, artifact.facts.longest_token) == (8, 4, 5)
    assert artifact.facts.chat_template
    assert {path for path, _, _ in told} == {each.name for each in folder.iterdir()}
    assert all(done == size for _, done, size in told)
    pulled = house.admin.artifacts.pull(artifact_id, house.tmp / "pulled")
    assert {p.name: p.read_bytes() for p in pulled.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_what_is_there_already_is_not_sent_again(house: House):
    folder = checkpoint(house.tmp / "c", one=b"1" * 1000, two=b"2" * 1000)
    first = house.admin.artifacts.push(folder, "checkpoint", "first")
    told: list[str] = []
    assert (
        house.admin.artifacts.push(folder, "checkpoint", "first", progress=lambda *each: told.append(each[0])) == first
    )
    (folder / "two").write_bytes(b"3" * 1000)
    second = house.admin.artifacts.push(folder, "checkpoint", "first", progress=lambda *each: told.append(each[0]))
    assert second != first
    assert told == ["two"]


def test_empty_and_equal_files_travel_too(house: House):
    folder = checkpoint(house.tmp / "c", empty=b"", one=b"same", two=b"same")
    artifact_id = house.admin.artifacts.push(folder, "checkpoint", "c")
    pulled = house.admin.artifacts.pull(artifact_id, house.tmp / "pulled")
    assert sorted((path.name, path.read_bytes()) for path in pulled.iterdir()) == [
        ("empty", b""),
        ("one", b"same"),
        ("two", b"same"),
    ]


def test_an_upload_that_breaks_off_goes_on_where_it_stopped(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sdk, "PIECE", 1000)
    content = os.urandom(5500)
    folder = checkpoint(house.tmp / "c", data=content)
    broken = Broken(house.bridge, fail_at=3)
    with pytest.raises(Unreachable):
        house.client(ADMIN, transport=broken).artifacts.push(folder, "checkpoint", "c")
    sent: list[int] = []
    artifact_id = house.admin.artifacts.push(
        folder, "checkpoint", "c", progress=lambda _, done, size: sent.append(done)
    )
    assert sent == [3000, 4000, 5000, 5500]
    pulled = house.admin.artifacts.pull(artifact_id, house.tmp / "pulled")
    assert (pulled / "data").read_bytes() == content


def test_an_answer_that_is_lost_in_mid_upload_does_no_harm(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sdk, "PIECE", 1000)
    content = os.urandom(3500)
    folder = checkpoint(house.tmp / "c", data=content)
    deaf = Broken(house.bridge, fail_at=2, times=1, after_sending=True)
    artifact_id = house.client(ADMIN, transport=deaf).artifacts.push(folder, "checkpoint", "c")
    pulled = house.admin.artifacts.pull(artifact_id, house.tmp / "pulled")
    assert (pulled / "data").read_bytes() == content


def test_a_download_that_breaks_off_goes_on_where_it_stopped(house: House):
    content = os.urandom(300_000)
    artifact_id = house.admin.artifacts.push(checkpoint(house.tmp / "c", data=content), "checkpoint", "c")
    cut = Cut(house.bridge, after=100_000)
    pulled = house.client(ADMIN, transport=cut).artifacts.pull(artifact_id, house.tmp / "pulled")
    assert (pulled / "data").read_bytes() == content
    assert not list(pulled.glob("*.part"))
    assert cut.requests >= 4


def test_a_file_that_arrives_damaged_is_not_kept(house: House):
    artifact_id = house.admin.artifacts.push(checkpoint(house.tmp / "c", data=b"good"), "checkpoint", "c")
    blob = next(path for path in house.settings.blob_dir.rglob("*") if path.is_file())
    blob.write_bytes(b"evil")
    with pytest.raises(Corrupt, match="data arrived with the hash"):
        house.admin.artifacts.pull(artifact_id, house.tmp / "pulled")
    assert list((house.tmp / "pulled").iterdir()) == []


def test_a_file_that_was_changed_here_is_pulled_again(house: House):
    artifact_id = house.admin.artifacts.push(checkpoint(house.tmp / "c", data=b"good"), "checkpoint", "c")
    pulled = house.admin.artifacts.pull(artifact_id, house.tmp / "pulled")
    (pulled / "data").write_bytes(b"evil")
    house.admin.artifacts.pull(artifact_id, pulled)
    assert (pulled / "data").read_bytes() == b"good"


def test_hidden_files_stay_at_home(house: House):
    folder = checkpoint(house.tmp / "c", data=b"1")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / ".env").write_text("secret")
    artifact_id = house.admin.artifacts.push(folder, "checkpoint", "c")
    assert [each.path for each in house.admin.artifacts.get(artifact_id).manifest.files] == ["data"]


def test_artifacts_are_listed_newest_first_and_by_kind(house: House):
    pushed = [
        house.admin.artifacts.push(
            checkpoint(house.tmp / f"c{number}", data=b"%d" % number), "checkpoint", f"c{number}"
        )
        for number in range(3)
    ]
    model = house.model()
    assert [each.id for each in house.admin.artifacts.list()] == [model, *reversed(pushed)]
    assert [each.id for each in house.admin.artifacts.list(ArtifactKind.MODEL)] == [model]
    first = house.http().get("/v1/artifacts", params={"limit": 3}).json()
    rest = house.http().get("/v1/artifacts", params={"cursor": first["next_cursor"]}).json()
    assert [each["id"] for each in rest["items"]] == [pushed[0]]


# -- what cannot be opened --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", None, "config.json"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("model.safetensors", None, "no safetensors file"),
        ("config.json", b"{", "config.json"),
        ("config.json", b"[]", "config.json"),
        ("config.json", b'{"vocab_size": 4}', "names no architecture"),
        ("config.json", b'{"architectures": ["Qwen3ForCausalLM"]}', "vocab_size"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json"),
        ("tokenizer.json", b'{"model": {}}', "no vocabulary"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json"),
        ("model.safetensors", b"", "not a safetensors file"),
        ("model.safetensors", b"\xff" * 64, "not a safetensors file"),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", None),
        ("model.safetensors.index.json", b'{"weight_map": {"x": "model-2.safetensors"}}', "names model-2.safetensors"),
        ("model.safetensors.index.json", b"{}", "cannot be read"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused(
    sqlite_house: House, file: str, content: bytes | None, said: str | None
):
    folder = write_model(sqlite_house.tmp / "broken")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    if said is None:
        sqlite_house.admin.artifacts.push(folder, "model", "broken")
        return
    with pytest.raises(Invalid) as caught:
        sqlite_house.admin.artifacts.push(folder, "model", "broken")
    assert said in str(caught.value)
    artifact = sqlite_house.admin.artifacts.get(manifest_of(folder, ArtifactKind.MODEL, "broken").id)
    assert artifact.state is ArtifactState.UPLOADING


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n  \n", "is empty"),
        ("a.jsonl", b'{"a": 1}\n{"a": ', "a.jsonl line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl line 1 is a list, not an object"),
        ("a.jsonl", b"\xff\xfe\n", "a.jsonl line 1 is not JSON"),
        ("a.csv", b"a,b\n1,2\n", "holds no .jsonl or .parquet file; it has a.csv"),
        ("a.parquet", b"PAR1 not really", "a.parquet cannot be read as Parquet"),
        ("a.parquet", b"", "a.parquet cannot be read as Parquet"),
    ],
)
def test_a_dataset_that_cannot_be_read_is_refused(sqlite_house: House, name: str, content: bytes, said: str):
    folder = sqlite_house.tmp / "rows"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(Invalid) as caught:
        sqlite_house.admin.artifacts.push(folder, "dataset", "rows")
    assert said in str(caught.value)


def test_jsonl_and_parquet_say_the_same(house: House):
    import pyarrow
    import pyarrow.parquet

    rows: list[dict[str, Any]] = [
        {"prompt": "Spell cat.", "answer": "tac", "messages": None},
        {"prompt": None, "answer": "", "messages": [{"role": "user", "content": "a b c d"}]},
    ]
    lines = write_rows(house.tmp / "jsonl" / "a.jsonl", rows)
    table = house.tmp / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    facts = [
        house.admin.artifacts.get(house.admin.artifacts.push(path, "dataset", "rows")).facts for path in (lines, table)
    ]
    assert facts[0] == facts[1]
    assert isinstance(facts[0], DatasetFacts)
    assert facts[0].rows == 2
    found = {name: (column.filled, column.longest) for name, column in facts[0].columns.items()}
    assert found == {"prompt": (1, 9), "answer": (1, 3), "messages": (1, 4)}


# -- the hostile pass -------------------------------------------------------------------------------------------------


def manifest(**changes: Any) -> dict[str, Any]:
    file = {"path": "a", "size": 4, "sha256": hashlib.sha256(b"good").hexdigest()}
    fields = {name: changes.pop(name) for name in ("kind", "name", "files") if name in changes}
    return {"kind": "checkpoint", "name": "c", "files": [{**file, **changes}], **fields}


@pytest.mark.parametrize(
    "path",
    [
        "../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "./a",
        "a/.",
        "..",
        ".",
        "",
        "a\\..\\b",
        "C:\\x",
        "a\x00b",
        "a\nb",
        "x" * 401,
        "a/",
    ],
)
def test_paths_that_lead_outside_are_refused(sqlite_house: House, path: str):
    answer = sqlite_house.http().post("/v1/artifacts", json=manifest(path=path))
    assert answer.status_code == 422
    assert answer.json()["field"] == "files.0.path"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sha256": "x" * 64}, "files.0.sha256"),
        ({"sha256": "0" * 63}, "files.0.sha256"),
        ({"sha256": "0" * 64 + "\n"}, "files.0.sha256"),
        ({"size": -1}, "files.0.size"),
        ({"size": 2**60}, "files.0.size"),
        ({"size": "4x"}, "files.0.size"),
        ({"files": []}, "files"),
        ({"files": [manifest()["files"][0]] * 2}, "files"),
        ({"files": [{**manifest()["files"][0], "path": path} for path in ("a", "a/b")]}, "files"),
        ({"kind": "virus"}, "kind"),
        ({"name": "\n"}, "name"),
        ({"extra": 1}, "files.0.extra"),
    ],
)
def test_manifests_that_make_no_sense_are_refused(sqlite_house: House, changes: dict[str, Any], field: str):
    answer = sqlite_house.http().post("/v1/artifacts", json=manifest(**changes))
    assert answer.status_code == 422, answer.text
    assert answer.json().get("field") == field
    assert list(sqlite_house.admin.artifacts.list()) == []


def test_an_artifact_beyond_the_limit_is_refused(tmp_path: Path, make_house: Any):
    house = make_house(f"sqlite:///{tmp_path / 'p.db'}", max_artifact_bytes=3)
    with pytest.raises(TooLarge, match="has 4 bytes; the limit is 3"):
        house.admin.artifacts.push(checkpoint(house.tmp / "c", data=b"good"), "checkpoint", "c")


def announce(house: House, content: bytes = b"good") -> tuple[str, str]:
    """The id of an artifact of one file, and the file's hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    answer = house.http().post("/v1/artifacts", json=manifest(sha256=sha256, size=len(content)))
    assert answer.status_code == 200, answer.text
    return answer.json()["artifact"]["id"], sha256


def put(house: House, sha256: str, content: bytes, **headers: Any) -> httpx.Response:
    sent = {"Upload-Length": 4, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return house.http().put(f"/v1/blobs/{sha256}", content=content, headers={n: str(v) for n, v in sent.items()})


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b"evil", {}, 422, "The bytes have the hash"),
        (b"goodies", {}, 413, "More bytes came than the 4 that were announced"),
        (b"od", {"Upload_Offset": 2}, 409, "0 bytes have arrived, but the piece begins at 2"),
        (b"good", {"Upload_Length": 5}, 422, "5 is not the size that the artifact states, 4"),
        (b"good", {"Upload_Length": -4}, 422, "upload-length"),
        (b"good", {"Upload_Length": "four"}, 422, "upload-length"),
        (b"good", {"Upload_Offset": -1}, 422, "upload-offset"),
        (b"good", {"Upload_Offset": "1e3"}, 422, "upload-offset"),
        (b"good", {"Upload_Length": 10**30}, 422, "upload-length"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(
    sqlite_house: House, content: bytes, headers: dict[str, Any], status: int, said: str
):
    _, sha256 = announce(sqlite_house)
    answer = put(sqlite_house, sha256, content, **headers)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert put(sqlite_house, sha256, b"good").json()["offset"] == 4, "the right bytes are still welcome"


def test_a_content_that_nobody_announced_is_refused(sqlite_house: House):
    answer = put(sqlite_house, "0" * 64, b"good")
    assert answer.status_code == 404
    assert "Announce the artifact first" in answer.json()["remedy"]


@pytest.mark.parametrize("sha256", ["..", "x", "0" * 63, "A" * 64, "..%2f..%2fetc%2fpasswd", "%00" * 64])
def test_names_of_contents_are_hashes(sqlite_house: House, sha256: str):
    for answer in (sqlite_house.http().get(f"/v1/blobs/{sha256}"), put(sqlite_house, sha256, b"good")):
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_wrong_size_in_one_manifest_does_not_keep_the_right_one_out(sqlite_house: House):
    sha256 = hashlib.sha256(b"good").hexdigest()
    wrong = sqlite_house.http().post("/v1/artifacts", json=manifest(sha256=sha256, size=2)).json()
    assert put(sqlite_house, sha256, b"go", Upload_Length=2).status_code == 422
    artifact_id, _ = announce(sqlite_house)
    assert put(sqlite_house, sha256, b"good").status_code == 200
    assert sqlite_house.http().post(f"/v1/artifacts/{artifact_id}/complete").status_code == 200
    assert sqlite_house.http().post(f"/v1/artifacts/{wrong['artifact']['id']}/complete").status_code == 409


def test_an_artifact_is_not_complete_while_something_is_missing(house: House):
    artifact_id, sha256 = announce(house)
    assert put(house, sha256, b"go").json()["offset"] == 2
    answer = house.http().post(f"/v1/artifacts/{artifact_id}/complete")
    assert answer.status_code == 409
    assert sha256 in answer.json()["detail"]
    again = house.http().post("/v1/artifacts", json=manifest()).json()
    assert again["missing"] == [{"sha256": sha256, "size": 4, "offset": 2, "busy": False}]
    assert put(house, sha256, b"od", Upload_Offset=2).json()["offset"] == 4
    assert house.http().post(f"/v1/artifacts/{artifact_id}/complete").json()["state"] == "ready"


def test_two_writers_of_one_content_do_not_mix(sqlite_house: House):
    _, sha256 = announce(sqlite_house)
    with sqlite_house.plane.blobs.writing(sha256, 4):
        answer = put(sqlite_house, sha256, b"good")
        told = sqlite_house.http().post("/v1/artifacts", json=manifest()).json()
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "2"
    assert "Somebody else is sending this content" in answer.json()["detail"]
    assert [each["busy"] for each in told["missing"]] == [True]
    assert put(sqlite_house, sha256, b"good").status_code == 200


@pytest.mark.parametrize(
    ("header", "status", "body", "said"),
    [
        ("bytes=0-1", 206, b"go", "bytes 0-1/4"),
        ("bytes=2-", 206, b"od", "bytes 2-3/4"),
        ("bytes=-1", 206, b"d", "bytes 3-3/4"),
        ("bytes=-99", 206, b"good", "bytes 0-3/4"),
        ("bytes=1-999", 206, b"ood", "bytes 1-3/4"),
        ("bytes=4-", 416, None, None),
        ("bytes=3-1", 416, None, None),
        ("bytes=-0", 416, None, None),
        ("bytes=0-1,2-3", 416, None, None),
        ("lines=0-1", 416, None, None),
        ("bytes=-", 416, None, None),
        ("bytes=99999999999999999999-", 416, None, None),
    ],
)
def test_ranges(sqlite_house: House, header: str, status: int, body: bytes | None, said: str | None):
    _, sha256 = announce(sqlite_house)
    put(sqlite_house, sha256, b"good")
    answer = sqlite_house.http().get(f"/v1/blobs/{sha256}", headers={"Range": header})
    assert answer.status_code == status
    if body is None:
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        assert (answer.content, answer.headers["content-range"]) == (body, said)


def test_an_unknown_artifact_is_not_found(house: House):
    with pytest.raises(NotFound):
        house.admin.artifacts.get("sha256:" + "0" * 64)
    assert house.http().get("/v1/artifacts/nonsense").status_code == 422


def test_a_folder_that_is_not_there(sqlite_house: House):
    with pytest.raises(Invalid, match="no folder or file"):
        sqlite_house.admin.artifacts.push(sqlite_house.tmp / "nowhere", "model", "x")
    empty = sqlite_house.tmp / "empty"
    empty.mkdir()
    with pytest.raises(Invalid, match="holds no files"):
        sqlite_house.admin.artifacts.push(empty, "model", "x")


names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=20)


@given(st.lists(names, min_size=1, max_size=4).map("/".join))
def test_an_accepted_path_stays_inside_whatever_it_is(path: str):
    try:
        file = ArtifactFile(path=path, size=0, sha256="0" * 64)
    except ValidationError:
        return
    root = Path("/root/of/it")
    assert os.path.normpath(root / file.path).startswith(f"{root}/")


@given(st.permutations([("a", 1), ("b/c", 2), ("b/d", 3)]))
def test_the_id_of_a_manifest_does_not_depend_on_the_order_of_its_files(order: list[tuple[str, int]]):
    files = tuple(ArtifactFile(path=path, size=size, sha256="0" * 64) for path, size in order)
    made = Manifest(kind=ArtifactKind.MODEL, name="m", files=files)
    assert made.id == "sha256:a201ae2f01ba538e670263beda0a61b299b34ba58db3bbba6a83ce1b5a788dd1"
    assert made.size == 6


class Broken(httpx.BaseTransport):
    """Fails uploads from one on: before they are sent, or, `after_sending`, before they are answered."""

    def __init__(
        self, inner: httpx.BaseTransport, fail_at: int, times: int = 10**9, after_sending: bool = False
    ) -> None:
        self._inner, self._fail_at, self._times, self._after = inner, fail_at, times, after_sending
        self._puts = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            self._puts += 1
            if self._fail_at <= self._puts < self._fail_at + self._times:
                if self._after:
                    self._inner.handle_request(request).read()
                raise httpx.ReadError("the connection was cut")
        return self._inner.handle_request(request)
