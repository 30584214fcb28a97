"""When and how a dataset's manifest.duckdb is replaced while others work and read, and sizes.json with it."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shards.claim import Claim
from shards.layout import MANIFEST, SIZES, STATE_FOLDER, WORK_FOLDER, tar_name
from shards.manifest import build_manifest, fingerprint, is_ledger, list_sources
from shards.store import Store
from shards.tally import count_snapshot, samples_of

STATE = f"{STATE_FOLDER}/manifest.json"
CLAIM = f"{STATE_FOLDER}/claims/manifest"
STATE_VERSION = 1
STAGING = f"{WORK_FOLDER}/manifest"

THROTTLE_S = 30.0
THROTTLE_BUILDS = 20  # at most a twentieth of one machine's time goes into snapshots


def publish_manifest(store: Store, *, throttle_s: float | None = None, force: bool = False) -> bool:
    """Bring the dataset's `manifest.duckdb` up to date; False when that is too early or another does it.

    Too early is before `throttle_s` seconds have passed since anyone began to build the last one, by default
    30 s or twenty times what that took. With `force` it waits for the other process, then builds.
    """
    if not force and not _due(store, throttle_s):
        return False
    claim = _waited_claim(store) if force else store.claim(CLAIM)
    if claim is None:
        return False
    with claim.kept():
        if not force and not _due(store, throttle_s):  # another process was quicker
            return False
        _publish(store)
    return True


def is_current(store: Store) -> bool:
    """Whether what was published last is all there and says what the files say now."""
    published = is_published(store) and store.exists(SIZES)
    return published and read_state(store).get("sources") == fingerprint(list_sources(store))


def _waited_claim(store: Store) -> Claim:
    # ends: whoever holds it builds for seconds, and a dead holder's claim is taken over
    while (claim := store.claim(CLAIM)) is None:
        time.sleep(0.2)
    return claim


def read_state(store: Store) -> dict[str, Any]:
    """What the last publication left about itself: empty when there was none of this version."""
    try:
        state = json.loads(store.read_bytes(STATE))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) and state.get("version") == STATE_VERSION else {}


def _due(store: Store, throttle_s: float | None) -> bool:
    state = read_state(store)
    wait = max(THROTTLE_S, THROTTLE_BUILDS * state.get("seconds", 0.0)) if throttle_s is None else throttle_s
    # a time in the future is another machine's wrong clock: no reason to wait for it
    return not 0 <= time.time() - state.get("begun_at", 0.0) < wait


def _publish(store: Store) -> None:
    begun_at = time.time()
    with _staging(store) as folder:
        built = folder / MANIFEST
        build = build_manifest(store, built, previous=is_published(store))
        counts, samples = count_snapshot(built), samples_of(built)
        if (wal := store.local_path(f"{MANIFEST}.wal")) is not None:
            wal.unlink(missing_ok=True)  # a killed user's: with it DuckDB refuses every later snapshot
        store.publish(built, MANIFEST, replace=True)
    sizes = {tar_name(shard): count for shard, count in samples.items()}
    store.publish_bytes((json.dumps(sizes, indent=0) + "\n").encode(), SIZES, replace=True)
    state = {
        "version": STATE_VERSION,
        "begun_at": begun_at,
        "seconds": build.seconds,
        "published": _identity(store),
        "sources": fingerprint(build.sources),
        "ledgers": [source.name for source in build.sources if is_ledger(source.name)],
        "counts": [asdict(count) for count in counts],
        "problems": dict(build.problems),
    }
    store.update(STATE, lambda _: json.dumps(state).encode())


@contextlib.contextmanager
def _staging(store: Store) -> Iterator[Path]:
    """A folder on the file system where the manifest goes, so that publishing is one rename."""
    near = store.local_path(STAGING)
    if near is None:
        with tempfile.TemporaryDirectory(prefix="trichord-manifest-") as folder:
            yield Path(folder)
        return
    near.mkdir(parents=True, exist_ok=True)
    _clear(near)  # a killed builder's; the claim says that none is at work
    try:
        yield near
    finally:
        _clear(near)
        near.rmdir()


def _clear(folder: Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


def _identity(store: Store) -> list[float] | None:
    """Size and time of the published file: another one is not of our making, and nothing to build on."""
    found = [entry for entry in store.entries(MANIFEST) if entry.name == MANIFEST]
    return [found[0].size, found[0].mtime] if found else None


def is_published(store: Store) -> bool:
    """Whether the published snapshot is the one that we left."""
    return _identity(store) is not None and read_state(store).get("published") == _identity(store)
