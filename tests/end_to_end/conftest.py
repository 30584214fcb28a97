"""A small site on loopback, a segments file for it, and the command as a user types it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from ingestions import ENDS, ROOT, Videos
from timed_media import X264, make_timed_media

from pipeline.demo_site import DemoSite
from pipeline.ffmpeg import find_program

Trichord = Callable[..., "subprocess.CompletedProcess[str]"]


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


@pytest.fixture
def site(videos: Videos) -> Iterator[DemoSite]:
    site = DemoSite(videos.folder)
    yield site
    site.close()


@pytest.fixture
def environment() -> dict[str, str]:
    """With yt-dlp's extractor for the site, which offers formats as YouTube does."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "site_extractor"), "COLUMNS": "120"}


@pytest.fixture
def trichord(environment: dict[str, str]) -> Trichord:
    def trichord(*arguments: object, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout, cwd=ROOT
        )

    return trichord
