"""The bytes of a dataset's tars, wherever they lie: files are read in place, objects by way of a cache."""

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from shards.block_cache import BlockCache
from shards.store import Store, StoreError

READ_AHEAD = 4  # blocks asked for at once where a tar is read from its beginning
PAUSES_S = (0.5, 2.0, 8.0)  # before a range is asked for again
OPEN_FILES = 64

log = logging.getLogger(__name__)


class TarBytes(Protocol):
    """One tar. Any thread may call."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with what lies at `offset`; how many bytes there were."""
        ...

    def scan(self, offset: int, size: int) -> bytes:
        """As `read_into`, by somebody who goes from the tar's beginning to its end."""
        ...

    def prefetch(self, offset: int, size: int) -> None:
        """Begin to bring that part here, if it is far away."""
        ...


@dataclass(kw_only=True)
class OpenFiles:
    """Files being read, at most `limit` of them open while nobody reads more at once."""

    limit: int = OPEN_FILES
    _files: "OrderedDict[Path, _OpenFile]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[int]:
        """The file's descriptor, nobody's to close or to seek. What the system refuses is a StoreError."""
        try:
            file = self._taken(path)
            try:
                yield file.descriptor
            finally:
                with self._lock:
                    file.readers -= 1
        except OSError as error:
            raise StoreError(
                f"{path} cannot be read ({error.strerror}); `trichord verify` says what else cannot"
            ) from error

    def _taken(self, path: Path) -> "_OpenFile":
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = _OpenFile(descriptor=os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            file.readers += 1
            self._files.move_to_end(path)
            self._close_idle(len(self._files) - self.limit)
            return file

    def close(self) -> None:
        with self._lock:
            self._close_idle(len(self._files))

    def _close_idle(self, surplus: int) -> None:
        for path, file in list(self._files.items())[: max(0, surplus)]:
            if file.readers == 0:
                os.close(self._files.pop(path).descriptor)


@dataclass(kw_only=True)
class _OpenFile:
    descriptor: int
    readers: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NearTar:
    """A file of this machine."""

    path: Path
    files: OpenFiles

    def read_into(self, offset: int, buffer: memoryview) -> int:
        done = 0
        with self.files.opened(self.path) as file:
            while done < len(buffer) and (count := os.preadv(file, [buffer[done:]], offset + done)):
                done += count
        return done

    def scan(self, offset: int, size: int) -> bytes:
        with self.files.opened(self.path) as file:
            return os.pread(file, size, offset)

    def prefetch(self, offset: int, size: int) -> None:
        """Nothing: the kernel reads ahead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FarTar:
    """An object, read in whole blocks that stay in a cache."""

    store: Store
    name: str
    size: int  # bytes
    identity: str  # what the cache knows it by
    cache: BlockCache
    fetchers: Executor

    def read_into(self, offset: int, buffer: memoryview) -> int:
        done = 0
        while done < len(buffer) and (count := self._read(offset + done, buffer[done:])):
            done += count
        return done

    def scan(self, offset: int, size: int) -> bytes:
        found = bytearray(max(0, min(size, self.size - offset)))
        block, within = divmod(offset, self.cache.block_bytes)
        # most of what is asked for lies in the same block as what was asked for before
        if self.cache.read_here(self._block_name(block), within, memoryview(found)) == len(found):
            return bytes(found)
        if offset + size <= self.size and self.cache.lacks(self._block_name(block)):
            self.prefetch(offset, READ_AHEAD * self.cache.block_bytes)
        return bytes(found[: self.read_into(offset, memoryview(found))])

    def prefetch(self, offset: int, size: int) -> None:
        end = min(offset + size, self.size)
        for block in range(self._block(offset), self._block(end - 1) + 1):
            name = self._block_name(block)
            if self.cache.lacks(name):
                self.fetchers.submit(self._ensure, name, block)

    def _ensure(self, name: str, block: int) -> None:
        with contextlib.suppress(StoreError):  # whoever reads the block gets the error
            self.cache.ensure(name, partial(self._fetch, block))

    def _read(self, offset: int, buffer: memoryview) -> int:
        """What one block holds of it."""
        if offset >= self.size:
            return 0
        block = self._block(offset)
        within = offset - block * self.cache.block_bytes
        return self.cache.read_into(self._block_name(block), within, buffer, partial(self._fetch, block))

    def _fetch(self, block: int, buffer: memoryview) -> int:
        offset = block * self.cache.block_bytes
        wanted = buffer[: self.size - offset]  # the last block is shorter
        for pause in PAUSES_S:
            try:
                return self._fetch_once(offset, wanted)
            except StoreError as error:
                log.warning("%s; asking again in %g s", error, pause)
                time.sleep(pause)
        return self._fetch_once(offset, wanted)

    def _fetch_once(self, offset: int, buffer: memoryview) -> int:
        where = f"{self.store.url}/{self.name}"
        try:
            count = self.store.read_into(self.name, offset, buffer)
        except FileNotFoundError:
            raise StoreError(f"{where} is gone; `trichord verify` says what else is") from None
        if count != len(buffer):
            raise StoreError(
                f"{where}: {count} bytes at {offset}, expected {len(buffer)}: it has been replaced or cut "
                "short; `trichord verify` says which"
            )
        return count

    def _block(self, offset: int) -> int:
        return offset // self.cache.block_bytes

    def _block_name(self, block: int) -> str:
        return f"{self.identity}-{block:06d}"
