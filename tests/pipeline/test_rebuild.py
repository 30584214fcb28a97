"""Published datasets and folders become shards: the same bytes each time, every difference named."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import soundfile
from small_datasets import KINDS, esc50_row, tone, write_esc50, write_table, write_us8k

from pipeline.archive import ArchiveError
from pipeline.esc50 import PUBLISHED, read_esc50
from pipeline.folder_dataset import read_folder
from pipeline.imagenet_val import read_imagenet_val, read_synsets
from pipeline.listing import ListingError, Published, rows_sha256
from pipeline.rebuild import ANNOTATIONS, Incomplete, RebuildSettings, Rebuilt, rebuild
from shards.labels import read_labels
from shards.layout import LABELS
from shards.profile import ProfileError, describe_partial, read_dataset
from shards.query import open_manifest, run_query
from shards.sound import decode_pcm
from shards.status import read_status
from shards.store import open_store
from shards.tar import read_samples
from shards.verify import verify

TWO_FOLDS = Published(rows={"fold1": 3, "fold2": 3})


def settings(dataset: str, out: Path | str, **more: Any) -> RebuildSettings:
    return RebuildSettings(dataset=dataset, out=str(out), min_free=0, **more)


def rebuilt(dataset: str, out: Path | str, published: Published = TWO_FOLDS, **more: Any) -> Rebuilt:
    done = rebuild(settings(dataset, out, **more), published=published)
    assert done.stopped is None
    return done


def tars(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.tar"))}


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    return {key: members for tar in sorted(folder.glob("*.tar")) for key, members in read_samples(tar)}


def asked(url: Path | str, sql: str) -> list[tuple[Any, ...]]:
    manifest = open_manifest(open_store(url))
    try:
        return list(run_query(manifest, sql).rows())
    finally:
        manifest.close()


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    root = tmp_path / "ESC-50-master"
    write_esc50(root)
    return root


# ------------------------------------------------------------------------------------------------- ESC-50


def test_esc50_becomes_a_split_for_each_fold_with_the_table_s_words(esc50: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rebuilt("esc50", out, root=str(esc50))
    assert (done.outcomes, done.shards, done.partial, done.failed) == ({"ok": 6}, 2, None, {})
    assert sorted(tars(out)) == ["esc50-fold1-000000.tar", "esc50-fold2-000000.tar"]
    members = samples(out)["2-2001-A-7"]
    assert sorted(members) == ["flac", "json", "txt"]
    assert members["txt"] == b"insects"
    pcm, rate = decode_pcm(members["flac"])
    given, _ = soundfile.read(esc50 / "audio" / "2-2001-A-7.wav", dtype="int16", always_2d=True)
    assert rate == 44_100
    np.testing.assert_array_equal(pcm, given)
    facts = json.loads(members["json"])
    assert facts["row"] == {
        **{"fold": 2, "target": 7, "category": "insects", "esc10": False, "src_file": "2001", "take": "A"}
    }
    assert (facts["id"], facts["split"], facts["mids"], facts["tag"]) == (
        "2001",
        "fold2",
        ["insects"],
        ["insects"],
    )
    assert verify(open_store(out), deep=True).findings == ()


def test_the_manifest_the_class_table_and_the_annotations_answer(esc50: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rebuilt("esc50", out, root=str(esc50))
    rows = asked(
        out,
        'select key, ytid, start, "end", split, classes, channels, source_sample_rate, audio_codec '
        "from segments order by key limit 1",
    )
    assert rows == [("1-1000-A-0", "1000", 0.0, 0.5, "fold1", ["dog"], 1, 44_100, "pcm_s16")]
    assert asked(out, "select split, planned, ok from coverage") == [("fold1", 3, 3), ("fold2", 3, 3)]
    labels = read_labels(out / LABELS)
    assert (len(labels), labels.index("hand_saw"), labels.names(["door_wood_knock"])) == (
        50,
        49,
        ("door wood knock",),
    )
    table = pq.read_table(out / ANNOTATIONS)
    assert table.column_names == ["key", "file", "fold", "target", "category", "esc10", "src_file", "take"]
    assert asked(out, "select count(*) from annotation_source where esc10") == [(2,)]
    assert table.slice(0, 1).to_pylist() == [
        {
            **{"key": "1-1000-A-0", "file": "audio/1-1000-A-0.wav", "fold": 1, "target": 0},
            **{"category": "dog", "esc10": True, "src_file": "1000", "take": "A"},
        }
    ]


def test_twice_the_same_rebuild_from_folder_or_archive_gives_the_same_bytes(
    esc50: Path, tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / "esc"), "zip", tmp_path, esc50.name)
    rebuilt("esc50", tmp_path / "one", root=str(esc50), jobs=1)
    rebuilt("esc50", tmp_path / "two", root=str(esc50), jobs=4)
    rebuilt("esc50", tmp_path / "three", archive=str(tmp_path / "esc.zip"))
    assert len(tars(tmp_path / "one")) == 2
    assert tars(tmp_path / "one") == tars(tmp_path / "two") == tars(tmp_path / "three")
    assert list((tmp_path / "three").glob("_work/archive-*")) == []


def test_what_killed_processes_unpacked_goes_and_what_living_ones_did_stays(
    esc50: Path, tmp_path: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / "esc"), "zip", tmp_path, esc50.name)
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    work = tmp_path / "out" / "_work"
    for pid in (gone.pid, os.getppid()):
        (work / f"archive-{socket.gethostname()}-{pid}-abc" / "files").mkdir(parents=True)
    rebuilt("esc50", tmp_path / "out", archive=archive)
    left = [folder.name for folder in work.glob("archive-*")]
    assert left == [f"archive-{socket.gethostname()}-{os.getppid()}-abc"]


def test_a_finished_dataset_is_left_as_it_is(esc50: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rebuilt("esc50", out, root=str(esc50))
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*-fold*")}
    again = rebuilt("esc50", out, root=str(esc50))
    assert (again.outcomes, again.shards, again.planned) == ({}, 0, 6)
    assert {file.name: file.stat().st_mtime_ns for file in out.glob("*-fold*")} == before


def test_an_archive_with_another_checksum_is_refused_before_anything_is_written(
    esc50: Path, tmp_path: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / "esc"), "zip", tmp_path, esc50.name)
    expected = Published(rows=TWO_FOLDS.rows, archive="md5:" + "0" * 32)
    with pytest.raises(ArchiveError, match="that of the published archive 000"):
        rebuild(settings("esc50", tmp_path / "out", archive=archive), published=expected)
    assert not (tmp_path / "out" / "dataset.json").exists()


# ---------------------------------------------------------------------------------- what is not as published


def test_missing_and_extra_files_are_named_and_fail(esc50: Path, tmp_path: Path) -> None:
    (esc50 / "audio" / "1-1001-A-7.wav").rename(esc50 / "audio" / "9-9-A-9.wav")
    (esc50 / "audio" / ".DS_Store").write_bytes(b"what a Finder leaves")
    with pytest.raises(Incomplete) as found:
        rebuild(settings("esc50", tmp_path / "out", root=str(esc50)), published=TWO_FOLDS)
    assert found.value.amiss == (
        "missing: the table names audio/1-1001-A-7.wav (1 in all)",
        "extra: no row of the table names audio/9-9-A-9.wav (1 in all)",
    )
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_what_was_allowed_to_be_missing_is_shown_by_every_view_of_the_dataset(
    esc50: Path, tmp_path: Path
) -> None:
    (esc50 / "audio" / "1-1001-A-7.wav").unlink()
    out = tmp_path / "out"
    done = rebuilt("esc50", out, root=str(esc50), allow_partial=True)
    partial = read_dataset(open_store(out)).partial
    assert partial is not None
    assert partial == done.partial
    assert describe_partial(partial) == "6 of 6 rows, 1 missing"
    assert partial["names"] == ["audio/1-1001-A-7.wav"]
    assert partial["names_sha256"] == hashlib.sha256(b"audio/1-1001-A-7.wav").hexdigest()
    assert read_status(open_store(out)).partial == partial
    assert asked(out, "select key, outcome from segments where outcome <> 'ok'") == [
        ("1-1001-A-7", "missing")
    ]
    assert asked(out, "select (dataset->>'$.partial.missing')::int from snapshot") == [(1,)]


def test_a_file_that_comes_later_makes_the_dataset_whole_with_the_bytes_of_a_whole_one(
    esc50: Path, tmp_path: Path
) -> None:
    rebuilt("esc50", tmp_path / "whole", root=str(esc50))
    file = esc50 / "audio" / "1-1001-A-7.wav"
    data = file.read_bytes()
    file.unlink()
    rebuilt("esc50", tmp_path / "out", root=str(esc50), allow_partial=True)
    file.write_bytes(data)
    done = rebuilt("esc50", tmp_path / "out", root=str(esc50))
    assert (done.outcomes, done.partial) == ({"ok": 3}, None)  # the other fold's shard was finished
    assert read_dataset(open_store(tmp_path / "out")).partial is None
    assert tars(tmp_path / "out") == tars(tmp_path / "whole")


def test_an_unreadable_file_has_its_outcome_and_the_dataset_says_so_until_it_is_mended(
    esc50: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", esc50 / "audio" / "2-2001-A-7.wav"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    done = rebuilt("esc50", out, root=str(esc50))
    assert list(done.failed) == ["2-2001-A-7"]
    assert "audio/2-2001-A-7.wav: cut short: " in done.failed["2-2001-A-7"]
    assert done.partial is not None
    assert describe_partial(done.partial) == "6 of 6 rows, 1 failed"
    assert asked(out, "select outcome, disposition from failures") == [("corrupt", "permanent")]
    assert verify(open_store(out), deep=True).findings == ()
    accepted = rebuilt("esc50", out, root=str(esc50), allow_partial=True)
    assert (accepted.shards, accepted.partial) == (0, done.partial)
    file.write_bytes(data)
    mended = rebuilt("esc50", out, root=str(esc50))
    assert (mended.outcomes, mended.failed, mended.partial) == ({"ok": 3}, {}, None)


def test_a_fold_with_rows_of_another_is_found_out_though_the_numbers_agree(tmp_path: Path) -> None:
    root = tmp_path / "ESC-50-master"
    rows = write_esc50(root, folds=1, each=3)
    true = read_esc50(root, Published())
    known = Published(rows={"fold1": 3}, sha256={"fold1": rows_sha256(true.items)})
    assert read_esc50(root, known).amiss() == []
    other = esc50_row(1, 4711, 3)
    (root / "audio" / str(rows[0]["filename"])).rename(root / "audio" / str(other["filename"]))
    write_table(root / "meta" / "esc50.csv", [other, *rows[1:]])
    assert read_esc50(root, known).amiss() == ["fold1 has the published number of rows, but other rows"]


def test_another_number_of_rows_than_published_is_an_error_for_each_fold(esc50: Path, tmp_path: Path) -> None:
    with pytest.raises(Incomplete) as found:
        rebuild(settings("esc50", tmp_path / "out", root=str(esc50)))
    assert "fold1 has 3 rows, published 400" in found.value.amiss
    assert len(found.value.amiss) == len(PUBLISHED.rows)
    with pytest.raises(Incomplete, match="give --allow-partial"):
        raise found.value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fold": 2}, "expected those of its name"),
        ({"category": "cat"}, "expected ESC-50's own classes"),
        ({"fold": "one"}, r"line 2: fold is 'one'; expected a whole number"),
        ({"filename": "1-1000-A-0.tar.wav"}, "cannot name a sample"),
    ],
)
def test_a_table_that_was_changed_is_refused_by_its_line(
    esc50: Path, change: Mapping[str, object], said: str
) -> None:
    rows = list(csv.DictReader((esc50 / "meta" / "esc50.csv").open()))
    write_table(esc50 / "meta" / "esc50.csv", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(ListingError, match=said):
        read_esc50(esc50)


def test_a_folder_that_is_another_dataset_s_is_refused_in_one_line(esc50: Path, tmp_path: Path) -> None:
    with pytest.raises(ListingError, match=r"no metadata/UrbanSound8K\.csv in it"):
        rebuild(settings("urbansound8k", tmp_path / "out", root=str(esc50)))
    write_us8k(tmp_path / "us8k")
    rebuilt("esc50", tmp_path / "out", root=str(esc50))
    with pytest.raises(ProfileError, match="name is 'esc50' there, 'us8k' here"):
        rebuild(settings("urbansound8k", tmp_path / "out", root=str(tmp_path / "us8k"), allow_partial=True))


# ------------------------------------------------------------------------------------------- UrbanSound8K


def test_urbansound8k_keeps_channels_and_level_whatever_the_format(tmp_path: Path) -> None:
    root = tmp_path / "UrbanSound8K"
    rows = write_us8k(root)
    folds = Published(rows={"fold1": 6, "fold2": 6})
    out = tmp_path / "out"
    rebuilt("urbansound8k", out, folds, root=str(root))
    found = samples(out)
    for row, (rate, channels, _) in zip(rows, KINDS, strict=True):
        members = found[str(row["slice_file_name"]).removesuffix(".wav")]
        pcm, at = decode_pcm(members["flac"])
        assert (at, pcm.shape[1]) == (44_100, channels)
        frames = soundfile.info(root / "audio" / f"fold{row['fold']}" / str(row["slice_file_name"])).frames
        assert len(pcm) == -(-frames * 44_100 // rate)
        wanted = tone(400, channels=channels)[2000:-2000] * 32768
        off = np.std(pcm[2000 : 2000 + len(wanted)] - wanted)
        assert off < 0.02 * np.std(wanted), row  # ADPCM loses most; a stretch to full scale would be 1
        source = json.loads(members["json"])["source"]
        assert (source["sample_rate"], source["channels"]) == (rate, channels)
    rows_found = asked(out, 'select distinct start, "end", split from segments order by split')
    assert rows_found == [(12.5, 13.0, "fold1"), (12.5, 13.0, "fold2")]
    assert asked(
        out, "select count(distinct channels), count(distinct source_sample_rate) from segments"
    ) == [(2, len({rate for rate, _, _ in KINDS}))]
    again = tmp_path / "again"
    rebuilt("urbansound8k", again, folds, root=str(root))
    assert tars(out) == tars(again)


def test_a_slice_in_the_wrong_fold_s_folder_is_missing_there_and_extra_here(tmp_path: Path) -> None:
    root = tmp_path / "UrbanSound8K"
    name = str(write_us8k(root)[0]["slice_file_name"])
    (root / "audio" / "fold1" / name).rename(root / "audio" / "fold2" / name)
    with pytest.raises(Incomplete) as found:
        rebuild(settings("urbansound8k", tmp_path / "out", root=str(root)))
    assert f"missing: the table names audio/fold1/{name} (1 in all)" in found.value.amiss
    assert f"extra: no row of the table names audio/fold2/{name} (1 in all)" in found.value.amiss


def test_loud_files_are_clipped_and_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "loud.wav", 4 * tone(100), 44_100, "FLOAT")
    write_table(tmp_path / "in" / "t.csv", [{"file": "loud.wav", "label": "siren"}])
    done = rebuilt(
        "folder", tmp_path / "out", root=str(tmp_path / "in"), table=str(tmp_path / "in" / "t.csv")
    )
    assert done.clipped == 1
    ((message, peak),) = asked(tmp_path / "out", "select message, peak_dbfs from segments")
    assert message.endswith("of 22050 samples clipped to 16 bits")
    assert peak == 0


# -------------------------------------------------------------------------------------- folders and pictures


def jpeg(brightness: int, size: tuple[int, int] = (40, 60)) -> bytes:
    return simplejpeg.encode_jpeg(np.full((*size, 3), brightness, np.uint8), quality=90)


def write_imagenet(root: Path, wnids: Sequence[str]) -> None:
    for number, wnid in enumerate(wnids, start=1):
        file = root / wnid / f"ILSVRC2012_val_{number:08d}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(10 * number))


def test_pictures_are_kept_to_the_byte_and_have_no_sound(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "val", ["n01440764", "n03126707", "n01440764"])
    out = tmp_path / "out"
    done = rebuilt("imagenet-val", out, Published(rows={"val": 3}), root=str(tmp_path / "val"), jobs=2)
    assert (done.outcomes, done.partial) == ({"ok": 3}, None)
    members = samples(out)["ILSVRC2012_val_00000002"]
    assert sorted(members) == ["0.jpg", "jpg", "json", "txt"]
    assert members["0.jpg"] == members["jpg"] == jpeg(20)
    assert members["txt"] == b"crane"
    assert json.loads(members["json"])["row"] == {"wnid": "n03126707", "target": 517}
    assert verify(open_store(out), deep=True).findings == ()
    assert asked(out, "select width, height, audio_s from segments limit 1") == [(60, 40, None)]


def test_pictures_in_one_folder_get_their_classes_from_a_list(tmp_path: Path) -> None:
    wnids = ["n01440764", "n03126707"]
    write_imagenet(tmp_path / "val", wnids)
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (tmp_path / "val").rglob("*.JPEG"):
        shutil.copy(file, flat)
    truths = {
        "LOC_val_solution.csv": "ImageId,PredictionString\n"
        + "".join(f"ILSVRC2012_val_{n:08d},{wnid} 85 1 499 272 \n" for n, wnid in enumerate(wnids, 1)),
        "pairs.txt": "".join(f"ILSVRC2012_val_{n:08d}.JPEG {wnid}\n" for n, wnid in enumerate(wnids, 1)),
        "synsets.txt": "".join(f"{wnid}\n" for wnid in wnids),
    }
    published = Published(rows={"val": 2})
    folders = [item.mids for item in read_imagenet_val(tmp_path / "val", None, published).items]
    for name, text in truths.items():
        (tmp_path / name).write_text(text)
        listing = read_imagenet_val(flat, tmp_path / name, published)
        assert [item.mids for item in listing.items] == folders == [(wnid,) for wnid in wnids]
        assert listing.amiss() == []
    (tmp_path / "kit.txt").write_text("490\n361\n")
    with pytest.raises(ListingError, match="numbers the classes as the ILSVRC kit does"):
        read_imagenet_val(flat, tmp_path / "kit.txt", published)
    with pytest.raises(ListingError, match="expected a WordNet id"):
        read_imagenet_val(flat, None, published)


def test_a_missing_picture_is_named_and_the_thousand_classes_are_in_their_order(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "val", ["n01440764", "n03126707"])
    listing = read_imagenet_val(tmp_path / "val", None, Published(rows={"val": 3}))
    assert listing.missing == ("ILSVRC2012_val_00000003",)
    labels = read_synsets()
    assert (len(labels), labels.index("n01440764"), labels.index("n15075141")) == (1000, 0, 999)


def test_a_picture_that_was_cut_short_fails_and_one_of_another_format_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = simplejpeg.encode_jpeg(noise, quality=95)
    for name, content in {
        "cut.jpg": whole[: len(whole) // 2],
        "a.png": b"\x89PNG",
        "good.jpg": whole,
    }.items():
        (tmp_path / "in" / name).write_bytes(content)
    rows = [{"file": name, "label": "noise"} for name in ("cut.jpg", "a.png", "good.jpg")]
    write_table(tmp_path / "t.csv", rows)
    done = rebuilt("folder", tmp_path / "out", root=str(tmp_path / "in"), table=str(tmp_path / "t.csv"))
    assert done.outcomes == {"corrupt": 1, "unsupported": 1, "ok": 1}
    assert "expected pictures as JPEG" in done.failed["a"]


def test_a_folder_with_a_table_goes_the_same_way(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    names = ["a.wav", "deep/a b.wav", "deep/a-b.flac", "ü.wav"]
    for place, name in enumerate(names):
        soundfile.write(root / name, tone(300 + place, 0.2, 22_050), 22_050)
    labels = ["Dog", "Dog|Air conditioner", "Siren", "Siren"]
    folds = ["1", "2", "2", "test"]
    rows = [
        {"file": file, "label": label, "fold": fold, "caption_1": f"number {place}", "caption_2": "x" * place}
        for place, (file, label, fold) in enumerate(zip(names, labels, folds, strict=True))
    ]
    write_table(root / "t.csv", rows)
    (root / "README.txt").write_text("no sound")
    out = tmp_path / "out"
    done = rebuilt("folder", out, Published(), root=str(root), table=str(root / "t.csv"), name="mine")
    assert (done.outcomes, done.amiss, done.partial) == ({"ok": 4}, (), None)
    assert sorted(tars(out)) == [f"mine-{split}-000000.tar" for split in ("fold1", "fold2", "test")]
    found = samples(out)
    # the names of files that cannot name samples get a hash behind them
    assert sorted(re.sub("-[0-9a-f]{8}$", "-…", key) for key in found) == [
        "a",
        "deep_a-b",
        "deep_a-b-…",
        "file-…",
    ]
    (both,) = [members for members in found.values() if b"Air" in members["txt"]]
    assert both["txt"] == b"Dog, Air conditioner"
    row = {"label": "Dog|Air conditioner", "fold": "2", "caption": ["number 1", "x"]}
    assert json.loads(both["json"])["row"] == row
    assert asked(out, "select name from labels order by index") == [
        ("Air conditioner",),
        ("Dog",),
        ("Siren",),
    ]
    assert pq.read_table(out / ANNOTATIONS)["caption"].to_pylist()[:2] == [["number 0"], ["number 1", "x"]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"file": "../a.wav", "label": "x"}], "expected a path within the folder"),
        ([{"file": "a.wav", "label": " "}], "has no label"),
        ([{"file": "a.wav", "label": "x"}, {"file": "a.wav", "label": "y"}], "is in 2 rows"),
        ([{"file": "a.wav", "label": "Dog bark"}, {"file": "b.wav", "label": "dog_bark"}], "spelling alone"),
        ([{"file": "a.wav", "label": "x", "fold": "one/two"}], "fold is 'one/two'"),
        ([{"name": "a.wav", "label": "x"}], "no column file"),
        ([{"file": "a.wav", "label": "x", "start": "1"}], "columns start mean something of their own"),
    ],
)
def test_a_table_that_cannot_be_meant_so_is_refused(
    rows: list[dict[str, str]], said: str, tmp_path: Path
) -> None:
    write_table(tmp_path / "t.csv", rows)
    with pytest.raises(ListingError, match=said):
        read_folder(tmp_path, tmp_path / "t.csv", "mine")


# ------------------------------------------------------------------------------------- stores and settings


def test_an_object_store_gets_the_same_bytes_as_a_folder(esc50: Path, tmp_path: Path, s3_url: str) -> None:
    rebuilt("esc50", tmp_path / "out", root=str(esc50))
    url = f"{s3_url}/esc50"
    done = rebuilt("esc50", url, root=str(esc50), work=str(tmp_path / "work"))
    store = open_store(url)
    assert done.outcomes == {"ok": 6}
    assert verify(store, deep=True).findings == ()
    there = {
        name: hashlib.sha256(store.read_bytes(name)).hexdigest()
        for name in store.names("esc50-")
        if name.endswith(".tar")
    }
    assert there == tars(tmp_path / "out")
    assert not any((tmp_path / "work").iterdir())


def test_shards_of_another_size_than_it_was_begun_with_are_refused(esc50: Path, tmp_path: Path) -> None:
    rebuilt("esc50", tmp_path / "out", root=str(esc50), samples_per_shard=2)
    assert len(tars(tmp_path / "out")) == 4
    with pytest.raises(ListingError, match="begun with shards of other sizes, of 2 samples at most"):
        rebuild(settings("esc50", tmp_path / "out", root=str(esc50)), published=TWO_FOLDS)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "either --root FOLDER or --archive FILE"),
        ({"root": "a", "archive": "b"}, "either --root FOLDER or --archive FILE"),
        ({"root": "a", "jobs": 0}, "--jobs is 0"),
        ({"root": "a", "dataset": "esc51"}, "expected esc50, urbansound8k"),
        ({"root": "a", "dataset": "folder"}, "--table CSV"),
    ],
)
def test_settings_that_make_no_sense_say_what_does(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ListingError, match=said):
        RebuildSettings(**{"dataset": "esc50", "out": "x", **more})


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme", b"hello")
    with pytest.raises(ListingError, match=r"no meta/esc50\.csv in it"):
        rebuild(settings("esc50", tmp_path / "out", archive=str(tmp_path / "a.zip")))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tape:
        info = tarfile.TarInfo("readme")
        info.size = 5
        tape.addfile(info, io.BytesIO(b"hello"))
    with pytest.raises(ArchiveError, match="its md5 is"):
        rebuild(settings("urbansound8k", tmp_path / "out", archive=str(tmp_path / "a.tar.gz")))
