"""Tars whose bytes depend on their samples alone: USTAR entries in fixed order, without times or owners."""

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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


def read_members(tar: Path) -> list[Member]:
    """The index of a tar; TarError when it is cut short or holds names that no sample has."""
    try:
        with tarfile.open(tar, "r:") as archive:
            members = [_member(info) for info in archive]
            end = archive.offset
    except tarfile.TarError as error:
        raise TarError(f"{tar}: {error}; expected a whole tar") from None
    size = tar.stat().st_size
    if size < end or (members and members[-1].offset + members[-1].size > size):
        raise TarError(f"{tar}: {size} bytes, expected at least {end}: it is cut short")
    return members


def _member(info: tarfile.TarInfo) -> Member:
    if not info.isreg() or not _MEMBER.fullmatch(info.name):
        raise TarError(f"member {info.name[:100]!r} is none of ours; expected files named {_MEMBER.pattern}")
    key, name = info.name.split(".", 1)
    return Member(key=key, name=name, offset=info.offset_data, size=info.size)


def read_samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {member name: content}) for each sample of a tar, in its order."""
    content: dict[str, bytes] = {}
    key = ""
    with tar.open("rb") as file:
        for member in read_members(tar):
            if member.key != key and content:
                yield key, content
                content = {}
            key = member.key
            file.seek(member.offset)
            content[member.name] = file.read(member.size)
    if content:
        yield key, content


def extract_sample(tar: Path, key: str, folder: Path) -> list[Path]:
    """Write one sample's members as files into `folder`, for a person to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tar.open("rb") as file:
        for member in (m for m in read_members(tar) if m.key == key):
            target = folder / f"{member.key}.{member.name}"
            file.seek(member.offset)
            target.write_bytes(file.read(member.size))
            written.append(target)
    return written
