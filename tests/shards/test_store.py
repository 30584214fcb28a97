"""What a store promises, on a folder and on an object store alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.folder_store import OWN_FOLDER
from shards.store import Store, StoreError, open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "dataset")
    return open_store(f"{request.getfixturevalue('s3_url')}/some/dataset")


def written(folder: Path, data: bytes) -> Path:
    file = folder / "finished.tar"
    file.write_bytes(data)
    return file


def test_a_published_file_moves_and_reads_back(store: Store, tmp_path: Path) -> None:
    local = written(tmp_path, b"whole" * 1000)
    assert store.publish(local, "audioset-eval-000000.tar")
    assert not local.exists()
    assert store.exists("audioset-eval-000000.tar")
    assert store.size("audioset-eval-000000.tar") == 5000
    assert store.read_bytes("audioset-eval-000000.tar") == b"whole" * 1000
    with store.open("audioset-eval-000000.tar") as reader:
        reader.seek(4998)
        assert reader.read() == b"le"


def test_a_second_publisher_is_told_and_keeps_its_file(store: Store, tmp_path: Path) -> None:
    assert store.publish_bytes(b"first", "a/ledger.parquet")
    local = written(tmp_path, b"second")
    assert not store.publish(local, "a/ledger.parquet")
    assert not store.publish_bytes(b"third", "a/ledger.parquet")
    assert local.read_bytes() == b"second"
    assert store.read_bytes("a/ledger.parquet") == b"first"


def test_replacing_is_asked_for(store: Store, tmp_path: Path) -> None:
    store.publish_bytes(b"old", "manifest.duckdb")
    assert store.publish(written(tmp_path, b"new"), "manifest.duckdb", replace=True)
    assert store.read_bytes("manifest.duckdb") == b"new"
    assert store.publish_bytes(b"newer", "manifest.duckdb", replace=True)
    assert store.read_bytes("manifest.duckdb") == b"newer"


def test_a_fetched_file_is_a_copy(store: Store, tmp_path: Path) -> None:
    store.publish_bytes(b"content", "x.bin")
    store.fetch("x.bin", tmp_path / "copy.bin")
    (tmp_path / "copy.bin").write_bytes(b"changed here")
    assert store.read_bytes("x.bin") == b"content"
    assert not list(tmp_path.glob("*.partial"))


def test_names_are_found_by_their_beginning_at_any_depth(store: Store) -> None:
    for name in ("audioset-eval-000001.tar", "audioset-eval-000000.tar", "_state/claims/a", "_state/b", "_s"):
        store.publish_bytes(b"12", name)
    assert store.names("audioset-eval-") == ["audioset-eval-000000.tar", "audioset-eval-000001.tar"]
    assert store.names("_state/") == ["_state/b", "_state/claims/a"]
    assert store.names("_s") == ["_s", "_state/b", "_state/claims/a"]
    assert len(store.names()) == 5
    assert store.names("nothing/") == []
    assert [(entry.name, entry.size) for entry in store.entries("_state/claims/")] == [("_state/claims/a", 2)]


def test_another_writers_file_shows_in_the_next_listing(store: Store) -> None:
    assert store.names() == []
    open_store(store.url).publish_bytes(b"", "new")
    assert store.names() == ["new"]


def test_what_is_not_there_is_not_found(store: Store, tmp_path: Path) -> None:
    assert not store.exists("absent")
    assert not store.delete("absent")
    for read in (store.read_bytes, store.size, store.open):
        with pytest.raises(FileNotFoundError):
            read("absent")
    with pytest.raises(FileNotFoundError):
        store.fetch("absent", tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        store.publish(tmp_path / "no-such-file", "x.tar")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../x", "a\\b", "a//b", "", "a/", ".hidden", "a b", "é"]
)
def test_a_name_that_could_mean_anything_else_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="relative to the dataset"):
        store.publish_bytes(b"", name)


def test_an_update_sees_what_is_there_and_may_leave_it(store: Store) -> None:
    assert store.update("state.json", lambda now: None) is None
    assert not store.exists("state.json")
    assert store.update("state.json", lambda now: b"1" if now is None else b"?") == b"1"
    assert store.update("state.json", lambda now: (now or b"") + b"2") == b"12"
    assert store.update("state.json", lambda now: None) == b"12"


def test_an_update_that_is_overtaken_is_computed_again(store: Store) -> None:
    """Another writer comes in between reading and writing, once."""
    seen: list[bytes | None] = []

    def change(now: bytes | None) -> bytes:
        if not seen:
            store.publish_bytes(b"overtaken", "state.json")
        seen.append(now)
        return b"mine"

    assert store.update("state.json", change) == b"mine"
    assert seen == [None, b"overtaken"]


def test_a_delete_can_depend_on_the_content(store: Store) -> None:
    store.publish_bytes(b"theirs", "x")
    assert not store.delete("x", only=b"mine")
    assert store.delete("x", only=b"theirs")
    assert store.delete("x") is False


COUNT = """
import sys
from shards.store import open_store
store = open_store(sys.argv[1])
won = 0
for turn in range(int(sys.argv[2])):
    store.update("counter", lambda now: str(int(now or b"0") + 1).encode())
    won += store.publish_bytes(sys.argv[3].encode(), f"prize-{turn}")
    claim = store.claim(f"claims/{turn}", owner=sys.argv[3])
    if claim is not None:
        store.update("claimed", lambda now: (now or b"") + f"{turn} ".encode())
print(won)
"""


@pytest.mark.parametrize("store", [pytest.param("folder", id="folder")], indirect=True)
def test_eight_processes_on_a_folder_lose_nothing_and_win_nothing_twice(store: Store) -> None:
    check_race(store, processes=8, turns=40)


@pytest.mark.parametrize("store", [pytest.param("s3", id="s3")], indirect=True)
def test_processes_on_an_object_store_lose_nothing_and_win_nothing_twice(store: Store) -> None:
    check_race(store, processes=4, turns=6)


def check_race(store: Store, *, processes: int, turns: int) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, store.url, str(turns), f"racer-{number}"], stdout=subprocess.PIPE
        )
        for number in range(processes)
    ]
    won = [int(racer.communicate()[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * processes
    assert int(store.read_bytes("counter")) == processes * turns
    assert sum(won) == turns
    # each was claimed, by the living once; a finished process's claim may pass on to a later one
    assert set(map(int, store.read_bytes("claimed").split())) == set(range(turns))


def test_a_store_of_an_unknown_kind_is_refused_in_one_line() -> None:
    with pytest.raises(StoreError, match=r"gs://bucket: expected a folder or s3://") as refusal:
        open_store("gs://bucket")
    assert "\n" not in str(refusal.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreError, match="expected a folder, found a file"):
        open_store(tmp_path / "data")


def test_a_file_url_names_a_folder(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/with%20blank")
    store.publish_bytes(b"x", "y")
    assert (tmp_path / "with blank" / "y").read_bytes() == b"x"
    assert store.local_path("y") == tmp_path / "with blank" / "y"


def test_a_publisher_killed_between_link_and_unlink_can_publish_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "dataset")
    local = written(tmp_path, b"whole")
    store.publish_bytes(b"", "other")
    (tmp_path / "dataset" / "x.tar").hardlink_to(local)
    assert store.publish(local, "x.tar")
    assert not local.exists()
    local.hardlink_to(tmp_path / "dataset" / "x.tar")
    assert store.publish(local, "x.tar", replace=True)
    assert not local.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_file_from_another_file_system_appears_whole(tmp_path: Path) -> None:
    store = open_store(tmp_path / "dataset")
    with_other = Path("/dev/shm") / f"trichord-{tmp_path.name}"
    for replace in (False, True):
        with_other.write_bytes(b"from afar")
        assert store.publish(with_other, "x.tar", replace=replace)
        assert not with_other.exists()
    assert store.read_bytes("x.tar") == b"from afar"


STUCK = """
import sys, time
from pathlib import Path
from shards.folder_store import FolderStore
with FolderStore(Path(sys.argv[1]))._partial() as (file, sink):
    sink.write(b"half")
    print("half", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    partial = tmp_path / OWN_FOLDER / "partial"
    writers = [
        subprocess.Popen([sys.executable, "-c", STUCK, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
    assert len(list(partial.iterdir())) == 2
    writers[0].kill()
    os.waitid(os.P_PID, writers[0].pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until communicate()
    store = open_store(tmp_path)
    store.publish_bytes(b"x", "y")
    assert len(list(partial.iterdir())) == 1
    assert store.names() == ["y"]
    for writer in writers:
        writer.kill()
        writer.communicate()


def test_a_folder_says_how_much_room_is_left(tmp_path: Path) -> None:
    free = open_store(tmp_path / "not" / "yet").free_bytes()
    assert free is not None
    assert free > 0


def test_a_claim_tells_everyone_who_holds_it(store: Store) -> None:
    assert store.claim("_state/claims/a", owner="run 7", lease_s=60) is not None
    facts = json.loads(store.read_bytes("_state/claims/a"))
    assert facts["owner"] == "run 7"
    assert facts["lease_s"] == 60
