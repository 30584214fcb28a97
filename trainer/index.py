"""An index of vectors brought up to date with what it is made of: only what changed is embedded."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from shards.vector_rows import RowNumbers, VectorIndexError
from shards.vector_writer import VectorWriter
from shards.vectors import FACTS, IndexFacts
from trainer.embed import Skipped
from trainer.models.encoder import Encoder

PART = 1024  # vectors that a kill may cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A file or a shard: it is embedded as a whole, and again as a whole when it has changed."""

    name: str
    bytes: int
    mtime: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A vector (D,) of a unit, and the row that goes with it: path, modality, start_s, end_s and more."""

    vector: Tensor
    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """All that a unit came to."""

    unit: Unit
    found: Sequence[Found]
    skipped: Sequence[Skipped] = ()


class Source(Protocol):
    """What an index is made of."""

    @property
    def name(self) -> str: ...

    def units(self) -> list[Unit]: ...

    def sha256(self, unit: Unit) -> str:
        """Of its content: a unit whose time changed but not its bytes is not embedded again."""
        ...

    def embed(self, encoder: Encoder, units: Sequence[Unit]) -> Iterator[Embedding]:
        """Each unit once, in the order given."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """What bringing an index up to date came to, in units, and what is in it now."""

    facts: IndexFacts
    new: int
    kept: int
    gone: int
    skipped: tuple[Skipped, ...]


def update_index(
    encoder: Encoder,
    source: Source,
    folder: Path,
    *,
    model: str,
    options: Mapping[str, Any],
    track: Callable[[Sequence[Unit]], Iterable[Unit]] = lambda units: units,
) -> Indexed:
    """Bring the index in `folder` up to date with `source`; killed and called again, it goes on.

    `track` sees each unit as its turn comes. Raises VectorIndexError when the index is of another model or
    source, or was made with other options, and when there is nothing to make one of.
    """
    units = source.units()
    if not units and not (folder / FACTS).exists():
        raise VectorIndexError(f"{source.name} holds nothing to index; expected sounds, videos or pictures")
    facts = IndexFacts(
        model=model,
        fingerprint=encoder.fingerprint(),
        size=encoder.size,
        source=source.name,
        options=options,
    )
    writer = VectorWriter(folder, facts)
    lines = _Lines.of(writer)
    versions, unreadable = _versions(source, units, lines)
    readable = [unit for unit in units if unit.name in versions]
    stale = [unit for unit in readable if (unit.name, versions[unit.name]) not in lines.by_version]
    skipped = list(_embed_all(writer, source.embed(encoder, list(track(stale))), versions))
    kept = (_Lines.of(writer) if stale else lines).of_versions(versions)
    return Indexed(
        facts=_published(writer, kept),
        new=len(stale) - len({failure.what for failure in skipped}),
        kept=len(versions) - len(stale),
        gone=len(lines.units - set(versions)),
        skipped=(*unreadable, *skipped),
    )


def _versions(
    source: Source, units: Sequence[Unit], lines: "_Lines"
) -> tuple[dict[str, str], tuple[Skipped, ...]]:
    """The hash of each unit's content, by its name; which cannot be read."""
    versions, unreadable = {}, []
    for unit in units:
        try:
            versions[unit.name] = lines.version(unit) or source.sha256(unit)
        except OSError as error:
            unreadable.append(Skipped(what=unit.name, reason=str(error)))
    return versions, tuple(unreadable)


def _embed_all(
    writer: VectorWriter, embeddings: Iterable[Embedding], versions: Mapping[str, str]
) -> Iterator[Skipped]:
    """Hand whole units to the writer, some hundred vectors at a time; what gave none."""
    held: list[Found] = []
    for embedding in embeddings:
        yield from embedding.skipped
        unit = embedding.unit
        version = {"unit": unit.name, "bytes": unit.bytes, "mtime": unit.mtime}
        version["sha256"] = versions[unit.name]
        held += [Found(vector=found.vector, row={**found.row, **version}) for found in embedding.found]
        if len(held) >= PART:
            _write(writer, held)
            held = []
    _write(writer, held)


def _write(writer: VectorWriter, found: Sequence[Found]) -> None:
    if found:
        writer.add(torch.stack([one.vector for one in found]).numpy(), [one.row for one in found])


def _published(writer: VectorWriter, lines: RowNumbers) -> IndexFacts:
    """The index of these lines: as it is when they are all of it and in order."""
    if writer.current is not None and np.array_equal(lines, np.arange(writer.lines)):
        return writer.current
    return writer.publish(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lines:
    """Which vectors of an index, by line, belong to which version of which unit."""

    by_version: Mapping[tuple[str, str], Sequence[int]]  # (unit, sha256)
    seen: Mapping[tuple[str, int, float], str]  # (unit, bytes, mtime): sha256

    @classmethod
    def of(cls, writer: VectorWriter) -> "_Lines":
        by_version: dict[tuple[str, str], list[int]] = {}
        seen: dict[tuple[str, int, float], str] = {}
        for line, row in enumerate(writer.rows(["unit", "bytes", "mtime", "sha256"])):
            by_version.setdefault((row["unit"], row["sha256"]), []).append(line)
            seen[row["unit"], row["bytes"], row["mtime"]] = row["sha256"]
        return cls(by_version=by_version, seen=seen)

    @property
    def units(self) -> set[str]:
        return {unit for unit, _ in self.by_version}

    def version(self, unit: Unit) -> str | None:
        """The hash of a unit whose size and time are as they were, without reading it."""
        return self.seen.get((unit.name, unit.bytes, unit.mtime))

    def of_versions(self, versions: Mapping[str, str]) -> RowNumbers:
        """Lines of these versions, unit after unit by name: the same contents give the same index."""
        lines = [self.by_version.get(version, ()) for version in sorted(versions.items())]
        return np.array([line for some in lines for line in some], dtype=np.int64)
