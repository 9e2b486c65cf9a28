"""Bytes on disk: whole or not there, within a bound, the least recently used first, by several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from preceptor.shelf import BLOCK, LEFT_SECONDS, Shelf


def key(index: int) -> str:
    return f"{index * 2654435761 % 2**32:08x}"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def taken(folder: Path) -> int:
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in files(folder))


def used(folder: Path, index: int, at: int) -> None:
    """When it was used last; a file system's own clock may be too coarse to order what a test does."""
    os.utime(folder / key(index)[:2] / key(index), ns=(at, at))


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 1 << 20)
    assert shelf.get(key(1)) is None
    assert shelf.put(key(1), [b"one", memoryview(b""), memoryview(b"two")])
    assert shelf.get(key(1)) == Shelf(tmp_path, 1 << 20).get(key(1)) == b"onetwo"
    assert shelf.put(key(1), [b"three"]) and shelf.get(key(1)) == b"three"
    assert len(files(tmp_path)) == 1, "nothing that was written aside is left"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "zeros", "another's"])
def test_a_damaged_file_is_not_there(tmp_path: Path, damage: str) -> None:
    shelf = Shelf(tmp_path, 1 << 20)
    shelf.put(key(1), [b"x" * 100])
    (path,) = files(tmp_path)
    content = path.read_bytes()
    shelf.put(key(2), [b"y" * 100])
    (other,) = set(files(tmp_path)) - {path}
    path.write_bytes(
        {
            "cut": content[:-1],
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "empty": b"",
            "zeros": bytes(len(content)),
            "another's": other.read_bytes(),
        }[damage]
    )
    assert shelf.get(key(1)) is None
    assert not path.exists(), "it takes no room any more"
    assert shelf.get(key(2)) == b"y" * 100


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 4 * BLOCK)
    for index in range(4):
        shelf.put(key(index), [b"x"])
        used(tmp_path, index, 1_000 + index)
    assert shelf.get(key(0)) == b"x", "now the last used"
    shelf.put(key(4), [b"x"])
    assert [index for index in range(5) if shelf.get(key(index)) is not None] == [0, 2, 3, 4]


def test_the_bound_holds_after_every_write(tmp_path: Path) -> None:
    rng, bound = random.Random(0), 64 * BLOCK
    shelf = Shelf(tmp_path, bound)
    for index in range(300):
        shelf.put(key(index), [bytes(rng.randrange(6 * BLOCK))])
        assert taken(tmp_path) <= bound
    assert taken(tmp_path) > bound / 2, "and the room is used"


def test_the_folder_is_not_looked_through_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = Shelf._look
    monkeypatch.setattr(Shelf, "_look", lambda shelf, wanted: (looks.append(wanted), look(shelf, wanted)))
    shelf = Shelf(tmp_path, 1600 * BLOCK)
    for index in range(1000):
        shelf.put(key(index), [b"x"])
    assert len(looks) == 10, "once per sixteenth of the bound"


def test_what_is_evicted_while_it_is_written_is_gone_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others, replace = Shelf(tmp_path, 4 * BLOCK), Shelf(tmp_path, 4 * BLOCK), Path.replace

    def late(aside: Path, target: Path) -> Path:
        monkeypatch.undo()
        assert others.put(key(2), [b"y" * 3 * BLOCK]), "which wants all the room there is"
        return replace(aside, target)

    monkeypatch.setattr(Path, "replace", late)
    assert mine.put(key(1), [b"x"])
    assert (mine.get(key(1)), mine.get(key(2))) == (None, b"y" * 3 * BLOCK)
    assert len(files(tmp_path)) == 1


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 2 * BLOCK)
    shelf.put(key(1), [b"x"])
    assert not shelf.put(key(2), [bytes(2 * BLOCK)])
    assert shelf.get(key(2)) is None and shelf.get(key(1)) == b"x"
    assert not Shelf(tmp_path / "none", 0).put(key(1), [b""])


def test_what_a_dead_process_wrote_aside_goes(tmp_path: Path) -> None:
    Shelf(tmp_path, 1 << 20).put(key(1), [b"x"])
    (kept,) = files(tmp_path)
    young, old = kept.with_name(".young.1-1"), kept.with_name(".old.1-1")
    young.write_bytes(b"half")
    old.write_bytes(b"half")
    long_ago = kept.stat().st_mtime - LEFT_SECONDS - 1
    os.utime(old, (long_ago, long_ago))
    Shelf(tmp_path, 1 << 20).put(key(2), [b"x"])
    assert young.exists() and not old.exists()


def content_of(index: int) -> bytes:
    return random.Random(index).randbytes(index * 37 % (3 * BLOCK))


def work(folder: Path, bound: int, seed: int) -> int:
    """Put and get at random; returns how many gets found something. What is found is right, always."""
    rng, shelf, hits = random.Random(seed), Shelf(folder, bound), 0
    for _ in range(400):
        index = rng.randrange(40)
        if rng.random() < 0.5:
            shelf.put(key(index), [content_of(index)])
        elif (found := shelf.get(key(index))) is not None:
            assert found == content_of(index)
            hits += 1
    return hits


def test_threads_may_share_a_shelf(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 30 * BLOCK)

    def turn(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(100):
            index = rng.randrange(20)
            shelf.put(key(index), [content_of(index)])
            assert shelf.get(key(rng.randrange(20))) in (None, *(content_of(each) for each in range(20)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(turn, range(4)))
    assert taken(tmp_path) <= 30 * BLOCK


def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    bound, workers = 32 * BLOCK, 3
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        hits = pool.starmap(work, [(tmp_path, bound, seed) for seed in range(workers)])
    assert all(hit > 20 for hit in hits)
    assert taken(tmp_path) <= bound + workers * (bound // 16 + 3 * BLOCK)
    assert not [path for path in files(tmp_path) if path.name.startswith(".")]
