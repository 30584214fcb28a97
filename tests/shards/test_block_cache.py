"""Blocks of far files lie on this machine's disk: whole, within the limit, for all processes."""

import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.block_cache import BlockCache, Fetch
from shards.store import StoreError

SIZE = 1000
FILE = SIZE + 20  # with its trailer


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def read(cache: BlockCache, name: str, offset: int, size: int, fetch: Fetch) -> bytes:
    buffer = bytearray(size)
    count = cache.read_into(name, offset, memoryview(buffer), fetch)
    return bytes(buffer[:count])


class Far:
    """What is fetched, counted."""

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def __call__(self, number: int) -> Fetch:
        def fetch(buffer: memoryview) -> int:
            self.fetched.append(number)
            buffer[:] = content(number)
            return SIZE

        return fetch


@pytest.fixture
def far() -> Far:
    return Far()


def cache_of(folder: Path, blocks: int = 5) -> BlockCache:
    return BlockCache(folder=folder, limit=blocks * FILE, block_bytes=SIZE)


def taken(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".lock")


def test_a_block_is_fetched_once(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path)
    assert read(cache, "b1", 10, 5, far(1)) == content(1)[10:15]
    assert read(cache, "b1", 990, 50, far(1)) == content(1)[990:]
    cache.ensure("b1", far(1))
    assert read(cache_of(tmp_path), "b1", 0, SIZE, far(1)) == content(1)
    assert far.fetched == [1]


def test_the_limit_holds_and_the_stalest_go(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path)
    for number in range(5):
        cache.ensure(f"b{number}", far(number))
        used = 1_000_000.0 + number
        os.utime(tmp_path / f"b{number}.block", (used, used))
    read(cache, "b0", 0, 1, far(0))  # in use, though it came first
    for number in (5, 6):
        cache.ensure(f"b{number}", far(number))
        assert taken(tmp_path) <= 5 * FILE
    assert sorted(file.name for file in tmp_path.glob("*.block")) == [f"b{n}.block" for n in (0, 3, 4, 5, 6)]
    assert read(cache, "b1", 0, 3, far(1)) == content(1)[:3]
    assert far.fetched == [0, 1, 2, 3, 4, 5, 6, 1]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "longer"])
def test_a_damaged_file_is_fetched_again(tmp_path: Path, far: Far, damage: str) -> None:
    cache_of(tmp_path).ensure("b1", far(1))
    file = tmp_path / "b1.block"
    whole = bytearray(file.read_bytes())
    flipped = whole.copy()
    flipped[500] ^= 1
    file.write_bytes({"cut": whole[:700], "flipped": flipped, "empty": b"", "longer": whole + b"x"}[damage])
    cache = cache_of(tmp_path)
    assert read(cache, "b1", 499, 3, far(1)) == content(1)[499:502]
    assert far.fetched == [1, 1]
    assert file.stat().st_size == FILE


def test_threads_that_want_one_block_fetch_it_once(tmp_path: Path) -> None:
    cache, fetched, together = cache_of(tmp_path), [], threading.Barrier(8)

    def fetch(buffer: memoryview) -> int:
        fetched.append(1)
        buffer[:] = content(1)
        return SIZE

    def read_together(_: int) -> bytes:
        together.wait()
        return read(cache, "b1", 0, SIZE, fetch)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read_together, range(8))) == {content(1)}
    assert len(fetched) == 1


def test_a_fetch_that_fails_fails_for_all_and_may_be_tried_again(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path)

    def fail(_: memoryview) -> int:
        raise StoreError("the network is gone")

    with pytest.raises(StoreError, match="the network is gone"):
        read(cache, "b1", 0, 1, fail)
    assert read(cache, "b1", 0, 1, far(1)) == content(1)[:1]


WRITER = """
import sys
from pathlib import Path
from shards.block_cache import BlockCache
folder, first = Path(sys.argv[1]), int(sys.argv[2])
cache = BlockCache(folder=folder, limit=6 * 1020, block_bytes=1000)
most = fetched = 0
for turn in range(3):
    for number in list(range(first, 12)) + list(range(first)):
        def fetch(buffer):
            global fetched
            fetched += 1
            buffer[:] = bytes([number]) * 1000
            return 1000
        found = bytearray(1000)
        assert cache.read_into(f"b{number}", 0, memoryview(found), fetch) == 1000
        assert found == bytes([number]) * 1000
        sizes = []
        for file in folder.iterdir():
            try:
                sizes.append(file.stat().st_size)
            except FileNotFoundError:
                pass
        most = max(most, sum(sizes))
print(most, fetched)
"""


def test_processes_share_a_folder_and_its_limit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(first)], stdout=subprocess.PIPE, text=True) for first in (0, 4, 8)
    ]
    for process in processes:
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        most, fetched = map(int, printed.split())
        assert fetched <= 36
        # a listing is no instant: what is deleted and what takes its place may both be in it
        assert most <= 9 * FILE
    assert taken(tmp_path) <= 6 * FILE
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_killed_process_left_makes_room(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path)
    left = tmp_path / "b9.123-abc.partial"
    left.write_bytes(bytes(5 * FILE))
    assert read(cache, "b1", 0, 3, far(1)) == content(1)[:3]  # though there is no room for it
    assert left.exists()  # it may be being written
    assert not (tmp_path / "b1.block").exists()
    os.utime(left, (1_000_000, 1_000_000))
    read(cache, "b2", 0, 1, far(2))
    assert not left.exists()
    assert (tmp_path / "b2.block").exists()


def test_where_room_is_made_a_few_more_blocks_go(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path, blocks=64)
    for number in range(65):
        cache.ensure(f"b{number}", far(number))
        os.utime(tmp_path / f"b{number}.block", (1_000_000.0 + number,) * 2)
    kept = {int(file.stem[1:]) for file in tmp_path.glob("*.block")}
    assert kept == set(range(3, 65))  # b64 took one's place, and 64 / 32 more went


def test_room_is_found_although_files_were_deleted_by_hand(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path)
    for number in range(5):
        cache.ensure(f"b{number}", far(number))
    for file in tmp_path.glob("*.block"):
        file.unlink()
    for number in range(5, 10):
        cache.ensure(f"b{number}", far(number))
    assert {file.stem for file in tmp_path.glob("*.block")} == {f"b{number}" for number in range(5, 10)}


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be kept there \(File too large\); name another folder"):
            read(cache, "b1", 0, 1, far(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert taken(tmp_path) == 0
    assert read(cache, "b1", 0, 3, far(1)) == content(1)[:3]


def test_readers_of_a_cache_that_is_far_too_small_get_what_they_ask_for(tmp_path: Path, far: Far) -> None:
    cache = cache_of(tmp_path, blocks=4)

    def read_all(first: int) -> bool:
        numbers = [(first + 5 * turn) % 32 for turn in range(32)]
        return all(read(cache, f"b{n}", 1, 9, far(n)) == content(n)[1:10] for n in numbers)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read_all, range(8)))
    assert taken(tmp_path) <= 4 * FILE


def test_a_limit_too_small_for_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a cache of 3060 bytes for blocks of 1000; expected at least 4080"):
        cache_of(tmp_path, blocks=3)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"the cache of blocks cannot be kept there \(Not a directory\)"):
        cache_of(tmp_path / "file" / "folder")
