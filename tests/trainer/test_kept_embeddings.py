"""Embeddings that are read again: the same bits, and never where anything that they depend on differs."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluating import requested, toy_model
from shard_folders import shard_folder

from shards.profile import read_dataset
from shards.selection import select_samples
from shards.store import open_store
from trainer.embedded import Embedded, Rows
from trainer.evaluation_run import embed_request
from trainer.kept_embeddings import Basis, EmbeddingCache, basis_of, code_sha256

pytestmark = pytest.mark.usefixtures("one_thread")
FIRST, LAST = {"weights": "first"}, {"weights": "last"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return toy_model(folder / "a"), toy_model(folder / "b", seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for fold in ("fold1", "fold2"):
        shard_folder(folder, (3,), split=fold, seconds=0.2, channels=2)
    return folder


def embedded(cache: EmbeddingCache | None, model: Path, data: Path, **options: Any) -> tuple[Embedded, str]:
    """And what a person is told."""
    told: list[str] = []
    found, _ = embed_request(requested(model, data, cache=cache, **options), told.append)
    return found, "\n".join(told)


@pytest.fixture(scope="module")
def filled(models: tuple[Path, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCache:
    """A cache with the embeddings of all the data by the first model."""
    cache = EmbeddingCache(folder=tmp_path_factory.mktemp("cache"))
    assert embedded(cache, models[0], data)[1] == ""
    return cache


def test_another_task_and_prompt_read_the_same_bits_and_say_so(
    filled: EmbeddingCache, models: tuple[Path, Path], data: Path
) -> None:
    again, told = embedded(filled, models[0], data, tasks=("zero-shot",), prompts=("a {}",), batch_size=1)
    anew, silence = embedded(None, models[0], data, tasks=("zero-shot",), prompts=("a {}",))
    [file] = filled.folder.glob("*.npz")
    assert told.startswith(f"embeddings of 6 samples read from {file} (made 2")
    assert told.endswith("); --no-cache embeds anew")
    assert silence == ""
    for name in ("audio", "image"):
        np.testing.assert_array_equal(again.rows(name), anew.rows(name))
    np.testing.assert_array_equal(again.sentences.rows, anew.sentences.rows)
    assert again.items.keys == anew.items.keys


@pytest.mark.parametrize(
    "options",
    [
        {"seconds": 0.1},
        {"channels": 2},
        {"stretch_amplitude": True},
        {"where": "position > 0"},
    ],
)
def test_what_is_heard_otherwise_or_is_other_items_is_embedded_anew(
    filled: EmbeddingCache,
    models: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    cache = EmbeddingCache(folder=Path(shutil.copytree(filled.folder, tmp_path / "cache")))
    assert embedded(cache, models[0], data, **options)[1] == ""
    assert len(list(cache.folder.glob("*.npz"))) == 2


def test_other_weights_are_embedded_anew(
    filled: EmbeddingCache, models: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    cache = EmbeddingCache(folder=Path(shutil.copytree(filled.folder, tmp_path / "cache")))
    assert embedded(cache, models[1], data)[1] == ""


def test_embeddings_of_data_of_which_some_do_not_decode_are_not_kept(
    models: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(data, tmp_path / "broken"))
    tar = min(broken.glob("**/*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"RIFF", b"RUFF", 1))
    cache = EmbeddingCache(folder=tmp_path / "cache")
    found, _ = embedded(cache, models[0], broken, max_bad_share=0.5)
    assert len(found.items) == 5
    assert not cache.folder.exists()


def test_where_nothing_can_be_kept_the_numbers_come_all_the_same(
    models: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    found, told = embedded(EmbeddingCache(folder=tmp_path / "cache"), models[0], data)
    assert len(found.items) == 6
    assert told.startswith("embeddings are not kept: ")


# -- what they depend on


def basis(data: Path, **changes: Any) -> Basis:
    store = open_store(data)
    given: dict[str, Any] = {
        "checkpoint": "a" * 16,
        "store": store,
        "profile": read_dataset(store).profile,
        "selection": select_samples(store),
        "records": (),
        "prepared": {"modalities": ["audio"]},
        "device": torch.device("cpu"),
    }
    return basis_of(**given | changes)


def test_the_basis_changes_with_weights_items_data_and_modalities(data: Path, tmp_path: Path) -> None:
    one = basis(data)
    assert basis(data) == one
    assert basis(data, checkpoint="b" * 16) != one
    assert basis(data, prepared={"modalities": ["audio", "image"]}) != one
    assert basis(data, selection=select_samples(open_store(data), splits=("fold2",))) != one
    assert basis(data, device=torch.device("mps")) != one
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    assert basis(copied) == one
    tar = min(copied.glob("**/*.tar"))
    os.utime(tar, (0, 0))  # as after a change that left its size
    assert basis(copied) != one


def test_the_basis_changes_with_what_computes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = basis(data)
    torch.set_num_threads(2)
    try:
        assert basis(data) != one
    finally:
        torch.set_num_threads(1)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert basis(data) != one


def test_any_change_of_code_changes_its_hash(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "head.py").write_text("gain = 1\n")
    one = code_sha256([tmp_path])
    (tmp_path / "models" / "head.py").write_text("gain = 2\n")
    assert code_sha256([tmp_path]) != one
    (tmp_path / "models" / "head.py").write_text("gain = 1\n")
    assert code_sha256([tmp_path]) == one
    (tmp_path / "models" / "head.py").rename(tmp_path / "models" / "tail.py")
    assert code_sha256([tmp_path]) != one


# -- the folder


def rows(value: float = 1.0, items: int = 100) -> Rows:
    return {"row": np.arange(items), "audio": np.full((items, 25), value, dtype=np.float32)}


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(folder=tmp_path / "cache")


def test_what_was_cut_short_or_changed_or_has_another_name_is_not_read(cache: EmbeddingCache) -> None:
    cache.write(FIRST, rows())
    [file] = cache.folder.glob("*.npz")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert cache.read(FIRST) is None
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    file.write_bytes(changed)
    assert cache.read(FIRST) is None
    file.write_bytes(b"")
    assert cache.read(FIRST) is None
    cache.write(LAST, rows(2))
    [other] = set(cache.folder.glob("*.npz")) - {file}
    other.write_bytes(whole)
    assert cache.read(LAST) is None
    file.write_bytes(whole)
    assert cache.read(FIRST) is not None


def test_a_full_cache_loses_what_was_used_longest_ago_and_what_a_killed_process_left(
    tmp_path: Path,
) -> None:
    cache = EmbeddingCache(folder=tmp_path, limit_bytes=25_000)  # two of 11 kB
    for used, name in enumerate("ab"):
        cache.write({"weights": name}, rows())
        kept = cache.read({"weights": name})
        assert kept is not None
        os.utime(kept.path, (used, used))
    assert cache.read({"weights": "a"}) is not None  # now it is b that was used longest ago
    (tmp_path / "left.npz.partial").write_bytes(b"half")
    cache.write({"weights": "c"}, rows())
    assert [name for name in "abc" if cache.read({"weights": name})] == ["a", "c"]
    assert not list(tmp_path.glob("*.partial"))
    cache.write({"weights": "d"}, rows(items=1000))  # larger than the cache itself
    assert [name for name in "acd" if cache.read({"weights": name})] == ["a", "c"]


def test_many_who_write_and_read_at_once_find_nothing_or_the_whole(tmp_path: Path) -> None:
    cache = EmbeddingCache(folder=tmp_path, limit_bytes=25_000)

    def write_and_read(turn: int) -> bool:
        name = turn % 3
        cache.write({"weights": name}, rows(name))
        kept = cache.read({"weights": name})
        return kept is None or bool((kept.rows["audio"] == name).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write_and_read, range(60)))
    assert sum(file.stat().st_size for file in tmp_path.glob("*.npz")) <= 25_000
