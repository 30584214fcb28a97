"""Every sample of an epoch arrives exactly once, as it lies in the shards, on any number of processes."""

import contextlib
import io
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from shard_folders import shard_folder

from shards.members import Span
from shards.sample_reader import SampleReader
from shards.selection import Selection, select_samples
from shards.store import Store, StoreError, open_store
from shards.tar import read_samples
from trainer.host_batch import HostBatch
from trainer.loader import BadSamplesError, Loader, Wanted
from trainer.order import LoaderState, sample_seed

SHARDS = (31, 7, 1, 45, 13)  # 97 samples: three batches of 30 and seven left out
SECONDS = 0.05
SIDE = 32
NOTHING = Wanted(audio=False, frame=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset")
    shard_folder(path, SHARDS, seconds=SECONDS, codec="flac", side=SIDE)
    return path


@pytest.fixture(scope="module")
def selection(folder: Path) -> Selection:
    return select_samples(open_store(folder), splits=("balanced_train",))


@pytest.fixture
def load(folder: Path, selection: Selection, tmp_path: Path) -> Callable[..., Loader]:
    reader = SampleReader(store=open_store(folder), cache=tmp_path / "cache")

    def made(**options: Any) -> Loader:
        settings = {"batch_size": 30, "threads": 2, "max_seconds": 0.1, "seed": 4, **options}
        return Loader(selection, settings.pop("reader", reader), **settings)

    return made


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("trichord-decode")}


def content(folder: Path) -> dict[str, dict[str, bytes]]:
    return {key: members for tar in folder.glob("*.tar") for key, members in read_samples(tar)}


def facts(batch: HostBatch) -> tuple[Any, ...]:
    """All of a batch, in a form that outlives its slot."""
    media = (None if each is None else each.clone().numpy() for each in (batch.audio, batch.frames))
    return (
        *(batch.epoch, batch.step, batch.keys, batch.rows.tolist(), batch.seeds.tolist()),
        *(None if each is None else each.tobytes() for each in media),
    )


def global_batches(
    load: Callable[..., Loader], world: int, state: LoaderState, steps: int, **options: Any
) -> list[tuple[str, ...]]:
    """Keys of so many steps, of all ranks together."""
    ranks = [
        [
            batch.keys
            for batch in itertools.islice(load(rank=rank, world=world, **options).batches(state), steps)
        ]
        for rank in range(world)
    ]
    return [tuple(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_an_epoch_is_exact_and_the_same_on_any_number_of_ranks(
    load: Callable[..., Loader], selection: Selection, world: int
) -> None:
    start = LoaderState(seed=4)
    batches = global_batches(load, world, start, 6, wanted=NOTHING)
    for epoch in (batches[:3], batches[3:]):
        seen = Counter(itertools.chain(*epoch))
        assert len(seen) == 90
        assert set(seen.values()) == {1}
        assert set(seen) <= set(selection.keys)
    assert set(itertools.chain(*batches[:3])) != set(itertools.chain(*batches[3:]))
    assert batches == global_batches(load, 1, start, 6, wanted=NOTHING)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 3), (5, 1), (3, 5)])
def test_a_run_goes_on_with_other_ranks_where_it_was_stopped(
    load: Callable[..., Loader], before: int, after: int
) -> None:
    whole = global_batches(load, 1, LoaderState(seed=4), 7, wanted=NOTHING)
    for stopped in (2, 3, 4):  # within an epoch, between two, in the next
        state = load().state_at(stopped)
        parts = global_batches(load, before, LoaderState(seed=4), stopped, wanted=NOTHING)
        parts += global_batches(load, after, state, 7 - stopped, wanted=NOTHING)
        assert parts == whole


def test_media_arrive_to_the_bit(load: Callable[..., Loader], folder: Path, selection: Selection) -> None:
    stored, keys = content(folder), list(selection.keys)
    for batch in itertools.islice(load(batch_size=8, wanted=Wanted(frame="central")).batches(), 14):
        assert batch.audio is not None
        assert batch.lengths is not None
        assert batch.frames is not None
        assert batch.audio.shape == (8, 1, 4410)
        for place, key in enumerate(batch.keys):
            pcm, _ = soundfile.read(io.BytesIO(stored[key]["flac"]), dtype="int16")
            length = int(batch.lengths[place])
            assert length == len(pcm) == 2205
            assert (batch.audio[place, 0, :length].numpy() == pcm).all()
            assert not batch.audio[place, 0, length:].any()
            picture = np.asarray(Image.open(io.BytesIO(stored[key]["jpg"])).crop((8, 0, 8 + SIDE, SIDE)))
            assert (batch.frames[place].numpy() == picture).all()
            assert keys[batch.rows[place]] == key
            assert batch.seeds[place] == sample_seed(4, batch.epoch, key)


def test_a_batch_is_the_same_with_any_number_of_threads(load: Callable[..., Loader]) -> None:
    runs = [
        [facts(batch) for batch in itertools.islice(load(threads=threads, batch_size=6).batches(), 20)]
        for threads in (1, 5)
    ]
    assert runs[0] == runs[1]


def test_a_random_frame_is_one_of_the_samples_and_changes_with_the_epoch(
    load: Callable[..., Loader], folder: Path
) -> None:
    stored = content(folder)
    chosen = Counter()
    for batch in itertools.islice(load(wanted=Wanted(audio=False)).batches(), 9):
        assert batch.audio is None
        assert batch.frames is not None
        for key, frame in zip(batch.keys, batch.frames.numpy(), strict=True):
            found = [
                name
                for name in ("0.jpg", "1.jpg", "2.jpg")
                if (
                    np.asarray(Image.open(io.BytesIO(stored[key][name])).crop((8, 0, 8 + SIDE, SIDE)))
                    == frame
                ).all()
            ]
            assert len(found) == 1
            chosen[found[0]] += 1
    # six standard deviations of 270 draws with probability 1/3 are 46
    assert all(abs(chosen[name] - 90) < 47 for name in ("0.jpg", "1.jpg", "2.jpg"))


class Recorder(SampleReader):
    """A reader that knows what was read."""

    def read(self, shard: str, spans: Any, scratch: Any = None) -> list[memoryview]:
        self.spans.append(list(spans))
        return super().read(shard, spans, scratch)

    spans: list[list[Span]]


def test_only_what_is_wanted_is_read(load: Callable[..., Loader], folder: Path, tmp_path: Path) -> None:
    for wanted, members in ((Wanted(frame=None), 1), (Wanted(audio=False), 1), (Wanted(), 2), (NOTHING, 0)):
        reader = Recorder(store=open_store(folder), cache=tmp_path)
        reader.spans = []
        batch = next(load(reader=reader, wanted=wanted).batches())
        assert {len(spans) for spans in reader.spans} == ({members} if members else set())
        assert (batch.audio is None) == (not wanted.audio)
        assert (batch.frames is None) == (wanted.frame is None)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_an_evaluation_shows_each_sample_once_in_order(
    load: Callable[..., Loader], selection: Selection, world: int
) -> None:
    ranks = [
        [
            (list(batch.keys), batch.valid.tolist())
            for batch in load(training=False, rank=rank, world=world, wanted=NOTHING).batches()
        ]
        for rank in range(world)
    ]
    assert [len(batches) for batches in ranks] == [4] * world
    parts = itertools.chain(*zip(*ranks, strict=True))  # rank by rank, step by step
    seen = [key for keys, valid in parts for key, there in zip(keys, valid, strict=True) if there]
    assert seen == list(selection.keys)


def test_weights_decide_how_often_a_sample_comes(load: Callable[..., Loader], selection: Selection) -> None:
    weights = np.zeros(len(selection))
    weights[[3, 50]] = 1.0, 3.0
    batches = itertools.islice(load(weights=weights, wanted=NOTHING).batches(), 20)
    seen = Counter(row for batch in batches for row in batch.rows.tolist())
    assert set(seen) == {3, 50}
    assert abs(seen[50] - 450) < 6 * (600 * 3 / 16) ** 0.5
    assert global_batches(load, 3, LoaderState(seed=4), 4, weights=weights, wanted=NOTHING) == global_batches(
        load, 1, LoaderState(seed=4), 4, weights=weights, wanted=NOTHING
    )


def test_a_slot_that_is_released_early_is_filled_early(load: Callable[..., Loader]) -> None:
    with_release, without = load(batch_size=6, lookahead=1), load(batch_size=6, lookahead=1)
    early = []
    for batch in itertools.islice(with_release.batches(), 20):
        with batch:
            early.append(facts(batch))
        batch.release()
    assert early == [facts(batch) for batch in itertools.islice(without.batches(), 20)]


def test_a_slot_waits_for_the_copy_that_still_reads_it(load: Callable[..., Loader]) -> None:
    class Fence:
        waited = 0

        def synchronize(self) -> None:
            self.waited += 1

    fence = Fence()
    batches = load(batch_size=6, lookahead=1, threads=1).batches()
    next(batches).release(after=fence)
    for _ in range(3):
        next(batches)
    assert fence.waited == 6  # before each place of the slot's next batch


def test_closing_ends_the_threads(load: Callable[..., Loader]) -> None:
    before = own_threads()
    batches = load(threads=4).batches()
    next(batches)
    assert len(own_threads() - before) == 4
    batches.close()
    assert own_threads() == before


def test_an_interrupted_loop_ends_the_threads(load: Callable[..., Loader]) -> None:
    before = own_threads()

    def loop(batches: Iterator[HostBatch]) -> None:
        for _ in batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop(load(threads=4).batches())
    assert own_threads() == before


def test_what_fails_in_a_thread_reaches_the_loop(load: Callable[..., Loader], tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "data", (9, 9), seconds=SECONDS, side=SIDE)
    chosen = select_samples(store, splits=("balanced_train",))
    (tmp_path / "data" / "audioset-balanced_train-000001.tar").unlink()
    before = own_threads()
    with pytest.raises(StoreError, match=r"000001\.tar is gone"):
        list(Loader(chosen, SampleReader(store=store, cache=tmp_path), batch_size=6, threads=3).batches())
    assert own_threads() == before


def damaged(folder: Path, kinds: dict[int, str]) -> tuple[Store, Selection]:
    """Three shards with 60 samples, whose n-th is damaged as `kinds` says."""
    store = shard_folder(folder, (20, 20, 20), seconds=SECONDS, codec="flac", side=SIDE)
    chosen = select_samples(store, splits=("balanced_train",))
    reader = SampleReader(store=store, cache=folder / "cache")
    for row, kind in kinds.items():
        shard = chosen.shards[chosen.shard_of[row]]
        members = reader.members(shard, chosen.keys[row])
        offset, size = members[kind]
        with (folder / f"{shard}.tar").open("r+b") as file:
            file.seek(offset)
            file.write(bytes(size))
    return store, chosen


def test_bad_samples_are_replaced_the_same_way_on_any_number_of_ranks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, chosen = damaged(tmp_path / "data", {5: "flac", 33: "jpg", 41: "flac"})
    wanted = Wanted(frame="central")

    def load(**options: Any) -> Loader:
        reader = SampleReader(store=store, cache=tmp_path)
        return Loader(chosen, reader, threads=2, wanted=wanted, max_bad_share=0.2, max_seconds=0.1, **options)

    loader = load(batch_size=30)
    batches = [facts(batch) for batch in itertools.islice(loader.batches(), 4)]
    keys = list(chosen.keys)
    assert set(loader.bad) == {keys[5], keys[33], keys[41]}
    assert loader.replaced == 3
    assert "sound does not decode" in loader.bad[keys[5]]
    assert "picture does not decode" in loader.bad[keys[33]]
    for row in (5, 33, 41):
        assert f"sample {keys[row]} does not decode" in caplog.text
    for _, _, batch_keys, rows, *_ in batches:
        assert not {5, 33, 41} & set(rows)
        assert [keys[row] for row in rows] == list(batch_keys)
    for world in (2, 5):
        parts = global_batches(
            lambda **options: load(batch_size=30, **options), world, LoaderState(seed=0), 4
        )
        assert parts == [batch[2] for batch in batches]


def test_an_evaluation_goes_without_bad_samples(tmp_path: Path) -> None:
    store, chosen = damaged(tmp_path / "data", {5: "flac"})
    reader = SampleReader(store=store, cache=tmp_path)
    loader = Loader(
        chosen, reader, batch_size=30, training=False, max_bad_share=0.1, max_seconds=0.1, threads=2
    )
    valid = np.concatenate([batch.valid for batch in loader.batches()])
    assert np.flatnonzero(~valid).tolist() == [5]


def test_too_many_bad_samples_end_the_run_by_name(tmp_path: Path) -> None:
    store, chosen = damaged(tmp_path / "data", dict.fromkeys(range(0, 60, 6), "flac"))
    reader = SampleReader(store=store, cache=tmp_path)
    loader = Loader(chosen, reader, batch_size=30, max_bad_share=0.05, max_seconds=0.1, threads=2)
    with pytest.raises(BadSamplesError, match=r"more than max_bad_share = 0\.05 allows: ") as raised:
        for _ in itertools.islice(loader.batches(), 4):
            pass
    assert "sound does not decode" in str(raised.value)
    assert sum(key in str(raised.value) for key in chosen.keys) == min(5, len(loader.bad))
    assert "and " in str(raised.value).split(";")[-1] or len(loader.bad) <= 5


def test_samples_behind_a_tars_damage_are_bad_ones(tmp_path: Path) -> None:
    store = shard_folder(tmp_path / "data", (10, 10), seconds=SECONDS, side=SIDE)
    chosen = select_samples(store, splits=("balanced_train",))
    tar = tmp_path / "data" / f"{chosen.shards[1]}.tar"
    with tar.open("r+b") as file:
        file.truncate(tar.stat().st_size * 3 // 4)
    reader = SampleReader(store=store, cache=tmp_path)
    loader = Loader(chosen, reader, batch_size=20, max_bad_share=0.5, max_seconds=0.1, threads=2)
    batch = next(loader.batches())
    assert 2 <= len(loader.bad) <= 3
    assert all("it is cut short" in reason for reason in loader.bad.values())
    assert not set(loader.bad) & set(batch.keys)


def test_a_batch_larger_than_the_selection_is_refused(load: Callable[..., Loader]) -> None:
    with pytest.raises(ValueError, match="97 samples for batches of 98; expected at least one batch"):
        load(batch_size=98)
    assert load(batch_size=98, training=False).steps_per_epoch == 1


def test_batches_come_from_an_object_store_too(
    folder: Path,
    load: Callable[..., Loader],
    s3_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = open_store(s3_url)
    for name in open_store(folder).names():
        store.publish_bytes((folder / name).read_bytes(), name)
    near = [facts(batch) for batch in itertools.islice(load(batch_size=8, window=16).batches(), 15)]
    for blocks, warned in ((1000, False), (5, True)):
        caplog.clear()
        cache = tmp_path / f"far-{blocks}"
        far = SampleReader(store=store, cache=cache, cache_bytes=blocks * 70_000, block_bytes=1 << 16)
        loader = load(reader=far, batch_size=8, window=16)
        with far, contextlib.closing(loader.batches()) as batches:
            assert [facts(batch) for batch in itertools.islice(batches, 15)] == near
        assert ("may drive out what is needed soon" in caplog.text) == warned
