"""What the end-to-end tests have in common: videos on a site, and the command over them."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.demo_site import DemoSite

ROOT = Path(__file__).parents[1]
ENDS = "048AEIMQUYcgkosw"


@dataclass(frozen=True)
class Videos:
    """A folder of `{ytid}.mp4` and a segments file over them, with the class tables beside it."""

    folder: Path
    segments: Path
    ytids: tuple[str, ...]


def ingest_arguments(videos: Videos, site: DemoSite, out: Path | str, *more: object) -> list[str]:
    """What the tests' ingestions have in common."""
    return [
        *("ingest", "--segments", str(videos.segments), "--out", str(out), "--split", "eval"),
        *("--url-template", site.url_template, "--rate", "none", "--retry-base", "0.05", "--min-free", "0"),
        *("--segments-per-shard", "10"),
        *map(str, more),
    ]
