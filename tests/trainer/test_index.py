"""An index of a source that misbehaves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tiny_models import SIZE, tiny_encoder

from shards.vectors import VectorIndex
from trainer.index import Embedding, Found, Unit, update_index
from trainer.models.encoder import Encoder


@dataclass
class Files:
    """Files of which some may not be read."""

    names: Sequence[str]
    forbidden: set[str] = field(default_factory=set)
    name: str = "files"

    def units(self) -> list[Unit]:
        return [Unit(name=name, bytes=1, mtime=len(self.forbidden)) for name in self.names]

    def sha256(self, unit: Unit) -> str:
        if unit.name in self.forbidden:
            raise PermissionError(13, "Permission denied", unit.name)
        return f"hash of {unit.name}"

    def embed(self, encoder: Encoder, units: Sequence[Unit]) -> Iterator[Embedding]:
        for unit in units:
            yield Embedding(unit=unit, found=[Found(vector=torch.ones(SIZE), row={"path": unit.name})])


def test_a_file_that_may_not_be_read_is_named_left_out_and_taken_in_later(tmp_path: Path) -> None:
    encoder, source = tiny_encoder(), Files(names=["a", "b", "c"])

    def indexed() -> tuple[int, int, list[str]]:
        done = update_index(encoder, source, tmp_path, model="tiny", options={})
        return done.new, done.kept, [failure.what for failure in done.skipped]

    assert indexed() == (3, 0, [])
    source.forbidden = {"b"}
    assert indexed() == (0, 2, ["b"])
    hits = VectorIndex.open(tmp_path).search(torch.ones(SIZE).numpy(), 5)
    assert [hit.facts["path"] for hit in hits] == ["a", "c"]
    source.forbidden = set()
    assert indexed() == (1, 2, [])
