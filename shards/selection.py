"""Which samples of a dataset a task is about: by split, by an SQL condition, in the order they lie in."""

import contextlib
import difflib
import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from shards import ledger
from shards.annotations import KEY, Annotation, read_annotation
from shards.keys import Keys
from shards.labels import SCHEMA as LABELS_SCHEMA
from shards.labels import read_labels
from shards.layout import LABELS, MANIFEST
from shards.manifest import Connection, connect, is_ledger, local_copies, one_line, quoted
from shards.publication import is_current
from shards.query import attach_manifest
from shards.store import Store

MEMORY = "1GB"  # two million rows pass through a quarter of it; what does not fit goes to disk
ALWAYS = ("key", "shard", "split", "mids")

_OWN = (*ledger.SCHEMA.names, "position", "classes")  # columns that no annotation may have, but for mids


class SelectionError(ValueError):
    """A selection that cannot be made or holds nothing; the message is one line and says what to do."""


class NothingSelected(SelectionError):
    """There are no such samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Samples in the order they lie in: by shard, then by place in its tar."""

    table: pa.Table  # key, shard (dictionary), split (dictionary), mids, then the columns asked for
    sql: str  # what `trichord manifest` answers with the same keys, annotations aside
    key_list_sha256: str  # of the keys in order, a line feed after each

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def keys(self) -> Keys:
        return Keys(self.table.column("key"))

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards that hold them, each once, in order."""
        return tuple(_dictionary(self.table.column("shard")).dictionary.to_pylist())

    @property
    def shard_of(self) -> np.ndarray:
        """(N,) int32: each sample's place in `shards`."""
        indices: np.ndarray = _dictionary(self.table.column("shard")).indices.to_numpy()
        return indices

    @property
    def splits(self) -> dict[str, int]:
        """How many samples come from each split."""
        counts = self.table.column("split").value_counts()
        return {str(each["values"]): each["counts"] for each in counts.to_pylist()}

    def only(self, chosen: np.ndarray, sql: str) -> "Selection":
        """The rows where `chosen` (N,) is True; `sql` says in words or SQL which those are."""
        return _selection(self.table.filter(pa.array(chosen)), sql)


def _selection(table: pa.Table, sql: str) -> Selection:
    for name in ("shard", "split"):
        column = _compact(table.column(name))
        table = table.set_column(table.column_names.index(name), name, column)
    return Selection(table=table, sql=sql, key_list_sha256=_keys_sha256(table.column("key")))


def _compact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary of the values that occur, in their order."""
    return pa.chunked_array([_dictionary(column.cast(pa.string()).combine_chunks().dictionary_encode())])


def _dictionary(column: pa.ChunkedArray | pa.Array) -> pa.DictionaryArray:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _keys_sha256(keys: pa.ChunkedArray) -> str:
    digest = hashlib.sha256()
    for batch in keys.iterchunks():
        for start in range(0, len(batch), 1 << 16):
            digest.update(
                "".join(f"{key}\n" for key in batch[start : start + (1 << 16)].to_pylist()).encode()
            )
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------- select


def select_samples(
    store: Store,
    *,
    splits: Sequence[str] = (),
    where: str = "",
    annotations: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Selection:
    """The dataset's samples of these splits (all without any) that meet an SQL condition.

    `where` is a boolean expression over the columns of the manifest's `segments` and of the annotations,
    each by its own name: `rms_dbfs > -60 AND list_contains(classes, 'Dog') AND rating >= 4`. It reads nothing
    else. A column `mids` of an annotation takes the place of the ledger's for the samples that it names. The
    manifest answers if it is current, else the ledgers. Raises SelectionError, which is NothingSelected where
    no sample is left, and AnnotationError.
    """
    found = [read_annotation(store, reference) for reference in annotations]
    _check_annotations(found)
    with _samples(store, found) as con:
        _check_where(con, where)
        names = _columns(con, columns)
        condition = _condition(splits, where)
        sql = f"SELECT {names} FROM chosen WHERE {condition} ORDER BY shard, position"
        table = _answer(con, sql, where)
        if not table.num_rows:
            raise NothingSelected(_why_empty(con, store, splits, where))
        _check_matches(con, store, found)
    shown = " AND ".join([*(["outcome = 'ok'"]), *([condition] if condition != "true" else [])])
    return _selection(table, f"SELECT key FROM segments WHERE {shown} ORDER BY shard, position")


def _condition(splits: Sequence[str], where: str) -> str:
    parts = [f"split IN ({', '.join(map(_text, splits))})"] if splits else []
    parts += [f"(\n{where}\n)"] if where.strip() else []  # a comment in it ends with its line
    return " AND ".join(parts) or "true"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _columns(con: Connection, columns: Sequence[str]) -> str:
    known = [name for name, *_ in con.execute("DESCRIBE chosen").fetchall()]
    for name in columns:
        if name not in known:
            raise SelectionError(_no_column(name, known))
    return ", ".join(map(_identifier, dict.fromkeys((*ALWAYS, *columns))))


def _no_column(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    added = [column for column in known if column not in _OWN]
    return f"no column {name}; {hint}there are the columns of `segments`, which `trichord manifest` lists" + (
        f", and of the annotations: {', '.join(added)}" if added else "; no annotation was named"
    )


def _check_where(con: Connection, where: str) -> None:
    try:
        statements = con.extract_statements(f"SELECT 1 WHERE {_condition((), where)}")
    except duckdb.Error as error:
        raise SelectionError(_explained(con, where, error)) from None
    if len(statements) != 1:
        raise SelectionError(f"{where!r} is more than a condition; expected one such as: rms_dbfs > -60")


def _answer(con: Connection, sql: str, where: str) -> pa.Table:
    try:
        return con.sql(sql).to_arrow_table()
    except (duckdb.Error, pa.ArrowException) as error:
        raise SelectionError(_explained(con, where, error)) from None


def _explained(con: Connection, where: str, error: Exception) -> str:
    text = one_line(Exception(re.split(r"\n\s*\n?LINE ", str(error))[0]))
    if 'at or near "end"' in text:
        text = f'{text}; end is a word of SQL: write "end" in double quotes'
    elif missing := re.search(r'Referenced column "([^"]*)" (?:was )?not found', text):
        known = [name for name, *_ in con.execute("DESCRIBE chosen").fetchall()]
        text = f"{_no_column(missing.group(1), known)}; text stands in single quotes"
    condition = f" where {where.strip()}" if where.strip() else ""
    return f"samples{condition} cannot be selected: {text}"


def _why_empty(con: Connection, store: Store, splits: Sequence[str], where: str) -> str:
    """What each condition left."""
    counts = dict(con.execute("SELECT split, count(*) FROM chosen GROUP BY split ORDER BY 1").fetchall())
    there = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    if not counts:
        return f"{store.url} holds no samples; expected a dataset with a finished shard: `trichord ingest`"
    if not (left := sum(counts.get(split, 0) for split in splits) if splits else sum(counts.values())):
        return f"no samples in {', '.join(splits)}; {store.url} has {there}"
    return f"none of {left:,} samples meets {' '.join(where.split())!r}; without it there are {there}"


# --------------------------------------------------------------------------------------- annotations


def _check_annotations(annotations: Sequence[Annotation]) -> None:
    owner: dict[str, str] = {name: "the ledgers" for name in _OWN if name != "mids"}
    for annotation in annotations:
        for column in annotation.columns:
            if column in owner:
                raise SelectionError(
                    f"annotation {annotation.name} has a column {column}, and so have {owner[column]}; "
                    "expected a name of its own: rename the column in the file"
                )
            owner[column] = f"the rows of annotation {annotation.name}"


def _check_matches(con: Connection, store: Store, annotations: Sequence[Annotation]) -> None:
    for index, annotation in enumerate(annotations):
        [(matched,)] = con.execute(
            f"SELECT count(*) FROM samples SEMI JOIN memory.main.annotation_{index} USING (key)"
        ).fetchall()
        if not matched:
            example = annotation.table.column(KEY)[0].as_py() if len(annotation.table) else None
            [(key,)] = con.execute("SELECT any_value(key) FROM samples").fetchall()
            raise SelectionError(
                f"annotation {annotation.name}: none of its {len(annotation.table):,} keys, such as "
                f"{example!r}, is a sample of {store.url}; expected keys such as {key!r}"
            )


def _join(annotations: Sequence[Annotation]) -> str:
    """All samples with the columns of the annotations."""
    aliases = [f"annotation_{index}" for index in range(len(annotations))]
    fixed = [alias for alias, each in zip(aliases, annotations, strict=True) if "mids" in each.columns]
    mids = f"coalesce({', '.join(f'{name}.mids' for name in (*fixed, 'samples'))})"
    added = [
        f", {alias}.{_identifier(column)}"
        for alias, each in zip(aliases, annotations, strict=True)
        for column in each.columns
        if column != "mids"
    ]
    joins = [f" LEFT JOIN memory.main.{alias} ON {alias}.key = samples.key" for alias in aliases]
    return f"SELECT samples.* REPLACE ({mids} AS mids){''.join(added)} FROM samples{''.join(joins)}"


# ---------------------------------------------------------------------------------------------- open


@contextlib.contextmanager
def _samples(store: Store, annotations: Sequence[Annotation] = ()) -> Iterator[Connection]:
    """A connection with the views `samples`, of the ok rows that count, and `chosen`, with what is added.

    It reads them and nothing else.
    """
    with contextlib.ExitStack() as closing:
        con = closing.enter_context(_rows(store))
        con.execute(f"SET memory_limit = '{MEMORY}'")
        for index, annotation in enumerate(annotations):
            con.register("given", annotation.table)
            con.execute(f"CREATE TABLE memory.main.annotation_{index} AS FROM given")
            con.unregister("given")
        con.execute(
            f"""
            CREATE TEMP VIEW chosen AS
            SELECT
                * EXCLUDE (names),
                list_transform(mids, lambda mid: coalesce(known.names[mid], mid)) AS classes
            FROM ({_join(annotations)})
            CROSS JOIN (SELECT map(list(mid), list(name)) AS names FROM labels) AS known
            """
        )
        con.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield con


@contextlib.contextmanager
def _rows(store: Store) -> Iterator[Connection]:
    """A connection with the view `samples` and the table `labels`, of the manifest or of the ledgers."""
    if is_current(store):
        with contextlib.suppress(duckdb.Error), _local(store, MANIFEST) as manifest:
            con = attach_manifest(manifest)
            with contextlib.closing(con):
                _check_manifest(con)
                con.execute(_MANIFEST_SAMPLES)
                yield con
                return
    with _ledger_rows(store) as con:
        yield con


_MANIFEST_SAMPLES = """
CREATE TEMP VIEW samples AS
SELECT * EXCLUDE (is_current, tries) REPLACE (tries AS attempts)
FROM manifest.attempts WHERE is_current AND outcome = 'ok'
"""


@contextlib.contextmanager
def _local(store: Store, name: str) -> Iterator[Path]:
    if (path := store.local_path(name)) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="trichord-manifest-") as folder:
        store.fetch(name, copy := Path(folder, name))
        yield copy


def _check_manifest(con: Connection) -> None:
    sql = "SELECT shard, problem FROM shards WHERE problem IS NOT NULL ORDER BY shard"
    if problems := con.execute(sql).fetchall():
        raise SelectionError(_unreadable(problems[0][0] + ".parquet", problems[0][1], len(problems)))


def _unreadable(name: str, why: str, count: int) -> str:
    others = f" (and {count - 1} others)" if count > 1 else ""
    return (
        f"ledger {name}{others} cannot be read: {why}; its samples would be missed: "
        "restore it from a copy, or delete it and run the ingestion again"
    )


@contextlib.contextmanager
def _ledger_rows(store: Store) -> Iterator[Connection]:
    names = [name for name in store.names() if is_ledger(name)]
    if not names:
        raise SelectionError(
            f"{store.url} holds no ledgers; expected a dataset that `trichord ingest --out` made"
        )
    with local_copies(store, names) as files, contextlib.closing(connect()) as con:
        con.execute(f"SET memory_limit = '{MEMORY}'; SET TimeZone = 'UTC'")
        con.execute(f"SET temp_directory = {quoted(Path(tempfile.gettempdir(), 'trichord-spill'))}")
        listed = ", ".join(quoted(path) for path in files.values())
        con.execute(f"SET allowed_paths = [{listed}]")
        try:
            con.execute(_LEDGER_ROWS.format(files=listed))
            con.execute(_LEDGER_SAMPLES)
        except duckdb.Error as error:
            raise _unreadable_ledgers(files, error) from None
        con.register("given", _labels(store))
        con.execute("CREATE TABLE labels AS FROM given")
        con.unregister("given")
        yield con


_LEDGER_ROWS = """
CREATE TEMP VIEW rows AS
SELECT * EXCLUDE (filename, file_row_number)
    REPLACE (parse_filename(filename, TRUE) AS shard), file_row_number AS position
FROM read_parquet([{files}], filename = TRUE, file_row_number = TRUE)
"""
# of a sample that several ledgers have, the latest counts, as in the manifest
_LEDGER_SAMPLES = """
CREATE TABLE again AS SELECT key FROM rows WHERE outcome = 'ok' GROUP BY key HAVING count(*) > 1;
CREATE TABLE latest AS
SELECT key, shard FROM rows WHERE outcome = 'ok' AND key IN (FROM again)
QUALIFY row_number() OVER (
    PARTITION BY key ORDER BY length(shard) DESC, shard DESC, finished_at DESC NULLS LAST
) = 1;
CREATE TEMP VIEW samples AS
SELECT * FROM rows
WHERE outcome = 'ok' AND (key NOT IN (FROM again) OR (key, shard) IN (SELECT (key, shard) FROM latest))
"""


def _unreadable_ledgers(files: dict[str, Path], error: duckdb.Error) -> SelectionError:
    faults = []
    for name, path in files.items():
        try:
            ledger.read_record(path)
            ledger.read_attempts(path, ["key"])
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as fault:
            faults.append((name, one_line(fault)))
    name, why = faults[0] if faults else ("?", one_line(error))
    return SelectionError(_unreadable(name, why, max(1, len(faults))))


def _labels(store: Store) -> pa.Table:
    try:
        with store.open(LABELS) as file:
            rows = [{"mid": label.mid, "name": label.name, "parents": []} for label in read_labels(file)]
    except FileNotFoundError:
        rows = []
    return pa.Table.from_pylist(rows, schema=LABELS_SCHEMA)


# ------------------------------------------------------------------------------------------- overlap


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """What two selections share."""

    same_video: int  # samples of the first whose video id the second has
    same_sound: int  # those whose decoded sound, to the bit, the second has; silence does not count
    examples: tuple[str, ...]  # keys of the first, at most five

    def __bool__(self) -> bool:
        return bool(self.same_video or self.same_sound)


def overlap(store: Store, first: Selection, second: Selection) -> Overlap:
    """How many samples of `first` come from videos, or hold sounds, that `second` has too."""
    with _samples(store) as con:
        con.register("first", first.table.select(["key"]))
        con.register("second", second.table.select(["key"]))
        [(videos, sounds, examples)] = con.execute(_OVERLAP).fetchall()
    return Overlap(same_video=videos, same_sound=sounds, examples=tuple(sorted(examples or ())[:5]))


_OVERLAP = """
WITH theirs AS MATERIALIZED (
    SELECT ytid, pcm_sha256 FROM samples SEMI JOIN second USING (key)
), shared AS (
    SELECT
        key,
        ytid IN (SELECT ytid FROM theirs) AS video,
        coalesce(silent_share < 1, true) AND coalesce(pcm_sha256 IN (SELECT pcm_sha256 FROM theirs), false)
            AS sound
    FROM samples SEMI JOIN first USING (key)
)
SELECT count(*) FILTER (video), count(*) FILTER (sound), min(key, 5) FILTER (video OR sound) FROM shared
"""
