"""What only an object store has: lost answers, large uploads, credentials, endpoints."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from shards.ledger import Attempt, ShardRecord, read_record, write_ledger
from shards.object_store import UPLOAD_PART
from shards.store import StoreError, open_store

if TYPE_CHECKING:
    from s3_server import S3Server


def test_the_server_under_test_honours_conditional_writes(s3_url: str) -> None:
    """What the rest relies on, asked without our own code."""
    client, place = boto3.client("s3"), {"Bucket": s3_url.removeprefix("s3://"), "Key": "object"}
    etag = client.put_object(**place, Body=b"first", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**place, Body=b"second", IfNoneMatch="*")
    client.put_object(**place, Body=b"second", IfMatch=etag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**place, Body=b"third", IfMatch=etag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.delete_object(**place, IfMatch=etag)


def test_a_put_whose_answer_was_lost_is_not_taken_for_a_rivals(s3_server: "S3Server", s3_url: str) -> None:
    store = open_store(s3_url)
    s3_server.lose_answers = 1
    assert store.publish_bytes(b"mine", "x")
    s3_server.lose_answers = 1
    counts: list[bytes | None] = []
    store.update("counter", lambda now: (counts.append(now), b"1")[1])
    assert counts == [None]
    s3_server.lose_answers = 1
    assert store.claim("claims/a") is not None
    assert s3_server.lose_answers == 0


def test_a_large_file_is_uploaded_in_parts_and_still_exclusively(s3_url: str, tmp_path: Path) -> None:
    store, data = open_store(s3_url), os.urandom(2 * UPLOAD_PART + 12345)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(data)
    second.write_bytes(data[::-1])
    assert store.publish(first, "big.tar")
    assert not store.publish(second, "big.tar")
    assert second.exists()
    store.fetch("big.tar", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_ledgers_footer_is_read_where_it_lies(s3_url: str, tmp_path: Path) -> None:
    store, file = open_store(s3_url), tmp_path / "ledger"
    row = Attempt(
        key="k",
        ytid="y",
        start=0,
        end=10,
        split="eval",
        mids=(),
        outcome="ok",
        disposition="done",
        attempts=1,
    )
    record = ShardRecord(
        shard="s", split="eval", rows=1, samples=1, tar_bytes=1, tar_sha256="", outcomes={"ok": 1},
        profile_hash="", written_at="", run="",
    )  # fmt: skip
    write_ledger(file, [row], record)
    store.publish(file, "s.parquet")
    with store.open("s.parquet") as reader:
        assert read_record(reader) == record
    with store.open("s.parquet") as reader:
        assert pq.read_table(reader).num_rows == 1


def test_more_files_than_one_page_are_listed(s3_url: str, s3_server: "S3Server") -> None:
    bucket = s3_url.removeprefix("s3://")
    s3_server.fill(bucket, (f"audioset-eval-{index:06d}.parquet" for index in range(2345)))
    names = open_store(s3_url).names("audioset-")
    assert len(names) == 2345
    assert names == sorted(names)


def test_two_datasets_in_one_bucket_do_not_see_each_other(s3_url: str) -> None:
    one, other = open_store(f"{s3_url}/data/one/"), open_store(f"{s3_url}/data/one-more")
    one.publish_bytes(b"1", "x")
    other.publish_bytes(b"2", "y")
    assert one.names() == ["x"]
    assert one.url == f"{s3_url}/data/one"
    assert one.local_path("x") is None
    assert one.free_bytes() is None


def test_a_folder_mark_of_a_web_console_is_no_file(s3_url: str, s3_server: "S3Server") -> None:
    s3_server.fill(s3_url.removeprefix("s3://"), ["data/", "data/_state/", "data/x"])
    assert open_store(f"{s3_url}/data").names() == ["x"]


def test_a_missing_bucket_is_one_line(s3_server: "S3Server") -> None:
    with pytest.raises(StoreError, match="there is no bucket 'never-made'") as refusal:
        open_store("s3://never-made/data")
    assert "\n" not in str(refusal.value)


def test_a_url_without_a_bucket_is_refused(s3_server: "S3Server") -> None:
    with pytest.raises(StoreError, match="expected s3://bucket"):
        open_store("s3://")


def opened_elsewhere(url: str, environment: dict[str, str | None], prelude: str = "") -> str:
    """What another process, with other settings, says when it opens the store."""
    program = f"""{prelude}
from shards.store import StoreError, open_store
try:
    print(open_store({url!r}).names())
except StoreError as error:
    print(error)
"""
    settings = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True
    ).stdout


def test_missing_credentials_are_one_line(s3_url: str) -> None:
    said = opened_elsewhere(s3_url, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None})
    assert "AWS_ACCESS_KEY_ID" in said
    assert said.count("\n") == 1


def test_a_server_that_does_not_answer_is_one_line(s3_url: str) -> None:
    said = opened_elsewhere(s3_url, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"})
    assert "does not answer" in said
    assert said.count("\n") == 1


def test_a_missing_s3_client_is_named_with_its_remedy(s3_url: str) -> None:
    hidden = "import sys; sys.modules['s3fs'] = None"
    assert "pip install 'trichord[s3]'" in opened_elsewhere(s3_url, {}, hidden)


def test_the_endpoint_may_be_given_as_fsspec_has_it(s3_url: str, s3_server: "S3Server") -> None:
    open_store(s3_url).publish_bytes(b"", "x")
    endpoint = {"AWS_ENDPOINT_URL": None, "FSSPEC_S3_ENDPOINT_URL": s3_server.endpoint}
    assert opened_elsewhere(s3_url, endpoint) == "['x']\n"
