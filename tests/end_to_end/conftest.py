"""A small site on loopback, a segments file for it, and the command as a user types it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from ingestions import ROOT, Videos

from pipeline.demo_site import DemoSite

Trichord = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def site(videos: Videos) -> Iterator[DemoSite]:
    site = DemoSite(videos.folder)
    yield site
    site.close()


@pytest.fixture(scope="session")
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
