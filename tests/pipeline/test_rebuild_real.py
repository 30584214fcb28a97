"""Real files of ESC-50 and UrbanSound8K, where the folder with them is given."""

import csv
import os
from pathlib import Path

import pytest

from pipeline.esc50 import PUBLISHED as ESC50
from pipeline.esc50 import read_esc50
from pipeline.rebuild import RebuildSettings, rebuild
from pipeline.urbansound8k import PUBLISHED as URBANSOUND8K
from pipeline.urbansound8k import read_urbansound8k
from shards.query import open_manifest, run_query
from shards.store import open_store
from shards.verify import verify

pytestmark = pytest.mark.skipif(
    "TRICHORD_TEST_DATA" not in os.environ, reason="TRICHORD_TEST_DATA names no folder"
)


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(os.environ["TRICHORD_TEST_DATA"])


def test_esc10_gives_the_rows_of_its_table(data: Path, tmp_path: Path) -> None:
    settings = RebuildSettings(
        dataset="esc50", root=str(data / "esc10"), out=str(tmp_path / "out"), allow_partial=True, min_free=0
    )
    done = rebuild(settings)
    assert (done.outcomes, done.failed) == ({"ok": 400}, {})
    assert done.partial is not None
    assert (done.partial["expected"], done.partial["rows"], done.partial["missing"]) == (2000, 400, 0)
    with (data / "esc10" / "meta" / "esc50.csv").open(newline="") as file:
        rows = sorted(
            (row["filename"][:-4], f"fold{row['fold']}", row["category"]) for row in csv.DictReader(file)
        )
    manifest = open_manifest(open_store(tmp_path / "out"))
    found = list(run_query(manifest, "select key, split, mids[1] from segments order by key").rows())
    assert found == sorted(rows)
    assert verify(open_store(tmp_path / "out")).findings == ()


def test_the_published_tables_are_the_ones_we_know(data: Path, tmp_path: Path) -> None:
    for name, table in (("meta/esc50.csv", "esc50.csv"), ("metadata/UrbanSound8K.csv", "UrbanSound8K.csv")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((data / "metadata" / table).read_bytes())
    (tmp_path / "audio").mkdir()
    for listing, rows in ((read_esc50(tmp_path), 2000), (read_urbansound8k(tmp_path), 8732)):
        assert len(listing.items) == len(listing.missing) == rows
        assert (listing.short, listing.altered, listing.extra) == ({}, (), ())
        assert listing.published in (ESC50, URBANSOUND8K)


def test_the_folds_at_hand_are_the_published_ones(data: Path) -> None:
    assert read_esc50(data / "esc50-fold4").altered == ()
    assert set(read_esc50(data / "esc50-fold4").short) == {"fold1", "fold2", "fold3", "fold5"}
    slices = read_urbansound8k(data / "us8k")
    assert (slices.altered, slices.missing, slices.extra) == ((), (), ())
    assert list(slices.splits) == ["fold1", "fold2", "fold10"]
    assert {split for split in URBANSOUND8K.rows if split not in slices.short} == set(slices.splits)
