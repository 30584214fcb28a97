"""The class table, read from AudioSet's file and carried by a dataset."""

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.labels import ClassLabel, Labels, LabelsError, read_class_labels, read_labels, write_labels

TABLE = """index,mid,display_name
0,/m/09x0r,"Speech"
1,/m/05zppz,"Male speech, man speaking"
2,/m/0bt9lr,"Dog"
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "class_labels_indices.csv"
    path.write_text(TABLE)
    return path


def test_class_table_gives_names_and_indices_by_mid(table: Path) -> None:
    labels = read_class_labels(table)
    assert labels.names(["/m/05zppz", "/m/09x0r"]) == ("Male speech, man speaking", "Speech")
    assert labels.index("/m/0bt9lr") == 2
    assert len(labels) == 3


def test_columns_may_stand_in_any_order_with_others_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_bytes("\ufeffmid, display_name, colour, index\r\n/m/0bt9lr, Dog, brown, 7\r\n".encode())
    assert list(read_class_labels(path)) == [ClassLabel(index=7, mid="/m/0bt9lr", name="Dog")]


def test_unknown_mid_stands_for_itself_and_is_counted(table: Path) -> None:
    labels = read_class_labels(table)
    mids = ["/m/new", "/m/0bt9lr", "/m/new", "/t/dd1"]
    assert labels.names(mids) == ("/m/new", "Dog", "/m/new", "/t/dd1")
    assert labels.unknown(mids) == {"/m/new": 2, "/t/dd1": 1}


def test_index_of_a_class_without_one_is_refused(table: Path) -> None:
    labels = Labels.of([*read_class_labels(table), ClassLabel(index=None, mid="/m/abstract", name="Sounds")])
    with pytest.raises(LabelsError, match=r"/m/abstract \(Sounds\) has no class index"):
        labels.index("/m/abstract")
    with pytest.raises(LabelsError, match="/m/new is none of the 4 classes"):
        labels.index("/m/new")


def test_indexed_classes_come_by_index_and_leave_out_the_others() -> None:
    labels = Labels.of(ClassLabel(index=i, mid=f"/m/{i}", name=str(i)) for i in (2, None, 0, 1))
    assert [label.index for label in labels.indexed] == [0, 1, 2]


def test_written_table_reads_back_equal_from_a_path_and_from_an_open_file(tmp_path: Path) -> None:
    labels = Labels.of(
        [
            ClassLabel(index=0, mid="/m/0bt9lr", name="Dog", parents=("/m/068hy", "/m/01z5f")),
            ClassLabel(index=None, mid="/m/068hy", name="Domestic animals, pets"),
        ]
    )
    write_labels(tmp_path / "labels.parquet", labels)
    stream = io.BytesIO()
    write_labels(stream, labels)
    assert read_labels(tmp_path / "labels.parquet") == labels
    assert read_labels(io.BytesIO(stream.getvalue())) == labels
    assert [path.name for path in tmp_path.iterdir()] == ["labels.parquet"]


def test_failed_write_leaves_the_earlier_table_alone(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "labels.parquet"
    write_labels(path, read_class_labels(table))
    before = path.read_bytes()
    with pytest.raises(pa.ArrowException):
        write_labels(path, Labels.of([ClassLabel(index=2**40, mid="/m/x", name="beyond int32")]))
    assert path.read_bytes() == before


def test_leftover_of_a_killed_writer_is_used_up(tmp_path: Path, table: Path) -> None:
    target = tmp_path / "out" / "labels.parquet"
    target.parent.mkdir()
    target.with_name("labels.parquet.partial").write_bytes(b"half a table")
    write_labels(target, read_class_labels(table))
    assert read_labels(target) == read_class_labels(table)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<!DOCTYPE html>\n<p>Not found", "no column index, mid, display_name"),
        ("", "no column index, mid, display_name"),
        ("index,mid,display_name\n0,/m/09x0r\n", "line 2: expected index,mid,display_name"),
        ("index,mid,display_name\n0,/m/a,A\nzero,/m/b,B\n", "line 3: index 'zero' is no whole number"),
        ("index,mid,display_name\n0,/m/a,A\n1,/m/a,B\n", "mid /m/a is listed twice"),
        ("index,mid,display_name\n0,/m/a,A\n0,/m/b,B\n", "index 0 belongs to /m/a and to /m/b"),
    ],
)
def test_file_that_is_no_class_table_is_refused_with_its_name(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(content)
    with pytest.raises(LabelsError, match=r"wrong\.csv") as error:
        read_class_labels(path)
    assert complaint in str(error.value)


def test_missing_and_binary_files_are_refused_with_their_name(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"gone\.csv.*No such file"):
        read_class_labels(tmp_path / "gone.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(LabelsError, match=r"picture\.csv: not UTF-8 text"):
        read_class_labels(tmp_path / "picture.csv")


def test_parquet_file_that_is_no_class_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"index": [1], "mid": ["/m/a"]}), tmp_path / "other.parquet")
    with pytest.raises(LabelsError, match=r"other\.parquet"):
        read_labels(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(LabelsError, match=r"text\.parquet"):
        read_labels(tmp_path / "text.parquet")


@pytest.mark.skipif("TRICHORD_TEST_DATA" not in os.environ, reason="TRICHORD_TEST_DATA names no folder")
def test_audiosets_own_table_has_527_indexed_classes() -> None:
    labels = read_class_labels(
        Path(os.environ["TRICHORD_TEST_DATA"]) / "metadata" / "class_labels_indices.csv"
    )
    assert [label.index for label in labels.indexed] == list(range(527))
    assert sum("," in label.name for label in labels) == 75
    assert labels.names(["/m/05zppz"]) == ("Male speech, man speaking",)
