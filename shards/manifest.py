"""What manifest.duckdb is made of: every ledger, plan and label of a dataset, in one DuckDB file."""

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
import pyarrow as pa

from shards import ledger
from shards.annotations import is_annotation, key_fault, table_name
from shards.layout import DATASET, LABELS, MANIFEST, PLAN_FOLDER, is_shard_name
from shards.ledger import ShardRecord, read_record
from shards.store import Entry, Store

SCHEMA_FILE = Path(__file__).with_name("schema.sql")
STORAGE_VERSION = "v1.4.0"  # what every DuckDB that this project supports can open
BUILD_MEMORY = "512MB"  # 4,000 ledgers pass through it; the rest spills beside the target
FETCHES = 16  # at once, from an object store

_UNREADABLE = (OSError, ValueError, TypeError, KeyError, pa.ArrowException)

Connection = duckdb.DuckDBPyConnection


class ManifestError(Exception):
    """There is nothing to make a manifest of; the message is one line and says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What went into a manifest."""

    sources: tuple[Entry, ...]
    added: int  # ledgers that were read; the others came from the snapshot before
    problems: Mapping[str, str]  # file → why it could not be read; everything else is in
    seconds: float


def list_sources(store: Store) -> list[Entry]:
    """The files that a manifest is made of."""
    return [entry for entry in store.entries() if _is_source(entry.name)]


def fingerprint(sources: Iterable[Entry]) -> str:
    """A hash that changes when a source does, or what is made of them."""
    facts = [(entry.name, entry.size, entry.mtime) for entry in sources]
    return hashlib.sha256(f"{_schema_sha256()} {facts}".encode()).hexdigest()


def is_ledger(name: str) -> bool:
    return name.endswith(".parquet") and is_shard_name(name.removesuffix(".parquet"))


def _is_source(name: str) -> bool:
    in_plan = name.startswith(f"{PLAN_FOLDER}/") and name.endswith(".parquet")
    return in_plan or is_ledger(name) or is_annotation(name) or name in (DATASET, LABELS)


def build_manifest(store: Store, target: Path, *, previous: bool = False) -> Build:
    """Write a manifest of the store's files to `target`, where it appears whole.

    With `previous` the store's own `manifest.duckdb` is the start, and only ledgers that it lacks are read.
    Files that cannot be read are named in the answer and in the tables `sources` and `shards`.
    Raises ManifestError when the store holds no dataset.
    """
    begun = time.monotonic()
    sources = list_sources(store)
    if not sources:
        raise ManifestError(
            f"{store.url} holds no ledgers and no plan; expected a dataset that `trichord ingest --out` made"
        )
    partial = target.with_name(f"{target.name}.partial")
    with contextlib.closing(_begun(store, partial, previous)) as con:
        new = _forget_changed(con, sources)
        problems = _add_ledgers(con, store, new)
        _mark_current(con)
        problems |= _add_rest(con, store, sources)
        _sign(con, store, sources, problems)
        con.execute("CHECKPOINT")
    partial.replace(target)
    return Build(sources=tuple(sources), added=len(new), problems=problems, seconds=time.monotonic() - begun)


def _begun(store: Store, target: Path, previous: bool) -> Connection:
    """The database to fill: a copy of the published one where that is of use, else an empty one."""
    if previous:
        store.fetch(MANIFEST, target)
        with contextlib.suppress(duckdb.Error):
            con = _writable(target)
            if con.execute("SELECT schema_sha256 FROM snapshot").fetchall() == [(_schema_sha256(),)]:
                return con
            con.close()
    target.unlink(missing_ok=True)
    con = _writable(target)
    con.execute("BEGIN")  # one for all: each would wait for the disk
    con.execute(SCHEMA_FILE.read_text())
    _comment_segments(con)
    con.execute("COMMIT")
    return con


def connect() -> Connection:
    """An empty database in memory that asks no server for extensions, and takes no variable for a table."""
    return duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
    )


def _writable(target: Path) -> Connection:
    con = connect()
    con.execute(f"SET memory_limit = '{BUILD_MEMORY}'; SET preserve_insertion_order = false")
    con.execute(f"SET temp_directory = {quoted(target.with_name('spill'))}")
    con.execute(f"ATTACH {quoted(target)} AS manifest (STORAGE_VERSION '{STORAGE_VERSION}'); USE manifest")
    return con


def quoted(path: Path) -> str:
    """A path as an SQL string, for the statements that take no parameters."""
    return "'" + str(path).replace("'", "''") + "'"


def _schema_sha256() -> str:
    return hashlib.sha256(SCHEMA_FILE.read_bytes()).hexdigest()


def _comment_segments(con: Connection) -> None:
    """Give the columns of `segments` the words of `attempts`: they mean the same."""
    comments = con.execute(
        "SELECT column_name, comment FROM duckdb_columns() WHERE database_name = 'manifest' "
        "AND table_name = 'attempts' AND column_name NOT IN ('is_current', 'tries')"
    ).fetchall()
    for column, comment in comments:
        text = comment.replace("'", "''")
        con.execute(f"COMMENT ON COLUMN segments.\"{column}\" IS '{text}'")


def _forget_changed(con: Connection, sources: Sequence[Entry]) -> list[str]:
    """Drop the rows of ledgers that are gone or not as they were; the ledgers that are to be read."""
    known = dict(con.execute("SELECT name, (bytes, mtime) FROM sources WHERE problem IS NULL").fetchall())
    same = {entry.name for entry in sources if known.get(entry.name) == (entry.size, entry.mtime)}
    gone = [_stem(name) for name in _ledgers_of(con) if name not in same]
    for table in ("attempts", "shards"):
        con.execute(f"DELETE FROM {table} WHERE list_contains($1, shard)", [gone]) if gone else None
    return [entry.name for entry in sources if is_ledger(entry.name) and entry.name not in same]


def _ledgers_of(con: Connection) -> list[str]:
    return [name for (name,) in con.execute("SELECT name FROM sources").fetchall() if is_ledger(name)]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _add_ledgers(con: Connection, store: Store, names: Sequence[str]) -> dict[str, str]:
    """Read ledgers into `attempts` and `shards`; which of them cannot be read, and why."""
    with local_copies(store, names) as copies, ThreadPoolExecutor(FETCHES) as threads:
        found = dict(zip(copies, threads.map(_record, copies.values()), strict=True))
        problems = {name: record for name, record in found.items() if isinstance(record, str)}
        good = {name: path for name, path in copies.items() if name not in problems}
        problems |= insert_readable(con, _INSERT_ATTEMPTS, good)
    _add_shards(con, found, problems)
    return problems


_LEDGER_COLUMNS = ", ".join(f'"{name}"' for name in ledger.SCHEMA.names)
_INSERT_ATTEMPTS = f"""
INSERT INTO attempts BY NAME
SELECT {_LEDGER_COLUMNS}, file_row_number AS position, TRUE AS is_current, attempts AS tries
FROM (
    SELECT * REPLACE (parse_filename(filename, TRUE) AS shard)
    FROM read_parquet($files, filename = TRUE, file_row_number = TRUE)
)
"""
_INSERT_UNTRIED = """
INSERT INTO untried BY NAME
SELECT DISTINCT ON (key) key, ytid, start, "end", split, mids, shard
FROM read_parquet($files) AS planned
ANTI JOIN attempts USING (key)
ORDER BY shard
"""
_INSERT_LABELS = "INSERT INTO labels BY NAME SELECT index, mid, name, parents FROM read_parquet($files)"
_INSERT_SKIPPED = "INSERT INTO skipped_rows BY NAME SELECT file, line, text, reason FROM read_parquet($files)"


def _record(path: Path) -> ShardRecord | str:
    try:
        return read_record(path)
    except _UNREADABLE as error:
        return one_line(error)


def insert_readable(con: Connection, sql: str, files: Mapping[str, Path]) -> dict[str, str]:
    """Run an INSERT over Parquet files; when it fails, over those that can be read: the others, and why."""
    if not files:
        return {}
    try:
        con.execute(sql, {"files": [str(path) for path in files.values()]})
    except duckdb.Error as error:
        problems = {name: why for name, path in files.items() if (why := _fault(path))}
        if not problems:
            raise ManifestError(f"{next(iter(files))} and others: {one_line(error)}") from error
        good = {name: path for name, path in files.items() if name not in problems}
        return problems | insert_readable(con, sql, good)
    return {}


def _fault(path: Path) -> str | None:
    """Why a Parquet file cannot be read to its end."""
    try:
        with duckdb.connect() as con:
            con.execute("SELECT max(hash(COLUMNS(*))) FROM read_parquet($1)", [str(path)]).fetchall()
    except duckdb.Error as error:
        return one_line(error)
    return None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _add_shards(con: Connection, found: Mapping[str, ShardRecord | str], problems: Mapping[str, str]) -> None:
    empty: dict[str, Any] = dict.fromkeys(ShardRecord.__dataclass_fields__)
    rows = [
        {
            **(empty if isinstance(record, str) else asdict(record)),
            "outcomes": [] if isinstance(record, str) else list(record.outcomes.items()),
            "shard": _stem(name),
            "problem": problems.get(name),
        }
        for name, record in found.items()
    ]
    records = pa.Table.from_pylist(rows, schema=_SHARDS)
    con.register("records", records)
    con.execute(
        "INSERT INTO shards BY NAME SELECT * REPLACE (written_at::TIMESTAMPTZ AS written_at) FROM records"
    )
    con.unregister("records")


_SHARDS = pa.schema(
    [
        ("shard", pa.string()),
        ("split", pa.string()),
        ("rows", pa.int64()),
        ("samples", pa.int64()),
        ("tar_bytes", pa.int64()),
        ("tar_sha256", pa.string()),
        ("outcomes", pa.map_(pa.string(), pa.int64())),
        ("profile_hash", pa.string()),
        ("written_at", pa.string()),
        ("run", pa.string()),
        ("format_version", pa.int32()),
        ("problem", pa.string()),
    ]
)


def _mark_current(con: Connection) -> None:
    """Choose the row that stands for each segment that has several; most have one, and stay as they are.

    Later is what has the higher shard number: machines may disagree about the hour.
    """
    con.execute(
        """
        WITH again AS (
            SELECT key FROM attempts GROUP BY key
            HAVING count(*) > 1 OR NOT bool_and(is_current) OR bool_or(tries <> attempts)
        ), ranked AS (
            SELECT
                rowid AS place,
                row_number() OVER (
                    PARTITION BY key
                    ORDER BY outcome = 'ok' DESC, length(shard) DESC, shard DESC, finished_at DESC NULLS LAST
                ) = 1 AS first,
                sum(attempts) OVER (PARTITION BY key) AS total
            FROM attempts SEMI JOIN again USING (key)
        )
        UPDATE attempts SET is_current = first, tries = total
        FROM ranked
        WHERE attempts.rowid = place AND (is_current <> first OR tries <> total)
        """
    )


def _add_rest(con: Connection, store: Store, sources: Sequence[Entry]) -> dict[str, str]:
    """Plans, skipped rows and labels are few: they are read anew each time."""
    in_plan = [entry.name for entry in sources if entry.name.startswith(f"{PLAN_FOLDER}/")]
    skipped = [name for name in in_plan if name.endswith(".skipped.parquet")]
    groups = {
        "untried": (_INSERT_UNTRIED, [name for name in in_plan if name not in skipped]),
        "skipped_rows": (_INSERT_SKIPPED, skipped),
        "labels": (_INSERT_LABELS, [entry.name for entry in sources if entry.name == LABELS]),
    }
    problems: dict[str, str] = {}
    for table, (sql, names) in groups.items():
        con.execute(f"DELETE FROM {table}")
        with local_copies(store, names) as files:
            problems |= insert_readable(con, sql, files)
    return problems | _add_annotations(con, store, [entry.name for entry in sources])


def _add_annotations(con: Connection, store: Store, sources: Sequence[str]) -> dict[str, str]:
    """A table for each annotation beside the shards; which of them are none, and why."""
    for table in _annotation_tables(con):
        con.execute(f'DROP TABLE manifest."{table}"')
    problems: dict[str, str] = {}
    with local_copies(store, filter(is_annotation, sources)) as files:
        for name, path in files.items():
            if fault := key_fault(path) or _fault(path):
                problems[name] = fault
            else:
                _add_annotation(con, name, path)
    return problems


def _annotation_tables(con: Connection) -> list[str]:
    sql = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'manifest'"
    return [table for (table,) in con.execute(sql).fetchall() if table.startswith("annotation_")]


def _add_annotation(con: Connection, name: str, path: Path) -> None:
    table = f'manifest."{table_name(name)}"'
    con.execute(f"CREATE TABLE {table} AS FROM read_parquet({quoted(path)})")
    con.execute(f"COMMENT ON TABLE {table} IS 'The annotation {name}: join it USING (key).'")
    for (column,) in con.execute(f"SELECT column_name FROM (DESCRIBE {table})").fetchall():
        quoted_column = column.replace('"', '""')
        text = "Name of the sample." if column == "key" else f"As in {name}."
        con.execute(f"COMMENT ON COLUMN {table}.\"{quoted_column}\" IS '{text}'")


def _sign(con: Connection, store: Store, sources: Sequence[Entry], problems: Mapping[str, str]) -> None:
    """Say what the snapshot was made of, by what and when."""
    listed = {
        "name": [entry.name for entry in sources],
        "bytes": [entry.size for entry in sources],
        "mtime": [entry.mtime for entry in sources],
        "problem": pa.array([problems.get(entry.name) for entry in sources], pa.string()),
    }
    con.execute("DELETE FROM sources; DELETE FROM snapshot")
    con.register("listed", pa.table(listed))
    con.execute("INSERT INTO sources BY NAME FROM listed")
    con.unregister("listed")
    con.execute(
        "INSERT INTO snapshot VALUES ($1, $2, $3, $4)",
        [datetime.now(UTC), f"DuckDB {duckdb.__version__}", _schema_sha256(), _dataset(store)],
    )


def _dataset(store: Store) -> str | None:
    try:
        return json.dumps(json.loads(store.read_bytes(DATASET)))
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def local_copies(store: Store, names: Iterable[str]) -> Iterator[dict[str, Path]]:
    """The files as DuckDB reads them best: in place on a disk, else copied here for as long as it takes."""
    here = {name: store.local_path(name) for name in names}
    local = {name: path for name, path in here.items() if path is not None}
    if len(local) == len(here):
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="trichord-ledgers-") as folder:
        copies = {name: Path(folder, name) for name in here}
        for parent in {path.parent for path in copies.values()}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(FETCHES) as threads:
            list(threads.map(store.fetch, copies.keys(), copies.values()))
        yield copies
