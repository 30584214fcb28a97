"""Segments files in every form in circulation, malformed ones, and the selection of segments."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.audioset import (
    BadRow,
    BadRows,
    SegmentsError,
    check_segments,
    file_sha256,
    read_segments,
    select,
)
from pipeline.ontology import LabelFilter
from shards.segment import Segment

COMMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=3
# YTID, start_seconds, end_seconds, positive_labels
"""
ROWS = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n_0DLPzsiXXE, 0.500, 9.000, "/m/04rlf"\n'
FIRST = Segment(ytid="--PJHxphWEs", start=30.0, end=40.0, mids=("/m/09x0r", "/t/dd00088"), split="eval")
SECOND = Segment(ytid="_0DLPzsiXXE", start=0.5, end=9.0, mids=("/m/04rlf",), split="eval")

WriteFile = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "eval_segments.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def bad_rows_of(path: Path) -> list[BadRow]:
    bad_rows: list[BadRow] = []
    list(read_segments(path, "eval", on_bad_row=bad_rows.append))
    return bad_rows


def id_of(number: int) -> str:
    return f"{number:010d}A"


@pytest.mark.parametrize(
    "content",
    [
        COMMENTS + ROWS,
        ROWS,
        "# one comment\n" + ROWS,
        (COMMENTS + ROWS).replace(", ", ","),
        (COMMENTS + ROWS).replace("\n", "\r\n"),
        "\ufeff" + COMMENTS + ROWS,
        "\ufeffYTID,start_seconds,end_seconds,positive_labels\n" + ROWS,
        COMMENTS + ROWS + "\n  \n\n",
        "\n" + COMMENTS + "\n" + ROWS,
        COMMENTS + ROWS.rstrip("\n"),
        "yt_id,start_seconds,end_seconds,positive_labels\n" + ROWS,
        "YTID, start_seconds, end_seconds, positive_labels\n" + ROWS,
        "clip,t0,t1,classes\n" + ROWS,  # no name that anyone knows: columns as usual
        COMMENTS + ROWS.replace('"', ""),
        ROWS.replace('"', "").replace(",", ", "),
        '"--PJHxphWEs","30.000","40.000","/m/09x0r,/t/dd00088"\n"_0DLPzsiXXE","0.5","9","/m/04rlf"\n',
        "--PJHxphWEs,30,40,/m/09x0r,/t/dd00088\n_0DLPzsiXXE,0.5,9,/m/04rlf,,\n",
        '--PJHxphWEs, 3e1, 4e1, "/m/09x0r, /t/dd00088, /m/09x0r"\n_0DLPzsiXXE, .5, 9., /m/04rlf\n',
    ],
)
def test_every_form_in_circulation_gives_the_same_segments(write: WriteFile, content: str) -> None:
    path = write(content)
    assert list(read_segments(path, "eval")) == [FIRST, SECOND]
    assert list(read_segments(str(path), "eval")) == [FIRST, SECOND]


def test_packed_file_is_read_whatever_its_name(write: WriteFile) -> None:
    path = write(gzip.compress(("\ufeff" + COMMENTS + ROWS).encode()))
    assert list(read_segments(path, "eval")) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "content",
    [
        'n,positive_labels,end_time,start_time,video_id\n0,"/m/09x0r,/t/dd00088",40,30,--PJHxphWEs\n',
        '# positive_labels, start_seconds, YTID, end_seconds\n"/m/09x0r,/t/dd00088", 30, --PJHxphWEs, 40\n',
        'id,youtube_id,note,start,end,labels\n7,--PJHxphWEs,"a, b",30,40,/m/09x0r,/t/dd00088\n',
    ],
)
def test_heading_reorders_columns_and_further_ones_are_ignored(write: WriteFile, content: str) -> None:
    assert list(read_segments(write(content), "eval")) == [FIRST]


def test_captions_file_gives_each_window_once_with_ten_seconds_and_no_labels(write: WriteFile) -> None:
    path = write(
        "audiocap_id,youtube_id,start_time,caption\n"
        '1,--PJHxphWEs,30,"A dog barks, then a man speaks"\n'
        "2,--PJHxphWEs,30,Barking\n"
        "3,_0DLPzsiXXE,0,Music\n"
    )
    windows = [(s.key, s.start, s.end, s.mids) for s in read_segments(path, "test")]
    assert windows == [("--PJHxphWEs_30000", 30.0, 40.0, ()), ("_0DLPzsiXXE_0", 0.0, 10.0, ())]


def test_first_row_says_whether_a_bare_file_has_ends_and_labels(write: WriteFile) -> None:
    assert [s.end for s in read_segments(write("--PJHxphWEs,30\n_0DLPzsiXXE,5\n"), "x")] == [40.0, 15.0]
    assert [s.end for s in read_segments(write("--PJHxphWEs,30,37.5\n"), "x")] == [37.5]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('-PJHxphWEs, 30.000, 40.000, "/m/a"', "'-PJHxphWEs' is no YouTube id"),
        ('--PJHxphWE+, 30.000, 40.000, "/m/a"', "is no YouTube id"),
        ('--PJHxphWEt, 30.000, 40.000, "/m/a"', "is no YouTube id"),  # a last character that no id has
        ('--PJHxphWEs, thirty, 40.000, "/m/a"', "start 'thirty' is no time in seconds"),
        ('--PJHxphWEs, -1, 9, "/m/a"', "start '-1' is no time in seconds"),
        ('--PJHxphWEs, nan, 9, "/m/a"', "start 'nan' is no time in seconds"),
        ('--PJHxphWEs, 0, inf, "/m/a"', "end 'inf' is no time in seconds"),
        ('--PJHxphWEs, 1_0, 20, "/m/a"', "start '1_0' is no time in seconds"),
        ('--PJHxphWEs, , 20, "/m/a"', "start '' is no time in seconds"),
        ('--PJHxphWEs, 40.000, 30.000, "/m/a"', "the window 40-30 s is impossible; expected an end after"),
        ('--PJHxphWEs, 40.000, 40.000, "/m/a"', "the window 40-40 s is impossible; expected an end after"),
        (
            '--PJHxphWEs, 0, 30000, "/m/a"',
            "the window 0-30000 s is impossible; expected an end at most 600 s",
        ),
        ('--PJHxphWEs, 1000000, 1000010, "/m/a"', "start 1e+06 s is beyond any video's end"),
        ('--PJHxphWEs, 30.000, 40.000, ""', "no labels"),
        ("--PJHxphWEs, 30.000, 40.000", "found 3, expected 4 fields"),
        ('--PJHxphWEs, 30.000, 40.000, "Dog"', "label 'Dog' is no mid like /m/09x0r"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/a,/x/b"', "label '/x/b' is no mid"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/a', "its quotes do not match"),
        ("--PJHxphWEs", "found 1, expected 4 fields"),
    ],
)
def test_malformed_row_is_given_with_its_line_and_its_reason(write: WriteFile, row: str, reason: str) -> None:
    around = [f'{id_of(n)}, 0.000, 10.000, "/m/04rlf"' for n in range(2)]
    path = write(COMMENTS + "\n".join((around[0], row, around[1])))
    (bad,) = bad_rows_of(path)
    assert (bad.line, bad.text) == (5, row)
    assert reason in bad.reason
    assert [s.ytid for s in read_segments(path, "eval", on_bad_row=BadRows())] == [id_of(0), id_of(1)]


def test_second_row_of_a_window_is_malformed_and_names_the_first(write: WriteFile) -> None:
    path = write(COMMENTS + ROWS + "--PJHxphWEs,30,39,/m/0bt9lr\n--PJHxphWEs,31,40,/m/0bt9lr\n")
    assert [(bad.line, bad.reason) for bad in bad_rows_of(path)] == [(6, "duplicate of line 4")]
    assert len(list(read_segments(path, "eval", on_bad_row=BadRows()))) == 3


def test_text_of_a_bad_row_is_cut(write: WriteFile) -> None:
    (bad,) = bad_rows_of(write(COMMENTS + "x" * 5000 + "\n"))
    assert bad.text == "x" * 200


def test_bad_row_stops_the_reading_unless_someone_takes_it(write: WriteFile) -> None:
    path = write(COMMENTS + ROWS + "oops\n")
    segments = read_segments(path, "eval")
    assert [next(segments), next(segments)] == [FIRST, SECOND]
    with pytest.raises(SegmentsError, match=r"eval_segments\.csv, line 6: .*'oops'.*--skip-bad-rows"):
        next(segments)


def test_malformed_first_row_is_reported_and_not_taken_for_a_heading(write: WriteFile) -> None:
    assert [bad.line for bad in bad_rows_of(write("tooshort, 30.000, 40.000, /m/a\n" + ROWS))] == [1]
    assert [bad.line for bad in bad_rows_of(write('--PJHxphWEc, 30.000, 40.000, "/m/a\n' + ROWS))] == [1]


def test_check_counts_segments_and_shows_the_first_bad_rows_of_all(write: WriteFile) -> None:
    assert check_segments(write(COMMENTS + ROWS)) == 2
    path = write(COMMENTS + ROWS + "oops\n" * 5)
    with pytest.raises(SegmentsError) as error:
        check_segments(path, keep=2)
    assert "5 malformed rows" in str(error.value)
    assert str(error.value).endswith("\n  and 3 more")
    assert "line 6: found 1, expected 4 fields: oops" in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "holds no rows"),
        (COMMENTS.encode(), "holds no rows"),
        (b"\n\n  <!DOCTYPE html><html>\n", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (ROWS.encode("utf-16"), "no UTF-8 text"),
        (b"PAR1\x15\x04\x15\x00\n", "no UTF-8 text"),
    ],
)
def test_file_of_another_kind_is_refused_before_the_first_segment(
    write: WriteFile, content: bytes, complaint: str
) -> None:
    with pytest.raises(SegmentsError, match=r"eval_segments\.csv") as error:
        read_segments(write(content), "eval", on_bad_row=BadRows())
    assert complaint in str(error.value)


def test_missing_file_and_folder_are_refused_before_the_first_segment(tmp_path: Path) -> None:
    with pytest.raises(SegmentsError, match=r"gone\.csv: .*No such file"):
        read_segments(tmp_path / "gone.csv", "eval")
    with pytest.raises(SegmentsError, match="Is a directory"):
        read_segments(tmp_path, "eval")


def test_cut_packed_file_is_refused_rather_than_taken_as_complete(write: WriteFile) -> None:
    rows = "".join(f"{id_of(number)},30,40,/m/a\n" for number in range(20_000))
    path = write(gzip.compress(rows.encode())[:-2000])
    with pytest.raises(SegmentsError, match="cannot be read as a segments file"):
        check_segments(path)


def test_damaged_packed_file_is_refused(write: WriteFile) -> None:
    packed = bytearray(gzip.compress("".join(f"{id_of(n)},30,40,/m/a\n" for n in range(20_000)).encode()))
    packed[len(packed) // 2 :: 50] = bytes(len(packed[len(packed) // 2 :: 50]))
    with pytest.raises(SegmentsError, match=r"eval_segments\.csv: cannot be read as a segments file"):
        list(read_segments(write(bytes(packed)), "eval", on_bad_row=BadRows()))


def test_hash_is_that_of_the_files_bytes(write: WriteFile) -> None:
    assert file_sha256(write("abc")) == hashlib.sha256(b"abc").hexdigest()


def some_segments(count: int) -> list[Segment]:
    return [
        Segment(ytid=id_of(n), start=10.0, end=20.0, mids=(f"/m/{n % 10}",), split="eval")
        for n in range(count)
    ]


def test_selection_of_nothing_in_particular_is_everything() -> None:
    assert list(select(some_segments(20))) == some_segments(20)


def test_sample_is_exact_keeps_the_order_and_repeats_itself() -> None:
    segments = some_segments(1000)
    drawn = list(select(segments, sample=100, seed=3))
    assert len(drawn) == 100
    assert drawn == sorted(drawn, key=segments.index)
    assert drawn == list(select(segments, sample=100, seed=3))
    assert drawn != list(select(segments, sample=100, seed=4))


def test_sample_is_the_same_on_every_machine_and_for_every_order_of_the_file() -> None:
    drawn = [s.ytid for s in select(some_segments(1000), sample=3, seed=3)]
    assert drawn == ["0000000047A", "0000000398A", "0000000610A"]
    assert sorted(s.ytid for s in select(reversed(some_segments(1000)), sample=3, seed=3)) == drawn


def test_larger_sample_holds_the_smaller_one() -> None:
    small, large = (set(map(str, select(some_segments(500), sample=n, seed=1))) for n in (50, 200))
    assert small < large


def test_sample_is_uniform_over_the_file() -> None:
    positions = [
        int(s.ytid[:10]) for seed in range(20) for s in select(some_segments(200), sample=50, seed=seed)
    ]
    counts = [sum(low <= p < low + 50 for p in positions) for low in range(0, 200, 50)]
    assert all(190 < count < 310 for count in counts)  # 250 each, ± 4.5 standard deviations


def test_sample_beyond_the_file_is_the_file() -> None:
    assert list(select(some_segments(20), sample=100)) == some_segments(20)


def test_limit_comes_after_the_sample_and_the_sample_after_the_labels() -> None:
    wanted = LabelFilter(include=frozenset({"/m/1", "/m/2"}))
    segments = some_segments(100)
    labelled = [s for s in segments if s.mids[0] in ("/m/1", "/m/2")]
    drawn = list(select(segments, labels=wanted, sample=15))
    assert len(drawn) == 15
    assert set(map(str, drawn)) < set(map(str, labelled))
    assert list(select(segments, labels=wanted, sample=15, limit=4)) == drawn[:4]


def test_limit_reads_no_further_than_it_must() -> None:
    stream = iter(some_segments(100))
    assert len(list(select(stream, limit=10))) == 10
    assert next(stream).ytid == id_of(10)


@pytest.mark.parametrize(("sample", "limit"), [(0, None), (None, 0), (5, -3)])
def test_selection_of_no_segment_is_refused(sample: int | None, limit: int | None) -> None:
    with pytest.raises(ValueError, match="expected at least 1 segment"):
        select(some_segments(5), sample=sample, limit=limit)


@pytest.mark.skipif("TRICHORD_TEST_DATA" not in os.environ, reason="TRICHORD_TEST_DATA names no folder")
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("balanced_train_segments.csv", 22_160),
        ("eval_segments.csv", 20_371),
        ("audiocaps_val.csv", 495),  # five captions each
        ("audiocaps_test.csv", 975),
    ],
)
def test_published_files_are_read_whole(name: str, rows: int) -> None:
    assert check_segments(Path(os.environ["TRICHORD_TEST_DATA"]) / "metadata" / name) == rows
