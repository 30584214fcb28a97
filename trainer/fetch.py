"""Published files brought into the cache: resumed where they broke off, checked, whole or not there."""

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shards.whole_file import appearing
from trainer.published import PublishedFile

Report = Callable[[int, int | None], None]  # (bytes so far, bytes in all when known)

CHUNK = 1 << 20
TIMEOUT_S = 60.0


class FetchError(RuntimeError):
    """A published file that could not be had, or is not what it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of a file in the cache, written beside it when it was fetched."""

    size: int  # bytes
    sha256: str
    origin: str  # URL, or "file" for one that was given by hand
    sha256_was_known: bool  # before it was fetched: otherwise the hash is only what came the first time


def cache_folder() -> Path:
    """`$TRICHORD_CACHE`, else `trichord` in the user's cache folder."""
    if chosen := os.environ.get("TRICHORD_CACHE"):
        return Path(chosen) / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trichord" / "weights"


def cached(file: PublishedFile, cache: Path) -> Path | None:
    """The file's place in the cache when it is there, whole; its bytes were checked when it came."""
    target = cache / file.filename
    record = read_record(file, cache)
    return target if record and target.is_file() and target.stat().st_size == record.size else None


def read_record(file: PublishedFile, cache: Path) -> Record | None:
    try:
        return Record(**json.loads(_record_path(file, cache).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def fetch(
    file: PublishedFile,
    cache: Path,
    *,
    source: Path | None = None,
    report: Report = lambda done, total: None,
    attempts: int = 5,
    pause_s: float = 1.0,
) -> Path:
    """The file's path in the cache, downloaded if it is not there, or copied from `source`.

    A download that breaks off is resumed, in this call up to `attempts` times and in the next one from
    where this one stopped. Two processes that ask for one file download it once. Raises FetchError; nothing
    unchecked is left under the final name.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f"{file.filename}.lock"):
        if source is None and (found := cached(file, cache)):
            return found
        # a copy never continues a download, nor the other way round
        partial = cache / f"{file.filename}.{'partial' if source is None else 'copy.partial'}"
        if source is not None:
            _copy(source, partial)
        else:
            _download(file, partial, report, attempts=attempts, pause_s=pause_s)
        return _admit(file, partial, cache, origin="file" if source else file.url)


def verify(file: PublishedFile, cache: Path) -> Record:
    """Reads all of the cached file again. Raises FetchError when it is missing or its bytes have changed."""
    target, record = cache / file.filename, read_record(file, cache)
    if record is None or not target.is_file():
        raise FetchError(f"{file.name} is not in {cache}; fetch it first: trichord weights fetch {file.name}")
    if (size := target.stat().st_size) != record.size:
        raise FetchError(f"{target} has {size:,} bytes; expected {record.size:,}: fetch it again")
    if (sha256 := _sha256(target)) != record.sha256:
        raise FetchError(
            f"{target} has sha256 {sha256[:12]}…; expected {record.sha256[:12]}…: fetch it again"
        )
    return record


def _admit(file: PublishedFile, partial: Path, cache: Path, *, origin: str) -> Path:
    """Checks the bytes, then gives them their name. What fails is deleted: resuming it cannot help."""
    size, sha256 = partial.stat().st_size, _sha256(partial)
    known = file.sha256 or file.sha256_begins
    if (file.size is not None and size != file.size) or not sha256.startswith(known):
        partial.unlink()
        expected = f"{file.size or size:,} bytes with sha256 {known[:12]}…"
        raise FetchError(
            f"{file.name} from {origin} has {size:,} bytes with sha256 {sha256[:12]}…; expected {expected}. "
            "What came into the cache was deleted; try again, or give a good copy with --from"
        )
    record = Record(size=size, sha256=sha256, origin=origin, sha256_was_known=file.sha256 is not None)
    _write(_record_path(file, cache), json.dumps({name: getattr(record, name) for name in Record.__slots__}))
    target = cache / file.filename
    partial.replace(target)  # the rename comes last: a file under its name has been checked
    return target


def _copy(source: Path, partial: Path) -> None:
    if not source.is_file():
        raise FetchError(f"{source} is no file; expected a copy of the published one")
    shutil.copyfile(source, partial)


def _download(file: PublishedFile, partial: Path, report: Report, *, attempts: int, pause_s: float) -> None:
    for attempt in range(attempts):
        before = _size(partial)
        try:
            return _download_rest(file, partial, report)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise FetchError(
                    f"{file.url} answers {error.code} {error.reason}; {_by_hand(file)}"
                ) from None
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        if attempt + 1 < attempts:
            time.sleep(pause_s * (1 if _size(partial) > before else 2**attempt))
    raise FetchError(
        f"{file.url} broke off after {_size(partial):,} bytes, {attempts} times ({reason}). "
        f"Try again: it resumes there; or {_by_hand(file)}"
    )


def _by_hand(file: PublishedFile) -> str:
    return f"fetch it elsewhere and run: trichord weights fetch {file.name} --from FILE"


def _download_rest(file: PublishedFile, partial: Path, report: Report) -> None:
    """One request for what is missing. Raises OSError when the connection ends early."""
    have = _size(partial)
    if file.size is not None and have == file.size:
        return
    if file.size is not None and have > file.size:
        partial.unlink()
        have = 0
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            _append(file, partial, response, report)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the range begins at or beyond the end
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing was missing
        partial.unlink()
        raise OSError("the site's file is shorter than what was here; beginning again") from None


def _append(file: PublishedFile, partial: Path, response: http.client.HTTPResponse, report: Report) -> None:
    have = _size(partial) if response.status == 206 else 0  # 200: the server sends everything again
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else file.size
    if file.size is not None and total != file.size:
        raise FetchError(f"{file.url} offers {total:,} bytes; expected {file.size:,}. {_by_hand(file)}")
    with partial.open("ab" if have else "wb") as out:
        done = have
        while chunk := response.read(CHUNK):
            out.write(chunk)
            done += len(chunk)
            report(done, total)
        out.flush()
        os.fsync(out.fileno())
    if total is not None and done < total:
        raise OSError(f"the connection ended {total - done:,} bytes early")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_path(file: PublishedFile, cache: Path) -> Path:
    return cache / f"{file.filename}.json"


def _write(path: Path, text: str) -> None:
    with appearing(path) as partial:
        partial.write_text(text + "\n")


@contextmanager
def _alone(lock: Path) -> Iterator[IO[bytes]]:
    """Waits until no other process works on the same file; the kernel frees the lock of one that dies."""
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield held
