"""What a person asks of an ingestion: one value, the same from the command line, a flow or a notebook."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from shards.profile import Profile

YOUTUBE = "https://www.youtube.com/watch?v={ytid}"


class SettingsError(ValueError):
    """A setting that makes no sense; the message names it as on the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestSettings:
    """An ingestion, as asked for. Paths and URLs are text, so that the value travels as JSON."""

    segments: str
    out: str
    split: str
    class_labels: str | None = None  # class_labels_indices.csv; None: beside the segments file
    ontology: str | None = None  # ontology.json; None: beside the segments file
    # which rows
    labels: str | None = None
    exclude_labels: str | None = None
    exact: bool = False
    sample: int | None = None
    seed: int = 0
    limit: int | None = None
    skip_bad_rows: bool = False
    retry: str | None = None  # dispositions or outcomes, separated by commas
    # what becomes of them
    profile: Profile = field(default_factory=Profile)
    segments_per_shard: int = 512
    # where the media are
    url_template: str = YOUTUBE
    media: str | None = None
    media_pattern: str = "Y{ytid}.*"
    media_kind: str = "auto"
    # how much at once
    jobs: int | None = None
    work: str | None = None
    ffmpeg: str | None = None
    segment_timeout_s: float = 180.0
    min_free: int = 1 << 30  # bytes
    retries: int = 3
    retry_base_s: float = 2.0
    # how to ask
    proxies: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    rate: str = "auto"  # guest, account, none, or videos per hour
    on_blocked: str = "wait"
    cooldown_s: float | None = None
    share_guard: bool = True  # pause when suddenly most videos seem dead
    canaries: tuple[str, ...] | None = None  # ids or URLs; None: the site's usual ones
    player_clients: tuple[str, ...] = ()
    extractor_args: tuple[str, ...] = ()  # as yt-dlp's: "youtube:po_token=web.gvs+…"
    js_runtimes: tuple[str, ...] = ("deno",)
    impersonate: str | None = None
    source_address: str | None = None
    socket_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        checks: Mapping[str, tuple[bool, str]] = {
            "segments_per_shard": (1 <= self.segments_per_shard <= 100_000, "1 to 100000"),
            "jobs": (self.jobs is None or 1 <= self.jobs <= 1000, "1 to 1000"),
            "limit": (self.limit is None or self.limit > 0, "at least 1"),
            "sample": (self.sample is None or self.sample > 0, "at least 1"),
            "retries": (1 <= self.retries <= 100, "1 to 100"),
            "on_blocked": (self.on_blocked in ("wait", "stop"), "wait or stop"),
            "media_kind": (self.media_kind in ("auto", "windows", "videos"), "auto, windows or videos"),
            "url_template": (
                _is_template(self.url_template),
                "an address with {ytid} in it, and no other braces",
            ),
            "segment_timeout_s": (self.segment_timeout_s > 0, "seconds above 0"),
            "min_free": (self.min_free >= 0, "bytes, 0 or more"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                flag = "--" + name.removesuffix("_s").replace("_", "-")
                raise SettingsError(f"{flag} is {getattr(self, name)!r}; expected {expected}")
        if 0 in (self.profile.channels, self.profile.short_side):
            raise SettingsError("--channels or --short-side is 0; that is for datasets rebuilt from files")

    @property
    def jobs_now(self) -> int:
        """Segments at once: decoding keeps the cores busy, the rest waits for the network."""
        return self.jobs or (os.cpu_count() or 2) * (1 if self.media else 4)

    def selection(self) -> Mapping[str, object]:
        """Everything that decides which segments go into which shard, the segments file apart."""
        names = ("labels", "exclude_labels", "exact", "sample", "seed", "limit", "skip_bad_rows")
        return {name: getattr(self, name) for name in (*names, "segments_per_shard", "split")}

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        facts: dict[str, Any] = json.loads(text)
        tuples = {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}
        return cls(**{**facts, **tuples, "profile": Profile(**facts["profile"])})


def _is_template(text: str) -> bool:
    try:
        address = text.format(ytid="")
        return "{ytid}" in text and "://" in address and bool(urlsplit(address))
    except (LookupError, ValueError):  # braces or brackets that do not match
        return False


def split_of(segments: str | Path) -> str:
    """The split that a segments file's name tells: `eval_segments.csv` → `eval`."""
    stem = Path(segments).name.split(".", 1)[0].removesuffix("_segments")
    name = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in stem)
    if not name:
        raise SettingsError(f"{segments} tells no split by its name; expected --split, such as eval")
    return name


def checked_split(split: str) -> str:
    if not split or not all(letter.isascii() and (letter.isalnum() or letter == "_") for letter in split):
        raise SettingsError(f"--split is {split!r}; expected letters, digits and _, such as balanced_train")
    return split


def known_lists(names: Sequence[str]) -> tuple[str, ...]:
    """Comma-separated options given once or several times, as one list."""
    return tuple(part.strip() for name in names for part in name.split(",") if part.strip())
