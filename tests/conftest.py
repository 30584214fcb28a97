"""Fixtures that tests of several packages use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from s3_server import S3Server


@pytest.fixture(scope="session")
def _s3_process() -> Iterator[S3Server]:
    from s3_server import S3Server  # moto takes a second to import: only for those who need it

    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3_server(_s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server of this test run, with the environment set for this process and its children."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in _s3_process.environment.items():
        monkeypatch.setenv(name, value)
    return _s3_process


@pytest.fixture
def s3_url(s3_server: S3Server) -> str:
    """An empty bucket: `s3://bucket-…`."""
    return s3_server.new_bucket()
