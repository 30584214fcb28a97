"""Media that already lies in a folder: cut windows or whole videos, found by a pattern of their names."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pipeline.decoded import read_log
from pipeline.ffmpeg import Program, run
from pipeline.media import Carries, Failure, MediaStream, Recording
from shards.outcome import Outcome
from shards.segment import Segment

VIDEO = ("mp4", "mkv", "webm", "mov", "m4v", "avi", "flv", "ts", "mpg", "wmv", "3gp", "ogv")
AUDIO = ("flac", "wav", "m4a", "opus", "ogg", "mp3", "aac")
_FIELDS = ("ytid", "start", "end", "start_ms", "end_ms", "start_s", "end_s", "key", "split")
_FIELD = re.compile(r"\{([^{}]*)\}")
_VOTERS = 64  # files looked at to tell windows from whole videos
_TOLERANCE = 1.5  # seconds by which a cut window may be longer than it should be
_MAGIC = (
    (b"\x1aE\xdf\xa3", 0, "webm"),
    (b"ftyp", 4, "mp4"),
    (b"G", 0, "ts"),
    (b"\x00\x00\x01\xba", 0, "mpg"),
)


class MediaFolderError(ValueError):
    """A media folder or pattern that cannot be used."""


class MediaKind(StrEnum):
    WINDOWS = "windows"  # each file is a segment's window, its time zero the window's start
    VIDEOS = "videos"  # each file is a whole video


@dataclass(frozen=True)
class MediaFolder:
    """Files named after segments, such as `Y{ytid}.*`; fields: ytid, start_ms, start_s, …, key, split."""

    folder: Path
    pattern: str

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise MediaFolderError(
                f"--media {self.folder}: no such folder; expected the folder that holds the media"
            )
        unknown = [name for name in _FIELD.findall(self.pattern) if name not in _FIELDS]
        if unknown:
            raise MediaFolderError(
                f"--media-pattern {self.pattern!r}: no field {{{unknown[0]}}}; "
                f"expected some of {', '.join(_FIELDS)}"
            )
        if not {"ytid", "key"} & set(_FIELD.findall(self.pattern)):
            raise MediaFolderError(
                f"--media-pattern {self.pattern!r} names no video; expected {{ytid}} or {{key}} in it"
            )
        if "*" in self.pattern.removesuffix(".*") or self.pattern.startswith("/") or ".." in self.pattern:
            raise MediaFolderError(
                f"--media-pattern {self.pattern!r}: expected names below --media, "
                "with * for the extension alone"
            )

    def find(self, segment: Segment) -> Path | None:
        """The segment's file; pictures before sound alone when several match."""
        name = self._name(segment)
        if not name.endswith(".*"):
            path = self.folder / name
            return path if path.is_file() else None
        stem = name.removesuffix("*")
        known = (self.folder / (stem + extension) for extension in VIDEO + AUDIO)
        return next((path for path in known if path.is_file()), None) or self._unusual.get(stem)

    def _name(self, segment: Segment) -> str:
        return self.pattern.format(
            ytid=segment.ytid,
            key=segment.key,
            split=segment.split,
            start=f"{segment.start:g}",
            end=f"{segment.end:g}",
            start_s=f"{segment.start:.3f}",
            end_s=f"{segment.end:.3f}",
            start_ms=round(segment.start * 1000),
            end_ms=round(segment.end * 1000),
        )

    @cached_property
    def _unusual(self) -> dict[str, Path]:
        """Files whose extension is none of the usual ones, by their path up to the dot."""
        usual = {f".{extension}" for extension in VIDEO + AUDIO}
        paths = (path for path in self.folder.rglob("*.*") if path.suffix not in usual and path.is_file())
        return {str(path.relative_to(self.folder).with_suffix("")) + ".": path for path in paths}


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalMedia:
    """A folder as a source of recordings."""

    folder: MediaFolder
    kind: MediaKind

    def resolve(self, segment: Segment) -> Recording | Failure:
        path = self.folder.find(segment)
        if path is None:
            return Failure(Outcome.MISSING, f"no file {self.folder._name(segment)} in {self.folder.folder}")
        stream = MediaStream(url=str(path.absolute()), carries=Carries.BOTH, container=sniff_container(path))
        return Recording(streams=(stream,), offset=segment.start if self.kind is MediaKind.WINDOWS else 0.0)


def sniff_container(path: Path) -> str:
    """The container's name by its first bytes, else by the file's extension."""
    with path.open("rb") as file:
        head = file.read(16)
    by_magic = (name for magic, at, name in _MAGIC if head[at : at + len(magic)] == magic)
    return next(by_magic, path.suffix.lstrip(".").lower())


def tell_kind(folder: MediaFolder, segments: Iterable[Segment], program: Program) -> MediaKind:
    """Whether a folder holds cut windows or whole videos, by the durations of its first files.

    A window that starts at zero says nothing: both readings agree there.
    Raises MediaFolderError when files disagree.
    """
    votes = {kind: path for kind, path in _votes(folder, segments, program)}
    if len(votes) == 2:
        windows, videos = votes[MediaKind.WINDOWS], votes[MediaKind.VIDEOS]
        raise MediaFolderError(
            f"{folder.folder} holds cut windows ({windows.name}) and whole videos ({videos.name}); "
            "keep them apart, or say --media-kind windows or --media-kind videos"
        )
    return next(iter(votes), MediaKind.VIDEOS)


def _votes(
    folder: MediaFolder, segments: Iterable[Segment], program: Program
) -> Iterator[tuple[MediaKind, Path]]:
    asked = 0
    for segment in segments:
        path = folder.find(segment) if segment.start > 0 else None
        duration = _duration(path, program) if path else None
        if path is None or duration is None:
            continue
        if duration > segment.duration + _TOLERANCE:
            yield MediaKind.VIDEOS, path
        elif duration < segment.end - _TOLERANCE:
            yield MediaKind.WINDOWS, path
        asked += 1
        if asked == _VOTERS:
            return


def _duration(path: Path, program: Program) -> float | None:
    return read_log(run([program.path, "-hide_banner", "-nostdin", "-i", f"file:{path}"], 30).log).duration
