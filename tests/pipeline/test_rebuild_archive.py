"""Archives: the published one or none, and never a file outside of the folder that is meant for them."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.archive import ArchiveError, check_archive, unpack

FILES = {"Set/meta/table.csv": b"a,b\n", "Set/audio/1.wav": bytes(range(256)) * 40}


def zipped(target: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def taped(target: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target


Pack = Callable[[Path, dict[str, bytes]], Path]
both = pytest.mark.parametrize("pack", [zipped, taped], ids=["zip", "tar.gz"])


@both
def test_files_are_unpacked_as_they_are(pack: Pack, tmp_path: Path) -> None:
    unpack(pack(tmp_path / "a", FILES), tmp_path / "out")
    found = {
        file.relative_to(tmp_path / "out").as_posix(): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert found == FILES


@both
@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "a\\..\\..\\evil"])
def test_a_name_that_leads_out_is_refused_and_nothing_is_left(pack: Pack, name: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a", {**FILES, name: b"evil"})
    inside = tmp_path / "deep" / "out"
    with pytest.raises(ArchiveError, match="leads out of the folder"):
        unpack(archive, inside)
    assert not inside.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "deep"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_left_out(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    unpack(tmp_path / "a", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@both
def test_a_damaged_archive_is_found_out_by_its_own_checksums(pack: Pack, tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "a", FILES).read_bytes())
    at = data.index(bytes(range(100, 140))) if pack is zipped else len(data) // 2
    data[at : at + 8] = bytes(8)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@both
def test_an_archive_cut_short_is_damaged(pack: Pack, tmp_path: Path) -> None:
    data = pack(tmp_path / "a", FILES).read_bytes()
    (tmp_path / "a").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ArchiveError, match=r"damaged|no archive"):
        unpack(tmp_path / "a", tmp_path / "out")


def test_a_file_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("one"))
    with pytest.raises(ArchiveError, match="one twice"):
        unpack(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_only_the_published_bytes_pass(kind: str, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", FILES)
    digest = hashlib.new(kind, archive.read_bytes()).hexdigest()
    check_archive(archive, f"{kind}:{digest}")
    check_archive(archive, "")
    other = digest.replace(digest[0], "f" if digest[0] != "f" else "0")
    with pytest.raises(ArchiveError, match=f"its {kind} is {digest}, that of the published archive {other}"):
        check_archive(archive, f"{kind}:{other}")


def test_a_checksum_of_an_unknown_kind_and_a_missing_archive_say_what_is_expected(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", FILES)
    with pytest.raises(ArchiveError, match=r"expected md5:… or sha256:…"):
        check_archive(archive, "crc:12")
    with pytest.raises(ArchiveError, match="no such file"):
        check_archive(tmp_path / "b.zip", "")
