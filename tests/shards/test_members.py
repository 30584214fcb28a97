"""Where members lie is found by their tar's headers, once, by whoever comes first."""

import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shard_folders import shard_folder

from shards.members import MemberTable, ShardMembers
from shards.tar import BLOCK, TarError, read_members


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    shard_folder(folder, (6,), seconds=0.1, frames=10)
    return folder / "audioset-balanced_train-000000.tar"


class Reads:
    """Reads of a file, counted."""

    def __init__(self, content: bytes) -> None:
        self.content, self.count = content, 0

    def __call__(self, offset: int, size: int) -> bytes:
        self.count += 1
        return self.content[offset : offset + size]


def members_of(content: bytes, saved: Path | None = None, read_at: Reads | None = None) -> ShardMembers:
    return ShardMembers(tar="x.tar", size=len(content), read_at=read_at or Reads(content), saved=saved)


def by_tarfile(tar: Path) -> dict[str, dict[str, tuple[int, int]]]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for member in read_members(tar):
        found.setdefault(member.key, {})[member.name] = (member.offset, member.size)
    return found


def test_members_lie_where_tarfile_finds_them(tar: Path) -> None:
    members = members_of(tar.read_bytes())
    expected = by_tarfile(tar)
    assert {key: members.find(key) for key in reversed(expected)} == expected
    assert all(len(found) == 14 for found in expected.values())


def test_headers_are_read_no_further_than_somebody_has_asked(tar: Path) -> None:
    reads = Reads(tar.read_bytes())
    members = members_of(reads.content, read_at=reads)
    first, second, *_ = by_tarfile(tar)
    members.find(first)
    assert reads.count == 15  # its own 14, and the next one that ends it
    members.find(second)
    assert reads.count == 29
    members.find(first)
    assert reads.count == 29


def test_what_was_found_is_remembered(tar: Path, tmp_path: Path) -> None:
    saved = tmp_path / "cache" / "x.npz"
    content, expected = tar.read_bytes(), by_tarfile(tar)
    before = members_of(content, saved)
    *others, last = expected
    for key in others:
        before.find(key)
    assert not saved.exists()  # the tar's end has not been seen
    before.find(last)
    reads = Reads(content)
    after = members_of(content, saved, reads)
    assert {key: after.find(key) for key in expected} == expected
    assert reads.count == 0
    assert [file.name for file in saved.parent.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_a_damaged_memory_is_made_anew(tar: Path, tmp_path: Path, damage: str) -> None:
    saved, content, expected = tmp_path / "x.npz", tar.read_bytes(), by_tarfile(tar)
    table = MemberTable.of(expected).to_bytes()
    assert members_of(content, saved).find(next(iter(expected))) == next(iter(expected.values()))
    flipped = bytearray(table)
    flipped[len(table) // 2] ^= 0xFF
    saved.write_bytes({"empty": b"", "cut": table[:-100], "flipped": bytes(flipped), "text": b"none"}[damage])
    members = members_of(content, saved)
    assert {key: members.find(key) for key in expected} == expected


def test_a_member_takes_eight_bytes(tar: Path) -> None:
    table = MemberTable.of(by_tarfile(tar))
    assert table.blocks.nbytes + table.sizes.nbytes == 6 * 14 * 8


def test_a_tar_that_is_cut_short_still_gives_what_lies_before(tar: Path) -> None:
    expected = by_tarfile(tar)
    keys = list(expected)
    offset, size = expected[keys[3]]["wav"]
    members = members_of(tar.read_bytes()[: offset + size // 2])
    for key in keys[:3]:
        assert members.find(key) == expected[key]
    for key in keys[3:]:
        with pytest.raises(TarError, match=r"x\.tar: .* it is cut short"):
            members.find(key)


def test_a_damaged_header_costs_what_lies_behind_it(tar: Path, tmp_path: Path) -> None:
    expected = by_tarfile(tar)
    keys = list(expected)
    content = bytearray(tar.read_bytes())
    content[expected[keys[2]]["json"][0] - BLOCK + 10] ^= 1
    members = members_of(bytes(content), tmp_path / "x.npz")
    with pytest.raises(TarError, match=r"no header of a member at byte \d+"):
        members.find(keys[4])
    assert members.find(keys[1]) == expected[keys[1]]
    with pytest.raises(TarError):
        members.find(keys[2])
    assert not (tmp_path / "x.npz").exists()  # a repaired tar is to be found whole


def test_members_that_are_no_plain_files_are_refused() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "b.jpg"
        archive.addfile(link)
    with pytest.raises(TarError, match=r"'a\.jpg' at byte 0 is no plain file"):
        members_of(file.getvalue()).find("a")


def test_a_tar_without_samples_has_none() -> None:
    with pytest.raises(TarError, match="no sample a"):
        members_of(bytes(2 * BLOCK)).find("a")


def test_many_threads_may_ask_at_once(tar: Path) -> None:
    expected = by_tarfile(tar)
    members = members_of(tar.read_bytes())
    together = threading.Barrier(8)

    def asked(number: int) -> bool:
        together.wait()
        keys = sorted(expected, key=lambda key: hash((number, key)))
        return all(members.find(key) == expected[key] for key in keys)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(asked, range(8)))
