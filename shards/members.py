"""Where each sample's members lie in their tar: found once, by the tar's headers, and remembered on disk."""

import contextlib
import io
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from shards.tar import BLOCK, TarError

Span = tuple[int, int]  # offset of a member's content in its tar, and its size, in bytes
ReadAt = Callable[[int, int], bytes]  # (offset, size) -> what lies there, less at the tar's end

FORMAT = 1
_END = bytes(BLOCK)


def cache_folder() -> Path:
    """Where what can be made again is kept: `trichord` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trichord"


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberTable:
    """A whole tar's members: 8 bytes each, and a key per sample."""

    names: tuple[str, ...]  # of members, after the key's dot
    keys: NDArray[np.bytes_]  # (n,) sorted
    blocks: NDArray[np.uint32]  # (n, names) where each content begins, in blocks of 512 bytes; 0: absent
    sizes: NDArray[np.uint32]  # (n, names) bytes

    @classmethod
    def of(cls, found: Mapping[str, Mapping[str, Span]]) -> "MemberTable":
        names = tuple(dict.fromkeys(name for members in found.values() for name in members))
        keys = np.array([key.encode() for key in found] or [b""], np.bytes_)[: len(found)]
        spans = [[members.get(name, (0, 0)) for name in names] for members in found.values()]
        table = np.array(spans, np.int64).reshape(len(keys), len(names), 2)[np.argsort(keys)]
        blocks, sizes = (table[..., 0] // BLOCK).astype(np.uint32), table[..., 1].astype(np.uint32)
        return cls(names=names, keys=np.sort(keys), blocks=blocks, sizes=sizes)

    def find(self, key: str) -> dict[str, Span] | None:
        wanted = key.encode()
        row = int(np.searchsorted(self.keys, wanted))
        if row == len(self.keys) or self.keys[row] != wanted:
            return None
        blocks, sizes = self.blocks[row].tolist(), self.sizes[row].tolist()
        found = zip(self.names, blocks, sizes, strict=True)
        return {name: (block * BLOCK, size) for name, block, size in found if block}

    def to_bytes(self) -> bytes:
        file = io.BytesIO()
        names = np.array(self.names, np.str_)
        np.savez(file, format=FORMAT, names=names, keys=self.keys, blocks=self.blocks, sizes=self.sizes)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "MemberTable | None":
        """The table that `to_bytes` gave; None for what is cut short, damaged or of another version."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                if int(arrays["format"]) != FORMAT:
                    return None
                names = tuple(str(name) for name in arrays["names"])
                return cls(names=names, **{name: arrays[name] for name in ("keys", "blocks", "sizes")})
        except (ValueError, KeyError, OSError, EOFError, BadZipFile):
            return None


@dataclass(kw_only=True)
class ShardMembers:
    """One tar's members. Its headers are read as far as somebody has asked; any thread may ask.

    `saved` is where the whole table is kept: read if it is there, written once all headers are known. Other
    processes may do the same at the same time.
    """

    tar: str  # its name, for messages
    size: int  # bytes
    read_at: ReadAt
    saved: Path | None = None
    _table: MemberTable | None = None
    _found: dict[str, dict[str, Span]] = field(default_factory=dict)
    _damage: str = ""  # why the headers end before the tar does
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.saved is not None:
            with contextlib.suppress(OSError):
                self._table = MemberTable.from_bytes(self.saved.read_bytes())
        self._headers = self._read_headers()
        self._last = ""  # the key whose members may not all be known yet

    def find(self, key: str) -> dict[str, Span]:
        """name → (offset, size) of a sample's members.

        Raises TarError when the tar has no such sample, or is damaged before it.
        """
        # without the lock: what is known need not wait for a search that waits for the network
        found = self._known(key) or self._search(key)
        if found is None:
            reason = self._damage or f"no sample {key} in it; the ledger says there is"
            raise TarError(f"{self.tar}: {reason}")
        return found

    def _known(self, key: str) -> dict[str, Span] | None:
        if (table := self._table) is not None:
            return table.find(key)
        found = self._found.get(key)
        return found if key != self._last else None  # in this order, for those without the lock

    def _search(self, key: str) -> dict[str, Span] | None:
        with self._one_at_a_time:
            while self._table is None and self._known(key) is None:
                self._read_header()
            return self._known(key)

    def _read_header(self) -> None:
        try:
            name, span = next(self._headers)
        except StopIteration:
            self._finish()
        except TarError as error:
            self._damage = str(error)
            self._found.pop(self._last, None)  # its other members would lie behind the damage
            self._finish()
        else:
            key, _, member = name.partition(".")
            self._last = key  # before it is found: others look without the lock
            self._found.setdefault(key, {})[member] = span

    def _finish(self) -> None:
        self._table, self._found = MemberTable.of(self._found), {}
        if self.saved is not None and not self._damage:
            _write_whole(self.saved, self._table.to_bytes())

    def _read_headers(self) -> Iterator[tuple[str, Span]]:
        at = 0
        while (header := self.read_at(at, BLOCK)) != _END:
            name, size = _name_and_size(header, at)
            if at + BLOCK + size > self.size:
                raise TarError(f"{self.size} bytes, but {name} ends at {at + BLOCK + size}: it is cut short")
            yield name, (at + BLOCK, size)
            at += BLOCK + -(-size // BLOCK) * BLOCK


def _name_and_size(header: bytes, at: int) -> tuple[str, int]:
    """What a plain USTAR header says; TarError for any other bytes."""
    try:
        # octal numbers, ended by NUL or blanks
        size, total = (int(number.rstrip(b"\0 "), 8) for number in (header[124:136], header[148:156]))
        good = sum(header) - sum(header[148:156]) + 8 * ord(" ") == total
        name = header[:100].rstrip(b"\0").decode("ascii")
    except ValueError:  # also what is cut short
        good, name, size = False, "", 0
    if not good:
        raise TarError(f"no header of a member at byte {at}: it is cut short or damaged there")
    if header[156:157] not in b"0\0" or header[345:346] != b"\0" or "." not in name:
        raise TarError(f"member {name!r} at byte {at} is no plain file named KEY.NAME")
    return name, size


def _write_whole(file: Path, data: bytes) -> None:
    """As good as the cache can: one that is full or read-only costs the next process the same search."""
    partial = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
