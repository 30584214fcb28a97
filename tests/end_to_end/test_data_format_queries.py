"""docs/data-format.md is true: its queries answer, its commands run, its tables are the code's."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from ingestions import ROOT
from ledgered_dataset import BARK, DOG, MUSIC, NOON, SPEECH, LedgeredDataset, attempt, segment

from shards import ledger
from shards.layout import MANIFEST, ledger_name
from shards.manifest import Connection
from shards.outcome import Outcome
from shards.publication import publish_manifest
from shards.query import describe_views, open_manifest, run_query
from shards.query_formats import plain as plain_value

PAGE = (ROOT / "docs" / "data-format.md").read_text(encoding="utf-8")
QUERIES = dict(
    re.findall(r"^\*\*([^*]+)\*\*.*?^```sql\n(.*?)^```$", PAGE.split("## Queries\n")[1], flags=re.M | re.S)
)


# A question of the page → the first row that the dataset below must answer it with.
ANSWERS: dict[str, dict[str, Any]] = {
    "Which classes lost most?": {"name": "Speech", "split": "eval", "planned": 4, "percent": 25.0},
    "What failed, and why?": {"outcome": "geo_blocked", "disposition": "permanent", "segments": 2},
    "Which videos are blocked in this country?": {
        "ytid": "video00006A",
        "page": "https://www.youtube.com/watch?v=video00006A",
    },
    "Which samples are silent, or a still picture?": {"key": "video00003A_30000", "silent_share": 1.0},
    "Which sound occurs twice, and does any leak from training into evaluation?": {
        "keys": ["video00001A_30000", "video00020A_30000"],
        "leak": True,
    },
    "How many hours of each class?": {"name": "Dog", "samples": 5},
    "How fast was it?": {"segments": 10, "ok": 6},
    "What is worth trying again?": {"reason": "blocked: bot_check", "segments": 1},
    "Which classes occur together?": {"one": "Dog", "two": "Music", "together": 3, "jaccard": 0.6},
    "How far are frames from where they should be?": {
        "samples": 6,
        "median_s": 0.01,
        "max_s": 0.25,
        "beyond_one_frame": 1,
    },
    "What were the sources like?": {"width": 640, "height": 360, "samples": 5},
    "In which shard is this video?": {"key": "video00001A_30000", "tar": "audioset-eval-000000.tar"},
    "Which shards have samples of a class?": {"tar": "audioset-balanced_train-000000.tar", "samples": 1},
    "Was an identity blocked, and when last?": {"identity": "direct", "blocked": 1, "requests": 30},
    "Is every ledger readable?": {"shard": "audioset-eval-000001"},
    "What did the segments file get wrong?": {"file": "eval_segments.csv", "line": 9},
}


def outcomes() -> Iterator[ledger.Attempt]:
    """A shard's worth of everything that the page asks about."""
    yield attempt(segment(1, DOG, MUSIC), pcm_sha256="twice")
    yield attempt(segment(2, DOG, MUSIC), width=1280, height=720)
    yield attempt(segment(3, DOG, MUSIC), silent_share=1.0, rms_dbfs=float("-inf"))
    yield attempt(segment(4, DOG, BARK), still=True, stillness=1.0)
    late = tuple(0.5 + place + (0.25 if place == 4 else 0.0) for place in range(10))
    yield attempt(segment(5, SPEECH), frame_times=late)
    yield attempt(segment(6, DOG, BARK), Outcome.GEO_BLOCKED)
    yield attempt(segment(7, SPEECH), Outcome.GEO_BLOCKED)
    yield attempt(segment(8, SPEECH), Outcome.BOT_CHECK)
    yield attempt(segment(9, SPEECH), Outcome.NETWORK, finished_at=NOON + timedelta(minutes=30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/audioset` in it, one ledger of which is damaged."""
    folder = tmp_path_factory.mktemp("data-format")
    dataset = LedgeredDataset.begin(folder / "data" / "audioset", folder)
    dataset.plan([each for each in map(segment, range(1, 10))], per_shard=20)
    dataset.finish(outcomes(), "audioset-eval-000000")
    dataset.finish([attempt(segment(20, DOG, split="balanced_train"), pcm_sha256="twice")])
    damaged = dataset.finish([attempt(segment(30))])
    dataset.store.publish_bytes(b"cut off", ledger_name(damaged), replace=True)
    dataset.skip((9, "abc, 1, 2", "4 fields expected, found 3"))
    publish_manifest(dataset.store, force=True)
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Iterator[Connection]:
    with open_manifest(LedgeredDataset.begin(folder / "data" / "audioset", folder).store) as manifest:
        yield manifest


def test_every_query_of_the_page_has_an_expected_answer() -> None:
    assert QUERIES.keys() == ANSWERS.keys()
    assert len(QUERIES) == PAGE.count("```sql") >= 12


@pytest.mark.parametrize("question", ANSWERS)
def test_the_query_answers_its_question(manifest: Connection, question: str) -> None:
    answer = run_query(manifest, QUERIES[question])
    first = dict(zip(answer.columns, next(answer.rows()), strict=True))
    for name, expected in ANSWERS[question].items():
        assert first[name] == (pytest.approx(expected) if isinstance(expected, float) else expected), name


@pytest.mark.parametrize("question", ANSWERS)
def test_duckdb_alone_gives_the_same_rows(manifest: Connection, folder: Path, question: str) -> None:
    ours = run_query(manifest, QUERIES[question]).rows()
    with duckdb.connect(str(folder / "data" / "audioset" / MANIFEST), read_only=True) as plain:
        plain.execute("SET TimeZone = 'UTC'")
        theirs = plain.sql(QUERIES[question]).fetchall()
    assert sorted(map(json_text, theirs)) == sorted(map(json_text, ours))


def json_text(row: tuple[object, ...]) -> str:
    return json.dumps([plain_value(value) for value in row])


def test_the_page_s_commands_and_prompts_run(folder: Path) -> None:
    commands = [line for line in PAGE.splitlines() if line.startswith("trichord ")]
    assert len(commands) == 3
    shim = f'trichord() {{ "{sys.executable}" -m flows.cli "$@"; }}\n'
    program = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.M | re.S)
    steps = [["bash", "-euc", shim + "\n".join(commands)], [sys.executable, "-c", program[0]]]
    # the damaged ledger is another test's
    whole = folder / "data" / "audioset" / "audioset-eval-000001.parquet"
    whole.rename(folder / "aside")
    try:
        for step in steps:
            environment = {**os.environ, "COLUMNS": "120"}
            done = subprocess.run(
                step, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "geo_blocked" in done.stdout or "class_coverage" in done.stdout
    finally:
        (folder / "aside").rename(whole)
    assert duckdb.sql(f"select key from '{folder}/still.parquet'").fetchall() == [("video00004A_30000",)]


def table(*head: str) -> list[list[str]]:
    """The cells of the page's table with these columns."""
    lines = PAGE.splitlines()
    rows = []
    for line in lines[lines.index(f"| {' | '.join(head)} |") + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_table_of_columns_is_the_ledger_s(manifest: Connection) -> None:
    meanings = {
        column.name: column.comment
        for view in describe_views(manifest)
        if view.name == "attempts"
        for column in view.columns
    }
    rows = table("column", "type", "what it is")
    assert [name.strip("`") for name, _, _ in rows] == ledger.SCHEMA.names
    for name, kind, meaning in rows:
        written = str(ledger.SCHEMA.field(name.strip("`")).type)
        assert kind.split()[0] in written or (kind.startswith("list of") and written.startswith("list"))
        assert meaning == meanings[name.strip("`")]


def test_the_table_of_views_is_the_manifest_s(manifest: Connection) -> None:
    rows = table("view or table", "what it is")
    assert [[f"`{view.name}`", view.comment] for view in describe_views(manifest)] == rows
