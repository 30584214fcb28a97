"""Whether a dataset is what its ledgers say: every tar there, whole, and holding just its samples."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from shards.layout import WORK_FOLDER, is_shard_name, ledger_name, tar_name
from shards.ledger import ShardRecord, read_attempts, read_record
from shards.outcome import Outcome
from shards.profile import AUDIO_CODECS
from shards.sound import SoundError, decode_pcm
from shards.store import Store
from shards.tar import TarError, read_members, read_samples

_READERS = 4
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    where: str  # a file of the dataset
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was looked at, and what was found."""

    shards: int
    samples: int
    bytes: int
    findings: tuple[Finding, ...]


def verify(
    store: Store, *, deep: bool = False, on_shard: Callable[[str], None] = lambda shard: None
) -> Verified:
    """Look at every shard: its files, sizes and keys; with `deep` every byte, and that all sound decodes.

    `on_shard` hears of every shard when it has been looked at.
    """
    names = [name for name in store.names() if is_shard_name(name.split(".", 1)[0])]
    shards = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]

    def look(shard: str) -> tuple[list[Finding], list[str], int]:
        looked = _verify_shard(store, shard, deep=deep)
        on_shard(shard)
        return looked

    with ThreadPoolExecutor(_READERS) as readers:
        looked = list(readers.map(look, shards))
    keys = Counter(key for _, found, _ in looked for key in found)
    findings = [finding for found, _, _ in looked for finding in found]
    findings += [
        Finding(where=key, what=f"the sample is in {count} shards; expected one")
        for key, count in keys.items()
        if count > 1
    ]
    findings += _strays(names, set(shards))
    return Verified(
        shards=len(shards),
        samples=keys.total(),
        bytes=sum(size for *_, size in looked),
        findings=tuple(findings),
    )


def _strays(names: list[str], shards: set[str]) -> Iterator[Finding]:
    for name in names:
        shard = name.removesuffix(".tar")
        if name.endswith(".tar") and is_shard_name(shard) and shard not in shards:
            yield Finding(
                where=name, what=f"has no ledger; ingesting again finishes it, see {WORK_FOLDER}/{shard}"
            )
        elif name.endswith((".partial", ".tmp")):
            yield Finding(where=name, what="a half-written file; it can be deleted")


def _verify_shard(store: Store, shard: str, *, deep: bool) -> tuple[list[Finding], list[str], int]:
    """Findings, keys and the tar's size."""
    try:
        with store.open(ledger_name(shard)) as file:
            record = read_record(file)
        with store.open(ledger_name(shard)) as file:
            rows = read_attempts(file, ["key", "outcome", "pcm_sha256"])
    except (OSError, ValueError) as error:
        return [Finding(where=ledger_name(shard), what=f"is not readable as a ledger: {error}")], [], 0
    pcm = {row["key"]: row["pcm_sha256"] for row in rows if row["outcome"] == Outcome.OK}
    findings = [
        Finding(where=tar_name(shard), what=what) for what in _verify_tar(store, record, pcm, deep=deep)
    ]
    if len(rows) != record.rows:
        findings.append(
            Finding(where=ledger_name(shard), what=f"{len(rows)} rows, its footer says {record.rows}")
        )
    return findings, list(pcm), record.tar_bytes


def _verify_tar(
    store: Store, record: ShardRecord, pcm: Mapping[str, str | None], *, deep: bool
) -> Iterator[str]:
    name = tar_name(record.shard)
    if not record.samples:
        if store.exists(name):
            yield "there, although its ledger has no sample"
        return
    if not store.exists(name):
        yield f"missing, although its ledger has {record.samples} samples"
        return
    if (size := store.size(name)) != record.tar_bytes:
        yield f"{size} bytes, its ledger says {record.tar_bytes}"
        return
    with store.open(name) as tar:
        try:
            yield from _verify_members(tar, record, pcm, deep=deep)
        except TarError as error:
            yield str(error)


def _verify_members(
    tar: BinaryIO, record: ShardRecord, pcm: Mapping[str, str | None], *, deep: bool
) -> Iterator[str]:
    if deep and (sha256 := _sha256(tar)) != record.tar_sha256:
        yield f"sha256 {sha256[:12]}…, its ledger says {record.tar_sha256[:12]}…"
        return
    tar.seek(0)
    if (keys := list(dict.fromkeys(member.key for member in read_members(tar)))) != list(pcm):
        yield f"{len(keys)} samples, not the {len(pcm)} of its ledger in their order"
    elif deep:
        tar.seek(0)
        for key, members in read_samples(tar):
            yield from (f"{key}: {what}" for what in _verify_sample(members, pcm[key]))


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _verify_sample(members: Mapping[str, bytes], pcm_sha256: str | None) -> Iterator[str]:
    facts: dict[str, Any] = json.loads(members["json"])
    for name, sha256 in facts["sha256"].items():
        if hashlib.sha256(members.get(name, b"")).hexdigest() != sha256:
            yield f"{name} is not what its json member says"
    if pcm_sha256 is None:
        yield from (f"{name}, although its ledger has no sound" for name in AUDIO_CODECS if name in members)
        return
    try:
        pcm, _ = decode_pcm(members["flac"] if "flac" in members else members["wav"])
    except (SoundError, KeyError) as error:
        yield f"no sound: {error}"
        return
    if hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest() != pcm_sha256:
        yield "its sound decodes to something else than when it was made"
