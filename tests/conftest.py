"""Fixtures that tests of several packages use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ingestions import ENDS, Videos
from timed_media import X264, make_timed_media

from pipeline.ffmpeg import find_program

if TYPE_CHECKING:
    from s3_server import S3Server

# as many processes as cores, and what they start beside them; torch reads it at its import, which comes later
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would what a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights and embeddings that a test run keeps are its own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRICHORD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As other processes have whose results are compared to the bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    """Sixty videos of 40 s, hard links to one; their windows begin at different times."""
    folder = tmp_path_factory.mktemp("videos")
    timed = make_timed_media(tmp_path_factory.mktemp("timed"), find_program())
    one = timed.make("forty.mp4", "-t", "40", *X264, "-c:a", "aac", "-b:a", "64k", "-movflags", "+faststart")
    ytids = tuple(f"-e2e{index:06d}{ENDS[index % 16]}" for index in range(60))
    for ytid in ytids:
        (folder / f"{ytid}.mp4").hardlink_to(one)
    tables = tmp_path_factory.mktemp("tables")
    (tables / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/0bt9lr,"Dog"\n1,/m/0jbk,"Animal"\n'
    )
    rows = [
        f'{ytid}, {0.4 * i:.3f}, {0.4 * i + 10:.3f}, "/m/0bt9lr,/m/0jbk"\n' for i, ytid in enumerate(ytids)
    ]
    (tables / "eval_segments.csv").write_text("".join(rows))
    return Videos(folder=folder, segments=tables / "eval_segments.csv", ytids=ytids)
