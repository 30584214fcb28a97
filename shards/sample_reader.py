"""Single members of single samples, read out of the tars where they lie, by any number of threads."""

import hashlib
import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from shards.block_cache import BLOCK_BYTES, BlockCache
from shards.layout import DATASET, ledger_name, tar_name
from shards.ledger import read_record
from shards.members import ShardMembers, Span, cache_folder
from shards.profile import Profile, read_dataset
from shards.store import Store, StoreError
from shards.tar import TarError
from shards.tar_bytes import FarTar, NearTar, OpenFiles, TarBytes

CACHE_BYTES = 20_000_000_000
FETCHERS = 8  # ranges of objects asked for at once
GAP = 64 << 10  # bytes between two members that are read rather than skipped: cheaper than another request


class Scratch:
    """Memory that one thread reads into again and again, as large as the largest read so far."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def view(self, size: int) -> memoryview:
        if size > len(self._memory):
            self._memory = memoryview(bytearray(size + size // 4))
        return self._memory[:size]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    tar: TarBytes
    members: ShardMembers


@dataclass(kw_only=True)
class SampleReader:
    """Reads samples of one dataset by shard and key.

    `cache` is a folder for what can be made again: the places of members, and blocks of tars that lie in an
    object store, at most `cache_bytes` of them. Processes share it.
    """

    store: Store
    cache: Path = field(default_factory=cache_folder)
    cache_bytes: int = CACHE_BYTES
    block_bytes: int = BLOCK_BYTES
    files: OpenFiles = field(default_factory=OpenFiles)
    _shards: dict[str, _Shard] = field(default_factory=dict)
    _opening: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def profile(self) -> Profile:
        """What the samples have in common."""
        return read_dataset(self.store).profile

    @cached_property
    def far(self) -> bool:
        """Whether reading a sample may take a request over the network."""
        return self.store.local_path(DATASET) is None

    def members(self, shard: str, key: str) -> dict[str, Span]:
        """name → (offset, size) of a sample's members.

        Raises TarError for a sample that the tar lacks or that lies behind damage, StoreError for a tar
        that is gone.
        """
        return self._shard(shard).members.find(key)

    def read(self, shard: str, spans: Sequence[Span], scratch: Scratch | None = None) -> list[memoryview]:
        """The bytes of members of one sample, in the order asked for: views of `scratch` until its next use.

        Members that lie side by side cost one read. Raises TarError where the tar has become shorter.
        """
        scratch = scratch or Scratch()
        first, end = min(offset for offset, _ in spans), max(offset + size for offset, size in spans)
        wanted = sum(size for _, size in spans)
        if end - first <= wanted + GAP:
            whole = scratch.view(end - first)
            self._fill(shard, first, whole)
            return [whole[offset - first : offset - first + size] for offset, size in spans]
        return self._read_apart(shard, spans, scratch.view(wanted))

    def prefetch(self, shard: str, spans: Sequence[Span]) -> None:
        """Begin to bring these members here, if they are far away."""
        tar = self._shard(shard).tar
        for offset, size in spans:
            tar.prefetch(offset, size)

    def room(self, shard: str, samples: int) -> int:
        """About how many samples the cache of blocks holds, if `samples` of each tar like this are wanted."""
        share = self._shard(shard).members.size / samples
        # of a tar of which few are wanted, each takes a block or two
        return int(self.cache_bytes / min(share, 2 * self.block_bytes))

    def close(self) -> None:
        """Let go of files and threads; reading again opens them again."""
        self.files.close()
        if "_fetchers" in self.__dict__:
            self.__dict__.pop("_fetchers").shutdown(wait=True, cancel_futures=True)
            self._shards.clear()  # what lies far away holds on to the threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_apart(self, shard: str, spans: Sequence[Span], memory: memoryview) -> list[memoryview]:
        views = []
        for offset, size in spans:
            self._fill(shard, offset, memory[:size])
            views.append(memory[:size])
            memory = memory[size:]
        return views

    def _fill(self, shard: str, offset: int, buffer: memoryview) -> None:
        count = self._shard(shard).tar.read_into(offset, buffer)
        if count != len(buffer):
            raise TarError(
                f"{tar_name(shard)}: {count} of {len(buffer)} bytes at {offset}: it has been cut short"
            )

    def _shard(self, name: str) -> _Shard:
        shard = self._shards.get(name)
        if shard is None:
            with self._lock:
                opening = self._opening.setdefault(name, threading.Lock())
            with opening:  # the others go on with their own shards meanwhile
                shard = self._shards.get(name) or self._open(name)
                self._shards[name] = shard
        return shard

    def _open(self, name: str) -> _Shard:
        tar = tar_name(name)
        try:
            size = self.store.size(tar)
        except FileNotFoundError:
            raise StoreError(
                f"{self.store.url}/{tar} is gone, though its ledger lists samples; `trichord verify` says "
                "what else is"
            ) from None
        identity = self._identity(name, size)
        found = self._tar(tar, size, identity)
        saved = self.cache / "members" / f"{identity}.npz"
        return _Shard(tar=found, members=ShardMembers(tar=tar, size=size, read_at=found.scan, saved=saved))

    def _tar(self, tar: str, size: int, identity: str) -> TarBytes:
        path = self.store.local_path(tar)
        if path is not None:
            return NearTar(path=path, files=self.files)
        with self._lock:  # one cache and one pool, whoever comes first
            cache, fetchers = self._blocks, self._fetchers
        return FarTar(
            store=self.store, name=tar, size=size, identity=identity, cache=cache, fetchers=fetchers
        )

    @cached_property
    def _blocks(self) -> BlockCache:
        return BlockCache(folder=self.cache / "blocks", limit=self.cache_bytes, block_bytes=self.block_bytes)

    @cached_property
    def _fetchers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(FETCHERS, thread_name_prefix="trichord-fetch")

    def _identity(self, name: str, size: int) -> str:
        """What copies of one tar share, and different tars do not: by its ledger, else by place and time."""
        try:
            ledger = self.store.read_bytes(ledger_name(name))  # one request; `open` takes several
            content = read_record(io.BytesIO(ledger)).tar_sha256
        except (FileNotFoundError, ValueError):
            entries = self.store.entries(tar_name(name))
            content = f"{self.store.url} {[(entry.name, entry.mtime) for entry in entries]}"
        return hashlib.sha256(f"{content} {size} {self.block_bytes}".encode()).hexdigest()[:32]
