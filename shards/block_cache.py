"""Blocks of far tars on this machine's disk: bounded, shared by processes, whole or not there."""

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from shards.store import StoreError

BLOCK_BYTES = 8 << 20
LEAST_BLOCKS = 4  # what a limit must hold
STALE_S = 5.0  # how far a file's time of last use may lag behind
ABANDONED_S = 600.0  # a partial file that old belongs to a process that is gone

IDLE = 8  # blocks of memory that are kept to fetch into
SPARE = 32  # where room is made, at least one block in so many goes
FETCH_LOCKS = 256  # blocks share them, so that they do not pile up

# what ends a block's file: a mark, the content's size and its CRC-32
_TRAILER = struct.Struct("<8sQI")
_MARK = b"trichord"
# bytes of all files, as room.lock remembers them: too many rather than too few
_TALLY = struct.Struct("<Q")

PIECE = 1 << 18  # bytes read at once to check a file

# fills a buffer of `block_bytes` with a block's whole content; how many bytes that is
Fetch = Callable[[memoryview], int]


@dataclass(kw_only=True)
class BlockCache:
    """At most `limit` bytes of files in `folder`; those go first that nobody has read for longest.

    Any number of threads and processes may use one folder at once, with the same limit. What a file holds is
    checked before this process reads it for the first time: a damaged one is fetched again.
    """

    folder: Path
    limit: int  # bytes
    block_bytes: int = BLOCK_BYTES
    _checked: set[str] = field(default_factory=set)
    _coming: dict[str, Future[None]] = field(default_factory=dict)
    _counted: bool = False  # whether this process has seen for itself what the files take
    _idle: list[memoryview] = field(default_factory=list)  # memory that nobody fetches into
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        least = LEAST_BLOCKS * self._file_bytes
        if self.limit < least:
            raise StoreError(
                f"a cache of {self.limit} bytes for blocks of {self.block_bytes}; expected at least {least}"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(self.folder, error) from error

    def read_into(self, name: str, offset: int, buffer: memoryview, fetch: Fetch) -> int:
        """Fill `buffer` from `offset` of the block called `name` on; how many bytes there were.

        What `fetch` raises travels.
        """
        while (count := self.read_here(name, offset, buffer)) is None:
            if (count := self._fetched(name, fetch, offset, buffer)) is not None:
                break
        return count

    def read_here(self, name: str, offset: int, buffer: memoryview) -> int | None:
        """As `read_into`, of what is on the disk; None when there is no such file or none to be trusted."""
        try:
            file = os.open(self._path(name), os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(self.folder, error) from error
        try:
            facts = os.fstat(file)
            length = facts.st_size - _TRAILER.size
            if time.time() - facts.st_mtime > STALE_S:
                with contextlib.suppress(PermissionError):  # another user's
                    os.utime(file)  # it is in use
            if name not in self._checked and not self._check(name, file, length):
                return None
            return os.preadv(file, [buffer[: max(0, length - offset)]], offset)
        finally:
            os.close(file)

    def lacks(self, name: str) -> bool:
        """Whether the block is neither here nor on its way."""
        return name not in self._coming and not os.path.exists(self._path(name))

    def ensure(self, name: str, fetch: Fetch) -> None:
        """Have the block here, so that reading it takes no time."""
        if not self._has(name):
            self._fetched(name, fetch, 0, _nothing())

    def _has(self, name: str) -> bool:
        return self.read_here(name, 0, _nothing()) is not None

    def _fetched(self, name: str, fetch: Fetch, offset: int, buffer: memoryview) -> int | None:
        """As `read_into`, out of what this thread fetched; None when another thread or process did."""
        with self._lock:
            coming = self._coming.get(name)
            mine = coming is None
            if coming is None:
                coming = self._coming[name] = Future()
        if mine:
            return self._fetch(name, fetch, coming, offset, buffer)
        coming.result()
        return None

    def _fetch(
        self, name: str, fetch: Fetch, coming: Future[None], offset: int, buffer: memoryview
    ) -> int | None:
        try:
            with self._alone(f"fetch-{zlib.crc32(name.encode()) % FETCH_LOCKS:03d}"):
                # another process may just have brought it
                count = None if self._has(name) else self._bring(name, fetch, offset, buffer)
            coming.set_result(None)
            return count
        except BaseException as error:  # they all wait for it
            coming.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._coming[name]

    def _bring(self, name: str, fetch: Fetch, offset: int, buffer: memoryview) -> int:
        with self._block() as block:
            data = block[: fetch(block)]
            self._write_file(name, data)
            part = data[offset : offset + len(buffer)]
            buffer[: len(part)] = part
            return len(part)

    @contextlib.contextmanager
    def _block(self) -> Iterator[memoryview]:
        """Memory that is used again and again: to take it anew for each block costs more than to fill it."""
        try:
            block = self._idle.pop()
        except IndexError:
            block = memoryview(bytearray(self.block_bytes))
        try:
            yield block
        finally:
            if len(self._idle) < IDLE:
                self._idle.append(block)

    def _check(self, name: str, file: int, length: int) -> bool:
        trailer = os.pread(file, _TRAILER.size, max(0, length))
        if trailer != _TRAILER.pack(_MARK, max(0, length), _checksum(file, length)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(name))
            return False
        self._checked.add(name)
        return True

    def _write_file(self, name: str, data: memoryview) -> None:
        trailer = _TRAILER.pack(_MARK, len(data), zlib.crc32(data))
        partial = self.folder / f"{name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
        try:
            if not self._make_room(partial, len(data) + len(trailer)):
                return  # others are writing all that the limit allows
            with partial.open("r+b") as file:
                file.writelines((data, trailer))
            with self._alone("room"):  # who counts files meanwhile would find it under neither name
                partial.replace(self._path(name))
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise _refused(self.folder, error) from error
        self._checked.add(name)

    def _make_room(self, partial: Path, size: int) -> bool:
        """Delete the stalest until `partial`, made here at its full size, is within the limit."""
        with self._alone("room") as tally:
            taken = _tallied(tally) if self._counted else None
            if taken is None or taken + size > self.limit:
                taken, self._counted = self._evict(self.limit - size), True
            fits = taken + size <= self.limit
            os.pwrite(tally, _TALLY.pack(taken + size * fits), 0)
            if fits:
                with partial.open("xb") as file:
                    file.truncate(size)  # so that others count it
            return fits

    def _evict(self, most: int) -> int:
        """Have no more than `most` bytes of files; how many they are. To list them takes longer than to fetch
        a block, so if any must go, a few more do.
        """
        files = sorted(self._files(), key=lambda file: file[1])
        taken = sum(size for _, _, size in files)
        blocks = self.limit // self._file_bytes // SPARE
        least = most - blocks * self._file_bytes if taken > most else taken
        for path, used, size in files:
            # whole blocks, and what a killed process left
            if taken > least and (path.suffix == ".block" or time.time() - used > ABANDONED_S):
                path.unlink(missing_ok=True)
                self._checked.discard(path.stem)
                taken -= size
        return taken

    def _files(self) -> Iterator[tuple[Path, float, int]]:
        """(path, time of last use, bytes) of every file that counts."""
        with os.scandir(self.folder) as listing:
            for file in listing:
                if file.name.endswith((".block", ".partial")):
                    with contextlib.suppress(FileNotFoundError):
                        facts = file.stat()
                        yield Path(file.path), facts.st_mtime, facts.st_size

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[int]:
        """Nobody else does that meanwhile, in no other process either. The kernel lets go of the dead."""
        try:
            lock = os.open(f"{self.folder}/{what}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _refused(self.folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    @property
    def _file_bytes(self) -> int:
        return self.block_bytes + _TRAILER.size

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}.block"  # asked for at every read: a Path takes longer than the read


def _tallied(file: int) -> int | None:
    data = os.pread(file, _TALLY.size, 0)
    return int(_TALLY.unpack(data)[0]) if len(data) == _TALLY.size else None


def _nothing() -> memoryview:
    return memoryview(bytearray())


def _checksum(file: int, length: int) -> int:
    piece, found, at = memoryview(bytearray(PIECE)), 0, 0
    while count := os.preadv(file, [piece[: max(0, length - at)]], at):
        found, at = zlib.crc32(piece[:count], found), at + count
    return found


def _refused(folder: Path, error: OSError) -> StoreError:
    smaller = "a smaller limit (machine.cache_gb) or " if error.errno == errno.ENOSPC else ""
    return StoreError(
        f"{folder}: the cache of blocks cannot be kept there ({error.strerror}); name {smaller}another "
        "folder (XDG_CACHE_HOME)"
    )
