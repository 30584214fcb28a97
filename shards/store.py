"""Where a dataset lies, a folder or an object store, and what any number of machines may do there at once."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from shards.claim import Claim

# Gets a file's content (None: there is no such file), gives the new one (None: leave things as they are).
Change = Callable[[bytes | None], bytes | None]

LEASE_S = 120.0
S3_SCHEMES = ("s3", "s3a")

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class StoreError(Exception):
    """The store cannot be used as it is given; the message is one line and says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file of the store, as a listing shows it."""

    name: str
    size: int  # bytes
    mtime: float  # seconds since the epoch, by the store's clock


class Store(Protocol):
    """Files under names such as `_state/claims/audioset-eval-000007`, relative to the dataset.

    Names hold letters, digits, `.`, `_`, `-` and `/`; a part that starts with a dot is the store's own and
    never listed. Reading what is not there raises FileNotFoundError, a store that cannot be reached or
    entered StoreError; a full disk is the OSError that it is.
    """

    @property
    def url(self) -> str:
        """What `open_store` turns into this store again, on this or another machine."""
        ...

    def names(self, prefix: str = "") -> list[str]:
        """Every name that starts with `prefix`, at any depth, sorted: one listing, never a remembered one."""
        ...

    def entries(self, prefix: str = "") -> list[Entry]:
        """As `names`, with sizes and times."""
        ...

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int: ...

    def read_bytes(self, name: str) -> bytes: ...

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with what lies at `offset`, in one request; how many bytes there were."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A reader that can seek."""
        ...

    def local_path(self, name: str) -> Path | None:
        """The file itself where it lies on a disk of this machine, else None."""
        ...

    def fetch(self, name: str, to: Path) -> None:
        """Copy a file to this machine; `to` appears whole."""
        ...

    def publish(self, local: Path, name: str, *, replace: bool = False) -> bool:
        """Move a finished file here under `name`, where it appears whole or not at all.

        Without `replace` an existing file stays as it is, and so does `local`: the answer is then False.
        """
        ...

    def publish_bytes(self, data: bytes, name: str, *, replace: bool = False) -> bool:
        """As `publish`, for small content."""
        ...

    def update(self, name: str, change: Change) -> bytes | None:
        """Compare and swap: `change` is called again until no other writer came in between.

        Gives what the file holds afterwards, None if there is none. Whoever updates a file must not
        also publish it with `replace`.
        """
        ...

    def delete(self, name: str, *, only: bytes | None = None) -> bool:
        """Remove a file, with `only` just if that is what it holds; whether there was anything to remove."""
        ...

    def claim(self, name: str, owner: str = "", lease_s: float = LEASE_S) -> "Claim | None":
        """Make `name` this process's own, or None while another holds it; see `shards.claim`."""
        ...

    def free_bytes(self) -> int | None:
        """Room left, None where the store has no end."""
        ...


def open_store(url: str | Path) -> Store:
    """The store at a folder's path, a `file://` URL or an `s3://bucket/prefix`.

    Raises StoreError, with one line to show, for other schemes and for a bucket that cannot be listed.
    """
    # each import costs its users only: a folder needs no S3 client
    scheme = _scheme(str(url)) if "://" in str(url) else ""
    if scheme in S3_SCHEMES:
        from shards.object_store import open_object_store

        return open_object_store(str(url))
    if scheme not in ("", "file"):
        raise StoreError(
            f"{url}: expected a folder or s3://bucket/prefix; machines can share an object store only where "
            "a PUT can be conditional, as S3 and what speaks its protocol (AWS_ENDPOINT_URL) have it"
        )
    from shards.folder_store import FolderStore

    return FolderStore(Path(unquote(urlsplit(str(url)).path)) if scheme else Path(url))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise StoreError(f"{url}: no address ({error}); expected a folder or s3://bucket/prefix") from None


def checked_name(name: str) -> str:
    """`name` itself; ValueError when it could mean something outside the dataset, or nothing portable."""
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ValueError(
            f"{name!r}: expected a name relative to the dataset, of parts joined by '/', each made of "
            "A-Z a-z 0-9 . _ - and not starting with a dot"
        )
    return name


def checked_prefix(prefix: str) -> str:
    """`prefix` itself; ValueError when no name can start so."""
    if prefix:
        checked_name(prefix.removesuffix("/"))
    return prefix
