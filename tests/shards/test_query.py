"""Questions to a manifest: what is answered, what is refused and how, and the formats of an answer."""

import csv
import io
import json
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledgered_dataset import DOG, LedgeredDataset, attempt, segment
from rich.console import Console, RenderableType

from shards.layout import MANIFEST, ledger_name
from shards.manifest import Connection, ManifestError
from shards.outcome import Outcome
from shards.publication import publish_manifest
from shards.query import QueryError, describe_views, open_manifest, run_query
from shards.query_formats import answer_table, views_table, write_csv, write_file, write_json
from shards.store import open_store


@pytest.fixture
def dataset(tmp_path: Path) -> LedgeredDataset:
    made = LedgeredDataset.begin(tmp_path / "it's audioset", tmp_path)  # a quote in the path must not matter
    made.finish([attempt(segment(1, DOG)), attempt(segment(2), Outcome.PRIVATE)])
    publish_manifest(made.store, force=True)
    return made


@pytest.fixture
def manifest(dataset: LedgeredDataset) -> Connection:
    return open_manifest(dataset.store)


def rows(manifest: Connection, sql: str) -> list[tuple[object, ...]]:
    return list(run_query(manifest, sql).rows())


def printed(renderable: RenderableType, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ------------------------------------------------------------------------------------------------ opening


def test_a_stale_snapshot_is_not_believed(dataset: LedgeredDataset) -> None:
    dataset.finish([attempt(segment(3))])
    assert rows(open_manifest(dataset.store), "select count(*) from segments") == [(3,)]
    [(ledgers,)] = duckdb.connect(str(dataset.store.local_path(MANIFEST)), read_only=True).sql(
        "select count(*) from shards"
    ).fetchall()  # fmt: skip
    assert ledgers == 1  # what is published stays as it was: asking writes nothing into the dataset


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_without_a_readable_snapshot_the_ledgers_answer(
    dataset: LedgeredDataset, content: bytes | None
) -> None:
    dataset.store.delete(MANIFEST)
    if content is not None:
        dataset.store.publish_bytes(content, MANIFEST, replace=True)
    assert rows(open_manifest(dataset.store), "select count(*) from segments") == [(2,)]


def test_fresh_takes_nothing_from_the_snapshot(dataset: LedgeredDataset) -> None:
    path = dataset.store.local_path(MANIFEST)
    with duckdb.connect(str(path)) as con:
        con.execute("update attempts set outcome = 'invented'")
    asked = "select distinct outcome from segments order by 1"
    assert rows(open_manifest(dataset.store), asked) == [("invented",)]
    assert rows(open_manifest(dataset.store, fresh=True), asked) == [("ok",), ("private",)]


def test_a_snapshot_replaced_while_open_is_read_by_the_next_question(dataset: LedgeredDataset) -> None:
    before = open_manifest(dataset.store)
    dataset.finish([attempt(segment(3))])
    publish_manifest(dataset.store, force=True)
    assert rows(open_manifest(dataset.store), "select count(*) from segments") == [(3,)]
    assert rows(before, "select count(*) from segments") == [(2,)]


def test_a_folder_that_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="expected a dataset that `trichord ingest --out` made"):
        open_manifest(open_store(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_a_manifest_of_an_object_store_answers(s3_url: str, tmp_path: Path) -> None:
    dataset = LedgeredDataset.begin(f"{s3_url}/audioset", tmp_path)
    dataset.finish([attempt(segment(1))])
    assert rows(open_manifest(dataset.store), "from coverage select ok") == [(1,)]
    publish_manifest(dataset.store, force=True)
    assert rows(open_manifest(dataset.store), "from coverage select ok") == [(1,)]


# ------------------------------------------------------------------------------------------------- asking


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("from coverage select ok", (1,)),
        ("-- a comment\nselect ok from coverage;", (1,)),
        ("with c as (from coverage) select ok from c", (1,)),
        ("(select ok from coverage)", (1,)),
        ('select "end" - start from segments', (10.0,)),
        ("select unnest(classes) from segments where outcome = 'ok'", ("Dog",)),
        ("pivot segments on outcome using count(*) group by split", ("eval", 1, 1)),
        ("values (1)", (1,)),
    ],
)
def test_reading_statements_are_answered(manifest: Connection, sql: str, first: tuple[object, ...]) -> None:
    assert rows(manifest, sql)[0] == first


@pytest.mark.parametrize(
    "sql", ["describe coverage", "show tables", "summarize shards", "explain from pending"]
)
def test_statements_about_the_manifest_are_answered(manifest: Connection, sql: str) -> None:
    assert rows(manifest, sql)


def test_an_answer_that_is_not_read_to_its_end_blocks_nothing(manifest: Connection) -> None:
    first = run_query(manifest, "from segments").rows()
    next(first)
    assert rows(manifest, "select count(*) from segments") == [(2,)]
    assert next(first)


@pytest.mark.parametrize(
    "sql",
    [
        "drop table attempts",
        "insert into labels values (1, 'x', 'x', [])",
        "update attempts set outcome = 'ok'",
        "delete from attempts",
        "create table x (i int)",
        "attach 'x.duckdb'",
        "install httpfs",
        "set threads = 1",
        "copy segments to 'x.csv'",
        "export database 'x'",
        "call pragma_version()",
        "with x as (insert into labels values (1, 'x', 'x', []) returning *) from x",
        "explain analyze delete from attempts",
    ],
)
def test_everything_else_is_refused_in_one_line(manifest: Connection, sql: str) -> None:
    with pytest.raises(QueryError, match="a manifest is a snapshot that is only read") as refused:
        rows(manifest, sql)
    assert "\n" not in str(refused.value)
    assert rows(manifest, "select count(*) from segments") == [(2,)]


@pytest.mark.parametrize(
    "sql",
    ["from read_csv('{file}')", "from '{file}'", "from read_text('{file}')", "from glob('{file}*')"],
)
def test_files_outside_the_manifest_cannot_be_read(manifest: Connection, tmp_path: Path, sql: str) -> None:
    file = tmp_path / "private.csv"
    file.write_text("secret\n1\n")
    with pytest.raises(QueryError, match="disabled by configuration"):
        rows(manifest, sql.format(file=file))


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        (
            "from covrage",
            "no table or view covrage. Did you mean coverage? There are attempts, class_coverage,",
        ),
        ("select ytd from segments", 'Candidate bindings: "ytid"'),
        ("select end from segments", 'write "end" in double quotes'),
        ("from segments where split = eval", 'Referenced column "eval" not found'),
        ("selct 1", 'syntax error at or near "selct"'),
        ("select 1; select 2", "2 statements; expected one"),
        ("", "0 statements; expected one"),
        ("select message::int from segments where message is not null", "Could not convert string"),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_what_would_be_right(
    manifest: Connection, sql: str, answer: str
) -> None:
    with pytest.raises(QueryError) as wrong:
        rows(manifest, sql)
    assert answer in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_variable_of_the_program_is_no_table(manifest: Connection) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(QueryError, match="no table or view secret"):
        rows(manifest, "from secret")
    assert secret.num_rows == 1


def test_views_are_described_with_rows_columns_and_meaning(manifest: Connection) -> None:
    views = {view.name: view for view in describe_views(manifest)}
    wanted = {
        "segments", "attempts", "shards", "labels", "coverage", "class_coverage", "failures", "pending",
        "duplicates", "throughput", "skipped_rows", "identities",
    }  # fmt: skip
    assert wanted <= views.keys()
    assert views["segments"].rows == 2
    assert views["failures"].comment.startswith("Why there is no sample")
    [yield_column] = [column for column in views["coverage"].columns if column.name == "yield"]
    assert (yield_column.type, yield_column.comment) == ("DOUBLE", "ok / attempted.")
    assert "Why there is no sample" in printed(views_table(list(views.values())))


# ------------------------------------------------------------------------------------------------ formats

MIXED = (
    "select key, started_at, mids, sample_bytes, short, {'a': 1} as facts, map {'ok': 2} as counted, "
    "sum(requests) over () as total, 'nan'::double as odd from segments order by key"
)


def test_json_is_an_array_of_objects_with_iso_times(manifest: Connection) -> None:
    out = io.BytesIO()
    write_json(run_query(manifest, MIXED), out)
    first, second = json.loads(out.getvalue())
    assert first["key"] == segment(1).key
    assert datetime.fromisoformat(first["started_at"]) == attempt(segment(1)).started_at
    assert first["mids"] == [DOG]
    assert (first["facts"], first["counted"], first["total"], first["odd"]) == ({"a": 1}, {"ok": 2}, 6, None)
    assert second["sample_bytes"] is None


def test_json_of_no_rows_is_an_empty_array(manifest: Connection) -> None:
    out = io.BytesIO()
    write_json(run_query(manifest, "from segments where false"), out)
    assert json.loads(out.getvalue()) == []


def test_csv_has_a_heading_and_one_line_per_row(manifest: Connection) -> None:
    out = io.BytesIO()
    write_csv(run_query(manifest, MIXED), out)
    first, second = csv.DictReader(io.StringIO(out.getvalue().decode()))
    assert json.loads(first["mids"]) == [DOG]
    assert (first["short"], second["short"], second["sample_bytes"]) == ("false", "", "")


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_a_written_file_appears_whole_or_not_at_all(
    manifest: Connection, tmp_path: Path, format: str
) -> None:
    target = tmp_path / f"answer.{format}"
    fails_late = (
        "select if(i < 50000, '1', 'no number')::int as n from range(60000) as r(i) "
        "where i >= (select count(*) from segments)"
    )
    with pytest.raises(QueryError, match="Could not convert"):
        write_file(run_query(manifest, fails_late), format, target)
    assert not target.exists()
    write_file(run_query(manifest, "from segments"), format, target)
    assert target.stat().st_size > 100


def test_parquet_keeps_types_and_rows(manifest: Connection, tmp_path: Path) -> None:
    target = tmp_path / "answer.parquet"
    write_file(run_query(manifest, "from segments order by key"), "parquet", target)
    table = pq.read_table(target)
    assert table.column("mids").to_pylist()[0] == [DOG]
    assert table.num_rows == 2


def test_a_table_that_is_too_wide_becomes_blocks(manifest: Connection) -> None:
    narrow = printed(answer_table(run_query(manifest, "from coverage select split, ok, yield"), width=80), 80)
    assert "split" in narrow.splitlines()[1]
    assert "0.5" in narrow
    wide = printed(answer_table(run_query(manifest, "from segments order by key"), width=100), 100)
    assert f"pcm_sha256{'':10}{1:064x}" in wide


def test_long_texts_are_cut_before_a_table_becomes_blocks(manifest: Connection) -> None:
    asked = "select 'a' as first, repeat('long ', 30) as message, 'z' as last"
    lines = printed(answer_table(run_query(manifest, asked), width=60), 60).splitlines()
    [row] = [line for line in lines if "long" in line]
    assert row.split()[0] == "a"
    assert "…" in row
    assert row.split()[-1] == "z"


def test_a_table_says_when_there_is_more(manifest: Connection) -> None:
    shown = printed(answer_table(run_query(manifest, "select i from range(1000) as r(i)"), width=80, limit=5))
    assert "the first 5 rows; --format csv, json or parquet gives all" in shown
    assert "999" not in shown


def test_markup_in_a_message_is_shown_as_it_is(manifest: Connection) -> None:
    shown = printed(answer_table(run_query(manifest, "select '[red]alarm[/red]' as message"), width=80))
    assert "[red]alarm[/red]" in shown


def test_a_damaged_ledger_shows_up_in_shards(dataset: LedgeredDataset) -> None:
    bad = dataset.finish([attempt(segment(5))])
    dataset.store.publish_bytes(b"cut", ledger_name(bad), replace=True)
    manifest = open_manifest(dataset.store)
    [(named,)] = rows(manifest, "select shard from shards where problem is not null")
    assert named == bad
    assert rows(manifest, "select count(*) from segments") == [(2,)]
