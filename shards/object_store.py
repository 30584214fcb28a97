"""A dataset in an S3 bucket, or in what speaks its protocol: files appear by PUT, exclusively where need be.

Nothing here renames or locks: `If-None-Match: *` makes a PUT exclusive, `If-Match` a compare and swap.
"""

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.asyn import sync

from shards.claim import Claim, Claims
from shards.store import LEASE_S, Change, Entry, StoreError, checked_name, checked_prefix

READ_AHEAD = 4 << 20  # bytes: a ledger in one request, a tar in few
PIECE = 1 << 20  # bytes of an answer that are taken at once, at most
UPLOAD_PART = 16 << 20  # bytes; times UPLOADS is what a large upload holds in memory
UPLOADS = 4
# who wrote an object, in its metadata: a lost answer must not look like a rival
WRITE_MARK = "trichord-write"
LONGEST_PAUSE_S = 2.0  # between tries of an update that others disturb

_CONFLICTS = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "OperationAborted"}
_CLIENTS = ("botocore.", "aiobotocore.", "aiohttp.", "fsspec.")  # whose own errors mean the network


def open_object_store(url: str) -> "ObjectStore":
    """The store at `s3://bucket/prefix`; StoreError when the bucket cannot be listed."""
    try:
        # another machine's files must show: no remembered listings
        files = fsspec.filesystem("s3", use_listings_cache=False)
    except ImportError as error:
        raise StoreError(
            f"{url}: S3 needs s3fs, which is not installed; pip install 'trichord[s3]'"
        ) from error
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if not bucket:
        raise StoreError(f"{url}: expected s3://bucket or s3://bucket/prefix")
    store = ObjectStore(files, bucket, prefix.strip("/"))
    store.reach()
    return store


class ObjectStore:
    """See `shards.store.Store`."""

    def __init__(self, files: Any, bucket: str, prefix: str) -> None:
        self._files = files
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._claims = Claims(self)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    def reach(self) -> None:
        """Raise StoreError unless the bucket is there and may be listed."""
        self._call("list_objects_v2", Prefix=self._root, MaxKeys=1)

    def names(self, prefix: str = "") -> list[str]:
        return [entry.name for entry in self.entries(prefix)]

    def entries(self, prefix: str = "") -> list[Entry]:
        start = self._root + checked_prefix(prefix)
        found = [self._entry(item) for page in self._pages(start) for item in page.get("Contents", ())]
        # consoles show folders by empty objects that end with a slash
        return sorted((e for e in found if not _hidden(e.name)), key=lambda entry: entry.name)

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        return int(self._call("head_object", Key=self._key(name))["ContentLength"])

    def read_bytes(self, name: str) -> bytes:
        return self._read(name)[0]

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        async def fill() -> int:
            wanted = f"bytes={offset}-{offset + len(buffer) - 1}"
            answer = await self._files._call_s3(
                "get_object", Bucket=self._bucket, Key=self._key(name), Range=wanted
            )
            async with answer["Body"] as body:
                return await self._fill(buffer, body)

        if len(buffer) == 0:
            return 0  # HTTP has no empty range
        with self._understood():
            count: int = sync(self._files.loop, fill)
            return count

    def open(self, name: str) -> BinaryIO:
        with self._understood():
            reader = self._files.open(f"{self._bucket}/{self._key(name)}", "rb", block_size=READ_AHEAD)
            return cast(BinaryIO, reader)

    def local_path(self, name: str) -> Path | None:
        checked_name(name)
        return None

    def fetch(self, name: str, to: Path) -> None:
        partial = to.with_name(f"{to.name}.partial")
        try:
            with self._understood():
                self._files.get_file(f"{self._bucket}/{self._key(name)}", str(partial))
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)

    def publish(self, local: Path, name: str, *, replace: bool = False) -> bool:
        def put(mark: Mapping[str, str]) -> None:
            self._files.put_file(
                str(local),
                f"{self._bucket}/{self._key(name)}",
                mode="overwrite" if replace else "create",
                chunksize=UPLOAD_PART,
                max_concurrency=UPLOADS,
                Metadata=mark,
            )

        published = self._write(name, put)
        if published:
            local.unlink(missing_ok=True)  # who saw it published may have tidied up
        return published

    def publish_bytes(self, data: bytes, name: str, *, replace: bool = False) -> bool:
        return self._put(name, data, {} if replace else {"IfNoneMatch": "*"})

    def update(self, name: str, change: Change) -> bytes | None:
        pause = 0.02
        while True:
            now, condition = self._content(name)
            wanted = change(now)
            if wanted is None or wanted == now:
                return now
            if self._put(name, wanted, condition):
                return wanted
            time.sleep(random.uniform(0, pause))  # noise that need not be reproducible
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def delete(self, name: str, *, only: bytes | None = None) -> bool:
        if only is None:
            there = self.exists(name)
            self._call("delete_object", Key=self._key(name))
            return there
        data, condition = self._content(name)
        if data != only:
            return False
        try:
            # a server that knows no conditional DELETE ignores the condition
            self._call("delete_object", Key=self._key(name), **condition)
        except (_ConflictError, FileNotFoundError):
            return False
        return True

    def claim(self, name: str, owner: str = "", lease_s: float = LEASE_S) -> Claim | None:
        return self._claims.claim(name, owner, lease_s)

    def free_bytes(self) -> int | None:
        return None

    def _key(self, name: str) -> str:
        return self._root + checked_name(name)

    def _entry(self, item: Mapping[str, Any]) -> Entry:
        name = item["Key"].removeprefix(self._root)
        return Entry(name=name, size=item["Size"], mtime=item["LastModified"].timestamp())

    def _pages(self, start: str) -> Iterator[Mapping[str, Any]]:
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=start, **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _content(self, name: str) -> tuple[bytes | None, dict[str, str]]:
        """What a file holds, and the condition under which a PUT replaces just that."""
        try:
            data, etag = self._read(name)
        except FileNotFoundError:
            return None, {"IfNoneMatch": "*"}
        return data, {"IfMatch": etag}

    async def _fill(self, buffer: memoryview, body: Any) -> int:
        """Piece by piece: a whole body would be put together in new memory, at a page fault every 4 KiB."""
        done = 0
        while piece := await body.read(PIECE):
            if len(piece) > len(buffer) - done:
                raise StoreError(
                    f"{self.url}: the object store gave more than the {len(buffer)} bytes it was asked for; "
                    "expected one that knows ranges"
                )
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _read(self, name: str) -> tuple[bytes, str]:
        async def content() -> tuple[bytes, str]:
            answer = await self._files._call_s3("get_object", Bucket=self._bucket, Key=self._key(name))
            async with answer["Body"] as body:
                return await body.read(), answer["ETag"]

        with self._understood():
            found: tuple[bytes, str] = sync(self._files.loop, content)
            return found

    def _put(self, name: str, data: bytes, condition: Mapping[str, str]) -> bool:
        def put(mark: Mapping[str, str]) -> None:
            self._call("put_object", Key=self._key(name), Body=data, Metadata=mark, **condition)

        try:
            return self._write(name, put)
        except FileNotFoundError:  # it was to be swapped, and somebody deleted it
            return False

    def _write(self, name: str, put: Callable[[Mapping[str, str]], object]) -> bool:
        """Whether the PUT took effect: one whose answer was lost is tried again and meets its own object."""
        mark = {WRITE_MARK: secrets.token_hex(8)}
        try:
            with self._understood():
                put(mark)
        except _ConflictError:
            return self._written_by(name, mark)
        return True

    def _written_by(self, name: str, mark: Mapping[str, str]) -> bool:
        try:
            found = self._call("head_object", Key=self._key(name)).get("Metadata", {})
        except FileNotFoundError:
            return False
        return bool(found.get(WRITE_MARK) == mark[WRITE_MARK])

    def _call(self, method: str, **arguments: Any) -> Any:
        with self._understood():
            return self._files.call_s3(method, Bucket=self._bucket, **arguments)

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """Turn what the S3 client raises into this store's errors; the local disk's travel as they are."""
        try:
            yield
        except Exception as error:  # boto's errors share no class with s3fs's
            meaning = _meaning(error, self.url, self._bucket)
            if meaning is None:
                raise
            raise meaning from error


class _ConflictError(Exception):
    """The condition of a PUT or DELETE did not hold."""


def _meaning(error: Exception, url: str, bucket: str) -> Exception | None:
    code, said = _code(error), _line(error)
    if code in _CONFLICTS:
        return _ConflictError(url)
    if code == "NoSuchBucket":
        return StoreError(f"{url}: there is no bucket {bucket!r}; make it, or check it and AWS_ENDPOINT_URL")
    if code and isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{url}: {said}")
    if (code and isinstance(error, PermissionError)) or "Credential" in type(error).__name__:
        return StoreError(
            f"{url}: the bucket may not be used with these credentials ({said}); set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if code:
        return StoreError(f"{url}: the object store refused ({said})")
    if type(error).__module__.startswith(_CLIENTS):
        return StoreError(f"{url}: the object store does not answer ({said}); check AWS_ENDPOINT_URL")
    return None


def _code(error: Exception) -> str:
    """S3's word for what went wrong: s3fs keeps boto's error as the cause of its own."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _hidden(name: str) -> bool:
    return not name or name.endswith("/") or any(part.startswith(".") for part in name.split("/"))
