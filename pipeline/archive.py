"""A dataset's archive: whether it is the published one, and its files in a folder of ours, nowhere else."""

import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

_CHUNK = 1 << 20
_SUFFIXES = ".zip, .tar, .tar.gz, .tgz"
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(EOFError, RuntimeError, NotImplementedError),
)


class ArchiveError(ValueError):
    """An archive that is not the published one, is damaged, or would write where it must not."""


def check_archive(archive: Path, expected: str) -> None:
    """ArchiveError unless the file's hash is `expected`, such as `md5:9aa6…`; "" expects nothing."""
    if not archive.is_file():
        raise ArchiveError(f"--archive {archive}: no such file; expected {_SUFFIXES}")
    if not expected:
        return
    kind, _, digest = expected.partition(":")
    if kind not in ("md5", "sha256"):
        raise ArchiveError(f"--checksum is {expected!r}; expected md5:… or sha256:…")
    found = _digest(archive, kind)
    if found != digest.lower():
        raise ArchiveError(
            f"{archive}: its {kind} is {found}, that of the published archive {digest}: it is damaged or "
            "another one; fetch it again, or unpack what you trust and give --root"
        )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def unpack(archive: Path, target: Path, check: Callable[[], None] = lambda: None) -> None:
    """Write the archive's regular files below `target`, which appears whole; checksums inside are checked.

    Links and devices are left out; a name that leads out of the folder is an ArchiveError. `check` is called
    after every file and may raise.
    """
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(archive, partial, check)
        os.replace(partial, target)
    except _BROKEN as error:
        raise ArchiveError(f"{archive} is damaged ({error}); fetch it again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(archive: Path, folder: Path, check: Callable[[], None]) -> None:
    for name, file in _members(archive):
        place = folder / _checked(name, archive)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = place.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise ArchiveError(f"{archive} holds {name} twice; expected one of it") from None
        with copy:
            shutil.copyfileobj(file, copy, _CHUNK)
        check()


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, content) of each regular file, in the archive's order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir() and not _is_link(info):
                    with packed.open(info) as file:  # checks the CRC when it is read to its end
                        yield info.filename, file
        return
    if not tarfile.is_tarfile(archive):
        raise ArchiveError(f"{archive} is no archive that can be read; expected {_SUFFIXES}")
    with tarfile.open(archive, "r:*") as tape:
        for member in tape:
            if member.isreg() and (content := tape.extractfile(member)) is not None:
                yield member.name, content
        _read_on(tape)


def _read_on(tape: tarfile.TarFile) -> None:
    """To the compressed file's end, where its checksum is: a tar's own end comes before."""
    while tape.fileobj is not None and tape.fileobj.read(_CHUNK):
        pass


def _is_link(info: zipfile.ZipInfo) -> bool:
    return (info.external_attr >> 28) == 0o12  # Unix' S_IFLNK, in the upper half


def _checked(name: str, archive: Path) -> Path:
    """A member's name as a path that stays in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise ArchiveError(f"{archive}: its member {name!r} leads out of the folder; nothing of it is used")
    return Path(*path.parts)
