"""Embeddings that an evaluation leaves to the next one, found again only where nothing differs."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

import shards
from shards.layout import tar_name
from shards.ledger import ShardRecord
from shards.profile import Profile
from shards.selection import Selection
from shards.store import Store
from shards.whole_file import appearing
from trainer.distributed import Ranks
from trainer.embedded import Rows
from trainer.fetch import cache_folder as weights_folder

LIMIT_BYTES = 10_000_000_000  # sounds and pictures of 1.2 million items
# as zipfile and NumPy say that a file is not whole
_NOT_WHOLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile)
# beginnings of the names of variables that choose how is computed
_STEERS = (
    "ATEN_", "CUBLAS_", "CUDNN_", "DNNL_", "MKL_", "NVIDIA_TF32", "OMP_", "ONEDNN_", "PYTORCH_", "TORCH_",
)  # fmt: skip

Basis = Mapping[str, Any]  # plain values, all that embeddings depend on; a file is named by it and holds it
Tell = Callable[[str], None]  # is given a line for a person


def cache_folder() -> Path:
    """`embeddings` beside the published weights: in `$TRICHORD_CACHE`, else in the user's cache folder."""
    return weights_folder().parent / "embeddings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Embeddings as they were left."""

    rows: Rows
    path: Path
    made: str  # date and time, UTC


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingCache:
    """A folder of embeddings, at most `limit_bytes` of them. Any number of processes share it."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def read(self, basis: Basis) -> Kept | None:
        """What was kept on this basis; None where there is nothing, or nothing that is whole."""
        path, text = self._path(basis), _text(basis)
        try:
            with np.load(path, allow_pickle=False) as arrays:  # compares a checksum of each array, too
                if str(arrays["basis"]) != text:
                    return None
                rows = {str(name): arrays[str(name)] for name in arrays["names"]}
                made = str(arrays["made"])
        except _NOT_WHOLE:
            return None
        with contextlib.suppress(OSError):  # a cache that is read-only is as good
            os.utime(path)
        return Kept(rows=rows, path=path, made=made)

    def write(self, basis: Basis, rows: Rows) -> None:
        """Keep these, whole or not at all; what is larger than the limit is not kept. Raises OSError."""
        if sum(array.nbytes for array in rows.values()) > self.limit_bytes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder / "lock"):
            try:
                self._write(basis, rows)
            finally:  # also what a full disk has cut short
                self._trim()

    def _write(self, basis: Basis, rows: Rows) -> None:
        made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
        facts = {"basis": _text(basis), "made": made, "names": list(rows)}
        with appearing(self._path(basis)) as partial, partial.open("wb") as file:
            np.savez(file, **facts, **rows)  # type: ignore[arg-type]  # no name is that of an option

    def _path(self, basis: Basis) -> Path:
        return self.folder / f"{hashlib.sha256(_text(basis).encode()).hexdigest()[:32]}.npz"

    def _trim(self) -> None:
        """To be called by who is alone here: what is partial was left by a process that was killed."""
        for partial in self.folder.glob("*.partial"):
            partial.unlink(missing_ok=True)
        files = sorted(self.folder.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
        held = 0
        for file in files:
            held += file.stat().st_size
            if held > self.limit_bytes:
                file.unlink(missing_ok=True)


def kept_or_made(
    cache: EmbeddingCache, basis: Basis, made: Callable[[], Rows], *, items: int, ranks: Ranks, tell: Tell
) -> Rows:
    """What the cache holds, else what is made, which it then holds; the same on every process.

    Only embeddings of all `items` are kept: a sample that did not decode may do so the next time.
    """
    kept: Kept | None = ranks.from_first(cache.read(basis) if ranks.first else None)
    if kept is not None:
        if ranks.first:
            where = f"read from {kept.path} (made {kept.made})"
            tell(f"embeddings of {items:,} samples {where}; --no-cache embeds anew")
        return kept.rows
    rows = made()
    if ranks.first and len(rows.get("row", ())) == items:
        try:
            cache.write(basis, rows)
        except OSError as error:
            tell(f"embeddings are not kept: {error}")
    return rows


def _text(basis: Basis) -> str:
    return json.dumps(basis, sort_keys=True)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits until no other process writes here; the kernel frees the lock of one that dies."""
    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


# -- what they depend on


def basis_of(
    *,
    checkpoint: str,
    store: Store,
    profile: Profile,
    selection: Selection,
    records: Sequence[ShardRecord],
    prepared: Basis,
    device: torch.device,
) -> Basis:
    """Of these items, `prepared` so, on these weights; `records` are those of at least the items' shards.

    A tar goes by its ledger's hash and, as nobody reads it again, by its size and time.
    """
    hashes = {record.shard: record.tar_sha256 for record in records}
    files = {entry.name: entry for entry in store.entries()}
    # what is gone is no error yet: who reads it says so
    tars = [(shard, hashes.get(shard), files.get(tar_name(shard))) for shard in selection.shards]
    return {
        "checkpoint": checkpoint,
        "profile": profile.hash,
        "tars": _sha256(map(repr, tars)),
        "keys": selection.key_list_sha256,
        "shards": _sha256(map(str, selection.shard_of)),
        "prepared": prepared,
        **_computed_by(device),
    }


def _computed_by(device: torch.device) -> dict[str, Any]:
    """All of this code, of its packages and of this machine that may decide the last bit of an embedding."""
    packages = importlib.metadata.distributions()
    return {
        "code": code_sha256([Path(shards.__file__).parent, Path(__file__).parent]),
        "python": platform.python_version(),
        "packages": _sha256(sorted(f"{package.name} {package.version}" for package in packages)),
        "device": _device(device),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(_STEERS)},
    }


def code_sha256(folders: Iterable[Path]) -> str:
    """Of all Python files there, with their names."""
    files = ((folder, file) for folder in folders for file in sorted(folder.rglob("*.py")))
    return _sha256(
        f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for folder, file in files
    )


def _device(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return [device.type]
    cudnn: Any = torch.backends.cudnn
    return ["cuda", torch.cuda.get_device_name(device), cudnn.version()]


def _processor() -> list[str]:
    """Products of matrices are computed by other code on other processors."""
    models: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = sorted({line for line in lines if line.startswith(("model name", "stepping"))})
    return [platform.machine(), torch.backends.cpu.get_cpu_capability(), *models]


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
