"""Tars whose bytes depend on their samples alone: USTAR entries in fixed order, without times or owners."""

import contextlib
import hashlib
import itertools
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.sample import Sample

BLOCK = 512
_END = bytes(2 * BLOCK)
_MEMBER = re.compile(r"[A-Za-z0-9_-]{1,80}\.[a-z0-9.]{1,16}")


class TarError(ValueError):
    """A tar that is truncated, or whose members are not named as ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Where a member's content lies in its tar."""

    key: str
    name: str  # what follows the key's dot
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TarFacts:
    sha256: str
    bytes: int
    samples: int


def entries(sample: Sample) -> bytes:
    """The sample's part of a tar: tars are parts one after the other, closed by two empty blocks."""
    return b"".join(_entry(f"{sample.key}.{name}", content) for name, content in sample.members())


def _entry(name: str, content: bytes) -> bytes:
    if not _MEMBER.fullmatch(name):
        raise TarError(f"{name!r} cannot be a member; expected {_MEMBER.pattern}")
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = info.tobuf(tarfile.USTAR_FORMAT)  # mode 0644, mtime 0, no owner: nothing that varies
    return header + content + bytes(-len(content) % BLOCK)


def write_tar(parts: Iterable[Path], target: Path) -> TarFacts:
    """Join files that hold `entries` of one sample each into a tar; the caller names and publishes it."""
    digest, size, samples = hashlib.sha256(), 0, 0
    with target.open("wb") as tar:
        for part in parts:
            content = part.read_bytes()
            digest.update(content)
            size += tar.write(content)
            samples += 1
        digest.update(_END)
        size += tar.write(_END)
    return TarFacts(sha256=digest.hexdigest(), bytes=size, samples=samples)


def read_members(tar: Path | BinaryIO) -> list[Member]:
    """The index of a tar, by its headers; TarError when it is cut short or holds names that no sample has."""
    with contextlib.ExitStack() as closing:
        file = closing.enter_context(tar.open("rb")) if isinstance(tar, Path) else tar
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                members = [_member(info) for info in archive]
        except tarfile.TarError as error:
            raise TarError(f"{_name(tar)}: {error}; expected a whole tar") from None
        size = file.seek(0, os.SEEK_END)
    needed = _end(members[-1]) + len(_END) if members else len(_END)
    if size < needed:
        raise TarError(f"{_name(tar)}: {size} bytes, expected at least {needed}: it is cut short")
    return members


def _name(tar: Path | BinaryIO) -> str:
    return str(tar if isinstance(tar, Path) else getattr(tar, "name", "the tar"))


def _end(member: Member) -> int:
    return member.offset + -(-member.size // BLOCK) * BLOCK


def _member(info: tarfile.TarInfo) -> Member:
    if not info.isreg() or not _MEMBER.fullmatch(info.name):
        raise TarError(f"member {info.name[:100]!r} is none of ours; expected files named {_MEMBER.pattern}")
    key, name = info.name.split(".", 1)
    return Member(key=key, name=name, offset=info.offset_data, size=info.size)


def read_samples(tar: Path | BinaryIO) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {member name: content}) for each sample of a tar, in its order."""
    with contextlib.ExitStack() as closing:
        file = closing.enter_context(tar.open("rb")) if isinstance(tar, Path) else tar
        for key, members in itertools.groupby(read_members(file), key=lambda member: member.key):
            yield key, {member.name: _content(file, member) for member in members}


def _content(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
