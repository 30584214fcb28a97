"""A dataset in a folder: files appear by hard link or rename, small ones change under a lock.

The folder may be shared by machines over a network file system that has hard links and `flock`.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from shards.claim import Claim, Claims
from shards.process import Process, this_process
from shards.store import LEASE_S, Change, Entry, StoreError, checked_name, checked_prefix

OWN_FOLDER = ".store"  # the store's own: locks, and files that are not whole yet
LOCKS = 64  # names share them, so that they do not pile up

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class FolderStore:
    """See `shards.store.Store`. The folder is made with the first file."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(
                f"{self.root}: expected a folder, found a file; name another place for the dataset"
            )
        self._claims = Claims(self)
        self._swept = False

    @property
    def url(self) -> str:
        return str(self.root)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name, _ in _walk(self.root, checked_prefix(prefix)))

    def entries(self, prefix: str = "") -> list[Entry]:
        found = []
        for name, file in _walk(self.root, checked_prefix(prefix)):
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                facts = file.stat()
                found.append(Entry(name=name, size=facts.st_size, mtime=facts.st_mtime))
        return sorted(found, key=lambda entry: entry.name)

    def exists(self, name: str) -> bool:
        return self.local_path(name).is_file()

    def size(self, name: str) -> int:
        return self.local_path(name).stat().st_size

    def read_bytes(self, name: str) -> bytes:
        return self.local_path(name).read_bytes()

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        with self.local_path(name).open("rb") as file:
            file.seek(offset)
            return file.readinto(buffer)

    def open(self, name: str) -> BinaryIO:
        return self.local_path(name).open("rb")

    def local_path(self, name: str) -> Path:
        return self.root / checked_name(name)

    def fetch(self, name: str, to: Path) -> None:
        partial = to.with_name(f"{to.name}.partial")
        shutil.copyfile(self.local_path(name), partial)
        partial.replace(to)

    def publish(self, local: Path, name: str, *, replace: bool = False) -> bool:
        target = self._target(name)
        if not replace and target.exists() and not target.samefile(local):
            return False
        with local.open("rb") as source:
            os.fsync(source.fileno())  # a name that survives a power cut must not stand for an empty file
        try:
            return self._put(local, target, replace=replace)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with local.open("rb") as source, self._partial() as (near, sink):
            shutil.copyfileobj(source, sink, 1 << 20)
            _flush(sink)
            published = self._put(near, target, replace=replace)
        if published:
            local.unlink()
        return published

    def publish_bytes(self, data: bytes, name: str, *, replace: bool = False) -> bool:
        target = self._target(name)
        with self._partial() as (near, sink):
            sink.write(data)
            _flush(sink)
            return self._put(near, target, replace=replace)

    def update(self, name: str, change: Change) -> bytes | None:
        while True:
            with self._locked(name):
                now = self._content(name)
                wanted = change(now)
                if wanted is None or wanted == now:
                    return now
                # who publishes takes no lock: what was not there must still not be there
                if self.publish_bytes(wanted, name, replace=now is not None):
                    return wanted

    def delete(self, name: str, *, only: bytes | None = None) -> bool:
        if only is None:
            return self._unlink(name)
        with self._locked(name):
            return self._content(name) == only and self._unlink(name)

    def claim(self, name: str, owner: str = "", lease_s: float = LEASE_S) -> Claim | None:
        return self._claims.claim(name, owner, lease_s)

    def free_bytes(self) -> int | None:
        near = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        return shutil.disk_usage(near).free

    def _content(self, name: str) -> bytes | None:
        try:
            return self.read_bytes(name)
        except FileNotFoundError:
            return None

    def _unlink(self, name: str) -> bool:
        try:
            self.local_path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def _target(self, name: str) -> Path:
        target = self.local_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _put(self, near: Path, target: Path, *, replace: bool) -> bool:
        """Move a whole file of the same file system to its name."""
        if replace:
            near.replace(target)
        else:
            try:
                os.link(near, target)
            except FileExistsError:
                if not target.samefile(near):  # else we were killed between the link and the unlink
                    return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._put_under_lock(near, target)
        near.unlink(missing_ok=True)  # renaming one of two links of a file leaves both
        _sync_folder(target.parent)
        return True

    def _put_under_lock(self, near: Path, target: Path) -> bool:
        """For file systems without hard links: exclusive among the programs that use this class."""
        with self._locked(str(target), "put"):
            if target.exists():
                return False
            near.rename(target)
            return True

    @contextlib.contextmanager
    def _locked(self, name: str, purpose: str = "update") -> Iterator[None]:
        """Nobody else does that to `name` meanwhile. The kernel lets go when the process dies."""
        folder = self.root / OWN_FOLDER / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % LOCKS
        with (folder / f"{purpose}-{number:02d}").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise StoreError(
                    f"{self.root}: this file system has no locks ({error.strerror}); mount it with locks, or "
                    "let the dataset lie on a local disk or in s3://"
                ) from error
            yield

    @contextlib.contextmanager
    def _partial(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """A file to fill and then move; what is left of it at the end goes, and what the killed left too."""
        folder = self.root / OWN_FOLDER / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        self._sweep(folder)
        file = folder / f"{_mark(this_process())}-{secrets.token_hex(4)}"
        try:
            with file.open("xb") as sink:
                yield file, sink
        finally:
            file.unlink(missing_ok=True)

    def _sweep(self, folder: Path) -> None:
        if self._swept:
            return
        self._swept = True
        for file in folder.iterdir():
            if _left_behind(file.name):
                file.unlink(missing_ok=True)


def _walk(root: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files whose names start with `prefix`; folders that cannot hold one are not opened."""
    folder = prefix.rpartition("/")[0]
    waiting = [f"{folder}/" if folder else ""]
    while waiting:
        within = waiting.pop()
        try:
            listing = os.scandir(root / within)
        except (FileNotFoundError, NotADirectoryError):
            continue
        with listing:
            for file in listing:
                name = within + file.name
                if file.name.startswith(".") or not f"{name}/".startswith(prefix):
                    continue
                if file.is_dir():
                    waiting.append(f"{name}/")
                elif name.startswith(prefix):
                    yield name, file


def _mark(process: Process) -> str:
    """Which process a partial file belongs to, in its name."""
    machine = hashlib.sha256(f"{process.boot} {process.space}".encode()).hexdigest()[:12]
    return f"{machine}-{process.pid}-{process.started}"


def _left_behind(partial: str) -> bool:
    mine = this_process()
    machine, _, rest = partial.partition("-")
    pid, _, rest = rest.partition("-")
    if not pid.isdigit() or machine != _mark(mine).partition("-")[0]:
        return False
    started = rest.rpartition("-")[0]
    return Process(host=mine.host, boot=mine.boot, space=mine.space, pid=int(pid), started=started).gone()


def _flush(sink: IO[bytes]) -> None:
    sink.flush()
    os.fsync(sink.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; some network file systems cannot, and say so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
