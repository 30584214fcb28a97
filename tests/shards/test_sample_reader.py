"""Members are read where the tars lie, near or far, by any number of threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from shard_folders import shard_folder

from shards.sample_reader import SampleReader, Scratch
from shards.store import Store, StoreError, open_store
from shards.tar import TarError, read_samples
from shards.tar_bytes import OpenFiles

BLOCK_BYTES = 20_000  # a few members each, so that many lie across a border


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset")
    shard_folder(path, (4, 3), seconds=0.1, frames=3)
    return path


def samples(folder: Path) -> dict[tuple[str, str], dict[str, bytes]]:
    return {
        (tar.stem, key): members for tar in sorted(folder.glob("*.tar")) for key, members in read_samples(tar)
    }


def reader_of(store: Store, cache: Path, **options: int) -> SampleReader:
    return SampleReader(store=store, cache=cache, block_bytes=BLOCK_BYTES, **options)


def check_all(reader: SampleReader, folder: Path) -> None:
    for (shard, key), expected in samples(folder).items():
        members = reader.members(shard, key)
        assert list(members) == list(expected)
        views = reader.read(shard, list(members.values()))
        assert [bytes(view) for view in views] == list(expected.values())


@pytest.fixture
def far(folder: Path, s3_url: str, s3_server: S3Server) -> Store:
    store = open_store(s3_url)
    for name in open_store(folder).names():
        store.publish_bytes((folder / name).read_bytes(), name)
    return store


def test_near_members_are_what_the_tar_holds(folder: Path, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    with reader_of(open_store(folder), tmp_path) as reader:
        assert not reader.far
        check_all(reader, folder)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert not (tmp_path / "blocks").exists()


def test_far_members_are_what_the_tar_holds(far: Store, folder: Path, tmp_path: Path) -> None:
    with reader_of(far, tmp_path) as reader:
        assert reader.far
        check_all(reader, folder)
    check_all(reader_of(far, tmp_path), folder)  # after another start, from the disk


def test_a_few_blocks_of_disk_are_enough(far: Store, folder: Path, tmp_path: Path) -> None:
    limit = 4 * (BLOCK_BYTES + 20)
    with reader_of(far, tmp_path, cache_bytes=limit) as reader:
        check_all(reader, folder)
        kept = sum(file.stat().st_size for file in (tmp_path / "blocks").iterdir())
        assert 0 < kept <= limit


def test_what_was_prefetched_is_there_without_the_store(far: Store, folder: Path, tmp_path: Path) -> None:
    reader = reader_of(far, tmp_path)
    for shard, key in samples(folder):
        reader.prefetch(shard, list(reader.members(shard, key).values()))
    reader._fetchers.shutdown(wait=True)  # all that was asked for has come
    for name in far.names():
        if name.endswith(".tar"):
            far.delete(name)
    check_all(reader, folder)


def test_a_block_that_cannot_be_fetched_is_asked_for_again(
    far: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.tar_bytes.PAUSES_S", (0.0, 0.0))
    reader = reader_of(far, tmp_path)
    (shard, key), expected = next(iter(samples(folder).items()))
    reader.profile  # noqa: B018  # read while the bucket is there
    members = {name: (0, 10) for name in expected}
    whole = far.read_bytes(f"{shard}.tar")
    reader._shard(shard)
    far.publish_bytes(whole[:100], f"{shard}.tar", replace=True)
    with pytest.raises(StoreError, match="it has been replaced or cut short"):
        reader.read(shard, list(members.values()))
    far.publish_bytes(whole, f"{shard}.tar", replace=True)
    assert bytes(reader.read(shard, [(0, 10)])[0]) == whole[:10]
    assert reader.members(shard, key)


class Drops:
    """Answers to the next `count` ranges of tars, cut in half."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.asked = 0
        answer = S3Server.__call__
        monkeypatch.setattr("shards.tar_bytes.PAUSES_S", (0.0, 0.0))
        monkeypatch.setattr(S3Server, "__call__", lambda *arguments: self.cut(answer, *arguments))

    def cut(self, answer: Callable[..., Any], server: S3Server, environ: Any, start_response: Any) -> Any:
        asked = environ.get("HTTP_RANGE", "")
        if not asked or not environ["PATH_INFO"].endswith(".tar"):
            return answer(server, environ, start_response)
        self.asked += 1
        if self.count == 0:
            return answer(server, environ, start_response)
        self.count -= 1
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        start_response("206 Partial Content", [("Content-Length", str(last - first + 1)), ("ETag", '"tar"')])
        return [bytes((last - first) // 2)]


def test_a_connection_that_drops_within_a_block_costs_a_second_request(
    far: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops(monkeypatch)
    drops.count = 2
    check_all(reader_of(far, tmp_path), folder)
    blocks = len(list((tmp_path / "blocks").glob("*.block")))
    assert drops.asked == blocks + 2


def test_connections_that_always_drop_end_in_one_error(
    far: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = Drops(monkeypatch)
    drops.count = 100
    (shard, key), _ = next(iter(samples(folder).items()))
    reader = reader_of(far, tmp_path)
    with pytest.raises(StoreError, match=r"the object store does not answer .* is not completed"):
        reader.read(shard, [(0, 10)])
    assert drops.asked == 3
    assert not list((tmp_path / "blocks").glob("*.[bp]*"))  # nothing of a block, whole or partial
    drops.count = 0
    assert reader.members(shard, key)


def test_an_object_deleted_meanwhile_is_said(
    far: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.tar_bytes.PAUSES_S", ())
    reader = reader_of(far, tmp_path)
    (shard, _), _ = next(iter(samples(folder).items()))
    reader._shard(shard)
    far.delete(f"{shard}.tar")
    with pytest.raises(StoreError, match=rf"{shard}.tar is gone; `trichord verify` says what else is"):
        reader.read(shard, [(0, 10)])


def test_members_far_apart_are_read_apart_and_in_the_order_asked_for(tmp_path: Path) -> None:
    reader = reader_of(shard_folder(tmp_path / "data", (2,)), tmp_path)
    tar = tmp_path / "data" / "audioset-balanced_train-000000.tar"
    content, scratch = tar.read_bytes(), Scratch()
    spans = [(100_000, 30), (10, 20), (len(content) - 5, 5)]
    for scratch_or_none in (scratch, None):
        views = reader.read(tar.stem, spans, scratch_or_none)
        assert [bytes(view) for view in views] == [content[at : at + size] for at, size in spans]
    assert len(scratch.view(0)) == 0
    assert len(scratch._memory) < 1000  # what lies between was not read


def test_no_more_files_are_open_than_allowed(tmp_path: Path) -> None:
    files = OpenFiles(limit=2)
    paths = [tmp_path / f"{number}" for number in range(5)]
    for path in paths:
        path.write_bytes(path.name.encode())
    before = len(os.listdir("/proc/self/fd"))
    for path in paths * 2:
        with files.opened(path) as file:
            assert os.pread(file, 1, 0) == path.name.encode()
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_threads_read_at_once(folder: Path, tmp_path: Path) -> None:
    expected = samples(folder)
    reader = reader_of(open_store(folder), tmp_path)
    reader.files.limit = 1

    def read(sample: tuple[str, str]) -> bool:
        members = reader.members(*sample)
        views = reader.read(sample[0], list(members.values()))
        return [bytes(view) for view in views] == list(expected[sample].values())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, list(expected) * 20))


def test_a_tar_that_is_gone_is_no_bad_sample(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"audioset-eval-000009\.tar is gone, though its ledger"):
        reader_of(open_store(folder), tmp_path).members("audioset-eval-000009", "key")


def test_a_tar_that_shrinks_meanwhile_is_said(tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "data", (2,), seconds=0.1)
    reader = reader_of(store, tmp_path / "cache")
    (shard, key), _ = list(samples(tmp_path / "data").items())[1]
    span = reader.members(shard, key)["wav"]
    os.truncate(tmp_path / "data" / f"{shard}.tar", span[0] + 10)
    with pytest.raises(TarError, match=r"10 of \d+ bytes at \d+: it has been cut short"):
        reader.read(shard, [span])


def test_a_tar_deleted_before_its_first_read_is_said(tmp_path: Path) -> None:
    reader = reader_of(shard_folder(tmp_path / "data", (2,), seconds=0.1), tmp_path / "cache")
    tar = tmp_path / "data" / "audioset-balanced_train-000000.tar"
    reader._shard(tar.stem)
    tar.unlink()
    with pytest.raises(StoreError, match=r"000000\.tar cannot be read \(No such file or directory\)"):
        reader.members(tar.stem, "key")


def test_another_tar_of_the_same_name_has_members_of_its_own(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / f"data{seed}"
        shard_folder(folder, (2,), seconds=0.1 * seed, seed=seed)
        check_all(reader_of(open_store(folder), tmp_path / "cache"), folder)
