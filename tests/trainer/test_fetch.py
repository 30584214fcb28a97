import hashlib
import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from release_site import ReleaseSite, release_site

from trainer.fetch import FetchError, cached, fetch, read_record, verify
from trainer.published import PublishedFile, UnknownName, published_file

CONTENT = bytes(range(256)) * 12_000  # three chunks


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def site() -> Iterator[ReleaseSite]:
    with release_site(CONTENT) as site:
        yield site


def file_at(
    site: ReleaseSite, *, size: int | None = len(CONTENT), sha256: str | None = "true"
) -> PublishedFile:
    true = hashlib.sha256(CONTENT).hexdigest()
    return PublishedFile(
        name="stand-in",
        url=site.url,
        content="bytes",
        licence="none",
        size=size,
        sha256=true if sha256 == "true" else sha256,
    )


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name.endswith(".partial")]


def test_a_file_arrives_whole_and_is_not_asked_for_again(site: ReleaseSite, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(file_at(site), tmp_path, report=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(file_at(site), tmp_path) == path
    assert site.asked == [None]
    assert leftovers(tmp_path) == []


def test_a_download_that_breaks_off_is_resumed_where_it_stopped(site: ReleaseSite, tmp_path: Path) -> None:
    site.break_after = [1_500_000, 200_000]
    path = fetch(file_at(site), tmp_path, pause_s=0)
    assert path.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=1500000-", "bytes=1700000-"]


def test_the_next_call_resumes_what_the_last_one_gave_up(site: ReleaseSite, tmp_path: Path) -> None:
    site.break_after = [1_000_000]
    with pytest.raises(FetchError, match=r"broke off after 1,000,000 bytes.*--from FILE"):
        fetch(file_at(site), tmp_path, attempts=1)
    assert cached(file_at(site), tmp_path) is None
    assert fetch(file_at(site), tmp_path).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=1000000-"


def test_a_site_without_ranges_is_read_from_the_beginning(site: ReleaseSite, tmp_path: Path) -> None:
    site.ranges, site.break_after = False, [1_000_000]
    assert fetch(file_at(site), tmp_path, pause_s=0).read_bytes() == CONTENT


def test_errors_of_the_server_are_tried_again_and_refusals_are_not(site: ReleaseSite, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert fetch(file_at(site), tmp_path / "a", pause_s=0).read_bytes() == CONTENT
    site.statuses = [404]
    with pytest.raises(FetchError, match="answers 404"):
        fetch(file_at(site), tmp_path / "b", pause_s=0)
    assert len(site.asked) == 4


def test_other_bytes_of_the_right_size_are_refused_and_deleted(site: ReleaseSite, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"has sha256|with sha256"):
        fetch(file_at(site, sha256="0" * 64), tmp_path)
    assert not (tmp_path / "weights.pt").exists()
    assert leftovers(tmp_path) == []


def test_another_size_is_refused_before_anything_is_read(site: ReleaseSite, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="offers 3,072,000 bytes; expected 7"):
        fetch(file_at(site, size=7), tmp_path)
    assert not (tmp_path / "weights.pt").exists()


def test_a_partial_file_that_is_complete_needs_no_bytes(site: ReleaseSite, tmp_path: Path) -> None:
    (tmp_path / "weights.pt.partial").write_bytes(CONTENT)
    assert fetch(file_at(site, size=None), tmp_path).read_bytes() == CONTENT
    assert site.asked == [f"bytes={len(CONTENT)}-"]


def test_an_unknown_hash_is_recorded_at_the_first_fetch_and_holds_from_then_on(
    site: ReleaseSite, tmp_path: Path
) -> None:
    file = file_at(site, size=None, sha256=None)
    path = fetch(file, tmp_path)
    record = read_record(file, tmp_path)
    assert record is not None
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert not record.sha256_was_known
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(FetchError, match="has sha256"):
        verify(file, tmp_path)


def test_a_copy_at_hand_needs_no_network_and_is_checked_as_well(site: ReleaseSite, tmp_path: Path) -> None:
    copy, wrong = tmp_path / "copy.pt", tmp_path / "wrong.pt"
    copy.write_bytes(CONTENT)
    wrong.write_bytes(CONTENT[::-1])
    assert fetch(file_at(site), tmp_path / "cache", source=copy).read_bytes() == CONTENT
    assert verify(file_at(site), tmp_path / "cache").size == len(CONTENT)
    with pytest.raises(FetchError, match="good copy"):
        fetch(file_at(site), tmp_path / "cache", source=wrong)
    assert (tmp_path / "cache" / "weights.pt").read_bytes() == CONTENT
    assert site.asked == []


def test_a_killed_download_leaves_nothing_under_the_final_name(site: ReleaseSite, tmp_path: Path) -> None:
    site.break_after = [1_200_000]
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=fetch, args=(file_at(site), tmp_path), kwargs={"pause_s": 60.0})
    process.start()
    partial = tmp_path / "weights.pt.partial"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size == 1_200_000):
        time.sleep(0.02)
    assert process.pid is not None
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "weights.pt").exists()
    assert fetch(file_at(site), tmp_path).read_bytes() == CONTENT  # the dead one's lock does not hold
    assert site.asked[-1] == "bytes=1200000-"


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean audioclip-full"):
        published_file("audioclip-ful")
